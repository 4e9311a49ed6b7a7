// Package story has the statements about the script itself: what it says, how long
// it waits, and how long it may take.
//
// Invariants:
//   - A budget that is exceeded by half is a failed check, made at the script's end;
//     beside other scripts, one that is exceeded by as much again.
package story

import (
	"context"
	"time"

	"widecloud/internal/lab/script"
	"widecloud/internal/lab/stage"
)

// Topic is the script itself.
var Topic = script.Topic{
	Title: "The script",
	Begin: stage.Begin,
	// Names of machines and their devices.
	Reserved: []string{"inet", "internet", "dc", "names", "client4", "client6", "all", "controller"},
	Statements: []script.Entry{
		{
			Form: "internet", Part: script.Declares,
			Doc:   "nothing: the Internet is always there, with a client of IPv4 only, `inet4`, and one of IPv6 only, `inet6`",
			Parse: func(*script.Parser) any { return nil },
		},
		{
			Form: "budget TIME", Part: script.Declares,
			Doc:   "how long the script may take on two cores that do nothing else. Half as much again is a failed check, or beside other scripts twice as much",
			Parse: parseBudget,
		},
		{
			Form: "base FILE", Part: script.Declares,
			Doc: "the script can be played on the machines that FILE declares, which is beside it: of several scripts those with one base share its " +
				"machines ([below](#several-scripts)). Alone it has machines of its own",
			Parse: func(p *script.Parser) any {
				s := stage.SettingOf(p)
				if s.Base != "" {
					p.Fail(p.First(), "the script has a base already: %s", s.Base)
				}
				s.Base = p.Next("file").Text
				return nil
			},
		},
		{
			Form: "alone", Part: script.Declares,
			Doc:   "of several scripts no other may run beside this one",
			Parse: func(p *script.Parser) any { stage.SettingOf(p).Alone = true; return nil },
		},
		{
			Form: `say "TEXT"`, Part: script.Happens, Quiet: true,
			Doc:   "a heading in the output",
			Parse: func(p *script.Parser) any { return say(p.Quoted()) },
		},
		{
			Form: "sleep TIME", Part: script.Happens,
			Doc:   "nothing happens for a while",
			Parse: func(p *script.Parser) any { return sleep(p.Duration(10 * time.Minute)) },
		},
		{
			Form: "figure FIGURE elapsed", Part: script.Checks,
			Doc:   "the whole run's time. All figures are printed as `figure NAME VALUE UNIT` or `ratio NAME VALUE` at the end",
			Parse: parseElapsed,
		},
	},
}

type say string

// Do implements stage.Doer.
func (s say) Do(_ context.Context, st *stage.Stage) error {
	st.Out.Say(string(s))
	return nil
}

type sleep time.Duration

// Do implements stage.Doer.
func (s sleep) Do(ctx context.Context, _ *stage.Stage) error {
	select {
	case <-ctx.Done():
	case <-time.After(time.Duration(s)):
	}
	return nil
}

func parseBudget(p *script.Parser) any {
	b := script.Shared(p, func() *stage.Budget { return &stage.Budget{} })
	if b.Time > 0 {
		p.Fail(p.First(), "the script has a budget already: %v", b.Time)
	}
	b.Time = p.Duration(time.Hour)
	return nil
}

type elapsed string

func parseElapsed(p *script.Parser) any {
	e := elapsed(stage.NewFigure(p))
	p.OneOf("elapsed")
	return e
}

// Do implements stage.Doer.
func (e elapsed) Do(_ context.Context, st *stage.Stage) error {
	st.Later(func() stage.Figure {
		return stage.Figure{Name: string(e), Value: st.Out.Elapsed().Seconds(), Unit: "s"}
	})
	return nil
}
