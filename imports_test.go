package widecloud_test

import (
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "widecloud"

// layers are the levels of the house (docs/architecture.md): arrows go down, or stay on a level. The longest prefix counts.
var layers = map[string]int{
	"api":              0,
	"bpf":              0,
	"packaging":        0,
	"examples":         0,
	"internal/access":  0,
	"internal/cloud":   0,
	"internal/lend":    0,
	"internal/place":   0,
	"internal/saga":    0,
	"internal/netplan": 0,
	"internal/doctor":  0,
	"internal/packet":  0,
	"internal/rfb":     0,
	"internal/store":   1,
	"internal/state":   1,
	"internal/netio":   1,
	"internal/wire":    1,
	"internal/hyper":   1,
	"internal/volume":  1,
	"internal/config":  1,
	"internal/audit":   1,
	"internal/agent":   2,
	"internal/fed":     2,
	"internal/map646":  2,
	"internal/control": 3,
	"internal/serve":   3,
	"internal/lab":     4,
	"cmd":              5,

	"internal/sentry":       2,
	"internal/sentry/still": 0,
}

// only says who alone may import a package (or what is under it), and why.
var only = []struct {
	what   string
	who    []string
	reason string
}{
	{"github.com/digitalocean/go-libvirt", []string{"internal/hyper/libvirt"}, "one package knows libvirt, so that its traps are met once"},
	{"github.com/vishvananda/netlink", []string{"internal/netio"}, "netio is the only door to the kernel's network"},
	{"github.com/vishvananda/netns", []string{"internal/netio"}, "netio is the only door to the kernel's network"},
	{"github.com/cilium/ebpf", []string{"internal/netio"}, "netio is the only door to the kernel's network"},
	{"golang.org/x/sys/unix", []string{"internal/netio"}, "netio is the only door to the kernel's network"},
	{"go.etcd.io/bbolt", []string{"internal/store/bolt"}, "a store driver is behind the store's seam"},
	{"go.etcd.io/etcd", []string{"internal/store/etcd"}, "a store driver is behind the store's seam"},
	{"github.com/danielgtaylor/huma", []string{"internal/serve"}, "its settings are package variables: it has one user"},
	{module + "/internal/lab", []string{"cmd/wcc", "internal/lab"}, "the lab is for tests and for wcc lab"},
	{module + "/internal/sentry", []string{"cmd/sentryd", "cmd/sentryc", "internal/sentry", "internal/lab/topic/koshien"},
		"the Koshien application is a world of its own: the cloud runs without it; the lab has its viewers"},
	{module + "/internal/lab/script", []string{"cmd/wcc", "internal/lab/stage", "internal/lab/topic", "internal/lab/translator", "internal/lab/play"},
		"the lab's machines and images know no language"},
	{module + "/internal/lab/topic", []string{"internal/lab/play", "internal/lab/topic"}, "the lab's language and machines know no topic"},
	{module + "/internal/lab/play", []string{"cmd/wcc", "internal/lab/play"}, "topics are below what runs scripts"},
	{module + "/internal/control", []string{"cmd/wcc", "internal/control"}, "controllers and agents meet in wire alone"},
	{module + "/internal/agent", []string{"cmd/wcc", "internal/agent", "internal/lab/simulated"}, "controllers and agents meet in wire alone"},
}

// control is the order of the controller's packages: each may import those before it. The packages of two nouns meet in one that comes
// after both, or by a function that is given to one of them (hosts.Observe).
var control = []string{
	"objects", "rooms", "networks", "orders", "jobs", "hosts", "images", "guests", "accounts", "volumes", "vms", "bulk", "joining", "watch", "lending", "notices", "meter",
}

// beforeIn tells whether a package of the controller may import another one.
func beforeIn(order []string, prefix, from, to string) bool {
	if !inside(from, prefix) || !inside(to, prefix) || from == prefix || inside(from, prefix+"/bench") {
		return true
	}
	return slices.Index(order, strings.TrimPrefix(from, prefix+"/")) > slices.Index(order, strings.TrimPrefix(to, prefix+"/"))
}

// pure packages do no I/O: these they may not import.
var impure = []string{"net/http", "os", "os/exec", "log", "log/slog", "database/sql", "syscall"}

// pkg is what go list says of a package.
type pkg struct {
	ImportPath string
	Imports    []string
	Standard   bool
}

func inside(path, prefix string) bool { return path == prefix || strings.HasPrefix(path, prefix+"/") }

// layerOf is the level of a package of the module; -1: it has none.
func layerOf(path string) int {
	best, level := "", -1
	for prefix, l := range layers {
		if inside(path, prefix) && len(prefix) > len(best) {
			best, level = prefix, l
		}
	}
	return level
}

// breaches lists the edges of a package that the law forbids, each with its reason.
func breaches(p pkg) []string {
	if !inside(p.ImportPath, module) || p.ImportPath == module {
		return nil
	}
	from := strings.TrimPrefix(p.ImportPath, module+"/")
	var out []string
	bad := func(to, reason string) { out = append(out, from+" imports "+to+": "+reason) }
	if layerOf(from) < 0 {
		bad("anything", "it is in no layer; give it a room in imports_test.go and in docs/architecture.md")
	}
	for _, to := range p.Imports {
		for _, rule := range only {
			if inside(to, rule.what) && !slices.ContainsFunc(rule.who, func(who string) bool { return inside(from, who) }) {
				bad(to, rule.reason)
			}
		}
		if layerOf(from) == 0 && slices.Contains(impure, to) && !(from == "api" && to == "net/http") {
			bad(to, "the lowest layer does no I/O, has no clock of its own and does not log")
		}
		if from == "api" && strings.Contains(strings.SplitN(to, "/", 2)[0], ".") {
			bad(to, "api imports the standard library only, so that importing it costs nothing else")
		}
		if inside(to, module) && to != module {
			target := strings.TrimPrefix(to, module+"/")
			if layerOf(target) > layerOf(from) {
				bad(target, "arrows go down only")
			}
			if !beforeIn(control, "internal/control", from, target) {
				bad(target, "the controller's packages have an order (control, above), so that none becomes a hall again")
			}
			if from == "api" {
				bad(target, "api imports the standard library only")
			}
		}
	}
	return out
}

// TestImports is the law of imports.
func TestImports(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", "-json=ImportPath,Imports,Standard", "./...").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	seen := 0
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		if p.Standard || !inside(p.ImportPath, module) {
			continue
		}
		seen++
		for _, b := range breaches(p) {
			t.Error(b)
		}
	}
	if seen < len(layers) {
		t.Errorf("go list showed %d packages, fewer than there are rooms", seen)
	}
}

// TestImportsAreJudged proves that the law can be broken.
func TestImportsAreJudged(t *testing.T) {
	for _, c := range []struct {
		from, to, want string
	}{
		{"internal/cloud", "os", "no I/O"},
		{"internal/cloud", module + "/internal/store", "arrows go down only"},
		{"internal/agent", module + "/internal/control", "meet in wire alone"},
		{"internal/control", module + "/internal/agent/network", "meet in wire alone"},
		{"internal/agent/network", "github.com/vishvananda/netlink", "only door"},
		{"internal/hyper/fake", "github.com/digitalocean/go-libvirt", "knows libvirt"},
		{"internal/serve", module + "/internal/lab", "for wcc lab"},
		{"api", "github.com/danielgtaylor/huma/v2", "standard library only"},
		{"internal/control/rooms", module + "/internal/control/vms", "have an order"},
		{"internal/control/vms", module + "/internal/control/lending", "have an order"},
		{"internal/lab/stage", module + "/internal/lab/topic/vm", "know no topic"},
		{"internal/lab/machine", module + "/internal/lab/script", "know no language"},
		{"internal/helpers", "fmt", "in no layer"},
	} {
		got := strings.Join(breaches(pkg{ImportPath: module + "/" + c.from, Imports: []string{c.to}}), "\n")
		if !strings.Contains(got, c.want) {
			t.Errorf("%s imports %s: judged %q, want %q", c.from, c.to, got, c.want)
		}
	}
	if got := breaches(pkg{ImportPath: module + "/internal/control", Imports: []string{module + "/internal/wire", "net/http"}}); got != nil {
		t.Errorf("a lawful package is judged: %v", got)
	}
}
