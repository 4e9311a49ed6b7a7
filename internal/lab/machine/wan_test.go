package machine_test

import (
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"widecloud/internal/lab/machine"
)

// wanPair is two nodes and a wide-area link between them.
func wanPair(t *testing.T, o machine.WANOptions) (a, b *machine.Node, w *machine.WAN) {
	l := open(t)
	a, b = node(t, l, machine.NodeOptions{Name: "a"}), node(t, l, machine.NodeOptions{Name: "b"})
	w, err := l.WAN(machine.End{Node: a, Device: "wan0", Addrs: prefix("2001:db8::1/64")},
		machine.End{Node: b, Device: "wan0", Addrs: prefix("2001:db8::2/64")}, o)
	must(t, err)
	return a, b, w
}

// echoServer answers datagrams in the node.
func echoServer(t *testing.T, n *machine.Node) {
	var c net.PacketConn
	must(t, n.Do(func() (err error) { c, err = net.ListenPacket("udp6", "[2001:db8::2]:7"); return }))
	t.Cleanup(func() { c.Close() })
	go func() {
		b := make([]byte, 2000)
		for {
			k, from, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			c.WriteTo(b[:k], from)
		}
	}()
}

// echo sends a datagram from the node and waits for the answer.
func echo(t *testing.T, n *machine.Node) (time.Duration, error) {
	var c net.Conn
	must(t, n.Do(func() (err error) { c, err = net.Dial("udp6", "[2001:db8::2]:7"); return }))
	defer c.Close()
	start := time.Now()
	c.SetDeadline(start.Add(time.Second))
	if _, err := c.Write([]byte("echo")); err != nil {
		return 0, err
	}
	_, err := c.Read(make([]byte, 10))
	return time.Since(start), err
}

func TestWANDelayCutHeal(t *testing.T) {
	a, b, w := wanPair(t, machine.WANOptions{Shape: machine.Shape{Delay: 20 * time.Millisecond, Rate: 100e6}})
	echoServer(t, b)
	echo(t, a) // neighbour discovery
	best := time.Hour
	for range 5 {
		if d, err := echo(t, a); err != nil {
			t.Error(err)
		} else {
			best = min(best, d)
		}
	}
	t.Logf("figure wan.rtt %.1f ms (asked: 40)", best.Seconds()*1000)
	if best < 40*time.Millisecond {
		t.Errorf("a round trip took %v, less than the link's", best)
	}
	w.Cut(machine.BothWays)
	if d, err := echo(t, a); err == nil {
		t.Errorf("an answer over a cut link after %v", d)
	}
	if got := sh(t, a, "cat /sys/class/net/wan0/carrier"); got != "1\n" {
		t.Errorf("a silent cut took the carrier: %q", got)
	}
	ab, _ := w.Counters()
	if ab.Dropped == 0 {
		t.Errorf("counters: %+v", ab)
	}
	w.Heal(machine.BothWays)
	eventually(t, "answers after Heal", func() bool { _, err := echo(t, a); return err == nil })
	must(t, w.Set(machine.WANOptions{Shape: machine.Shape{Delay: time.Millisecond}}))
	best = time.Hour
	for range 5 {
		if d, err := echo(t, a); err == nil {
			best = min(best, d)
		}
	}
	t.Logf("figure wan.rtt_after_set %.1f ms (asked: 2)", best.Seconds()*1000)
	if err := w.Set(machine.WANOptions{Shape: machine.Shape{Rate: -1}}); err == nil {
		t.Error("a negative rate was taken")
	}
	// A power cut takes the device along, and the link works again afterwards.
	must(t, a.PowerOff(), a.PowerOn())
	eventually(t, "answers after the power cut", func() bool { _, err := echo(t, a); return err == nil })
}

func TestWANRateAndCount(t *testing.T) {
	a, b, w := wanPair(t, machine.WANOptions{Shape: machine.Shape{Delay: 5 * time.Millisecond, Rate: 100e6}})
	cpu0 := cpuTime(t)
	transfer(t, a, b, 8<<20)
	before, _ := w.Counters()
	start := time.Now()
	const size = 10 << 20
	transfer(t, a, b, size)
	d := time.Since(start)
	after, back := w.Counters()
	sent := after.Bytes - before.Bytes
	t.Logf("figure wan.rate %.1f Mbit/s (asked: 100), %d of %d frames dropped, CPU %.2f s for %d MB; back: %d bytes",
		float64(sent)*8/d.Seconds()/1e6, after.Dropped, after.Frames, (cpuTime(t) - cpu0).Seconds(), after.Bytes>>20, back.Bytes)
	if sent < size || sent > 2*size {
		t.Errorf("%d bytes counted for %d carried", sent, size)
	}
	if least := time.Duration(float64(size) * 8 / 100e6 * 0.9 * float64(time.Second)); d < least {
		t.Errorf("%d bytes in %v: faster than the link, which needs %v", size, d, least)
	}
	must(t, w.Set(machine.WANOptions{Shape: machine.Shape{Delay: 5 * time.Millisecond, Rate: 8e6}}))
	start = time.Now()
	transfer(t, a, b, 1<<20)
	if d := time.Since(start); d < 800*time.Millisecond {
		t.Errorf("1 MiB in %v at 8 Mbit/s", d)
	} else {
		t.Logf("figure wan.rate_after_set %.1f Mbit/s (asked: 8)", float64(1<<20)*8/d.Seconds()/1e6)
	}
}

// transfer sends bytes from a to b over TCP and returns when b has them all.
func transfer(t *testing.T, a, b *machine.Node, size int) { transferTo(t, a, b, "2001:db8::2", size) }

// transferTo sends bytes to an address of b's.
func transferTo(t *testing.T, a, b *machine.Node, addr string, size int) {
	t.Helper()
	must(t, copyTo(a, b, addr, size))
}

func copyTo(a, b *machine.Node, addr string, size int) error {
	var l net.Listener
	if err := b.Do(func() (err error) { l, err = net.Listen("tcp6", "["+addr+"]:0"); return }); err != nil {
		return err
	}
	defer l.Close()
	got := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err == nil {
			defer c.Close()
			var k int64
			if k, err = io.Copy(io.Discard, c); err == nil && k != int64(size) {
				err = fmt.Errorf("%d bytes arrived of %d", k, size)
			}
		}
		got <- err
	}()
	var c net.Conn
	if err := a.Do(func() (err error) { c, err = net.Dial("tcp6", l.Addr().String()); return }); err != nil {
		return err
	}
	_, err := c.Write(make([]byte, size))
	return errors.Join(err, c.Close(), <-got)
}
