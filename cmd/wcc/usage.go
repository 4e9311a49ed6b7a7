package main

import (
	"strconv"

	"widecloud/api"
)

type vmUsageCmd struct {
	Name   string `arg:"" help:"Its name." complete:"self"`
	Day    bool   `help:"The last day, in steps of 5 min; left out: the last half hour, in steps of 10 s."`
	Output string `short:"o" help:"How: json, with both; left out: a table." enum:",json" default:""`
}

// Run shows what a VM has used, the newest last.
func (c *vmUsageCmd) Run(a *app) error {
	client, err := a.client()
	if err != nil {
		return err
	}
	u, err := client.Usage(a, c.Name)
	if err != nil {
		return err
	}
	if c.Output == "json" {
		return a.out.json(u)
	}
	samples := u.Recent
	if c.Day {
		samples = u.Day
	}
	if len(samples) == 0 {
		return a.err.printf("nothing is known yet of what vm %s uses: ask again in a while\n", c.Name)
	}
	rows := [][]string{{"UNTIL", "CPU", "MEMORY", "READ/S", "WRITTEN/S", "RECEIVED/S", "SENT/S"}}
	for _, s := range samples {
		rows = append(rows, usageRow(s))
	}
	return a.out.table(rows)
}

func usageRow(s api.Sample) []string {
	row := []string{stamp(s.At), strconv.FormatFloat(s.CPU, 'f', 2, 64), size(s.Memory)}
	for _, rate := range []float64{s.DiskRead, s.DiskWritten, s.Received, s.Sent} {
		row = append(row, size(int64(rate)))
	}
	return row
}
