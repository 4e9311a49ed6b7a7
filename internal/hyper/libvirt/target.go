package libvirt

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"

	golibvirt "github.com/digitalocean/go-libvirt"

	"widecloud/internal/hyper"
)

// fits says all that keeps an offer from being taken by a spec on this host.
func (d *Driver) fits(p offer, s hyper.Spec, accel Accel) error {
	var why []string
	differ := func(what string, theirs, ours any) {
		why = append(why, fmt.Sprintf("%s is %v at the source, %v here", what, theirs, ours))
	}
	if p.Version != paperVersion {
		return fmt.Errorf("offer: version %d is not %d", p.Version, paperVersion)
	}
	if p.VM != s.VM {
		return fmt.Errorf("offer: it is of vm %q", p.VM)
	}
	if p.Type != virtType(accel) {
		differ("virtualisation", p.Type, virtType(accel))
	}
	if !profileOf(s.Profile).versions.MatchString(p.Machine) {
		why = append(why, fmt.Sprintf("machine type %q is not one of hardware profile %d", p.Machine, max(1, s.Profile)))
	}
	model := s.CPUModel
	if model == "" {
		model = d.o.CPUModel
	}
	if p.CPUModel != model {
		differ("cpu model", p.CPUModel, model)
	}
	if p.CPUs != s.CPUs {
		differ("number of cpus", p.CPUs, s.CPUs)
	}
	if p.MemoryMiB != s.MemoryMiB {
		differ("memory in MiB", p.MemoryMiB, s.MemoryMiB)
	}
	var disks []string
	for _, k := range s.Disks {
		if !k.ReadOnly {
			disks = append(disks, k.Target)
		}
	}
	slices.Sort(disks)
	if !slices.Equal(p.Disks, disks) {
		differ("list of disks", p.Disks, disks)
	}
	var nics []offerNIC
	for _, n := range s.NICs {
		nics = append(nics, offerNIC{n.MAC, n.MTU})
	}
	if !slices.Equal(p.NICs, nics) {
		differ("list of nics", p.NICs, nics)
	}
	if why != nil {
		return errors.New("offer: " + strings.Join(why, "; "))
	}
	return nil
}

// MigratePrepare makes the incoming domain out of the target's own spec. Of the offer, which comes from another site, only
// the machine type and libvirt's cookie reach libvirtd.
func (d *Driver) MigratePrepare(ctx context.Context, s hyper.Spec, data []byte) ([]byte, error) {
	out, err := d.prepare(ctx, s, data)
	if err != nil {
		return nil, fmt.Errorf("prepare migration of %s: %w", s.VM, diskFull(err, s.Disks))
	}
	return out, nil
}

// takes holds an offer against this host and the spec, and gives the document of the domain that is made here.
func (d *Driver) takes(ctx context.Context, s hyper.Spec, data []byte) (p offer, doc string, accel Accel, err error) {
	if err := s.Validate(); err != nil {
		return p, "", accel, err
	}
	if err := json.Unmarshal(data, &p); err != nil {
		return p, "", accel, fmt.Errorf("offer: %w", err)
	}
	accel, _ = d.accel.choose(ctx, d.o)
	if err := d.fits(p, s, accel); err != nil {
		return p, "", accel, err
	}
	if err := d.canRun(ctx, s.CPUModel, accel); err != nil {
		return p, "", accel, err
	}
	doc, err = d.render(s, p.Machine, accel)
	return p, doc, accel, err
}

func (d *Driver) prepare(ctx context.Context, s hyper.Spec, data []byte) ([]byte, error) {
	p, doc, accel, err := d.takes(ctx, s, data)
	if err != nil {
		return nil, err
	}
	switch err := d.onDomain(ctx, s.VM, func(*golibvirt.Libvirt, golibvirt.Domain) error { return hyper.ErrExists }); {
	case err == nil, !errors.Is(err, hyper.ErrNotFound):
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, d.o.Patience)
	defer cancel()
	k, err := d.open(ctx)
	if err != nil {
		return nil, err
	}
	f := &flight{
		vm: s.VM, link: k, disks: p.Disks,
		memory: d.socketPath("memory"), storage: d.socketPath("disk"),
	}
	a := answer{Version: paperVersion, VM: s.VM, Epoch: s.Epoch, Paths: map[string]string{}}
	for _, k := range s.Disks {
		a.Paths[k.Target] = k.Path
	}
	err = k.do(ctx, func(l *golibvirt.Libvirt) error {
		if err := d.admitQEMU(l, accel); err != nil {
			return err
		}
		ps := append(f.params(f.memory, f.storage), param(golibvirt.MigrateParamDestXML, doc))
		var err error
		a.Cookie, _, err = l.DomainMigratePrepare3Params(ps, p.Cookie, uint32(flags))
		return err
	})
	if err != nil {
		f.close()
		return nil, err
	}
	if err := d.put(d.in, f); err != nil {
		return nil, err
	}
	d.log.Info("incoming domain prepared", "vm", s.VM, "epoch", s.Epoch)
	return paper(a), nil
}

// MigrateConnect dials QEMU's incoming end.
func (d *Driver) MigrateConnect(ctx context.Context, vm string, c hyper.Channel) (net.Conn, error) {
	f := d.get(d.in, vm)
	if f == nil {
		err := d.onDomain(ctx, vm, func(*golibvirt.Libvirt, golibvirt.Domain) error {
			return fmt.Errorf("%w: nothing was prepared", hyper.ErrState)
		})
		return nil, fmt.Errorf("connect to %s of %s: %w", c, vm, err)
	}
	path := f.memory
	if c == hyper.Storage {
		path = f.storage
	}
	var nd net.Dialer
	nc, err := nd.DialContext(ctx, "unix", path)
	if err != nil {
		return nil, fmt.Errorf("connect to %s of %s: %w", c, vm, err)
	}
	nc.(*net.UnixConn).SetWriteBuffer(4 * pumpBuffer)
	return nc, nil
}

// MigrateFinish ends the target's part.
func (d *Driver) MigrateFinish(ctx context.Context, vm string, data []byte, commit bool) error {
	defer d.sweepLate()
	var err error
	if commit {
		err = d.finish(ctx, vm, data)
	} else {
		err = d.undo(ctx, vm)
	}
	if err == nil && !commit {
		err = d.removeScreen(vm)
	}
	if err != nil {
		return fmt.Errorf("finish migration of %s: %w", vm, err)
	}
	return nil
}

func (d *Driver) finish(ctx context.Context, vm string, data []byte) error {
	var r result
	if err := json.Unmarshal(data, &r); err != nil || r.Version != paperVersion || r.VM != vm {
		if d.get(d.in, vm) == nil {
			return d.came(ctx, vm, 0, nil)
		}
		return fmt.Errorf("result: it is not one for this vm and version: %w", errors.Join(err, errors.ErrUnsupported))
	}
	f := d.take(d.in, vm)
	if f == nil {
		return d.came(ctx, vm, r.Epoch, nil)
	}
	// Closed only after Finish: until then the link's end is the domain's end.
	defer f.close()
	short, cancel := context.WithTimeout(ctx, d.o.Patience)
	defer cancel()
	err := f.link.do(short, func(l *golibvirt.Libvirt) error {
		_, _, err := l.DomainMigrateFinish3Params([]golibvirt.TypedParam{param(golibvirt.MigrateParamDestName, namePrefix+vm)}, r.Cookie, uint32(flags), 0)
		return err
	})
	if err == nil {
		d.log.Info("incoming domain runs", "vm", vm, "epoch", r.Epoch)
		return nil
	}
	d.log.Warn("finish failed", "vm", vm, "epoch", r.Epoch, "err", err)
	f.close()
	return d.came(ctx, vm, r.Epoch, err)
}

// came says what is left when no migration is in flight here: nil when the VM's domain of that epoch runs; ErrNotFound when
// there is none, also when it was an unfinished one, which is destroyed.
func (d *Driver) came(ctx context.Context, vm string, epoch uint64, because error) error {
	err := d.onDomain(ctx, vm, func(l *golibvirt.Libvirt, dom golibvirt.Domain) error {
		m, _, err := inspect(l, dom)
		switch {
		case err != nil:
			return err
		case m.State == hyper.Running && m.Epoch == epoch:
			return nil
		case m.State == hyper.Incoming || m.State == hyper.Paused && m.Epoch == epoch && because != nil:
			if err := l.DomainDestroyFlags(dom, 0); err != nil && !golibvirt.IsNotFound(err) {
				return err
			}
			return hyper.ErrNotFound
		}
		return fmt.Errorf("%w: %s at epoch %d", hyper.ErrState, m.State, m.Epoch)
	})
	if err != nil && because != nil {
		return fmt.Errorf("%w (%w)", err, because)
	}
	return err
}

// undo destroys an incoming domain.
func (d *Driver) undo(ctx context.Context, vm string) error {
	if f := d.take(d.in, vm); f != nil {
		defer f.close()
		short, cancel := context.WithTimeout(ctx, d.o.Patience)
		defer cancel()
		err := f.link.do(short, func(l *golibvirt.Libvirt) error {
			_, _, err := l.DomainMigrateFinish3Params([]golibvirt.TypedParam{param(golibvirt.MigrateParamDestName, namePrefix+vm)}, nil, uint32(flags), 1)
			return err
		})
		if err != nil { // libvirt has no domain to answer with, which it reports as an error
			d.log.Debug("finish of an aborted migration", "vm", vm, "err", err)
		}
		f.close()
	}
	err := d.onDomain(ctx, vm, func(l *golibvirt.Libvirt, dom golibvirt.Domain) error {
		s, _, err := state(l, dom)
		if err != nil {
			return err
		}
		if s != hyper.Incoming {
			return fmt.Errorf("abort: %w: %s", hyper.ErrState, s)
		}
		return l.DomainDestroyFlags(dom, 0)
	})
	if errors.Is(err, hyper.ErrNotFound) {
		return nil
	}
	return err
}
