package control_test

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"widecloud/api"
	"widecloud/internal/netplan"
	"widecloud/internal/serve"
	"widecloud/internal/wire"
)

// Names in the hands of a hostile peer.
const (
	evilNet  = "99999999-2222-4333-8444-555555555555"
	evilVM   = "11111111-2222-4333-8444-555555555555"
	evilVTEP = "2001:db8:666::1"
)

// evilView is a network of tokyo's as tokyo tells of it.
func evilView(prefix string, members ...api.NetworkMember) wire.NetworkView {
	p := netip.MustParsePrefix(prefix)
	return wire.NetworkView{
		Spec: netplan.Spec{UID: evilNet, Name: "red", VNI: 77, Prefix: p, MTU: 1430}, Members: members,
		Endpoints: []wire.EndpointOrder{{VM: evilVM, Hostname: "evil", MAC: "06:00:00:00:00:01", IPv6: p.Addr().Next().Next().Next(), VTEP: netip.MustParseAddr(evilVTEP)}},
	}
}

// evilClaim asks osaka for room for a VM of tokyo's.
func evilClaim(loan string) wire.ClaimCall {
	return wire.ClaimCall{
		Job: "create-x", Loan: loan, Owner: "lab", Needs: api.Resources{CPUs: 1, MemoryMiB: 256, DiskGiB: 1}, Start: true,
		Order: wire.VMOrder{
			VM: evilVM, Name: "evil", Home: "tokyo", Epoch: 1, Run: wire.RunOn, Hardware: api.Hardware{CPUs: 1, MemoryMiB: 256}, DiskMiB: 64,
			Image: "sha256:" + strings.Repeat("0", 64), NIC: wire.NICOrder{Network: evilNet, MAC: "06:00:00:00:00:01"},
		},
		Network: wire.NetworkOrder{Home: "tokyo", Spec: evilView("2001:db8:77::/64").Spec},
	}
}

// tells sends a peer the networks that a site has.
func (s *site) tells(peer string, views ...wire.NetworkView) ([]wire.Refusal, error) {
	var answer wire.ViewsAnswer
	err := s.fed.Ask(s.w.t.Context(), peer, wire.DocViews, "", time.Minute, wire.Views{Networks: views}, &answer)
	return answer.Refused, err
}

// ordered waits until a host has orders newer than those that it has now, or as new as the store.
func (h *host) ordered() {
	h.site.w.until("orders of "+h.node(), func() bool { return h.orders().Revision > 0 })
	time.Sleep(time.Second)
}

// TestViewsNeedALoan: a peer to which nothing was ever lent names our gateway as a member of its network. Our gateway must
// not carry the network (its /64 would be announced), nor take VXLAN from the peer's tunnel end points, and the prefix stays
// free for our own users.
func TestViewsNeedALoan(t *testing.T) {
	for name, prefix := range map[string]string{"its own prefix": "2001:db8:77::/64", "our underlay": "2001:db8:2::/64"} {
		t.Run(name, func(t *testing.T) {
			federation(t, options{sites: []string{"tokyo", "osaka"}}, func(t *testing.T, w *world) {
				tokyo, osaka := w.sites["tokyo"], w.sites["osaka"]
				w.connected()
				gw := osaka.addGateway("gw1", netip.MustParseAddr("2001:db8:2::99"))
				gw.ordered()
				refused, err := tokyo.tells("osaka", evilView(prefix,
					api.NetworkMember{Site: "osaka", Host: "gw1", VTEP: "2001:db8:2::99", Role: api.RoleGateway},
					api.NetworkMember{Site: "osaka", Host: "h1", VTEP: "2001:db8:2::1", Role: api.RoleHypervisor},
					api.NetworkMember{Site: "tokyo", Host: "evil", VTEP: evilVTEP, Role: api.RoleHypervisor}))
				t.Logf("refused: %v, %v", refused, err)
				time.Sleep(5 * time.Second)
				for _, h := range []*host{gw, osaka.hosts["h1"]} {
					for _, n := range h.orders().Networks {
						t.Errorf("%s carries %s (%s) of a site that has no loan, and takes VXLAN from %v", h.name, n.Name, n.Prefix, n.Flood)
					}
				}
				if _, err := osaka.ctl.Create(t.Context(), osaka.admin, &api.Network{Meta: api.Meta{Name: "green"}, Spec: api.NetworkSpec{Prefix: "2001:db8:77::/64"}}); err != nil {
					t.Errorf("a peer without a loan keeps osaka's own users from a prefix: %v", err)
				}
			})
		})
	}
}

// TestViewsUnderALoan: with a loan of addresses our gateway carries a peer's network, and nothing else follows from what the
// peer says: no network over our underlay, no word on where our own hosts are, no host that has no guest.
func TestViewsUnderALoan(t *testing.T) {
	federation(t, options{sites: []string{"tokyo", "osaka"}}, func(t *testing.T, w *world) {
		tokyo, osaka := w.sites["tokyo"], w.sites["osaka"]
		loan := w.lend("osaka", "tokyo", api.Resources{CPUs: 1, MemoryMiB: 1024, DiskGiB: 10, Addresses: 1})
		gw := osaka.addGateway("gw1", netip.MustParseAddr("2001:db8:2::99"))
		gw.ordered()
		us := api.NetworkMember{Site: "osaka", Host: "gw1", VTEP: "2001:db8:2::99", Role: api.RoleGateway}
		refused, err := tokyo.tells("osaka", evilView("2001:db8:2::/64", us))
		if err != nil || len(refused) != 1 || refused[0].Field != "body.networks[0].prefix" {
			t.Errorf("a network over osaka's underlay: %v, %v", refused, err)
		}
		time.Sleep(2 * time.Second)
		if gw.carries(evilNet) {
			t.Error("osaka's gateway carries tokyo's network over osaka's underlay: the way to every host of osaka, for OSPF to announce")
		}
		v := evilView("2001:db8:77::/64",
			api.NetworkMember{Site: "tokyo", Host: "evil", VTEP: evilVTEP, Role: api.RoleHypervisor},
			api.NetworkMember{Site: "osaka", Host: "h1", VTEP: "2001:db8:2::1", Role: api.RoleHypervisor})
		v.Endpoints = append(v.Endpoints, wire.EndpointOrder{VM: "11111111-2222-4333-8444-000000000002", MAC: "06:00:00:00:00:02", IPv6: netip.MustParseAddr("2001:db8:77::77"), VTEP: netip.MustParseAddr("2001:db8:2::1")})
		refused, err = tokyo.tells("osaka", v)
		if err != nil || len(refused) > 0 {
			t.Errorf("an honest view: %v, %v", refused, err)
		}
		w.until("the gateway carries it", func() bool { return gw.carries(evilNet) })
		n := gw.orders().Networks[0]
		if fmt.Sprint(n.Flood) != "["+evilVTEP+"]" || n.Endpoints[1].VTEP.IsValid() || n.Endpoints[0].VTEP.String() != evilVTEP {
			t.Errorf("flood to %v, endpoints %+v", n.Flood, n.Endpoints)
		}
		if osaka.hosts["h1"].carries(evilNet) {
			t.Error("h1 has no guest of tokyo's, and carries its network")
		}
		// When the loan is over, so is what it gave.
		if _, err := tokyo.ctl.Return(t.Context(), tokyo.admin, loan.Name); err != nil {
			t.Fatal(err)
		}
		w.until("the gateway carries it no more", func() bool { return !gw.carries(evilNet) })
	})
}

// TestPoison: whatever a borrower writes in a view or in a claim, the lender's own VMs on that host go on being commanded, and
// a new one starts.
func TestPoison(t *testing.T) {
	view := func(change func(*wire.NetworkView)) func(*world, *api.Network) error {
		return func(w *world, n *api.Network) error {
			v := w.sites["tokyo"].vm("mine")
			p := netip.MustParsePrefix(n.Spec.Prefix)
			nv := wire.NetworkView{
				Spec:      netplan.Spec{UID: n.UID, Name: n.Name, VNI: n.Spec.VNI, Prefix: p, IPv4: netip.MustParsePrefix(n.Spec.IPv4), MTU: 1430},
				Members:   []api.NetworkMember{{Site: "osaka", Host: "h1", VTEP: v.Status.VTEP, Role: api.RoleHypervisor}},
				Endpoints: []wire.EndpointOrder{{VM: v.UID, Hostname: v.Name, MAC: v.Status.MAC, IPv6: netip.MustParseAddr(v.Status.Addresses[0].Address), VTEP: netip.MustParseAddr(v.Status.VTEP)}},
			}
			change(&nv)
			refused, err := w.sites["tokyo"].tells("osaka", nv)
			if err == nil && len(refused) > 0 {
				err = fmt.Errorf("refused: %+v", refused)
			}
			return err
		}
	}
	member := func(vtep string) func(*wire.NetworkView) {
		return func(v *wire.NetworkView) {
			v.Members = append(v.Members, api.NetworkMember{Site: "tokyo", Host: "x", VTEP: vtep, Role: api.RoleHypervisor})
		}
	}
	claim := func(change func(*wire.ClaimCall)) func(*world, *api.Network) error {
		return func(w *world, _ *api.Network) error {
			tokyo := w.sites["tokyo"]
			s, err := tokyo.fed.Session("osaka", false)
			w.must(err)
			c := evilClaim(tokyo.vm("mine").Status.Loan)
			change(&c)
			return wire.Call(w.t.Context(), s, http.MethodPost, wire.PathFedReserve, c, &wire.Claim{})
		}
	}
	addr := netip.MustParseAddr
	for name, poison := range map[string]func(*world, *api.Network) error{
		"view_mac":               view(func(v *wire.NetworkView) { v.Endpoints[0].MAC = "no MAC" }),
		"view_mac_multicast":     view(func(v *wire.NetworkView) { v.Endpoints[0].MAC = "01:00:5e:00:00:01" }),
		"view_mac_of_the_router": view(func(v *wire.NetworkView) { v.Endpoints[0].MAC = "02:57:43:00:00:01" }),
		"view_mtu":               view(func(v *wire.NetworkView) { v.MTU = 100 }),
		"view_ipv4":              view(func(v *wire.NetworkView) { v.IPv4 = netip.MustParsePrefix("10.1.0.0/31") }),
		"view_endpoint_out":      view(func(v *wire.NetworkView) { v.Endpoints[0].IPv6 = addr("2001:db8:ffff::1") }),
		"view_endpoint_router":   view(func(v *wire.NetworkView) { v.Endpoints[0].IPv6 = v.Prefix.Addr().Next() }),
		"view_endpoint_twice":    view(func(v *wire.NetworkView) { v.Endpoints = append(v.Endpoints, v.Endpoints[0]) }),
		"view_endpoint_vtep":     view(func(v *wire.NetworkView) { v.Endpoints[0].VTEP = addr("192.0.2.1") }),
		"view_endpoint_hostname": view(func(v *wire.NetworkView) { v.Endpoints[0].Hostname = "a b" }),
		"view_member_4in6":       view(member("::ffff:192.0.2.1")),
		"view_member_zone":       view(member("2001:db8::1%x")),
		"claim_network_endpoint": claim(func(c *wire.ClaimCall) { c.Network.Endpoints = []wire.EndpointOrder{{VM: evilVM, MAC: "no MAC"}} }),
		"claim_network_mtu":      claim(func(c *wire.ClaimCall) { c.Network.MTU = 70000 }),
		"claim_network_flood":    claim(func(c *wire.ClaimCall) { c.Network.Flood = []netip.Addr{addr("ff02::1")} }),
		"claim_network_ipv4":     claim(func(c *wire.ClaimCall) { c.Network.IPv4 = netip.MustParsePrefix("10.0.0.1/8") }),
		"claim_user_data": func(w *world, n *api.Network) (err error) { // more than a message to the agent can hold
			for i := range 2 {
				err = claim(func(c *wire.ClaimCall) {
					c.Job, c.Order.Name = fmt.Sprintf("create-%d", i), fmt.Sprintf("evil%d", i)
					c.Order.VM = fmt.Sprintf("11111111-2222-4333-8444-55555555555%d", i)
					c.Order.Seed.UserData = strings.Repeat("x", 9<<20)
				})(w, n)
			}
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			federation(t, options{sites: []string{"tokyo", "osaka"}}, func(t *testing.T, w *world) {
				tokyo, osaka := w.sites["tokyo"], w.sites["osaka"]
				w.lend("osaka", "tokyo", room())
				tokyo.ready("2001:db8:a::/64")
				osaka.ready("2001:db8:b::/64")
				tokyo.newVM("mine", "osaka")
				tokyo.runs("mine")
				tokyo.startWith(nil, instead(func(mux *http.ServeMux) { // a hostile home does not clean up
					wire.Handle(mux, wire.PathFedStatus, func(context.Context, wire.Identity, wire.GuestReport) (wire.Empty, error) { return wire.Empty{}, nil })
				}))
				w.connected()
				refused := poison(w, tokyo.network("blue"))
				t.Logf("answered: %v", refused)
				osaka.create(vmOf("own", "osaka"))
				if !soon(30*time.Second, func() bool { return osaka.vm("own").Status.Phase == api.PhaseRunning }) {
					t.Errorf("taken (%v), and now osaka's own VM does not start on h1: %s %q; the host says %q", refused, osaka.vm("own").Status.Phase, osaka.vm("own").Status.Message, osaka.host("h1").Status.Message)
				}
			})
		})
	}
}

// TestPoisonByLender: what a lender answers to a claim is a stranger's word, too. A tunnel end point that is none must not keep
// the borrower's own hosts from carrying their networks, and one of the borrower's own hosts is not the lender's.
func TestPoisonByLender(t *testing.T) {
	for name, lie := range map[string]func(*wire.Claim){
		"an IPv4 address": func(c *wire.Claim) { c.VTEP = netip.MustParseAddr("192.0.2.1") },
		"multicast":       func(c *wire.Claim) { c.VTEP = netip.MustParseAddr("ff02::1") },
		"link-local":      func(c *wire.Claim) { c.VTEP = netip.MustParseAddr("fe80::1") },
		"our own host":    func(c *wire.Claim) { c.VTEP = netip.MustParseAddr("2001:db8:2::1") },
		"in our pools":    func(c *wire.Claim) { c.VTEP = netip.MustParseAddr("2001:db8:b::1") },
		"a path":          func(c *wire.Claim) { c.Host = "../h1" },
		"another VM":      func(c *wire.Claim) { c.VM = evilVM },
		"a CPU model":     func(c *wire.Claim) { c.CPU.Model = "<x/>" },
	} {
		t.Run(name, func(t *testing.T) {
			federation(t, options{sites: []string{"tokyo", "osaka"}}, func(t *testing.T, w *world) {
				tokyo, osaka := w.sites["tokyo"], w.sites["osaka"] // tokyo lends, and lies
				w.lend("tokyo", "osaka", room())
				osaka.ready("2001:db8:b::/64")
				osaka.newVM("near", "osaka")
				tokyo.startWith(nil, instead(func(mux *http.ServeMux) {
					wire.Handle(mux, wire.PathFedReserve, func(_ context.Context, _ wire.Identity, in wire.ClaimCall) (wire.Claim, error) {
						c := wire.Claim{Job: in.Job, VM: in.Order.VM, Home: "osaka", Loan: in.Loan, Host: "h1", VTEP: netip.MustParseAddr("2001:db8:1::1"), Needs: in.Needs, Order: in.Order, Network: in.Network}
						lie(&c)
						return c, nil
					})
				}))
				w.connected()
				osaka.create(vmOf("far", "tokyo"))
				time.Sleep(10 * time.Second)
				if st := osaka.vm("far").Status; st.Host != "" || !strings.Contains(st.Message, "is not believed") {
					t.Errorf("it is at %s/%s: %s", st.Site, st.Host, st.Message)
				}
				osaka.create(&api.Network{Meta: api.Meta{Name: "green"}, Spec: api.NetworkSpec{Prefix: "2001:db8:c::/64"}})
				v := vmOf("next", "osaka")
				v.Spec.Network = "green"
				osaka.create(v)
				if !soon(30*time.Second, func() bool { return osaka.vm("next").Status.Phase == api.PhaseRunning }) {
					t.Errorf("osaka's own VM does not start: %s %q; the host says %q", osaka.vm("next").Status.Phase, osaka.vm("next").Status.Message, osaka.host("h1").Status.Message)
				}
			})
		})
	}
}

// TestUnsolicitedLoan: a peer says that it lends us room for which nobody asked. No VM may go there by it.
func TestUnsolicitedLoan(t *testing.T) {
	federation(t, options{sites: []string{"tokyo", "osaka"}, capacity: api.Resources{CPUs: 1, MemoryMiB: 1024, DiskGiB: 100}}, func(t *testing.T, w *world) {
		tokyo, osaka := w.sites["tokyo"], w.sites["osaka"]
		osaka.ready("2001:db8:b::/64")
		w.connected()
		asked := make(chan string, 10)
		tokyo.startWith(nil, instead(func(mux *http.ServeMux) {
			wire.Handle(mux, wire.PathFedReserve, func(_ context.Context, _ wire.Identity, in wire.ClaimCall) (wire.Claim, error) {
				asked <- in.Order.Seed.UserData
				return wire.Claim{Job: in.Job, VM: in.Order.VM, Home: "osaka", Loan: in.Loan, Host: "h1", VTEP: netip.MustParseAddr(evilVTEP), Needs: in.Needs, Order: in.Order, Network: in.Network}, nil
			})
		}))
		w.connected()
		for i := range 50 {
			name := fmt.Sprintf("gift%d", i)
			err := tokyo.fed.Send(t.Context(), "osaka", wire.DocLoan, name, time.Minute, wire.LoanBody{
				Name: name, UID: evilNet, Spec: api.LoanSpec{Offer: "room", Lender: "tokyo", Borrower: "osaka", Amount: room()}, State: api.LoanActive, LeaseSeconds: 1e6,
			})
			wantError(t, "a gift", err, api.CodeForbidden)
		}
		if loans, _, _ := osaka.ctl.List(t.Context(), osaka.admin, api.KindLoan, serve.Query{}); len(loans) > 0 {
			t.Errorf("osaka has %d loans for which it never asked", len(loans))
		}
		osaka.newVM("full", "") // takes all that osaka has
		v := vmOf("secret", "")
		v.Spec.UserData = "#cloud-config\npassword: hunter2\n"
		osaka.create(v)
		time.Sleep(10 * time.Second)
		select {
		case data := <-asked:
			t.Errorf("osaka has sent a VM there, with its user data %q", data)
		default:
		}
		if got := osaka.vm("secret").Status; got.Site != "" {
			t.Errorf("VM secret is at %s/%s, under loan %s", got.Site, got.Host, got.Loan)
		}
		if _, err := osaka.ctl.Delete(t.Context(), osaka.admin, api.KindVM, "secret"); err != nil {
			t.Fatal(err)
		}
		osaka.gone("secret")
		if _, err := osaka.ctl.Delete(t.Context(), osaka.admin, api.KindPeer, "tokyo"); err != nil {
			t.Errorf("the peer cannot be removed: %v", err)
		}
	})
}

// TestLoanDoesNotChange: a lender gives other than was asked for, and changes later what was agreed on.
func TestLoanDoesNotChange(t *testing.T) {
	federation(t, options{sites: []string{"tokyo", "osaka"}}, func(t *testing.T, w *world) {
		tokyo, osaka := w.sites["tokyo"], w.sites["osaka"]
		loan := w.lend("osaka", "tokyo", room())
		for name, change := range map[string]func(*wire.LoanBody){
			"more":         func(b *wire.LoanBody) { b.Spec.Amount.CPUs++ },
			"less":         func(b *wire.LoanBody) { b.Spec.Amount.CPUs-- },
			"of another":   func(b *wire.LoanBody) { b.Spec.Offer = "other" },
			"for ever":     func(b *wire.LoanBody) { b.LeaseSeconds = 1e18 },
			"never before": func(b *wire.LoanBody) { b.Name = "loan-x" },
		} {
			b := wire.LoanBody{Name: loan.Name, UID: loan.UID, Spec: loan.Spec, State: api.LoanActive, LeaseSeconds: 60}
			change(&b)
			err := osaka.fed.Send(t.Context(), "tokyo", wire.DocLoan, b.Name, time.Minute, b)
			wantError(t, name, err, api.CodeConflict, api.CodeInvalid, api.CodeForbidden)
		}
		if got := tokyo.loan(loan.Name); got.Spec != loan.Spec || got.Status.State != api.LoanActive {
			t.Errorf("the loan is %+v", got)
		}
	})
}

// TestDeadLender: a lender is gone for good. Once its lease and grace are over, the peering can be ended, also when a VM was there.
func TestDeadLender(t *testing.T) {
	federation(t, options{sites: []string{"tokyo", "osaka"}, lease: 30 * time.Second}, func(t *testing.T, w *world) {
		tokyo, osaka := w.sites["tokyo"], w.sites["osaka"]
		loan := w.lend("osaka", "tokyo", room())
		tokyo.ready("2001:db8:a::/64")
		tokyo.newVM("lost", "osaka")
		tokyo.runs("lost")
		osaka.hosts["h1"].kill()
		osaka.hosts["h1"].machine.PowerOff()
		osaka.kill()
		time.Sleep(5 * time.Minute)
		if st := tokyo.loan(loan.Name).Status; st.State != api.LoanEnded {
			t.Errorf("five minutes after a lender died, whose leases are 30 s and whose grace is 60,, the loan is %s (%s)", st.State, st.Message)
		}
		_, err := tokyo.ctl.Delete(t.Context(), tokyo.admin, api.KindPeer, "osaka")
		wantError(t, "a peer with a VM of ours", err, api.CodeConflict)
		if _, err := tokyo.ctl.Delete(t.Context(), tokyo.admin, api.KindVM, "lost"); err != nil {
			t.Fatal(err)
		}
		if !soon(time.Minute, func() bool {
			_, err := tokyo.ctl.Get(t.Context(), tokyo.admin, api.KindVM, "lost")
			return err != nil
		}) {
			t.Errorf("the VM is still %s", tokyo.vm("lost").Status.Phase)
		}
		if _, err := tokyo.ctl.Delete(t.Context(), tokyo.admin, api.KindPeer, "osaka"); err != nil {
			t.Errorf("the peering cannot be ended: %v", err)
		}
	})
}

// TestRefusedDocumentsLeaveNothing: what is refused changes nothing, so a peer cannot fill our disk by it.
func TestRefusedDocumentsLeaveNothing(t *testing.T) {
	federation(t, options{sites: []string{"tokyo", "osaka"}}, func(t *testing.T, w *world) {
		tokyo, osaka := w.sites["tokyo"], w.sites["osaka"]
		w.connected()
		time.Sleep(5 * time.Second)
		before := len(keysOf(osaka.proc, "fed/seen/"))
		const n = 50
		for i := range n {
			err := tokyo.fed.Send(t.Context(), "osaka", wire.DocLoanRequest, fmt.Sprintf("%0200d", i), time.Minute, wire.LoanRequest{Name: "x", Offer: "none", Amount: room()})
			wantError(t, "a loan of no offer", err, api.CodeRefused)
		}
		if after := len(keysOf(osaka.proc, "fed/seen/")); after != before {
			t.Errorf("%d documents that were refused have left %d keys in osaka's store", n, after-before)
		}
	})
}

// TestLoansArePruned: a peer borrows and gives back, again and again. What is over must not fill the stores for good.
func TestLoansArePruned(t *testing.T) {
	federation(t, options{sites: []string{"tokyo", "osaka"}}, func(t *testing.T, w *world) {
		tokyo, osaka := w.sites["tokyo"], w.sites["osaka"]
		const n = 100
		for range n {
			loan := w.lend("osaka", "tokyo", room())
			if _, err := tokyo.ctl.Return(t.Context(), tokyo.admin, loan.Name); err != nil {
				t.Fatal(err)
			}
			w.until("it has ended", func() bool { return osaka.loan(loan.Name).Status.State == api.LoanEnded })
		}
		time.Sleep(time.Minute)
		for _, s := range []*site{osaka, tokyo} {
			loans, _, err := s.ctl.List(t.Context(), s.admin, api.KindLoan, serve.Query{})
			w.must(err)
			for what, have := range map[string]int{"loans": len(loans), "taken serials": len(keysOf(s.proc, "fed/seen/")), "sent serials": len(keysOf(s.proc, "fed/sent/")), "requests": len(keysOf(s.proc, "requests/"))} {
				if have > n/2 {
					t.Errorf("%s: %d %s are kept after %d loans that are over", s.name, have, what, n)
				}
			}
		}
		// A peer has a bound of loans at a time, too.
		made := 0
		for range 300 {
			if _, err := tokyo.ctl.Borrow(t.Context(), tokyo.admin, "osaka", "room", api.Resources{DiskGiB: 1}); err != nil {
				wantError(t, "one loan too many", err, api.CodeRefused)
				break
			}
			made++
		}
		if made != 100 {
			t.Errorf("%d loans at a time, want 100", made)
		}
	})
}
