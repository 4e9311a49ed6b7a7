package map646

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"widecloud/internal/map646/dns64"
)

var (
	descText = regexp.MustCompile(`fqName: "(\w+)".*variableLabels: \{([^}]*)\}`)
	selector = regexp.MustCompile(`(map646_\w+)(?:\{([^}]*)\})?`)
	matcher  = regexp.MustCompile(`(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"`)
	grouping = regexp.MustCompile(`(?:by|on) \(([^)]*)\)`)
)

// exported are the labels of each metric that the daemon has, and the values that
// labels have before any packet has come.
func exported(t *testing.T) (labels, values map[string][]string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "map646.toml")
	if err := os.WriteFile(path, []byte("pref64 = \"2001:db8:64::/96\"\n[tun]\nqueues = 1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	d, err := New(Options{ConfigPath: path})
	if err != nil {
		t.Fatal(err)
	}
	labels, values = map[string][]string{}, map[string][]string{}
	descs := make(chan *prometheus.Desc, 100)
	collector{d}.Describe(descs)
	(*dns64.Server)(nil).Describe(descs)
	close(descs)
	for d := range descs {
		m := descText.FindStringSubmatch(d.String())
		if m == nil {
			t.Fatalf("cannot read %v", d)
		}
		labels[m[1]] = append(strings.Split(m[2], ","), "instance", "job")
	}
	r := prometheus.NewPedanticRegistry()
	r.MustRegister(collector{d})
	families, err := gatherer{d, r}.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if len(f.Metric) == 0 {
			t.Errorf("%s is a family of none: an answer cannot be written", f.GetName())
		}
	}
	for _, f := range mappingFamilies(make([]Busy, 1)) {
		families = append(families, f)
		for _, l := range f.Metric[0].Label {
			labels[f.GetName()] = append(labels[f.GetName()], l.GetName())
		}
		labels[f.GetName()] = append(labels[f.GetName()], "instance", "job")
	}
	for _, f := range families {
		for _, m := range f.Metric {
			for _, l := range m.Label {
				key := f.GetName() + " " + l.GetName()
				values[key] = append(values[key], l.GetValue())
			}
		}
	}
	return labels, values
}

// fromFast are the values that only the kernel's part has.
var fromFast = regexp.MustCompile(`^(fast|pass_\w+|drop_\w+)$`)

// faults are what an expression asks for and nobody exports.
func faults(expr string, labels, values map[string][]string) []string {
	var out, all []string
	for _, s := range selector.FindAllStringSubmatch(expr, -1) {
		name := s[1]
		if labels[name] == nil {
			out = append(out, name+" is not exported")
			continue
		}
		all = append(all, labels[name]...)
		for _, m := range matcher.FindAllStringSubmatch(s[2], -1) {
			if !slices.Contains(labels[name], m[1]) {
				out = append(out, name+" has no label "+m[1])
			}
			known := values[name+" "+m[1]]
			for _, v := range strings.Split(m[3], "|") {
				re := regexp.MustCompile("^(?:" + v + ")$")
				if known != nil && !fromFast.MatchString(v) && !slices.ContainsFunc(known, re.MatchString) {
					out = append(out, name+"'s "+m[1]+" is never "+v)
				}
			}
		}
	}
	for _, g := range grouping.FindAllStringSubmatch(expr, -1) {
		for _, l := range strings.Split(g[1], ",") {
			if l = strings.TrimSpace(l); !slices.Contains(all, l) {
				out = append(out, "nothing has the label "+l)
			}
		}
	}
	return out
}

// TestDashboard: Grafana's and Prometheus' examples ask for what there is.
func TestDashboard(t *testing.T) {
	labels, values := exported(t)
	data, err := os.ReadFile("../../packaging/grafana/map646.json")
	if err != nil {
		t.Fatal(err)
	}
	var board struct {
		Title  string
		Panels []struct {
			ID      int
			Title   string
			Type    string
			GridPos struct{ X, Y, W, H int }
			Targets []struct{ Expr string }
		}
		Templating struct {
			List []struct{ Name, Definition string }
		}
	}
	if err := json.Unmarshal(data, &board); err != nil {
		t.Fatal(err)
	}
	ids, asked := map[int]bool{}, map[string]bool{}
	for _, p := range board.Panels {
		if ids[p.ID] || p.GridPos.W < 1 || p.GridPos.X+p.GridPos.W > 24 || p.Type != "row" && len(p.Targets) == 0 {
			t.Errorf("panel %d %q: its number, place or content is wrong", p.ID, p.Title)
		}
		ids[p.ID] = true
		for _, q := range p.Targets {
			expr := strings.NewReplacer("$__rate_interval", "1m", "$instance", ".*").Replace(q.Expr)
			for _, f := range faults(expr, labels, values) {
				t.Errorf("panel %q: %s: %s", p.Title, f, q.Expr)
			}
			for _, s := range selector.FindAllStringSubmatch(q.Expr, -1) {
				asked[s[1]] = true
			}
		}
	}
	for name := range labels {
		if !asked[name] {
			t.Errorf("no panel shows %s", name)
		}
	}
	for _, v := range board.Templating.List {
		for _, f := range faults(v.Definition, labels, values) {
			t.Errorf("variable %s: %s", v.Name, f)
		}
	}

	rules, err := os.ReadFile("../../packaging/prometheus/map646-rules.yml")
	if err != nil {
		t.Fatal(err)
	}
	// An expression stands behind "expr:", folded ones up to the next key.
	exprs := regexp.MustCompile(`(?m)^        expr: (?:>\n((?:          .*\n)+)|(.*)\n)`).FindAllStringSubmatch(string(rules), -1)
	if n := strings.Count(string(rules), "expr:"); len(exprs) != n || n == 0 {
		t.Fatalf("found %d of %d expressions", len(exprs), n)
	}
	for _, e := range exprs {
		expr := strings.Join(strings.Fields(e[1]+e[2]), " ")
		for _, f := range faults(expr, labels, values) {
			t.Errorf("alert: %s: %s", f, expr)
		}
	}
}

// TestDashboardIsJudged: the check can fail.
func TestDashboardIsJudged(t *testing.T) {
	labels, values := exported(t)
	for expr, want := range map[string]string{
		`map646_nothing`: "not exported",
		`rate(map646_packets_total{paht="full"}[1m])`: "has no label paht",
		`map646_reloads_total{result="ok"}`:           "is never ok",
		`map646_packets_total{outcome=~"4to6|4to7"}`:  "is never 4to7",
		`sum by (outcom) (map646_packets_total)`:      "nothing has the label outcom",
	} {
		if got := strings.Join(faults(expr, labels, values), "\n"); !strings.Contains(got, want) {
			t.Errorf("%s: judged %q, want %q", expr, got, want)
		}
	}
}
