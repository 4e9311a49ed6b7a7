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

// A machine with systemd has a Debian of its own, with the packages that the README
// names, as they install themselves: libvirtd and FRR are services, QEMU runs as
// libvirt's own user. What we make are its network, its name and our own services.

// systemRoot is where a node has its own system mounted, before that boots.
const systemRoot = "/system"

// systemProcess boots a node's own system.
const systemProcess = "systemd"

// AddSystem makes a node with the system of NodeOptions.System, boots it, and waits until
// its services are up.
func (l *Lab) AddSystem(o NodeOptions) (*Node, error) {
	n, err := l.AddNode(o)
	if err != nil {
		return nil, err
	}
	if err := l.cores.start(startSystem, n.bootSystem); err != nil {
		return nil, fmt.Errorf("boot %s: %w", o.Name, err)
	}
	return n, nil
}

// AddSystemHost is AddSystem for a system that has libvirt.
func (l *Lab) AddSystemHost(o NodeOptions) (*Host, error) {
	n, err := l.AddSystem(o)
	if err != nil {
		return nil, err
	}
	n.setService(libvirtProcess, "libvirtd.service")
	return &Host{n}, nil
}

// HasSystem tells whether the node has a system of its own.
func (n *Node) HasSystem() bool { return n.o.System != "" }

// bootSystem boots the node's system, now and whenever the node powers on.
func (n *Node) bootSystem() error {
	groups, err := makeCgroups(n.lab.o.Name, n.name)
	if err != nil {
		return err
	}
	files := map[string]string{"/etc/hostname": n.name + "\n", "/etc/machine-id": n.machineID() + "\n", "/etc/hosts": n.lab.hostsFile(n.name)}
	if _, err := os.Stat(filepath.Join(n.o.System, "etc/libvirt")); err == nil {
		// All else is libvirt's default. In a container, the hierarchies of version 1 but systemd's are read-only.
		files["/etc/libvirt/qemu.conf"] = "cgroup_controllers = [ ]\n"
	}
	for path, text := range files {
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
		"--network-namespace-path=/proc/1/ns/net", "--resolv-conf=off", "--timezone=off", "--link-journal=no", "--capability=all", "--bind=/dev/net/tun",
		// What systemd mounts on a machine, and its filter of system calls forbids to a container.
		"--bind=/sys/fs/bpf", "--system-call-filter=bpf"}
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

// StartService enables and starts a service that the node's own system has, or starts it
// again. It is known as a process of that name after that: Kill sends its main process a signal,
// after which systemd does what the unit says; Stop stops it, Restart restarts it. A
// process called NAME-journal follows what it says.
func (n *Node) StartService(ctx context.Context, name, unit string) error {
	if err := errors.Join(n.systemctl(ctx, "daemon-reload"), n.systemctl(ctx, "enable", unit), n.systemctl(ctx, "restart", unit)); err != nil {
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

// Service is what systemd and the kernel say of a service.
type Service struct {
	State string // active, failed, …
	User  string // of its main process
	// Of the main process (proc_pid_status(5)): its capability bounding set, in
	// hexadecimal; whether it can gain no privileges; whether it has a system call filter.
	Bounds      string
	NoNewPrivs  bool
	SystemCalls bool
	MainPID     string // inside the node; "0": there is none
}

// Service looks at the unit that is known as a process. fs.ErrNotExist if there is none.
func (n *Node) Service(ctx context.Context, process string) (s Service, err error) {
	unit := n.service(process)
	if unit == "" {
		return s, fmt.Errorf("%s on %s is no service: %w", process, n.name, fs.ErrNotExist)
	}
	out, err := n.Command(ctx, "systemctl", "show", "--property=ActiveState,MainPID", unit).Output()
	if err != nil {
		return s, err
	}
	said := fields(string(out), "=")
	s.State, s.MainPID = said["ActiveState"], said["MainPID"]
	if s.MainPID == "0" {
		return s, nil
	}
	status, err := os.ReadFile(n.Path("/proc/" + s.MainPID + "/status"))
	if err != nil {
		return s, fmt.Errorf("%s on %s: %w", unit, n.name, err)
	}
	kernel := fields(string(status), ":")
	s.Bounds, s.NoNewPrivs, s.SystemCalls = kernel["CapBnd"], kernel["NoNewPrivs"] == "1", kernel["Seccomp"] == "2"
	user, err := n.Command(ctx, "ps", "-o", "user:32=", "-p", s.MainPID).Output()
	s.User = strings.TrimSpace(string(user))
	return s, err
}

// fields are lines of a key and a value.
func fields(text, separator string) map[string]string {
	all := map[string]string{}
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(line, separator)
		all[key] = strings.TrimSpace(value)
	}
	return all
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
