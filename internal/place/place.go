package place

import (
	"cmp"
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
	Profile int       // peers only, as long as CPUs is not known: the newest hardware profile that its release knows
	Disks   int       // as Profile: how many disks beside the root disk its release gives a VM
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
	Profile  int           // hardware profile; 0: any
	Disks    int           // disks beside the root disk
	Sites    []string      // permitted sites; empty: any
	Place    string        // SITE or SITE/HOST wanted; empty: wherever there is room
	Image    string        // digest of the base image
	Exclude  []Choice      // hosts, or with an empty Host whole sites, that are out of the question: where it is now
}

// Plan is what was decided.
type Plan struct {
	Chosen *Choice // nil: nowhere; then Refused says why
	// Refused has all reasons against every candidate that is not possible, in the order of names. Decide gives them only
	// when nothing was chosen, Explain always.
	Refused []api.Reason
	Scores  []Score // of the possible ones, the best first; from Explain only
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

// Profile is the newest hardware profile that a VM can have wherever a choice leads, up to newest: a peer says of each kind of
// its hypervisors which one it makes, and chooses the host itself.
func (s Snapshot) Profile(c Choice, newest int) int {
	for i := range s.Sites {
		switch site := &s.Sites[i]; {
		case site.Name != c.Site:
		case !site.Self && len(site.CPUs) == 0:
			newest = min(newest, max(1, site.Profile))
		case !site.Self:
			for j := range site.CPUs {
				newest = min(newest, profile(&site.CPUs[j]))
			}
		default:
			for j := range site.Hosts {
				if site.Hosts[j].Name == c.Host {
					newest = min(newest, profile(&site.Hosts[j].CPU))
				}
			}
		}
	}
	return newest
}

// Decide chooses. It makes reasons only when nothing is possible: with a thousand hosts, most of the work would be texts
// that nobody reads. Its memory does not grow with the number of hosts then.
func Decide(s Snapshot, r Request) Plan {
	q := newSearch(r)
	var best Score
	found := false
	consider := func(sc Score) {
		if !found || better(sc, best) {
			best, found = sc, true
		}
	}
	q.hosts(s, func(c *candidate) {
		if q.possible(hostRules, c) {
			consider(q.scoreHost(c))
		}
	})
	if found { // no peer can be better than the own site
		return Plan{Chosen: &best.Choice}
	}
	q.peers(s, func(c *candidate) {
		if q.possible(peerRules, c) {
			q.scoreLoans(c, consider)
		}
	})
	if found {
		return Plan{Chosen: &best.Choice}
	}
	return Plan{Refused: q.refusals(s)}
}

// better orders scores: by value, then by name.
func better(a, b Score) bool { return compare(a, b) < 0 }

func compare(a, b Score) int {
	return cmp.Or(cmp.Compare(b.Value, a.Value), cmp.Compare(a.Site, b.Site), cmp.Compare(a.Host, b.Host), cmp.Compare(a.Loan, b.Loan))
}

// search is a request with what follows from it for every candidate.
type search struct {
	Request
	site, host string        // of Place
	atHost     api.Resources // what it takes of a host
	atLoan     api.Resources // what it takes of a loan
}

func newSearch(r Request) *search {
	q := &search{Request: r, atHost: r.Needs, atLoan: r.Lent}
	q.site, q.host, _ = strings.Cut(r.Place, "/")
	q.atHost.Addresses = 0 // service addresses are not a host's
	if q.atLoan == (api.Resources{}) {
		q.atLoan = r.Needs
	}
	return q
}

// candidate is a host of the own site, or a peer as a whole.
type candidate struct {
	site *Site
	host *Host // nil: a peer
}

// hosts calls f for each host of the own site. The candidate is good until f returns.
func (q *search) hosts(s Snapshot, f func(*candidate)) {
	var c candidate
	for i := range s.Sites {
		if c.site = &s.Sites[i]; !c.site.Self {
			continue
		}
		for j := range c.site.Hosts {
			c.host = &c.site.Hosts[j]
			f(&c)
		}
	}
}

// peers calls f for each peer. The candidate is good until f returns.
func (q *search) peers(s Snapshot, f func(*candidate)) {
	var c candidate
	for i := range s.Sites {
		if c.site = &s.Sites[i]; !c.site.Self {
			f(&c)
		}
	}
}

// possible tells whether a candidate keeps all rules.
func (q *search) possible(rules []rule, c *candidate) bool {
	for i := range rules {
		if !rules[i].ok(q, c) {
			return false
		}
	}
	return true
}

// scoreHost is the score of a host that is possible.
func (q *search) scoreHost(c *candidate) Score {
	return Score{
		Choice: Choice{Site: c.site.Name, Host: c.host.Name},
		Self:   true,
		Image:  q.Image != "" && slices.Contains(c.host.Images, q.Image),
		Free:   free(c.host.Capacity, c.host.Allotted, q.Needs),
	}.valued()
}

// scoreLoans calls f with the score of each loan that has room, of a peer that is possible.
func (q *search) scoreLoans(c *candidate, f func(Score)) {
	for i := range c.site.Loans {
		if l := &c.site.Loans[i]; l.hasRoom(q.atLoan) {
			f(Score{Choice: Choice{Site: c.site.Name, Host: q.host, Loan: l.Name}, Free: free(l.Amount, l.Used, q.atLoan)}.valued())
		}
	}
}

func (l *Loan) hasRoom(needs api.Resources) bool {
	return l.State == api.LoanActive && lend.Enough(lend.Sub(l.Amount, l.Used), needs)
}

func (s Score) valued() Score {
	s.Value = s.Free
	if s.Image {
		s.Value += scoreImage
	}
	if s.Self {
		s.Value += scoreSelf
	}
	return s
}

// free is the part of the memory that would be left.
func free(all, used, needs api.Resources) float64 {
	if all.MemoryMiB <= 0 {
		return 0
	}
	return float64(max(0, all.MemoryMiB-used.MemoryMiB-needs.MemoryMiB)) / float64(all.MemoryMiB)
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
