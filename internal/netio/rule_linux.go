package netio

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// LinkPolicy is what leads packets to a device of a daemon's own, and keeps
// those that come out of it from being led back. Everything that it makes
// carries Protocol as its mark, so that a later run finds what a killed one
// left.
type LinkPolicy struct {
	Link     string
	Protocol int // kernel's number for who made it, 1 to 255
	// Routes are destinations that the main table sends to Link, and to nowhere
	// once Link has gone: a routing daemon would send them back to where they come
	// from, and Linux routers answer such loops with IPv6 redirects, which
	// hosts believe for minutes.
	Routes []netip.Prefix
	// Sources are IPv6 sources whose packets are looked up in Table: those to
	// Except go on to the main table, all others to Link, and to nowhere once Link
	// has gone: a daemon that dies must not leave a way around itself. Packets that
	// come from Link itself go to the main table at once.
	Sources  []netip.Prefix
	Except   []netip.Prefix
	Table    int
	Priority int // of the rule for Link; Sources have the next
}

// Metrics: routes to the device and, right behind them, the black holes that
// are left when it goes, both before what routing daemons install (FRR: 20).
const (
	linkMetric = 1
	holeMetric = 2
)

// SyncLinkPolicy makes the policy true: adds what is missing, then removes what
// is there under the same mark and no longer wanted.
func (n *NS) SyncLinkPolicy(p LinkPolicy) error {
	if p.Protocol <= 0 || p.Protocol > 255 || p.Table <= 0 || p.Table >= 253 && p.Table <= 255 {
		return fmt.Errorf("sync policy of %s: protocol %d or table %d out of range", p.Link, p.Protocol, p.Table)
	}
	l, err := n.h.LinkByName(p.Link)
	if err != nil {
		return fmt.Errorf("sync policy of %s: %w", p.Link, notExist(err))
	}
	var own []netip.Prefix
	if len(p.Sources) > 0 {
		own = []netip.Prefix{netip.PrefixFrom(netip.IPv6Unspecified(), 0)}
	}
	// Routes before the rules that lead to them.
	index := l.Attrs().Index
	return errors.Join(
		n.syncMarked(p, unix.RT_TABLE_MAIN, unix.RTN_UNICAST, index, linkMetric, p.Routes),
		n.syncMarked(p, unix.RT_TABLE_MAIN, unix.RTN_BLACKHOLE, 0, holeMetric, p.Routes),
		n.syncMarked(p, p.Table, unix.RTN_THROW, 0, linkMetric, p.Except),
		n.syncMarked(p, p.Table, unix.RTN_BLACKHOLE, 0, holeMetric, own),
		n.syncMarked(p, p.Table, unix.RTN_UNICAST, index, linkMetric, own),
		n.syncRules(p))
}

// ClearLinkPolicy removes all that SyncLinkPolicy made, also after the device
// has gone.
func (n *NS) ClearLinkPolicy(p LinkPolicy) error {
	p.Sources = nil
	return errors.Join(n.syncRules(p),
		n.syncMarked(p, p.Table, unix.RTN_THROW, 0, linkMetric, nil),
		n.syncMarked(p, p.Table, unix.RTN_BLACKHOLE, 0, holeMetric, nil),
		n.syncMarked(p, unix.RT_TABLE_MAIN, unix.RTN_BLACKHOLE, 0, holeMetric, nil))
}

func (n *NS) syncMarked(p LinkPolicy, table, kind, link, metric int, want []netip.Prefix) error {
	stale := map[netip.Prefix]netlink.Route{}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		list, err := n.h.RouteListFiltered(family, &netlink.Route{Table: table, Protocol: netlink.RouteProtocol(p.Protocol), Type: kind},
			netlink.RT_FILTER_TABLE|netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_TYPE)
		if err != nil {
			return fmt.Errorf("list routes of table %d: %w", table, err)
		}
		for _, r := range list {
			dst, ok := toPrefix(r.Dst)
			if !ok {
				dst = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
			}
			// IPv6 routes without a device are bound to the loopback device.
			if kind != unix.RTN_UNICAST || r.LinkIndex == link {
				stale[dst] = r
			}
		}
	}
	for _, dst := range want {
		if _, ok := stale[dst]; ok {
			delete(stale, dst)
			continue
		}
		r := &netlink.Route{Dst: ipNet(dst), Table: table, LinkIndex: link, Priority: metric, Type: kind, Protocol: netlink.RouteProtocol(p.Protocol)}
		if dst.Addr().Is4() && kind == unix.RTN_UNICAST {
			r.Scope = netlink.SCOPE_LINK
		}
		if err := n.h.RouteAdd(r); err != nil {
			return fmt.Errorf("add route to %v in table %d: %w", dst, table, err)
		}
	}
	for dst, r := range stale {
		if err := n.h.RouteDel(&r); err != nil && !errors.Is(err, syscall.ESRCH) {
			return fmt.Errorf("delete route to %v in table %d: %w", dst, table, err)
		}
	}
	return nil
}

func (n *NS) syncRules(p LinkPolicy) error {
	list, err := n.h.RuleList(netlink.FAMILY_V6)
	if err != nil {
		return fmt.Errorf("list rules: %w", err)
	}
	type key struct {
		src  netip.Prefix
		prio int
	}
	stale := map[key]netlink.Rule{}
	for _, r := range list {
		if int(r.Protocol) != p.Protocol || r.Table != p.Table && r.IifName != p.Link {
			continue
		}
		k := key{prio: r.Priority}
		if r.IifName != p.Link {
			k.src, _ = toPrefix(r.Src)
		}
		stale[k] = r
	}
	add := func(k key, iif string, table int) error {
		if _, ok := stale[k]; ok {
			delete(stale, k)
			return nil
		}
		r := netlink.NewRule()
		r.Family, r.Priority, r.Table, r.IifName, r.Protocol = netlink.FAMILY_V6, k.prio, table, iif, uint8(p.Protocol)
		if k.src.IsValid() {
			r.Src = ipNet(k.src)
		}
		if err := n.h.RuleAdd(r); err != nil {
			return fmt.Errorf("add rule from %v %s: %w", k.src, iif, err)
		}
		return nil
	}
	if len(p.Sources) > 0 {
		if err := add(key{prio: p.Priority}, p.Link, unix.RT_TABLE_MAIN); err != nil {
			return err
		}
	}
	for _, s := range p.Sources {
		if err := add(key{s, p.Priority + 1}, "", p.Table); err != nil {
			return err
		}
	}
	for k, r := range stale {
		if err := n.h.RuleDel(&r); err != nil && !errors.Is(notExist(err), fs.ErrNotExist) {
			return fmt.Errorf("delete rule from %v: %w", k.src, err)
		}
	}
	return nil
}
