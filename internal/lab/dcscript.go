package lab

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// DataCentre is what a script's translator and server statements declare: an
// IPv6-only network behind translators (SIIT-DC, RFC 7755), and servers in the
// Internet, without sites.
type DataCentre struct {
	Routing     string // ospf, bgp or static
	Fill        int    // mappings of nobody's
	Translators []*TranslatorStmt
	Servers     []*ServerStmt
}

// The statements of a data centre. docs/lab.md says what each does.
type (
	// RoutingStmt is `routing ospf|bgp|static`.
	RoutingStmt struct{ Protocol string }
	// TranslatorStmt is `translator NAME [path fast|full] [dns64] [inside-mtu N] [outside-mtu N] [tun-mtu N]`.
	TranslatorStmt struct {
		Name                  string
		Path                  string // fast or full
		DNS64                 bool
		InsideMTU, OutsideMTU int // of its links; 0: 1500
		TunMTU                int // of its device; 0: InsideMTU
	}
	// ServerStmt is `server NAME [at inet4|inet6] [service ADDRESS…] [mtu N]`.
	ServerStmt struct {
		Name    string
		At      string // inet4, inet6, or "": in the data centre
		Service []netip.Addr
		MTU     int // of the way to it; 0: 1500

		number int // from 1, among those at the same place; its addresses hang on it
	}
	// FillStmt is `fill N`.
	FillStmt struct{ Mappings int }
	// MapStmt is `map ADDRESS… to SERVER` or `unmap ADDRESS…`.
	MapStmt struct {
		Service []netip.Addr
		Server  string // "": unmap
	}
	// Map646Stmt is `map646 TRANSLATOR|all COMMAND…`.
	Map646Stmt struct {
		Translator string // "all"
		Args       []string
	}
	// ChurnStmt is `churn table|reload every D`.
	ChurnStmt struct {
		What  string
		Every time.Duration
	}
	// StopChurnStmt is `stop churn`, a check.
	StopChurnStmt struct{}
)

// nameSuffix is what the names of servers in the Internet end in (RFC 2606).
const nameSuffix = ".example"

// dc is the script's data centre, which begins with the first statement about it.
// There are no sites then.
func (p *parser) dc(w word) *DataCentre {
	if len(p.script.Sites) > 0 {
		p.fail(w, "%q and sites exclude each other: both would announce the same addresses", p.words[0].text)
	}
	if p.script.DC == nil {
		p.script.DC = &DataCentre{Routing: "ospf"}
	}
	return p.script.DC
}

func (d *DataCentre) translator(name string) *TranslatorStmt {
	if d == nil {
		return nil
	}
	for _, t := range d.Translators {
		if t.Name == name {
			return t
		}
	}
	return nil
}

func (d *DataCentre) server(name string) *ServerStmt {
	if d == nil {
		return nil
	}
	for _, s := range d.Servers {
		if s.Name == name {
			return s
		}
	}
	return nil
}

// names of the data centre's things, for messages.
func (d *DataCentre) names(of string) map[string]bool {
	m := map[string]bool{}
	if d == nil {
		return m
	}
	for _, t := range d.Translators {
		if of != "servers" {
			m[t.Name] = true
		}
	}
	for _, s := range d.Servers {
		if of != "translators" {
			m[s.Name] = true
		}
	}
	return m
}

func (d *DataCentre) inside() map[string]bool {
	m := d.names("servers")
	for n := range m {
		if d.server(n).At != "" {
			delete(m, n)
		}
	}
	return m
}

// machineName takes a new name of a translator or server: short, since with the
// lab's name it becomes a namespace's, and a device's at its router.
func (p *parser) machineName(what string, d *DataCentre) string {
	name := p.name(what, has(d.names("")))
	if slices.Contains([]string{"inet", "inet4", "inet6", "dc", "client4", "client6", "names", "all", "traffic", "job", "page", "loan", "peer", "vm", "migrate",
		"map646", "name", "pmtu", "traceroute", "translator", "churn", "controller"}, name) {
		p.fail(p.words[p.at-1], "%q means something else", name)
	}
	if len(name) > 12 {
		p.fail(p.words[p.at-1], "%q is longer than 12 characters", name)
	}
	return name
}

func (p *parser) routing() any {
	d := p.dc(p.words[0])
	if len(d.Translators) > 0 {
		p.fail(p.words[0], "routing must be said before the first translator")
	}
	d.Routing = p.oneOf("ospf", "bgp", "static")
	return &RoutingStmt{d.Routing}
}

func (p *parser) translator() any {
	d := p.dc(p.words[0])
	t := &TranslatorStmt{Path: "fast"}
	t.Name = p.machineName("translator", d)
	switch n := len(d.Translators); {
	case n == 1 && d.Routing == "static":
		p.fail(p.words[0], "static routing notices no failure, so it is for one translator")
	case n == 4:
		p.fail(p.words[0], "more than four translators")
	}
	for p.more() {
		switch p.oneOf("path", "dns64", "inside-mtu", "outside-mtu", "tun-mtu") {
		case "path":
			t.Path = p.oneOf("fast", "full")
		case "dns64":
			t.DNS64 = true
		case "inside-mtu":
			t.InsideMTU = p.number("MTU", 1280, 1500)
		case "outside-mtu":
			t.OutsideMTU = p.number("MTU", 1280, 1500)
		case "tun-mtu":
			t.TunMTU = p.number("MTU", 1280, 1500)
		}
	}
	d.Translators = append(d.Translators, t)
	return t
}

func (p *parser) server() any {
	d := p.dc(p.words[0])
	s := &ServerStmt{}
	s.Name = p.machineName("server", d)
	for p.more() {
		switch p.oneOf("at", "service", "mtu") {
		case "at":
			s.At = p.oneOf("inet4", "inet6")
		case "service":
			s.Service = p.newServices(s.Name)
			for i, a := range s.Service {
				if slices.ContainsFunc(s.Service[:i], func(b netip.Addr) bool { return a.Is4() == b.Is4() }) {
					p.fail(p.words[0], "two service addresses of one family for %s; one machine has one", s.Name)
				}
			}
		case "mtu":
			s.MTU = p.number("MTU", 1280, 1500)
		}
	}
	if s.At != "" && len(s.Service) > 0 {
		p.fail(p.words[0], "service addresses are for servers in the data centre; %s is at %s", s.Name, s.At)
	}
	for _, o := range d.Servers {
		if o.At == s.At {
			s.number++
		}
	}
	if s.number++; s.number > 16 {
		p.fail(p.words[0], "more than 16 servers at one place")
	}
	d.Servers = append(d.Servers, s)
	return s
}

// newServices takes service addresses that are nobody's yet.
func (p *parser) newServices(owner string) (l []netip.Addr) {
	for {
		w := p.next("address")
		a := p.serviceAddress(w)
		if by, ok := p.services[a]; ok {
			p.fail(w, "%s is that of %s", a, by)
		}
		p.services[a] = owner
		l = append(l, a)
		if !p.more() || !strings.ContainsAny(p.words[p.at].text, ".:") {
			return l
		}
	}
}

func (p *parser) serviceAddress(w word) netip.Addr {
	a, err := netip.ParseAddr(strings.TrimSuffix(w.text, ","))
	if err != nil || a.Zone() != "" {
		p.fail(w, "%q is no address", w.text)
	}
	if !servicePrefix4.Contains(a) && !servicePrefix6.Contains(a) {
		p.fail(w, "%s is in none of the service prefixes %s and %s", a, servicePrefix4, servicePrefix6)
	}
	return a
}

func (p *parser) fill() any {
	d := p.dc(p.words[0])
	if d.Fill > 0 {
		p.fail(p.words[0], "the table is filled already")
	}
	d.Fill = p.number("number of mappings", 1, maxFill)
	return &FillStmt{d.Fill}
}

// needTranslator fails if there is none to act upon.
func (p *parser) needTranslator() *DataCentre {
	d := p.dc(p.words[0])
	if len(d.Translators) == 0 {
		p.fail(p.words[0], "there is no translator yet; say: translator NAME")
	}
	return d
}

func (p *parser) mapping() any {
	d := p.needTranslator()
	m := &MapStmt{}
	for {
		w := p.next("address")
		m.Service = append(m.Service, p.serviceAddress(w))
		if p.words[0].text == "unmap" {
			if p.services[m.Service[len(m.Service)-1]] == "" {
				p.fail(w, "%s is not mapped", w.text)
			}
			if !p.more() {
				break
			}
		} else if p.is("to") {
			m.Server = ref(p, "server in the data centre", d.inside())
			break
		}
	}
	for _, a := range m.Service {
		for have, by := range p.services {
			if by == m.Server && have != a && have.Is4() == a.Is4() {
				p.fail(p.words[1], "%s has %s already; one machine has one service address of a family", by, have)
			}
		}
		if m.Server == "" {
			delete(p.services, a)
		} else {
			p.services[a] = m.Server
		}
	}
	return m
}

// map646Commands are those of the map646 command that a script may run.
var map646Commands = []string{"stats", "table", "reload", "add", "remove", "replace", "top", "trace", "doctor", "drain", "fast", "upgrade", "check"}

// map646Args takes a translator, or all, and a command of map646.
func (p *parser) map646Args(all bool) (translator string, args []string) {
	d := p.needTranslator()
	w := p.next("translator")
	if !(all && w.text == "all") && d.translator(w.text) == nil {
		more := ""
		if all {
			more = ", all"
		}
		p.fail(w, "unknown translator %q; known: %s%s", w.text, known(d.names("translators")), more)
	}
	args = append(args, p.oneOf(map646Commands...))
	for p.more() && p.words[p.at].text != "says" && p.words[p.at].text != "within" {
		args = append(args, p.next("argument").text)
	}
	return w.text, args
}

func (p *parser) map646() any {
	m := &Map646Stmt{}
	m.Translator, m.Args = p.map646Args(true)
	return m
}

func (p *parser) churn() any {
	p.needTranslator()
	if p.churning {
		p.fail(p.words[0], "there is a churn already; stop churn ends it")
	}
	p.churning = true
	c := &ChurnStmt{What: p.oneOf("table", "reload")}
	p.oneOf("every")
	if c.Every = p.duration(time.Minute); c.Every < 10*time.Millisecond {
		p.fail(p.words[p.at-1], "more often than every 10ms")
	}
	return c
}

func (p *parser) stopChurn() any {
	if !p.churning {
		p.fail(p.words[0], "there is no churn to stop")
	}
	p.churning = false
	return &StopChurnStmt{}
}

// expectDC takes the expectations that only a data centre meets.
func (p *parser) expectDC(e *ExpectStmt) bool {
	if p.script.DC == nil {
		return false
	}
	switch {
	case p.is("translator"):
		d := p.needTranslator()
		e.What = "translator"
		e.Target = ref(p, "translator", d.names("translators"))
		e.Want = p.oneOf("idle", "busy")
		if e.Want == "busy" {
			e.Path = p.oneOfOptional("fast", "full")
		}
		e.Within = p.within(10 * time.Second)
	case p.is("map646"):
		e.What = "map646"
		e.Target, e.Args = p.map646Args(false)
		p.oneOf("says")
		e.Says = p.quoted()
		e.Within = p.within(5 * time.Second)
	case p.is("traceroute"):
		e.What = "traceroute"
		p.fromTo(e)
		p.oneOf("hops")
		e.Limit = int64(p.number("number of hops", 1, 30))
		e.By, e.Within = "udp", 20*time.Second
		for p.more() {
			switch p.oneOf("by", "silent", "through", "within") {
			case "within":
				e.Within = p.duration(time.Hour)
			case "silent":
				e.Silents = p.number("number of hops", 1, 30)
			case "by":
				e.By = p.oneOf("udp", "icmp", "tcp")
			case "through":
				w := p.next("address")
				a, err := netip.ParseAddr(w.text)
				if err != nil {
					p.fail(w, "%q is no address", w.text)
				}
				e.Through = append(e.Through, a)
			}
		}
	case p.is("pmtu"):
		e.What = "pmtu"
		p.fromTo(e)
		p.oneOf("is")
		e.Limit = int64(p.number("MTU", 68, 65535))
	case p.is("name"):
		e.What = "name"
		d := p.needTranslator()
		w := p.next("name")
		if s := d.server(strings.TrimSuffix(w.text, nameSuffix)); s == nil || s.At == "" || !strings.HasSuffix(w.text, nameSuffix) {
			p.fail(w, "unknown name %q: each server at inet4 and inet6 has one, NAME%s", w.text, nameSuffix)
		}
		e.Target = w.text
		p.oneOf("from")
		e.From = ref(p, "server in the data centre", d.inside())
		p.oneOf("is")
		w = p.next("address")
		a, err := netip.ParseAddr(w.text)
		if err != nil {
			p.fail(w, "%q is no address", w.text)
		}
		e.Through = []netip.Addr{a}
		e.Within = p.within(10 * time.Second)
	default:
		return false
	}
	return true
}

func (p *parser) quoted() string {
	w := p.next("text")
	if !w.quoted || w.text == "" {
		p.fail(w, "the text must stand in quotation marks")
	}
	return w.text
}

// fromTo takes `from PLACE to TARGET`; a client's machine is a target, too.
func (p *parser) fromTo(e *ExpectStmt) {
	p.oneOf("from")
	e.From = p.from()
	p.oneOf("to")
	e.Target = p.target(e.From)
}

// reach is what a client at a place uses to reach a target: an address, or a
// server's name as it stands. The error says why it cannot.
func (d *DataCentre) reach(from, target string) (string, error) {
	kind := from // inet4, inet6, or "" for the data centre
	if s := d.server(from); s != nil {
		kind = s.At
	}
	client, isClient := map[string]netip.Addr{"inet4": client4Addr.Addr(), "inet6": client6Addr.Addr()}[target]
	s := d.server(target)
	var all []netip.Addr
	switch {
	case isClient:
		all = []netip.Addr{client}
	case strings.HasSuffix(target, nameSuffix):
		s := d.server(strings.TrimSuffix(target, nameSuffix))
		if s == nil || s.At == "" {
			return "", fmt.Errorf("unknown name %q: each server at inet4 and inet6 has one, NAME%s", target, nameSuffix)
		}
		if kind != "" || !slices.ContainsFunc(d.Translators, func(t *TranslatorStmt) bool { return t.DNS64 }) {
			return "", fmt.Errorf("names are for servers in the data centre, and for translators with dns64")
		}
		return target, nil
	case s == nil:
		a, err := netip.ParseAddr(target)
		if err != nil {
			return "", fmt.Errorf("unknown server %q; known: %s; nor is it an address", target, known(d.names("servers")))
		}
		all = []netip.Addr{a}
	case s.At == "" && kind == "":
		all = []netip.Addr{s.addr()}
	case s.At == "":
		all = s.Service
	default:
		all = []netip.Addr{s.addr()}
	}
	for _, a := range all {
		switch {
		case kind == "" && a.Is4():
			return embed(a).String(), nil
		case kind == "inet4" && a.Is6(), kind == "inet6" && a.Is4():
		default:
			return a.String(), nil
		}
	}
	return "", fmt.Errorf("%s has no address that a client at %s could use", target, from)
}
