package browser

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"widecloud/internal/lab/stage"
	"widecloud/internal/lab/topic/site"
)

// Where machines have what the tests need.
const (
	nodeSources = "/opt/widecloud/web"
	nodeResults = "/opt/widecloud/browser"
)

// sources are the tests that the script asks for, in the clone that it is in.
type sources struct{ specs []string }

// Processors implements stage.Emulated: Chromium keeps a core as busy as a guest does.
func (*sources) Processors() int { return 1 }

// Build implements stage.Builder: it gets the tests and what they need, and shows them to the controllers' machines.
func (l *sources) Build(ctx context.Context, s *stage.Stage, phase stage.Phase) error {
	if phase != stage.Prepare {
		return nil
	}
	root, err := clone(s.Dir)
	if err != nil {
		return err
	}
	for _, spec := range l.specs {
		if _, err := os.Stat(filepath.Join(root, "web", "e2e", spec+".spec.ts")); err != nil {
			return fmt.Errorf("browser: %w", err)
		}
	}
	if _, err := exec.LookPath("chromium"); err != nil {
		return fmt.Errorf("browser: %w (scripts/deps --test installs it)", err)
	}
	if out, err := exec.CommandContext(ctx, filepath.Join(root, "scripts", "page"), "--deps").CombinedOutput(); err != nil {
		return fmt.Errorf("browser: scripts/page --deps: %w: %s", err, out)
	}
	results := filepath.Join(s.LogDir, "browser")
	site.Of(s.Script).Show(map[string]string{filepath.Join(root, "web"): nodeSources, results: nodeResults})
	return os.MkdirAll(results, 0o755)
}

// clone is the directory above one that has the sources of the page.
func clone(dir string) (string, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	for at := abs; ; at = filepath.Dir(at) {
		if _, err := os.Stat(filepath.Join(at, "web", "e2e")); err == nil {
			return at, nil
		}
		if at == filepath.Dir(at) {
			return "", fmt.Errorf("browser: %s is in no clone of the sources, with web/e2e", abs)
		}
	}
}
