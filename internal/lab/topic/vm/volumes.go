package vm

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"widecloud/api"
	"widecloud/internal/lab/script"
	"widecloud/internal/lab/stage"
	"widecloud/internal/lab/topic/site"
)

// Volume is a disk that outlives VMs. In each of them it is called as in the script.
type Volume struct {
	Name    string // at its site
	Disk    string // in VMs
	Owner   *site.Site
	SizeGiB int
	At      string // SITE/HOST; "": where the VM is that has it first
	last    *VM    // so far in the script: that had it last
}

func parseVolume(p *script.Parser) any {
	v := &Volume{Name: p.NewName("volume"), SizeGiB: gib(p)}
	p.OneOf("owner")
	v.Owner = site.Ref(p)
	if p.Is("at") {
		v.At = site.Place(p)
	}
	p.Declare(v.Name, v)
	v.Disk, v.Name = v.Name, stage.FreshName(p, v.Name)
	return v
}

// Do implements stage.Doer.
func (v *Volume) Do(ctx context.Context, s *stage.Stage) error {
	if _, err := api.Create(ctx, v.client(), &api.Volume{Meta: api.Meta{Name: v.Name}, Spec: api.VolumeSpec{SizeGiB: v.SizeGiB, Place: v.At}}); err != nil {
		return err
	}
	s.Undo("delete volume "+v.Name, func(ctx context.Context) error { return gone[api.Volume](ctx, v.client(), v.Name) })
	return nil
}

func (v *Volume) client() *api.Client { return v.Owner.Tenant() }

func volumeRef(p *script.Parser) *Volume { return script.Ref[*Volume](p, "volume") }

// Attach gives a volume to a VM, with what the VM before it has written there.
type Attach struct {
	Volume *Volume
	VM     *VM
	from   *VM
}

func parseAttach(p *script.Parser) any {
	a := &Attach{Volume: volumeRef(p), VM: ref(p)}
	a.from, a.Volume.last = a.Volume.last, a.VM
	if a.from != nil && a.from.written[a.Volume.Disk] {
		if a.VM.written == nil {
			a.VM.written = map[string]bool{}
		}
		a.VM.written[a.Volume.Disk] = true
	}
	return a
}

// Do implements stage.Doer.
func (a *Attach) Do(ctx context.Context, _ *stage.Stage) error {
	v := a.VM
	if _, err := api.Edit(ctx, v.client(), v.name, func(o *api.VM) error {
		o.Spec.Disks = append(o.Spec.Disks, api.Disk{Name: a.Volume.Disk, Volume: a.Volume.Name})
		return nil
	}); err != nil {
		return err
	}
	if a.from != nil {
		if v.data == nil {
			v.data = map[string]written{}
		}
		v.data[a.Volume.Disk] = a.from.data[a.Volume.Disk]
	}
	return nil
}

// AttachRefused expects that a volume cannot be given to a VM.
type AttachRefused struct {
	Attach  *Attach
	Because string // a reason's code; "": whatever
}

func parseAttachRefused(p *script.Parser) any {
	r := &AttachRefused{Attach: &Attach{Volume: volumeRef(p), VM: ref(p)}}
	p.OneOf("refused")
	if p.Is("because") {
		r.Because = p.Next("a reason's code").Text
	}
	return r
}

// Judge implements stage.Judge.
func (r *AttachRefused) Judge(ctx context.Context, s *stage.Stage) (string, error) {
	return refusedBecause(r.Attach.Do(ctx, s), r.Because)
}

// Detach takes a volume from its VM.
type Detach struct{ Volume *Volume }

func parseDetach(p *script.Parser) any { return &Detach{volumeRef(p)} }

// Do implements stage.Doer.
func (d *Detach) Do(ctx context.Context, _ *stage.Stage) error {
	v := d.Volume
	o, err := api.Get[api.Volume](ctx, v.client(), v.Name)
	if err != nil {
		return err
	}
	if o.Status.VM == "" {
		return fmt.Errorf("volume %s is attached to no VM; it is %s", v.Name, o.Status.Phase)
	}
	_, err = api.Edit(ctx, v.client(), o.Status.VM, func(o *api.VM) error {
		o.Spec.Disks = slices.DeleteFunc(o.Spec.Disks, func(k api.Disk) bool { return k.Volume == v.Name })
		return nil
	})
	return err
}

// Enlarge makes a volume larger.
type Enlarge struct {
	Volume  *Volume
	SizeGiB int
}

func parseEnlarge(p *script.Parser) any { return &Enlarge{volumeRef(p), gib(p)} }

// Do implements stage.Doer.
func (e *Enlarge) Do(ctx context.Context, _ *stage.Stage) error {
	_, err := api.Edit(ctx, e.Volume.client(), e.Volume.Name, func(o *api.Volume) error { o.Spec.SizeGiB = e.SizeGiB; return nil })
	return err
}

// DeleteVolume deletes a volume, until it is gone.
type DeleteVolume struct{ Volume *Volume }

func parseDeleteVolume(p *script.Parser) any { return &DeleteVolume{volumeRef(p)} }

// Do implements stage.Doer.
func (d *DeleteVolume) Do(ctx context.Context, _ *stage.Stage) error {
	if _, err := api.Delete[api.Volume](ctx, d.Volume.client(), d.Volume.Name); err != nil {
		return err
	}
	return gone[api.Volume](ctx, d.Volume.client(), d.Volume.Name)
}

// VolumeIs expects a volume to be in a phase, at a place.
type VolumeIs struct {
	Volume *Volume
	Phase  api.VolumePhase
	At     string // SITE or SITE/HOST; "": anywhere
	Within time.Duration
}

func parseVolumeIs(p *script.Parser) any {
	e := &VolumeIs{Volume: volumeRef(p), Phase: api.VolumePhase(p.OneOf("new", "attached", "detached"))}
	if p.Is("at") {
		e.At = site.Place(p)
	}
	e.Within = p.Within(time.Minute)
	return e
}

// Judge implements stage.Judge.
func (e *VolumeIs) Judge(ctx context.Context, _ *stage.Stage) (detail string, err error) {
	v := e.Volume
	err = stage.Until(ctx, e.Within, func(ctx context.Context) error {
		o, err := api.Get[api.Volume](ctx, v.client(), v.Name)
		if err != nil {
			return err
		}
		st := o.Status
		where := st.Site + "/" + st.Host
		switch {
		case st.Phase != e.Phase:
			return fmt.Errorf("volume %s is %s: %s", v.Name, st.Phase, st.Message)
		case e.At != "" && e.At != st.Site && e.At != where:
			return fmt.Errorf("volume %s is at %s", v.Name, where)
		case len(st.Pending) > 0:
			return fmt.Errorf("%s of volume %s waits %s", st.Pending[0].Field, v.Name, st.Pending[0].Waits)
		}
		detail = fmt.Sprintf("%d MiB at %s, epoch %d", st.SizeMiB, where, st.Epoch)
		return nil
	})
	return detail, err
}

// refusedBecause judges the error of what is to be refused, with a reason of a code.
func refusedBecause(err error, code string) (string, error) {
	var refused *api.Error
	switch {
	case err == nil:
		return "", errors.New("it was accepted")
	case !errors.As(err, &refused):
		return "", err
	case code != "" && !slices.ContainsFunc(refused.Reasons, func(x api.Reason) bool { return x.Code == code }):
		return "", fmt.Errorf("none of the reasons is %s: %v, %+v", code, err, refused.Reasons)
	}
	for _, x := range refused.Reasons {
		return x.Message, nil
	}
	return refused.Message, nil
}
