package libvirt

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
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

// savedHead is the head of libvirt's file, by the byte order of the host (struct _virQEMUSaveHeader of qemu_saveimage.h). Behind it come
// Length bytes of documents, the domain's first, and then QEMU's stream.
type savedHead struct {
	Magic      [16]byte
	Version    uint32
	Length     uint32
	WasRunning uint32
	Compressed uint32
	Cookie     uint32 // where another document begins; 0: there is none
	Unused     [14]uint32
}

const (
	savedMagic   = "LibvirtQemudSave"
	savedVersion = 2
	maxSavedDocs = 16 << 20
)

// ReadSaved reads libvirt's head. The document in it stays here: it has paths of this host.
func (d *Driver) ReadSaved(_ context.Context, vm string, file io.Reader) (data []byte, from int64, err error) {
	p, from, err := readSaved(vm, file)
	if err != nil {
		return nil, 0, fmt.Errorf("read the saved domain of %s: %w", vm, err)
	}
	return paper(p), from, nil
}

func readSaved(vm string, file io.Reader) (p offer, from int64, err error) {
	var h savedHead
	if err := binary.Read(file, binary.NativeEndian, &h); err != nil {
		return p, 0, fmt.Errorf("%w: %w", hyper.ErrTorn, err)
	}
	switch {
	case string(h.Magic[:]) != savedMagic || h.Length > maxSavedDocs:
		return p, 0, hyper.ErrTorn
	case h.Version != savedVersion || h.Compressed != 0:
		return p, 0, fmt.Errorf("it is of version %d, compressed in way %d: only those of version %d that are not compressed go elsewhere (save_image_format of libvirt's qemu.conf)",
			h.Version, h.Compressed, savedVersion)
	}
	docs := make([]byte, h.Length)
	if _, err := io.ReadFull(file, docs); err != nil {
		return p, 0, fmt.Errorf("%w: %w", hyper.ErrTorn, err)
	}
	doc, _, _ := bytes.Cut(docs, []byte{0})
	v, err := parseLive(string(doc))
	if err != nil {
		return p, 0, err
	}
	if v.UUID != vm {
		return p, 0, fmt.Errorf("%w: it is of %q", hyper.ErrTorn, v.UUID)
	}
	p = offer{
		Version: paperVersion, VM: vm, Type: v.Type, Machine: v.OS.Type.Machine, CPUModel: v.CPU.Model,
		CPUs: v.VCPU, MemoryMiB: int(v.Memory.KiB >> 10), Disks: v.writable(),
	}
	for _, n := range v.NICs {
		p.NICs = append(p.NICs, offerNIC{n.MAC.Address, n.MTU.Size})
	}
	return p, int64(binary.Size(h)) + int64(h.Length), nil
}

// SavedHead makes libvirt's head with this host's own document: of the offer only the machine type, checked, gets into it.
func (d *Driver) SavedHead(ctx context.Context, s hyper.Spec, data []byte) ([]byte, error) {
	head, err := d.savedHead(ctx, s, data)
	if err != nil {
		return nil, fmt.Errorf("take in the saved domain of %s: %w", s.VM, err)
	}
	return head, nil
}

func (d *Driver) savedHead(ctx context.Context, s hyper.Spec, data []byte) ([]byte, error) {
	_, doc, _, err := d.takes(ctx, s, data)
	if err != nil {
		return nil, err
	}
	h := savedHead{Version: savedVersion, Length: uint32(len(doc) + 1)}
	copy(h.Magic[:], savedMagic)
	var out bytes.Buffer
	if err := binary.Write(&out, binary.NativeEndian, h); err != nil {
		return nil, err
	}
	out.WriteString(doc)
	out.WriteByte(0)
	return out.Bytes(), nil
}
