package main

import (
	"strconv"

	"widecloud/api"
)

type addressTrafficCmd struct {
	Name   string `arg:"" help:"Its name, or the address." complete:"self"`
	Output string `short:"o" help:"How: json; left out: a table." enum:",json" default:""`
}

// Run shows what this site's translators have carried for a service address.
func (c *addressTrafficCmd) Run(a *app) error {
	name, err := addressName(a, c.Name)
	if err != nil {
		return err
	}
	client, err := a.client()
	if err != nil {
		return err
	}
	t, err := client.AddressTraffic(a, name)
	if err != nil {
		return err
	}
	if c.Output == "json" {
		return a.out.json(t)
	}
	if len(t.Translators) == 0 {
		return a.err.printf("no translator of this site has carried anything for %s\n", c.Name)
	}
	table := [][]string{trafficHead("TRANSLATOR")}
	for _, x := range t.Translators {
		table = append(table, trafficRow(x.Translator, x.PacketsIn, x.BytesIn, x.RateIn, x.PacketsOut, x.BytesOut, x.RateOut))
	}
	return a.out.table(table)
}

type translatorTrafficCmd struct {
	Name   string `arg:"" help:"Its name: its host's." complete:"self"`
	Output string `short:"o" help:"How: json, with all outcomes; left out: a table of the busiest addresses." enum:",json" default:""`
}

// Run shows what a translator has carried.
func (c *translatorTrafficCmd) Run(a *app) error {
	client, err := a.client()
	if err != nil {
		return err
	}
	t, err := client.TranslatorTraffic(a, c.Name)
	if err != nil {
		return err
	}
	if c.Output == "json" {
		return a.out.json(t)
	}
	if len(t.Translators) == 0 {
		return a.err.printf("translator %s has not told what it has carried: its agent is not reached, or of an earlier release\n", c.Name)
	}
	table := [][]string{trafficHead("ADDRESS")}
	for _, x := range t.Translators {
		for _, b := range x.Busiest {
			table = append(table, busiestRow(b))
		}
		table = append(table, trafficRow("all", x.PacketsIn, x.BytesIn, x.RateIn, x.PacketsOut, x.BytesOut, x.RateOut))
	}
	return a.out.table(table)
}

func busiestRow(b api.AddressTraffic) []string {
	return trafficRow(b.Address, b.PacketsIn, b.BytesIn, b.RateIn, b.PacketsOut, b.BytesOut, b.RateOut)
}

func trafficHead(of string) []string {
	return []string{of, "PACKETS IN", "BYTES IN", "IN/S", "PACKETS OUT", "BYTES OUT", "OUT/S"}
}

func trafficRow(of string, packetsIn, bytesIn int64, in float64, packetsOut, bytesOut int64, out float64) []string {
	return []string{of, strconv.FormatInt(packetsIn, 10), size(bytesIn), size(int64(in)), strconv.FormatInt(packetsOut, 10), size(bytesOut), size(int64(out))}
}
