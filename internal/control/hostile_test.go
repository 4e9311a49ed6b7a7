package control_test

import (
	"context"
	"errors"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"widecloud/api"
	"widecloud/internal/netplan"
	"widecloud/internal/store"
	"widecloud/internal/wire"
)

// contents is everything that a site has stored but what changes by itself, and views, of which the good parts are taken.
func (s *site) contents() map[string]string {
	out := map[string]string{}
	s.proc.store.View(context.Background(), func(tx store.Tx) error {
		kvs, err := tx.List("")
		for _, kv := range kvs {
			if !strings.HasPrefix(kv.Key, "fed/") && !strings.HasPrefix(kv.Key, "objects/events/") && !strings.HasPrefix(kv.Key, "views/") {
				out[kv.Key] = string(kv.Value)
			}
		}
		return err
	})
	return out
}

// TestHostilePeer has a peer of good standing lie: each lie is refused with the field that gives it away, and changes
// nothing.
func TestHostilePeer(t *testing.T) {
	federation(t, options{sites: []string{"tokyo", "osaka", "kyoto"}}, func(t *testing.T, w *world) {
		tokyo, osaka, kyoto := w.sites["tokyo"], w.sites["osaka"], w.sites["kyoto"]
		loan := w.lend("osaka", "tokyo", api.Resources{CPUs: 4, MemoryMiB: 4096, DiskGiB: 20, Addresses: 1})
		w.lend("osaka", "kyoto", room())
		tokyo.ready("2001:db8:a::/64")
		osaka.ready("2001:db8:b::/64")
		kyoto.ready("2001:db8:c::/64")
		tokyo.newVM("mine", "osaka")
		own := osaka.newVM("theirs", "osaka")
		other := kyoto.newVM("third", "osaka")
		time.Sleep(10 * time.Second)
		n, err := osaka.ctl.Get(t.Context(), osaka.admin, api.KindNetwork, "blue")
		if err != nil {
			t.Fatal(err)
		}
		osakaNet := n.(*api.Network)
		session, err := tokyo.fed.Session("osaka", false)
		if err != nil {
			t.Fatal(err)
		}

		const uid = "11111111-2222-4333-8444-555555555555"
		red := netplan.Spec{UID: "99999999-2222-4333-8444-555555555555", Name: "red", VNI: 77, Prefix: netip.MustParsePrefix("2001:db8:77::/64"), MTU: 1430}
		claim := func(change func(*wire.ClaimCall)) wire.ClaimCall {
			c := wire.ClaimCall{
				Job: "create-x", Loan: loan.Name, Owner: "lab", Needs: api.Resources{CPUs: 1, MemoryMiB: 256, DiskGiB: 1}, Start: true,
				Order: wire.VMOrder{
					VM: uid, Name: "evil", Home: "tokyo", Epoch: 1, Run: wire.RunOn, Hardware: api.Hardware{CPUs: 1, MemoryMiB: 256}, DiskMiB: 64,
					Image: "sha256:" + strings.Repeat("0", 64), NIC: wire.NICOrder{Network: "99999999-2222-4333-8444-555555555555", MAC: "06:00:00:00:00:01"},
				},
				Network: wire.NetworkOrder{Home: "tokyo", Spec: red},
			}
			change(&c)
			return c
		}
		network := func(change func(*wire.NetworkView)) wire.Views {
			v := wire.NetworkView{
				Spec: red, Members: []api.NetworkMember{}, Endpoints: []wire.EndpointOrder{},
			}
			change(&v)
			return wire.Views{Networks: []wire.NetworkView{v}}
		}
		reserve := func(change func(*wire.ClaimCall)) func() error {
			return func() error {
				return wire.Call(t.Context(), session, http.MethodPost, wire.PathFedReserve, claim(change), &wire.Claim{})
			}
		}
		call := func(path string, in any) func() error {
			return func() error { return wire.Call(t.Context(), session, http.MethodPost, path, in, &wire.Empty{}) }
		}
		document := func(kind, subject string, body any) func() error {
			return func() error { return tokyo.fed.Send(t.Context(), "osaka", kind, subject, time.Minute, body) }
		}
		views := func(v wire.Views) func() error { // the first entry that is not taken is the error
			return func() error {
				var answer wire.ViewsAnswer
				if err := tokyo.fed.Ask(t.Context(), "osaka", wire.DocViews, "", time.Minute, v, &answer); err != nil || len(answer.Refused) == 0 {
					return err
				}
				r := answer.Refused[0]
				return &api.Error{Code: r.Code, Field: r.Field, Message: r.Message}
			}
		}
		mappings := func(n int, target string) []wire.Mapping {
			var out []wire.Mapping
			for i := range n {
				out = append(out, wire.Mapping{Service: netip.AddrFrom4([4]byte{203, 0, 113, byte(10 + i)}), Target: netip.MustParseAddr(target)})
			}
			return out
		}
		for _, c := range []struct {
			name  string
			do    func() error
			code  api.Code
			field string
			text  string
		}{
			{"a field that is not known", call(wire.PathFedReboot, map[string]any{"vm": uid, "epoch": 1, "hard": true, "sudo": true}), api.CodeInvalid, "sudo", ""},
			{"a VM of the lender's own", reserve(func(c *wire.ClaimCall) { c.Order.VM, c.Order.Epoch = own.UID, 99 }), api.CodeForbidden, "order.vm", ""},
			{"a VM of a third site's", reserve(func(c *wire.ClaimCall) { c.Order.VM, c.Start = other.UID, false }), api.CodeForbidden, "order.vm", ""},
			{"another home", reserve(func(c *wire.ClaimCall) { c.Order.Home = "kyoto" }), api.CodeForbidden, "order.home", ""},
			{"a volume of the lender's", reserve(func(c *wire.ClaimCall) {
				c.Needs.DiskGiB = 3
				c.Order.Disks = []wire.DiskOrder{{Name: "data", Slot: 1, SizeMiB: 1024, Volume: own.UID, Epoch: 99}}
			}), api.CodeInvalid, "order.disks", ""},
			{"a volume of the lender's, for a guest", call(wire.PathFedOrder, wire.GuestOrder{VM: tokyo.vm("mine").UID, Epoch: 1, Run: wire.RunOn, Size: &wire.GuestSize{
				Hardware: api.Hardware{CPUs: 1, MemoryMiB: 256, Profile: 2, CPUModel: "Nehalem"}, Needs: api.Resources{CPUs: 1, MemoryMiB: 256, DiskGiB: 3}, DiskMiB: 1,
				Disks: []wire.DiskOrder{{Name: "data", Slot: 1, SizeMiB: 1024, Volume: own.UID, Epoch: 99}},
			}}), api.CodeInvalid, "order.disks", ""},
			{"a path for a UID", reserve(func(c *wire.ClaimCall) { c.Order.VM = "../../etc" }), api.CodeInvalid, "order.vm", ""},
			{"a name that is none", reserve(func(c *wire.ClaimCall) { c.Order.Name = "a/b" }), api.CodeInvalid, "order.name", ""},
			{"more memory than it says", reserve(func(c *wire.ClaimCall) { c.Order.MemoryMiB = 4096 }), api.CodeInvalid, "needs.memory_mib", ""},
			{"more CPUs than it says", reserve(func(c *wire.ClaimCall) { c.Order.CPUs = 4 }), api.CodeInvalid, "needs.cpus", ""},
			{"a larger disk than it says", reserve(func(c *wire.ClaimCall) { c.Order.DiskMiB = 1 << 20 }), api.CodeInvalid, "needs.disk_gib", ""},
			{"more than the loan", reserve(func(c *wire.ClaimCall) { c.Order.MemoryMiB, c.Needs.MemoryMiB = 8192, 8192 }), api.CodeRefused, "", "loan"},
			{"a loan of another one's", reserve(func(c *wire.ClaimCall) { c.Loan = kyoto.vm("third").Status.Loan }), api.CodeRefused, "", "is not tokyo's to use"},
			{"the lender's own network", reserve(func(c *wire.ClaimCall) { c.Order.NIC.Network, c.Network.UID = osakaNet.UID, osakaNet.UID }), api.CodeRefused, "", "is osaka's network"},
			{"a VNI that is in use", reserve(func(c *wire.ClaimCall) { c.Network.VNI = osakaNet.Spec.VNI }), api.CodeRefused, "", "VXLAN identifier"},
			{"a prefix that is in use", reserve(func(c *wire.ClaimCall) { c.Network.Prefix = netip.MustParsePrefix(osakaNet.Spec.Prefix) }), api.CodeRefused, "", "overlaps"},
			{"reboot of the lender's VM", call(wire.PathFedReboot, wire.RebootCall{VM: own.UID, Epoch: 1, Hard: true}), api.CodeNotFound, "", ""},
			{"reboot of a third site's", call(wire.PathFedReboot, wire.RebootCall{VM: other.UID, Epoch: 1, Hard: true}), api.CodeForbidden, "", ""},
			{"what the lender's VM uses", call(wire.PathFedUsage, wire.UsageCall{VM: own.UID}), api.CodeNotFound, "", ""},
			{"what a third site's uses", call(wire.PathFedUsage, wire.UsageCall{VM: other.UID}), api.CodeForbidden, "", ""},
			{"end of a third site's", call(wire.PathFedOrder, wire.GuestOrder{VM: other.UID, Epoch: 9, Run: wire.RunGone}), api.CodeForbidden, "", ""},
			{"begin with the lender's VM", call(wire.PathFedBegin, wire.MigrateCall{Job: "j", VM: own.UID, Epoch: 1, Host: "h1"}), api.CodeNotFound, "", ""},
			{"giving up the lender's VM", call(wire.PathFedConfirm, wire.FinishCall{Job: "j", VM: own.UID, Epoch: 9, Commit: true, Host: "h1"}), "", "", ""},
			{"an abort of the lender's VM", call(wire.PathFedConfirm, wire.FinishCall{Job: "j", VM: own.UID, Epoch: 9, Host: "h1"}), api.CodeNotFound, "", ""},
			{"giving up a guest without a job", call(wire.PathFedConfirm, wire.FinishCall{Job: "j", VM: tokyo.vm("mine").UID, Epoch: 1, Commit: true, Host: "h1"}), api.CodeConflict, "", "is not the source"},
			{"a loan larger than the offer", document(wire.DocLoanRequest, "big", wire.LoanRequest{Name: "big", Offer: "room", Amount: api.Resources{CPUs: 4000}}), api.CodeRefused, "body.amount", ""},
			{"a loan of no offer", document(wire.DocLoanRequest, "big", wire.LoanRequest{Name: "big", Offer: "rooms", Amount: api.Resources{CPUs: 4}}), api.CodeRefused, "body.offer", ""},
			{"a renewal of another one's loan", document(wire.DocLoanRenew, "x", wire.LoanRenew{Name: kyoto.vm("third").Status.Loan, Return: true}), api.CodeForbidden, "", ""},
			{"a loan that is not its to give", document(wire.DocLoan, "x", wire.LoanBody{Name: "x", Spec: api.LoanSpec{Lender: "kyoto", Borrower: "osaka"}, State: api.LoanActive}), api.CodeInvalid, "body.spec", ""},
			{"a body with a field that is not known", document(wire.DocLoanRenew, "x", map[string]any{"name": "x", "forever": true}), api.CodeInvalid, "body.forever", ""},
			{"a view of the lender's network", views(network(func(v *wire.NetworkView) { v.UID = osakaNet.UID })), api.CodeExists, "body.networks[0].uid", ""},
			{"a view with its VNI", views(network(func(v *wire.NetworkView) { v.VNI = osakaNet.Spec.VNI })), api.CodeExists, "body.networks[0].vni", ""},
			{"a view with its prefix", views(network(func(v *wire.NetworkView) { v.Prefix = netip.MustParsePrefix(osakaNet.Spec.Prefix) })), api.CodeExists, "body.networks[0].prefix", ""},
			{"a view out of the address plan", views(network(func(v *wire.NetworkView) { v.Prefix = netip.MustParsePrefix("2001:4860:4860::/64") })), api.CodeRefused, "body.networks[0].prefix", "no pool of this site's address plan"},
			{"a mapping out of its network", views(network(func(v *wire.NetworkView) { v.Mappings = mappings(1, "2001:db8:b::1") })), api.CodeInvalid, "body.networks[0].mappings[0].target", ""},
			{"a place off the globe", document(wire.DocOffers, "", wire.Offers{Location: &api.Location{Latitude: 91}}), api.CodeInvalid, "body.location.latitude", ""},
			{"gateways of another site", document(wire.DocOffers, "", wire.Offers{Offers: []wire.OfferBody{{Name: "o", Gateways: []api.NetworkMember{{Site: "kyoto", Host: "h1", VTEP: "2001:db8::1"}}}}}), api.CodeForbidden, "body.offers[0].gateways[0].site", ""},
		} {
			before := osaka.contents()
			err := c.do()
			var e *api.Error
			switch {
			case c.code == "" && err == nil:
			case !errors.As(err, &e) || e.Code != c.code || e.Field != c.field || !strings.Contains(err.Error(), c.text):
				t.Errorf("%s: %v (%+v), want %s of %q", c.name, err, e, c.code, c.field)
			}
			after := osaka.contents()
			for k, v := range after {
				if before[k] != v {
					t.Errorf("%s: has changed %s\nfrom %s\nto   %s", c.name, k, before[k], v)
				}
			}
			for k := range before {
				if _, ok := after[k]; !ok {
					t.Errorf("%s: has removed %s", c.name, k)
				}
			}
		}
		for _, v := range []*api.VM{own, other, tokyo.vm("mine")} {
			if on := w.fake.Running(v.UID); len(on) != 1 {
				t.Errorf("%s runs on %v", v.Name, on)
			}
		}

		// What is honest is taken all the same, beside what is not.
		if err := views(network(func(v *wire.NetworkView) { v.Mappings = mappings(1, "2001:db8:77::1") }))(); err != nil {
			t.Errorf("an honest view: %v", err)
		}
		for name, bad := range map[string][]wire.Mapping{
			"mappings beyond the loan": {{Service: netip.MustParseAddr("203.0.113.11"), Target: netip.MustParseAddr("2001:db8:77::1")}, {Service: netip.MustParseAddr("2001:db8:5e::1"), Target: netip.MustParseAddr("2001:db8:77::1")}},
			"a second address of a VM": {{Service: netip.MustParseAddr("203.0.113.11"), Target: netip.MustParseAddr("2001:db8:77::1")}, {Service: netip.MustParseAddr("203.0.113.12"), Target: netip.MustParseAddr("2001:db8:77::1")}},
		} {
			err := views(network(func(v *wire.NetworkView) { v.Mappings = bad }))()
			var e *api.Error
			if !errors.As(err, &e) || !strings.HasPrefix(e.Field, "body.networks[0].mappings[1]") {
				t.Errorf("%s: %v", name, err)
			}
			if kept := valueOf(osaka.proc, "views/tokyo/99999999-2222-4333-8444-555555555555"); !strings.Contains(kept, "203.0.113.11") || strings.Contains(kept, bad[1].Service.String()+`"`) {
				t.Errorf("%s: kept is %s", name, kept)
			}
		}
	})
}

func valueOf(p *process, key string) (value string) {
	p.store.View(context.Background(), func(tx store.Tx) error {
		kv, err := tx.Get(key)
		value = string(kv.Value)
		return err
	})
	return value
}

// TestReplay has documents come twice, late, and from the wrong one.
func TestReplay(t *testing.T) {
	federation(t, options{sites: []string{"tokyo", "osaka", "kyoto"}}, func(t *testing.T, w *world) {
		tokyo, osaka, kyoto := w.sites["tokyo"], w.sites["osaka"], w.sites["kyoto"]
		loan := w.lend("osaka", "tokyo", room())
		w.connected()
		session, err := tokyo.fed.Session("osaka", false)
		if err != nil {
			t.Fatal(err)
		}
		letter := func(serial uint64, valid int64, body any) wire.Envelope {
			var challenge wire.Challenge
			if err := wire.Call(t.Context(), session, http.MethodPost, wire.PathFedChallenge, wire.Empty{}, &challenge); err != nil {
				t.Fatal(err)
			}
			e, err := wire.Sign(tokyo.cred, wire.Envelope{
				Kind: wire.DocLoanRenew, To: "osaka", Subject: loan.Name, Serial: serial, Challenge: challenge, ValidSeconds: valid, Body: wire.RawBody(body),
			})
			if err != nil {
				t.Fatal(err)
			}
			return e
		}
		give := func(s *wire.Session, e wire.Envelope) error {
			return wire.Call(t.Context(), s, http.MethodPost, wire.PathFedDocument, e, &wire.Empty{})
		}
		want := func(what string, code api.Code, field string, err error) {
			t.Helper()
			var e *api.Error
			if !errors.As(err, &e) || e.Code != code || e.Field != field {
				t.Errorf("%s: %v (%+v), want %s of %q", what, err, e, code, field)
			}
			if st := osaka.loan(loan.Name).Status.State; st != api.LoanActive {
				t.Errorf("%s: the loan is %s", what, st)
			}
		}
		renew, giveBack := wire.LoanRenew{Name: loan.Name}, wire.LoanRenew{Name: loan.Name, Return: true}
		first := letter(1, 60, renew)
		if err := give(session, first); err != nil {
			t.Fatal(err)
		}
		if err := give(session, first); err != nil {
			t.Errorf("the same again, as after a lost answer: %v", err)
		}
		if err := give(session, letter(2, 60, renew)); err != nil {
			t.Fatal(err)
		}
		want("replayed", api.CodeStale, "serial", give(session, first))
		want("another one under a used serial", api.CodeStale, "serial", give(session, letter(2, 60, giveBack)))
		late := letter(3, 5, giveBack)
		time.Sleep(6 * time.Second)
		want("expired", api.CodeStale, "valid_seconds", give(session, late))
		forged := letter(4, 60, renew)
		forged.Body = wire.RawBody(giveBack)
		want("changed on the way", api.CodeForbidden, "signature", give(session, forged))
		other, err := kyoto.fed.Session("osaka", false)
		if err != nil {
			t.Fatal(err)
		}
		want("shown by another site", api.CodeForbidden, "from", give(other, letter(5, 60, giveBack)))
		toKyoto, err := tokyo.fed.Session("kyoto", false)
		if err != nil {
			t.Fatal(err)
		}
		want("shown to another site", api.CodeForbidden, "to", give(toKyoto, letter(6, 60, giveBack)))
	})
}

// TestAgentOutOfPlace has an agent speak as a controller does.
func TestAgentOutOfPlace(t *testing.T) {
	federation(t, options{sites: []string{"tokyo", "osaka"}}, func(t *testing.T, w *world) {
		tokyo, h := w.sites["tokyo"], w.sites["tokyo"].hosts["h1"]
		tokyo.ready("2001:db8:a::/64")
		v := tokyo.newVM("web1", "")
		trust, err := wire.NewTrust(wire.TrustOptions{CA: h.cred.CA})
		if err != nil {
			t.Fatal(err)
		}
		s, err := wire.Dial(t.Context(), "tokyo:646", wire.Controller("tokyo"), wire.Bulk, wire.Options{Credential: h.cred, Trust: trust, Network: w.net.Node("evil")})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		for path, in := range map[string]any{
			wire.PathFedOrder:     wire.GuestOrder{VM: v.UID, Epoch: 9, Run: wire.RunGone},
			wire.PathFedReboot:    wire.RebootCall{VM: v.UID, Epoch: 1},
			wire.PathFedUsage:     wire.UsageCall{VM: v.UID},
			wire.PathFedChallenge: wire.Empty{},
			wire.PathFedDocument:  wire.Envelope{Kind: wire.DocOffers, From: "tokyo", To: "tokyo", Body: wire.RawBody(wire.Offers{})},
			wire.PathFedStatus:    wire.GuestReport{},
			wire.PathFedConfirm:   wire.FinishCall{VM: v.UID, Commit: true, Host: "h1"},
		} {
			if err := wire.Call(t.Context(), s, http.MethodPost, path, in, &wire.Empty{}); !errors.Is(err, &api.Error{Code: api.CodeForbidden}) {
				t.Errorf("%s: %v", path, err)
			}
		}
		// It is the same agent's bulk session, so that its own is closed: it comes back.
		tokyo.runs("web1")
	})
}

// TestNetworksOfPeers refuses a network that clashes with one that a peer has told of.
func TestNetworksOfPeers(t *testing.T) {
	federation(t, options{sites: []string{"tokyo", "osaka"}}, func(t *testing.T, w *world) {
		tokyo, osaka := w.sites["tokyo"], w.sites["osaka"]
		w.lend("osaka", "tokyo", room())
		tokyo.ready("2001:db8:a::/64")
		tokyo.newVM("web1", "osaka")
		time.Sleep(5 * time.Second)
		o, err := tokyo.ctl.Get(t.Context(), tokyo.admin, api.KindNetwork, "blue")
		if err != nil {
			t.Fatal(err)
		}
		vni := o.(*api.Network).Spec.VNI
		for field, spec := range map[string]api.NetworkSpec{
			"spec.prefix": {Prefix: "2001:db8:a::/64"},
			"spec.vni":    {Prefix: "2001:db8:b::/64", VNI: vni},
		} {
			_, err := osaka.ctl.Create(t.Context(), osaka.admin, &api.Network{Meta: api.Meta{Name: "red"}, Spec: spec})
			var e *api.Error
			if !errors.As(err, &e) || e.Field != field {
				t.Errorf("%v, want %s", err, field)
			}
		}
	})
}
