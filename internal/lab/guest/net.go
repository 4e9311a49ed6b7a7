package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"
	"unsafe"
)

// ioctl does a network ioctl with a struct ifreq of 40 bytes.
func ioctl(request uintptr, ifreq *[40]byte) error {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer syscall.Close(fd)
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), request, uintptr(unsafe.Pointer(ifreq))); errno != 0 {
		return errno
	}
	return nil
}

func ifreq(device string) *[40]byte {
	var r [40]byte
	copy(r[:15], device)
	return &r
}

func linkUp(device string) error {
	r := ifreq(device)
	if err := ioctl(syscall.SIOCGIFFLAGS, r); err != nil {
		return err
	}
	flags := binary.NativeEndian.Uint16(r[16:]) | syscall.IFF_UP
	binary.NativeEndian.PutUint16(r[16:], flags)
	return ioctl(syscall.SIOCSIFFLAGS, r)
}

// lease is what DHCP gave us.
type lease struct {
	addr, router, server netip.Addr
	bits, mtu            int
	time                 time.Duration
}

// dhcp keeps the device's IPv4 address: RFC 2131, the parts that a client with
// one network card and no ambition needs.
func dhcp(device string) {
	wait := time.Second
	for {
		l, err := dhcpOnce(device)
		if err != nil {
			// No server is a usual thing: networks need not have IPv4.
			time.Sleep(wait)
			wait = min(wait*2, 30*time.Second)
			continue
		}
		warn("configure IPv4", l.configure(device))
		time.Sleep(max(l.time/2, 10*time.Second))
	}
}

func dhcpOnce(device string) (lease, error) {
	nic, err := net.InterfaceByName(device)
	if err != nil {
		return lease{}, err
	}
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return lease{}, err
	}
	defer syscall.Close(fd)
	err = errors.Join(
		syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1),
		syscall.SetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_BROADCAST, 1),
		syscall.SetsockoptString(fd, syscall.SOL_SOCKET, syscall.SO_BINDTODEVICE, device),
		syscall.SetsockoptTimeval(fd, syscall.SOL_SOCKET, syscall.SO_RCVTIMEO, &syscall.Timeval{Sec: 2}),
		syscall.Bind(fd, &syscall.SockaddrInet4{Port: 68}))
	if err != nil {
		return lease{}, err
	}
	xid := uint32(time.Now().UnixNano()) ^ uint32(os.Getpid())
	for _, b := range nic.HardwareAddr {
		xid = xid*31 + uint32(b)
	}
	const discover, offer, request, ack = 1, 2, 3, 5
	o, err := exchange(fd, nic.HardwareAddr, xid, discover, offer, nil)
	if err != nil {
		return lease{}, err
	}
	chosen := []byte{50, 4}
	chosen = append(chosen, o.addr.AsSlice()...)
	chosen = append(chosen, 54, 4)
	chosen = append(chosen, o.server.AsSlice()...)
	return exchange(fd, nic.HardwareAddr, xid, request, ack, chosen)
}

// exchange sends one message and waits for the answer of the wanted type.
func exchange(fd int, mac net.HardwareAddr, xid uint32, kind, want byte, options []byte) (lease, error) {
	m := make([]byte, 240, 400)
	m[0], m[1], m[2] = 1, 1, 6 // BOOTREQUEST, Ethernet, 6 bytes
	binary.BigEndian.PutUint32(m[4:], xid)
	m[10] = 0x80 // answer by broadcast: we have no address yet
	copy(m[28:], mac)
	copy(m[236:], []byte{99, 130, 83, 99})
	host, _ := os.Hostname()
	m = append(m, 53, 1, kind, 55, 4, 1, 3, 26, 51)
	if host != "" && host != "(none)" {
		m = append(append(m, 12, byte(len(host))), host...)
	}
	m = append(append(m, options...), 255)
	to := &syscall.SockaddrInet4{Port: 67, Addr: [4]byte{255, 255, 255, 255}}
	if err := syscall.Sendto(fd, m, 0, to); err != nil {
		return lease{}, err
	}
	b := make([]byte, 1500)
	for {
		n, _, err := syscall.Recvfrom(fd, b, 0)
		if err != nil {
			return lease{}, err
		}
		l, got, ok := parseReply(b[:n], xid)
		switch {
		case !ok:
		case got == want:
			return l, nil
		case got == 6:
			return lease{}, errors.New("refused")
		}
	}
}

// parseReply reads a DHCP answer; it returns false for what is not one of ours.
func parseReply(b []byte, xid uint32) (l lease, kind byte, ok bool) {
	if len(b) < 240 || b[0] != 2 || binary.BigEndian.Uint32(b[4:]) != xid {
		return lease{}, 0, false
	}
	l.addr = netip.AddrFrom4([4]byte(b[16:20]))
	l.bits, l.time = 24, time.Hour
	for o := b[240:]; len(o) > 0 && o[0] != 255; {
		if o[0] == 0 {
			o = o[1:]
			continue
		}
		if len(o) < 2 || len(o) < 2+int(o[1]) {
			return lease{}, 0, false
		}
		v := o[2 : 2+int(o[1])]
		switch {
		case o[0] == 53 && len(v) == 1:
			kind = v[0]
		case o[0] == 1 && len(v) == 4:
			l.bits, _ = net.IPMask(v).Size()
		case o[0] == 3 && len(v) >= 4:
			l.router = netip.AddrFrom4([4]byte(v[:4]))
		case o[0] == 26 && len(v) == 2:
			l.mtu = int(binary.BigEndian.Uint16(v))
		case o[0] == 51 && len(v) == 4:
			l.time = time.Duration(binary.BigEndian.Uint32(v)) * time.Second
		case o[0] == 54 && len(v) == 4:
			l.server = netip.AddrFrom4([4]byte(v))
		}
		o = o[2+len(v):]
	}
	return l, kind, l.addr.IsValid() && kind != 0
}

func (l lease) configure(device string) error {
	sockaddr := func(b []byte, a netip.Addr) {
		binary.NativeEndian.PutUint16(b, syscall.AF_INET)
		copy(b[4:], a.AsSlice())
	}
	if nic, err := net.InterfaceByName(device); err == nil {
		addrs, _ := nic.Addrs()
		for _, a := range addrs {
			if p, err := netip.ParsePrefix(a.String()); err == nil && p.Addr() == l.addr && p.Bits() == l.bits {
				return nil // renewed
			}
		}
	}
	r := ifreq(device)
	sockaddr(r[16:], l.addr)
	if err := ioctl(syscall.SIOCSIFADDR, r); err != nil {
		return fmt.Errorf("set address: %w", err)
	}
	r = ifreq(device)
	mask := net.CIDRMask(l.bits, 32)
	sockaddr(r[16:], netip.AddrFrom4([4]byte(mask)))
	if err := ioctl(syscall.SIOCSIFNETMASK, r); err != nil {
		return fmt.Errorf("set netmask: %w", err)
	}
	if l.mtu >= 576 {
		r = ifreq(device)
		binary.NativeEndian.PutUint32(r[16:], uint32(l.mtu))
		if err := ioctl(syscall.SIOCSIFMTU, r); err != nil {
			return fmt.Errorf("set mtu: %w", err)
		}
	}
	if !l.router.IsValid() {
		return nil
	}
	// struct rtentry (linux/route.h), 64-bit layout: dst at 8, gateway at 24,
	// genmask at 40, flags at 56.
	var rt [120]byte
	sockaddr(rt[8:], netip.IPv4Unspecified())
	sockaddr(rt[24:], l.router)
	sockaddr(rt[40:], netip.IPv4Unspecified())
	binary.NativeEndian.PutUint16(rt[56:], syscall.RTF_UP|syscall.RTF_GATEWAY)
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_DGRAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer syscall.Close(fd)
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(fd), syscall.SIOCADDRT, uintptr(unsafe.Pointer(&rt))); errno != 0 && errno != syscall.EEXIST {
		return fmt.Errorf("add default route: %w", errno)
	}
	return nil
}
