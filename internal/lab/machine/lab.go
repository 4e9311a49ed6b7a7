package machine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"sort"
	"strings"
	"sync"

	"widecloud/internal/netio"
)

// Options of a lab.
type Options struct {
	// Name tells labs on one machine apart. It begins the names of the lab's
	// namespaces, NAME-NODE. Lower-case letters and digits, at most 20: a dash would
	// make the namespaces of one lab look like those of another.
	Name string
	// Base is the directory that holds the labs' state directories, on a file
	// system that can be an overlay's upper layer. "": BaseDir().
	Base string
	// LogDir takes the logs of the nodes' processes, as NODE.PROCESS.log, and
	// outlives the lab. It is emptied once the lab is open. "": inside the state
	// directory, which does not outlive it.
	LogDir string
	// KVM gives the hosts /dev/kvm. Without it QEMU emulates the processor.
	KVM bool
	Log *slog.Logger
	// Congestion is TCP's congestion control of nodes that do not say theirs.
	// "": DefaultCongestion, whatever this machine's own default is.
	Congestion string
}

// Lab is a set of nodes and the links between them. It is safe for concurrent
// use.
type Lab struct {
	o   Options
	dir string // state directory
	log *slog.Logger

	cores *cores

	mu     sync.Mutex
	nodes  map[string]*Node
	wans   []*WAN
	names  map[string][]netip.Addr // for /etc/hosts
	doors  []net.Listener
	closed bool

	visits sync.WaitGroup  // of doors
	open   context.Context // until Close
	shut   func()
}

// ErrRunning says that a lab of that name is in use by a live program.
var ErrRunning = errors.New("lab is running")

var nameRE = regexp.MustCompile(`^[a-z0-9]{1,20}$`)

// BaseDir is where state directories are kept if Options.Base does not say.
func BaseDir() string { return filepath.Join(os.TempDir(), "widecloud-lab") }

// Open makes an empty lab, after removing what a killed one of the same name
// left. ErrRunning when one of that name is alive.
func Open(o Options) (*Lab, error) {
	if !nameRE.MatchString(o.Name) {
		return nil, fmt.Errorf("open lab: name %q: want lower-case letters and digits, at most 20", o.Name)
	}
	if os.Geteuid() != 0 {
		return nil, errors.New("open lab: namespaces need root")
	}
	if o.Base == "" {
		o.Base = BaseDir()
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if _, err := Sweep(o.Base, o.Name); err != nil {
		return nil, fmt.Errorf("open lab %s: %w", o.Name, err)
	}
	open, shut := context.WithCancel(context.Background())
	l := &Lab{open: open, shut: shut, o: o, dir: filepath.Join(o.Base, o.Name), log: o.Log.With("lab", o.Name), cores: newCores(), nodes: map[string]*Node{}, names: map[string][]netip.Addr{}}
	if err := os.MkdirAll(o.Base, 0o755); err != nil {
		return nil, fmt.Errorf("open lab %s: %w", o.Name, err)
	}
	// Made aside and renamed into place, so that it never lacks its marker; of two
	// programs that open the same name, one wins.
	m, err := newMarker(o.LogDir)
	if err != nil {
		return nil, fmt.Errorf("open lab %s: %w", o.Name, err)
	}
	aside := m.aside(l.dir)
	if err := os.Mkdir(aside, 0o755); err != nil {
		return nil, fmt.Errorf("open lab %s: %w", o.Name, err)
	}
	err = m.write(aside)
	for _, d := range []string{"nodes", "netns"} {
		if err == nil {
			err = os.Mkdir(filepath.Join(aside, d), 0o755)
		}
	}
	if err == nil {
		if err = os.Rename(aside, l.dir); errors.Is(err, fs.ErrExist) {
			err = ErrRunning
		}
	}
	if err != nil {
		return nil, fmt.Errorf("open lab %s: %w", o.Name, errors.Join(err, os.RemoveAll(aside)))
	}
	if o.LogDir != "" {
		if err := errors.Join(os.RemoveAll(o.LogDir), os.MkdirAll(o.LogDir, 0o755)); err != nil {
			return nil, fmt.Errorf("open lab %s: %w", o.Name, errors.Join(err, os.RemoveAll(l.dir)))
		}
	}
	return l, nil
}

// Dir is the state directory.
func (l *Lab) Dir() string { return l.dir }

func (l *Lab) nodesDir() string { return filepath.Join(l.dir, "nodes") }
func (l *Lab) netnsDir() string { return filepath.Join(l.dir, "netns") }

// Node returns a node by name, nil if there is none.
func (l *Lab) Node(name string) *Node {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.nodes[name]
}

// Nodes returns all nodes, by name.
func (l *Lab) Nodes() []*Node {
	l.mu.Lock()
	defer l.mu.Unlock()
	nodes := make([]*Node, 0, len(l.nodes))
	for _, n := range l.nodes {
		nodes = append(nodes, n)
	}
	sort.Slice(nodes, func(i, j int) bool { return nodes[i].name < nodes[j].name })
	return nodes
}

// SetHostAddrs says which addresses a name has; /etc/hosts of every node then
// tells. QEMU migration between hosts needs them to know each other by name.
func (l *Lab) SetHostAddrs(name string, addrs ...netip.Addr) error {
	l.mu.Lock()
	l.names[name] = addrs
	l.mu.Unlock()
	var errs []error
	for _, n := range l.Nodes() {
		errs = append(errs, n.writeHosts())
	}
	return errors.Join(errs...)
}

// hostsFile is the text of a node's /etc/hosts.
func (l *Lab) hostsFile(self string) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	var b strings.Builder
	fmt.Fprintf(&b, "127.0.0.1 localhost\n::1 localhost\n")
	names := make([]string, 0, len(l.names))
	for name := range l.names {
		names = append(names, name)
	}
	sort.Strings(names)
	if len(l.names[self]) == 0 {
		fmt.Fprintf(&b, "127.0.1.1 %s\n", self)
	}
	for _, name := range names {
		for _, a := range l.names[name] {
			fmt.Fprintf(&b, "%s %s\n", a, name)
		}
	}
	return b.String()
}

// End is one end of a link.
type End struct {
	Node   *Node
	Device string         // name of the device inside the node, at most 15 bytes
	Addrs  []netip.Prefix // given to the device, now and whenever the node powers on
	Bridge string         // make the device a port of this bridge, which the node must have
}

// Link joins two nodes by a cable of unlimited rate and no delay.
func (l *Lab) Link(a, b End) error {
	if a.Node == b.Node {
		return fmt.Errorf("link %s to itself", a.Node.name)
	}
	err := a.Node.withNS(func(na *netio.NS) error {
		return b.Node.withNS(func(nb *netio.NS) error {
			return na.AddVeth(netio.VethSpec{Name: a.Device, Peer: nb, PeerName: b.Device})
		})
	})
	if err == nil {
		if err = a.plug(); err == nil {
			err = b.plug()
		}
	}
	if err == nil {
		err = l.note(a, b, false)
	}
	if err != nil {
		return fmt.Errorf("link %s to %s: %w", a.Node.name, b.Node.name, err)
	}
	return nil
}

// plug records the device as a cable of its node and sets it up.
func (e End) plug() error {
	e.Node.addCable(e.Device)
	return e.Node.Setup(func(ns *netio.NS) error {
		if e.Bridge != "" {
			if err := ns.SetMaster(e.Device, e.Bridge); err != nil {
				return err
			}
		}
		if err := ns.SetUp(e.Device); err != nil {
			return err
		}
		for _, p := range e.Addrs {
			if err := ns.AddAddr(e.Device, p); err != nil && !errors.Is(err, fs.ErrExist) {
				return err
			}
		}
		return nil
	})
}

// CutLink takes the cable at a node's device out (both ends lose carrier), or
// puts it back in.
func (n *Node) CutLink(device string, cut bool) error {
	if !cut {
		return n.replay()
	}
	return n.withNS(func(ns *netio.NS) error { return ns.SetDown(device) })
}

// Close takes everything down: links, nodes, state. It reports what it could
// not remove, having tried all.
func (l *Lab) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil
	}
	l.closed = true
	wans, doors := l.wans, l.doors
	l.mu.Unlock()
	var (
		errs []error
		mu   sync.Mutex
		wg   sync.WaitGroup
	)
	for _, w := range wans {
		errs = append(errs, w.Close())
	}
	for _, d := range doors {
		errs = append(errs, d.Close())
	}
	for _, n := range l.Nodes() {
		wg.Go(func() {
			if err := n.destroy(); err != nil {
				mu.Lock()
				errs = append(errs, err)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	l.shut()
	l.visits.Wait()
	err := errors.Join(errs...)
	if err == nil { // what is left stays on record, for Sweep
		err = os.RemoveAll(l.dir)
	}
	if err != nil {
		return fmt.Errorf("close lab %s: %w", l.o.Name, err)
	}
	return nil
}

// marker names the program that a state directory belongs to.
type marker struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // clock ticks after boot; tells a reused pid apart
	Logs  string `json:"logs"`  // Options.LogDir
}

func newMarker(logs string) (marker, error) {
	start, err := startTime(os.Getpid())
	return marker{PID: os.Getpid(), Start: start, Logs: logs}, err
}

// aside is where the program makes a state directory before it has its name.
func (m marker) aside(dir string) string { return fmt.Sprintf("%s.%d.%d", dir, m.PID, m.Start) }

func (m marker) write(dir string) error {
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "lab.json"), b, 0o644)
}

// alive tells whether the program still runs.
func (m marker) alive() bool {
	start, err := startTime(m.PID)
	return err == nil && start == m.Start
}

// startTime is field 22 of /proc/PID/stat (proc(5)).
func startTime(pid int) (uint64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	s := string(b)
	fields := strings.Fields(s[strings.LastIndexByte(s, ')')+1:])
	var start uint64
	if len(fields) < 20 {
		return 0, fmt.Errorf("parse /proc/%d/stat", pid)
	}
	if fields[0] == "Z" || fields[0] == "X" {
		return 0, fmt.Errorf("process %d: %w", pid, fs.ErrNotExist)
	}
	_, err = fmt.Sscan(fields[19], &start)
	return start, err
}

func readMarker(dir string) (marker, error) {
	b, err := os.ReadFile(filepath.Join(dir, "lab.json"))
	if err != nil {
		return marker{}, err
	}
	var m marker
	return m, json.Unmarshal(b, &m)
}
