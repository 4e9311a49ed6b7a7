package main

import (
	"bytes"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/alecthomas/kong"
)

const manPage = "../../packaging/man/map646.8"

// TestManPage: it has the commands and options that there are, and no others.
func TestManPage(t *testing.T) {
	data, err := os.ReadFile(manPage)
	if err != nil {
		t.Fatal(err)
	}
	page := string(data)
	has := func(pattern string) bool { return regexp.MustCompile(`(?m)` + pattern).MatchString(page) }
	k, err := kong.New(&cli{}, kong.Name("map646"))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, n := range k.Model.Leaves(true) {
		names = append(names, strings.Fields(n.FullPath())[1])
		if !has(`^\.It Cm ` + names[len(names)-1] + `( |$)`) {
			t.Errorf("no command %s", n.FullPath())
		}
		for _, f := range n.Flags {
			if !has(`Fl -` + f.Name + `\b`) {
				t.Errorf("no option --%s of %s", f.Name, n.FullPath())
			}
			if f.Short != 0 && !has(`Fl `+string(f.Short)+`\b`) {
				t.Errorf("no option -%c of %s", f.Short, n.FullPath())
			}
		}
	}
	for _, m := range regexp.MustCompile(`(?m)^\.It Cm (\w+)`).FindAllStringSubmatch(page, -1) {
		if !slices.Contains(names, m[1]) {
			t.Errorf("there is no command %s", m[1])
		}
	}
	var out, errs bytes.Buffer
	c := exec.Command("man", "--warnings", "-E", "UTF-8", "-l", manPage)
	c.Env = append(os.Environ(), "MANWIDTH=80", "PAGER=cat", "MANPAGER=cat", "LC_ALL=C.UTF-8")
	c.Stdout, c.Stderr = &out, &errs
	if err := c.Run(); err != nil || errs.Len() > 0 || !strings.Contains(out.String(), "stateless translator") {
		t.Errorf("man: %v: %s", err, errs.String())
	}
}
