package main

import (
	"fmt"
	"io"
	"reflect"
	"strings"
	"unicode"
)

// screen is where wcc shows things. What it shows is mostly the words of others: of a server, and through it of users and
// peers. It is no io.Writer, so that their words go through its methods, and reach no terminal as commands.
type screen struct {
	// raw takes everything. It is for what is this program's own, for logs (slog quotes), and for the console of a VM, which
	// is raw on purpose.
	raw io.Writer
}

// printf prints. The format is trusted; of the arguments, everything that is text is made printable.
func (s screen) printf(format string, args ...any) error {
	safe := make([]any, len(args))
	for i, a := range args {
		safe[i] = printableArg(a)
	}
	_, err := fmt.Fprintf(s.raw, format, safe...)
	return err
}

func printableArg(a any) any {
	switch reflect.ValueOf(a).Kind() {
	case reflect.Bool, reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64, reflect.Float32, reflect.Float64,
		reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		if _, ok := a.(fmt.Stringer); !ok {
			return a
		}
	}
	return printable(fmt.Sprint(a))
}

// paragraph prints the lines of a text, set off from what is before it.
func (s screen) paragraph(text string) error {
	for line := range strings.Lines(text) {
		if err := s.printf("    %s\n", strings.TrimSuffix(line, "\n")); err != nil {
			return err
		}
	}
	return nil
}

// table prints rows in columns; the first is the head.
func (s screen) table(rows [][]string) error { return writeTable(s.raw, rows) }

// row prints one more row of a table, in columns of such widths.
func (s screen) row(cells []string, width []int) error {
	_, err := s.raw.Write([]byte(alignRow(cells, width)))
	return err
}

// json and jsonLine print v as JSON, in lines or in one; yaml prints it as YAML.
func (s screen) json(v any) error     { return writeJSON(s.raw, v, "  ") }
func (s screen) jsonLine(v any) error { return writeJSON(s.raw, v, "") }
func (s screen) yaml(v any) error     { return writeYAML(s.raw, v) }

// dangerous are the characters that a terminal takes for commands, and those that change the order or the lines of what
// follows: C0, DEL and C1 (ECMA-48), the bidirectional controls of Unicode, and its separators of lines and paragraphs.
func dangerous(r rune) bool {
	return unicode.IsControl(r) || unicode.Is(unicode.Bidi_Control, r) || r == '\u2028' || r == '\u2029'
}

// printable replaces dangerous characters, and bytes that are no characters, each by one that is seen: C0 and DEL by
// Unicode's pictures of them, the others by the replacement character.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r < 0x20:
			return '\u2400' + r
		case r == 0x7f:
			return '\u2421'
		case dangerous(r):
			return unicode.ReplacementChar
		}
		return r
	}, s)
}
