package map646_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"sync"
	"testing"

	"widecloud/internal/netio"
	"widecloud/internal/packet/siit"
)

// A twin is one table, in both of its forms.
type twin struct {
	spec siit.Spec
	own  []netip.Prefix // the host's own addresses, which only the fast path is told
	// direct: the fast path sends on by itself what is no longer than a route's MTU.
	direct bool
	v4     []netip.Addr // addresses to make packets of
	v6     []netip.Addr
	good   [4][]netip.Addr // such as are likely to be translated: sources and destinations, IPv4 and IPv6
	full   *siit.Table
	fast   *netio.Fast
	once   sync.Once
}

func twins() []*twin {
	pfx, addr := netip.MustParsePrefix, netip.MustParseAddr
	m := func(a, b string) siit.Mapping { return siit.Mapping{V4: pfx(a), V6: pfx(b)} }
	m66 := func(a, b string) siit.Mapping66 { return siit.Mapping66{Service: pfx(a), Inside: pfx(b)} }
	single := []siit.Mapping{m("203.0.113.10/32", "2001:db8:a::10/128"), m("203.0.113.11/32", "2001:db8:a::11/128"), m("10.7.7.7/32", "2001:db8:a::7/128")}
	single66 := []siit.Mapping66{m66("2001:db8:f::10/128", "2001:db8:a::10/128"), m66("2001:db8:f::12/128", "2001:db8:b::12/128")}
	prefixes := append(slices.Clone(single), m("192.0.2.0/24", "2001:db8:b:2::/64"), m("192.0.2.128/25", "2001:db8:b:3::aa00/121"), m("198.18.0.1/32", "2001:db8:b:4::/64"),
		m("198.18.4.0/22", "2001:db8:b:5:8000::/66"))
	prefixes66 := append(slices.Clone(single66), m66("2001:db8:e::/64", "2001:db8:d::/64"), m66("2001:db8:e:1::/67", "2001:db8:d:1::/67"))
	inside := []netip.Prefix{pfx("2001:db8:a::/64"), pfx("2001:db8:c:8000::/49"), pfx("2001:db8:f::12/128")}
	specs := []siit.Spec{
		{Pref64: pfx("2001:db8:64::/96"), Mappings: single, Mappings66: single66, Inside: inside, Private: siit.PrivateAllow},
		{Pref64: pfx("64:ff9b::/96"), Mappings: single, Private: siit.PrivateAuto, MTU4: 1400, MTU6: 1420},
		{Pref64: pfx("2001:db8:6400::/40"), Mappings: prefixes, Mappings66: prefixes66, Private: siit.PrivateDrop, ZeroTrafficClass: true},
		{Pref64: pfx("2001:db8::/32"), Mappings: []siit.Mapping{m("203.0.113.10/32", "fd00::10/128")}, Private: siit.PrivateAllow, KeepTTL: true},
		{Pref64: pfx("2001:db8:64::/48"), Mappings: prefixes, Mappings66: prefixes66, Inside: inside, Private: siit.PrivateAllow, MTU6: 1500, LowestIPv6MTU: 1400},
		{Pref64: pfx("2001:db8:64:6400::/56"), Mappings: single, Private: siit.PrivateAllow, MTU4: 1200},
		{Pref64: pfx("2001:db8:64:6464::/64"), Mappings: single, Private: siit.PrivateAllow, UDPZero: siit.UDPZeroDrop},
		{Mappings66: prefixes66, Inside: inside},
	}
	var all []*twin
	for _, s := range specs {
		t := &twin{spec: s, own: []netip.Prefix{pfx("192.0.2.254/32"), pfx("2001:db8:e::ffff/128"), pfx("2001:db8:a::11/128")}}
		for _, a := range []string{"198.51.100.7", "203.0.113.10", "203.0.113.11", "10.7.7.7", "192.0.2.9", "192.0.2.200", "192.0.2.254", "198.18.0.1", "198.18.5.6",
			"8.8.8.8", "10.0.0.1", "100.64.1.1", "169.254.1.1", "172.16.0.1", "192.168.1.1", "127.0.0.1", "0.0.0.1", "224.0.0.1", "255.255.255.255"} {
			t.v4 = append(t.v4, addr(a))
		}
		for _, a := range []string{"2001:db8:c::7", "2001:db8:c:8000::7", "2001:db8:a::10", "2001:db8:a::11", "2001:db8:a::7", "2001:db8:b::12", "2001:db8:f::10", "2001:db8:f::12",
			"2001:db8:b:2::900:0:0", "2001:db8:b:2:900::1", "2001:db8:b:3::aa48", "2001:db8:b:4::5", "2001:db8:b:5:8140::", "2001:db8:e::ffff", "2001:db8:e::8", "2001:db8:d::8",
			"2001:db8:e:1:1::8", "2001:db8:d:1:1::8", "fd00::10", "fe80::1", "ff02::1", "::1", "::"} {
			t.v6 = append(t.v6, addr(a))
		}
		all = append(all, t)
	}
	for _, i := range []int{0, 3, 4, 7} {
		t := all[i]
		all = append(all, &twin{spec: t.spec, own: t.own, v4: slices.Clone(t.v4), v6: slices.Clone(t.v6), direct: true})
	}
	return all
}

// directMTU is that of a direct twin's routes.
const directMTU = 1500

// routed is a namespace that would forward everything, to a neighbour that it knows.
// It has no name, and goes with the process.
func routed(t testing.TB) *netio.NS {
	t.Helper()
	name := fmt.Sprintf("m6z%d-%d", os.Getpid(), worlds.Add(1))
	ns, err := netio.CreateNS(name)
	if err != nil {
		t.Fatal(err)
	}
	errs := []error{ns.SetForwarding(true), ns.SetUp("lo"), netio.DeleteNS(name)}
	const setup = `ip link add d0 mtu 1500 type veth peer name d1 && ip link set d0 up && ip link set d1 up &&
		ip neigh add 192.0.2.1 lladdr 02:00:00:00:00:99 dev d0 nud permanent && ip neigh add fe80::99 lladdr 02:00:00:00:00:99 dev d0 nud permanent &&
		ip route add default via 192.0.2.1 dev d0 onlink && ip route add default via fe80::99 dev d0`
	cmd := exec.Command("sh", "-c", setup)
	errs = append(errs, ns.Do(cmd.Start), cmd.Wait())
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
	return ns
}

// open makes both forms, once.
func (w *twin) open(t testing.TB) {
	w.once.Do(func() {
		var err error
		if w.full, err = siit.NewTable(w.spec); err != nil {
			t.Fatal(err)
		}
		ns, err := netio.CurrentNS()
		if err != nil {
			t.Fatal(err)
		}
		if w.direct {
			ns = routed(t)
		}
		if w.fast, err = ns.OpenFast(netio.FastSpec{MaxMappings: 16, MaxPrefixes: 16}); err != nil {
			t.Fatal(err)
		}
		s := netio.FastSettings{
			Pref64: w.spec.Pref64, Hops: 2, ZeroTrafficClass: w.spec.ZeroTrafficClass, MTU4: w.spec.MTU4, MTU6: w.spec.MTU6,
			LowestIPv6MTU: w.spec.LowestIPv6MTU, AllowPrivate: w.full.AllowsPrivate(), Inside: append(slices.Clone(w.spec.Inside), w.own...),
			Direct: w.direct,
		}
		if w.spec.KeepTTL {
			s.Hops = 1
		}
		if err := w.fast.Configure(s); err != nil {
			t.Fatal(err)
		}
		var entries []netio.FastEntry
		for e := range w.full.Entries() {
			entries = append(entries, netio.FastEntry(e))
		}
		if err := w.fast.Set(entries); err != nil {
			t.Fatal(err)
		}
		w.good = [4][]netip.Addr{{w.v4[0], netip.MustParseAddr("8.8.8.8")}, {w.v4[1]}, {w.v6[2]}, {w.v6[0], w.v6[6]}}
		for _, a := range w.v4 {
			if e, ok := w.full.Embed(a); ok {
				w.v6 = append(w.v6, e)
			}
			if _, ok := w.full.Lookup(a); ok {
				w.good[1] = append(w.good[1], a)
			}
		}
		for _, a := range w.good[0] {
			if e, ok := w.full.Embed(a); ok {
				w.good[3] = append(w.good[3], e, e, e)
			}
		}
		for _, a := range w.v6 {
			if e, ok := w.full.Lookup(a); ok && e.Inside.Contains(a) {
				w.good[2] = append(w.good[2], a)
			} else if ok {
				w.good[3] = append(w.good[3], a)
			}
		}
	})
}

// recipe makes a frame out of a fuzzer's bytes: nearly valid, of addresses that
// the table knows, and then perhaps spoiled.
type recipe []byte

func (r *recipe) next() int {
	if len(*r) == 0 {
		return 0
	}
	b := (*r)[0]
	*r = (*r)[1:]
	return int(b)
}

// pick takes a good address, three times of four.
func (r *recipe) pick(good, all []netip.Addr) []byte {
	n := r.next()
	if n%4 != 3 {
		all = good
	}
	return all[n/4%len(all)].AsSlice()
}

func inetSum(b []byte, start uint32) uint16 {
	for ; len(b) > 1; b = b[2:] {
		start += uint32(b[0])<<8 | uint32(b[1])
	}
	if len(b) == 1 {
		start += uint32(b[0]) << 8
	}
	for start > 0xffff {
		start = start>>16 + start&0xffff
	}
	return uint16(start)
}

func (r *recipe) frame(w *twin) []byte {
	eth := []byte{2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0}
	// Length: mostly small, sometimes about the MTUs.
	kind := r.next()
	size := r.next()
	switch r.next() % 8 {
	case 0:
		size += 1150
	case 1:
		size += 1300
	case 2:
		size += 2900
	}
	body := make([]byte, size)
	fill := r.next()
	for i := range body {
		body[i] = byte(i*7 + fill)
	}
	var proto byte
	var l4 []byte
	field := -1
	switch kind >> 1 % 8 {
	case 0, 1, 2:
		proto, field = 6, 16
		l4 = append([]byte{0x30, 0x39, 0, 80, byte(r.next()), byte(r.next()), 0, 1, 0, 0, 0, 0, 0x50, 0x18, 1, 0, 0, 0, 0, 0}, body...)
	case 3, 4:
		proto, field = 17, 6
		l4 = append([]byte{0x30, 0x39, 0, 53, byte((size + 8) >> 8), byte(size + 8), 0, 0}, body...)
	case 5, 6:
		proto, field = 1, 2
		l4 = append([]byte{8, 0, 0, 0, 1, 2, byte(r.next()), byte(r.next())}, body...)
		if kind&1 != 0 {
			proto, l4[0] = 58, 128
		}
		if t := r.next(); t%4 == 1 {
			l4[0] ^= 1 // for IPv6 the reply
			if proto == 1 {
				l4[0] = 0
			}
		} else if t%4 == 2 {
			l4[0] = byte(r.next())
		}
	default:
		proto = byte(r.next())
		l4 = body
	}
	ttl := byte(64)
	if t := r.next(); t%4 == 1 {
		ttl = byte(t >> 2 % 8)
	}
	var ip []byte
	if kind&1 == 0 {
		ip = []byte{0x45, byte(r.next()), 0, 0, byte(r.next()), byte(r.next()), 0x40, 0, ttl, proto, 0, 0}
		if r.next()%4 == 1 {
			ip[6] = 0
		}
		ip = append(append(ip, r.pick(w.good[0], w.v4)...), r.pick(w.good[1], w.v4)...)
		var options []byte
		if o := r.next(); o%8 == 1 {
			options = []byte{1, 1, 1, 0}
			ip[0]++
		}
		binary.BigEndian.PutUint16(ip[2:], uint16(20+len(options)+len(l4)))
		if field >= 0 {
			start := uint32(0)
			if proto != 1 {
				start = uint32(inetSum(ip[12:20], uint32(proto)+uint32(len(l4))))
			}
			binary.BigEndian.PutUint16(l4[field:], ^inetSum(l4, start))
		}
		ip = append(append(ip, options...), l4...)
	} else {
		eth[12], eth[13] = 0x86, 0xdd
		ip = []byte{0x60 | byte(r.next()&15), byte(r.next()), byte(r.next()), 7, 0, 0, proto, ttl}
		ip = append(append(ip, r.pick(w.good[2], w.v6)...), r.pick(w.good[3], w.v6)...)
		var ext []byte
		switch e := r.next(); e % 16 {
		case 1:
			ext = []byte{proto, 0, 1, 4, 0, 0, 0, 0}
			ip[6] = []byte{0, 43, 60}[e>>4%3]
		case 2:
			ext = []byte{proto, 0, 0, byte(e >> 4 & 1), 1, 2, 3, 4}
			ip[6] = 44
		}
		binary.BigEndian.PutUint16(ip[4:], uint16(len(ext)+len(l4)))
		if field >= 0 {
			binary.BigEndian.PutUint16(l4[field:], ^inetSum(l4, uint32(inetSum(ip[8:40], uint32(proto)+uint32(len(l4))))))
		}
		ip = append(append(ip, ext...), l4...)
	}
	// Spoil it: bytes set, the end cut or padded, the IPv4 header's checksum made right or not.
	for n := r.next()%8 - 4; n > 0; n-- {
		ip[(r.next()|r.next()<<8)%min(len(ip), 120)] = byte(r.next())
	}
	fix := true
	switch c := r.next(); c % 8 {
	case 1:
		ip = ip[:max(1, len(ip)-c>>3)]
	case 2:
		ip = append(ip, make([]byte, c>>3)...)
	case 3:
		fix = false
	}
	if h := int(ip[0]&15) * 4; kind&1 == 0 && fix && h >= 20 && len(ip) >= h {
		ip[10], ip[11] = 0, 0
		binary.BigEndian.PutUint16(ip[10:], ^inetSum(ip[:h], 0))
	}
	return append(eth, ip...)
}

// ordinary says whether the fast path has to take a packet that the translator
// sends.
func (w *twin) ordinary(ip []byte) bool {
	var src, dst netip.Addr
	var proto, ttl byte
	var l4 []byte
	if ip[0]>>4 == 4 {
		if ip[0] != 0x45 || binary.BigEndian.Uint16(ip[6:])&^0x4000 != 0 {
			return false
		}
		proto, ttl, l4 = ip[9], ip[8], ip[20:]
		src, dst = netip.AddrFrom4([4]byte(ip[12:])), netip.AddrFrom4([4]byte(ip[16:]))
	} else {
		proto, ttl, l4 = ip[6], ip[7], ip[40:]
		src, dst = netip.AddrFrom16([16]byte(ip[8:])), netip.AddrFrom16([16]byte(ip[24:]))
		if a, ok := w.full.Extract(dst); ok {
			if e, _ := w.full.Embed(a); e != dst {
				return false // something behind the IPv4 address
			}
			if w.spec.MTU4 > 0 && ipLen(ip)-20 > w.spec.MTU4 {
				return false // goes without DF, to be fragmented behind
			}
		}
	}
	for _, p := range append(slices.Clone(w.own), w.spec.Inside...) {
		if p.IsSingleIP() && (p.Contains(dst) || p.Contains(src)) {
			return false
		}
	}
	hops := byte(2)
	if w.spec.KeepTTL {
		hops = 1
	}
	if ttl <= hops+1 {
		return false
	}
	switch proto {
	case 6:
		return len(l4) >= 20
	case 17:
		return len(l4) >= 8 && l4[6]|l4[7] != 0
	case 1:
		return ip[0]>>4 == 4 && (l4[0] == 0 || l4[0] == 8) && l4[1] == 0
	case 58:
		return ip[0]>>4 == 6 && (l4[0] == 128 || l4[0] == 129) && l4[1] == 0
	}
	return false
}

// reference passes the packet through the translator as the full path does:
// behind a kernel that takes one hop, and drops what is worth nothing.
func (w *twin) reference(in []byte) (out []byte, v siit.Verdict) {
	v.Action, v.Mapping = siit.Drop, siit.NoEntry
	buf := append(make([]byte, siit.Headroom), in...)
	ip := buf[siit.Headroom:]
	if !hop(ip) {
		return nil, v
	}
	p := siit.Packet{Buf: buf, Off: siit.Headroom, Len: len(in)}
	v = w.full.Translate(&p)
	return p.Bytes(), v
}

// hop does to a packet what a router does; false: it would not send it on.
func hop(ip []byte) bool {
	switch {
	case len(ip) >= 20 && ip[0]>>4 == 4:
		if ip[8] <= 1 {
			return false
		}
		ip[8]--
		s := uint32(binary.BigEndian.Uint16(ip[10:])) + 0x100
		binary.BigEndian.PutUint16(ip[10:], uint16(s+s>>16))
	case len(ip) >= 40 && ip[0]>>4 == 6:
		if ip[7] <= 1 {
			return false
		}
		ip[7]--
	default:
		return false
	}
	return true
}

// claimsOwn is whether a packet's source is an address of the host's own: the stack before the full path drops it.
func (w *twin) claimsOwn(ip []byte) bool {
	a := netip.AddrFrom16([16]byte(ip[8:24]))
	if ip[0]>>4 == 4 {
		a = netip.AddrFrom4([4]byte(ip[12:16]))
	}
	return slices.Contains(w.own, netip.PrefixFrom(a, a.BitLen()))
}

// sendsOn is whether the fast path sends the translated packet on by itself.
func (w *twin) sendsOn(p []byte) bool {
	own := false
	if p[0]>>4 == 6 {
		a := netip.AddrFrom16([16]byte(p[24:40]))
		own = slices.Contains(w.own, netip.PrefixFrom(a, 128)) || slices.Contains(w.spec.Inside, netip.PrefixFrom(a, 128))
	}
	return w.direct && len(p) <= directMTU && !own
}

func ipLen(b []byte) int {
	if b[0]>>4 == 4 {
		return int(binary.BigEndian.Uint16(b[2:]))
	}
	return 40 + int(binary.BigEndian.Uint16(b[4:]))
}

// FuzzFast holds the eBPF translator against the one in Go: what the fast path
// translates is byte for byte what the full path sends; what that would not send
// is not touched; and what is ordinary is taken. A longer run:
//
//	go test -run '^$' -fuzz FuzzFast -fuzztime 10m ./internal/map646
func FuzzFast(f *testing.F) {
	all := twins()
	for kind := range 16 {
		for v := range all {
			f.Add(byte(v), []byte{byte(kind), 100, 7, 3, 0, 0, 0, 0, 1, 2, 0, 0, byte(kind % 4), 1})
		}
	}
	f.Fuzz(func(t *testing.T, which byte, r []byte) {
		all[int(which)%len(all)].compare(t, int(which)%len(all), r)
	})
}

// TestFastAgrees is FuzzFast with packets that chance makes, and shows that most
// of them get far.
func TestFastAgrees(t *testing.T) {
	all := twins()
	rng := rand.New(rand.NewPCG(6, 46))
	var taken [siit.NumReasons]int
	const n = 20000
	for range n {
		which := rng.IntN(len(all))
		r := make([]byte, 64)
		for i := range r {
			r[i] = byte(rng.Uint32())
		}
		if v, ok := all[which].compare(t, which, r); ok {
			taken[v.Reason]++
		}
	}
	t.Logf("of %d packets, translated %v", n, taken[:siit.SixToSix+1])
	for r := siit.FourToSix; r <= siit.SixToSix; r++ {
		if taken[r] < n/40 {
			t.Errorf("%v: only %d packets were translated", r, taken[r])
		}
	}
}

// compare makes a packet and has both translate it.
func (w *twin) compare(t *testing.T, which int, r recipe) (v siit.Verdict, translated bool) {
	w.open(t)
	frame := r.frame(w)
	// The kernel refuses to test-run frames of more than a page and, since 6.18, such
	// with less than an IP header.
	if len(frame) > 3400 || len(frame) < 14+map[byte]int{8: 20, 0x86: 40}[frame[12]] {
		return v, false
	}
	want, v := w.reference(frame[14:])
	send := v.Action == siit.Send && v.Mapping != siit.NoEntry
	var in0, out0 netio.FastCount
	if send {
		in0, out0 = w.fast.MappingCounters(v.Mapping)
	}
	out, translated, err := w.fast.TestRun(frame)
	if err != nil {
		t.Fatalf("frame of %d bytes: %v", len(frame), err)
	}
	in1, out1 := w.fast.MappingCounters(v.Mapping)
	direct := send && w.sendsOn(want)
	if byXDP, too, err := w.fast.TestRunXDP(frame); err != nil || too != translated || !direct && !bytes.Equal(byXDP, out) {
		t.Fatalf("twin %d: tc %v and XDP %v (%v) differ:\n%x\n%x\n%x", which, translated, too, err, frame, out, byXDP)
	}
	if !translated {
		if !bytes.Equal(out, frame) {
			t.Fatalf("twin %d: passed on, but changed:\n%x\n%x", which, frame, out)
		}
		if send && w.ordinary(frame[14:]) {
			t.Fatalf("twin %d: an ordinary packet was not taken (%v):\n%x", which, v.Reason, frame)
		}
		return v, false
	}
	if !send || w.claimsOwn(frame[14:]) {
		t.Fatalf("twin %d: translated what the full path would not send (%v):\n%x\n%x", which, v.Reason, frame, out)
	}
	if !bytes.Equal(out[:12], frame[:12]) || binary.BigEndian.Uint16(out[12:]) != map[byte]uint16{4: 0x800, 6: 0x86dd}[out[14]>>4] {
		t.Fatalf("twin %d: Ethernet header %x", which, out[:14])
	}
	if direct {
		hop(want)
	}
	if got := out[14:]; len(got) < ipLen(got) || !bytes.Equal(got[:ipLen(got)], want) {
		t.Fatalf("twin %d: %v of\n%x gave\n%x, the full path\n%x", which, v.Reason, frame[14:], got, want)
	}
	counter, bytesIn := &in0, uint64(ipLen(frame[14:]))
	if v.Outbound {
		counter = &out0
	}
	counter.Packets, counter.Bytes = counter.Packets+1, counter.Bytes+bytesIn
	if in0 != in1 || out0 != out1 {
		t.Fatalf("twin %d: mapping %d counted %v %v, want %v %v", which, v.Mapping, in1, out1, in0, out0)
	}
	return v, true
}
