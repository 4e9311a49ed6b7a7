package siit

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"widecloud/internal/lab/machine"
	"widecloud/internal/lab/script"
	"widecloud/internal/lab/stage"
	"widecloud/internal/lab/topic/flow"
	"widecloud/internal/lab/translator"
)

// Topic is a data centre behind translators.
var Topic = script.Topic{
	Title: "A data centre",
	Intro: "Translators and servers (SIIT-DC, RFC 7755): an IPv6-only network behind `map646`, and servers in the Internet. With sites in the same " +
		"script, who is declared first has the service prefixes 203.0.113.0/24 and 2001:db8:f::/64, and the other one 198.18.0.0/24 and 2001:db8:e::/64.",
	Statements: []script.Entry{
		{
			Form: "routing ospf|bgp|static", Part: script.Declares,
			Doc: "how routers learn of translators (`ospf`, with OSPFv3); before the first translator. `static` is for one translator; " +
				"beside sites it is `ospf`",
			Parse: parseRouting,
		},
		{
			Form: "translator NAME [path fast|full] [dns64] [inside-mtu N] [outside-mtu N] [tun-mtu N]", Part: script.Declares, Builds: true,
			Doc: "a node with `map646`. `path full`: no eBPF. `dns64`: it answers names, under one address with all that do. " +
				"The MTUs are those of its links, and of its own device (as inside)",
			Parse: parseTranslator,
		},
		{
			Form: "server NAME [at inet4|inet6] [service ADDRESS…] [mtu N]", Part: script.Declares,
			Doc: "an IPv6-only machine with a web server; or `at inet4`, `at inet6` a machine in the Internet, known as `NAME.example` to its " +
				"name server. `mtu`: of its router's side of the link, so that it has to find out",
			Parse: parseServer,
		},
		{
			Form: "fill N", Part: script.Declares,
			Doc:   "N more mappings of nobody's, up to a million, in the table of all translators",
			Parse: parseFill,
		},
		{
			Form: "map ADDRESS… to SERVER", Part: script.Happens,
			Doc:   "on all translators, by `map646 add`, `replace` and `remove`, and in their files",
			Parse: parseMap,
		},
		{Form: "unmap ADDRESS…", Part: script.Happens, Doc: "the same, to nobody", Parse: parseUnmap},
		{
			Form: "map646 TRANSLATOR|all COMMAND…", Part: script.Happens,
			Doc: "runs a command of `map646` there: `reload`, `drain`, `drain --off`, `fast off`, `fast on`, `upgrade`, … It must succeed",
			Parse: func(p *script.Parser) any {
				d := centreWithTranslator(p)
				c := &Command{centre: d}
				if !p.Is("all") {
					c.Of = script.Ref[*Translator](p, "translator")
				}
				c.Args = commandArgs(p)
				return c
			},
		},
		{
			Form: "churn table|reload every TIME", Part: script.Happens,
			Doc:   "from now on, two mappings of nobody's come, change and go on all translators: one by one, or by reloads of a changed file",
			Parse: parseChurn,
		},
		{
			Form: "stop churn", Part: script.Happens, Doc: "a check: there were changes, and none failed",
			Parse: func(p *script.Parser) any {
				d := Of(p.Script())
				if d == nil || !d.churning {
					p.Fail(p.First(), "there is no churn to stop")
				}
				d.churning = false
				return &StopChurn{d}
			},
		},
		{
			Form: "expect translator TRANSLATOR idle|busy [fast|full] [within TIME]", Part: script.Checks,
			Doc:   "by its counters: it translates nothing for a second; or something, and most of it on that path",
			Parse: parseBusy,
		},
		{
			Form: `expect map646 TRANSLATOR COMMAND… says "TEXT" [within TIME]`, Part: script.Checks,
			Doc:   "a line of what the command prints has it",
			Parse: parseSays,
		},
		{
			Form: "expect name NAME.example from SERVER is ADDRESS [within TIME]", Part: script.Checks,
			Doc:   "by the server's resolver, which asks the translators' DNS64",
			Parse: parseResolves,
		},
	},
}

// Centre is a script's data centre: what is declared of it, and once it is built,
// its machines and the table that all translators have.
type Centre struct {
	Routing     string // ospf, bgp or static
	Fill        int    // mappings of nobody's
	Translators []*Translator
	Servers     []*Server
	services    *stage.Services
	internet    *stage.Internet
	churning    bool // so far in the script

	live
}

// Translator is a node with map646.
type Translator struct {
	Name                  string
	Path                  string // fast or full
	DNS64                 bool
	InsideMTU, OutsideMTU int // of its links; 0: 1500
	TunMTU                int // of its device; 0: InsideMTU

	node *machine.Node
}

// Node, and what a translator can be.
func (t *Translator) Node() *machine.Node   { return t.node }
func (t *Translator) RunsOn() *machine.Node { return t.node }
func (t *Translator) Processes() []string   { return []string{translator.Process} }
func (t *Translator) Cut(heal bool) error {
	return errors.Join(t.node.CutLink("inet", !heal), t.node.CutLink("dc", !heal))
}

// Server is a machine with a web server, in the data centre or in the Internet.
type Server struct {
	name    string
	At      string // inet4, inet6, or "": in the data centre
	Service []netip.Addr
	MTU     int // of the way to it; 0: 1500

	number int // from 1, among those at the same place; its addresses hang on it
	centre *Centre
	node   *machine.Node
}

// Name, and what a server can be.
func (s *Server) Name() string              { return s.name }
func (s *Server) Node() *machine.Node       { return s.node }
func (s *Server) ClientNode() *machine.Node { return s.node }
func (s *Server) RunsOn() *machine.Node     { return s.node }
func (s *Server) Processes() []string       { return []string{webProcess} }
func (s *Server) Cut(heal bool) error       { return s.node.CutLink("eth0", !heal) }

// Use implements stage.Client: a server in the data centre reaches IPv4 by translation.
func (s *Server) Use(a netip.Addr) (netip.Addr, bool) {
	switch {
	case s.At == "" && a.Is4():
		return s.centre.services.Embed(a), true
	case s.At == "inet4":
		return a, a.Is4()
	}
	return a, a.Is6()
}

// HostFor implements stage.Target.
func (s *Server) HostFor(c stage.Client) (string, error) {
	from, isServer := c.(*Server)
	if s.At == "" && !(isServer && from.At == "") {
		return stage.Choose(c, s.name, s.Service)
	}
	return stage.Choose(c, s.name, []netip.Addr{s.addr()})
}

// domainName is a server in the Internet by its name there.
type domainName struct{ of *Server }

// nameSuffix is what the names of servers in the Internet end in (RFC 2606).
const nameSuffix = ".example"

// HostFor implements stage.Target.
func (n *domainName) HostFor(c stage.Client) (string, error) {
	if from, ok := c.(*Server); !ok || from.At != "" || !from.centre.hasDNS64() {
		return "", errors.New("names are for servers in the data centre, and for translators with dns64")
	}
	return n.of.name + nameSuffix, nil
}

// centre is the script's data centre, which begins with the first statement about it.
func centre(p *script.Parser) *Centre {
	return script.Shared(p, func() *Centre {
		return &Centre{Routing: "ospf", services: stage.ServicesOf(p, "the data centre"), internet: stage.InternetOf(p.Script())}
	})
}

// centreWithTranslator fails if there is none to act upon.
func centreWithTranslator(p *script.Parser) *Centre {
	d := Of(p.Script())
	if d == nil || len(d.Translators) == 0 {
		p.Fail(p.First(), "there is no translator yet; say: translator NAME")
	}
	return d
}

func parseRouting(p *script.Parser) any {
	d := centre(p)
	if len(d.Translators) > 0 {
		p.Fail(p.First(), "routing must be said before the first translator")
	}
	d.Routing = p.OneOf("ospf", "bgp", "static")
	return nil
}

func parseTranslator(p *script.Parser) any {
	d := centre(p)
	t := &Translator{Path: "fast", Name: p.ShortName("translator")}
	switch n := len(d.Translators); {
	case n == 1 && d.Routing == "static":
		p.Fail(p.First(), "static routing notices no failure, so it is for one translator")
	case n == 4:
		p.Fail(p.First(), "more than four translators")
	}
	for p.More() {
		switch p.OneOf("path", "dns64", "inside-mtu", "outside-mtu", "tun-mtu") {
		case "path":
			t.Path = p.OneOf("fast", "full")
		case "dns64":
			t.DNS64 = true
		case "inside-mtu":
			t.InsideMTU = p.Number("MTU", 1280, 1500)
		case "outside-mtu":
			t.OutsideMTU = p.Number("MTU", 1280, 1500)
		case "tun-mtu":
			t.TunMTU = p.Number("MTU", 1280, 1500)
		}
	}
	d.internet.Speak(p, d.Routing)
	d.Translators = append(d.Translators, t)
	p.Declare(t.Name, t)
	return nil
}

func parseServer(p *script.Parser) any {
	d := centre(p)
	s := &Server{name: p.ShortName("server"), centre: d}
	for p.More() {
		switch p.OneOf("at", "service", "mtu") {
		case "at":
			s.At = p.OneOf("inet4", "inet6")
		case "service":
			s.Service = d.services.Take(p, s)
			for i, a := range s.Service {
				if slices.ContainsFunc(s.Service[:i], func(b netip.Addr) bool { return a.Is4() == b.Is4() }) {
					p.Fail(p.First(), "two service addresses of one family for %s; one machine has one", s.name)
				}
			}
		case "mtu":
			s.MTU = p.Number("MTU", 1280, 1500)
		}
	}
	if s.At != "" && len(s.Service) > 0 {
		p.Fail(p.First(), "service addresses are for servers in the data centre; %s is at %s", s.name, s.At)
	}
	for _, o := range d.Servers {
		if o.At == s.At {
			s.number++
		}
	}
	if s.number++; s.number > maxServers {
		p.Fail(p.First(), "more than %d servers at one place", maxServers)
	}
	d.Servers = append(d.Servers, s)
	p.Declare(s.name, s)
	if s.At != "" {
		p.Declare(s.name+nameSuffix, &domainName{s})
	}
	return nil
}

func parseFill(p *script.Parser) any {
	d := centre(p)
	if d.Fill > 0 {
		p.Fail(p.First(), "the table is filled already")
	}
	d.Fill = p.Number("number of mappings", 1, maxFill)
	return nil
}

// Map changes whom service addresses belong to.
type Map struct {
	Service []netip.Addr
	Server  *Server // nil: nobody
	centre  *Centre
}

func parseMap(p *script.Parser) any {
	d := centreWithTranslator(p)
	m := &Map{centre: d}
	first := p.Peek()
	for !p.Is("to") {
		m.Service = append(m.Service, d.services.Addr(p))
	}
	m.Server = inside(p)
	for _, a := range m.Service {
		for _, have := range d.services.Of(m.Server) {
			if have != a && have.Is4() == a.Is4() {
				p.Fail(first, "%s has %s already; one machine has one service address of a family", m.Server.name, have)
			}
		}
		d.services.Give(a, m.Server)
	}
	return m
}

func parseUnmap(p *script.Parser) any {
	d := centreWithTranslator(p)
	m := &Map{centre: d}
	for len(m.Service) == 0 || p.More() {
		w := p.Peek()
		a := d.services.Addr(p)
		if d.services.Owner(a) == nil {
			p.Fail(w, "%s is not mapped", w.Text)
		}
		m.Service = append(m.Service, a)
	}
	for _, a := range m.Service {
		d.services.Give(a, nil)
	}
	return m
}

// inside takes a server in the data centre.
func inside(p *script.Parser) *Server {
	w := p.Peek()
	s, ok := script.Lookup[*Server](p, w.Text)
	if !ok || s.At != "" {
		var l []string
		for _, s := range centre(p).Servers {
			if s.At == "" {
				l = append(l, s.name)
			}
		}
		slices.Sort(l)
		p.Next("server in the data centre")
		p.Fail(w, "unknown server in the data centre %q; known: %s", w.Text, script.List(l))
	}
	p.Next("server in the data centre")
	return s
}

// commands are those of the map646 command that a script may run.
var commands = []string{"stats", "table", "reload", "add", "remove", "replace", "top", "trace", "doctor", "drain", "fast", "upgrade", "check"}

func commandArgs(p *script.Parser) []string {
	args := []string{p.OneOf(commands...)}
	for p.More() && p.Peek().Text != "says" && p.Peek().Text != "within" {
		args = append(args, p.Next("argument").Text)
	}
	return args
}

// Command runs a command of map646.
type Command struct {
	Of     *Translator // nil: all
	Args   []string
	centre *Centre
}

// Do implements stage.Doer.
func (c *Command) Do(ctx context.Context, s *stage.Stage) error {
	for _, t := range c.centre.Translators {
		if c.Of != nil && c.Of != t {
			continue
		}
		out, err := translator.Run(ctx, t.node, c.Args)
		if err != nil {
			return err
		}
		for line := range strings.Lines(out) {
			s.Out.Under("%s: %s", t.Name, strings.TrimRight(line, "\n"))
		}
	}
	return nil
}

// Churn changes the tables of all translators again and again.
type Churn struct {
	What   string // table or reload
	Every  time.Duration
	centre *Centre
}

func parseChurn(p *script.Parser) any {
	d := centreWithTranslator(p)
	if d.churning {
		p.Fail(p.First(), "there is a churn already; stop churn ends it")
	}
	d.churning = true
	c := &Churn{What: p.OneOf("table", "reload"), centre: d}
	p.OneOf("every")
	if c.Every = p.Duration(time.Minute); c.Every < 10*time.Millisecond {
		p.Fail(p.Last(), "more often than every 10ms")
	}
	return c
}

// Do implements stage.Doer.
func (c *Churn) Do(_ context.Context, s *stage.Stage) error {
	c.centre.churn = startChurn(c)
	s.AtEnd(c.centre.churn.stop)
	return nil
}

// StopChurn is a check.
type StopChurn struct{ centre *Centre }

// Busy expects a translator to translate, or not to.
type Busy struct {
	Translator *Translator
	Idle       bool
	Path       string // fast, full, "": either
	Within     time.Duration
}

func parseBusy(p *script.Parser) any {
	centreWithTranslator(p)
	b := &Busy{Translator: script.Ref[*Translator](p, "translator")}
	if b.Idle = p.OneOf("idle", "busy") == "idle"; !b.Idle {
		b.Path = p.OneOfOptional("fast", "full")
	}
	b.Within = p.Within(10 * time.Second)
	return b
}

// Says expects what a command of map646 prints.
type Says struct {
	Translator *Translator
	Args       []string
	Text       string
	Within     time.Duration
}

func parseSays(p *script.Parser) any {
	centreWithTranslator(p)
	s := &Says{Translator: script.Ref[*Translator](p, "translator"), Args: commandArgs(p)}
	p.OneOf("says")
	s.Text = p.Quoted()
	s.Within = p.Within(5 * time.Second)
	return s
}

// Judge implements stage.Judge.
func (e *Says) Judge(ctx context.Context, _ *stage.Stage) (line string, err error) {
	err = stage.Until(ctx, e.Within, func(ctx context.Context) error {
		out, err := translator.Run(ctx, e.Translator.node, e.Args)
		if err != nil {
			return err
		}
		for l := range strings.Lines(out) {
			if strings.Contains(l, e.Text) {
				line = strings.Join(strings.Fields(l), " ")
				return nil
			}
		}
		return fmt.Errorf("it says: %s", strings.TrimSpace(out))
	})
	return line, err
}

// Resolves expects what a name is.
type Resolves struct {
	Name   string
	From   *Server
	Addr   netip.Addr
	Within time.Duration
}

func parseResolves(p *script.Parser) any {
	centreWithTranslator(p)
	w := p.Next("name")
	if _, ok := script.Lookup[*domainName](p, w.Text); !ok {
		p.Fail(w, "unknown name %q: each server at inet4 and inet6 has one, NAME%s", w.Text, nameSuffix)
	}
	e := &Resolves{Name: w.Text}
	p.OneOf("from")
	e.From = inside(p)
	p.OneOf("is")
	e.Addr = p.Addr()
	e.Within = p.Within(10 * time.Second)
	return e
}

// Judge implements stage.Judge.
func (e *Resolves) Judge(ctx context.Context, _ *stage.Stage) (answer string, err error) {
	err = stage.Until(ctx, e.Within, func(ctx context.Context) (err error) {
		answer, err = flow.Resolve(ctx, e.From.node, e.Name)
		if err == nil && answer != e.Addr.String() {
			err = fmt.Errorf("%s is %s", e.Name, answer)
		}
		return err
	})
	return answer, err
}
