package control_test

import (
	"fmt"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"widecloud/api"
	"widecloud/internal/agent/network"
	"widecloud/internal/wire"
)

// addressesOf are a VM's addresses with their origins and sources, and for how many minutes each was not seen.
func (s *site) addressesOf(vm string) (out []string) {
	for _, a := range s.vm(vm).Status.Addresses {
		text := a.Address + " " + a.Origin
		for _, x := range a.Sources {
			text += fmt.Sprintf(" %s:%.0f", x.Source, time.Since(x.Seen).Minutes())
		}
		if a.Refused {
			text += " refused"
		}
		out = append(out, text)
	}
	return out
}

// TestAddressesSeen: what a host sees of a VM is shown with its source and time, at home and at a lender, and is written when there is
// news, not with each report. What a guest claims takes no address from others.
func TestAddressesSeen(t *testing.T) {
	for _, place := range []string{"tokyo", "osaka"} {
		t.Run(place, func(t *testing.T) {
			federation(t, options{sites: []string{"tokyo", "osaka"}}, func(t *testing.T, w *world) {
				tokyo := w.sites["tokyo"]
				w.lend("osaka", "tokyo", room())
				tokyo.ready("2001:db8:a::/64")
				tokyo.newVM("web1", place)
				tokyo.runs("web1")
				v := tokyo.vm("web1")
				own6, own4 := netip.MustParseAddr(v.Status.Addresses[0].Address), netip.MustParseAddr(v.Status.Addresses[1].Address)
				claimed := own4.Next() // the next VM's
				h := w.sites[place].hosts["h1"]
				sight := func(a netip.Addr, by network.Source, age time.Duration, refused bool) network.Sighting {
					return network.Sighting{Addr: a, Source: by, At: time.Now().Add(-age), Refused: refused}
				}
				h.networks.show(v.Status.MAC, sight(own4, network.ByLease, 20*time.Minute, false), sight(own4, network.ByNeighbour, 0, false), sight(own6, network.ByNeighbour, 0, false),
					sight(netip.MustParseAddr("2001:db8:a::77"), network.ByNeighbour, 0, false), sight(claimed, network.ByNeighbour, 0, true))
				want := []string{
					own6.String() + " slaac neighbour:0", own4.String() + " dhcp dhcp:20 neighbour:0",
					claimed.String() + " guest neighbour:0 refused", "2001:db8:a::77 guest neighbour:0",
				}
				if !soon(time.Minute, func() bool { return len(tokyo.vm("web1").Status.Addresses) == len(want) }) {
					t.Fatalf("seen are %v", tokyo.addressesOf("web1"))
				}
				if diff := cmp.Diff(want, tokyo.addressesOf("web1")); diff != "" {
					t.Errorf("addresses (-want +got):\n%s", diff)
				}
				tokyo.newVM("web2", place)
				if a := tokyo.vm("web2").Status.Addresses[1].Address; a != claimed.String() {
					t.Errorf("web2 has %s, want %s, which web1's guest claims", a, claimed)
				}

				// The host goes on seeing the same: it is written once in five minutes.
				writes, last := 0, tokyo.vm("web1").Revision
				for range 60 {
					h.networks.show(v.Status.MAC, sight(own4, network.ByLease, 20*time.Minute, false), sight(own4, network.ByNeighbour, 0, false), sight(own6, network.ByNeighbour, 0, false))
					time.Sleep(5 * time.Second)
					if now := tokyo.vm("web1").Revision; now != last {
						writes, last = writes+1, now
					}
				}
				if writes != 1 {
					t.Errorf("%d writes in five minutes of reports", writes)
				}

				// Nothing is seen any more: its own stay, with their times, what the guest took is forgotten.
				h.networks.show(v.Status.MAC, sight(own6, network.ByNeighbour, 0, false), sight(netip.MustParseAddr("2001:db8:a::88"), network.ByNeighbour, 115*time.Minute, false))
				time.Sleep(time.Minute)
				if got := tokyo.addressesOf("web1"); !slices.Contains(got, "2001:db8:a::88 guest neighbour:116") {
					t.Errorf("an address of two hours ago: %v", got)
				}
				h.networks.show(v.Status.MAC)
				time.Sleep(10 * time.Minute)
				if got := tokyo.addressesOf("web1"); slices.ContainsFunc(got, func(s string) bool { return strings.Contains(s, "::88") }) || !strings.HasPrefix(got[0], own6.String()+" slaac neighbour:1") {
					t.Errorf("after ten minutes without news: %v", got)
				}
			})
		})
	}
}

// TestAddressesAreJudged: a report of addresses is a stranger's word.
func TestAddressesAreJudged(t *testing.T) {
	federation(t, options{sites: []string{"tokyo"}}, func(t *testing.T, w *world) {
		tokyo := w.sites["tokyo"]
		tokyo.ready("2001:db8:a::/64")
		tokyo.newVM("web1", "tokyo")
		tokyo.runs("web1")
		v, h := tokyo.vm("web1"), tokyo.hosts["h1"]
		h.kill()
		s, err := w.session("tokyo", "tokyo.h1", h.cred, wire.Control)
		w.must(err)
		defer s.Close()
		report := func(seen ...wire.SeenAddress) error {
			return wire.Call(t.Context(), s, http.MethodPost, wire.PathReport, wire.HostReport{
				Roles: h.roles, VTEP: h.vtep, Capacity: h.room, Images: []string{},
				VMs: []wire.VMReport{{VM: v.UID, Epoch: v.Status.Epoch, State: wire.CopyRunning, Addresses: seen}},
			}, &wire.Empty{})
		}
		good := wire.SeenAddress{Address: netip.MustParseAddr("2001:db8:a::5"), Source: api.SourceNeighbour}
		for what, bad := range map[string][]wire.SeenAddress{
			"no address": {{Source: api.SourceDHCP}}, "a zone": {{Address: netip.MustParseAddr("fe80::1%eth0"), Source: api.SourceNeighbour}},
			"mapped": {{Address: netip.MustParseAddr("::ffff:10.0.0.1"), Source: api.SourceNeighbour}}, "the future": {{Address: good.Address, Source: good.Source, Age: -1}},
			"too many": slices.Repeat([]wire.SeenAddress{good}, wire.MaxSeen+1),
		} {
			if err := report(bad...); err == nil || !strings.Contains(err.Error(), "addresses") {
				t.Errorf("%s: %v", what, err)
			}
		}
		for i := range 5 { // each time others
			var many []wire.SeenAddress
			for k := range wire.MaxSeen {
				many = append(many, wire.SeenAddress{Address: netip.MustParseAddr(fmt.Sprintf("2001:db8:a::%x:%x", i+1, k)), Source: api.SourceNeighbour})
			}
			w.must(report(many...))
			time.Sleep(time.Minute)
		}
		w.must(report(wire.SeenAddress{Address: good.Address, Source: "of-a-newer-release"}, good))
		have := tokyo.vm("web1").Status.Addresses
		if len(have) != 2+wire.MaxSeen || !slices.ContainsFunc(have, func(a api.VMAddress) bool { return a.Address == good.Address.String() && len(a.Sources) == 1 }) {
			t.Errorf("%d addresses: %v", len(have), tokyo.addressesOf("web1"))
		}
	})
}
