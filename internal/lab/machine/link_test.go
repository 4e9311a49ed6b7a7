package machine_test

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"widecloud/internal/lab/machine"
)

// The tests here hold real links, between namespaces, against what was asked for. A busy machine only ever makes a
// link slower, so times have lower bounds alone; what is counted is exact.

// counter receives datagrams in a node: it counts those that say "end" apart.
type counter struct{ n, ends atomic.Int64 }

func receiver(t *testing.T, n *machine.Node, addr string) *counter {
	t.Helper()
	var c net.PacketConn
	must(t, n.Do(func() (err error) { c, err = net.ListenPacket("udp6", "["+addr+"]:9"); return }))
	must(t, c.(*net.UDPConn).SetReadBuffer(4<<20))
	k := &counter{}
	done := make(chan struct{})
	t.Cleanup(func() { c.Close(); <-done })
	go func() {
		defer close(done)
		b := make([]byte, 10000)
		for {
			size, _, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			if string(b[:size]) == "end" {
				k.ends.Add(1)
			} else {
				k.n.Add(1)
			}
		}
	}()
	return k
}

func sender(t *testing.T, n *machine.Node, addr string) net.Conn {
	t.Helper()
	var c net.Conn
	must(t, n.Do(func() (err error) { c, err = net.Dial("udp6", "["+addr+"]:9"); return }))
	t.Cleanup(func() { c.Close() })
	return c
}

const addrA, addrB = "2001:db8::1", "2001:db8::2"

// acquaint sends until both ends know each other's Ethernet address, so that no datagram waits for that.
func acquaint(t *testing.T, to net.Conn, got *counter) {
	t.Helper()
	eventually(t, "a first datagram arrives", func() bool {
		_, err := to.Write([]byte("hello"))
		must(t, err)
		time.Sleep(10 * time.Millisecond)
		return got.n.Load() > 0
	})
}

func TestWANLoss(t *testing.T) {
	a, b, w := wanPair(t, machine.WANOptions{})
	got, to := receiver(t, b, addrB), sender(t, a, addrB)
	acquaint(t, to, got)
	must(t, w.Set(machine.WANOptions{Shape: machine.Shape{Loss: 0.1}, Back: &machine.Shape{}}))
	before, _ := w.Counters()
	first := got.n.Load()
	const n = 3000
	for i := range n {
		_, err := to.Write(make([]byte, 100))
		must(t, err)
		if i%50 == 0 {
			time.Sleep(time.Millisecond) // not more than the device's own queue holds
		}
	}
	must(t, w.Set(machine.WANOptions{}))
	eventually(t, "the last datagram is there", func() bool {
		ab, _ := w.Counters()
		return ab.Frames-before.Frames >= n && got.n.Load()-first >= n-(ab.Lost-before.Lost)-2 // neighbours' questions may be among the lost
	})
	ab, ba := w.Counters()
	lost := n - (got.n.Load() - first)
	t.Logf("figure wan.loss %.2f %% (asked: 10)", float64(lost)*100/n)
	// 10 % of 3000 are 300, with a standard deviation of 16.
	if lost < 300-5*16 || lost > 300+5*16 {
		t.Errorf("%d datagrams of %d lost, 10 %% were asked for", lost, n)
	}
	if ab.Lost < lost || ba.Lost != 0 {
		t.Errorf("%d lost; counters %+v, %+v", lost, ab, ba)
	}
}

func TestWANJitterAndAsymmetry(t *testing.T) {
	const ms = time.Millisecond
	// 8 ms there, 2 ms back, and up to 20 ms more there.
	a, b, w := wanPair(t, machine.WANOptions{Shape: machine.Shape{Delay: 8 * ms, Jitter: 20 * ms, Rate: 20e6}, Back: &machine.Shape{Delay: 2 * ms, Rate: 4e6}})
	echoServer(t, b)
	echo(t, a) // neighbour discovery
	least, most := time.Hour, time.Duration(0)
	for range 60 {
		d, err := echo(t, a)
		must(t, err)
		least, most = min(least, d), max(most, d)
	}
	t.Logf("figure wan.jitter %.1f ms (asked: up to 20), round trips from %.1f ms (asked: 10)", (most-least).Seconds()*1000, least.Seconds()*1000)
	if least < 10*ms {
		t.Errorf("a round trip took %v, less than 8 + 2 ms", least)
	}
	if most-least < 10*ms { // of 60 evenly random times, none in a half: 2^-59
		t.Errorf("round trips from %v to %v: no jitter of 20 ms", least, most)
	}
	for _, c := range []struct {
		from, to *machine.Node
		addr     string
		rate     float64
	}{{a, b, addrB, 20e6}, {b, a, addrA, 4e6}} {
		const size = 1 << 20
		start := time.Now()
		transferTo(t, c.from, c.to, c.addr, size)
		took := time.Since(start)
		t.Logf("figure wan.rate_%s %.2f Mbit/s (asked: %.0f)", c.from.Name(), size*8/took.Seconds()/1e6, c.rate/1e6)
		if fastest := time.Duration(size * 8 / c.rate * 0.9 * float64(time.Second)); took < fastest {
			t.Errorf("%d bytes from %s in %v: faster than %v", size, c.from.Name(), took, fastest)
		}
	}
	if ab, ba := w.Counters(); ab.Bytes < 1<<20 || ba.Bytes < 1<<20 {
		t.Errorf("counters %+v, %+v", ab, ba)
	}
}

// TestWANThinQueue: a link of 1.5 Mbit/s whose queue holds ten datagrams.
func TestWANThinQueue(t *testing.T) {
	a, b, w := wanPair(t, machine.WANOptions{})
	got, to := receiver(t, b, addrB), sender(t, a, addrB)
	acquaint(t, to, got)
	const header = 14 + 40 + 8
	must(t, w.Set(machine.WANOptions{Shape: machine.Shape{Rate: 1_500_000, Queue: 10 * (1000 + header)}}))
	first, start := got.n.Load(), time.Now()
	const n = 100
	for range n {
		_, err := to.Write(make([]byte, 1000))
		must(t, err)
	}
	sent := time.Since(start)
	// While they are sent, the transmitter takes some; each takes 5.7 ms.
	took := int64(sent.Seconds() * 1_500_000 / 8 / (1000 + header))
	eventually(t, "a datagram behind all that were accepted", func() bool {
		must(t, second(to.Write([]byte("end"))))
		time.Sleep(10 * time.Millisecond)
		return got.ends.Load() > 0
	})
	arrived := got.n.Load() - first
	t.Logf("figure wan.queue %d datagrams (asked: 10 waiting, one in transmission, %d taken meanwhile)", arrived, took)
	// A frame of neighbour discovery may take a place.
	if arrived < 10 || arrived > 13+took {
		t.Errorf("%d datagrams of %d arrived; 11 and the %d that were sent meanwhile were asked for", arrived, n, took)
	}
	if least := time.Duration(arrived*(1000+header)*8*int64(time.Second)/1_500_000) * 9 / 10; time.Since(start) < least {
		t.Errorf("%d datagrams in %v: faster than 1.5 Mbit/s, which takes %v", arrived, time.Since(start), least)
	}
}

func TestWANOneWayCut(t *testing.T) {
	a, b, w := wanPair(t, machine.WANOptions{})
	atB, toB := receiver(t, b, addrB), sender(t, a, addrB)
	atA, toA := receiver(t, a, addrA), sender(t, b, addrA)
	acquaint(t, toB, atB)
	acquaint(t, toA, atA)
	w.Cut(machine.AToB)
	before, other := atB.n.Load(), atA.n.Load()
	_, back := w.Counters()
	for range 20 {
		must(t, second(toB.Write([]byte("lost"))), second(toA.Write([]byte("there"))))
	}
	eventually(t, "what b sends arrives", func() bool { return atA.n.Load() == other+20 })
	eventually(t, "what a sends is dropped", func() bool { ab, _ := w.Counters(); return ab.Dropped >= 20 })
	if got := atB.n.Load(); got != before {
		t.Errorf("%d datagrams went the way that is cut", got-before)
	}
	if _, ba := w.Counters(); ba.Dropped != back.Dropped {
		t.Errorf("%d frames dropped on the way that is not cut", ba.Dropped-back.Dropped)
	}
	w.Heal(machine.AToB)
	must(t, second(toB.Write([]byte("again"))))
	eventually(t, "after Heal", func() bool { return atB.n.Load() == before+1 })
}

func second[T any](_ T, err error) error { return err }

func TestWANFlaps(t *testing.T) {
	a, b, w := wanPair(t, machine.WANOptions{})
	got, to := receiver(t, b, addrB), sender(t, a, addrB)
	acquaint(t, to, got)
	if err := w.Flap(time.Second, time.Second); err == nil {
		t.Error("a link that is always down was taken for flapping")
	}
	must(t, w.Flap(60*time.Millisecond, 30*time.Millisecond))
	// Up and down, several times: seen by what the link drops and what arrives.
	for i := range 3 {
		ab, _ := w.Counters()
		dropped, arrived := ab.Dropped, got.n.Load()
		eventually(t, fmt.Sprintf("down and up, time %d", i+1), func() bool {
			to.Write([]byte("?"))
			ab, _ := w.Counters()
			return ab.Dropped > dropped && got.n.Load() > arrived
		})
	}
	w.Heal(machine.AToB) // which ends it both ways
	before, _ := w.Counters()
	first := got.n.Load()
	for range 100 {
		must(t, second(to.Write([]byte("!"))))
		time.Sleep(2 * time.Millisecond) // longer, in all, than it would have been up
	}
	eventually(t, "all arrive after Heal", func() bool { return got.n.Load() >= first+100 })
	if after, _ := w.Counters(); after.Dropped != before.Dropped {
		t.Errorf("%d frames dropped after Heal", after.Dropped-before.Dropped)
	}
}

func TestWANMTU(t *testing.T) {
	for _, mtu := range []int{1280, 1400, 9000} {
		t.Run(fmt.Sprint(mtu), func(t *testing.T) {
			a, b, _ := wanPair(t, machine.WANOptions{MTU: mtu})
			got, to := receiver(t, b, addrB), sender(t, a, addrB)
			raw, err := to.(*net.UDPConn).SyscallConn()
			must(t, err)
			must(t, raw.Control(func(fd uintptr) {
				const ipv6DontFrag = 62 // linux/in6.h
				err = syscall.SetsockoptInt(int(fd), syscall.IPPROTO_IPV6, ipv6DontFrag, 1)
			}), err)
			acquaint(t, to, got)
			before := got.n.Load()
			must(t, second(to.Write(make([]byte, mtu-48))))
			eventually(t, "a packet of the MTU arrives", func() bool { return got.n.Load() > before })
			if _, err := to.Write(make([]byte, mtu-47)); !errors.Is(err, syscall.EMSGSIZE) {
				t.Errorf("a packet that is one byte too long: %v", err)
			}
		})
	}
	l := open(t)
	a, b := node(t, l, machine.NodeOptions{Name: "a"}), node(t, l, machine.NodeOptions{Name: "b"})
	if _, err := l.WAN(machine.End{Node: a, Device: "w"}, machine.End{Node: b, Device: "w"}, machine.WANOptions{MTU: 600}); err == nil || !strings.Contains(err.Error(), "mtu 600") {
		t.Errorf("mtu 600: %v", err)
	}
}
