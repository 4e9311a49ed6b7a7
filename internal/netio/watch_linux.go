package netio

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// notifications are a kind of the kernel's.
type notifications struct {
	what     string
	protocol int
	groups   []uint
}

// watched are those that Watch listens to.
var watched = []notifications{
	{"devices, addresses and rules", unix.NETLINK_ROUTE, []uint{
		unix.RTNLGRP_LINK, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE,
	}},
	{"nftables", unix.NETLINK_NETFILTER, []uint{unix.NFNLGRP_NFTABLES}},
	{"IPsec policies", unix.NETLINK_XFRM, []uint{nl.XFRMNLGRP_POLICY}},
}

// Watch returns a channel that gets a value soon after something has come, changed or
// gone in the namespace that Links, Addrs or ForwardHooks tell of, but for the tables of
// the older iptables (OldTables), of which the kernel says nothing; many changes in a
// row may give one. It is closed when ctx ends, or when one of the kernel's
// notifications ends.
func (n *NS) Watch(ctx context.Context) (<-chan struct{}, error) { return n.watch(ctx, watched) }

// WatchLinks is like Watch for what Links tells of alone: devices that come, change, join a bridge or go.
func (n *NS) WatchLinks(ctx context.Context) (<-chan struct{}, error) {
	return n.watch(ctx, []notifications{{"devices", unix.NETLINK_ROUTE, []uint{unix.RTNLGRP_LINK}}})
}

func (n *NS) watch(ctx context.Context, watched []notifications) (<-chan struct{}, error) {
	out := make(chan struct{}, 1)
	var sockets []*nl.NetlinkSocket
	hangUp := func() {
		for _, s := range sockets {
			s.Close()
		}
	}
	for _, w := range watched {
		s, err := nl.SubscribeAt(n.fd, netns.None(), w.protocol, w.groups...)
		if errors.Is(err, unix.EPROTONOSUPPORT) {
			continue // a kernel without it has none of them
		}
		if err != nil {
			hangUp()
			return nil, fmt.Errorf("watch %s: %w", w.what, err)
		}
		sockets = append(sockets, s)
	}
	ctx, end := context.WithCancel(ctx)
	context.AfterFunc(ctx, hangUp)
	var readers sync.WaitGroup
	for _, s := range sockets {
		readers.Go(func() {
			defer end() // of the others, too
			for {
				// What was lost (ENOBUFS) is a change, too.
				if _, _, err := s.Receive(); err != nil && !errors.Is(err, unix.ENOBUFS) {
					return
				}
				select {
				case out <- struct{}{}:
				default:
				}
			}
		})
	}
	go func() {
		defer end()
		readers.Wait()
		close(out)
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
