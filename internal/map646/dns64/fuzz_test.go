package dns64_test

import (
	"encoding/binary"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/miekg/dns"

	"widecloud/internal/map646/dns64"
)

// writer is a client on loopback that keeps what it is answered.
type writer struct {
	dns.ResponseWriter
	tcp bool
	got []*dns.Msg
}

func (w *writer) LocalAddr() net.Addr { return w.RemoteAddr() }

func (w *writer) RemoteAddr() net.Addr {
	if w.tcp {
		return &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)}
	}
	return &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)}
}

func (w *writer) WriteMsg(m *dns.Msg) error { w.got = append(w.got, m); return nil }

// FuzzServeDNS: any question, any answer from upstream. The answer's header
// (its identifier and question excepted) and records are data.
func FuzzServeDNS(f *testing.F) {
	up, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		f.Fatal(err)
	}
	answers := make(chan []byte, 1)
	go func() {
		buf := make([]byte, 65535)
		for {
			n, from, err := up.ReadFrom(buf)
			if err != nil {
				return
			}
			a := <-answers
			answers <- a
			q := new(dns.Msg)
			if q.Unpack(buf[:n]) != nil {
				panic("the server asks what cannot be read")
			}
			q.Extra = nil
			head, err := q.Pack()
			if err != nil {
				panic(err)
			}
			failed := append([]byte(nil), head...)
			failed[2], failed[3] = head[2]|0x80, dns.RcodeServerFailure
			head[2], head[3] = head[2]|0x80, a[0]
			for i := range 3 {
				binary.BigEndian.PutUint16(head[6+2*i:], uint16(a[1+i]))
			}
			up.WriteTo(append(head, a[4:]...), from)
			up.WriteTo(failed, from) // rather than wait, should the first be unreadable
		}
	}()
	s, err := dns64.New(dns64.Options{
		Listen: []netip.AddrPort{loopback}, Upstream: []netip.AddrPort{up.LocalAddr().(*net.UDPAddr).AddrPort()}, Prefix: pref64,
		Timeout: time.Second,
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { s.Close(); up.Close() })

	records := func(an, ns uint8, rrs ...string) []byte {
		out := []byte{0, an, ns, 0}
		for _, t := range rrs {
			rr, err := dns.NewRR(t)
			if err != nil {
				f.Fatal(err)
			}
			buf := make([]byte, 512)
			n, err := dns.PackRR(rr, buf, 0, nil, false)
			if err != nil {
				f.Fatal(err)
			}
			out = append(out, buf[:n]...)
		}
		return out
	}
	add := func(m *dns.Msg, a []byte) {
		q, err := m.Pack()
		if err != nil {
			f.Fatal(err)
		}
		f.Add(q, a, true)
		f.Add(q, a, false)
	}
	do := query("a.example.", "AAAA")
	do.SetEdns0(4096, true)
	do.CheckingDisabled = true
	ptr, _ := dns.ReverseAddr("2001:db8:64::c000:201")
	for _, m := range []*dns.Msg{query("a.example.", "AAAA"), query(ptr, "PTR"), query("ipv4only.arpa.", "AAAA"), do} {
		add(m, records(1, 0, "a.example. 1 A 192.0.2.1"))
		add(m, records(1, 0, "a.example. 1 AAAA ::ffff:192.0.2.1"))
		add(m, records(2, 1, "a.example. 1 CNAME b.example.", "b.example. 1 A 192.0.2.1", "example. 1 SOA a. b. 1 2 3 4 5"))
		add(m, records(1, 0, "1.2.0.192.in-addr.arpa. 1 PTR a."))
		add(m, []byte{3, 0, 0, 0})
	}
	f.Fuzz(func(t *testing.T, question, answer []byte, tcp bool) {
		q := new(dns.Msg)
		if len(answer) < 4 || q.Unpack(question) != nil {
			return
		}
		answers <- answer
		defer func() { <-answers }()
		w := &writer{tcp: tcp}
		s.ServeDNS(w, q)
		if q.Response {
			if len(w.got) != 0 {
				t.Fatal("an answer to an answer")
			}
			return
		}
		if len(w.got) != 1 {
			t.Fatalf("%d answers to %v", len(w.got), q)
		}
		m := w.got[0]
		wire, err := m.Pack()
		if err != nil {
			t.Fatalf("an answer that cannot be sent: %v\n%v", err, m)
		}
		back := new(dns.Msg)
		if err := back.Unpack(wire); err != nil {
			t.Fatalf("an answer that cannot be read: %v\n%v", err, m)
		}
		if back.Id != q.Id || !back.Response || len(q.Question) == 1 && back.Question[0] != q.Question[0] {
			t.Fatalf("answer %v to question %v", back, q)
		}
		if !tcp && len(wire) > 1232 {
			t.Fatalf("%d bytes by UDP", len(wire))
		}
	})
}

// BenchmarkAAAA: one synthesised answer, which is two questions to a resolver on
// loopback (whose cost is in it).
func BenchmarkAAAA(b *testing.B) {
	r := startResolver(b, map[string]string{"four.example. A": "four.example. 300 A 192.0.2.33"})
	s := start(b, dns64.Options{Upstream: []netip.AddrPort{r.addr}})
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			w := &writer{}
			s.ServeDNS(w, query("four.example.", "AAAA"))
			if len(w.got) != 1 || len(w.got[0].Answer) != 1 {
				b.Fatal(w.got)
			}
		}
	})
}
