package bolt

import (
	"errors"
	"fmt"
	"syscall"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"widecloud/internal/store"
)

// unsure is a commit whose meta page was written but perhaps not synced.
type unsure struct {
	err     error  // of the sync
	publish func() // to be called once it is synced
}

// commit commits btx and calls publish when it has taken effect. bbolt syncs the pages first and then the meta page that makes
// them valid, and it shows the new meta page to readers before that is synced; so readers wait for the end of a commit, and
// never see what a power cut could take back.
//
// An error means that nothing was changed, unless it is store.ErrUnsure.
func (s *Store) commit(btx *bbolt.Tx, publish func()) error {
	id := btx.ID()
	s.synced.Lock()
	defer s.synced.Unlock()
	err := btx.Commit()
	switch {
	case err == nil:
		publish()
		return nil
	case errors.Is(err, berrors.ErrMaxSizeReached):
		return err // met before the first write
	}
	if seen, verr := s.begin(false); verr == nil {
		newest := seen.ID()
		seen.Rollback()
		if newest < id { // the meta page was not written
			if noSpace(err) { // a file system that writes each block to a new place
				err = fmt.Errorf("%w: %w", store.ErrFull, err)
			}
			return err
		}
	}
	s.unsure = &unsure{err: err, publish: publish}
	return s.settleLocked()
}

// settle finds out whether a commit took effect whose outcome was not known. store.ErrUnsure: it is still not known.
func (s *Store) settle() error {
	s.synced.Lock()
	defer s.synced.Unlock()
	return s.settleLocked()
}

// settleLocked writes the meta page again and syncs it. The kernel reports a failed sync once, and then takes the page for
// clean, though the disk may not have it: only a new write makes sure.
func (s *Store) settleLocked() error {
	if s.unsure == nil {
		return nil
	}
	if err := s.rewriteMeta(); err != nil {
		return fmt.Errorf("%w: %w; writing it again: %w; see to the disk of %s", store.ErrUnsure, s.unsure.err, err, s.path)
	}
	s.log.Warn("a commit failed and was repeated", "path", s.path, "err", s.unsure.err)
	s.unsure.publish()
	s.unsure = nil
	return nil
}

func (s *Store) rewriteMeta() error {
	btx, err := s.begin(false)
	if err != nil {
		return err
	}
	newest := int64(btx.ID())
	btx.Rollback()
	page := make([]byte, s.db.Info().PageSize)
	at := newest % 2 * int64(len(page)) // transactions take the two meta pages by turns
	if _, err := s.file.ReadAt(page, at); err != nil {
		return fmt.Errorf("read meta page: %w", err)
	}
	if _, err := s.file.WriteAt(page, at); err != nil {
		return fmt.Errorf("write meta page: %w", err)
	}
	return s.sync(func() error { return syscall.Fdatasync(int(s.file.Fd())) })
}

// sync calls f, unless the store is one without syncs.
func (s *Store) sync(f func() error) error {
	if s.db.NoSync {
		return nil
	}
	return f()
}

// read begins a transaction that sees only what is synced.
func (s *Store) read() (*bbolt.Tx, error) {
	for {
		s.synced.RLock()
		if s.unsure == nil {
			defer s.synced.RUnlock()
			return s.begin(false)
		}
		s.synced.RUnlock()
		if err := s.settle(); err != nil {
			return nil, err
		}
	}
}
