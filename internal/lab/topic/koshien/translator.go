package koshien

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"syscall"
	"time"

	"widecloud/internal/lab/machine"
	"widecloud/internal/lab/script"
	"widecloud/internal/lab/stage"
	"widecloud/internal/lab/translator"
)

// node is a machine with map646.
type node struct {
	stage.Runner
	name string
}

func isTranslator(r stage.Runner) bool { return slices.Contains(r.Processes(), translator.Process) }

func parseTranslator(p *script.Parser) node {
	w := p.Peek()
	r := script.Ref[stage.Runner](p, "translator")
	if !isTranslator(r) {
		p.Fail(w, "%s has no %s", w.Text, translator.Process)
	}
	return node{r, w.Text}
}

// Scrape asks a translator for its metrics again and again.
type Scrape struct {
	of    node
	Every time.Duration
}

// scrapers are what runs on translators, by the translators' names.
type scrapers struct {
	mu  sync.Mutex
	all map[string]*scraper
}

type scraper struct {
	cmd *machine.Cmd

	mu               sync.Mutex
	answered, failed int
	lastErr          string
}

func parseScrape(p *script.Parser) any {
	s := &Scrape{of: parseTranslator(p)}
	p.OneOf("every")
	if s.Every = p.Duration(time.Minute); s.Every < time.Millisecond {
		p.Fail(p.Last(), "more often than every 1ms")
	}
	script.Shared(p, func() *scrapers { return &scrapers{all: map[string]*scraper{}} })
	return s
}

// Do implements stage.Doer.
func (s *Scrape) Do(ctx context.Context, st *stage.Stage) (err error) {
	all, _ := script.Has[*scrapers](st.Script)
	all.mu.Lock()
	defer all.mu.Unlock()
	if all.all[s.of.name] != nil {
		return fmt.Errorf("%s is scraped already", s.of.name)
	}
	c := &scraper{}
	spec := clientSpec{Scrape: "http://" + translator.Metrics + "/metrics", Every: s.Every}
	if c.cmd, err = spec.start(ctx, s.of.RunsOn(), &lines{take: c.take}); err != nil {
		return err
	}
	st.AtEnd(c.end)
	all.all[s.of.name] = c
	return nil
}

func (c *scraper) take(e event) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e.Err != "" {
		c.failed, c.lastErr = c.failed+1, e.Err
		return
	}
	c.answered++
}

func (c *scraper) end() {
	_ = c.cmd.Process.Signal(syscall.SIGTERM)
	_ = c.cmd.Wait()
}

// StopScrape ends it.
type StopScrape struct{ of node }

// Judge implements stage.Judge.
func (s *StopScrape) Judge(_ context.Context, st *stage.Stage) (string, error) {
	all, ok := script.Has[*scrapers](st.Script)
	if !ok || all.all[s.of.name] == nil {
		return "", fmt.Errorf("%s is not scraped", s.of.name)
	}
	all.mu.Lock()
	c := all.all[s.of.name]
	delete(all.all, s.of.name)
	all.mu.Unlock()
	c.end()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.failed > 0 || c.answered == 0 {
		return "", fmt.Errorf("%d scrapes were answered, %d not; last error: %s", c.answered, c.failed, c.lastErr)
	}
	return fmt.Sprintf("%d scrapes, all answered", c.answered), nil
}

// shares tells what part of all packets each translator has translated.
type shares struct {
	mu   sync.Mutex
	from map[stage.Runner]uint64 // what its counters were
}

func sharesOf(p *script.Parser) *shares {
	return script.Shared(p, func() *shares { return &shares{from: map[stage.Runner]uint64{}} })
}

// counted are the packets that each translator that runs has translated since it began.
func counted(ctx context.Context, s *stage.Stage) (map[stage.Runner]uint64, error) {
	now := map[stage.Runner]uint64{}
	for _, r := range script.Declared[stage.Runner](s.Script) {
		if !isTranslator(r) || !translator.Serves(r.RunsOn()) {
			continue
		}
		full, fast, err := translator.Translated(ctx, r.RunsOn())
		if err != nil {
			return nil, err
		}
		now[r] = full + fast
	}
	return now, nil
}

func (h *shares) reset(ctx context.Context, s *stage.Stage) (err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.from, err = counted(ctx, s)
	return err
}

// of is a translator's part, from 0 to 1.
func (h *shares) of(ctx context.Context, s *stage.Stage, r stage.Runner) (float64, error) {
	now, err := counted(ctx, s)
	if err != nil {
		return 0, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	var all, own uint64
	for x, n := range now {
		if from := h.from[x]; from <= n { // else it was started since
			n -= from
		}
		all += n
		if x == r {
			own = n
		}
	}
	if all == 0 {
		return 0, errors.New("nothing was translated")
	}
	return float64(own) / float64(all), nil
}

// Share is a translator's part of all packets, as a figure.
type Share struct {
	Name   string
	node   node
	shares *shares
}

func parseShare(p *script.Parser) any {
	h := &Share{Name: stage.NewFigure(p), shares: sharesOf(p)}
	p.OneOf("share")
	h.node = parseTranslator(p)
	return h
}

// Do implements stage.Doer.
func (h *Share) Do(ctx context.Context, s *stage.Stage) error {
	part, err := h.shares.of(ctx, s, h.node.Runner)
	if err != nil {
		return err
	}
	out := stage.Figure{Name: h.Name, Value: 100 * part, Unit: "%"}
	s.Figure(out)
	s.Out.Under("%s", out)
	return nil
}
