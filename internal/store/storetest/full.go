package storetest

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"widecloud/internal/store"
)

// reserve is that of the stores in these tests; the disks that they are on have a few times as much.
const reserve = 4 << 20

// smallDisk mounts a tmpfs of so many bytes; it needs root.
func smallDisk(t testing.TB, bytes int64) string {
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

// fill takes all that is left of the disk of dir, to the last block, and returns the files that hold it.
func fill(t testing.TB, dir string) (files []string) {
	t.Helper()
	for size := int64(1 << 40); size >= 512; {
		f, err := os.Create(filepath.Join(dir, fmt.Sprintf("fill%d", len(files))))
		if errors.Is(err, syscall.ENOSPC) {
			return files
		}
		must(t, err)
		files = append(files, f.Name())
		for ; size >= 512; size /= 2 {
			if err = syscall.Fallocate(int(f.Fd()), 0, 0, size); err == nil {
				break
			}
			must(t, f.Truncate(0)) // gives back what a file system took before it failed
		}
		must(t, f.Close())
	}
	return files
}

func remove(t testing.TB, files []string) {
	t.Helper()
	for _, f := range files {
		must(t, os.Remove(f))
	}
}

// wantFull checks that err is store.ErrFull, with figures and an advice.
func wantFull(t testing.TB, what string, err error) {
	t.Helper()
	wantErr(t, what, store.ErrFull, err)
	for _, word := range []string{"bytes free", "needs", "make room"} {
		if !strings.Contains(err.Error(), word) {
			t.Fatalf("%s: the error does not say %q: %v", what, word, err)
		}
	}
}

func testRoom(t *testing.T, open Driver) {
	s := openIn(t, open, t.TempDir(), Options{Reserve: reserve})
	must(t, s.Room(t.Context()))
	// Urgent is no other kind of write.
	rev, err := s.Update(store.Urgent(t.Context()), func(tx store.Tx) error { return tx.Put("a", []byte("1")) })
	must(t, err)
	rows, newest := dump(t, s)
	same(t, "content", []string{fmt.Sprintf("a=1@%d,%d", rev, rev)}, rows)
	same(t, "revision", rev, newest)
	must(t, s.Close())
	wantErr(t, "Room of a closed store", store.ErrClosed, s.Room(t.Context()))
}

func testFull(t *testing.T, open Driver) { Full(t, open, smallDisk(t, 4*reserve)) }

// Full fills the disk of dir, which a test has to itself, and sees what is written then. dir has at least twice the reserve of
// 4 MiB free.
func Full(t *testing.T, open Driver, dir string) {
	o := Options{Reserve: reserve}
	s := openIn(t, open, dir, o)
	first := put(t, s, "vms/0", strings.Repeat("v", 10000))
	for i := range 100 {
		put(t, s, fmt.Sprintf("vms/%d", i), strings.Repeat("v", 10000))
	}
	must(t, s.Room(t.Context()))

	filler := fill(t, dir)
	refused(t, s)
	wantFull(t, "Room", s.Room(t.Context()))
	before, rev := dump(t, s)
	refused(t, s) // and again: the first refusal has spoilt nothing
	after, revAfter := dump(t, s)
	same(t, "content after refusals", before, after)
	same(t, "revision after refusals", rev, revAfter)

	migrations(t, s, 30)
	wantFull(t, "Room", s.Room(t.Context()))
	// Old changes go; who watches already misses none.
	watch, err := s.Watch(t.Context(), "", -1)
	must(t, err)
	_, began := dump(t, s)
	migrations(t, s, 3)
	before, rev = dump(t, s)
	for want := began + 1; want <= rev; want++ {
		same(t, "live watch", want, receive(t, watch)[0].Revision)
	}
	_, err = s.Watch(t.Context(), "", first)
	wantErr(t, "watch of changes that made room", store.ErrCompacted, err)

	must(t, s.Close())
	s = openIn(t, open, dir, o)
	after, revAfter = dump(t, s)
	same(t, "content after reopening on the full disk", before, after)
	same(t, "revision after reopening on the full disk", rev, revAfter)
	migrations(t, s, 3)

	remove(t, filler)
	must(t, s.Room(t.Context()))
	put(t, s, "vms/new", strings.Repeat("v", 30000))
	// The reserve is whole again, also for a process that finds the disk full.
	filler = fill(t, dir)
	refused(t, s)
	migrations(t, s, 30)
	remove(t, filler)
	must(t, s.Room(t.Context()))
	fill(t, dir)
	must(t, s.Close())
	s = openIn(t, open, dir, o)
	refused(t, s)
	useUp(t, s)
}

// useUp writes urgent rows until the reserve is used up, and checks that there was one.
func useUp(t *testing.T, s store.Store) {
	t.Helper()
	before, _ := dump(t, s)
	rows := 0
	for ; ; rows++ {
		_, err := s.Update(store.Urgent(t.Context()), func(tx store.Tx) error {
			return tx.Put(fmt.Sprintf("job/%04d", rows), make([]byte, 50000))
		})
		if err != nil {
			wantFull(t, "urgent Update", err)
			break
		}
	}
	// Each is in the change history, too, as long as there is room.
	if rows*50000 < reserve/2 {
		t.Errorf("only %d bytes could be written with a reserve of %d", rows*50000, reserve)
	}
	after, _ := dump(t, s)
	same(t, "rows", len(before)+rows, len(after))
}

// refused writes ordinary rows until the store refuses one: what earlier writes have left in it may be used up, the reserve not.
func refused(t *testing.T, s store.Store) {
	t.Helper()
	for i := range 1000 {
		_, rev := dump(t, s)
		_, err := s.Update(t.Context(), func(tx store.Tx) error {
			return tx.Put(fmt.Sprintf("more/%d-%d", rev, i), []byte(strings.Repeat("m", 20000)))
		})
		if err != nil {
			wantFull(t, "ordinary Update", err)
			return
		}
	}
	t.Fatal("1000 rows of 20 kB were written on a full disk")
}

// migrations writes what so many migrations write: the journal's row, with the VM's order in it, at each step, and the VM.
func migrations(t *testing.T, s store.Store, n int) {
	t.Helper()
	ctx := store.Urgent(t.Context())
	for job := range n {
		row := fmt.Sprintf("migrations/%d", job)
		for step := range 9 {
			size := 10000 + (job*9+step)*7919%60000
			_, err := s.Update(ctx, func(tx store.Tx) error {
				return errors.Join(tx.Put(row, make([]byte, size)), tx.Put(fmt.Sprintf("vms/%d", job), make([]byte, 12000)))
			})
			if err != nil {
				t.Fatalf("migration %d, step %d: %v", job, step, err)
			}
		}
		_, err := s.Update(ctx, func(tx store.Tx) error { return tx.Delete(row) })
		must(t, err)
	}
}

// A reserve that is used up is ErrFull, too, and then everything is still there and goes on when there is room.
func testReserveUsedUp(t *testing.T, open Driver) {
	dir := smallDisk(t, 3*reserve)
	s := openIn(t, open, dir, Options{Reserve: reserve})
	filler := fill(t, dir)
	useUp(t, s)
	remove(t, filler)
	must(t, s.Room(t.Context()))
	put(t, s, "x", "1")
}

// testFullKilled kills a process that writes on a full disk: what it had acknowledged is there.
func testFullKilled(t *testing.T, open Driver) {
	dir := smallDisk(t, 4*reserve)
	s, err := open(dir, Options{Reserve: reserve})
	must(t, err)
	put(t, s, "vms/0", "x")
	must(t, s.Close())
	fill(t, dir)
	for round := range 6 {
		after := 1 + rand.IntN(60)
		t.Logf("round %d: kill after %d acknowledged writes", round, after)
		newest := killWriter(t, dir, childFull, after)
		s, err := open(dir, Options{Reserve: reserve})
		must(t, err)
		must(t, s.View(t.Context(), func(tx store.Tx) error {
			if tx.Revision() < newest {
				t.Errorf("revision is %d after the kill, %d was acknowledged", tx.Revision(), newest)
			}
			for n := max(tx.Revision()-fullKeys+1, 2); n <= tx.Revision(); n++ {
				kv, err := tx.Get(fullKey(n))
				must(t, err)
				if kv.Modified != n || len(kv.Value) != fullSize(n) {
					t.Fatalf("%s has %d bytes of revision %d, want %d of %d", kv.Key, len(kv.Value), kv.Modified, fullSize(n), n)
				}
			}
			return nil
		}))
		must(t, s.Close())
	}
}

// The writes of the child of testFullKilled, by revision: a few keys, written again and again.
const fullKeys = 20

func fullKey(rev int64) string { return fmt.Sprintf("n/%02d", rev%fullKeys) }
func fullSize(rev int64) int   { return int(rev * 7919 % 60000) }
