package machine

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
)

// childName is the argv[0] that turns this program into a node's first process.
const childName = "widecloud-lab-node"

// init is where a node's life begins: the program was started again, inside the
// node's namespaces, and must become its first process before anything else of
// the program (flags, tests) runs. It is an init function because a program that
// forgot to call an ordinary one would start itself without end.
func init() {
	if len(os.Args) > 0 && os.Args[0] == childName {
		os.Exit(childMain())
	}
}

// childSpec is what a node's first process is told, on descriptor 3. The
// descriptor stays open for the life of the node: its end is the node's end.
type childSpec struct {
	Name      string `json:"name"`
	Root      string `json:"root"`  // mount point of the overlay
	Upper     string `json:"upper"` // the node's disk
	Work      string `json:"work"`
	MachineID string `json:"machineID"`
	Hosts     string `json:"hosts"` // text of /etc/hosts
	KVM       bool   `json:"kvm"`
	FRR       [2]int `json:"frr"` // uid and gid that FRR drops to; 0: not installed
	Shared    []bind `json:"shared"`
	// System is a system of the node's own, mounted at systemRoot; nil: none.
	System *overlay `json:"system"`
}

// overlay is what another overlay than the root is made of.
type overlay struct {
	Lower string `json:"lower"`
	Upper string `json:"upper"`
	Work  string `json:"work"`
}

func (o overlay) mount(at string) error {
	layers := fmt.Sprintf("lowerdir=%s,upperdir=%s,workdir=%s", o.Lower, o.Upper, o.Work)
	if err := syscall.Mount("overlay", at, "overlay", 0, layers); err != nil {
		return fmt.Errorf("mount overlay: %w", err)
	}
	return nil
}

// bind shows a directory of this machine inside the node, writable.
type bind struct {
	From string `json:"from"`
	To   string `json:"to"`
}

func childMain() int {
	lifeline := os.NewFile(3, "lifeline")
	report := os.NewFile(4, "report")
	// Neither may reach the processes of the node: a lifeline held by one of
	// them would keep the node alive after the lab's death.
	syscall.CloseOnExec(3)
	syscall.CloseOnExec(4)
	dec := json.NewDecoder(lifeline)
	var spec childSpec
	err := dec.Decode(&spec)
	if err == nil {
		err = spec.enter()
	}
	if err != nil {
		fmt.Fprintf(report, "%v", err)
		return 1
	}
	// The first process adopts every orphan of the node and must reap it.
	children := make(chan os.Signal, 1)
	signal.Notify(children, syscall.SIGCHLD)
	signal.Ignore(syscall.SIGHUP, syscall.SIGINT, syscall.SIGTERM)
	fmt.Fprint(report, "ok")
	report.Close()
	go func() {
		for range children {
			for {
				pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil)
				if pid <= 0 || err != nil {
					break
				}
			}
		}
	}()
	io.Copy(io.Discard, lifeline)
	return 0
}

// enter makes the node's file systems and moves into them.
func (s childSpec) enter() error {
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := (overlay{"/", s.Upper, s.Work}).mount(s.Root); err != nil {
		return err
	}
	in := func(p string) string { return filepath.Join(s.Root, p) }
	mounts := []struct {
		target, kind, data string
		flags              uintptr
	}{
		{"/proc", "proc", "", syscall.MS_NOSUID | syscall.MS_NODEV | syscall.MS_NOEXEC},
		{"/sys", "sysfs", "", syscall.MS_NOSUID | syscall.MS_NODEV | syscall.MS_NOEXEC},
		// Its own: what a machine has pinned is its own, and gone without power.
		{"/sys/fs/bpf", "bpf", "mode=700", syscall.MS_NOSUID | syscall.MS_NODEV | syscall.MS_NOEXEC},
		{"/run", "tmpfs", "mode=755", syscall.MS_NOSUID | syscall.MS_NODEV},
		{"/tmp", "tmpfs", "mode=1777", syscall.MS_NOSUID | syscall.MS_NODEV},
		{"/dev", "tmpfs", "mode=755", syscall.MS_NOSUID},
		{"/dev/pts", "devpts", "newinstance,gid=5,mode=620,ptmxmode=666", syscall.MS_NOSUID | syscall.MS_NOEXEC},
		{"/dev/shm", "tmpfs", "mode=1777", syscall.MS_NOSUID | syscall.MS_NODEV},
	}
	for _, m := range mounts {
		if err := os.MkdirAll(in(m.target), 0o755); err != nil {
			return fmt.Errorf("mount %s: %w", m.target, err)
		}
		if err := syscall.Mount(m.kind, in(m.target), m.kind, m.flags, m.data); err != nil {
			return fmt.Errorf("mount %s: %w", m.target, err)
		}
	}
	if err := s.devices(in); err != nil {
		return err
	}
	for _, b := range s.Shared {
		if err := os.MkdirAll(in(b.To), 0o755); err != nil {
			return fmt.Errorf("share %s: %w", b.From, err)
		}
		if err := syscall.Mount(b.From, in(b.To), "", syscall.MS_BIND, ""); err != nil {
			return fmt.Errorf("share %s: %w", b.From, err)
		}
	}
	if s.System != nil {
		if err := os.MkdirAll(in(systemRoot), 0o755); err != nil {
			return err
		}
		if err := s.System.mount(in(systemRoot)); err != nil {
			return err
		}
		// systemd-nspawn makes groups in the machine's hierarchies, below that of the node.
		if err := syscall.Mount(cgroupRoot, in(cgroupRoot), "", syscall.MS_BIND|syscall.MS_REC, ""); err != nil {
			return fmt.Errorf("mount control groups: %w", err)
		}
	}
	for _, dir := range []string{"/run/lock", "/run/netns"} {
		if err := os.MkdirAll(in(dir), 0o755); err != nil {
			return err
		}
	}
	if s.FRR[0] != 0 {
		if err := os.MkdirAll(in("/run/frr"), 0o755); err != nil {
			return err
		}
		if err := os.Chown(in("/run/frr"), s.FRR[0], s.FRR[1]); err != nil {
			return err
		}
	}
	// Changing root by pivoting, not by chroot, lets go of the machine's mounts:
	// otherwise they, and every named namespace among them, would stay busy.
	if err := os.Chdir(s.Root); err != nil {
		return err
	}
	if err := syscall.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot root: %w", err)
	}
	if err := syscall.Unmount(".", syscall.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount old root: %w", err)
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	if err := syscall.Sethostname([]byte(s.Name)); err != nil {
		return fmt.Errorf("set hostname: %w", err)
	}
	for path, text := range map[string]string{
		"/etc/hostname": s.Name + "\n", "/etc/machine-id": s.MachineID + "\n", "/etc/hosts": s.Hosts,
	} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return fmt.Errorf("identify node: %w", err)
		}
	}
	return nil
}

func (s childSpec) devices(in func(string) string) error {
	type device struct {
		path         string
		major, minor int
	}
	devices := []device{
		{"/dev/null", 1, 3}, {"/dev/zero", 1, 5}, {"/dev/full", 1, 7}, {"/dev/random", 1, 8},
		{"/dev/urandom", 1, 9}, {"/dev/tty", 5, 0}, {"/dev/net/tun", 10, 200},
	}
	if s.KVM {
		devices = append(devices, device{"/dev/kvm", 10, 232})
	}
	old := syscall.Umask(0)
	defer syscall.Umask(old)
	if err := os.Mkdir(in("/dev/net"), 0o755); err != nil {
		return err
	}
	for _, d := range devices {
		if err := syscall.Mknod(in(d.path), syscall.S_IFCHR|0o666, d.major<<8|d.minor); err != nil {
			return fmt.Errorf("make %s: %w", d.path, err)
		}
	}
	for link, to := range map[string]string{
		"/dev/ptmx": "pts/ptmx", "/dev/fd": "/proc/self/fd", "/dev/stdin": "/proc/self/fd/0",
		"/dev/stdout": "/proc/self/fd/1", "/dev/stderr": "/proc/self/fd/2",
	} {
		if err := os.Symlink(to, in(link)); err != nil {
			return err
		}
	}
	return nil
}
