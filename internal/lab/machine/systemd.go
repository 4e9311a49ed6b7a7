package machine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// A host with systemd has a Debian of its own, with the packages that the README
// names, as they install themselves: libvirtd is a service, QEMU runs as
// libvirt's own user. What we make are its network, its name and our own services.

// systemRoot is where a node has its own system mounted, before that boots.
const systemRoot = "/system"

// systemProcess boots a node's own system.
const systemProcess = "systemd"

// AddSystemHost makes a node with the system of NodeOptions.System, boots it, and waits
// until its services are up, libvirtd among them.
func (l *Lab) AddSystemHost(o NodeOptions) (*Host, error) {
	n, err := l.AddNode(o)
	if err != nil {
		return nil, err
	}
	h := &Host{n}
	n.setService(libvirtProcess, "libvirtd.service")
	if err := h.bootSystem(); err != nil {
		return nil, fmt.Errorf("add host %s: %w", o.Name, err)
	}
	return h, nil
}

// bootSystem boots the node's system, now and whenever the node powers on.
func (n *Node) bootSystem() error {
	groups, err := makeCgroups(n.lab.o.Name, n.name)
	if err != nil {
		return err
	}
	for path, text := range map[string]string{
		"/etc/hostname": n.name + "\n", "/etc/machine-id": n.machineID() + "\n", "/etc/hosts": n.lab.hostsFile(n.name),
		// All else is libvirt's default. In a container, the hierarchies of version 1 but systemd's are read-only.
		"/etc/libvirt/qemu.conf": "cgroup_controllers = [ ]\n",
	} {
		if err := n.WriteFile(systemRoot+path, []byte(text)); err != nil {
			return err
		}
	}
	var script strings.Builder
	for _, g := range groups {
		fmt.Fprintf(&script, "echo 0 >%s/cgroup.procs\n", g)
	}
	// The network is the node's; the container's /proc/sys/net is writable, as a machine's own.
	script.WriteString("export SYSTEMD_NSPAWN_API_VFS_WRITABLE=network\nexec systemd-nspawn \"$@\" </dev/null\n")
	args := []string{"/bin/sh", "-ec", script.String(), "systemd-nspawn",
		"--quiet", "--directory=" + systemRoot, "--boot", "--machine=" + n.name, "--register=no", "--keep-unit", "--settings=no", "--console=pipe",
		"--network-namespace-path=/proc/1/ns/net", "--resolv-conf=off", "--timezone=off", "--link-journal=no", "--capability=all", "--bind=/dev/net/tun"}
	for _, to := range n.o.Share {
		args = append(args, "--bind="+to)
	}
	_, err = n.Start(ProcessOptions{Name: systemProcess, Args: args, Boot: true, ReadyTimeout: 2 * time.Minute, Ready: n.systemReady})
	return err
}

// systemReady is nil once all services of the node's system are up.
func (n *Node) systemReady(ctx context.Context) error {
	p := n.Process(systemProcess)
	if p == nil {
		return fs.ErrNotExist
	}
	pid, err := firstInside(p.PID())
	if err != nil {
		return err
	}
	n.mu.Lock()
	n.system = pid
	n.mu.Unlock()
	out, err := n.Command(ctx, "systemctl", "is-system-running").CombinedOutput()
	if err == nil {
		return nil
	}
	failed, _ := n.Command(ctx, "systemctl", "--failed", "--no-legend", "--plain").CombinedOutput()
	return fmt.Errorf("the system is %s: %s", strings.TrimSpace(string(out)), strings.TrimSpace(string(failed)))
}

// firstInside finds the first process of the PID namespace that systemd-nspawn
// has made, as this machine numbers it.
func firstInside(nspawn int) (int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0, err
	}
	outer, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", nspawn))
	if err != nil {
		return 0, err
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || !descends(pid, nspawn) {
			continue
		}
		dir := filepath.Join("/proc", e.Name())
		comm, _ := os.ReadFile(filepath.Join(dir, "comm"))
		inner, _ := os.Readlink(filepath.Join(dir, "ns/pid"))
		if inner != outer && strings.TrimSpace(string(comm)) == "systemd" && numberInside(dir) == "1" {
			return pid, nil
		}
	}
	return 0, errors.New("systemd is not there yet")
}

// numberInside is a process's number in its own PID namespace (proc_pid_status(5), NSpid).
func numberInside(dir string) string {
	status, _ := os.ReadFile(filepath.Join(dir, "status"))
	for line := range strings.Lines(string(status)) {
		if list, ok := strings.CutPrefix(line, "NSpid:"); ok {
			numbers := strings.Fields(list)
			return numbers[len(numbers)-1]
		}
	}
	return ""
}

// StartService enables and starts a service that the node's own system has. It is
// known as a process of that name after that: Kill sends its main process a signal,
// after which systemd does what the unit says; Stop stops it, Restart restarts it. A
// process called NAME-journal follows what it says.
func (n *Node) StartService(ctx context.Context, name, unit string) error {
	if err := errors.Join(n.systemctl(ctx, "daemon-reload"), n.systemctl(ctx, "enable", "--now", unit)); err != nil {
		return err
	}
	n.setService(name, unit)
	journal := name + "-journal"
	if n.Process(journal) != nil {
		return nil
	}
	_, err := n.Start(ProcessOptions{Name: journal, Boot: true, Args: []string{"journalctl", "--follow", "--no-tail", "--output=cat", "--unit=" + unit}})
	return err
}

func (n *Node) setService(name, unit string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.services == nil {
		n.services = map[string]string{}
	}
	n.services[name] = unit
}

// service is the unit that is known as a process; "": none.
func (n *Node) service(name string) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.services[name]
}

// serviceTime is how long a service may take to start or stop.
const serviceTime = 2 * time.Minute

// onService runs systemctl, the unit's name behind the arguments.
func (n *Node) onService(unit string, args ...string) error {
	ctx, cancel := context.WithTimeout(context.Background(), serviceTime)
	defer cancel()
	return n.systemctl(ctx, append(args, unit)...)
}

func (n *Node) systemctl(ctx context.Context, args ...string) error {
	out, err := n.Command(ctx, "systemctl", args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("systemctl %s on %s: %w: %s", strings.Join(args, " "), n.name, err, bytes.TrimSpace(out))
	}
	return nil
}
