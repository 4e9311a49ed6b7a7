package script_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"widecloud/internal/lab/script"
)

// box and lid are things of a language for the test; a lid is one that can be opened.
type (
	box struct{ name string }
	lid struct{ name string }
)

func (lid) Open() {}

type opener interface{ Open() }

func declare[T any](kind string, make func(string) T) func(*script.Parser) any {
	return func(p *script.Parser) any {
		name := p.NewName(kind)
		p.Declare(name, make(name))
		return nil
	}
}

func entry(form string, parse func(*script.Parser) any) script.Entry {
	return script.Entry{Form: form, Doc: "does " + strings.Fields(form)[0], Part: script.Checks, Builds: strings.Contains(form, " NAME"), Parse: parse}
}

func language() *script.Registry {
	return script.NewRegistry(
		script.Topic{
			Title: "Boxes", Intro: "Boxes have lids.", Reserved: []string{"table"},
			Statements: []script.Entry{
				entry("box NAME", declare("box", func(n string) *box { return &box{n} })),
				entry("lid NAME", declare("lid", func(n string) *lid { return &lid{n} })),
				entry("expect BOX full|empty", func(p *script.Parser) any {
					return script.Ref[*box](p, "box").name + " " + p.OneOf("full", "empty")
				}),
				entry("expect BOX open", func(p *script.Parser) any {
					b := script.Ref[*box](p, "box")
					p.OneOf("open")
					return b.name + " is open"
				}),
			},
		},
		script.Topic{Title: "Lids", Statements: []script.Entry{
			entry("open LID", func(p *script.Parser) any { script.Ref[opener](p, "lid").Open(); return nil }),
			entry("expect lid LID shut", func(p *script.Parser) any { script.Ref[*lid](p, "lid"); p.OneOf("shut"); return "shut" }),
			entry("pour AMOUNT", func(p *script.Parser) any { return p.Quantity("amount", 1e9) }),
		}},
	)
}

// TestFind: a line belongs to the entry whose words it has, and a word that stands as
// it is goes before a name.
func TestFind(t *testing.T) {
	s, err := language().Parse("x", "box a # first\nlid b\nexpect a full\nexpect a, open\nexpect lid b shut\n pour 1.5k\npour 0.25MiB\n")
	if err != nil {
		t.Fatal(err)
	}
	var got []any
	for _, st := range s.Statements {
		got = append(got, st.Text, st.Do)
	}
	want := []any{"box a", nil, "lid b", nil, "expect a full", "a full", "expect a, open", "a is open", "expect lid b shut", "shut", "pour 1.5k", int64(1500),
		"pour 0.25MiB", int64(262144)}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("statements (-want +got):\n%s", d)
	}
}

func TestFaults(t *testing.T) {
	for line, want := range map[string]string{
		"shake a":         `x:3:1: unknown statement "shake"; known: box, expect, lid, open, pour`,
		"expect":          "x:3:7: lid or BOX is missing; the form is: ",
		"expect a":        "x:3:9: full or empty or open is missing; the form is: ",
		"expect a closed": `x:3:10: "closed" where full or empty or open is wanted`,
		"expect b full":   `x:3:8: unknown box "b"; known: a`,
		"open a":          `x:3:6: unknown lid "a"; known: b`,
		"open b now":      `x:3:8: "now" is more than "open" takes; the form is: open LID`,
		"box a":           `x:3:5: box "a" is there already`,
		"box lid":         `x:3:5: "lid" means something else`,
		"lid table":       `x:3:5: "table" means something else`,
		`box "c"`:         `x:3:5: "c" is no name for a box`,
		"pour 1.55":       `x:3:6: "1.55" is no amount`,
		"pour 1.0000001M": `x:3:6: "1.0000001M" is no amount`,
		"pour -1k":        `x:3:6: "-1k" is no amount`,
		"pour 2G":         `x:3:6: "2G" is no amount`,
	} {
		_, err := language().Parse("x", "box a\nlid b\n"+line)
		var fault *script.Error
		if !errors.As(err, &fault) || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("%s:\n got %v\nwant %s", line, err, want)
		}
	}
	// A lid may be called what only a box may not.
	if _, err := language().Parse("x", "box a\nlid lid"); err != nil {
		t.Error(err)
	}
}

// TestClash: what would fit the same lines is refused, and what lacks documentation.
func TestClash(t *testing.T) {
	parse := func(*script.Parser) any { return nil }
	for what, l := range map[string][]script.Entry{
		"the same":         {entry("a NAME", parse), entry("a NAME", parse)},
		"names only":       {entry("a NAME b", parse), entry("a OTHER", parse), entry("a THIRD", parse)},
		"no documentation": {{Form: "a", Parse: parse}},
		"one of several":   {entry("a b|c", parse), entry("a c|d", parse)},
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: it is taken", what)
				}
			}()
			script.NewRegistry(script.Topic{Statements: l})
		}()
	}
}

func TestReference(t *testing.T) {
	const want = "### Boxes\n\nBoxes have lids.\n\n| what is checked | |\n|---|---|\n| `box NAME` | does box |\n| `lid NAME` | does lid |\n" +
		"| `expect BOX full\\|empty` | does expect |\n| `expect BOX open` | does expect |\n\n" +
		"### Lids\n\n| what is checked | |\n|---|---|\n| `open LID` | does open |\n| `expect lid LID shut` | does expect |\n| `pour AMOUNT` | does pour |\n"
	if d := cmp.Diff(want, language().Reference()); d != "" {
		t.Errorf("reference (-want +got):\n%s", d)
	}
}
