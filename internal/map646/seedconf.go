package map646

import (
	"bufio"
	"bytes"
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
// mapping lost by a slip of the pen is a service lost.
func readSeed(path string, data []byte, c *Config, from *origin, depth int) error {
	const deepest = 10 // the first map646's limit
	lines := bufio.NewScanner(bytes.NewReader(data))
	for n := 1; lines.Scan(); n++ {
		text, _, _ := strings.Cut(lines.Text(), "#")
		w := strings.Fields(text)
		if len(w) == 0 {
			continue
		}
		fail := func(field, format string, args ...any) error {
			return fmt.Errorf("%w: %s:%d: %s: %w", ErrConfig, path, n, field, fmt.Errorf(format, args...))
		}
		want, known := statements[w[0]]
		if !known {
			return fail(w[0], "unknown statement")
		}
		if len(w)-1 != want {
			return fail(w[0], "%d arguments, not %d", len(w)-1, want)
		}
		t := &c.Translation
		switch w[0] {
		case "mapping-prefix":
			p, err := netip.ParsePrefix(w[1])
			if err != nil {
				a, err := netip.ParseAddr(w[1])
				if err != nil || !a.Is6() || a.Zone() != "" {
					return fail(w[0], "bad prefix %q", w[1])
				}
				p = netip.PrefixFrom(a, 96)
			}
			if t.Pref64.IsValid() && t.Pref64 != p {
				return fail(w[0], "is %v already", t.Pref64)
			}
			t.Pref64 = p
			from.pref64 = place{path, n}
		case "map-static", "map66-static":
			a, err := parseHost(w[1])
			if err != nil {
				return fail(w[0], "first argument: %w", err)
			}
			b, err := parseHost(w[2])
			if err != nil {
				return fail(w[0], "second argument: %w", err)
			}
			if w[0] == "map-static" {
				from.map4 = append(from.map4, place{path, n})
				t.Mappings = append(t.Mappings, siit.Mapping{V4: a, V6: b})
			} else {
				from.map66 = append(from.map66, place{path, n})
				t.Mappings66 = append(t.Mappings66, siit.Mapping66{Service: a, Inside: b})
			}
		case "include":
			if depth >= deepest {
				return fail(w[0], "nested more than %d deep", deepest)
			}
			name := w[1]
			if !filepath.IsAbs(name) {
				name = filepath.Join(filepath.Dir(path), name)
			}
			more, err := os.ReadFile(name)
			if err != nil {
				return fail(w[0], "%w", err)
			}
			if err := readSeed(name, more, c, from, depth+1); err != nil {
				return err
			}
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("%w: %s: %w", ErrConfig, path, err)
	}
	return nil
}
