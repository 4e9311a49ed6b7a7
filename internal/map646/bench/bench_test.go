package main

import (
	"encoding/xml"
	"errors"
	"io"
	"math"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestPercentile(t *testing.T) {
	for _, c := range []struct {
		values []float64
		q      float64
		want   float64
	}{
		{[]float64{3}, .5, 3},
		{[]float64{4, 1, 3, 2}, .5, 2.5},
		{[]float64{4, 1, 3, 2, 5}, .5, 3},
		{[]float64{5, 1, 3, 2, 4}, .25, 2},
		{[]float64{1, 2}, 0, 1},
		{[]float64{2, 1}, 1, 2},
	} {
		if got := percentile(c.values, c.q); got != c.want {
			t.Errorf("percentile(%v, %v) = %v, want %v", c.values, c.q, got, c.want)
		}
	}
	if got := percentile(nil, .5); !math.IsNaN(got) {
		t.Errorf("percentile of nothing = %v", got)
	}
	values := []float64{2, 1}
	percentile(values, .5)
	if values[0] != 2 {
		t.Error("percentile has sorted its argument")
	}
}

// A ratio pairs the samples of a round, so that what slows a whole round down
// does not show; a round that lacks one of the two does not count.
func TestRatio(t *testing.T) {
	b := newBook()
	k, ref := key{"fast", "tcp1"}, key{"ipv6", "tcp1"}
	for round, v := range []struct{ k, ref float64 }{{11, 10}, {24, 20}, {130, 100}} {
		b.add(k, round, v.k)
		b.add(ref, round, v.ref)
	}
	b.add(k, 7, 1000)
	if got, want := b.ratio(k, ref), (summary{1.2, 1.15, 1.25, 3}); !cmp.Equal(got, want, near()) {
		t.Errorf("ratio = %+v, want %+v", got, want)
	}
	if got, want := b.difference(k, ref), (summary{4, 2.5, 17, 3}); !cmp.Equal(got, want, near()) {
		t.Errorf("difference = %+v, want %+v", got, want)
	}
	if got := b.ratio(key{"none", "tcp1"}, ref); got.N != 0 || !math.IsNaN(got.Median) {
		t.Errorf("ratio of nothing = %+v", got)
	}
	if got, want := b.values(k), []float64{11, 24, 130, 1000}; !slices.Equal(got, want) {
		t.Errorf("values = %v, want %v", got, want)
	}
}

func near() cmp.Option {
	return cmp.Comparer(func(a, b float64) bool { return math.Abs(a-b) < 1e-9 })
}

func TestSequence(t *testing.T) {
	if got, want := [][]int{sequence(3, 0), sequence(3, 1), sequence(3, 2), sequence(3, 3), sequence(3, 6)}, [][]int{{0, 1, 2}, {2, 1, 0}, {1, 2, 0}, {0, 2, 1}, {0, 1, 2}}; !cmp.Equal(got, want) {
		t.Errorf("sequences %v, want %v", got, want)
	}
}

func TestZeroLoss(t *testing.T) {
	for _, c := range []struct {
		name      string
		limit     float64 // of the device
		low, high float64 // what may come out
	}{
		{"in the middle", 50_000, 47_000, 50_000},
		{"low", 2500, 2300, 2500},
		{"all of it", 1e9, 200_000, 200_000},
		{"nothing", 500, 0, 0},
	} {
		trials := 0
		got, err := zeroLoss(1000, 200_000, .04, func(rate float64) (bool, error) {
			trials++
			return rate <= c.limit, nil
		})
		if err != nil || got < c.low || got > c.high || trials > 40 {
			t.Errorf("%s: %v after %d trials (%v), want %v to %v", c.name, got, trials, err, c.low, c.high)
		}
	}
	// One bad trial is not the device's fault.
	n := 0
	if got, err := zeroLoss(1000, 200_000, .04, func(float64) (bool, error) { n++; return n > 1, nil }); err != nil || got != 200_000 {
		t.Errorf("after one bad trial: %v, %v", got, err)
	}
	if _, err := zeroLoss(1000, 200_000, .04, func(float64) (bool, error) { return false, io.EOF }); !errors.Is(err, io.EOF) {
		t.Errorf("a trial's error: %v", err)
	}
}

func TestChoose(t *testing.T) {
	if got, err := choose("paths", "tayga, fast", allPaths); err != nil || !slices.Equal(got, []string{"fast", "tayga"}) {
		t.Errorf("%v, %v", got, err)
	}
	if got, err := choose("paths", "all", allPaths); err != nil || !slices.Equal(got, allPaths) {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := choose("loads", "tcp1,tcp9", allLoads); err == nil || !strings.Contains(err.Error(), `loads: "tcp9"`) {
		t.Errorf("an unknown load: %v", err)
	}
}

func TestPlan(t *testing.T) {
	good := plan{Paths: allPaths, Loads: allLoads, Rounds: 10, Seconds: 1, Stream: 2, Turn: .1, Mappings: many, Rate: 10_000, Burst: 4, Pings: 100}
	if err := good.check(); err != nil {
		t.Fatal(err)
	}
	for field, spoil := range map[string]func(*plan){
		"rounds": func(p *plan) { p.Rounds = 0 }, "seconds": func(p *plan) { p.Seconds = math.NaN() }, "stream": func(p *plan) { p.Stream = 0 }, "turn": func(p *plan) { p.Turn = 3 }, "mappings": func(p *plan) { p.Mappings = many + 1 },
		"rate": func(p *plan) { p.Rate = 1 << 30 }, "burst": func(p *plan) { p.Burst = 0 }, "pings": func(p *plan) { p.Pings = 1 }, "queues": func(p *plan) { p.Queues = -1 },
	} {
		bad := good
		spoil(&bad)
		if err := bad.check(); err == nil || !strings.HasPrefix(err.Error(), field+": ") {
			t.Errorf("%s: %v", field, err)
		}
	}
	// Every load of every path has its base beside it, and every job its world.
	worlds := good.worlds()
	for _, group := range good.jobs() {
		loads := map[string]bool{}
		for _, j := range group {
			if j.Path == base {
				loads[j.Load] = true
			}
			if !slices.Contains(worlds, j.World) {
				t.Errorf("%s.%s: no world %+v", j.Path, j.Load, j.World)
			}
		}
		for _, j := range group {
			if !loads[j.Load] {
				t.Errorf("%s.%s has no base", j.Path, j.Load)
			}
		}
	}
	names := map[string]bool{}
	for _, w := range worlds {
		if names[w.name()] {
			t.Errorf("two worlds are called %s", w.name())
		}
		names[w.name()] = true
	}
}

func TestCPUStat(t *testing.T) {
	if got, err := cpuStat("usage_usec 1234567\nuser_usec 1\nsystem_usec 2\n"); err != nil || got != 1234567 {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := cpuStat("user_usec 1\n"); err == nil {
		t.Error("no error without usage_usec")
	}
	// user nice system idle iowait irq softirq steal
	if got, err := busy("cpu  100 10 200 5000 70 3 7 900 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n"); err != nil || got != 3.2 {
		t.Errorf("busy %v, %v", got, err)
	}
	if _, err := busy("cpu0 1 2 3\n"); err == nil {
		t.Error("no error without the line of all CPUs")
	}
}

func TestParseWrk(t *testing.T) {
	const good = `Running 1s test @ http://203.0.113.10:8080/
  1 threads and 16 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency     1.05ms    2.29ms  27.13ms   92.75%
    Req/Sec    22.54k     3.63k   25.74k    90.91%
  Latency Distribution
     50%  478.00us
     75%    0.87ms
     90%    2.00ms
     99%   12.36ms
  24642 requests in 1.10s, 101.56MB read
  Socket errors: connect 0, read 24642, write 0, timeout 0
Requests/sec:  22405.30
Transfer/sec:     92.34MB
`
	got, err := parseWrk(good)
	if want := (wrkResult{requests: 24642, rps: 24642 / 1.1, p50: 478, p99: 12360}); err != nil || !cmp.Equal(got, want, cmp.AllowUnexported(wrkResult{}), near()) {
		t.Errorf("%+v, %v, want %+v", got, err, want)
	}
	for name, text := range map[string]string{
		"nothing":    "unable to connect to 203.0.113.10:8080 Connection refused",
		"timeouts":   strings.Replace(good, "timeout 0", "timeout 3", 1),
		"bad answer": strings.Replace(good, "Requests/sec", "  Non-2xx or 3xx responses: 12\nRequests/sec", 1),
		"no answers": strings.Replace(good, "24642 requests", "0 requests", 1),
	} {
		if _, err := parseWrk(text); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestSpread(t *testing.T) {
	addr := make([]byte, 16)
	s := newSpread(manyV6, 1000, addr)
	seen := map[netip.Addr]bool{}
	last := offset(manyV6, 999)
	for range 20_000 {
		s.next()
		a := netip.AddrFrom16([16]byte(addr))
		if a.Less(manyV6) || last.Less(a) {
			t.Fatalf("%v is not among the thousand", a)
		}
		seen[a] = true
	}
	if len(seen) != 1000 {
		t.Errorf("%d of 1000 addresses in 20,000 packets", len(seen))
	}
}

func TestConfig(t *testing.T) {
	for _, c := range []struct {
		world     worldSpec
		want, not []string
	}{
		{worldSpec{Path: "full"}, []string{`v4 = "203.0.113.10"`, "pref64"}, []string{"[fast]", "map66", "mappings_file"}},
		{worldSpec{Path: "fast"}, []string{"[fast]", `devices = ["c", "s"]`}, []string{"map66"}},
		{worldSpec{Path: "full66"}, []string{`service = "2001:db8:f::10"`}, []string{"pref64", "[[map]]", "[fast]"}},
		{worldSpec{Path: "fast", Table: 1000}, []string{"mappings_file"}, []string{"[[map]]", "max_mappings", "forward"}},
		{worldSpec{Path: "fast", Table: 1000, Prefix: true}, []string{`v4 = "10.0.0.0/12"`}, []string{"mappings_file"}},
		{worldSpec{Path: "stack66"}, []string{"[fast]", `forward = "kernel"`, "map66"}, []string{"pref64"}},
	} {
		mappings := ""
		if c.world.Table > 0 && !c.world.Prefix {
			mappings = "/nowhere/many.conf"
		}
		got := config(c.world, "/nowhere/control", mappings, "", 0)
		for _, s := range c.want {
			if !strings.Contains(got, s) {
				t.Errorf("%s: no %q in\n%s", c.world.name(), s, got)
			}
		}
		for _, s := range c.not {
			if strings.Contains(got, s) {
				t.Errorf("%s: %q in\n%s", c.world.name(), s, got)
			}
		}
	}
}

// sampleReport is a run that never was.
func sampleReport() *report {
	b := newBook()
	for round, drift := range []float64{1, 1.5, 1.2} {
		for path, v := range map[string]float64{"ipv6": 300, "tun": 400, "fast": 309, "full": 435, "tayga": 4500} {
			b.add(key{path, "tcp1"}, round, v*drift)
		}
		for path, v := range map[string]float64{"ipv6": 20, "fast": 22, "full": 30, "tayga": 28} {
			b.add(key{path, "udp64"}, round, v*drift)
			b.add(key{path, "rtt_p10"}, round, v)
		}
		b.add(key{"fast", "one_mapping"}, round, 20*drift)
		b.add(key{"fast", "full_table"}, round, 20.5*drift)
	}
	return &report{book: b, paths: []string{"ipv6", "tun", "fast", "full", "tayga"}, extra: []figure{{"table.load_seconds", 4.25, "s"}}, ended: "2001-02-03", about: "Here & there.", mapping: 1000}
}

func TestReport(t *testing.T) {
	r := sampleReport()
	lines := strings.Split(strings.TrimSpace(r.lines()), "\n")
	for _, want := range []string{
		"ratio fast.tcp1 1.030", "ratio full.tcp1 1.450", "ratio tayga.tcp1 15.000", "ratio fast.udp64 1.100",
		"figure fast.rtt_p10 22 us", "figure fast.rtt_p10_added 2 us", "figure fast.full_table_growth 1.02 ratio", "figure table.load_seconds 4.25 s", "figure full.tcp1_of_tun 1.09 ratio", "figure ipv6.tcp1 360 ns/KB",
	} {
		if !slices.Contains(lines, want) {
			t.Errorf("no line %q in\n%s", want, r.lines())
		}
	}
	for _, l := range lines {
		if f := strings.Fields(l); strings.Contains(l, "NaN") || !(f[0] == "ratio" && len(f) == 3 || f[0] == "figure" && len(f) == 4) {
			t.Errorf("odd line %q", l)
		}
	}
	var got []string
	for _, v := range r.verdicts() {
		got = append(got, v[0]+" "+v[3])
	}
	want := []string{"`fast.tcp1` held", "`fast.udp64` **missed**", "`fast.rtt_p10` held", "`full.tcp1` held", "`full.udp64` **missed**", "`fast.full_table` held", "`table.load_seconds` held"}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("verdicts (-want +got):\n%s", d)
	}
	md := r.markdown()
	for _, want := range []string{"| `tcp1` | 1 | 1.33 (1.33–1.33) | 1.03 (1.03–1.03) | 1.45 (1.45–1.45) | 15 (15–15) |", "617 (-34 %)", "| `tcp1` | 1.33 (1.33–1.33) | 1.45 (1.45–1.45) | 1.09 (1.09–1.09) |", "Here & there.", "map646-bench.svg"} {
		if !strings.Contains(md, want) {
			t.Errorf("no %q in\n%s", want, md)
		}
	}
	if strings.Contains(md, "NaN") {
		t.Errorf("NaN in\n%s", md)
	}
}

func TestInserted(t *testing.T) {
	r := sampleReport()
	page, err := r.inserted("# a\n<!-- bench -->\nold\n<!-- /bench -->\nb\n")
	if err != nil || strings.Contains(page, "old") || !strings.HasPrefix(page, "# a\n<!-- bench -->\nCPU cost") || !strings.HasSuffix(page, "\n<!-- /bench -->\nb\n") {
		t.Errorf("%v\n%s", err, page)
	}
	if again, err := r.inserted(page); err != nil || again != page {
		t.Errorf("a second time it differs: %v", err)
	}
	for _, bad := range []string{"", "<!-- bench -->\n"} {
		if _, err := r.inserted(bad); err == nil {
			t.Errorf("no error about %q", bad)
		}
	}
}

// The picture is well-formed, has a bar for each ratio, and cuts the one that is
// off the scale.
func TestPicture(t *testing.T) {
	r := sampleReport()
	d := xml.NewDecoder(strings.NewReader(r.picture()))
	titles := 0
	for {
		tok, err := d.Token()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if e, ok := tok.(xml.StartElement); ok {
			if e.Name.Local == "title" {
				titles++
			}
			for _, a := range e.Attr {
				if strings.Contains(a.Value, "NaN") || (a.Name.Local == "height" && strings.HasPrefix(a.Value, "-")) {
					t.Errorf("%s %s=%q", e.Name.Local, a.Name.Local, a.Value)
				}
			}
		}
	}
	if titles != 7 {
		t.Errorf("%d bars, want 7", titles)
	}
}

func TestMemoryField(t *testing.T) {
	const info = "pos:\t0\nmap_type:\t1\nmemlock:\t4096\nmap_id:\t17\n"
	if v, ok := field(info, "memlock:"); !ok || v != 4096 {
		t.Errorf("%v, %v", v, ok)
	}
	if _, ok := field(info, "prog_id:"); ok {
		t.Error("found what is not there")
	}
}

func TestChanges(t *testing.T) {
	if got, want := changes("replace", 1, 2, 1<<24), "replace 10.0.1.1 2001:db8:a:1::100:101\nreplace 10.0.1.2 2001:db8:a:1::100:102\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
	if got, want := changes("remove", 0, 1, 0), "remove 10.0.1.0\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
