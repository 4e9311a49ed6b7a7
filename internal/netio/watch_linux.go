package netio

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
)

// Watch returns a channel that gets a value soon after a device or an address
// of the namespace has come, changed or gone; many changes in a row may give
// one. It is closed when ctx ends, or when the kernel's notifications end.
func (n *NS) Watch(ctx context.Context) (<-chan struct{}, error) {
	out, done := make(chan struct{}, 1), make(chan struct{})
	links, addrs := make(chan netlink.LinkUpdate), make(chan netlink.AddrUpdate)
	ignore := func(error) {} // an overrun: the next notification brings a fresh look
	stop := func() {
		close(done)
		go func() {
			for range links {
			}
		}()
		go func() {
			for range addrs {
			}
		}()
	}
	if err := netlink.LinkSubscribeWithOptions(links, done, netlink.LinkSubscribeOptions{Namespace: &n.fd, ErrorCallback: ignore}); err != nil {
		return nil, fmt.Errorf("watch devices: %w", err)
	}
	if err := netlink.AddrSubscribeWithOptions(addrs, done, netlink.AddrSubscribeOptions{Namespace: &n.fd, ErrorCallback: ignore}); err != nil {
		close(addrs)
		stop()
		return nil, fmt.Errorf("watch addresses: %w", err)
	}
	go func() {
		defer close(out)
		defer stop()
		for {
			select {
			case <-ctx.Done():
				return
			case _, ok := <-links:
				if !ok {
					return
				}
			case _, ok := <-addrs:
				if !ok {
					return
				}
			}
			select {
			case out <- struct{}{}:
			default:
			}
		}
	}()
	return out, nil
}

// RouteTo asks the kernel which route a packet from src (zero: any), come in by
// the device iif ("": made here), would take. An error wraps what the kernel
// answers instead: EHOSTUNREACH, EINVAL for a black hole, …
func (n *NS) RouteTo(dst, src netip.Addr, iif string) (Route, error) {
	o := &netlink.RouteGetOptions{Iif: iif}
	if src.IsValid() {
		o.SrcAddr = src.AsSlice()
	}
	list, err := n.h.RouteGetWithOptions(dst.AsSlice(), o)
	if err != nil {
		return Route{}, fmt.Errorf("find route to %v: %w", dst, notExist(err))
	}
	if len(list) == 0 {
		return Route{}, fmt.Errorf("find route to %v: no answer", dst)
	}
	k := list[0]
	r := Route{Dst: netip.PrefixFrom(dst, dst.BitLen()), Gateway: toAddr(k.Gw), Src: toAddr(k.Src), Table: k.Table, Metric: k.Priority, MTU: k.MTU, Protocol: int(k.Protocol)}
	if l, err := n.h.LinkByIndex(k.LinkIndex); err == nil {
		r.Link = l.Attrs().Name
	}
	return r, nil
}
