package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/alecthomas/kong"

	"widecloud/api"
)

// plainShape is that of a noun without one of its own: commands for what its users do with it, and a column for each plain field of
// its spec.
func plainShape(n api.Noun) shape {
	return shape{func() any { return plainGroup(n) }, plainColumns(n)}
}

func plainGroup(n api.Noun) any {
	g := &struct{ kong.Plugins }{}
	add := func(has bool, commands any) {
		if has {
			g.Plugins = append(g.Plugins, commands)
		}
	}
	add(true, &struct {
		List listCmd `cmd:"" help:"List ${kind}."`
		Show showCmd `cmd:"" help:"Show one of the ${kind}."`
	}{})
	add(n.Created && !n.Owned, &struct {
		Create plainCreateCmd `cmd:"" help:"Make one of the ${kind}."`
	}{})
	add(n.Created && n.Owned, &struct {
		Create ownedCreateCmd `cmd:"" help:"Make one of the ${kind}."`
	}{})
	add(n.Changed, &struct {
		Edit plainEditCmd `cmd:"" help:"Change fields of one of the ${kind}."`
	}{})
	add(n.Deleted, &struct {
		Delete deleteCmd `cmd:"" help:"Delete ${kind}."`
	}{})
	return g
}

// plainCreateCmd makes an object of any kind.
type plainCreateCmd struct {
	Name   string   `arg:"" help:"Its name."`
	Fields []string `arg:"" optional:"" name:"field" help:"FIELD=VALUE sets a field: ${fields}." placeholder:"FIELD=VALUE" sep:"none"`
	labelled
	format
}

// Run makes it, of the site.
func (c *plainCreateCmd) Run(a *app, n api.Noun) error { return c.make(a, n, "") }

func (c *plainCreateCmd) make(a *app, n api.Noun, owner string) error {
	spec, err := specFrom(n, c.Fields)
	if err != nil {
		return err
	}
	o := n.New()
	b, err := json.Marshal(map[string]any{"spec": spec})
	if err != nil {
		return fmt.Errorf("encode the spec: %w", err)
	}
	if err := json.Unmarshal(b, o); err != nil {
		return usagef("%w", err)
	}
	o.Metadata().Name, o.Metadata().Owner = c.Name, owner
	return create(a, c.format, c.labelled, o)
}

// ownedCreateCmd makes an object that an organisation owns.
type ownedCreateCmd struct {
	plainCreateCmd
	Owner string `help:"Organisation that owns it; left out: the user's." complete:"owners"`
}

// Run makes it.
func (c *ownedCreateCmd) Run(a *app, n api.Noun) error { return c.make(a, n, c.Owner) }

// plainEditCmd changes an object of any kind.
type plainEditCmd struct {
	Name   string   `arg:"" help:"Its name." complete:"self"`
	Fields []string `arg:"" name:"field" help:"FIELD=VALUE sets a field: ${fields}." placeholder:"FIELD=VALUE" sep:"none"`
	format
}

// Run changes it.
func (c *plainEditCmd) Run(a *app, n api.Noun) error {
	spec, err := specFrom(n, c.Fields)
	if err != nil {
		return err
	}
	client, err := a.client()
	if err != nil {
		return err
	}
	o, err := client.Patch(a, n.Kind, c.Name, map[string]any{"spec": spec}, 0)
	if err != nil {
		return err
	}
	return c.done(a, o, "changed")
}

// specFrom reads FIELD=VALUE words. A text field becomes what is written; of the others, the value is JSON.
func specFrom(n api.Noun, words []string) (map[string]any, error) {
	fields := specFields(n)
	spec := map[string]any{}
	for _, w := range words {
		name, value, ok := strings.Cut(w, "=")
		f, known := fields[name]
		switch {
		case !ok:
			return nil, usagef("%q is not FIELD=VALUE", w)
		case !known:
			return nil, usagef("%s have no field %q; possible: %s", n.Kind, name, strings.Join(fieldNames(n), ", "))
		case f.Type.Kind() == reflect.String:
			spec[name] = value
		case json.Valid([]byte(value)):
			spec[name] = json.RawMessage(value)
		default:
			return nil, usagef("%s: %q is not JSON", name, value)
		}
	}
	return spec, nil
}

// specFields are the fields of a noun's spec by their names in JSON.
func specFields(n api.Noun) map[string]reflect.StructField {
	fields := map[string]reflect.StructField{}
	spec, ok := reflect.TypeOf(n.New()).Elem().FieldByName("Spec")
	if !ok {
		return fields
	}
	for _, f := range reflect.VisibleFields(spec.Type) {
		if name, _, _ := strings.Cut(f.Tag.Get("json"), ","); name != "" && name != "-" {
			fields[name] = f
		}
	}
	return fields
}

func fieldNames(n api.Noun) []string { return slices.Sorted(maps.Keys(specFields(n))) }

// plainColumns are the fields of a noun's spec that fit into a cell.
func plainColumns(n api.Noun) (columns []column) {
	fields := specFields(n)
	for _, name := range fieldNames(n) {
		f := fields[name]
		switch f.Type.Kind() {
		case reflect.Slice, reflect.Map, reflect.Struct, reflect.Pointer, reflect.Interface:
			continue
		}
		columns = append(columns, column{head: strings.ToUpper(strings.ReplaceAll(name, "_", "-")), cell: func(o api.Object) string {
			v := reflect.ValueOf(o).Elem().FieldByName("Spec").FieldByIndex(f.Index)
			if v.Kind() == reflect.Bool {
				return yes(v.Bool())
			}
			return fmt.Sprint(v)
		}})
	}
	return columns
}
