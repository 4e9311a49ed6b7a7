package vm

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"widecloud/api"
	"widecloud/internal/lab/script"
	"widecloud/internal/lab/stage"
)

// parseDiskSize takes NAME SIZE.
func parseDiskSize(p *script.Parser) api.Disk {
	return api.Disk{Name: p.Next("disk").Text, SizeGiB: gib(p)}
}

// gib takes a size of whole GiB.
func gib(p *script.Parser) int {
	at := p.Peek()
	mib := p.MiB("size")
	if mib%1024 != 0 {
		p.Fail(at, "disks have whole GiB")
	}
	return mib / 1024
}

// Write lets the guest write to a disk.
type Write struct {
	VM   *VM
	MiB  int
	Disk string // "": the root disk
}

// maxWrite is the size of the partition that the tiny guest has for it, in MiB.
const maxWrite = 64

func parseWrite(p *script.Parser) any {
	w := &Write{VM: reachable(p)}
	at := p.Peek()
	if w.MiB = p.MiB("size"); w.MiB > maxWrite {
		p.Fail(at, "more than the %d MiB that the guest has for it", maxWrite)
	}
	if p.Is("disk") {
		w.Disk = p.Next("disk").Text
	}
	if w.VM.written == nil {
		w.VM.written = map[string]bool{}
	}
	w.VM.written[w.Disk] = true
	return w
}

// Do implements stage.Doer.
func (w *Write) Do(ctx context.Context, s *stage.Stage) error {
	digest, err := w.VM.ask(ctx, s, http.MethodPut, fmt.Sprintf("/disk?mb=%d&seed=%d&name=%s", w.MiB, time.Now().UnixNano()&0xffff, w.Disk))
	if w.VM.data == nil {
		w.VM.data = map[string]written{}
	}
	w.VM.data[w.Disk] = written{digest, w.MiB}
	return err
}

// Disk expects that a disk has what was written.
type Disk struct {
	VM   *VM
	Disk string // "": the root disk
	By   *VM    // who has written it; nil: the VM itself
}

func parseDisk(p *script.Parser) any {
	at := p.Peek()
	vm := reachable(p)
	p.OneOf("disk")
	d := &Disk{VM: vm, By: vm}
	verb := "unchanged"
	if p.Is("as") {
		verb = "as"
	} else if !p.Is("unchanged") {
		d.Disk = p.Next("disk").Text
		verb = p.OneOf("unchanged", "as", "is", "gone")
	}
	switch verb {
	case "is", "gone":
		return parseDiskSeen(p, vm, d.Disk)
	case "as":
		d.By = ref(p)
	}
	if !d.By.written[d.Disk] {
		p.Fail(at, "nothing was written to %s's disk%s", d.By.name, strings.TrimRight(" "+d.Disk, " "))
	}
	return d
}

// Judge implements stage.Judge.
func (d *Disk) Judge(ctx context.Context, s *stage.Stage) (string, error) {
	want := d.By.data[d.Disk]
	sum, err := d.VM.ask(ctx, s, http.MethodGet, fmt.Sprintf("/disk?mb=%d&name=%s", want.mib, d.Disk))
	if err == nil && (sum != want.digest || sum == "") {
		err = fmt.Errorf("digest %s, but %s was written", sum, want.digest)
	}
	return fmt.Sprintf("%d MiB, as written", want.mib), err
}

// parseDiskSeen takes what follows "is" or "gone".
func parseDiskSeen(p *script.Parser, vm *VM, disk string) any {
	want := ""
	if p.Last().Text == "is" {
		want = fmt.Sprint(int64(gib(p)) << 30)
	}
	return &eventually{VM: vm, Within: p.Within(time.Minute), judge: func(ctx context.Context, s *stage.Stage, v *VM) (string, error) {
		return diskSeen(ctx, s, v, disk, want)
	}}
}

// diskSeen tells whether the guest sees a disk of so many bytes; "": none. What it sees, the VM's home must show, and nothing of the
// disk be pending.
func diskSeen(ctx context.Context, s *stage.Stage, v *VM, disk, want string) (string, error) {
	text, err := v.ask(ctx, s, http.MethodGet, "/disks")
	if err != nil {
		return "", err
	}
	have := ""
	for line := range strings.Lines(text) {
		if name, size, _ := strings.Cut(strings.TrimSpace(line), " "); name == disk {
			have = size
		}
	}
	if have != want {
		return "", fmt.Errorf("the guest of %s sees %q bytes of disk %s, not %q; it has: %s", v.name, have, disk, want, strings.ReplaceAll(text, "\n", ", "))
	}
	o, err := api.Get[api.VM](ctx, v.client(), v.name)
	if err != nil {
		return "", err
	}
	for _, p := range o.Status.Pending {
		if strings.HasPrefix(p.Field+".", "disks."+disk+".") {
			return "", fmt.Errorf("the controller says that %s is pending: it waits %s; %s", p.Field, p.Waits, o.Status.Message)
		}
	}
	shown := slices.ContainsFunc(o.Status.Disks, func(k api.VMDisk) bool { return k.Name == disk })
	if shown != (want != "") {
		return "", fmt.Errorf("the controller shows the disks %+v", o.Status.Disks)
	}
	if want == "" {
		return "by the guest's word and the controller's", nil
	}
	return want + " bytes, by the guest's word", nil
}

// ChangeDisk is a change of a VM's disks by its user.
type ChangeDisk struct {
	VM   *VM
	Disk api.Disk // SizeGiB 0: it is taken away
	Grow bool
}

func parseChangeDisk(verb string) func(*script.Parser) any {
	return func(p *script.Parser) any {
		c := &ChangeDisk{VM: ref(p), Grow: verb == "grow"}
		if verb == "unplug" {
			c.Disk.Name = p.Next("disk").Text
			return c
		}
		c.Disk = parseDiskSize(p)
		return c
	}
}

// Do implements stage.Doer.
func (c *ChangeDisk) Do(ctx context.Context, _ *stage.Stage) error {
	_, err := api.Edit(ctx, c.VM.client(), c.VM.name, func(o *api.VM) error {
		i := slices.IndexFunc(o.Spec.Disks, func(k api.Disk) bool { return k.Name == c.Disk.Name })
		switch {
		case c.Grow && c.Disk.Name == api.RootDisk:
			o.Spec.DiskGiB = c.Disk.SizeGiB
		case i < 0 && (c.Grow || c.Disk.SizeGiB == 0):
			return fmt.Errorf("vm %s has no disk %s", c.VM.name, c.Disk.Name)
		case c.Disk.SizeGiB == 0:
			o.Spec.Disks = slices.Delete(o.Spec.Disks, i, i+1)
		case i < 0:
			o.Spec.Disks = append(o.Spec.Disks, c.Disk)
		default:
			o.Spec.Disks[i] = c.Disk
		}
		return nil
	})
	return err
}

// DiskRefused expects that a change of disks is refused.
type DiskRefused struct {
	Change  *ChangeDisk
	Because string // a reason's code; "": whatever
}

func parseDiskRefused(verb string) func(*script.Parser) any {
	return func(p *script.Parser) any {
		r := &DiskRefused{Change: parseChangeDisk(verb)(p).(*ChangeDisk)}
		p.OneOf("refused")
		if p.Is("because") {
			r.Because = p.Next("a reason's code").Text
		}
		return r
	}
}

// Judge implements stage.Judge.
func (r *DiskRefused) Judge(ctx context.Context, s *stage.Stage) (string, error) {
	return refusedBecause(r.Change.Do(ctx, s), r.Because)
}
