package doctor_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"widecloud/api"
	"widecloud/internal/doctor"
)

var now = time.Date(2026, 12, 1, 12, 0, 0, 0, time.UTC)

func ago(d time.Duration) time.Time { return now.Add(-d) }

func host(name string, connected bool, roles ...api.HostRole) *api.Host {
	h := &api.Host{Meta: api.Meta{Name: name}}
	h.Spec.Roles = roles
	h.Status.Connected, h.Status.Since = connected, ago(2*time.Hour)
	h.Status.Capacity, h.Status.Allotted = api.Resources{CPUs: 10, MemoryMiB: 1000, DiskGiB: 100}, api.Resources{CPUs: 1, MemoryMiB: 100, DiskGiB: 10}
	return h
}

func vm(name string, phase api.VMPhase, age time.Duration) *api.VM {
	v := &api.VM{Meta: api.Meta{Name: name, Owner: "lab1"}}
	v.Spec.Power, v.Spec.Image = api.PowerOn, "debian"
	v.Status.Phase, v.Status.Since, v.Status.Site, v.Status.Host = phase, ago(age), "tokyo", "h1"
	return v
}

func loan(state api.LoanState, left time.Duration) *api.Loan {
	l := &api.Loan{Meta: api.Meta{Name: "l1"}, Spec: api.LoanSpec{Lender: "osaka", Borrower: "tokyo"}}
	l.Status.State, l.Status.Expires = state, now.Add(left)
	l.Status.Renewed = l.Status.Expires.Add(-time.Hour)
	return l
}

// TestFind has a row for each id: what is found, how bad it is, and part of what is said. The rows beside it are well.
func TestFind(t *testing.T) {
	twelve := 12
	under := vm("away", api.PhaseRunning, time.Hour)
	under.Status.Site, under.Status.Loan = "osaka", "l1"
	full := host("h1", true, api.RoleHypervisor)
	full.Status.Allotted.MemoryMiB = 960
	troubled := host("h1", true)
	troubled.Status.Message = "an order is left out"
	pending := vm("web1", api.PhasePending, time.Hour)
	pending.Status.Reasons = []api.Reason{{Site: "tokyo", Host: "h1", Message: "needs 512 MiB, has 100"}}
	off := vm("web1", api.PhasePending, time.Hour)
	off.Spec.Power = api.PowerOff
	job := func(state api.JobState, age time.Duration) *api.Job {
		j := &api.Job{Meta: api.Meta{Name: "j1", Owner: "lab1"}, Spec: api.JobSpec{Type: "migrate", Object: "vms/web1"}}
		j.Status.State, j.Status.Step, j.Status.Started = state, "copying", ago(24*time.Hour)
		j.Status.Journal = []api.JournalRow{{Step: "copying", Time: ago(age)}}
		return j
	}
	moving := job(api.JobRunning, 5*time.Hour)
	moving.Status.Progress.SecondsLeft = 60
	network := &api.Network{Meta: api.Meta{Name: "blue"}}
	address := &api.Address{Meta: api.Meta{Name: "a1", Owner: "lab1"}, Spec: api.AddressSpec{Address: "203.0.113.1", VM: "web1"}}
	refused := &api.Address{Meta: address.Meta, Spec: address.Spec, Status: api.AddressStatus{Refused: []api.AddressRefusal{{By: "tokyo/g1", Message: "no room"}}}}
	translator := func(running bool, message string) *api.Translator {
		return &api.Translator{Meta: api.Meta{Name: "g1"}, Spec: api.TranslatorSpec{Host: "g1"}, Status: api.TranslatorStatus{Running: running, Message: message}}
	}
	gateway := host("g1", true, api.RoleGateway)
	owner := &api.Owner{Meta: api.Meta{Name: "lab1"}, Spec: api.OwnerSpec{Quota: &api.Quota{CPUs: &twelve}}}
	peer := func(reached bool) *api.Peer {
		return &api.Peer{Meta: api.Meta{Name: "osaka"}, Status: api.PeerStatus{Reached: reached, Since: ago(3 * 24 * time.Hour)}}
	}
	image := func(phase string) *api.Image {
		return &api.Image{Meta: api.Meta{Name: "debian"}, Status: api.ImageStatus{Phase: phase, Message: "wrong digest"}}
	}
	disk := func(free int64) doctor.Machine {
		return doctor.Machine{Disks: []doctor.Disk{{What: "the store", Path: "/var", Free: free << 30, Total: 100 << 30, Reserve: 1 << 30}}}
	}
	cert := func(left time.Duration) doctor.Machine {
		return doctor.Machine{Certificates: []doctor.Certificate{{Name: "the API's certificate", Ends: now.Add(left), Renew: "renew it"}}}
	}
	for _, c := range []struct {
		s    doctor.Snapshot
		want []string // SEVERITY ID: part of the message
	}{
		{doctor.Snapshot{}, nil},
		{doctor.Snapshot{StoreFull: true}, []string{"bad store.full: no room"}},
		{doctor.Snapshot{Machine: doctor.Machine{StoreBytes: 2 << 30}}, []string{"warn store.large: 2048 MiB"}},
		{doctor.Snapshot{AuditFault: "no space left"}, []string{"bad audit.fails: no space left"}},
		{doctor.Snapshot{Machine: disk(50)}, nil},
		{doctor.Snapshot{Machine: disk(9)}, []string{"warn disk.low: (8 %)"}},
		{doctor.Snapshot{Machine: disk(1)}, []string{"bad disk.low: 0 MiB left"}},
		{doctor.Snapshot{Hosts: []*api.Host{host("h1", true)}}, nil},
		{doctor.Snapshot{Hosts: []*api.Host{host("h1", false)}, VMs: []*api.VM{vm("web1", api.PhaseRunning, 0)}}, []string{"bad host.down: h1 is not reached for 2 hours; 1 VM there"}},
		{doctor.Snapshot{Hosts: []*api.Host{troubled}}, []string{"warn host.trouble: an order is left out"}},
		{doctor.Snapshot{Hosts: []*api.Host{full}}, []string{"warn host.full: 960 of 1000 MiB of its memory"}},
		{doctor.Snapshot{Sessions: []doctor.Session{{Object: "hosts/h1", Ends: now.Add(1000 * time.Hour)}}}, nil},
		{doctor.Snapshot{Sessions: []doctor.Session{{Object: "hosts/h1", Older: true}}}, []string{"warn release.older: host h1 runs an older"}},
		{doctor.Snapshot{Sessions: []doctor.Session{{Object: "peers/osaka", Newer: true}}}, []string{"warn release.newer: peer osaka runs a newer"}},
		{doctor.Snapshot{Sessions: []doctor.Session{{Object: "hosts/h1", Ends: now.Add(48 * time.Hour)}}}, []string{"bad certificate.ends: host h1 ends in 2 days"}},
		{doctor.Snapshot{Machine: cert(40 * 24 * time.Hour)}, nil},
		{doctor.Snapshot{Machine: cert(20 * 24 * time.Hour)}, []string{"warn certificate.ends: ends in 20 days"}},
		{doctor.Snapshot{Machine: cert(-time.Hour)}, []string{"bad certificate.ends: has ended at 2026-12-01T11:00:00Z"}},
		{doctor.Snapshot{Peers: []*api.Peer{peer(true)}}, nil},
		{doctor.Snapshot{Peers: []*api.Peer{peer(false)}}, []string{"warn peer.unreached: for 3 days"}},
		{doctor.Snapshot{Peers: []*api.Peer{peer(false)}, VMs: []*api.VM{under}}, []string{"bad peer.unreached: 1 VM there"}},
		{doctor.Snapshot{Loans: []*api.Loan{loan(api.LoanActive, 50*time.Minute), loan(api.LoanEnded, -time.Hour), loan(api.LoanReclaimed, time.Minute)}}, nil},
		{doctor.Snapshot{Loans: []*api.Loan{loan(api.LoanActive, 5*time.Minute)}}, []string{"warn loan.ends: ends in 5 minutes and has not been renewed for 55 minutes"}},
		{doctor.Snapshot{Loans: []*api.Loan{loan(api.LoanActive, 5*time.Minute)}, VMs: []*api.VM{under}}, []string{"bad loan.ends: 1 VM is there"}},
		{doctor.Snapshot{Loans: []*api.Loan{loan(api.LoanReclaimed, time.Minute)}, VMs: []*api.VM{under}}, []string{"bad loan.reclaimed: (borrowed from osaka) is taken back, and 1 VM is"}},
		{doctor.Snapshot{VMs: []*api.VM{vm("a", api.PhaseRunning, time.Hour), vm("b", api.PhaseStopped, time.Hour), vm("c", api.PhasePending, time.Second), off}}, nil},
		{doctor.Snapshot{VMs: []*api.VM{vm("web1", api.PhaseUnknown, time.Hour)}}, []string{"bad vm.doubt: in doubt for 1 hour: tokyo/h1"}},
		{doctor.Snapshot{VMs: []*api.VM{vm("web1", api.PhaseFailed, time.Hour)}}, []string{"bad vm.failed: has failed at tokyo/h1"}},
		{doctor.Snapshot{VMs: []*api.VM{pending}}, []string{"warn vm.pending: for 1 hour: tokyo/h1: needs 512 MiB, has 100"}},
		{doctor.Snapshot{VMs: []*api.VM{vm("web1", api.PhaseStarting, time.Hour)}}, []string{"warn vm.slow: starting for 1 hour"}},
		{doctor.Snapshot{Guests: []*api.Guest{{Meta: api.Meta{Name: "g", Home: "osaka"}, Status: api.GuestStatus{Phase: api.PhaseFailed}}}}, []string{"warn guest.trouble: of osaka"}},
		{doctor.Snapshot{Jobs: []*api.Job{job(api.JobDone, 5*time.Hour), job(api.JobRunning, time.Minute), moving}}, nil},
		{doctor.Snapshot{Jobs: []*api.Job{job(api.JobRunning, 2*time.Hour)}}, []string{`warn job.waits: "copying" for 2 hours`}},
		{doctor.Snapshot{Jobs: []*api.Job{job(api.JobUndoing, 20*time.Minute)}}, []string{"warn job.waits: for 20 minutes"}},
		{doctor.Snapshot{Unclean: []doctor.Unclean{{Job: "j1", VM: "web1", At: []string{"osaka/h2"}}}}, []string{"warn migration.unclean: at osaka/h2"}},
		{doctor.Snapshot{Images: []*api.Image{image("ready")}}, nil},
		{doctor.Snapshot{Images: []*api.Image{image("failed")}}, []string{"warn image.failed: wrong digest"}},
		{doctor.Snapshot{Lost: []string{"debian"}, VMs: []*api.VM{vm("a", api.PhaseRunning, 0)}}, []string{"bad image.missing: 1 VM is made from it"}},
		{doctor.Snapshot{Lost: []string{"other"}}, []string{"warn image.missing: other"}},
		{doctor.Snapshot{Hosts: []*api.Host{gateway}, Networks: []*api.Network{network}}, nil},
		{doctor.Snapshot{Networks: []*api.Network{network}}, nil}, // a site without gateways
		{doctor.Snapshot{Addresses: []*api.Address{address}}, []string{"bad network.gateway: 1 service address leads to VMs"}},
		{doctor.Snapshot{Hosts: []*api.Host{host("g1", false, api.RoleGateway)}, Networks: []*api.Network{network}},
			[]string{"bad host.down: g1", "bad network.gateway: none of 1 gateway is reached: 1 network"}},
		{doctor.Snapshot{Hosts: []*api.Host{gateway}, Addresses: []*api.Address{refused}}, []string{"warn address.refused: 203.0.113.1 is not translated by tokyo/g1"}},
		{doctor.Snapshot{Translators: []*api.Translator{translator(true, "")}}, nil},
		{doctor.Snapshot{Translators: []*api.Translator{translator(false, "")}}, []string{"bad translator.down: g1 does not run"}},
		{doctor.Snapshot{Translators: []*api.Translator{translator(true, "slow")}}, []string{"warn translator.unwell: slow"}},
		{doctor.Snapshot{Owners: []*api.Owner{owner}, Used: map[string]api.Resources{"lab1": {CPUs: 10}}}, nil},
		{doctor.Snapshot{Owners: []*api.Owner{owner}, Used: map[string]api.Resources{"lab1": {CPUs: 11}}}, []string{"warn quota.edge: 11 of the 12"}},
	} {
		c.s.Now, c.s.Site = now, "tokyo"
		got := doctor.Find(c.s)
		if len(got) != len(c.want) {
			t.Errorf("found %+v, want %q", got, c.want)
			continue
		}
		for i, f := range got {
			head, part, _ := strings.Cut(c.want[i], ": ")
			if head != fmt.Sprintf("%s %s", f.Severity, f.ID) || !strings.Contains(f.Message, part) {
				t.Errorf("found %s %s: %s; want %q", f.Severity, f.ID, f.Message, c.want[i])
			}
			if f.Advice == "" {
				t.Errorf("%s says not what to do", f.ID)
			}
		}
	}
}

// TestWorstFirst: what is bad comes before what needs attention.
func TestWorstFirst(t *testing.T) {
	got := doctor.Find(doctor.Snapshot{Now: now, Site: "tokyo", VMs: []*api.VM{vm("a", api.PhaseStarting, time.Hour), vm("b", api.PhaseFailed, time.Hour)}})
	var ids []string
	for _, f := range got {
		ids = append(ids, f.ID)
	}
	if d := cmp.Diff([]string{"vm.failed", "vm.slow"}, ids); d != "" {
		t.Error(d)
	}
}

// TestBounded: many of one kind are cut, and counted.
func TestBounded(t *testing.T) {
	var vms []*api.VM
	for i := range 1000 {
		vms = append(vms, vm(fmt.Sprintf("v%d", i), api.PhaseUnknown, time.Hour))
	}
	vms = append(vms, vm("slow", api.PhaseStarting, time.Hour))
	got := doctor.Bounded(doctor.Find(doctor.Snapshot{Now: now, Site: "tokyo", VMs: vms}))
	if len(got) != doctor.Most+2 || got[doctor.Most].Message != "980 more of the same" || got[doctor.Most+1].ID != "vm.slow" {
		t.Errorf("%d findings, the last two: %+v", len(got), got[len(got)-2:])
	}
}
