package place

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"widecloud/api"
)

// Explain decides as Decide does, and gives all reasons and scores with it. It costs some microseconds for each host: it is
// for people who ask.
func Explain(s Snapshot, r Request) Plan {
	q := newSearch(r)
	p := Plan{Refused: q.refusals(s)}
	add := func(sc Score) { p.Scores = append(p.Scores, sc) }
	q.hosts(s, func(c *candidate) {
		if q.possible(hostRules, c) {
			add(q.scoreHost(c))
		}
	})
	q.peers(s, func(c *candidate) {
		if q.possible(peerRules, c) {
			q.scoreLoans(c, add)
		}
	})
	slices.SortFunc(p.Scores, compare)
	if len(p.Scores) > 0 {
		c := p.Scores[0].Choice
		p.Chosen = &c
	}
	return p
}

// refusals are all reasons against every candidate that is not possible, in the order of names.
func (q *search) refusals(s Snapshot) []api.Reason {
	var all []api.Reason
	refuse := func(rules []rule) func(*candidate) {
		return func(c *candidate) {
			f := refuser{site: c.site.Name, reasons: all}
			if c.host != nil {
				f.host = c.host.Name
			}
			for _, r := range rules {
				if !r.ok(q, c) {
					r.why(q, c, &f)
				}
			}
			all = f.reasons
		}
	}
	q.hosts(s, refuse(hostRules))
	q.peers(s, refuse(peerRules))
	all = append(all, q.missing(s)...)
	slices.SortStableFunc(all, func(a, b api.Reason) int {
		return cmp.Or(cmp.Compare(a.Site, b.Site), cmp.Compare(a.Host, b.Host))
	})
	return all
}

// missing says what is not there: sites, hosts, the place that is wanted.
func (q *search) missing(s Snapshot) []api.Reason {
	var all []api.Reason
	for _, st := range s.Sites {
		if st.Self && len(st.Hosts) == 0 {
			all = append(all, api.Reason{Site: st.Name, Code: "hypervisor", Message: "the site has no hosts", Advice: "add a host, or borrow from a peer"})
		}
	}
	switch at := slices.IndexFunc(s.Sites, func(st Site) bool { return st.Name == q.site }); {
	case q.Place == "":
		if len(s.Sites) == 0 {
			all = append(all, api.Reason{Code: "hypervisor", Message: "no site is known"})
		}
	case at < 0:
		all = append(all, q.unknown("site"))
	case s.Sites[at].Self && q.host != "" && !slices.ContainsFunc(s.Sites[at].Hosts, func(h Host) bool { return h.Name == q.host }):
		all = append(all, q.unknown("host"))
	}
	return all
}

func (q *search) unknown(what string) api.Reason {
	return api.Reason{Site: q.site, Host: q.host, Code: "place",
		Message: fmt.Sprintf("%s is wanted, and no such %s is known", q.Place, what), Advice: "see `wcc site list` and `wcc host list`"}
}

// Why says, of a plan of Explain, why a VM does not go to where (SITE or SITE/HOST); there is always at least one reason. A
// plan of Decide will do if nothing was chosen.
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

// Grouped is reasons in few lines, to be stored or shown where nobody asked for all: what keeps many hosts of a site from taking
// a VM is one reason with their number and one of them by name. Few reasons stay as they are.
func Grouped(reasons []api.Reason) []api.Reason {
	if len(reasons) <= maxReasons {
		return reasons
	}
	type group struct{ site, code string }
	var out []api.Reason
	at, hosts := map[group]int{}, map[group]int{}
	for _, r := range reasons {
		g := group{r.Site, r.Code}
		i, known := at[g]
		if r.Host == "" || !known {
			if r.Host != "" {
				at[g], hosts[g] = len(out), 1
			}
			out = append(out, r)
			continue
		}
		hosts[g]++
		first := &out[i]
		if first.Host != "" {
			first.Message, first.Host = fmt.Sprintf("%s, %s", first.Host, first.Message), ""
		}
	}
	for g, n := range hosts {
		if n > 1 {
			out[at[g]].Message = fmt.Sprintf("%d hosts: for example %s", n, out[at[g]].Message)
		}
	}
	if n := len(out) - maxReasons; n > 0 {
		out = append(out[:maxReasons:maxReasons], api.Reason{Code: "more", Message: fmt.Sprintf("%d more reasons are not shown", n), Advice: "see `wcc vm why`"})
	}
	return out
}

// maxReasons is how many reasons Grouped gives, but for one that says that there are more.
const maxReasons = 16
