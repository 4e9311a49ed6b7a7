package libvirt

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"

	golibvirt "github.com/digitalocean/go-libvirt"

	"widecloud/internal/hyper"
)

// AttachDisk plugs a disk in, behind the port that the profile has for it.
func (d *Driver) AttachDisk(ctx context.Context, vm string, k hyper.Disk) error {
	if err := hyper.ValidateDisk(k); err != nil {
		return fmt.Errorf("attach disk %s of %s: %w", k.Target, vm, err)
	}
	err := d.onDisk(ctx, vm, k.Target, func(l *golibvirt.Libvirt, dom golibvirt.Domain, p *profile, there bool) error {
		if there {
			return nil
		}
		data, err := p.disk(k)
		if err != nil {
			return err
		}
		var doc bytes.Buffer
		if err := domainTemplate.ExecuteTemplate(&doc, "disk", data); err != nil {
			return fmt.Errorf("make disk document: %w", err)
		}
		return l.DomainAttachDeviceFlags(dom, doc.String(), uint32(golibvirt.DomainDeviceModifyLive))
	})
	if err != nil {
		return fmt.Errorf("attach disk %s of %s: %w", k.Target, vm, diskFull(err, []hyper.Disk{k}))
	}
	d.log.Info("disk attached", "vm", vm, "disk", k.Target)
	return nil
}

// DetachDisk asks the guest. libvirt waits some seconds for it.
func (d *Driver) DetachDisk(ctx context.Context, vm, target string) error {
	err := d.onDisk(ctx, vm, target, func(l *golibvirt.Libvirt, dom golibvirt.Domain, _ *profile, there bool) error {
		if !there {
			return nil
		}
		doc := fmt.Sprintf("<disk type='file' device='disk'><target dev='%s' bus='virtio'/></disk>", target)
		err := l.DomainDetachDeviceFlags(dom, doc, uint32(golibvirt.DomainDeviceModifyLive))
		if err != nil && strings.Contains(err.Error(), "already in the process of unplug") {
			return nil // the guest was asked before
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("detach disk %s of %s: %w", target, vm, err)
	}
	return nil
}

// onDisk makes a call about a disk of a running domain into which disks are plugged; there tells whether it has the disk.
func (d *Driver) onDisk(ctx context.Context, vm, target string, f func(l *golibvirt.Libvirt, dom golibvirt.Domain, p *profile, there bool) error) error {
	if !hyper.IsTarget(target) {
		return fmt.Errorf("target: %q is not vda, vdb, …", target)
	}
	return d.inState(ctx, vm, hyper.Running, func(l *golibvirt.Libvirt, dom golibvirt.Domain) error {
		_, v, err := inspect(l, dom)
		if err != nil {
			return err
		}
		i := slices.IndexFunc(profiles, func(p *profile) bool { return p.versions.MatchString(v.OS.Type.Machine) })
		if i < 0 || len(profiles[i].Ports) == 0 {
			return fmt.Errorf("%w: machine type %s", hyper.ErrNoPlug, v.OS.Type.Machine)
		}
		return f(l, dom, profiles[i], slices.Contains(v.writable(), target))
	})
}

// GrowDisk has QEMU make the file larger, and tell the guest.
func (d *Driver) GrowDisk(ctx context.Context, vm, target string, size int64) error {
	if !hyper.IsTarget(target) || size <= 0 {
		return fmt.Errorf("grow disk %q of %s to %d bytes: there is no such disk or size", target, vm, size)
	}
	err := d.inState(ctx, vm, hyper.Running, func(l *golibvirt.Libvirt, dom golibvirt.Domain) error {
		_, now, _, err := l.DomainGetBlockInfo(dom, target, 0)
		if err != nil || int64(now) >= size {
			return err
		}
		return l.DomainBlockResize(dom, target, uint64(size), golibvirt.DomainBlockResizeBytes)
	})
	if err != nil {
		return fmt.Errorf("grow disk %s of %s: %w", target, vm, err)
	}
	d.log.Info("disk has grown", "vm", vm, "disk", target, "bytes", size)
	return nil
}
