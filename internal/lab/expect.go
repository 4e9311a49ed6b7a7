package lab

import (
	"net/netip"
	"strings"
	"time"
)

func (p *parser) expect() any {
	e := &ExpectStmt{}
	if p.expectDC(e) {
		return e
	}
	switch {
	case p.is("traffic"):
		e.Traffic = p.flows()
		switch p.oneOf("lost", "gap", "alive") {
		case "lost":
			e.What = "lost"
			e.Limit = int64(p.number("number", 0, 1<<30))
			e.Unit = "requests"
			if e.Traffic == allTraffic {
				e.Unit = "requests and bytes"
			} else if p.traffic[e.Traffic].Rate > 0 {
				e.Unit = "bytes"
			}
			if p.more() {
				at := p.words[p.at]
				if unit := p.oneOf("requests", "bytes"); unit != e.Unit {
					p.fail(at, "traffic %s is counted in %s", e.Traffic, e.Unit)
				}
			}
		case "gap":
			e.What = "gap"
			p.oneOf("under")
			e.Under = p.duration(time.Hour)
		case "alive":
			e.What = "alive"
			e.Within = p.within(10 * time.Second)
		}
	case p.is("job"):
		e.What = "job"
		e.VM = p.job()
		e.Want = p.oneOf("done", "clean", "failed", "cancelled")
		e.Within = p.within(2 * time.Minute)
	case p.is("page"):
		e.What = "page"
		// The place is needed to judge the target, and comes after it.
		at := p.at
		p.next("VM or address")
		p.oneOf("from")
		e.From = p.from()
		back := p.at
		p.at = at
		e.Target = p.target(e.From)
		p.at = back
		if p.is("says") {
			e.Says = p.quoted()
		} else {
			e.Silent = p.oneOfOptional("answers", "silent") == "silent"
		}
		e.Within = p.within(20 * time.Second)
	case p.is("loan"):
		e.What = "loan"
		e.Lender, e.VM = p.loan() // VM: the borrower
		e.Want = p.oneOf("active", "reclaimed", "ended")
		e.Within = p.within(time.Minute)
	case p.is("peer"):
		e.What = "peer"
		e.Target = ref(p, "site", p.sites)
		p.oneOf("of")
		e.From = p.other(e.Target)
		p.oneOf("reached")
		e.Within = p.within(30 * time.Second)
	case p.is("new"):
		e.What = "new " + p.oneOf("network", "address")
		if e.What == "new network" {
			e.Target = p.prefix(func(netip.Prefix) bool { return true }, "prefix").String()
		} else {
			w := p.next("address")
			if _, err := netip.ParseAddr(w.text); err != nil {
				p.fail(w, "%q is no IP address", w.text)
			}
			e.Target = w.text
		}
		p.oneOf("at")
		e.At = ref(p, "site", p.sites)
		p.oneOf("refused")
	case p.is("migrate"):
		e.What = "refused"
		e.VM = ref(p, "vm", p.vms)
		p.is("to")
		e.At = p.place()
		p.oneOf("refused")
		if p.is("because") {
			e.Want = p.next("the reason's word").text
		}
	default:
		e.VM = ref(p, "vm", p.vms)
		p.expectVM(e)
	}
	return e
}

// allTraffic stands for all traffic that has not been stopped.
const allTraffic = "all"

// flows takes a traffic's name, or all.
func (p *parser) flows() string {
	if len(p.traffic) > 0 && p.is(allTraffic) {
		return allTraffic
	}
	return ref(p, "traffic", p.traffic)
}

func (p *parser) expectVM(e *ExpectStmt) {
	switch e.What = p.oneOf("running", "stopped", "disk", "boot", "pending", "addresses"); e.What {
	case "disk", "boot":
		at := p.words[1]
		if e.What == "disk" && !p.written[e.VM] {
			p.fail(at, "nothing was written to %s's disk", e.VM)
		}
		if len(p.vms[e.VM].Service) == 0 {
			p.fail(at, "vm %s has no service address by which it could be asked", e.VM)
		}
		p.oneOf("unchanged")
	case "addresses":
		p.oneOf("seen")
	case "running":
		for p.more() {
			switch {
			case p.is("exactly-once"):
				e.Once = true
			case p.is("at"):
				e.At = p.place()
			case p.is("address"):
				p.oneOf("unchanged")
				e.Address = true
			case strings.TrimSuffix(p.words[p.at].text, ",") == "within":
				e.Within = p.within(0)
			default:
				p.oneOf("exactly-once", "at", "address", "within")
			}
		}
	}
	if e.Within == 0 {
		e.Within = p.within(time.Minute)
	}
}

func (p *parser) oneOfOptional(choices ...string) string {
	for _, c := range choices {
		if p.is(c) {
			return c
		}
	}
	return ""
}
