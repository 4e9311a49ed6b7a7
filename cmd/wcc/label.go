package main

import (
	"maps"
	"slices"
	"strings"

	"widecloud/api"
)

// labelled is the flag of commands that make an object.
type labelled struct {
	Label []string `sep:"none" help:"Label for it, to select it by; may be repeated." placeholder:"KEY=VALUE"`
}

// labels reads the flag.
func (l labelled) labels() (map[string]string, error) {
	var labels map[string]string
	for _, text := range l.Label {
		key, value, ok := strings.Cut(text, "=")
		if !ok {
			return nil, usagef("--label: %q is not KEY=VALUE", text)
		}
		if err := api.CheckLabel(key, value); err != nil {
			return nil, usagef("--label: %w", err)
		}
		if labels == nil {
			labels = map[string]string{}
		}
		labels[key] = value
	}
	return labels, nil
}

// labelText shows labels in the order of their keys.
func labelText(labels map[string]string) string {
	var l []string
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		l = append(l, strings.TrimSuffix(key+"="+labels[key], "="))
	}
	return strings.Join(l, ",")
}

// selecting are the flags of commands that list or watch.
type selecting struct {
	Owner []string `help:"Only these organisations'." placeholder:"OWNER" complete:"owners"`
	Site  []string `help:"Only at these sites." placeholder:"SITE" complete:"sites"`
	Host  []string `help:"Only on these hosts." placeholder:"HOST" complete:"hosts"`
	State []string `help:"Only in these states or phases." placeholder:"STATE" complete:"states"`
	Label []string `sep:"none" help:"Only with these labels: app=web, app!=web, app (has it), !app (has it not); may be repeated: all of them." placeholder:"TERM"`
	Name  string   `help:"Only with names that begin so." placeholder:"PREFIX" complete:"self"`
}

// selector reads the flags.
func (f selecting) selector() (api.Selector, error) {
	terms, err := api.ParseLabelTerms(f.Label...)
	if err != nil {
		return api.Selector{}, usagef("--%w", err)
	}
	return api.Selector{Owners: f.Owner, Sites: f.Site, Hosts: f.Host, States: f.State, Labels: terms, Name: f.Name}, nil
}

// specOf is a patch of one member of a spec.
func specOf(member string, value any) map[string]any {
	return map[string]any{"spec": map[string]any{member: value}}
}

type labelCmd struct {
	Kind   string   `arg:"" enum:"${labelled}" help:"Of what: ${labelledWords}."`
	Name   string   `arg:"" help:"Its name."`
	Labels []string `arg:"" name:"label" help:"KEY=VALUE sets a label, KEY- removes it." placeholder:"KEY=VALUE|KEY-"`
	format
}

// Help is kong's: what follows the flags.
func (labelCmd) Help() string {
	return "Other labels stay as they are. Example: wcc label vm web1 app=web tier=front old-"
}

func (c *labelCmd) Run(a *app) error {
	labels := map[string]any{} // nil removes a label (RFC 7396)
	for _, text := range c.Labels {
		key, value, set := strings.Cut(text, "=")
		removed, remove := strings.CutSuffix(text, "-")
		var err error
		switch {
		case set:
			labels[key], err = value, api.CheckLabel(key, value)
		case remove:
			labels[removed], err = nil, api.CheckLabel(removed, "")
		default:
			return usagef("%q is not KEY=VALUE or KEY-", text)
		}
		if err != nil {
			return usageError{err}
		}
	}
	client, err := a.client()
	if err != nil {
		return err
	}
	n, _ := nounNamed(c.Kind) // it is one of the enumeration
	o, err := client.Patch(a, n.Kind, c.Name, map[string]any{"labels": labels}, 0)
	if err != nil {
		return err
	}
	what := "has no labels"
	if text := labelText(o.Metadata().Labels); text != "" {
		what = "has " + text
	}
	return c.done(a, o, what)
}
