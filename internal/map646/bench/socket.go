package main

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"runtime"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"
)

// The loops of small packets make their system calls without telling the
// runtime (RawSyscall), on threads of their own: the scheduler's part in a
// blocking call would cost as much as the call, in no constant way. This needs
// GC off and processors to spare (see runEnd).

const (
	soRcvbufForce = 33
	ipv6Pktinfo   = 50
)

// bindCPU binds all threads of this process that are yet to come, and this one,
// to a CPU; less than 0: to none.
func bindCPU(cpu int) error {
	if cpu < 0 {
		return nil
	}
	var mask [16]uint64
	mask[cpu/64] |= 1 << (cpu % 64)
	// The runtime has few threads by now; threads inherit from whoever makes them.
	for _, tid := range threads() {
		if _, _, e := syscall.RawSyscall(syscall.SYS_SCHED_SETAFFINITY, uintptr(tid), unsafe.Sizeof(mask), uintptr(unsafe.Pointer(&mask))); e != 0 {
			return fmt.Errorf("bind to CPU %d: %w", cpu, e)
		}
	}
	return nil
}

func udpSocket(family int) (int, error) {
	fd, err := syscall.Socket(family, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	if family == syscall.AF_INET6 {
		err = syscall.SetsockoptInt(fd, syscall.IPPROTO_IPV6, syscall.IPV6_V6ONLY, 1)
	} else {
		// Without DF the kernel keeps an Identification for each destination, somewhere in
		// a megabyte.
		err = syscall.SetsockoptInt(fd, syscall.IPPROTO_IP, syscall.IP_MTU_DISCOVER, syscall.IP_PMTUDISC_DO)
	}
	if err == nil {
		err = syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, soRcvbufForce, 8<<20)
	}
	if err != nil {
		syscall.Close(fd)
		return -1, err
	}
	return fd, nil
}

func bindAny(fd, family, port int) error {
	if family == syscall.AF_INET {
		return syscall.Bind(fd, &syscall.SockaddrInet4{Port: port})
	}
	return syscall.Bind(fd, &syscall.SockaddrInet6{Port: port})
}

type udpSink struct {
	packets atomic.Uint64
	_       [56]byte
}

func newUDPSink(family int) (*udpSink, error) {
	fd, err := udpSocket(family)
	if err == nil {
		err = bindAny(fd, family, portUDP)
	}
	if err != nil {
		return nil, fmt.Errorf("udp sink: %w", err)
	}
	s := &udpSink{}
	go func() {
		runtime.LockOSThread()
		buf := make([]byte, 2048)
		for {
			_, _, e := syscall.RawSyscall6(syscall.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(&buf[0])), uintptr(len(buf)), 0, 0, 0)
			if e == 0 {
				s.packets.Add(1)
			} else if e == syscall.EBADF {
				return
			}
		}
	}()
	return s, nil
}

func echoUDP(family int) error {
	fd, err := udpSocket(family)
	if err == nil {
		err = bindAny(fd, family, portEcho)
	}
	if err != nil {
		return fmt.Errorf("udp echo: %w", err)
	}
	go func() {
		runtime.LockOSThread()
		buf := make([]byte, 2048)
		var from [28]byte
		for {
			size := uint32(len(from))
			n, _, e := syscall.RawSyscall6(syscall.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(&buf[0])), uintptr(len(buf)), 0,
				uintptr(unsafe.Pointer(&from)), uintptr(unsafe.Pointer(&size)))
			if e == syscall.EBADF {
				return
			}
			if e == 0 {
				syscall.RawSyscall6(syscall.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(&buf[0])), n, 0,
					uintptr(unsafe.Pointer(&from)), uintptr(size))
			}
		}
	}()
	return nil
}

// rawAddr is a sockaddr_in or sockaddr_in6, and where in it the address is.
func rawAddr(to netip.AddrPort) (raw []byte, addr []byte) {
	if to.Addr().Is4() {
		raw = make([]byte, 16)
		binary.NativeEndian.PutUint16(raw, syscall.AF_INET)
		addr = raw[4:8]
	} else {
		raw = make([]byte, 28)
		binary.NativeEndian.PutUint16(raw, syscall.AF_INET6)
		addr = raw[8:24]
	}
	binary.BigEndian.PutUint16(raw[2:], to.Port())
	copy(addr, to.Addr().AsSlice())
	return raw, addr
}

func familyOf(a netip.Addr) int {
	if a.Is4() {
		return syscall.AF_INET
	}
	return syscall.AF_INET6
}

func connected(to netip.AddrPort) (int, error) {
	fd, err := udpSocket(familyOf(to.Addr()))
	if err != nil {
		return -1, err
	}
	if raw, _ := rawAddr(to); true {
		if _, _, e := syscall.RawSyscall(syscall.SYS_CONNECT, uintptr(fd), uintptr(unsafe.Pointer(&raw[0])), uintptr(len(raw))); e != 0 {
			syscall.Close(fd)
			return -1, e
		}
	}
	return fd, nil
}

// spread walks over n addresses from first on, in an order without order, and
// writes them into addr's last four bytes.
type spread struct {
	base  uint32
	n     uint64
	state uint32
	addr  []byte
}

func newSpread(first netip.Addr, n int, addr []byte) spread {
	copy(addr, first.AsSlice())
	return spread{base: binary.BigEndian.Uint32(addr[len(addr)-4:]), n: uint64(n), state: 2463534242, addr: addr[len(addr)-4:]}
}

func (s *spread) next() {
	// Marsaglia's xorshift: cheap, and no two neighbours have to do with each other.
	s.state ^= s.state << 13
	s.state ^= s.state >> 17
	s.state ^= s.state << 5
	binary.BigEndian.PutUint32(s.addr, s.base+uint32(uint64(s.state)*s.n>>32))
}

// sendUDP sends at a rate, a burst at a time, until the time is over.
func sendUDP(o order) (answer, error) {
	if o.Rate <= 0 || o.Seconds <= 0 {
		return answer{}, fmt.Errorf("rate %d, seconds %v: must be positive", o.Rate, o.Seconds)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	send, closer, err := sender(o)
	if err != nil {
		return answer{}, err
	}
	defer closer()
	var a answer
	burst := max(o.Burst, 1)
	// When each burst is due. Who was kept from running does not catch up, unless
	// the number matters: it would be a flood, and no rate.
	start := time.Now()
	every := time.Duration(float64(burst) / float64(o.Rate) * 1e9)
	end := start.Add(time.Duration(o.Seconds * 1e9))
	for due := start; due.Before(end); due = due.Add(every) {
		now := time.Now()
		if wait := due.Sub(now); wait > 0 {
			ts := syscall.NsecToTimespec(wait.Nanoseconds())
			syscall.RawSyscall(syscall.SYS_NANOSLEEP, uintptr(unsafe.Pointer(&ts)), 0, 0)
		} else if wait < -2*time.Millisecond && !o.CatchUp {
			due = now
		}
		for range burst {
			if e := send(); e != 0 {
				return a, fmt.Errorf("send: %w", e)
			}
			a.Packets++
		}
	}
	a.Seconds = since(start)
	return a, nil
}

// sender makes the function that sends one packet.
func sender(o order) (send func() syscall.Errno, closer func(), err error) {
	payload := make([]byte, max(o.Size, 1))
	if o.Spread == 0 {
		fd, err := connected(o.To)
		if err != nil {
			return nil, nil, err
		}
		return func() syscall.Errno {
			_, _, e := syscall.RawSyscall6(syscall.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(&payload[0])), uintptr(len(payload)), 0, 0, 0)
			return e
		}, func() { syscall.Close(fd) }, nil
	}
	fd, err := udpSocket(familyOf(o.To.Addr()))
	if err != nil {
		return nil, nil, err
	}
	raw, addr := rawAddr(o.To)
	if !o.Sources {
		s := newSpread(o.First, o.Spread, addr)
		return func() syscall.Errno {
			s.next()
			_, _, e := syscall.RawSyscall6(syscall.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(&payload[0])), uintptr(len(payload)), 0,
				uintptr(unsafe.Pointer(&raw[0])), uintptr(len(raw)))
			return e
		}, func() { syscall.Close(fd) }, nil
	}
	// The source goes into the message (RFC 3542 §6.2).
	control := make([]byte, syscall.CmsgSpace(20))
	h := (*syscall.Cmsghdr)(unsafe.Pointer(&control[0]))
	h.Level, h.Type = syscall.IPPROTO_IPV6, ipv6Pktinfo
	h.SetLen(syscall.CmsgLen(20))
	s := newSpread(o.First, o.Spread, control[syscall.CmsgLen(0):][:16])
	iov := syscall.Iovec{Base: &payload[0]}
	iov.SetLen(len(payload))
	msg := syscall.Msghdr{Name: &raw[0], Namelen: uint32(len(raw)), Iov: &iov, Iovlen: 1, Control: &control[0]}
	msg.SetControllen(len(control))
	return func() syscall.Errno {
		s.next()
		_, _, e := syscall.RawSyscall(syscall.SYS_SENDMSG, uintptr(fd), uintptr(unsafe.Pointer(&msg)), 0)
		return e
	}, func() { syscall.Close(fd) }, nil
}

// pingPong sends a packet, waits for its echo, and so on.
func pingPong(o order) (answer, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	fd, err := connected(o.To)
	if err != nil {
		return answer{}, err
	}
	defer syscall.Close(fd)
	limit := syscall.Timeval{Sec: 1}
	if o.Seconds > 0 {
		limit = syscall.NsecToTimeval(int64(o.Seconds * 1e9))
	}
	if err := syscall.SetsockoptTimeval(fd, syscall.SOL_SOCKET, syscall.SO_RCVTIMEO, &limit); err != nil {
		return answer{}, err
	}
	buf := make([]byte, max(o.Size, 8))
	rtt := make([]float64, 0, o.Packets)
	for i := range o.Packets {
		start := time.Now()
		_, _, e := syscall.RawSyscall6(syscall.SYS_SENDTO, uintptr(fd), uintptr(unsafe.Pointer(&buf[0])), uintptr(len(buf)), 0, 0, 0)
		if e == 0 {
			_, _, e = syscall.RawSyscall6(syscall.SYS_RECVFROM, uintptr(fd), uintptr(unsafe.Pointer(&buf[0])), uintptr(len(buf)), 0, 0, 0)
		}
		if e != 0 {
			return answer{}, fmt.Errorf("round trip %d: %w", i, e)
		}
		rtt = append(rtt, float64(time.Since(start).Nanoseconds())/1e3)
	}
	return answer{Packets: uint64(o.Packets), P10: percentile(rtt, .1), P50: percentile(rtt, .5)}, nil
}
