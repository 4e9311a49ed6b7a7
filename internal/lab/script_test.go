package lab_test

import (
	"errors"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"widecloud/api"
	"widecloud/internal/lab"
)

const small = `# a comment
site tokyo hosts 1 gateway lend 50% to *
site osaka hosts 2 lend 2 cpu, 512MiB memory, 4GiB disk, 2 addresses to tokyo grace 20s
wan tokyo osaka rtt 12ms rate 100M
image tiny
network blue owner tokyo prefix 2001:db8:b1ae:1::/64 ipv4 10.99.0.0/24
vm web1 owner tokyo network blue service 203.0.113.10 2001:db8:f::10 at tokyo/h1
`

func TestParseScript(t *testing.T) {
	s, err := lab.ParseScript("x.lab", small+`borrow tokyo from osaka 2 cpu 256MiB memory 2GiB disk 1 addresses
traffic dl inet4 -> web1 download rate 500k
migrate web1 osaka & # to the west
expect web1 running exactly-once at osaka, address unchanged within 5s
expect page web1 from inet6 silent
expect peer osaka of tokyo reached within 5s
expect new network 2001:db8:1::/64 at tokyo refused
expect new address 203.0.113.9 at osaka refused
say "it # is over"
`)
	must(t, err)
	if len(s.Sites) != 2 || len(s.WANs) != 1 {
		t.Errorf("sites %v, links %v", s.Sites, s.WANs)
	}
	want := []any{
		&lab.SiteStmt{Name: "osaka", Hosts: 2, Lend: &api.Resources{CPUs: 2, MemoryMiB: 512, DiskGiB: 4, Addresses: 2}, To: []string{"tokyo"}, Grace: 20 * time.Second},
		&lab.WANStmt{A: "tokyo", B: "osaka", RTT: 12 * time.Millisecond, Rate: 100_000_000},
		&lab.BorrowStmt{Borrower: "tokyo", Lender: "osaka", Amount: api.Resources{CPUs: 2, MemoryMiB: 256, DiskGiB: 2, Addresses: 1}},
		&lab.TrafficStmt{Name: "dl", From: "inet4", Target: "web1", Rate: 500_000},
		&lab.MigrateStmt{VM: "web1", To: "osaka", Background: true},
		&lab.ExpectStmt{What: "running", VM: "web1", Once: true, At: "osaka", Address: true, Within: 5 * time.Second},
		&lab.ExpectStmt{What: "page", Target: "web1", From: "inet6", Silent: true, Within: 20 * time.Second},
		&lab.ExpectStmt{What: "peer", Target: "osaka", From: "tokyo", Within: 5 * time.Second},
		&lab.ExpectStmt{What: "new network", Target: "2001:db8:1::/64", At: "tokyo"},
		&lab.ExpectStmt{What: "new address", Target: "203.0.113.9", At: "osaka"},
		&lab.SayStmt{Text: "it # is over"},
	}
	var got []any
	for _, i := range []int{1, 2, 6, 7, 8, 9, 10, 11, 12, 13, 14} {
		got = append(got, s.Statements[i].Do)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("statements (-want +got):\n%s", d)
	}
	if got := s.Statements[8].Text; got != "migrate web1 osaka &" {
		t.Errorf("text %q", got)
	}
}

// TestParseReleases: sites whose controller or agents are of another release.
func TestParseReleases(t *testing.T) {
	s, err := lab.ParseScript("x.lab", `release old 104fb713369f
site tokyo hosts 1 lend 50% to * controller old
site osaka hosts 1 agents old gateway
upgrade tokyo controller
upgrade osaka/gw agent
`)
	must(t, err)
	if d := cmp.Diff([]*lab.ReleaseStmt{{Name: "old", Commit: "104fb713369f"}}, s.Releases); d != "" {
		t.Errorf("releases (-want +got):\n%s", d)
	}
	want := []any{
		&lab.SiteStmt{Name: "tokyo", Hosts: 1, Percent: 50, To: []string{"*"}, Grace: 2 * time.Minute, Controller: "old"},
		&lab.SiteStmt{Name: "osaka", Hosts: 1, Gateway: true, Path: "fast", Grace: 2 * time.Minute, Agents: "old"},
		&lab.UpgradeStmt{Site: "tokyo"},
		&lab.UpgradeStmt{Site: "osaka", Host: "gw"},
	}
	var got []any
	for _, st := range s.Statements[1:] {
		got = append(got, st.Do)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("statements (-want +got):\n%s", d)
	}
}

// TestOldReleaseMissing: a clone without the commit says what to do, before anything is built.
func TestOldReleaseMissing(t *testing.T) {
	for what, tt := range map[string]struct {
		dir  func(t *testing.T) string
		want string
	}{
		"no clone":  {func(t *testing.T) string { return t.TempDir() }, "is not in a clone of the sources"},
		"no commit": {emptyClone, "commit 104fb713369f is not in the clone: git fetch"},
	} {
		if err := lab.UnpackCommit(t.Context(), tt.dir(t), "104fb713369f", t.TempDir()); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", what, err, tt.want)
		}
	}
}

func emptyClone(t *testing.T) string {
	dir := t.TempDir()
	if out, err := exec.Command("git", "init", "-q", dir).CombinedOutput(); err != nil {
		t.Fatalf("git init: %v: %s", err, out)
	}
	return dir
}

func TestScriptErrors(t *testing.T) {
	for line, want := range map[string]string{
		"frobnicate":                                            `8:1: unknown statement "frobnicate"; known: borrow, `,
		"migrate web1 osakka":                                   `8:14: unknown site "osakka"; known: osaka, tokyo`,
		"migrate web1 osaka/h3":                                 `8:14: unknown host "h3" of osaka; known: h1, h2`,
		"migrate web2 osaka":                                    `8:9: unknown vm "web2"; known: web1`,
		"migrate web1":                                          "8:13: SITE or SITE/HOST is missing; the form is: migrate VM SITE[/HOST] [&]",
		"migrate web1 osaka now":                                `8:20: "now" is more than "migrate" takes`,
		"release old 104fb":                                     `8:13: "104fb" is not a commit`,
		"site nara controller old":                              `8:22: unknown release "old"; known: none so far`,
		"upgrade tokyo controller":                              `8:9: the controller of tokyo is of this release already`,
		"upgrade osaka/h2 libvirtd":                             `8:9: controllers and agents are upgraded, libvirtd is not`,
		"site tokyo":                                            `8:6: site "tokyo" is there already`,
		"site Kobe":                                             `8:6: "Kobe" is no name for a site`,
		"site kobe hosts many":                                  `8:17: "many" is not a number between 0 and 8`,
		"site kobe lend 120% to *":                              `8:16: "120%" is no percentage`,
		"site kobe lend 2 pounds to *":                          `8:18: "pounds" where cpu, memory, disk or addresses is wanted`,
		"site kobe lend 2 cpu":                                  "8:21: to is missing",
		"wan tokyo osaka rtt 1ms":                               "8:1: there is a link between tokyo and osaka already",
		"wan tokyo tokyo":                                       "8:11: tokyo and itself",
		"expect peer osaka of osaka":                            "8:22: osaka and itself",
		"expect peer kobe of osaka":                             `8:13: unknown site "kobe"; known: osaka, tokyo`,
		"expect new network 2001:db8::1/64 at tokyo":            `8:20: "2001:db8::1/64" is no prefix`,
		"expect new address 203.0.113.300 at tokyo":             `8:20: "203.0.113.300" is no IP address`,
		"image big":                                             `8:7: unknown image "big"; known: debian, tiny`,
		"network red owner tokyo prefix 2001:db8::1/64":         `8:32: "2001:db8::1/64" is no IPv6 prefix of length 64`,
		"network red owner tokyo prefix 2001:db8::/48":          `8:32: "2001:db8::/48" is no IPv6 prefix of length 64`,
		"vm web2 owner osaka network blue":                      "8:33: network blue is tokyo's, the VM is osaka's",
		"vm web2 network blue":                                  "8:21: owner SITE is missing",
		"vm web2 owner tokyo network blue service 203.0.113.10": "8:42: 203.0.113.10 is that of web1",
		"vm web2 owner tokyo network blue service 192.0.2.1":    "8:42: 192.0.2.1 is in none of the service prefixes",
		"vm web2 owner tokyo network blue memory 100k":          `8:41: "100k" is no whole number of MiB`,
		"traffic a inet4 -> web1 http every 1ms":                "8:36: more often than every 5ms",
		"traffic a inet4 -> 2001:db8:f::10 http every 1s":       "8:20: a client at inet4 cannot reach 2001:db8:f::10",
		"traffic a nowhere -> web1 http every 1s":               `8:11: unknown place of a client "nowhere"; known: inet4, inet6, osaka, tokyo`,
		"stop traffic a":                                        `8:14: unknown traffic "a"; known: none so far`,
		"wait job web1":                                         "8:10: no migration of web1 was begun",
		"kill tokyo agent":                                      `8:12: "agent" where controller is wanted`,
		"kill tokyo/h1 map646":                                  "8:6: no map646 runs on tokyo/h1",
		"kill tokyo controller USR1":                            `8:23: "USR1" where KILL or TERM or HUP or STOP or CONT is wanted`,
		"poweroff tokyo":                                        "8:10: SITE/HOST is wanted; hosts of tokyo: h1, gw",
		"revoke loan of osaka to tokyo":                         "8:13: tokyo has borrowed nothing from osaka",
		"borrow osaka from tokyo":                               "8:24: an amount such as ",
		"say hello":                                             "8:5: the text must stand in quotation marks",
		`say "hello`:                                            "8:5: the quotation has no end",
		"sleep 3":                                               `8:7: "3" is no time from 0s to 10m0s`,
		"figure gap gap x":                                      `8:8: "gap" is no figure's name`,
		"expect web1 dancing":                                   `8:13: "dancing" where running or stopped or disk`,
		"expect web1 disk unchanged":                            "8:8: nothing was written to web1's disk",
		"expect page web1 from inet5":                           `8:23: unknown place of a client "inet5"`,
		"expect web1 running\tat\tnara":                         `8:24: unknown site "nara"`,
		"cut tokyo nara":                                        `8:11: unknown site "nara"`,
		"write web1 65MiB":                                      "8:12: more than the 64 MiB",
		"expect page 2001:db8:f::10 from inet4 answers within long": "8:13: a client at inet4 cannot reach",
	} {
		_, err := lab.ParseScript("x.lab", small+line+"\n")
		var fault *lab.ScriptError
		if !errors.As(err, &fault) || !strings.HasPrefix(err.Error(), "x.lab:"+want) {
			t.Errorf("%s:\n got %v\nwant x.lab:%s", line, err, want)
		}
	}
	_, err := lab.ParseScript("x.lab", "wan a b\nsite tokyo hosts x\nsleep 1s\n")
	if err == nil || strings.Count(err.Error(), "\n") != 1 {
		t.Errorf("not all faults at once: %v", err)
	}
	if _, err := lab.ParseScript("x.lab", "# nothing\n"); err == nil || err.Error() != "x.lab:1:1: a script needs a site or a translator" {
		t.Errorf("empty: %v", err)
	}
}

func FuzzParseScript(f *testing.F) {
	f.Add(small)
	f.Add("say \"\nexpect page")
	f.Add(centre + "expect pmtu from\nmap646 br1 stats says\nunmap")
	f.Add("site a lend 1 cpu to *,\nvm x service :: ::\n")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := lab.ParseScript("f.lab", text)
		if (s == nil) == (err == nil) {
			t.Fatalf("script %v, error %v", s, err)
		}
		if err != nil {
			return
		}
		for _, st := range s.Statements {
			if st.Do == nil || st.Text == "" || st.Pos.Line < 1 || st.Pos.Col < 1 {
				t.Errorf("statement %+v", st)
			}
			// A statement's text is a statement again, whatever stood around it.
			if strings.ContainsAny(st.Text, "\n") {
				t.Errorf("text of %v: %q", st.Pos, st.Text)
			}
		}
	})
}
