package play_test

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"widecloud/internal/lab/machine"
	"widecloud/internal/lab/play"
	"widecloud/internal/lab/script"
	"widecloud/internal/lab/stage"
	"widecloud/internal/lab/topic/site"
)

// build makes a script's federation, which goes with the test.
func build(t *testing.T, s *script.Script, bin string) federation {
	t.Helper()
	fed := federation{site.Of(s), stage.New(stage.Options{Script: s, Lab: open(t), Bin: bin, Out: stage.NewConsole(t.Output(), false)})}
	must(t, fed.stage.Build(t.Context()))
	return fed
}

// Router is that of a site.
func (f federation) Router(name string) *machine.Node { return f.stage.Lab.Node(name + "-r") }

func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	must(t, stage.Until(t.Context(), time.Minute, func(context.Context) error {
		if !f() {
			return fmt.Errorf("never: %s", what)
		}
		return nil
	}))
}

// TestFullLinkStaysTheWay: the thin link between two sites gets several times what it carries. Routing stays, so the
// link carries all that it can, and the unlimited way by the Internet nothing.
func TestFullLinkStaysTheWay(t *testing.T) {
	bin := programs(t)
	for _, c := range []struct{ name, words string }{{"by OSPF", ""}, {"pinned", "pinned"}} {
		t.Run(c.name, func(t *testing.T) {
			script, err := play.Parse(t.Name(), "site alpha hosts 0\nsite beta hosts 0\nwan alpha beta rtt 12ms rate 256k "+c.words+"\n")
			must(t, err)
			fed := build(t, script, bin)
			from, to, r := fed.Site("alpha").ClientNode(), "2001:db8:1002:2::2", fed.Router("alpha")
			way := func() string { return sh(t, r, "ip -6 route get "+to) }
			eventually(t, "the link is the way", func() bool { return strings.Contains(way(), "dev w-beta") })
			eventually(t, "BFD is up", func() bool {
				out, err := r.Vtysh(t.Context(), "bfdd", "show bfd peers brief")
				return err == nil && strings.Count(out, " up") == 4
			})
			// FRR forgets a session that went down and begins another: its number is another one then, its counters zero.
			sessions := func() string {
				var l []string
				for _, r := range []*machine.Node{r, fed.Router("beta")} {
					for _, show := range []string{"show bfd peers", "show bfd peers counters"} {
						out, err := r.Vtysh(t.Context(), "bfdd", show)
						must(t, err)
						for line := range strings.Lines(out) {
							if line = strings.TrimSpace(line); strings.HasPrefix(line, "ID: ") || strings.HasPrefix(line, "Session down events") {
								l = append(l, line)
							}
						}
					}
				}
				slices.Sort(l)
				return strings.Join(l, "; ")
			}
			before, were := carried(fed), sessions()
			// Several times what it carries, in frames that are smaller than BFD's: what has to wait in the same queue
			// finds no room.
			var flood net.Conn
			must(t, from.Do(func() (err error) { flood, err = net.Dial("udp6", "["+to+"]:9"); return }))
			defer flood.Close()
			eventually(t, "the link has carried 192 KiB", func() bool {
				for range 50 {
					for range 20 {
						flood.Write([]byte{0}) // nobody listens: some writes say so
					}
					time.Sleep(time.Millisecond)
				}
				return carried(fed).link-before.link >= 192<<10
			})
			after := carried(fed)
			t.Logf("%d bytes by the link, %d by the Internet, %d frames dropped", after.link-before.link, after.inet-before.inet, after.full-before.full)
			if after.full == before.full {
				t.Error("the link was never full")
			}
			if after.link-before.link < 192<<10 || after.inet-before.inet > 64<<10 {
				t.Errorf("by the link %d bytes, by the Internet %d", after.link-before.link, after.inet-before.inet)
			}
			if now := sessions(); now != were {
				t.Errorf("BFD's sessions: %s\nbefore: %s", now, were)
			}
			if !strings.Contains(way(), "dev w-beta") {
				t.Errorf("the way is now %s", way())
			}
			// A pinned way stays when the link is cut; the other one is led round.
			fed.WANs[0].SetCut(nil, true)
			if c.words == "" {
				eventually(t, "the Internet is the way", func() bool { return strings.Contains(way(), "dev inet") })
				return
			}
			eventually(t, "BFD sees the cut", func() bool { return sessions() != were })
			if !strings.Contains(way(), "dev w-beta") {
				t.Errorf("the pinned way is now %s", way())
			}
		})
	}
}

type ways struct{ link, inet, full int64 }

// carried is what alpha has sent by either way.
func carried(f federation) ways {
	ab, _ := f.WANs[0].Counters()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	out, err := f.Router("alpha").Command(ctx, "cat", "/sys/class/net/inet/statistics/tx_bytes").Output()
	if err != nil {
		panic(err)
	}
	w := ways{link: ab.Bytes, full: ab.Dropped}
	fmt.Sscan(string(out), &w.inet)
	return w
}

// TestMeasures: what is so passes, and what is not fails.
func TestMeasures(t *testing.T) {
	var out bytes.Buffer
	s, err := play.Parse("x.lab", `
site alpha hosts 0
site beta hosts 0
wan alpha beta rtt 40ms rate 2M loss 5% back rate 2M loss 0%
expect way alpha to beta by link within 60s
expect link alpha beta rtt between 40ms and 70ms
expect link beta alpha rate between 1.8M and 2.1M
expect link beta alpha rtt full between 200ms and 500ms
expect link beta alpha tcp by reno between 1M and 2M
expect link alpha beta loss between 2% and 9%
expect way alpha to beta by internet within 1s
expect link alpha beta rtt between 0s and 39ms
expect link beta alpha rate between 2.1M and 3M
expect link beta alpha tcp by cubic between 1M and 2M
expect link alpha beta loss between 0% and 1%
`)
	must(t, err)
	r, err := play.Run(t.Context(), s, play.Options{Name: scope.Name, Bin: programs(t), Out: &out, LogDir: t.TempDir()})
	must(t, err)
	want := []string{"expect way alpha to beta by internet within 1s", "expect link alpha beta rtt between 0s and 39ms", "expect link beta alpha rate between 2.1M and 3M",
		"expect link beta alpha tcp by cubic between 1M and 2M", "expect link alpha beta loss between 0% and 1%"}
	if d := cmp.Diff(want, failures(play.Outcome{Result: r})); d != "" {
		t.Errorf("failures (-want +got):\n%s\n%s", d, out.String())
	}
}

// TestLogLines: what a controller and an agent log says once where it comes from.
func TestLogLines(t *testing.T) {
	s, err := play.Parse(t.Name(), "site alpha hosts 0 gateway\nsite beta hosts 0\n")
	must(t, err)
	fed := build(t, s, programs(t))
	for process, n := range map[string]*machine.Node{"controller": fed.Controller("alpha"), "agent": fed.stage.Lab.Node("alpha-gw")} {
		text, err := os.ReadFile(n.LogPath(process))
		must(t, err)
		said := 0
		for line := range strings.Lines(string(text)) {
			for _, key := range []string{" site=", " host="} {
				if n := strings.Count(line, key); n > 1 {
					t.Errorf("%s says%s %d times: %s", process, key, n, line)
				}
			}
			if strings.Contains(line, " site=alpha") {
				said++
			}
		}
		if said == 0 {
			t.Errorf("no line of %s says its site:\n%s", process, text)
		}
	}
}
