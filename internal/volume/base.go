package volume

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"widecloud/api"
)

// block is the piece in which an import is written; a piece of zeros becomes a hole.
const block = 256 << 10

var zeros [block]byte

// ImportBase reads a base image from r to its end, checks it, and makes it visible. want is the digest that the bytes must
// have, empty when the user gave none. format is raw, qcow2 or empty (taken from the bytes). limit is the most bytes to
// take, 0 for no limit but the disk's. When the directory has a base of the digest already, it is returned and r is not
// read. A reader that blocks must end by itself when ctx does, as Fetch's does.
//
// The directory is unchanged on error: *api.Error (spec.source, spec.digest, spec.format), ErrNoSpace, r's own, or ctx's.
func (s *Store) ImportBase(ctx context.Context, r io.Reader, want Digest, format string, limit int64) (Base, error) {
	if want != "" {
		if _, err := ParseDigest(string(want)); err != nil {
			return Base{}, err
		}
	}
	switch Format(format) {
	case "", Raw, Qcow2:
	default:
		return Base{}, api.Invalidf("spec.format", "%q is not raw or qcow2", clip(format))
	}
	if want != "" {
		switch b, err := s.Base(want); {
		case err == nil && (format == "" || b.Format == Format(format)):
			return b, nil
		case err == nil:
			return Base{}, api.Invalidf("spec.format", "declared as %s, but the image is %s", format, b.Format)
		case !errors.Is(err, ErrNotFound):
			return Base{}, err
		}
	}
	tmp, err := os.CreateTemp(filepath.Join(s.dir, tmpDir), "import-")
	if err != nil {
		return Base{}, s.full(fmt.Errorf("import base: %w", err), 0)
	}
	defer os.Remove(tmp.Name())
	defer tmp.Close()
	got, size, err := s.receive(ctx, tmp, r, limit)
	if err != nil {
		return Base{}, err
	}
	if want != "" && got != want {
		return Base{}, api.Invalidf("spec.digest", "the source's bytes have %s, expected %s", got, want)
	}
	info, err := Inspect(tmp, size)
	if err != nil {
		return Base{}, err
	}
	if err := s.admit(info, format); err != nil {
		return Base{}, err
	}
	if err := s.secondOpinion(ctx, tmp.Name(), info); err != nil {
		return Base{}, err
	}
	b := Base{Digest: got, Format: info.Format, Path: s.basePath(got, info.Format), Bytes: size, VirtualBytes: info.VirtualBytes}
	s.mu.Lock()
	defer s.mu.Unlock()
	if old, err := s.base(got); err == nil {
		return old, nil // another import of the same bytes was faster
	}
	if err := s.publish(tmp, b.Path, 0o444); err != nil {
		return Base{}, s.full(fmt.Errorf("import base: %w", err), size)
	}
	s.log.Info("imported base", "digest", b.Digest, "format", b.Format, "bytes", b.Bytes, "virtual_bytes", b.VirtualBytes)
	return b, nil
}

// receive writes r to the file, with holes for zeros, and takes its digest on the way.
func (s *Store) receive(ctx context.Context, tmp *os.File, r io.Reader, limit int64) (Digest, int64, error) {
	sum := sha256.New()
	buf := make([]byte, block)
	var size int64
	for {
		if err := ctx.Err(); err != nil {
			return "", 0, fmt.Errorf("import base: %w", context.Cause(ctx))
		}
		// Not io.ReadFull: it calls a short last piece and a body that was cut off by the same name.
		n, err := 0, error(nil)
		for n < len(buf) && err == nil {
			var m int
			m, err = r.Read(buf[n:])
			n += m
		}
		size += int64(n)
		if limit > 0 && size > limit {
			return "", 0, tooLarge(limit)
		}
		if n > 0 {
			sum.Write(buf[:n])
			if !bytes.Equal(buf[:n], zeros[:n]) {
				if _, werr := tmp.WriteAt(buf[:n], size-int64(n)); werr != nil {
					return "", 0, s.full(fmt.Errorf("import base: %w", werr), size)
				}
			}
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return "", 0, fmt.Errorf("import base: read source: %w", err)
		}
	}
	if err := tmp.Truncate(size); err != nil {
		return "", 0, s.full(fmt.Errorf("import base: %w", err), size)
	}
	return Digest("sha256:" + hex.EncodeToString(sum.Sum(nil))), size, nil
}

func tooLarge(limit int64) error {
	return api.Invalidf("spec.source", "the image is larger than the limit of %d bytes", limit)
}

// admit refuses what is well-formed and still not wanted.
func (s *Store) admit(info Info, format string) error {
	if format != "" && Format(format) != info.Format {
		return api.Invalidf("spec.format", "declared as %s, but its bytes are %s", format, info.Format)
	}
	if info.BackingFile != "" || info.HasBacking {
		return api.Invalidf("spec.source", "the image has a backing file (%q); a base image stands alone", clip(info.BackingFile))
	}
	if info.VirtualBytes > s.maxVirt {
		return api.Invalidf("spec.source", "the image's disk has %d bytes, more than the limit of %d", info.VirtualBytes, s.maxVirt)
	}
	return nil
}

// secondOpinion has qemu-img read what Inspect has passed: the format is named, so that nothing is probed, and a file
// that names others never gets here.
func (s *Store) secondOpinion(ctx context.Context, path string, info Info) error {
	out, err := s.qemu(ctx, "info", "-U", "--output=json", "-f", string(info.Format), path)
	if errors.Is(err, errQemuImg) || ctx.Err() != nil {
		return fmt.Errorf("inspect image: %w", err)
	}
	if err != nil {
		// The path of the temporary file is nothing to the user.
		return api.Invalidf("spec.source", "%s", strings.ReplaceAll(err.Error(), path, "the image"))
	}
	var q struct {
		Format    string          `json:"format"`
		Virtual   int64           `json:"virtual-size"`
		Backing   string          `json:"backing-filename"`
		Encrypted bool            `json:"encrypted"`
		Snapshots json.RawMessage `json:"snapshots"`
		Specific  struct {
			Data struct {
				DataFile string          `json:"data-file"`
				Corrupt  bool            `json:"corrupt"`
				Encrypt  json.RawMessage `json:"encrypt"`
			} `json:"data"`
		} `json:"format-specific"`
	}
	if err := json.Unmarshal(out, &q); err != nil {
		return fmt.Errorf("inspect image: read what qemu-img printed: %w", err)
	}
	// Inspect has refused each of these; that the two differ means that one of them reads the image wrongly.
	d := q.Specific.Data
	if q.Format != string(info.Format) || q.Virtual != info.VirtualBytes || q.Backing != "" || q.Encrypted ||
		q.Snapshots != nil || d.DataFile != "" || d.Corrupt || d.Encrypt != nil {
		return api.Invalidf("spec.source", "qemu-img reads the image otherwise than we do: refused")
	}
	return nil
}

func (s *Store) basePath(d Digest, f Format) string {
	return filepath.Join(s.dir, baseDir, d.hex()+"."+string(f))
}

// HasBase is whether the directory has the base.
func (s *Store) HasBase(d Digest) bool {
	_, err := s.Base(d)
	return err == nil
}

// Base describes a base. ErrNotFound: it is not here.
func (s *Store) Base(d Digest) (Base, error) {
	if _, err := ParseDigest(string(d)); err != nil {
		return Base{}, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.base(d)
}

func (s *Store) base(d Digest) (Base, error) {
	for _, f := range []Format{Qcow2, Raw} {
		path := s.basePath(d, f)
		file, err := os.Open(path)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return Base{}, fmt.Errorf("open base: %w", err)
		}
		defer file.Close()
		st, err := file.Stat()
		if err != nil {
			return Base{}, fmt.Errorf("open base: %w", err)
		}
		info, err := inspectHead(file, st.Size())
		if err != nil || info.Format != f {
			return Base{}, fmt.Errorf("open base %s: it is damaged (%v)", d, err)
		}
		return Base{Digest: d, Format: f, Path: path, Bytes: st.Size(), VirtualBytes: info.VirtualBytes}, nil
	}
	return Base{}, fmt.Errorf("base %s: %w", d, ErrNotFound)
}

// Bases lists the bases, by digest.
func (s *Store) Bases() ([]Base, error) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	names, err := os.ReadDir(filepath.Join(s.dir, baseDir))
	if err != nil {
		return nil, fmt.Errorf("list bases: %w", err)
	}
	var out []Base
	for _, e := range names {
		stem, _, _ := strings.Cut(e.Name(), ".")
		d, err := ParseDigest("sha256:" + stem)
		if err != nil {
			s.log.Warn("a file among the bases is none of ours", "file", e.Name())
			continue
		}
		b, err := s.base(d)
		if err != nil || filepath.Base(b.Path) != e.Name() {
			s.log.Warn("a file among the bases cannot be used", "file", e.Name(), "error", err)
			continue
		}
		out = append(out, b)
	}
	return out, nil
}

// OpenBase opens a base for sending it elsewhere; Base.Bytes is what will come. A RemoveBase meanwhile does not disturb the
// reader.
func (s *Store) OpenBase(d Digest) (*os.File, Base, error) {
	b, err := s.Base(d)
	if err != nil {
		return nil, Base{}, err
	}
	f, err := os.Open(b.Path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, Base{}, fmt.Errorf("base %s: %w", d, ErrNotFound)
	}
	if err != nil {
		return nil, Base{}, fmt.Errorf("open base: %w", err)
	}
	return f, b, nil
}

// RemoveBase removes a base; nil when there is none. ErrInUse: a volume is over it.
func (s *Store) RemoveBase(d Digest) error {
	if _, err := ParseDigest(string(d)); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	vols, err := s.list()
	if err != nil {
		return err
	}
	for _, v := range vols {
		if v.Base == d {
			return fmt.Errorf("remove base %s: %w: volume %s is over it", d, ErrInUse, v.ID)
		}
	}
	removed := false
	for _, f := range []Format{Qcow2, Raw} {
		switch err := os.Remove(s.basePath(d, f)); {
		case err == nil:
			removed = true
		case !errors.Is(err, os.ErrNotExist):
			return fmt.Errorf("remove base: %w", err)
		}
	}
	if !removed {
		return nil
	}
	s.log.Info("removed base", "digest", d)
	return syncDir(filepath.Join(s.dir, baseDir))
}
