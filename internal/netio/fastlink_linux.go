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
)

// Attach puts the program at the device's ingress; if it is there already,
// nothing happens. ErrUnfit, wrapped with the reason, if the device could not
// pass on what is translated; fs.ErrNotExist if there is no such device;
// errors.ErrUnsupported if the kernel has no tcx (it came with 6.6).
func (f *Fast) Attach(dev string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if err := f.attach(dev); err != nil {
		return fmt.Errorf("attach fast path to %s: %w", dev, err)
	}
	return nil
}

func (f *Fast) attach(dev string) error {
	if err := f.open(); err != nil {
		return err
	}
	l, err := f.ns.h.LinkByName(dev)
	if err != nil {
		return notExist(err)
	}
	index := l.Attrs().Index
	if old := f.links[dev]; old != nil {
		if old.index == index && linkIndex(old.link) == index {
			return nil
		}
		if err := f.detach(dev); err != nil {
			return err
		}
	}
	if err := f.fits(dev, l.Attrs().EncapType); err != nil {
		return err
	}
	if err := f.commit(); err != nil {
		return err
	}
	var made link.Link
	err = f.ns.Do(func() (err error) {
		made, err = link.AttachTCX(link.TCXOptions{Interface: index, Program: f.programs["translate"], Attach: ebpf.AttachTCXIngress})
		return err
	})
	if errors.Is(err, ebpf.ErrNotSupported) {
		return fmt.Errorf("%w: the kernel has no tcx, it came with Linux 6.6 (%w)", errors.ErrUnsupported, err)
	}
	if err != nil {
		return err
	}
	if f.spec.PinDir != "" {
		if err := made.Pin(f.pin(linkPin + toPin.Replace(dev))); err != nil {
			return errors.Join(fmt.Errorf("pin: %w", err), made.Close())
		}
	}
	f.links[dev] = &fastLink{link: made, index: index}
	return nil
}

// fits says why a device cannot have the fast path.
func (f *Fast) fits(dev, encap string) error {
	if encap != "ether" {
		return fmt.Errorf("%w: not an Ethernet device but %q", ErrUnfit, encap)
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

// Detach takes the program from the device; nothing happens if it is not there.
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
	var errs []error
	if f.spec.PinDir != "" {
		errs = append(errs, remove(f.pin(linkPin+toPin.Replace(dev))))
	}
	// A link whose device has gone has nothing to detach.
	if linkIndex(l.link) != 0 {
		errs = append(errs, l.link.Detach())
	}
	errs = append(errs, l.link.Close())
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
		if i := linkIndex(l.link); i != 0 && i == l.index {
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

// openLinks opens the pinned links, and forgets those whose device has gone.
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
		f.links[dev] = &fastLink{link: l, index: index, xdp: info.XDP() != nil}
	}
	return nil
}

// updateLinks has all links run the present program, each in one step.
func (f *Fast) updateLinks() error {
	for _, dev := range slices.Sorted(maps.Keys(f.links)) {
		if err := f.links[dev].link.Update(f.programs["translate"]); err != nil {
			return fmt.Errorf("replace program of %s: %w", dev, err)
		}
	}
	return nil
}

// commit turns links that were adopted without their tables to the new ones,
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
