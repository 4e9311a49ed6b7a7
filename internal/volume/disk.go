package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"

	"widecloud/api"
)

// Disk is a disk of a VM beside its volume, over no base.
type Disk struct {
	Name           string
	Path           string // absolute; its format is qcow2
	VirtualBytes   int64
	AllocatedBytes int64
}

// nameSyntax keeps a disk's name a plain part of a file name.
var nameSyntax = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$`)

func checkDisk(id, name string) error {
	if err := checkID(id); err != nil {
		return err
	}
	if !nameSyntax.MatchString(name) {
		return api.Invalidf("name", "%q is not 1 to 64 letters, digits, '-' and '_', a letter or digit first", clip(name))
	}
	return nil
}

// diskPath: an id has no dot, so that a file's name says whose disk it is.
func (s *Store) diskPath(id, name string) string {
	return filepath.Join(s.dir, diskDir, id+"."+name+".qcow2")
}

func (s *Store) checkSize(sizeMiB, least int64) error {
	if sizeMiB < least || sizeMiB > s.maxVirt/mib {
		return api.Invalidf("spec.size_mib", "%d is not %d to %d", sizeMiB, least, s.maxVirt/mib)
	}
	return nil
}

// CreateDisk makes a disk of a VM beside its volume: an empty one. Called again, it returns the disk as it is, written to or not; one
// that is smaller is made larger, so that no guest may have it then. A larger one stays as it is.
//
// Errors: id, name and spec.size_mib (*api.Error, invalid); ErrNoSpace.
func (s *Store) CreateDisk(ctx context.Context, id, name string, sizeMiB int64) (Disk, error) {
	if err := checkDisk(id, name); err != nil {
		return Disk{}, err
	}
	if err := s.checkSize(sizeMiB, 1); err != nil {
		return Disk{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	have, err := s.disk(id, name)
	switch {
	case err == nil && have.VirtualBytes >= sizeMiB*mib:
		return have, nil
	case err == nil:
		if err := s.enlarge(ctx, have.Path, sizeMiB); err != nil {
			return Disk{}, fmt.Errorf("disk %s of %s: %w", name, id, err)
		}
		return s.disk(id, name)
	case !errors.Is(err, ErrNotFound):
		return Disk{}, err
	}
	if err := s.makeEmpty(ctx, s.diskPath(id, name), sizeMiB); err != nil {
		return Disk{}, s.full(fmt.Errorf("create disk %s of %s: %w", name, id, err), overlayRoom)
	}
	s.log.Info("created disk", "vm", id, "disk", name, "size_mib", sizeMiB)
	return s.disk(id, name)
}

// makeEmpty makes an empty qcow2 image, visible when it is whole and on the disk.
func (s *Store) makeEmpty(ctx context.Context, path string, sizeMiB int64) error {
	if err := s.Room(ctx, overlayRoom); err != nil {
		return err
	}
	tmp, err := os.MkdirTemp(filepath.Join(s.dir, tmpDir), "disk-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tmp)
	file := filepath.Join(tmp, "disk")
	if _, err := s.qemu(ctx, "create", "-q", "-f", "qcow2", "-o", "compat=1.1", file, strconv.FormatInt(sizeMiB*mib, 10)); err != nil {
		return err
	}
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	return s.publish(f, path, 0o600)
}

// enlarge makes a qcow2 image that nobody has open larger. qemu-img writes the new size last: killed before, it leaves the old one.
func (s *Store) enlarge(ctx context.Context, path string, sizeMiB int64) error {
	if err := s.Room(ctx, overlayRoom); err != nil {
		return err
	}
	if _, err := s.qemu(ctx, "resize", "-q", "-f", "qcow2", path, strconv.FormatInt(sizeMiB*mib, 10)); err != nil {
		return s.full(err, overlayRoom)
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}

// Grow makes the volume of a VM larger; nil when it is as large already. No guest may have it. ErrNotFound: there is none.
func (s *Store) Grow(ctx context.Context, id string, sizeMiB int64) error {
	if err := checkID(id); err != nil {
		return err
	}
	if err := s.checkSize(sizeMiB, 1); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	u, err := s.stat(id)
	if err != nil || u.VirtualBytes >= sizeMiB*mib {
		return err
	}
	if err := s.enlarge(ctx, u.Path, sizeMiB); err != nil {
		return fmt.Errorf("grow volume %s: %w", id, err)
	}
	s.log.Info("volume has grown", "vm", id, "size_mib", sizeMiB)
	return nil
}

// disk describes a disk. It may be in use.
func (s *Store) disk(id, name string) (Disk, error) {
	fail := func(err error) (Disk, error) { return Disk{}, fmt.Errorf("disk %s of %s: %w", name, id, err) }
	path := s.diskPath(id, name)
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return fail(ErrNotFound)
	}
	if err != nil {
		return fail(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return fail(err)
	}
	info, err := inspectHead(f, st.Size())
	if err != nil {
		return fail(fmt.Errorf("it is damaged (%v)", err)) // %v: not a user's spec.source
	}
	if info.Format != Qcow2 || info.HasBacking {
		return fail(errors.New("it is not a qcow2 image without a base"))
	}
	d := Disk{Name: name, Path: path, VirtualBytes: info.VirtualBytes}
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		d.AllocatedBytes = sys.Blocks * 512
	}
	return d, nil
}

// Disks lists a VM's disks beside its volume, by name.
func (s *Store) Disks(ctx context.Context, id string) (out []Disk, err error) {
	if err := checkID(id); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	names, err := s.diskNames(id)
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		d, err := s.disk(id, name)
		if err != nil {
			return nil, err
		}
		out = append(out, d)
	}
	return out, nil
}

// diskNames are the names of a VM's disks, sorted.
func (s *Store) diskNames(id string) (names []string, err error) {
	files, err := filepath.Glob(s.diskPath(id, "*"))
	if err != nil {
		return nil, err
	}
	for _, f := range files {
		name := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(f), id+"."), ".qcow2")
		if nameSyntax.MatchString(name) {
			names = append(names, name)
		}
	}
	return names, nil
}

// RemoveDisk removes a disk; nil when there is none. That no domain has it open is the caller's to know.
func (s *Store) RemoveDisk(ctx context.Context, id, name string) error {
	if err := checkDisk(id, name); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.removeFile(id, s.diskPath(id, name))
}

// MoveDisk makes a disk of one id another one's, by one rename: kill -9 leaves it with one of the two. there tells whether the second one
// has it then; when the first one has none, nothing is changed. That no domain has it open is the caller's to know.
//
// Errors: id and name (*api.Error, invalid); already-exists, when both have such a disk: neither is lost.
func (s *Store) MoveDisk(ctx context.Context, from, name, to, as string) (there bool, err error) {
	for _, err := range []error{checkDisk(from, name), checkDisk(to, as), ctx.Err()} {
		if err != nil {
			return false, err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	_, old := s.disk(from, name)
	_, have := s.disk(to, as)
	switch {
	case errors.Is(old, ErrNotFound):
		if errors.Is(have, ErrNotFound) {
			return false, nil
		}
		return have == nil, have
	case old != nil:
		return false, old
	case !errors.Is(have, ErrNotFound):
		return have == nil, &api.Error{Code: api.CodeExists, Message: fmt.Sprintf("disk %s of %s is there, and disk %s of %s, too: none of them is replaced", name, from, as, to)}
	}
	if err := os.Rename(s.diskPath(from, name), s.diskPath(to, as)); err != nil {
		return false, fmt.Errorf("move disk %s of %s: %w", name, from, err)
	}
	if err := syncDir(filepath.Join(s.dir, diskDir)); err != nil {
		return false, err
	}
	s.log.Info("moved disk", "from", from, "disk", name, "vm", to, "as", as)
	return true, nil
}

// removeFile removes a file of a VM; nil when there is none.
func (s *Store) removeFile(id, path string) error {
	err := os.Remove(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove volume %s: %w", id, err)
	}
	if err := syncDir(filepath.Dir(path)); err != nil {
		return err
	}
	s.log.Info("removed", "vm", id, "file", filepath.Base(path))
	return nil
}
