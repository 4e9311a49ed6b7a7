package volume

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"path/filepath"
	"strings"

	"widecloud/api"
)

// block is the piece in which an import is written; a piece of zeros becomes a hole.
const block = 256 << 10

var zeros [block]byte

// Import says what an import must be, and bounds it.
type Import struct {
	Digest Digest // that the bytes must have; empty: none is given
	Format string // raw or qcow2; empty: qcow2. A raw image must be declared: any bytes can be taken for one.
	Bytes  int64  // announced; <= 0: unknown
	Limit  int64  // most bytes to take, if that is less than Options.MaxBytes; 0: that
}

// ImportBase reads a base image from r to its end, checks it, and makes it visible. It reads and hashes all of r also when the
// directory has a base of the digest: who knows a digest does not have its content for that. Who need not prove it asks HasBase
// before.
//
// Sweep leaves the base alone until release is called: in between the caller makes it a used one. release is not nil on success only.
//
// It ends when ctx does, even while r blocks; r may then still be in a Read. The directory is unchanged on error: *api.Error
// (spec.source, spec.digest, spec.format), ErrNoSpace, r's own, or ctx's.
func (s *Store) ImportBase(ctx context.Context, r io.Reader, i Import) (base Base, release func(), err error) {
	in := &incoming{r: r, sum: sha256.New(), announced: i.Bytes}
	if in.limit, err = s.accept(ctx, i); err != nil {
		return Base{}, nil, err
	}
	if i.Digest != "" {
		base, release, err := s.known(i.Digest)
		if err == nil {
			if err := s.compare(ctx, in, base, i.Format); err != nil {
				release()
				return Base{}, nil, err
			}
			return base, release, nil
		}
		if !errors.Is(err, ErrNotFound) {
			return Base{}, nil, err
		}
	}
	tmp, err := os.CreateTemp(filepath.Join(s.dir, tmpDir), "import-")
	if err != nil {
		return Base{}, nil, s.full(fmt.Errorf("import base: %w", err), 0)
	}
	defer os.Remove(tmp.Name())
	defer tmp.Close()
	in.file = tmp
	got, err := s.receive(ctx, in)
	if err != nil {
		return Base{}, nil, err
	}
	if i.Digest != "" && got != i.Digest {
		return Base{}, nil, wrongDigest(got, i.Digest)
	}
	return s.finish(ctx, tmp, got, in.size, i.Format)
}

func wrongDigest(got, want Digest) error {
	return api.Invalidf("spec.digest", "the source's bytes have %s, expected %s", got, want)
}

// known is a base that is here, held. ErrNotFound: it is not.
func (s *Store) known(d Digest) (Base, func(), error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, err := s.base(d)
	if err != nil {
		return Base{}, nil, err
	}
	return b, s.hold(d), nil
}

// compare reads an import of a base that is here. There is nothing to write: bytes of another digest are refused.
func (s *Store) compare(ctx context.Context, in *incoming, b Base, format string) error {
	if err := declared(b.Format, format); err != nil {
		return err
	}
	got, err := s.receive(ctx, in)
	if err == nil && got != b.Digest {
		return wrongDigest(got, b.Digest)
	}
	return err
}

// accept judges an import before its first byte, and returns the most bytes that it may have; 0: no limit but the disk's.
func (s *Store) accept(ctx context.Context, i Import) (limit int64, err error) {
	if i.Digest != "" {
		if _, err := ParseDigest(string(i.Digest)); err != nil {
			return 0, err
		}
	}
	switch Format(i.Format) {
	case "", Raw, Qcow2:
	default:
		return 0, api.Invalidf("spec.format", "%q is not raw or qcow2", clip(i.Format))
	}
	if limit = s.maxBytes; i.Limit > 0 && (limit <= 0 || i.Limit < limit) {
		limit = i.Limit
	}
	if limit > 0 && i.Bytes > limit {
		return 0, tooLarge(limit)
	}
	return limit, s.Room(ctx, max(i.Bytes, 0))
}

// incoming is an import's bytes on their way.
type incoming struct {
	r         io.Reader
	sum       hash.Hash
	file      *os.File // nil: the bytes are hashed only
	limit     int64    // 0: none
	announced int64    // <= 0: unknown
	size      int64    // so far
}

// receive reads all bytes, and writes them with holes for zeros.
func (s *Store) receive(ctx context.Context, in *incoming) (Digest, error) {
	buf := make([]byte, block)
	for {
		n, err := readPiece(ctx, in.r, buf)
		if terr := s.take(ctx, in, buf[:n]); terr != nil {
			return "", terr
		}
		if err == io.EOF {
			break
		}
		if err != nil {
			return "", err
		}
	}
	if in.announced > 0 && in.size != in.announced {
		return "", api.Invalidf("spec.source", "the source ended after %d of %d bytes", in.size, in.announced)
	}
	if in.file != nil {
		if err := in.file.Truncate(in.size); err != nil {
			return "", s.full(fmt.Errorf("import base: %w", err), in.size)
		}
	}
	return Digest("sha256:" + hex.EncodeToString(in.sum.Sum(nil))), nil
}

// readPiece fills buf, or as much of it as there is before the end (io.EOF). It does not wait for a reader that blocks when ctx
// ends: then a goroutine stays with it, and buf is not to be used again.
func readPiece(ctx context.Context, r io.Reader, buf []byte) (int, error) {
	if ctx.Err() != nil {
		return 0, fmt.Errorf("import base: %w", context.Cause(ctx))
	}
	type read struct {
		n   int
		err error
	}
	done := make(chan read, 1)
	go func() {
		var got read
		// Not io.ReadFull: it calls a short last piece and a body that was cut off by the same name.
		for got.n < len(buf) && got.err == nil {
			var n int
			n, got.err = r.Read(buf[got.n:])
			got.n += n
		}
		done <- got
	}()
	select {
	case got := <-done:
		if got.err != nil && got.err != io.EOF {
			got.err = fmt.Errorf("import base: read source: %w", got.err)
		}
		return got.n, got.err
	case <-ctx.Done():
		return 0, fmt.Errorf("import base: %w", context.Cause(ctx))
	}
}

// take hashes and writes a piece, unless it is one too many.
func (s *Store) take(ctx context.Context, in *incoming, piece []byte) error {
	at := in.size
	in.size += int64(len(piece))
	switch {
	case in.limit > 0 && in.size > in.limit:
		return tooLarge(in.limit)
	case in.announced > 0 && in.size > in.announced:
		return api.Invalidf("spec.source", "the source has more than the %d bytes that it announced", in.announced)
	}
	in.sum.Write(piece)
	if in.file == nil || bytes.Equal(piece, zeros[:len(piece)]) {
		return nil
	}
	// Others write to the disk, too: what was free at the beginning may not be now.
	if err := s.Room(ctx, int64(len(piece))); err != nil {
		return err
	}
	if _, err := in.file.WriteAt(piece, at); err != nil {
		return s.full(fmt.Errorf("import base: %w", err), in.size)
	}
	return nil
}

// finish inspects what was received and makes it visible, held.
func (s *Store) finish(ctx context.Context, tmp *os.File, got Digest, size int64, format string) (Base, func(), error) {
	info, err := Inspect(tmp, size)
	if err != nil {
		return Base{}, nil, err
	}
	if err := s.admit(info, format); err != nil {
		return Base{}, nil, err
	}
	if err := s.secondOpinion(ctx, tmp.Name(), info); err != nil {
		return Base{}, nil, err
	}
	b := Base{Digest: got, Format: info.Format, Path: s.basePath(got, info.Format), Bytes: size, VirtualBytes: info.VirtualBytes}
	s.mu.Lock()
	defer s.mu.Unlock()
	if old, err := s.base(got); err == nil {
		return old, s.hold(got), nil // another import of the same bytes was faster
	}
	if err := s.publish(tmp, b.Path, 0o444); err != nil {
		return Base{}, nil, s.full(fmt.Errorf("import base: %w", err), size)
	}
	s.log.Info("imported base", "digest", b.Digest, "format", b.Format, "bytes", b.Bytes, "virtual_bytes", b.VirtualBytes)
	return b, s.hold(got), nil
}

func tooLarge(limit int64) error {
	return api.Invalidf("spec.source", "the image is larger than the limit of %d bytes", limit)
}

// admit refuses what is well-formed and still not wanted.
func (s *Store) admit(info Info, format string) error {
	if err := declared(info.Format, format); err != nil {
		return err
	}
	if info.BackingFile != "" || info.HasBacking {
		return api.Invalidf("spec.source", "the image has a backing file (%q); a base image stands alone", clip(info.BackingFile))
	}
	if info.VirtualBytes > s.maxVirt {
		return api.Invalidf("spec.source", "the image's disk has %d bytes, more than the limit of %d", info.VirtualBytes, s.maxVirt)
	}
	return nil
}

// declared judges what a user said of an image's format.
func declared(f Format, format string) error {
	switch {
	case format == "" && f == Raw:
		return api.Invalidf("spec.format", "the image is not qcow2; if it is a raw disk image, declare the format raw")
	case format != "" && Format(format) != f:
		return api.Invalidf("spec.format", "declared as %s, but its bytes are %s", format, f)
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
		return api.Invalidf("spec.source", "%s", plain(strings.ReplaceAll(err.Error(), path, "the image")))
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
