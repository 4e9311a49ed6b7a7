// Package servetest has a Controller that keeps its objects in memory, for tests of the API and of what talks to it, and
// the suite that every Controller passes as to users' tokens. That of New has the users root (token admin-token, an admin)
// and alice (alice-token, of tokyo-u); panic-token is a defect.
//
// Invariants:
//   - Memory does no more than its caller asks: nothing is reconciled, no job moves but by Put.
package servetest

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"image"
	"io"
	"net"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"widecloud/api"
	"widecloud/internal/rfb"
	"widecloud/internal/serve"
)

var _ serve.Controller = (*Memory)(nil)

type answer struct {
	serve.Answer
	at time.Time
}

// Answered is that of serve.Controller.
func (m *Memory) Answered(_ context.Context, a serve.Attempt) (*serve.Answer, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.answered(a), nil
}

func (m *Memory) answered(a serve.Attempt) *serve.Answer {
	have, ok := m.answers[[2]string{a.User, a.Key}]
	if !ok || time.Since(have.at) >= 24*time.Hour {
		return nil
	}
	return &have.Answer
}

// first fails for an attempt that was made before; the lock is held.
func (m *Memory) first(ctx context.Context) error {
	if a, ok := serve.AttemptOf(ctx); ok && m.answered(a) != nil {
		return api.Errorf(api.CodeConflict, "the request was made before")
	}
	return nil
}

// keep keeps what an attempt was answered with; nil is what cannot be shown again. The lock is held.
func (m *Memory) keep(ctx context.Context, o api.Object) {
	a, ok := serve.AttemptOf(ctx)
	if !ok {
		return
	}
	have := answer{serve.Answer{Hash: a.Hash}, time.Now()}
	if o != nil {
		have.Kind, have.Name, have.UID = o.Kind(), o.Metadata().Name, o.Metadata().UID
	}
	m.answers[[2]string{a.User, a.Key}] = have
}

// Memory is a Controller that keeps its objects in memory: what the API needs, and nothing of a site.
type Memory struct {
	mu        sync.Mutex
	revision  int64
	objects   map[string]api.Object
	watchers  map[chan serve.Change]watcher
	history   []step
	consoles  map[string]net.Conn
	uploaded  map[string][]byte
	users     map[string]serve.Principal  // beside the user objects
	tokens    []api.UserToken             // with their secrets, in the order of their creation
	made      int                         // tokens
	answers   map[[2]string]answer        // by user and key
	results   map[string][]api.BulkResult // of bulk jobs
	reboots   int
	compacted int64
	fail      error // given by every call when set
}

// watcher is what a watch is for.
type watcher struct {
	p     serve.Principal
	kinds []api.Kind
	s     api.Selector
}

// New makes one without objects, with the users in the package comment.
func New() *Memory {
	m, _ := NewSite()
	m.objects, m.history, m.revision = map[string]api.Object{}, nil, 0
	m.users = map[string]serve.Principal{"root": {User: "root", Admin: true}, "alice": {User: "alice", Owner: "tokyo-u"}}
	m.tokens = []api.UserToken{{ID: "root", User: "root", Token: "admin-token"}, {ID: "alice", User: "alice", Token: "alice-token"}}
	m.made = 0
	return m
}

// NewSite makes one as a site is at first: with the user admin, and its first login's token.
func NewSite() (m *Memory, first string) {
	m = &Memory{objects: map[string]api.Object{}, watchers: map[chan serve.Change]watcher{}, answers: map[[2]string]answer{},
		consoles: map[string]net.Conn{}, uploaded: map[string][]byte{}, results: map[string][]api.BulkResult{}}
	m.change(&api.User{Meta: api.Meta{Name: "admin"}, Spec: api.UserSpec{Admin: true}}, false)
	return m, m.addToken(api.UserToken{User: "admin", First: true, Expires: time.Now().Add(24 * time.Hour)}).Token
}

func key(k api.Kind, name string) string { return string(k) + "/" + name }

func clone(o api.Object) api.Object {
	b, err := json.Marshal(o)
	if err != nil {
		panic(err)
	}
	c := reflect.New(reflect.TypeOf(o).Elem()).Interface()
	if err := json.Unmarshal(b, c); err != nil {
		panic(err)
	}
	return c.(api.Object)
}

func (m *Memory) find(p serve.Principal, k api.Kind, name string) (api.Object, error) {
	if m.fail != nil {
		return nil, m.fail
	}
	o := m.objects[key(k, name)]
	if o == nil || !sees(p, o) {
		return nil, api.Errorf(api.CodeNotFound, "no %s named %s", k, name)
	}
	return o, nil
}

func sees(p serve.Principal, o api.Object) bool { return p.Admin || o.Metadata().Owner == p.Owner }

// step is what a change made of what was there; nil: nothing.
type step struct {
	revision int64
	was, now api.Object
}

// shown is the change that a watcher is to have; without an object when it is to have none.
func (w watcher) shown(st step) serve.Change {
	see := func(o api.Object) bool {
		return o != nil && slices.Contains(w.kinds, o.Kind()) && sees(w.p, o) && w.s.Matches(o)
	}
	switch {
	case see(st.now):
		return serve.Change{Revision: st.revision, Object: clone(st.now)}
	case see(st.was):
		gone := clone(st.was)
		gone.Metadata().Revision = st.revision
		return serve.Change{Revision: st.revision, Deleted: true, Object: gone}
	}
	return serve.Change{}
}

// change must be called with the lock held.
func (m *Memory) change(o api.Object, deleted bool) {
	m.revision++
	o.Metadata().Revision = m.revision
	k := key(o.Kind(), o.Metadata().Name)
	st := step{revision: m.revision, was: m.objects[k]}
	if deleted {
		st.was = clone(o)
		delete(m.objects, k)
	} else {
		m.objects[k] = clone(o)
		st.now = m.objects[k]
	}
	m.history = append(m.history, st)
	for ch, w := range m.watchers {
		if c := w.shown(st); c.Object != nil {
			ch <- c
		}
	}
}

// Fail makes every further call give err; nil ends it.
func (m *Memory) Fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fail = err
}

// Compact forgets the changes up to a revision.
func (m *Memory) Compact(revision int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.compacted = revision
}

// Uploaded is what was uploaded for an image.
func (m *Memory) Uploaded(image string) []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.uploaded[image]
}

// Put stores an object from outside of the API, as a reconciler would.
func (m *Memory) Put(o api.Object) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.change(o, false)
}

// Drop ends every watch, as for a watcher that fell behind.
func (m *Memory) Drop() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for ch := range m.watchers {
		delete(m.watchers, ch)
		close(ch)
	}
}

// Reboots is how often a VM was rebooted.
func (m *Memory) Reboots() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.reboots
}

// Watching is how many watches are open.
func (m *Memory) Watching() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.watchers)
}

// Get is that of serve.Controller.
func (m *Memory) Get(_ context.Context, p serve.Principal, k api.Kind, name string) (api.Object, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	o, err := m.find(p, k, name)
	if err != nil {
		return nil, err
	}
	return clone(o), nil
}

// List is that of serve.Controller.
func (m *Memory) List(_ context.Context, p serve.Principal, k api.Kind, q serve.Query) ([]api.Object, int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return nil, 0, m.fail
	}
	var l []api.Object
	for _, o := range m.objects {
		if o.Kind() == k && sees(p, o) && q.Matches(o) && o.Metadata().Name > q.After {
			l = append(l, clone(o))
		}
	}
	slices.SortFunc(l, func(a, b api.Object) int { return cmp.Compare(a.Metadata().Name, b.Metadata().Name) })
	if q.Limit > 0 {
		l = l[:min(len(l), q.Limit)]
	}
	return l, m.revision, nil
}

// Create is that of serve.Controller.
func (m *Memory) Create(ctx context.Context, p serve.Principal, o api.Object) (api.Object, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := cmp.Or(m.fail, m.first(ctx)); err != nil {
		return nil, err
	}
	meta := o.Metadata()
	if meta.Name == "" {
		return nil, api.Invalidf("name", "must be given")
	}
	if m.objects[key(o.Kind(), meta.Name)] != nil {
		return nil, api.Errorf(api.CodeExists, "%s %s exists", o.Kind(), meta.Name)
	}
	if vm, ok := o.(*api.VM); ok && vm.Spec.Image == "" {
		return nil, api.Invalidf("spec.image", "must be given")
	}
	if meta.Owner == "" {
		meta.Owner = p.Owner
	}
	meta.Home = "tokyo"
	if err := checkLabels(o); err != nil {
		return nil, err
	}
	var addresses []*api.Address
	if vm, ok := o.(*api.VM); ok {
		var err error
		if addresses, err = m.service(vm); err != nil {
			return nil, err
		}
	}
	m.allot(o)
	m.change(o, false)
	for _, a := range addresses {
		m.allot(a)
		m.change(a, false)
	}
	m.keep(ctx, o)
	return clone(o), nil
}

// service makes the addresses that a new VM is to have, or says which one leads to another VM.
func (m *Memory) service(vm *api.VM) (out []*api.Address, err error) {
	for i, s := range vm.Spec.Service {
		a := &api.Address{Meta: api.Meta{Name: vm.Name + "-" + s, Owner: vm.Owner}, Spec: api.AddressSpec{Pool: s, VM: vm.Name}}
		if addr, err := netip.ParseAddr(s); err == nil {
			a.Name, a.Spec.Pool, a.Spec.Address = strings.NewReplacer(".", "-", ":", "-").Replace(addr.StringExpanded()), "", addr.String()
		}
		if have, ok := m.objects[key(a.Kind(), a.Name)].(*api.Address); ok && have.Spec.VM != "" {
			return nil, &api.Error{Code: api.CodeConflict, Field: fmt.Sprintf("spec.service[%d]", i), Message: s + " leads to VM " + have.Spec.VM}
		}
		out = append(out, a)
	}
	vm.Spec.Service = nil
	return out, nil
}

// checkLabels judges labels, and drops a map of none.
func checkLabels(o api.Object) error {
	meta := o.Metadata()
	if len(meta.Labels) > api.MaxLabels {
		return api.Invalidf("labels", "are more than %d", api.MaxLabels)
	}
	for key, value := range meta.Labels {
		if err := api.CheckLabel(key, value); err != nil {
			return api.Invalidf("labels", "%v", err)
		}
	}
	if len(meta.Labels) == 0 {
		meta.Labels = nil
	}
	return nil
}

// allot gives what is taken from a pool the pool's first prefix or address, and looks at no other.
func (m *Memory) allot(o api.Object) {
	for _, site := range m.objects {
		s, ok := site.(*api.Site)
		if !ok {
			continue
		}
		for _, p := range s.Spec.Pools {
			prefix, err := netip.ParsePrefix(p.Prefixes[0])
			if err != nil {
				continue
			}
			first := prefix.Addr()
			switch o := o.(type) {
			case *api.Network:
				if o.Spec.Prefix == "" && p.Use == "networks" && (o.Spec.Pool == "" || o.Spec.Pool == p.Name) {
					o.Spec.Prefix = netip.PrefixFrom(first, 64).String()
				}
			case *api.Address:
				if o.Spec.Address == "" && p.Use == "addresses" && o.Spec.Pool == p.Name {
					o.Spec.Address = first.Next().String()
				}
			}
		}
	}
}

func sameRevision(o api.Object, wanted int64) error {
	m := o.Metadata()
	if wanted == 0 || wanted == m.Revision {
		return nil
	}
	return &api.Error{Code: api.CodeConflict, Field: "revision", Message: fmt.Sprintf("%s is at revision %d", m.Name, m.Revision)}
}

// Update is that of serve.Controller.
func (m *Memory) Update(_ context.Context, p serve.Principal, o api.Object) (api.Object, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	old, err := m.find(p, o.Kind(), o.Metadata().Name)
	if err != nil {
		return nil, err
	}
	if err := sameRevision(old, o.Metadata().Revision); err != nil {
		return nil, err
	}
	n := clone(old)
	reflect.ValueOf(n).Elem().FieldByName("Spec").Set(reflect.ValueOf(o).Elem().FieldByName("Spec"))
	if labels := o.Metadata().Labels; labels != nil {
		n.Metadata().Labels = labels
	}
	if err := checkLabels(n); err != nil {
		return nil, err
	}
	if n.Kind() == api.KindUser {
		if err := m.keepAnAdmin(n.Metadata().Name, func() { m.objects[key(n.Kind(), n.Metadata().Name)] = n }); err != nil {
			return nil, err
		}
	}
	m.change(n, false)
	return clone(n), nil
}

// Delete is that of serve.Controller.
func (m *Memory) Delete(ctx context.Context, p serve.Principal, k api.Kind, name string) (api.Object, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	o, err := m.find(p, k, name)
	if err != nil {
		return nil, err
	}
	if err := sameRevision(o, serve.RevisionOf(ctx)); err != nil {
		return nil, err
	}
	if k == api.KindUser {
		if err := m.keepAnAdmin(name, func() {
			delete(m.objects, key(k, name))
			m.tokens = slices.DeleteFunc(slices.Clone(m.tokens), func(t api.UserToken) bool { return t.User == name })
		}); err != nil {
			return nil, err
		}
	}
	o = clone(o)
	o.Metadata().Deleting = true
	m.change(o, true)
	return o, nil
}

// Watch is that of serve.Controller.
func (m *Memory) Watch(ctx context.Context, p serve.Principal, kinds []api.Kind, s api.Selector, from int64) (serve.Watch, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if from >= 0 && from < m.compacted {
		return nil, api.Errorf(api.CodeStale, "revision %d is no longer kept", from)
	}
	for _, k := range kinds {
		if !slices.Contains(api.Kinds(), k) {
			return nil, api.Errorf(api.CodeNotFound, "no kind of object is called %q", k)
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	ch := make(chan serve.Change, 100)
	w := watcher{p, kinds, s}
	for _, st := range m.history {
		if from < 0 || st.revision <= from {
			continue
		}
		if c := w.shown(st); c.Object != nil {
			ch <- c
		}
	}
	m.watchers[ch] = w
	go func() {
		<-ctx.Done()
		m.mu.Lock()
		defer m.mu.Unlock()
		if _, open := m.watchers[ch]; open {
			delete(m.watchers, ch)
			close(ch)
		}
	}()
	return Channel(ch, cancel), nil
}

// Migrate is that of serve.Controller.
func (m *Memory) Migrate(ctx context.Context, p serve.Principal, vm, target string, dryRun bool) (*api.Job, []api.Reason, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, err := m.find(p, api.KindVM, vm); err != nil {
		return nil, nil, err
	}
	if target == "nara" {
		return nil, []api.Reason{
			{Site: "nara", Host: "h1", Code: "memory", Message: "needs 512 MiB, has 100 MiB", Advice: "ask for a larger loan"},
			{Site: "nara", Host: "h1", Code: "cpu", Message: "cannot run the model qemu64"},
		}, nil
	}
	if dryRun {
		return nil, nil, nil
	}
	j := &api.Job{Meta: api.Meta{Name: fmt.Sprintf("migrate-%s", vm), Owner: p.Owner},
		Spec: api.JobSpec{Type: "migrate", Object: "vms/" + vm, Target: target}, Status: api.JobStatus{State: api.JobRunning}}
	m.change(j, false)
	m.keep(ctx, j)
	return j, nil, nil
}

// DryRun is that of serve.Controller. It finds a place wherever one is wanted.
func (m *Memory) DryRun(_ context.Context, _ serve.Principal, v *api.VM) (*api.VMDryRun, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.fail != nil:
		return nil, m.fail
	case v.Name == "":
		return &api.VMDryRun{Refused: api.Invalidf("name", "must be given")}, nil
	case m.objects[key(api.KindVM, v.Name)] != nil:
		return &api.VMDryRun{Refused: &api.Error{Code: api.CodeExists, Field: "name", Message: "VM " + v.Name + " exists"}}, nil
	case v.Spec.Image == "":
		return &api.VMDryRun{Refused: api.Invalidf("spec.image", "must be given")}, nil
	}
	site, host, _ := strings.Cut(cmp.Or(v.Spec.Place, "tokyo/h1"), "/")
	return &api.VMDryRun{
		Places: []api.PlaceVerdict{
			{Site: site, Self: site == "tokyo", Host: host, Verdict: api.PlaceChosen, Free: 0.5},
			{Site: "nara", Verdict: api.PlaceRefused, Reasons: []api.Reason{{Site: "nara", Code: "loan", Message: "nothing is borrowed from nara", Advice: "borrow from it first"}}},
		},
		Quota: &api.QuotaUse{Owner: v.Owner, After: api.Resources{CPUs: v.Spec.CPUs, MemoryMiB: v.Spec.MemoryMiB}},
	}, nil
}

// Bulk is that of serve.Controller. The job has not begun with any VM: Results sets what becomes of them.
func (m *Memory) Bulk(ctx context.Context, p serve.Principal, r api.BulkRequest) (*api.Job, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := cmp.Or(m.fail, m.first(ctx)); err != nil {
		return nil, err
	}
	if len(r.VMs) == 0 && r.Selector == nil {
		return nil, api.Invalidf("vms", "must be given, or a selector")
	}
	names := r.VMs
	if r.Selector != nil {
		s, err := r.Selector.Selector()
		if err != nil {
			return nil, err
		}
		for _, o := range m.objects {
			if o.Kind() == api.KindVM && sees(p, o) && s.Matches(o) {
				names = append(names, o.Metadata().Name)
			}
		}
		slices.Sort(names)
	}
	j := &api.Job{Meta: api.Meta{Name: fmt.Sprintf("bulk-%d", m.revision), Owner: p.Owner},
		Spec:   api.JobSpec{Type: "bulk", Object: "vms", Action: r.Action, Target: r.Target, By: p.User},
		Status: api.JobStatus{State: api.JobRunning, Bulk: &api.BulkCounts{Total: len(names), Waiting: len(names)}}}
	for _, name := range names {
		m.results[j.Name] = append(m.results[j.Name], api.BulkResult{VM: name, State: api.BulkWaiting})
	}
	m.change(j, false)
	m.keep(ctx, j)
	return clone(j).(*api.Job), nil
}

// BulkResults is that of serve.Controller.
func (m *Memory) BulkResults(_ context.Context, p serve.Principal, job string) ([]api.BulkResult, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	o, err := m.find(p, api.KindJob, job)
	if err != nil {
		return nil, err
	}
	if o.(*api.Job).Status.Bulk == nil {
		return nil, api.Errorf(api.CodeConflict, "job %s is not a bulk job", job)
	}
	return slices.Clone(m.results[job]), nil
}

// Results sets what became of the VMs of a bulk job.
func (m *Memory) Results(job string, results []api.BulkResult) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.results[job] = results
}

// Cancel is that of serve.Controller.
func (m *Memory) Cancel(ctx context.Context, p serve.Principal, job string) (*api.Job, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	o, err := m.find(p, api.KindJob, job)
	if err != nil {
		return nil, err
	}
	j := clone(o).(*api.Job)
	j.Spec.Cancel, j.Status.State = true, api.JobUndoing
	m.change(j, false)
	m.keep(ctx, j)
	return j, nil
}

// Why is that of serve.Controller.
func (m *Memory) Why(_ context.Context, p serve.Principal, vm, not string) ([]api.Reason, error) {
	_, reasons, err := m.Migrate(context.Background(), p, vm, not, true)
	return reasons, err
}

// Reboot is that of serve.Controller.
func (m *Memory) Reboot(ctx context.Context, p serve.Principal, vm string, hard bool) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	o, err := m.find(p, api.KindVM, vm)
	if err == nil && !hard {
		return api.Errorf(api.CodeConflict, "vm %s does not answer to ACPI", vm)
	}
	if err == nil {
		m.keep(ctx, o)
		m.reboots++
	}
	return err
}

// Rename is that of serve.Controller.
func (m *Memory) Rename(ctx context.Context, p serve.Principal, vm, name string) (*api.VM, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	o, err := m.find(p, api.KindVM, vm)
	if err != nil {
		return nil, err
	}
	if _, err := m.find(p, api.KindVM, name); err == nil {
		return nil, &api.Error{Code: api.CodeExists, Field: "name", Message: "a VM is called " + name + " already"}
	}
	v := clone(o).(*api.VM)
	m.change(clone(o), true)
	v.Status.Hostname, v.Name = api.HostnameOf(v), name
	m.change(v, false)
	m.keep(ctx, v)
	return v, nil
}

// Usage is that of serve.Controller.
func (m *Memory) Usage(_ context.Context, p serve.Principal, vm string) (*api.Usage, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, err := m.find(p, api.KindVM, vm); err != nil {
		return nil, err
	}
	at := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	return &api.Usage{Recent: []api.Sample{{At: at, CPU: 0.5, Memory: 64 << 20, DiskRead: 1, DiskWritten: 2, Received: 3, Sent: 4}}, Day: []api.Sample{}}, nil
}

// Ledger is that of serve.Controller.
func (m *Memory) Ledger(_ context.Context, p serve.Principal, from string) (*api.Ledger, error) {
	if !p.Admin {
		return nil, api.Errorf(api.CodeForbidden, "only admins may read the ledger")
	}
	rows := []api.LedgerDay{{Day: "2026-11-30", Loan: "loan-1", Lender: "osaka", Borrower: "tokyo", Granted: api.Hours{CPUs: 96}, Used: api.Hours{CPUs: 24, Memory: 12}, VMs: 24}}
	if from > rows[0].Day {
		rows = []api.LedgerDay{}
	}
	return &api.Ledger{Days: rows}, nil
}

// AddressTraffic is that of serve.Controller.
func (m *Memory) AddressTraffic(_ context.Context, p serve.Principal, name string) (*api.Traffic, error) {
	return m.traffic(p, api.KindAddress, name)
}

// TranslatorTraffic is that of serve.Controller.
func (m *Memory) TranslatorTraffic(_ context.Context, p serve.Principal, name string) (*api.Traffic, error) {
	return m.traffic(p, api.KindTranslator, name)
}

func (m *Memory) traffic(p serve.Principal, k api.Kind, name string) (*api.Traffic, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, err := m.find(p, k, name); err != nil {
		return nil, err
	}
	at := time.Date(2026, 11, 30, 12, 0, 0, 0, time.UTC)
	return &api.Traffic{Translators: []api.TranslatorTraffic{{Translator: "tokyo/gw", At: at, PacketsIn: 1, BytesIn: 60, RateIn: 6}}}, nil
}

// Console is that of serve.Controller.
func (m *Memory) Console(_ context.Context, p serve.Principal, vm string) (io.ReadWriteCloser, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, err := m.find(p, api.KindVM, vm); err != nil {
		return nil, err
	}
	a, b := net.Pipe()
	m.consoles[vm] = b
	go func() { // a guest that says hello and echoes in capitals
		defer b.Close()
		if _, err := b.Write([]byte("login: ")); err != nil {
			return
		}
		buf := make([]byte, 100)
		for {
			n, err := b.Read(buf)
			if err != nil || strings.TrimSpace(string(buf[:n])) == "exit" {
				return
			}
			if _, err := b.Write([]byte(strings.ToUpper(string(buf[:n])))); err != nil {
				return
			}
		}
	}()
	return a, nil
}

// Upload is that of serve.Controller.
func (m *Memory) Upload(_ context.Context, p serve.Principal, image string, content io.Reader) (*api.Image, error) {
	b, err := io.ReadAll(content)
	if err != nil {
		return nil, fmt.Errorf("read content: %w", err)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	o, err := m.find(p, api.KindImage, image)
	if err != nil {
		return nil, err
	}
	m.uploaded[image] = b
	i := clone(o).(*api.Image)
	i.Status = api.ImageStatus{Phase: "ready", Bytes: int64(len(b))}
	m.change(i, false)
	return i, nil
}

func (m *Memory) admin(p serve.Principal) error {
	if !p.Admin {
		return api.Errorf(api.CodeForbidden, "user %s is no admin", p.User)
	}
	return nil
}

// JoinToken is that of serve.Controller.
func (m *Memory) JoinToken(ctx context.Context, p serve.Principal, host string, roles []api.HostRole) (string, error) {
	if err := m.admin(p); err != nil {
		return "", err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.keep(ctx, nil)
	return fmt.Sprintf("join-%s-%v", host, roles), nil
}

// PeerInvite is that of serve.Controller.
func (m *Memory) PeerInvite(_ context.Context, p serve.Principal) (string, error) {
	return "invitation-1", m.admin(p)
}

// PeerAdd is that of serve.Controller.
func (m *Memory) PeerAdd(_ context.Context, p serve.Principal, invitation string) (*api.Peer, error) {
	if invitation != "invitation-1" {
		return nil, api.Invalidf("invitation", "is not one, or was used")
	}
	return &api.Peer{Meta: api.Meta{Name: "osaka"}}, m.admin(p)
}

// Borrow is that of serve.Controller.
func (m *Memory) Borrow(ctx context.Context, p serve.Principal, lender, offer string, amount api.Resources) (*api.Loan, error) {
	if err := m.admin(p); err != nil {
		return nil, err
	}
	if amount.CPUs > 8 {
		return nil, &api.Error{Code: api.CodeRefused, Message: "the offer does not reach",
			Reasons: []api.Reason{{Site: lender, Code: "cpu", Message: "8 are lent at most", Advice: "ask for less"}}}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	l := &api.Loan{Meta: api.Meta{Name: "loan-1"}, Spec: api.LoanSpec{Offer: offer, Lender: lender, Borrower: "tokyo", Amount: amount},
		Status: api.LoanStatus{State: api.LoanActive}}
	m.change(l, false)
	m.keep(ctx, l)
	return l, nil
}

// Reclaim is that of serve.Controller.
func (m *Memory) Reclaim(_ context.Context, p serve.Principal, loan string) (*api.Loan, error) {
	return m.setLoan(p, loan, api.LoanReclaimed)
}

// Return is that of serve.Controller.
func (m *Memory) Return(_ context.Context, p serve.Principal, loan string) (*api.Loan, error) {
	return m.setLoan(p, loan, api.LoanEnded)
}

func (m *Memory) setLoan(p serve.Principal, loan string, s api.LoanState) (*api.Loan, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	o, err := m.find(p, api.KindLoan, loan)
	if err != nil {
		return nil, err
	}
	l := clone(o).(*api.Loan)
	l.Status.State = s
	m.change(l, false)
	return l, nil
}

// Doctor is that of serve.Controller: hosts that are down, and nothing else.
func (m *Memory) Doctor(_ context.Context, p serve.Principal) (*api.Diagnosis, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail != nil {
		return nil, m.fail
	}
	d := &api.Diagnosis{Time: time.Now(), Findings: []api.Finding{}}
	for _, o := range m.objects {
		if h, ok := o.(*api.Host); ok && sees(p, o) && !h.Status.Connected {
			d.Findings = append(d.Findings, api.Finding{ID: "host.down", Severity: api.SeverityBad, Object: "hosts/" + h.Name, Message: "host " + h.Name + " is not reached", Advice: "look at it"})
		}
	}
	return d, nil
}

// Display is that of serve.Controller. A VM of the first hardware profile has none.
func (m *Memory) Display(_ context.Context, p serve.Principal, vm string) (io.ReadWriteCloser, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	o, err := m.find(p, api.KindVM, vm)
	if err != nil {
		return nil, err
	}
	if !api.HasDisplay(api.ProfileOf(o.(*api.VM))) {
		return nil, api.Errorf(api.CodeRefused, "the hardware of VM %s has no display; it has the serial console", vm)
	}
	a, b := net.Pipe()
	m.consoles[vm] = b
	go func() {
		defer b.Close()
		screen := image.NewRGBA(image.Rect(0, 0, 32, 24))
		for i := range screen.Pix {
			screen.Pix[i] = 255
		}
		_ = rfb.Serve(b, screen)
	}()
	return &display{a, vm}, nil
}

// display says at its end that the VM has moved.
type display struct {
	io.ReadWriteCloser
	vm string
}

func (d *display) Read(p []byte) (int, error) {
	n, err := d.ReadWriteCloser.Read(p)
	if errors.Is(err, io.EOF) {
		err = api.Errorf(api.CodeConflict, "VM %s has moved to osaka/h1: connect again", d.vm)
	}
	return n, err
}

// Move ends what is attached to a VM, as a migration does.
func (m *Memory) Move(vm string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.consoles[vm].Close()
}
