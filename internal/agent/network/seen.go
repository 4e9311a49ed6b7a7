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
)

// seenAge is how old what Seen tells may be: it is asked for each VM in turn.
const seenAge = time.Second

// observed is what the table widecloud-seen held at a time.
type observed struct {
	at    time.Time
	addrs map[seenBy][]Sighting // by neighbour discovery and ARP
}

// seenBy is a VM's plug in a network.
type seenBy struct{ network, mac string }

// Seen are the addresses that a VM of this host was seen with on a network: what it has leased, and what it has spoken of by
// neighbour discovery or ARP, or sent IPv6 packets from, in the last two hours, sorted by address and source. Link-local addresses
// are left out. What the filters drop is among them, as Refused. It may be a second old. It is empty where no VMs run.
func (d *Driver) Seen(ctx context.Context, networkUID string, mac net.HardwareAddr) ([]Sighting, error) {
	leases, err := d.Leases(ctx)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	n, err := d.network(networkUID)
	if err != nil || !d.want.Role.Hypervisor {
		return nil, err
	}
	seen, err := d.observe(ctx)
	if err != nil {
		return nil, fmt.Errorf("list the addresses seen on network %s: %w", n.Name, err)
	}
	out := slices.Clone(seen.addrs[seenBy{n.UID, mac.String()}])
	for _, l := range leases {
		// A lease of a VM that has moved away, and back, may be older than its network's plan.
		if bytes.Equal(l.MAC, mac) && n.IPv4.Contains(l.IPv4) {
			out = append(out, Sighting{Addr: l.IPv4, Source: ByLease, At: l.Expires.Add(-leaseTime)})
		}
	}
	slices.SortFunc(out, func(a, b Sighting) int { return cmp.Or(a.Addr.Compare(b.Addr), cmp.Compare(a.Source, b.Source)) })
	return out, nil
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
	found, err := parseSeen(out, plugs, now)
	if err != nil {
		return observed{}, err
	}
	d.seen = observed{at: now, addrs: found}
	return d.seen, nil
}

// parseSeen reads a listing of the table. An element is "plug . address timeout … expires …", the address in hexadecimal where nft
// does not know its type. What is not in quotes is the number of a plug that is gone.
func parseSeen(listing string, plugs map[string]plug, now time.Time) (map[seenBy][]Sighting, error) {
	found := map[seenBy][]Sighting{}
	skip, claimed := false, false // the set is another one; it is of what plugs claim
	words := strings.FieldsFunc(listing, func(r rune) bool { return strings.ContainsRune(" \t\n,{}", r) })
	for i := 0; i+2 < len(words); i++ {
		if words[i] == "set" {
			claimed = strings.HasPrefix(words[i+1], "claimed")
			skip = !claimed && !strings.HasPrefix(words[i+1], "seen")
		}
		p, ok := plugs[words[i]]
		if !ok || skip || words[i+1] != "." {
			continue
		}
		a, err := parseAddr(words[i+2])
		if err != nil {
			return nil, err
		}
		if a.IsLinkLocalUnicast() {
			continue
		}
		s := Sighting{Addr: a, Source: ByNeighbour, At: now, Refused: claimed}
		if left, ok := expires(words[i+3:]); ok {
			s.At = now.Add(left - seenFor)
		}
		by := seenBy{p.network, p.endpoint.MAC.String()}
		switch at := slices.IndexFunc(found[by], func(x Sighting) bool { return x.Addr == a }); {
		case at < 0:
			found[by] = append(found[by], s)
		case found[by][at].Refused && !claimed: // what passes is claimed first
			found[by][at] = s
		}
	}
	return found, nil
}

// expires reads the time that an element has left, out of the words that follow it.
func expires(words []string) (time.Duration, bool) {
	for i := 0; i+1 < min(len(words), 4); i += 2 {
		if words[i] == "expires" {
			left, err := time.ParseDuration(words[i+1])
			return left, err == nil
		}
	}
	return 0, false
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
