package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// TestMain lets the test's program be the controller's process, too.
func TestMain(m *testing.M) {
	if os.Getenv(roleEnv) != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// TestMeasure is a whole run of a small site: everything that was asked for is seen, each figure of the aims is there, and
// nothing is left behind.
func TestMeasure(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	r, err := measure(t.Context(), plan{
		Hosts: 5, VMs: 100, Stopped: 10, Watchers: 30, Changes: 20, Reads: 10, Load: 4 * time.Second, Warm: time.Second, Report: time.Second,
		Curve: []int{10, 1000}, CurveTime: 50 * time.Millisecond,
	}, (*run).phases)
	if err != nil {
		t.Fatalf("%v\n%s", err, r.lines())
	}
	for _, want := range []string{
		"controller.hosts", "controller.vms", "controller.watchers", "controller.cpu", "controller.rss", "placement.p99_ms", "placement.per_second",
		"placement.hosts_10.per_second", "list.vms_ms", "api.read_p99_ms", "api.write_p99_ms", "watch.p99_ms", "restart.seconds", "restart.agents_seconds",
	} {
		if i := slices.IndexFunc(r.figures, func(f figure) bool { return f.Name == want }); i < 0 || r.figures[i].Value <= 0 {
			t.Errorf("no figure %s in\n%s", want, r.lines())
		}
	}
	if left, err := filepath.Glob(filepath.Join(os.TempDir(), "*")); err != nil || len(left) > 0 {
		t.Errorf("left behind: %v, %v", left, err)
	}
}

// TestPage is a whole run of the page's benchmark on a small site: each figure of the aims is there.
func TestPage(t *testing.T) {
	t.Setenv("TMPDIR", t.TempDir())
	r, err := measure(t.Context(), plan{Hosts: 5, VMs: 200, Watchers: 1, Changes: 20, Reads: 1, Load: 5 * time.Second, Report: time.Second}, (*run).pagePhases)
	if err != nil {
		t.Fatalf("%v\n%s", err, r.lines())
	}
	for _, want := range []string{
		"page.first_load_kb", "page.first_rows_ms", "page.all_rows_ms", "page.vms", "page.filter_ms", "page.scroll_ms", "page.event_p50_ms", "page.event_p99_ms",
		"page.heap_start_mb", "page.heap_mb", "page.changes_per_second",
	} {
		if i := slices.IndexFunc(r.figures, func(f figure) bool { return f.Name == want }); i < 0 || r.figures[i].Value <= 0 {
			t.Errorf("no figure %s in\n%s", want, r.lines())
		}
	}
}

// TestMissed: a watcher that missed a change makes the run an error.
func TestMissed(t *testing.T) {
	c := newCrowd(&site{}, 2)
	for _, w := range c.watchers {
		w.data([]byte("data: # beacon 1.\n"))
	}
	if err := c.check(1); err != nil {
		t.Errorf("all have seen it: %v", err)
	}
	c.watchers[0].data([]byte("data: # beacon 2.\n"))
	if err := c.check(2); err == nil || !strings.Contains(err.Error(), "by 1 of 2") {
		t.Errorf("one has not seen it: %v", err)
	}
	c.watchers[1].data([]byte("data: # beacon 3.\n"))
	if err := c.check(1); err == nil || !strings.Contains(err.Error(), "missed 1") {
		t.Errorf("one has missed one: %v", err)
	}
}

// TestShort is the numbers of the output.
func TestShort(t *testing.T) {
	for v, want := range map[float64]string{0: "0", 12: "12", 1234.5: "1234", 0.01234: "0.0123", 99.96: "100"} {
		if got := short(v); got != want {
			t.Errorf("%v is %q, want %q", v, got, want)
		}
	}
}
