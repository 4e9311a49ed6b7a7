package map646

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"path"
	"slices"
	"strings"
	"syscall"
	"time"

	"widecloud/internal/netio"
	"widecloud/internal/packet/siit"
)

const (
	// examineEvery is how often we look whether we are healthy.
	examineEvery = time.Second
	// followEvery is how often the fast path is compared with the kernel's devices,
	// addresses and filters, in case a notification of theirs has been lost.
	followEvery = 10 * examineEvery
	// retryEvery is how often it tries devices again that did not fit.
	retryEvery = 6 * followEvery
	// settle is for how long notifications are gathered after one.
	settle = 50 * time.Millisecond
)

// watch looks after what may change around us: devices, addresses and what has a say
// in forwarded packets come and go, and so may our health. It ends with ctx.
func (d *Daemon) watch(ctx context.Context) error {
	changed, err := d.ns.Watch(ctx)
	if err != nil {
		return err
	}
	defer func() {
		for range changed { // until its sender has gone, too
		}
	}()
	tick := time.NewTicker(examineEvery)
	defer tick.Stop()
	for age := time.Duration(0); ; {
		var glance <-chan time.Time
		if d.hasWays() {
			glance = time.After(glanceEvery)
		}
		follow, again := false, false
		select {
		case <-ctx.Done():
			return nil
		case <-glance:
			if !d.waysChanged() {
				continue
			}
		case _, ok := <-changed:
			if !ok && ctx.Err() == nil {
				if changed, err = d.ns.Watch(ctx); err != nil {
					return err
				}
			}
			follow = true
		case <-tick.C:
			follow = age%followEvery == 0 || d.oldTablesCame()
			again = age%retryEvery == 0
			age += examineEvery
		}
		d.changing.Lock()
		if d.tun != nil && ctx.Err() == nil {
			if follow {
				d.followDevices(again)
			}
			err = d.examine(ctx)
		}
		d.changing.Unlock()
		if err != nil {
			return err
		}
		if follow {
			select {
			case <-ctx.Done():
			case <-time.After(settle):
			}
		}
	}
}

// examine looks whether we are healthy, mends what can be mended, and withdraws
// from routing what is not translated, or comes back to it. The error is one that
// only a new start heals.
func (d *Daemon) examine(ctx context.Context) error {
	var sick []string
	bad := func(err error) {
		if err != nil {
			sick = append(sick, err.Error())
		}
	}
	c := d.config
	link, err := d.ns.Link(c.TUN.Name)
	if err != nil && ctx.Err() == nil {
		return fmt.Errorf("the device has gone: %w", err)
	}
	repair := !link.Up
	if ctx.Err() != nil {
		return nil // the device goes because we do
	}
	if !link.Up {
		d.log.Warn("the device was down", "device", c.TUN.Name)
		bad(d.ns.SetUp(c.TUN.Name))
	}
	if have, err := d.ns.Addrs(c.TUN.Name); err != nil {
		bad(err)
	} else if ctx.Err() == nil {
		for _, p := range c.onDevice(d.withdrawn) {
			if !slices.Contains(have, p) {
				d.log.Warn("the device had lost an address", "address", p)
				repair = true
			}
		}
	}
	if repair && ctx.Err() == nil {
		bad(d.place(c, d.withdrawn))
	}
	if n := int(d.readers.Load()); n < len(d.queues) {
		sick = append(sick, fmt.Sprintf("%d of %d queues are read", n, len(d.queues)))
	}
	bad(selfTest(d.table.Load()))
	if d.o.Check != nil {
		bad(d.o.Check())
	}
	lacks := missingWays(d.ns, c)
	sick = append(sick, lacks...)
	if ctx.Err() != nil {
		return nil
	}
	d.mu.Lock()
	was, withdrawn := d.sick, d.draining || len(sick) > 0
	d.sick, d.lacks = sick, lacks
	d.mu.Unlock()
	if len(was) == 0 && len(sick) > 0 {
		d.log.Error("not healthy, withdrawing from routing", "why", sick)
	}
	if len(was) > 0 && len(sick) == 0 {
		d.log.Info("healthy again")
	}
	if withdrawn != d.withdrawn {
		if err := d.place(c, withdrawn); err != nil {
			d.log.Error("cannot change what is announced", "err", err)
		}
	}
	return nil
}

// Way is a route that a node must have to be of use.
type Way struct {
	To netip.Addr
	// Devices are patterns (path.Match) of the devices that it may lead to. None: any
	// but the translator's own.
	Devices []string
}

// glanceEvery is how often we look whether the ways are there, which is two
// questions to the kernel for each.
const glanceEvery = 100 * time.Millisecond

// lack says why a way is not there; nil: it is.
func (w Way) lack(ns *netio.NS, tun string) error {
	r, err := ns.RouteTo(w.To, netip.Addr{}, "")
	if errors.Is(err, syscall.EINVAL) {
		return fmt.Errorf("%v leads to a black hole", w.To)
	}
	if err != nil {
		return err
	}
	matches := func(pattern string) bool { ok, _ := path.Match(pattern, r.Link); return ok }
	switch {
	case r.Link == "lo":
		return fmt.Errorf("%v is this node itself", w.To)
	case r.Link == tun:
		return fmt.Errorf("%v leads to the translator", w.To)
	case len(w.Devices) > 0 && !slices.ContainsFunc(w.Devices, matches):
		return fmt.Errorf("%v leads to %s, not to %s", w.To, r.Link, strings.Join(w.Devices, " or "))
	}
	if l, err := ns.Link(r.Link); err != nil || !l.Carrier {
		return fmt.Errorf("%v leads to %s, which has no carrier", w.To, r.Link)
	}
	return nil
}

// missingWays are the configured ways that are not there, with the reasons.
func missingWays(ns *netio.NS, c *Config) (out []string) {
	for i, w := range c.Ways {
		if err := w.lack(ns, c.TUN.Name); err != nil {
			out = append(out, fmt.Sprintf("health.route[%d]: %v", i, err))
		}
	}
	return out
}

func (d *Daemon) hasWays() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.config.Ways) > 0
}

// waysChanged tells whether other ways lack than when we were last examined.
func (d *Daemon) waysChanged() bool {
	d.mu.Lock()
	ns, c, was := d.ns, d.config, d.lacks
	d.mu.Unlock()
	return !slices.Equal(missingWays(ns, c), was)
}

// Health says why the translator should not be used: it is draining, or
// something is wrong. Empty: it is fine.
func (d *Daemon) Health() []string {
	s := d.Stats()
	out := s.Unhealthy
	if s.Draining {
		out = append(out, "draining")
	}
	return out
}

// probe is a mapping that a self-test can use: an IPv4 one, each side of which
// finds the other (of nested mappings, not all do).
func probe(t *siit.Table) (e siit.Entry, ok bool) {
	tries := 0
	for e := range t.Entries() {
		if tries++; tries > 1000 {
			break
		}
		if !e.Outside.Addr().Is4() {
			continue
		}
		out, ok := t.Lookup(e.Outside.Addr())
		in, ok2 := t.Lookup(e.Inside.Addr())
		if ok && ok2 && out == e && in == e {
			return e, true
		}
	}
	return e, false
}

// selfTest has a packet to a mapping translated there and its answer back, and
// looks at what a machine and a client would look at.
func selfTest(t *siit.Table) error {
	e, ok := probe(t)
	if !ok {
		return nil // nothing is mapped from IPv4
	}
	packet := selfTestPacket(e.Outside.Addr())
	there, v := translated(t, packet)
	if v.Action != siit.Send || v.Reason != siit.FourToSix {
		return fmt.Errorf("self-test: a packet to %v: %v", e.Outside.Addr(), v.Reason)
	}
	from, _ := t.Embed(testClient)
	if len(there) != 40+len(packet)-20 || there[0]>>4 != 6 || netip.AddrFrom16([16]byte(there[8:24])) != from || netip.AddrFrom16([16]byte(there[24:40])) != e.Inside.Addr() {
		return fmt.Errorf("self-test: a packet to %v became %x", e.Outside.Addr(), there)
	}
	answer := slices.Clone(there)
	copy(answer[8:24], there[24:40])
	copy(answer[24:40], there[8:24])
	copy(answer[40:42], there[42:44])
	copy(answer[42:44], there[40:42])
	back, v := translated(t, answer)
	if v.Action != siit.Send || v.Reason != siit.SixToFour || len(back) != len(packet) ||
		netip.AddrFrom4([4]byte(back[12:16])) != e.Outside.Addr() || netip.AddrFrom4([4]byte(back[16:20])) != testClient ||
		string(back[28:]) != string(packet[28:]) || sum(back[:20]) != 0xffff || binary.BigEndian.Uint16(back[26:]) != binary.BigEndian.Uint16(packet[26:]) {
		return fmt.Errorf("self-test: the answer from %v became %v %x", e.Outside.Addr(), v.Reason, back)
	}
	return nil
}

// testClient is a global address that belongs to no host (RFC 7535 §3.1, its
// network address): the packets of the self-test never leave this program.
var testClient = netip.AddrFrom4([4]byte{192, 31, 196, 0})

func selfTestPacket(dst netip.Addr) []byte {
	b, err := (Description{Protocol: "udp", Src: netip.AddrPortFrom(testClient, 4000), Dst: netip.AddrPortFrom(dst, 53), TTL: 64, Size: 60}).Packet()
	if err != nil {
		panic(err) // a constant but for the address
	}
	return b
}

// translated works on a copy.
func translated(t *siit.Table, packet []byte) ([]byte, siit.Verdict) {
	p := siit.Packet{Buf: make([]byte, siit.Headroom+len(packet)+128), Off: siit.Headroom, Len: len(packet)}
	copy(p.Buf[p.Off:], packet)
	v := t.Translate(&p)
	return p.Bytes(), v
}

// sum is the Internet checksum's sum (RFC 1071), folded, not complemented.
func sum(b []byte) uint16 {
	var n uint32
	for ; len(b) > 1; b = b[2:] {
		n += uint32(b[0])<<8 | uint32(b[1])
	}
	if len(b) == 1 {
		n += uint32(b[0]) << 8
	}
	for n > 0xffff {
		n = n>>16 + n&0xffff
	}
	return uint16(n)
}
