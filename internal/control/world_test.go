package control_test

import (
	"bytes"
	"cmp"
	"context"
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"widecloud/api"
	"widecloud/internal/access"
	"widecloud/internal/agent"
	"widecloud/internal/audit"
	"widecloud/internal/cloud"
	"widecloud/internal/control"
	"widecloud/internal/fed"
	"widecloud/internal/hyper/fake"
	"widecloud/internal/serve"
	"widecloud/internal/serve/servetest"
	"widecloud/internal/state"
	"widecloud/internal/store"
	"widecloud/internal/volume"
	"widecloud/internal/wire"
)

var verbose = flag.Bool("widecloud.log", false, "log what the federation does")

// world is a whole federation in one process and one testing/synctest bubble: real controllers, agents, stores and TLS
// sessions; a network, hypervisors and disks in memory, whose faults the tests order.
type world struct {
	t       *testing.T
	dir     string
	log     *slog.Logger
	net     *wire.Memory
	fake    *fake.World
	sites   map[string]*site
	image   []byte     // what VMs are made of
	plan    cloud.Plan // the address plan of every site
	reserve int64
	older   string

	mu    sync.Mutex
	armed map[string]func() // "NODE NAME" of a failpoint -> what happens there, once
}

// options of a world; hosts per site.
type options struct {
	sites []string
	hosts int
	lease time.Duration
	// copyTime is what each 4 KiB of a migration takes.
	copyTime time.Duration
	capacity api.Resources
	cpus     map[string]api.CPU // of the hosts of a site that are not like all others
	reserve  int64              // of the controllers' stores, bytes; 0: none
	older    string             // a site whose outside port is of the release before levels
}

// site is a controller's machine: what is left of it when the process is dead.
type site struct {
	w         *world
	name      string
	dir       string
	lease     time.Duration
	authority *wire.Authority
	admin     access.Actor
	hosts     map[string]*host

	proc   *process // nil: it does not run
	state  *state.State
	ctl    *control.Controller
	fed    *fed.Federation
	trust  *wire.Trust
	cred   *wire.Credential
	images *volume.Store
	audit  *audit.Log
}

// host is a machine with an agent.
type host struct {
	site    *site
	name    string
	machine *fake.Host // nil: a gateway, without a hypervisor
	cred    *wire.Credential
	disks   *disks
	real    agent.Volumes // in the place of disks, in tests of their content
	vtep    netip.Addr
	room    api.Resources
	roles   []api.HostRole // of its join token
	// networks outlive the agent, as the kernel's do.
	networks strict

	proc  *process
	agent *agent.Agent
}

func (h *host) node() string { return h.site.name + "." + h.name }

func newWorld(t *testing.T, o options) *world {
	t.Helper()
	w := &world{t: t, dir: t.TempDir(), net: wire.NewMemory(), fake: fake.NewWorld(), sites: map[string]*site{}, armed: map[string]func(){}}
	w.plan = cloud.Plan{Pools: []cloud.Pool{
		{
			Name: "nets", Use: cloud.PoolNetworks, Owners: []string{"*"}, Peers: []string{"*"},
			Prefixes: prefixes("2001:db8:a::/47", "2001:db8:c::/46", "2001:db8:77::/48", "2001:db8:a00::/40"),
		},
		{Name: "public4", Use: cloud.PoolAddresses, Owners: []string{"*"}, Peers: []string{"*"}, Prefixes: prefixes("203.0.113.0/24")},
		{Name: "public6", Use: cloud.PoolAddresses, Owners: []string{"*"}, Peers: []string{"*"}, Prefixes: prefixes("2001:db8:5e::/64")},
	}}
	w.log = slog.New(slog.DiscardHandler)
	if *verbose {
		w.log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	w.reserve, w.older = o.reserve, o.older
	w.image = make([]byte, 64<<10)
	copy(w.image, "a disk that boots")
	for i, name := range o.sites {
		s := w.addSite(name, o.lease)
		for j := range max(o.hosts, 1) {
			s.addHost(fmt.Sprintf("h%d", j+1), netip.MustParseAddr(fmt.Sprintf("2001:db8:%x::%x", i+1, j+1)), o)
		}
	}
	for i, a := range o.sites {
		for _, b := range o.sites[:i] {
			w.peer(a, b)
		}
	}
	return w
}

// releaseOf is the release that a site's outside port plays.
func (w *world) releaseOf(site string) *wire.Release {
	if site == w.older {
		return &wire.Release{}
	}
	return nil
}

func prefixes(list ...string) (out []netip.Prefix) {
	for _, p := range list {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

// close ends everything; the bubble wants no goroutine left.
func (w *world) close() {
	var all sync.WaitGroup
	for _, s := range w.sites {
		for _, h := range s.hosts {
			all.Go(h.kill)
		}
		all.Go(s.kill)
	}
	all.Wait()
	for _, h := range w.hosts() {
		if h.machine != nil {
			h.machine.PowerOff()
		}
	}
}

func (w *world) hosts() (out []*host) {
	for _, s := range slices.Sorted(maps.Keys(w.sites)) {
		for _, h := range slices.Sorted(maps.Keys(w.sites[s].hosts)) {
			out = append(out, w.sites[s].hosts[h])
		}
	}
	return out
}

// at arms a failpoint of a node: "tokyo", "tokyo.h1".
func (w *world) at(node, point string, do func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.armed[node+" "+point] = do
}

func (w *world) disarm() {
	w.mu.Lock()
	defer w.mu.Unlock()
	clear(w.armed)
}

func (w *world) failpoint(p *process) func(string) {
	return func(name string) {
		w.mu.Lock()
		do := w.armed[p.node+" "+name]
		delete(w.armed, p.node+" "+name)
		w.mu.Unlock()
		if do != nil {
			do()
		}
	}
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) addSite(name string, lease time.Duration) *site {
	w.t.Helper()
	s := &site{w: w, name: name, dir: filepath.Join(w.dir, name), lease: lease, hosts: map[string]*host{}, admin: access.Actor{User: "admin", Admin: true}}
	w.must(os.MkdirAll(filepath.Join(s.dir, "images"), 0o711))
	var err error
	s.authority, err = wire.NewAuthority(wire.AuthorityOptions{Site: name})
	w.must(err)
	w.sites[name] = s
	s.start()
	w.must(s.write("objects/users/admin", `{"name":"admin","spec":{"admin":true},"status":{}}`))
	return s
}

// start begins the site's controller, as cmd/wcc does.
func (s *site) start() { s.startWith(nil, nil) }

// startWith is start with the store, and what answers the sessions of peers and agents, wrapped; nil leaves them as they are.
func (s *site) startWith(wrap func(store.Store) store.Store, handle func(http.Handler) http.Handler) {
	w := s.w
	w.t.Helper()
	s.kill()
	p := newProcess(w.t, w.net, s.name, filepath.Join(s.dir, "store.db"), w.reserve)
	log := w.log.With("site", s.name)
	var st store.Store = storeGrip{p.store, grip{p}}
	if wrap != nil {
		st = wrap(st)
	}
	node := networkGrip{w.net.Node(s.name), grip{p}}
	var err error
	s.state, err = state.Open(p.ctx, st, control.Tables())
	w.must(err)
	s.state.CheckMemos()
	s.cred, err = s.authority.Controller()
	w.must(err)
	s.trust, err = wire.NewTrust(wire.TrustOptions{CA: s.authority.Certificate()})
	w.must(err)
	s.images, err = volume.Open(volume.Options{Dir: filepath.Join(s.dir, "images")})
	w.must(err)
	s.audit, err = audit.Open(audit.Options{Dir: filepath.Join(s.dir, "audit"), Logger: log})
	w.must(err)
	var handler http.Handler
	s.fed, err = fed.New(p.ctx, fed.Options{
		Credential: s.cred, Trust: s.trust, Store: s.state, Network: node, Logger: log, KeepAlive: keepAlive, DeadAfter: deadAfter,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { handler.ServeHTTP(w, r) }),
	})
	w.must(err)
	s.ctl = control.New(control.Options{
		Name: s.name, State: s.state, Authority: s.authority, Federation: s.fed, Images: s.images, Network: node, Logger: log, Audit: s.audit,
		Endpoint: s.name + ":646", Lease: s.lease, Grace: time.Minute, JoinLife: 10 * time.Minute, Codec: "none", WatchKept: 64, Failpoint: w.failpoint(p), Plan: w.plan,
		Location: &api.Location{Latitude: 35.5, Longitude: 139.5, Place: s.name + "'s"}, MetricsVMs: 10, ImageKept: time.Hour,
	})
	handler = s.ctl.Handler()
	if handle != nil {
		handler = handle(handler)
	}
	w.must(s.ctl.Peers(p.ctx))
	ctl, federation, images, auditLog := s.ctl, s.fed, s.images, s.audit
	p.work.Go(func() { ctl.Run(p.ctx) })
	p.work.Go(func() { federation.Run(p.ctx) })
	outside, err := wire.Listen(p.ctx, ":646", wire.Options{
		Credential: s.cred, Trust: s.trust, Network: node, Handler: handler, Admit: ctl.Admit, Join: ctl.Join, Peer: ctl.Peer,
		OnSession: func(x *wire.Session) { p.work.Go(func() { ctl.Session(p.ctx, x) }) },
		Log:       log, KeepAlive: keepAlive, DeadAfter: deadAfter, Release: s.w.releaseOf(s.name),
	})
	w.must(err)
	p.work.Go(func() {
		<-p.ctx.Done()
		outside.Close()
		images.Close()
		auditLog.Close()
	})
	s.proc = p
}

const (
	keepAlive = 2 * time.Second
	deadAfter = 6 * time.Second
)

func (s *site) kill() {
	if s.proc != nil {
		s.proc.bury()
		s.proc = nil
		s.w.must(s.state.Verify())
	}
}

func (s *site) addHost(name string, vtep netip.Addr, o options) *host {
	w := s.w
	w.t.Helper()
	room := o.capacity
	if room == (api.Resources{}) {
		room = api.Resources{CPUs: 8, MemoryMiB: 8192, DiskGiB: 100}
	}
	cpu, ok := o.cpus[s.name]
	if !ok {
		cpu = api.CPU{Accel: "tcg", Model: "Nehalem", Usable: []string{"Nehalem", "Westmere"}}
	}
	h := &host{
		site: s, name: name, vtep: vtep, room: room, roles: []api.HostRole{api.RoleHypervisor},
		machine: fake.New(fake.Options{
			Name: s.name + "/" + name, World: w.fake, ChunkTime: o.copyTime,
			Accel: cpu.Accel, CPUModel: cpu.Model, CPUUsable: cpu.Usable, Profile: cpu.Profile,
		}),
	}
	h.disks = &disks{h: h, bases: map[string]bool{}, volumes: map[string]string{}, sizes: map[string]map[string]int64{}, marks: map[string]string{}}
	s.hosts[name] = h
	h.join()
	h.start()
	return h
}

// addGateway has a host without a hypervisor join.
func (s *site) addGateway(name string, vtep netip.Addr) *host {
	s.w.t.Helper()
	h := &host{site: s, name: name, vtep: vtep, roles: []api.HostRole{api.RoleGateway}}
	h.disks = &disks{h: h, bases: map[string]bool{}, volumes: map[string]string{}, sizes: map[string]map[string]int64{}, marks: map[string]string{}}
	s.hosts[name] = h
	h.join()
	h.start()
	return h
}

// join gives the host its certificate by a join token for its roles.
func (h *host) join() {
	w, s := h.site.w, h.site
	w.t.Helper()
	text, err := s.ctl.JoinToken(w.t.Context(), s.admin, h.name, h.roles)
	w.must(err)
	token, err := wire.ParseToken(text)
	w.must(err)
	h.cred, _, err = wire.Join(w.t.Context(), w.net.Node(h.node()), s.name+":646", token, h.name, nil)
	w.must(err)
}

// start begins the host's agent in the roles of its join token.
func (h *host) start() { h.startWith(nil, h.roles...) }

// startWith is start with the agent's store wrapped (nil leaves it as it is) and with roles of the agent's own choice.
func (h *host) startWith(wrap func(store.Store) store.Store, roles ...api.HostRole) {
	w := h.site.w
	w.t.Helper()
	h.kill()
	p := newProcess(w.t, w.net, h.node(), filepath.Join(h.site.dir, h.name+".db"), 0)
	log := w.log.With("host", h.node())
	trust, err := wire.NewTrust(wire.TrustOptions{CA: h.cred.CA})
	w.must(err)
	link := agent.NewLink(agent.LinkOptions{
		Address: h.site.name + ":646", Credential: h.cred, Trust: trust, Network: networkGrip{w.net.Node(h.node()), grip{p}}, Logger: log,
		KeepAlive: keepAlive, DeadAfter: deadAfter,
	})
	var st store.Store = storeGrip{p.store, grip{p}}
	if wrap != nil {
		st = wrap(st)
	}
	o := agent.Options{
		Site: h.site.name, Host: h.name, Roles: roles, VTEP: h.vtep, Capacity: h.room, Store: st, Networks: &h.networks, Controller: link,
		Logger: log, Boot: fmt.Sprint(time.Now().UnixNano()), StopGrace: 10 * time.Second, ImageKept: time.Hour, Failpoint: w.failpoint(p),
	}
	if h.machine != nil {
		driver := h.machine.Connect()
		p.ends = append(p.ends, func() { driver.Close() })
		o.Hypervisor, o.Volumes = driver, disksGrip{h.disks, grip{p}}
		if h.real != nil {
			o.Volumes = h.real
		}
	}
	a, err := agent.New(p.ctx, o)
	w.must(err)
	p.work.Go(func() {
		if err := a.Run(p.ctx); err != nil && p.ctx.Err() == nil {
			log.Error("agent ends", "err", err)
		}
	})
	p.work.Go(func() { link.Run(p.ctx, a) })
	h.proc, h.agent = p, a
}

func (h *host) kill() {
	if h.proc != nil {
		h.proc.bury()
		h.proc = nil
	}
}

// peer joins two sites by an invitation.
func (w *world) peer(a, b string) {
	w.t.Helper()
	text, err := w.sites[a].ctl.PeerInvite(w.t.Context(), w.sites[a].admin)
	w.must(err)
	_, err = w.sites[b].ctl.PeerAdd(w.t.Context(), w.sites[b].admin, text)
	w.must(err)
}

// lend has a site offer room to all, and another borrow of it.
func (w *world) lend(lender, borrower string, amount api.Resources) *api.Loan {
	w.t.Helper()
	l, b := w.sites[lender], w.sites[borrower]
	if _, err := l.ctl.Get(w.t.Context(), l.admin, api.KindOffer, "room"); err != nil {
		l.create(&api.Offer{Meta: api.Meta{Name: "room"}, Spec: api.OfferSpec{
			To: []string{"*"}, LendLimit: api.Resources{CPUs: 40, MemoryMiB: 40960, DiskGiB: 400, Addresses: 4}, OnReclaim: api.ReclaimStop,
			Lease: api.Seconds(cmp.Or(l.lease, time.Hour).Seconds()), Grace: 60,
		}})
	}
	w.until("the sites reach each other", func() bool {
		up, _, _ := b.fed.Reached(lender)
		back, _, _ := l.fed.Reached(borrower)
		return up && back
	})
	loan, err := b.ctl.Borrow(w.t.Context(), b.admin, lender, "room", amount)
	w.must(err)
	return loan
}

// connected waits until every agent and every peer that runs is reached.
func (w *world) connected() {
	w.t.Helper()
	w.until("all who run reach each other", func() bool {
		for _, s := range w.sites {
			if s.proc == nil {
				continue
			}
			for _, h := range s.hosts {
				o, err := s.ctl.Get(w.t.Context(), s.admin, api.KindHost, h.name)
				if err != nil || h.proc != nil && !o.(*api.Host).Status.Connected {
					return false
				}
			}
			for _, p := range w.sites {
				if p == s || p.proc == nil {
					continue
				}
				_, err1 := s.fed.Session(p.name, false)
				_, err2 := s.fed.Session(p.name, true)
				if err1 != nil || err2 != nil {
					return false
				}
			}
		}
		return true
	})
}

func (s *site) create(o api.Object) api.Object {
	s.w.t.Helper()
	out, err := s.ctl.Create(s.w.t.Context(), s.admin, o)
	if err != nil {
		s.w.t.Fatalf("%s: create %s %s: %v", s.name, o.Kind(), o.Metadata().Name, err)
	}
	return out
}

// ready gives a site an owner, an image and a network to make VMs of.
func (s *site) ready(prefix string) {
	s.w.t.Helper()
	s.create(&api.Owner{Meta: api.Meta{Name: "lab"}})
	s.create(&api.Image{Meta: api.Meta{Name: "tiny"}, Spec: api.ImageSpec{Format: "raw"}})
	_, err := s.ctl.Upload(s.w.t.Context(), s.admin, "tiny", bytes.NewReader(s.w.image))
	s.w.must(err)
	s.create(&api.Network{Meta: api.Meta{Name: "blue"}, Spec: api.NetworkSpec{Prefix: prefix, IPv4: "10.1.0.0/24"}})
}

// newVM makes a VM and waits until it runs.
func (s *site) newVM(name, place string) *api.VM {
	s.w.t.Helper()
	s.create(vmOf(name, place))
	s.w.until(name+" runs", func() bool { return s.vm(name).Status.Phase == api.PhaseRunning })
	return s.vm(name)
}

func vmOf(name, place string) *api.VM {
	return &api.VM{Meta: api.Meta{Name: name, Owner: "lab"}, Spec: api.VMSpec{
		Hardware: api.Hardware{CPUs: 1, MemoryMiB: 256}, Image: "tiny", Network: "blue", Place: place, Power: api.PowerOn,
	}}
}

func (s *site) vm(name string) *api.VM {
	s.w.t.Helper()
	o, err := s.ctl.Get(s.w.t.Context(), s.admin, api.KindVM, name)
	if err != nil {
		s.w.t.Fatalf("%s: VM %s: %v", s.name, name, err)
	}
	return o.(*api.VM)
}

func (s *site) job(name string) *api.Job {
	s.w.t.Helper()
	o, err := s.ctl.Get(s.w.t.Context(), s.admin, api.KindJob, name)
	if err != nil {
		s.w.t.Fatalf("%s: job %s: %v", s.name, name, err)
	}
	return o.(*api.Job)
}

// migrate starts a migration.
func (s *site) migrate(vm, target string) *api.Job {
	s.w.t.Helper()
	j, _, err := s.ctl.Migrate(s.w.t.Context(), s.admin, vm, target, false)
	if err != nil {
		s.w.t.Fatalf("%s: migrate %s to %s: %v", s.name, vm, target, err)
	}
	return j
}

// moved migrates and waits until the VM runs there.
func (s *site) moved(vm, target string) {
	s.w.t.Helper()
	j := s.migrate(vm, target)
	s.ended(j.Name)
	if j = s.job(j.Name); j.Status.State != api.JobDone {
		s.w.t.Fatalf("migration of %s to %s is %s at %s: %s %v", vm, target, j.Status.State, j.Status.Step, j.Status.Message, j.Status.Reasons)
	}
	site, hostName, _ := strings.Cut(target, "/")
	if v := s.vm(vm); v.Status.Site != site || hostName != "" && v.Status.Host != hostName {
		s.w.t.Fatalf("VM %s is at %s/%s, not %s", vm, v.Status.Site, v.Status.Host, target)
	}
	s.runs(vm)
}

func (s *site) ended(job string) {
	s.w.t.Helper()
	s.w.until("job "+job+" ends", func() bool { return s.ctl != nil && s.proc != nil && s.job(job).Status.State.Ended() })
}

// runs waits until exactly one copy of a VM runs, where its home says, and nothing of it is anywhere else. Of a VM that is to be
// stopped there is one volume, and it runs nowhere.
func (s *site) runs(vm string) {
	s.w.t.Helper()
	s.w.until("one copy of "+vm+" is as it is to be, and nothing is left over", func() bool { return s.wrong(vm) == "" })
}

// wrong says what is not as it should be about a VM that has no job; "" is well.
func (s *site) wrong(name string) string {
	v := s.vm(name)
	at := v.Status.Site + "/" + v.Status.Host
	phase, runs := api.PhaseRunning, []string{at}
	switch v.Spec.Power {
	case api.PowerOn:
	case api.PowerHibernated:
		phase, runs = api.PhaseHibernated, nil
	default:
		phase, runs = api.PhaseStopped, nil
	}
	if v.Status.Phase != phase || v.Status.Job != "" {
		return fmt.Sprintf("%s is %s (%s), job %q", name, v.Status.Phase, v.Status.Message, v.Status.Job)
	}
	if on := s.w.fake.Running(v.UID); !slices.Equal(on, runs) {
		return fmt.Sprintf("%s runs on %v, not on %v", name, on, runs)
	}
	for _, h := range s.w.hosts() {
		here := h.site.name+"/"+h.name == at
		if h.disks.has(v.UID) != here {
			return fmt.Sprintf("a volume of %s on %s/%s: %t", name, h.site.name, h.name, !here)
		}
		if h.machine != nil && (h.machine.Memory(v.UID) != "") != (here && phase == api.PhaseHibernated) {
			return fmt.Sprintf("saved memory of %s on %s/%s: %t", name, h.site.name, h.name, !here)
		}
		if h.machine != nil && slices.Contains(h.machine.VMs(), v.UID) != (here && len(runs) > 0) {
			return fmt.Sprintf("a domain of %s on %s/%s: %t", name, h.site.name, h.name, !here)
		}
	}
	return s.w.leftovers()
}

// leftovers looks for what only a migration under way may have.
func (w *world) leftovers() string {
	for _, s := range w.sites {
		if s.proc == nil {
			return s.name + " does not run"
		}
		for _, prefix := range []string{"claims/", "debris/", "migrations/", "imports/", "deletions/"} {
			if keys := keysOf(s.proc, prefix); len(keys) > 0 {
				return fmt.Sprintf("%s has left %v", s.name, keys)
			}
		}
		for _, h := range s.hosts {
			if h.proc == nil {
				return h.node() + " does not run"
			}
			var left string
			h.proc.store.View(context.Background(), func(tx store.Tx) error {
				kvs, _ := tx.List("vms/")
				for _, kv := range kvs {
					if bytes.Contains(kv.Value, []byte(`"job":"`)) {
						left = fmt.Sprintf("%s has left %s", h.node(), kv.Value)
					}
				}
				return nil
			})
			if left != "" {
				return left
			}
		}
	}
	return ""
}

func keysOf(p *process, prefix string) (out []string) {
	p.store.View(context.Background(), func(tx store.Tx) error {
		kvs, err := tx.List(prefix)
		for _, kv := range kvs {
			out = append(out, kv.Key)
		}
		return err
	})
	return out
}

// within is how long anything may take, in the bubble's time.
const within = 3 * time.Minute

// until waits for a condition in the bubble's time.
func (w *world) until(what string, ok func() bool) {
	w.t.Helper()
	for began := time.Now(); !ok(); time.Sleep(50 * time.Millisecond) {
		if time.Since(began) > within {
			w.t.Fatalf("waited in vain: %s\n%s", what, w.state())
		}
	}
}

// state is the whole world for a failed test's reader.
func (w *world) state() string {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(w.sites)) {
		s := w.sites[name]
		fmt.Fprintf(&b, "%s up=%t\n", name, s.proc != nil)
		if s.proc == nil {
			continue
		}
		for _, prefix := range []string{"objects/vms/", "objects/guests/", "objects/jobs/", "objects/loans/", "migrations/", "claims/", "debris/", "orders/"} {
			s.proc.store.View(context.Background(), func(tx store.Tx) error {
				kvs, err := tx.List(prefix)
				for _, kv := range kvs {
					fmt.Fprintf(&b, "  %s %s\n", kv.Key, kv.Value)
				}
				return err
			})
		}
		for _, hn := range slices.Sorted(maps.Keys(s.hosts)) {
			h := s.hosts[hn]
			fmt.Fprintf(&b, "  host %s up=%t", h.name, h.proc != nil)
			if h.machine != nil {
				fmt.Fprintf(&b, " domains=%v", h.machine.VMs())
			}
			b.WriteByte('\n')
			if h.proc != nil {
				h.proc.store.View(context.Background(), func(tx store.Tx) error {
					kvs, err := tx.List("vms/")
					for _, kv := range kvs {
						fmt.Fprintf(&b, "    %s %s\n", kv.Key, kv.Value)
					}
					return err
				})
			}
		}
	}
	for _, breach := range w.fake.Breaches() {
		fmt.Fprintf(&b, "BREACH %s\n", breach)
	}
	return b.String()
}

// lawful fails the test when a law was ever broken.
func (w *world) lawful() {
	w.t.Helper()
	for _, b := range w.fake.Breaches() {
		w.t.Errorf("law: %s", b)
	}
}

// federation runs a test in a bubble with a world.
func federation(t *testing.T, o options, f func(t *testing.T, w *world)) {
	bubble(t, func(t *testing.T) {
		w := newWorld(t, o)
		defer w.close()
		f(t, w)
		w.lawful()
	})
}

// watch opens a watch, and gives its changes one by one.
func (s *site) watch(ctx context.Context, p access.Actor, kinds []api.Kind, sel api.Selector, from int64) (<-chan serve.Change, error) {
	w, err := s.ctl.Watch(ctx, p, kinds, sel, from)
	if err != nil {
		return nil, err
	}
	return servetest.Changes(ctx, w), nil
}
