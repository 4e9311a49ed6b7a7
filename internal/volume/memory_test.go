package volume_test

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"strings"
	"testing"

	"widecloud/internal/volume"
)

// TestMemory: the saved memory of a VM gets its name when it is whole, and its seal is another one after each change of it or of a disk.
func TestMemory(t *testing.T) {
	s := open(t, t.TempDir())
	ctx, id := t.Context(), "web1"
	base := importBytes(t, s, noise(mib))
	v, err := s.Create(ctx, id, base.Digest, 0)
	check(t, err)
	data, err := s.CreateDisk(ctx, id, "data", 1)
	check(t, err)
	if _, err := s.Memory(ctx, id); !errors.Is(err, volume.ErrNotFound) {
		t.Errorf("memory that was never saved: %v", err)
	}
	if _, err := s.NewMemory(ctx, id, 1<<40); !errors.Is(err, volume.ErrNoSpace) {
		t.Errorf("memory larger than the disk: %v", err)
	}
	save := func(text string) string {
		t.Helper()
		path, err := s.NewMemory(ctx, id, 1)
		check(t, err)
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is there before it is written: %v", path, err)
		}
		check(t, os.WriteFile(path, []byte(text), 0o600))
		if have, err := s.Memory(ctx, id); err != nil || have != path {
			t.Errorf("the memory is at %q (%v), and is written to %q", have, err, path)
		}
		if _, err := s.MemorySeal(ctx, id); !errors.Is(err, volume.ErrNotFound) {
			t.Errorf("a seal of memory that is being written: %v", err)
		}
		seal, err := s.KeepMemory(ctx, id)
		check(t, err)
		if again, err := s.KeepMemory(ctx, id); err != nil || again != seal {
			t.Errorf("kept again: %q (%v), was %q", again, err, seal)
		}
		return seal
	}
	for _, c := range []struct {
		what   string
		change func() error
	}{
		{"the memory", func() error { p, _ := s.Memory(ctx, id); return os.WriteFile(p, []byte("other"), 0o600) }},
		{"the root disk", func() error { return touch(v.Path) }},
		{"a disk beside it", func() error { return touch(data.Path) }},
		{"a disk that comes", func() error { _, err := s.CreateDisk(ctx, id, "more", 1); return err }},
		{"a disk that leaves", func() error { return s.RemoveDisk(ctx, id, "more") }},
		{"a disk that grows", func() error { return s.Grow(ctx, id, 64) }},
	} {
		seal := save("memory")
		if now, err := s.MemorySeal(ctx, id); err != nil || now != seal {
			t.Errorf("nothing has changed, and the seal is %q (%v), was %q", now, err, seal)
		}
		check(t, c.change())
		if now, err := s.MemorySeal(ctx, id); err == nil && now == seal {
			t.Errorf("%s has changed, and the seal has not", c.what)
		}
	}
	// What comes from elsewhere stands behind a head of ours, and is as long as was said.
	digest, err := s.FillMemory(ctx, id, []byte("head "), 4, strings.NewReader("tail and more"))
	check(t, err)
	if sum := sha256.Sum256([]byte("tail")); digest != hex.EncodeToString(sum[:]) {
		t.Errorf("its digest is %s", digest)
	}
	_, err = s.KeepMemory(ctx, id)
	check(t, err)
	f, n, err := s.OpenMemory(ctx, id)
	check(t, err)
	text, err := io.ReadAll(f)
	check(t, errors.Join(err, f.Close()))
	if string(text) != "head tail" || n != int64(len(text)) {
		t.Errorf("the memory is %q, of %d bytes", text, n)
	}
	if _, err := s.FillMemory(ctx, id, nil, 10, strings.NewReader("short")); err == nil {
		t.Error("memory that ends before its end was taken")
	}
	save("memory")
	check(t, s.RemoveMemory(ctx, id))
	check(t, s.RemoveMemory(ctx, id))
	if _, _, err := s.OpenMemory(ctx, id); !errors.Is(err, volume.ErrNotFound) {
		t.Errorf("memory that was removed is opened: %v", err)
	}
	if _, err := s.KeepMemory(ctx, id); !errors.Is(err, volume.ErrNotFound) {
		t.Errorf("memory that was removed is kept: %v", err)
	}
	save("memory")
	check(t, s.Remove(ctx, id))
	if p, err := s.Memory(ctx, id); !errors.Is(err, volume.ErrNotFound) {
		t.Errorf("the VM is removed, and its memory is at %s (%v)", p, err)
	}
}

// touch writes to a file what is there already.
func touch(path string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return os.WriteFile(path, b, 0o600)
}

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
