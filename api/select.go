package api

import (
	"net/url"
	"slices"
	"strings"
)

// Selector says which objects of a kind are wanted: those that fulfil everything that it names. Its zero value is all.
// Lists and watches judge by it; docs/wcc.md says what site, host and state are of each kind.
type Selector struct {
	Owners []string    // any of these organisations
	Sites  []string    // any of these sites
	Hosts  []string    // any of these hosts, by their names
	States []string    // any of these states or phases; see States
	Labels []LabelTerm // all of these
	Name   string      // what the object's name begins with
}

// StateDeleting is the state of every object that is being deleted, beside that of its kind.
const StateDeleting = "deleting"

// States are the states by which objects of a kind can be selected.
func States(k Kind) []string {
	n, _ := NounOf(k) // what there is not has no state of its own
	return append(slices.Clone(n.States), StateDeleting)
}

// IsZero tells whether the selector takes everything.
func (s Selector) IsZero() bool {
	return s.Name == "" && len(s.Owners)+len(s.Sites)+len(s.Hosts)+len(s.States)+len(s.Labels) == 0
}

// Check judges the selector for a kind: CodeInvalid for a state that the kind does not have.
func (s Selector) Check(k Kind) error {
	for _, state := range s.States {
		if have := States(k); !slices.Contains(have, state) {
			return Invalidf("state", "%.40q is not a state of %s; possible: %s", state, k, strings.Join(have, ", "))
		}
	}
	return nil
}

// Matches judges an object.
func (s Selector) Matches(o Object) bool {
	m := o.Metadata()
	if !strings.HasPrefix(m.Name, s.Name) || len(s.Owners) > 0 && !slices.Contains(s.Owners, m.Owner) {
		return false
	}
	for _, t := range s.Labels {
		if !t.Matches(m.Labels) {
			return false
		}
	}
	if len(s.Sites)+len(s.Hosts)+len(s.States) == 0 {
		return true
	}
	f := facetsOf(o)
	return anyOf(s.Sites, f.sites) && anyOf(s.Hosts, f.hosts) && anyOf(s.States, f.states)
}

// anyOf tells whether one of those that are wanted is there; wanting none takes all.
func anyOf(wanted, have []string) bool {
	return len(wanted) == 0 || slices.ContainsFunc(wanted, func(w string) bool { return slices.Contains(have, w) })
}

// facets are what an object is selected by beside its Meta. Of what is at its home, sites is nil.
type facets struct{ sites, hosts, states []string }

// StatesOf are the states by which an object is selected now.
func StatesOf(o Object) []string { return facetsOf(o).states }

func facetsOf(o Object) (f facets) {
	if own, ok := o.(interface{ facets() facets }); ok {
		f = own.facets()
	}
	m := o.Metadata()
	if f.sites == nil && m.Home != "" {
		f.sites = []string{m.Home}
	}
	if m.Deleting {
		f.states = append(f.states, StateDeleting)
	}
	return f
}

// either is one of two states.
func either(first bool, a, b string) []string {
	if first {
		return []string{a}
	}
	return []string{b}
}

// SelectorOf reads a selector out of the parameters of a request: owner, site, host, state (each a name, or several with
// commas between them), label (see ParseLabelTerms; may be repeated) and name. CodeInvalid says which is wrong.
func SelectorOf(q url.Values) (s Selector, err error) {
	s = Selector{Owners: words(q, "owner"), Sites: words(q, "site"), Hosts: words(q, "host"), States: words(q, "state"), Name: q.Get("name")}
	var texts []string
	for _, text := range q["label"] {
		if text != "" {
			texts = append(texts, text)
		}
	}
	s.Labels, err = ParseLabelTerms(texts...)
	return s, err
}

// words reads a list of names; what is empty says nothing.
func words(q url.Values, key string) (l []string) {
	for _, text := range q[key] {
		for _, w := range strings.Split(text, ",") {
			if w = strings.TrimSpace(w); w != "" {
				l = append(l, w)
			}
		}
	}
	return l
}

// Query is the selector as the parameters of a request.
func (s Selector) Query() url.Values {
	q := url.Values{}
	add := func(key string, l []string) {
		if len(l) > 0 {
			q.Set(key, strings.Join(l, ","))
		}
	}
	add("owner", s.Owners)
	add("site", s.Sites)
	add("host", s.Hosts)
	add("state", s.States)
	var terms []string
	for _, t := range s.Labels {
		terms = append(terms, t.String())
	}
	add("label", terms)
	if s.Name != "" {
		q.Set("name", s.Name)
	}
	return q
}
