package siit

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"widecloud/internal/lab/machine"
	"widecloud/internal/lab/stage"
	"widecloud/internal/lab/translator"
)

// Do implements stage.Doer: it maps addresses on all translators that run, and in the
// mappings files of all.
func (m *Map) Do(ctx context.Context, _ *stage.Stage) error {
	d := m.centre
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, a := range m.Service {
		args := []string{"remove", a.String()}
		if m.Server == nil {
			delete(d.table, a)
		} else {
			verb := "add"
			if d.table[a].IsValid() {
				verb = "replace"
			}
			d.table[a] = m.Server.addr()
			args = []string{verb, a.String(), d.table[a].String()}
		}
		for _, t := range d.Translators {
			if !translator.Serves(t.node) {
				continue
			}
			if _, err := translator.Run(ctx, t.node, args); err != nil {
				return err
			}
		}
	}
	return d.writeTable("")
}

// writeTable writes the mappings files of all translators.
func (d *Centre) writeTable(more string) error {
	var errs []error
	for _, t := range d.Translators {
		errs = append(errs, translator.WriteTable(t.node, d.lines(more)))
	}
	return errors.Join(errs...)
}

// churn changes the tables of all translators again and again.
type churn struct {
	cancel context.CancelFunc
	done   sync.WaitGroup
	once   sync.Once

	// Of the goroutine, until it is done.
	changes int
	errs    []error
}

// churned are two addresses that are mapped to nobody, for changes.
func (d *Centre) churned() [2]netip.Addr {
	four, six := d.services.V4.Addr().As4(), d.services.V6.Addr().As16()
	four[3], six[15] = 200, 200
	return [2]netip.Addr{netip.AddrFrom4(four), netip.AddrFrom16(six)}
}

// startChurn begins: "table" adds, replaces and removes two mappings of nobody's
// by map646's commands, "reload" has map646 read a file that has changed.
func startChurn(s *Churn) *churn {
	ctx, cancel := context.WithCancel(context.Background())
	c := &churn{cancel: cancel}
	c.done.Go(func() {
		tick := time.NewTicker(s.Every)
		defer tick.Stop()
		for i := 0; ; i++ {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			for _, t := range s.centre.Translators {
				if err := c.change(ctx, s.centre, t.node, s.What, i); err != nil && ctx.Err() == nil {
					c.errs = append(c.errs, fmt.Errorf("%s: %w", t.Name, err))
				} else if ctx.Err() == nil {
					c.changes++
				}
			}
		}
	})
	return c
}

func (c *churn) change(ctx context.Context, d *Centre, n *machine.Node, what string, i int) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	inside, churned := numbered(churnInside, uint32(i+1)), d.churned()
	if what == "reload" {
		// Beside what is mapped: two mappings that come, change and go.
		more := ""
		if i%3 < 2 {
			more = string(translator.Lines(map[netip.Addr]netip.Addr{churned[0]: inside, churned[1]: inside}))
		}
		if err := translator.WriteTable(n, d.lines(more)); err != nil {
			return err
		}
		_, err := translator.Run(ctx, n, []string{"reload"})
		return err
	}
	for _, a := range churned {
		args := [][]string{{"add", a.String(), inside.String()}, {"replace", a.String(), inside.String()}, {"remove", a.String()}}[i%3]
		if _, err := translator.Run(ctx, n, args); err != nil {
			return err
		}
	}
	return nil
}

func (c *churn) stop() {
	c.once.Do(func() {
		c.cancel()
		c.done.Wait()
	})
}

// Judge implements stage.Judge: there were changes, all went well, and what they left
// can be cleared away.
func (s *StopChurn) Judge(ctx context.Context, _ *stage.Stage) (string, error) {
	d := s.centre
	c := d.churn
	c.stop()
	err := d.writeTable("")
	for _, t := range d.Translators {
		if translator.Serves(t.node) {
			_, e := translator.Run(ctx, t.node, []string{"reload"})
			err = errors.Join(err, e)
		}
	}
	if c.changes == 0 || len(c.errs) > 0 || err != nil {
		return "", fmt.Errorf("%d changes went well, %d failed: %w", c.changes, len(c.errs), errors.Join(append(c.errs[:min(3, len(c.errs))], err)...))
	}
	return fmt.Sprintf("%d changes, none failed", c.changes), nil
}

// idleFor is how long a translator must have had nothing to do to be idle.
const idleFor = time.Second

// Judge implements stage.Judge: whether a translator translates at all, and on which
// path.
func (e *Busy) Judge(ctx context.Context, _ *stage.Stage) (detail string, err error) {
	n := e.Translator.node
	err = stage.Until(ctx, e.Within, func(ctx context.Context) error {
		full0, fast0, err := translator.Translated(ctx, n)
		if err != nil {
			return err
		}
		select {
		case <-ctx.Done():
		case <-time.After(idleFor):
		}
		full, fast, err := translator.Translated(ctx, n)
		if err != nil {
			return err
		}
		full, fast = full-full0, fast-fast0
		detail = fmt.Sprintf("%d packets on the fast path, %d on the full one in %v", fast, full, idleFor)
		ok := map[string]bool{"": full+fast > 0, "fast": fast > full, "full": full > fast}[e.Path]
		if e.Idle {
			ok = full+fast == 0
		}
		if !ok {
			return errors.New(detail)
		}
		return nil
	})
	return detail, err
}
