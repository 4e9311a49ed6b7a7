package main

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"os"

	"widecloud/internal/lab/simulated"
)

// labHostsCmd is what the lab starts on the machine of a site's simulated hosts.
type labHostsCmd struct {
	Config string `required:"" type:"path" placeholder:"FILE" help:"The hosts, as JSON."`
}

// Run works until the process is told to end.
func (c *labHostsCmd) Run(a *app) error {
	text, err := os.ReadFile(c.Config)
	if err != nil {
		return usageError{err}
	}
	o := simulated.Options{
		Logger:    slog.New(slog.NewTextHandler(a.err.raw, nil)),
		KeepAlive: keepAlive, DeadAfter: deadAfter,
	}
	if err := json.Unmarshal(text, &o.Config); err != nil {
		return usageError{fmt.Errorf("%s: %w", c.Config, err)}
	}
	return simulated.Run(a, o)
}
