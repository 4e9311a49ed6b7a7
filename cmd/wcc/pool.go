package main

import (
	"context"
	"errors"

	"widecloud/api"
)

type poolGroup struct {
	List poolListCmd `cmd:"" help:"List the pools that networks and service addresses are taken from."`
}

type poolListCmd struct {
	Output string `short:"o" help:"How: table, json or yaml." enum:"table,json,yaml" default:"table"`
}

func (c *poolListCmd) Run(a *app) error {
	client, err := a.client()
	if err != nil {
		return err
	}
	pools, err := pools(a, client)
	if err != nil {
		return err
	}
	switch c.Output {
	case "json":
		return a.out.json(pools)
	case "yaml":
		return a.out.yaml(pools)
	}
	rows := [][]string{{"NAME", "USE", "PREFIXES", "EXCEPT", "OWNERS", "PEERS"}}
	for _, p := range pools {
		rows = append(rows, dashed([]string{p.Name, p.Use, list(p.Prefixes), list(p.Except), list(p.Owners), list(p.Peers)}))
	}
	return a.out.table(rows)
}

// pools reads the parts of the site's address plan that the user may use.
func pools(ctx context.Context, client *api.Client) ([]api.AddressPool, error) {
	sites, _, err := api.List[api.Site](ctx, client)
	if err != nil {
		return nil, err
	}
	for _, s := range sites {
		if s.Status.Self {
			return s.Spec.Pools, nil
		}
	}
	return nil, errors.New("the controller lists no site of its own")
}
