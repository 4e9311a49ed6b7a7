package control_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"widecloud/api"
	"widecloud/internal/wire"
)

// joinRequest is what a host's agent asks, with a new key.
func joinRequest(t *testing.T, text, host string) wire.JoinRequest {
	t.Helper()
	token, err := wire.ParseToken(text)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: host}}, key)
	if err != nil {
		t.Fatal(err)
	}
	csr, err := x509.ParseCertificateRequest(der)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(csr.RawSubjectPublicKeyInfo)
	return wire.JoinRequest{Token: token.ID(), Host: host, CSR: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), Key: hex.EncodeToString(sum[:])}
}

// TestJoinToken: a host joins once by its token, may ask again while it is in, and a host that was removed does not let itself
// in again by the token that it used.
func TestJoinToken(t *testing.T) {
	federation(t, options{sites: []string{"tokyo"}}, func(t *testing.T, w *world) {
		tokyo := w.sites["tokyo"]
		text, err := tokyo.ctl.JoinToken(t.Context(), tokyo.admin, "h9", nil)
		if err != nil {
			t.Fatal(err)
		}
		r := joinRequest(t, text, "h9")
		for range 2 { // the answer may have been lost: the same key may ask again
			if _, err := tokyo.ctl.Join(t.Context(), r); err != nil {
				t.Fatal(err)
			}
		}
		_, err = tokyo.ctl.Join(t.Context(), joinRequest(t, text, "h9"))
		wantField(t, "another key", err, api.CodeUnauthenticated, "token")
		_, err = tokyo.ctl.Join(t.Context(), joinRequest(t, text, "h8"))
		wantError(t, "another host", err, api.CodeUnauthenticated, api.CodeForbidden)
		if _, err := tokyo.ctl.Delete(t.Context(), tokyo.admin, api.KindHost, "h9"); err != nil {
			t.Fatal(err)
		}
		_, err = tokyo.ctl.Join(t.Context(), r)
		wantField(t, "the removed host, by its old token", err, api.CodeUnauthenticated, "token")

		late, err := tokyo.ctl.JoinToken(t.Context(), tokyo.admin, "h9", nil)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(11 * time.Minute)
		_, err = tokyo.ctl.Join(t.Context(), joinRequest(t, late, "h9"))
		wantField(t, "a token that is too old", err, api.CodeUnauthenticated, "token")
		w.until("expired tokens are forgotten", func() bool { return len(keysOf(tokyo.proc, "joins/")) == 0 })
	})
}

// TestInvitation: a site whose peering was ended does not make itself a peer again by the invitation that it used, and an
// invitation expires.
func TestInvitation(t *testing.T) {
	federation(t, options{sites: []string{"tokyo"}}, func(t *testing.T, w *world) {
		tokyo := w.sites["tokyo"]
		evil, err := wire.NewAuthority(wire.AuthorityOptions{Site: "evil"})
		if err != nil {
			t.Fatal(err)
		}
		ask := func(invitation, endpoint string) error {
			token, err := wire.ParseToken(strings.TrimSuffix(invitation, "@tokyo:646"))
			if err != nil {
				t.Fatal(err)
			}
			_, err = tokyo.ctl.Peer(t.Context(), wire.PeerRequest{Token: token.ID(), Site: "evil", CA: evil.Certificate(), Info: json.RawMessage(`{"endpoint":"` + endpoint + `"}`)})
			return err
		}
		invite := func() string {
			text, err := tokyo.ctl.PeerInvite(t.Context(), tokyo.admin)
			if err != nil {
				t.Fatal(err)
			}
			return text
		}
		first := invite()
		wantField(t, "an endpoint that is none", ask(first, "evil 646"), api.CodeInvalid, "spec.endpoint")
		for range 2 {
			if err := ask(first, "evil:646"); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := tokyo.ctl.Delete(t.Context(), tokyo.admin, api.KindPeer, "evil"); err != nil {
			t.Fatal(err)
		}
		wantField(t, "the removed peer, by its old invitation", ask(first, "evil:646"), api.CodeUnauthenticated, "token")
		late := invite()
		time.Sleep(11 * time.Minute)
		wantField(t, "an invitation that is too old", ask(late, "evil:646"), api.CodeUnauthenticated, "token")
	})
}

// TestRemovedHostsSession: the sessions of a host that an admin removes end at once.
func TestRemovedHostsSession(t *testing.T) {
	federation(t, options{sites: []string{"tokyo"}, hosts: 2}, func(t *testing.T, w *world) {
		tokyo := w.sites["tokyo"]
		tokyo.ready("2001:db8:a::/64")
		h := tokyo.hosts["h2"]
		h.kill()
		time.Sleep(10 * time.Second)
		s, err := w.session("tokyo", h.node(), h.cred, wire.Bulk)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		time.Sleep(time.Second)
		if _, err := tokyo.ctl.Delete(t.Context(), tokyo.admin, api.KindHost, "h2"); err != nil {
			t.Fatal(err)
		}
		select {
		case <-s.Done():
		case <-time.After(time.Second):
			t.Error("a second after its removal h2's session is up")
		}
		_, err = w.session("tokyo", h.node(), h.cred, wire.Control)
		wantError(t, "it dials again", err, api.CodeForbidden)
		delete(tokyo.hosts, "h2")
	})
}

// TestOldCertificateOfAName: a machine that was removed must not be let in because another one has joined by its name, nor one
// that was replaced without being removed.
func TestOldCertificateOfAName(t *testing.T) {
	federation(t, options{sites: []string{"tokyo"}, hosts: 3}, func(t *testing.T, w *world) {
		tokyo := w.sites["tokyo"]
		stolen, replaced := tokyo.hosts["h2"].cred, tokyo.hosts["h3"].cred
		for _, name := range []string{"h2", "h3"} {
			tokyo.hosts[name].kill()
		}
		time.Sleep(10 * time.Second)
		if _, err := tokyo.ctl.Delete(t.Context(), tokyo.admin, api.KindHost, "h2"); err != nil {
			t.Fatal(err)
		}
		_, err := w.session("tokyo", "evil", stolen, wire.Control)
		wantError(t, "a removed machine", err, api.CodeForbidden)
		tokyo.addHost("h2", netip.MustParseAddr("2001:db8:1::22"), options{}) // its successor
		tokyo.hosts["h3"].join()
		tokyo.hosts["h3"].start()
		w.connected()
		for what, cred := range map[string]*wire.Credential{"the stolen machine, now that another one has its name": stolen, "the certificate of before": replaced} {
			_, err := w.session("tokyo", "evil", cred, wire.Control)
			wantError(t, what, err, api.CodeForbidden)
		}
		time.Sleep(10 * time.Second)
		w.connected()
	})
}

// TestRolesAreTheAdmins: a host that joined by a token for a hypervisor says that it is a gateway.
func TestRolesAreTheAdmins(t *testing.T) {
	federation(t, options{sites: []string{"tokyo"}, hosts: 2}, func(t *testing.T, w *world) {
		tokyo := w.sites["tokyo"]
		tokyo.ready("2001:db8:a::/64")
		tokyo.newVM("web1", "tokyo/h1")
		tokyo.create(&api.Address{Meta: api.Meta{Name: "a1", Owner: "lab"}, Spec: api.AddressSpec{Address: "203.0.113.7", VM: "web1"}})
		h := tokyo.hosts["h2"]
		h.startWith(nil, api.RoleHypervisor, api.RoleGateway)
		w.until("it is heard of", func() bool { return len(tokyo.host("h2").Status.Roles) == 2 })
		time.Sleep(2 * time.Second)
		if st := tokyo.host("h2"); slices.Contains(st.Spec.Roles, api.RoleGateway) || !strings.Contains(st.Status.Message, "configured as gateway") {
			t.Errorf("the join token said hypervisor, and h2 is %v: %s", st.Spec.Roles, st.Status.Message)
		}
		if s := h.orders(); len(s.Mappings) > 0 || len(s.Networks) > 0 {
			t.Errorf("h2, which runs no VM, is told %d mappings and %d networks", len(s.Mappings), len(s.Networks))
		}
		uid := tokyo.network("blue").UID
		floods := func() bool {
			for _, f := range tokyo.hosts["h1"].orders().Networks {
				if f.UID == uid && slices.Contains(f.Flood, h.vtep) {
					return true
				}
			}
			return false
		}
		if floods() {
			t.Error("h1 floods network blue to h2")
		}
		// Its admin makes it one.
		o := tokyo.host("h2")
		o.Spec.Roles, o.Revision = []api.HostRole{api.RoleHypervisor, api.RoleGateway}, 0
		if _, err := tokyo.ctl.Update(t.Context(), tokyo.admin, o); err != nil {
			t.Fatal(err)
		}
		w.until("it is a gateway", func() bool { return len(h.orders().Mappings) == 1 && floods() })
	})
}

// TestReports: what a stolen agent says is weighed; what is refused changes nothing but the host's message.
func TestReports(t *testing.T) {
	federation(t, options{sites: []string{"tokyo"}, hosts: 2}, func(t *testing.T, w *world) {
		tokyo := w.sites["tokyo"]
		w.connected()
		h := tokyo.hosts["h2"]
		h.kill()
		time.Sleep(10 * time.Second)
		before := tokyo.host("h2").Status
		s, err := w.session("tokyo", h.node(), h.cred, wire.Control)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		for name, c := range map[string]struct {
			field string
			lie   func(*wire.HostReport)
		}{
			"multicast":         {"vtep", func(r *wire.HostReport) { r.VTEP = netip.MustParseAddr("ff02::1") }},
			"IPv4":              {"vtep", func(r *wire.HostReport) { r.VTEP = netip.MustParseAddr("192.0.2.1") }},
			"another host's":    {"vtep", func(r *wire.HostReport) { r.VTEP = tokyo.hosts["h1"].vtep }},
			"in a pool":         {"vtep", func(r *wire.HostReport) { r.VTEP = netip.MustParseAddr("2001:db8:a::1") }},
			"endless capacity":  {"capacity.cpus", func(r *wire.HostReport) { r.Capacity.CPUs = 9e18 }},
			"negative capacity": {"capacity.memory_mib", func(r *wire.HostReport) { r.Capacity.MemoryMiB = -1 }},
			"lent addresses":    {"capacity.addresses", func(r *wire.HostReport) { r.Capacity.Addresses = 5 }},
			"100,000 images": {"images", func(r *wire.HostReport) {
				r.Images = slices.Repeat([]string{"sha256:" + strings.Repeat("0", 64)}, 100000)
			}},
			"an image's path":   {"images[0]", func(r *wire.HostReport) { r.Images = []string{"../../etc/passwd"} }},
			"a role":            {"roles[0]", func(r *wire.HostReport) { r.Roles = []api.HostRole{"root"} }},
			"a CPU model":       {"cpu[0]", func(r *wire.HostReport) { r.CPU.Usable = []string{"<x/>"} }},
			"a VM's state":      {"vms[0].state", func(r *wire.HostReport) { r.VMs = []wire.VMReport{{VM: evilVM, State: "flying"}} }},
			"a VM that is none": {"vms[0].vm", func(r *wire.HostReport) { r.VMs = []wire.VMReport{{VM: "../x"}} }},
			"a disk of minus 1": {"vms[0].disk_bytes", func(r *wire.HostReport) { r.VMs = []wire.VMReport{{VM: evilVM, DiskBytes: -1}} }},
			"a million VMs":     {"vms", func(r *wire.HostReport) { r.VMs = make([]wire.VMReport, 20000) }},
		} {
			r := wire.HostReport{Roles: []api.HostRole{api.RoleHypervisor}, VTEP: h.vtep, Capacity: h.room, VMs: []wire.VMReport{}, Images: []string{}}
			c.lie(&r)
			err := wire.Call(t.Context(), s, http.MethodPost, wire.PathReport, r, &wire.Empty{})
			wantError(t, name, err, api.CodeInvalid, api.CodeRefused)
			wantField(t, name, err, codeOf(err), c.field)
		}
		after := tokyo.host("h2").Status
		if !strings.Contains(after.Message, "report is refused") || after.VTEP != before.VTEP || after.Capacity != before.Capacity || len(after.Images) != len(before.Images) {
			t.Errorf("before %+v, after %+v", before, after)
		}
		// Texts are kept as lines that a terminal can show.
		r := wire.HostReport{Roles: []api.HostRole{api.RoleHypervisor}, VTEP: h.vtep, Capacity: h.room, Message: "a\x1b[31m\nb" + strings.Repeat("x", 10000), VMs: []wire.VMReport{}, Images: []string{}}
		if err := wire.Call(t.Context(), s, http.MethodPost, wire.PathReport, r, &wire.Empty{}); err != nil {
			t.Fatal(err)
		}
		if m := tokyo.host("h2").Status.Message; len(m) > 600 || strings.ContainsAny(m, "\x1b\n") {
			t.Errorf("the message is %q", m)
		}
	})
}

// TestAgentReadsItsImages: an agent reads the images that its own orders name, and no others.
func TestAgentReadsItsImages(t *testing.T) {
	federation(t, options{sites: []string{"tokyo"}, hosts: 2}, func(t *testing.T, w *world) {
		tokyo := w.sites["tokyo"]
		tokyo.ready("2001:db8:a::/64")
		tokyo.newVM("web1", "tokyo/h1")
		o, err := tokyo.ctl.Get(t.Context(), tokyo.admin, api.KindImage, "tiny")
		if err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string]bool{"h1": true, "h2": false} {
			h := tokyo.hosts[name]
			h.kill()
			s, err := w.session("tokyo", h.node(), h.cred, wire.Bulk)
			if err != nil {
				t.Fatal(err)
			}
			_, _, content, err := wire.OpenImage(t.Context(), s, wire.PathAgentImage, o.(*api.Image).Status.Digest)
			if err == nil {
				content.Close()
			}
			if (err == nil) != want {
				t.Errorf("%s reads the image of web1, which runs at h1: %v", name, err)
			}
			s.Close()
			h.start()
		}
	})
}

// TestNothingIsLeftOfAHost: what a removed host said of its translator is said no more.
func TestNothingIsLeftOfAHost(t *testing.T) {
	federation(t, options{sites: []string{"tokyo"}}, func(t *testing.T, w *world) {
		tokyo := w.sites["tokyo"]
		tokyo.ready("2001:db8:a::/64")
		tokyo.newVM("web1", "")
		tokyo.create(&api.Address{Meta: api.Meta{Name: "a1", Owner: "lab"}, Spec: api.AddressSpec{Address: "203.0.113.7", VM: "web1"}})
		gw := tokyo.addGateway("gw1", netip.MustParseAddr("2001:db8:1::99"))
		w.connected()
		gw.kill()
		time.Sleep(10 * time.Second)
		s, err := w.session("tokyo", gw.node(), gw.cred, wire.Control)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		a := netip.MustParseAddr("203.0.113.7")
		r := wire.HostReport{
			Roles: gw.roles, VTEP: gw.vtep, VMs: []wire.VMReport{}, Images: []string{},
			Translator: &wire.TranslatorReport{Running: true, Mappings: []netip.Addr{a}, Refused: []wire.RefusedMapping{{Service: a, Message: "it is mine"}}},
		}
		if err := wire.Call(t.Context(), s, http.MethodPost, wire.PathReport, r, &wire.Empty{}); err != nil {
			t.Fatal(err)
		}
		status := func() api.AddressStatus {
			o, err := tokyo.ctl.Get(t.Context(), tokyo.admin, api.KindAddress, "a1")
			w.must(err)
			return o.(*api.Address).Status
		}
		if st := status(); !slices.Equal(st.Translators, []string{"tokyo/gw1"}) || len(st.Refused) != 1 || st.Refused[0] != (api.AddressRefusal{By: "tokyo/gw1", Message: "it is mine"}) {
			t.Errorf("reported: %+v", st)
		}
		if _, err := tokyo.ctl.Delete(t.Context(), tokyo.admin, api.KindHost, "gw1"); err != nil {
			t.Fatal(err)
		}
		delete(tokyo.hosts, "gw1")
		if st := status(); len(st.Translators) > 0 || len(st.Refused) > 0 {
			t.Errorf("after its removal: %+v", st)
		}
		if keys := keysOf(tokyo.proc, "objects/translators/"); len(keys) > 0 {
			t.Errorf("after its removal there are %v", keys)
		}
	})
}
