package main

import (
	"context"
	"time"

	"widecloud/api"
)

type jobGroup struct {
	List   listCmd[api.Job, *api.Job] `cmd:"" help:"List jobs."`
	Show   showCmd[api.Job, *api.Job] `cmd:"" help:"Show a job with its journal."`
	Watch  jobWatchCmd                `cmd:"" help:"Show a job's progress until it ends; exit code 1 unless it is done."`
	Cancel jobCancelCmd               `cmd:"" help:"Cancel a job; it undoes what it did."`
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

type eventGroup struct {
	List listCmd[api.Event, *api.Event] `cmd:"" help:"List what happened; -w goes on."`
	Show showCmd[api.Event, *api.Event] `cmd:"" help:"Show an event."`
}

// cause says why a's context ended.
func cause(a *app) error { return context.Cause(a.Context) }
