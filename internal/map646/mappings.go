package map646

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"widecloud/internal/packet/siit"
)

// RefusedLine is a line of the mappings file (mappings_file of a TOML configuration) that is left out: the file holds the
// mappings of many owners, and one bad entry must not keep those of the others from being read.
type RefusedLine struct {
	File    string `json:"file"`
	Line    int    `json:"line"`    // from 1
	Outside string `json:"outside"` // the service address, as it is written; "" if the line has none
	Reason  string `json:"reason"`  // names the side and the address, and what is in its way
}

// String is for logs: FILE:LINE: OUTSIDE: REASON.
func (r RefusedLine) String() string {
	return fmt.Sprintf("%s:%d: %s: %s", r.File, r.Line, r.Outside, r.Reason)
}

// sift leaves out the lines of the mappings file that do not go with the configuration or with a line before, IPv4 before
// IPv6: the same lines are refused by every node that has the same files, whatever it had before. What is wrong with the
// configuration's own mappings is an error.
func (c *Config) sift(from *origin) error {
	t := &c.Translation
	more4, more66 := t.Mappings[from.first4:], t.Mappings66[from.first66:]
	t.Mappings, t.Mappings66 = t.Mappings[:from.first4:from.first4], t.Mappings66[:from.first66:from.first66]
	if err := c.build(); err != nil {
		return err
	}
	lines := make([]siit.Pair, 0, len(more4)+len(more66))
	for _, m := range more4 {
		lines = append(lines, siit.Pair{Outside: m.V4, Inside: m.V6})
	}
	for _, m := range more66 {
		lines = append(lines, siit.Pair{Outside: m.Service, Inside: m.Inside})
	}
	refused := c.admit(append(from.map4, from.map66...), lines)
	for i, m := range more4 {
		if !refused[i] {
			t.Mappings = append(t.Mappings, m)
		}
	}
	for i, m := range more66 {
		if !refused[len(more4)+i] {
			t.Mappings66 = append(t.Mappings66, m)
		}
	}
	return nil
}

// admit adds what it can to the table, notes why not the rest, and returns which lines those are.
func (c *Config) admit(at []place, lines []siit.Pair) (refused map[int]bool) {
	refused = map[int]bool{}
	leaveOut := func(i int, why string) {
		refused[i] = true
		c.Refused = append(c.Refused, RefusedLine{at[i].file, at[i].line, short(lines[i].Outside), why})
	}
	var good []siit.Pair
	var where []int // in lines
	for i, p := range lines {
		if why := c.unmappable(p.Outside); why != "" {
			leaveOut(i, why)
			continue
		}
		good, where = append(good, p), append(where, i)
	}
	for j, err := range c.table.Admit(good) {
		leaveOut(where[j], err.Error())
	}
	slices.SortFunc(c.Refused, func(a, b RefusedLine) int {
		return cmp.Or(strings.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line))
	})
	return refused
}

// errLine is a line that cannot be read by itself, so that others need not suffer.
type errLine struct {
	outside string
	err     error
}

func (e *errLine) Error() string { return e.err.Error() }

// leaveOut notes an unreadable line of a mappings file. False: the error is about more than that line.
func (c *Config) leaveOut(from *origin, at place, err error) bool {
	var line *errLine
	if !from.byLine || !errors.As(err, &line) {
		return false
	}
	c.Refused = append(c.Refused, RefusedLine{at.file, at.line, line.outside, line.Error()})
	return true
}
