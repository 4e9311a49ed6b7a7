package netio

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"golang.org/x/sys/unix"
)

// detourRule is a rule of a LinkPolicy's detour. The netlink library knows neither
// rules for VRFs (FRA_L3MDEV) nor such that do nothing, so they are made here.
type detourRule struct {
	priority int
	action   byte
	proto    int  // IP protocol; 0: any
	not      bool // all that does not match
	iif      string
	mark     uint32 // 0: any
	vrf      bool
	table    int
	target   int // priority of a rule
}

const ruleInvert = 2 // FIB_RULE_INVERT

// detourMTU lets what is too big for the device through to it: the link behind it
// is to say what fits. It is the most that the kernel takes (RTAX_MTU).
const detourMTU = 65520

// detourSources are the sources that a packet may have which is on its way
// (IANA's IPv6 address space: global unicast and unique local addresses, and what
// is translated from IPv4). All of IPv6 would be less: a socket of the host's own
// that has no source yet would be given one of the device's.
var detourSources = [...]netip.Prefix{
	netip.MustParsePrefix("2000::/3"), netip.MustParsePrefix("fc00::/7"), netip.MustParsePrefix("64:ff9b::/32"),
}

// detourLocal never leaves its link.
var detourLocal = [...]netip.Prefix{netip.MustParsePrefix("fe80::/10"), netip.MustParsePrefix("ff00::/8")}

func (p LinkPolicy) detourTable() int { return p.Table + 1 }

func (p LinkPolicy) checkDetour() error {
	if t := p.detourTable(); p.Detour != 0 && (p.Detour < 0 || p.Detour > 255 || p.Priority <= 5 || t >= 253 && t <= 255) {
		return fmt.Errorf("policy of %s: detour of protocol %d, priority %d or table %d out of range", p.Link, p.Detour, p.Priority, t)
	}
	return nil
}

func (p LinkPolicy) detourRoutes(out []markedRoute, link int) []markedRoute {
	if p.Detour == 0 {
		return out
	}
	for _, list := range [][]netip.Prefix{detourLocal[:], p.DetourExcept} {
		for _, dst := range list {
			out = append(out, markedRoute{dst: dst, table: p.detourTable(), kind: unix.RTN_THROW, metric: linkMetric})
		}
	}
	all := netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	for _, src := range detourSources {
		out = append(out, markedRoute{dst: all, src: src, table: p.detourTable(), kind: unix.RTN_UNICAST, link: link, metric: linkMetric, mtu: detourMTU})
	}
	return out
}

// detourRules are in the order in which they are to be made: what keeps packets
// away before what leads them there.
func (p LinkPolicy) detourRules() []detourRule {
	if p.Detour == 0 {
		return nil
	}
	out := []detourRule{
		{priority: p.Priority + 2, action: unix.FR_ACT_NOP},
		// The others are spared a look at the rest.
		{priority: p.Priority - 5, action: unix.FR_ACT_GOTO, proto: p.Detour, not: true, target: p.Priority},
		{priority: p.Priority - 4, action: unix.FR_ACT_GOTO, proto: p.Detour, vrf: true, target: p.Priority},
		{priority: p.Priority - 3, action: unix.FR_ACT_GOTO, proto: p.Detour, iif: p.Link, target: p.Priority + 2},
	}
	if p.DetourMark != 0 {
		out = append(out, detourRule{priority: p.Priority - 2, action: unix.FR_ACT_GOTO, proto: p.Detour, mark: p.DetourMark, target: p.Priority})
	}
	return append(out, detourRule{priority: p.Priority - 1, action: unix.FR_ACT_TO_TBL, proto: p.Detour, table: p.detourTable()})
}

// ours tells whether a rule with the policy's mark can only be of its detour.
func (r detourRule) ours(p LinkPolicy) bool {
	switch r.action {
	case unix.FR_ACT_TO_TBL:
		return r.table == p.detourTable()
	case unix.FR_ACT_GOTO:
		return r.iif == p.Link || r.target == p.Priority || r.target == p.Priority+2
	case unix.FR_ACT_NOP:
		return r.priority == p.Priority+2
	}
	return false
}

func (r detourRule) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%d:", r.priority)
	if r.not {
		b.WriteString(" not")
	}
	if r.proto != 0 {
		fmt.Fprintf(&b, " protocol %d", r.proto)
	}
	if r.iif != "" {
		fmt.Fprintf(&b, " from %s", r.iif)
	}
	if r.mark != 0 {
		fmt.Fprintf(&b, " mark %#x", r.mark)
	}
	if r.vrf {
		b.WriteString(" in a VRF")
	}
	switch r.action {
	case unix.FR_ACT_GOTO:
		fmt.Fprintf(&b, " goto %d", r.target)
	case unix.FR_ACT_TO_TBL:
		fmt.Fprintf(&b, " table %d", r.table)
	}
	return b.String()
}

func (r detourRule) append(b []byte, what, flags uint16, seq uint32, mark int) []byte {
	at := len(b)
	b = append(b, make([]byte, nlHeader)...)
	b = append(b, unix.AF_INET6, 0, 0, 0, 0, 0, 0, r.action) // struct fib_rule_hdr
	flags32 := uint32(0)
	if r.not {
		flags32 = ruleInvert
	}
	b = binary.NativeEndian.AppendUint32(b, flags32)
	b = appendAttr32(b, unix.FRA_PRIORITY, r.priority)
	b = appendAttr(b, unix.FRA_PROTOCOL, []byte{byte(mark)})
	if r.proto != 0 {
		b = appendAttr(b, unix.FRA_IP_PROTO, []byte{byte(r.proto)})
	}
	if r.iif != "" {
		b = appendAttr(b, unix.FRA_IIFNAME, append([]byte(r.iif), 0))
	}
	if r.mark != 0 {
		b = appendAttr32(b, unix.FRA_FWMARK, int(r.mark))
		b = appendAttr32(b, unix.FRA_FWMASK, int(r.mark))
	}
	if r.vrf {
		b = appendAttr(b, unix.FRA_L3MDEV, []byte{1})
	}
	if r.table != 0 {
		b = appendAttr32(b, unix.FRA_TABLE, r.table)
	}
	if r.action == unix.FR_ACT_GOTO {
		b = appendAttr32(b, unix.FRA_GOTO, r.target)
	}
	putHeader(b[at:], what, flags, seq)
	return b
}

func parseDetourRule(body []byte) (r detourRule, mark int) {
	r.action = body[7]
	r.not = binary.NativeEndian.Uint32(body[8:])&ruleInvert != 0
	eachAttr(body[rtHeader:], func(kind uint16, v []byte) {
		n := 0
		switch {
		case len(v) >= 4:
			n = int(binary.NativeEndian.Uint32(v))
		case len(v) >= 1:
			n = int(v[0])
		}
		switch kind {
		case unix.FRA_PRIORITY:
			r.priority = n
		case unix.FRA_PROTOCOL:
			mark = n
		case unix.FRA_IP_PROTO:
			r.proto = n
		case unix.FRA_IIFNAME:
			r.iif = unix.ByteSliceToString(v)
		case unix.FRA_FWMARK:
			r.mark = uint32(n)
		case unix.FRA_L3MDEV:
			r.vrf = n != 0
		case unix.FRA_TABLE:
			r.table = n
		case unix.FRA_GOTO:
			r.target = n
		}
	})
	return r, mark
}

// markedDetour lists the rules of the detour that are there.
func (n *NS) markedDetour(p LinkPolicy) (map[detourRule]bool, error) {
	fd, err := n.routeSocket()
	if err != nil {
		return nil, fmt.Errorf("list rules: %w", err)
	}
	defer unix.Close(fd)
	msg := make([]byte, nlHeader+rtHeader)
	msg[nlHeader] = unix.AF_INET6
	putHeader(msg, unix.RTM_GETRULE, unix.NLM_F_DUMP, 1)
	if err := unix.Sendto(fd, msg, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, fmt.Errorf("list rules: %w", err)
	}
	out := map[detourRule]bool{}
	err = readAll(fd, 1, func(kind uint16, body []byte) {
		if kind == unix.RTM_NEWRULE && len(body) >= rtHeader {
			if r, mark := parseDetourRule(body); mark == p.Protocol && r.ours(p) {
				out[r] = true
			}
		}
	})
	if err != nil {
		return nil, fmt.Errorf("list rules: %w", err)
	}
	return out, nil
}

// syncDetour makes the detour's rules true.
func (n *NS) syncDetour(p LinkPolicy) error {
	have, err := n.markedDetour(p)
	if err != nil {
		return err
	}
	want := p.detourRules()
	wanted := map[detourRule]bool{}
	for _, r := range want {
		wanted[r] = true
	}
	// What leads packets away goes first, what keeps them from it last.
	for _, lead := range []bool{true, false} {
		for r := range have {
			if !wanted[r] && lead == (r.action == unix.FR_ACT_TO_TBL) {
				if err := n.changeRule(p.Protocol, false, r); err != nil {
					return err
				}
			}
		}
	}
	for _, r := range want {
		if !have[r] {
			if err := n.changeRule(p.Protocol, true, r); err != nil {
				return err
			}
		}
	}
	return nil
}

func (n *NS) changeRule(mark int, add bool, r detourRule) error {
	fd, err := n.routeSocket()
	if err != nil {
		return fmt.Errorf("change rule %v: %w", r, err)
	}
	defer unix.Close(fd)
	what, flags, verb := uint16(unix.RTM_NEWRULE), uint16(unix.NLM_F_CREATE|unix.NLM_F_EXCL|unix.NLM_F_ACK), "add"
	if !add {
		what, flags, verb = unix.RTM_DELRULE, unix.NLM_F_ACK, "delete"
	}
	if err := unix.Sendto(fd, r.append(nil, what, flags, 1, mark), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("%s rule %v: %w", verb, r, err)
	}
	err = readAll(fd, 1, func(uint16, []byte) {})
	switch {
	case !add && (errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH)):
		return nil
	case add && r.vrf && (errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP)):
		return nil // a kernel without VRFs
	case err != nil:
		return fmt.Errorf("%s rule %v: %w", verb, r, err)
	}
	return nil
}

// RouteOf is RouteTo for packets of one protocol, which policy rules may ask for;
// 0, and IPv4: for all.
func (n *NS) RouteOf(proto int, dst, src netip.Addr, iif string) (Route, error) {
	if proto != unix.IPPROTO_ICMPV6 || !dst.Is6() {
		return n.RouteTo(dst, src, iif) // the kernel's question knows few others
	}
	fail := func(err error) (Route, error) { return Route{}, fmt.Errorf("find route to %v: %w", dst, err) }
	msg := make([]byte, nlHeader+rtHeader)
	msg[nlHeader], msg[nlHeader+1] = unix.AF_INET6, 128
	msg = appendAttr(msg, rtaDst, dst.AsSlice())
	if src.IsValid() {
		msg[nlHeader+2] = 128
		msg = appendAttr(msg, rtaSrc, src.AsSlice())
	}
	if iif != "" {
		l, err := n.h.LinkByName(iif)
		if err != nil {
			return fail(notExist(err))
		}
		msg = appendAttr32(msg, unix.RTA_IIF, l.Attrs().Index)
	}
	msg = appendAttr(msg, unix.RTA_IP_PROTO, []byte{byte(proto)})
	putHeader(msg, unix.RTM_GETROUTE, unix.NLM_F_ACK, 1)
	fd, err := n.routeSocket()
	if err != nil {
		return fail(err)
	}
	defer unix.Close(fd)
	if err := unix.Sendto(fd, msg, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fail(err)
	}
	r := Route{Dst: netip.PrefixFrom(dst, 128)}
	err = readAll(fd, 1, func(kind uint16, body []byte) {
		if kind != unix.RTM_NEWROUTE || len(body) < rtHeader {
			return
		}
		k := parseRoute(body)
		r.Table, r.Metric, r.MTU, r.Protocol = k.table, k.metric, k.mtu, int(body[5])
		if l, err := n.h.LinkByIndex(k.link); err == nil {
			r.Link = l.Attrs().Name
		}
		eachAttr(body[rtHeader:], func(kind uint16, v []byte) {
			switch kind {
			case unix.RTA_GATEWAY:
				r.Gateway, _ = netip.AddrFromSlice(v)
			case unix.RTA_PREFSRC:
				r.Src, _ = netip.AddrFromSlice(v)
			}
		})
	})
	if err != nil {
		return fail(notExist(err))
	}
	return r, nil
}

// MissingDetour names what is not there of a policy's detour: rules, and "" for
// none.
func (n *NS) MissingDetour(p LinkPolicy) (string, error) {
	have, err := n.markedDetour(p)
	if err != nil {
		return "", err
	}
	var missing []string
	for _, r := range p.detourRules() {
		if !have[r] && !r.vrf { // not every kernel has VRFs
			missing = append(missing, r.String())
		}
	}
	return strings.Join(missing, ", "), nil
}
