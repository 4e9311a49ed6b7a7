package place

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"widecloud/api"
	"widecloud/internal/lend"
)

// rule is one condition that a candidate has to keep. ok judges and makes nothing; why says in words what ok found, and is
// called only where ok is false.
type rule struct {
	ok  func(*search, *candidate) bool
	why func(*search, *candidate, *refuser)
}

// hostRules and peerRules are all conditions, in the order of their reasons.
var (
	hostRules = []rule{permitted, wanted, notExcluded, positive, isHypervisor, isConnected, notCordoned, hostCPU, hostRoom}
	peerRules = []rule{permitted, wanted, notExcluded, positive, isReached, peerCPU, loanRoom}
)

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

// The rules for hosts and peers alike.
var (
	permitted = rule{
		func(q *search, c *candidate) bool { return len(q.Sites) == 0 || slices.Contains(q.Sites, c.site.Name) },
		func(q *search, c *candidate, f *refuser) {
			f.add("permit", fmt.Sprintf("add %s to the VM's permitted sites", f.site), "the VM may run at %s only", strings.Join(q.Sites, ", "))
		},
	}
	wanted = rule{
		func(q *search, c *candidate) bool {
			return q.Place == "" || q.site == c.site.Name && (c.host == nil || q.host == "" || q.host == c.host.Name)
		},
		func(q *search, c *candidate, f *refuser) { f.add("place", "", "%s is wanted", q.Place) },
	}
	notExcluded = rule{
		func(q *search, c *candidate) bool {
			for _, x := range q.Exclude {
				if x.Site == c.site.Name && (x.Host == "" || c.host != nil && x.Host == c.host.Name) {
					return false
				}
			}
			return true
		},
		func(q *search, c *candidate, f *refuser) {
			f.add("place", "choose another place", "the VM is here now, or is to leave here")
		},
	}
	positive = rule{
		func(q *search, c *candidate) bool { return lend.Negative(q.Needs) == "" },
		func(q *search, c *candidate, f *refuser) {
			f.add("invalid", "", "needs.%s is negative", lend.Negative(q.Needs))
		},
	}
)

// The rules for hosts.
var (
	isHypervisor = rule{
		func(q *search, c *candidate) bool { return slices.Contains(c.host.Roles, api.RoleHypervisor) },
		func(q *search, c *candidate, f *refuser) { f.add("hypervisor", "", "the host is no hypervisor") },
	}
	isConnected = rule{
		func(q *search, c *candidate) bool { return c.host.Connected },
		func(q *search, c *candidate, f *refuser) {
			f.add("unreachable", "see that the host and its agent run", "the host's agent is not connected")
		},
	}
	notCordoned = rule{
		func(q *search, c *candidate) bool { return !c.host.Cordoned },
		func(q *search, c *candidate, f *refuser) {
			f.add("cordon", "uncordon the host", "the host is cordoned: it takes no new VM")
		},
	}
	hostCPU = rule{
		func(q *search, c *candidate) bool { return q.runsOn(&c.host.CPU) },
		func(q *search, c *candidate, f *refuser) {
			for _, m := range lacks(c.host.CPU, q.Request) {
				f.add("cpu-model", cpuAdvice, "%s", m)
			}
		},
	}
	hostRoom = rule{
		func(q *search, c *candidate) bool {
			return lend.Enough(lend.Sub(c.host.Capacity, c.host.Allotted), q.atHost)
		},
		func(q *search, c *candidate, f *refuser) {
			f.addAll(lend.Fits("the host", lend.Sub(c.host.Capacity, c.host.Allotted), q.atHost), "stop or move another VM, or choose another host")
		},
	}
)

// The rules for peers.
var (
	isReached = rule{
		func(q *search, c *candidate) bool { return c.site.Reached },
		func(q *search, c *candidate, f *refuser) {
			f.add("unreachable", "wait until the link is back", "the site is not reached now")
		},
	}
	peerCPU = rule{
		func(q *search, c *candidate) bool {
			profile, disks := 1, 0
			if len(c.site.CPUs) == 0 {
				profile, disks = max(1, c.site.Profile), c.site.Disks
			}
			if q.CPUModel == "" && q.Arch == "" && q.Accel == "" && q.Profile <= profile && q.Disks <= disks {
				return true // the site itself judges by its hosts
			}
			for i := range c.site.CPUs {
				if q.runsOn(&c.site.CPUs[i]) {
					return true
				}
			}
			return false
		},
		whyPeerCPU,
	}
	loanRoom = rule{
		func(q *search, c *candidate) bool {
			for i := range c.site.Loans {
				if c.site.Loans[i].hasRoom(q.atLoan) {
					return true
				}
			}
			return false
		},
		whyLoanRoom,
	}
)

const cpuAdvice = "choose a CPU model that both ends have (it is set while the VM is off), or another place"

// runsOn tells whether a guest of the request runs on a CPU: whether lacks would say nothing.
func (q *search) runsOn(c *api.CPU) bool {
	return (q.Arch == "" || c.Arch == q.Arch) && (q.Accel == "" || c.Accel == q.Accel) &&
		(q.CPUModel == "" || slices.Contains(c.Usable, q.CPUModel)) && q.Profile <= profile(c) && q.Disks <= c.Disks
}

// profile is the newest hardware profile that a hypervisor makes. The oldest releases do not say it.
func profile(c *api.CPU) int { return max(1, c.Profile) }

// lacks says what a guest of the request lacks on a CPU.
func lacks(c api.CPU, r Request) []string {
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
	if r.Profile > profile(&c) {
		ms = append(ms, fmt.Sprintf("the VM has hardware profile %d, the hypervisor's agent makes up to %d: it needs a newer release", r.Profile, profile(&c)))
	}
	if r.Disks > c.Disks {
		ms = append(ms, fmt.Sprintf("the VM has %d disks beside its root disk, or a change that waits for its next start; the hypervisor's agent knows up to %d such disks: it needs a newer release", r.Disks, c.Disks))
	}
	return ms
}

// whyPeerCPU says for each kind of CPU of a peer what it lacks.
func whyPeerCPU(q *search, c *candidate, f *refuser) {
	if len(c.site.CPUs) == 0 {
		f.add("cpu-model", "wait until the site has told its CPUs", "the site's CPUs are not known")
		return
	}
	var all []string
	for _, kind := range c.site.CPUs {
		all = append(all, lacks(kind, q.Request)...)
	}
	slices.Sort(all)
	for _, m := range slices.Compact(all) {
		f.add("cpu-model", cpuAdvice, "%s", m)
	}
}

// whyLoanRoom says what each active loan from a peer is short of, or that there is none.
func whyLoanRoom(q *search, c *candidate, f *refuser) {
	loans := slices.SortedFunc(slices.Values(c.site.Loans), func(a, b Loan) int { return cmp.Compare(a.Name, b.Name) })
	var short []api.Reason
	for _, l := range loans {
		if l.State == api.LoanActive {
			short = append(short, lend.Fits("loan "+l.Name, lend.Sub(l.Amount, l.Used), q.atLoan)...)
		}
	}
	switch {
	case len(short) > 0:
		f.addAll(short, "borrow more, or move a VM of this loan away")
	case len(loans) > 0:
		f.add("loan", "borrow anew", "no loan from %s is active any more", f.site)
	default:
		f.add("loan", "borrow from it first: see `wcc offer list`", "nothing is borrowed from %s", f.site)
	}
}
