// Package fault has the statements about what goes wrong: processes that end,
// machines without power, links that are cut. They work with whatever has processes,
// power or links.
//
// Invariants:
//   - What a script has left killed, off or cut is put right by the stage's undo.
package fault

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"syscall"

	"widecloud/internal/lab/machine"
	"widecloud/internal/lab/script"
	"widecloud/internal/lab/stage"
)

// Topic is what goes wrong.
var Topic = script.Topic{
	Title: "Faults",
	Statements: []script.Entry{
		{
			Form: "kill MACHINE PROCESS [SIGNAL]", Part: script.Fails,
			Doc: "`kill SITE controller`, `kill SITE/HOST agent`, `map646` or `libvirtd`, `kill TRANSLATOR map646`, `kill SERVER web`, " +
				"`kill SITE/hosts agents` of simulated hosts, a process of a server of Debian's. The signal is KILL if not said; also TERM, HUP, STOP, CONT",
			Parse: parseKill,
		},
		{
			Form: "start MACHINE PROCESS", Part: script.Fails,
			Doc: "start it again; a service of systemd by `systemctl restart`",
			Parse: func(p *script.Parser) any {
				s := &Start{}
				s.Runner, s.Process = Process(p)
				return s
			},
		},
		{Form: "poweroff MACHINE", Part: script.Fails, Doc: "a power cut: processes, memory and addresses are gone, the disk stays", Parse: parsePower(false)},
		{Form: "poweron MACHINE", Part: script.Fails, Doc: "power again: what runs from the start is started", Parse: parsePower(true)},
		{
			Form: "cut THING [[->] THING]", Part: script.Fails,
			Doc: "the link between two things, silently; with `->` one way of it: what the first one sends is lost; or all links of one, also those " +
				"to the Internet",
			Parse: parseCut(true),
		},
		{Form: "heal THING [[->] THING]", Part: script.Fails, Doc: "the end of a cut, and of flapping", Parse: parseCut(false)},
	},
}

// Kill sends a signal to a process.
type Kill struct {
	Runner  stage.Runner
	Process string
	Signal  syscall.Signal
}

var signals = map[string]syscall.Signal{
	"KILL": syscall.SIGKILL, "TERM": syscall.SIGTERM, "HUP": syscall.SIGHUP, "STOP": syscall.SIGSTOP, "CONT": syscall.SIGCONT,
}

func parseKill(p *script.Parser) any {
	k := &Kill{Signal: syscall.SIGKILL}
	k.Runner, k.Process = Process(p)
	if p.More() {
		k.Signal = signals[p.OneOf("KILL", "TERM", "HUP", "STOP", "CONT")]
	}
	return k
}

// Process takes something that runs processes, and one of these.
func Process(p *script.Parser) (stage.Runner, string) {
	r := script.Ref[stage.Runner](p, "machine with processes")
	return r, p.OneOf(r.Processes()...)
}

// Do implements stage.Doer.
func (k *Kill) Do(_ context.Context, s *stage.Stage) error {
	n := k.Runner.RunsOn()
	s.Undo("start "+k.Process+" on "+n.Name(), func(context.Context) error { return revive(n, k.Process) })
	return n.Kill(k.Process, k.Signal)
}

// revive lets a process run that does not.
func revive(n *machine.Node, process string) error {
	p := n.Process(process)
	if p == nil {
		return nil // it was started by nobody since the machine was off
	}
	select {
	case <-p.Done():
		_, err := n.Restart(process)
		return err
	default:
		err := n.Kill(process, syscall.SIGCONT)
		if errors.Is(err, fs.ErrNotExist) {
			_, err = n.Restart(process)
		}
		return err
	}
}

// Start starts a process again.
type Start struct {
	Runner  stage.Runner
	Process string
}

// Do implements stage.Doer.
func (s *Start) Do(context.Context, *stage.Stage) error {
	_, err := s.Runner.RunsOn().Restart(s.Process)
	return err
}

// Power cuts a machine's power, or gives it back.
type Power struct {
	Machine stage.Machine
	On      bool
}

func parsePower(on bool) func(*script.Parser) any {
	return func(p *script.Parser) any { return &Power{Machine: powered(p), On: on} }
}

// powered takes something with power. Who names the whole is told its parts.
func powered(p *script.Parser) stage.Machine {
	w := p.Peek()
	whole := strings.TrimSuffix(w.Text, ",")
	if _, ok := script.Lookup[stage.Machine](p, whole); !ok {
		var parts []string
		for _, n := range script.Names[stage.Machine](p) {
			if strings.HasPrefix(n, whole+"/") {
				parts = append(parts, n)
			}
		}
		if len(parts) > 0 {
			p.Fail(w, "%s is several machines; known: %s", whole, strings.Join(parts, ", "))
		}
	}
	return script.Ref[stage.Machine](p, "machine")
}

// Do implements stage.Doer.
func (p *Power) Do(_ context.Context, s *stage.Stage) error {
	n := p.Machine.Node()
	if p.On {
		return n.PowerOn()
	}
	s.Undo("power on "+n.Name(), func(context.Context) error { return n.PowerOn() })
	return n.PowerOff()
}

// Cut cuts links, or heals them.
type Cut struct {
	Of   stage.Cuttable // all links of it; or
	Link stage.Link
	From any // whose sending; nil: both ways of the link
	Heal bool
}

func parseCut(cut bool) func(*script.Parser) any {
	return func(p *script.Parser) any {
		first := p.Peek()
		c := &Cut{Heal: !cut, Of: script.Ref[stage.Cuttable](p, "thing with links")}
		oneWay := p.Is("->")
		if !p.More() && !oneWay {
			return c
		}
		at := p.Peek()
		other := script.Ref[stage.Cuttable](p, "thing with links")
		links := script.Shared(p, func() *stage.Links { return &stage.Links{} }).All
		i := slices.IndexFunc(links, func(l stage.Link) bool { return l.Joins(c.Of, other) })
		switch {
		case any(other) == any(c.Of):
			p.Fail(at, "%s and itself", first.Text)
		case i < 0:
			p.Fail(at, "there is no link between %s and %s", first.Text, strings.TrimSuffix(at.Text, ","))
		}
		l := &Cut{Link: links[i], Heal: c.Heal}
		if oneWay {
			l.From = c.Of
		}
		return l
	}
}

// Do implements stage.Doer.
func (c *Cut) Do(_ context.Context, s *stage.Stage) error {
	if !c.Heal {
		heal := *c
		heal.Heal = true
		s.Undo("heal", func(ctx context.Context) error { return heal.Do(ctx, s) })
	}
	if c.Link != nil {
		c.Link.SetCut(c.From, !c.Heal)
		return nil
	}
	if err := c.Of.Cut(c.Heal); err != nil {
		return fmt.Errorf("cut: %w", err)
	}
	return nil
}
