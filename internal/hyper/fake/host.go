package fake

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"widecloud/api"
	"widecloud/internal/hyper"
)

// Options of a Host. The zero value of each has a default.
type Options struct {
	Name      string // of the host; names it in the World
	World     *World // default: one of its own
	Logger    *slog.Logger
	CPUs      int      // default 8
	MemoryMiB int      // default 16384
	Accel     string   // default tcg
	CPUModel  string   // default Nehalem
	CPUUsable []string // default: CPUModel alone

	GuestMemory int           // bytes that a migration sends for the memory of a guest; default 16 KiB
	GuestDisk   int           // bytes that a migration sends for each disk; default 32 KiB
	Tick        time.Duration // a guest's counter grows by one each; default 1 ms
	StopTime    time.Duration // from an ACPI shutdown to the end of the guest; default 10 ms
	ChunkTime   time.Duration // that each 4 KiB of a migration takes; default 0
	Profile     int           // newest hardware profile; default that of this release
}

// Host is a machine: its daemon, its guests and their disks.
type Host struct {
	o Options

	mu      sync.Mutex
	power   bool
	daemon  bool
	domains map[string]*domain
	disks   map[string]uint64 // path -> the counter that was written last
	sizes   map[string]int64  // path -> the bytes to which the disk has grown here
	saved   map[string]*saved // path -> what a Save has written there
	deaf    map[string]bool
	free    int64 // bytes for incoming disks; negative: no limit
	faults  map[string][]*Fault
	conns   map[*driver]struct{}
}

// Fault is what happens to a call instead of, before or after its work.
type Fault struct {
	Method string        // of hyper.Driver: "Start", "MigrateFinish"
	VM     string        // empty: any
	Skip   int           // calls that go well first
	Times  int           // calls that are struck; 0: one
	Delay  time.Duration // before the work; cut short by the call's context
	Hang   bool          // before the work, until the call's context or connection ends
	Err    error         // returned; nil: only the delay
	After  bool          // the work is done first: its answer is lost
}

// New switches a machine on, with no guests.
func New(o Options) *Host {
	if o.World == nil {
		o.World = NewWorld()
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Name == "" {
		o.Name = "host"
	}
	o.CPUs = or(o.CPUs, 8)
	o.Profile = or(o.Profile, api.NewestProfile)
	o.MemoryMiB = or(o.MemoryMiB, 16384)
	o.GuestMemory = or(o.GuestMemory, 16<<10)
	o.GuestDisk = or(o.GuestDisk, 32<<10)
	o.Tick = or(o.Tick, time.Millisecond)
	o.StopTime = or(o.StopTime, 10*time.Millisecond)
	if o.CPUModel == "" {
		o.CPUModel = "Nehalem"
	}
	if o.Accel == "" {
		o.Accel = "tcg"
	}
	if len(o.CPUUsable) == 0 {
		o.CPUUsable = []string{o.CPUModel}
	}
	return &Host{
		o: o, power: true, daemon: true, free: -1,
		domains: map[string]*domain{}, disks: map[string]uint64{}, sizes: map[string]int64{}, saved: map[string]*saved{}, deaf: map[string]bool{},
		faults: map[string][]*Fault{}, conns: map[*driver]struct{}{},
	}
}

func or[T comparable](v, otherwise T) T {
	var zero T
	if v == zero {
		return otherwise
	}
	return v
}

// Name is the host's.
func (h *Host) Name() string { return h.o.Name }

// World is the one that this host reports to.
func (h *Host) World() *World { return h.o.World }

// Connect makes an agent's connection. It is made even when the host is down: calls then return hyper.ErrUnreachable and
// work again once the host is up. Closing it is what the death of the agent does: a migration at work fails and its source
// runs on, incoming domains that were prepared by it and are not finished are destroyed, all else stays as it is.
func (h *Host) Connect() hyper.Driver {
	d := &driver{h: h, watchers: map[*watcher]struct{}{}, consoles: map[*console]struct{}{}, done: make(chan struct{})}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.conns[d] = struct{}{}
	return d
}

// Inject adds a fault. Of several for a method, the oldest that is not used up strikes.
func (h *Host) Inject(f Fault) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f.Times = max(f.Times, 1)
	h.faults[f.Method] = append(h.faults[f.Method], &f)
}

// PowerOff loses every guest at once, without a word to anybody. The disks stay.
func (h *Host) PowerOff() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.power = false
	for vm := range h.domains {
		h.remove(vm, hyper.ErrUnreachable)
	}
	h.dropLinks()
}

// PowerOn brings the machine back, empty, with its daemon up.
func (h *Host) PowerOn() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.power, h.daemon = true, true
	h.tellLost()
}

// StopDaemon kills the hypervisor's daemon: guests run on, migrations in mid-copy fail (the source runs on, an incoming
// domain is destroyed when the daemon is back: here at once), no call is answered.
func (h *Host) StopDaemon() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.daemon = false
	for vm, d := range h.domains {
		if d.in != nil {
			h.remove(vm, hyper.ErrUnreachable)
		} else if d.out != nil && d.out.cancel != nil {
			d.out.cancel(hyper.ErrUnreachable)
		}
	}
	h.dropLinks()
}

// StartDaemon brings the daemon back.
func (h *Host) StartDaemon() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.daemon = true
	h.tellLost()
}

// dropLinks ends what hangs on the daemon: the calls that hang, and the consoles.
func (h *Host) dropLinks() {
	for d := range h.conns {
		for c := range d.consoles {
			c.end(io.EOF)
		}
	}
}

func (h *Host) tellLost() {
	for d := range h.conns {
		for w := range d.watchers {
			w.put(hyper.Event{Lost: true})
		}
	}
}

// SetFree sets the bytes that are free for incoming disks; negative: no limit.
func (h *Host) SetFree(bytes int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.free = bytes
}

// SetDeaf makes the guest of a VM take no notice of ACPI.
func (h *Host) SetDeaf(vm string, deaf bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.deaf[vm] = deaf
}

// GuestStops ends a running guest from within, as its own poweroff does.
func (h *Host) GuestStops(vm string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	d := h.domains[vm]
	if d == nil || d.state != hyper.Running {
		return fmt.Errorf("stop guest of %s: %w", vm, hyper.ErrNotFound)
	}
	h.remove(vm, hyper.ErrNotFound)
	return nil
}

// Guest is what a test sees of a guest from inside.
type Guest struct {
	Spec    hyper.Spec
	State   hyper.State
	Boot    string // its identity: made at Start, moved along by migrations
	Counter uint64
	Resets  int // reboots since Start
}

// Guest looks into a guest.
func (h *Host) Guest(vm string) (Guest, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	d := h.domains[vm]
	if d == nil {
		return Guest{}, false
	}
	return Guest{Spec: d.spec, State: d.state, Boot: d.guest.boot, Counter: h.count(d), Resets: d.guest.resets}, true
}

// Written is the counter that the disk at a path holds: what a guest that starts from it goes on with.
func (h *Host) Written(path string) uint64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, d := range h.domains {
		if d.state == hyper.Running && slices.ContainsFunc(d.spec.Disks, func(k hyper.Disk) bool { return k.Path == path && !k.ReadOnly }) {
			return h.count(d)
		}
	}
	return h.disks[path]
}

// Grown is to how many bytes a running guest's disk at a path has grown; 0: it has not.
func (h *Host) Grown(path string) int64 {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.sizes[path]
}

// WriteDisk sets what the disk at a path holds, for a volume that was copied or made afresh (0) beside the hypervisor.
func (h *Host) WriteDisk(path string, counter uint64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.disks[path] = counter
	if counter == 0 {
		delete(h.sizes, path)
	}
}

// VMs lists the UIDs of the domains on the host, sorted, incoming and paused ones too.
func (h *Host) VMs() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Sorted(maps.Keys(h.domains))
}

// domain is one copy of a VM. Guarded by Host.mu.
type domain struct {
	spec  hyper.Spec
	state hyper.State
	guest guest
	since time.Time // when the counter's count began; state Running only

	ran     bool
	before  uint64 // the counter when it first ran here
	stop    *time.Timer
	out     *outgoing // begun as the source of a migration
	in      *incoming // the target of one
	came    string    // the migration that brought it
	leaving []string  // targets that the guest was asked to let go, and has not
	term    *console
	views   map[*view]struct{} // of its display
}

type guest struct {
	boot    string
	counter uint64
	resets  int
}

// writable are the targets of the disks that the guest writes to, sorted.
func (d *domain) writable() (targets []string) {
	for _, k := range d.spec.Disks {
		if !k.ReadOnly {
			targets = append(targets, k.Target)
		}
	}
	slices.Sort(targets)
	return targets
}

// unplug takes disks out of a guest, which has written to them until now.
func (h *Host) unplug(d *domain, targets ...string) {
	d.spec.Disks = slices.DeleteFunc(slices.Clone(d.spec.Disks), func(k hyper.Disk) bool {
		gone := !k.ReadOnly && slices.Contains(targets, k.Target)
		if gone {
			h.disks[k.Path] = h.count(d)
		}
		return gone
	})
}

func (h *Host) count(d *domain) uint64 {
	if d.state != hyper.Running {
		return d.guest.counter
	}
	return d.guest.counter + uint64(time.Since(d.since)/h.o.Tick)
}

// run lets a domain run; its counter grows by one for it, so that every run is told from the one before.
func (h *Host) run(d *domain) {
	if d.state == hyper.Running {
		return
	}
	h.o.World.report(Change{VM: d.spec.VM, Host: h.o.Name, Epoch: d.spec.Epoch, Boot: d.guest.boot, Counter: d.guest.counter, Runs: true})
	d.guest.counter++
	if !d.ran {
		d.ran, d.before = true, d.guest.counter
	}
	d.since = time.Now()
	d.state = hyper.Running
	h.tell(d.spec.VM, hyper.Running)
}

// halt stops the clock of a domain and writes its disks.
func (h *Host) halt(d *domain, to hyper.State) {
	if d.state == hyper.Running {
		d.guest.counter = h.count(d)
		for _, k := range d.spec.Disks {
			if !k.ReadOnly {
				h.disks[k.Path] = d.guest.counter
			}
		}
		d.state = to
		h.o.World.report(Change{VM: d.spec.VM, Host: h.o.Name, Epoch: d.spec.Epoch, Boot: d.guest.boot, Counter: d.guest.counter})
	}
	d.state = to
}

// remove ends a domain and whatever hangs on it.
func (h *Host) remove(vm string, why error) {
	d := h.domains[vm]
	if d == nil {
		return
	}
	h.halt(d, hyper.Stopped)
	delete(h.domains, vm)
	if d.stop != nil {
		d.stop.Stop()
	}
	if d.term != nil {
		d.term.end(io.EOF)
	}
	for v := range d.views {
		v.Conn.Close()
	}
	if d.out != nil && d.out.cancel != nil {
		d.out.cancel(why)
	}
	if d.in != nil {
		if h.free >= 0 {
			h.free += d.in.taken
		}
		d.in.cancel(why)
	}
	h.tell(vm, hyper.Stopped)
}

func (h *Host) tell(vm string, s hyper.State) {
	if !h.power || !h.daemon {
		return
	}
	for d := range h.conns {
		for w := range d.watchers {
			w.put(hyper.Event{VM: vm, State: s})
		}
	}
}

// strike finds the fault for a call. Called with the lock held.
func (h *Host) strike(method, vm string) *Fault {
	for _, f := range h.faults[method] {
		if f.Times == 0 || f.VM != "" && f.VM != vm {
			continue
		}
		if f.Skip > 0 {
			f.Skip--
			continue
		}
		f.Times--
		c := *f
		return &c
	}
	return nil
}

// sleep waits in a way that virtual time knows.
func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}
