package control

import (
	"context"
	"errors"
	"slices"
	"sync"

	"widecloud/api"
	"widecloud/internal/state"
	"widecloud/internal/store"
	"widecloud/internal/wire"
)

// reports takes the hosts' reports in. Those that come while others are written are written together after them: a commit costs two
// syncs of the disk, and a site of 1,000 hosts has some hundred reports a second that change something.
type reports struct {
	c *Controller

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

// report takes what an agent sees, once it is judged. It returns when it is written.
func (c *Controller) report(ctx context.Context, host string, said wire.HostReport) error {
	ctx = asAgent(ctx, host)
	if err := c.judgeReport(&said); err != nil {
		c.showReportRefused(ctx, host, err)
		return err
	}
	r := &report{host: host, said: said, done: make(chan error, 1)}
	c.reports.take(context.WithoutCancel(ctx), r)
	var err error
	select {
	case err = <-r.done:
	case <-ctx.Done():
		return ctx.Err()
	}
	if errors.Is(err, &api.Error{Code: api.CodeInvalid}) || errors.Is(err, &api.Error{Code: api.CodeRefused}) {
		c.showReportRefused(ctx, host, err)
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
func (c *Controller) writeReports(ctx context.Context, batch []*report) {
	// What is seen replaces what was seen; a full disk must not hide that a VM has ended.
	err := c.update(store.Urgent(ctx), func(tx *state.Tx) error {
		for _, r := range batch {
			if err := c.see(tx, r); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil && len(batch) > 1 {
		for _, r := range batch {
			c.writeReports(ctx, []*report{r})
		}
		return
	}
	for _, r := range batch {
		r.done <- err
	}
}

// see keeps what a host's agent says of the host and its translator, and has the others keep what it says of VMs.
func (c *Controller) see(tx *state.Tx, r *report) error {
	r.then = nil
	h, err := get[api.Host](tx, r.host)
	if err != nil {
		return err
	}
	if err := c.judgeVTEP(tx, r.host, r.said.VTEP); err != nil {
		return err
	}
	if err := c.seeHost(tx, h, r.said); err != nil {
		return err
	}
	translator := r.said.Translator
	if !slices.Contains(h.Spec.Roles, api.RoleGateway) {
		translator = nil
	}
	if err := c.reportTranslator(tx, r.host, translator); err != nil {
		return err
	}
	seen := map[string]wire.VMReport{}
	for _, v := range r.said.VMs {
		seen[v.VM] = v
	}
	for _, observe := range c.observers {
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

// observer keeps what a host's agent reports of copies of VMs, by their UIDs. then, if not nil, is called once it is written.
type observer func(tx *state.Tx, host string, seen map[string]wire.VMReport) (then func(), err error)
