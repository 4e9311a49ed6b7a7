package usage_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"widecloud/api"
	"widecloud/internal/agent/usage"
	"widecloud/internal/hyper"
)

var start = time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)

// busy is a VM that uses half a core, reads 100 bytes and sends 10 in a second.
func busy(vm string, for_ time.Duration) hyper.Usage {
	s := int64(for_.Seconds())
	return hyper.Usage{VM: vm, CPU: for_ / 2, Memory: 64 << 20, DiskRead: 100 * s, Sent: 10 * s}
}

func TestSamples(t *testing.T) {
	var h usage.History
	for at := time.Duration(0); at <= 6*time.Minute; at += usage.Every {
		h.Take(start.Add(at), []hyper.Usage{busy("a", at)})
	}
	got, ok := h.Of("a")
	if !ok || len(got.Recent) != 36 || len(got.Day) != 1 {
		t.Fatalf("%d samples of 10 s and %d of 5 min, %t", len(got.Recent), len(got.Day), ok)
	}
	want := api.Sample{At: start.Add(5 * time.Minute), CPU: 0.5, Memory: 64 << 20, DiskRead: 100, Sent: 10}
	for _, s := range []api.Sample{got.Day[0], got.Recent[29]} {
		if s.At.Sub(want.At).Abs() > 2*time.Minute { // an interval of 5 min ends when three quarters of the last step are over
			t.Errorf("a sample at %v", s.At)
		}
		s.At = want.At
		if diff := cmp.Diff(want, s); diff != "" {
			t.Errorf("-want +got\n%s", diff)
		}
	}
}

// TestBounded: a week leaves half an hour and a day.
func TestBounded(t *testing.T) {
	var h usage.History
	var last time.Time
	for at := time.Duration(0); at <= 7*24*time.Hour; at += usage.Every {
		last = start.Add(at)
		h.Take(last, []hyper.Usage{busy("a", at)})
	}
	got, _ := h.Of("a")
	if len(got.Recent) != 180 || len(got.Day) != 288 {
		t.Errorf("%d and %d samples", len(got.Recent), len(got.Day))
	}
	if first := got.Recent[0].At; last.Sub(first) != 179*usage.Every {
		t.Errorf("the first of %v is at %v", last, first)
	}
}

func TestGaps(t *testing.T) {
	step := func(n int) time.Time { return start.Add(time.Duration(n) * usage.Every) }
	for name, c := range map[string]struct {
		at   []time.Time
		used []time.Duration // since the VM was started
		want []float64       // CPU of each sample
	}{
		"started again":          {[]time.Time{step(0), step(1), step(2), step(3)}, []time.Duration{40 * time.Second, 50 * time.Second, 4 * time.Second, 14 * time.Second}, []float64{0.5, 0.5}},
		"a host that was asleep": {[]time.Time{step(0), step(1), step(90), step(91)}, []time.Duration{0, 10 * time.Second, 20 * time.Second, 30 * time.Second}, []float64{0.5, 0.5}},
		"a clock that was set":   {[]time.Time{step(0), step(1), step(-30), step(-29)}, []time.Duration{0, 10 * time.Second, 20 * time.Second, 30 * time.Second}, []float64{0.5, 0.5}},
		"a reading too soon":     {[]time.Time{step(0), step(0).Add(time.Second), step(1)}, []time.Duration{0, time.Second, 10 * time.Second}, []float64{0.5}},
	} {
		t.Run(name, func(t *testing.T) {
			var h usage.History
			for i, at := range c.at {
				h.Take(at, []hyper.Usage{busy("a", c.used[i])})
			}
			got, _ := h.Of("a")
			var cpu []float64
			for _, s := range got.Recent {
				cpu = append(cpu, s.CPU)
			}
			if diff := cmp.Diff(c.want, cpu); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
		})
	}
}

// TestGone: what is kept goes with the VM, and nobody changes it from outside.
func TestGone(t *testing.T) {
	var h usage.History
	for i := range 3 {
		at := time.Duration(i) * usage.Every
		h.Take(start.Add(at), []hyper.Usage{busy("a", at), busy("b", at)})
	}
	got, _ := h.Of("a")
	got.Recent[0].CPU = 9
	if again, _ := h.Of("a"); again.Recent[0].CPU != 0.5 {
		t.Error("the history is shared")
	}
	h.Take(start.Add(3*usage.Every), []hyper.Usage{busy("b", 3*usage.Every)})
	if _, ok := h.Of("a"); ok {
		t.Error("a VM that is gone is remembered")
	}
	if got, ok := h.Of("b"); !ok || len(got.Recent) != 3 {
		t.Errorf("%d samples of b, %t", len(got.Recent), ok)
	}
}
