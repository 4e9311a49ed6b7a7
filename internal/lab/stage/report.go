package stage

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"widecloud/api"
	"widecloud/internal/lab/script"
)

// Check is one expectation, and how it came out.
type Check struct {
	Pos    script.Pos
	Text   string
	OK     bool
	Detail string // figures if it is met, what is wrong if not
}

// Figure is something measured.
type Figure struct {
	Name  string
	Value float64
	Unit  string // "" for a ratio
}

func (f Figure) String() string {
	v := strings.TrimSuffix(strings.TrimRight(fmt.Sprintf("%.3f", f.Value), "0"), ".")
	if f.Unit == "" {
		return "ratio " + f.Name + " " + v
	}
	return "figure " + f.Name + " " + v + " " + f.Unit
}

// Result of a script.
type Result struct {
	Checks  []Check
	Figures []Figure
}

// Counts are the numbers of checks that passed and failed.
func (r *Result) Counts() (passed, failed int) {
	for _, c := range r.Checks {
		if c.OK {
			passed++
		} else {
			failed++
		}
	}
	return passed, failed
}

// Console shows what happens as it happens. On a terminal a job's progress is
// redrawn in place.
type Console struct {
	out   io.Writer
	tty   bool
	start time.Time

	mu    sync.Mutex
	drawn bool
	step  string
	tenth int
}

// NewConsole makes one whose clock begins now; on a terminal if tty.
func NewConsole(out io.Writer, tty bool) *Console {
	return &Console{out: out, tty: tty, start: time.Now()}
}

// Elapsed is the time since the console was made.
func (c *Console) Elapsed() time.Duration { return time.Since(c.start) }

func (c *Console) paint(code, text string) string {
	if !c.tty {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

// Line prints a line with the time since the start.
func (c *Console) Line(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.clear()
	fmt.Fprintf(c.out, "%7.1fs  %s\n", time.Since(c.start).Seconds(), fmt.Sprintf(format, args...))
}

// Under prints something that belongs to the line before.
func (c *Console) Under(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.clear()
	fmt.Fprintf(c.out, "          %s\n", fmt.Sprintf(format, args...))
}

// Plain prints lines as they are.
func (c *Console) Plain(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.clear()
	fmt.Fprintf(c.out, format+"\n", args...)
}

// Say prints a heading.
func (c *Console) Say(text string) { c.Plain("\n%s", c.paint("1;36", "== "+text)) }

func (c *Console) check(k Check) {
	if k.OK {
		c.Under("%s %s", c.paint("32", "passed"), k.Detail)
		return
	}
	c.Under("%s %s", c.paint("1;31", "FAILED"), k.Detail)
}

func (c *Console) clear() {
	if c.drawn {
		fmt.Fprint(c.out, "\r\x1b[K")
		c.drawn = false
	}
}

const progressWidth = 30

// Progress shows how far a job is.
func (c *Console) Progress(j *api.Job) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := j.Status.Progress
	done, total := p.MemoryDone+p.DiskDone, p.MemoryTotal+p.DiskTotal
	percent := 0
	if total > 0 {
		percent = int(min(100*done/total, 100))
	}
	step := j.Status.Step
	if j.Status.State == api.JobUndoing {
		step = "undoing " + step
	}
	var more []string
	if total > 0 {
		for _, part := range []struct {
			name        string
			done, total int64
		}{{"memory", p.MemoryDone, p.MemoryTotal}, {"disk", p.DiskDone, p.DiskTotal}} {
			if part.total > 0 { // it is begun
				more = append(more, fmt.Sprintf("%s %s of %s", part.name, Mega(part.done), Mega(part.total)))
			}
		}
	}
	if p.Rate > 0 {
		more = append(more, Mega(int64(p.Rate))+"/s")
	}
	if p.SecondsLeft > 0 {
		more = append(more, fmt.Sprintf("%.0f s left", p.SecondsLeft))
	}
	full := percent * progressWidth / 100
	bar := fmt.Sprintf("[%s%s] %3d%% %-10s %s", strings.Repeat("#", full), strings.Repeat("-", progressWidth-full), percent, step, strings.Join(more, ", "))
	if c.tty {
		fmt.Fprintf(c.out, "\r\x1b[K          %s", bar)
		c.drawn = true
		return
	}
	if step == c.step && percent/25 <= c.tenth {
		return
	}
	c.step, c.tenth = step, percent/25
	fmt.Fprintf(c.out, "          %s\n", strings.TrimSpace(bar))
}

// EndProgress takes the bar away.
func (c *Console) EndProgress() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.clear()
	c.step, c.tenth = "", 0
}

// Mega is a number of bytes for people.
func Mega(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }

// Report prints the table of checks, the figures, and the last line.
func (r *Result) Report(c *Console) {
	if len(r.Checks) > 0 {
		c.Plain("\n%s", c.paint("1", "Checks"))
	}
	for _, k := range r.Checks {
		word := c.paint("32", "passed")
		if !k.OK {
			word = c.paint("1;31", "FAILED")
		}
		c.Plain("  %s  %-8s %s", word, fmt.Sprintf("line %d", k.Pos.Line), k.Text)
		if k.Detail != "" {
			c.Plain("                   %s", strings.ReplaceAll(k.Detail, "\n", "\n                   "))
		}
	}
	if len(r.Figures) > 0 {
		c.Plain("")
		for _, f := range r.Figures {
			c.Plain("%s", f)
		}
	}
	if len(r.Checks) == 0 {
		c.Plain("\nall that the script declares is up; there was nothing to check")
		return
	}
	passed, failed := r.Counts()
	c.Plain("\n%d passed, %d failed", passed, failed)
}

// Describe is an error with all its reasons.
func Describe(err error) string {
	text := err.Error()
	var e *api.Error
	if errors.As(err, &e) {
		for _, reason := range e.Reasons {
			if reason.Advice != "" {
				text += " (" + reason.Advice + ")"
			}
		}
	}
	return text
}
