package play_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"widecloud/internal/lab/play"
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
	const site = "site tokyo hosts 0 gateway\n"
	base := piece(t, "base.lab", site+"site osaka hosts 0\nwan tokyo osaka rtt 2ms rate 100M\n")
	messy := site + "network blue owner tokyo prefix 2001:db8:b1ae:1::/64\nkill tokyo/gw map646\npoweroff tokyo/gw\ncut tokyo\n"
	var out bytes.Buffer
	outcomes, err := play.RunOn(t.Context(), base, []play.Piece{
		piece(t, "a.lab", messy),
		piece(t, "b.lab", messy+"budget 1ms\n"),
		piece(t, "hosts.lab", "site tokyo hosts 1 gateway\n"),
		piece(t, "gateway.lab", "site tokyo hosts 0\n"),
		piece(t, "wan.lab", site+"site osaka hosts 0\nwan tokyo osaka rtt 3ms rate 100M\n"),
		piece(t, "centre.lab", "translator br1\n"),
		piece(t, "last.lab", site+"kill tokyo/gw map646 STOP\nkill tokyo controller\nstart tokyo controller\n"),
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

// TestRunAll: two scripts at a time, each on machines of its own, see nothing of each
// other, and leave nothing.
func TestRunAll(t *testing.T) {
	text := "translator br1\nserver web1 service 203.0.113.10\nexpect page web1 from inet4 says \"server web1\"\n"
	var out bytes.Buffer
	outcomes, err := play.RunAll(t.Context(), []play.Piece{
		piece(t, "a.lab", text), piece(t, "b.lab", text), piece(t, "c.lab", text+"expect page web1 from inet4 says \"nothing\" within 1s\n"),
	}, 2, play.Options{Name: scope.Name, Bin: programs(t), Out: &out, LogDir: t.TempDir()})
	t.Logf("%s", out.String())
	must(t, err)
	for i, ok := range []bool{true, true, false} {
		if outcomes[i].OK() != ok {
			t.Errorf("%s: OK is %t, failed %v, error %v", outcomes[i].Script.File, !ok, failures(outcomes[i]), outcomes[i].Err)
		}
	}
	if n := strings.Count(out.String(), "nothing is left on the machine"); n != 3 {
		t.Errorf("%d checks of what is left", n)
	}
}
