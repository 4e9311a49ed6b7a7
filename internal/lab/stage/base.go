package stage

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"widecloud/internal/lab/script"
)

// baseTime is how long what was deleted may take to be gone everywhere.
const baseTime = 30 * time.Second

// Adopter is a builder whose part can be one that is up already, of another script.
type Adopter interface {
	// Adopt takes the machines of a base, which is up, for a script on a stage. The
	// error says what the base lacks of what the script declares.
	Adopt(ctx context.Context, s *Stage, base *script.Script) error
}

// Lister lists what there is, for the check that a script has left nothing on its base
// and has taken nothing from it.
type Lister interface {
	List(context.Context) ([]string, error)
}

// On makes a stage for a script on the machines of a base. The base must have at least
// what the script declares.
func (s *Stage) On(ctx context.Context, o Options) (*Stage, error) {
	o.Lab, o.Bin, o.LogDir, o.Log = s.Lab, s.Bin, s.LogDir, s.Log
	st := New(o)
	for _, b := range script.SharedAll[Builder](o.Script) {
		a, ok := b.(Adopter)
		if !ok {
			return st, fmt.Errorf("%s declares machines that cannot be shared with others", o.Script.File)
		}
		if err := a.Adopt(ctx, st, s.Script); err != nil {
			return st, fmt.Errorf("%s on %s: %w", o.Script.File, s.Script.File, err)
		}
	}
	return st, nil
}

// List is what there is on the stage's machines, sorted.
func (s *Stage) List(ctx context.Context) ([]string, error) {
	var all []string
	for _, l := range script.SharedAll[Lister](s.Script) {
		items, err := l.List(ctx)
		if err != nil {
			return nil, err
		}
		all = append(all, items...)
	}
	slices.Sort(all)
	return all, nil
}

// CheckBase is a check: the base is as it was before the script.
func (s *Stage) CheckBase(ctx context.Context, base *Stage, before []string) {
	c := Check{Pos: s.Begun(), Text: "the base is as it was", OK: true, Detail: fmt.Sprintf("%d objects, devices, processes and files, as before", len(before))}
	err := s.UndoAll(ctx)
	if err == nil {
		err = Until(ctx, baseTime, func(ctx context.Context) error {
			after, err := base.List(ctx)
			if err == nil && !slices.Equal(before, after) {
				err = errors.Join(differ("left behind", after, before), differ("missing", before, after))
			}
			return err
		})
	}
	if err != nil {
		c.OK, c.Detail = false, Describe(err)
	}
	s.Check(c)
}

// differ names what a has and b has not.
func differ(what string, a, b []string) error {
	l := slices.DeleteFunc(slices.Clone(a), func(x string) bool { return slices.Contains(b, x) })
	if len(l) == 0 {
		return nil
	}
	return fmt.Errorf("%s: %v", what, l)
}
