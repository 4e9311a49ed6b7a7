package play_test

import (
	"bytes"
	"context"
	"io"
	"strings"
	"testing"

	"widecloud/internal/lab/play"
)

// onText does something when a text is written.
type onText struct {
	text string
	do   func()
}

func (o onText) Write(b []byte) (int, error) {
	if strings.Contains(string(b), o.text) {
		o.do()
	}
	return len(b), nil
}

// TestRunCountsFailures: a check that fails is counted and the script goes on; a
// statement that cannot be done, and an interruption, end it; and whatever the
// end, nothing is left. (TestMain looks, too.)
func TestRunCountsFailures(t *testing.T) {
	bin := programs(t)
	run := func(ctx context.Context, text string, out io.Writer) (passed, failed int, said string, err error) {
		t.Helper()
		s, err := play.Parse("x.lab", text)
		must(t, err)
		var b bytes.Buffer
		r, err := play.Run(ctx, s, play.Options{Name: scope.Name, Bin: bin, Out: io.MultiWriter(&b, out), LogDir: t.TempDir()})
		passed, failed = r.Counts()
		t.Logf("%s", b.String())
		return passed, failed, b.String(), err
	}
	const site = "site tokyo hosts 0 gateway\n"

	passed, failed, out, err := run(t.Context(), site+`expect page 203.0.113.9 from inet4 answers within 300ms
expect page 203.0.113.9 from inet4 silent
figure test.seconds elapsed
`, io.Discard)
	if err != nil || passed != 2 || failed != 1 {
		t.Errorf("%d passed, %d failed, %v", passed, failed, err)
	}
	for _, want := range []string{"FAILED  line 2 ", "passed  line 3 ", "nothing is left on the machine", "\nfigure test.seconds ", "tokyo-ctl.controller.log ends:"} {
		if !strings.Contains(out, want) {
			t.Errorf("the output lacks %q", want)
		}
	}
	if !strings.HasSuffix(out, "\n2 passed, 1 failed\n") {
		t.Error("the last line is not the count")
	}

	// The network's name is taken: a statement that fails.
	passed, failed, out, err = run(t.Context(), site+`network blue owner tokyo prefix 2001:db8:b1ae:1::/64
network red owner tokyo prefix 2001:db8:b1ae:1::/64
say "never said"
`, io.Discard)
	if err == nil || !strings.Contains(err.Error(), "x.lab:3:1: ") || passed != 1 || failed != 1 || strings.Contains(out, "never said") {
		t.Errorf("%d passed, %d failed, %v", passed, failed, err)
	}

	ctx, cancel := context.WithCancel(t.Context())
	passed, failed, _, err = run(ctx, site+"sleep 10m\n", onText{"sleep 10m", cancel})
	if err == nil || !strings.Contains(err.Error(), "interrupted") || passed != 1 || failed != 1 {
		t.Errorf("interrupted: %d passed, %d failed, %v", passed, failed, err)
	}
	cancel()
	_, failed, _, err = run(ctx, site, io.Discard) // interrupted before it is up
	if err == nil || failed == 0 {
		t.Errorf("interrupted at once: %d failed, %v", failed, err)
	}
}
