package lab

import (
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"widecloud/api"
	"widecloud/internal/cloud"
	"widecloud/internal/saga"
)

var labelRE = regexp.MustCompile(`^[a-z]([a-z0-9-]{0,18}[a-z0-9])?$`)

// name takes a new name.
func (p *parser) name(what string, taken func(string) bool) string {
	w := p.next(what + "'s name")
	if w.quoted || !labelRE.MatchString(w.text) {
		p.fail(w, "%q is no name for a %s: a to z first, then 0 to 9 and - too, at most 20 characters", w.text, what)
	}
	if taken(w.text) {
		p.fail(w, "%s %q is there already", what, w.text)
	}
	return w.text
}

// ref takes a name that must be known.
func ref[V any](p *parser, what string, m map[string]V) string {
	w := p.next(what)
	text := strings.TrimSuffix(w.text, ",")
	if _, ok := m[text]; !ok || w.quoted {
		p.fail(w, "unknown %s %q; known: %s", what, text, known(m))
	}
	return text
}

// place takes SITE or SITE/HOST.
func (p *parser) place() string {
	w := p.next("SITE or SITE/HOST")
	text := strings.TrimSuffix(w.text, ",")
	site, host, hasHost := strings.Cut(text, "/")
	s, ok := p.sites[site]
	if !ok || w.quoted {
		p.fail(w, "unknown site %q; known: %s", site, known(p.sites))
	}
	if hasHost && !slices.Contains(s.hosts(), host) {
		p.fail(w, "unknown host %q of %s; known: %s", host, site, strings.Join(s.hosts(), ", "))
	}
	return text
}

// hosts are the names of a site's hosts: h1, h2, … and gw.
func (s *SiteStmt) hosts() []string {
	var l []string
	for i := range s.Hosts {
		l = append(l, "h"+strconv.Itoa(i+1))
	}
	if s.Gateway {
		l = append(l, "gw")
	}
	return l
}

func (p *parser) number(what string, low, high int) int {
	w := p.next(what)
	n, err := strconv.Atoi(w.text)
	if err != nil || n < low || n > high {
		p.fail(w, "%q is not a number between %d and %d", w.text, low, high)
	}
	return n
}

func (p *parser) duration(most time.Duration) time.Duration {
	w := p.next("a time such as 300ms or 5s")
	d, err := time.ParseDuration(strings.TrimSuffix(w.text, ","))
	if err != nil || d < 0 || d > most {
		p.fail(w, "%q is no time from 0s to %v", w.text, most)
	}
	return d
}

// quantity takes a number with a decimal or binary unit: 100M, 8MiB.
func (p *parser) quantity(what string, most int64) int64 {
	w := p.next(what)
	text := strings.TrimSuffix(strings.TrimSuffix(w.text, "/s"), ",")
	digits := strings.TrimRight(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
	unit, ok := map[string]int64{
		"": 1, "B": 1, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "kB": 1e3, "KB": 1e3, "MB": 1e6, "GB": 1e9,
		"kbit": 1e3, "Mbit": 1e6, "Gbit": 1e9, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30,
	}[text[len(digits):]]
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || !ok || n < 1 || n > most/unit {
		p.fail(w, "%q is no %s such as 100M or 8MiB, at most %d", w.text, what, most)
	}
	return n * unit
}

func (p *parser) mib(what string) int {
	w := word{col: p.end}
	if p.more() {
		w = p.words[p.at]
	}
	n := p.quantity(what, 1<<40)
	if n%(1<<20) != 0 {
		p.fail(w, "%q is no whole number of MiB", w.text)
	}
	return int(n >> 20)
}

// amount takes `N cpu SIZE memory SIZE disk N addresses`, any of them.
func (p *parser) amount() (r api.Resources) {
	begin := p.at
	for p.more() {
		save := p.at
		w := p.next("an amount")
		if w.quoted || w.text == "" || w.text[0] < '0' || w.text[0] > '9' {
			p.at = save
			break
		}
		if !p.more() {
			p.next("cpu, memory, disk or addresses")
		}
		unit := p.next("unit")
		p.at = save
		switch strings.TrimSuffix(unit.text, ",") {
		case "cpu", "cpus":
			r.CPUs = p.number("CPUs", 1, 10000)
		case "memory":
			r.MemoryMiB = p.mib("size")
		case "disk":
			r.DiskGiB = (p.mib("size") + 1023) / 1024
		case "address", "addresses":
			r.Addresses = p.number("addresses", 1, 10000)
		default:
			p.fail(unit, "%q where cpu, memory, disk or addresses is wanted", unit.text)
		}
		p.next("unit")
	}
	if p.at == begin {
		w := word{col: p.end}
		if p.more() {
			w = p.words[p.at]
		}
		p.fail(w, "an amount such as 2 cpu 512MiB memory 4GiB disk 2 addresses is wanted")
	}
	return r
}

func has[V any](m map[string]V) func(string) bool {
	return func(k string) bool { _, ok := m[k]; return ok }
}

func (p *parser) site() any {
	if p.script.DC != nil {
		p.fail(p.words[0], "sites and a data centre (routing, translator, server, fill) exclude each other: both would announce the same addresses")
	}
	s := &SiteStmt{Hosts: 1, Grace: 2 * time.Minute}
	s.Name = p.name("site", has(p.sites))
	if slices.Contains([]string{"inet4", "inet6", "internet", "traffic", "job", "page", "loan", "peer", "vm", "migrate"}, s.Name) {
		p.fail(p.words[p.at-1], "%q means something else", s.Name)
	}
	if len(s.Name) > 12 { // with the lab's name it becomes a namespace's
		p.fail(p.words[p.at-1], "%q is longer than 12 characters", s.Name)
	}
	for p.more() {
		switch p.oneOf("hosts", "gateway", "lend", "grace", "controller", "agents") {
		case "hosts":
			s.Hosts = p.number("number of hosts", 0, 8)
		case "gateway":
			s.Gateway, s.Path = true, "fast"
			if p.is("path") {
				s.Path = p.oneOf("fast", "full")
			}
		case "lend":
			if w := p.next("an amount"); strings.HasSuffix(w.text, "%") {
				n, err := strconv.Atoi(strings.TrimSuffix(w.text, "%"))
				if err != nil || n < 1 || n > 100 {
					p.fail(w, "%q is no percentage from 1%% to 100%%", w.text)
				}
				s.Percent = n
			} else {
				p.at--
				r := p.amount()
				s.Lend = &r
			}
			p.oneOf("to")
			for p.more() {
				w := p.words[p.at]
				text := strings.TrimSuffix(w.text, ",")
				if slices.Contains([]string{"grace", "gateway", "hosts", "controller", "agents"}, text) {
					break
				}
				p.at++
				// A site may lend to one that comes later, so it is not looked up.
				if text != "*" && !labelRE.MatchString(text) {
					p.fail(w, "%q is neither a site nor *", w.text)
				}
				s.To = append(s.To, text)
			}
			if len(s.To) == 0 {
				p.next("SITE or *")
			}
		case "grace":
			s.Grace = p.duration(24 * time.Hour)
		case "controller":
			s.Controller = ref(p, "release", p.releases)
		case "agents":
			s.Agents = ref(p, "release", p.releases)
		}
	}
	p.sites[s.Name] = s
	p.script.Sites = append(p.script.Sites, s)
	return s
}

func pair(a, b string) [2]string {
	if a > b {
		a, b = b, a
	}
	return [2]string{a, b}
}

// other takes a second site, another than the first.
func (p *parser) other(first string) string {
	w := word{col: p.end}
	if p.more() {
		w = p.words[p.at]
	}
	s := ref(p, "site", p.sites)
	if s == first {
		p.fail(w, "%s and itself", s)
	}
	return s
}

func (p *parser) wan() any {
	w := &WANStmt{}
	at := p.words[p.at-1]
	w.A = ref(p, "site", p.sites)
	w.B = p.other(w.A)
	if p.wans[pair(w.A, w.B)] {
		p.fail(at, "there is a link between %s and %s already", w.A, w.B)
	}
	for p.more() {
		switch p.oneOf("rtt", "rate") {
		case "rtt":
			w.RTT = p.duration(10 * time.Second)
		case "rate":
			w.Rate = p.quantity("rate in bit/s", 100e9)
		}
	}
	p.wans[pair(w.A, w.B)] = true
	p.script.WANs = append(p.script.WANs, w)
	return w
}

func (p *parser) image() any {
	w := p.next("image")
	if _, ok := imageMakers[w.text]; !ok {
		p.fail(w, "unknown image %q; known: %s", w.text, known(imageMakers))
	}
	if p.images[w.text] {
		p.fail(w, "image %q is there already", w.text)
	}
	p.images[w.text] = true
	p.script.Images = append(p.script.Images, w.text)
	return &ImageStmt{w.text}
}

func (p *parser) prefix(check func(netip.Prefix) bool, what string) netip.Prefix {
	w := p.next("prefix")
	x, err := netip.ParsePrefix(w.text)
	if err != nil || x != x.Masked() || !check(x) {
		p.fail(w, "%q is no %s", w.text, what)
	}
	return x
}

func (p *parser) network() any {
	n := &NetworkStmt{Name: p.name("network", has(p.networks))}
	p.oneOf("owner")
	n.Owner = ref(p, "site", p.sites)
	p.oneOf("prefix")
	n.Prefix = p.prefix(func(x netip.Prefix) bool { return x.Addr().Is6() && x.Bits() == 64 }, "IPv6 prefix of length 64")
	if p.is("ipv4") {
		n.IPv4 = p.prefix(func(x netip.Prefix) bool { return x.Addr().Is4() && x.Bits() >= 16 && x.Bits() <= 28 }, "IPv4 prefix of length 16 to 28")
	}
	p.networks[n.Name] = n.Owner
	return n
}

func (p *parser) vm() any {
	v := &VMStmt{CPUs: 1, MemoryMiB: 128}
	v.Name = p.name("vm", func(s string) bool { return p.vms[s] != nil || p.sites[s] != nil })
	if slices.Contains([]string{"traffic", "job", "page", "loan", "peer", "migrate", "inet4", "inet6"}, v.Name) {
		p.fail(p.words[p.at-1], "%q means something else", v.Name)
	}
	end := word{col: p.end}
	for p.more() {
		switch p.oneOf("owner", "network", "image", "service", "at", "cpus", "memory", "user-data") {
		case "owner":
			v.Owner = ref(p, "site", p.sites)
		case "network":
			v.Network = ref(p, "network", p.networks)
		case "image":
			v.Image = ref(p, "image", p.images)
		case "service":
			v.Service = p.newServices(v.Name)
		case "at":
			v.At = p.place()
		case "cpus":
			v.CPUs = p.number("CPUs", 1, 8)
		case "memory":
			v.MemoryMiB = p.mib("size")
		case "user-data":
			v.UserData = p.next("file").text
		}
	}
	if v.Owner == "" {
		p.fail(end, "owner SITE is missing")
	}
	if v.Network == "" {
		p.fail(end, "network NETWORK is missing")
	}
	if p.networks[v.Network] != v.Owner {
		p.fail(end, "network %s is %s's, the VM is %s's", v.Network, p.networks[v.Network], v.Owner)
	}
	if v.Image == "" {
		if len(p.script.Images) == 0 {
			p.fail(end, "there is no image yet; say: image tiny")
		}
		v.Image = p.script.Images[0]
	}
	p.vms[v.Name] = v
	return v
}

func (p *parser) borrow() any {
	b := &BorrowStmt{Borrower: ref(p, "site", p.sites)}
	p.oneOf("from")
	b.Lender = p.other(b.Borrower)
	if s := p.sites[b.Lender]; s.Lend == nil && s.Percent == 0 {
		p.fail(p.words[p.at-1], "%s lends nothing; say so in its site statement", b.Lender)
	}
	b.Amount = p.amount()
	p.loans[[2]string{b.Lender, b.Borrower}] = true
	return b
}

func (p *parser) loan() (lender, borrower string) {
	p.oneOf("of")
	at := p.words[p.at-1]
	lender = ref(p, "site", p.sites)
	p.oneOf("to")
	borrower = p.other(lender)
	if !p.loans[[2]string{lender, borrower}] {
		p.fail(at, "%s has borrowed nothing from %s", borrower, lender)
	}
	return lender, borrower
}

func (p *parser) revoke() any {
	p.oneOf("loan")
	r := &RevokeStmt{}
	r.Lender, r.Borrower = p.loan()
	return r
}

// from takes a client's place.
func (p *parser) from() string {
	w := p.next("inet4, inet6 or SITE")
	text := strings.TrimSuffix(w.text, ",")
	if d := p.script.DC; d != nil && text != "inet4" && text != "inet6" && d.server(text) == nil {
		p.fail(w, "unknown place of a client %q; known: inet4, inet6, %s", text, known(d.names("servers")))
	} else if d == nil && text != "inet4" && text != "inet6" && p.sites[text] == nil {
		p.fail(w, "unknown place of a client %q; known: inet4, inet6, %s", text, known(p.sites))
	}
	return text
}

// target takes a VM or an address, and checks that a client at from could ask it.
func (p *parser) target(from string) string {
	w := p.next("VM or address")
	if d := p.script.DC; d != nil {
		if _, err := d.reach(from, w.text); err != nil {
			p.fail(w, "%v", err)
		}
		return w.text
	}
	if v := p.vms[w.text]; v != nil {
		if _, ok := v.serviceFor(from); !ok {
			p.fail(w, "vm %s has no service address that a client at %s could use", w.text, from)
		}
		return w.text
	}
	a, err := netip.ParseAddr(w.text)
	if err != nil {
		p.fail(w, "unknown vm %q; known: %s; nor is it an address", w.text, known(p.vms))
	}
	if from == "inet4" && !a.Is4() || from == "inet6" && !a.Is6() {
		p.fail(w, "a client at %s cannot reach %s", from, a)
	}
	return a.String()
}

// serviceFor is the VM's service address that a client at a place uses.
func (v *VMStmt) serviceFor(from string) (netip.Addr, bool) {
	for _, a := range v.Service {
		if from == "inet4" && a.Is6() || from == "inet6" && a.Is4() {
			continue
		}
		return a, true
	}
	return netip.Addr{}, false
}

func (p *parser) flow() any {
	t := &TrafficStmt{Name: p.name("traffic", has(p.traffic))}
	if t.Name == allTraffic {
		p.fail(p.words[p.at-1], "%q means something else", t.Name)
	}
	t.From = p.from()
	p.oneOf("->")
	t.Target = p.target(t.From)
	switch p.oneOf("http", "download") {
	case "http":
		p.oneOf("every")
		t.Every = p.duration(time.Minute)
		if t.Every < 5*time.Millisecond {
			p.fail(p.words[p.at-1], "more often than every 5ms")
		}
	case "download":
		p.oneOf("rate")
		t.Rate = p.quantity("rate in bytes a second", 1e9)
	}
	p.traffic[t.Name] = t
	return t
}

func (p *parser) measure() any {
	m := &MeasureStmt{Names: []string{p.flows()}}
	for p.more() {
		m.Names = append(m.Names, p.flows())
	}
	return m
}

func (p *parser) stop() any {
	switch p.oneOf("traffic", "vm", "churn") {
	case "vm":
		return &PowerStmt{VM: ref(p, "vm", p.vms), Verb: "stop"}
	case "churn":
		return p.stopChurn()
	}
	return &StopStmt{ref(p, "traffic", p.traffic)}
}

func (p *parser) power() any {
	verb := p.words[0].text
	p.oneOf("vm")
	return &PowerStmt{VM: ref(p, "vm", p.vms), Verb: verb}
}

func (p *parser) start() any {
	if p.is("vm") {
		return &PowerStmt{VM: ref(p, "vm", p.vms), Verb: "start"}
	}
	s := &StartStmt{}
	s.Site, s.Host, s.Process = p.process()
	return s
}

// process takes SITE controller, or SITE/HOST and one of its processes.
func (p *parser) process() (site, host, process string) {
	w := word{col: p.end}
	if p.more() {
		w = p.words[p.at]
	}
	if p.script.DC != nil {
		return ref(p, "translator", p.script.DC.names("translators")), "", p.oneOf("map646")
	}
	site, host, _ = strings.Cut(p.place(), "/")
	if host == "" {
		p.oneOf("controller")
		return site, "", "controller"
	}
	process = p.oneOf("agent", "map646", "libvirtd")
	if gw := host == "gw"; process == "map646" && !gw || process == "libvirtd" && gw {
		p.fail(w, "no %s runs on %s/%s", process, site, host)
	}
	return site, host, process
}

// Signals that a script can send.
var signals = []string{"KILL", "TERM", "HUP", "STOP", "CONT"}

func (p *parser) kill() any {
	k := &KillStmt{Signal: "KILL"}
	k.Site, k.Host, k.Process = p.process()
	if p.more() {
		k.Signal = p.oneOf(signals...)
	}
	return k
}

func (p *parser) plug() any {
	on := p.words[0].text == "poweron"
	if p.script.DC != nil {
		return &PlugStmt{Site: ref(p, "translator or server", p.script.DC.names("")), On: on}
	}
	w := word{col: p.end}
	if p.more() {
		w = p.words[p.at]
	}
	site, host, _ := strings.Cut(p.place(), "/")
	if host == "" {
		p.fail(w, "SITE/HOST is wanted; hosts of %s: %s", site, strings.Join(p.sites[site].hosts(), ", "))
	}
	return &PlugStmt{Site: site, Host: host, On: on}
}

func (p *parser) cut() any {
	c := &CutStmt{Heal: p.words[0].text == "heal", A: ref(p, "site", p.sites)}
	if p.more() {
		at := p.words[p.at]
		c.B = p.other(c.A)
		if !p.wans[pair(c.A, c.B)] {
			p.fail(at, "there is no link between %s and %s", c.A, c.B)
		}
	}
	return c
}

func (p *parser) migrate() any {
	m := &MigrateStmt{VM: ref(p, "vm", p.vms)}
	p.is("to")
	m.To = p.place()
	m.Background = p.is("&")
	p.migrated[m.VM] = true
	return m
}

// job takes a VM that a migration was begun of.
func (p *parser) job() string {
	w := word{col: p.end}
	if p.more() {
		w = p.words[p.at]
	}
	vm := ref(p, "vm", p.vms)
	if !p.migrated[vm] {
		p.fail(w, "no migration of %s was begun", vm)
	}
	return vm
}

func (p *parser) within(otherwise time.Duration) time.Duration {
	if p.is("within") {
		return p.duration(time.Hour)
	}
	return otherwise
}

func (p *parser) wait() any {
	p.oneOf("job")
	w := &WaitStmt{VM: p.job()}
	switch {
	case p.is("copied"):
		at := p.next("percentage")
		n, err := strconv.Atoi(strings.TrimSuffix(at.text, "%"))
		if err != nil || n < 1 || n > 99 {
			p.fail(at, "%q is no percentage from 1%% to 99%%", at.text)
		}
		w.Percent = n
	case p.is("step"):
		var l []string
		for _, s := range []saga.Step{cloud.StepChecked, cloud.StepReserved, cloud.StepPrepared, cloud.StepCopying, cloud.StepCopied, cloud.StepCommitted, cloud.StepSwitched} {
			l = append(l, string(s))
		}
		w.Step = p.oneOf(l...)
	}
	w.Within = p.within(3 * time.Minute)
	return w
}

func (p *parser) cancel() any {
	p.oneOf("job")
	return &CancelStmt{p.job()}
}

func (p *parser) write() any {
	w := &WriteStmt{VM: p.reachable()}
	at := word{col: p.end}
	if p.more() {
		at = p.words[p.at]
	}
	if w.MiB = p.mib("size"); w.MiB > 64 {
		p.fail(at, "more than the 64 MiB that the guest has for it")
	}
	p.written[w.VM] = true
	return w
}

// reachable takes a VM with a service address: the lab talks to it from outside.
func (p *parser) reachable() string {
	w := word{col: p.end}
	if p.more() {
		w = p.words[p.at]
	}
	vm := ref(p, "vm", p.vms)
	if len(p.vms[vm].Service) == 0 {
		p.fail(w, "vm %s has no service address by which it could be asked", vm)
	}
	return vm
}

func (p *parser) dirty() any {
	d := &DirtyStmt{VM: p.reachable()}
	d.MiB = p.mib("size")
	p.oneOf("rate")
	d.Rate = p.quantity("rate in bytes a second", 1e9)
	return d
}

func (p *parser) say() any {
	w := p.next("text")
	if !w.quoted {
		p.fail(w, "the text must stand in quotation marks")
	}
	return &SayStmt{w.text}
}

func (p *parser) sleep() any { return &SleepStmt{p.duration(10 * time.Minute)} }

var figureRE = regexp.MustCompile(`^[a-z][a-z0-9_]*(\.[a-z0-9_]+)+$`)

func (p *parser) figure() any {
	w := p.next("figure's name")
	if !figureRE.MatchString(w.text) {
		p.fail(w, "%q is no figure's name such as migrate.gap", w.text)
	}
	if p.figures[w.text] {
		p.fail(w, "figure %s is there already", w.text)
	}
	p.figures[w.text] = true
	f := &FigureStmt{Name: w.text}
	if p.words[0].text == "ratio" {
		f.What, f.Of = p.oneOf("wire"), p.job()
		return f
	}
	switch f.What = p.oneOf("gap", "lost", "seconds", "wan_bytes", "downtime", "elapsed"); f.What {
	case "gap", "lost":
		f.Of = ref(p, "traffic", p.traffic)
	case "elapsed":
	default:
		f.Of = p.job()
	}
	return f
}
