package map646

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	pathpkg "path"
	"path/filepath"
	"slices"
	"time"

	"widecloud/internal/netio"
	"widecloud/internal/packet/siit"
)

// fastState is what is known of the path through the kernel. It changes under
// both of the daemon's locks, so that either is enough to look at it.
type fastState struct {
	off    bool              // by `map646 fast off`
	failed string            // why there is none although it is configured
	unfit  map[string]string // devices that are meant and cannot be taken: why
	told   fastTold          // to the kernel, last
	room   int               // mappings of IPv4, or of both if room6 is 0
	room6  int
}

// fastTold is what of the settings follows what happens around us.
type fastTold struct {
	inside []netip.Prefix
	direct bool
	hooks  []string // why not, if that is not configured
}

func (t fastTold) equal(o fastTold) bool {
	return t.direct == o.direct && slices.Equal(t.inside, o.inside) && slices.Equal(t.hooks, o.hooks)
}

// why says why nothing is to be attached; "": it is.
func (s *fastState) why() string {
	if s.failed == "" && s.off {
		return "turned off"
	}
	return s.failed
}

// FastStats is the fast path as Stats shows it.
type FastStats struct {
	// On: ordinary packets that come in by the devices in Attached are translated in
	// the kernel.
	On       bool              `json:"on"`
	Why      string            `json:"why,omitempty"` // if not
	Attached []string          `json:"attached"`
	Refused  map[string]string `json:"refused,omitempty"` // devices that were meant, and why they are not taken
	// Direct: the program sends on what it translates. If it might, and does not, Hooks
	// are what the kernel has to look at.
	Direct bool     `json:"direct"`
	Hooks  []string `json:"hooks,omitempty"`
	// Packets and Bytes by outcome: "4to6", "6to4", "6to6", "pass_…": left to the
	// full path.
	Packets map[string]uint64 `json:"packets"`
	Bytes   map[string]uint64 `json:"bytes"`
	Room    int               `json:"room"` // mappings
}

// openFast opens or adopts the fast path if one is configured, with the table in
// force, and attaches it. Whatever goes wrong, the full path serves. changing is
// held.
func (d *Daemon) openFast() {
	c := d.config
	if len(c.Fast.Devices) == 0 {
		// What an earlier run left pinned would translate by a table of its own.
		if c.Fast.Pin != "" {
			d.forgetPinned()
		}
		if err := d.ns.ClearFast(); err != nil {
			d.log.Warn("a fast path that was killed may still be attached", "err", err)
		}
		return
	}
	t := d.table.Load()
	spec := netio.FastSpec{PinDir: c.Fast.Pin, ForceClsact: c.Fast.Clsact, MaxPrefixes: c.Fast.MaxPrefixes}
	spec.MaxMappings, spec.MaxMappings66 = c.Fast.room(d.count4, d.count6)
	begun := time.Now()
	f, err := d.patientOpen(spec)
	if errors.Is(err, netio.ErrNotBPFFS) {
		d.log.Warn("without a bpffs the fast path ends with this process", "pin", c.Fast.Pin, "err", err)
		spec.PinDir = ""
		f, err = d.ns.OpenFast(spec)
	}
	d.mu.Lock()
	d.fast = fastState{
		off:   d.fast.off || d.handover != nil && d.handover.FastOff,
		unfit: map[string]string{}, room: spec.MaxMappings, room6: spec.MaxMappings66,
	}
	d.mu.Unlock()
	if err != nil {
		d.failFast(err)
		return
	}
	d.fastPath.Store(f)
	if err = d.tellFast(f); err == nil {
		err = d.syncFast(f, t)
	}
	if err == nil {
		err = d.tryFast()
	}
	if err != nil {
		d.failFast(err)
		return
	}
	d.log.Info("fast path open", "mappings", t.Len(), "room", spec.MaxMappings+spec.MaxMappings66, "hook", f.Hook(), "pin", spec.PinDir, "took", time.Since(begun).Round(time.Millisecond))
	d.followDevices(true)
}

// patientOpen waits a moment for a process that has just been killed to let go.
func (d *Daemon) patientOpen(s netio.FastSpec) (f *netio.Fast, err error) {
	for range 20 {
		if f, err = d.ns.OpenFast(s); !errors.Is(err, netio.ErrFastInUse) {
			return f, err
		}
		time.Sleep(50 * time.Millisecond)
	}
	return f, err
}

// pinned tells whether a fast path is pinned there.
func pinned(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, "meta"))
	return err == nil
}

// forgetPinned takes away what is pinned, if there is anything of ours.
func (d *Daemon) forgetPinned() {
	if !pinned(d.config.Fast.Pin) {
		return
	}
	f, err := d.patientOpen(netio.FastSpec{PinDir: d.config.Fast.Pin, MaxMappings: 1, MaxPrefixes: 1})
	if err == nil {
		err = f.Discard()
	}
	if err != nil {
		d.log.Warn("a fast path is pinned that is not ours to remove", "pin", d.config.Fast.Pin, "err", err)
	}
}

// closeFast ends the fast path, or leaves it at work.
func (d *Daemon) closeFast(c *Config) error {
	f := d.fastPath.Swap(nil)
	if f == nil {
		return nil
	}
	if c.Fast.Keep && c.Fast.Pin != "" {
		return f.Close()
	}
	return f.Discard()
}

// failFast leaves everything to the full path. Better slow than wrong.
func (d *Daemon) failFast(err error) {
	d.mu.Lock()
	d.fast.failed = err.Error()
	d.mu.Unlock()
	d.log.Error("no fast path, all packets take the full one", "err", err)
	if f := d.fastPath.Load(); f != nil {
		for _, dev := range f.Attached() {
			if err := f.Detach(dev); err != nil {
				d.log.Error("cannot detach the fast path", "device", dev, "err", err)
			}
		}
	}
}

// fastInUse is whether the fast path's tables are to be kept up to date, be it
// turned off or not. What has failed once may lack changes, and is opened anew
// before it is used again.
func (d *Daemon) fastInUse() bool { return d.fastPath.Load() != nil && d.fast.failed == "" }

func fastEntry(e siit.Entry) netio.FastEntry {
	return netio.FastEntry{ID: e.ID, Outside: e.Outside, Inside: e.Inside}
}

// fastEntries are the mappings for the kernel.
func fastEntries(t *siit.Table) func(func(netio.FastEntry) bool) {
	return func(yield func(netio.FastEntry) bool) {
		for e := range t.Entries() {
			if !yield(fastEntry(e)) {
				return
			}
		}
	}
}

// fastUpdate brings a change of the table to the kernel. Until it is there, each
// packet is translated as before.
func (d *Daemon) fastUpdate(removed, set []siit.Entry) {
	if !d.fastInUse() {
		return
	}
	gone, come := make([]netio.FastEntry, 0, len(removed)), make([]netio.FastEntry, 0, len(set))
	for _, e := range removed {
		gone = append(gone, fastEntry(e))
	}
	most := uint32(0)
	for _, e := range set {
		most = max(most, e.ID)
		come = append(come, fastEntry(e))
	}
	if len(set) > 0 && (d.fastCrowded() || int(most) >= d.fast.room+d.fast.room6+d.config.Fast.MaxPrefixes) {
		d.resyncFast()
		return
	}
	var err error
	if len(gone) > 0 {
		err = d.fastPath.Load().Remove(gone)
	}
	if err == nil && len(come) > 0 {
		err = d.fastPath.Load().Set(come)
	}
	if errors.Is(err, netio.ErrFull) {
		d.resyncFast()
	} else if err != nil {
		d.failFast(err)
	}
}

// fastCrowded tells whether there are more mappings than the kernel's tables
// were made for.
func (d *Daemon) fastCrowded() bool {
	if d.fast.room6 == 0 {
		return d.count4+d.count6 > d.fast.room
	}
	return d.count4 > d.fast.room || d.count6 > d.fast.room6
}

// resyncFast makes the kernel's tables equal to ours, in bigger ones if need be.
func (d *Daemon) resyncFast() {
	if !d.fastInUse() {
		return
	}
	t := d.table.Load()
	c := d.config
	if d.fastCrowded() && c.Fast.MaxMappings == 0 {
		d.log.Info("the fast path's tables are too small, making bigger ones", "mappings", t.Len())
		// What is pinned goes on with the old tables until the new ones are full.
		if err := d.fastPath.Load().Close(); err != nil {
			d.log.Warn("close the fast path", "err", err)
		}
		d.fastPath.Store(nil)
		d.openFast()
		return
	}
	if err := d.syncFast(d.fastPath.Load(), t); err != nil {
		d.failFast(err)
	}
}

func (d *Daemon) syncFast(f *netio.Fast, t *siit.Table) error {
	err := f.Sync(fastEntries(t))
	if errors.Is(err, netio.ErrFull) {
		return fmt.Errorf("fast.max_mappings: %d are too few for %d mappings: %w", d.fast.room, t.Len(), err)
	}
	return err
}

// fastSettings are what the kernel has to know beside the mappings. The full path
// costs two hops more than the kernel behind the program counts (into the device
// and, with decrement_ttl, the translator's own).
func (d *Daemon) fastSettings() (netio.FastSettings, fastTold) {
	t := d.table.Load()
	s := t.Spec()
	out := netio.FastSettings{
		Pref64: s.Pref64, Hops: 2, ZeroTrafficClass: s.ZeroTrafficClass, MTU4: s.MTU4, MTU6: s.MTU6,
		LowestIPv6MTU: s.LowestIPv6MTU, AllowPrivate: t.AllowsPrivate(), Inside: slices.Clone(s.Inside),
	}
	if s.KeepTTL {
		out.Hops = 1
	}
	// What the device does not take is the kernel's to refuse before it is
	// translated, as on the full path.
	lower := func(to *int, mtu int) {
		if *to == 0 || *to > mtu {
			*to = mtu
		}
	}
	lower(&out.MTU6, d.config.TUN.MTU)
	lower(&out.MTU4, d.config.TUN.MTU-20)
	own := map[netip.Addr]bool{}
	if links, err := d.ns.Links(); err == nil {
		for _, l := range links {
			addrs, err := d.ns.Addrs(l.Name)
			if err != nil {
				continue // it has just gone
			}
			for _, p := range addrs {
				own[p.Addr().WithZone("")] = true
			}
		}
	}
	for _, p := range d.config.Addresses {
		own[p.Addr()] = true // also while we are draining
	}
	for a := range own {
		if !a.IsLinkLocalUnicast() && !a.IsLoopback() {
			out.Inside = append(out.Inside, netip.PrefixFrom(a, a.BitLen()))
		}
	}
	slices.SortFunc(out.Inside, func(a, b netip.Prefix) int { return slices.Compare([]byte(a.String()), []byte(b.String())) })
	told := fastTold{inside: out.Inside}
	switch d.config.Fast.Forward {
	case "direct":
		told.direct = true
	case "auto":
		var err error
		if told.hooks, err = d.ns.ForwardHooks(routeProtocol); err != nil {
			told.hooks = []string{err.Error()}
		}
		told.direct = len(told.hooks) == 0
	}
	if l, err := d.ns.Link(d.config.TUN.Name); err != nil {
		told.direct, told.hooks = false, []string{err.Error()}
	} else {
		out.Device = l.Index
	}
	out.Direct = told.direct
	return out, told
}

// tellFast tells the kernel the settings.
func (d *Daemon) tellFast(f *netio.Fast) error {
	s, told := d.fastSettings()
	return d.tell(f, s, told)
}

func (d *Daemon) tell(f *netio.Fast, s netio.FastSettings, told fastTold) error {
	if err := f.Configure(s); err != nil {
		return err
	}
	if told.direct != d.fast.told.direct || !slices.Equal(told.hooks, d.fast.told.hooks) {
		d.log.Info("fast path forwarding", "direct", told.direct, "hooks", told.hooks)
	}
	d.mu.Lock()
	d.fast.told = told
	d.mu.Unlock()
	return nil
}

// configureFast tells the kernel of new settings.
func (d *Daemon) configureFast() {
	if !d.fastInUse() && (d.fastPath.Load() != nil || len(d.config.Fast.Devices) > 0) {
		// It failed before: a reload is the time to try again.
		if f := d.fastPath.Swap(nil); f != nil {
			if err := f.Close(); err != nil {
				d.log.Warn("close the fast path", "err", err)
			}
		}
		d.openFast()
		return
	}
	if d.fastPath.Load() == nil {
		return
	}
	if err := d.tellFast(d.fastPath.Load()); err != nil {
		d.failFast(err)
		return
	}
	d.followDevices(true)
}

// followDevices attaches the fast path to devices that have come, and follows the
// host's own addresses and what else there is to see forwarded packets. again: also to those that did not fit before.
func (d *Daemon) followDevices(again bool) {
	f := d.fastPath.Load()
	if f == nil {
		return
	}
	if s, told := d.fastSettings(); !told.equal(d.fast.told) {
		if err := d.tell(f, s, told); err != nil {
			d.failFast(err)
			return
		}
	}
	links, err := d.ns.Links()
	if err != nil {
		d.log.Warn("list devices", "err", err)
		return
	}
	attached := f.Attached()
	unfit := map[string]string{}
	for _, l := range links {
		if !d.config.takes(l.Name) || l.Name == d.config.TUN.Name {
			continue
		}
		if d.fast.why() != "" || slices.Contains(attached, l.Name) {
			continue
		}
		if why, known := d.fast.unfit[l.Name]; known && !again {
			unfit[l.Name] = why
			continue
		}
		err := errors.ErrUnsupported
		if match(d.config.Fast.XDP, l.Name) {
			if err = f.AttachXDP(l.Name, false); err != nil {
				d.log.Warn("no XDP for a device, tc is tried", "device", l.Name, "why", err)
			}
		}
		if err != nil {
			err = f.Attach(l.Name)
		}
		if err != nil {
			if d.fast.unfit[l.Name] != err.Error() {
				d.log.Warn("a device stays with the full path", "device", l.Name, "why", err)
			}
			unfit[l.Name] = err.Error()
			continue
		}
		d.log.Info("fast path attached", "device", l.Name)
	}
	for _, dev := range attached {
		if d.fast.why() != "" || !d.config.takes(dev) {
			if err := f.Detach(dev); err != nil {
				d.log.Error("cannot detach the fast path", "device", dev, "err", err)
			}
		}
	}
	d.mu.Lock()
	d.fast.unfit = unfit
	d.mu.Unlock()
}

// oldTablesCame tells whether the older iptables has tables that the fast path has not
// been told of. The kernel does not say when they come; they go only with the namespace.
func (d *Daemon) oldTablesCame() bool {
	if d.fastPath.Load() == nil {
		return false
	}
	d.mu.Lock()
	matters, told := d.config.Fast.Forward == "auto", d.fast.told.hooks
	d.mu.Unlock()
	if !matters {
		return false
	}
	tables, err := d.ns.OldTables()
	return err != nil || slices.ContainsFunc(tables, func(t string) bool { return !slices.Contains(told, t) })
}

// takes tells whether a device is one that the fast path is meant for.
func (c *Config) takes(dev string) bool {
	return match(c.Fast.Devices, dev)
}

func match(patterns []string, dev string) bool {
	for _, p := range patterns {
		if ok, _ := pathpkg.Match(p, dev); ok {
			return true
		}
	}
	return false
}

// Fast turns the fast path off or on again, without losing a packet: what it does
// not translate, the full path does.
func (d *Daemon) Fast(on bool) error {
	d.changing.Lock()
	defer d.changing.Unlock()
	if d.tun == nil {
		return errors.New("fast: not running")
	}
	if len(d.config.Fast.Devices) == 0 {
		return fmt.Errorf("%w: fast.devices: none are configured", ErrConfig)
	}
	d.mu.Lock()
	d.fast.off = !on
	d.mu.Unlock()
	if on && !d.fastInUse() {
		d.configureFast() // it failed before
	} else {
		d.followDevices(true)
	}
	d.log.Info("fast path", "on", on)
	if s := d.fastStats(); on && !s.On {
		return fmt.Errorf("fast path: %s", s.Why)
	}
	return nil
}

// tryFast has the kernel translate the self-test's packet, and compares.
func (d *Daemon) tryFast() error {
	t := d.table.Load()
	e, ok := probe(t)
	if !ok {
		return nil
	}
	packet := selfTestPacket(e.Outside.Addr())
	want, _ := translated(t, packet)
	frame := append([]byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0}, packet...)
	got, ok, err := d.fastPath.Load().TestRun(frame)
	if err != nil {
		return fmt.Errorf("self-test in the kernel: %w", err)
	}
	if !ok {
		return fmt.Errorf("self-test in the kernel: a packet to %v is not translated", e.Outside.Addr())
	}
	// The hop limit differs by what the kernel behind takes.
	if len(got) < 14+len(want) || string(got[14+8:14+len(want)]) != string(want[8:]) {
		return fmt.Errorf("self-test in the kernel: a packet to %v became %x, not %x", e.Outside.Addr(), got[min(14, len(got)):], want)
	}
	return nil
}

// fastCounted is what the kernel has counted for a mapping.
func (d *Daemon) fastCounted(id uint32) MappingCount {
	f := d.fastPath.Load()
	if f == nil {
		return MappingCount{}
	}
	in, out := f.MappingCounters(id)
	return MappingCount{in.Packets, in.Bytes, out.Packets, out.Bytes}
}

func (d *Daemon) fastStats() *FastStats {
	d.mu.Lock()
	if len(d.config.Fast.Devices) == 0 {
		d.mu.Unlock()
		return nil
	}
	s := &FastStats{Attached: []string{}, Refused: map[string]string{}, Packets: map[string]uint64{}, Bytes: map[string]uint64{}, Why: d.fast.why(), Room: d.fast.room + d.fast.room6,
		Hooks: d.fast.told.hooks}
	direct := d.fast.told.direct
	for dev, why := range d.fast.unfit {
		s.Refused[dev] = why
	}
	d.mu.Unlock()
	f := d.fastPath.Load()
	if f == nil {
		return s
	}
	if a := f.Attached(); len(a) > 0 {
		s.Attached = a
	}
	s.On = s.Why == ""
	s.Direct = s.On && direct
	for name, n := range f.Counters() {
		s.Packets[name], s.Bytes[name] = n.Packets, n.Bytes
	}
	return s
}
