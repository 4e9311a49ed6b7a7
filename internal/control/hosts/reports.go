package hosts

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"widecloud/api"
	"widecloud/internal/cloud"
	"widecloud/internal/control/objects"
	"widecloud/internal/state"
	"widecloud/internal/store"
	"widecloud/internal/wire"
)

// seeHost keeps what an agent says of its host. Roles are its admin's to give: what the agent is configured for is shown, and
// can only be less.
func (hs *Hosts) seeHost(tx *state.Tx, h *api.Host, r wire.HostReport) error {
	if h.Status.Message == hostLost {
		hs.Event(tx, "host.back", "hosts/"+h.Name, "", fmt.Sprintf("its agent was not reached for %v", hs.Now().Sub(h.Status.Since).Round(time.Second)))
	}
	if !h.Status.Connected {
		h.Status.Connected, h.Status.Since = true, hs.Now()
	}
	h.Status.Roles = r.Roles
	h.Status.VTEP, h.Status.Hypervisor, h.Status.CPU, h.Status.Capacity = r.VTEP.String(), r.Hypervisor, r.CPU, r.Capacity
	h.Status.Images, h.Status.Message = r.Images, r.Message
	for _, role := range r.Roles {
		if !slices.Contains(h.Spec.Roles, role) {
			h.Status.Message = fmt.Sprintf("its agent is configured as %s, which it is not here (spec.roles); %s", role, r.Message)
		}
	}
	var err error
	if h.Status.Allotted, err = hs.rooms.Allotted(tx, h.Name, ""); err != nil {
		return err
	}
	return objects.Put(tx, h)
}

// showReportRefused shows at a host why its agent's report is not taken. What it said before stays in force.
func (hs *Hosts) showReportRefused(ctx context.Context, host string, why error) {
	if _, err := objects.Change(ctx, hs.Site, host, func(_ *state.Tx, h *api.Host) error {
		h.Status.Message = "its agent's report is refused: " + cloud.Line(why.Error(), objects.MaxText)
		return nil
	}); err != nil && ctx.Err() == nil {
		hs.Log.Error("show why a report is refused", "host", host, "err", err)
	}
}

// reports takes the hosts' reports in. Those that come while others are written are written together after them: a commit costs two
// syncs of the disk, and a site of 1,000 hosts has some hundred reports a second that change something.
type reports struct {
	c *Hosts

	mu      sync.Mutex
	waiting []*report
	writing bool
}

// report is one host's, judged.
type report struct {
	host string
	said wire.HostReport
	done chan error // gets one

	then []func() // what follows once it is written
}

// maxTogether is how many reports are written together at most.
const maxTogether = 64

// Report takes what an agent sees, once it is judged. It returns when it is written.
func (hs *Hosts) Report(ctx context.Context, host string, said wire.HostReport) error {
	if err := hs.judgeReport(&said); err != nil {
		hs.showReportRefused(ctx, host, err)
		return err
	}
	r := &report{host: host, said: said, done: make(chan error, 1)}
	hs.reports.take(context.WithoutCancel(ctx), r)
	var err error
	select {
	case err = <-r.done:
	case <-ctx.Done():
		return ctx.Err()
	}
	if errors.Is(err, &api.Error{Code: api.CodeInvalid}) || errors.Is(err, &api.Error{Code: api.CodeRefused}) {
		hs.showReportRefused(ctx, host, err)
	}
	if err != nil {
		return err
	}
	for _, f := range r.then {
		f()
	}
	return nil
}

// take has a report written.
func (q *reports) take(ctx context.Context, r *report) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.waiting = append(q.waiting, r); !q.writing {
		q.writing = true
		go q.write(ctx)
	}
}

// write writes reports until none waits.
func (q *reports) write(ctx context.Context) {
	for {
		q.mu.Lock()
		batch := q.waiting[:min(len(q.waiting), maxTogether)]
		q.waiting = slices.Clone(q.waiting[len(batch):])
		q.writing = len(batch) > 0
		q.mu.Unlock()
		if len(batch) == 0 {
			return
		}
		q.c.writeReports(ctx, batch)
	}
}

// writeReports writes reports in one transaction. One that cannot be written harms no other: then each is written alone.
func (hs *Hosts) writeReports(ctx context.Context, batch []*report) {
	// What is seen replaces what was seen; a full disk must not hide that a VM has ended.
	err := hs.Write(store.Urgent(ctx), func(tx *state.Tx) error {
		for _, r := range batch {
			if err := hs.see(tx, r); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil && len(batch) > 1 {
		for _, r := range batch {
			hs.writeReports(ctx, []*report{r})
		}
		return
	}
	for _, r := range batch {
		r.done <- err
	}
}

// see keeps what a host's agent says of the host and its translator, and has the others keep what it says of VMs.
func (hs *Hosts) see(tx *state.Tx, r *report) error {
	r.then = nil
	h, err := objects.Get[api.Host](tx, r.host)
	if err != nil {
		return err
	}
	if err := hs.judgeVTEP(tx, r.host, r.said.VTEP); err != nil {
		return err
	}
	if err := hs.seeHost(tx, h, r.said); err != nil {
		return err
	}
	translator := r.said.Translator
	if !slices.Contains(h.Spec.Roles, api.RoleGateway) {
		translator = nil
	}
	if err := hs.networks.ReportTranslator(tx, r.host, translator); err != nil {
		return err
	}
	seen := map[string]wire.VMReport{}
	for _, v := range r.said.VMs {
		seen[v.VM] = v
	}
	for _, observe := range hs.observers {
		then, err := observe(tx, r.host, seen)
		if err != nil {
			return err
		}
		if then != nil {
			r.then = append(r.then, then)
		}
	}
	return nil
}

// Observer keeps what a host's agent reports of copies of VMs, by their UIDs. then, if not nil, is called once it is written.
type Observer func(tx *state.Tx, host string, seen map[string]wire.VMReport) (then func(), err error)
