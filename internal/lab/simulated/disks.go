package simulated

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"

	"widecloud/api"
	"widecloud/internal/agent"
	"widecloud/internal/hyper"
	"widecloud/internal/hyper/fake"
	"widecloud/internal/volume"
	"widecloud/internal/wire"
)

// disks are a host's base images and volumes, without their content.
type disks struct {
	machine *fake.Host

	mu      sync.Mutex
	bases   map[string]int64            // digest -> bytes
	volumes map[string]string           // VM -> base
	sizes   map[string]map[string]int64 // VM -> disk -> MiB
}

func newDisks(m *fake.Host) *disks {
	return &disks{machine: m, bases: map[string]int64{}, volumes: map[string]string{}, sizes: map[string]map[string]int64{}}
}

// Bases is agent.Volumes's, as what follows.
func (d *disks) Bases(context.Context) (out []agent.Base, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, digest := range slices.Sorted(maps.Keys(d.bases)) {
		out = append(out, agent.Base{Digest: digest, Bytes: d.bases[digest]})
	}
	return out, nil
}

func (d *disks) Import(_ context.Context, digest, _ string, content io.Reader) error {
	sum := sha256.New()
	n, err := io.Copy(sum, content)
	if err != nil {
		return err
	}
	if got := "sha256:" + hex.EncodeToString(sum.Sum(nil)); got != digest {
		return fmt.Errorf("image has digest %s, not %s", got, digest)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.bases[digest] = n
	return nil
}

func (d *disks) Sweep(_ context.Context, keep func(string) bool) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	used := map[string]bool{}
	for _, base := range d.volumes {
		used[base] = true
	}
	maps.DeleteFunc(d.bases, func(base string, _ int64) bool { return !used[base] && !keep(base) })
	return nil
}

func (d *disks) Create(_ context.Context, vm, base string, sizeMiB int64) (hyper.Disk, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if _, here := d.bases[base]; !here {
		return hyper.Disk{}, fmt.Errorf("no base image %s", base)
	}
	path := "/volumes/" + vm
	if have, ok := d.volumes[vm]; ok && have != base {
		return hyper.Disk{}, fmt.Errorf("volume of %s is over %s", vm, have)
	} else if !ok {
		d.volumes[vm] = base
		d.machine.WriteDisk(path, 0)
	}
	d.size(vm, api.RootDisk, sizeMiB)
	return hyper.Disk{Path: path, Format: "qcow2", Base: "/bases/" + base, BaseFormat: "raw"}, nil
}

func (d *disks) Seed(_ context.Context, o wire.VMOrder) (hyper.Disk, error) {
	return hyper.Disk{Path: "/seeds/" + o.VM, Format: "raw", ReadOnly: true}, nil
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

func diskPath(vm, name string) string {
	if name == api.RootDisk {
		return "/volumes/" + vm
	}
	return "/volumes/" + vm + "." + name
}

func (d *disks) CreateDisk(_ context.Context, vm, name string, sizeMiB int64) (hyper.Disk, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.size(vm, name, sizeMiB) {
		d.machine.WriteDisk(diskPath(vm, name), 0)
	}
	return hyper.Disk{Serial: name, Path: diskPath(vm, name), Format: "qcow2"}, nil
}

func (d *disks) RemoveDisk(_ context.Context, vm, name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.sizes[vm], name)
	return nil
}

func (d *disks) MoveDisk(_ context.Context, from, name, to, as string) (bool, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	_, mine := d.sizes[from][name]
	_, theirs := d.sizes[to][as]
	switch {
	case !mine:
		return theirs, nil
	case theirs:
		return true, fmt.Errorf("disk %s of %s is there, and disk %s of %s, too", name, from, as, to)
	}
	old, path := diskPath(from, name), diskPath(to, as)
	d.machine.WriteDisk(path, 0) // as large as it is, whatever was there before
	d.size(to, as, max(d.sizes[from][name], d.machine.Grown(old)>>20))
	d.machine.WriteDisk(path, d.machine.Written(old))
	delete(d.sizes[from], name)
	return true, nil
}

// Disks: nothing is written to a disk without content.
func (d *disks) Disks(_ context.Context, vm string) (out []wire.DiskReport, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(d.sizes[vm])) {
		size := max(d.sizes[vm][name], d.machine.Grown(diskPath(vm, name))>>20)
		out = append(out, wire.DiskReport{Name: name, SizeMiB: size})
	}
	return out, nil
}

// Export and Fill carry what a guest that starts from the disk goes on with.
func (d *disks) Export(_ context.Context, k hyper.Disk) (agent.Export, error) {
	return fake.Sending{Host: d.machine, Path: k.Path}, nil
}

func (d *disks) Fill(ctx context.Context, k hyper.Disk, r io.Reader) (string, error) {
	counter, digest, err := d.machine.TakeDisk(ctx, r)
	if err == nil {
		d.machine.WriteDisk(k.Path, counter)
	}
	return digest, err
}

func (d *disks) NewMemory(_ context.Context, vm string, _ int64) (string, error) {
	return d.machine.NewMemory(vm), nil
}

func (d *disks) Memory(_ context.Context, vm string) (string, error) {
	path := d.machine.Memory(vm)
	if path == "" {
		return "", volume.ErrNotFound
	}
	return path, nil
}

func (d *disks) KeepMemory(ctx context.Context, vm string) (string, error) {
	d.machine.KeepMemory(vm)
	return d.MemorySeal(ctx, vm)
}

func (d *disks) MemorySeal(_ context.Context, vm string) (string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var paths []string
	for _, name := range slices.Sorted(maps.Keys(d.sizes[vm])) {
		paths = append(paths, diskPath(vm, name))
	}
	seal := d.machine.MemorySeal(vm, paths...)
	if seal == "" {
		return "", volume.ErrNotFound
	}
	return seal, nil
}

func (d *disks) OpenMemory(_ context.Context, vm string) (io.ReadCloser, int64, error) {
	content := d.machine.ReadMemory(vm)
	if content == nil {
		return nil, 0, volume.ErrNotFound
	}
	return io.NopCloser(bytes.NewReader(content)), int64(len(content)), nil
}

func (d *disks) FillMemory(_ context.Context, vm string, head []byte, n int64, r io.Reader) (string, error) {
	content := make([]byte, n)
	if _, err := io.ReadFull(r, content); err != nil {
		return "", err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	var paths []string
	for _, name := range slices.Sorted(maps.Keys(d.sizes[vm])) {
		paths = append(paths, diskPath(vm, name))
	}
	sum := sha256.Sum256(content)
	d.machine.RemoveMemory(vm)
	return hex.EncodeToString(sum[:]), d.machine.WriteMemory(vm, append(head, content...), paths...)
}

func (d *disks) RemoveMemory(_ context.Context, vm string) error {
	d.machine.RemoveMemory(vm)
	return nil
}

func (d *disks) Remove(_ context.Context, vm string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.volumes, vm)
	delete(d.sizes, vm)
	d.machine.RemoveMemory(vm)
	return nil
}
