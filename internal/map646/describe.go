package map646

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Description is a packet in words, for Trace.
type Description struct {
	Protocol string // "tcp", "udp" or "icmp", an echo request; of either version
	Src, Dst netip.AddrPort
	TTL      int
	Size     int // bytes of IP; 0: as small as can be
	DF       bool
	// Fragment: it is one, at Offset, and More come.
	Fragment bool
	Offset   int // bytes
	More     bool
}

// ErrDescription is wrapped by errors about a packet's description.
var ErrDescription = errors.New("bad packet")

// ParseDescription reads
//
//	tcp|udp SRC:PORT DST:PORT [ttl N] [size N] [df] [frag OFFSET] [more]
//	icmp    SRC DST           …
//
// with IPv6 addresses in brackets where a port follows.
func ParseDescription(text string) (d Description, err error) {
	fail := func(format string, args ...any) (Description, error) {
		return Description{}, fmt.Errorf("%w: %w", ErrDescription, fmt.Errorf(format, args...))
	}
	w := strings.Fields(text)
	if len(w) < 3 {
		return fail("want tcp, udp or icmp, a source and a destination")
	}
	d.Protocol, d.TTL = strings.ToLower(w[0]), 64
	ends := [2]*netip.AddrPort{&d.Src, &d.Dst}
	for i, name := range []string{"source", "destination"} {
		s := w[1+i]
		switch d.Protocol {
		case "tcp", "udp":
			if *ends[i], err = netip.ParseAddrPort(s); err != nil {
				return fail("%s: %q is not ADDRESS:PORT", name, s)
			}
		case "icmp":
			a, err := netip.ParseAddr(strings.Trim(s, "[]"))
			if err != nil {
				return fail("%s: %q is not an address", name, s)
			}
			*ends[i] = netip.AddrPortFrom(a, 0)
		default:
			return fail("%q is none of tcp, udp and icmp", w[0])
		}
		if a := ends[i].Addr(); a.Zone() != "" || a.Is4In6() {
			return fail("%s: %v is not an address for packets that are forwarded", name, a)
		}
	}
	if d.Src.Addr().Is4() != d.Dst.Addr().Is4() {
		return fail("source and destination are of different families")
	}
	for i := 3; i < len(w); i++ {
		number := func(to *int, least, most int) error {
			i++
			if i == len(w) {
				return fmt.Errorf("%s: the number is missing", w[i-1])
			}
			n, err := strconv.Atoi(w[i])
			if err != nil || n < least || n > most {
				return fmt.Errorf("%s: %q is not a number from %d to %d", w[i-1], w[i], least, most)
			}
			*to = n
			return nil
		}
		switch w[i] {
		case "ttl":
			err = number(&d.TTL, 0, 255)
		case "size":
			err = number(&d.Size, 28, 65535)
		case "frag":
			d.Fragment = true
			if err = number(&d.Offset, 0, 65528); err == nil && d.Offset%8 != 0 {
				err = errors.New("frag: is not a multiple of 8")
			}
		case "df":
			d.DF = true
		case "more":
			d.Fragment, d.More = true, true
		default:
			err = fmt.Errorf("%q is none of ttl, size, df, frag and more", w[i])
		}
		if err != nil {
			return fail("%w", err)
		}
	}
	if d.DF && d.Src.Addr().Is6() {
		return fail("df: IPv6 has none")
	}
	return d, nil
}

// Packet makes it, with right checksums.
func (d Description) Packet() ([]byte, error) {
	v4 := d.Src.Addr().Is4()
	head := 40
	if v4 {
		head = 20
	}
	ext := 0
	if d.Fragment && !v4 {
		ext = 8
	}
	l4len, known := map[string]int{"tcp": 20, "udp": 8, "icmp": 8}[d.Protocol]
	if !known || !d.Src.IsValid() || !d.Dst.IsValid() || d.Dst.Addr().Is4() != v4 {
		return nil, fmt.Errorf("%w: protocol or addresses do not fit", ErrDescription)
	}
	size := max(d.Size, head+ext+l4len)
	if d.Size > 0 && d.Size < size {
		return nil, fmt.Errorf("%w: size: %d is less than the headers' %d", ErrDescription, d.Size, size)
	}
	b := make([]byte, size)
	proto := map[string]byte{"tcp": 6, "udp": 17, "icmp": 58}[d.Protocol]
	if v4 && d.Protocol == "icmp" {
		proto = 1
	}
	frag := uint16(d.Offset)
	if v4 {
		b[0], b[8], b[9] = 0x45, byte(d.TTL), proto
		binary.BigEndian.PutUint16(b[2:], uint16(size))
		frag /= 8
		if d.Fragment {
			binary.BigEndian.PutUint16(b[4:], 1)
		}
		if d.More {
			frag |= 0x2000
		}
		if d.DF {
			frag |= 0x4000
		}
		binary.BigEndian.PutUint16(b[6:], frag)
		copy(b[12:], d.Src.Addr().AsSlice())
		copy(b[16:], d.Dst.Addr().AsSlice())
		binary.BigEndian.PutUint16(b[10:], ^sum(b[:20]))
	} else {
		b[0], b[6], b[7] = 0x60, proto, byte(d.TTL)
		binary.BigEndian.PutUint16(b[4:], uint16(size-40))
		copy(b[8:], d.Src.Addr().AsSlice())
		copy(b[24:], d.Dst.Addr().AsSlice())
		if d.Fragment {
			b[6], b[40], b[47] = 44, proto, 1
			if d.More {
				frag |= 1
			}
			binary.BigEndian.PutUint16(b[42:], frag)
		}
	}
	l4 := b[head+ext:]
	if d.Offset > 0 {
		return b, nil // a later fragment has only payload
	}
	at := 16
	switch d.Protocol {
	case "tcp":
		l4[12], l4[13] = 5<<4, 2 // SYN
		binary.BigEndian.PutUint16(l4[14:], 65535)
	case "udp":
		at = 6
		binary.BigEndian.PutUint16(l4[4:], uint16(len(l4)))
	case "icmp":
		at = 2
		l4[0] = 8
		if !v4 {
			l4[0] = 128
		}
		l4[5], l4[7] = 1, 1
	}
	if d.Protocol != "icmp" {
		binary.BigEndian.PutUint16(l4, d.Src.Port())
		binary.BigEndian.PutUint16(l4[2:], d.Dst.Port())
	}
	n := uint32(sum(l4))
	if proto != 1 {
		n += uint32(sum(d.Src.Addr().AsSlice())) + uint32(sum(d.Dst.Addr().AsSlice())) + uint32(proto) + uint32(len(l4))
	}
	for n > 0xffff {
		n = n>>16 + n&0xffff
	}
	c := ^uint16(n)
	if c == 0 && d.Protocol == "udp" {
		c = 0xffff
	}
	binary.BigEndian.PutUint16(l4[at:], c)
	return b, nil
}
