package machine

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"widecloud/internal/netio"
)

// ErrOff says that a node has no power.
var ErrOff = errors.New("node is off")

// NodeOptions of a node.
type NodeOptions struct {
	// Name is also the node's hostname: lower-case letters, digits and dashes, at
	// most 30.
	Name string
	// Forward makes the node route packets between its devices.
	Forward bool
	// Congestion is TCP's congestion control: reno, cubic, bbr, or what else this
	// machine allows in namespaces (net.ipv4.tcp_allowed_congestion_control).
	// "": the lab's.
	Congestion string
	// Share shows directories of this machine inside the node, writable: path
	// outside -> path inside. The machine's other files are seen, too, but what
	// the node changes in them stays in the node.
	Share map[string]string
	// System, if set, is a directory with another system, which is the node's disk
	// instead of this machine's, and whose systemd starts the node's services.
	System string
}

// Node is a machine of the lab: a set of namespaces and a disk. It is safe for
// concurrent use.
type Node struct {
	lab  *Lab
	name string
	dir  string
	o    NodeOptions

	power sync.Mutex // serialises PowerOn, PowerOff and destroy

	mu       sync.Mutex
	ns       *netio.NS
	cables   []string
	setups   []func(*netio.NS) error
	procs    map[string]*Process
	boot     []ProcessOptions // started at PowerOn, in this order
	first    *exec.Cmd        // the node's first process; nil when off
	lifeline *os.File
	gone     chan struct{}     // closed when first has been reaped
	services map[string]string // units of the node's own system, by the names of processes
	system   int               // the first process of the node's own system, as this machine numbers it; 0: none, or not booted
}

var nodeRE = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,29}$`)

// AddNode makes a node and powers it on.
func (l *Lab) AddNode(o NodeOptions) (*Node, error) {
	if !nodeRE.MatchString(o.Name) {
		return nil, fmt.Errorf("add node: name %q: want lower-case letters, digits and dashes, at most 30", o.Name)
	}
	n := &Node{lab: l, name: o.Name, o: o, dir: filepath.Join(l.nodesDir(), o.Name), procs: map[string]*Process{}}
	l.mu.Lock()
	switch {
	case l.closed:
		l.mu.Unlock()
		return nil, fmt.Errorf("add node %s: lab is closed", o.Name)
	case l.nodes[o.Name] != nil:
		l.mu.Unlock()
		return nil, fmt.Errorf("add node %s: %w", o.Name, fs.ErrExist)
	}
	l.nodes[o.Name] = n
	l.mu.Unlock()
	err := l.cores.start(startNode, func() error {
		if err := n.create(); err != nil {
			return err
		}
		return n.PowerOn()
	})
	if err != nil {
		err = errors.Join(err, n.destroy())
		l.mu.Lock()
		delete(l.nodes, o.Name)
		l.mu.Unlock()
		return nil, fmt.Errorf("add node %s: %w", o.Name, err)
	}
	return n, nil
}

// Name is the node's name and hostname.
func (n *Node) Name() string { return n.name }

// NSName is the name of the node's network namespace (ip netns exec NSNAME …).
func (n *Node) NSName() string { return n.lab.o.Name + "-" + n.name }

// Disk is the directory that holds what the node has written to its disk.
func (n *Node) Disk() string {
	if n.o.System != "" {
		return filepath.Join(n.dir, "system")
	}
	return filepath.Join(n.dir, "upper")
}

func (n *Node) create() error {
	for _, d := range []string{"upper", "work", "root", "log", "system", "syswork"} {
		if err := os.MkdirAll(filepath.Join(n.dir, d), 0o755); err != nil {
			return err
		}
	}
	// Recorded before it exists, so that Sweep finds it whenever we are killed.
	if err := os.WriteFile(filepath.Join(n.lab.netnsDir(), n.NSName()), nil, 0o644); err != nil {
		return err
	}
	ns, err := n.newNS()
	if err != nil {
		return err
	}
	n.mu.Lock()
	n.ns = ns
	n.mu.Unlock()
	return nil
}

// DefaultCongestion is what every kernel has and allows in every namespace, so
// that a script means the same everywhere.
const DefaultCongestion = "reno"

func setCongestion(ns *netio.NS, algorithm string) error {
	err := ns.Sysctl("net/ipv4/tcp_congestion_control", algorithm)
	if err == nil {
		return nil
	}
	const key = "net/ipv4/tcp_allowed_congestion_control"
	allowed, e := os.ReadFile("/proc/sys/" + key)
	if e != nil {
		return fmt.Errorf("congestion control %s: %w", algorithm, errors.Join(err, e))
	}
	return fmt.Errorf("congestion control %s: %w; this machine allows in namespaces: %s (sysctl %s)", algorithm, err, strings.TrimSpace(string(allowed)), key)
}

// newNS makes the node's network namespace as a machine finds it at power-on.
func (n *Node) newNS() (*netio.NS, error) {
	ns, err := netio.CreateNS(n.NSName())
	if err != nil {
		return nil, err
	}
	err = ns.Sysctl("net/ipv6/conf/default/accept_dad", "0")
	if err == nil {
		// A link taken down and up again keeps what the lab configured on it.
		err = ns.Sysctl("net/ipv6/conf/all/keep_addr_on_down", "1")
	}
	if err == nil {
		err = setCongestion(ns, cmp.Or(n.o.Congestion, n.lab.o.Congestion, DefaultCongestion))
	}
	if err == nil && n.o.Forward {
		err = ns.SetForwarding(true)
	}
	if err != nil {
		return nil, errors.Join(err, ns.Close(), netio.DeleteNS(n.NSName()))
	}
	return ns, nil
}

// withNS calls f with the node's network namespace, which PowerOff may replace.
func (n *Node) withNS(f func(*netio.NS) error) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ns == nil {
		return fmt.Errorf("node %s: %w", n.name, ErrOff)
	}
	return f(n.ns)
}

// Do runs f on a thread inside the node's network namespace: sockets that f
// opens are the node's. f must not use other methods of the node.
func (n *Node) Do(f func() error) error {
	return n.withNS(func(ns *netio.NS) error { return ns.Do(f) })
}

// Inspect calls f with the node's network namespace as it is now.
func (n *Node) Inspect(f func(*netio.NS) error) error { return n.withNS(f) }

// Setup configures the node's network: f is called now and again after every
// PowerOn (and when a cable is put back), so it must bear being repeated.
func (n *Node) Setup(f func(*netio.NS) error) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ns == nil {
		return fmt.Errorf("set up node %s: %w", n.name, ErrOff)
	}
	if err := f(n.ns); err != nil {
		return fmt.Errorf("set up node %s: %w", n.name, err)
	}
	n.setups = append(n.setups, f)
	return nil
}

// AddBridge gives the node a bridge of that name, now and whenever it powers on.
func (n *Node) AddBridge(s netio.BridgeSpec) error {
	return n.Setup(func(ns *netio.NS) error {
		if err := ns.AddBridge(s); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		return nil
	})
}

// AddRoute gives the node a route, now and whenever it powers on.
func (n *Node) AddRoute(r netio.Route) error {
	return n.Setup(func(ns *netio.NS) error { return ns.ReplaceRoute(r) })
}

func (n *Node) replay() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, f := range n.setups {
		if err := f(n.ns); err != nil {
			return fmt.Errorf("set up node %s: %w", n.name, err)
		}
	}
	return nil
}

func (n *Node) addCable(device string) {
	n.mu.Lock()
	n.cables = append(n.cables, device)
	n.mu.Unlock()
}

// On reports whether the node has power.
func (n *Node) On() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.first != nil
}

// PID is the node's first process as this machine numbers it; 0 when off. The
// node's files are under /proc/PID/root. Of a node with a system of its own it is
// that system's, once it has booted.
func (n *Node) PID() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.first == nil {
		return 0
	}
	if n.system != 0 {
		return n.system
	}
	return n.first.Process.Pid
}

// Path is where a file of the running node can be reached from outside: a Unix
// socket in its /run, say. It is good until the node loses power.
func (n *Node) Path(inside string) string {
	return filepath.Join(fmt.Sprintf("/proc/%d/root", n.PID()), inside)
}

// PowerOn starts the node: its namespaces, its network set-up, and then its boot
// processes in the order of their first start. Nothing happens if it is on.
func (n *Node) PowerOn() error {
	n.power.Lock()
	defer n.power.Unlock()
	if n.On() {
		return nil
	}
	if err := n.startFirst(); err != nil {
		return fmt.Errorf("power on %s: %w", n.name, err)
	}
	if err := n.replay(); err != nil {
		return fmt.Errorf("power on %s: %w", n.name, err)
	}
	n.mu.Lock()
	boot := slices.Clone(n.boot)
	n.mu.Unlock()
	for _, o := range boot {
		if _, err := n.Start(o); err != nil {
			return fmt.Errorf("power on %s: %w", n.name, err)
		}
	}
	n.lab.log.Debug("node is on", "node", n.name)
	return nil
}

func (n *Node) startFirst() error {
	spec := childSpec{
		Name: n.name, Root: filepath.Join(n.dir, "root"), Upper: filepath.Join(n.dir, "upper"), Work: filepath.Join(n.dir, "work"),
		MachineID: n.machineID(), Hosts: n.lab.hostsFile(n.name), KVM: n.lab.o.KVM, FRR: frrUser(),
	}
	if n.o.System != "" {
		spec.System = &overlay{Lower: n.o.System, Upper: n.Disk(), Work: filepath.Join(n.dir, "syswork")}
	}
	for from, to := range n.o.Share {
		spec.Shared = append(spec.Shared, bind{from, to})
	}
	slices.SortFunc(spec.Shared, func(a, b bind) int { return len(a.To) - len(b.To) }) // a parent before what is in it
	lifeR, lifeW, err := os.Pipe()
	if err != nil {
		return err
	}
	defer lifeR.Close()
	reportR, reportW, err := os.Pipe()
	if err != nil {
		lifeW.Close()
		return err
	}
	defer reportR.Close()
	cmd := &exec.Cmd{
		Path: "/proc/self/exe", Args: []string{childName, n.lab.o.Name + "/" + n.name}, Dir: "/",
		Env:        append(n.environ(), "GOMAXPROCS=1"),
		ExtraFiles: []*os.File{lifeR, reportW},
		SysProcAttr: &syscall.SysProcAttr{
			Setsid:     true, // out of reach of the terminal's Ctrl-C
			Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC | syscall.CLONE_NEWPID,
		},
	}
	err = n.Do(cmd.Start)
	reportW.Close()
	if err != nil {
		lifeW.Close()
		return fmt.Errorf("start first process: %w", err)
	}
	fail := func(err error) error {
		lifeW.Close()
		cmd.Process.Kill()
		cmd.Wait()
		return fmt.Errorf("start first process: %w", err)
	}
	start, err := startTime(cmd.Process.Pid)
	if err != nil {
		return fail(err)
	}
	if err := os.WriteFile(filepath.Join(n.dir, "pid"), fmt.Appendf(nil, "%d %d\n", cmd.Process.Pid, start), 0o644); err != nil {
		return fail(err)
	}
	if err := json.NewEncoder(lifeW).Encode(spec); err != nil {
		return fail(err)
	}
	report, err := io.ReadAll(reportR)
	if err != nil {
		return fail(err)
	}
	if string(report) != "ok" {
		return fail(fmt.Errorf("it says: %s", report))
	}
	gone := make(chan struct{})
	n.mu.Lock()
	n.first, n.lifeline, n.gone = cmd, lifeW, gone
	n.mu.Unlock()
	go func() {
		cmd.Wait()
		close(gone)
	}()
	return nil
}

// PowerOff is a power cut: every process of the node is killed at once, and its
// kernel state (addresses, bridges, tunnels, routes, rules, memory file
// systems) is lost. Cables stay, without carrier. Nothing happens if it is off.
func (n *Node) PowerOff() error {
	n.power.Lock()
	defer n.power.Unlock()
	if !n.On() {
		return nil
	}
	if err := n.powerOff(); err != nil {
		return fmt.Errorf("power off %s: %w", n.name, err)
	}
	// A fresh namespace takes the cables over; with the last process and handle
	// of the old one all the rest is gone.
	n.mu.Lock()
	defer n.mu.Unlock()
	old := n.ns
	n.ns = nil
	defer old.Close()
	if err := netio.DeleteNS(n.NSName()); err != nil {
		return fmt.Errorf("power off %s: %w", n.name, err)
	}
	ns, err := n.newNS()
	if err != nil {
		return fmt.Errorf("power off %s: %w", n.name, err)
	}
	n.ns = ns
	for _, c := range n.cables {
		if err := old.MoveLink(c, ns); err != nil {
			return fmt.Errorf("power off %s: %w", n.name, err)
		}
	}
	n.lab.log.Debug("node is off", "node", n.name)
	return nil
}

// powerOff kills all processes and waits for their end.
func (n *Node) powerOff() error {
	n.mu.Lock()
	first, gone, lifeline := n.first, n.gone, n.lifeline
	procs := make([]*Process, 0, len(n.procs))
	for _, p := range n.procs {
		procs = append(procs, p)
	}
	n.procs = map[string]*Process{}
	n.first, n.lifeline, n.system = nil, nil, 0
	n.mu.Unlock()
	if first == nil {
		return nil
	}
	err := first.Process.Kill()
	lifeline.Close()
	// The kernel lets the first process be reaped only after all others of its
	// PID namespace are dead.
	<-gone
	for _, p := range procs {
		<-p.done
	}
	os.Remove(filepath.Join(n.dir, "pid"))
	if errors.Is(err, os.ErrProcessDone) {
		err = nil
	}
	return err
}

// destroy ends the node for good. What is missing already is no error.
func (n *Node) destroy() error {
	n.power.Lock()
	defer n.power.Unlock()
	err := n.powerOff()
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.ns != nil {
		// Explicitly, since an unnamed namespace goes at the kernel's leisure and
		// its devices would look like a leak meanwhile.
		for _, c := range n.cables {
			if e := n.ns.DeleteLink(c); e != nil && !errors.Is(e, fs.ErrNotExist) {
				err = errors.Join(err, e)
			}
		}
		err = errors.Join(err, n.ns.Close(), netio.DeleteNS(n.NSName()))
		n.ns = nil
	}
	return errors.Join(err, removeCgroups(cgroups(n.lab.o.Name, n.name)), removeAll(n.dir))
}

// removeAll is os.RemoveAll, again for a while where an overlay's dying mount
// still keeps its work directory busy.
func removeAll(dir string) error {
	var err error
	for range 50 {
		if err = os.RemoveAll(dir); err == nil {
			return nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	return err
}

func (n *Node) writeHosts() error {
	if !n.On() {
		return nil // it gets the file at PowerOn
	}
	if err := os.WriteFile(n.Path("/etc/hosts"), []byte(n.lab.hostsFile(n.name)), 0o644); err != nil {
		return fmt.Errorf("write hosts of %s: %w", n.name, err)
	}
	return nil
}

// machineID is stable for the node and different from every other's.
func (n *Node) machineID() string {
	sum := sha256.Sum256([]byte("widecloud lab " + n.lab.o.Name + "/" + n.name))
	return hex.EncodeToString(sum[:16])
}

// environ is what every process of the node starts with.
func (n *Node) environ() []string {
	return []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8",
		"WIDECLOUD_LAB=" + n.lab.o.Name, "WIDECLOUD_NODE=" + n.name,
	}
}

// frrUser is the user that Debian's FRR drops to.
func frrUser() (ids [2]int) {
	if u, err := user.Lookup("frr"); err == nil {
		uid, _ := strconv.Atoi(u.Uid)
		gid, _ := strconv.Atoi(u.Gid)
		return [2]int{uid, gid}
	}
	return ids
}

// Cmd is a command inside a node. It is used like an exec.Cmd, and ends when its
// context or the node does. Who takes a pipe of it (StdoutPipe, …) must call
// Wait without delay once the pipe ends: the kernel does not let go of a node
// without power while one of its processes has not been waited for.
type Cmd struct {
	*exec.Cmd
	node  *Node
	piped bool
	done  chan struct{} // nil if piped: closed when err is set
	err   error
}

// Command prepares a command that runs inside the node: in its namespaces and
// on its disk. A name without a slash is looked up in the PATH of this program.
func (n *Node) Command(ctx context.Context, name string, args ...string) *Cmd {
	c := exec.CommandContext(ctx, name, args...)
	c.Env = n.environ()
	c.Dir = "/"
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	// The whole group, or a shell's children would hold the output open.
	c.Cancel = func() error { return syscall.Kill(-c.Process.Pid, syscall.SIGKILL) }
	c.WaitDelay = 2 * time.Second
	return &Cmd{Cmd: c, node: n}
}

// Start is exec.Cmd.Start inside the node. ErrOff when the node is off.
func (c *Cmd) Start() error {
	pid := c.node.PID()
	if pid == 0 {
		return fmt.Errorf("run %s on %s: %w", c.Path, c.node.name, ErrOff)
	}
	if err := netio.InProcess(pid, c.Cmd.Start); err != nil {
		return fmt.Errorf("run %s on %s: %w", c.Path, c.node.name, err)
	}
	if !c.piped {
		c.done = make(chan struct{})
		go func() {
			c.err = c.Cmd.Wait()
			close(c.done)
		}()
	}
	return nil
}

// Wait is exec.Cmd.Wait.
func (c *Cmd) Wait() error {
	if c.piped {
		return c.Cmd.Wait()
	}
	if c.done == nil {
		return errors.New("wait for a command that was not started")
	}
	<-c.done
	return c.err
}

// StdinPipe is exec.Cmd.StdinPipe.
func (c *Cmd) StdinPipe() (io.WriteCloser, error) {
	c.piped = true
	return c.Cmd.StdinPipe()
}

// StdoutPipe is exec.Cmd.StdoutPipe.
func (c *Cmd) StdoutPipe() (io.ReadCloser, error) {
	c.piped = true
	return c.Cmd.StdoutPipe()
}

// StderrPipe is exec.Cmd.StderrPipe.
func (c *Cmd) StderrPipe() (io.ReadCloser, error) {
	c.piped = true
	return c.Cmd.StderrPipe()
}

// Run is exec.Cmd.Run inside the node.
func (c *Cmd) Run() error {
	if err := c.Start(); err != nil {
		return err
	}
	return c.Wait()
}

// Output is exec.Cmd.Output inside the node; a failure's error holds what the
// command wrote to its standard error.
func (c *Cmd) Output() ([]byte, error) {
	var out, errOut limitedBuffer
	c.Stdout = &out
	if c.Stderr == nil {
		c.Stderr = &errOut
	}
	if err := c.Run(); err != nil {
		return out.b, fmt.Errorf("%s on %s: %w: %s", filepath.Base(c.Path), c.node.name, err, errOut.b)
	}
	return out.b, nil
}

// CombinedOutput is exec.Cmd.CombinedOutput inside the node.
func (c *Cmd) CombinedOutput() ([]byte, error) {
	var out limitedBuffer
	c.Stdout, c.Stderr = &out, &out
	err := c.Run()
	return out.b, err
}

// limitedBuffer keeps the first 64 MiB that it is given.
type limitedBuffer struct {
	mu sync.Mutex
	b  []byte
}

func (b *limitedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if room := 64<<20 - len(b.b); room > 0 {
		b.b = append(b.b, p[:min(room, len(p))]...)
	}
	return len(p), nil
}
