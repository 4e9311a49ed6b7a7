package cast_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"widecloud/internal/sentry/cast"
)

func TestKeys(t *testing.T) {
	one, two := cast.NewKey(), cast.NewKey()
	if one == two || one.Text() == two.Text() || one.String() == two.String() {
		t.Error("two keys are the same")
	}
	again, err := cast.ParseKey(" " + one.Text() + "\n")
	if err != nil || again != one {
		t.Errorf("a key is read as another: %v", err)
	}
	for _, bad := range []string{"", "zz", one.Text()[1:], one.Text() + "00", strings.Repeat("g", 64)} {
		if _, err := cast.ParseKey(bad); err == nil || bad != "" && strings.Contains(err.Error(), bad) {
			t.Errorf("%q: %v", bad, err)
		}
	}
	for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
		if s := fmt.Sprintf(verb, one); strings.Contains(s, one.Text()[8:]) || !strings.Contains(s, one.String()) {
			t.Errorf("%s shows %s", verb, s)
		}
	}
}

func TestLoadKey(t *testing.T) {
	k := cast.NewKey()
	path := filepath.Join(t.TempDir(), "key")
	write := func(text string, mode os.FileMode) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := cast.LoadKey(path); err == nil {
		t.Error("a file that is not there is read")
	}
	write(k.Text()+"\n", 0o640)
	if got, err := cast.LoadKey(path); err != nil || got != k {
		t.Errorf("got %v, %v", got, err)
	}
	write(k.Text(), 0o644)
	if _, err := cast.LoadKey(path); err == nil || !strings.Contains(err.Error(), "chmod 640") {
		t.Errorf("a key that everybody can read: %v", err)
	}
	write(k.Text()+k.Text(), 0o600)
	if _, err := cast.LoadKey(path); err == nil || strings.Contains(err.Error(), k.Text()) {
		t.Errorf("two keys in one: %v", err)
	}
}
