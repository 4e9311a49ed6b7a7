package config

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// Problem is one thing that is wrong with a file.
type Problem struct {
	File    string
	Line    int    // from 1; 0 when the file has no such line (a field that is missing)
	Field   string // api.listen; empty when the file is no TOML
	Message string
}

// Error is FILE:LINE: FIELD: MESSAGE.
func (p Problem) Error() string {
	s := p.File
	if p.Line > 0 {
		s += fmt.Sprintf(":%d", p.Line)
	}
	if p.Field != "" {
		s += ": " + p.Field
	}
	return s + ": " + p.Message
}

// Problems is the error that Load and Decode give: everything that is wrong, in the order of lines.
type Problems []Problem

// Error has a line for each problem.
func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.Error()
	}
	return strings.Join(lines, "\n")
}

// Checker is a configuration that can tell what is wrong with it beyond the types of its fields.
type Checker interface {
	// Check calls wrong for each field (api.listen) that is not as it must be.
	Check(wrong func(field, format string, args ...any))
}

// Load reads a file into v, a pointer to a struct that holds the defaults. See Decode.
func Load(path string, v any) error {
	data, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read the configuration: %w", err)
	}
	return Decode(path, data, v)
}

// Decode reads TOML into v, a pointer to a struct that holds the defaults, and lets v check itself if it is a Checker.
// The error is of type Problems; v is then of no use.
func Decode(name string, data []byte, v any) error {
	var ps Problems
	lines, next := index(data)
	bad := map[string]bool{}
	add := func(line int, field, message string) {
		ps = append(ps, Problem{File: name, Line: line, Field: field, Message: message})
		bad[field] = true
	}
	data = bytes.Clone(data)
	for {
		d := toml.NewDecoder(bytes.NewReader(data)).DisallowUnknownFields()
		err := d.Decode(v)
		var unknown *toml.StrictMissingError
		var wrong *toml.DecodeError
		switch {
		case err == nil:
		case errors.As(err, &unknown):
			for _, e := range unknown.Errors {
				line, _ := e.Position()
				message := "unknown field"
				if strings.Contains(e.Error(), "missing table") {
					message = "unknown table"
				}
				add(line, strings.Join(e.Key(), "."), message)
			}
		case errors.As(err, &wrong):
			line, _ := wrong.Position()
			field := strings.Join(wrong.Key(), ".")
			end, known := next[lines[field]]
			add(line, field, plain(wrong.Error()))
			// The decoder stops at the first wrong value. It is blanked out, and the rest read again, for the other errors.
			if known && bad[field] && blank(data, lines[field], end) {
				continue
			}
		default:
			add(0, "", plain(err.Error()))
		}
		break
	}
	if c, ok := v.(Checker); ok && !bad[""] {
		c.Check(func(field, format string, args ...any) {
			if !bad[field] {
				ps = append(ps, Problem{File: name, Line: lines[field], Field: field, Message: fmt.Sprintf(format, args...)})
			}
		})
	}
	if len(ps) == 0 {
		return nil
	}
	// What is missing comes last: it has no line.
	slices.SortStableFunc(ps, func(a, b Problem) int {
		if (a.Line == 0) != (b.Line == 0) {
			return cmp.Compare(b.Line, a.Line)
		}
		return cmp.Compare(a.Line, b.Line)
	})
	return ps
}

// index gives, for each field and table of a document, its line, and for each line on which an expression starts the
// line of the next one. Of what is no TOML it gives as much as there is.
func index(data []byte) (lines map[string]int, next map[int]int) {
	lines, next = map[string]int{}, map[int]int{}
	var p unstable.Parser
	p.Reset(data)
	var table string
	last := 0
	for p.NextExpression() {
		e := p.Expression()
		if e.Kind == unstable.Comment {
			continue
		}
		var key []string
		line := 0
		for it := e.Key(); it.Next(); {
			n := it.Node()
			if line == 0 {
				line = p.Shape(n.Raw).Start.Line
			}
			key = append(key, string(n.Data))
		}
		field := strings.Join(key, ".")
		if e.Kind == unstable.KeyValue {
			if table != "" {
				field = table + "." + field
			}
		} else {
			table = field
		}
		if lines[field] == 0 {
			lines[field] = line
		}
		if last != 0 {
			next[last] = line
		}
		last = line
	}
	if last != 0 {
		next[last] = bytes.Count(data, []byte("\n")) + 2
	}
	return lines, next
}

// blank overwrites the lines from first to before end with spaces, and tells whether there was anything to overwrite.
func blank(data []byte, first, end int) bool {
	line, changed := 1, false
	for i, b := range data {
		if b == '\n' {
			line++
			continue
		}
		if line >= first && line < end && b != ' ' {
			data[i], changed = ' ', true
		}
	}
	return changed
}

var mismatch = regexp.MustCompile(`cannot (?:decode|store) (?:a )?(?:TOML )?(.+) (?:into|in) (.+)$`)

// plain says the TOML library's errors without its names and Go's.
func plain(message string) string {
	message = strings.TrimPrefix(message, "toml: ")
	m := mismatch.FindStringSubmatch(message)
	if m == nil {
		return message
	}
	want := strings.TrimPrefix(m[2], "a ")
	if _, t, ok := strings.Cut(want, " of type "); ok { // struct field config.SiteNetwork.MTU of type int
		want = t
	}
	article := "a"
	if strings.ContainsAny(m[1][:1], "aeiou") {
		article = "an"
	}
	switch {
	case strings.HasPrefix(want, "int"), strings.HasPrefix(want, "uint"):
		want = "whole number"
	case strings.HasPrefix(want, "[]"):
		want = "list"
	case want == "bool":
		want = "boolean"
	case want == "config.Duration", want == "config.Bytes":
		want = "string"
	case strings.HasPrefix(want, "config."):
		want = "table"
	case strings.Contains(want, "."): // another type that is read from text: netip.Addr, api.HostRole
		want = "string"
	}
	return fmt.Sprintf("is %s %s, must be a %s", article, m[1], want)
}
