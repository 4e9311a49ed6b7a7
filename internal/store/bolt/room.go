package bolt

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"

	berrors "go.etcd.io/bbolt/errors"

	"widecloud/internal/store"
)

// The file grows by an eighth of what is in use, within these bounds (bytes): often enough that little of the disk lies idle,
// and seldom enough that the sync of the growth costs nothing.
const (
	minGrowth = 256 << 10
	maxGrowth = 16 << 20
)

// openFile returns a bbolt.Options.OpenFile that notes the file. It allocates a new file's first pages before bbolt writes
// them: a full disk must not leave half a store behind.
func (s *Store) openFile(path string, flag int, mode os.FileMode) (*os.File, error) {
	f, err := os.OpenFile(path, flag, mode)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err == nil && info.Size() == 0 {
		const keepSize = 1 // FALLOC_FL_KEEP_SIZE: bbolt takes an empty file for a new one
		err = syscall.Fallocate(int(f.Fd()), keepSize, 0, 64<<10)
	}
	if err != nil && !unsupported(err) {
		f.Close()
		return nil, fmt.Errorf("allocate: %w", err)
	}
	s.file = f
	return f, nil
}

// unsupported is whether a file system has no fallocate.
func unsupported(err error) bool {
	return errors.Is(err, syscall.EOPNOTSUPP) || errors.Is(err, syscall.ENOSYS)
}

// noSpace is whether an error is that of a full disk or an exhausted quota.
func noSpace(err error) bool { return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) }

// used is the part of the file that bbolt has pages in, in bytes from its beginning. The turn is held.
func (s *Store) used() (int64, error) {
	btx, err := s.begin(false)
	if err != nil {
		return 0, err
	}
	defer btx.Rollback()
	return btx.Size(), nil
}

// grow makes the file large enough for need bytes beside the reserve. store.ErrFull: the disk does not have them; as much of the
// reserve is taken as there is. The turn is held.
func (s *Store) grow(need int64) error {
	used, err := s.used()
	if err != nil {
		return err
	}
	least := used + s.reserve + need
	if s.allocated >= least {
		return nil
	}
	// Beginning with more than is needed, and ending with less: what is left of the disk is worth having.
	want := least + min(max(used/8, minGrowth), maxGrowth)
	for ; want-s.allocated >= minGrowth/4; want = s.allocated + (want-s.allocated)/2 {
		if err := s.allocate(want); !noSpace(err) {
			if err == nil && want < least {
				return s.errFull(least)
			}
			return err
		}
	}
	return s.errFull(least)
}

// allocate makes the file size bytes long, all of them blocks of the disk that have been written: no later write into it can
// then meet a full disk, or needs room for the file system's own tables.
func (s *Store) allocate(size int64) error {
	err := syscall.Fallocate(int(s.file.Fd()), 0, s.allocated, size-s.allocated)
	if err == nil || unsupported(err) {
		err = writeZeros(s.file, s.allocated, size)
	}
	if err == nil {
		err = s.sync(s.file.Sync)
	}
	if err != nil {
		return fmt.Errorf("allocate: %w", err)
	}
	s.allocated = size
	return nil
}

func writeZeros(f *os.File, from, to int64) error {
	zeros := make([]byte, min(1<<20, to-from))
	for from < to {
		n, err := f.WriteAt(zeros[:min(int64(len(zeros)), to-from)], from)
		if err != nil {
			return err
		}
		from += int64(n)
	}
	return nil
}

// allocatedFrom is how far the file has no hole, from the end of what is used. To ask for the blocks again would not do: XFS
// wants them free for that, though the file has them.
func (s *Store) allocatedFrom(used int64) (int64, error) {
	const seekHole = 4 // SEEK_HOLE; the end of the file counts as one
	hole, err := s.file.Seek(used, seekHole)
	switch {
	case errors.Is(err, syscall.ENXIO): // there is nothing behind it
		return used, nil
	case err != nil:
		return 0, fmt.Errorf("look for holes: %w", err)
	}
	return hole, nil
}

// limit is how long the file may become by an Update, in bytes. The rest stays for others: for ordinary Updates the reserve,
// for urgent ones what forget needs, so that the change history can always make room.
func (s *Store) limit(urgent bool) int64 {
	if !urgent {
		return s.allocated - s.reserve
	}
	st := s.db.Stats()
	freelist := int64(st.FreePageN+st.PendingPageN) * 8 // bytes; every transaction writes it anew
	return s.allocated - 2*freelist - 32*int64(s.db.Info().PageSize)
}

// setLimit tells bbolt. The turn is held, so that no other transaction reads it.
func (s *Store) setLimit(bytes int64) { s.db.MaxSize = int(max(bytes, 1)) } // 0 would be none

// keep is the share of the change history that forget leaves: one of so many.
const keep = 8

// forget drops the older part of the change history, on a disk that is full. False: there is nothing left to drop, or no room
// for dropping it. The turn is held.
func (s *Store) forget() (bool, error) {
	btx, err := s.begin(true)
	if err != nil {
		return false, err
	}
	defer btx.Rollback()
	newest, gone := revision(btx), compacted(btx)
	kept := (newest - gone) / keep
	if newest == gone {
		return false, nil
	}
	s.setLimit(s.allocated)
	if err := compact(btx.Bucket(bucketChanges), newest-kept); err != nil {
		return false, fmt.Errorf("compact changes: %w", err)
	}
	err = s.commit(btx, func() {})
	if errors.Is(err, berrors.ErrMaxSizeReached) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("compact changes: %w", err)
	}
	s.log.Warn("no room on the store's disk, dropped old changes", "path", s.path, "revisions", newest-gone-kept, "kept", kept)
	return true, nil
}

// errFull is store.ErrFull with its figures; least is how long the file would have to be.
func (s *Store) errFull(least int64) error {
	free := "an unknown number of"
	var st syscall.Statfs_t
	if err := syscall.Statfs(filepath.Dir(s.path), &st); err == nil {
		free = fmt.Sprint(int64(st.Bavail) * st.Bsize)
	}
	return fmt.Errorf("%w: the disk of %s has %s bytes free, the store needs %d more (its reserve for work under way is %d): "+
		"make room on that disk, for example by removing images or logs", store.ErrFull, s.path, free, least-s.allocated, s.reserve)
}

// Room is nil while the reserve is whole and there is room beside it, and store.ErrFull otherwise. It takes back what the
// reserve lacks, as every Update does.
func (s *Store) Room(ctx context.Context) error {
	if err := s.queue.Lock(ctx); err != nil {
		return err
	}
	defer s.queue.Unlock()
	return s.grow(minGrowth / 4)
}
