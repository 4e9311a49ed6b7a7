package main

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/alecthomas/kong"

	"widecloud/api"
)

// shape is how a noun is shown: its group of commands, and its table's columns between the name and what all wide tables end with.
type shape struct {
	group   func() any // a new pointer to the struct of the group's commands
	columns []column
}

// shapes are those of the nouns that have one of their own, in their own files. Of the others, plain.go makes one.
var shapes = map[api.Kind]shape{}

// present says how a noun is shown. G is the struct of its group's commands.
func present[G any](k api.Kind, columns ...column) bool {
	if _, twice := shapes[k]; twice {
		panic("wcc: two files present " + string(k))
	}
	shapes[k] = shape{func() any { return new(G) }, columns}
	return true
}

// shapeOf is how a noun is shown.
func shapeOf(n api.Noun) shape {
	if s, ok := shapes[n.Kind]; ok {
		return s
	}
	return plainShape(n)
}

// nounGroups makes the nouns' groups of commands, and puts all groups in order.
func nounGroups() []kong.Option {
	var options []kong.Option
	for _, n := range api.Nouns() {
		options = append(options, kong.DynamicCommand(noun(n.Kind), n.Help, "", shapeOf(n).group(),
			fmt.Sprintf("set:%q", "kind="+string(n.Kind)), fmt.Sprintf("set:%q", "fields="+strings.Join(fieldNames(n), ", "))))
	}
	return append(options, kong.PostBuild(func(k *kong.Kong) error {
		slices.SortStableFunc(k.Model.Children, func(a, b *kong.Node) int { return cmp.Compare(rank(a), rank(b)) })
		return nil
	}))
}

// rank is a group's place: the nouns' as they are documented, pools after the addresses that they give, then the others.
func rank(group *kong.Node) int {
	if group.Name == "pool" {
		addresses, _ := api.NounOf(api.KindAddress)
		return addresses.Rank + 1
	}
	if n, ok := nounNamed(group.Name); ok {
		return n.Rank
	}
	return math.MaxInt
}

// noun is the singular of a kind, as the groups of the commands are named.
func noun(k api.Kind) string { return strings.ToLower(k.Singular()) }

// nounNamed finds a noun by its group's name.
func nounNamed(name string) (api.Noun, bool) {
	for _, n := range api.Nouns() {
		if noun(n.Kind) == name {
			return n, true
		}
	}
	return api.Noun{}, false
}

// nounOf is the noun in whose group a command is; the zero Noun when it is in none.
func nounOf(node *kong.Node) api.Noun {
	for node != nil && node.Parent != nil && node.Parent.Parent != nil {
		node = node.Parent
	}
	if node == nil || node.Parent == nil {
		return api.Noun{}
	}
	n, _ := nounNamed(node.Name)
	return n
}

// labelledNouns are the names of the nouns whose labels users change.
func labelledNouns() (names []string) {
	for _, n := range api.Nouns() {
		if n.Changed {
			names = append(names, noun(n.Kind))
		}
	}
	return names
}
