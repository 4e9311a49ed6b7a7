package bolt_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"go.etcd.io/bbolt"

	"widecloud/internal/store"
	"widecloud/internal/store/bolt"
	"widecloud/internal/store/storetest"
)

// checkFile has bbolt check a closed store's file, and sees that all of it is blocks of the disk: a write into a hole can fail.
func checkFile(t *testing.T, path string) {
	t.Helper()
	var st syscall.Stat_t
	if err := syscall.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	if st.Blocks*512 < st.Size {
		t.Errorf("the file has %d bytes, and only %d on the disk", st.Size, st.Blocks*512)
	}
	db, err := bbolt.Open(path, 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if err := db.View(func(tx *bbolt.Tx) error {
		for err := range tx.Check() {
			t.Errorf("the file is damaged: %v", err)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// image makes a file system in a file and mounts it; it needs root.
func image(t *testing.T, mkfs string, mib int64) string {
	t.Helper()
	file, dir := filepath.Join(t.TempDir(), "image"), t.TempDir()
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, mib<<20); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{mkfs, "-q", file}, {"mount", "-o", "loop", file, dir}} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%s (needs root): %v: %s", strings.Join(args, " "), err, out)
		}
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Errorf("unmount %s: %v", dir, err)
		}
	})
	return dir
}

// The conformance suite fills a tmpfs; these are what sites have.
func TestFullFileSystems(t *testing.T) {
	for mkfs, mib := range map[string]int64{"mkfs.ext4": 64, "mkfs.xfs": 300} {
		t.Run(mkfs, func(t *testing.T) {
			dir := image(t, mkfs, mib)
			t.Run("full", func(t *testing.T) { storetest.Full(t, open, dir) })
			checkFile(t, filepath.Join(dir, "site.db"))
		})
	}
}

// A file system without fallocate: the file is allocated by writing.
func TestNoFallocate(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("ramfs", dir, "ramfs", 0, ""); err != nil {
		t.Fatalf("mount ramfs (needs root): %v", err)
	}
	defer syscall.Unmount(dir, syscall.MNT_DETACH)
	path := filepath.Join(dir, "site.db")
	for range 3 {
		s, err := bolt.Open(bolt.Options{Path: path, Reserve: 1 << 20})
		if err != nil {
			t.Fatal(err)
		}
		for i := range 100 {
			put(t, s, fmt.Sprint(i))
		}
		s.Close()
		if st, err := os.Stat(path); err != nil || st.Size() < 1<<20+100*20000 {
			t.Errorf("the file has %d bytes, %v", st.Size(), err)
		}
		db, err := bbolt.Open(path, 0o600, nil)
		if err != nil {
			t.Fatal(err)
		}
		db.View(func(tx *bbolt.Tx) error {
			for err := range tx.Check() {
				t.Errorf("the file is damaged: %v", err)
			}
			return nil
		})
		db.Close()
	}
}

// A store that cannot be made for want of room leaves nothing behind that stands in the way later.
func TestMadeOnAFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatalf("mount tmpfs (needs root): %v", err)
	}
	defer syscall.Unmount(dir, syscall.MNT_DETACH)
	filler := filepath.Join(dir, "filler")
	for left := range 8 { // pages
		if err := os.WriteFile(filler, make([]byte, 1<<20-left<<12), 0o600); err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(dir, "site.db")
		_, err := bolt.Open(bolt.Options{Path: path})
		if err == nil {
			t.Fatalf("made with %d pages left", left)
		}
		if !errors.Is(err, store.ErrFull) || !strings.HasPrefix(err.Error(), "store.path: ") {
			t.Errorf("error is %v", err)
		}
		if err := os.Remove(filler); err != nil {
			t.Fatal(err)
		}
		s, err := bolt.Open(bolt.Options{Path: path})
		if err != nil {
			t.Fatalf("with room again: %v", err)
		}
		put(t, s, "a")
		s.Close()
		os.Remove(path)
	}
}

// A store that was made before there was a reserve, or with a smaller one, opens on a full disk.
func TestReserveOfAnOlderStore(t *testing.T) {
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=8m"); err != nil {
		t.Fatalf("mount tmpfs (needs root): %v", err)
	}
	defer syscall.Unmount(dir, syscall.MNT_DETACH)
	path := filepath.Join(dir, "site.db")
	db, err := bbolt.Open(path, 0o600, nil) // as bbolt grows it: with holes
	if err != nil {
		t.Fatal(err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucket([]byte("other"))
		for i := 0; err == nil && i < 100; i++ {
			err = b.Put(fmt.Append(nil, i), make([]byte, 1000))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	db.Close()
	filler := filepath.Join(dir, "filler")
	if err := os.WriteFile(filler, make([]byte, 7<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	o := bolt.Options{Path: path, Reserve: 2 << 20}
	s, err := bolt.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Room(t.Context()); !errors.Is(err, store.ErrFull) {
		t.Errorf("Room says %v", err)
	}
	if err := os.Remove(filler); err != nil {
		t.Fatal(err)
	}
	if err := s.Room(t.Context()); err != nil {
		t.Error(err)
	}
	put(t, s, "a")
	s.Close()
	checkFile(t, path)
}
