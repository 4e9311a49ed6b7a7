package netio_test

import (
	"context"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"widecloud/internal/netio"
)

func TestHideBridge(t *testing.T) {
	ns := newNS(t, "hide")
	must(t, ns.AddSilentBridge(netio.BridgeSpec{Name: "br"}))
	mask := func() string {
		var out []byte
		must(t, ns.Do(func() (err error) {
			out, err = exec.Command("ip", "-d", "link", "show", "br").CombinedOutput()
			return err
		}))
		return string(out)
	}
	if !strings.Contains(mask(), "group_fwd_mask 0 ") {
		t.Errorf("a new bridge: %s", mask())
	}
	for range 2 {
		must(t, ns.HideBridge("br"))
		if !strings.Contains(mask(), "group_fwd_mask 0xfff8 ") {
			t.Errorf("hidden: %s", mask())
		}
	}
	if err := ns.HideBridge("lo"); err == nil {
		t.Error("lo is no bridge, and was hidden")
	}
}

func TestLinkRulesWithSources(t *testing.T) {
	ns := newNS(t, "rule")
	must(t, ns.AddSilentBridge(netio.BridgeSpec{Name: "br"}))
	want := []netio.LinkRule{
		{Link: "br", Table: 100, Priority: 700},
		{Link: "lo", Src: netip.MustParseAddr("2001:db8::1"), Table: 200, Priority: 700},
		{Link: "lo", Src: netip.MustParseAddr("2001:db8::2"), Table: 300, Priority: 700},
	}
	for _, r := range want {
		must(t, ns.AddLinkRule(r))
	}
	must(t, ns.AddLinkRule(netio.LinkRule{Link: "br", Table: 100, Priority: 701}))
	for len(want) > 0 {
		got, err := ns.LinkRules(700)
		must(t, err)
		if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{}), cmpopts.SortSlices(func(a, b netio.LinkRule) bool { return a.Table < b.Table })); diff != "" {
			t.Errorf("rules (-want +got):\n%s", diff)
		}
		must(t, ns.DelLinkRule(want[0]))
		want = want[1:]
	}
}

func TestAllAddrs(t *testing.T) {
	ns := newNS(t, "addrs")
	must(t, ns.AddSilentBridge(netio.BridgeSpec{Name: "br"}), ns.AddAddr("br", netip.MustParsePrefix("2001:db8::1/64")), ns.AddAddr("lo", netip.MustParsePrefix("2001:db8::1/128")),
		ns.AddAddr("lo", netip.MustParsePrefix("192.0.2.1/32")))
	got, err := ns.AllAddrs()
	must(t, err)
	for _, want := range []netio.LinkAddr{
		{Link: "br", Addr: netip.MustParseAddr("2001:db8::1")}, {Link: "lo", Addr: netip.MustParseAddr("2001:db8::1")}, {Link: "lo", Addr: netip.MustParseAddr("192.0.2.1")}, {Link: "lo", Addr: netip.IPv6Loopback()},
	} {
		if !slices.Contains(got, want) {
			t.Errorf("%v is not among %v", want, got)
		}
	}
}

func TestNftGeneration(t *testing.T) {
	ns := newNS(t, "gen")
	last, err := ns.NftGeneration()
	must(t, err)
	for _, c := range []struct {
		script  string
		changes bool
	}{
		{"table ip x {\n set s {\n type ipv4_addr\n }\n}\n", true},
		{"list ruleset\n", false},
		{"add element ip x s { 192.0.2.1 }\nadd element ip x s { 192.0.2.2 }\n", true},
		{"delete table ip x\n", true},
	} {
		_, err := ns.Nft(t.Context(), "nft", c.script, "-f", "-")
		must(t, err)
		now, err := ns.NftGeneration()
		must(t, err)
		want := last
		if c.changes {
			want++
		}
		if now != want {
			t.Errorf("%q: generation %d, want %d", c.script, now, want)
		}
		last = now
	}
}

func TestWatchLinks(t *testing.T) {
	ns := newNS(t, "links")
	must(t, ns.AddSilentBridge(netio.BridgeSpec{Name: "br"}))
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	changes, err := ns.WatchLinks(ctx)
	must(t, err)
	for _, c := range []struct {
		what   string
		change func() error
	}{
		{"a device comes", func() error { return ns.AddVeth(netio.VethSpec{Name: "v0", PeerName: "v1"}) }},
		{"it becomes a port", func() error { return ns.SetMaster("v0", "br") }},
		{"its MAC changes", func() error { return ns.SetMAC("v0", []byte{2, 0, 0, 0, 0, 1}) }},
		{"it goes", func() error { return ns.DeleteLink("v0") }},
	} {
		for drained := false; !drained; {
			select {
			case <-changes:
			case <-time.After(100 * time.Millisecond):
				drained = true
			}
		}
		must(t, c.change())
		select {
		case <-changes:
		case <-time.After(10 * time.Second):
			t.Errorf("%s: no notification", c.what)
		}
	}
	cancel()
	for range changes {
	}
}
