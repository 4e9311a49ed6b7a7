package reel_test

import (
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"widecloud/internal/sentry/reel"
	"widecloud/internal/sentry/still"
)

// clock is a time that a test moves.
type clock struct{ now time.Time }

func (c *clock) Now() time.Time { return c.now }

func picture(channel string, size int, number uint64, taken time.Time, bytes int) still.Still {
	jpeg := make([]byte, max(4, bytes))
	jpeg[0], jpeg[1], jpeg[len(jpeg)-2], jpeg[len(jpeg)-1] = 0xff, 0xd8, 0xff, 0xd9
	return still.Still{Channel: channel, Size: size, Number: number, Taken: taken, Width: 640, Height: 360, JPEG: jpeg}
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

func TestNewestNumberAndTime(t *testing.T) {
	c := &clock{time.Unix(1000, 0)}
	r := reel.New(reel.Options{Keep: 10 * time.Second, MaxBytes: 1 << 20, MaxChannels: 2, Now: c.Now,
		Prepare: func(s *still.Still) any { return s.Number }})
	if r.Newest("a", 0) != nil {
		t.Error("an empty reel has a newest still")
	}
	var frames []*reel.Frame
	for n := range uint64(20) {
		if err := r.Add(picture("a", 0, n+1, c.now, 100)); err != nil {
			t.Fatal(err)
		}
		f := r.Newest("a", 0)
		if f.Number != n+1 || f.Prepared != n+1 || closed(f.Next()) {
			t.Errorf("newest: %d, prepared %v, followed %v", f.Number, f.Prepared, closed(f.Next()))
		}
		if n > 0 && !closed(frames[n-1].Next()) {
			t.Errorf("who waits after %d is not woken", n)
		}
		frames = append(frames, f)
		c.now = c.now.Add(time.Second)
	}
	// 20 was added at 1019: 10 to 20 are not older than 10 s then.
	for _, x := range []struct {
		number uint64
		kept   bool
		gone   bool
	}{{1, false, true}, {9, false, true}, {10, true, false}, {20, true, false}, {21, false, false}} {
		f, gone := r.Number("a", 0, x.number)
		if (f != nil) != x.kept || gone != x.gone || f != nil && f != frames[x.number-1] {
			t.Errorf("number %d: %v, gone %v", x.number, f, gone)
		}
	}
	for at, want := range map[int64]uint64{900: 10, 1009: 10, 1010: 11, 2000: 20} {
		if f := r.At("a", 0, time.Unix(at, 0)); f.Number != want {
			t.Errorf("at %d: number %d, want %d", at, f.Number, want)
		}
	}
	if n := r.Oldest("a", 0).Number; n != 10 {
		t.Errorf("oldest: %d", n)
	}
	if err := r.Add(picture("a", 0, 20, c.now, 100)); !errors.Is(err, reel.ErrLate) {
		t.Errorf("the same number again: %v", err)
	}
	if err := r.Add(picture("A", 0, 1, c.now, 100)); !errors.Is(err, still.ErrBounds) {
		t.Errorf("a bad name: %v", err)
	}
	if r.Newest("a", 1) != nil || r.Newest("b", 0) != nil || r.Newest("a", -1) != nil || r.Newest("a", still.Sizes) != nil {
		t.Error("there is a still where none was added")
	}
}

func TestForget(t *testing.T) {
	c := &clock{time.Unix(1000, 0)}
	r := reel.New(reel.Options{Keep: 10 * time.Second, MaxBytes: 1 << 20, MaxChannels: 1, Now: c.Now})
	if err := r.Add(picture("a", 0, 1, c.now, 100)); err != nil {
		t.Fatal(err)
	}
	f := r.Newest("a", 0)
	if err := r.Add(picture("b", 0, 1, c.now, 100)); !errors.Is(err, reel.ErrFull) {
		t.Errorf("a channel too many: %v", err)
	}
	c.now = c.now.Add(11 * time.Second)
	r.Forget()
	if r.Newest("a", 0) != nil || !closed(f.Next()) || r.Bytes() != 0 || len(r.Channels()) != 0 {
		t.Errorf("a channel that has ended is kept: %v, %d bytes", r.Channels(), r.Bytes())
	}
	if err := r.Add(picture("b", 0, 1, c.now, 100)); err != nil {
		t.Errorf("no room for another channel: %v", err)
	}
}

func TestCaptions(t *testing.T) {
	c := &clock{time.Unix(1000, 0)}
	r := reel.New(reel.Options{Keep: 10 * time.Second, MaxBytes: 1 << 20, MaxChannels: 1, Now: c.Now})
	if _, ok := r.Caption("a", c.now); ok {
		t.Error("there is a caption")
	}
	for i, text := range []string{"1回表 0-0", "1回裏 0-1"} {
		if err := r.AddCaption("a", reel.Caption{From: c.now.Add(time.Duration(i) * time.Second), Text: text}); err != nil {
			t.Fatal(err)
		}
	}
	got := map[int64]string{}
	for _, at := range []int64{999, 1000, 1001, 5000} {
		x, _ := r.Caption("a", time.Unix(at, 0))
		got[at] = x.Text
	}
	if d := cmp.Diff(map[int64]string{999: "", 1000: "1回表 0-0", 1001: "1回裏 0-1", 5000: "1回裏 0-1"}, got); d != "" {
		t.Error(d)
	}
	for name, x := range map[string]struct {
		channel string
		caption reel.Caption
		want    error
	}{
		"late":    {"a", reel.Caption{From: c.now}, reel.ErrLate},
		"channel": {"b", reel.Caption{From: c.now}, reel.ErrFull},
		"name":    {"../b", reel.Caption{From: c.now}, still.ErrBounds},
		"long":    {"a", reel.Caption{From: c.now.Add(time.Hour), Text: string(make([]byte, reel.MaxCaption+1))}, still.ErrBounds},
		"text":    {"a", reel.Caption{From: c.now.Add(time.Hour), Alt: "\xff"}, still.ErrBounds},
	} {
		if err := r.AddCaption(x.channel, x.caption); !errors.Is(err, x.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestBounds: whatever is added, bytes and channels stay within bounds, the newest is the largest number that was
// accepted, and bytes are what the kept stills take.
func TestBounds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		c := &clock{time.Unix(1000, 0)}
		o := reel.Options{Keep: 20 * time.Second, MaxBytes: 30_000, MaxChannels: 3, Now: c.Now}
		r := reel.New(o)
		type key struct {
			channel string
			size    int
		}
		newest := map[key]*reel.Frame{}
		for range rapid.IntRange(1, 80).Draw(t, "adds") {
			c.now = c.now.Add(time.Duration(rapid.IntRange(0, 3000).Draw(t, "ms")) * time.Millisecond)
			k := key{rapid.SampledFrom([]string{"a", "b", "c", "d"}).Draw(t, "channel"), rapid.IntRange(0, 1).Draw(t, "size")}
			s := picture(k.channel, k.size, uint64(rapid.IntRange(1, 100).Draw(t, "number")), c.now, rapid.IntRange(4, 9000).Draw(t, "bytes"))
			err := r.Add(s)
			f := r.Newest(k.channel, k.size)
			switch {
			case err == nil:
				if f == nil || f.Number != s.Number {
					t.Fatalf("added %d, newest is %v", s.Number, f)
				}
				if last := newest[k]; last != nil && !closed(last.Next()) {
					t.Fatal("who waits is not woken")
				}
				newest[k] = f
			case errors.Is(err, reel.ErrLate):
				if f == nil || f.Number < s.Number {
					t.Fatalf("%d is late, newest is %v", s.Number, f)
				}
			case !errors.Is(err, reel.ErrFull):
				t.Fatal(err)
			}
			sum := int64(0)
			for _, name := range r.Channels() {
				for size := range still.Sizes {
					n, old := r.Newest(name, size), r.Oldest(name, size)
					if n == nil {
						continue
					}
					if old.Added.Before(c.now.Add(-o.Keep)) {
						t.Fatalf("%s has a still of %v at %v", name, old.Added, c.now)
					}
					for num := old.Number; num <= n.Number; num++ {
						if f, _ := r.Number(name, size, num); f != nil {
							sum += int64(len(f.JPEG)) + 2048
						}
					}
				}
			}
			if sum != r.Bytes() || sum > o.MaxBytes || len(r.Channels()) > o.MaxChannels {
				t.Fatalf("%d bytes counted, %d kept of %d, %d channels", r.Bytes(), sum, o.MaxBytes, len(r.Channels()))
			}
		}
	})
}

// TestSideBySide: readers, waiters and writers at once (with the race detector).
func TestSideBySide(t *testing.T) {
	r := reel.New(reel.Options{Keep: time.Hour, MaxBytes: 50_000, MaxChannels: 2, Now: time.Now})
	const last = 300
	if err := r.Add(picture("a", 0, 1, time.Now(), 1000)); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for f := r.Newest("a", 0); f.Number < last; {
				<-f.Next()
				next := r.Newest("a", 0)
				if next.Number <= f.Number {
					t.Errorf("%d follows %d", next.Number, f.Number)
					return
				}
				r.Number("a", 0, f.Number)
				f = next
			}
		})
	}
	for n := uint64(2); n <= last; n++ {
		if err := r.Add(picture("a", 0, n, time.Now(), 1000)); err != nil {
			t.Fatal(err)
		}
	}
	wg.Wait()
}

func BenchmarkNewest(b *testing.B) {
	r := reel.New(reel.Options{Keep: time.Hour, MaxBytes: 1 << 20, MaxChannels: 2, Now: time.Now})
	if err := r.Add(picture("a", 0, 1, time.Now(), 1000)); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if r.Newest("a", 0) == nil {
			b.Fatal("none")
		}
	}
}
