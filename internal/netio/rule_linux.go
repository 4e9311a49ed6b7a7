package netio

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"

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
	// Sources are IPv6 sources whose packets go to Link, but for those to Except,
	// and to nowhere once Link has gone: a daemon that dies must not leave a way
	// around itself. They are source-specific routes of Table (CONFIG_IPV6_SUBTREES),
	// a radix tree: rules would be searched one by one, for all packets of the
	// host. Packets that come from Link or from the host itself are not looked up there.
	Sources  []netip.Prefix
	Except   []netip.Prefix
	Table    int
	Priority int // of the rules: Priority exempts, the next leads to Table
	// Detour, if not 0, is an IP protocol whose IPv6 packets all go by Link, those made
	// here too. What comes out of Link goes on by the rules behind the policy's.
	// Spared are packets that have the bit DetourMark, that are in a VRF, for
	// multicast or link-local addresses or for DetourExcept, or have no source yet:
	// they go where those of other protocols do, and so do all once Link has gone.
	// Its rules are Priority-5 to Priority-1 and Priority+2, its table is Table+1.
	Detour       int
	DetourMark   uint32
	DetourExcept []netip.Prefix
	// Locals are addresses that the host takes packets for without having them on
	// a device, so that no routing daemon announces them.
	Locals []netip.Addr
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
	link, lo, err := n.policyLinks(p)
	if err != nil {
		return err
	}
	have, err := n.markedRoutes(p, p.tables()...)
	if err != nil {
		return err
	}
	// Routes before the rules that lead to them.
	return errors.Join(n.syncRoutes(p.Protocol, have, p.routes(link, lo)), n.syncRules(p), n.syncDetour(p))
}

// syncRoutes makes want of what there is: adds first, then removes.
func (n *NS) syncRoutes(protocol int, have map[markedRoute]bool, want []markedRoute) error {
	var missing, stale []markedRoute
	wanted := make(map[markedRoute]bool, len(want))
	for _, r := range want {
		if wanted[r] = true; !have[r] {
			missing = append(missing, r)
		}
	}
	for r := range have {
		if !wanted[r] {
			stale = append(stale, r)
		}
	}
	return errors.Join(n.changeRoutes(protocol, true, missing), n.changeRoutes(protocol, false, stale))
}

// ExtendLinkPolicy adds Routes, Sources, Except and Locals, but no Detour, to a policy that
// SyncLinkPolicy made true, at the cost of these alone.
func (n *NS) ExtendLinkPolicy(p LinkPolicy) error {
	link, lo, err := n.policyLinks(p)
	if err != nil {
		return err
	}
	if err := n.changeRoutes(p.Protocol, true, p.routes(link, lo)); err != nil {
		return err
	}
	if len(p.Sources) > 0 {
		return n.syncRules(p)
	}
	return nil
}

// ReduceLinkPolicy takes Routes, Sources, Except and Locals away; what is not
// there is no error.
func (n *NS) ReduceLinkPolicy(p LinkPolicy) error {
	link, lo, err := n.policyLinks(p)
	if err != nil {
		return err
	}
	return n.changeRoutes(p.Protocol, false, p.routes(link, lo))
}

// SetLocals makes want the addresses that the host takes packets for without
// having them on a device, among those with a mark. They are local routes, which
// routing daemons do not take for addresses to announce. What is as wanted is
// not touched.
func (n *NS) SetLocals(protocol int, want []netip.Addr) error {
	p := LinkPolicy{Link: "lo", Protocol: protocol, Table: protocol, Locals: want} // nothing is in that table
	_, lo, err := n.policyLinks(p)
	if err != nil {
		return err
	}
	have, err := n.markedRoutes(p, unix.RT_TABLE_MAIN, unix.RT_TABLE_LOCAL)
	if err != nil {
		return err
	}
	return n.syncRoutes(protocol, have, p.routes(lo, lo))
}

// SyncDetour makes only the detour true, or takes it away.
func (n *NS) SyncDetour(p LinkPolicy) error {
	link, _, err := n.policyLinks(p)
	if err != nil {
		return err
	}
	have, err := n.markedRoutes(p, p.detourTable())
	if err != nil {
		return err
	}
	return errors.Join(n.syncRoutes(p.Protocol, have, p.detourRoutes(nil, link)), n.syncDetour(p))
}

// ClearLinkPolicy removes all that SyncLinkPolicy made, also after the device
// has gone.
func (n *NS) ClearLinkPolicy(p LinkPolicy) error {
	p.Sources, p.Detour = nil, 0
	have, err := n.markedRoutes(p, p.tables()...)
	var stale []markedRoute
	for r := range have {
		stale = append(stale, r)
	}
	return errors.Join(err, n.syncDetour(p), n.syncRules(p), n.changeRoutes(p.Protocol, false, stale))
}

func (n *NS) policyLinks(p LinkPolicy) (link, lo int, err error) {
	if p.Protocol <= 0 || p.Protocol > 255 || p.Table <= 0 || p.Table >= 253 && p.Table <= 255 {
		return 0, 0, fmt.Errorf("policy of %s: protocol %d or table %d out of range", p.Link, p.Protocol, p.Table)
	}
	if err := p.checkDetour(); err != nil {
		return 0, 0, err
	}
	l, err := n.h.LinkByName(p.Link)
	if err != nil {
		return 0, 0, fmt.Errorf("policy of %s: %w", p.Link, notExist(err))
	}
	loop, err := n.h.LinkByName("lo")
	if err != nil {
		return 0, 0, fmt.Errorf("policy of %s: %w", p.Link, notExist(err))
	}
	return l.Attrs().Index, loop.Attrs().Index, nil
}

// tables are where the policy's routes are: in tables of its own, in main, and
// among the local addresses.
func (p LinkPolicy) tables() []int {
	return []int{p.Table, p.detourTable(), unix.RT_TABLE_MAIN, unix.RT_TABLE_LOCAL}
}

// routes are the kernel routes that the policy consists of.
func (p LinkPolicy) routes(link, lo int) []markedRoute {
	out := make([]markedRoute, 0, 2*len(p.Routes)+2*len(p.Sources)+len(p.Except)+len(p.Locals))
	for _, dst := range p.Routes {
		out = append(out, markedRoute{dst: dst, table: unix.RT_TABLE_MAIN, kind: unix.RTN_UNICAST, link: link, metric: linkMetric},
			markedRoute{dst: dst, table: unix.RT_TABLE_MAIN, kind: unix.RTN_BLACKHOLE, metric: holeMetric})
	}
	for _, dst := range p.Except {
		out = append(out, markedRoute{dst: dst, table: p.Table, kind: unix.RTN_THROW, metric: linkMetric})
	}
	all := netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	for _, src := range p.Sources {
		out = append(out, markedRoute{dst: all, src: src, table: p.Table, kind: unix.RTN_UNICAST, link: link, metric: linkMetric},
			markedRoute{dst: all, src: src, table: p.Table, kind: unix.RTN_BLACKHOLE, metric: holeMetric})
	}
	for _, a := range p.Locals {
		out = append(out, markedRoute{dst: netip.PrefixFrom(a, a.BitLen()), table: unix.RT_TABLE_LOCAL, kind: unix.RTN_LOCAL, link: lo, metric: linkMetric})
	}
	return p.detourRoutes(out, link)
}

func (n *NS) syncRules(p LinkPolicy) error {
	list, err := n.h.RuleList(netlink.FAMILY_V6)
	if err != nil {
		return fmt.Errorf("list rules: %w", err)
	}
	type key struct {
		iif  string
		prio int
		src  netip.Prefix // of rules that an older program made
	}
	have := map[key]netlink.Rule{}
	for _, r := range list {
		if int(r.Protocol) == p.Protocol && r.IPProto == 0 && (r.Table == p.Table || r.IifName == p.Link || r.IifName == "lo") {
			k := key{iif: r.IifName, prio: r.Priority}
			k.src, _ = toPrefix(r.Src)
			have[k] = r
		}
	}
	for k, r := range have {
		// The kernel takes a rule for all sources for the same as one for some.
		if k.src.IsValid() {
			if err := n.h.RuleDel(&r); err != nil && !errors.Is(notExist(err), fs.ErrNotExist) {
				return fmt.Errorf("delete rule %d: %w", k.prio, err)
			}
			delete(have, k)
		}
	}
	if len(p.Sources) > 0 {
		for _, k := range []key{{iif: p.Link, prio: p.Priority}, {iif: "lo", prio: p.Priority}, {prio: p.Priority + 1}} {
			if _, ok := have[k]; ok {
				delete(have, k)
				continue
			}
			r := netlink.NewRule()
			r.Family, r.Priority, r.Table, r.IifName, r.Protocol = netlink.FAMILY_V6, k.prio, unix.RT_TABLE_MAIN, k.iif, uint8(p.Protocol)
			if k.iif == "" {
				r.Table = p.Table
			}
			if err := n.h.RuleAdd(r); err != nil {
				return fmt.Errorf("add rule %d: %w", k.prio, err)
			}
		}
	}
	for k, r := range have {
		if err := n.h.RuleDel(&r); err != nil && !errors.Is(notExist(err), fs.ErrNotExist) {
			return fmt.Errorf("delete rule %d: %w", k.prio, err)
		}
	}
	return nil
}
