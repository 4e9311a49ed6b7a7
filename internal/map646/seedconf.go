package map646

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"widecloud/internal/packet/siit"
)

// statements are the words, and how many arguments each takes.
var statements = map[string]int{"mapping-prefix": 1, "map-static": 2, "map66-static": 2, "include": 1}

// readSeed reads the first map646's syntax: one statement a line,
//
//	mapping-prefix PREFIX          64:ff9b:: (the length is 96)
//	map-static     IPV4 IPV6       outside, inside; also prefixes (RFC 7757)
//	map66-static   IPV6 IPV6       outside, inside
//	include        FILE
//
// It warned of bad lines and went on without them; here they are errors, as a
// mapping lost by a slip of the pen is a service lost. Only in a mappings file
// (origin.byLine) are bad mappings left out and noted.
func readSeed(path string, data []byte, c *Config, from *origin, depth int) error {
	lines := bufio.NewScanner(bytes.NewReader(data))
	for n := 1; lines.Scan(); n++ {
		text, _, _ := strings.Cut(lines.Text(), "#")
		w := strings.Fields(text)
		if len(w) == 0 {
			continue
		}
		at := place{path, n}
		switch err := readStatement(at, w, c, from, depth); {
		case err == nil, c.leaveOut(from, at, err):
		case errors.Is(err, ErrConfig): // of an included file
			return err
		default:
			return fmt.Errorf("%w: %s:%d: %s: %w", ErrConfig, path, n, w[0], err)
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrConfig, path, err)
	}
	return nil
}

// readStatement takes the words of a line. An *errLine is about no more than that line.
func readStatement(at place, w []string, c *Config, from *origin, depth int) error {
	want, known := statements[w[0]]
	switch {
	case !known:
		return &errLine{err: errors.New("unknown statement")}
	case w[0] == "mapping-prefix" && len(w)-1 == want:
		return readPref64(at, w[1], c, from)
	case w[0] == "include" && len(w)-1 == want:
		return readInclude(at, w[1], c, from, depth)
	case len(w)-1 != want && want == 1:
		return fmt.Errorf("%d arguments, not %d", len(w)-1, want)
	case len(w)-1 != want:
		return &errLine{outside: strings.Join(w[1:min(2, len(w))], ""), err: fmt.Errorf("%d arguments, not %d", len(w)-1, want)}
	}
	a, err := parseHost(w[1])
	if err != nil {
		return &errLine{w[1], fmt.Errorf("first argument: %w", err)}
	}
	family := "IPv4"
	if w[0] == "map66-static" {
		family = "IPv6"
	}
	if a.Addr().Is4() != (family == "IPv4") {
		return &errLine{w[1], fmt.Errorf("first argument: %s is not %s", w[1], family)}
	}
	b, err := parseHost(w[2])
	if err != nil {
		return &errLine{w[1], fmt.Errorf("second argument: %w", err)}
	}
	t := &c.Translation
	if w[0] == "map-static" {
		from.map4 = append(from.map4, at)
		t.Mappings = append(t.Mappings, siit.Mapping{V4: a, V6: b})
	} else {
		from.map66 = append(from.map66, at)
		t.Mappings66 = append(t.Mappings66, siit.Mapping66{Service: a, Inside: b})
	}
	return nil
}

func readPref64(at place, text string, c *Config, from *origin) error {
	p, err := netip.ParsePrefix(text)
	if err != nil {
		a, err := netip.ParseAddr(text)
		if err != nil || !a.Is6() || a.Zone() != "" {
			return fmt.Errorf("bad prefix %q", text)
		}
		p = netip.PrefixFrom(a, 96)
	}
	t := &c.Translation
	if t.Pref64.IsValid() && t.Pref64 != p {
		return fmt.Errorf("is %v already", t.Pref64)
	}
	t.Pref64 = p
	from.pref64 = at
	return nil
}

func readInclude(at place, name string, c *Config, from *origin, depth int) error {
	const deepest = 10 // the first map646's limit
	if depth >= deepest {
		return fmt.Errorf("nested more than %d deep", deepest)
	}
	if !filepath.IsAbs(name) {
		name = filepath.Join(filepath.Dir(at.file), name)
	}
	more, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	return readSeed(name, more, c, from, depth+1)
}
