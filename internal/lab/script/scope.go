package script

import (
	"slices"
	"strings"
)

// scope is what a script has declared so far.
type scope struct {
	named  map[string]any
	order  []string // names in the order of their declaration
	shared []any
}

// Declare gives a thing a name. A thing may have several names; a name once taken
// is refused by NewName.
func (p *Parser) Declare(name string, thing any) {
	s := p.script.scope
	if _, ok := s.named[name]; !ok {
		s.order = append(s.order, name)
	}
	s.named[name] = thing
}

// Explainer is a thing that says why it is not what one may take it for.
type Explainer interface{ Explain() string }

// Ref takes the name of a declared thing that is a T; what says what it is, for the
// fault.
func Ref[T any](p *Parser, what string) T {
	w := p.Next(what)
	text := trim(w.Text)
	if !w.Quoted {
		if t, ok := Lookup[T](p, text); ok {
			return t
		}
	}
	if e, ok := Lookup[Explainer](p, text); ok && !w.Quoted {
		p.Fail(w, "%s is no %s: %s", text, what, e.Explain())
	}
	// A part of something known: only its parts are of help.
	if whole, part, ok := strings.Cut(text, "/"); ok && slices.ContainsFunc(Names[T](p), func(n string) bool { return strings.HasPrefix(n, whole+"/") }) {
		var parts []string
		for _, n := range Names[T](p) {
			if rest, ok := strings.CutPrefix(n, whole+"/"); ok {
				parts = append(parts, rest)
			}
		}
		p.Fail(w, "unknown %s %q of %s; known: %s", what, part, whole, List(parts))
	}
	p.Fail(w, "unknown %s %q; known: %s", what, text, List(Names[T](p)))
	panic("not reached")
}

// List joins names for a message.
func List(names []string) string {
	if len(names) == 0 {
		return "none so far"
	}
	return strings.Join(names, ", ")
}

// Lookup finds a declared thing that is a T.
func Lookup[T any](p *Parser, name string) (T, bool) {
	t, ok := p.script.scope.named[name].(T)
	return t, ok
}

// Names are those of the declared things that are a T, sorted.
func Names[T any](p *Parser) (l []string) {
	for _, name := range p.script.scope.order {
		if _, ok := p.script.scope.named[name].(T); ok {
			l = append(l, name)
		}
	}
	slices.Sort(l)
	return l
}

// Declared are the things of a script that are a T, in the order of their
// declaration, each once.
func Declared[T comparable](s *Script) (l []T) {
	for _, name := range s.scope.order {
		if t, ok := s.scope.named[name].(T); ok && !slices.Contains(l, t) {
			l = append(l, t)
		}
	}
	return l
}

// Earlier are the things that have been declared before this line, as Declared has
// them.
func Earlier[T comparable](p *Parser) []T { return Declared[T](p.script) }

// Shared is the one T of the script, made when it is first asked for.
func Shared[T any](p *Parser, make func() T) T { return sharedOf(p.script.scope, make) }

func sharedOf[T any](s *scope, make func() T) T {
	for _, v := range s.shared {
		if t, ok := v.(T); ok {
			return t
		}
	}
	t := make()
	s.shared = append(s.shared, t)
	return t
}

// Has tells whether a script has its one T, and returns it.
func Has[T any](s *Script) (t T, ok bool) {
	for _, v := range s.scope.shared {
		if t, ok = v.(T); ok {
			return t, true
		}
	}
	return t, false
}

// SharedAll are all things of the script that were made by Shared and are a T, in
// the order of their making.
func SharedAll[T any](s *Script) (l []T) {
	for _, v := range s.scope.shared {
		if t, ok := v.(T); ok {
			l = append(l, t)
		}
	}
	return l
}

// Script is what has been understood so far.
func (p *Parser) Script() *Script { return p.script }
