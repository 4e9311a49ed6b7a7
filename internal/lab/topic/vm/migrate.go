package vm

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"widecloud/api"
	"widecloud/internal/cloud"
	"widecloud/internal/lab/script"
	"widecloud/internal/lab/stage"
	"widecloud/internal/lab/topic/site"
	"widecloud/internal/saga"
)

// jobRef is a migration that was begun.
type jobRef struct {
	name  string // "": none was
	begun time.Time
}

// Migrate moves a VM, and is a check.
type Migrate struct {
	VM *VM
	To string // PLACE
}

// Begin begins to move a VM.
type Begin struct{ Migrate }

func parseMigrate(p *script.Parser) any {
	m := Migrate{VM: ref(p)}
	p.Is("to")
	m.To = site.Place(p)
	m.VM.Owner.MustReach(p, m.To)
	m.VM.migrates = true
	if p.Is("&") {
		return &Begin{m}
	}
	return &m
}

func (m *Migrate) begin(ctx context.Context) error {
	job, err := m.VM.client().Migrate(ctx, m.VM.name, m.To)
	if err == nil {
		m.VM.job = jobRef{name: job.Name, begun: time.Now()}
	}
	return err
}

// Do implements stage.Doer.
func (b *Begin) Do(ctx context.Context, _ *stage.Stage) error { return b.begin(ctx) }

// migrateTime is how long a migration that is waited for may take.
const migrateTime = 5 * time.Minute

// Judge implements stage.Judge: it sees the migration to its end.
func (m *Migrate) Judge(ctx context.Context, s *stage.Stage) (string, error) {
	if err := m.begin(ctx); err != nil {
		return "", err
	}
	job, err := m.VM.follow(ctx, s, migrateTime, func(j *api.Job) bool { return j.Status.State.Ended() })
	switch {
	case err != nil:
		return "", err
	case job.Status.State != api.JobDone:
		return "", errors.New(outcome(job))
	}
	return summary(job), nil
}

// outcome is how a job ended, with all reasons.
func outcome(j *api.Job) string {
	text := j.Name + " " + string(j.Status.State)
	if j.Status.Message != "" {
		text += ": " + j.Status.Message
	}
	for _, reason := range j.Status.Reasons {
		text += "; " + strings.Trim(reason.Site+"/"+reason.Host, "/") + ": " + reason.Message
	}
	return text
}

// summary is what a job has cost.
func summary(j *api.Job) string {
	p := j.Status.Progress
	return fmt.Sprintf("%.1f s, %s memory and %s disk moved as %s, down for %.0f ms",
		j.Status.Ended.Sub(j.Status.Started).Seconds(), stage.Mega(p.MemoryDone), stage.Mega(p.DiskDone), stage.Mega(p.WireBytes), p.Downtime*1000)
}

// job takes a VM that a migration was begun of.
func job(p *script.Parser) *VM {
	w := p.Peek()
	v := ref(p)
	if !v.migrates {
		p.Fail(w, "no migration of %s was begun", v.name)
	}
	return v
}

// last is the VM's last migration.
func (v *VM) last() (jobRef, error) {
	if v.job.name == "" {
		return v.job, fmt.Errorf("no migration of %s was begun", v.name)
	}
	return v.job, nil
}

// follow shows the progress of a VM's last migration until ok, or its end. A
// controller that does not answer may come back.
func (v *VM) follow(ctx context.Context, s *stage.Stage, within time.Duration, ok func(*api.Job) bool) (*api.Job, error) {
	ref, err := v.last()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	defer s.Out.EndProgress()
	var last *api.Job
	for {
		one, stop := context.WithTimeout(ctx, 5*time.Second)
		j, err := api.Get[api.Job](one, v.client(), ref.name)
		stop()
		if err == nil {
			last = j
			s.Out.Progress(j)
			if ok(j) || j.Status.State.Ended() {
				return j, nil
			}
		} else if errors.Is(err, &api.Error{Code: api.CodeNotFound}) {
			return nil, err
		}
		select {
		case <-ctx.Done():
			if last != nil {
				return nil, fmt.Errorf("job %s is still %s at step %q after %v: %s", ref.name, last.Status.State, last.Status.Step, within, last.Status.Message)
			}
			return nil, fmt.Errorf("job %s: not within %v: %w", ref.name, within, err)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Wait waits for a point of a migration, or its end.
type Wait struct {
	VM      *VM
	Percent int    // of memory and disk; 0: not asked for
	Step    string // of the journal; "": the end
	Within  time.Duration
}

var steps = []saga.Step{
	cloud.StepChecked, cloud.StepReserved, cloud.StepPrepared, cloud.StepCopying, cloud.StepCopied, cloud.StepCommitted, cloud.StepSwitched,
}

func parseWait(p *script.Parser) any {
	w := &Wait{VM: job(p)}
	switch {
	case p.Is("copied"):
		w.Percent = p.Percentage(1, 99)
	case p.Is("step"):
		var l []string
		for _, s := range steps {
			l = append(l, string(s))
		}
		w.Step = p.OneOf(l...)
	}
	w.Within = p.Within(2 * time.Minute)
	return w
}

func (w *Wait) reached(j *api.Job) bool {
	switch {
	case w.Percent > 0:
		p := j.Status.Progress
		total := p.MemoryTotal + p.DiskTotal
		return total > 0 && 100*(p.MemoryDone+p.DiskDone) >= int64(w.Percent)*total
	case w.Step != "":
		for _, row := range j.Status.Journal {
			if row.Step == w.Step {
				return true
			}
		}
		return j.Status.Step == w.Step
	}
	return j.Status.State.Ended()
}

// Do implements stage.Doer.
func (w *Wait) Do(ctx context.Context, s *stage.Stage) error {
	j, err := w.VM.follow(ctx, s, w.Within, w.reached)
	if err != nil {
		return err
	}
	if !w.reached(j) {
		return fmt.Errorf("job %s %s before that: %s", j.Name, j.Status.State, j.Status.Message)
	}
	s.Out.Under("job %s is at step %s", j.Name, j.Status.Step)
	return nil
}

// Cancel cancels a VM's last migration.
type Cancel struct{ VM *VM }

// Do implements stage.Doer.
func (c *Cancel) Do(ctx context.Context, _ *stage.Stage) error {
	job, err := c.VM.last()
	if err != nil {
		return err
	}
	_, err = c.VM.client().Cancel(ctx, job.name)
	return err
}

// ExpectJob expects the end of a VM's last migration.
type ExpectJob struct {
	VM     *VM
	Want   string // done, failed, cancelled, clean
	Within time.Duration
}

func parseExpectJob(p *script.Parser) any {
	e := &ExpectJob{VM: job(p), Want: p.OneOf("done", "failed", "cancelled", "clean")}
	e.Within = p.Within(2 * time.Minute)
	return e
}

// Judge implements stage.Judge. Clean: whatever its outcome, one hypervisor has the
// VM, one copy runs, and no job holds it. A VM that is to be stopped no hypervisor has.
func (e *ExpectJob) Judge(ctx context.Context, s *stage.Stage) (string, error) {
	start := time.Now()
	job, err := e.VM.follow(ctx, s, e.Within, func(j *api.Job) bool { return j.Status.State.Ended() })
	if err != nil {
		return "", err
	}
	text := outcome(job)
	if e.Want != "clean" {
		if string(job.Status.State) != e.Want {
			return "", errors.New(text)
		}
		if job.Status.State == api.JobDone {
			text = summary(job)
		}
		return text, nil
	}
	left := max(e.Within-time.Since(start), 5*time.Second)
	err = stage.Until(ctx, left, func(ctx context.Context) error {
		found, err := site.Of(s.Script).Find(ctx, e.VM.uid)
		if err != nil {
			return err
		}
		v, err := api.Get[api.VM](ctx, e.VM.client(), e.VM.name)
		if err != nil {
			return err
		}
		copies := 1
		if v.Spec.Power != api.PowerOn {
			copies = 0
		}
		if len(found.Defined) != copies || len(found.Active) != copies {
			return fmt.Errorf("%s; but the hypervisors have it as %v, defined at %v", text, found.Active, found.Defined)
		}
		if v.Status.Job != "" {
			return fmt.Errorf("%s; but job %s is still at work on the VM", text, v.Status.Job)
		}
		return nil
	})
	return text + "; nothing beside it", err
}

// Refused expects that a VM cannot move.
type Refused struct {
	VM      *VM
	To      string // PLACE
	Because string // a reason's code; "": any
}

func parseRefused(p *script.Parser) any {
	r := &Refused{VM: ref(p)}
	p.Is("to")
	r.To = site.Place(p)
	r.VM.Owner.MustReach(p, r.To)
	p.OneOf("refused")
	if p.Is("because") {
		r.Because = p.Next("the reason's word").Text
	}
	return r
}

// Judge implements stage.Judge.
func (r *Refused) Judge(ctx context.Context, _ *stage.Stage) (string, error) {
	reasons, err := r.VM.client().MigrateDryRun(ctx, r.VM.name, r.To)
	if err != nil {
		return "", err
	}
	var l []string
	found := r.Because == ""
	for _, reason := range reasons {
		l = append(l, reason.Code+": "+reason.Message)
		found = found || reason.Code == r.Because
	}
	switch text := strings.Join(l, "; "); {
	case len(reasons) == 0:
		return "", errors.New("it would be accepted")
	case !found:
		return "", fmt.Errorf("refused, but because of %s", text)
	default:
		return text, nil
	}
}

// Figure is what a VM's last migration has cost.
type Figure struct {
	Name, What string
	VM         *VM
}

func parseFigure(p *script.Parser) any {
	f := &Figure{Name: stage.NewFigure(p)}
	if p.First().Text == "ratio" {
		f.What = p.OneOf("wire")
	} else {
		f.What = p.OneOf("seconds", "wan_bytes", "downtime")
	}
	at := p.Last()
	f.VM = job(p)
	if f.What != "seconds" {
		f.VM.Owner.MustBeReal(p, at, "a guest has no memory and no disk to be moved")
	}
	return f
}

// Do implements stage.Doer.
func (f *Figure) Do(ctx context.Context, s *stage.Stage) error {
	ref, err := f.VM.last()
	if err != nil {
		return err
	}
	j, err := api.Get[api.Job](ctx, f.VM.client(), ref.name)
	if err != nil {
		return err
	}
	p := j.Status.Progress
	out := stage.Figure{Name: f.Name}
	switch f.What {
	case "seconds":
		out.Value, out.Unit = j.Status.Ended.Sub(j.Status.Started).Seconds(), "s"
	case "wan_bytes":
		out.Value, out.Unit = float64(p.WireBytes), "bytes"
	case "downtime":
		out.Value, out.Unit = p.Downtime*1000, "ms"
	case "wire":
		moved := p.MemoryDone + p.DiskDone
		if moved == 0 {
			return fmt.Errorf("job %s moved nothing", j.Name)
		}
		out.Value = float64(p.WireBytes) / float64(moved)
	}
	s.Figure(out)
	s.Out.Under("%s", out)
	return nil
}
