package lab

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"widecloud/api"
)

// act does a statement that is no check.
func (r *runner) act(ctx context.Context, do any) error {
	f := r.fed
	switch s := do.(type) {
	case *ImageStmt:
		return r.importImage(ctx, s.Name)
	case *NetworkStmt:
		n := &api.Network{Meta: api.Meta{Name: s.Name}, Spec: api.NetworkSpec{Prefix: s.Prefix.String()}}
		if s.IPv4.IsValid() {
			n.Spec.IPv4 = s.IPv4.String()
		}
		_, err := api.Create(ctx, f.sites[s.Owner].client, n)
		return err
	case *VMStmt:
		return r.makeVM(ctx, s)
	case *BorrowStmt:
		return r.borrow(ctx, s)
	case *RevokeStmt:
		loan, err := f.loan(ctx, s.Lender, s.Lender, s.Borrower)
		if err != nil {
			return err
		}
		_, err = f.sites[s.Lender].client.Reclaim(ctx, loan.Name)
		return err
	case *TrafficStmt:
		to, err := r.host(s.Target, s.From)
		if err != nil {
			return err
		}
		flow, err := startFlow(ctx, f.from(s.From), s, to)
		if err != nil {
			return err
		}
		r.flows[s.Name] = flow
		alive, cancel := context.WithTimeout(ctx, 20*time.Second)
		defer cancel()
		if err := flow.alive(alive); err != nil {
			return fmt.Errorf("the traffic does not begin: %w", err)
		}
		flow.reset() // what was lost before the service was there is not the script's matter
	case *MeasureStmt:
		for _, name := range s.Names {
			for _, f := range r.flowing(name) {
				f.reset()
			}
		}
	case *StopStmt:
		r.flows[s.Traffic].stop()
	case *PowerStmt:
		return r.power(ctx, s)
	case *WaitStmt:
		return r.wait(ctx, s)
	case *CancelStmt:
		job, err := r.jobOf(s.VM)
		if err != nil {
			return err
		}
		_, err = r.home(s.VM).client.Cancel(ctx, job.name)
		return err
	case *KillStmt:
		return f.kill(s.Site, s.Host, s.Process, s.Signal)
	case *StartStmt:
		return f.start(s.Site, s.Host, s.Process)
	case *UpgradeStmt:
		return f.upgrade(ctx, s)
	case *PlugStmt:
		n := f.node(s.Site, s.Host)
		if s.On {
			return n.PowerOn()
		}
		return n.PowerOff()
	case *CutStmt:
		return f.cut(s.A, s.B, s.Heal)
	case *WriteStmt:
		return r.write(ctx, s)
	case *DirtyStmt:
		_, err := r.ask(ctx, s.VM, http.MethodPost, fmt.Sprintf("/dirty?mb=%d&rate=%d", s.MiB, s.Rate))
		return err
	case *SleepStmt:
		select {
		case <-ctx.Done():
		case <-time.After(s.For):
		}
	default:
		return r.actDC(ctx, do)
	}
	return nil
}

// home is the site that a VM's owner belongs to.
func (r *runner) home(vm string) *fedSite { return r.fed.sites[r.vms[vm].stmt.Owner] }

// importImage imports the image at every site that owns a VM of the script, or
// at all if none does.
func (r *runner) importImage(ctx context.Context, name string) error {
	owners := map[string]bool{}
	for _, st := range r.script.Statements {
		if v, ok := st.Do.(*VMStmt); ok && v.Image == name {
			owners[v.Owner] = true
		}
	}
	digest, err := fileDigest(r.images[name])
	if err != nil {
		return err
	}
	return r.fed.each(ctx, func(ctx context.Context, s *fedSite) error {
		if len(owners) > 0 && !owners[s.stmt.Name] {
			return nil
		}
		_, err := api.Create(ctx, s.client, &api.Image{Meta: api.Meta{Name: name},
			Spec: api.ImageSpec{Source: filepath.Join(nodeImages, filepath.Base(r.images[name])), Digest: digest}})
		if err != nil {
			return err
		}
		return until(ctx, 3*time.Minute, func(ctx context.Context) error {
			i, err := api.Get[api.Image](ctx, s.client, name)
			switch {
			case err != nil:
				return err
			case i.Status.Phase == "failed":
				return fmt.Errorf("%w: import of %s: %s", errGiveUp, name, i.Status.Message)
			case i.Status.Phase != "ready":
				return fmt.Errorf("image %s is %s", name, i.Status.Phase)
			}
			return nil
		})
	})
}

func fileDigest(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return "sha256:" + hex.EncodeToString(h.Sum(nil)), nil
}

// makeVM makes a VM with its service addresses, as a user would.
func (r *runner) makeVM(ctx context.Context, s *VMStmt) error {
	c := r.fed.sites[s.Owner].client
	v, err := api.Create(ctx, c, &api.VM{Meta: api.Meta{Name: s.Name}, Spec: api.VMSpec{
		Hardware: api.Hardware{CPUs: s.CPUs, MemoryMiB: s.MemoryMiB}, Image: s.Image, Network: s.Network, Power: api.PowerOn, Place: s.At,
		UserData: r.data[s.Name]}})
	if err != nil {
		return err
	}
	r.vms[s.Name] = &vmState{stmt: s, uid: v.UID}
	for _, a := range s.Service {
		name := strings.NewReplacer(".", "-", ":", "-").Replace(a.StringExpanded())
		if _, err := api.Create(ctx, c, &api.Address{Meta: api.Meta{Name: name}, Spec: api.AddressSpec{Address: a.String(), VM: s.Name}}); err != nil {
			return err
		}
	}
	return nil
}

func (r *runner) borrow(ctx context.Context, s *BorrowStmt) error {
	c := r.fed.sites[s.Borrower].client
	var loan *api.Loan
	err := until(ctx, 30*time.Second, func(ctx context.Context) (err error) {
		loan, err = c.Borrow(ctx, s.Lender, offerName, s.Amount)
		// The offer travels by itself; until it is there, it is not known.
		if errors.Is(err, &api.Error{Code: api.CodeRefused}) {
			return fmt.Errorf("%w: %w", errGiveUp, err)
		}
		return err
	})
	if err != nil {
		return err
	}
	return until(ctx, 30*time.Second, func(ctx context.Context) error {
		l, err := api.Get[api.Loan](ctx, c, loan.Name)
		if err == nil && l.Status.State != api.LoanActive {
			err = fmt.Errorf("loan %s is %s: %s", l.Name, l.Status.State, l.Status.Message)
		}
		return err
	})
}

// loan finds the newest loan between two sites, as one of them sees it.
func (f *Federation) loan(ctx context.Context, seenBy, lender, borrower string) (*api.Loan, error) {
	loans, _, err := api.List[api.Loan](ctx, f.sites[seenBy].client)
	if err != nil {
		return nil, err
	}
	var newest *api.Loan
	for _, l := range loans {
		if l.Spec.Lender == lender && l.Spec.Borrower == borrower && (newest == nil || l.Created.After(newest.Created)) {
			newest = l
		}
	}
	if newest == nil {
		return nil, fmt.Errorf("%s knows of no loan of %s to %s", seenBy, lender, borrower)
	}
	return newest, nil
}

// host is what a client at a place uses to reach a target: an address or a name.
func (r *runner) host(target, from string) (string, error) {
	if r.script.DC != nil {
		return r.script.DC.reach(from, target)
	}
	a, err := r.address(target, from)
	return a.String(), err
}

// address is what a client at a place uses to reach a VM, or the address itself.
func (r *runner) address(target, from string) (netip.Addr, error) {
	if v := r.vms[target]; v != nil {
		if a, ok := v.stmt.serviceFor(from); ok {
			return a, nil
		}
		return netip.Addr{}, fmt.Errorf("vm %s has no service address for a client at %s", target, from)
	}
	return netip.ParseAddr(target)
}

// ask makes a request to a VM's guest, from the Internet or, if that does not
// reach it, from its home site.
func (r *runner) ask(ctx context.Context, vm, method, path string) (string, error) {
	from := "inet4"
	if _, ok := r.vms[vm].stmt.serviceFor(from); !ok {
		from = "inet6"
	}
	a, err := r.address(vm, from)
	if err != nil {
		return "", err
	}
	var answer string
	// An emulated guest beside busy cores takes its time: 16 MiB of its disk have taken 20 s.
	err = until(ctx, 3*time.Minute, func(ctx context.Context) (err error) {
		ctx, cancel := context.WithTimeout(ctx, time.Minute)
		defer cancel()
		answer, err = request(ctx, r.fed.from(from), method, urlOf(a.String())+path)
		return err
	})
	return strings.TrimSpace(answer), err
}

func (r *runner) write(ctx context.Context, s *WriteStmt) (err error) {
	v := r.vms[s.VM]
	v.diskMiB = s.MiB
	v.disk, err = r.ask(ctx, s.VM, http.MethodPut, fmt.Sprintf("/disk?mb=%d&seed=%d", s.MiB, time.Now().UnixNano()&0xffff))
	return err
}

func (r *runner) power(ctx context.Context, s *PowerStmt) error {
	c := r.home(s.VM).client
	set := func(p api.Power) error {
		_, err := api.Edit(ctx, c, s.VM, func(v *api.VM) error { v.Spec.Power = p; return nil })
		return err
	}
	switch s.Verb {
	case "stop":
		return set(api.PowerOff)
	case "start":
		return set(api.PowerOn)
	case "reboot":
		r.vms[s.VM].boot = ""
		return c.Reboot(ctx, s.VM, false)
	}
	if _, err := api.Delete[api.VM](ctx, c, s.VM); err != nil {
		return err
	}
	return until(ctx, time.Minute, func(ctx context.Context) error {
		_, err := api.Get[api.VM](ctx, c, s.VM)
		switch {
		case errors.Is(err, &api.Error{Code: api.CodeNotFound}):
			return nil
		case err == nil:
			return fmt.Errorf("vm %s is still there", s.VM)
		}
		return err
	})
}

// migrate begins a migration, and in the foreground sees it to its end, which is
// a check.
func (r *runner) migrate(ctx context.Context, st Statement, s *MigrateStmt) error {
	c := r.home(s.VM).client
	job, err := c.Migrate(ctx, s.VM, s.To)
	if err != nil {
		if s.Background {
			return err
		}
		r.check(Check{Pos: st.Pos, Text: st.Text, Detail: describe(err)})
		return nil
	}
	r.jobs[s.VM] = jobRef{name: job.Name, begun: time.Now()}
	if s.Background {
		return nil
	}
	job, err = r.follow(ctx, s.VM, 5*time.Minute, func(j *api.Job) bool { return j.Status.State.Ended() })
	k := Check{Pos: st.Pos, Text: st.Text}
	switch {
	case err != nil:
		k.Detail = describe(err)
	case job.Status.State != api.JobDone:
		k.Detail = jobOutcome(job)
	default:
		k.OK, k.Detail = true, jobSummary(job)
	}
	r.check(k)
	return nil
}

// jobOutcome is how a job ended, with all reasons.
func jobOutcome(j *api.Job) string {
	text := j.Name + " " + string(j.Status.State)
	if j.Status.Message != "" {
		text += ": " + j.Status.Message
	}
	for _, reason := range j.Status.Reasons {
		text += "; " + strings.Trim(reason.Site+"/"+reason.Host, "/") + ": " + reason.Message
	}
	return text
}

// jobSummary is what a job has cost.
func jobSummary(j *api.Job) string {
	p := j.Status.Progress
	return fmt.Sprintf("%.1f s, %s memory and %s disk moved as %s, down for %.0f ms",
		j.Status.Ended.Sub(j.Status.Started).Seconds(), mega(p.MemoryDone), mega(p.DiskDone), mega(p.WireBytes), p.Downtime*1000)
}

func (r *runner) jobOf(vm string) (jobRef, error) {
	j, ok := r.jobs[vm]
	if !ok {
		return j, fmt.Errorf("no migration of %s was begun", vm)
	}
	return j, nil
}

// follow shows the progress of a VM's last migration until ok, or its end. A
// controller that does not answer may come back.
func (r *runner) follow(ctx context.Context, vm string, within time.Duration, ok func(*api.Job) bool) (*api.Job, error) {
	ref, err := r.jobOf(vm)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	defer r.out.endProgress()
	var last *api.Job
	for {
		one, stop := context.WithTimeout(ctx, 5*time.Second)
		j, err := api.Get[api.Job](one, r.home(vm).client, ref.name)
		stop()
		if err == nil {
			last = j
			r.out.progress(j)
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

// wait waits for a point of a migration, or its end.
func (r *runner) wait(ctx context.Context, s *WaitStmt) error {
	reached := func(j *api.Job) bool {
		switch {
		case s.Percent > 0:
			p := j.Status.Progress
			total := p.MemoryTotal + p.DiskTotal
			return total > 0 && 100*(p.MemoryDone+p.DiskDone) >= int64(s.Percent)*total
		case s.Step != "":
			for _, row := range j.Status.Journal {
				if row.Step == s.Step {
					return true
				}
			}
			return j.Status.Step == s.Step
		}
		return j.Status.State.Ended()
	}
	j, err := r.follow(ctx, s.VM, s.Within, reached)
	if err != nil {
		return err
	}
	if !reached(j) {
		return fmt.Errorf("job %s %s before that: %s", j.Name, j.Status.State, j.Status.Message)
	}
	r.out.under("job %s is at step %s", j.Name, j.Status.Step)
	return nil
}

// measured takes a figure.
func (r *runner) measured(ctx context.Context, s *FigureStmt) error {
	if s.What == "elapsed" {
		r.elapsed = append(r.elapsed, s.Name)
		return nil
	}
	var fig Figure
	switch s.What {
	case "gap":
		fig = Figure{s.Name, float64(r.flows[s.Of].settle(ctx).Gap) / 1e6, "ms"}
	case "lost":
		unit := "requests"
		if r.flows[s.Of].stmt.Rate > 0 {
			unit = "bytes"
		}
		fig = Figure{s.Name, float64(r.flows[s.Of].settle(ctx).Lost), unit}
	default:
		ref, err := r.jobOf(s.Of)
		if err != nil {
			return err
		}
		j, err := api.Get[api.Job](ctx, r.home(s.Of).client, ref.name)
		if err != nil {
			return err
		}
		p := j.Status.Progress
		switch s.What {
		case "seconds":
			fig = Figure{s.Name, j.Status.Ended.Sub(j.Status.Started).Seconds(), "s"}
		case "wan_bytes":
			fig = Figure{s.Name, float64(p.WireBytes), "bytes"}
		case "downtime":
			fig = Figure{s.Name, p.Downtime * 1000, "ms"}
		case "wire":
			if moved := p.MemoryDone + p.DiskDone; moved > 0 {
				fig = Figure{s.Name, float64(p.WireBytes) / float64(moved), ""}
			} else {
				return fmt.Errorf("job %s moved nothing", j.Name)
			}
		}
	}
	r.figure(fig)
	r.out.under("%s", fig)
	return nil
}
