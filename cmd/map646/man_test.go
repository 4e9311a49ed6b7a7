package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
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

// TestUnit has systemd's opinion of the unit.
func TestUnit(t *testing.T) {
	data, err := os.ReadFile("../../packaging/systemd/map646.service")
	if err != nil {
		t.Fatal(err)
	}
	verify := func(unit string) string {
		path := filepath.Join(t.TempDir(), "map646.service")
		if err := os.WriteFile(path, []byte(strings.ReplaceAll(unit, "/usr/local/bin/map646", "/bin/true")), 0o600); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command("systemd-analyze", "verify", "--man=no", path).CombinedOutput()
		if err != nil {
			return string(out) + err.Error()
		}
		return string(out)
	}
	if out := verify(string(data)); out != "" {
		t.Error(out)
	}
	if out := verify(strings.Replace(string(data), "NoNewPrivileges=yes", "NoNewPrivilege=yes", 1)); !strings.Contains(out, "NoNewPrivilege") {
		t.Errorf("a bad unit is not noticed: %q", out)
	}
}
