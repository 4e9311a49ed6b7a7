package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"widecloud/api"
)

const mib = 1 << 20

// overlayRoom is what an empty overlay may take: header, refcounts, and an L1 table of 8 TiB (128 KiB).
const overlayRoom = 1 * mib

// Create makes the volume of a VM: an empty overlay over a base that is here. sizeMiB 0 is the base's own size, so that the two
// ends of a migration get equal volumes from equal arguments. Called again with the same arguments, it returns the volume as
// it is, written to or not.
//
// Errors: id, spec.digest and spec.size_mib (*api.Error, invalid); already-exists, when there is a volume of that id over
// another base or of another size; ErrNotFound for the base; ErrNoSpace.
func (s *Store) Create(ctx context.Context, id string, base Digest, sizeMiB int64) (Volume, error) {
	if err := checkID(id); err != nil {
		return Volume{}, err
	}
	if sizeMiB < 0 || sizeMiB > s.maxVirt/mib {
		return Volume{}, api.Invalidf("spec.size_mib", "%d is not 0 to %d", sizeMiB, s.maxVirt/mib)
	}
	if _, err := ParseDigest(string(base)); err != nil {
		return Volume{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	b, err := s.base(base)
	if err != nil {
		return Volume{}, fmt.Errorf("create volume %s: %w", id, err)
	}
	size := b.VirtualBytes
	if sizeMiB > 0 {
		size = sizeMiB * mib
	}
	if size < b.VirtualBytes {
		return Volume{}, api.Invalidf("spec.size_mib", "%d is less than the image's disk of %d MiB", sizeMiB, (b.VirtualBytes+mib-1)/mib)
	}
	v := Volume{ID: id, Path: s.volumePath(id), Format: Qcow2, Base: base, BasePath: b.Path, BaseFormat: b.Format, VirtualBytes: size}
	switch old, err := s.stat(id); {
	case err == nil && old.Volume == v:
		return v, nil
	case err == nil:
		return Volume{}, &api.Error{Code: api.CodeExists, Field: "id", Message: fmt.Sprintf(
			"volume %s is there already, over %s with %d bytes", id, old.Base, old.VirtualBytes)}
	case !errors.Is(err, ErrNotFound):
		return Volume{}, err
	}
	if err := s.Room(ctx, overlayRoom); err != nil {
		return Volume{}, fmt.Errorf("create volume %s: %w", id, err)
	}
	// A directory of its own: qemu-img makes the file anew, and CreateTemp's would have been there.
	tmp, err := os.MkdirTemp(filepath.Join(s.dir, tmpDir), "volume-")
	if err != nil {
		return Volume{}, s.full(fmt.Errorf("create volume %s: %w", id, err), overlayRoom)
	}
	defer os.RemoveAll(tmp)
	file := filepath.Join(tmp, "overlay")
	_, err = s.qemu(ctx, "create", "-q", "-f", "qcow2", "-o", "compat=1.1", "-b", b.Path, "-F", string(b.Format), file, strconv.FormatInt(size, 10))
	if err != nil {
		return Volume{}, s.full(fmt.Errorf("create volume %s: %w", id, err), overlayRoom)
	}
	f, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		return Volume{}, fmt.Errorf("create volume %s: %w", id, err)
	}
	defer f.Close()
	if err := s.publish(f, v.Path, 0o600); err != nil {
		return Volume{}, s.full(fmt.Errorf("create volume %s: %w", id, err), overlayRoom)
	}
	s.log.Info("created volume", "vm", id, "digest", base, "virtual_bytes", size)
	return v, nil
}

func (s *Store) volumePath(id string) string {
	return filepath.Join(s.dir, volumeDir, id+".qcow2")
}

// Stat describes a volume and says what it takes. It may be in use. ErrNotFound: there is none.
func (s *Store) Stat(ctx context.Context, id string) (Usage, error) {
	if err := checkID(id); err != nil {
		return Usage{}, err
	}
	if err := ctx.Err(); err != nil {
		return Usage{}, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.stat(id)
}

func (s *Store) stat(id string) (Usage, error) {
	path := s.volumePath(id)
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return Usage{}, fmt.Errorf("volume %s: %w", id, ErrNotFound)
	}
	if err != nil {
		return Usage{}, fmt.Errorf("read volume %s: %w", id, err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return Usage{}, fmt.Errorf("read volume %s: %w", id, err)
	}
	info, err := inspectHead(f, st.Size())
	if err != nil {
		return Usage{}, fmt.Errorf("read volume %s: it is damaged (%v)", id, err) // %v: not a user's spec.source
	}
	stem, ext, _ := strings.Cut(filepath.Base(info.BackingFile), ".")
	base, err := ParseDigest("sha256:" + stem)
	if err != nil || info.Format != Qcow2 || ext != string(info.BackingFormat) || info.BackingFile != s.basePath(base, info.BackingFormat) {
		return Usage{}, fmt.Errorf("read volume %s: it is not an overlay over a base of this directory", id)
	}
	u := Usage{Volume: Volume{ID: id, Path: path, Format: Qcow2, Base: base, BasePath: info.BackingFile,
		BaseFormat: info.BackingFormat, VirtualBytes: info.VirtualBytes}}
	if sys, ok := st.Sys().(*syscall.Stat_t); ok {
		u.AllocatedBytes = sys.Blocks * 512
	}
	return u, nil
}

// List lists the volumes, by id. One that cannot be read is an error: a base must not go because its user was overlooked.
func (s *Store) List(ctx context.Context) ([]Usage, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.list()
}

func (s *Store) list() ([]Usage, error) {
	names, err := os.ReadDir(filepath.Join(s.dir, volumeDir))
	if err != nil {
		return nil, fmt.Errorf("list volumes: %w", err)
	}
	var out []Usage
	for _, e := range names {
		id, ok := strings.CutSuffix(e.Name(), ".qcow2")
		if !ok || checkID(id) != nil {
			return nil, fmt.Errorf("list volumes: %s is none of ours", filepath.Join(s.dir, volumeDir, e.Name()))
		}
		u, err := s.stat(id)
		if err != nil {
			return nil, err
		}
		out = append(out, u)
	}
	return out, nil
}

// Remove removes a VM's volume, seed and further disks; nil when there are none. That no domain has them open is the caller's to know:
// one that has keeps what it opened, without a name.
func (s *Store) Remove(ctx context.Context, id string) error {
	if err := checkID(id); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	names, err := s.diskNames(id)
	if err != nil {
		return fmt.Errorf("remove volume %s: %w", id, err)
	}
	paths := []string{s.memoryPath(id), s.memoryPart(id), s.volumePath(id), filepath.Join(s.dir, seedDir, id+".iso")}
	for _, name := range names {
		paths = append(paths, s.diskPath(id, name))
	}
	for _, path := range paths {
		if err := s.removeFile(id, path); err != nil {
			return err
		}
	}
	return nil
}
