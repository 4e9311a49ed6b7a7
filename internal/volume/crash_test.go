package volume_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"widecloud/internal/volume"
)

// smallDisk mounts a tmpfs of so many bytes.
func smallDisk(t *testing.T, bytes int) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", bytes)); err != nil {
		t.Fatalf("mount tmpfs (needs root): %v", err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Errorf("unmount %s: %v", dir, err)
		}
	})
	return dir
}

func wantNoSpace(t *testing.T, err error) {
	t.Helper()
	var e *volume.NoSpaceError
	if !errors.Is(err, volume.ErrNoSpace) || !errors.As(err, &e) {
		t.Fatalf("error is %v, want ErrNoSpace", err)
	}
	if e.Need <= 0 || e.Free < 0 || e.Dir == "" || !strings.Contains(err.Error(), fmt.Sprintf("%d bytes needed, %d free", e.Need, e.Free)) {
		t.Errorf("no figures in %v", err)
	}
}

func TestDiskFull(t *testing.T) {
	ctx := context.Background()
	dir := smallDisk(t, 8*mib)
	s := open(t, dir)
	b := importBytes(t, s, noise(4*mib))
	before := tree(t, dir)
	unchanged := func() {
		t.Helper()
		if d := cmp.Diff(before, tree(t, dir)); d != "" {
			t.Errorf("the directory changed (-before +after):\n%s", d)
		}
	}

	free, err := s.Free(ctx)
	if err != nil || free <= 0 || free > 4*mib {
		t.Fatalf("free: %d, %v", free, err)
	}
	if err := s.Room(ctx, free); err != nil {
		t.Error(err)
	}
	wantNoSpace(t, s.Room(ctx, free+1))

	_, err = imported(ctx, s, bytes.NewReader(noise(6*mib)), volume.Import{Format: "raw"})
	wantNoSpace(t, err)
	unchanged()
	if now, _ := s.Free(ctx); now != free {
		t.Errorf("%d bytes free, %d before the import that failed", now, free)
	}

	// Full but for less than an overlay needs, as another writer would make it between the check and the work, too.
	fill := filepath.Join(dir, "base", "fill")
	if err := os.WriteFile(fill, noise(int(free)-64<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	before = tree(t, dir)
	_, err = s.Create(ctx, "vm", b.Digest, 0)
	wantNoSpace(t, err)
	unchanged()
	big := seedData
	big.UserData = string(noise(128 << 10))
	_, err = s.Seed(ctx, "vm", big)
	wantNoSpace(t, err)
	unchanged()

	if err := os.Remove(fill); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Create(ctx, "vm", b.Digest, 0); err != nil {
		t.Errorf("with room again: %v", err)
	}
}

// A qemu-img that meets the full disk itself: the room went after the check.
func TestDiskFullInQemuImg(t *testing.T) {
	dir := t.TempDir()
	tool := filepath.Join(t.TempDir(), "qemu-img")
	script := "#!/bin/sh\n[ $1 = info ] && exec qemu-img \"$@\"\necho 'qemu-img: x: Could not resize image: No space left on device' >&2\nexit 1\n"
	if err := os.WriteFile(tool, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	s, err := volume.Open(volume.Options{Dir: dir, QemuImg: tool})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	b := importBytes(t, s, noise(mib))
	before := tree(t, dir)
	_, err = s.Create(context.Background(), "vm", b.Digest, 0)
	wantNoSpace(t, err)
	if d := cmp.Diff(before, tree(t, dir)); d != "" {
		t.Errorf("the directory changed (-before +after):\n%s", d)
	}
}

// TestKilled kills an import with -9 in its middle, as a child process of this test's own program.
func TestKilled(t *testing.T) {
	if dir := os.Getenv("VOLUME_TEST_IMPORT"); dir != "" {
		s, err := volume.Open(volume.Options{Dir: dir})
		if err != nil {
			t.Fatal(err)
		}
		_, err = imported(context.Background(), s, os.Stdin, volume.Import{Format: "raw"})
		t.Fatalf("the import ended: %v", err)
	}
	dir := t.TempDir()
	s := open(t, dir)
	old := importBytes(t, s, noise(mib))
	before := tree(t, dir)
	s.Close()

	child := exec.Command(os.Args[0], "-test.run=^TestKilled$")
	child.Env = append(os.Environ(), "VOLUME_TEST_IMPORT="+dir)
	in, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	// All but what fits into the pipe has been read when Write returns, and none of it can have ended the import.
	content := noise(2 * mib)
	_, werr := io.Copy(in, bytes.NewReader(content))
	child.Process.Kill()
	child.Wait()
	in.Close()
	if werr != nil {
		t.Fatalf("feed the child: %v", werr)
	}
	left, err := os.ReadDir(filepath.Join(dir, "tmp"))
	if err != nil || len(left) != 1 {
		t.Fatalf("the kill was not in the middle of an import: %v, %v", left, err)
	}

	s = open(t, dir)
	if d := cmp.Diff(before, tree(t, dir)); d != "" {
		t.Errorf("after kill -9 and Open (-before +after):\n%s", d)
	}
	bases, err := s.Bases()
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]volume.Base{old}, bases); d != "" {
		t.Errorf("bases (-want +got):\n%s", d)
	}
	if b := importBytes(t, s, content); b.Digest != digest(content) {
		t.Errorf("imported %s", b.Digest)
	}
}
