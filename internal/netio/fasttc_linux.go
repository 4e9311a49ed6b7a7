package netio

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Where a device can have the program.
const (
	hookTCX    = "tcx"    // a link; since Linux 6.6
	hookClsact = "clsact" // a filter, of the qdisc of that name
	hookXDP    = "xdp"    // a link
)

// Hook tells where Attach puts the program: "tcx", or "clsact" where the kernel
// has no tcx (it came with Linux 6.6) or FastSpec.ForceClsact says so.
func (f *Fast) Hook() string { return f.hook }

// chooseHook asks the kernel for tcx, with a device that cannot be.
func (f *Fast) chooseHook() string {
	if f.spec.ForceClsact {
		return hookClsact
	}
	l, err := link.AttachTCX(link.TCXOptions{Interface: math.MaxInt32, Program: f.programs["translate"], Attach: ebpf.AttachTCXIngress})
	if err == nil {
		l.Close()
	}
	if errors.Is(err, ebpf.ErrNotSupported) {
		return hookClsact
	}
	return hookTCX
}

// A filter of ours is known by its place and its name. It lives as long as its
// device, so what a killed process has left is found without a record, and its
// name also says whose the qdisc is. The priority is ahead of those that the
// kernel gives to filters that come without one.
const (
	filterPriority  = 646
	filterHandle    = 0x646
	filterName      = "map646"
	filterNameQdisc = "map646-and-qdisc" // the qdisc was made for it
)

// tcFilter is our filter at a device's ingress.
type tcFilter struct {
	ns    *NS
	index int
	qdisc bool // made for it
	spare qdiscs
}

// qdiscs are those, by device, that were made for a filter which has gone. The
// kernel stops a device's sending for a moment when its clsact comes or goes
// (qdisc_graft calls dev_deactivate), which loses packets, while filters
// come and go without a loss. So clsact is kept until Close.
type qdiscs map[int]bool

func (n *NS) clsact(index int) netlink.Qdisc {
	return &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: index, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT}}
}

// whole repeats a dump that changes have interrupted.
func whole[T any](dump func() ([]T, error)) (all []T, err error) {
	for range 10 {
		if all, err = dump(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			break
		}
	}
	return all, err
}

func (n *NS) tcFilters(index int, parent uint32) ([]netlink.Filter, error) {
	all, err := whole(func() ([]netlink.Filter, error) {
		return n.h.FilterList(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: index}}, parent)
	})
	if err != nil {
		return nil, fmt.Errorf("list tc filters: %w", err)
	}
	return all, nil
}

// filter returns our filter on a device; nil if it has none. ErrFastInUse if its
// place is taken.
func (n *NS) filter(index int) (*tcFilter, error) {
	all, err := n.tcFilters(index, netlink.HANDLE_MIN_INGRESS)
	if err != nil {
		return nil, err
	}
	for _, t := range all {
		if a := t.Attrs(); a.Priority != filterPriority || a.Handle != filterHandle || a.Chain != nil && *a.Chain != 0 {
			continue
		}
		if b, ok := t.(*netlink.BpfFilter); ok && (b.Name == filterName || b.Name == filterNameQdisc) {
			return &tcFilter{ns: n, index: index, qdisc: b.Name == filterNameQdisc}, nil
		}
		return nil, fmt.Errorf("tc filter of priority %d: %w by other software", filterPriority, ErrFastInUse)
	}
	return nil, nil
}

// filters returns all our filters in the namespace.
func (n *NS) filters() ([]*tcFilter, error) {
	qdiscs, err := whole(func() ([]netlink.Qdisc, error) { return n.h.QdiscList(nil) })
	if err != nil {
		return nil, fmt.Errorf("list qdiscs: %w", err)
	}
	var ours []*tcFilter
	for _, q := range qdiscs {
		if q.Attrs().Parent != netlink.HANDLE_INGRESS { // the same as that of clsact
			continue
		}
		t, err := n.filter(q.Attrs().LinkIndex)
		if errors.Is(err, ErrFastInUse) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if t != nil {
			ours = append(ours, t)
		}
	}
	return ours, nil
}

// putFilter has the program run at a device's ingress, by a filter. If there is
// ours already, the program takes the place of its present one in one step.
func (n *NS) putFilter(index int, p *ebpf.Program, spare qdiscs) (*tcFilter, error) {
	t, err := n.filter(index)
	if err != nil {
		return nil, err
	}
	made := false
	if t == nil {
		t = &tcFilter{ns: n, index: index}
		switch err := n.h.QdiscAdd(n.clsact(index)); {
		case err == nil:
			t.qdisc, made = true, true
		case errors.Is(err, unix.EEXIST): // clsact, or ingress, which has our place too
			t.qdisc = spare[index]
		case errors.Is(err, unix.ENOENT), errors.Is(err, unix.EOPNOTSUPP):
			return nil, fmt.Errorf("%w: the kernel has neither tcx, which came with Linux 6.6, nor clsact, CONFIG_NET_SCH_INGRESS (%w)", errors.ErrUnsupported, err)
		default:
			return nil, fmt.Errorf("add clsact: %w", notExist(err))
		}
	}
	if err := t.update(p); err != nil {
		if made {
			err = errors.Join(err, n.h.QdiscDel(n.clsact(index)))
		}
		return nil, err
	}
	t.spare = spare
	delete(spare, index)
	return t, nil
}

func (t *tcFilter) at() netlink.FilterAttrs {
	return netlink.FilterAttrs{LinkIndex: t.index, Parent: netlink.HANDLE_MIN_INGRESS, Priority: filterPriority, Handle: filterHandle, Protocol: unix.ETH_P_ALL}
}

// update puts a program in the place of the present one. Packets meet one of
// them: cls_bpf exchanges filters of one handle under RCU.
func (t *tcFilter) update(p *ebpf.Program) error {
	name := filterName
	if t.qdisc {
		name = filterNameQdisc
	}
	err := t.ns.h.FilterReplace(&netlink.BpfFilter{FilterAttrs: t.at(), Fd: p.FD(), Name: name, DirectAction: true})
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.EOPNOTSUPP):
		return fmt.Errorf("%w: the kernel has neither tcx, which came with Linux 6.6, nor BPF filters, CONFIG_NET_CLS_BPF (%w)", errors.ErrUnsupported, err)
	}
	return fmt.Errorf("put tc filter: %w", notExist(err))
}

func (t *tcFilter) device() int {
	if have, err := t.ns.filter(t.index); err != nil || have == nil {
		return 0
	}
	return t.index
}

// detach removes the filter, and leaves the qdisc among the spare ones if it was
// made for it.
func (t *tcFilter) detach() error {
	have, err := t.ns.filter(t.index)
	if errors.Is(err, ErrFastInUse) { // not ours
		return nil
	}
	if err != nil || have == nil {
		return err
	}
	if err := t.ns.h.FilterDel(&netlink.BpfFilter{FilterAttrs: t.at(), Fd: -1}); err != nil {
		// It may have gone meanwhile, alone or with its device.
		if t.device() == 0 {
			return nil
		}
		return fmt.Errorf("remove tc filter: %w", err)
	}
	if have.qdisc {
		t.spare[t.index] = true
	}
	return nil
}

// drop removes the qdiscs that serve nobody else by now.
func (q qdiscs) drop(n *NS) error {
	var errs []error
	for index := range q {
		errs = append(errs, n.dropQdisc(index))
		delete(q, index)
	}
	return errors.Join(errs...)
}

func (n *NS) dropQdisc(index int) error {
	for _, parent := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
		if others, err := n.tcFilters(index, parent); err != nil || len(others) > 0 {
			return err
		}
	}
	err := n.h.QdiscDel(n.clsact(index))
	if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENODEV) { // it has gone
		return fmt.Errorf("remove clsact: %w", err)
	}
	return nil
}

func (t *tcFilter) Close() error { return nil }

// lockFilters takes the namespace's filters for this Fast, until Close: they have
// one place on a device.
func (f *Fast) lockFilters() error {
	if f.filterLock != nil {
		return nil
	}
	// Opened anew, it has a lock of its own, which the kernel lets go with the process.
	ns, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", int(f.ns.fd)))
	if err != nil {
		return fmt.Errorf("open namespace: %w", err)
	}
	if err := unix.Flock(int(ns.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		ns.Close()
		return fmt.Errorf("the namespace's tc filters: %w by another fast path", ErrFastInUse)
	}
	f.filterLock = ns
	return nil
}

// adoptFilters takes over the filters that are in the namespace.
func (f *Fast) adoptFilters() error {
	have, err := f.ns.filters()
	if err != nil || len(have) == 0 {
		return err
	}
	if err := f.lockFilters(); err != nil {
		return err
	}
	for _, t := range have {
		t.spare = f.spare
		l, err := f.ns.h.LinkByIndex(t.index)
		if errors.Is(notExist(err), fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("device of a tc filter: %w", err)
		}
		dev := l.Attrs().Name
		if f.links[dev] != nil { // a kill in the midst of Attach: the link is in
			if err := t.detach(); err != nil {
				return err
			}
			continue
		}
		f.links[dev] = &fastLink{hook: t, index: t.index, kind: hookClsact}
	}
	return nil
}

// claimFilters makes the namespace's filters ours before one is put on a device,
// or something else in its stead. Without pins nothing is adopted: what a killed
// process has left on other devices translates by a table that nobody keeps, and
// goes.
func (f *Fast) claimFilters(kind string, index int) error {
	if kind == hookClsact {
		if err := f.lockFilters(); err != nil {
			return err
		}
	}
	if f.claimed || f.spec.PinDir != "" {
		return nil
	}
	have, err := f.ns.filters()
	if err != nil {
		return err
	}
	if len(have) > 0 {
		if err := f.lockFilters(); err != nil {
			return err
		}
	}
	for _, t := range have {
		if t.index == index {
			continue // attach replaces it
		}
		t.spare = f.spare
		if err := t.detach(); err != nil {
			return err
		}
	}
	f.claimed = true
	return nil
}

// ClearFast takes away the clsact filters that a fast path without pins has left
// in the namespace, when its process was killed. ErrFastInUse if it is alive.
func (n *NS) ClearFast() error {
	f := &Fast{ns: n, spare: qdiscs{}}
	err := f.claimFilters("", 0)
	if err = errors.Join(err, f.close()); err != nil {
		return fmt.Errorf("clear fast path: %w", err)
	}
	return nil
}

// filtersOf tells whether a namespace that is alive somewhere has filters of
// ours.
func filtersOf(dev, ino uint64) (bool, error) {
	var paths []string
	for _, pattern := range []string{filepath.Join(NamedDir, "*"), "/proc/[0-9]*/ns/net"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			return false, err
		}
		paths = append(paths, found...)
	}
	for _, path := range paths {
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil || st.Dev != dev || st.Ino != ino {
			continue
		}
		ns, err := openNSPath("", path)
		if err != nil {
			continue // it has just gone
		}
		have, err := ns.filters()
		ns.Close()
		return len(have) > 0, err
	}
	return false, nil
}
