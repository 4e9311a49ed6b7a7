package store_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"

	"widecloud/internal/store"
)

// line is a queue of numbers whose first batch is held until open is closed.
type line struct {
	*store.Queue[int]
	held, open chan struct{}
	batches    [][]int
	fate       func() // of the first batch, once it is open
}

func newLine(most int) *line {
	return &line{Queue: store.NewQueue[int](most), held: make(chan struct{}), open: make(chan struct{}), fate: func() {}}
}

func (l *line) serve(batch []int) {
	l.batches = append(l.batches, batch)
	if len(l.batches) == 1 {
		close(l.held)
		<-l.open
		l.fate()
	}
}

// come has an item served in a goroutine of its own, after those that have come before.
func (l *line) come(ctx context.Context, item int) (answer chan error) {
	answer = make(chan error, 1)
	go func() {
		defer func() {
			if p := recover(); p != nil {
				answer <- fmt.Errorf("panic: %v", p)
			}
		}()
		answer <- l.Do(ctx, item, l.serve)
	}()
	synctest.Wait()
	return answer
}

func TestQueue(t *testing.T) {
	for name, c := range map[string]struct {
		most, come int
		cancelled  []int
		want       [][]int
	}{
		"one":                 {10, 1, nil, [][]int{{0}}},
		"those who wait":      {10, 5, nil, [][]int{{0}, {1, 2, 3, 4}}},
		"more than the most":  {3, 9, nil, [][]int{{0}, {1, 2, 3}, {4, 5, 6}, {7, 8}}},
		"some do not wait":    {3, 7, []int{1, 4}, [][]int{{0}, {2, 3, 5}, {6}}},
		"the first cannot go": {3, 3, []int{0}, [][]int{{0}, {1, 2}}},
		"nobody waits":        {3, 3, []int{1, 2}, [][]int{{0}}},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newLine(c.most)
				var answers []chan error
				var cancels []context.CancelFunc
				for i := range c.come {
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					cancels = append(cancels, cancel)
					answers = append(answers, l.come(ctx, i))
				}
				for _, i := range c.cancelled {
					cancels[i]()
				}
				synctest.Wait()
				close(l.open)
				for i, answer := range answers {
					var want error
					if i > 0 && slices.Contains(c.cancelled, i) {
						want = context.Canceled
					}
					if err := <-answer; !errors.Is(err, want) {
						t.Errorf("item %d: %v, want %v", i, err, want)
					}
				}
				if d := cmp.Diff(c.want, l.batches); d != "" {
					t.Errorf("batches (-want +got):\n%s", d)
				}
			})
		})
	}
}

// TestQueueAlone: whoever has locked the queue is alone, and those who wait meanwhile are served together after that.
func TestQueueAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLine(10)
		close(l.open)
		if err := l.Lock(t.Context()); err != nil {
			t.Fatal(err)
		}
		a, b := l.come(t.Context(), 1), l.come(t.Context(), 2)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := l.Lock(ctx); !errors.Is(err, context.Canceled) {
			t.Errorf("Lock: %v", err)
		}
		if err := l.Do(ctx, 3, l.serve); !errors.Is(err, context.Canceled) || l.batches != nil {
			t.Errorf("Do: %v; served were %v", err, l.batches)
		}
		l.Unlock()
		if err := errors.Join(<-a, <-b); err != nil {
			t.Error(err)
		}
		if d := cmp.Diff([][]int{{1, 2}}, l.batches); d != "" {
			t.Errorf("batches (-want +got):\n%s", d)
		}
	})
}

// TestQueueAbandoned: whoever panics while others' items are served leaves them with an error, and those behind them with another
// leader.
func TestQueueAbandoned(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLine(2)
		if err := l.Lock(t.Context()); err != nil {
			t.Fatal(err)
		}
		l.fate = func() { panic("mine") }
		close(l.open)
		var answers []chan error
		for i := range 4 {
			answers = append(answers, l.come(t.Context(), i))
		}
		l.Unlock()
		abandoned, panicked := 0, 0
		for i, answer := range answers {
			switch err := <-answer; {
			case err == nil && i >= 2:
			case errors.Is(err, store.ErrAbandoned) && i < 2:
				abandoned++
			case err != nil && err.Error() == "panic: mine":
				panicked++
			default:
				t.Errorf("item %d: %v", i, err)
			}
		}
		if panicked != 1 || abandoned != 1 {
			t.Errorf("%d have panicked and %d are abandoned, want one of each", panicked, abandoned)
		}
	})
}
