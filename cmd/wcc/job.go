package main

import (
	"fmt"
	"strings"
	"time"

	"widecloud/api"
)

var _ = present[jobGroup](api.KindJob,
	col("TYPE", func(o *api.Job) string { return o.Spec.Type }),
	col("OBJECT", func(o *api.Job) string { return o.Spec.Object }),
	col("TARGET", func(o *api.Job) string { return o.Spec.Target }),
	col("STATE", func(o *api.Job) string { return string(o.Status.State) }),
	col("STEP", func(o *api.Job) string { return o.Status.Step }),
	col("PROGRESS", func(o *api.Job) string {
		if c := o.Status.Bulk; c != nil {
			return fmt.Sprintf("%d/%d", c.Total-c.Waiting-c.Running, c.Total)
		}
		if _, total := done(o.Status.Progress); total > 0 {
			return fmt.Sprintf("%d%%", percent(o.Status.Progress))
		}
		return ""
	}),
	wide("BY", func(o *api.Job) string { return o.Spec.By }),
	wide("STARTED", func(o *api.Job) string { return stamp(o.Status.Started) }),
	wide("ENDED", func(o *api.Job) string { return stamp(o.Status.Ended) }),
	wide("MESSAGE", func(o *api.Job) string { return o.Status.Message }),
)

type jobGroup struct {
	List   listCmd      `cmd:"" help:"List jobs."`
	Show   showCmd      `cmd:"" help:"Show a job with its journal."`
	Watch  jobWatchCmd  `cmd:"" help:"Show a job's progress until it ends; exit code 1 unless it is done."`
	Cancel jobCancelCmd `cmd:"" help:"Cancel a job; it undoes what it did."`

	Results jobResultsCmd `cmd:"" help:"Show what became of each VM of a bulk job."`
}

type jobWatchCmd struct {
	Name    string        `arg:"" help:"Its name." complete:"self"`
	Timeout time.Duration `default:"0" help:"How long; 0: for ever."`
}

func (c *jobWatchCmd) Run(a *app) error {
	client, err := a.client()
	if err != nil {
		return err
	}
	j, err := waitFor(a, c.Timeout, func(a *app) (*api.Job, error) { return waitJob(a, client, c.Name) })
	if err != nil {
		return err
	}
	return a.summary(j)
}

type jobCancelCmd struct {
	Name string `arg:"" help:"Its name." complete:"self"`
	Wait bool   `help:"Wait until everything is undone."`
	format
}

func (c *jobCancelCmd) Run(a *app) error {
	client, err := a.client()
	if err != nil {
		return err
	}
	j, err := client.Cancel(a, c.Name)
	if err != nil {
		return err
	}
	if !c.Wait {
		return c.done(a, j, "is being cancelled")
	}
	// That it was cancelled is what was asked for; that it was done before, or failed to undo, is not.
	if j, err = waitJob(a, client, c.Name); j != nil && j.Status.State == api.JobCancelled {
		return c.done(a, j, "cancelled")
	}
	if err != nil {
		return err
	}
	return api.Errorf(api.CodeConflict, "job %s was %s before it could be cancelled", c.Name, j.Status.State)
}

// summary says what a job that is done has cost.
func (a *app) summary(j *api.Job) error {
	p := j.Status.Progress
	var l []string
	if c := j.Status.Bulk; c != nil {
		l = append(l, counts(c))
	}
	if p.WireBytes > 0 {
		sent := size(p.WireBytes) + " sent"
		if p.RawBytes > 0 {
			sent += " of " + size(p.RawBytes)
		}
		l = append(l, sent)
	}
	if p.Downtime > 0 {
		l = append(l, fmt.Sprintf("down for %.0f ms", p.Downtime*1000))
	}
	if t := j.Status.Ended.Sub(j.Status.Started); !j.Status.Started.IsZero() && t > 0 {
		l = append(l, t.Round(100*time.Millisecond).String())
	}
	line := "job " + j.Name + " done"
	if len(l) > 0 {
		line += ": " + strings.Join(l, ", ")
	}
	return a.out.printf("%s\n", line)
}
