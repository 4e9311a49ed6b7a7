package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// hold keeps a base from Sweep until release is called. The caller has s.mu.
func (s *Store) hold(d Digest) (release func()) {
	s.held[d]++
	released := false
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if released {
			return
		}
		released = true
		if s.held[d]--; s.held[d] == 0 {
			delete(s.held, d)
		}
	}
}

// Sweep removes the bases that nobody uses, and returns their digests: those that no volume is over, that no import holds, and
// that keep does not want. It may run beside all other calls.
//
// keep is asked of one base at a time, while nothing can be imported or created, and must answer by what is true at that moment,
// not by an earlier list: an import that has just been released is in what its caller has recorded since. In doubt it says true.
// It must not call the Store.
func (s *Store) Sweep(ctx context.Context, keep func(Digest) bool) (removed []Digest, err error) {
	bases, err := s.Bases()
	if err != nil {
		return nil, err
	}
	for _, b := range bases {
		if err := ctx.Err(); err != nil {
			return removed, err
		}
		gone, err := s.sweepBase(b, keep)
		if err != nil {
			return removed, err
		}
		if gone {
			removed = append(removed, b.Digest)
		}
	}
	return removed, nil
}

func (s *Store) sweepBase(b Base, keep func(Digest) bool) (gone bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held[b.Digest] > 0 || keep(b.Digest) {
		return false, nil
	}
	vols, err := s.list()
	if err != nil {
		return false, err
	}
	for _, v := range vols {
		if v.Base == b.Digest {
			return false, nil
		}
	}
	if err := os.Remove(b.Path); errors.Is(err, os.ErrNotExist) {
		return false, nil
	} else if err != nil {
		return false, fmt.Errorf("remove base: %w", err)
	}
	s.log.Info("removed base", "digest", b.Digest, "bytes", b.Bytes)
	return true, syncDir(filepath.Join(s.dir, baseDir))
}
