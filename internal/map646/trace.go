package map646

import (
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"widecloud/internal/packet/siit"
)

// Traced is what Trace found, rule by rule.
type Traced struct {
	Steps []TraceStep `json:"steps"`
}

// TraceStep is one rule and what it came to.
type TraceStep struct {
	Rule   string `json:"rule"`
	Result string `json:"result"`
}

func (t *Traced) say(rule, format string, args ...any) {
	t.Steps = append(t.Steps, TraceStep{rule, fmt.Sprintf(format, args...)})
}

// Trace tells what would happen to a packet, given as ParseDescription reads it
// or as `hex DIGITS`, or to those from and to an address. Nothing is sent.
func (d *Daemon) Trace(text string) (Traced, error) {
	d.changing.Lock()
	defer d.changing.Unlock()
	var t Traced
	if d.tun == nil {
		return t, fmt.Errorf("trace: not running")
	}
	text = strings.TrimSpace(text)
	if a, err := netip.ParseAddr(text); err == nil {
		return t, d.traceAddr(&t, a)
	}
	var packet []byte
	if digits, ok := strings.CutPrefix(text, "hex"); ok {
		var err error
		if packet, err = hex.DecodeString(strings.Join(strings.Fields(digits), "")); err != nil {
			return t, fmt.Errorf("%w: hex: %w", ErrDescription, err)
		}
		if len(packet) == 0 || packet[0]>>4 != 4 && packet[0]>>4 != 6 {
			return t, fmt.Errorf("%w: hex: begins with neither an IPv4 nor an IPv6 header", ErrDescription)
		}
	} else {
		p, err := ParseDescription(text)
		if err != nil {
			return t, err
		}
		if packet, err = p.Packet(); err != nil {
			return t, err
		}
	}
	d.tracePacket(&t, packet)
	return t, nil
}

// ends are a packet's addresses, if it is long enough to have them.
func ends(p []byte) (src, dst netip.Addr, ok bool) {
	switch {
	case len(p) >= 20 && p[0]>>4 == 4:
		return netip.AddrFrom4([4]byte(p[12:16])), netip.AddrFrom4([4]byte(p[16:20])), true
	case len(p) >= 40 && p[0]>>4 == 6:
		return netip.AddrFrom16([16]byte(p[8:24])), netip.AddrFrom16([16]byte(p[24:40])), true
	}
	return src, dst, false
}

// protocolOf is the one in the IP header.
func protocolOf(p []byte) int {
	if p[0]>>4 == 4 {
		return int(p[9])
	}
	return int(p[6])
}

func (d *Daemon) tracePacket(t *Traced, packet []byte) {
	table := d.table.Load()
	if src, dst, ok := ends(packet); ok {
		in := d.traceRoute(t, protocolOf(packet), src, dst)
		d.traceFast(t, packet, in)
	}
	for _, s := range table.Explain(packet) {
		t.say(s.Rule, "%s", s.Result)
	}
	if out, v := translated(table, packet); v.Action == siit.Send || v.Action == siit.SendFragments {
		if src, dst, ok := ends(out); ok {
			r, err := d.ns.RouteOf(protocolOf(out), dst, src, d.config.TUN.Name)
			switch {
			case err != nil:
				t.say("route behind", "%v: %v", dst, err)
			case r.Link == "lo" || r.Link == "":
				t.say("route behind", "%v is this node", dst)
			case r.Gateway.IsValid():
				t.say("route behind", "%v by %v, device %s", dst, r.Gateway, r.Link)
			default:
				t.say("route behind", "%v by device %s", dst, r.Link)
			}
		}
	}
}

// traceRoute asks the kernel whether the packet comes to the translator; in is the
// device that it would come in by.
func (d *Daemon) traceRoute(t *Traced, proto int, src, dst netip.Addr) (in string) {
	if back, err := d.ns.RouteTo(src, netip.Addr{}, ""); err == nil && back.Link != "lo" {
		in = back.Link
	}
	from := src
	if in == "" {
		from = netip.Addr{}
	}
	r, err := d.ns.RouteOf(proto, dst, from, in)
	by := ""
	if in != "" {
		by = " when it comes in by " + in
	}
	switch {
	case err != nil:
		t.say("kernel route", "%v: %v%s", dst, err, by)
	case r.Link == d.config.TUN.Name:
		t.say("kernel route", "to the translator's device %s%s", r.Link, by)
	case r.Link == "lo" || r.Link == "":
		t.say("kernel route", "%v is this node itself: it is not translated", dst)
	default:
		t.say("kernel route", "by device %s%s: it does not come to the translator, what follows is what would be if it did", r.Link, by)
	}
	return in
}

// traceFast has the kernel's program run on the packet.
func (d *Daemon) traceFast(t *Traced, packet []byte, in string) {
	s := d.fastStats()
	switch {
	case s == nil:
		t.say("fast path", "not configured: full path")
		return
	case !s.On:
		t.say("fast path", "none (%s): full path", s.Why)
		return
	}
	at := "attached to " + strings.Join(s.Attached, ", ")
	if in != "" {
		at = "attached to " + in
		if !slices.Contains(s.Attached, in) {
			at = "NOT attached to " + in + ", so the full path takes it"
			if why := s.Refused[in]; why != "" {
				at += " (" + why + ")"
			}
		}
	}
	frame := []byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0}
	if packet[0]>>4 == 6 {
		frame[12], frame[13] = 0x86, 0xdd
	}
	before := d.fastPath.Load().Counters()
	_, ok, err := d.fastPath.Load().TestRun(append(frame, packet...))
	if err != nil {
		t.say("fast path", "%s; cannot try: %v", at, err)
		return
	}
	if ok {
		t.say("fast path", "translates it; %s", at)
		return
	}
	// Other packets count at the same time, so there may be more than one reason.
	var why []string
	for name, n := range d.fastPath.Load().Counters() {
		if n.Packets > before[name].Packets && strings.HasPrefix(name, "pass_") {
			why = append(why, strings.TrimPrefix(name, "pass_"))
		}
	}
	slices.Sort(why)
	t.say("fast path", "leaves it to the full path (%s); %s", strings.Join(why, " or "), at)
}

func (d *Daemon) traceAddr(t *Traced, a netip.Addr) error {
	if a.Zone() != "" || a.Is4In6() {
		return fmt.Errorf("%w: %v is not an address for packets that are forwarded", ErrDescription, a)
	}
	table, c := d.table.Load(), d.config
	if why, ok := c.taken[a]; ok {
		t.say("device", "%s is %s", c.TUN.Name, why)
	}
	for _, p := range c.Addresses {
		if p.Contains(a) {
			t.say("device", "lies in %v, which leads to %s as a whole", p.Masked(), c.TUN.Name)
		}
	}
	e, mapped := table.Lookup(a)
	if mapped {
		side := "outside"
		if e.Inside.Contains(a) {
			side = "inside"
		}
		t.say("mapping", "%s of %s <-> %s (counters %d)", side, short(e.Outside), short(e.Inside), e.ID)
		n := d.mappingCount(e.ID)
		t.say("carried", "%d packets, %d bytes in; %d packets, %d bytes out", n.PacketsIn, n.BytesIn, n.PacketsOut, n.BytesOut)
	} else {
		t.say("mapping", "none")
	}
	for _, p := range c.Translation.Inside {
		if p.Contains(a) {
			t.say("inside", "lies in %v: mapped machines talk to it under their own IPv6 addresses", p)
		}
	}
	if v4, ok := table.Extract(a); ok {
		t.say("pref64", "stands for %v", v4)
	}
	if v6, ok := table.Embed(a); ok && !mapped {
		t.say("pref64", "the inside sees it as %v", v6)
	}
	peer := testClient
	if a.Is6() {
		var ok bool
		if peer, ok = table.Embed(testClient); !ok || !mapped || e.Outside.Addr().Is6() && e.Outside.Contains(a) {
			peer = netip.MustParseAddr("2001:1::1") // PCP anycast (RFC 7723): no host either
		}
	}
	for _, p := range [][2]netip.Addr{{peer, a}, {a, peer}} {
		packet, err := (Description{Protocol: "tcp", Src: netip.AddrPortFrom(p[0], 40000), Dst: netip.AddrPortFrom(p[1], 80), TTL: 64}).Packet()
		if err != nil {
			return err
		}
		t.say("", "tcp %v %v", netip.AddrPortFrom(p[0], 40000), netip.AddrPortFrom(p[1], 80))
		d.tracePacket(t, packet)
	}
	return nil
}
