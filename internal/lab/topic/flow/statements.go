package flow

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"widecloud/internal/lab/script"
	"widecloud/internal/lab/stage"
)

// Topic is clients and what they see.
var Topic = script.Topic{
	Title: "Clients",
	Intro: "A CLIENT is a place: `inet4`, `inet6`, a site (its `user`), or a server. A TARGET is a VM, a server, `NAME.example` for a server " +
		"in the Internet, `inet4` or `inet6`, a site (its `user`), or an address.",
	Statements: []script.Entry{
		{
			Form: "traffic NAME CLIENT -> TARGET http every TIME", Part: script.Happens,
			Doc: "a client process at CLIENT fetches TARGET's page, each time by a new connection, without waiting for the one before. " +
				"No answer within 5 s is a request lost",
			Parse: parseHTTP,
		},
		{
			Form: "traffic NAME CLIENT -> TARGET download rate RATE", Part: script.Happens,
			Doc:   "one TCP connection; every byte is checked by its place. A broken connection loses what was due",
			Parse: parseDownload,
		},
		{Form: "measure TRAFFIC…", Part: script.Happens, Doc: "its figures begin anew; `all`: each that has not been stopped", Parse: parseMeasure},
		{
			Form: "stop traffic TRAFFIC", Part: script.Happens, Doc: "its client ends",
			Parse: func(p *script.Parser) any { return &Stop{ref(p)} },
		},
		{
			Form: "expect traffic TRAFFIC lost N [requests|bytes]", Part: script.Checks,
			Doc: "at most so many since `traffic` or `measure`. TRAFFIC may be `all`: each that has not been stopped", Parse: parseLost,
		},
		{
			Form: "expect traffic TRAFFIC gap under TIME", Part: script.Checks, Doc: "the longest time in which nothing came is shorter",
			Parse: func(p *script.Parser) any {
				f := flows(p)
				p.OneOf("gap")
				p.OneOf("under")
				return &Gap{f, p.Duration(time.Hour)}
			},
		},
		{
			Form: "expect traffic TRAFFIC alive [within TIME]", Part: script.Checks, Doc: "something new comes",
			Parse: func(p *script.Parser) any {
				f := flows(p)
				p.OneOf("alive")
				return &Alive{f, p.Within(10 * time.Second)}
			},
		},
		{Form: "figure FIGURE gap|lost TRAFFIC", Part: script.Checks, Doc: "the longest gap, or what was lost", Parse: parseFigure},
		{
			Form: `expect page TARGET from CLIENT [answers|silent|says "TEXT"] [within TIME]`, Part: script.Checks,
			Doc:   "a server's page says `server NAME` and `client ADDRESS`: whom it takes its client for",
			Parse: parsePage,
		},
		{
			Form: "expect traceroute from CLIENT to TARGET hops N [silent M] [by udp|icmp|tcp] [through ADDRESS]… [within TIME]", Part: script.Checks,
			Doc:   "Debian's traceroute: all hops but M answer, the last is the target, and the addresses are among them",
			Parse: parseTraceroute,
		},
		{
			Form: "expect pmtu from CLIENT to TARGET is N", Part: script.Checks,
			Doc:   "Debian's tracepath finds N; a ping of N bytes is answered, the kernel refuses to send one of N + 1",
			Parse: parsePMTU,
		},
	},
}

// Traffic is a client that asks a target again and again.
type Traffic struct {
	Name  string
	From  stage.Client
	Host  string        // what it asks
	Every time.Duration // http
	Rate  int64         // download: bytes a second

	flow *Flow // nil before it runs
}

func (t *Traffic) unit() string {
	if t.Rate > 0 {
		return "bytes"
	}
	return "requests"
}

func parseTraffic(p *script.Parser) *Traffic {
	t := &Traffic{Name: p.NewName("traffic")}
	t.From = stage.From(p)
	p.OneOf("->")
	_, t.Host = stage.To(p, t.From)
	return t
}

func parseHTTP(p *script.Parser) any {
	t := parseTraffic(p)
	p.OneOf("http")
	p.OneOf("every")
	if t.Every = p.Duration(time.Minute); t.Every < 5*time.Millisecond {
		p.Fail(p.Last(), "more often than every 5ms")
	}
	p.Declare(t.Name, t)
	return t
}

func parseDownload(p *script.Parser) any {
	t := parseTraffic(p)
	p.OneOf("download")
	p.OneOf("rate")
	t.Rate = p.Quantity("rate in bytes a second", 1e9)
	p.Declare(t.Name, t)
	return t
}

// beginTime is how long the first answer may take.
const beginTime = 20 * time.Second

// Do implements stage.Doer: it begins.
func (t *Traffic) Do(ctx context.Context, s *stage.Stage) (err error) {
	if t.flow, err = StartFlow(ctx, t.From.ClientNode(), t, t.Host); err != nil {
		return err
	}
	s.AtEnd(t.flow.Stop)
	alive, cancel := context.WithTimeout(ctx, beginTime)
	defer cancel()
	if err := t.flow.Alive(alive); err != nil {
		return fmt.Errorf("the traffic does not begin: %w", err)
	}
	t.flow.Reset() // what was lost before the service was there is not the script's matter
	return nil
}

func ref(p *script.Parser) *Traffic { return script.Ref[*Traffic](p, "traffic") }

// group is one traffic, or all that have not been stopped.
type group struct {
	all bool
	of  []*Traffic // of all: those of the whole script
}

// flows takes a traffic's name, or all.
func flows(p *script.Parser) group {
	if known := script.Earlier[*Traffic](p); len(known) > 0 && p.Is("all") {
		return group{all: true, of: known}
	}
	return group{of: []*Traffic{ref(p)}}
}

// running are the traffics that a statement is about now.
func (g group) running() (l []*Traffic) {
	for _, t := range g.of {
		if !g.all || t.flow != nil && !t.flow.ended() {
			l = append(l, t)
		}
	}
	return l
}

// Measure lets the figures of traffic begin anew.
type Measure struct{ groups []group }

func parseMeasure(p *script.Parser) any {
	m := &Measure{[]group{flows(p)}}
	for p.More() {
		m.groups = append(m.groups, flows(p))
	}
	return m
}

// Do implements stage.Doer.
func (m *Measure) Do(context.Context, *stage.Stage) error {
	for _, g := range m.groups {
		for _, t := range g.running() {
			t.flow.Reset()
		}
	}
	return nil
}

// Stop ends a traffic.
type Stop struct{ Traffic *Traffic }

// Do implements stage.Doer.
func (s *Stop) Do(context.Context, *stage.Stage) error {
	s.Traffic.flow.Stop()
	return nil
}

// judge asks each of the group's traffics, and sums up.
func (g group) judge(one func(*Traffic) (string, Count, error)) (string, error) {
	running := g.running()
	if len(running) == 0 {
		return "", errors.New("no traffic runs")
	}
	var (
		errs []error
		line string
		sum  Count
	)
	for _, t := range running {
		text, c, err := one(t)
		if err != nil && g.all {
			err = fmt.Errorf("%s: %w", t.Name, err)
		}
		errs, line = append(errs, err), text
		sum.Lost += c.Lost
		sum.Gap = max(sum.Gap, c.Gap)
	}
	switch err := errors.Join(errs...); {
	case err != nil:
		return "", errors.New(strings.ReplaceAll(err.Error(), "\n", "; "))
	case len(running) == 1:
		return line, nil
	}
	return fmt.Sprintf("all %d: %d lost, longest gap %v", len(running), sum.Lost, sum.Gap.Round(time.Millisecond)), nil
}

// settled is a traffic's count once all that it has asked for is answered or lost.
func settled(ctx context.Context, t *Traffic) (Count, error) {
	c := t.flow.Settle(ctx)
	if c.Done == 0 {
		return c, fmt.Errorf("nothing came at all (last error: %s)", t.flow.why())
	}
	return c, nil
}

// Lost expects that no more than so much was lost.
type Lost struct {
	group
	Limit int64
}

func parseLost(p *script.Parser) any {
	l := &Lost{group: flows(p)}
	p.OneOf("lost")
	l.Limit = int64(p.Number("number", 0, 1<<30))
	if p.More() {
		at := p.Peek()
		name, unit := "all", "requests and bytes"
		if !l.all {
			name, unit = l.of[0].Name, l.of[0].unit()
		}
		if said := p.OneOf("requests", "bytes"); said != unit {
			p.Fail(at, "traffic %s is counted in %s", name, unit)
		}
	}
	return l
}

// Judge implements stage.Judge.
func (l *Lost) Judge(ctx context.Context, _ *stage.Stage) (string, error) {
	return l.judge(func(t *Traffic) (string, Count, error) {
		c, err := settled(ctx, t)
		gap := c.Gap.Round(time.Millisecond)
		if err == nil && c.Lost > l.Limit {
			err = fmt.Errorf("%d %s lost, %d came; longest gap %v; last error: %s", c.Lost, t.unit(), c.Done, gap, t.flow.why())
		}
		return fmt.Sprintf("%d lost, %d %s came; longest gap %v", c.Lost, c.Done, t.unit(), gap), c, err
	})
}

// Gap expects that something came all the time.
type Gap struct {
	group
	Under time.Duration
}

// Judge implements stage.Judge.
func (g *Gap) Judge(ctx context.Context, _ *stage.Stage) (string, error) {
	return g.judge(func(t *Traffic) (string, Count, error) {
		c, err := settled(ctx, t)
		line := fmt.Sprintf("longest gap %v", c.Gap.Round(time.Millisecond))
		if err == nil && c.Gap >= g.Under {
			err = errors.New(line)
		}
		return line, c, err
	})
}

// Alive expects that something new comes.
type Alive struct {
	group
	Within time.Duration
}

// Judge implements stage.Judge.
func (a *Alive) Judge(ctx context.Context, _ *stage.Stage) (string, error) {
	begun := time.Now()
	_, err := a.judge(func(t *Traffic) (string, Count, error) {
		ctx, cancel := context.WithTimeout(ctx, a.Within)
		defer cancel()
		return "", Count{}, t.flow.Alive(ctx)
	})
	return fmt.Sprintf("after %.1f s", time.Since(begun).Seconds()), err
}

// Figure is a traffic's longest gap, or what it has lost.
type Figure struct {
	Name, What string
	Of         *Traffic
}

func parseFigure(p *script.Parser) any {
	f := &Figure{Name: stage.NewFigure(p)}
	f.What = p.OneOf("gap", "lost")
	f.Of = ref(p)
	return f
}

// Do implements stage.Doer.
func (f *Figure) Do(ctx context.Context, s *stage.Stage) error {
	c := f.Of.flow.Settle(ctx)
	out := stage.Figure{Name: f.Name, Value: float64(c.Gap) / 1e6, Unit: "ms"}
	if f.What == "lost" {
		out = stage.Figure{Name: f.Name, Value: float64(c.Lost), Unit: f.Of.unit()}
	}
	s.Figure(out)
	s.Out.Under("%s", out)
	return nil
}

// Page expects that a target answers, or that it does not.
type Page struct {
	Target string
	From   stage.Client
	Host   string
	Silent bool
	Says   string
	Within time.Duration
}

func parsePage(p *script.Parser) any {
	// The place is needed to judge the target, and comes after it.
	e := &Page{}
	after := p.Ahead(func() {
		p.Next("target or address")
		p.OneOf("from")
		e.From = stage.From(p)
	})
	e.Target, e.Host = stage.To(p, e.From)
	after()
	if p.Is("says") {
		e.Says = p.Quoted()
	} else {
		e.Silent = p.OneOfOptional("answers", "silent") == "silent"
	}
	e.Within = p.Within(20 * time.Second)
	return e
}

// pageTime is how long one request may take.
const pageTime = 3 * time.Second

// Judge implements stage.Judge.
func (e *Page) Judge(ctx context.Context, _ *stage.Stage) (string, error) {
	get := func(ctx context.Context) (string, error) {
		ctx, cancel := context.WithTimeout(ctx, pageTime)
		defer cancel()
		return Request(ctx, e.From.ClientNode(), http.MethodGet, stage.URL(e.Host)+"/")
	}
	start := time.Now()
	if e.Silent {
		err := stage.Until(ctx, e.Within, func(ctx context.Context) error {
			page, err := get(ctx)
			if err == nil {
				return fmt.Errorf("it answers: %s", firstLine(page))
			}
			return nil
		})
		return "no answer", err
	}
	var page string
	err := stage.Until(ctx, e.Within, func(ctx context.Context) (err error) {
		if page, err = get(ctx); err == nil && !strings.Contains(page, e.Says) {
			err = fmt.Errorf("%s says %q", e.Host, firstLine(page))
		}
		return err
	})
	return fmt.Sprintf("%s answers %q after %.1f s", e.Host, firstLine(page), time.Since(start).Seconds()), err
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}
