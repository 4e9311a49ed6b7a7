package saga

import (
	"fmt"
	"slices"

	"widecloud/api"
)

// Step is a place in a job's journal: what its newest row says has been reached.
type Step string

// Stage says what an error, or a user's cancel, may still do at a step.
type Stage int

// The stages, in the order in which a job goes through them. A job that fails goes from Open to Undoing to Failed.
const (
	Open    Stage = iota // an error, and a cancel, lead back
	Decided              // the way is forward only: the step is repeated until it succeeds
	Done                 // ended: what was asked for is done
	Undoing              // the way back: the step is repeated until it succeeds
	Failed               // ended: everything is as it was
)

// Ended tells whether a job at this stage is over.
func (s Stage) Ended() bool { return s == Done || s == Failed }

// Point is a step of a plan.
type Point struct {
	Step  Step
	Stage Stage
	Doing string // what is done from here on, for messages: "reserve", "copy"
	Next  []Step // which may follow
	Back  Step   // Open: the one of Next where an error leads: an Undoing or a Failed one
	// Lost, if not empty, says that the work of the step dies with the process that does it. A job that is found here in
	// the journal goes back, with this text as its reason.
	Lost string
	// Wait: the step's work is done when all children of the job have ended.
	Wait bool
}

// Plan is the law of a kind of job. A job begins at the first of its points.
type Plan struct {
	Name   string // the kind, as in api.JobSpec.Type: "migrate"
	Points []Point
	Parent bool // its jobs may have children
}

// First is the step at which a job begins.
func (p Plan) First() Step { return p.Points[0].Step }

// At is the point of a step; false when the plan has none.
func (p Plan) At(s Step) (Point, bool) {
	i := slices.IndexFunc(p.Points, func(at Point) bool { return at.Step == s })
	if i < 0 {
		return Point{}, false
	}
	return p.Points[i], true
}

// Follows tells whether the journal may go from a step to another: nil, or api.CodeConflict.
func (p Plan) Follows(from, to Step) error {
	at, known := p.At(from)
	if !known {
		return api.Errorf(api.CodeConflict, "the job is at %q, which is not a step of kind %s", string(from), p.Name)
	}
	if !slices.Contains(at.Next, to) {
		return api.Errorf(api.CodeConflict, "a job of kind %s cannot go from %s to %q", p.Name, from, string(to))
	}
	return nil
}

// Ended tells whether a step is a last one.
func (p Plan) Ended(s Step) bool {
	at, known := p.At(s)
	return known && at.Stage.Ended()
}

// Decided tells whether a job at a step is past its decision, and has not gone back from there.
func (p Plan) Decided(s Step) bool {
	at, known := p.At(s)
	return known && (at.Stage == Decided || at.Stage == Done)
}

// Decides tells whether going from a step to another is the decision. The journal refuses it, with ErrCancelled, when the
// job's end was asked for.
func (p Plan) Decides(from, to Step) bool { return p.Cancellable(from) && p.Decided(to) }

// Cancellable tells whether a user's cancel can still be followed at a step.
func (p Plan) Cancellable(s Step) bool {
	at, known := p.At(s)
	return known && at.Stage == Open
}

// Doing says what is done from a step on, for messages.
func (p Plan) Doing(s Step) string {
	if at, _ := p.At(s); at.Doing != "" {
		return at.Doing
	}
	return string(s)
}

// Check tells what is wrong with a plan; nil: a job that follows it ends, and is never undone past its decision unless the
// plan lists that way. It is for the tests of kinds.
func (p Plan) Check() error {
	if p.Name == "" || len(p.Points) == 0 {
		return fmt.Errorf("plan %q: it needs a name and points", p.Name)
	}
	for i, at := range p.Points {
		if other := slices.IndexFunc(p.Points, func(o Point) bool { return o.Step == at.Step }); other != i || at.Step == "" {
			return fmt.Errorf("plan %s: point %d: step %q is empty or there twice", p.Name, i, at.Step)
		}
		if err := p.checkPoint(at); err != nil {
			return fmt.Errorf("plan %s: step %s: %w", p.Name, at.Step, err)
		}
	}
	return p.checkCircles(p.First(), nil)
}

func (p Plan) checkPoint(at Point) error {
	if at.Stage.Ended() != (len(at.Next) == 0) {
		return fmt.Errorf("a step has no next one exactly if it is a last one; it has %v", at.Next)
	}
	if (at.Stage == Open) != (at.Back != "") {
		return fmt.Errorf("an error leads back from Open steps, and from no others; Back is %q", at.Back)
	}
	if at.Back != "" && !slices.Contains(at.Next, at.Back) {
		return fmt.Errorf("the step that an error leads back to is %q, which is not one of Next", at.Back)
	}
	if at.Lost != "" && at.Stage != Open {
		return fmt.Errorf("only the work of an Open step can be lost: no way leads back from others")
	}
	if at.Wait && !p.Parent {
		return fmt.Errorf("it waits for children, and the plan is not a parent's")
	}
	for _, s := range at.Next {
		to, known := p.At(s)
		if !known {
			return fmt.Errorf("next is %q, which is not in the plan", s)
		}
		back := to.Stage == Undoing || to.Stage == Failed
		switch {
		case s == at.Back && !back:
			return fmt.Errorf("an error leads to %s, which does not lead back", s)
		case at.Stage == Decided && (to.Stage == Open || to.Stage == Failed), at.Stage == Undoing && !back:
			return fmt.Errorf("%s cannot follow: its stage is behind", s)
		}
	}
	return nil
}

func (p Plan) checkCircles(s Step, way []Step) error {
	if slices.Contains(way, s) {
		return fmt.Errorf("plan %s: it goes round in circles: %v, %s", p.Name, way, s)
	}
	at, _ := p.At(s)
	for _, next := range at.Next {
		if err := p.checkCircles(next, append(slices.Clone(way), s)); err != nil {
			return err
		}
	}
	return nil
}
