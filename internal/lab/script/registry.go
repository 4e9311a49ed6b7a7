package script

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"
)

// Part is where a statement stands in the reference.
type Part int

// The parts of the reference, in their order.
const (
	Declares Part = iota // what there is
	Happens              // what happens
	Fails                // what goes wrong
	Checks               // what is checked
)

var partTitles = []string{"What there is", "What happens", "What goes wrong", "What is checked"}

func (p Part) String() string { return partTitles[p] }

// Entry is one statement of the language.
type Entry struct {
	// Form is how it is written. Its first words tell it apart: in lower case as they
	// stand, with | between alternatives; in upper case any word.
	Form string
	Part Part
	// Builds says that it declares machines, which there are before the script begins.
	Builds bool
	// Doc says what it does, in Markdown, for the reference.
	Doc string
	// Quiet says that the statement speaks for itself: it is not shown when it is done.
	Quiet bool
	// Parse takes what follows the first words that stand as they are. What it
	// returns is the statement's Do.
	Parse func(*Parser) any
}

// Word is the first word of the statement.
func (e *Entry) Word() string { return strings.Fields(e.Form)[0] }

// selector are the words that tell the entry apart: for each place its
// alternatives, none for any word. It ends before what is optional.
func (e *Entry) selector() (s [][]string) {
	for _, w := range strings.Fields(e.Form) {
		if strings.ContainsAny(w, "[…\"") {
			break
		}
		if strings.ToLower(w) != w {
			s = append(s, nil)
			continue
		}
		s = append(s, strings.Split(w, "|"))
	}
	return s
}

// Topic is a group of statements about one thing, with a heading and an
// introduction for the reference.
type Topic struct {
	Title, Intro string
	Statements   []Entry
	// Begin, if set, declares what every script has without saying so.
	Begin func(*Parser)
	// Reserved are words that no thing of a script may be called.
	Reserved []string
}

// Registry is the language: all statements of all topics.
type Registry struct {
	topics   []Topic
	words    map[string][]*Entry // by first word
	kinds    map[string]bool     // what statements of the form `kind NAME …` declare
	reserved map[string][]string // by the word of a form that stands for a name: what it may not be called; "": nothing may
}

// NewRegistry makes the language of some topics. It panics if an entry is not
// complete, or two fit the same line: that is a fault of the program, which no
// script can cause.
func NewRegistry(topics ...Topic) *Registry {
	r := &Registry{topics: topics, words: map[string][]*Entry{}, kinds: map[string]bool{}, reserved: map[string][]string{}}
	for _, t := range topics {
		for i := range t.Statements {
			e := &t.Statements[i]
			if e.Form == "" || e.Doc == "" || e.Parse == nil {
				panic(fmt.Sprintf("statement %q of topic %q lacks its form, its documentation or its parser", e.Form, t.Title))
			}
			for _, other := range r.words[e.Word()] {
				if clash(e.selector(), other.selector()) {
					panic(fmt.Sprintf("statements %q and %q fit the same lines", e.Form, other.Form))
				}
			}
			r.words[e.Word()] = append(r.words[e.Word()], e)
			if f := strings.Fields(e.Form); len(f) > 1 && f[1] == "NAME" {
				r.kinds[strings.ToUpper(f[0])] = true
			}
		}
	}
	for _, t := range topics {
		r.reserved[""] = append(r.reserved[""], t.Reserved...)
	}
	for _, l := range r.words {
		r.reserve(l)
	}
	return r
}

// clash tells whether nothing tells two selectors apart.
func clash(a, b [][]string) bool {
	at := func(s [][]string, i int) []string {
		if i < len(s) {
			return s[i]
		}
		return nil
	}
	for i := range max(len(a), len(b)) {
		l, m := at(a, i), at(b, i)
		if len(l) == 0 && len(m) == 0 || slices.ContainsFunc(l, func(w string) bool { return slices.Contains(m, w) }) {
			continue
		}
		return false
	}
	return true
}

// reserve notes the words that stand where another statement has a name.
func (r *Registry) reserve(entries []*Entry) {
	for _, e := range entries {
		for _, other := range entries {
			s, o := e.selector(), other.selector()
			for i := 1; i < min(len(s), len(o)); i++ {
				if len(s[i]) > 0 && len(o[i]) == 0 {
					stands := strings.Fields(other.Form)[i]
					r.reserved[stands] = append(r.reserved[stands], s[i]...)
				}
				if len(s[i]) > 0 || len(o[i]) > 0 {
					break
				}
			}
		}
	}
}

// mistaken tells whether a thing of a kind, were it called so, would be mistaken for
// a word of the language.
func (r *Registry) mistaken(kind, name string) bool {
	kind = strings.ToUpper(kind)
	for stands, words := range r.reserved {
		// What is no kind, such as MACHINE, can be any thing.
		if (stands == kind || !r.kinds[stands]) && slices.Contains(words, name) {
			return true
		}
	}
	return false
}

// find is the entry that a line's words belong to. It leaves the parser behind the
// first words that stand as they are.
func (r *Registry) find(p *Parser) *Entry {
	first := p.words[0]
	left := r.words[first.Text]
	if len(left) == 0 || first.Quoted {
		p.Fail(first, "unknown statement %q; known: %s", first.Text, strings.Join(slices.Sorted(maps.Keys(r.words)), ", "))
	}
	p.at = 1
	for i := 1; len(left) > 1; i++ {
		left = r.narrow(p, left, i)
	}
	e := left[0]
	for i, literal := range e.selector() {
		if i == 0 {
			continue
		}
		if len(literal) != 1 {
			break
		}
		p.entry = e
		p.OneOf(literal...)
	}
	return e
}

// narrow keeps the entries that the word at a place belongs to.
func (r *Registry) narrow(p *Parser, entries []*Entry, i int) []*Entry {
	var exact, any []*Entry
	var choices []string
	text, end, ended := "", i >= len(p.words), false
	if !end && !p.words[i].Quoted {
		text = trim(p.words[i].Text)
	}
	for _, e := range entries {
		s := e.selector()
		switch {
		case i >= len(s):
			any, ended = append(any, e), true
		case len(s[i]) == 0:
			any = append(any, e)
		case slices.Contains(s[i], text):
			exact = append(exact, e)
		default:
			choices = append(choices, s[i]...)
		}
	}
	switch {
	case len(exact) > 0:
		return exact
	case len(any) > 0 && !end:
		return any
	case ended: // where the line ends, too
		return slices.DeleteFunc(any, func(e *Entry) bool { return i < len(e.selector()) })
	case end:
		var forms []string
		for _, e := range entries {
			forms = append(forms, e.Form)
			if s := e.selector(); i < len(s) && len(s[i]) == 0 {
				choices = append(choices, strings.Fields(e.Form)[i])
			}
		}
		p.Fail(Word{Col: p.end}, "%s is missing; the form is: %s", either(choices), strings.Join(forms, ", or: "))
	}
	p.Fail(p.words[i], "%q where %s is wanted", p.words[i].Text, either(choices))
	return nil
}

// either lists choices, each once, in their order.
func either(choices []string) string {
	var l []string
	for _, c := range choices {
		if !slices.Contains(l, c) {
			l = append(l, c)
		}
	}
	return strings.Join(l, " or ")
}

// builders are the forms of what declares machines.
func (r *Registry) builders() (l []string) {
	for _, t := range r.topics {
		for _, e := range t.Statements {
			if e.Builds && !slices.Contains(l, e.Word()) {
				l = append(l, e.Word())
			}
		}
	}
	return l
}

// Words are the first words of all statements, sorted.
func (r *Registry) Words() []string { return slices.Sorted(maps.Keys(r.words)) }

// Entries are the statements that begin with a word, in the order of their topics.
func (r *Registry) Entries(word string) []*Entry { return r.words[word] }

// Reference is the language in Markdown: a section for each topic, a table for each
// of its parts.
func (r *Registry) Reference() string {
	var b strings.Builder
	for _, t := range r.topics {
		fmt.Fprintf(&b, "### %s\n\n", t.Title)
		if t.Intro != "" {
			fmt.Fprintf(&b, "%s\n\n", wrapped(t.Intro))
		}
		for part := range Checks + 1 {
			rows := slices.DeleteFunc(slices.Clone(t.Statements), func(e Entry) bool { return e.Part != part })
			if len(rows) == 0 {
				continue
			}
			fmt.Fprintf(&b, "| %s | |\n|---|---|\n", strings.ToLower(part.String()))
			for _, e := range rows {
				fmt.Fprintf(&b, "| `%s` | %s |\n", strings.ReplaceAll(e.Form, "|", "\\|"), e.Doc)
			}
			b.WriteString("\n")
		}
	}
	return strings.TrimRight(b.String(), "\n") + "\n"
}

// width is that of the documentation's lines.
const width = 120

// wrapped breaks a text into lines.
func wrapped(text string) string {
	var b strings.Builder
	n := 0
	for _, w := range strings.Fields(text) {
		length := utf8.RuneCountInString(w)
		switch {
		case n == 0:
		case n+1+length > width:
			b.WriteByte('\n')
			n = 0
		default:
			b.WriteByte(' ')
			n++
		}
		b.WriteString(w)
		n += length
	}
	return b.String()
}
