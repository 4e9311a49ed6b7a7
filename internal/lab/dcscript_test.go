package lab_test

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"widecloud/internal/lab"
)

const centre = `routing bgp
translator br1 path full dns64 inside-mtu 1400 tun-mtu 1500
translator br2 outside-mtu 1300
server web1 service 203.0.113.10 2001:db8:f::10 mtu 1400
server old at inet4
server new at inet6
`

func TestParseDataCentre(t *testing.T) {
	s, err := lab.ParseScript("x.lab", centre+`fill 1000
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
	if d := s.DC; d == nil || d.Routing != "bgp" || d.Fill != 1000 || len(d.Translators) != 2 || len(d.Servers) != 4 {
		t.Errorf("data centre %+v", d)
	}
	addr := netip.MustParseAddr
	want := []any{
		&lab.RoutingStmt{Protocol: "bgp"},
		&lab.TranslatorStmt{Name: "br1", Path: "full", DNS64: true, InsideMTU: 1400, TunMTU: 1500},
		&lab.TranslatorStmt{Name: "br2", Path: "fast", OutsideMTU: 1300},
		&lab.ServerStmt{Name: "web1", Service: []netip.Addr{addr("203.0.113.10"), addr("2001:db8:f::10")}, MTU: 1400},
		&lab.ServerStmt{Name: "old", At: "inet4"},
		&lab.ServerStmt{Name: "new", At: "inet6"},
		&lab.FillStmt{Mappings: 1000},
		&lab.TrafficStmt{Name: "a", From: "inet4", Target: "web1", Rate: 1e6},
		&lab.TrafficStmt{Name: "b", From: "web1", Target: "old.example", Every: 50 * time.Millisecond},
		&lab.ServerStmt{Name: "web2"},
		&lab.MapStmt{Service: []netip.Addr{addr("203.0.113.11"), addr("2001:db8:f::11")}, Server: "web2"},
		&lab.MapStmt{Service: []netip.Addr{addr("203.0.113.11")}},
		&lab.Map646Stmt{Translator: "all", Args: []string{"fast", "off"}},
		&lab.ChurnStmt{What: "reload", Every: 100 * time.Millisecond},
		&lab.StopChurnStmt{},
		&lab.KillStmt{Site: "br1", Process: "map646", Signal: "TERM"},
		&lab.PlugStmt{Site: "web1"},
		&lab.ExpectStmt{What: "translator", Target: "br2", Want: "busy", Path: "fast", Within: 5 * time.Second},
		&lab.ExpectStmt{What: "map646", Target: "br1", Args: []string{"stats"}, Says: "4to6", Within: 2 * time.Second},
		&lab.ExpectStmt{What: "traceroute", From: "inet4", Target: "web1", Limit: 6, By: "tcp", Through: []netip.Addr{addr("198.51.100.1")}, Within: 20 * time.Second},
		&lab.ExpectStmt{What: "pmtu", From: "web1", Target: "inet4", Limit: 1320},
		&lab.ExpectStmt{What: "name", From: "web1", Target: "old.example", Through: []netip.Addr{addr("2001:db8:64::c000:206")}, Within: 10 * time.Second},
		&lab.ExpectStmt{What: "page", Target: "203.0.113.10", From: "inet4", Says: "server web1", Within: 20 * time.Second},
	}
	var got []any
	for _, st := range s.Statements {
		got = append(got, st.Do)
	}
	if d := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{}), cmpopts.IgnoreUnexported(lab.ServerStmt{})); d != "" {
		t.Errorf("statements (-want +got):\n%s", d)
	}
}

func TestDataCentreErrors(t *testing.T) {
	for line, want := range map[string]string{
		"site tokyo":                                            `7:1: sites and a data centre (routing, translator, server, fill) exclude each other`,
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
		"map646 br3 stats":                                      `7:8: unknown translator "br3"; known: br1, br2, all`,
		"map646 br1 dance":                                      `7:12: "dance" where stats or table`,
		"map646 br1":                                            "7:11: stats or table or reload",
		"churn table":                                           "7:12: every is missing",
		"churn all every 1s":                                    `7:7: "all" where table or reload is wanted`,
		"churn table every 1ms":                                 "7:19: more often than every 10ms",
		"stop churn":                                            "7:1: there is no churn to stop",
		"kill br1 agent":                                        `7:10: "agent" where map646 is wanted`,
		"kill web1 map646":                                      `7:6: unknown translator "web1"; known: br1, br2`,
		"poweroff br3":                                          `7:10: unknown translator or server "br3"; known: br1, br2, new, old, web1`,
		"traffic a inet5 -> web1 http every 1s":                 `7:11: unknown place of a client "inet5"; known: inet4, inet6, new, old, web1`,
		"traffic a inet4 -> new http every 1s":                  "7:20: new has no address that a client at inet4 could use",
		"traffic a inet4 -> web2 http every 1s":                 `7:20: unknown server "web2"; known: new, old, web1; nor is it an address`,
		"traffic a inet4 -> old.example http every 1s":          "7:20: names are for servers in the data centre",
		"traffic a web1 -> none.example http every 1s":          `7:19: unknown name "none.example"`,
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
		"expect traceroute from inet4 to web1 hops 6 through x": `7:53: "x" is no address`,
		"expect pmtu from inet4 to web1 is small":               `7:35: "small" is not a number`,
		"expect name web1.example from web1 is ::1":             `7:13: unknown name "web1.example"`,
		"expect name old.example from inet4 is ::1":             `7:30: unknown server in the data centre "inet4"; known: web1`,
		"expect page web1 from inet4 says yes":                  "7:34: the text must stand in quotation marks",
	} {
		_, err := lab.ParseScript("x.lab", centre+line+"\n")
		var fault *lab.ScriptError
		if !errors.As(err, &fault) || !strings.HasPrefix(err.Error(), "x.lab:"+want) {
			t.Errorf("%s:\n got %v\nwant x.lab:%s", line, err, want)
		}
	}
	for text, want := range map[string]string{
		"site tokyo\ntranslator br1":                 `x.lab:2:1: "translator" and sites exclude each other`,
		"routing static\ntranslator a\ntranslator b": "x.lab:3:1: static routing notices no failure, so it is for one translator",
		"server web1":                          "x.lab:1:1: a script needs a site or a translator",
		"server web1\nmap 203.0.113.1 to web1": "x.lab:2:1: there is no translator yet; say: translator NAME",
		"translator a\ntranslator b\ntranslator c\ntranslator d\ntranslator e": "x.lab:5:1: more than four translators",
		"translator a\nfill 1\nfill 2":                                         "x.lab:3:1: the table is filled already",
		"translator a\nchurn table every 1s\nchurn table every 1s":             "x.lab:3:1: there is a churn already; stop churn ends it",
	} {
		if _, err := lab.ParseScript("x.lab", text); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%q:\n got %v\nwant %s", text, err, want)
		}
	}
}
