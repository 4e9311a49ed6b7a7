package machine_test

import (
	"bytes"
	"fmt"
	"net"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"pgregory.net/rapid"

	"widecloud/internal/lab/machine"
)

// ethernet is a frame of the size that carries nothing that routers speak.
func ethernet(size int, mark byte) []byte {
	b := make([]byte, size)
	b[12], b[13], b[size-1] = 0x12, 0x34, mark
	return b
}

// arpFrame is control traffic.
func arpFrame(size int, mark byte) []byte {
	b := ethernet(size, mark)
	b[12], b[13] = 0x08, 0x06
	return b
}

var epoch = time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)

// TestShaperTimes: when frames leave and arrive, to the nanosecond.
func TestShaperTimes(t *testing.T) {
	const ms = time.Millisecond
	type in struct {
		at    time.Duration
		frame []byte
	}
	for _, c := range []struct {
		name  string
		shape machine.Shape
		in    []in
		want  []string // mark@time
		n     machine.Direction
	}{
		{"nothing but a wire", machine.Shape{}, []in{{0, ethernet(1000, 1)}, {ms, ethernet(1000, 2)}}, []string{"1@0s", "2@1ms"}, machine.Direction{Frames: 2, Bytes: 2000}},
		{"1.5 Mbit/s and 10 ms: 1500 bytes take 8 ms", machine.Shape{Rate: 1_500_000, Delay: 10 * ms},
			[]in{{0, ethernet(1500, 1)}, {0, ethernet(1500, 2)}, {30 * ms, ethernet(1500, 3)}},
			[]string{"1@18ms", "2@26ms", "3@48ms"}, machine.Direction{Frames: 3, Bytes: 4500}},
		{"a queue of two frames", machine.Shape{Rate: 8_000_000, Queue: 2000},
			[]in{{0, ethernet(1000, 1)}, {0, ethernet(1000, 2)}, {0, ethernet(1000, 3)}, {0, ethernet(1000, 4)}, {ms, ethernet(1000, 5)}},
			[]string{"1@1ms", "2@2ms", "3@3ms", "5@4ms"}, machine.Direction{Frames: 4, Bytes: 4000, Dropped: 1}},
		{"a frame that the queue has no room for passes an idle link", machine.Shape{Rate: 8_000_000, Queue: 10},
			[]in{{0, ethernet(1000, 1)}, {0, ethernet(1000, 2)}, {2 * ms, ethernet(1000, 3)}},
			[]string{"1@1ms", "3@3ms"}, machine.Direction{Frames: 2, Bytes: 2000, Dropped: 1}},
		{"control traffic waits for the frame that is being sent, and no other", machine.Shape{Rate: 8_000_000, Queue: 3000},
			[]in{{0, ethernet(1000, 1)}, {0, ethernet(1000, 2)}, {0, ethernet(1000, 3)}, {0, ethernet(1000, 4)}, {0, ethernet(1000, 5)}, {ms / 2, arpFrame(100, 9)}},
			[]string{"1@1ms", "9@1.1ms", "2@2.1ms", "3@3.1ms", "4@4.1ms"}, machine.Direction{Frames: 5, Bytes: 4100, Dropped: 1}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := machine.NewShaper(c.shape)
			for _, i := range c.in {
				s.Accept(i.frame, epoch.Add(i.at))
			}
			if d := cmp.Diff(c.want, drain(s)); d != "" {
				t.Errorf("arrivals (-want +got):\n%s", d)
			}
			if d := cmp.Diff(c.n, s.Direction()); d != "" {
				t.Errorf("counters (-want +got):\n%s", d)
			}
		})
	}
}

// drain takes all frames, each at the time that the shaper says, as mark@time.
func drain(s *machine.Shaper) (got []string) {
	for {
		next, more := s.Next()
		if !more {
			return got
		}
		for _, b := range s.Take(next) {
			got = append(got, fmt.Sprintf("%d@%v", b[len(b)-1], next.Sub(epoch)))
		}
	}
}

// TestShaperLaws: whatever is sent when, and whatever the link is like.
func TestShaperLaws(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		shape := machine.Shape{
			Delay:  time.Duration(rapid.IntRange(0, 50).Draw(t, "delay")) * time.Millisecond,
			Jitter: time.Duration(rapid.IntRange(0, 20).Draw(t, "jitter")) * time.Millisecond,
			Rate:   rapid.SampledFrom([]int64{0, 64_000, 1_500_000, 100_000_000}).Draw(t, "rate"),
			Queue:  rapid.SampledFrom([]int{0, 3000, 20_000}).Draw(t, "queue"),
			Loss:   rapid.SampledFrom([]float64{0, 0, 0.1}).Draw(t, "loss"),
		}
		s := machine.NewShaper(shape)
		sent := map[*byte]time.Time{}
		var orders [2][]*byte // control and other frames, as accepted
		var arrived []*byte
		var arrivals []time.Time
		now, bytes := epoch, 0
		take := func(at time.Time) {
			for _, b := range s.Take(at) {
				arrived, arrivals = append(arrived, &b[0]), append(arrivals, at)
				took := at.Sub(sent[&b[0]])
				if least := shape.Delay + transmission(shape, len(b)); took < least {
					t.Fatalf("%d bytes took %v, less than %v", len(b), took, least)
				}
				bytes += len(b)
			}
		}
		steps := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) [3]int {
			return [3]int{rapid.IntRange(0, 5000).Draw(t, "after"), rapid.IntRange(60, 1514).Draw(t, "size"), rapid.IntRange(0, 4).Draw(t, "class")}
		}), 1, 200).Draw(t, "frames")
		dropped := 0
		for _, step := range steps {
			until := now.Add(time.Duration(step[0]) * time.Microsecond)
			for {
				next, more := s.Next()
				if !more || next.After(until) {
					break
				}
				take(next)
			}
			now = until
			b, class := ethernet(step[1], 0), 1
			if step[2] == 0 {
				b, class = arpFrame(step[1], 0), 0
			}
			sent[&b[0]] = now
			if s.Accept(b, now) {
				orders[class] = append(orders[class], &b[0])
			} else {
				dropped++
			}
		}
		for {
			next, more := s.Next()
			if !more {
				break
			}
			take(next)
		}
		n := s.Direction()
		if int(n.Dropped) != dropped || int(n.Frames) != len(steps)-dropped || len(arrived) != int(n.Frames-n.Lost) {
			t.Fatalf("sent %d, dropped %d, arrived %d: %+v", len(steps), dropped, len(arrived), n)
		}
		if shape.Loss == 0 && n.Lost > 0 {
			t.Fatalf("%d lost on a link without loss", n.Lost)
		}
		if !slices.IsSortedFunc(arrivals, time.Time.Compare) {
			t.Fatal("arrivals go back in time")
		}
		for class, order := range orders {
			at := -1
			for _, b := range arrived {
				i := slices.Index(order, b)
				if i < 0 {
					continue
				}
				if i < at {
					t.Fatalf("class %d: a frame has overtaken another", class)
				}
				at = i
			}
		}
		if len(arrived) > 0 && shape.Rate > 0 && shape.Loss == 0 {
			if least := time.Duration(int64(bytes) * 8 * int64(time.Second) / shape.Rate); arrivals[len(arrivals)-1].Sub(epoch) < least-time.Microsecond {
				t.Fatalf("%d bytes in %v: faster than %d bit/s", bytes, arrivals[len(arrivals)-1].Sub(epoch), shape.Rate)
			}
		}
	})
}

func transmission(s machine.Shape, size int) time.Duration {
	if s.Rate == 0 {
		return 0
	}
	return time.Duration(int64(size) * 8 * int64(time.Second) / s.Rate)
}

// TestControl holds the classifier against packets that gopacket makes.
func TestControl(t *testing.T) {
	eth := func(kind layers.EthernetType) *layers.Ethernet {
		return &layers.Ethernet{SrcMAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}, DstMAC: net.HardwareAddr{2, 0, 0, 0, 0, 2}, EthernetType: kind}
	}
	ip4 := func(p layers.IPProtocol) *layers.IPv4 {
		return &layers.IPv4{Version: 4, IHL: 5, TTL: 255, Protocol: p, SrcIP: net.IP{192, 0, 2, 1}, DstIP: net.IP{192, 0, 2, 2}}
	}
	ip6 := func(p layers.IPProtocol) *layers.IPv6 {
		return &layers.IPv6{Version: 6, HopLimit: 255, NextHeader: p, SrcIP: net.ParseIP("2001:db8::1"), DstIP: net.ParseIP("2001:db8::2")}
	}
	udp := func(to layers.UDPPort) *layers.UDP { return &layers.UDP{SrcPort: 49152, DstPort: to} }
	icmp := func(kind uint8) gopacket.Payload { return gopacket.Payload{kind, 0, 0, 0, 0, 0, 0, 0} }
	body := gopacket.Payload("body of the packet")
	for _, c := range []struct {
		name   string
		want   bool
		layers []gopacket.SerializableLayer
	}{
		{"ARP", true, []gopacket.SerializableLayer{eth(layers.EthernetTypeARP), body}},
		{"OSPF", true, []gopacket.SerializableLayer{eth(layers.EthernetTypeIPv4), ip4(layers.IPProtocolOSPF), body}},
		{"OSPFv3", true, []gopacket.SerializableLayer{eth(layers.EthernetTypeIPv6), ip6(layers.IPProtocolOSPF), body}},
		{"BFD, IPv4", true, []gopacket.SerializableLayer{eth(layers.EthernetTypeIPv4), ip4(layers.IPProtocolUDP), udp(3784), body}},
		{"BFD, IPv6", true, []gopacket.SerializableLayer{eth(layers.EthernetTypeIPv6), ip6(layers.IPProtocolUDP), udp(3784), body}},
		{"BFD over several hops", true, []gopacket.SerializableLayer{eth(layers.EthernetTypeIPv6), ip6(layers.IPProtocolUDP), udp(4784), body}},
		{"BGP", true, []gopacket.SerializableLayer{eth(layers.EthernetTypeIPv6), ip6(layers.IPProtocolTCP), &layers.TCP{SrcPort: 179, DstPort: 40000}, body}},
		{"neighbour solicitation", true, []gopacket.SerializableLayer{eth(layers.EthernetTypeIPv6), ip6(layers.IPProtocolICMPv6), icmp(135)}},
		{"router advertisement", true, []gopacket.SerializableLayer{eth(layers.EthernetTypeIPv6), ip6(layers.IPProtocolICMPv6), icmp(134)}},
		{"with a tag", true, []gopacket.SerializableLayer{eth(layers.EthernetTypeDot1Q), &layers.Dot1Q{VLANIdentifier: 7, Type: layers.EthernetTypeIPv4}, ip4(layers.IPProtocolOSPF), body}},
		{"ping", false, []gopacket.SerializableLayer{eth(layers.EthernetTypeIPv6), ip6(layers.IPProtocolICMPv6), icmp(128)}},
		{"DNS", false, []gopacket.SerializableLayer{eth(layers.EthernetTypeIPv4), ip4(layers.IPProtocolUDP), udp(53), body}},
		{"HTTP", false, []gopacket.SerializableLayer{eth(layers.EthernetTypeIPv4), ip4(layers.IPProtocolTCP), &layers.TCP{SrcPort: 40000, DstPort: 80}, body}},
		{"VXLAN", false, []gopacket.SerializableLayer{eth(layers.EthernetTypeIPv6), ip6(layers.IPProtocolUDP), udp(4789), body}},
		{"a marked packet of anybody's", false, []gopacket.SerializableLayer{eth(layers.EthernetTypeIPv4),
			&layers.IPv4{Version: 4, IHL: 5, TOS: 0xc0, TTL: 64, Protocol: layers.IPProtocolTCP, SrcIP: net.IP{192, 0, 2, 1}, DstIP: net.IP{192, 0, 2, 2}}, &layers.TCP{SrcPort: 1, DstPort: 2}, body}},
		{"a later fragment", false, []gopacket.SerializableLayer{eth(layers.EthernetTypeIPv4),
			&layers.IPv4{Version: 4, IHL: 5, TTL: 64, FragOffset: 10, Protocol: layers.IPProtocolUDP, SrcIP: net.IP{192, 0, 2, 1}, DstIP: net.IP{192, 0, 2, 2}}, udp(3784), body}},
	} {
		b := gopacket.NewSerializeBuffer()
		if err := gopacket.SerializeLayers(b, gopacket.SerializeOptions{FixLengths: true}, c.layers...); err != nil {
			t.Fatalf("%s: %v", c.name, err)
		}
		if got := machine.IsControl(b.Bytes()); got != c.want {
			t.Errorf("%s: control %v, want %v", c.name, got, c.want)
		}
	}
}

func FuzzControl(f *testing.F) {
	f.Add(arpFrame(60, 0))
	f.Add([]byte{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x81, 0, 0, 1, 0x86, 0xdd})
	f.Fuzz(func(t *testing.T, b []byte) {
		before := bytes.Clone(b)
		if machine.IsControl(b) && len(b) < 14 {
			t.Errorf("%d bytes are control traffic", len(b))
		}
		if !bytes.Equal(before, b) {
			t.Error("the frame was changed")
		}
	})
}
