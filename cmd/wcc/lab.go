package main

import (
	"context"
	"errors"
)

type labGroup struct {
	Run  labRunCmd  `cmd:"" help:"Build a federation, run a script on it, report, and take everything down."`
	Up   labUpCmd   `cmd:"" help:"Build a script's federation and leave it up."`
	Down labDownCmd `cmd:"" help:"Take down what wcc lab up left."`
}

type labRunCmd struct {
	File string `arg:"" type:"path" help:"A lab script."`
	Keep bool   `help:"Leave the federation up at the end."`
}

func (c *labRunCmd) Run(a *app) error { return runLab(a, "run", c.File, c.Keep) }

type labUpCmd struct {
	File string `arg:"" type:"path" help:"A lab script."`
}

func (c *labUpCmd) Run(a *app) error { return runLab(a, "up", c.File, true) }

type labDownCmd struct{}

func (labDownCmd) Run(a *app) error { return runLab(a, "down", "", false) }

// runLab runs, builds or takes down a lab.
func runLab(ctx context.Context, what, file string, keep bool) error {
	return errors.New("wcc lab is not built in yet")
}
