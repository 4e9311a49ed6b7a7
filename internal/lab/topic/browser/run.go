package browser

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"widecloud/internal/lab/script"
	"widecloud/internal/lab/stage"
	"widecloud/internal/lab/topic/site"
)

// Tests are run, and each is a check.
type Tests struct {
	pos   script.Pos
	Site  *site.Site
	Specs []string
}

// Begin runs tests in the background.
type Begin struct {
	Tests
	run *run // nil: not begun
}

// Judge implements stage.Judge.
func (t *Tests) Judge(ctx context.Context, s *stage.Stage) (string, error) {
	r, err := t.start(ctx, s)
	if err != nil {
		return "", err
	}
	<-r.done
	return r.outcome()
}

// Do implements stage.Doer.
func (b *Begin) Do(ctx context.Context, s *stage.Stage) (err error) {
	b.run, err = b.start(ctx, s)
	return err
}

// Step waits for a point of tests in the background.
type Step struct {
	Of     *Begin
	Text   string
	Within time.Duration
}

// Do implements stage.Doer.
func (t *Step) Do(ctx context.Context, _ *stage.Stage) error {
	return stage.Until(ctx, t.Within, func(context.Context) error { return t.Of.run.reached(t.Text) })
}

// End is that of tests in the background.
type End struct {
	Of     *Begin
	Within time.Duration
}

// Judge implements stage.Judge.
func (e *End) Judge(ctx context.Context, _ *stage.Stage) (string, error) {
	r := e.Of.run
	select {
	case <-r.done:
		return r.outcome()
	case <-time.After(e.Within):
		r.stop()
		<-r.done
		return "", fmt.Errorf("they had not ended within %v", e.Within)
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

// start runs the tests on the controller's machine, whose loopback has the page.
func (t *Tests) start(ctx context.Context, s *stage.Stage) (*run, error) {
	n := t.Site.RunsOn()
	log, err := os.OpenFile(n.LogPath("browser"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, runTime)
	s.AtEnd(cancel)
	args := []string{"node_modules/@playwright/test/cli.js", "test", "--reporter=./e2e/lines.ts", "--output=" + filepath.Join(nodeResults, "traces-"+t.Site.Name()+"-"+t.Specs[0])}
	for _, spec := range t.Specs {
		args = append(args, "/"+spec+`\.spec\.ts$`)
	}
	c := n.Command(ctx, "node", args...)
	c.Dir = nodeSources
	c.Env = append(c.Env, "PAGE_URL=http://"+site.APIAddress, "PAGE_TOKEN="+t.Site.Token(), "PAGE_SITE="+t.Site.Name(), "PAGE_SHOTS="+nodeResults, "FORCE_COLOR=0")
	r := &run{tests: t, stage: s, dir: filepath.Join(s.LogDir, "browser"), stop: cancel, done: make(chan struct{})}
	c.Stdout, c.Stderr = &lines{line: r.line, rest: log}, log
	begun := time.Now()
	if err := c.Start(); err != nil {
		return nil, errors.Join(err, log.Close())
	}
	go func() {
		r.err, r.took = c.Wait(), time.Since(begun)
		if ctx.Err() == context.DeadlineExceeded {
			r.err = fmt.Errorf("they had not ended after %v", runTime)
		}
		cancel()
		log.Close()
		close(r.done)
	}()
	return r, nil
}

// run is tests that run.
type run struct {
	tests *Tests
	stage *stage.Stage
	dir   string // of pictures and traces
	stop  context.CancelFunc

	done chan struct{}
	err  error // of the program; set before done is closed, as took is
	took time.Duration

	mu             sync.Mutex
	steps          []string
	passed, failed int
	faults         []string // of no test: what Playwright could not run
}

// event is a line of web/e2e/lines.ts.
type event struct {
	Step  string // that has been done
	Fault string // of no test

	Test, Spec, Status, Error string // of a test that has ended; Error has lines
	Seconds                   float64
}

// line takes a line of the output, if it is an event.
func (r *run) line(text []byte) bool {
	var e event
	if json.Unmarshal(text, &e) != nil || e == (event{}) {
		return false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case e.Step != "":
		r.steps = append(r.steps, e.Step)
	case e.Test == "":
		r.faults = append(r.faults, e.Fault)
	case e.Status == "passed":
		r.passed++
		r.check(e, fmt.Sprintf("%s (%.1f s)", e.Test, e.Seconds))
	default:
		r.failed++
		r.check(e, fmt.Sprintf("%s: %s after %.1f s: %s", e.Test, e.Status, e.Seconds, e.Error))
	}
	return true
}

func (r *run) check(e event, detail string) {
	r.stage.Check(stage.Check{Pos: r.tests.pos, Text: "browser " + r.tests.Site.Name() + " " + e.Spec, OK: e.Status == "passed", Detail: detail})
}

// reached is nil once a step has been done.
func (r *run) reached(step string) error {
	select {
	case <-r.done:
		_, err := r.outcome()
		return errors.Join(fmt.Errorf("%w: the tests have ended without the step %q", stage.ErrGiveUp, step), err)
	default:
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if slices.Contains(r.steps, step) {
		return nil
	}
	return fmt.Errorf("the step %q has not been done; done are: %q", step, r.steps)
}

// outcome is that of tests that have ended.
func (r *run) outcome() (string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	var errs []error
	for _, f := range r.faults {
		errs = append(errs, errors.New(f))
	}
	switch {
	case r.failed > 0:
		errs = append(errs, fmt.Errorf("%d of %d tests failed; traces are in %s", r.failed, r.failed+r.passed, r.dir))
	case r.passed == 0:
		errs = append(errs, fmt.Errorf("no test has run; see %s", r.stage.LogDir), r.err)
	case r.err != nil:
		errs = append(errs, fmt.Errorf("playwright: %w; see %s", r.err, r.stage.LogDir))
	}
	if err := errors.Join(errs...); err != nil {
		return "", err
	}
	return fmt.Sprintf("%d tests in %.1f s", r.passed, r.took.Seconds()), nil
}

// lines gives each line that is written to a function, and to a file those that it does not take.
type lines struct {
	line func([]byte) bool
	rest *os.File
	part []byte
}

// Write implements io.Writer.
func (l *lines) Write(b []byte) (int, error) {
	l.part = append(l.part, b...)
	for {
		i := bytes.IndexByte(l.part, '\n')
		if i < 0 {
			return len(b), nil
		}
		if !l.line(l.part[:i]) {
			if _, err := l.rest.Write(l.part[:i+1]); err != nil {
				return 0, err
			}
		}
		l.part = l.part[i+1:]
	}
}
