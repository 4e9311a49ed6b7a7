package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"widecloud/api"
)

// waitJob shows a job's progress until it ends, and gives what kept it from its end: CodeRefused, with its reasons.
func waitJob(a *app, client *api.Client, name string) (*api.Job, error) {
	p := progress{a: a}
	defer p.end()
	for j, err := range api.Follow[api.Job](a, client, name) {
		if err != nil {
			return nil, fmt.Errorf("wait for job %s: %w", name, err)
		}
		p.show(j)
		switch {
		case j.Status.State == api.JobDone:
			return j, nil
		case j.Status.State.Ended():
			message := j.Status.Message
			if message == "" {
				message = "no reason was given"
			}
			return j, &api.Error{Code: api.CodeRefused, Message: fmt.Sprintf("job %s %s: %s", name, j.Status.State, message), Reasons: j.Status.Reasons}
		}
	}
	return nil, fmt.Errorf("wait for job %s: %w; it goes on (wcc job cancel %s ends it)", name, cause(a), name)
}

// waitVM shows what a VM does until ok says that it is as wanted, or it has failed.
func waitVM(a *app, client *api.Client, name string, ok func(*api.VM) bool) (*api.VM, error) {
	said := ""
	for v, err := range api.Follow[api.VM](a, client, name) {
		if err != nil {
			return nil, fmt.Errorf("wait for vm %s: %w", name, err)
		}
		if ok(v) {
			return v, nil
		}
		lost := rests(v) && v.Status.Phase == api.PhaseStopped
		if v.Status.Phase == api.PhaseFailed || lost {
			return v, &api.Error{Code: api.CodeRefused, Message: fmt.Sprintf("vm %s failed: %s", name, v.Status.Message), Reasons: v.Status.Reasons}
		}
		if v.Status.Phase == "" {
			continue // nothing has been done about it yet
		}
		line := fmt.Sprintf("vm %s: %s", name, v.Status.Phase)
		if p := place(v.Status.Site, v.Status.Host); p != "" {
			line += " at " + p
		}
		if v.Status.Message != "" {
			line += ": " + v.Status.Message
		}
		if key := fmt.Sprint(line, v.Status.Reasons); key != said {
			said = key
			a.err.printf("%s\n", line)
			a.err.reasons(v.Status.Reasons)
		}
	}
	return nil, fmt.Errorf("wait for vm %s: %w; the request stays in force", name, cause(a))
}

// waitGone waits until an object that is being deleted is gone.
func waitGone(a *app, client *api.Client, n api.Noun, name string) error {
	said := ""
	for o, err := range client.Follow(a, n.Kind, name) {
		if errors.Is(err, &api.Error{Code: api.CodeNotFound}) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("wait for the end of %s: %w", name, err)
		}
		if m := statusMessage(o); m != "" && m != said {
			said = m
			a.err.printf("%s %s: %s\n", noun(n.Kind), name, m)
		}
	}
	return fmt.Errorf("wait for the end of %s: %w; the deletion goes on", name, cause(a))
}

// progress shows a job: on a terminal in one line that is redrawn, otherwise in a line for each step and each tenth.
type progress struct {
	a     *app
	drawn bool
	step  string
	tenth int
}

func (p *progress) show(j *api.Job) {
	s := j.Status
	step := s.Step
	if s.State == api.JobUndoing {
		step = "undoing " + step
	}
	if s.Bulk != nil {
		step = counts(s.Bulk)
	}
	if p.a.tty {
		p.a.err.printf("\r\x1b[K%s", bar(step, s.Progress))
		p.drawn = true
		return
	}
	tenth := percent(s.Progress) / 10
	if step == p.step && tenth <= p.tenth {
		return
	}
	p.step, p.tenth = step, tenth
	if line := strings.Join(nonEmpty(step, figures(s.Progress)), ": "); line != "" {
		p.a.err.printf("%s: %s\n", j.Name, line)
	}
}

func (p *progress) end() {
	if p.drawn {
		p.a.err.printf("\n")
	}
}

// done gives how many bytes there are in all and how many of them are done.
func done(p api.Progress) (done, total int64) {
	return p.MemoryDone + p.DiskDone, p.MemoryTotal + p.DiskTotal
}

// percent is 0 to 100. It is 100 only when nothing is left: memory that is written again makes totals grow.
func percent(p api.Progress) int {
	d, t := done(p)
	if t <= 0 {
		return 0
	}
	if d >= t {
		return 100
	}
	return min(99, int(100*float64(max(0, d))/float64(t)))
}

// figures says memory, disk, rate and time left, as far as they are known.
func figures(p api.Progress) string {
	var l []string
	if p.MemoryTotal > 0 {
		l = append(l, fmt.Sprintf("memory %s/%s", size(p.MemoryDone), size(p.MemoryTotal)))
	}
	if p.DiskTotal > 0 {
		l = append(l, fmt.Sprintf("disk %s/%s", size(p.DiskDone), size(p.DiskTotal)))
	}
	return strings.Join(append(l, pace(p)...), ", ")
}

func pace(p api.Progress) (l []string) {
	if p.Rate > 0 {
		l = append(l, size(int64(p.Rate))+"/s")
	}
	if p.DirtyRate > 0 {
		l = append(l, "dirtied "+size(int64(p.DirtyRate))+"/s")
	}
	if p.SecondsLeft > 0 {
		l = append(l, time.Duration(p.SecondsLeft*float64(time.Second)).Round(time.Second).String()+" left")
	}
	return l
}

const barWidth = 30

// bar is a line for a terminal.
func bar(step string, p api.Progress) string {
	line := step
	if _, total := done(p); total > 0 {
		n := percent(p)
		full := n * barWidth / 100
		line = fmt.Sprintf("[%s%s] %3d%%  %s", strings.Repeat("#", full), strings.Repeat("-", barWidth-full), n, step)
	}
	return strings.Join(nonEmpty(line, strings.Join(pace(p), ", ")), "  ")
}

func nonEmpty(l ...string) (some []string) {
	for _, s := range l {
		if s != "" {
			some = append(some, s)
		}
	}
	return some
}

// cause says why a's context ended.
func cause(a *app) error { return context.Cause(a.Context) }

// waitFor gives f an app whose context ends after the timeout.
func waitFor[T any](a *app, timeout time.Duration, f func(*app) (T, error)) (T, error) {
	b, cancel := a.withTimeout(timeout)
	defer cancel()
	return f(b)
}
