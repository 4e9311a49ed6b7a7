package server

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
	"time"

	"widecloud/internal/lab/machine"
)

const (
	cephConfig = "/etc/ceph/ceph.conf"
	cephDir    = keeps + "/ceph"
	cephFSID   = "6f1c2f0e-5d3b-4a63-9d5e-7f1f0c1f8a11"
	cephPool   = "rbd"
	cephOSDs   = 3
)

func init() {
	daemons["ceph"] = &daemon{
		doc: "a cluster of one monitor `mon`, a manager `mgr` and three disks of 1 GiB, `osd0` to `osd2`, without authentication; its pool `" + cephPool +
			"` has three copies. `says \"HEALTH_OK\"`: of `ceph health`",
		programs: []string{"ceph-mon", "ceph-mgr", "ceph-osd", "ceph", "rbd"},
		prepare:  cephPrepare, processes: cephProcesses, configure: cephConfigure, check: cephCheck,
		patience: 90 * time.Second, answer: 20 * time.Second,
	}
}

// cephFile is the configuration of all daemons. One machine has all copies; it shares
// its disk with the others of the lab, so that how full that is means nothing.
const cephFile = `[global]
fsid = ` + cephFSID + `
mon host = %[1]s
mon initial members = a
ms bind ipv6 = true
ms bind ipv4 = false
auth cluster required = none
auth service required = none
auth client required = none
keyring = ` + cephDir + `/keyring
mon data = ` + cephDir + `/mon
mgr data = ` + cephDir + `/mgr
osd data = ` + cephDir + `/osd$id
run dir = /run/ceph
admin socket = /run/ceph/$name.asok
log file = /dev/stdout
osd objectstore = bluestore
bluestore block size = 1073741824
osd memory target = 939524096
osd pool default size = 3
osd pool default min size = 2
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon data avail warn = 1
mon data avail crit = 0
mon warn on insecure global id reclaim = false
mon warn on insecure global id reclaim allowed = false
`

func (s *Server) cephMonitor() string {
	return fmt.Sprintf("[v2:[%[1]s]:3300,v1:[%[1]s]:6789]", s.addr6())
}

// cephClient is the configuration of clients on other machines.
func (s *Server) cephClient() string { return path.Join("/etc/ceph", s.name+".conf") }

// cephPrepare makes the monitor's store, as a first installation does.
func cephPrepare(ctx context.Context, s *Server) error {
	client := fmt.Sprintf("[global]\nmon host = %s\nauth client required = none\nlog file = \n", s.cephMonitor())
	err := errors.Join(
		s.Node().WriteFile(cephConfig, fmt.Appendf(nil, cephFile, s.cephMonitor())),
		s.at.ClientNode().WriteFile(s.cephClient(), []byte(client)),
		os.MkdirAll(s.Node().Path(cephDir+"/mgr"), 0o755),
	)
	if err != nil {
		return err
	}
	for _, args := range [][]string{
		{"ceph-authtool", "--create-keyring", cephDir + "/keyring", "--gen-key", "-n", "mon.", "--cap", "mon", "allow *"},
		{"monmaptool", "--create", "--fsid", cephFSID, "--addv", "a", s.cephMonitor(), cephDir + "/monmap"},
		{"ceph-mon", "-i", "a", "--mkfs", "--monmap", cephDir + "/monmap", "--keyring", cephDir + "/keyring"},
	} {
		if _, err := s.run(ctx, args[0], args[1:]...); err != nil {
			return err
		}
	}
	return nil
}

func cephProcesses(s *Server) []machine.ProcessOptions {
	process := func(name, program, id string) machine.ProcessOptions {
		return machine.ProcessOptions{Name: name, Args: []string{"/bin/sh", "-c", fmt.Sprintf("mkdir -p /run/ceph && exec %s -f -i %s", program, id)}}
	}
	mon := process("mon", "ceph-mon", "a")
	mon.Ready = s.cephDisks
	l := []machine.ProcessOptions{mon, process("mgr", "ceph-mgr", "x")}
	for i := range cephOSDs {
		l = append(l, process(fmt.Sprintf("osd%d", i), "ceph-osd", fmt.Sprint(i)))
	}
	return l
}

// cephDisks makes the disks that are not there yet, as soon as the monitor answers.
func (s *Server) cephDisks(ctx context.Context) error {
	for i := range cephOSDs {
		dir := fmt.Sprintf("%s/osd%d", cephDir, i)
		if _, err := os.Stat(s.Node().Path(dir + "/ready")); !errors.Is(err, fs.ErrNotExist) {
			continue
		}
		uuid := fmt.Sprintf("%s%02d", cephFSID[:len(cephFSID)-2], i)
		if err := os.MkdirAll(s.Node().Path(dir), 0o755); err != nil {
			return err
		}
		if _, err := s.run(ctx, "ceph", "--connect-timeout", "5", "osd", "new", uuid, fmt.Sprint(i)); err != nil {
			return err
		}
		if _, err := s.run(ctx, "ceph-osd", "-i", fmt.Sprint(i), "--mkfs", "--osd-uuid", uuid); err != nil {
			return err
		}
	}
	return nil
}

// cephConfigure makes the pool if it is not there, and waits for the cluster's health.
func cephConfigure(ctx context.Context, s *Server) error {
	pools, err := s.run(ctx, "ceph", "--connect-timeout", "5", "osd", "pool", "ls")
	if err != nil {
		return err
	}
	if !strings.Contains(pools, cephPool) {
		if _, err := s.run(ctx, "ceph", "osd", "pool", "create", cephPool, "8"); err != nil {
			return err
		}
		if _, err := s.run(ctx, "ceph", "osd", "pool", "application", "enable", cephPool, "rbd"); err != nil {
			return err
		}
	}
	health, err := s.run(ctx, "ceph", "health")
	if err == nil && !strings.Contains(health, "HEALTH_OK") {
		err = errors.New(health)
	}
	return err
}

// cephCheck makes an image and removes it, and asks for the cluster's health.
func cephCheck(ctx context.Context, s *Server) (string, error) {
	health, err := s.client(ctx, "ceph", "--conf", s.cephClient(), "--connect-timeout", "5", "health")
	if err != nil {
		return "", err
	}
	image := fmt.Sprintf("%s/check-%d", cephPool, time.Now().UnixNano())
	if _, err := s.client(ctx, "rbd", "--conf", s.cephClient(), "create", "--size", "8M", image); err != nil {
		return "", err
	}
	_, err = s.client(ctx, "rbd", "--conf", s.cephClient(), "--no-progress", "rm", image)
	return "an image was made and removed; " + health, err
}
