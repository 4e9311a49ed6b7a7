package map646

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"time"

	"widecloud/internal/packet/siit"
)

func pid() int { return os.Getpid() }

// drained is what is left of the device's addresses when their prefixes are
// withdrawn. One of IPv6 with a prefix around it stays as a host's address, for
// it is this node's own. Others become local addresses on no device: packets for
// them are still taken, but no routing daemon announces them. One that stands
// alone is shared with other nodes. One of IPv4 would make two changes of one, the
// second of which OSPF's routers may not hear of for seconds (RFC 2328,
// MinLSArrival).
func drained(addrs []netip.Prefix) (stay []netip.Prefix, locals []netip.Addr) {
	for _, p := range addrs {
		if p.IsSingleIP() || p.Addr().Is4() {
			locals = append(locals, p.Addr())
		} else {
			stay = append(stay, netip.PrefixFrom(p.Addr(), p.Addr().BitLen()))
		}
	}
	return stay, locals
}

// onDevice are the addresses that the device is to have.
func (c *Config) onDevice(withdrawn bool) []netip.Prefix {
	if !withdrawn {
		return c.Addresses
	}
	stay, _ := drained(c.Addresses)
	return stay
}

// place brings addresses, routes and rules to the kernel. The routes of our own
// mark stay in both states, so that what still comes is translated. changing is
// held.
func (d *Daemon) place(c *Config, withdrawn bool) error {
	more := c.emptyPolicy()
	_, more.Locals = drained(c.Addresses)
	p := d.policy(c, d.table.Load(), withdrawn)
	var err error
	if withdrawn && len(more.Locals) > 0 && !d.withdrawn {
		if err = d.ns.SyncLinkPolicy(p); err != nil {
			return err
		}
	}
	// The last IPv4 address takes the device's IPv4 routes with it, so routes come
	// after addresses.
	err = errors.Join(d.tun.SetAddrs(c.onDevice(withdrawn)), d.ns.SyncLinkPolicy(p))
	d.mu.Lock()
	d.withdrawn = withdrawn
	d.mu.Unlock()
	return err
}

// Drain takes the service prefixes off the device, so that the routing daemon
// beside us withdraws them and the routers turn to other nodes; what still comes
// is translated as before. With on false they come back.
func (d *Daemon) Drain(on bool) error {
	d.changing.Lock()
	defer d.changing.Unlock()
	if d.tun == nil {
		return errors.New("drain: not running")
	}
	d.mu.Lock()
	d.draining = on
	withdrawn := on || len(d.sick) > 0
	d.mu.Unlock()
	if err := d.place(d.config, withdrawn); err != nil {
		return fmt.Errorf("drain: %w", err)
	}
	d.log.Info("drain", "on", on, "withdrawn", withdrawn)
	return nil
}

// watch looks after what may change around us: devices and addresses come and
// go, and so may our health. It ends with ctx.
func (d *Daemon) watch(ctx context.Context) error {
	changed, err := d.ns.Watch(ctx)
	if err != nil {
		return err
	}
	defer func() {
		for range changed { // until its sender has gone, too
		}
	}()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return nil
		case _, ok := <-changed:
			if !ok && ctx.Err() == nil {
				if changed, err = d.ns.Watch(ctx); err != nil {
					return err
				}
			}
		case <-tick.C:
		}
		d.changing.Lock()
		if d.tun != nil && ctx.Err() == nil {
			d.followDevices(n%60 == 0)
			err = d.examine(ctx)
		}
		d.changing.Unlock()
		if err != nil {
			return err
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
	if ctx.Err() != nil {
		return nil
	}
	d.mu.Lock()
	was, withdrawn := d.sick, d.draining || len(sick) > 0
	d.sick = sick
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
