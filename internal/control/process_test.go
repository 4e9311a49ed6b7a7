package control_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"widecloud/api"
	"widecloud/internal/agent"
	"widecloud/internal/agent/network"
	"widecloud/internal/hyper"
	"widecloud/internal/hyper/fake"
	"widecloud/internal/store"
	"widecloud/internal/store/bolt"
	"widecloud/internal/volume"
	"widecloud/internal/wire"
)

// process is what kill -9 ends. Whatever its goroutines still do after that has no effect: store, hypervisor, disks,
// networks and sessions are out of their reach.
type process struct {
	node   string
	net    *wire.Memory
	dead   atomic.Bool
	ctx    context.Context
	cancel context.CancelFunc
	work   sync.WaitGroup
	ends   []func() // called at once at its death
	store  store.Store
}

var errDead = errors.New("the process is dead")

func newProcess(t *testing.T, m *wire.Memory, node, storePath string, reserve int64) *process {
	t.Helper()
	p := &process{node: node, net: m}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	st, err := bolt.Open(bolt.Options{Path: storePath, NoSync: true, History: 2000, Reserve: reserve})
	if err != nil {
		t.Fatal(err)
	}
	p.store = st
	return p
}

// kill is kill -9. It may be called by the process's own goroutines.
func (p *process) kill() {
	if !p.dead.CompareAndSwap(false, true) {
		return
	}
	for _, f := range p.ends {
		f()
	}
	p.net.Kill(p.node)
	p.cancel()
}

// bury waits until nothing of a killed process is left.
func (p *process) bury() {
	p.kill()
	p.work.Wait()
	p.store.Close()
}

// grip is a process's hold on something that outlives it.
type grip struct{ p *process }

func (g grip) check() error {
	if g.p.dead.Load() {
		return errDead
	}
	return nil
}

type storeGrip struct {
	store.Store
	grip
}

func (s storeGrip) View(ctx context.Context, f func(store.Tx) error) error {
	if err := s.check(); err != nil {
		return err
	}
	return s.Store.View(ctx, f)
}

func (s storeGrip) Update(ctx context.Context, f func(store.Tx) error) (int64, error) {
	if err := s.check(); err != nil {
		return 0, err
	}
	return s.Store.Update(ctx, func(tx store.Tx) error {
		if err := f(tx); err != nil {
			return err
		}
		return s.check()
	})
}

type networkGrip struct {
	wire.Network
	grip
}

func (n networkGrip) Dial(ctx context.Context, addr string) (net.Conn, error) {
	if err := n.check(); err != nil {
		return nil, err
	}
	c, err := n.Network.Dial(ctx, addr)
	if err == nil && n.check() != nil {
		c.Close()
		return nil, errDead
	}
	return c, err
}

func (n networkGrip) Listen(ctx context.Context, addr string) (net.Listener, error) {
	if err := n.check(); err != nil {
		return nil, err
	}
	return n.Network.Listen(ctx, addr)
}

// disks are a host's base images and volumes. They outlive the agent.
type disks struct {
	h       *host
	mu      sync.Mutex
	bases   map[string]bool
	volumes map[string]string           // VM -> base
	sizes   map[string]map[string]int64 // VM, or volume -> disk -> MiB
	marks   map[string]string           // path -> what a test has written there
}

type disksGrip struct {
	d *disks
	grip
}

func (g disksGrip) Bases(context.Context) (out []agent.Base, err error) {
	g.d.mu.Lock()
	defer g.d.mu.Unlock()
	for _, digest := range slices.Sorted(maps.Keys(g.d.bases)) {
		out = append(out, agent.Base{Digest: digest, Bytes: 64 << 10})
	}
	return out, g.check()
}

func (g disksGrip) Import(_ context.Context, digest, _ string, content io.Reader) error {
	sum := sha256.New()
	if _, err := io.Copy(sum, content); err != nil {
		return err
	}
	if got := "sha256:" + hex.EncodeToString(sum.Sum(nil)); got != digest {
		return fmt.Errorf("image has digest %s, not %s", got, digest)
	}
	g.d.mu.Lock()
	defer g.d.mu.Unlock()
	if err := g.check(); err != nil {
		return err
	}
	g.d.bases[digest] = true
	return nil
}

func (g disksGrip) Sweep(_ context.Context, keep func(string) bool) error {
	g.d.mu.Lock()
	defer g.d.mu.Unlock()
	if err := g.check(); err != nil {
		return err
	}
	used := map[string]bool{}
	for _, base := range g.d.volumes {
		used[base] = true
	}
	maps.DeleteFunc(g.d.bases, func(base string, _ bool) bool { return !used[base] && !keep(base) })
	return nil
}

func (d *disks) path(vm string) string { return "/volumes/" + vm }

func (g disksGrip) Create(_ context.Context, vm, base string, sizeMiB int64) (hyper.Disk, error) {
	g.d.mu.Lock()
	defer g.d.mu.Unlock()
	if err := g.check(); err != nil {
		return hyper.Disk{}, err
	}
	if !g.d.bases[base] {
		return hyper.Disk{}, fmt.Errorf("no base %s", base)
	}
	if have, ok := g.d.volumes[vm]; ok && have != base {
		return hyper.Disk{}, fmt.Errorf("volume of %s is over %s", vm, have)
	} else if !ok {
		g.d.volumes[vm] = base
		g.d.h.machine.WriteDisk(g.d.path(vm), 0)
	}
	g.d.size(vm, api.RootDisk, sizeMiB)
	return hyper.Disk{Path: g.d.path(vm), Format: "qcow2", Base: "/bases/" + base, BaseFormat: "raw"}, nil
}

func (g disksGrip) Seed(_ context.Context, o wire.VMOrder) (hyper.Disk, error) {
	return hyper.Disk{Path: "/seeds/" + o.VM, Format: "raw", ReadOnly: true}, g.check()
}

// size makes a disk, or makes it larger; true when it was not there.
func (d *disks) size(vm, name string, sizeMiB int64) bool {
	if d.sizes[vm] == nil {
		d.sizes[vm] = map[string]int64{}
	}
	have, there := d.sizes[vm][name]
	d.sizes[vm][name] = max(have, sizeMiB)
	return !there
}

func (d *disks) diskPath(vm, name string) string {
	if name == api.RootDisk {
		return d.path(vm)
	}
	return d.path(vm) + "." + name
}

func (g disksGrip) CreateDisk(_ context.Context, vm, name string, sizeMiB int64) (hyper.Disk, error) {
	g.d.mu.Lock()
	defer g.d.mu.Unlock()
	if err := g.check(); err != nil {
		return hyper.Disk{}, err
	}
	if g.d.size(vm, name, sizeMiB) {
		g.d.h.machine.WriteDisk(g.d.diskPath(vm, name), 0)
		delete(g.d.marks, g.d.diskPath(vm, name))
	}
	return hyper.Disk{Serial: name, Path: g.d.diskPath(vm, name), Format: "qcow2"}, nil
}

func (g disksGrip) RemoveDisk(_ context.Context, vm, name string) error {
	g.d.mu.Lock()
	defer g.d.mu.Unlock()
	if err := g.check(); err != nil {
		return err
	}
	delete(g.d.sizes[vm], name)
	return nil
}

// MoveDisk says so when a guest has the disk that is moved: two guests could have it then.
func (g disksGrip) MoveDisk(_ context.Context, from, name, to, as string) (bool, error) {
	d := g.d
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := g.check(); err != nil {
		return false, err
	}
	_, mine := d.sizes[from][name]
	_, theirs := d.sizes[to][as]
	switch {
	case !mine:
		return theirs, nil
	case theirs:
		return true, fmt.Errorf("disk %s of %s is there, and disk %s of %s, too", name, from, as, to)
	}
	machine, old, path := d.h.machine, d.diskPath(from, name), d.diskPath(to, as)
	for _, vm := range machine.VMs() {
		guest, _ := machine.Guest(vm)
		if slices.ContainsFunc(guest.Spec.Disks, func(k hyper.Disk) bool { return k.Path == old || k.Path == path }) {
			d.h.site.w.t.Errorf("law: %s is moved to %s while VM %s has it", old, path, vm)
		}
	}
	machine.WriteDisk(path, 0) // as large as it is, whatever was there before
	d.size(to, as, max(d.sizes[from][name], machine.Grown(old)>>20))
	machine.WriteDisk(path, machine.Written(old))
	d.marks[path] = d.marks[old]
	delete(d.marks, old)
	delete(d.sizes[from], name)
	return true, nil
}

func (g disksGrip) Disks(_ context.Context, vm string) ([]wire.DiskReport, error) {
	return g.d.list(vm), g.check()
}

// list are a VM's disks.
func (d *disks) list(vm string) (out []wire.DiskReport) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(d.sizes[vm])) {
		size := max(d.sizes[vm][name], d.h.machine.Grown(d.diskPath(vm, name))>>20)
		out = append(out, wire.DiskReport{Name: name, SizeMiB: size, Bytes: 1 << 20})
	}
	return out
}

func (g disksGrip) Export(_ context.Context, k hyper.Disk) (agent.Export, error) {
	return fake.Sending{Host: g.d.h.machine, Path: k.Path}, g.check()
}

func (g disksGrip) Fill(ctx context.Context, k hyper.Disk, r io.Reader) (string, error) {
	counter, digest, err := g.d.h.machine.TakeDisk(ctx, r)
	if err := errors.Join(err, g.check()); err != nil {
		return "", err
	}
	g.d.h.machine.WriteDisk(k.Path, counter)
	return digest, nil
}

func (g disksGrip) NewMemory(_ context.Context, vm string, _ int64) (string, error) {
	if err := g.check(); err != nil {
		return "", err
	}
	return g.d.h.machine.NewMemory(vm), nil
}

func (g disksGrip) Memory(_ context.Context, vm string) (string, error) {
	path := g.d.h.machine.Memory(vm)
	if path == "" {
		return "", volume.ErrNotFound
	}
	return path, g.check()
}

func (g disksGrip) KeepMemory(ctx context.Context, vm string) (string, error) {
	if err := g.check(); err != nil {
		return "", err
	}
	g.d.h.machine.KeepMemory(vm)
	return g.MemorySeal(ctx, vm)
}

func (g disksGrip) MemorySeal(_ context.Context, vm string) (string, error) {
	var paths []string
	for _, k := range g.d.list(vm) {
		paths = append(paths, g.d.diskPath(vm, k.Name))
	}
	seal := g.d.h.machine.MemorySeal(vm, paths...)
	if seal == "" {
		return "", volume.ErrNotFound
	}
	return seal, g.check()
}

func (g disksGrip) OpenMemory(_ context.Context, vm string) (io.ReadCloser, int64, error) {
	content := g.d.h.machine.ReadMemory(vm)
	if content == nil {
		return nil, 0, volume.ErrNotFound
	}
	return io.NopCloser(bytes.NewReader(content)), int64(len(content)), g.check()
}

func (g disksGrip) FillMemory(_ context.Context, vm string, head []byte, n int64, r io.Reader) (string, error) {
	content := make([]byte, n)
	if _, err := io.ReadFull(r, content); err != nil {
		return "", err
	}
	if err := g.check(); err != nil {
		return "", err
	}
	var paths []string
	for _, k := range g.d.list(vm) {
		paths = append(paths, g.d.diskPath(vm, k.Name))
	}
	sum := sha256.Sum256(content)
	g.d.h.machine.RemoveMemory(vm)
	return hex.EncodeToString(sum[:]), g.d.h.machine.WriteMemory(vm, append(head, content...), paths...)
}

func (g disksGrip) RemoveMemory(_ context.Context, vm string) error {
	if err := g.check(); err != nil {
		return err
	}
	g.d.h.machine.RemoveMemory(vm)
	return nil
}

func (g disksGrip) Remove(_ context.Context, vm string) error {
	g.d.mu.Lock()
	defer g.d.mu.Unlock()
	if err := g.check(); err != nil {
		return err
	}
	delete(g.d.volumes, vm)
	delete(g.d.sizes, vm)
	g.d.h.machine.RemoveMemory(vm)
	return nil
}

func (d *disks) hasBase(digest string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.bases[digest]
}

func (d *disks) has(vm string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, ok := d.volumes[vm]
	return ok || len(d.sizes[vm]) > 0
}

// bridges carry what they are told to.
type bridges struct {
	mu   sync.Mutex
	want network.Want
	seen map[string][]network.Sighting // by MAC
}

func (b *bridges) Apply(_ context.Context, w network.Want) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.want = w
	return nil
}

func (b *bridges) Bridge(uid string) string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if slices.ContainsFunc(b.want.Networks, func(n network.Network) bool { return n.UID == uid }) {
		return "br-" + uid[:8]
	}
	return ""
}

func (b *bridges) Seen(_ context.Context, _ string, mac net.HardwareAddr) ([]network.Sighting, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return slices.Clone(b.seen[mac.String()]), nil
}

// show has a VM be seen with these from now on.
func (b *bridges) show(mac string, seen ...network.Sighting) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.seen == nil {
		b.seen = map[string][]network.Sighting{}
	}
	b.seen[mac] = seen
}
