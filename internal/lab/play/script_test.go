package play_test

import (
	"errors"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"widecloud/api"

	"widecloud/internal/lab/machine"
	"widecloud/internal/lab/play"
	"widecloud/internal/lab/script"
	"widecloud/internal/lab/stage"
	"widecloud/internal/lab/topic/fault"
	"widecloud/internal/lab/topic/flow"
	"widecloud/internal/lab/topic/site"
	"widecloud/internal/lab/topic/vm"
)

const small = `# a comment
site tokyo hosts 1 gateway lend 50% to *
site osaka hosts 2 lend 2 cpu, 512MiB memory, 4GiB disk, 2 addresses to tokyo grace 20s
wan tokyo osaka rtt 12ms rate 100M
image tiny
network blue owner tokyo prefix 2001:db8:b1ae:1::/64 ipv4 10.99.0.0/24
vm web1 owner tokyo network blue service 203.0.113.10 2001:db8:f::10 at tokyo/h1
`

// TestParse: what statements are made of, and the text of each.
func TestParse(t *testing.T) {
	s, err := play.Parse("x.lab", small+`borrow tokyo from osaka 2 cpu 256MiB memory 2GiB disk 1 addresses
traffic dl inet4 -> web1 download rate 1.5k
migrate web1 osaka & # to the west
expect web1 running exactly-once at osaka, address unchanged within 5s
expect page web1 from inet6 silent
expect peer osaka of tokyo reached within 5s
expect new network 2001:db8:1::/64 at tokyo refused
expect new address 203.0.113.9 at osaka refused
poweroff osaka/h2
cut tokyo osaka
say "it # is over"
`)
	must(t, err)
	f := site.Of(s)
	tokyo, osaka := f.Site("tokyo"), f.Site("osaka")
	if osaka.Grace != 20*time.Second || tokyo.Percent != 50 || tokyo.Path != "fast" || cmp.Diff(osaka.To, []string{"tokyo"}) != "" {
		t.Errorf("sites %+v, %+v", tokyo, osaka)
	}
	if d := cmp.Diff(&api.Resources{CPUs: 2, MemoryMiB: 512, DiskGiB: 4, Addresses: 2}, osaka.Lend); d != "" {
		t.Errorf("osaka lends (-want +got):\n%s", d)
	}
	if w := f.WANs[0]; len(f.WANs) != 1 || w.A != tokyo || w.B != osaka || w.Options.Delay != 6*time.Millisecond || w.Options.Rate != 100_000_000 {
		t.Errorf("links %+v", f.WANs)
	}
	do := func(i int) any { return s.Statements[len(s.Statements)-11+i].Do }
	web := do(2).(*vm.Begin).VM
	if b := do(0).(*site.Borrow); b.Borrower != tokyo || b.Lender != osaka || b.Amount != (api.Resources{CPUs: 2, MemoryMiB: 256, DiskGiB: 2, Addresses: 1}) {
		t.Errorf("borrow %+v", b)
	}
	if d := do(1).(*flow.Traffic); d.Host != "203.0.113.10" || d.From.Name() != "inet4" || d.Rate != 1500 {
		t.Errorf("traffic %+v", d)
	}
	if d := cmp.Diff(&vm.Running{VM: web, Once: true, At: "osaka", Address: true, Within: 5 * time.Second}, do(3), cmp.Comparer(func(a, b *vm.VM) bool { return a == b })); d != "" {
		t.Errorf("running (-want +got):\n%s", d)
	}
	if p := do(4).(*flow.Page); p.Host != "2001:db8:f::10" || !p.Silent || p.Within != 20*time.Second {
		t.Errorf("page %+v", p)
	}
	if e := do(5).(*site.ExpectPeer); e.Peer != osaka || e.Of != tokyo || e.Within != 5*time.Second {
		t.Errorf("peer %+v", e)
	}
	if e := do(6).(*site.Refused); e.Network.String() != "2001:db8:1::/64" || e.At != tokyo {
		t.Errorf("new network %+v", e)
	}
	if e := do(7).(*site.Refused); e.Address.String() != "203.0.113.9" || e.At != osaka {
		t.Errorf("new address %+v", e)
	}
	if e := do(8).(*fault.Power); e.Machine.(stage.Named).Name() != "osaka/h2" || e.On {
		t.Errorf("poweroff %+v", e)
	}
	if c := do(9).(*fault.Cut); c.Link != stage.Link(f.WANs[0]) || c.Heal {
		t.Errorf("cut %+v", c)
	}
	for i, want := range map[int]string{2: "migrate web1 osaka &", 10: `say "it # is over"`} {
		if got := s.Statements[len(s.Statements)-11+i].Text; got != want {
			t.Errorf("text %q, want %q", got, want)
		}
	}
}

// TestAgain: a script that is one of several on a base has names, networks and service
// addresses of its own; what is nobody's to move stays.
func TestAgain(t *testing.T) {
	first, err := play.Parse("x.lab", small+`traffic dl inet4 -> 203.0.113.10 download rate 1k
expect page web1 from inet6
expect new network 2001:db8:b1ae:1::/64 at tokyo refused
expect new network 2001:db8:64::/64 at tokyo refused
expect new address 203.0.113.253 at tokyo refused
expect new address 2001:db8:b1ae:1::7 at tokyo refused
`)
	must(t, err)
	type seen struct{ Network, IPv4, Service, Name, Traffic, Page, Refused string }
	look := func(s *script.Script) seen {
		do := func(i int) any { return s.Statements[len(s.Statements)-6+i].Do }
		web := s.Statements[len(s.Statements)-7].Do.(*vm.VM)
		refused := ""
		for i := 2; i < 6; i++ {
			if r := do(i).(*site.Refused); r.Network.IsValid() {
				refused += r.Network.String() + " "
			} else {
				refused += r.Address.String() + " "
			}
		}
		return seen{
			web.Network.Prefix.String(), web.Network.IPv4.String(), web.Service[0].String() + " " + web.Service[1].String(), web.Name() + " " + web.Network.Name,
			do(0).(*flow.Traffic).Host, do(1).(*flow.Page).Host, strings.TrimSpace(refused),
		}
	}
	second, err := first.Again(2)
	must(t, err)
	for _, c := range []struct {
		s    *script.Script
		want seen
	}{
		{first, seen{
			"2001:db8:b1ae:1::/64", "10.99.0.0/24", "203.0.113.10 2001:db8:f::10", "web1 blue", "203.0.113.10", "2001:db8:f::10",
			"2001:db8:b1ae:1::/64 2001:db8:64::/64 203.0.113.253 2001:db8:b1ae:1::7",
		}},
		{second, seen{
			"2001:db8:b1ae:201::/64", "10.101.0.0/24", "203.0.113.42 2001:db8:f::2:10", "web1-2 blue-2", "203.0.113.42", "2001:db8:f::2:10",
			"2001:db8:b1ae:201::/64 2001:db8:64::/64 203.0.113.253 2001:db8:b1ae:201::7",
		}},
	} {
		if d := cmp.Diff(c.want, look(c.s)); d != "" {
			t.Errorf("number %d (-want +got):\n%s", c.s.Number, d)
		}
	}
}

// TestParseLinks: all that a link can be.
func TestParseLinks(t *testing.T) {
	s, err := play.Parse("x.lab", `site tokyo
site osaka
site nara
congestion reno
congestion bbr tokyo
wan tokyo osaka rtt 40ms jitter 5ms rate 1.5M queue 32KiB loss 0.5% mtu 1400 pinned back delay 100ms rate 64k
wan osaka nara
cut osaka -> tokyo
heal osaka -> tokyo
flap tokyo osaka every 4s down 500ms
`)
	must(t, err)
	f := site.Of(s)
	there := machine.Shape{Delay: 20 * time.Millisecond, Jitter: 5 * time.Millisecond, Rate: 1_500_000, Queue: 32 << 10, Loss: 0.005}
	back := there
	back.Delay, back.Rate = 100*time.Millisecond, 64_000
	if d := cmp.Diff(machine.WANOptions{Shape: there, Back: &back, MTU: 1400}, f.WANs[0].Options); d != "" || !f.WANs[0].Pinned {
		t.Errorf("pinned %v, options (-want +got):\n%s", f.WANs[0].Pinned, d)
	}
	if d := cmp.Diff(machine.WANOptions{}, f.WANs[1].Options); d != "" || f.WANs[1].Pinned {
		t.Errorf("pinned %v, options (-want +got):\n%s", f.WANs[1].Pinned, d)
	}
	for i, heal := range []bool{false, true} {
		if c := s.Statements[7+i].Do.(*fault.Cut); c.Link != stage.Link(f.WANs[0]) || c.From != any(f.Site("osaka")) || c.Heal != heal {
			t.Errorf("cut %+v", c)
		}
	}
	if d := s.Statements[9].Do.(*site.Flap); d.Link != f.WANs[0] || d.Every != 4*time.Second || d.Down != 500*time.Millisecond {
		t.Errorf("flap %+v", d)
	}
	if tcp, _ := script.Has[*stage.TCP](s); tcp.Congestion != "reno" || f.Site("tokyo").Congestion != "bbr" || f.Site("osaka").Congestion != "" {
		t.Errorf("congestion %+v, at tokyo %q, at osaka %q", tcp, f.Site("tokyo").Congestion, f.Site("osaka").Congestion)
	}
	for line, want := range map[string]string{
		"wan a b loss 100%": `3:14: "100%" is no loss`, "wan a b loss 1": `3:14: "1" is no loss`, "wan a b loss NaN%": `3:14: "NaN%" is no loss`,
		"wan a b mtu 1000": `3:13: "1000" is not a number between 1280 and 9000`, "wan a b back rtt 1ms": `3:14: "rtt" where`,
		"wan a b rate 1.5": `3:14: "1.5" is no rate`, "wan a b rate 1.5.5M": `3:14: "1.5.5M" is no rate`, "wan a b rate 0.0M": `3:14: "0.0M" is no rate`,
		"wan a b rate -1M": `3:14: "-1M" is no rate`, "wan a b rate 1e3M": `3:14: "1e3M" is no rate`,
		"cut a -> b": "3:10: there is no link between a and b", "congestion bbr c": `3:16: unknown site "c"`,
		"expect link a b rtt between 1ms and 2ms": "3:15: there is no link between a and b", "expect way a to b by link": "3:22: there is no link between a and b",
		"wan a b\nexpect link a b rate between 2M and 1M": "4:37: the higher bound is below the lower one",
		"congestion bbr\ncongestion cubic":                "4:1: the congestion control is said already: bbr",
	} {
		if _, err := play.Parse("x.lab", "site a\nsite b\n"+line+"\n"); err == nil || !strings.HasPrefix(err.Error(), "x.lab:"+want) {
			t.Errorf("%s:\n got %v\nwant x.lab:%s", line, err, want)
		}
	}
}

// TestParseReleases: sites whose controller or agents are of another release.
func TestParseReleases(t *testing.T) {
	s, err := play.Parse("x.lab", `release old 104fb713369f
site tokyo hosts 1 lend 50% to * controller old
site osaka hosts 1 agents old gateway
upgrade tokyo controller
upgrade osaka/gw agent
`)
	must(t, err)
	f := site.Of(s)
	if r := f.Releases[0]; len(f.Releases) != 1 || r.Commit != "104fb713369f" || f.Site("tokyo").Controller != r || f.Site("tokyo").Agents != nil || f.Site("osaka").Agents != r {
		t.Errorf("releases %+v", f.Releases)
	}
	if u := s.Statements[3].Do.(*site.Upgrade); u.Site != f.Site("tokyo") || u.Host != nil {
		t.Errorf("upgrade %+v", u)
	}
	if u := s.Statements[4].Do.(*site.Upgrade); u.Site != nil || u.Host.Name() != "osaka/gw" {
		t.Errorf("upgrade %+v", u)
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
		if err := site.UnpackCommit(t.Context(), tt.dir(t), "104fb713369f", t.TempDir()); err == nil || !strings.Contains(err.Error(), tt.want) {
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
		"frobnicate":                                            `8:1: unknown statement "frobnicate"; known: alone, attach, base, borrow, `,
		"migrate web1 osakka":                                   `8:14: unknown site "osakka"; known: osaka, tokyo`,
		"migrate web1 osaka/h3":                                 `8:14: unknown host "h3" of osaka; known: h1, h2`,
		"migrate web2 osaka":                                    `8:9: unknown vm "web2"; known: web1`,
		"migrate web1":                                          "8:13: SITE or SITE/HOST is missing; the form is: migrate VM PLACE [&]",
		"migrate web1 osaka now":                                `8:20: "now" is more than "migrate" takes`,
		"release old 104fb":                                     `8:13: "104fb" is not a commit`,
		"site nara controller old":                              `8:22: unknown release "old"; known: none so far`,
		"upgrade tokyo controller":                              `8:9: the controller of tokyo is of this release already`,
		"upgrade osaka/h2 libvirtd":                             `8:18: "libvirtd" where controller or agent is wanted`,
		"site tokyo":                                            `8:6: site "tokyo" is there already`,
		"site Kobe":                                             `8:6: "Kobe" is no name for a site`,
		"site kobe hosts many":                                  `8:17: "many" is not a number between 0 and 1000`,
		"site kobe lend 120% to *":                              `8:16: "120%" is no percentage`,
		"site kobe lend 2 pounds to *":                          `8:18: "pounds" where cpu, memory, disk or addresses is wanted`,
		"site kobe lend 2 cpu":                                  "8:21: to is missing",
		"wan tokyo osaka rtt 1ms":                               "8:1: there is a link between tokyo and osaka already",
		"wan tokyo tokyo":                                       "8:11: tokyo and itself",
		"expect peer osaka of osaka":                            "8:22: osaka and itself",
		"expect peer kobe of osaka":                             `8:13: unknown site "kobe"; known: osaka, tokyo`,
		"expect new network 2001:db8::1/64 at tokyo":            `8:20: "2001:db8::1/64" is no prefix`,
		"expect new address 203.0.113.300 at tokyo":             `8:20: "203.0.113.300" is no IP address`,
		"image big":                                             `8:7: unknown image "big"; known: blank, debian, koshien, tiny`,
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
		"kill tokyo/h1 map646":                                  `8:15: "map646" where agent or libvirtd is wanted`,
		"kill tokyo controller USR1":                            `8:23: "USR1" where KILL or TERM or HUP or STOP or CONT is wanted`,
		"poweroff tokyo":                                        "8:10: tokyo is several machines; known: tokyo/gw, tokyo/h1",
		"revoke loan of osaka to tokyo":                         "8:13: tokyo has borrowed nothing from osaka",
		"borrow osaka from tokyo":                               "8:24: an amount such as ",
		"say hello":                                             "8:5: the text must stand in quotation marks",
		`say "hello`:                                            "8:5: the quotation has no end",
		"sleep 3":                                               `8:7: "3" is no time from 0s to 10m0s`,
		"figure gap gap x":                                      `8:8: "gap" is no figure's name`,
		"expect web1 dancing":                                   `8:13: "dancing" where running or stopped or suspended or hibernated or disk`,
		"expect web1 disk unchanged":                            "8:8: nothing was written to web1's disk",
		"expect page web1 from inet5":                           `8:23: unknown place of a client "inet5"`,
		"expect web1 running\tat\tnara":                         `8:24: unknown site "nara"`,
		"dirty web1 49MiB rate 1M":                              "8:12: more than 48 MiB: a guest of 128 MiB needs the other 80 for itself",
		"cut osaka -> tokyo now":                                `8:20: "now" is more than "cut" takes`,
		"cut osaka ->":                                          "8:13: thing with links is missing",
		"flap tokyo osaka every 1s down 1s":                     "8:32: 1s down in 1s: more than nothing and less than all is wanted",
		"expect service tokyo agent":                            `8:22: "agent" where controller is wanted`,
		"host tokyo/h1 upstart":                                 `8:15: "upstart" where systemd is wanted`,
		"congestion vegas":                                      `8:12: "vegas" where reno or cubic or bbr is wanted`,
		"cut tokyo nara":                                        `8:11: unknown thing with links "nara"; known: osaka, `,
		"write web1 65MiB":                                      "8:12: more than the 64 MiB",
		"expect page 2001:db8:f::10 from inet4 answers within long": "8:13: a client at inet4 cannot reach",
	} {
		_, err := play.Parse("x.lab", small+line+"\n")
		var fault *script.Error
		if !errors.As(err, &fault) || !strings.HasPrefix(err.Error(), "x.lab:"+want) {
			t.Errorf("%s:\n got %v\nwant x.lab:%s", line, err, want)
		}
	}
	_, err := play.Parse("x.lab", "wan a b\nsite tokyo hosts x\nsleep 1s\n")
	if err == nil || strings.Count(err.Error(), "\n") != 1 {
		t.Errorf("not all faults at once: %v", err)
	}
	if _, err := play.Parse("x.lab", "# nothing\n"); err == nil || err.Error() != "x.lab:1:1: a script needs a machine; say one of: site, translator" {
		t.Errorf("empty: %v", err)
	}
}

const simulated = `site tokyo hosts 1000 simulated lend 50% to *
site nara hosts 3 simulated
site osaka hosts 2 gateway lend 50% to *
image tiny
image blank
network blue owner tokyo prefix 2001:db8:b1ae:1::/64
network red owner osaka prefix 2001:db8:b1ae:2::/64
vms web 300 owner tokyo network blue image blank
vm one owner tokyo network blue service 203.0.113.10 at tokyo/h1000
`

// TestSimulated: what simulated hosts are, and what is refused of them, each with its reason.
func TestSimulated(t *testing.T) {
	s, err := play.Parse("x.lab", simulated+`migrate web300 tokyo/h7
migrate one nara
expect vms web running within 90s
expect hosts of tokyo 1000 connected
kill tokyo/hosts agents
poweroff tokyo/hosts
cut tokyo/hosts
borrow nara from tokyo 2 cpu
figure one.seconds seconds one
`)
	must(t, err)
	do := func(i int) any { return s.Statements[len(s.Statements)-9+i].Do }
	if m := do(0).(*vm.Migrate); m.VM.Name() != "web300" || m.To != "tokyo/h7" {
		t.Errorf("migrate %+v", m)
	}
	if e := do(2).(*vm.ManyRunning); len(e.Many.VMs) != 300 || e.Within != 90*time.Second || e.Many.VMs[299] != do(0).(*vm.Migrate).VM {
		t.Errorf("many %+v", e)
	}
	if e := do(3).(*site.Connected); e.Site.Name() != "tokyo" || e.Hosts != 1000 {
		t.Errorf("connected %+v", e)
	}
	if k := do(4).(*fault.Kill); k.Process != "agents" || k.Runner.(stage.Named).Name() != "tokyo/hosts" {
		t.Errorf("kill %+v", k)
	}
	const why = "it is simulated, without a machine, links and processes of its own; all hosts of tokyo are one machine, tokyo/hosts, with the process agents"
	for line, want := range map[string]string{
		"kill tokyo/h1 agent":                                                "10:6: tokyo/h1 is no machine with processes: " + why,
		"start tokyo/h1 agent":                                               "10:7: tokyo/h1 is no machine with processes: " + why,
		"poweroff tokyo/h1":                                                  "10:10: tokyo/h1 is no machine: " + why,
		"poweroff tokyo":                                                     "10:10: tokyo is several machines; known: tokyo/hosts",
		"cut tokyo/h1":                                                       "10:5: tokyo/h1 is no thing with links: " + why,
		"host tokyo/h1 systemd":                                              "10:6: tokyo/h1 is no host: " + why,
		"upgrade tokyo/h1 agent":                                             "10:9: tokyo/h1 is no host: " + why,
		"kill tokyo/hosts libvirtd":                                          `10:18: "libvirtd" where agents is wanted`,
		"migrate one tokyo/h1001":                                            `10:13: unknown host "h1001" of tokyo; known: h1 to h1000`,
		"migrate one tokyo/hosts":                                            `10:13: unknown host "hosts" of tokyo; known: h1 to h1000`,
		"migrate one osaka/h1":                                               "10:13: of tokyo and osaka, one has simulated hosts and the other machines: no VM can go between them",
		"expect migrate one osaka refused":                                   "10:20: of tokyo and osaka, one has simulated hosts",
		"borrow tokyo from osaka 1 cpu":                                      "10:19: of tokyo and osaka, one has simulated hosts",
		"vm a owner tokyo network blue at osaka":                             "10:34: of tokyo and osaka, one has simulated hosts",
		"vm a owner tokyo network blue user-data x":                          "10:42: the hosts of tokyo are simulated: no guest reads user-data",
		"vm a owner osaka network red image blank":                           "10:41: image blank boots nowhere; it is for simulated hosts",
		"write one 1MiB":                                                     "10:7: the hosts of tokyo are simulated: there is no guest that could be asked",
		"dirty one 1MiB rate 1M":                                             "10:7: the hosts of tokyo are simulated: there is no guest that could be asked",
		"expect one disk unchanged":                                          "10:8: the hosts of tokyo are simulated: there is no guest that could be asked",
		"expect one boot unchanged":                                          "10:8: the hosts of tokyo are simulated: there is no guest that could be asked",
		"expect one addresses seen":                                          "10:12: the hosts of tokyo are simulated: no guest uses an address",
		"expect one running as root":                                         "10:20: the hosts of tokyo are simulated: a VM has no process of its own",
		"traffic a inet4 -> one http every 1s":                               "10:20: vm one is on simulated hosts, which carry no traffic",
		"expect page one from inet4":                                         "10:13: vm one is on simulated hosts, which carry no traffic",
		"migrate one nara &\nfigure a.gap downtime one":                      "11:14: the hosts of tokyo are simulated: a guest has no memory and no disk to be moved",
		"migrate one nara &\nratio a.wire wire one":                          "11:14: the hosts of tokyo are simulated: a guest has no memory and no disk to be moved",
		"site kobe hosts 2 simulated gateway":                                "10:1: a site of simulated hosts has no gateway: no frame goes to or from its VMs",
		"release old 104fb713369f\nsite k simulated agents old":              "11:1: the agents of simulated hosts are of this release",
		"vms web1 3 owner tokyo network blue":                                `10:5: vms "web1" is there already`,
		"vms on 3 owner tokyo network blue\nvms o 1":                         "11:8: owner SITE is missing",
		"vms web3 3 owner tokyo network blue":                                `10:5: vms "web3" is there already`,
		"vm xy2 owner tokyo network blue\nvms xy 2 owner tokyo network blue": `11:5: no VM of these can be called "xy2": it is taken, or too long`,
		"expect vms one running":                                             `10:12: unknown many VMs "one"; known: web`,
		"expect hosts of tokyo connected":                                    `10:23: "connected" is not a number`,
	} {
		if _, err := play.Parse("x.lab", simulated+line+"\n"); err == nil || !strings.HasPrefix(err.Error(), "x.lab:"+want) {
			t.Errorf("%s:\n got %v\nwant x.lab:%s", line, err, want)
		}
	}
}

func FuzzParseScript(f *testing.F) {
	f.Add(small)
	f.Add(simulated)
	f.Add("say \"\nexpect page")
	f.Add(centre + "expect pmtu from\nmap646 br1 stats says\nunmap")
	f.Add("site a lend 1 cpu to *,\nvm x service :: ::\n")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := play.Parse("f.lab", text)
		if (s == nil) == (err == nil) {
			t.Fatalf("script %v, error %v", s, err)
		}
		if err != nil {
			return
		}
		for _, st := range s.Statements {
			if st.Entry == nil || st.Text == "" || st.Pos.Line < 1 || st.Pos.Col < 1 {
				t.Errorf("statement %+v", st)
			}
			// A statement's text is a statement again, whatever stood around it.
			if strings.ContainsAny(st.Text, "\n") {
				t.Errorf("text of %v: %q", st.Pos, st.Text)
			}
		}
	})
}
