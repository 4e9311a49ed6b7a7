package play_test

import (
	"bytes"
	"context"
	"errors"
	"net/netip"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"widecloud/api"
	"widecloud/internal/lab/play"
	"widecloud/internal/lab/stage"
	"widecloud/internal/lab/topic/site"
	"widecloud/internal/netio"
)

func piece(t *testing.T, file, text string) play.Piece {
	t.Helper()
	s, err := play.Parse(file, text)
	must(t, err)
	return play.Piece{Script: s}
}

// failures are the texts of the checks that failed.
func failures(o play.Outcome) (l []string) {
	if o.Result == nil {
		return nil
	}
	for _, c := range o.Result.Checks {
		if !c.OK {
			l = append(l, c.Text)
		}
	}
	return l
}

// TestRunOn: scripts share a base. What one has made, killed and cut is taken back
// before the next; a script that needs more than the base has is not begun.
func TestRunOn(t *testing.T) {
	const tokyo = "site tokyo hosts 0 gateway\n"
	base := piece(t, "base.lab", tokyo+"site osaka hosts 0\nwan tokyo osaka rtt 2ms rate 100M\n")
	messy := tokyo + "network blue owner tokyo prefix 2001:db8:b1ae:1::/64\nkill tokyo/gw map646\npoweroff tokyo/gw\ncut tokyo\n"
	var out bytes.Buffer
	outcomes, err := play.RunOn(t.Context(), base, []play.Piece{
		piece(t, "a.lab", messy),
		piece(t, "b.lab", messy+"budget 1ms\n"),
		piece(t, "hosts.lab", "site tokyo hosts 1 gateway\n"),
		piece(t, "gateway.lab", "site tokyo hosts 0\n"),
		piece(t, "wan.lab", tokyo+"site osaka hosts 0\nwan tokyo osaka rtt 3ms rate 100M\n"),
		piece(t, "centre.lab", "translator br1\n"),
		piece(t, "last.lab", tokyo+"kill tokyo/gw map646 STOP\nkill tokyo controller\nstart tokyo controller\n"),
	}, play.Options{Name: scope.Name, Bin: programs(t), Out: &out, LogDir: t.TempDir()})
	t.Logf("%s", out.String())
	must(t, err)
	want := []struct{ err, failed string }{
		{}, {}, {failed: "budget 1ms"}, {err: "the base has 0 hosts, not 1"}, {err: "gateway at tokyo would take part"}, {err: "no such link"},
		{err: "cannot be shared"}, {},
	}
	if len(outcomes) != len(want) {
		t.Fatalf("%d outcomes", len(outcomes))
	}
	for i, w := range want {
		o := outcomes[i]
		text := ""
		if o.Err != nil {
			text = o.Err.Error()
		}
		if (text == "") != (w.err == "") || !strings.Contains(text, w.err) || strings.Join(failures(o), "; ") != w.failed {
			t.Errorf("%s: error %q, failed %v; want %+v", o.Script.File, text, failures(o), w)
		}
		if ok := w.err == "" && w.failed == ""; o.OK() != ok {
			t.Errorf("%s: OK is %t", o.Script.File, !ok)
		}
	}
	if table := play.Table(outcomes, time.Minute); strings.Count(table, "FAILED") != 5 || !strings.Contains(table, "by the clock                   60.0") {
		t.Errorf("table\n%s", table)
	}
}

// TestRunAll: scripts run beside each other as far as the cores bear it, one that wants
// to be alone runs when all others have ended, and those with one base share its
// machines. They see nothing of each other, and leave nothing.
func TestRunAll(t *testing.T) {
	const (
		centre = "translator br1\nserver web1 service 203.0.113.10\nexpect page web1 from inet4 says \"server web1\"\n"
		tokyo  = "site tokyo hosts 0\n"
	)
	base := piece(t, "base.lab", tokyo)
	based := func(file string) play.Piece {
		p := piece(t, file, "base base.lab\n"+tokyo+"kill tokyo controller\nstart tokyo controller\n")
		p.Base = &base
		return p
	}
	var out bytes.Buffer
	outcomes, err := play.RunAll(t.Context(), []play.Piece{
		piece(t, "alone.lab", "alone\n"+centre), piece(t, "b.lab", centre), based("c.lab"),
		piece(t, "d.lab", centre+"expect page web1 from inet4 says \"nothing\" within 1s\n"), based("e.lab"),
	}, 1, play.Options{Name: scope.Name, Bin: programs(t), Out: &out, LogDir: t.TempDir()})
	t.Logf("%s", out.String())
	must(t, err)
	files := []string{"base.lab", "alone.lab", "b.lab", "c.lab", "d.lab", "e.lab"}
	if len(outcomes) != len(files) {
		t.Fatalf("%d outcomes", len(outcomes))
	}
	end := func(o play.Outcome) time.Time { return o.Begun.Add(o.Took) }
	for i, o := range outcomes {
		if o.Script.File != files[i] || o.OK() != (files[i] != "d.lab") {
			t.Errorf("%s for %s: OK is %t, failed %v, error %v", o.Script.File, files[i], o.OK(), failures(o), o.Err)
		}
		if alone := outcomes[1]; i != 1 && alone.Begun.Before(end(o)) {
			t.Errorf("%s ran until %v, alone.lab began at %v", files[i], end(o), alone.Begun)
		}
	}
	if c, e := outcomes[3], outcomes[5]; e.Begun.Before(end(c)) {
		t.Errorf("on one base, e.lab began at %v, before c.lab ended at %v", e.Begun, end(c))
	}
	// On one core there is room for those without a guest.
	if b := outcomes[2]; !b.Begun.Before(end(outcomes[5])) {
		t.Errorf("b.lab began at %v, when those on the base had ended", b.Begun)
	}
	if n := strings.Count(out.String(), "being built: site tokyo"); n != 1 {
		t.Errorf("the base was built %d times", n)
	}
	if n := strings.Count(out.String(), "passed no namespace"); n != 4 {
		t.Errorf("%d checks of what is left", n)
	}
}

// TestBaseIsWhole: whatever a script may leave on a base, or takes from it, is seen.
func TestBaseIsWhole(t *testing.T) {
	p := piece(t, "base.lab", "site tokyo hosts 0 gateway lend 1 addresses to *\n")
	var before, after []string
	_, err := play.Run(t.Context(), p.Script, play.Options{Name: scope.Name, Bin: programs(t), Out: t.Output(), LogDir: t.TempDir(), Hold: func(s *stage.Stage) {
		ctx := t.Context()
		var err error
		before, err = s.List(ctx)
		must(t, err)
		tokyo := site.Of(s.Script).Site("tokyo")
		c, gw := tokyo.Client(), s.Lab.Node("tokyo-gw")
		_, err = api.Create(ctx, c, &api.Owner{Meta: api.Meta{Name: "stray"}})
		must(t, err)
		_, err = api.Create(ctx, c, &api.User{Meta: api.Meta{Name: "stray", Owner: "stray"}})
		must(t, err)
		_, err = c.NewToken(ctx, api.OwnTokens, api.TokenRequest{Note: "stray"})
		must(t, err)
		_, err = api.Create(ctx, c, &api.Network{Meta: api.Meta{Name: "stray"}, Spec: api.NetworkSpec{Prefix: "2001:db8:b1ae:9::/64"}})
		must(t, err)
		_, err = api.Create(ctx, c, &api.Offer{Meta: api.Meta{Name: "stray"}, Spec: api.OfferSpec{To: []string{"*"}, LendLimit: api.Resources{CPUs: 1}, Lease: 60, OnReclaim: api.ReclaimStop}})
		must(t, err)
		must(t, gw.AddBridge(netio.BridgeSpec{Name: "stray"}))
		must(t, gw.AddRoute(netio.Route{Dst: netip.MustParsePrefix("2001:db8:b1ae:9::/64"), Link: "eth0"}))
		must(t, gw.WriteFile("/var/lib/widecloud/agent/vms/volume/stray", nil))
		must(t, gw.Kill("map646", syscall.SIGKILL))
		must(t, stage.Until(ctx, time.Minute, func(ctx context.Context) error {
			after, err = s.List(ctx)
			if err == nil && !slices.ContainsFunc(after, func(l string) bool { return strings.HasPrefix(l, "device vx-") }) {
				err = errors.New("the gateway does not carry the stray network yet")
			}
			return err
		}))
		must(t, stage.Until(ctx, time.Minute, func(ctx context.Context) error {
			was := after
			after, err = s.List(ctx)
			if err == nil && !slices.Equal(was, after) {
				err = errors.New("it is still being carried")
			}
			return err
		}))
	}})
	must(t, err)
	minus := func(a, b []string) []string {
		return slices.DeleteFunc(slices.Clone(a), func(x string) bool { return slices.Contains(b, x) })
	}
	ids := regexp.MustCompile(`\[.*\]|\bvx-[0-9a-f]+`)
	var got []string
	for _, l := range minus(after, before) {
		got = append(got, "+"+ids.ReplaceAllString(l, "[…]"))
	}
	for _, l := range minus(before, after) {
		got = append(got, "-"+ids.ReplaceAllString(l, "[…]"))
	}
	slices.Sort(got)
	want := []string{
		"+device […] of tokyo-gw at tokyo", "+device stray of tokyo-gw at tokyo", "+file /var/lib/widecloud/agent/vms/volume/stray of tokyo-gw at tokyo", "+network stray at tokyo", "+offer stray at tokyo",
		"+owner stray at tokyo",
		"+route to 2001:db8:b1ae:9::/64 of tokyo-gw at tokyo", "+route to 2001:db8:b1ae:9::/64 of tokyo-gw at tokyo", "+user admin with tokens […] at tokyo", "+user stray with tokens […] at tokyo",
		"-device map646 of tokyo-gw at tokyo", "-process map646 of tokyo-gw at tokyo", "-user admin with tokens […] at tokyo",
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("what has changed (-want +got):\n%s", d)
	}
}
