package libvirt

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"sync"
	"time"

	golibvirt "github.com/digitalocean/go-libvirt"

	"widecloud/internal/hyper"
)

// The calls of libvirt's migration protocol, version 3, made by us instead of by libvirt's client library: Begin (source),
// Prepare (target), Perform (source), Finish (target), Confirm (source). Between Perform and Finish nobody runs, which is where
// the caller's decision goes. Each migration has a link of its own at each end, because libvirtd ties it to one:
//   - at the target, an incoming domain is destroyed when the link that prepared it is closed before Finish;
//   - at the source, with change protection, the job is given up when the link is closed before Confirm;
//   - Perform blocks its link until the copy ends.
//
// Post-copy and persistence are never asked for.
const flags = golibvirt.MigrateLive | golibvirt.MigrateNonSharedInc | golibvirt.MigrateChangeProtection | golibvirt.MigrateAutoConverge |
	// The seed is not copied but present at both ends, and the copied disks are nobody else's: what libvirt would call unsafe
	// (a cache mode on a disk that it thinks shared) cannot be.
	golibvirt.MigrateUnsafe

// flight is one end's part of a migration.
type flight struct {
	vm   string
	link *link
	dom  golibvirt.Domain

	// source
	disks  []string // targets, copied
	cookie []byte   // from Begin

	mu     sync.Mutex
	cancel context.CancelCauseFunc // while MigratePerform is at work

	// target
	memory, storage string // QEMU's sockets
}

func (f *flight) close() {
	f.stop(errClosed)
	f.link.close()
	for _, p := range []string{f.memory, f.storage} {
		if p != "" {
			os.Remove(p)
		}
	}
}

// stop cancels the copy at work, if any.
func (f *flight) stop(why error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.cancel != nil {
		f.cancel(why)
	}
}

// work sets what cancels the copy; false when one is at work already.
func (f *flight) work(cancel context.CancelCauseFunc) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.cancel != nil && cancel != nil {
		return false
	}
	f.cancel = cancel
	return true
}

func (f *flight) busy() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.cancel != nil
}

// The papers that go from end to end. Version is checked, so that sites of different age refuse instead of failing.
type offer struct {
	Version   int
	VM        string
	Type      string // of libvirt's domain: kvm or qemu
	Machine   string
	CPUModel  string
	CPUs      int
	MemoryMiB int
	Disks     []string
	NICs      []offerNIC
	Cookie    []byte
}

type offerNIC struct {
	MAC string
	MTU int
}

type answer struct {
	Version int
	VM      string
	Epoch   uint64
	Paths   map[string]string // of the disks, for errors that a person can act on
	Cookie  []byte
}

type result struct {
	Version int
	VM      string
	Epoch   uint64 // the target's
	Cookie  []byte
}

const paperVersion = 1

func paper(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err) // plain structs
	}
	return b
}

func param(field, value string) golibvirt.TypedParam {
	return golibvirt.TypedParam{Field: field, Value: *golibvirt.NewTypedParamValueString(value)}
}

// take removes and returns a VM's flight.
func (d *Driver) take(m map[string]*flight, vm string) *flight {
	d.mu.Lock()
	defer d.mu.Unlock()
	f := m[vm]
	delete(m, vm)
	return f
}

func (d *Driver) get(m map[string]*flight, vm string) *flight {
	d.mu.Lock()
	defer d.mu.Unlock()
	return m[vm]
}

// put makes a flight the VM's one, and closes the one that was.
func (d *Driver) put(m map[string]*flight, f *flight) error {
	d.mu.Lock()
	old, closed := m[f.vm], d.closed
	if !closed {
		m[f.vm] = f
	}
	d.mu.Unlock()
	if old != nil {
		old.close()
	}
	if closed {
		f.close()
		return errClosed
	}
	return nil
}

// forget drops what was kept for migrations of a VM that is no more.
func (d *Driver) forget(vm string) {
	for _, m := range []map[string]*flight{d.out, d.in} {
		if f := d.take(m, vm); f != nil {
			f.close()
		}
	}
}

// MigrateBegin reads what the target must know.
func (d *Driver) MigrateBegin(ctx context.Context, vm string) ([]byte, error) {
	out, err := d.begin(ctx, vm)
	if err != nil {
		return nil, fmt.Errorf("begin migration of %s: %w", vm, err)
	}
	return out, nil
}

func (d *Driver) begin(ctx context.Context, vm string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, d.o.Patience)
	defer cancel()
	if f := d.get(d.out, vm); f != nil {
		if f.busy() {
			return nil, fmt.Errorf("%w: migrates already", hyper.ErrState)
		}
		// Begun and left, or aborted: the job goes with its link.
		d.take(d.out, vm)
		f.close()
	}
	uuid, err := parseUUID(vm)
	if err != nil {
		return nil, err
	}
	k, err := d.open(ctx)
	if err != nil {
		return nil, err
	}
	f := &flight{vm: vm, link: k}
	p := offer{Version: paperVersion, VM: vm}
	err = k.do(ctx, func(l *golibvirt.Libvirt) error {
		dom, err := l.DomainLookupByUUID(uuid)
		if err != nil {
			return err
		}
		f.dom = dom
		m, v, err := inspect(l, dom)
		if err != nil {
			return err
		}
		if m.State != hyper.Running || m.Migrating {
			return fmt.Errorf("%w: %s", hyper.ErrState, m.State)
		}
		p.Type, p.Machine, p.CPUModel, p.CPUs, p.MemoryMiB = v.Type, v.OS.Type.Machine, v.CPU.Model, m.CPUs, m.MemoryMiB
		f.disks = v.writable()
		p.Disks = f.disks
		for _, n := range v.NICs {
			p.NICs = append(p.NICs, offerNIC{n.MAC.Address, n.MTU.Size})
		}
		f.cookie, _, err = l.DomainMigrateBegin3Params(dom, f.params("", ""), uint32(flags))
		return err
	})
	if err != nil {
		k.close()
		return nil, err
	}
	p.Cookie = f.cookie
	if err := d.put(d.out, f); err != nil {
		return nil, err
	}
	return paper(p), nil
}

func (f *flight) params(memory, storage string) []golibvirt.TypedParam {
	var ps []golibvirt.TypedParam
	for _, k := range f.disks {
		ps = append(ps, param(golibvirt.MigrateParamMigrateDisks, k))
	}
	if memory != "" {
		ps = append(ps, param(golibvirt.MigrateParamURI, "unix:"+memory))
	}
	if storage != "" && len(f.disks) > 0 {
		ps = append(ps, param(golibvirt.MigrateParamDisksURI, "unix:"+storage))
	}
	return ps
}

// MigratePerform copies.
func (d *Driver) MigratePerform(ctx context.Context, vm string, o hyper.Outgoing) ([]byte, error) {
	out, err := d.perform(ctx, vm, o)
	if err != nil {
		return nil, fmt.Errorf("migrate %s: %w", vm, err)
	}
	return out, nil
}

func (d *Driver) perform(ctx context.Context, vm string, o hyper.Outgoing) ([]byte, error) {
	var a answer
	if err := json.Unmarshal(o.Answer, &a); err != nil || a.Version != paperVersion || a.VM != vm {
		return nil, fmt.Errorf("answer: it is not one for this vm and version: %w", errors.Join(err, errors.ErrUnsupported))
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	f := d.get(d.out, vm)
	if f == nil || !f.work(cancel) {
		return nil, fmt.Errorf("%w: no migration was begun, or it is at work", hyper.ErrState)
	}
	defer f.work(nil)

	var once sync.Once
	r, err := d.newRelay(context.WithoutCancel(ctx), o, func(c hyper.Channel) {
		// QEMU takes the wish once its migration is set up, which is when it comes.
		if c == hyper.Memory && o.Downtime > 0 {
			once.Do(func() { d.setDowntime(ctx, vm, o.Downtime) })
		}
	})
	if err != nil {
		d.unlist(f)
		f.link.close()
		return nil, err
	}
	defer r.close()

	var cookie []byte
	done := make(chan error, 1)
	go func() {
		// No context: Perform takes as long as it takes. What ends it early is the abort below, or the link's end.
		done <- f.link.do(context.Background(), func(l *golibvirt.Libvirt) (err error) {
			cookie, err = l.DomainMigratePerform3Params(f.dom, nil, f.params(r.memory, r.storage), a.Cookie, flags)
			return err
		})
	}()
	select {
	case err = <-done:
	case <-ctx.Done():
		err = d.abort(ctx, f, r, done)
		if err == nil {
			// The copy was complete before the abort came: undone all the same, for nobody was told.
			err = errors.New("copy was complete already")
		}
		err = fmt.Errorf("%w (%v)", cancelled(ctx), err)
	}
	if err == nil {
		// The target has everything: QEMU's return path carried its word for the memory, and NBD acknowledged every block.
		// How the streams ended after that says nothing.
		return paper(result{Version: paperVersion, VM: vm, Epoch: a.Epoch, Cookie: cookie}), nil
	}
	if why := r.why(); why != nil && !errors.Is(err, hyper.ErrCancelled) {
		err = fmt.Errorf("%w (%w)", err, why)
	}
	err = spaceAt(err, a.Paths)
	r.close()
	if rerr := d.restore(f); rerr != nil {
		return nil, errors.Join(fmt.Errorf("%w: %w", hyper.ErrParted, rerr), err)
	}
	return nil, err
}

// cancelled says why a context that ends a migration ended.
func cancelled(ctx context.Context) error {
	err := context.Cause(ctx)
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		err = fmt.Errorf("%w: %w", hyper.ErrCancelled, err)
	}
	return err
}

// abort ends Perform by cutting the streams, as a broken network does. Libvirtd is only asked to end the job if that is not
// enough, for it has QEMU cancel: a QEMU (7.2) that was cancelled in its last step, with the disks given away already, has been
// seen to let the guest run without them and to die of its next write ("Assertion `!(bs->open_flags & BDRV_O_INACTIVE)' failed");
// one whose stream broke there has not.
func (d *Driver) abort(ctx context.Context, f *flight, r *relay, done <-chan error) error {
	r.cut(context.Cause(ctx))
	if errors.Is(context.Cause(ctx), hyper.ErrUnreachable) {
		return <-done // the driver was closed: as if the process had died
	}
	const again, askAfter, dropAfter = 100 * time.Millisecond, 20, 300
	tick := time.NewTicker(again)
	defer tick.Stop()
	for n := 0; ; n++ {
		if n >= askAfter {
			short, cancel := context.WithTimeout(d.over, d.o.Patience)
			err := d.onDomain(short, f.vm, func(l *golibvirt.Libvirt, dom golibvirt.Domain) error { return l.DomainAbortJob(dom) })
			cancel()
			if err != nil {
				d.log.Debug("abort of a migration", "vm", f.vm, "err", err)
			}
		}
		if n == dropAfter {
			f.link.close()
		}
		select {
		case err := <-done:
			return err
		case <-tick.C:
		}
	}
}

// restore makes the source run on after a Perform that failed. nil: it runs, or it is gone altogether.
func (d *Driver) restore(f *flight) error {
	d.unlist(f)
	ctx, cancel := context.WithTimeout(d.over, d.o.Patience)
	defer cancel()
	if f.link.alive() {
		// Releases the job and resumes the guest if it was stopped already.
		err := f.link.do(ctx, func(l *golibvirt.Libvirt) error {
			return l.DomainMigrateConfirm3Params(f.dom, f.params("", ""), nil, uint32(flags), 1)
		})
		if err != nil {
			d.log.Debug("confirm of a failed migration", "vm", f.vm, "err", err)
		}
		f.close()
	}
	for {
		err := d.resume(ctx, f.vm)
		switch {
		case err == nil, errors.Is(err, hyper.ErrNotFound):
			return nil
		case ctx.Err() != nil:
			return err
		}
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// unlist forgets a flight of the source.
func (d *Driver) unlist(f *flight) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.out[f.vm] == f {
		delete(d.out, f.vm)
	}
}

func (d *Driver) setDowntime(ctx context.Context, vm string, t time.Duration) {
	err := d.onDomain(ctx, vm, func(l *golibvirt.Libvirt, dom golibvirt.Domain) error {
		return l.DomainMigrateSetMaxDowntime(dom, uint64(max(1, t.Milliseconds())), 0)
	})
	if err != nil {
		d.log.Warn("downtime is not set", "vm", vm, "err", err)
	}
}

// MigrateConfirm ends the source's part.
func (d *Driver) MigrateConfirm(ctx context.Context, vm string, commit bool) error {
	if err := d.confirm(ctx, vm, commit); err != nil {
		return fmt.Errorf("confirm migration of %s: %w", vm, err)
	}
	if commit {
		return d.removeScreen(vm)
	}
	return nil
}

func (d *Driver) confirm(ctx context.Context, vm string, commit bool) error {
	ctx, cancel := context.WithTimeout(ctx, d.o.Patience)
	defer cancel()
	f := d.get(d.out, vm)
	if f != nil && f.busy() {
		return fmt.Errorf("%w: the copy is at work", hyper.ErrState)
	}
	if commit {
		err := d.inState(ctx, vm, hyper.Paused, func(*golibvirt.Libvirt, golibvirt.Domain) error { return nil })
		if errors.Is(err, hyper.ErrNotFound) {
			d.forget(vm)
			return nil
		}
		if err != nil {
			return err
		}
	}
	if f = d.take(d.out, vm); f != nil {
		defer f.close()
		verdict := int32(1)
		if commit {
			verdict = 0
		}
		err := f.link.do(ctx, func(l *golibvirt.Libvirt) error {
			return l.DomainMigrateConfirm3Params(f.dom, f.params("", ""), nil, uint32(flags), verdict)
		})
		if err != nil {
			d.log.Debug("confirm", "vm", vm, "commit", commit, "err", err)
		}
		f.close()
	}
	if !commit {
		return d.resume(ctx, vm)
	}
	// Confirm has destroyed it, unless the job was not there any more (the agent was restarted).
	err := d.inState(ctx, vm, hyper.Paused, func(l *golibvirt.Libvirt, dom golibvirt.Domain) error { return l.DomainDestroyFlags(dom, 0) })
	if errors.Is(err, hyper.ErrNotFound) {
		return nil
	}
	return err
}

// MigrateProgress reads libvirt's job statistics.
func (d *Driver) MigrateProgress(ctx context.Context, vm string) (hyper.Progress, error) {
	var p hyper.Progress
	err := d.onDomain(ctx, vm, func(l *golibvirt.Libvirt, dom golibvirt.Domain) error {
		job, ps, err := l.DomainGetJobStats(dom, 0)
		if err != nil {
			return err
		}
		if golibvirt.DomainJobType(job) == golibvirt.DomainJobNone {
			return fmt.Errorf("%w: does not migrate", hyper.ErrState)
		}
		p = progress(ps)
		st, _, err := l.DomainGetState(dom, 0)
		p.Switching = golibvirt.DomainState(st) == golibvirt.DomainPaused
		return err
	})
	if err != nil {
		return hyper.Progress{}, fmt.Errorf("read progress of %s: %w", vm, err)
	}
	return p, nil
}

func progress(ps []golibvirt.TypedParam) hyper.Progress {
	n := map[string]int64{}
	for _, p := range ps {
		switch v := p.Value.I.(type) {
		case uint64:
			n[p.Field] = int64(v)
		case int64:
			n[p.Field] = v
		case int32:
			n[p.Field] = int64(v)
		case uint32:
			n[p.Field] = int64(v)
		}
	}
	page := n[golibvirt.DomainJobMemoryPageSize]
	if page == 0 {
		page = 4096
	}
	p := hyper.Progress{
		MemoryTotal: n[golibvirt.DomainJobMemoryTotal], DiskTotal: n[golibvirt.DomainJobDiskTotal], DiskDone: n[golibvirt.DomainJobDiskProcessed],
		DirtyRate: float64(n[golibvirt.DomainJobMemoryDirtyRate] * page),
		Downtime:  time.Duration(n[golibvirt.DomainJobDowntime]) * time.Millisecond,
	}
	// Not "processed": zero pages count little there, and pages that were sent again count twice.
	p.MemoryDone = max(0, p.MemoryTotal-n[golibvirt.DomainJobMemoryRemaining])
	return p
}

// MigrateCancel makes a MigratePerform at work return.
func (d *Driver) MigrateCancel(ctx context.Context, vm string) error {
	if f := d.get(d.out, vm); f != nil {
		f.stop(hyper.ErrCancelled)
	}
	return nil
}

var reDisk = regexp.MustCompile(`\b(?:disk |drive-virtio-disk)?(vd[a-z])\b`)

// spaceAt finds out of libvirt's text that a disk at the target was full.
func spaceAt(err error, paths map[string]string) error {
	if err == nil || !strings.Contains(err.Error(), "No space left on device") {
		return err
	}
	if m := reDisk.FindStringSubmatch(err.Error()); m != nil && paths[m[1]] != "" {
		return fmt.Errorf("%w at the target: %s (%w)", hyper.ErrNoSpace, paths[m[1]], err)
	}
	return fmt.Errorf("%w at the target: %v (%w)", hyper.ErrNoSpace, paths, err)
}

func diskFull(err error, disks []hyper.Disk) error {
	if err == nil || !strings.Contains(err.Error(), "No space left on device") {
		return err
	}
	for _, k := range disks {
		if strings.Contains(err.Error(), k.Path) {
			return fmt.Errorf("%w: %s (%w)", hyper.ErrNoSpace, k.Path, err)
		}
	}
	return fmt.Errorf("%w: %w", hyper.ErrNoSpace, err)
}
