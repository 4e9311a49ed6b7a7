package volume_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"widecloud/internal/volume"
)

func TestSweep(t *testing.T) {
	ctx := context.Background()
	s := open(t, t.TempDir())
	content := func(n int) []byte { return noise(n * 512) }
	raw := func(n int) volume.Import { return volume.Import{Digest: digest(content(n)), Format: "raw"} }
	used, wanted := importBytes(t, s, content(1)), importBytes(t, s, content(2))
	unused := importBytes(t, s, content(3))
	if _, err := s.Create(ctx, "vm", used.Digest, 0); err != nil {
		t.Fatal(err)
	}
	held, release, err := s.ImportBase(ctx, bytes.NewReader(content(4)), raw(4))
	if err != nil {
		t.Fatal(err)
	}
	// Held twice: by the import that brought it, and by one that finds it here.
	_, release2, err := s.ImportBase(ctx, bytes.NewReader(content(4)), raw(4))
	if err != nil {
		t.Fatal(err)
	}
	keep := func(d volume.Digest) bool { return d == wanted.Digest }
	check := func(want ...volume.Digest) {
		t.Helper()
		removed, err := s.Sweep(ctx, keep)
		if err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(want, removed); d != "" {
			t.Errorf("swept (-want +got):\n%s", d)
		}
		for _, d := range want {
			if s.HasBase(d) {
				t.Errorf("%s is still there", d)
			}
		}
	}
	check(unused.Digest)
	release()
	release() // once more changes nothing
	check()
	release2()
	check(held.Digest)
	if !s.HasBase(used.Digest) || !s.HasBase(wanted.Digest) {
		t.Error("a base in use went")
	}
	// A refused import holds nothing.
	kept := importBytes(t, s, content(5))
	if _, _, err := s.ImportBase(ctx, bytes.NewReader(content(6)), raw(5)); err == nil {
		t.Error("other bytes were taken for those of the digest")
	}
	check(kept.Digest)
	if err := s.Remove(ctx, "vm"); err != nil {
		t.Fatal(err)
	}
	check(used.Digest)
}

// Imports, creations and sweeps at once: no volume is ever without its base, and no import that was recorded is lost.
func TestSweepBesideImports(t *testing.T) {
	ctx := context.Background()
	s := open(t, t.TempDir())
	content := noise(mib)
	var mu sync.Mutex
	recorded := map[volume.Digest]int{}
	record := func(d volume.Digest, n int) {
		mu.Lock()
		defer mu.Unlock()
		recorded[d] += n
	}
	keep := func(d volume.Digest) bool {
		mu.Lock()
		defer mu.Unlock()
		return recorded[d] > 0
	}
	var wg sync.WaitGroup
	done := make(chan struct{})
	swept := 0
	wg.Go(func() {
		for {
			removed, err := s.Sweep(ctx, keep)
			if err != nil {
				t.Error(err)
				return
			}
			swept += len(removed)
			select {
			case <-done:
				return
			default:
			}
		}
	})
	var users sync.WaitGroup
	for i := range 3 {
		users.Go(func() {
			for j := range 8 {
				b, release, err := s.ImportBase(ctx, bytes.NewReader(content), volume.Import{Digest: digest(content), Format: "raw"})
				if err != nil {
					t.Error(err)
					return
				}
				record(b.Digest, 1)
				release()
				id := fmt.Sprintf("vm-%d-%d", i, j)
				if _, err := s.Create(ctx, id, b.Digest, 0); err != nil {
					t.Errorf("create over a recorded base: %v", err)
				}
				record(b.Digest, -1)
				if _, err := s.Base(b.Digest); err != nil {
					t.Errorf("a volume is over it, but: %v", err)
				}
				if err := s.Remove(ctx, id); err != nil {
					t.Error(err)
				}
				// What nobody has recorded may go at any time, but then it is ErrNotFound.
				if _, err := s.Create(ctx, id, b.Digest, 0); err != nil && !errors.Is(err, volume.ErrNotFound) {
					t.Error(err)
				}
				if err := s.Remove(ctx, id); err != nil {
					t.Error(err)
				}
			}
		})
	}
	users.Wait()
	close(done)
	wg.Wait()
	if s.HasBase(digest(content)) {
		swept += len(sweep(t, s))
	}
	if swept == 0 {
		t.Error("nothing was swept")
	}
}
