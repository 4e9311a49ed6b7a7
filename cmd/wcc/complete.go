package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"widecloud/api"
	"widecloud/internal/lab/machine"
	"widecloud/internal/lab/play"
)

type completionCmd struct {
	Shell string `arg:"" enum:"bash,zsh,fish" help:"bash, zsh or fish."`
}

// The scripts ask the program itself, so that they never fall behind it; names come from the controller.
var completionScripts = map[string]string{
	"bash": `# wcc completion bash > /etc/bash_completion.d/wcc
_wcc() {
	local IFS=$'\n'
	COMPREPLY=($(wcc __complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null))
}
complete -o default -F _wcc wcc
`,
	"zsh": `#compdef wcc
# wcc completion zsh > "${fpath[1]}/_wcc"
_wcc() {
	local -a candidates
	candidates=("${(@f)$(wcc __complete "${(@)words[2,$CURRENT]}" 2>/dev/null)}")
	if [[ -n "${candidates[1]}" ]]; then compadd -a candidates; else _files; fi
}
if [[ "${funcstack[1]}" = _wcc ]]; then _wcc "$@"; else compdef _wcc wcc; fi
`,
	"fish": `# wcc completion fish > ~/.config/fish/completions/wcc.fish
complete -c wcc -a '(wcc __complete (commandline -opc)[2..-1] (commandline -ct) 2>/dev/null)'
`,
}

func (c *completionCmd) Run(a *app) error {
	_, err := fmt.Fprint(a.out.raw, completionScripts[c.Shell])
	return err
}

// complete prints what the last word may become, one candidate to a line, out of the tree of commands. It never fails:
// a shell that completes has nowhere to show an error.
func (a *app) complete(parser *kong.Kong, words []string) {
	if len(words) == 0 {
		words = []string{""}
	}
	// bash makes three words of --flag=value.
	wantsValue := words[len(words)-1] == "="
	words = slices.DeleteFunc(slices.Clone(words), func(w string) bool { return w == "=" })
	if wantsValue {
		words = append(words, "")
	}
	last := words[len(words)-1]
	node := parser.Model.Node
	flags := slices.Clone(node.Flags)
	position := 0
	var pending *kong.Flag // a flag that waits for its value
	for _, w := range words[:len(words)-1] {
		switch {
		case pending != nil:
			a.take(pending, w)
			pending = nil
		case strings.HasPrefix(w, "-") && w != "-":
			name, value, has := strings.Cut(w, "=")
			if f := findFlag(flags, name); f != nil && has {
				a.take(f, value)
			} else if f != nil && !f.IsBool() {
				pending = f
			}
		default:
			if child := findChild(node, w); child != nil {
				node, position = child, 0
				flags = append(flags, node.Flags...)
			} else {
				position++
			}
		}
	}
	var candidates []string
	switch {
	case pending != nil:
		candidates = a.values(pending.Value, node)
	case strings.HasPrefix(last, "-"):
		if name, _, has := strings.Cut(last, "="); has {
			if f := findFlag(flags, name); f != nil {
				for _, v := range a.values(f.Value, node) {
					candidates = append(candidates, name+"="+v)
				}
			}
			break
		}
		for _, f := range flags {
			if !f.Hidden {
				candidates = append(candidates, "--"+f.Name)
			}
		}
	case len(node.Children) > 0:
		for _, child := range node.Children {
			if !child.Hidden {
				candidates = append(candidates, child.Name)
			}
		}
	case len(node.Positional) > 0:
		p := node.Positional[min(position, len(node.Positional)-1)]
		if position < len(node.Positional) || p.IsCumulative() {
			candidates = a.values(p, node)
		}
	}
	slices.Sort(candidates)
	for _, c := range slices.Compact(candidates) {
		if strings.HasPrefix(c, last) {
			a.out.printf("%s\n", c)
		}
	}
}

// take keeps the settings that asking the controller for names needs.
func (a *app) take(f *kong.Flag, value string) {
	switch f.Name {
	case "server":
		a.cli.Server = value
	case "token":
		a.cli.Token = value
	case "ca":
		a.cli.CA = value
	case "context":
		a.cli.Context = value
	}
}

func findFlag(flags []*kong.Flag, name string) *kong.Flag {
	for _, f := range flags {
		if name == "--"+f.Name || f.Short != 0 && name == "-"+string(f.Short) {
			return f
		}
	}
	return nil
}

func findChild(n *kong.Node, name string) *kong.Node {
	for _, child := range n.Children {
		if child.Name == name {
			return child
		}
	}
	return nil
}

// values are what a flag or argument may be: its enumeration, or the names of the objects that its tag complete names
// (self: those of the command's group).
func (a *app) values(v *kong.Value, node *kong.Node) []string {
	if v.Enum != "" {
		var l []string
		for e := range v.EnumMap() {
			if e != "" {
				l = append(l, e)
			}
		}
		return l
	}
	kind := api.Kind(v.Tag.Get("complete"))
	if kind == "self" {
		kind = cmp.Or(nounOf(node).Kind, kind)
	}
	switch kind {
	case "":
		return nil
	case "states":
		return statesOf(node)
	case "machines":
		return labMachines()
	case "labwords":
		return play.Language.Words()
	}
	a.fromEnvironment()
	client, err := a.client()
	if err != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(a.Context, 2*time.Second) // a person is waiting at the keyboard
	defer cancel()
	if kind == "pools" {
		return poolNames(ctx, client, node)
	}
	names, err := client.Names(ctx, kind)
	if err != nil {
		return nil
	}
	return names
}

// statesOf are the states of what the command lists.
func statesOf(node *kong.Node) []string { return api.States(nounOf(node).Kind) }

// labMachines are those of the lab that is up under the usual name.
func labMachines() (names []string) {
	p, err := machine.Look("", "lab")
	if err != nil {
		return nil
	}
	for _, m := range p.Machines {
		names = append(names, m.Name)
	}
	return names
}

// poolNames are those of the pools for what the command makes.
func poolNames(ctx context.Context, client *api.Client, node *kong.Node) (names []string) {
	use := "addresses"
	if nounOf(node).Kind == api.KindNetwork {
		use = "networks"
	}
	all, err := pools(ctx, client)
	if err != nil {
		return nil
	}
	for _, p := range all {
		if p.Use == use {
			names = append(names, p.Name)
		}
	}
	return names
}

// fromEnvironment fills in what kong would have, had it parsed the words.
func (a *app) fromEnvironment() {
	c := a.cli
	c.Server, c.Token = cmp.Or(c.Server, os.Getenv("WCC_SERVER")), cmp.Or(c.Token, os.Getenv("WCC_TOKEN"))
	c.CA, c.Context = cmp.Or(c.CA, os.Getenv("WCC_CA")), cmp.Or(c.Context, os.Getenv("WCC_CONTEXT"))
}
