package map646_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// Datagrams that wait behind one of their flow go on with it as one super-packet, and
// arrive as they were sent and in order; over IPv4 only long ones do, for short ones go
// without DF.
func TestJoined(t *testing.T) {
	w := small(t)
	d, _, _ := w.translator("gw", strings.Replace(conf, "queues = 2", "queues = 1", 1))
	listen := func(ns string) net.PacketConn {
		var c net.PacketConn
		w.must(w.ns[ns].Do(func() (err error) {
			lc := net.ListenConfig{}
			c, err = lc.ListenPacket(context.Background(), "udp", "[::]:9000")
			return err
		}))
		t.Cleanup(func() { c.Close() })
		w.must(c.(*net.UDPConn).SetReadBuffer(4 << 20))
		return c
	}
	for _, c := range []struct {
		what, from, addr, to string
		size                 int
		joins                bool
	}{
		{"4 to 6", "client4", "203.0.113.10:9000", "server", 64, true},
		{"4 to 6, long", "client4", "203.0.113.10:9000", "server", 1300, true},
		{"6 to 6", "client6", "[2001:db8:f::10]:9000", "server", 64, true},
		{"6 to 4, short", "server", "[2001:db8:64::198.51.100.7]:9000", "client4", 64, false},
		{"6 to 4, long", "server", "[2001:db8:64::198.51.100.7]:9000", "client4", 1300, true},
	} {
		in := listen(c.to)
		var out net.Conn
		w.must(w.ns[c.from].Do(func() (err error) {
			if c.from == "server" {
				// From the address that is mapped.
				out, err = (&net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP("2001:db8:a::10")}}).Dial("udp", c.addr)
				return err
			}
			out, err = net.Dial("udp", c.addr)
			return err
		}))
		before := d.Stats()
		joined := func() uint64 { return d.Stats().Joined - before.Joined }
		const burst = 50
		sent, limit := 0, 10*burst
		if c.joins {
			limit = 100 * burst // whether some wait together is a matter of chance
		}
		for ; sent < limit && (joined() == 0 || sent < 4*burst); sent += burst {
			var want, got []string
			for i := range burst {
				// Every seventh is shorter, and ends what goes together.
				n := c.size - i%7/6
				b := bytes.Repeat(fmt.Appendf(nil, "%s %d,", c.what, sent+i), n)[:n]
				if _, err := out.Write(b); err != nil {
					t.Fatal(err)
				}
				want = append(want, string(b))
			}
			buf := make([]byte, 2000)
			for range burst {
				w.must(in.SetReadDeadline(time.Now().Add(5 * time.Second)))
				n, _, err := in.ReadFrom(buf)
				if err != nil {
					t.Fatalf("%s: %d of %d datagrams: %v", c.what, len(got), burst, err)
				}
				got = append(got, string(buf[:n]))
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Fatalf("%s (-sent +arrived):\n%s", c.what, d)
			}
		}
		t.Logf("%s: %d of %d joined", c.what, joined(), sent)
		if (joined() > 0) != c.joins {
			t.Errorf("%s: %d of %d joined", c.what, joined(), sent)
		}
		if s := d.Stats(); s.WriteErrors != 0 || sum(s.Packets)-sum(before.Packets) < uint64(sent) {
			t.Errorf("%s: %d failed writes, %v", c.what, s.WriteErrors, s.Packets)
		}
		out.Close()
		in.Close()
	}
}

func sum(m map[string]uint64) (all uint64) {
	for _, n := range m {
		all += n
	}
	return all
}
