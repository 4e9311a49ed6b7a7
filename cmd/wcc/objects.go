package main

import (
	"cmp"
	"fmt"
	"reflect"
	"unicode/utf8"

	"widecloud/api"
)

// listCmd lists or watches the objects of a kind.
type listCmd struct {
	Output string `short:"o" help:"How: table, wide, json or yaml." enum:"table,wide,json,yaml" default:"table"`
	Watch  bool   `short:"w" help:"Go on with every change. What is deleted, or no longer selected, is shown with a - before its name."`
	selecting
}

// Run lists, then watches if asked to.
func (c *listCmd) Run(a *app, n api.Noun) error {
	wanted, err := c.selector()
	if err != nil {
		return err
	}
	client, err := a.client()
	if err != nil {
		return err
	}
	items, revision, err := client.Select(a, n.Kind, wanted)
	if err != nil {
		return err
	}
	columns := columnsOf(n, c.Output == "wide")
	rows := [][]string{nil}
	for _, col := range columns {
		rows[0] = append(rows[0], col.head)
	}
	for _, o := range items {
		rows = append(rows, cells(columns, o))
	}
	switch c.Output {
	case "json":
		err = a.out.json(items)
	case "yaml":
		err = a.out.yaml(items)
	default:
		err = a.out.table(rows)
	}
	if err != nil || !c.Watch {
		return err
	}
	var width []int
	for i := range columns {
		w := 0
		for _, r := range rows {
			w = max(w, utf8.RuneCountInString(r[i]))
		}
		width = append(width, w)
	}
	for e, err := range client.Watch(a, n.Kind, wanted, revision) {
		if err != nil {
			return err
		}
		switch c.Output {
		case "json":
			err = a.out.jsonLine(e)
		case "yaml":
			if err = a.out.printf("---\n"); err == nil {
				err = a.out.yaml(e)
			}
		default:
			row := cells(columns, e.Object)
			if e.Type == "delete" {
				row[0] = "-" + row[0]
			}
			err = a.out.row(row, width)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// format is how an object is shown.
type format struct {
	Output string `short:"o" help:"Show the object as json or yaml." enum:",json,yaml" default:""`
}

// done tells what became of an object: the object itself if asked for, otherwise a line.
func (f format) done(a *app, o api.Object, what string) error {
	switch f.Output {
	case "json":
		return a.out.json(o)
	case "yaml":
		return a.out.yaml(o)
	}
	return a.out.printf("%s %s %s\n", noun(o.Kind()), o.Metadata().Name, what)
}

// showCmd shows one object whole.
type showCmd struct {
	Name   string `arg:"" help:"Its name." complete:"self"`
	Output string `short:"o" help:"How: yaml or json." enum:"yaml,json" default:"yaml"`
}

// Run shows it.
func (c *showCmd) Run(a *app, n api.Noun) error {
	client, err := a.client()
	if err != nil {
		return err
	}
	o, err := client.Get(a, n.Kind, c.Name)
	if err != nil {
		return err
	}
	if c.Output == "json" {
		return a.out.json(o)
	}
	return a.out.yaml(o)
}

// deleteCmd deletes objects.
type deleteCmd struct {
	Names []string `arg:"" name:"name" help:"Their names." complete:"self"`
	Wait  bool     `help:"Wait until they are gone."`
}

// Run deletes them one by one; the first refusal ends it.
func (c *deleteCmd) Run(a *app, n api.Noun) error {
	client, err := a.client()
	if err != nil {
		return err
	}
	for _, name := range c.Names {
		if _, err := client.Delete(a, n.Kind, name); err != nil {
			return fmt.Errorf("delete %s %s: %w", noun(n.Kind), name, err)
		}
		what := "is being deleted"
		if c.Wait {
			if err := waitGone(a, client, n, name); err != nil {
				return err
			}
			what = "deleted"
		}
		if err := a.out.printf("%s %s %s\n", noun(n.Kind), name, what); err != nil {
			return err
		}
	}
	return nil
}

// create makes an object and says so.
func create(a *app, f format, l labelled, o api.Object) error {
	var err error
	if o.Metadata().Labels, err = l.labels(); err != nil {
		return err
	}
	client, err := a.client()
	if err != nil {
		return err
	}
	made, err := client.Create(a, o)
	if err != nil {
		return err
	}
	return f.done(a, made, "created")
}

// column is a column of a kind's table.
type column struct {
	head string
	wide bool
	cell func(api.Object) string
}

func col[P api.Object](head string, cell func(P) string) column {
	return column{head: head, cell: func(o api.Object) string { return cell(o.(P)) }}
}

func wide[P api.Object](head string, cell func(P) string) column {
	c := col(head, cell)
	c.wide = true
	return c
}

func cells(columns []column, o api.Object) []string {
	row := make([]string, len(columns))
	for i, c := range columns {
		row[i] = c.cell(o)
	}
	return dashed(row)
}

// dashed shows what is empty as a dash.
func dashed(row []string) []string {
	for i := range row {
		row[i] = cmp.Or(row[i], "-")
	}
	return row
}

// columnsOf gives the columns of a noun: its name, its own, and in wide tables those of every object.
func columnsOf(n api.Noun, isWide bool) []column {
	var l []column
	add := func(c column) {
		if !c.wide || isWide {
			l = append(l, c)
		}
	}
	add(column{head: "NAME", cell: func(o api.Object) string {
		if o.Metadata().Deleting {
			return o.Metadata().Name + " (deleting)"
		}
		return o.Metadata().Name
	}})
	for _, c := range shapeOf(n).columns {
		add(c)
	}
	add(column{head: "OWNER", wide: true, cell: func(o api.Object) string { return o.Metadata().Owner }})
	add(column{head: "HOME", wide: true, cell: func(o api.Object) string { return o.Metadata().Home }})
	add(column{head: "CREATED", wide: true, cell: func(o api.Object) string { return stamp(o.Metadata().Created) }})
	add(column{head: "LABELS", wide: true, cell: func(o api.Object) string { return labelText(o.Metadata().Labels) }})
	return l
}

// statusMessage is the Message of an object's status, when it has one.
func statusMessage(o api.Object) string {
	s := reflect.ValueOf(o).Elem().FieldByName("Status")
	if !s.IsValid() {
		return ""
	}
	if m := s.FieldByName("Message"); m.IsValid() {
		return m.String()
	}
	return ""
}
