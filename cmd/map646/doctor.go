package main

import (
	"context"
	"fmt"

	"widecloud/internal/map646"
)

type doctorCmd struct {
	configFlag
	outputFlag
	Socket    string `help:"Control socket; default: that of the configuration." type:"path" short:"s"`
	VtySocket string `help:"FRR's directory of sockets, if it is not the usual one." type:"path"`
}

func (c *doctorCmd) Run(ctx context.Context) error {
	list, err := map646.Doctor(ctx, map646.DoctorOptions{ConfigPath: c.Config, Socket: c.Socket, VTYSocket: c.VtySocket})
	if err != nil {
		return err
	}
	bad := 0
	for _, f := range list {
		if f.Level == map646.FindBad {
			bad++
		}
	}
	if done, err := c.printed(list); err != nil {
		return err
	} else if !done {
		for _, f := range list {
			do := ""
			if f.Do != "" {
				do = " -> " + f.Do
			}
			fmt.Printf("%-5s %-36s %s%s\n", f.Level, f.Check, f.Found, do)
		}
	}
	if bad > 0 {
		return fmt.Errorf("%d things are bad", bad)
	}
	return nil
}
