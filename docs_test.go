package widecloud_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestDocsNameTestsThatExist holds the proofs that the documentation names (guarantees.md, the RFC tables) against the tests
// that there are: a test that was renamed or dropped must not go on proving something.
func TestDocsNameTestsThatExist(t *testing.T) {
	named, defined := map[string]string{}, map[string]bool{}
	name := regexp.MustCompile("`((?:Test|Fuzz|Benchmark)[A-Z][A-Za-z0-9_]*)")
	function := regexp.MustCompile(`(?m)^func ((?:Test|Fuzz|Benchmark)[A-Za-z0-9_]*)\(`)
	err := filepath.WalkDir(".", func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && path != "." && strings.HasPrefix(d.Name(), "."):
			return filepath.SkipDir
		case !strings.HasSuffix(path, ".md") && !strings.HasSuffix(path, "_test.go"):
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if strings.HasSuffix(path, ".md") {
			for _, m := range name.FindAllSubmatch(text, -1) {
				named[string(m[1])] = path
			}
			return nil
		}
		for _, m := range function.FindAllSubmatch(text, -1) {
			defined[string(m[1])] = true
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(named) < 20 {
		t.Errorf("the documentation names %d tests: the pattern does not find them", len(named))
	}
	for test, path := range named {
		if !defined[test] {
			t.Errorf("%s names %s, which does not exist", path, test)
		}
	}
}
