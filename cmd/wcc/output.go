package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"strings"
	"unicode/utf8"
)

// writeTable aligns cells in columns; the first row is the head.
func writeTable(w io.Writer, rows [][]string) error {
	var width []int
	for _, row := range rows {
		for i, cell := range row {
			if i == len(width) {
				width = append(width, 0)
			}
			width[i] = max(width[i], utf8.RuneCountInString(cell))
		}
	}
	var b strings.Builder
	for _, row := range rows {
		b.WriteString(alignRow(row, width))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func alignRow(row []string, width []int) string {
	var b strings.Builder
	for i, cell := range row {
		b.WriteString(printable(cell)) // as long as it was
		if i < len(row)-1 && i < len(width) {
			b.WriteString(strings.Repeat(" ", max(0, width[i]-utf8.RuneCountInString(cell))+2))
		}
	}
	return strings.TrimRight(b.String(), " ") + "\n"
}

// writeJSON writes v for programs and people. It escapes what a terminal would take for commands: encoding/json does that
// with C0 only.
func writeJSON(w io.Writer, v any, indent string) error {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", indent)
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("write json: %w", err)
	}
	_, err := w.Write([]byte(escapeDangerous(b.String())))
	return err
}

// escapeDangerous escapes dangerous characters but the ends of lines; they can only be in strings.
func escapeDangerous(text string) string {
	var b strings.Builder
	for _, r := range text {
		if r != '\n' && dangerous(r) {
			fmt.Fprintf(&b, `\u%04x`, r)
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

// writeYAML writes v as YAML 1.2 with the names and the order of its JSON.
func writeYAML(w io.Writer, v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("write yaml: %w", err)
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var y yaml
	if err := y.value(d, 0, false); err != nil {
		return fmt.Errorf("write yaml: %w", err)
	}
	_, err = w.Write(y.Bytes())
	return err
}

// yaml turns a stream of JSON tokens, which keeps the order of fields, into block-style YAML.
type yaml struct{ bytes.Buffer }

// value writes one value. inline says that something is on the line before it: a key or a dash.
func (y *yaml) value(d *json.Decoder, indent int, inline bool) error {
	t, err := d.Token()
	if err != nil {
		return err
	}
	delim, ok := t.(json.Delim)
	if !ok {
		if inline {
			y.WriteByte(' ')
		}
		y.WriteString(scalar(t))
		y.WriteByte('\n')
		return nil
	}
	if !d.More() {
		if inline {
			y.WriteByte(' ')
		}
		y.WriteString(string(delim) + map[json.Delim]string{'{': "}", '[': "]"}[delim] + "\n")
		_, err := d.Token()
		return err
	}
	if inline {
		y.WriteByte('\n')
	}
	pad := strings.Repeat("  ", indent)
	for d.More() {
		y.WriteString(pad)
		if delim == '[' {
			y.WriteByte('-')
			if err := y.item(d, indent+1); err != nil {
				return err
			}
			continue
		}
		key, err := d.Token()
		if err != nil {
			return err
		}
		y.WriteString(scalar(key) + ":")
		if err := y.value(d, indent+1, true); err != nil {
			return err
		}
	}
	_, err = d.Token()
	return err
}

// item writes a list's item after its dash; a mapping starts on the dash's line.
func (y *yaml) item(d *json.Decoder, indent int) error {
	var sub yaml
	if err := sub.value(d, 0, false); err != nil {
		return err
	}
	lines := strings.Split(strings.TrimSuffix(sub.String(), "\n"), "\n")
	y.WriteString(" " + lines[0] + "\n")
	for _, l := range lines[1:] {
		y.WriteString(strings.Repeat("  ", indent) + l + "\n")
	}
	return nil
}

// plainYAML are the strings that need no quotes in any reading of YAML: they begin with a letter or a slash, and have
// nothing in them that YAML gives a meaning.
var plainYAML = regexp.MustCompile(`^[A-Za-z/][A-Za-z0-9_./+@-]*(?: [A-Za-z0-9_./+@()-]+)*$`)

func scalar(t json.Token) string {
	s, ok := t.(string)
	if !ok {
		if t == nil {
			return "null"
		}
		return fmt.Sprint(t)
	}
	switch strings.ToLower(s) {
	case "y", "n", "yes", "no", "on", "off", "true", "false", "null":
	default:
		if plainYAML.MatchString(s) {
			return s
		}
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b) // every JSON string is a YAML string (YAML 1.2 §1.2) …
	enc.SetEscapeHTML(false)
	if err := enc.Encode(s); err != nil {
		return `""`
	}
	quoted := escapeDangerous(strings.TrimSuffix(b.String(), "\n"))
	// … but for what JSON takes as it is and YAML does not (§5.1), or folds (NEL, which is escaped by now).
	return unprintable.ReplaceAllStringFunc(quoted, func(c string) string {
		r, _ := utf8.DecodeRuneInString(c)
		return fmt.Sprintf(`\u%04x`, r)
	})
}

var unprintable = regexp.MustCompile(`[\x{feff}\x{fffe}\x{ffff}]`)
