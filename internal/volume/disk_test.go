package volume_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"widecloud/api"
	"widecloud/internal/volume"
)

// TestDisks: disks beside a volume are made, found, made larger and removed, each alone or with their VM.
func TestDisks(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	s := open(t, dir)
	b := importBytes(t, s, noise(mib))
	if _, err := s.Create(ctx, "vm1", b.Digest, 4); err != nil {
		t.Fatal(err)
	}
	sizes := func(want map[string]int64) {
		t.Helper()
		list, err := s.Disks(ctx, "vm1")
		if err != nil {
			t.Fatal(err)
		}
		got := map[string]int64{}
		for _, d := range list {
			got[d.Name] = d.VirtualBytes / mib
			if d.AllocatedBytes <= 0 || d.Path != filepath.Join(dir, "disk", "vm1."+d.Name+".qcow2") {
				t.Errorf("disk %+v", d)
			}
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Fatalf("disks (-want +got):\n%s", d)
		}
	}
	sizes(map[string]int64{})
	for _, c := range []struct {
		name string
		mib  int64
		want map[string]int64
	}{
		{"data", 8, map[string]int64{"data": 8}},
		{"logs", 3, map[string]int64{"data": 8, "logs": 3}},
		{"data", 8, map[string]int64{"data": 8, "logs": 3}},
		{"data", 16, map[string]int64{"data": 16, "logs": 3}},
		{"data", 5, map[string]int64{"data": 16, "logs": 3}}, // no disk shrinks
	} {
		if _, err := s.CreateDisk(ctx, "vm1", c.name, c.mib); err != nil {
			t.Fatal(err)
		}
		sizes(c.want)
	}
	// What is written stays, also when it grows.
	d, err := s.CreateDisk(ctx, "vm1", "data", 16)
	if err != nil {
		t.Fatal(err)
	}
	run(t, "qemu-io", "-f", "qcow2", "-c", "write -P 7 1M 64k", d.Path)
	if _, err := s.CreateDisk(ctx, "vm1", "data", 32); err != nil {
		t.Fatal(err)
	}
	run(t, "qemu-io", "-f", "qcow2", "-c", "read -P 7 1M 64k", d.Path)
	run(t, "qemu-img", "check", "-q", d.Path)
	if err := s.Grow(ctx, "vm1", 9); err != nil {
		t.Fatal(err)
	}
	if err := s.Grow(ctx, "vm1", 2); err != nil { // it is larger
		t.Fatal(err)
	}
	if u, err := s.Stat(ctx, "vm1"); err != nil || u.VirtualBytes != 9*mib {
		t.Fatalf("the volume is %+v, %v", u, err)
	}
	if err := s.Grow(ctx, "vm2", 2); !errors.Is(err, volume.ErrNotFound) {
		t.Errorf("a volume that is not there grows: %v", err)
	}

	// Another VM's disk of the same name is another one.
	if _, err := s.CreateDisk(ctx, "vm2", "data", 1); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.RemoveDisk(ctx, "vm1", "logs"); err != nil {
			t.Fatal(err)
		}
		sizes(map[string]int64{"data": 32})
	}
	for range 2 {
		if err := s.Remove(ctx, "vm1"); err != nil {
			t.Fatal(err)
		}
		sizes(map[string]int64{})
	}
	if list, err := s.Disks(ctx, "vm2"); err != nil || len(list) != 1 {
		t.Errorf("the other VM's disks are %v, %v", list, err)
	}
}

func TestDisksRefused(t *testing.T) {
	ctx := context.Background()
	s := open(t, t.TempDir())
	for _, c := range []struct {
		id, name string
		mib      int64
		field    string
	}{
		{"../vm", "data", 1, "id"},
		{"vm1", "../data", 1, "name"},
		{"vm1", "", 1, "name"},
		{"vm1", "a.b", 1, "name"},
		{"vm1", "*", 1, "name"},
		{"vm1", "data", 0, "spec.size_mib"},
		{"vm1", "data", 1 << 40, "spec.size_mib"},
	} {
		_, err := s.CreateDisk(ctx, c.id, c.name, c.mib)
		var e *api.Error
		if !errors.As(err, &e) || e.Code != api.CodeInvalid || e.Field != c.field {
			t.Errorf("%+v: %v", c, err)
		}
	}
	d, err := s.CreateDisk(ctx, "vm1", "data", 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(d.Path, []byte("QFI\xfb and nothing more"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.CreateDisk(ctx, "vm1", "data", 2); err == nil {
		t.Error("a damaged disk was taken for a disk")
	}
	if _, err := s.Disks(ctx, "vm1"); err == nil {
		t.Error("a damaged disk is listed")
	}
	if err := s.Remove(ctx, "vm1"); err != nil {
		t.Error(err)
	}
}

// TestDisksFull: on a full disk no half of a disk appears.
func TestDisksFull(t *testing.T) {
	ctx := context.Background()
	dir := smallDisk(t, 2*mib)
	s := open(t, dir)
	if err := os.WriteFile(filepath.Join(dir, "fill"), noise(3*mib/2), 0o600); err != nil {
		t.Fatal(err)
	}
	before := tree(t, dir)
	_, err := s.CreateDisk(ctx, "vm1", "data", 1024)
	wantNoSpace(t, err)
	if d := cmp.Diff(before, tree(t, dir)); d != "" {
		t.Errorf("the directory changed (-before +after):\n%s", d)
	}
}

func run(t *testing.T, args ...string) {
	t.Helper()
	if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %v: %s", args, err, out)
	}
}

// TestMoveDisk: a disk goes from one owner to another with what is on it, and back; what is there is never replaced.
func TestMoveDisk(t *testing.T) {
	ctx := context.Background()
	dir := t.TempDir()
	s := open(t, dir)
	d, err := s.CreateDisk(ctx, "vol1", "Kept", 4)
	if err != nil {
		t.Fatal(err)
	}
	run(t, "qemu-io", "-f", "qcow2", "-c", "write -P 7 1M 64k", d.Path)
	move := func(from, name, to, as string, want bool) {
		t.Helper()
		for range 2 { // again it is the same
			if there, err := s.MoveDisk(ctx, from, name, to, as); err != nil || there != want {
				t.Fatalf("%s of %s to %s of %s: %t, %v", name, from, as, to, there, err)
			}
		}
	}
	move("vol2", "Kept", "vm1", "data", false)
	move("vol1", "Kept", "vm1", "data", true)
	run(t, "qemu-io", "-f", "qcow2", "-c", "read -P 7 1M 64k", filepath.Join(dir, "disk", "vm1.data.qcow2"))
	if _, err := s.CreateDisk(ctx, "vol1", "Kept", 4); err != nil {
		t.Fatal(err)
	}
	if _, err := s.MoveDisk(ctx, "vol1", "Kept", "vm1", "data"); !errors.Is(err, &api.Error{Code: api.CodeExists}) {
		t.Errorf("both are there: %v", err)
	}
	run(t, "qemu-io", "-f", "qcow2", "-c", "read -P 7 1M 64k", filepath.Join(dir, "disk", "vm1.data.qcow2"))
	if err := s.RemoveDisk(ctx, "vol1", "Kept"); err != nil {
		t.Fatal(err)
	}
	move("vm1", "data", "vol1", "Kept", true)
	if list, err := s.Disks(ctx, "vm1"); err != nil || len(list) > 0 {
		t.Errorf("the VM has %v, %v", list, err)
	}
	for _, c := range [][4]string{{"../x", "Kept", "vm1", "data"}, {"vol1", "a/b", "vm1", "data"}, {"vol1", "Kept", "vm.1", "data"}, {"vol1", "Kept", "vm1", "../data"}} {
		if _, err := s.MoveDisk(ctx, c[0], c[1], c[2], c[3]); !errors.Is(err, &api.Error{Code: api.CodeInvalid}) {
			t.Errorf("%v: %v", c, err)
		}
	}
}
