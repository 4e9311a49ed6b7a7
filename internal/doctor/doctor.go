// Package doctor says what is wrong at a site, or soon will be, and what to do about it: it takes a snapshot of what the controller knows
// and gives findings. The API, wcc doctor and the page's overview show the same ones.
//
// Invariants:
//   - the findings follow from the snapshot alone; the same snapshot gives the same findings in the same order;
//   - every finding has a stable id, says what is found with figures, and what to do;
//   - one cause that concerns many objects gives a bounded number of findings (Most).
package doctor

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"widecloud/api"
	"widecloud/internal/lend"
)

// Snapshot is what a controller knows of its site.
type Snapshot struct {
	Now         time.Time
	Site        string
	Hosts       []*api.Host
	Peers       []*api.Peer
	Loans       []*api.Loan
	VMs         []*api.VM
	Guests      []*api.Guest
	Jobs        []*api.Job
	Images      []*api.Image
	Networks    []*api.Network
	Translators []*api.Translator
	Addresses   []*api.Address
	Owners      []*api.Owner             // those with a quota
	Used        map[string]api.Resources // what these use, by owner

	Sessions   []Session // with agents and peers
	Machine              // the controller's own
	StoreFull  bool      // new work is refused
	Unclean    []Unclean
	Lost       []string // images (names) whose content is not on the disk
	AuditFault string   // why the audit log is not written; empty: it is
}

// Machine is what there is of the controller beside its objects.
type Machine struct {
	Certificates []Certificate // that it shows to others
	Disks        []Disk
	StoreBytes   int64 // size of the store's file
}

// Session is with an agent or a peer.
type Session struct {
	Object string // hosts/NAME or peers/NAME
	Older  bool   // it speaks an older protocol than this controller
	Newer  bool   // a newer one
	Ends   time.Time
}

// Certificate is one that this controller shows to others.
type Certificate struct {
	Name  string // "the API's certificate"
	Ends  time.Time
	Renew string // how it is renewed
}

// Disk is a file system that the controller writes.
type Disk struct {
	What        string // "the store"
	Path        string
	Free, Total int64 // bytes
	Reserve     int64 // bytes that are kept free
}

// Unclean is what a job that has ended could not clean up yet.
type Unclean struct {
	Job, VM string
	At      []string // SITE/HOST that were not reached
}

// The limits of judgement.
const (
	full         = 95 // percent of a host, from where it is called full
	edge         = 90 // percent of a quota
	certBad      = 7 * 24 * time.Hour
	certSoon     = 30 * 24 * time.Hour
	pendingLong  = time.Minute
	jobLong      = time.Hour
	undoLong     = 10 * time.Minute
	diskLow      = 10 // percent free
	diskVeryLow  = 4
	storeBig     = 1 << 30
	loanLeft     = 4 // of a lease, less than a quarter is left
	startingLong = 15 * time.Minute
)

// Most is how many findings of one id a diagnosis has; the rest is one more, which says how many.
const Most = 20

// finder collects findings.
type finder struct {
	Snapshot
	out []api.Finding
}

// Find gives the findings, the worst first.
func Find(s Snapshot) []api.Finding {
	f := &finder{Snapshot: s}
	for _, look := range []func(){
		f.site, f.hosts, f.sessions, f.peers, f.certificates, f.loans, f.vms, f.guests, f.jobs, f.images, f.networks, f.addresses, f.quotas,
	} {
		look()
	}
	slices.SortStableFunc(f.out, func(a, b api.Finding) int { return cmp.Compare(rank(b.Severity), rank(a.Severity)) })
	return f.out
}

func rank(s api.Severity) int {
	return slices.Index([]api.Severity{api.SeverityOK, api.SeverityWarn, api.SeverityBad}, s)
}

// Bounded cuts the findings of an id that are more than Most. What is left out counts in one finding that follows.
func Bounded(all []api.Finding) (out []api.Finding) {
	seen, left := map[string]int{}, map[string]int{}
	for _, f := range all {
		if seen[f.ID]++; seen[f.ID] > Most {
			left[f.ID]++
		}
	}
	clear(seen)
	for _, f := range all {
		switch seen[f.ID]++; {
		case seen[f.ID] <= Most:
			out = append(out, f)
		case seen[f.ID] == Most+1:
			out = append(out, api.Finding{ID: f.ID, Severity: f.Severity, Message: fmt.Sprintf("%d more of the same", left[f.ID]),
				Advice: "wcc " + strings.ToLower(kindOf(f.Object).Singular()) + " list shows all"})
		}
	}
	return out
}

func kindOf(object string) api.Kind {
	kind, _, _ := strings.Cut(object, "/")
	return api.Kind(kind)
}

func (f *finder) say(x api.Finding) { f.out = append(f.out, x) }

func object(o api.Object) string { return string(o.Kind()) + "/" + o.Metadata().Name }

func (f *finder) since(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return " for " + span(f.Now.Sub(t))
}

// span is a time in its largest unit.
func span(d time.Duration) string {
	for _, u := range []struct {
		unit time.Duration
		name string
	}{{24 * time.Hour, "day"}, {time.Hour, "hour"}, {time.Minute, "minute"}} {
		if n := int(d / u.unit); n > 0 {
			return plural(n, u.name)
		}
	}
	return plural(max(0, int(d/time.Second)), "second")
}

func plural(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

func because(message string) string {
	if message == "" {
		return ""
	}
	return ": " + message
}

// site looks at the controller itself.
func (f *finder) site() {
	if f.StoreFull {
		f.say(api.Finding{ID: "store.full", Severity: api.SeverityBad, Message: "the store has no room: nothing new can be begun",
			Advice: "make room on the disk of the controller's data_dir"})
	}
	if f.StoreBytes > storeBig {
		f.say(api.Finding{ID: "store.large", Severity: api.SeverityWarn, Message: fmt.Sprintf("the store is %d MiB large, and all of it is in memory", f.StoreBytes>>20),
			Advice: "look at what there is most of (wcc event list, wcc job list), and at the controller's memory"})
	}
	if f.AuditFault != "" {
		f.say(api.Finding{ID: "audit.fails", Severity: api.SeverityBad, Message: "the audit log is not written: " + f.AuditFault,
			Advice: "make room, or set the rights of audit in data_dir; what was done meanwhile is in the events"})
	}
	for _, d := range f.Disks {
		usable := d.Free - d.Reserve
		percent := int64(100)
		if d.Total > 0 {
			percent = 100 * max(0, usable) / d.Total
		}
		x := api.Finding{ID: "disk.low", Message: fmt.Sprintf("the disk of %s (%s) has %d MiB left of %d (%d %%)", d.What, d.Path, max(0, usable)>>20, d.Total>>20, percent),
			Advice: "remove what is not needed there, or give it more room"}
		switch {
		case percent < diskVeryLow:
			x.Severity = api.SeverityBad
		case percent < diskLow:
			x.Severity = api.SeverityWarn
		default:
			continue
		}
		f.say(x)
	}
}

// hosts looks at the hosts.
func (f *finder) hosts() {
	on := map[string]int{}
	for _, v := range f.VMs {
		if v.Status.Site == f.Site {
			on[v.Status.Host]++
		}
	}
	for _, g := range f.Guests {
		on[g.Spec.Host]++
	}
	for _, h := range f.Hosts {
		switch {
		case !h.Status.Connected:
			f.say(api.Finding{ID: "host.down", Severity: api.SeverityBad, Object: object(h), Since: h.Status.Since,
				Message: fmt.Sprintf("host %s is not reached%s; %s there may be running%s", h.Name, f.since(h.Status.Since), plural(on[h.Name], "VM"), because(h.Status.Message)),
				Advice:  "look at the machine and at its agent (systemctl status wcc-agent, wcc doctor --host there)"})
		case h.Status.Message != "":
			f.say(api.Finding{ID: "host.trouble", Severity: api.SeverityWarn, Object: object(h), Message: "host " + h.Name + ": " + h.Status.Message,
				Advice: "wcc doctor --host on that machine looks closer"})
		}
		f.hostRoom(h)
	}
}

func (f *finder) hostRoom(h *api.Host) {
	if !h.Status.Connected || !slices.Contains(h.Spec.Roles, api.RoleHypervisor) {
		return
	}
	for _, r := range []struct {
		what         string
		used, of     int
		unit, advice string
	}{
		{"memory", h.Status.Allotted.MemoryMiB, h.Status.Capacity.MemoryMiB, "MiB", "move VMs away, or borrow from a peer (wcc loan request)"},
		{"CPUs", h.Status.Allotted.CPUs, h.Status.Capacity.CPUs, "", "move VMs away, or borrow from a peer (wcc loan request)"},
		{"disk", h.Status.Allotted.DiskGiB, h.Status.Capacity.DiskGiB, "GiB", "move VMs away, or give the host a larger disk"},
	} {
		if r.of > 0 && 100*r.used >= full*r.of {
			f.say(api.Finding{ID: "host.full", Severity: api.SeverityWarn, Object: object(h), Advice: r.advice,
				Message: fmt.Sprintf("host %s has given away %d of %d %s of its %s", h.Name, r.used, r.of, r.unit, r.what)})
		}
	}
}

// sessions looks at the other ends' releases and certificates.
func (f *finder) sessions() {
	for _, s := range f.Sessions {
		kind, name, _ := strings.Cut(s.Object, "/")
		name = api.Kind(kind).Singular() + " " + name
		switch {
		case s.Older:
			f.say(api.Finding{ID: "release.older", Severity: api.SeverityWarn, Object: s.Object, Message: name + " runs an older release than this controller: it does without what is new",
				Advice: "update it"})
		case s.Newer:
			f.say(api.Finding{ID: "release.newer", Severity: api.SeverityWarn, Object: s.Object, Message: name + " runs a newer release than this controller: what is new there is not used",
				Advice: "update this controller"})
		}
		f.certificate("the certificate of "+name, s.Object, s.Ends, "let the host join again (wcc host join-token); a peer's site makes a new one by itself when its controller starts")
	}
}

func (f *finder) certificates() {
	for _, c := range f.Certificates {
		f.certificate(c.Name, "", c.Ends, c.Renew)
	}
}

func (f *finder) certificate(what, object string, ends time.Time, renew string) {
	left := ends.Sub(f.Now)
	if ends.IsZero() || left >= certSoon {
		return
	}
	x := api.Finding{ID: "certificate.ends", Severity: api.SeverityWarn, Object: object, Advice: renew,
		Message: fmt.Sprintf("%s ends in %s, at %s", what, span(left), ends.UTC().Format(time.RFC3339))}
	if left < certBad {
		x.Severity = api.SeverityBad
	}
	if left < 0 {
		x.Message = fmt.Sprintf("%s has ended at %s", what, ends.UTC().Format(time.RFC3339))
	}
	f.say(x)
}

// peers looks at the peers.
func (f *finder) peers() {
	for _, p := range f.Peers {
		if p.Status.Reached {
			continue
		}
		there, active := 0, 0
		for _, v := range f.VMs {
			if v.Status.Site == p.Name {
				there++
			}
		}
		for _, l := range f.Loans {
			if l.Status.State == api.LoanActive && (l.Spec.Lender == p.Name || l.Spec.Borrower == p.Name) {
				active++
			}
		}
		x := api.Finding{ID: "peer.unreached", Severity: api.SeverityWarn, Object: object(p), Since: p.Status.Since,
			Message: fmt.Sprintf("peer %s is not reached%s; %s there, and %s between the sites%s", p.Name, f.since(p.Status.Since), plural(there, "VM"), plural(active, "active loan"), because(p.Status.Message)),
			Advice:  "look at the link, and ask the peer's admin whether its controller runs; its VMs and ours go on meanwhile"}
		if there+active > 0 {
			x.Severity = api.SeverityBad
		}
		f.say(x)
	}
}

// loans looks at the loans that end.
func (f *finder) loans() {
	under := map[string]int{}
	for _, v := range f.VMs {
		under[v.Status.Loan]++
	}
	for _, g := range f.Guests {
		under[g.Spec.Loan]++
	}
	for _, l := range f.Loans {
		x := api.Finding{Severity: api.SeverityWarn, Object: object(l)}
		role := "lent to " + l.Spec.Borrower
		if l.Spec.Borrower == f.Site {
			role = "borrowed from " + l.Spec.Lender
		}
		switch left := l.Status.Expires.Sub(f.Now); {
		case l.Status.State == api.LoanReclaimed && under[l.Name] > 0:
			x.ID = "loan.reclaimed"
			x.Message = fmt.Sprintf("loan %s (%s) is taken back, and %s still there", l.Name, role, are(under[l.Name], "VM"))
			x.Advice = "move them away before the grace ends (wcc vm migrate), or borrow elsewhere"
		case l.Status.State == api.LoanActive && !l.Status.Renewed.IsZero() && left < l.Status.Expires.Sub(l.Status.Renewed)/loanLeft:
			x.ID = "loan.ends"
			x.Message = fmt.Sprintf("loan %s (%s) ends in %s and has not been renewed for %s; %s there", l.Name, role, span(max(0, left)), span(f.Now.Sub(l.Status.Renewed)), are(under[l.Name], "VM"))
			x.Advice = "loans are renewed by themselves while the sites reach each other: see why they do not (wcc peer list)"
		default:
			continue
		}
		if under[l.Name] > 0 {
			x.Severity = api.SeverityBad
		}
		f.say(x)
	}
}

func are(n int, what string) string {
	if n == 1 {
		return "1 " + what + " is"
	}
	return fmt.Sprintf("%d %ss are", n, what)
}

// vms looks at the site's VMs.
func (f *finder) vms() {
	for _, v := range f.VMs {
		x := api.Finding{Object: object(v), Owner: v.Owner, Since: v.Status.Since}
		age := f.Now.Sub(v.Status.Since)
		where := strings.Trim(v.Status.Site+"/"+v.Status.Host, "/")
		switch v.Status.Phase {
		case api.PhaseUnknown:
			x.ID, x.Severity = "vm.doubt", api.SeverityBad
			x.Message = fmt.Sprintf("VM %s is in doubt%s: %s is not reached, and it may be running there%s", v.Name, f.since(v.Status.Since), where, because(v.Status.Message))
			x.Advice = "bring " + where + " back; the VM is not started elsewhere, because two copies would be worse"
		case api.PhaseFailed:
			x.ID, x.Severity = "vm.failed", api.SeverityBad
			x.Message = fmt.Sprintf("VM %s has failed at %s%s", v.Name, where, because(v.Status.Message))
			x.Advice = "see its events (wcc event list), and start it again: wcc vm start " + v.Name
		case api.PhasePending:
			if v.Spec.Power != api.PowerOn || age < pendingLong {
				continue
			}
			x.ID, x.Severity = "vm.pending", api.SeverityWarn
			x.Message = fmt.Sprintf("VM %s has had no place%s%s", v.Name, f.since(v.Status.Since), because(firstReason(v)))
			x.Advice = "wcc vm why " + v.Name + " has all reasons"
		case api.PhaseStarting:
			if age < startingLong {
				continue
			}
			x.ID, x.Severity = "vm.slow", api.SeverityWarn
			x.Message = fmt.Sprintf("VM %s has been starting%s at %s%s", v.Name, f.since(v.Status.Since), where, because(v.Status.Message))
			x.Advice = "its image may be on its way over a thin link; look at the host"
		default:
			continue
		}
		f.say(x)
	}
}

func firstReason(v *api.VM) string {
	if len(v.Status.Reasons) == 0 {
		return v.Status.Message
	}
	r := v.Status.Reasons[0]
	return strings.TrimPrefix(strings.Trim(r.Site+"/"+r.Host, "/")+": "+r.Message, ": ")
}

// guests looks at other sites' VMs here.
func (f *finder) guests() {
	for _, g := range f.Guests {
		if g.Status.Phase != api.PhaseUnknown && g.Status.Phase != api.PhaseFailed {
			continue
		}
		f.say(api.Finding{ID: "guest.trouble", Severity: api.SeverityWarn, Object: object(g), Since: g.Status.Since,
			Message: fmt.Sprintf("guest %s of %s on host %s is %s%s%s", g.Spec.VM, g.Home, g.Spec.Host, g.Status.Phase, f.since(g.Status.Since), because(g.Status.Message)),
			Advice:  "its home decides what becomes of it; look at host " + g.Spec.Host})
	}
}

// jobs looks at long work.
func (f *finder) jobs() {
	for _, j := range f.Jobs {
		if j.Status.State.Ended() || j.Status.State == "" {
			continue
		}
		at := j.Status.Started
		if n := len(j.Status.Journal); n > 0 {
			at = j.Status.Journal[n-1].Time
		}
		limit := jobLong
		if j.Status.State == api.JobUndoing {
			limit = undoLong
		}
		if at.IsZero() || f.Now.Sub(at) < limit || j.Status.Progress.SecondsLeft > 0 {
			continue
		}
		f.say(api.Finding{ID: "job.waits", Severity: api.SeverityWarn, Object: object(j), Owner: j.Owner, Since: at,
			Message: fmt.Sprintf("job %s (%s of %s) is at the step %q%s%s", j.Name, j.Spec.Type, j.Spec.Object, j.Status.Step, f.since(at), because(j.Status.Message)),
			Advice:  "its message says whom it waits for; wcc job cancel " + j.Name + " undoes it, as long as it is not decided"})
	}
	for _, u := range f.Unclean {
		f.say(api.Finding{ID: "migration.unclean", Severity: api.SeverityWarn, Object: "vms/" + u.VM,
			Message: fmt.Sprintf("migration %s of VM %s has left something at %s, which was not reached", u.Job, u.VM, strings.Join(u.At, " and ")),
			Advice:  "it is tried again by itself; until then the VM does not move there. Bring " + strings.Join(u.At, " and ") + " back"})
	}
}

// images looks at the images.
func (f *finder) images() {
	uses := map[string]int{}
	for _, v := range f.VMs {
		uses[v.Spec.Image]++
	}
	for _, i := range f.Images {
		if i.Status.Phase != "failed" {
			continue
		}
		f.say(api.Finding{ID: "image.failed", Severity: api.SeverityWarn, Object: object(i), Owner: i.Owner,
			Message: fmt.Sprintf("image %s was not imported%s", i.Name, because(i.Status.Message)), Advice: "delete it, and import it again from a good source"})
	}
	for _, name := range f.Lost {
		x := api.Finding{ID: "image.missing", Severity: api.SeverityWarn, Object: string(api.KindImage) + "/" + name,
			Message: fmt.Sprintf("the content of image %s is not on the controller's disk; %s made from it", name, are(uses[name], "VM")),
			Advice:  "hosts that have it go on; put it back by importing the same file under another name, or restore volumes.dir"}
		if uses[name] > 0 {
			x.Severity = api.SeverityBad
		}
		f.say(x)
	}
}

// networks looks at the ways out.
func (f *finder) networks() {
	gateways, up := 0, 0
	for _, h := range f.Hosts {
		if slices.Contains(h.Spec.Roles, api.RoleGateway) {
			gateways++
			if h.Status.Connected {
				up++
			}
		}
	}
	bound := 0
	for _, a := range f.Addresses {
		if a.Spec.VM != "" {
			bound++
		}
	}
	switch {
	case gateways == 0 && bound > 0:
		f.say(api.Finding{ID: "network.gateway", Severity: api.SeverityBad, Message: fmt.Sprintf("the site has no gateway, and %s to VMs", lead(bound)),
			Advice: "let a host with the role gateway join: wcc host join-token"})
	case gateways > 0 && up == 0 && len(f.Networks) > 0:
		f.say(api.Finding{ID: "network.gateway", Severity: api.SeverityBad, Message: fmt.Sprintf("none of %s is reached: %s may have no way out", plural(gateways, "gateway"), plural(len(f.Networks), "network")),
			Advice: "look at the gateways' machines and agents; their data path goes on by itself while they run"})
	}
	for _, t := range f.Translators {
		switch {
		case !t.Status.Running:
			f.say(api.Finding{ID: "translator.down", Severity: api.SeverityBad, Object: object(t), Message: fmt.Sprintf("the translator of host %s does not run%s", t.Spec.Host, because(t.Status.Message)),
				Advice: "on that host: systemctl status map646, map646 doctor"})
		case t.Status.Message != "":
			f.say(api.Finding{ID: "translator.unwell", Severity: api.SeverityWarn, Object: object(t), Message: fmt.Sprintf("the translator of host %s: %s", t.Spec.Host, t.Status.Message),
				Advice: "on that host: map646 doctor"})
		}
	}
}

func lead(n int) string {
	if n == 1 {
		return "1 service address leads"
	}
	return fmt.Sprintf("%d service addresses lead", n)
}

// addresses looks at the service addresses that are not translated.
func (f *finder) addresses() {
	for _, a := range f.Addresses {
		if a.Spec.VM == "" || len(a.Status.Refused) == 0 {
			continue
		}
		r := a.Status.Refused[0]
		f.say(api.Finding{ID: "address.refused", Severity: api.SeverityWarn, Object: object(a), Owner: a.Owner,
			Message: fmt.Sprintf("service address %s is not translated by %s: %s", a.Spec.Address, r.By, r.Message), Advice: "wcc address show " + a.Name + " has all that refuse it"})
	}
}

// quotas looks at what organisations have left.
func (f *finder) quotas() {
	for _, o := range f.Owners {
		if o.Spec.Quota == nil {
			continue
		}
		for _, l := range lend.Limits(*o.Spec.Quota) {
			used := l.Of(f.Used[o.Name])
			if l.Most == nil || *l.Most == 0 || 100*used < edge**l.Most {
				continue
			}
			f.say(api.Finding{ID: "quota.edge", Severity: api.SeverityWarn, Object: object(o), Owner: o.Name,
				Message: fmt.Sprintf("organisation %s uses %d of the %d %s of its quota", o.Name, used, *l.Most, l.Unit),
				Advice:  "delete what is not needed, or have an admin give more: wcc owner quota " + o.Name})
		}
	}
}
