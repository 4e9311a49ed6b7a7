package script

import (
	"errors"
	"fmt"
	"strings"
)

// Script is a lab script that has been understood as a whole: every name in it is
// declared before it is used.
type Script struct {
	File       string
	Statements []Statement // in order
	// Number tells apart scripts that are played on the same machines; 0: they are its own.
	Number   int
	scope    *scope
	registry *Registry
	text     string
}

// Again understands the script anew, as one of another number.
func (s *Script) Again(number int) (*Script, error) { return s.registry.parse(s.File, s.text, number) }

// Statement is one line of a script.
type Statement struct {
	Pos   Pos
	Text  string // as it stands in the file, without comment
	Entry *Entry
	Do    any // what the entry's Parse has made of it
}

// Pos is a place in a script.
type Pos struct {
	File      string
	Line, Col int // from 1; Col counts bytes
}

func (p Pos) String() string { return fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Col) }

// Error is a fault of a script.
type Error struct {
	Pos Pos
	Msg string
}

func (e *Error) Error() string { return e.Pos.String() + ": " + e.Msg }

// Parse understands a script, or returns every fault in it at once, each an
// *Error, joined. It neither reads nor makes anything.
func (r *Registry) Parse(file, text string) (*Script, error) { return r.parse(file, text, 0) }

func (r *Registry) parse(file, text string, number int) (*Script, error) {
	p := &Parser{registry: r, script: &Script{File: file, Number: number, scope: &scope{named: map[string]any{}}, registry: r, text: text}}
	for _, t := range r.topics {
		if t.Begin != nil {
			t.Begin(p)
		}
	}
	var errs []error
	n := 0
	for line := range strings.Lines(text) {
		n++
		if err := p.line(n, strings.TrimRight(line, "\r\n")); err != nil {
			errs = append(errs, err)
		}
	}
	if len(errs) == 0 && !p.builds() {
		errs = append(errs, &Error{Pos{file, max(n, 1), 1}, "a script needs a machine; say one of: " + strings.Join(r.builders(), ", ")})
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	return p.script, nil
}

// builds tells whether the script declares anything that is built.
func (p *Parser) builds() bool {
	for _, st := range p.script.Statements {
		if st.Entry.Builds {
			return true
		}
	}
	return false
}

// line understands one line. A fault in it ends it by a panic with an *Error,
// recovered here: so the statements' parsers stay readable.
func (p *Parser) line(n int, line string) (err error) {
	defer func() {
		if v := recover(); v != nil {
			fault, ok := v.(*Error)
			if !ok {
				panic(v)
			}
			err = fault
		}
	}()
	p.pos, p.entry = Pos{p.script.File, n, 1}, nil
	p.split(line)
	if len(p.words) == 0 {
		return nil
	}
	p.entry = p.registry.find(p)
	do := p.entry.Parse(p)
	if p.at < len(p.words) {
		w := p.words[p.at]
		p.Fail(w, "%q is more than %q takes; the form is: %s", w.Text, p.entry.Word(), p.entry.Form)
	}
	start, stop := p.words[0].Col-1, p.end-1
	p.script.Statements = append(p.script.Statements, Statement{
		Pos: Pos{p.script.File, n, p.words[0].Col}, Text: strings.TrimSpace(line[start:stop]), Entry: p.entry, Do: do,
	})
	return nil
}
