package netio

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	objects "widecloud/bpf"
)

// FastSpec is what a fast path is made with.
type FastSpec struct {
	// PinDir is a directory on a bpffs that keeps tables, counters and attachments
	// when the process ends, however it ends. Empty: they end with the process; but
	// the kernel keeps a clsact filter, with its tables, of a process that is killed.
	// The next Fast of the namespace takes it over (with PinDir, at once) or away
	// (without, when it is attached).
	PinDir string
	// ForceClsact: a clsact filter also where the kernel has tcx, which runs before
	// all filters, for hosts whose other software has to see packets first. There is
	// one fast path by clsact in a network namespace, whatever its PinDir.
	ForceClsact bool
	// MaxMappings is how many IPv4 <-> IPv6 mappings of single addresses there may
	// be; memory for them, about 130 bytes each and a counter per CPU, is taken at
	// once. MaxMappings66 is the same for IPv6 <-> IPv6 ones, about 200 bytes each;
	// 0: as many, though not more than MaxMappings in all with the others.
	MaxMappings, MaxMappings66 int
	// MaxPrefixes is how many mappings of prefixes there may be.
	MaxPrefixes int
}

// Errors of the fast path.
var (
	// ErrNotBPFFS: PinDir is not on a bpffs.
	ErrNotBPFFS = errors.New("not on a bpffs")
	// ErrFastInUse: another process has opened the same PinDir, or what is pinned
	// there works in another network namespace.
	ErrFastInUse = errors.New("in use")
	// ErrUnfit: the device or the host cannot take the fast path.
	ErrUnfit = errors.New("does not fit")
	// ErrFull: the table has no room.
	ErrFull = errors.New("table is full")
)

// Fast is an eBPF translator in the kernel: it translates ordinary packets (TCP,
// UDP with a checksum, echo; no options, extension headers or fragments) of the
// mappings that it knows, where they come in, and leaves them to the stack, or sends them
// (FastSettings.Direct). All else goes on untouched, to where routes lead it. It is safe for concurrent use.
//
// Invariants:
//   - A packet that the program cannot translate to the end is not touched.
//   - Each packet sees the settings as they were or as they are, and each mapping
//     as it was or as it is, or it is left to the full path.
//   - Reading counters makes no system call and takes nothing from the data path.
//   - What is pinned works on when the process ends, and OpenFast finds it.
//
// The order for a daemon: OpenFast, Configure, Sync, then Attach.
type Fast struct {
	ns    *NS
	spec  FastSpec
	ids   uint32 // counters in one share
	share uint32 // shares of counters, a power of two

	mu       sync.Mutex
	maps     map[string]*ebpf.Map
	programs map[string]*ebpf.Program
	links    map[string]*fastLink // by device
	memory   [][]byte             // what the kernel shares: counters and tables
	counts   []byte
	outcomes []byte
	tables   tables
	pinned   bool  // the maps are pinned
	kinds    kinds // what the settings in force say of mappings
	lock     *os.File
	hook     string // where Attach puts the program

	filterLock *os.File // held if filters may be ours
	spare      qdiscs
	claimed    bool // there are no others' filters
	settings   *FastSettings
	tests      map[string]*ebpf.Program // as programs, but they return the outcome
}

type fastLink struct {
	hook
	index int
	kind  string // hookTCX, ...
}

// FastSeen is the bit of a packet's mark (skb->mark) that tells that the program has
// had an ICMPv6 echo in hand, translated or not, so that a LinkPolicy's detour need
// not have it.
const FastSeen = 1 << 26

// layout counts the changes of table.h; maps of another layout are not adopted.
const layout = 4

// fastMeta is pinned beside the maps and says what they are.
type fastMeta struct {
	Layout, MaxMappings, MaxMappings66, MaxPrefixes, Shares, Zero uint32
	NSDev, NSIno                                                  uint64
}

const (
	metaSize     = 40
	numOutcomes  = 32
	outcomeSize  = 16
	mappingSize  = 32
	maxCountSize = 512 << 20
)

// OpenFast loads the fast path, or takes over what is pinned in PinDir: programs
// are replaced by the present ones, tables and counters stay if layout and sizes
// are the same. If they are not, what is attached goes on with the old tables
// until Sync has filled the new ones. ErrNotBPFFS or ErrFastInUse if PinDir is
// not to be had.
func (n *NS) OpenFast(s FastSpec) (*Fast, error) {
	f, err := n.openFast(s)
	if err != nil {
		return nil, fmt.Errorf("open fast path: %w", err)
	}
	return f, nil
}

func (n *NS) openFast(s FastSpec) (_ *Fast, err error) {
	switch {
	case s.MaxMappings < 1 || s.MaxMappings > 1<<24:
		return nil, fmt.Errorf("max_mappings: %d is not 1 to %d", s.MaxMappings, 1<<24)
	case s.MaxMappings66 < 0 || s.MaxMappings66 > 1<<24:
		return nil, fmt.Errorf("max_mappings66: %d is not 0 to %d", s.MaxMappings66, 1<<24)
	case s.MaxPrefixes < 0 || s.MaxPrefixes > 1<<20:
		return nil, fmt.Errorf("max_prefixes: %d is not 0 to %d", s.MaxPrefixes, 1<<20)
	}
	ids := uint32(s.MaxMappings + s.MaxMappings66 + s.MaxPrefixes)
	if s.MaxMappings66 == 0 {
		s.MaxMappings66 = s.MaxMappings
	}
	f := &Fast{ns: n, spec: s, maps: map[string]*ebpf.Map{}, programs: map[string]*ebpf.Program{}, links: map[string]*fastLink{}, spare: qdiscs{}}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	f.ids = ids
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return nil, err
	}
	for f.share = 1; int(f.share) < cpus && int(f.share)*2*int(f.ids)*mappingSize <= maxCountSize; f.share *= 2 {
	}
	if s.PinDir != "" {
		if err := f.lockPins(); err != nil {
			return nil, err
		}
	}
	old, err := f.openPins()
	if err != nil {
		return nil, err
	}
	if err := f.load(old); err != nil {
		return nil, err
	}
	for _, name := range []string{"counts", "outcomes", "to6", "to4", "six"} {
		size := int(f.maps[name].MaxEntries()) * int(f.maps[name].ValueSize())
		size = (size + os.Getpagesize() - 1) &^ (os.Getpagesize() - 1)
		b, err := unix.Mmap(f.maps[name].FD(), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
		if err != nil {
			return nil, fmt.Errorf("map %s: %w", name, err)
		}
		f.memory = append(f.memory, b)
	}
	f.counts, f.outcomes = f.memory[0], f.memory[1]
	f.openTables(f.memory[2], f.memory[3], f.memory[4])
	f.hook = f.chooseHook()
	if err := f.openLinks(); err != nil {
		return nil, err
	}
	if old != nil {
		f.pinned = true
		return f, f.updateLinks()
	}
	if s.PinDir != "" && len(f.links) == 0 {
		return f, f.pinMaps()
	}
	return f, nil
}

// collection is the object with this Fast's sizes in it.
func (f *Fast) collection(testing bool) (*ebpf.CollectionSpec, error) {
	c, err := ebpf.LoadCollectionSpecFromReader(bytes.NewReader(objects.SIIT))
	if err != nil {
		return nil, err
	}
	// The table of IPv6 <-> IPv6 mappings holds both ends.
	for name, n := range map[string]uint32{
		"to6": buckets(f.spec.MaxMappings), "to4": buckets(f.spec.MaxMappings), "six": buckets(2 * f.spec.MaxMappings66),
		"prefix6": max(uint32(f.spec.MaxPrefixes), 1), "prefix4": max(uint32(f.spec.MaxPrefixes), 1), "prefix66": 2 * max(uint32(f.spec.MaxPrefixes), 1),
		"counts": f.share * f.ids, "outcomes": f.share * numOutcomes,
	} {
		c.Maps[name].MaxEntries = n
	}
	crowded, test := uint32(0), uint32(0)
	if cpus, err := ebpf.PossibleCPU(); err != nil {
		return nil, err
	} else if cpus > int(f.share) {
		crowded = 1
	}
	if testing {
		test = 1
	}
	for name, v := range map[string]uint32{"pair_mask": buckets(f.spec.MaxMappings) - 1, "six_mask": buckets(2*f.spec.MaxMappings66) - 1, "max_ids": f.ids, "shares": f.share, "crowded": crowded, "testing": test} {
		if err := c.Variables[name].Set(v); err != nil {
			return nil, err
		}
	}
	return c, nil
}

// shared are the maps that are pinned.
var shared = []string{"to6", "to4", "six", "prefix6", "prefix4", "prefix66", "settings", "macs", "counts", "outcomes"}

func (f *Fast) load(old map[string]*ebpf.Map) error {
	spec, err := f.collection(false)
	if err != nil {
		return err
	}
	c, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: old})
	for _, m := range old {
		m.Close()
	}
	if err != nil {
		var v *ebpf.VerifierError
		if errors.As(err, &v) {
			return fmt.Errorf("the kernel refuses the program: %+v", v)
		}
		return fmt.Errorf("load: %w", err)
	}
	defer c.Close()
	for _, name := range shared {
		f.maps[name] = c.DetachMap(name)
	}
	for name := range c.Programs {
		f.programs[name] = c.DetachProgram(name)
	}
	return nil
}

// Close lets go of the fast path. What is pinned goes on working; what is not
// ends.
func (f *Fast) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.close()
}

func (f *Fast) close() error {
	var errs []error
	for dev, l := range f.links {
		if l.kind == hookClsact && f.spec.PinDir == "" {
			errs = append(errs, l.detach())
		}
		errs = append(errs, l.Close())
		delete(f.links, dev)
	}
	errs = append(errs, f.spare.drop(f.ns))
	for _, b := range f.memory {
		errs = append(errs, unix.Munmap(b))
	}
	f.memory, f.counts, f.outcomes, f.tables = nil, nil, nil, tables{}
	for name, m := range f.maps {
		errs = append(errs, m.Close())
		delete(f.maps, name)
	}
	for name, p := range f.programs {
		errs = append(errs, p.Close())
		delete(f.programs, name)
	}
	for _, p := range f.tests {
		errs = append(errs, p.Close())
	}
	f.tests = nil
	for _, l := range []**os.File{&f.filterLock, &f.lock} {
		if *l != nil {
			errs = append(errs, (*l).Close())
			*l = nil
		}
	}
	return errors.Join(errs...)
}

// Discard detaches the fast path everywhere, takes its pins away and closes it.
func (f *Fast) Discard() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	var errs []error
	for dev := range f.links {
		errs = append(errs, f.detach(dev))
	}
	if f.spec.PinDir != "" && f.lock != nil {
		errs = append(errs, f.removePins())
		// The directory goes if it is empty and no mount point; else it is not ours alone.
		_ = os.Remove(f.spec.PinDir)
	}
	return errors.Join(append(errs, f.close())...)
}

// open says whether Close has not been called; f.mu is held.
func (f *Fast) open() error {
	if f.maps["to6"] == nil {
		return fmt.Errorf("fast path: %w", os.ErrClosed)
	}
	return nil
}

// lockPins makes PinDir and takes it for this process.
func (f *Fast) lockPins() error {
	dir := f.spec.PinDir
	var st unix.Statfs_t
	at := filepath.Clean(dir)
	for {
		err := unix.Statfs(at, &st)
		if err == nil {
			break
		}
		if !errors.Is(err, fs.ErrNotExist) || at == filepath.Dir(at) {
			return fmt.Errorf("pin directory %s: %w", dir, err)
		}
		at = filepath.Dir(at)
	}
	if st.Type != unix.BPF_FS_MAGIC {
		return fmt.Errorf("pin directory %s: %w: mount one (mount -t bpf bpf /sys/fs/bpf) or name another directory", dir, ErrNotBPFFS)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("pin directory: %w", err)
	}
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("pin directory: %w", err)
	}
	if err := unix.Flock(int(d.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		d.Close()
		return fmt.Errorf("pin directory %s: %w by another process", dir, ErrFastInUse)
	}
	f.lock = d
	return nil
}

func (f *Fast) pin(name string) string { return filepath.Join(f.spec.PinDir, name) }

func (f *Fast) meta() (fastMeta, error) {
	m := fastMeta{Layout: layout, MaxMappings: uint32(f.spec.MaxMappings), MaxMappings66: uint32(f.spec.MaxMappings66), MaxPrefixes: uint32(f.spec.MaxPrefixes), Shares: f.share}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.ns.fd), &st); err != nil {
		return m, fmt.Errorf("query namespace: %w", err)
	}
	m.NSDev, m.NSIno = st.Dev, st.Ino
	return m, nil
}

// openPins returns the pinned maps, if they are what this Fast would make; nil
// if there are none such.
func (f *Fast) openPins() (map[string]*ebpf.Map, error) {
	if f.spec.PinDir == "" {
		return nil, nil
	}
	m, err := ebpf.LoadPinnedMap(f.pin("meta"), nil)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var have fastMeta
	if err == nil {
		defer m.Close()
		if m.ValueSize() != metaSize {
			return nil, nil
		}
		err = m.Lookup(uint32(0), &have)
	}
	if err != nil {
		return nil, fmt.Errorf("read what is pinned in %s: %w", f.spec.PinDir, err)
	}
	want, err := f.meta()
	if err != nil {
		return nil, err
	}
	if have.NSDev != want.NSDev || have.NSIno != want.NSIno {
		return nil, f.dropForeign(have)
	}
	if have != want {
		return nil, nil
	}
	spec, err := f.collection(false)
	if err != nil {
		return nil, err
	}
	maps := map[string]*ebpf.Map{}
	for _, name := range shared {
		p, err := ebpf.LoadPinnedMap(f.pin(name), nil)
		if err == nil {
			maps[name] = p
			err = spec.Maps[name].Compatible(p)
		}
		if err != nil {
			for _, m := range maps {
				m.Close()
			}
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, ebpf.ErrMapIncompatible) {
				return nil, nil
			}
			return nil, fmt.Errorf("read what is pinned in %s: %w", f.spec.PinDir, err)
		}
	}
	return maps, nil
}

// dropForeign takes away the pins of another network namespace, if it is no
// more.
func (f *Fast) dropForeign(m fastMeta) error {
	inUse := fmt.Errorf("pin directory %s: %w by a fast path of another network namespace", f.spec.PinDir, ErrFastInUse)
	names, err := f.pinnedLinks()
	if err != nil {
		return err
	}
	for _, name := range names {
		l, err := link.LoadPinnedLink(f.pin(name), nil)
		if err != nil {
			return fmt.Errorf("read pin %s: %w", name, err)
		}
		index := linkIndex(l)
		l.Close()
		if index != 0 {
			return inUse
		}
	}
	if has, err := filtersOf(m.NSDev, m.NSIno); err != nil {
		return err
	} else if has {
		return inUse
	}
	return f.removePins()
}

func (f *Fast) pinMaps() error {
	want, err := f.meta()
	if err != nil {
		return err
	}
	meta, err := ebpf.NewMap(&ebpf.MapSpec{Name: "meta", Type: ebpf.Array, KeySize: 4, ValueSize: metaSize, MaxEntries: 1})
	if err != nil {
		return err
	}
	defer meta.Close()
	if err := meta.Put(uint32(0), want); err != nil {
		return err
	}
	// meta goes first and comes last, so that what is half done is not adopted.
	if err := remove(f.pin("meta")); err != nil {
		return err
	}
	for _, name := range shared {
		if err := remove(f.pin(name)); err != nil {
			return err
		}
		// Pin remembers its path and moves a map that has one.
		m, err := f.maps[name].Clone()
		if err != nil {
			return err
		}
		err = m.Pin(f.pin(name))
		m.Close()
		if err != nil {
			return fmt.Errorf("pin %s: %w", name, err)
		}
	}
	if err := meta.Pin(f.pin("meta")); err != nil {
		return fmt.Errorf("pin: %w", err)
	}
	f.pinned = true
	return nil
}

func remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// removePins removes what this package pins.
func (f *Fast) removePins() error {
	errs := []error{remove(f.pin("meta"))}
	for _, name := range shared {
		errs = append(errs, remove(f.pin(name)))
	}
	names, err := f.pinnedLinks()
	errs = append(errs, err)
	for _, name := range names {
		errs = append(errs, remove(f.pin(name)))
	}
	f.pinned = false
	return errors.Join(errs...)
}

// Pins of links carry the device's name; bpffs allows no dots.
var (
	toPin   = strings.NewReplacer("%", "%25", ".", "%2e")
	fromPin = strings.NewReplacer("%2e", ".", "%25", "%")
)

const linkPin = "link-"

func (f *Fast) pinnedLinks() ([]string, error) {
	entries, err := os.ReadDir(f.spec.PinDir)
	if err != nil {
		return nil, fmt.Errorf("read pin directory: %w", err)
	}
	var names []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), linkPin) {
			names = append(names, e.Name())
		}
	}
	return names, nil
}

// TestRun passes an Ethernet frame through the program, as if it had come in
// for this host, and returns what became of it. The frame may have up to about
// 3500 bytes. Counters count it.
func (f *Fast) TestRun(frame []byte) (out []byte, translated bool, err error) {
	return f.testRun("translate", frame)
}

// TestRunXDP is the same for XDP.
func (f *Fast) TestRunXDP(frame []byte) (out []byte, translated bool, err error) {
	return f.testRun("translate_xdp", frame)
}

func (f *Fast) testRun(program string, frame []byte) (out []byte, translated bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.open(); err != nil {
		return nil, false, err
	}
	if f.tests == nil {
		if err := f.loadTest(); err != nil {
			return nil, false, fmt.Errorf("load test program: %w", err)
		}
	}
	if len(frame) < 15 {
		return nil, false, fmt.Errorf("test run: frame of %d bytes is too short", len(frame))
	}
	// The loopback device, from which the frame will seem to come, has the address zero.
	in := bytes.Clone(frame)
	if in[0]&1 == 0 {
		clear(in[:6])
	}
	opts := ebpf.RunOptions{Data: in, DataOut: make([]byte, len(in)+64)}
	var ret uint32
	// Inside the namespace, whose routes a direct path asks for.
	if err := f.ns.Do(func() (err error) {
		ret, err = f.tests[program].Run(&opts)
		return err
	}); err != nil {
		return nil, false, fmt.Errorf("test run: %w", err)
	}
	copy(opts.DataOut[:6], frame[:6])
	return opts.DataOut, ret >= 100 && ret < 103, nil
}

func (f *Fast) loadTest() error {
	spec, err := f.collection(true)
	if err != nil {
		return err
	}
	c, err := ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: f.maps})
	if err != nil {
		return err
	}
	defer c.Close()
	f.tests = map[string]*ebpf.Program{}
	for name := range c.Programs {
		f.tests[name] = c.DetachProgram(name)
	}
	runtime.KeepAlive(f.maps)
	return nil
}
