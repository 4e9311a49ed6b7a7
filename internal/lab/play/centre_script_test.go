package play_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"widecloud/internal/lab/play"
	"widecloud/internal/lab/script"
	"widecloud/internal/lab/stage"
	"widecloud/internal/lab/topic/fault"
	"widecloud/internal/lab/topic/flow"
	"widecloud/internal/lab/topic/server"
	"widecloud/internal/lab/topic/siit"
	"widecloud/internal/lab/topic/site"
)

const centre = `routing bgp
translator br1 path full dns64 inside-mtu 1400 tun-mtu 1500
translator br2 outside-mtu 1300
server web1 service 203.0.113.10 2001:db8:f::10 mtu 1400
server old at inet4
server new at inet6
`

func TestParseDataCentre(t *testing.T) {
	s, err := play.Parse("x.lab", centre+`fill 1000
traffic a inet4 -> web1 download rate 1M
traffic b web1 -> old.example http every 50ms
server web2
map 203.0.113.11, 2001:db8:f::11 to web2
unmap 203.0.113.11
map646 all fast off
churn reload every 100ms
stop churn
kill br1 map646 TERM
poweroff web1
expect translator br2 busy fast within 5s
expect map646 br1 stats says "4to6" within 2s
expect traceroute from inet4 to web1 hops 6 by tcp through 198.51.100.1
expect pmtu from web1 to inet4 is 1320
expect name old.example from web1 is 2001:db8:64::c000:206
expect page 203.0.113.10 from inet4 says "server web1"
`)
	must(t, err)
	d := siit.Of(s)
	if d.Routing != "bgp" || d.Fill != 1000 || len(d.Translators) != 2 || len(d.Servers) != 4 {
		t.Errorf("data centre %+v", d)
	}
	if br := d.Translators[0]; br.Path != "full" || !br.DNS64 || br.InsideMTU != 1400 || br.TunMTU != 1500 || br.OutsideMTU != 0 {
		t.Errorf("translator %+v", br)
	}
	if w := d.Servers[0]; len(w.Service) != 2 || w.MTU != 1400 || w.At != "" || d.Servers[1].At != "inet4" {
		t.Errorf("server %+v", w)
	}
	do := func(i int) any { return s.Statements[len(s.Statements)-17+i].Do }
	if b := do(2).(*flow.Traffic); b.Host != "old.example" || b.From.Name() != "web1" || b.Every != 50*time.Millisecond {
		t.Errorf("traffic %+v", b)
	}
	if m := do(4).(*siit.Map); len(m.Service) != 2 || m.Server != d.Servers[3] {
		t.Errorf("map %+v", m)
	}
	if m := do(5).(*siit.Map); len(m.Service) != 1 || m.Server != nil {
		t.Errorf("unmap %+v", m)
	}
	if c := do(6).(*siit.Command); c.Of != nil || !slices.Equal(c.Args, []string{"fast", "off"}) {
		t.Errorf("command %+v", c)
	}
	if c := do(7).(*siit.Churn); c.What != "reload" || c.Every != 100*time.Millisecond {
		t.Errorf("churn %+v", c)
	}
	if k := do(9).(*fault.Kill); k.Process != "map646" || k.Signal != syscall.SIGTERM || k.Runner != stage.Runner(d.Translators[0]) {
		t.Errorf("kill %+v", k)
	}
	if b := do(11).(*siit.Busy); b.Translator != d.Translators[1] || b.Idle || b.Path != "fast" || b.Within != 5*time.Second {
		t.Errorf("busy %+v", b)
	}
	if e := do(12).(*siit.Says); e.Text != "4to6" || !slices.Equal(e.Args, []string{"stats"}) || e.Within != 2*time.Second {
		t.Errorf("says %+v", e)
	}
	if e := do(13).(*flow.Traceroute); e.Host != "203.0.113.10" || e.Hops != 6 || e.By != "tcp" || e.Through[0].String() != "198.51.100.1" {
		t.Errorf("traceroute %+v", e)
	}
	if e := do(14).(*flow.PMTU); e.Host != "2001:db8:64::c633:6407" || e.MTU != 1320 {
		t.Errorf("pmtu %+v", e)
	}
	if e := do(15).(*siit.Resolves); e.Name != "old.example" || e.From != d.Servers[0] || e.Addr.String() != "2001:db8:64::c000:206" {
		t.Errorf("name %+v", e)
	}
	if e := do(16).(*flow.Page); e.Host != "203.0.113.10" || e.Says != "server web1" {
		t.Errorf("page %+v", e)
	}
}

// TestParseServers: servers of Debian's beside those of a data centre.
func TestParseServers(t *testing.T) {
	const debian = "site tokyo hosts 0\ntranslator br1\nserver web1\nserver store runs ceph at tokyo\nserver files runs ganesha at tokyo\n"
	s, err := play.Parse("x.lab", debian+`kill store osd2
start files rpcbind
poweroff store
cut files
expect server files answers within 5s
expect server store says "HEALTH_OK"
expect server store silent
`)
	must(t, err)
	do := func(i int) any { return s.Statements[len(s.Statements)-7+i].Do }
	if k := do(0).(*fault.Kill); k.Process != "osd2" || k.Runner.(stage.Named).Name() != "store" {
		t.Errorf("kill %+v", k)
	}
	if a := do(4).(*server.Answers); a.Server.Name() != "files" || a.Silent || a.Says != "" || a.Within != 5*time.Second {
		t.Errorf("answers %+v", a)
	}
	if a := do(5).(*server.Answers); a.Server.Name() != "store" || a.Says != "HEALTH_OK" {
		t.Errorf("says %+v", a)
	}
	if a := do(6).(*server.Answers); !a.Silent {
		t.Errorf("silent %+v", a)
	}
	var many strings.Builder
	for i := range 14 {
		fmt.Fprintf(&many, "server s%d runs etcd at tokyo\n", i)
	}
	for line, want := range map[string]string{
		"server a runs mysql at tokyo":       `6:15: "mysql" where ceph or etcd or ganesha or smtp or snmpd or tgt is wanted`,
		"server a runs etcd":                 "6:19: at is missing; the form is: server NAME runs ceph|etcd|ganesha|smtp|snmpd|tgt at SITE",
		"server a runs etcd at inet4":        `6:23: unknown site "inet4"; known: tokyo`,
		"server store runs etcd at tokyo":    `6:8: server "store" is there already`,
		"server a at inet5":                  `6:13: "inet5" where inet4 or inet6 is wanted`,
		"kill store osd3":                    `6:12: "osd3" where mon or mgr or osd0 or osd1 or osd2 is wanted`,
		"expect server web1 answers":         `6:15: unknown server of Debian's "web1"; known: files, store`,
		"expect server store sings":          `6:21: "sings" where answers or silent or says is wanted`,
		"expect server store says yes":       "6:26: the text must stand in quotation marks",
		"expect page store from inet4":       `6:13: unknown target "store"`,
		strings.TrimSpace(many.String()):     "17:1: more than 13 servers at tokyo",
		"server averylongname1 runs etcd at": `6:8: "averylongname1" is longer than 12 characters`,
	} {
		if _, err := play.Parse("x.lab", debian+line+"\n"); err == nil || !strings.HasPrefix(err.Error(), "x.lab:"+want) {
			t.Errorf("%s:\n got %v\nwant x.lab:%s", line, err, want)
		}
	}
}

// TestBoth: a script may have sites and a data centre; who is declared first has the
// first service prefixes.
func TestBoth(t *testing.T) {
	const sites = "site tokyo gateway\nimage tiny\nnetwork blue owner tokyo prefix 2001:db8:b1ae:1::/64\n"
	for _, text := range []string{
		sites + "vm a owner tokyo network blue service 203.0.113.10\ntranslator br1\nserver b service 198.18.0.10\n",
		"translator br1\nserver b service 203.0.113.10\n" + sites + "vm a owner tokyo network blue service 198.18.0.10\n",
	} {
		text += "expect page a from b\nexpect page b from tokyo\nkill br1 map646\npoweroff b\npoweroff tokyo/h1\ncut br1\ncut tokyo\n"
		s, err := play.Parse("x.lab", text)
		must(t, err)
		if siit.Of(s) == nil || site.Of(s) == nil {
			t.Errorf("%s: not both", text)
		}
	}
	_, err := play.Parse("x.lab", sites+"translator br1\nserver b service 203.0.113.10\n")
	if err == nil || !strings.Contains(err.Error(), "in none of the service prefixes 198.18.0.0/24 and 2001:db8:e::/64") {
		t.Errorf("the sites' prefix for a server: %v", err)
	}
	_, err = play.Parse("x.lab", sites+"routing bgp\ntranslator br1\n")
	if err == nil || !strings.HasPrefix(err.Error(), "x.lab:5:1: routing by ospf and by bgp in one script") {
		t.Errorf("BGP beside sites: %v", err)
	}
}

func TestDataCentreErrors(t *testing.T) {
	for line, want := range map[string]string{
		"site tokyo":                                            `7:1: routing by bgp and by ospf in one script`,
		"routing ospf":                                          "7:1: routing must be said before the first translator",
		"translator":                                            "7:11: translator's name is missing; the form is: translator NAME",
		"translator br1":                                        `7:12: translator "br1" is there already`,
		"translator web1":                                       `7:12: translator "web1" is there already`,
		"translator inet":                                       `7:12: "inet" means something else`,
		"translator averylongname":                              `7:12: "averylongname" is longer than 12 characters`,
		"translator br3 path slow":                              `7:21: "slow" where fast or full is wanted`,
		"translator br3 inside-mtu 1200":                        `7:27: "1200" is not a number between 1280 and 1500`,
		"server web1":                                           `7:8: server "web1" is there already`,
		"server web2 service 192.0.2.1":                         "7:21: 192.0.2.1 is in none of the service prefixes",
		"server web2 service 203.0.113.10":                      "7:21: 203.0.113.10 is that of web1",
		"server o at inet4 service 203.0.113.9":                 "7:1: service addresses are for servers in the data centre; o is at inet4",
		"server o at osaka":                                     `7:13: "osaka" where inet4 or inet6 is wanted`,
		"server web2 service 203.0.113.8 203.0.113.9":           "7:1: two service addresses of one family for web2; one machine has one",
		"map 203.0.113.9 to web1":                               "7:5: web1 has 203.0.113.10 already; one machine has one service address of a family",
		"fill 0":                                                `7:6: "0" is not a number between 1 and 1000000`,
		"map 203.0.113.9 to old":                                `7:20: unknown server in the data centre "old"; known: web1`,
		"map 203.0.113.9":                                       "7:16: address is missing; the form is: map ADDRESS… to SERVER",
		"map 192.0.2.1 to web1":                                 "7:5: 192.0.2.1 is in none of the service prefixes",
		"unmap 203.0.113.9":                                     "7:7: 203.0.113.9 is not mapped",
		"map646 br3 stats":                                      `7:8: unknown translator "br3"; known: br1, br2`,
		"map646 br1 dance":                                      `7:12: "dance" where stats or table`,
		"map646 br1":                                            "7:11: stats or table or reload",
		"churn table":                                           "7:12: every is missing",
		"churn all every 1s":                                    `7:7: "all" where table or reload is wanted`,
		"churn table every 1ms":                                 "7:19: more often than every 10ms",
		"stop churn":                                            "7:1: there is no churn to stop",
		"kill br1 agent":                                        `7:10: "agent" where map646 is wanted`,
		"kill web1 map646":                                      `7:11: "map646" where web is wanted`,
		"poweroff br3":                                          `7:10: unknown machine "br3"; known: br1, br2, new, old, web1`,
		"traffic a inet5 -> web1 http every 1s":                 `7:11: unknown place of a client "inet5"; known: inet4, inet6, new, old, web1`,
		"traffic a inet4 -> new http every 1s":                  "7:20: new has no address that a client at inet4 could use",
		"traffic a inet4 -> web2 http every 1s":                 `7:20: unknown target "web2"; known: inet4, inet6, new, new.example, old, old.example, web1; nor is it an address`,
		"traffic a inet4 -> old.example http every 1s":          "7:20: names are for servers in the data centre",
		"traffic a web1 -> none.example http every 1s":          `7:19: unknown target "none.example"`,
		"expect translator br1 tired":                           `7:23: "tired" where idle or busy is wanted`,
		"expect translator br3 idle":                            `7:19: unknown translator "br3"`,
		"expect map646 br1 stats":                               "7:24: says is missing",
		"expect map646 br1 stats says 4to6":                     "7:30: the text must stand in quotation marks",
		"expect map646 all stats says \"4to6\"":                 `7:15: unknown translator "all"; known: br1, br2`,
		"expect traceroute from inet4 to web1":                  "7:37: hops is missing",
		"expect traceroute from inet4 to web1 hops six":         `7:43: "six" is not a number between 1 and 30`,
		"expect traceroute from inet4 to web1 hops 6 silent no": `7:52: "no" is not a number`,
		"expect traceroute from inet4 to web1 hops 6 by sctp":   `7:48: "sctp" where udp or icmp or tcp is wanted`,
		"expect traceroute from inet4 to inet6 hops 6":          "7:33: inet6 has no address that a client at inet4 could use",
		"expect traceroute from inet4 to web1 hops 6 through x": `7:53: "x" is no IP address`,
		"expect pmtu from inet4 to web1 is small":               `7:35: "small" is not a number`,
		"expect name web1.example from web1 is ::1":             `7:13: unknown name "web1.example"`,
		"expect name old.example from inet4 is ::1":             `7:30: unknown server in the data centre "inet4"; known: web1`,
		"expect page web1 from inet4 says yes":                  "7:34: the text must stand in quotation marks",
	} {
		_, err := play.Parse("x.lab", centre+line+"\n")
		var fault *script.Error
		if !errors.As(err, &fault) || !strings.HasPrefix(err.Error(), "x.lab:"+want) {
			t.Errorf("%s:\n got %v\nwant x.lab:%s", line, err, want)
		}
	}
	for text, want := range map[string]string{
		"routing static\ntranslator a\ntranslator b": "x.lab:3:1: static routing notices no failure, so it is for one translator",
		"server web1":                          "x.lab:1:1: a script needs a machine; say one of: site, translator",
		"server web1\nmap 203.0.113.1 to web1": "x.lab:2:1: there is no translator yet; say: translator NAME",
		"translator a\ntranslator b\ntranslator c\ntranslator d\ntranslator e": "x.lab:5:1: more than four translators",
		"translator a\nfill 1\nfill 2":                                         "x.lab:3:1: the table is filled already",
		"translator a\nchurn table every 1s\nchurn table every 1s":             "x.lab:3:1: there is a churn already; stop churn ends it",
	} {
		if _, err := play.Parse("x.lab", text); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%q:\n got %v\nwant %s", text, err, want)
		}
	}
}
