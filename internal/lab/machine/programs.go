package machine

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"widecloud/internal/netio"
)

func programLeak(p netio.BPFProgram) Leak {
	return Leak{"ebpf", fmt.Sprintf("program %d %q", p.ID, p.Name)}
}

// programsLeft are the eBPF programs that nothing holds but the lab: no other process, no
// file system where they are pinned, no network device, no other lab's control group.
func (s Scope) programsLeft() (map[Leak]bool, error) {
	pids, err := s.others()
	if err != nil {
		return nil, err
	}
	held := map[uint32]bool{}
	for _, pid := range pids {
		ids, err := netio.BPFProgramsOfProcess(pid)
		if err != nil {
			return nil, err
		}
		hold(held, ids)
	}
	for _, find := range []func([]int, map[uint32]bool) error{programsPinned, s.programsOfDevices, s.programsOfCgroups} {
		if err := find(pids, held); err != nil {
			return nil, err
		}
	}
	// Listed now: what has gone while its holders were looked for is not left.
	programs, err := netio.BPFPrograms()
	if err != nil {
		return nil, err
	}
	left := map[Leak]bool{}
	for _, p := range programs {
		left[programLeak(p)] = !held[p.ID]
	}
	return left, nil
}

func hold(held map[uint32]bool, ids []uint32) {
	for _, id := range ids {
		held[id] = true
	}
}

// others are the processes that are neither of the lab nor this one.
func (s Scope) others() ([]int, error) {
	procs, err := s.processes()
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err == nil && pid != os.Getpid() && !slices.ContainsFunc(procs, func(p process) bool { return p.pid == pid }) {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// eachNamespace calls f with one process of each namespace of a kind ("mnt", "net") that
// is not the one of this process.
func eachNamespace(pids []int, kind string, f func(pid int) error) error {
	own, err := os.Readlink("/proc/self/ns/" + kind)
	if err != nil {
		return err
	}
	seen := map[string]bool{own: true}
	for _, pid := range pids {
		ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, kind))
		if err != nil || seen[ns] {
			continue // the process has ended, or is one of the kernel's
		}
		seen[ns] = true
		if err := f(pid); err != nil {
			return err
		}
	}
	return nil
}

// programsPinned finds those that are pinned in the mount namespaces of processes, in
// file systems that are not of this process's namespace, too.
func programsPinned(pids []int, held map[uint32]bool) error {
	own := bpffs("self")
	return eachNamespace(pids, "mnt", func(pid int) error {
		for device, dir := range bpffs(strconv.Itoa(pid)) {
			if own[device] != "" {
				continue
			}
			ids, err := netio.BPFProgramsPinned(filepath.Join(fmt.Sprintf("/proc/%d/root", pid), dir))
			if err != nil {
				return err
			}
			hold(held, ids)
		}
		return nil
	})
}

// bpffs are the BPF file systems that a process sees, and where (proc_pid_mountinfo(5)).
func bpffs(pid string) map[string]string {
	mounts, _ := os.ReadFile(filepath.Join("/proc", pid, "mountinfo")) // nothing if it has ended
	at := map[string]string{}
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); strings.Contains(line, " - bpf ") {
			at[f[2]] = f[4]
		}
	}
	return at
}

// programsOfDevices finds those of devices in the network namespaces of processes, and
// in those with a name that is not of the lab: a lab that was killed still has its own.
func (s Scope) programsOfDevices(pids []int, held map[uint32]bool) error {
	look := func(ns *netio.NS, err error) error {
		if err != nil {
			return nil // it has gone
		}
		defer ns.Close()
		ids, err := ns.BPFPrograms()
		hold(held, ids)
		return err
	}
	names, err := netio.ListNS()
	if err != nil {
		return err
	}
	for _, name := range names {
		if !strings.HasPrefix(name, s.Name+"-") {
			if err := look(netio.OpenNS(name)); err != nil {
				return err
			}
		}
	}
	return eachNamespace(pids, "net", func(pid int) error { return look(netio.NSOf(pid)) })
}

// programsOfCgroups finds those that systemd has attached to the control groups of other
// labs' machines.
func (s Scope) programsOfCgroups(_ []int, held map[uint32]bool) error {
	for _, dir := range cgroups("*", "*") {
		if strings.HasPrefix(filepath.Base(dir), cgroupName(s.Name, "")) {
			continue
		}
		ids, err := netio.BPFProgramsOfCgroup(dir)
		if err != nil {
			return err
		}
		hold(held, ids)
	}
	return nil
}
