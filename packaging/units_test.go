package packaging_test

import (
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"widecloud/packaging"
)

// verify has systemd's opinion of a unit, whose program need not be installed.
func verify(t *testing.T, name, unit string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	unit = regexp.MustCompile(`/usr/local/bin/\w+`).ReplaceAllString(unit, "/bin/true")
	if err := os.WriteFile(path, []byte(unit), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("systemd-analyze", "verify", "--man=no", path).CombinedOutput()
	if err != nil {
		return string(out) + err.Error()
	}
	return string(out)
}

func TestUnits(t *testing.T) {
	names, err := fs.Glob(packaging.Units, "systemd/*.service")
	if err != nil || len(names) == 0 {
		t.Fatalf("units: %v, %v", names, err)
	}
	for _, name := range names {
		t.Run(filepath.Base(name), func(t *testing.T) {
			unit, err := packaging.Units.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			if out := verify(t, filepath.Base(name), string(unit)); out != "" {
				t.Error(out)
			}
			bad := strings.Replace(string(unit), "[Service]", "[Service]\nNoNewPrivilege=yes", 1)
			if out := verify(t, filepath.Base(name), bad); !strings.Contains(out, "NoNewPrivilege") {
				t.Errorf("a bad unit is not noticed: %q", out)
			}
		})
	}
}
