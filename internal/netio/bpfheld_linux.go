package netio

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The kernel does not say who has loaded an eBPF program, but a program lives only
// as long as something holds it. These look for programs at their holders; each
// returns the ids that BPFPrograms has. What has gone meanwhile is left out.

// BPFProgramsOfProcess are those of which a process has a descriptor, or of whose links.
func BPFProgramsOfProcess(pid int) ([]uint32, error) {
	fds, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		return nil, gone(err)
	}
	var ids []uint32
	for _, fd := range fds {
		if to, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", pid, fd.Name())); err == nil && strings.HasPrefix(to, "anon_inode:bpf") {
			ids = append(ids, programOfDescriptor(fmt.Sprint(pid), fd.Name())...)
		}
	}
	return ids, nil
}

// programOfDescriptor is the program that a descriptor leads to (proc_pid_fdinfo(5)).
func programOfDescriptor(pid, fd string) []uint32 {
	info, _ := os.ReadFile(filepath.Join("/proc", pid, "fdinfo", fd))
	for line := range strings.Lines(string(info)) {
		if key, value, _ := strings.Cut(line, ":"); key == "prog_id" {
			if id, err := strconv.ParseUint(strings.TrimSpace(value), 10, 32); err == nil {
				return []uint32{uint32(id)}
			}
		}
	}
	return nil
}

// BPFProgramsPinned are those that are pinned below a directory of a bpffs, or whose
// links are.
func BPFProgramsPinned(dir string) ([]uint32, error) {
	var ids []uint32
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return gone(err)
		}
		fd, err := bpfGet(path)
		if err != nil {
			return nil // gone, or not an object
		}
		defer unix.Close(fd)
		ids = append(ids, programOfDescriptor("self", strconv.Itoa(fd))...)
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look for pinned eBPF programs: %w", err)
	}
	return ids, nil
}

// BPFPrograms are those that the namespace's devices have by themselves: tc filters and
// XDP. Those of links are their holders'.
func (n *NS) BPFPrograms() ([]uint32, error) {
	var ids []uint32
	links, err := whole(n.h.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	for _, l := range links {
		if x := l.Attrs().Xdp; x != nil && x.Attached {
			ids = append(ids, x.ProgId)
		}
	}
	qdiscs, err := whole(func() ([]netlink.Qdisc, error) { return n.h.QdiscList(nil) })
	if err != nil {
		return nil, fmt.Errorf("list qdiscs: %w", err)
	}
	for _, q := range qdiscs {
		if q.Attrs().Parent != netlink.HANDLE_INGRESS { // the same as that of clsact
			continue
		}
		for _, parent := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
			all, err := n.tcFilters(q.Attrs().LinkIndex, parent)
			if err != nil {
				continue // the device has gone
			}
			for _, f := range all {
				if b, ok := f.(*netlink.BpfFilter); ok {
					ids = append(ids, uint32(b.Id))
				}
			}
		}
	}
	return ids, nil
}

// lastAttachType is more than the last of enum bpf_attach_type of linux/bpf.h that a
// control group can have, in kernels to come, too; a kernel refuses what it does not know.
const lastAttachType = 64

// BPFProgramsOfCgroup are those that are attached to a control group of version 2, or to
// one in it.
func BPFProgramsOfCgroup(dir string) ([]uint32, error) {
	var ids []uint32
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return gone(err)
		}
		f, err := os.Open(path)
		if err != nil {
			return gone(err)
		}
		defer f.Close()
		for kind := range uint32(lastAttachType) {
			ids = append(ids, bpfAttached(int(f.Fd()), kind)...)
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("look for eBPF programs of control groups: %w", err)
	}
	return ids, nil
}

// gone takes what is not there, or has just ended, for no error.
func gone(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
		return nil
	}
	return err
}
