package netio

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// hook is what has a program run on a device.
type hook interface {
	device() int // its index; 0: it has gone, or the hook has
	update(*ebpf.Program) error
	detach() error // no error if there is nothing to detach
	Close() error  // lets go of it; without detach and pins, a link ends
}

type bpfLink struct{ link.Link }

func (l bpfLink) device() int                  { return linkIndex(l.Link) }
func (l bpfLink) update(p *ebpf.Program) error { return l.Link.Update(p) }

func (l bpfLink) detach() error {
	// A link whose device has gone has nothing to detach.
	if l.device() == 0 {
		return nil
	}
	return l.Link.Detach()
}

// Attach puts the program at the device's tc ingress, by tcx or clsact (see
// Hook); if it is there already, nothing happens, and if it is there the other
// way, it is never gone meanwhile. ErrUnfit, wrapped with the reason, if the
// device could not pass on what is translated; fs.ErrNotExist if there is no such
// device; ErrFastInUse if another fast path has the place; errors.ErrUnsupported
// if the kernel has neither.
func (f *Fast) Attach(dev string) error { return f.attachAs(dev, f.hook, false) }

// AttachXDP is as Attach, but before the stack has the packet, in the driver.
// It is for physical uplinks: other devices hand over super-packets and
// unfinished checksums, which XDP cannot know of and would spoil. They are refused
// with ErrUnfit, unless forced by who has turned all that off. A driver without
// XDP gives errors.ErrUnsupported.
func (f *Fast) AttachXDP(dev string, force bool) error { return f.attachAs(dev, hookXDP, force) }

func (f *Fast) attachAs(dev, kind string, force bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.attach(dev, kind, force); err != nil {
		return fmt.Errorf("attach fast path to %s: %w", dev, err)
	}
	return nil
}

func (f *Fast) attach(dev, kind string, force bool) error {
	if err := f.open(); err != nil {
		return err
	}
	l, err := f.ns.h.LinkByName(dev)
	if err != nil {
		return notExist(err)
	}
	index := l.Attrs().Index
	old := f.links[dev]
	if old != nil && old.kind == kind && old.index == index && old.device() == index {
		return nil
	}
	if err := f.fits(dev, l.Attrs().EncapType); err != nil {
		return err
	}
	if kind == hookXDP {
		if err := f.fitsXDP(l, force); err != nil {
			return err
		}
	}
	if err := f.claimFilters(kind, index); err != nil {
		return err
	}
	// From tcx to clsact or back, the new one comes first.
	if old != nil && (old.kind == kind || old.kind == hookXDP || kind == hookXDP || old.index != index) {
		if err := f.detach(dev); err != nil {
			return err
		}
		old = nil
	}
	if err := f.commit(); err != nil {
		return err
	}
	if kind == hookClsact {
		made, err := f.ns.putFilter(index, f.programs["translate"], f.spare)
		if err != nil {
			return err
		}
		f.links[dev] = &fastLink{hook: made, index: index, kind: kind}
		if old != nil {
			return f.drop(dev, old)
		}
		return nil
	}
	made, err := f.makeLink(l, kind == hookXDP)
	if err != nil {
		return err
	}
	if f.spec.PinDir != "" {
		if err := made.Pin(f.pin(linkPin + toPin.Replace(dev))); err != nil {
			return errors.Join(fmt.Errorf("pin: %w", err), made.Close())
		}
	}
	f.links[dev] = &fastLink{hook: bpfLink{made}, index: index, kind: kind}
	// Both at once would do no more than count what is translated a second time, as
	// having no mapping; but not for long.
	if f.filterLock != nil {
		return (&tcFilter{ns: f.ns, index: index, spare: f.spare}).detach()
	}
	return nil
}

func (f *Fast) makeLink(l netlink.Link, xdp bool) (made link.Link, err error) {
	index := l.Attrs().Index
	if !xdp {
		err = f.ns.Do(func() (err error) {
			made, err = link.AttachTCX(link.TCXOptions{Interface: index, Program: f.programs["translate"], Attach: ebpf.AttachTCXIngress})
			return err
		})
		return made, err
	}
	// The program has to know what is addressed to the device.
	var mac [8]byte
	copy(mac[:], l.Attrs().HardwareAddr)
	if err := f.maps["macs"].Put(uint32(index), mac); err != nil {
		return nil, err
	}
	err = f.ns.Do(func() (err error) {
		made, err = link.AttachXDP(link.XDPOptions{Interface: index, Program: f.programs["translate_xdp"], Flags: link.XDPDriverMode})
		return err
	})
	if errors.Is(err, ebpf.ErrNotSupported) || errors.Is(err, unix.EOPNOTSUPP) {
		err = fmt.Errorf("%w: the driver has no XDP (%w)", errors.ErrUnsupported, err)
	}
	return made, err
}

// fitsXDP says why a device cannot have the program in its driver.
func (f *Fast) fitsXDP(l netlink.Link, force bool) error {
	if l.Type() != "device" && !force {
		return fmt.Errorf("%w: XDP is for physical devices, and this one is a %s: use tc", ErrUnfit, l.Type())
	}
	if len(l.Attrs().HardwareAddr) != 6 {
		return fmt.Errorf("%w: no Ethernet address", ErrUnfit)
	}
	features, err := f.ns.Offloads(l.Attrs().Name)
	if err != nil {
		return err
	}
	for _, c := range []struct{ name, option, why string }{
		{"rx-vlan-hw-parse", "rxvlan", "frames of VLANs would be taken for others"},
		{"rx-lro", "lro", "super-packets cannot be told from others"},
		{"rx-gro-hw", "rx-gro-hw", "super-packets cannot be told from others"},
	} {
		if features[c.name] && !force {
			return fmt.Errorf("%w: %s: turn it off (ethtool -K %s %s off)", ErrUnfit, c.why, l.Attrs().Name, c.option)
		}
	}
	return nil
}

// fits says why a device cannot have the fast path.
func (f *Fast) fits(dev, encap string) error {
	if encap != "ether" {
		return fmt.Errorf("%w: not an Ethernet device but %q", ErrUnfit, encap)
	}
	features, err := f.ns.Offloads(dev)
	if err != nil {
		return err
	}
	if features["rx-gro-list"] {
		return fmt.Errorf("%w: rx-gro-list is on, its super-packets are not translated rightly by kernels before 2026: turn it off (ethtool -K %s rx-gro-list off)", ErrUnfit, dev)
	}
	for _, c := range []struct {
		key  string
		bad  string
		hint string
	}{
		{"net/ipv4/conf/all/rp_filter", "1", "packets from service addresses would be dropped: set net.ipv4.conf.all.rp_filter to 0 or 2"},
		{"net/ipv4/conf/" + dev + "/rp_filter", "1", "packets from service addresses would be dropped: set it to 0 or 2"},
		{"net/ipv4/conf/" + dev + "/forwarding", "0", "translated packets would not be forwarded: set it to 1"},
		{"net/ipv6/conf/" + dev + "/forwarding", "0", "translated packets would not be forwarded: set it to 1"},
		{"net/ipv6/conf/" + dev + "/disable_ipv6", "1", "packets translated to IPv6 would be dropped: set it to 0"},
	} {
		v, err := f.ns.GetSysctl(c.key)
		if errors.Is(err, fs.ErrNotExist) && strings.Contains(c.key, "/ipv6/") {
			return fmt.Errorf("%w: %s is missing: no IPv6 on this device", ErrUnfit, c.key)
		}
		if err != nil {
			return err
		}
		if c.key == "net/ipv4/conf/"+dev+"/rp_filter" && v == c.bad {
			// The larger of the two counts.
			if all, err := f.ns.GetSysctl("net/ipv4/conf/all/rp_filter"); err == nil && all == "2" {
				continue
			}
		}
		if c.key == "net/ipv4/conf/all/rp_filter" && v == c.bad {
			if own, err := f.ns.GetSysctl("net/ipv4/conf/" + dev + "/rp_filter"); err == nil && own == "2" {
				continue
			}
		}
		if v == c.bad {
			return fmt.Errorf("%w: %s is %s: %s", ErrUnfit, c.key, v, c.hint)
		}
	}
	return nil
}

// Detach takes the program from the device; nothing happens if it is not there. A
// clsact that was made for it goes at Close, if nobody else uses it by then: its
// coming and going stops the device's sending for a moment, which may lose packets
// (no other change here does).
func (f *Fast) Detach(dev string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.open(); err != nil {
		return err
	}
	return f.detach(dev)
}

func (f *Fast) detach(dev string) error {
	l := f.links[dev]
	if l == nil {
		return nil
	}
	delete(f.links, dev)
	return f.drop(dev, l)
}

// drop detaches what is no more among f.links.
func (f *Fast) drop(dev string, l *fastLink) error {
	var errs []error
	if f.spec.PinDir != "" && l.kind != hookClsact {
		errs = append(errs, remove(f.pin(linkPin+toPin.Replace(dev))))
	}
	errs = append(errs, l.detach(), l.Close())
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("detach fast path from %s: %w", dev, err)
	}
	return nil
}

// Attached returns the devices that have the program, sorted. A device that has
// gone, or has come anew under its name, is not among them.
func (f *Fast) Attached() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var devs []string
	for dev, l := range f.links {
		if i := l.device(); i != 0 && i == l.index {
			devs = append(devs, dev)
		}
	}
	slices.Sort(devs)
	return devs
}

// linkIndex is the device that a link holds on to; 0 if it has gone.
func linkIndex(l link.Link) int {
	info, err := l.Info()
	if err != nil {
		return 0
	}
	if t := info.TCX(); t != nil {
		return int(t.Ifindex)
	}
	if x := info.XDP(); x != nil {
		return int(x.Ifindex)
	}
	return 0
}

// openLinks opens the pinned links, forgets those whose device has gone, and
// takes over filters.
func (f *Fast) openLinks() error {
	if f.spec.PinDir == "" {
		return nil
	}
	names, err := f.pinnedLinks()
	if err != nil {
		return err
	}
	for _, name := range names {
		l, err := link.LoadPinnedLink(f.pin(name), nil)
		if err != nil {
			return fmt.Errorf("read pin %s: %w", name, err)
		}
		dev := fromPin.Replace(strings.TrimPrefix(name, linkPin))
		index := linkIndex(l)
		if now, err := f.ns.h.LinkByName(dev); index == 0 || err != nil || now.Attrs().Index != index {
			err := errors.Join(remove(f.pin(name)), l.Close())
			if err != nil {
				return err
			}
			continue
		}
		info, err := l.Info()
		if err != nil {
			return err
		}
		kind := hookTCX
		if info.XDP() != nil {
			kind = hookXDP
		}
		f.links[dev] = &fastLink{hook: bpfLink{l}, index: index, kind: kind}
	}
	return f.adoptFilters()
}

// updateLinks has all links run the present program, each in one step.
func (f *Fast) updateLinks() error {
	for _, dev := range slices.Sorted(maps.Keys(f.links)) {
		l := f.links[dev]
		if l.device() == 0 {
			continue // it has gone, and Attached says so
		}
		program := "translate"
		if l.kind == hookXDP {
			program = "translate_xdp"
			now, err := f.ns.h.LinkByName(dev)
			if err != nil {
				return notExist(err)
			}
			var mac [8]byte
			copy(mac[:], now.Attrs().HardwareAddr)
			if err := f.maps["macs"].Put(uint32(l.index), mac); err != nil {
				return err
			}
		}
		if err := l.update(f.programs[program]); err != nil {
			return fmt.Errorf("replace program of %s: %w", dev, err)
		}
	}
	return nil
}

// commit turns links and filters that were adopted without their tables to the new ones,
// which Sync or Set have filled meanwhile.
func (f *Fast) commit() error {
	if f.spec.PinDir == "" || f.pinned {
		return nil
	}
	if err := f.updateLinks(); err != nil {
		return err
	}
	return f.pinMaps()
}
