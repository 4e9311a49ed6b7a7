package lab

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"widecloud/api"
)

// expect makes a check. Its error is what kept the check from being made.
func (r *runner) expect(ctx context.Context, st Statement, e *ExpectStmt) error {
	detail, err := r.judge(ctx, e)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	k := Check{Pos: st.Pos, Text: st.Text, OK: err == nil, Detail: detail}
	if err != nil {
		k.Detail = describe(err)
	}
	r.check(k)
	return nil
}

// judge returns what was found, or what is wrong.
func (r *runner) judge(ctx context.Context, e *ExpectStmt) (detail string, err error) {
	start := time.Now()
	after := func() string { return fmt.Sprintf("after %.1f s", time.Since(start).Seconds()) }
	switch e.What {
	case "lost", "gap", "alive":
		return r.judgeTraffic(ctx, e)
	case "job":
		return r.judgeJob(ctx, e)
	case "page":
		return r.judgePage(ctx, e)
	case "loan":
		err := until(ctx, e.Within, func(ctx context.Context) error {
			l, err := r.fed.loan(ctx, e.Lender, e.Lender, e.VM)
			if errors.Is(err, &api.Error{Code: api.CodeNotFound}) && e.Want == string(api.LoanEnded) {
				return nil
			}
			if err == nil && string(l.Status.State) != e.Want {
				err = fmt.Errorf("loan %s is %s", l.Name, l.Status.State)
			}
			return err
		})
		return after(), err
	case "peer":
		err := until(ctx, e.Within, func(ctx context.Context) error { return r.fed.sites[e.From].reaches(ctx, e.Target) })
		return after(), err
	case "refused":
		reasons, err := r.home(e.VM).client.MigrateDryRun(ctx, e.VM, e.At)
		if err != nil {
			return "", err
		}
		var l []string
		found := e.Want == ""
		for _, reason := range reasons {
			l = append(l, reason.Code+": "+reason.Message)
			found = found || reason.Code == e.Want
		}
		if len(reasons) == 0 {
			return "", errors.New("it would be accepted")
		}
		if !found {
			return "", fmt.Errorf("refused, but because of %s", strings.Join(l, "; "))
		}
		return strings.Join(l, "; "), nil
	case "new network", "new address":
		return r.judgePlan(ctx, e)
	case "disk":
		v := r.vms[e.VM]
		sum, err := r.ask(ctx, e.VM, http.MethodGet, fmt.Sprintf("/disk?mb=%d", v.diskMiB))
		if err == nil && (sum != v.disk || sum == "") {
			err = fmt.Errorf("digest %s, but %s was written", sum, v.disk)
		}
		return fmt.Sprintf("%d MiB, as written", v.diskMiB), err
	case "boot":
		boot, err := r.ask(ctx, e.VM, http.MethodGet, "/boot")
		if v := r.vms[e.VM]; err == nil && v.boot == "" {
			return "", errors.New("the boot id was never seen before; expect it running first")
		} else if err == nil && boot != v.boot {
			err = fmt.Errorf("boot id %s, it was %s: the guest has booted again", boot, v.boot)
		}
		return "boot id " + boot, err
	case "addresses":
		var detail string
		err := until(ctx, e.Within, func(ctx context.Context) (err error) { detail, err = r.addressesSeen(ctx, e.VM); return err })
		return detail + ", " + after(), err
	case "pending":
		err := until(ctx, e.Within, func(ctx context.Context) error {
			v, err := api.Get[api.VM](ctx, r.home(e.VM).client, e.VM)
			if err == nil && (v.Status.Phase != api.PhasePending || len(v.Status.Reasons) == 0) {
				err = fmt.Errorf("vm %s is %s with %d reasons", e.VM, v.Status.Phase, len(v.Status.Reasons))
			}
			return err
		})
		return after(), err
	case "stopped":
		err := until(ctx, e.Within, func(ctx context.Context) error { return r.stopped(ctx, e.VM) })
		return after(), err
	case "running":
		err := until(ctx, e.Within, func(ctx context.Context) error { return r.running(ctx, e) })
		if err != nil {
			return "", err
		}
		r.rememberBoot(ctx, e.VM)
		found, err := r.fed.find(ctx, r.vms[e.VM].uid)
		return fmt.Sprintf("at %s, by libvirt's own word; %s", strings.Join(keys(found.active), ", "), after()), err
	}
	return r.judgeDC(ctx, e)
}

func keys(m map[string]string) []string {
	var l []string
	for k := range m {
		l = append(l, k)
	}
	slices.Sort(l)
	return l
}

func (r *runner) stopped(ctx context.Context, vm string) error {
	v, err := api.Get[api.VM](ctx, r.home(vm).client, vm)
	if err != nil {
		return err
	}
	if v.Status.Phase != api.PhaseStopped {
		return fmt.Errorf("vm %s is %s: %s", vm, v.Status.Phase, v.Status.Message)
	}
	found, err := r.fed.find(ctx, v.UID)
	if err == nil && len(found.active) > 0 {
		err = fmt.Errorf("the controller says stopped, but it runs: %v", found.active)
	}
	return err
}

// running checks what the hypervisors say against what is expected, then that the
// controller says the same.
func (r *runner) running(ctx context.Context, e *ExpectStmt) error {
	v := r.vms[e.VM]
	found, err := r.fed.find(ctx, v.uid)
	if err != nil {
		return err
	}
	running := 0
	for where, state := range found.active {
		if state != "running" {
			continue
		}
		running++
		if site, _, _ := strings.Cut(where, "/"); e.At != "" && where != e.At && site != e.At {
			return fmt.Errorf("vm %s runs at %s", e.VM, where)
		}
	}
	if running == 0 || e.Once && (running != 1 || len(found.active) != 1) {
		return fmt.Errorf("vm %s has %d running copies; the hypervisors have it as %v, defined at %v", e.VM, running, found.active, found.defined)
	}
	o, err := api.Get[api.VM](ctx, r.home(e.VM).client, e.VM)
	if err != nil {
		return err
	}
	if where := o.Status.Site + "/" + o.Status.Host; o.Status.Phase != api.PhaseRunning || found.active[where] == "" {
		return fmt.Errorf("the controller has vm %s as %s at %s: %s", e.VM, o.Status.Phase, where, o.Status.Message)
	}
	addresses := map[string]bool{}
	for _, a := range o.Status.Addresses {
		addresses[a.Address] = true
	}
	if v.addresses == nil {
		v.addresses = addresses
	}
	if e.Address {
		if len(v.addresses) == 0 {
			return fmt.Errorf("vm %s has no address", e.VM)
		}
		for a := range v.addresses {
			if !addresses[a] {
				return fmt.Errorf("vm %s had the address %s and has it no more", e.VM, a)
			}
		}
	}
	return nil
}

// rememberBoot keeps the boot id of a VM that was just seen running, if it can be
// asked; an expectation about it fails if it could not.
func (r *runner) rememberBoot(ctx context.Context, vm string) {
	v := r.vms[vm]
	if v.boot != "" || len(v.stmt.Service) == 0 {
		return
	}
	if boot, err := r.ask(ctx, vm, http.MethodGet, "/boot"); err == nil {
		v.boot = boot
	}
}

// judgeJob waits for the end of a migration. Clean: whatever its outcome, one
// hypervisor has the VM, one copy runs, and the VM is at nobody's work.
func (r *runner) judgeJob(ctx context.Context, e *ExpectStmt) (string, error) {
	start := time.Now()
	job, err := r.follow(ctx, e.VM, e.Within, func(j *api.Job) bool { return j.Status.State.Ended() })
	if err != nil {
		return "", err
	}
	outcome := jobOutcome(job)
	if e.Want != "clean" {
		if string(job.Status.State) != e.Want {
			return "", errors.New(outcome)
		}
		if job.Status.State == api.JobDone {
			outcome = jobSummary(job)
		}
		return outcome, nil
	}
	left := max(e.Within-time.Since(start), 5*time.Second)
	err = until(ctx, left, func(ctx context.Context) error {
		found, err := r.fed.find(ctx, r.vms[e.VM].uid)
		if err != nil {
			return err
		}
		if len(found.defined) != 1 || len(found.active) != 1 {
			return fmt.Errorf("%s; but the hypervisors have it as %v, defined at %v", outcome, found.active, found.defined)
		}
		v, err := api.Get[api.VM](ctx, r.home(e.VM).client, e.VM)
		if err == nil && v.Status.Job != "" {
			err = fmt.Errorf("%s; but job %s is still at work on the VM", outcome, v.Status.Job)
		}
		return err
	})
	return outcome + "; one copy, nothing beside it", err
}

func (r *runner) judgePage(ctx context.Context, e *ExpectStmt) (string, error) {
	to, err := r.host(e.Target, e.From)
	if err != nil {
		return "", err
	}
	get := func(ctx context.Context) (string, error) {
		ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
		defer cancel()
		return request(ctx, r.fed.from(e.From), http.MethodGet, urlOf(to)+"/")
	}
	start := time.Now()
	if e.Silent {
		err := until(ctx, e.Within, func(ctx context.Context) error {
			page, err := get(ctx)
			if err == nil {
				return fmt.Errorf("it answers: %s", firstLine(page))
			}
			return nil
		})
		return "no answer", err
	}
	var page string
	err = until(ctx, e.Within, func(ctx context.Context) (err error) {
		if page, err = get(ctx); err == nil && !strings.Contains(page, e.Says) {
			err = fmt.Errorf("%s says %q", to, firstLine(page))
		}
		return err
	})
	return fmt.Sprintf("%s answers %q after %.1f s", to, firstLine(page), time.Since(start).Seconds()), err
}

func firstLine(s string) string {
	line, _, _ := strings.Cut(s, "\n")
	return line
}

// addressesSeen tells whether the VM uses the addresses that it got by router
// advertisement and by DHCP, as its host saw them.
func (r *runner) addressesSeen(ctx context.Context, vm string) (string, error) {
	v, err := api.Get[api.VM](ctx, r.home(vm).client, vm)
	if err != nil {
		return "", err
	}
	var l []string
	for _, a := range v.Status.Addresses {
		if a.Origin == "service" {
			continue
		}
		if !a.Seen {
			return "", fmt.Errorf("%s (%s) is not seen", a.Address, a.Origin)
		}
		l = append(l, fmt.Sprintf("%s (%s)", a.Address, a.Origin))
	}
	if len(l) == 0 {
		return "", fmt.Errorf("vm %s has no address", vm)
	}
	return strings.Join(l, ", "), nil
}

// judgePlan asks for a prefix or an address that the site's plan is to refuse, by the field.
func (r *runner) judgePlan(ctx context.Context, e *ExpectStmt) (string, error) {
	c := r.fed.sites[e.At].client
	const name = "not-to-be"
	var err error
	if e.What == "new network" {
		if _, err = api.Create(ctx, c, &api.Network{Meta: api.Meta{Name: name}, Spec: api.NetworkSpec{Prefix: e.Target}}); err == nil {
			_, err = api.Delete[api.Network](ctx, c, name)
			return "", errors.Join(errors.New("it was accepted"), err)
		}
	} else if _, err = api.Create(ctx, c, &api.Address{Meta: api.Meta{Name: name}, Spec: api.AddressSpec{Address: e.Target}}); err == nil {
		_, err = api.Delete[api.Address](ctx, c, name)
		return "", errors.Join(errors.New("it was accepted"), err)
	}
	var refusal *api.Error
	if !errors.As(err, &refusal) || refusal.Field == "" {
		return "", fmt.Errorf("no refusal by the field: %w", err)
	}
	return refusal.Error(), nil
}
