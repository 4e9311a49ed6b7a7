package script

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Word is a token of a line.
type Word struct {
	Text   string
	Col    int // from 1
	Quoted bool
}

// Parser goes through a line's words. What is wrong ends the line with a located
// fault: its methods return only when all is well.
type Parser struct {
	registry *Registry
	script   *Script
	entry    *Entry // nil: not found yet
	pos      Pos
	words    []Word
	at       int // next word
	end      int // column behind the line
}

// split makes words of a line. # begins a comment, at a word's beginning.
func (p *Parser) split(line string) {
	p.words, p.at = nil, 0
	i := 0
	for i < len(line) {
		switch c := line[i]; {
		case c == ' ' || c == '\t':
			i++
		case c == '#':
			p.end = i + 1
			return
		case c == '"':
			j := strings.IndexByte(line[i+1:], '"')
			if j < 0 {
				p.Fail(Word{Col: i + 1}, "the quotation has no end")
			}
			p.words = append(p.words, Word{line[i+1 : i+1+j], i + 1, true})
			i += j + 2
		default:
			j := i
			for j < len(line) && line[j] != ' ' && line[j] != '\t' && line[j] != '"' {
				j++
			}
			p.words = append(p.words, Word{line[i:j], i + 1, false})
			i = j
		}
	}
	p.end = len(line) + 1
}

// trim takes off the comma that may follow a word.
func trim(text string) string { return strings.TrimSuffix(text, ",") }

// Fail ends the line with a fault at a word.
func (p *Parser) Fail(w Word, format string, args ...any) {
	pos := p.pos
	pos.Col = w.Col
	panic(&Error{pos, fmt.Sprintf(format, args...)})
}

// Pos is where the statement is.
func (p *Parser) Pos() Pos { return p.pos }

// First is the statement's first word.
func (p *Parser) First() Word { return p.words[0] }

// Last is the word that was taken last.
func (p *Parser) Last() Word { return p.words[p.at-1] }

// Peek is the next word, for a fault's place; without text at the line's end.
func (p *Parser) Peek() Word {
	if p.More() {
		return p.words[p.at]
	}
	return Word{Col: p.end}
}

// More tells whether there are words left.
func (p *Parser) More() bool { return p.at < len(p.words) }

// Back gives the last word back.
func (p *Parser) Back() { p.at-- }

// Ahead looks at words further on: what f takes is taken again from here on. Then,
// after what is here has been taken, the returned function goes on behind f's words.
func (p *Parser) Ahead(f func()) (after func()) {
	begin := p.at
	f()
	end := p.at
	p.at = begin
	return func() { p.at = end }
}

// Next takes a word; what names it for the fault if there is none.
func (p *Parser) Next(what string) Word {
	if !p.More() {
		p.Fail(Word{Col: p.end}, "%s is missing; the form is: %s", what, p.entry.Form)
	}
	p.at++
	return p.words[p.at-1]
}

// Is takes the next word if it is this one.
func (p *Parser) Is(text string) bool {
	if p.More() && !p.words[p.at].Quoted && trim(p.words[p.at].Text) == text {
		p.at++
		return true
	}
	return false
}

// OneOf takes one of some words.
func (p *Parser) OneOf(choices ...string) string {
	w := p.Next(strings.Join(choices, " or "))
	text := trim(w.Text)
	if w.Quoted || !slices.Contains(choices, text) {
		p.Fail(w, "%q where %s is wanted", w.Text, strings.Join(choices, " or "))
	}
	return text
}

// OneOfOptional takes one of some words, or none.
func (p *Parser) OneOfOptional(choices ...string) string {
	for _, c := range choices {
		if p.Is(c) {
			return c
		}
	}
	return ""
}

// Number takes a number between low and high.
func (p *Parser) Number(what string, low, high int) int {
	w := p.Next(what)
	n, err := strconv.Atoi(trim(w.Text))
	if err != nil || n < low || n > high {
		p.Fail(w, "%q is not a number between %d and %d", w.Text, low, high)
	}
	return n
}

// Percentage takes N% with N between low and high.
func (p *Parser) Percentage(low, high int) int {
	w := p.Next("percentage")
	n, err := strconv.Atoi(strings.TrimSuffix(trim(w.Text), "%"))
	if err != nil || n < low || n > high {
		p.Fail(w, "%q is no percentage from %d%% to %d%%", w.Text, low, high)
	}
	return n
}

// Duration takes a time, at most this long.
func (p *Parser) Duration(most time.Duration) time.Duration {
	w := p.Next("a time such as 300ms or 5s")
	d, err := time.ParseDuration(trim(w.Text))
	if err != nil || d < 0 || d > most {
		p.Fail(w, "%q is no time from 0s to %v", w.Text, most)
	}
	return d
}

// Within takes `within TIME`, if it is there; otherwise it is this time.
func (p *Parser) Within(otherwise time.Duration) time.Duration {
	if p.Is("within") {
		return p.Duration(time.Hour)
	}
	return otherwise
}

var units = map[string]int64{
	"": 1, "B": 1, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9,
	"kbit": 1e3, "Mbit": 1e6, "Gbit": 1e9, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30,
}

// Quantity takes a number with a decimal or binary unit, at most this: 100M, 1.5M,
// 8MiB. It must come to a whole number.
func (p *Parser) Quantity(what string, most int64) int64 {
	w := p.Next(what)
	text := strings.TrimSuffix(trim(w.Text), "/s")
	digits := strings.TrimRight(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
	unit, ok := units[text[len(digits):]]
	n, whole := scaled(digits, unit)
	if !ok || !whole || n < 1 || n > most {
		p.Fail(w, "%q is no %s such as 100M or 8MiB, at most %d", w.Text, what, most)
	}
	return n
}

// scaled is a decimal number times a unit, if that is a whole number that fits.
func scaled(digits string, unit int64) (int64, bool) {
	whole, part, _ := strings.Cut(digits, ".")
	if len(whole) == 0 || len(whole) > 12 || len(part) > 6 {
		return 0, false
	}
	n, err := strconv.ParseInt(whole+part, 10, 64)
	if err != nil || n < 0 {
		return 0, false
	}
	divisor := int64(1)
	for range len(part) {
		divisor *= 10
	}
	if unit == 0 || n > (1<<62)/unit || n*unit%divisor != 0 {
		return 0, false
	}
	return n * unit / divisor, true
}

// MiB takes a size that is a whole number of MiB.
func (p *Parser) MiB(what string) int {
	w := p.Peek()
	n := p.Quantity(what, 1<<40)
	if n%(1<<20) != 0 {
		p.Fail(w, "%q is no whole number of MiB", w.Text)
	}
	return int(n >> 20)
}

// Prefix takes an IP prefix that passes the check; what names it for the fault.
func (p *Parser) Prefix(what string, check func(netip.Prefix) bool) netip.Prefix {
	w := p.Next("prefix")
	x, err := netip.ParsePrefix(trim(w.Text))
	if err != nil || x != x.Masked() || !check(x) {
		p.Fail(w, "%q is no %s", w.Text, what)
	}
	return x
}

// Addr takes an IP address without a zone.
func (p *Parser) Addr() netip.Addr {
	w := p.Next("address")
	a, err := netip.ParseAddr(trim(w.Text))
	if err != nil || a.Zone() != "" {
		p.Fail(w, "%q is no IP address", w.Text)
	}
	return a
}

// Quoted takes a text in quotation marks.
func (p *Parser) Quoted() string {
	w := p.Next("text")
	if !w.Quoted || w.Text == "" {
		p.Fail(w, "the text must stand in quotation marks")
	}
	return w.Text
}

var labelRE = regexp.MustCompile(`^[a-z]([a-z0-9-]{0,18}[a-z0-9])?$`)

// IsName tells whether a text could be a name of a script.
func IsName(text string) bool { return labelRE.MatchString(text) }

// NewName takes a name that nothing in the script has yet, and that means nothing
// else; what says of what, for the fault.
func (p *Parser) NewName(what string) string {
	w := p.Next(what + "'s name")
	if w.Quoted || !IsName(w.Text) {
		p.Fail(w, "%q is no name for a %s: a to z first, then 0 to 9 and - too, at most 20 characters", w.Text, what)
	}
	if p.registry.mistaken(what, w.Text) {
		p.Fail(w, "%q means something else", w.Text)
	}
	if _, ok := p.script.scope.named[w.Text]; ok {
		p.Fail(w, "%s %q is there already", what, w.Text)
	}
	return w.Text
}

// ShortName is NewName of a machine's name: short, since with the lab's name it
// becomes a namespace's, and a device's at its router.
func (p *Parser) ShortName(what string) string {
	name := p.NewName(what)
	if len(name) > 12 {
		p.Fail(p.Last(), "%q is longer than 12 characters", name)
	}
	return name
}
