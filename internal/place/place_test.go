package place_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"widecloud/api"
	"widecloud/internal/place"
)

func res(cpus, mem, disk, addr int) api.Resources {
	return api.Resources{CPUs: cpus, MemoryMiB: mem, DiskGiB: disk, Addresses: addr}
}

var nehalem = api.CPU{Arch: "x86_64", Accel: "tcg", Model: "EPYC-Milan", Usable: []string{"qemu64", "Nehalem"}}

func host(name string, used int, change ...func(*place.Host)) place.Host {
	h := place.Host{
		Name:      name,
		Roles:     []api.HostRole{api.RoleHypervisor},
		Connected: true,
		Capacity:  res(8, 8192, 100, 0),
		Allotted:  res(0, used, 0, 0),
		CPU:       nehalem,
	}
	for _, f := range change {
		f(&h)
	}
	return h
}

func self(hosts ...place.Host) place.Site {
	return place.Site{Name: "tokyo", Self: true, Reached: true, Hosts: hosts}
}

func peer(name string, change ...func(*place.Site)) place.Site {
	s := place.Site{
		Name:    name,
		Reached: true,
		CPUs:    []api.CPU{nehalem},
		Loans:   []place.Loan{{Name: "l1", State: api.LoanActive, Amount: res(4, 4096, 40, 1)}},
	}
	for _, f := range change {
		f(&s)
	}
	return s
}

var small = place.Request{Needs: res(1, 1024, 10, 1), CPUModel: "Nehalem", Image: "sha256:aa"}

func request(f func(*place.Request)) place.Request {
	r := small
	f(&r)
	return r
}

func render(rs []api.Reason) []string {
	var out []string
	for _, r := range rs {
		out = append(out, strings.TrimSuffix(r.Site+"/"+r.Host, "/")+" "+r.Code+": "+r.Message)
	}
	return out
}

// brief is what Decide is to say where Explain says p: the choice, or the reasons.
func brief(p place.Plan) place.Plan {
	if p.Chosen != nil {
		return place.Plan{Chosen: p.Chosen}
	}
	return place.Plan{Refused: p.Refused}
}

func TestDecide(t *testing.T) {
	image := func(h *place.Host) { h.Images = []string{"sha256:aa"} }
	for _, tc := range []struct {
		name    string
		sites   []place.Site
		req     place.Request
		chosen  string
		loan    string
		refused []string
	}{
		{"the emptiest host", []place.Site{self(host("h1", 4096), host("h2", 2048), host("h3", 3000))}, small, "tokyo/h2", "", nil},
		{"the first name among equals", []place.Site{self(host("h2", 0), host("h1", 0))}, small, "tokyo/h1", "", nil},
		{"the image is worth something", []place.Site{self(host("h1", 0), host("h2", 1024, image))}, small, "tokyo/h2", "", nil},
		{"but not everything", []place.Site{self(host("h1", 0), host("h2", 4096, image))}, small, "tokyo/h1", "", nil},
		{"own site first, even if fuller", []place.Site{peer("osaka"), self(host("h1", 7000))}, small, "tokyo/h1", "", nil},
		{"the lender when there is no room", []place.Site{self(host("h1", 8000)), peer("osaka")}, small, "osaka", "l1", []string{
			"tokyo/h1 memory: needs 1024 MiB of memory, the host has 192 left",
		}},
		{"the emptier loan", []place.Site{peer("osaka", func(s *place.Site) {
			s.Loans = []place.Loan{
				{Name: "l1", State: api.LoanActive, Amount: res(4, 4096, 40, 1), Used: res(1, 2048, 1, 0)},
				{Name: "l2", State: api.LoanActive, Amount: res(4, 4096, 40, 1)},
				{Name: "l3", State: api.LoanReclaimed, Amount: res(9, 9999, 99, 9)},
			}
		})}, small, "osaka", "l2", nil},
		{"wanted site", []place.Site{self(host("h1", 0)), peer("osaka")}, request(func(r *place.Request) { r.Place = "osaka" }), "osaka", "l1", []string{
			"tokyo/h1 place: osaka is wanted",
		}},
		{"wanted host at a peer is handed on", []place.Site{peer("osaka")}, request(func(r *place.Request) { r.Place = "osaka/h7" }), "osaka/h7", "l1", nil},
		{"wanted host", []place.Site{self(host("h1", 0), host("h2", 4096))}, request(func(r *place.Request) { r.Place = "tokyo/h2" }), "tokyo/h2", "", []string{
			"tokyo/h1 place: tokyo/h2 is wanted",
		}},
		{"wanted site is not known", []place.Site{self(host("h1", 0))}, request(func(r *place.Request) { r.Place = "kobe" }), "", "", []string{
			"kobe place: kobe is wanted, and no such site is known",
			"tokyo/h1 place: kobe is wanted",
		}},
		{"wanted host is not known", []place.Site{self(host("h1", 0))}, request(func(r *place.Request) { r.Place = "tokyo/h9" }), "", "", []string{
			"tokyo/h1 place: tokyo/h9 is wanted",
			"tokyo/h9 place: tokyo/h9 is wanted, and no such host is known",
		}},
		{"away from here", []place.Site{self(host("h1", 0), host("h2", 4096))}, request(func(r *place.Request) { r.Exclude = []place.Choice{{Site: "tokyo", Host: "h1"}} }), "tokyo/h2", "", []string{
			"tokyo/h1 place: the VM is here now, or is to leave here",
		}},
		{"away from the site", []place.Site{self(host("h1", 0)), peer("osaka")}, request(func(r *place.Request) { r.Exclude = []place.Choice{{Site: "osaka"}, {Site: "tokyo"}} }), "", "", []string{
			"osaka place: the VM is here now, or is to leave here",
			"tokyo/h1 place: the VM is here now, or is to leave here",
		}},
		{"permitted sites", []place.Site{self(host("h1", 0)), peer("kyoto"), peer("osaka")}, request(func(r *place.Request) { r.Sites = []string{"kobe", "osaka"} }), "osaka", "l1", []string{
			"kyoto permit: the VM may run at kobe, osaka only",
			"tokyo/h1 permit: the VM may run at kobe, osaka only",
		}},
		{"addresses are the loan's, not the host's", []place.Site{self(host("h1", 0)), peer("osaka")}, request(func(r *place.Request) { r.Needs.Addresses = 2 }), "tokyo/h1", "", []string{
			"osaka address: needs 2 service addresses, loan l1 has 1 left",
		}},
		{"every reason of a host at once", []place.Site{self(host("h1", 8000, func(h *place.Host) {
			h.Roles, h.Connected, h.Cordoned = []api.HostRole{api.RoleGateway}, false, true
			h.Allotted = res(8, 8000, 95, 0)
			h.CPU = api.CPU{Arch: "aarch64", Accel: "kvm", Model: "Neoverse-N1", Usable: []string{"max"}}
		}))}, request(func(r *place.Request) { r.Sites, r.Arch, r.Accel = []string{"osaka"}, "x86_64", "tcg" }), "", "", []string{
			"tokyo/h1 permit: the VM may run at osaka only",
			"tokyo/h1 hypervisor: the host is no hypervisor",
			"tokyo/h1 unreachable: the host's agent is not connected",
			"tokyo/h1 cordon: the host is cordoned: it takes no new VM",
			"tokyo/h1 cpu-model: the VM is for x86_64, the CPU is aarch64",
			"tokyo/h1 cpu-model: the VM runs with tcg, the hypervisor has kvm",
			"tokyo/h1 cpu-model: CPU model Nehalem cannot run on Neoverse-N1; usable: max",
			"tokyo/h1 cpu: needs 1 CPUs, the host has 0 left",
			"tokyo/h1 memory: needs 1024 MiB of memory, the host has 192 left",
			"tokyo/h1 disk: needs 10 GiB of disk, the host has 5 left",
		}},
		{"every reason of a peer at once", []place.Site{peer("osaka", func(s *place.Site) {
			s.Reached = false
			s.CPUs = []api.CPU{{Model: "Opteron", Usable: []string{"qemu64", "kvm64"}}, {}}
			s.Loans = append(s.Loans, place.Loan{Name: "l2", State: api.LoanActive, Amount: res(1, 2048, 5, 1)})
			s.Loans[0].Used = res(4, 0, 0, 0)
		})}, small, "", "", []string{
			"osaka unreachable: the site is not reached now",
			"osaka cpu-model: CPU model Nehalem cannot run on Opteron; usable: kvm64, qemu64",
			"osaka cpu-model: CPU model Nehalem cannot run on this CPU; usable: none that is known",
			"osaka cpu: needs 1 CPUs, loan l1 has 0 left",
			"osaka disk: needs 10 GiB of disk, loan l2 has 5 left",
		}},
		{"a peer with one good kind of CPU", []place.Site{peer("osaka", func(s *place.Site) { s.CPUs = []api.CPU{{Usable: []string{"qemu64"}}, nehalem} })}, small, "osaka", "l1", nil},
		{"a peer whose CPUs are not known", []place.Site{peer("osaka", func(s *place.Site) { s.CPUs = nil })}, small, "", "", []string{
			"osaka cpu-model: the site's CPUs are not known",
		}},
		{"no loan", []place.Site{peer("osaka", func(s *place.Site) { s.Loans = nil })}, small, "", "", []string{"osaka loan: nothing is borrowed from osaka"}},
		{"no active loan", []place.Site{peer("osaka", func(s *place.Site) { s.Loans[0].State = api.LoanReclaimed })}, small, "", "", []string{
			"osaka loan: no loan from osaka is active any more",
		}},
		{"no hosts", []place.Site{self()}, small, "", "", []string{"tokyo hypervisor: the site has no hosts"}},
		{"no sites", nil, small, "", "", []string{" hypervisor: no site is known"}},
		{"negative needs", []place.Site{self(host("h1", 0))}, request(func(r *place.Request) { r.Needs.DiskGiB = -1 }), "", "", []string{
			"tokyo/h1 invalid: needs.disk_gib is negative",
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p := place.Explain(place.Snapshot{Sites: tc.sites}, tc.req)
			chosen, loan := "", ""
			if p.Chosen != nil {
				chosen, loan = p.Chosen.String(), p.Chosen.Loan
			}
			if chosen != tc.chosen || loan != tc.loan {
				t.Errorf("chose %q under loan %q, want %q under %q; scores %+v", chosen, loan, tc.chosen, tc.loan, p.Scores)
			}
			if d := cmp.Diff(tc.refused, render(p.Refused)); d != "" {
				t.Errorf("refused (-want +got):\n%s", d)
			}
			if d := cmp.Diff(brief(p), place.Decide(place.Snapshot{Sites: tc.sites}, tc.req)); d != "" {
				t.Errorf("Decide and Explain differ (-Explain +Decide):\n%s", d)
			}
		})
	}
}

func TestWhy(t *testing.T) {
	p := place.Explain(place.Snapshot{Sites: []place.Site{
		self(host("h1", 0), host("h2", 4096), host("h3", 8192)),
		peer("kyoto"),
		peer("osaka", func(s *place.Site) { s.Reached = false; s.Loans = nil }),
	}}, small)
	for _, tc := range []struct {
		where string
		want  []string
	}{
		{"osaka", []string{"osaka unreachable: the site is not reached now", "osaka loan: nothing is borrowed from osaka"}},
		{"osaka/h1", []string{"osaka unreachable: the site is not reached now", "osaka loan: nothing is borrowed from osaka"}},
		{"kyoto", []string{"kyoto score: possible, number 3 of 3: a lender's, 75 % of memory left; tokyo/h1 is better: own site, 88 % of memory left"}},
		{"tokyo/h2", []string{"tokyo/h2 score: possible, number 2 of 3: own site, 38 % of memory left; tokyo/h1 is better: own site, 88 % of memory left"}},
		{"tokyo/h3", []string{"tokyo/h3 memory: needs 1024 MiB of memory, the host has 0 left"}},
		{"tokyo", []string{"tokyo/h1 chosen: tokyo/h1 is where it goes"}},
		{"tokyo/h9", []string{"tokyo/h9 place: tokyo/h9 is not known here"}},
		{"kobe", []string{"kobe place: kobe is not known here"}},
	} {
		if d := cmp.Diff(tc.want, render(place.Why(p, tc.where))); d != "" {
			t.Errorf("%s (-want +got):\n%s", tc.where, d)
		}
	}
}

// candidate is what the property test knows of a place, checked in its own, plain way.
type candidate struct {
	site, host, loan string
	ok               bool
}

// possible lists every candidate of a snapshot with whether it satisfies the request.
func possible(s place.Snapshot, r place.Request) []candidate {
	enough := func(all, used api.Resources, addresses bool) bool {
		n := r.Needs
		return (n.CPUs == 0 || used.CPUs+n.CPUs <= all.CPUs) && (n.MemoryMiB == 0 || used.MemoryMiB+n.MemoryMiB <= all.MemoryMiB) &&
			(n.DiskGiB == 0 || used.DiskGiB+n.DiskGiB <= all.DiskGiB) && (!addresses || n.Addresses == 0 || used.Addresses+n.Addresses <= all.Addresses)
	}
	runs := func(c api.CPU) bool {
		return (r.CPUModel == "" || slices.Contains(c.Usable, r.CPUModel)) && (r.Accel == "" || r.Accel == c.Accel)
	}
	var cs []candidate
	for _, st := range s.Sites {
		allowed := (len(r.Sites) == 0 || slices.Contains(r.Sites, st.Name)) && !slices.Contains(r.Exclude, place.Choice{Site: st.Name})
		if st.Self {
			for _, h := range st.Hosts {
				full := st.Name + "/" + h.Name
				cs = append(cs, candidate{site: st.Name, host: h.Name, ok: allowed && !slices.Contains(r.Exclude, place.Choice{Site: st.Name, Host: h.Name}) &&
					(r.Place == "" || r.Place == st.Name || r.Place == full) && h.Connected && !h.Cordoned &&
					slices.Contains(h.Roles, api.RoleHypervisor) && runs(h.CPU) && enough(h.Capacity, h.Allotted, false)})
			}
			continue
		}
		wanted := r.Place == "" || strings.HasPrefix(r.Place+"/", st.Name+"/")
		cpu := r.CPUModel == "" && r.Accel == "" || slices.ContainsFunc(st.CPUs, runs)
		for _, l := range st.Loans {
			cs = append(cs, candidate{site: st.Name, loan: l.Name, ok: allowed && wanted && cpu && st.Reached &&
				l.State == api.LoanActive && enough(l.Amount, l.Used, true)})
		}
	}
	return cs
}

func draw(rt *rapid.T) (place.Snapshot, place.Request) {
	amount := func(label string, most int) api.Resources {
		n := rapid.IntRange(0, most)
		return res(n.Draw(rt, label), n.Draw(rt, label), n.Draw(rt, label), n.Draw(rt, label))
	}
	mostly := func(label string) bool { return rapid.IntRange(0, 4).Draw(rt, label) > 0 }
	cpu := func() api.CPU {
		return api.CPU{Accel: rapid.SampledFrom([]string{"tcg", "tcg", "kvm"}).Draw(rt, "accel"),
			Usable: rapid.SampledFrom([][]string{nil, {"a"}, {"a", "b"}, {"b"}}).Draw(rt, "usable")}
	}
	var s place.Snapshot
	own := place.Site{Name: "s0", Self: true}
	for i := range rapid.IntRange(0, 4).Draw(rt, "hosts") {
		roles := []api.HostRole{api.RoleGateway}
		if mostly("hypervisor") {
			roles = append(roles, api.RoleHypervisor)
		}
		own.Hosts = append(own.Hosts, place.Host{Name: fmt.Sprintf("h%d", i), Roles: roles, Connected: mostly("connected"),
			Cordoned: !mostly("cordoned"), Capacity: amount("capacity", 10), Allotted: amount("allotted", 6), CPU: cpu(),
			Images: rapid.SampledFrom([][]string{nil, {"x"}}).Draw(rt, "images")})
	}
	s.Sites = append(s.Sites, own)
	for i := range rapid.IntRange(0, 3).Draw(rt, "peers") {
		p := place.Site{Name: fmt.Sprintf("s%d", i+1), Reached: mostly("reached")}
		for range rapid.IntRange(0, 2).Draw(rt, "cpus") {
			p.CPUs = append(p.CPUs, cpu())
		}
		for j := range rapid.IntRange(0, 3).Draw(rt, "loans") {
			state := api.LoanActive
			if !mostly("active") {
				state = api.LoanReclaimed
			}
			p.Loans = append(p.Loans, place.Loan{Name: fmt.Sprintf("l%d", j), State: state, Amount: amount("amount", 10), Used: amount("used", 6)})
		}
		s.Sites = append(s.Sites, p)
	}
	names := []string{"", "", "", "s0", "s1", "s0/h0", "s0/h1", "s1/h3", "s9", "s0/h9"}
	return s, place.Request{
		Needs:    amount("needs", 6),
		CPUModel: rapid.SampledFrom([]string{"", "a", "b"}).Draw(rt, "model"),
		Accel:    rapid.SampledFrom([]string{"", "", "tcg"}).Draw(rt, "accel"),
		Sites:    rapid.SampledFrom([][]string{nil, nil, {"s0"}, {"s1", "s2"}, {"s9"}}).Draw(rt, "sites"),
		Place:    rapid.SampledFrom(names).Draw(rt, "place"),
		Image:    rapid.SampledFrom([]string{"", "x", "y"}).Draw(rt, "image"),
		Exclude:  rapid.SampledFrom([][]place.Choice{nil, nil, {{Site: "s0", Host: "h0"}}, {{Site: "s0"}}, {{Site: "s1"}, {Site: "s0", Host: "h1"}}, {{Site: "s1", Host: "h1"}}}).Draw(rt, "exclude"),
	}
}

func TestProperties(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		s, r := draw(rt)
		p := place.Explain(s, r)
		cs := possible(s, r)
		good := slices.DeleteFunc(slices.Clone(cs), func(c candidate) bool { return !c.ok })

		// Safety: the choice, and all that was scored, satisfies the request.
		if p.Chosen != nil && !slices.ContainsFunc(good, func(c candidate) bool {
			return c.site == p.Chosen.Site && c.loan == p.Chosen.Loan && (c.loan != "" || c.host == p.Chosen.Host)
		}) {
			rt.Fatalf("chose %+v, possible are %+v", *p.Chosen, good)
		}
		if len(p.Scores) != len(good) {
			rt.Fatalf("%d scored, %d possible", len(p.Scores), len(good))
		}
		// Liveness: what is possible is found, and otherwise there is a reason.
		if (p.Chosen == nil) != (len(good) == 0) {
			rt.Fatalf("chose %v, possible are %+v", p.Chosen, good)
		}
		if p.Chosen == nil && len(p.Refused) == 0 {
			rt.Fatal("nothing was chosen, without a reason")
		}
		// The own site comes first.
		if p.Chosen != nil && p.Chosen.Site != "s0" && slices.ContainsFunc(good, func(c candidate) bool { return c.site == "s0" }) {
			rt.Fatalf("chose %+v where the own site was possible", *p.Chosen)
		}
		// A host is refused with a reason, or possible and without one; a peer has reasons exactly when no loan of it will do.
		reasons := map[string]int{}
		for _, x := range p.Refused {
			if x.Code == "" || x.Message == "" {
				rt.Fatalf("an empty reason: %+v", x)
			}
			if x.Message == r.Place+" is wanted, and no such host is known" || x.Message == r.Place+" is wanted, and no such site is known" {
				continue
			}
			reasons[x.Site+"/"+x.Host]++
		}
		for _, st := range s.Sites {
			for _, h := range st.Hosts {
				ok := slices.Contains(good, candidate{site: st.Name, host: h.Name, ok: true})
				if n := reasons[st.Name+"/"+h.Name]; ok != (n == 0) {
					rt.Fatalf("%s/%s: possible %t with %d reasons", st.Name, h.Name, ok, n)
				}
			}
			if !st.Self {
				ok := slices.ContainsFunc(good, func(c candidate) bool { return c.site == st.Name })
				if n := reasons[st.Name+"/"]; ok != (n == 0) {
					rt.Fatalf("%s: possible %t with %d reasons", st.Name, ok, n)
				}
			}
			if len(place.Why(p, st.Name)) == 0 {
				rt.Fatalf("no reason for %s", st.Name)
			}
		}
		if d := cmp.Diff(brief(p), place.Decide(s, r)); d != "" {
			rt.Fatalf("Decide and Explain differ (-Explain +Decide):\n%s", d)
		}
		// Deterministic: the order of things plays no part.
		seed := rapid.Uint64().Draw(rt, "seed")
		rnd := rand.New(rand.NewPCG(seed, seed))
		shuffled := place.Snapshot{Sites: slices.Clone(s.Sites)}
		rnd.Shuffle(len(shuffled.Sites), func(i, j int) {
			shuffled.Sites[i], shuffled.Sites[j] = shuffled.Sites[j], shuffled.Sites[i]
		})
		for i := range shuffled.Sites {
			st := &shuffled.Sites[i]
			st.Hosts, st.Loans, st.CPUs = slices.Clone(st.Hosts), slices.Clone(st.Loans), slices.Clone(st.CPUs)
			rnd.Shuffle(len(st.Hosts), func(i, j int) { st.Hosts[i], st.Hosts[j] = st.Hosts[j], st.Hosts[i] })
			rnd.Shuffle(len(st.Loans), func(i, j int) { st.Loans[i], st.Loans[j] = st.Loans[j], st.Loans[i] })
			rnd.Shuffle(len(st.CPUs), func(i, j int) { st.CPUs[i], st.CPUs[j] = st.CPUs[j], st.CPUs[i] })
		}
		if d := cmp.Diff(p, place.Explain(shuffled, r)); d != "" {
			rt.Fatalf("another order, another plan:\n%s", d)
		}
		if d := cmp.Diff(brief(p), place.Decide(shuffled, r)); d != "" {
			rt.Fatalf("another order, another choice:\n%s", d)
		}
	})
}

// hosts are n hosts, of which every third has no room.
func hosts(n int) []place.Host {
	hs := make([]place.Host, n)
	for i := range hs {
		hs[i] = host(fmt.Sprintf("h%05d", i), i*7919%7000)
		if i%3 == 0 {
			hs[i].Allotted = hs[i].Capacity
		}
	}
	return hs
}

// TestDecideMemory: what a decision allocates does not grow with the number of hosts, possible or not.
func TestDecideMemory(t *testing.T) {
	allocs := func(n int) float64 {
		s := place.Snapshot{Sites: []place.Site{self(hosts(n)...)}}
		return testing.AllocsPerRun(20, func() { place.Decide(s, small) })
	}
	few, many := allocs(10), allocs(10_000)
	if many > few {
		t.Errorf("%g allocations with 10,000 hosts, %g with 10", many, few)
	}
}

func BenchmarkDecide(b *testing.B) {
	for _, n := range []int{10, 100, 1000, 10_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			s := place.Snapshot{Sites: []place.Site{self(hosts(n)...)}}
			b.ReportAllocs()
			for b.Loop() {
				place.Decide(s, small)
			}
		})
	}
}

// TestGrouped: the reasons of a thousand hosts are few lines, each with how many it is about; few reasons stay as they are.
func TestGrouped(t *testing.T) {
	var many []api.Reason
	for i := range 1000 {
		host := fmt.Sprintf("h%04d", i)
		many = append(many, api.Reason{Site: "tokyo", Host: host, Code: "cpu", Message: fmt.Sprintf("needs 4 CPUs, the host has %d left", i%4), Advice: "stop another VM"})
		if i%100 == 7 {
			many = append(many, api.Reason{Site: "tokyo", Host: host, Code: "cordon", Message: "the host is cordoned"})
		}
	}
	many = append(many, api.Reason{Site: "osaka", Code: "loan", Message: "nothing is borrowed from osaka"})
	want := []api.Reason{
		{Site: "tokyo", Code: "cpu", Message: "1000 hosts: for example h0000, needs 4 CPUs, the host has 0 left", Advice: "stop another VM"},
		{Site: "tokyo", Code: "cordon", Message: "10 hosts: for example h0007, the host is cordoned"},
		{Site: "osaka", Code: "loan", Message: "nothing is borrowed from osaka"},
	}
	if d := cmp.Diff(want, place.Grouped(many)); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if d := cmp.Diff(many[:16], place.Grouped(many[:16])); d != "" {
		t.Errorf("few are changed:\n%s", d)
	}
	var sites []api.Reason
	for i := range 500 {
		sites = append(sites, api.Reason{Site: fmt.Sprintf("s%d", i), Code: "loan", Message: "nothing is borrowed from it"})
	}
	if got := place.Grouped(sites); len(got) != 17 || got[16].Code != "more" {
		t.Errorf("the reasons of 500 sites are %d, the last one %+v", len(got), got[len(got)-1])
	}
}

// TestProfileOfAPeer: before a peer has told its CPUs, its release says which hardware profiles it knows; then its hosts do.
func TestProfileOfAPeer(t *testing.T) {
	loan := []place.Loan{{Name: "l", State: api.LoanActive, Amount: api.Resources{CPUs: 4, MemoryMiB: 1024, DiskGiB: 10}}}
	needs := api.Resources{CPUs: 1, MemoryMiB: 128, DiskGiB: 1}
	for name, c := range map[string]struct {
		site    place.Site
		newest  int
		takes2  bool
		because string
	}{
		"of an old release":        {place.Site{}, 1, false, "the site's CPUs are not known"},
		"not told yet":             {place.Site{Profile: 2}, 2, true, ""},
		"older hosts":              {place.Site{Profile: 2, CPUs: []api.CPU{{Arch: "x86_64", Profile: 1}}}, 1, false, "it needs a newer release"},
		"hosts of both":            {place.Site{Profile: 2, CPUs: []api.CPU{{Arch: "x86_64", Profile: 2}, {Arch: "arm", Profile: 1}}}, 1, true, ""},
		"hosts that do not say so": {place.Site{CPUs: []api.CPU{{Arch: "x86_64"}}}, 1, false, "it needs a newer release"},
	} {
		c.site.Name, c.site.Reached, c.site.Loans = "osaka", true, loan
		s := place.Snapshot{Sites: []place.Site{{Name: "tokyo", Self: true}, c.site}}
		if got := s.Profile(place.Choice{Site: "osaka"}, 2); got != c.newest {
			t.Errorf("%s: a new VM gets %d, want %d", name, got, c.newest)
		}
		p := place.Decide(s, place.Request{Needs: needs, Profile: 2})
		if (p.Chosen != nil) != c.takes2 {
			t.Errorf("%s: %+v", name, p)
		}
		if c.because != "" && !slices.ContainsFunc(p.Refused, func(r api.Reason) bool { return strings.Contains(r.Message, c.because) }) {
			t.Errorf("%s: %v, want %q", name, p.Refused, c.because)
		}
	}
}
