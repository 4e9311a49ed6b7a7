package main

import (
	"errors"
	"fmt"
	"strings"
	"time"

	"widecloud/api"
)

type vmBulkCmd struct {
	Action string   `arg:"" enum:"start,stop,reboot,delete,move" help:"What to do: start, stop, reboot, delete or move."`
	Names  []string `arg:"" optional:"" name:"name" help:"VMs; left out: those that the flags select." complete:"self"`
	selecting
	To      string        `help:"move: SITE or SITE/HOST." placeholder:"SITE[/HOST]" complete:"sites"`
	Hard    bool          `help:"stop, reboot: at once, without asking the guest."`
	Wait    bool          `help:"Show the progress, and wait until all have had their turn."`
	Timeout time.Duration `default:"0" help:"How long --wait waits; 0: for ever. The job goes on after it."`
	format
}

// Help is kong's: what follows the flags.
func (vmBulkCmd) Help() string {
	return "The controller acts on a few VMs at a time; the job goes on when this command has ended. Example: wcc vm bulk stop --label tier=test"
}

func (c *vmBulkCmd) Run(a *app) error {
	s, err := c.selector()
	if err != nil {
		return err
	}
	r := api.BulkRequest{Action: api.BulkAction(c.Action), VMs: c.Names, Target: c.To, Hard: c.Hard}
	if !s.IsZero() {
		r.Selector = api.BulkSelectorOf(s)
	}
	if len(r.VMs) == 0 && r.Selector == nil {
		return usagef("name VMs, or select them by flags")
	}
	client, err := a.client()
	if err != nil {
		return err
	}
	job, err := client.Bulk(a, r)
	if err != nil {
		return err
	}
	if !c.Wait {
		return c.done(a, job, fmt.Sprintf("started: %s of %d VMs", r.Action, job.Status.Bulk.Total))
	}
	ended, err := waitFor(a, c.Timeout, func(a *app) (*api.Job, error) { return waitJob(a, client, job.Name) })
	if err != nil {
		var refused *api.Error
		if errors.As(err, &refused) {
			err = errors.Join(a.notDone(client, job.Name), err)
		}
		return err
	}
	return c.done(a, ended, fmt.Sprintf("done: %s of %d VMs", r.Action, ended.Status.Bulk.Total))
}

// notDone shows the VMs of a bulk job that are not as was asked for.
func (a *app) notDone(client *api.Client, job string) error {
	all, err := client.BulkResults(a, job)
	if err != nil {
		return err
	}
	for _, r := range all {
		if r.State != api.BulkDone {
			a.err.printf("%s\n", strings.TrimSuffix(fmt.Sprintf("vm %s %s: %s", r.VM, r.State, r.Message), ": "))
			a.err.reasons(r.Reasons)
		}
	}
	return nil
}

type jobResultsCmd struct {
	Name   string `arg:"" help:"Its name." complete:"self"`
	Output string `short:"o" help:"How: table, json or yaml." enum:"table,json,yaml" default:"table"`
}

func (c *jobResultsCmd) Run(a *app) error {
	client, err := a.client()
	if err != nil {
		return err
	}
	all, err := client.BulkResults(a, c.Name)
	if err != nil {
		return err
	}
	switch c.Output {
	case "json":
		return a.out.json(all)
	case "yaml":
		return a.out.yaml(all)
	}
	rows := [][]string{{"VM", "STATE", "JOB", "MESSAGE"}}
	for _, r := range all {
		message := r.Message
		for _, reason := range r.Reasons {
			message = strings.TrimPrefix(message+"; "+reason.Message, "; ")
		}
		rows = append(rows, dashed([]string{r.VM, string(r.State), r.Job, message}))
	}
	return a.out.table(rows)
}

// counts says how far a bulk job is.
func counts(c *api.BulkCounts) string {
	l := []string{fmt.Sprintf("%d of %d done", c.Done, c.Total)}
	for _, part := range []struct {
		n    int
		word string
	}{{c.Running, "at work"}, {c.Failed, "failed"}, {c.Cancelled, "cancelled"}} {
		if part.n > 0 {
			l = append(l, fmt.Sprintf("%d %s", part.n, part.word))
		}
	}
	return strings.Join(l, ", ")
}
