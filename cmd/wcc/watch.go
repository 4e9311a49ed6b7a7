package main

import (
	"slices"

	"widecloud/api"
)

type watchCmd struct {
	Kinds  []string `arg:"" help:"What to watch: vm, job, …" placeholder:"KIND"`
	Output string   `short:"o" help:"How: table or json." enum:"table,json" default:"table"`
	selecting
}

// Run shows every change of several kinds until it is interrupted.
func (c *watchCmd) Run(a *app) error {
	wanted, err := c.selector()
	if err != nil {
		return err
	}
	var kinds []api.Kind
	nouns := map[api.Kind]api.Noun{}
	all := api.Nouns()
	for _, name := range c.Kinds {
		i := slices.IndexFunc(all, func(n api.Noun) bool { return name == noun(n.Kind) || name == string(n.Kind) })
		if i < 0 {
			return usagef("there is no kind %q; wcc --help shows the groups, which are named by the kinds", name)
		}
		kinds = append(kinds, all[i].Kind)
		nouns[all[i].Kind] = all[i]
	}
	client, err := a.client()
	if err != nil {
		return err
	}
	for e, err := range api.WatchKinds(a, client, kinds, wanted, -1) {
		if err != nil {
			return err
		}
		if c.Output == "json" {
			err = a.out.jsonLine(e)
		} else {
			row := cells(columnsOf(nouns[e.Kind], false), e.Object)
			if e.Type == "delete" {
				row[0] = "-" + row[0]
			}
			row = append([]string{noun(e.Kind)}, row...)
			err = a.out.row(row, make([]int, len(row)))
		}
		if err != nil {
			return err
		}
	}
	return nil
}
