package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestUnit has systemd's opinion of the unit.
func TestUnit(t *testing.T) {
	data, err := os.ReadFile("../../packaging/systemd/sentryc.service")
	if err != nil {
		t.Fatal(err)
	}
	verify := func(unit string) string {
		path := filepath.Join(t.TempDir(), "sentryc.service")
		if err := os.WriteFile(path, []byte(strings.ReplaceAll(unit, "/usr/local/bin/sentryc", "/bin/true")), 0o600); err != nil {
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

func TestCheck(t *testing.T) {
	c := checkCmd{configFlag{"../../examples/sentryc.toml"}}
	if err := c.Run(); err != nil {
		t.Error(err)
	}
	c.Config = "nowhere.toml"
	if err := c.Run(); err == nil {
		t.Error("a file that is not there is good")
	}
}
