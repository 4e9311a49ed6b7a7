package map646

import (
	"errors"
	"fmt"
	"net/netip"
)

// drained is what is left of the device's addresses when their prefixes are
// withdrawn. One of IPv6 with a prefix around it stays as a host's address, for
// it is this node's own. Others become local addresses on no device: packets for
// them are still taken, but no routing daemon announces them. One that stands
// alone is shared with other nodes. One of IPv4 would make two changes of one, the
// second of which OSPF's routers may not hear of for seconds (RFC 2328,
// MinLSArrival).
func drained(addrs []netip.Prefix) (stay []netip.Prefix, locals []netip.Addr) {
	for _, p := range addrs {
		if p.IsSingleIP() || p.Addr().Is4() {
			locals = append(locals, p.Addr())
		} else {
			stay = append(stay, netip.PrefixFrom(p.Addr(), p.Addr().BitLen()))
		}
	}
	return stay, locals
}

// onDevice are the addresses that the device is to have.
func (c *Config) onDevice(withdrawn bool) []netip.Prefix {
	if !withdrawn {
		return c.Addresses
	}
	stay, _ := drained(c.Addresses)
	return stay
}

// place brings addresses, routes and rules to the kernel. The routes of our own
// mark stay in both states, so that what still comes is translated. changing is
// held.
func (d *Daemon) place(c *Config, withdrawn bool) error {
	more := c.emptyPolicy()
	_, more.Locals = drained(c.Addresses)
	p := d.policy(c, d.table.Load(), withdrawn)
	var err error
	if withdrawn && len(more.Locals) > 0 && !d.withdrawn {
		if err = d.ns.SyncLinkPolicy(p); err != nil {
			return err
		}
	}
	// The last IPv4 address takes the device's IPv4 routes with it, so routes come
	// after addresses.
	err = errors.Join(d.tun.SetAddrs(c.onDevice(withdrawn)), d.ns.SyncLinkPolicy(p))
	d.mu.Lock()
	d.withdrawn = withdrawn
	d.mu.Unlock()
	return err
}

// Drain takes the service prefixes off the device, so that the routing daemon
// beside us withdraws them and the routers turn to other nodes; what still comes
// is translated as before. With on false they come back.
func (d *Daemon) Drain(on bool) error {
	d.changing.Lock()
	defer d.changing.Unlock()
	if d.tun == nil {
		return errors.New("drain: not running")
	}
	d.mu.Lock()
	d.draining = on
	withdrawn := on || len(d.sick) > 0
	d.mu.Unlock()
	if err := d.place(d.config, withdrawn); err != nil {
		return fmt.Errorf("drain: %w", err)
	}
	d.log.Info("drain", "on", on, "withdrawn", withdrawn)
	return nil
}
