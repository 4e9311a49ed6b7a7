package volume

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// The memory of a VM that is hibernated is a file beside its disks, which a hypervisor writes and reads. It belongs to the disks as they
// were at that moment: MemorySeal tells whether they still are that.

// memoryPath is the file that is whole; memoryPart the one that is being written.
func (s *Store) memoryPath(id string) string { return filepath.Join(s.dir, memoryDir, id+".memory") }
func (s *Store) memoryPart(id string) string { return filepath.Join(s.dir, memoryDir, id+".part") }

// NewMemory gives the path to which so many MiB of a VM's memory are to be written, and removes what is there of it. ErrNoSpace: there is no
// room for it.
func (s *Store) NewMemory(ctx context.Context, id string, mebibytes int64) (path string, err error) {
	if err := s.RemoveMemory(ctx, id); err != nil {
		return "", err
	}
	if err := s.Room(ctx, mebibytes*mib); err != nil {
		return "", fmt.Errorf("memory of %s: %w", id, err)
	}
	return s.memoryPart(id), nil
}

// Memory is where a VM's saved memory is: the file that is whole, or else the one that was being written. ErrNotFound: neither is there.
func (s *Store) Memory(ctx context.Context, id string) (path string, err error) {
	if err := checkID(id); err != nil {
		return "", err
	}
	for _, path := range []string{s.memoryPath(id), s.memoryPart(id)} {
		if _, err := os.Stat(path); err == nil {
			return path, ctx.Err()
		} else if !errors.Is(err, os.ErrNotExist) {
			return "", fmt.Errorf("memory of %s: %w", id, err)
		}
	}
	return "", fmt.Errorf("memory of %s: %w", id, ErrNotFound)
}

// KeepMemory makes a file that has been written to NewMemory's path, and is whole, the VM's saved memory, on the disk, and seals it.
// It may be repeated.
func (s *Store) KeepMemory(ctx context.Context, id string) (seal string, err error) {
	path, err := s.Memory(ctx, id)
	if err != nil {
		return "", err
	}
	if path == s.memoryPart(id) {
		f, err := os.OpenFile(path, os.O_RDWR, 0)
		if err != nil {
			return "", fmt.Errorf("memory of %s: %w", id, err)
		}
		defer f.Close()
		if err := f.Sync(); err != nil {
			return "", s.full(fmt.Errorf("memory of %s: %w", id, err), 0)
		}
		if err := os.Rename(path, s.memoryPath(id)); err != nil {
			return "", fmt.Errorf("memory of %s: %w", id, err)
		}
	}
	if err := syncDir(filepath.Join(s.dir, memoryDir)); err != nil {
		return "", err
	}
	return s.MemorySeal(ctx, id)
}

// MemorySeal tells the saved memory and the disks that it belongs to by their sizes and by when they were written last. It differs once any
// of them has been written, has gone or has come. ErrNotFound: there is no saved memory.
func (s *Store) MemorySeal(ctx context.Context, id string) (string, error) {
	if err := checkID(id); err != nil {
		return "", err
	}
	if err := ctx.Err(); err != nil {
		return "", err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	names, err := s.diskNames(id)
	if err != nil {
		return "", err
	}
	slices.Sort(names)
	paths := []string{s.memoryPath(id), s.volumePath(id)}
	for _, name := range names {
		paths = append(paths, s.diskPath(id, name))
	}
	var seal []string
	for _, path := range paths {
		st, err := os.Stat(path)
		if errors.Is(err, os.ErrNotExist) {
			return "", fmt.Errorf("%s: %w", filepath.Base(path), ErrNotFound)
		}
		if err != nil {
			return "", fmt.Errorf("memory of %s: %w", id, err)
		}
		seal = append(seal, fmt.Sprintf("%s:%d:%d", strings.TrimPrefix(filepath.Base(path), id+"."), st.Size(), st.ModTime().UnixNano()))
	}
	return strings.Join(seal, " "), nil
}

// RemoveMemory removes a VM's saved memory, whole or not; nil when there is none.
func (s *Store) RemoveMemory(ctx context.Context, id string) error {
	if err := checkID(id); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return errors.Join(s.removeFile(id, s.memoryPart(id)), s.removeFile(id, s.memoryPath(id)))
}

// OpenMemory opens a VM's saved memory, and tells how many bytes it has. ErrNotFound.
func (s *Store) OpenMemory(ctx context.Context, id string) (io.ReadCloser, int64, error) {
	if err := checkID(id); err != nil {
		return nil, 0, err
	}
	f, err := os.Open(s.memoryPath(id))
	if errors.Is(err, os.ErrNotExist) {
		return nil, 0, fmt.Errorf("memory of %s: %w", id, ErrNotFound)
	}
	if err != nil {
		return nil, 0, fmt.Errorf("memory of %s: %w", id, err)
	}
	st, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, 0, fmt.Errorf("memory of %s: %w", id, err)
	}
	return f, st.Size(), ctx.Err()
}

// FillMemory writes a head, and so many bytes of r, to where KeepMemory finds them, and returns the SHA-256 of the latter, in hexadecimal
// digits. ErrNoSpace.
func (s *Store) FillMemory(ctx context.Context, id string, head []byte, n int64, r io.Reader) (digest string, err error) {
	path, err := s.NewMemory(ctx, id, (n+int64(len(head))+mib-1)/mib)
	if err != nil {
		return "", err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return "", s.full(fmt.Errorf("memory of %s: %w", id, err), n)
	}
	defer f.Close()
	sum := sha256.New()
	if _, err = f.Write(head); err == nil {
		_, err = io.CopyN(io.MultiWriter(f, sum), r, n)
	}
	if err != nil {
		return "", s.full(fmt.Errorf("memory of %s: %w", id, err), n)
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}
