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
