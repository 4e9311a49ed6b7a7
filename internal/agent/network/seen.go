package network

import (
	"bytes"
	"cmp"
	"context"
	hexenc "encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"widecloud/internal/cloud"
)

// seenAge is how old what Seen and Neighbours tell may be: they are asked for each VM in turn.
const seenAge = time.Second

// observed is what the table widecloud-seen held at a time.
type observed struct {
	at    time.Time
	addrs map[seenBy][]netip.Addr // sorted, both families
}

// seenBy is a VM's plug in a network.
type seenBy struct{ network, mac string }

// Neighbours are the IPv6 addresses that VMs of this host have used or asked for on a network in the last two hours, as
// duplicate address detection and neighbour discovery tell: an address in the network's prefix shows that SLAAC
// worked. Link-local ones are among them. It is empty where no VMs run. It may be a second old.
func (d *Driver) Neighbours(ctx context.Context, networkUID string) ([]Neighbour, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n, err := d.network(networkUID)
	if err != nil || !d.want.Role.Hypervisor {
		return nil, err
	}
	seen, err := d.observe(ctx)
	if err != nil {
		return nil, fmt.Errorf("list neighbours of network %s: %w", n.Name, err)
	}
	var out []Neighbour
	for _, e := range n.Endpoints {
		for _, a := range seen.addrs[seenBy{n.UID, e.MAC.String()}] {
			if a.Is6() {
				out = append(out, Neighbour{MAC: e.MAC, IPv6: a})
			}
		}
	}
	slices.SortFunc(out, func(a, b Neighbour) int { return cmp.Or(bytes.Compare(a.MAC, b.MAC), a.IPv6.Compare(b.IPv6)) })
	return out, nil
}

// Seen tells which addresses of the network a VM of this host shows: the IPv4 one that it leased, or speaks of by ARP (a
// VM that moved here does so before it renews its lease), and the IPv6 one, the one that SLAAC makes rather than another.
// Zero is for what was not seen, also because it cannot be read now; that is logged.
func (d *Driver) Seen(ctx context.Context, networkUID string, mac net.HardwareAddr) (ipv4, ipv6 netip.Addr) {
	leases, err := d.Leases(ctx)
	d.mu.Lock()
	defer d.mu.Unlock()
	n, e := d.network(networkUID)
	if e != nil || !d.want.Role.Hypervisor || len(mac) != 6 {
		return
	}
	for _, l := range leases {
		if bytes.Equal(l.MAC, mac) && n.IPv4.Contains(l.IPv4) {
			ipv4 = l.IPv4
		}
	}
	seen, e := d.observe(ctx)
	if err = cmp.Or(err, e); err != nil {
		d.o.Logger.Warn("cannot see the addresses of a VM", "network", n.Name, "mac", mac, "err", err)
		return
	}
	for _, a := range seen.addrs[seenBy{n.UID, mac.String()}] {
		switch {
		case a.Is4() && n.IPv4.Contains(a) && !ipv4.IsValid():
			ipv4 = a
		case a.Is6() && n.Prefix.Contains(a) && (!ipv6.IsValid() || a == cloud.EUI64(n.Prefix, cloud.HardwareAddr(mac))):
			ipv6 = a
		}
	}
	return
}

func (d *Driver) network(uid string) (Network, error) {
	i := slices.IndexFunc(d.want.Networks, func(n Network) bool { return n.UID == uid })
	if i < 0 {
		return Network{}, fmt.Errorf("network %s: %w", uid, ErrUnknownNetwork)
	}
	return d.want.Networks[i], nil
}

// observe reads what was seen, if it was not read within seenAge.
func (d *Driver) observe(ctx context.Context) (observed, error) {
	now := d.o.Now()
	if passed := now.Sub(d.seen.at); d.seen.addrs != nil && passed >= 0 && passed < seenAge {
		return d.seen, nil
	}
	out, err := d.ns.Nft(ctx, d.o.Nft, "", "list", "table", "bridge", "widecloud-seen")
	if err != nil {
		return observed{}, err
	}
	plugs := map[string]plug{}
	for _, p := range d.filter.plugged() {
		plugs[strconv.Quote(p.name)] = p
	}
	seen := observed{at: now, addrs: map[seenBy][]netip.Addr{}}
	// An element is "plug . address timeout … expires …", the address in hexadecimal where nft does not know its type. What is
	// not in quotes is the number of a plug that is gone.
	words := strings.FieldsFunc(out, func(r rune) bool { return strings.ContainsRune(" \t\n,{}", r) })
	for i := 0; i+2 < len(words); i++ {
		p, ok := plugs[words[i]]
		if !ok || words[i+1] != "." {
			continue
		}
		a, err := parseAddr(words[i+2])
		if err != nil {
			return observed{}, err
		}
		by := seenBy{p.network, p.endpoint.MAC.String()}
		if at, found := slices.BinarySearchFunc(seen.addrs[by], a, netip.Addr.Compare); !found {
			seen.addrs[by] = slices.Insert(seen.addrs[by], at, a)
		}
	}
	d.seen = seen
	return seen, nil
}

func parseAddr(s string) (netip.Addr, error) {
	digits, ok := strings.CutPrefix(s, "0x")
	if !ok {
		return netip.ParseAddr(s)
	}
	b, err := hexenc.DecodeString(strings.Repeat("0", max(0, 32-len(digits))) + digits)
	if err != nil || len(b) != 16 {
		return netip.Addr{}, fmt.Errorf("read address %q", s)
	}
	return netip.AddrFrom16([16]byte(b)), nil
}
