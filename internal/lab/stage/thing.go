package stage

import (
	"fmt"
	"net/netip"
	"regexp"
	"strings"
	"time"

	"widecloud/internal/lab/machine"
	"widecloud/internal/lab/script"
)

// What a thing of a script can be. It is each of these that its Go type is.
type (
	// Machine has power.
	Machine interface {
		Node() *machine.Node // nil before it is built
	}
	// Runner runs processes that can be killed and started.
	Runner interface {
		Processes() []string
		RunsOn() *machine.Node // nil before it is built
	}
	// Named has a name.
	Named interface{ Name() string }
	// Client is a place where a client can be.
	Client interface {
		Named
		ClientNode() *machine.Node // nil before it is built
		// Use is the address by which a client there reaches one, and whether it can.
		Use(netip.Addr) (netip.Addr, bool)
	}
	// Target has something that clients can ask.
	Target interface {
		// HostFor is what a client uses to reach it, an address or a name; or why it cannot.
		HostFor(Client) (string, error)
	}
	// Cuttable can be cut off from everything.
	Cuttable interface {
		Cut(heal bool) error
	}
	// Link joins two things of the script.
	Link interface {
		Joins(a, b any) bool
		// SetCut cuts or heals what one of the two sends to the other, or with nil both ways.
		SetCut(from any, cut bool)
	}
)

// From takes a client's place.
func From(p *script.Parser) Client { return script.Ref[Client](p, "place of a client") }

// To takes a target, or an address, and checks that a client there could ask it.
func To(p *script.Parser, from Client) (name, host string) {
	w := p.Next("target or address")
	name = strings.TrimSuffix(w.Text, ",")
	if t, ok := script.Lookup[Target](p, name); ok {
		host, err := t.HostFor(from)
		if err != nil {
			p.Fail(w, "%v", err)
		}
		return name, host
	}
	a, err := netip.ParseAddr(name)
	if err != nil || a.Zone() != "" {
		p.Fail(w, "unknown target %q; known: %s; nor is it an address", name, script.List(script.Names[Target](p)))
	}
	used, ok := from.Use(FreshAddr(p, a))
	if !ok {
		p.Fail(w, "a client at %s cannot reach %s", from.Name(), a)
	}
	return name, used.String()
}

// Between takes `CLIENT to TARGET`.
func Between(p *script.Parser) (from Client, host string) {
	from = From(p)
	p.OneOf("to")
	_, host = To(p, from)
	return from, host
}

// Choose is the first of a target's addresses that a client can use, as it uses it.
func Choose(c Client, of string, addrs []netip.Addr) (string, error) {
	for _, a := range addrs {
		if used, ok := c.Use(a); ok {
			return used.String(), nil
		}
	}
	return "", fmt.Errorf("%s has no address that a client at %s could use", of, c.Name())
}

// URL is that of the web server at an address or name.
func URL(host string) string {
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	return "http://" + host
}

// Links are all links of a script that can be cut.
type Links struct{ All []Link }

// Budget is how long a script may take; 0: it has not said.
type Budget struct{ Time time.Duration }

// Setting is what a script says of itself for a run of several.
type Setting struct {
	Base  string // file of the machines that it can share, relative to the script's; "": its own only
	Alone bool   // nothing may run beside it
}

// SettingOf is the script's.
func SettingOf(p *script.Parser) *Setting {
	return script.Shared(p, func() *Setting { return &Setting{} })
}

// Emulated is a machine whose processors are emulated: each keeps one of ours busy.
type Emulated interface{ Processors() int }

var figureRE = regexp.MustCompile(`^[a-z][a-z0-9_]*(\.[a-z0-9_]+)+$`)

type figureNames map[string]bool

// NewFigure takes a new figure's name.
func NewFigure(p *script.Parser) string {
	w := p.Next("figure's name")
	if !figureRE.MatchString(w.Text) {
		p.Fail(w, "%q is no figure's name such as migrate.gap", w.Text)
	}
	names := script.Shared(p, func() figureNames { return figureNames{} })
	if names[w.Text] {
		p.Fail(w, "figure %s is there already", w.Text)
	}
	names[w.Text] = true
	return w.Text
}
