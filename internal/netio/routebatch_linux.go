package netio

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"
)

// markedRoute is a route of a LinkPolicy. The netlink library knows no
// source-specific routes (RTA_SRC) and sends one request at a time, which is
// slow for many: so these few messages are made here (rtnetlink(7)).
type markedRoute struct {
	dst, src            netip.Prefix // src: IPv6 only; invalid: any
	table, kind, metric int
	link                int
	mtu                 int // 0: the device's
}

const (
	rtaDst, rtaSrc, rtaOif, rtaPriority, rtaTable = unix.RTA_DST, unix.RTA_SRC, unix.RTA_OIF, unix.RTA_PRIORITY, unix.RTA_TABLE
	nlHeader, rtHeader                            = unix.SizeofNlMsghdr, unix.SizeofRtMsg
)

func appendAttr(b []byte, kind uint16, v []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b, uint16(4+len(v)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = append(b, v...)
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

func appendAttr32(b []byte, kind uint16, v int) []byte {
	return appendAttr(b, kind, binary.NativeEndian.AppendUint32(nil, uint32(v)))
}

// appendRoute appends a whole message about r.
func appendRoute(b []byte, what, flags uint16, seq uint32, proto int, r markedRoute) []byte {
	at := len(b)
	b = append(b, make([]byte, nlHeader)...)
	family, scope := byte(unix.AF_INET6), byte(unix.RT_SCOPE_UNIVERSE)
	if r.dst.Addr().Is4() {
		family = unix.AF_INET
		switch r.kind {
		case unix.RTN_UNICAST:
			scope = unix.RT_SCOPE_LINK
		case unix.RTN_LOCAL:
			scope = unix.RT_SCOPE_HOST
		}
	}
	srcBits := 0
	if r.src.IsValid() {
		srcBits = r.src.Bits()
	}
	b = append(b, family, byte(r.dst.Bits()), byte(srcBits), 0, 0, byte(proto), scope, byte(r.kind), 0, 0, 0, 0)
	b = appendAttr(b, rtaDst, r.dst.Masked().Addr().AsSlice())
	if srcBits > 0 {
		b = appendAttr(b, rtaSrc, r.src.Masked().Addr().AsSlice())
	}
	b = appendAttr32(b, rtaTable, r.table)
	b = appendAttr32(b, rtaPriority, r.metric)
	if r.link != 0 {
		b = appendAttr32(b, rtaOif, r.link)
	}
	if r.mtu != 0 {
		// Locked, or the device's next MTU would be the route's, too.
		b = appendAttr(b, unix.RTA_METRICS, appendAttr32(appendAttr32(nil, unix.RTAX_LOCK, 1<<unix.RTAX_MTU), unix.RTAX_MTU, r.mtu))
	}
	putHeader(b[at:], what, flags, seq)
	return b
}

func putHeader(m []byte, what, flags uint16, seq uint32) {
	binary.NativeEndian.PutUint32(m, uint32(len(m)))
	binary.NativeEndian.PutUint16(m[4:], what)
	binary.NativeEndian.PutUint16(m[6:], flags|unix.NLM_F_REQUEST)
	binary.NativeEndian.PutUint32(m[8:], seq)
}

// routeSocket opens a netlink socket of the namespace.
func (n *NS) routeSocket() (fd int, err error) {
	err = n.Do(func() error {
		if fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE); err != nil {
			return err
		}
		// The errors of a batch must all find room, and a big dump must be read in time.
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 4<<20)
		return unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	})
	return fd, err
}

// changeRoutes adds or deletes routes, some hundreds with each system call.
// Deleting what is not there is no error.
func (n *NS) changeRoutes(proto int, add bool, routes []markedRoute) error {
	if len(routes) == 0 {
		return nil
	}
	fd, err := n.routeSocket()
	if err != nil {
		return fmt.Errorf("change routes: %w", err)
	}
	defer unix.Close(fd)
	what, flags, verb := uint16(unix.RTM_NEWROUTE), uint16(unix.NLM_F_CREATE|unix.NLM_F_EXCL), "add"
	if !add {
		what, flags, verb = unix.RTM_DELROUTE, 0, "delete"
	}
	const batch = 256
	buf := make([]byte, 64<<10)
	var msg []byte
	for first := 0; first < len(routes); first += batch {
		part := routes[first:min(first+batch, len(routes))]
		msg = msg[:0]
		for i, r := range part {
			f := flags
			if i == len(part)-1 {
				f |= unix.NLM_F_ACK // the kernel handles them in order, so this is the end of all
			}
			msg = appendRoute(msg, what, f, uint32(i), proto, r)
		}
		if err := unix.Sendto(fd, msg, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
			return fmt.Errorf("%s routes: %w", verb, err)
		}
		for done := false; !done; {
			got, _, err := unix.Recvfrom(fd, buf, 0)
			if err != nil {
				return fmt.Errorf("%s routes: %w", verb, err)
			}
			err = eachMessage(buf[:got], func(kind uint16, seq uint32, body []byte) error {
				if kind != unix.NLMSG_ERROR || int(seq) >= len(part) || len(body) < 4 {
					return nil
				}
				done = done || int(seq) == len(part)-1
				errno := unix.Errno(-int32(binary.NativeEndian.Uint32(body)))
				if errno == 0 || !add && (errno == unix.ESRCH || errno == unix.ENOENT || errno == unix.ENODEV) {
					return nil
				}
				r := part[seq]
				return fmt.Errorf("%s route to %v from %v in table %d: %w", verb, r.dst, r.src, r.table, errno)
			})
			if err != nil {
				return err
			}
		}
	}
	return nil
}

func eachMessage(b []byte, f func(kind uint16, seq uint32, body []byte) error) error {
	for len(b) >= nlHeader {
		size := int(binary.NativeEndian.Uint32(b))
		if size < nlHeader || size > len(b) {
			return errors.New("read routes: the kernel's message is cut off")
		}
		if err := f(binary.NativeEndian.Uint16(b[4:]), binary.NativeEndian.Uint32(b[8:]), b[nlHeader:size]); err != nil {
			return err
		}
		b = b[min((size+3)&^3, len(b)):]
	}
	return nil
}

// markedRoutes lists what is in the tables under a policy's mark.
func (n *NS) markedRoutes(p LinkPolicy, tables ...int) (map[markedRoute]bool, error) {
	fd, err := n.routeSocket()
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	defer unix.Close(fd)
	// Since Linux 4.20 the kernel picks the table itself; before, it sends all.
	strict := unix.SetsockoptInt(fd, unix.SOL_NETLINK, unix.NETLINK_GET_STRICT_CHK, 1) == nil
	out := map[markedRoute]bool{}
	seq := uint32(0)
	for _, table := range tables {
		for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
			seq++
			msg := make([]byte, nlHeader+rtHeader, 64)
			msg[nlHeader] = family
			if strict {
				msg[nlHeader+5] = byte(p.Protocol)
				msg = appendAttr32(msg, rtaTable, table)
			}
			putHeader(msg, unix.RTM_GETROUTE, unix.NLM_F_DUMP, seq)
			if err := unix.Sendto(fd, msg, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
				return nil, fmt.Errorf("list routes: %w", err)
			}
			if err := readRoutes(fd, seq, func(proto int, r markedRoute) {
				if proto == p.Protocol && r.table == table {
					out[r] = true
				}
			}); err != nil {
				return nil, fmt.Errorf("list routes of table %d: %w", table, err)
			}
		}
	}
	return out, nil
}

func readRoutes(fd int, want uint32, f func(proto int, r markedRoute)) error {
	err := readAll(fd, want, func(kind uint16, body []byte) {
		if kind == unix.RTM_NEWROUTE && len(body) >= rtHeader {
			f(int(body[5]), parseRoute(body))
		}
	})
	if errors.Is(err, unix.ENOENT) {
		return nil // a table that has never been used is not there
	}
	return err
}

// readAll reads the answers to request want until they end, with an error or
// without one.
func readAll(fd int, want uint32, f func(kind uint16, body []byte)) error {
	buf := make([]byte, 256<<10)
	for done := false; !done; {
		got, _, err := unix.Recvfrom(fd, buf, 0)
		if err != nil {
			return err
		}
		err = eachMessage(buf[:got], func(kind uint16, seq uint32, body []byte) error {
			switch {
			case seq != want:
			case kind == unix.NLMSG_DONE:
				done = true
			case kind == unix.NLMSG_ERROR && len(body) >= 4:
				done = true
				if errno := unix.Errno(-int32(binary.NativeEndian.Uint32(body))); errno != 0 {
					return errno
				}
			default:
				f(kind, body)
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func eachAttr(b []byte, f func(kind uint16, v []byte)) {
	for len(b) >= 4 {
		size := int(binary.NativeEndian.Uint16(b))
		if size < 4 || size > len(b) {
			return
		}
		f(binary.NativeEndian.Uint16(b[2:])&^unix.NLA_F_NESTED, b[4:size])
		b = b[min((size+3)&^3, len(b)):]
	}
}

func parseRoute(body []byte) markedRoute {
	r := markedRoute{table: int(body[4]), kind: int(body[7])}
	zero := netip.IPv6Unspecified()
	if body[0] == unix.AF_INET {
		zero = netip.IPv4Unspecified()
	}
	dst, src := zero, zero
	eachAttr(body[rtHeader:], func(kind uint16, v []byte) {
		number := 0
		if len(v) >= 4 {
			number = int(binary.NativeEndian.Uint32(v))
		}
		switch kind {
		case rtaDst:
			dst, _ = netip.AddrFromSlice(v)
		case rtaSrc:
			src, _ = netip.AddrFromSlice(v)
		case rtaTable:
			r.table = number
		case rtaPriority:
			r.metric = number
		case rtaOif:
			r.link = number
		case unix.RTA_METRICS:
			eachAttr(v, func(kind uint16, v []byte) {
				if kind == unix.RTAX_MTU && len(v) >= 4 {
					r.mtu = int(binary.NativeEndian.Uint32(v))
				}
			})
		}
	})
	r.dst = netip.PrefixFrom(dst, int(body[1]))
	if body[2] > 0 {
		r.src = netip.PrefixFrom(src, int(body[2]))
	}
	// IPv6 routes without a device are bound to the loopback device.
	if r.kind == unix.RTN_BLACKHOLE || r.kind == unix.RTN_THROW {
		r.link = 0
	}
	return r
}
