package site

import (
	"cmp"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"widecloud/api"
	"widecloud/internal/lab/machine"
	"widecloud/internal/lab/script"
	"widecloud/internal/lab/stage"
	"widecloud/internal/lab/translator"
)

// Topic is sites.
var Topic = script.Topic{
	Title: "Sites",
	Intro: "A site has a controller, hypervisors `SITE/h1`, `SITE/h2`, …, and with `gateway` a translator `SITE/gw`. " +
		"An AMOUNT is any of `2 cpu`, `512MiB memory`, `4GiB disk`, `4 addresses`.",
	Statements: []script.Entry{
		{
			Form: "site NAME hosts N [simulated] [gateway [path fast|full]] [systemd] [lend 50% to *] [grace TIME] [images kept TIME] [location LATITUDE,LONGITUDE] [controller RELEASE] [agents RELEASE]",
			Part: script.Declares, Builds: true,
			Doc: "`lend` also takes an AMOUNT, and site names instead of `*`. `grace`: what a borrower has to leave when a loan is taken back (2m). " +
				"`images kept`: how long images stay, at the controller and the hosts, that nothing needs any more (24h). " +
				"`location`: where the site says that it is, in degrees (`35.68,139.77`), for maps. " +
				"`systemd`: controller, gateway and hypervisors are each a Debian of its own that systemd has booted, with our units " +
				"([below](#machines-with-systemd)). `controller`, `agents`: the site's controller, or the programs of its hosts and its gateway, are " +
				"of another release. Up to 500 sites of up to 1,000 hosts, 13 of them with a gateway. `simulated`: the hosts are agents over " +
				"hypervisors in memory, all in one process of the machine `SITE/hosts` ([below](#simulated-hosts))",
			Parse: parseSite,
		},
		{
			Form: "release NAME COMMIT", Part: script.Declares,
			Doc: "another release of widecloud, built from the history of the clone that the script is in, once. The clone must have the commit: " +
				"a shallow one has not (`git fetch --unshallow`)",
			Parse: parseRelease,
		},
		systemdEntries[0], systemdEntries[1], links[0], links[1], links[2],
		measures[0], measures[1], measures[2], measures[3], measures[4],
		{
			Form: "borrow SITE from SITE AMOUNT", Part: script.Declares,
			Doc:   "take a loan under the lender's offer. Borrowed `addresses` are what makes the lender's gateway translate for the borrower",
			Parse: parseBorrow,
		},
		{
			Form: "revoke loan of LENDER to BORROWER", Part: script.Happens, Doc: "the lender takes the newest loan back",
			Parse: parseRevoke,
		},
		{Form: "reclaim loan of LENDER to BORROWER", Part: script.Happens, Doc: "the same", Parse: parseRevoke},
		{
			Form: "upgrade SITE controller", Part: script.Happens,
			Doc:   "end the controller of another release and start this release's, with the state that the old one left",
			Parse: parseUpgradeController,
		},
		{Form: "upgrade HOST agent", Part: script.Happens, Doc: "the same, of an agent", Parse: parseUpgradeAgent},
		{
			Form: "expect loan of LENDER to BORROWER active|reclaimed|ended [within TIME]", Part: script.Checks, Doc: "by the lender's word",
			Parse: parseExpectLoan,
		},
		{
			Form: "expect peer SITE of SITE reached [within TIME]", Part: script.Checks,
			Doc:   "the second site's controller has a session with the first one's, which answers it now, as after `heal`, when both have to find out first",
			Parse: parseExpectPeer,
		},
		{
			Form: "expect hosts of SITE N connected [within TIME]", Part: script.Checks,
			Doc: "the agents of so many hosts are connected, a gateway counts too, by the controller's word", Parse: parseConnected,
		},
		{
			Form: "expect new network PREFIX at SITE refused", Part: script.Checks, Doc: "the site's address plan refuses it, by the field",
			Parse: parseNewNetwork,
		},
		{Form: "expect new address ADDRESS at SITE refused", Part: script.Checks, Doc: "the same, of a service address", Parse: parseNewAddress},
		operating[0], operating[1], operating[2], operating[3], operating[4],
	},
}

// Site is an owner with machines: what is declared of it, and once it is built, the
// machines.
type Site struct {
	name    string
	Path    string // of the gateway: fast or full
	Lend    *api.Resources
	Percent int // of the site's capacity, instead of Lend
	To      []string
	Grace   time.Duration
	// ImagesKept is how long images stay that nothing needs; 0: as long as by default.
	ImagesKept time.Duration
	// Congestion is TCP's congestion control of the site's machines; "": as of all.
	Congestion string
	// Controller and Agents are releases; nil: the one that is tested.
	Controller, Agents *Release

	location *api.Location // nil: it does not say

	systemd bool // the controller's machine is a Debian of its own, booted by systemd

	hosts   []*Host // hypervisors
	fleet   *Fleet  // simulated ones, instead; nil: none
	gateway *Host   // nil: none
	leaves  []*Leaf // machines of other topics
	fed     *Federation
	number  int // from 1; its addresses hang on it
	lentTo  map[*Site]bool

	router *machine.Router
	ctl    *machine.Node
	user   *machine.Node
	token  string
	client *api.Client  // of its operator
	door   machine.Door // to its page; of a lab that is left up
	tenant *api.Client  // of the owner of what the script makes, if that is not the operator
}

// Host is a machine of a site with an agent: a hypervisor or a gateway.
type Host struct {
	site       *Site
	name       string // h1, gw
	number     int    // among the site's machines; its addresses hang on it
	translator int    // the gateway's number among translators; 0: a hypervisor

	systemd bool // a Debian of its own, booted by systemd

	node       *machine.Node
	hypervisor *machine.Host // nil: a gateway
}

// Name, and what a site can be.
func (s *Site) Name() string              { return s.name }
func (s *Site) Processes() []string       { return []string{controllerProcess} }
func (s *Site) RunsOn() *machine.Node     { return s.ctl }
func (s *Site) ClientNode() *machine.Node { return s.user }
func (s *Site) HostFor(c stage.Client) (string, error) {
	addrs := leaf(s.number, userNumber).b // IPv4, IPv6
	return stage.Choose(c, s.name, []netip.Addr{addrs[1].Addr(), addrs[0].Addr()})
}
func (s *Site) Use(a netip.Addr) (netip.Addr, bool) { return a, true }
func (s *Site) Client() *api.Client                 { return s.client }
func (s *Site) Tenant() *api.Client                 { return cmp.Or(s.tenant, s.client) }
func (s *Site) Token() string                       { return s.token }

// Hypervisor is a host of the site; nil: there is none of that name.
func (s *Site) Hypervisor(host string) *machine.Host {
	for _, h := range s.hosts {
		if h.name == host {
			return h.hypervisor
		}
	}
	return nil
}

// Cut implements stage.Cuttable: all links of the site's router to others.
func (s *Site) Cut(heal bool) error {
	for _, w := range s.fed.WANs {
		if w.A == s || w.B == s {
			w.SetCut(nil, !heal)
		}
	}
	return s.router.CutLink("inet", !heal)
}

// Name, and what a host can be.
func (h *Host) Name() string          { return h.site.name + "/" + h.name }
func (h *Host) Node() *machine.Node   { return h.node }
func (h *Host) RunsOn() *machine.Node { return h.node }
func (h *Host) Cut(heal bool) error   { return h.node.CutLink("eth0", !heal) }
func (h *Host) Processes() []string {
	if h.translator > 0 {
		return []string{agentProcess, translator.Process}
	}
	return []string{agentProcess, libvirtProcess}
}

func (h *Host) isPlace() {}

// HasBase tells whether a hypervisor keeps a base image, by its digest.
func (h *Host) HasBase(digest string) (bool, error) {
	found, err := filepath.Glob(h.node.Path(stateDir + "/agent/vms/base/" + strings.TrimPrefix(digest, "sha256:") + ".*"))
	return len(found) > 0, err
}

// hostNames are the site's hosts for a message.
func (s *Site) hostNames() string {
	if n := s.size(); s.fleet != nil && n > 1 {
		return fmt.Sprintf("h1 to h%d", n)
	}
	var l []string
	for _, h := range s.all() {
		l = append(l, h.name)
	}
	return script.List(l)
}

// size is how many hypervisors the site has.
func (s *Site) size() int {
	if s.fleet != nil {
		return len(s.fleet.hosts)
	}
	return len(s.hosts)
}

// all are the site's hosts with agents on machines of their own.
func (s *Site) all() []*Host {
	if s.gateway == nil {
		return s.hosts
	}
	return append(slices.Clone(s.hosts), s.gateway)
}

func ref(p *script.Parser) *Site { return script.Ref[*Site](p, "site") }

// Ref takes a site.
func Ref(p *script.Parser) *Site { return ref(p) }

// other takes a second site, another than the first.
func other(p *script.Parser, first *Site) *Site {
	w := p.Peek()
	s := ref(p)
	if s == first {
		p.Fail(w, "%s and itself", s.name)
	}
	return s
}

// Place takes SITE or SITE/HOST.
func Place(p *script.Parser) string {
	w := p.Next("SITE or SITE/HOST")
	text := strings.TrimSuffix(w.Text, ",")
	name, _, isHost := strings.Cut(text, "/")
	s, ok := script.Lookup[*Site](p, name)
	if !ok || w.Quoted {
		p.Fail(w, "unknown site %q; known: %s", name, script.List(script.Names[*Site](p)))
	}
	_, ok = script.Lookup[interface{ isPlace() }](p, text)
	if isHost && !ok {
		p.Fail(w, "unknown host %q of %s; known: %s", strings.TrimPrefix(text, name+"/"), name, s.hostNames())
	}
	return text
}

// siteWords are what a site's statement can have.
var siteWords = []string{"hosts", "simulated", "gateway", "systemd", "lend", "grace", "images", "location", "controller", "agents"}

func parseSite(p *script.Parser) any {
	f := federation(p)
	s := &Site{name: p.ShortName("site"), Grace: 2 * time.Minute, fed: f, lentTo: map[*Site]bool{}, number: len(f.Sites) + 1}
	if s.number > maxSites {
		p.Fail(p.First(), "more than %d sites", maxSites)
	}
	hosts, systemd := 1, false
	for p.More() {
		switch p.OneOf(siteWords...) {
		case "hosts":
			hosts = p.Number("number of hosts", 0, maxHosts)
		case "simulated":
			s.fleet = &Fleet{site: s}
		case "gateway":
			s.parseGateway(p)
		case "systemd":
			systemd = true
		case "lend":
			s.parseLend(p)
		case "grace":
			s.Grace = p.Duration(24 * time.Hour)
		case "images":
			p.OneOf("kept")
			s.ImagesKept = p.Duration(24 * time.Hour)
		case "location":
			s.parseLocation(p)
		case "controller":
			s.Controller = script.Ref[*Release](p, "release")
		case "agents":
			s.Agents = script.Ref[*Release](p, "release")
		}
	}
	for i := range hosts {
		name, number := fmt.Sprintf("h%d", i+1), firstHost+i
		if s.fleet != nil {
			s.fleet.hosts = append(s.fleet.hosts, &simulatedHost{site: s, name: name, number: number})
		} else {
			s.hosts = append(s.hosts, &Host{site: s, name: name, number: number})
		}
	}
	s.checkSimulated(p)
	if s.ImagesKept > 0 && (s.Controller != nil || s.Agents != nil) {
		p.Fail(p.First(), "how long images are kept is for the release that is tested: another one may not know it")
	}
	if s.location != nil && s.Controller != nil {
		p.Fail(p.First(), "a location is for the release that is tested: another one may not know it")
	}
	if systemd {
		s.setSystemd()
	}
	f.internet.Speak(p, "ospf")
	f.Sites = append(f.Sites, s)
	p.Declare(s.name, s)
	for _, h := range s.all() {
		p.Declare(h.Name(), h)
	}
	s.fleet.declare(p)
	return nil
}

func (s *Site) parseLocation(p *script.Parser) {
	w := p.Next("location")
	latitude, longitude, _ := strings.Cut(w.Text, ",")
	lat, err := strconv.ParseFloat(latitude, 64)
	lon, err2 := strconv.ParseFloat(longitude, 64)
	s.location = &api.Location{Latitude: lat, Longitude: lon}
	if err != nil || err2 != nil || s.location.Fault() != nil {
		p.Fail(w, "%q is not LATITUDE,LONGITUDE in degrees, such as 35.68,139.77", w.Text)
	}
}

func (s *Site) parseGateway(p *script.Parser) {
	s.Path = "fast"
	s.gateway = &Host{site: s, name: "gw", number: gwNumber, translator: 1}
	for _, o := range s.fed.Sites {
		if o.gateway != nil {
			s.gateway.translator++
		}
	}
	if s.gateway.translator > translator.MaxNumber {
		p.Fail(p.Last(), "more than %d gateways", translator.MaxNumber)
	}
	if p.Is("path") {
		s.Path = p.OneOf("fast", "full")
	}
}

func (s *Site) parseLend(p *script.Parser) {
	if strings.HasSuffix(p.Peek().Text, "%") {
		s.Percent = p.Percentage(1, 100)
	} else {
		r := amount(p)
		s.Lend = &r
	}
	p.OneOf("to")
	for p.More() {
		w := p.Peek()
		text := strings.TrimSuffix(w.Text, ",")
		if slices.Contains(siteWords, text) {
			break
		}
		p.Next("SITE or *")
		// A site may lend to one that comes later, so it is not looked up.
		if text != "*" && !script.IsName(text) {
			p.Fail(w, "%q is neither a site nor *", w.Text)
		}
		s.To = append(s.To, text)
	}
	if len(s.To) == 0 {
		p.Next("SITE or *")
	}
}

// amount takes `N cpu SIZE memory SIZE disk N addresses`, any of them.
func amount(p *script.Parser) (r api.Resources) {
	found := false
	for p.More() {
		text := p.Peek().Text
		if p.Peek().Quoted || text == "" || text[0] < '0' || text[0] > '9' {
			break
		}
		var unit script.Word
		p.Ahead(func() { p.Next("an amount"); unit = p.Next("cpu, memory, disk or addresses") })
		switch strings.TrimSuffix(unit.Text, ",") {
		case "cpu", "cpus":
			r.CPUs = p.Number("CPUs", 1, 10000)
		case "memory":
			r.MemoryMiB = p.MiB("size")
		case "disk":
			r.DiskGiB = (p.MiB("size") + 1023) / 1024
		case "address", "addresses":
			r.Addresses = p.Number("addresses", 1, 10000)
		default:
			p.Fail(unit, "%q where cpu, memory, disk or addresses is wanted", unit.Text)
		}
		p.Next("unit")
		found = true
	}
	if !found {
		p.Fail(p.Peek(), "an amount such as 2 cpu 512MiB memory 4GiB disk 2 addresses is wanted")
	}
	return r
}
