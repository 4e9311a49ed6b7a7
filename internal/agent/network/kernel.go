package network

import (
	"errors"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"slices"

	"widecloud/internal/netio"
)

// kernel makes single things in the host's kernel what they should be, and touches nothing that is. The driver and the
// mobilities work with it alike.
type kernel struct {
	ns  *netio.NS
	log *slog.Logger
}

// dress makes sure of a device's description, MTU and addresses, and that it is up. Addresses come with the flag
// whether their prefix is a route too.
func (k kernel) dress(name, alias string, mtu int, addrs map[netip.Prefix]bool) error {
	if err := k.ns.SetAlias(name, alias); err != nil {
		return err
	}
	l, err := k.ns.Link(name)
	if err != nil {
		return err
	}
	if l.MTU != mtu {
		if err := k.ns.SetMTU(name, mtu); err != nil {
			return err
		}
	}
	have, err := k.ns.Addrs(name)
	if err != nil {
		return err
	}
	for _, p := range have {
		if _, ok := addrs[p]; !ok {
			if err := k.ns.DelAddr(name, p); err != nil {
				return err
			}
		}
	}
	for p, route := range addrs {
		if slices.Contains(have, p) {
			continue
		}
		add := k.ns.AddAddrOnly
		if route {
			add = k.ns.AddAddr
		}
		if err := add(name, p); err != nil {
			return err
		}
	}
	if !l.Up {
		return k.ns.SetUp(name)
	}
	return nil
}

// neighbours makes the permanent entries of a device those of want, and no others.
func (k kernel) neighbours(name string, want map[netip.Addr]net.HardwareAddr) error {
	have, err := k.ns.Neighbours(name)
	if err != nil {
		return err
	}
	right := map[netip.Addr]bool{}
	for _, e := range have {
		mac, wanted := want[e.Addr]
		switch {
		case wanted && e.Permanent && e.MAC.String() == mac.String():
			right[e.Addr] = true
		case !wanted && e.Permanent:
			if err := k.ns.DelNeighbour(name, e.Addr); err != nil {
				return err
			}
		}
	}
	for a, mac := range want {
		if !right[a] {
			if err := k.ns.SetNeighbour(name, a, mac); err != nil {
				return err
			}
		}
	}
	return nil
}

// tableRoutes makes the routes of a table those of want, and no others.
func (k kernel) tableRoutes(table int, want []netio.Route) error {
	have, err := k.ns.Routes(table)
	if err != nil {
		return err
	}
	for _, r := range have {
		if !slices.Contains(want, r) {
			if err := k.ns.DelRoute(r); err != nil {
				return err
			}
		}
	}
	for _, r := range want {
		if !slices.Contains(have, r) {
			if err := k.ns.AddRoute(r); err != nil {
				return err
			}
		}
	}
	return nil
}

// linkRule makes sure of a rule, or that it is not there. Others that do the same with another table are of a VNI that the network
// had before.
func (k kernel) linkRule(rule netio.LinkRule, want bool) error {
	have, err := k.ns.LinkRules(rule.Priority)
	if err != nil {
		return err
	}
	if want && !slices.Contains(have, rule) {
		if err := k.ns.AddLinkRule(rule); err != nil {
			return err
		}
	}
	for _, r := range have {
		if r.Link == rule.Link && r.Src == rule.Src && (r.Table != rule.Table || !want) {
			if err := errors.Join(k.ns.DelLinkRule(r), k.flushTable(r.Table)); err != nil {
				return err
			}
		}
	}
	return nil
}

func (k kernel) flushTable(table int) error {
	routes, err := k.ns.Routes(table)
	for _, r := range routes {
		if e := k.ns.DelRoute(r); !errors.Is(e, fs.ErrNotExist) {
			err = errors.Join(err, e)
		}
	}
	return err
}

func (k kernel) sysctl(key, value string) error {
	if have, err := k.ns.GetSysctl(key); err != nil || have == value {
		return err
	}
	return k.ns.Sysctl(key, value)
}

func (k kernel) sysctlIfThere(key, value string) error {
	if err := k.sysctl(key, value); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
