package libvirt

import (
	"context"
	"errors"
	"fmt"
	"strings"

	golibvirt "github.com/digitalocean/go-libvirt"

	"widecloud/internal/hyper"
)

// A saved domain is libvirt's own file: its document, and QEMU's migration stream. libvirt writes "partial" into its head first, and
// replaces that when all has been written, so that a half of one is known.

// Save has its own link: it takes as long as a migration. libvirtd goes on with it when the link is gone.
func (d *Driver) Save(ctx context.Context, vm, path string) error {
	err := d.alone(ctx, func(l *golibvirt.Libvirt) error {
		uuid, err := parseUUID(vm)
		if err != nil {
			return err
		}
		dom, err := l.DomainLookupByUUID(uuid)
		if err != nil {
			return err
		}
		switch s, busy, err := state(l, dom); {
		case err != nil:
			return err
		case s == hyper.Incoming || busy:
			return fmt.Errorf("%w: %s", hyper.ErrState, s)
		}
		return l.DomainSaveFlags(dom, path, nil, 0)
	})
	if err != nil {
		return fmt.Errorf("save %s: %w", vm, diskFull(err, nil))
	}
	d.forget(vm)
	d.log.Info("domain saved", "vm", vm, "path", path)
	return d.removeScreen(vm)
}

// alone makes calls on a link of their own.
func (d *Driver) alone(ctx context.Context, f func(l *golibvirt.Libvirt) error) error {
	k, err := d.open(ctx)
	if err != nil {
		return err
	}
	defer k.close()
	return k.do(ctx, f)
}

// Saved reads the head of a file.
func (d *Driver) Saved(ctx context.Context, vm, path string) error {
	if _, err := d.savedDoc(ctx, vm, path); err != nil {
		return fmt.Errorf("look at the saved domain of %s: %w", vm, err)
	}
	return nil
}

// savedDoc is the document in a file that is whole.
func (d *Driver) savedDoc(ctx context.Context, vm, path string) (v live, err error) {
	err = d.do(ctx, func(l *golibvirt.Libvirt) error {
		doc, err := l.DomainSaveImageGetXMLDesc(path, 0)
		var refused golibvirt.Error
		if errors.As(err, &refused) && strings.Contains(err.Error(), "No such file") {
			return fmt.Errorf("%w: %w", hyper.ErrNotFound, err)
		}
		if errors.As(err, &refused) {
			return fmt.Errorf("%w: %w", hyper.ErrTorn, err)
		}
		if err == nil {
			v, err = parseLive(doc)
		}
		return err
	})
	if err == nil && v.UUID != vm {
		err = fmt.Errorf("%w: it is of %q", hyper.ErrTorn, v.UUID)
	}
	return v, err
}

// Restore gives libvirt the document of the spec, which has to be of the same machine: libvirt compares it with the one in the file.
func (d *Driver) Restore(ctx context.Context, s hyper.Spec, path string) error {
	if err := d.unsave(ctx, s, path); err != nil {
		return fmt.Errorf("restore %s: %w", s.VM, err)
	}
	d.log.Info("domain restored", "vm", s.VM, "epoch", s.Epoch, "path", path)
	return nil
}

func (d *Driver) unsave(ctx context.Context, s hyper.Spec, path string) error {
	if err := s.Validate(); err != nil {
		return err
	}
	accel, _ := d.accel.choose(ctx, d.o)
	if err := d.canRun(ctx, s.CPUModel, accel); err != nil {
		return err
	}
	err := d.onDomain(ctx, s.VM, func(*golibvirt.Libvirt, golibvirt.Domain) error { return hyper.ErrExists })
	if !errors.Is(err, hyper.ErrNotFound) {
		return err
	}
	was, err := d.savedDoc(ctx, s.VM, path)
	if err != nil {
		return err
	}
	if machine := was.OS.Type.Machine; !profileOf(s.Profile).versions.MatchString(machine) {
		return fmt.Errorf("machine type %q is not one of hardware profile %d", machine, max(1, s.Profile))
	}
	doc, err := d.render(s, was.OS.Type.Machine, accel)
	if err != nil {
		return err
	}
	return d.alone(ctx, func(l *golibvirt.Libvirt) error {
		if profileOf(s.Profile).Display != nil {
			if err := d.admitQEMU(l, accel); err != nil {
				return err
			}
		}
		return l.DomainRestoreFlags(path, golibvirt.OptString{doc}, uint32(golibvirt.DomainSavePaused))
	})
}
