package network_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"widecloud/internal/agent/network"
	"widecloud/internal/netio"
)

// services are a host's: TCP on port 22 and UDP on port 161 of all its addresses, of both families.
type services struct{ reached atomic.Int64 }

func (w *world) serve(h *host) *services {
	w.t.Helper()
	s := &services{}
	must(w.t, h.ns.Do(func() error {
		l, err := net.Listen("tcp", ":22")
		if err != nil {
			return err
		}
		u, err := net.ListenPacket("udp", ":161")
		if err != nil {
			return errors.Join(err, l.Close())
		}
		w.t.Cleanup(func() { l.Close(); u.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				s.reached.Add(1)
				c.Close()
			}
		}()
		go func() {
			b := make([]byte, 100)
			for {
				_, from, err := u.ReadFrom(b)
				if err != nil {
					return
				}
				s.reached.Add(1)
				u.WriteTo([]byte("here"), from)
			}
		}()
		return nil
	}))
	return s
}

// dial connects from a namespace. The connection is the caller's.
func dial(ns *netio.NS, network, address string, patience time.Duration) (c net.Conn, err error) {
	err = ns.Do(func() error {
		c, err = net.DialTimeout(network, address, patience)
		return err
	})
	return c, err
}

// answers tells whether a service at an address answers somebody.
func answers(ns *netio.NS, network, address string, patience time.Duration) error {
	c, err := dial(ns, network, address, patience)
	if err != nil {
		return err
	}
	defer c.Close()
	if network == "tcp" {
		return nil
	}
	c.SetDeadline(time.Now().Add(patience))
	if _, err := c.Write([]byte("hello")); err != nil {
		return err
	}
	_, err = c.Read(make([]byte, 100))
	return err
}

// ask asks a resolver, by a transport and from an address (zero: any), for a VM's IPv6 address.
func ask(ns *netio.NS, transport string, src netip.Addr, server, name string, patience time.Duration) (got []netip.Addr, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	d := net.Dialer{Timeout: patience}
	switch {
	case !src.IsValid():
	case transport == "tcp":
		d.LocalAddr = &net.TCPAddr{IP: src.AsSlice(), Zone: src.Zone()}
	default:
		d.LocalAddr = &net.UDPAddr{IP: src.AsSlice(), Zone: src.Zone()}
	}
	r := net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (c net.Conn, err error) {
		err = ns.Do(func() error {
			c, err = d.Dial(transport, net.JoinHostPort(server, "53"))
			return err
		})
		return c, err
	}}
	return r.LookupNetIP(ctx, "ip6", name)
}

// TestHostileGuestReachesNoService: whatever address of its host, of a gateway or of another host a VM speaks to, no service there
// hears it.
func TestHostileGuestReachesNoService(t *testing.T) {
	for _, hosts := range homes {
		t.Run(strings.Join(hosts, ","), func(t *testing.T) {
			d := newDen(t, hosts...)
			bad := d.bad
			run(t, bad.ns, "ip", "addr", "add", bad.ep.IPv4.String()+"/16", "dev", "eth0")
			// The gateway has more addresses than those of the underlay and the networks.
			service := netip.MustParseAddr("2001:db8:5e::9")
			must(t, d.gateway.ns.AddAddr("lo", netip.PrefixFrom(service, 128)))
			heard := map[*host]*services{}
			for _, h := range []*host{d.home, d.other, d.gateway} {
				if heard[h] == nil {
					heard[h] = d.serve(h)
				}
				for _, network := range []string{"tcp", "udp"} {
					must(t, answers(h.ns, network, fmt.Sprintf("[%s]:%d", h.vtep, map[string]int{"tcp": 22, "udp": 161}[network]), 5*time.Second))
				}
				// A connection is there before the service has taken it.
				within(t, "what reaches "+h.name+" is counted", func() error {
					if n := heard[h].reached.Load(); n != 2 {
						return fmt.Errorf("%d of 2", n)
					}
					return nil
				})
				heard[h].reached.Store(0)
			}
			for _, to := range []struct {
				what, addr string
				ping       bool
				comment    string // of the rule that drops it, at at
				at         *host
			}{
				{"the router", "fe80::1%eth0", true, "VM reaches for the host", d.home},
				{"the router's other address", "2001:db8:b1ae:1::1", true, "VM reaches for the host", d.home},
				{"the router's IPv4 address", "10.64.0.1", false, "IPv4 is not routed", d.home},
				{"the router of another network", "2001:db8:b1ae:2::1", d.home.role.Gateway, "VM reaches for the host", d.home},
				{"its host's VTEP", d.home.vtep.String(), false, "VM reaches for the host", d.home},
				{"another host's VTEP", d.other.vtep.String(), false, "VM reaches for the underlay", d.gateway},
				{"the gateway's VTEP", d.gateway.vtep.String(), false, "VM reaches for the host", map[bool]*host{true: d.home, false: d.gateway}[d.home.role.Gateway]},
				{"the gateways' VTEP", anycast.String(), false, "VM reaches for the host", d.gateway},
				{"the gateway", "2001:db8:b1ae:1::646", true, "VM reaches for the host", d.gateway},
				{"the gateway's link-local address", "fe80::646%eth0", true, "VM reaches for the host", d.gateway}, // not where a host is both
				{"the gateway on another network", "2001:db8:b1ae:2::646", true, "VM reaches for the host", d.gateway},
				{"an address of the gateway", service.String(), true, "VM reaches for the host", d.gateway},
			} {
				if strings.HasPrefix(to.addr, "fe80::646") && d.home.role.Gateway {
					continue
				}
				for network, port := range map[string]int{"tcp": 22, "udp": 161} {
					before := to.at.drops(to.comment)
					address := net.JoinHostPort(to.addr, fmt.Sprint(port))
					var late net.Error
					if err := answers(bad.ns, network, address, 200*time.Millisecond); !errors.As(err, &late) || !late.Timeout() {
						t.Errorf("%s: %s %s: %v, want no answer in time", to.what, network, address, err)
					}
					within(t, to.what+" by "+network, func() error {
						if to.at.drops(to.comment) == before {
							return fmt.Errorf("%q has counted nothing", to.comment)
						}
						return nil
					})
				}
				patience := map[bool]string{true: "3", false: "0.2"}[to.ping]
				if _, err := try(bad.ns, "ping", "-n", "-c1", "-W"+patience, to.addr); (err == nil) != to.ping {
					t.Errorf("%s: ping %s: %v, want an answer: %v", to.what, to.addr, err, to.ping)
				}
			}
			for h, s := range heard {
				if k := s.reached.Load(); k != 0 {
					t.Errorf("services of %s were reached %d times", h.name, k)
				}
			}
			// Names are another's network's own.
			for _, server := range []string{"2001:db8:b1ae:2::1", "fe80::1%eth0"} {
				before := d.home.drops("VM reaches for the host")
				if got, err := ask(bad.ns, "udp", netip.Addr{}, server, "r.red.internal", 200*time.Millisecond); err == nil {
					t.Errorf("%s tells a VM of network blue that r.red.internal is %v", server, got)
				}
				within(t, "a question to "+server, func() error {
					if d.home.drops("VM reaches for the host") == before {
						return errors.New("it is not counted")
					}
					return nil
				})
			}
			if got, err := ask(d.r.ns, "udp", netip.Addr{}, "2001:db8:b1ae:2::1", "r.red.internal", 5*time.Second); err != nil || len(got) != 1 || got[0] != d.r.ep.IPv6 {
				t.Errorf("a VM of network red asks for r.red.internal: %v %v", got, err)
			}
		})
	}
}

// TestNamesNeedNoGateway: a VM's own host tells it the names of its network, whether or not there is a gateway anywhere.
func TestNamesNeedNoGateway(t *testing.T) {
	for _, there := range []netip.Addr{{}, anycast} {
		t.Run(fmt.Sprintf("anycast VTEP %v", there), func(t *testing.T) {
			w := newWorld(t, "h1")
			h, n := w.hosts["h1"], blue()
			a, b := endpoint(n, "a", 1, h), endpoint(n, "b", 2, h)
			n.Endpoints = []network.Endpoint{a, b}
			want := w.wantAmong(h, n, []string{"h1"})
			want.AnycastVTEP = there // there are no gateways, or they are all down
			w.apply(h, want)
			g := w.plug(h, n, a)
			g.slaac()
			privacy := netip.MustParsePrefix("2001:db8:b1ae:1:1234::5678/64")
			must(t, g.ns.AddAddr("eth0", privacy))
			for what, src := range map[string]netip.Addr{"SLAAC": a.IPv6, "privacy": privacy.Addr(), "link-local": linkLocal(a.MAC).WithZone("eth0")} {
				for _, transport := range []string{"udp", "tcp"} {
					if got, err := ask(g.ns, transport, src, "2001:db8:b1ae:1::1", "b.blue.internal", 5*time.Second); err != nil || !slices.Equal(got, []netip.Addr{b.IPv6}) {
						t.Errorf("from the %s address by %s: %v %v", what, transport, got, err)
					}
				}
			}
			w.reach(g.ns, "the router", netip.MustParseAddr("2001:db8:b1ae:1::1"))
		})
	}
}
