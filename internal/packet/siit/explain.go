package siit

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
)

// Step is one rule of a translation and what it came to.
type Step struct{ Rule, Result string }

// Explain tells rule by rule what becomes of an IP packet, without changing it.
// It translates a copy by Translate and tells what that said and did, so it cannot
// claim anything else; only what it looks up besides (which mapping covers the
// address of a packet that was refused) may have changed meanwhile.
func (t *Table) Explain(packet []byte) []Step {
	x := explanation{t: t, in: packet}
	buf := make([]byte, Headroom+len(packet))
	copy(buf[Headroom:], packet)
	p := Packet{Buf: buf, Off: Headroom, Len: len(packet)}
	x.v = t.Translate(&p)
	switch {
	case len(packet) >= 20 && packet[0]>>4 == 4:
		x.from4()
	case len(packet) >= 40 && packet[0]>>4 == 6:
		x.from6()
	default:
		x.say("packet", "%d bytes that are neither IPv4 nor IPv6", len(packet))
	}
	x.verdict(&p)
	return x.steps
}

type explanation struct {
	t     *Table
	in    []byte
	v     Verdict
	steps []Step
	over  bool // the rule that decided has been told
}

func (x *explanation) say(rule, format string, args ...any) {
	x.steps = append(x.steps, Step{rule, fmt.Sprintf(format, args...)})
}

// rule tells of a rule that was reached: what it decided, if it was this one that
// gave the verdict's reason, or that the packet passed it.
func (x *explanation) rule(name, passed string, mine ...Reason) {
	switch {
	case x.over:
	case slices.Contains(mine, x.v.Reason) && (x.v.Action == Drop || x.v.Action == Reject):
		x.over = true
		x.say(name, "refused: %s", why[x.v.Reason])
	case passed != "":
		x.say(name, "%s", passed)
	}
}

// why says what a reason of a refusal means.
var why = [NumReasons]string{
	NoMapping:              "no mapping covers the address",
	TTLExceeded:            "the hop limit is used up",
	TooBig:                 "longer than the next hop's MTU, and must not be fragmented",
	Malformed:              "truncated, or lengths that contradict each other",
	BadHeaderChecksum:      "wrong IPv4 header checksum",
	BadICMPChecksum:        "wrong checksum of an ICMP error",
	BadOffload:             "its virtio-net header does not fit it",
	BadSource:              "the source can be nobody's",
	NotForwardable:         "not to be forwarded: multicast, link-local, neighbour discovery or reserved; or IPv4, and there is no pref64",
	SourceRoute:            "an unexpired source route (RFC 7915 §4.1)",
	RoutingHeader:          "a Routing header with segments left (RFC 7915 §5.1)",
	FragmentedICMP:         "a fragment of ICMP: its checksum would need the whole message",
	FragmentHeaders:        "extension headers behind a Fragment header (RFC 7915 §5.1.1)",
	UDPNoChecksum:          "UDP without a checksum, which is set to be dropped or is a fragment (RFC 7915 §4.5)",
	UntranslatableProtocol: "a protocol number that means something else in the other version",
	UntranslatableICMP:     "an ICMP message that has no counterpart (RFC 7915 §4.2, §5.2)",
	UntranslatableInner:    "an ICMP error that quotes what was never translated here",
	NoICMPSource:           "an ICMPv6 error of a router without an IPv4 address, and there is none to stand for it (RFC 6791)",
	PrivateAddress:         "the IPv4 address is not global, and such are dropped (RFC 6052 §3.1)",
}

func (x *explanation) mapping(a netip.Addr, r *record, to string) string {
	if r == nil {
		return fmt.Sprintf("%v: in no mapping", a)
	}
	e := r.entry()
	return fmt.Sprintf("%v: mapping %d, %v <-> %v: becomes %s", a, e.ID, e.Outside, e.Inside, to)
}

func (x *explanation) from4() {
	t := x.t
	h, _, ok := parse4(x.in, true)
	x.say("packet", "%s", describe(x.in))
	x.rule("header", "well-formed", Malformed, BadHeaderChecksum, BadOffload)
	if !ok {
		return
	}
	src, dst := netip.AddrFrom4(h.src), netip.AddrFrom4(h.dst)
	x.rule("addresses", "both may be forwarded", NotForwardable, BadSource)
	x.rule("private addresses", "not concerned", PrivateAddress)
	if x.over {
		return
	}
	m, inside := t.mapped4(&h.dst)
	x.rule("destination", x.mapping(dst, m, netip.AddrFrom16(inside).String()), NoMapping)
	if e, ok := t.Embed(src); ok {
		x.rule("source", fmt.Sprintf("%v: under the prefix %v: becomes %v", src, t.spec.Pref64, e))
	}
	x.rule("TTL", fmt.Sprintf("%d, less %d", h.ttl, t.hop), TTLExceeded)
	options := "none"
	if h.ihl > 20 {
		options = fmt.Sprintf("%d bytes, left out", h.ihl-20)
	}
	x.rule("options", options, SourceRoute)
	x.upper(h.proto)
	x.mtu(t.spec.MTU6, !h.df)
}

func (x *explanation) from6() {
	t := x.t
	h, ok := parse6(x.in, true)
	x.say("packet", "%s", describe(x.in))
	x.rule("header", "well-formed", Malformed, BadOffload)
	if !ok {
		return
	}
	src, dst := netip.AddrFrom16(h.src), netip.AddrFrom16(h.dst)
	v4, to4 := t.extract(h.dst)
	if !to4 || usable4(v4) {
		x.rule("addresses", "both may be forwarded", NotForwardable, BadSource)
	} else {
		x.rule("addresses", "", NotForwardable)
	}
	switch {
	case x.over:
	case to4:
		x.rule("private addresses", "not concerned", PrivateAddress)
		x.rule("destination", fmt.Sprintf("%v: under the prefix %v: becomes %v", dst, t.spec.Pref64, netip.AddrFrom4(v4)))
		if m, out := t.unmapped4(&h.src); m != nil || x.v.Reason != SixToFour {
			x.rule("source", x.mapping(src, m, netip.AddrFrom4(out).String()), NoMapping, NoICMPSource)
		} else {
			x.rule("source", fmt.Sprintf("%v: a router without an IPv4 address: %v stands for it (RFC 6791)", src, netip.AddrFrom4(t.source4(&h.src))))
		}
	default:
		to, in := t.mapped6(&h.dst)
		x.rule("destination", x.mapping(dst, to, netip.AddrFrom16(in).String()))
		from, out := t.unmapped6(&h.src)
		if from != nil && t.isInside(&h.dst) {
			x.rule("source", fmt.Sprintf("%v: stays, because the destination is inside", src), NoMapping)
		} else {
			x.rule("source", x.mapping(src, from, netip.AddrFrom16(out).String()), NoMapping)
		}
		if x.beyond(&h, to, from) {
			return
		}
	}
	x.rule("hop limit", fmt.Sprintf("%d, less %d", h.hop, t.hop), TTLExceeded)
	headers := "none"
	if h.l4 > 40 {
		headers = fmt.Sprintf("%d bytes", h.l4-40)
		if to4 {
			headers += ", left out"
		}
		if h.frag {
			headers += fmt.Sprintf("; fragment at %d, more: %v", h.off, h.mf)
		}
	}
	x.rule("extension headers", headers, RoutingHeader, FragmentHeaders)
	x.upper(h.proto)
	if to4 {
		x.mtu(t.spec.MTU4, false)
	} else {
		x.mtu(t.spec.MTU6, false)
	}
}

// beyond tells of packets neither end of which is mapped: an ICMPv6 error may quote
// one that was translated, other ICMPv6 passes. It returns whether that was all.
func (x *explanation) beyond(h *head6, to, from *record) bool {
	if x.over || to != nil || !passes(h.proto) || x.v.Action != Send {
		return x.over
	}
	if x.v.Reason == Unchanged {
		x.rule("mappings", protoName(h.proto)+" that none of them is about: goes on as it came, and no hop is counted")
		return true
	}
	if from == nil && h.l4+8 <= len(x.in) {
		if q, ok := parse6(x.in[h.l4+8:], true); ok {
			m, out := x.t.unmapped6(&q.dst)
			x.rule("quoted destination", x.mapping(netip.AddrFrom16(q.dst), m, netip.AddrFrom16(out).String()))
		}
	}
	return false
}

func (x *explanation) upper(proto uint8) {
	x.rule("protocol", protoName(proto)+": translated", UntranslatableProtocol, FragmentedICMP, UntranslatableICMP,
		BadICMPChecksum, UntranslatableInner, UDPNoChecksum)
}

func (x *explanation) mtu(mtu int, fragments bool) {
	text := "not known here"
	if mtu > 0 {
		text = fmt.Sprintf("%d bytes: fits", mtu)
	}
	if x.v.Action == SendFragments {
		text = fmt.Sprintf("without DF, cut into pieces of at most %d bytes", x.t.lowMTU)
	} else if fragments {
		text += ", though it might be fragmented"
	}
	x.rule("MTU", text, TooBig)
}

func (x *explanation) verdict(p *Packet) {
	v := x.v
	if !x.over && (v.Action == Drop || v.Action == Reject) {
		x.rule("translation", "", v.Reason)
	}
	switch v.Action {
	case Send:
		x.say("result", "sent (%v): %s", v.Reason, describe(p.Bytes()))
	case SendFragments:
		f := x.t.Fragments(p)
		for n := 1; ; n++ {
			piece, ok := f.Next()
			if !ok {
				break
			}
			x.say(fmt.Sprintf("result, piece %d", n), "sent (%v): %s", v.Reason, describe(piece.Bytes()))
		}
	case Drop:
		x.say("result", "dropped (%v), no answer", v.Reason)
	case Reject:
		e := x.t.AppendError(nil, x.in, v.Error)
		if len(e) == 0 {
			x.say("result", "dropped (%v); no answer, as it is about an ICMP error, a later fragment or a strange address, or we have no source for it", v.Reason)
		} else {
			x.say("result", "dropped (%v), answered by: %s", v.Reason, describe(e))
		}
	}
	if v.Mapping != NoEntry {
		way := "in"
		if v.Outbound {
			way = "out"
		}
		x.say("counted", "mapping %d, %s", v.Mapping, way)
	}
}

func protoName(proto uint8) string {
	switch proto {
	case protoTCP:
		return "TCP"
	case protoUDP:
		return "UDP"
	case protoICMP:
		return "ICMP"
	case protoICMPv6:
		return "ICMPv6"
	}
	return fmt.Sprintf("protocol %d", proto)
}

// describe says in one line what a packet is, as far as it can be read.
func describe(b []byte) string {
	var s string
	var proto uint8
	var l4 []byte
	first := true
	if h, _, ok := parse4(b, true); ok {
		s = fmt.Sprintf("IPv4 %v -> %v, TTL %d, %d bytes", netip.AddrFrom4(h.src), netip.AddrFrom4(h.dst), h.ttl, h.total)
		if h.df {
			s += ", DF"
		}
		if h.fragment() {
			s += fmt.Sprintf(", fragment %#x at %d, more: %v", h.id, h.off, h.mf)
		}
		proto, l4, first = h.proto, b[h.ihl:], h.off == 0
	} else if h, ok := parse6(b, true); ok {
		s = fmt.Sprintf("IPv6 %v -> %v, hop limit %d, %d bytes", netip.AddrFrom16(h.src), netip.AddrFrom16(h.dst), h.hop, h.end)
		if h.frag {
			s += fmt.Sprintf(", fragment %#x at %d, more: %v", h.id, h.off, h.mf)
		}
		proto, l4, first = h.proto, b[min(h.l4, len(b)):], h.off == 0
	} else {
		return fmt.Sprintf("%d bytes that make no IP packet", len(b))
	}
	s += ", " + protoName(proto)
	if !first || len(l4) < 4 {
		return s
	}
	switch proto {
	case protoTCP, protoUDP:
		s += fmt.Sprintf(" %d -> %d", binary.BigEndian.Uint16(l4), binary.BigEndian.Uint16(l4[2:]))
	case protoICMP, protoICMPv6:
		s += fmt.Sprintf(" type %d code %d", l4[0], l4[1])
		if len(l4) < 8 {
			break
		}
		switch {
		case proto == protoICMP && l4[0] == 3 && l4[1] == 4:
			s += fmt.Sprintf(", MTU %d", binary.BigEndian.Uint16(l4[6:]))
		case proto == protoICMPv6 && l4[0] == 2:
			s += fmt.Sprintf(", MTU %d", binary.BigEndian.Uint32(l4[4:]))
		}
		if quotes := proto == protoICMPv6 && isError6(l4[0]) || proto == protoICMP && isError4(l4[0]); quotes && len(l4) > 8 {
			s += " about [" + describe(l4[8:]) + "]"
		}
	}
	return s
}
