package place

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"widecloud/api"
	"widecloud/internal/lend"
)

// Snapshot is what is known at one moment.
type Snapshot struct {
	Sites []Site
}

// Site is the own site or a peer.
type Site struct {
	Name    string
	Self    bool
	Reached bool      // peers only
	Hosts   []Host    // own site only
	Loans   []Loan    // peers only: what was borrowed from it
	CPUs    []api.CPU // peers only: the kinds of CPU that its hosts have; empty: not known
}

// Loan is a loan from a peer. Only active ones are of use.
type Loan struct {
	Name   string
	State  api.LoanState
	Amount api.Resources
	Used   api.Resources // without what is being placed
}

// Host is a host of the own site.
type Host struct {
	Name      string
	Roles     []api.HostRole
	Connected bool
	Cordoned  bool
	Capacity  api.Resources // Addresses is not looked at: service addresses are not a host's
	Allotted  api.Resources // without what is being placed
	CPU       api.CPU
	Images    []string // digests
}

// Request is what is to be placed.
type Request struct {
	Needs    api.Resources
	Lent     api.Resources // what a lender counts; zero: Needs
	CPUModel string        // guest CPU model; empty: any host will do
	Arch     string        // empty: any
	Accel    string        // a running VM keeps its accelerator, kvm or tcg; empty: any
	Sites    []string      // permitted sites; empty: any
	Place    string        // SITE or SITE/HOST wanted; empty: wherever there is room
	Image    string        // digest of the base image
	Exclude  []Choice      // hosts, or with an empty Host whole sites, that are out of the question: where it is now
}

// Plan is what was decided.
type Plan struct {
	Chosen  *Choice      // nil: nowhere; then Refused says why
	Refused []api.Reason // all reasons against every candidate that is not possible, in the order of names
	Scores  []Score      // of the possible ones, the best first
}

// Choice is where to go.
type Choice struct {
	Site string
	Host string // at a peer: empty, or what Request.Place asks the lender for
	Loan string // at a peer
}

func (c Choice) String() string { return join(c.Site, c.Host) }

// Score is how good a possible candidate is. Larger is better.
type Score struct {
	Choice
	Value float64
	Self  bool
	Image bool    // the base image is there already
	Free  float64 // part of the memory that would be left, 0 to 1
}

const (
	scoreSelf  = 2.0 // more than all the rest together
	scoreImage = 0.25
)

// Decide chooses.
func Decide(s Snapshot, r Request) Plan {
	var p Plan
	known := r.Place == ""
	site, host, _ := strings.Cut(r.Place, "/")
	for _, st := range s.Sites {
		switch {
		case st.Self:
			if st.Name == site && host == "" {
				known = true
			}
			if len(st.Hosts) == 0 {
				p.Refused = append(p.Refused, api.Reason{Site: st.Name, Code: "hypervisor", Message: "the site has no hosts",
					Advice: "add a host, or borrow from a peer"})
			}
			for _, h := range st.Hosts {
				known = known || (st.Name == site && h.Name == host)
				decideHost(&p, st, h, r)
			}
		default:
			known = known || st.Name == site
			decidePeer(&p, st, r)
		}
	}
	if !known {
		what := "host"
		if !slices.ContainsFunc(s.Sites, func(st Site) bool { return st.Name == site }) {
			what = "site"
		}
		p.Refused = append(p.Refused, api.Reason{Site: site, Host: host, Code: "place",
			Message: fmt.Sprintf("%s is wanted, and no such %s is known", r.Place, what), Advice: "see `wcc site list` and `wcc host list`"})
	}
	if len(s.Sites) == 0 && known {
		p.Refused = append(p.Refused, api.Reason{Code: "hypervisor", Message: "no site is known"})
	}
	slices.SortStableFunc(p.Refused, func(a, b api.Reason) int {
		return cmp.Or(cmp.Compare(a.Site, b.Site), cmp.Compare(a.Host, b.Host))
	})
	slices.SortFunc(p.Scores, func(a, b Score) int {
		return cmp.Or(cmp.Compare(b.Value, a.Value), cmp.Compare(a.Site, b.Site), cmp.Compare(a.Host, b.Host), cmp.Compare(a.Loan, b.Loan))
	})
	if len(p.Scores) > 0 {
		c := p.Scores[0].Choice
		p.Chosen = &c
	}
	return p
}

// refuser gathers the reasons against one candidate.
type refuser struct {
	site, host string
	reasons    []api.Reason
}

func (f *refuser) add(code, advice, format string, args ...any) {
	f.reasons = append(f.reasons, api.Reason{Site: f.site, Host: f.host, Code: code, Message: fmt.Sprintf(format, args...), Advice: advice})
}

func (f *refuser) addAll(rs []api.Reason, advice string) {
	for _, r := range rs {
		r.Site, r.Host = f.site, f.host
		if r.Advice == "" {
			r.Advice = advice
		}
		f.reasons = append(f.reasons, r)
	}
}

// wishes checks what the request says of places. At a peer host is empty.
func (f *refuser) wishes(r Request, self bool) {
	if len(r.Sites) > 0 && !slices.Contains(r.Sites, f.site) {
		f.add("permit", fmt.Sprintf("add %s to the VM's permitted sites", f.site), "the VM may run at %s only", strings.Join(r.Sites, ", "))
	}
	if site, host, _ := strings.Cut(r.Place, "/"); r.Place != "" && (site != f.site || (self && host != "" && host != f.host)) {
		f.add("place", "", "%s is wanted", r.Place)
	}
	if slices.ContainsFunc(r.Exclude, func(c Choice) bool { return c.Site == f.site && (c.Host == "" || (self && c.Host == f.host)) }) {
		f.add("place", "choose another place", "the VM is here now, or is to leave here")
	}
	if name := lend.Negative(r.Needs); name != "" {
		f.add("invalid", "", "needs.%s is negative", name)
	}
}

func decideHost(p *Plan, st Site, h Host, r Request) {
	f := &refuser{site: st.Name, host: h.Name}
	f.wishes(r, true)
	if !slices.Contains(h.Roles, api.RoleHypervisor) {
		f.add("hypervisor", "", "the host is no hypervisor")
	}
	if !h.Connected {
		f.add("unreachable", "see that the host and its agent run", "the host's agent is not connected")
	}
	if h.Cordoned {
		f.add("cordon", "uncordon the host", "the host is cordoned: it takes no new VM")
	}
	for _, m := range cpu(h.CPU, r) {
		f.add("cpu-model", cpuAdvice, "%s", m)
	}
	needs := r.Needs
	needs.Addresses = 0
	f.addAll(lend.Fits("the host", lend.Sub(h.Capacity, h.Allotted), needs), "stop or move another VM, or choose another host")
	if len(f.reasons) > 0 {
		p.Refused = append(p.Refused, f.reasons...)
		return
	}
	p.add(Score{
		Choice: Choice{Site: st.Name, Host: h.Name},
		Self:   true,
		Image:  r.Image != "" && slices.Contains(h.Images, r.Image),
		Free:   free(h.Capacity, h.Allotted, r.Needs),
	})
}

func decidePeer(p *Plan, st Site, r Request) {
	f := &refuser{site: st.Name}
	f.wishes(r, false)
	if !st.Reached {
		f.add("unreachable", "wait until the link is back", "the site is not reached now")
	}
	peerCPU(f, st, r)
	loans := slices.SortedFunc(slices.Values(st.Loans), func(a, b Loan) int { return cmp.Compare(a.Name, b.Name) })
	var fit []Score
	var short []api.Reason
	active, needs := 0, r.Lent
	if needs == (api.Resources{}) {
		needs = r.Needs
	}
	for _, l := range loans {
		if l.State != api.LoanActive {
			continue
		}
		active++
		if rs := lend.Fits("loan "+l.Name, lend.Sub(l.Amount, l.Used), needs); rs != nil {
			short = append(short, rs...)
			continue
		}
		_, host, _ := strings.Cut(r.Place, "/")
		fit = append(fit, Score{Choice: Choice{Site: st.Name, Host: host, Loan: l.Name}, Free: free(l.Amount, l.Used, needs)})
	}
	switch {
	case active == 0 && len(loans) > 0:
		f.add("loan", "borrow anew", "no loan from %s is active any more", st.Name)
	case active == 0:
		f.add("loan", "borrow from it first: see `wcc offer list`", "nothing is borrowed from %s", st.Name)
	case len(fit) == 0:
		f.addAll(short, "borrow more, or move a VM of this loan away")
	}
	if len(f.reasons) > 0 {
		p.Refused = append(p.Refused, f.reasons...)
		return
	}
	for _, sc := range fit {
		p.add(sc)
	}
}

func (p *Plan) add(sc Score) {
	sc.Value = sc.Free
	if sc.Image {
		sc.Value += scoreImage
	}
	if sc.Self {
		sc.Value += scoreSelf
	}
	p.Scores = append(p.Scores, sc)
}

// free is the part of the memory that would be left.
func free(all, used, needs api.Resources) float64 {
	if all.MemoryMiB <= 0 {
		return 0
	}
	return float64(max(0, all.MemoryMiB-used.MemoryMiB-needs.MemoryMiB)) / float64(all.MemoryMiB)
}

const cpuAdvice = "choose a CPU model that both ends have (it is set while the VM is off), or another place"

// cpu says what a guest of the request lacks on a CPU.
func cpu(c api.CPU, r Request) []string {
	var ms []string
	if r.Arch != "" && c.Arch != r.Arch {
		ms = append(ms, fmt.Sprintf("the VM is for %s, the CPU is %s", r.Arch, or(c.Arch, "not known")))
	}
	if r.Accel != "" && c.Accel != r.Accel {
		ms = append(ms, fmt.Sprintf("the VM runs with %s, the hypervisor has %s", r.Accel, or(c.Accel, "none that is known")))
	}
	if r.CPUModel != "" && !slices.Contains(c.Usable, r.CPUModel) {
		usable := slices.Sorted(slices.Values(c.Usable))
		ms = append(ms, fmt.Sprintf("CPU model %s cannot run on %s; usable: %s", r.CPUModel, or(c.Model, "this CPU"), or(strings.Join(usable, ", "), "none that is known")))
	}
	return ms
}

// peerCPU refuses when no kind of CPU of a peer will do, and says for each what it lacks.
func peerCPU(f *refuser, st Site, r Request) {
	if r.CPUModel == "" && r.Arch == "" && r.Accel == "" {
		return
	}
	if len(st.CPUs) == 0 {
		f.add("cpu-model", "wait until the site has told its CPUs", "the site's CPUs are not known")
		return
	}
	var all []string
	for _, c := range st.CPUs {
		ms := cpu(c, r)
		if len(ms) == 0 {
			return
		}
		all = append(all, ms...)
	}
	slices.Sort(all)
	for _, m := range slices.Compact(all) {
		f.add("cpu-model", cpuAdvice, "%s", m)
	}
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

func join(site, host string) string {
	if host == "" {
		return site
	}
	return site + "/" + host
}

// Why says, of a plan, why a VM does not go to where (SITE or SITE/HOST); there is always at least one reason.
func Why(p Plan, where string) []api.Reason {
	site, host, _ := strings.Cut(where, "/")
	at := func(s, h string) bool { return s == site && (host == "" || h == host || h == "") }
	if p.Chosen != nil && p.Chosen.Site == site && (host == "" || p.Chosen.Host == host || p.Chosen.Loan != "") {
		return []api.Reason{{Site: site, Host: p.Chosen.Host, Code: "chosen", Message: fmt.Sprintf("%s is where it goes", *p.Chosen)}}
	}
	var rs []api.Reason
	for i, sc := range p.Scores {
		if at(sc.Site, sc.Host) {
			rs = append(rs, api.Reason{Site: sc.Site, Host: sc.Host, Code: "score",
				Message: fmt.Sprintf("possible, number %d of %d: %s; %s is better: %s", i+1, len(p.Scores), sc.explain(), p.Scores[0].Choice, p.Scores[0].explain()),
				Advice:  fmt.Sprintf("migrate it to %s, or create it with that place", sc.Choice)})
		}
	}
	for _, r := range p.Refused {
		if at(r.Site, r.Host) {
			rs = append(rs, r)
		}
	}
	if rs == nil {
		rs = append(rs, api.Reason{Site: site, Host: host, Code: "place", Message: fmt.Sprintf("%s is not known here", where), Advice: "see `wcc site list` and `wcc host list`"})
	}
	return rs
}

func (s Score) explain() string {
	whose, image := "a lender's", ""
	if s.Self {
		whose = "own site"
	}
	if s.Image {
		image = ", keeps the image"
	}
	return fmt.Sprintf("%s, %.0f %% of memory left%s", whose, s.Free*100, image)
}
