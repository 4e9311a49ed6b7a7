package play_test

import (
	"strings"
	"testing"

	"widecloud/internal/lab/play"
)

// TestKoshienFaults: what cannot be is said before anything is built.
func TestKoshienFaults(t *testing.T) {
	const begin = `site tokyo hosts 1 gateway
image koshien
image tiny
network blue owner tokyo prefix 2001:db8:b1ae:1::/64
vm a owner tokyo network blue image koshien service 203.0.113.10 2001:db8:f::10 user-data u.yaml
vm six owner tokyo network blue image koshien service 2001:db8:f::11 user-data u.yaml
vm bare owner tokyo network blue image koshien service 2001:db8:f::12
vm web owner tokyo network blue image tiny service 2001:db8:f::13
`
	if _, err := play.Parse("x.lab", begin+`sentryd cam from inet6 to a six rate 2
viewers v 3 inet4 -> a
viewers w 3 tokyo -> a six
measure viewers all
scrape tokyo/gw every 10ms
stop scrape tokyo/gw
expect viewers v freeze under 3s
expect viewers all missed 2
figure k.lost viewers w lost
figure k.share share tokyo/gw
figure k.missing sentryd cam missing six
`); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ line, want string }{
		{"sentryd cam from tokyo to a", `"tokyo" where inet4 or inet6 is wanted`},
		{"sentryd cam from inet6 to web", "vm web is of image tiny, which has no sentryc"},
		{"sentryd cam from inet6 to bare", "vm bare has no user-data"},
		{"sentryd cam from inet6 to a a", "vm a twice"},
		{"sentryd cam from inet4 to six", "no service address that a client at inet4 could use"},
		{"sentryd cam from inet6 to a rate 11", `"11" is not a number between 1 and 10`},
		{"viewers v 0 inet6 -> a", "between 1 and 1000"},
		{"measure viewers v", `unknown viewers "v"`},
		{"scrape tokyo/h1 every 1s", "tokyo/h1 has no map646"},
		{"scrape tokyo/gw every 1us", "more often than every 1ms"},
		{"figure k.x share tokyo/h1", "tokyo/h1 has no map646"},
		{"figure k.x sentryd cam lost a", `unknown sentryd "cam"`},
	} {
		_, err := play.Parse("x.lab", begin+c.line+"\n")
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", c.line, err, c.want)
		}
	}
}
