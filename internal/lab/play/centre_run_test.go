package play_test

import (
	"bytes"
	"strings"
	"testing"

	"widecloud/internal/lab/play"
)

// TestDataCentreRun: each check of a data centre can fail, and fails when it
// should; what it is about is there all the same, and nothing is left. The
// examples under examples/ are the tests in which they hold.
func TestDataCentreRun(t *testing.T) {
	bin := programs(t)
	const script = `routing static
translator br1 dns64 inside-mtu 1400
server web1 service 203.0.113.10
server web2
server old at inet4 mtu 1300
traffic pages inet4 -> web1 http every 20ms
expect translator br1 busy fast
expect translator br1 idle within 3s
expect translator br1 busy full within 3s
expect page 203.0.113.10 from inet4 says "server web2" within 3s
expect traceroute from inet4 to web1 hops 5 within 3s
expect traceroute from inet4 to web1 hops 6 through 192.0.2.99 within 3s
expect traceroute from inet4 to 203.0.113.77 hops 3 within 3s
expect pmtu from inet4 to web1 is 1400
expect pmtu from inet4 to web1 is 1380
expect name old.example from web1 is 2001:db8:64::c000:207 within 3s
expect map646 br1 stats says "nonsense" within 3s
expect map646 br1 table says "203.0.113.10"
churn table every 10ms
kill br1 map646
sleep 1s
stop churn
start br1 map646
map646 br1 fast off
poweroff web1
sleep 1s
expect traffic all lost 0
poweron web1
expect page web1 from inet4 says "server web1"
expect traffic all alive
`
	s, err := play.Parse("x.lab", script)
	must(t, err)
	var b bytes.Buffer
	r, err := play.Run(t.Context(), s, play.Options{Name: scope.Name, Bin: bin, Out: &b, LogDir: t.TempDir()})
	t.Logf("%s", b.String())
	must(t, err)
	want := map[int]string{8: "on the fast path", 9: "on the fast path", 10: `says "server web1"`, 11: "6 hops", 12: "192.0.2.99 is not among", 13: "",
		14: "tracepath says", 16: "is 2001:db8:64::c000:206", 17: "it says", 22: "failed", 27: "lost"}
	for _, c := range r.Checks {
		text, bad := want[c.Pos.Line]
		if c.OK == bad || bad && !strings.Contains(c.Detail, text) {
			t.Errorf("line %d, %s: passed %t, %s", c.Pos.Line, c.Text, c.OK, c.Detail)
		}
		delete(want, c.Pos.Line)
	}
	if len(want) > 0 {
		t.Errorf("no check at lines %v", want)
	}
}
