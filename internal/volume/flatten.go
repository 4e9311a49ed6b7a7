package volume

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
)

// DiskImport says what a VM's disk is that comes to be made an image of, and bounds it.
type DiskImport struct {
	Base  Digest // that the disk is over at its host, and that is here; empty: none
	Bytes int64  // that the disk has at most
	// Progress, if set, is told how many bytes have been read, and of how many: of the disk as it comes, and of its base, which
	// is here. It must be quick.
	Progress func(done, total int64)
}

// ImportDisk makes a base image of a VM's disk that an Export sends: a sparse qcow2 image that stands alone, whatever the disk is
// over, and that is inspected as every other one. Only what the disk has beside its base comes by r.
//
// Sweep leaves the image alone until release is called; release is not nil on success only. The directory is unchanged on error:
// that of a stream that is not one of such a disk (*api.Error, invalid, field stream), ErrNotFound of the base, ErrNoSpace, r's, or
// ctx's. A read of r that blocks when ctx ends is the caller's to end.
func (s *Store) ImportDisk(ctx context.Context, r io.Reader, d DiskImport) (base Base, release func(), err error) {
	var under Base
	if d.Base != "" {
		if _, err := ParseDigest(string(d.Base)); err != nil {
			return Base{}, nil, err
		}
		var letGo func()
		if under, letGo, err = s.known(d.Base); err != nil {
			return Base{}, nil, err
		}
		defer letGo()
	}
	dir, err := os.MkdirTemp(filepath.Join(s.dir, tmpDir), "disk-")
	if err != nil {
		return Base{}, nil, s.full(fmt.Errorf("import disk: %w", err), overlayRoom)
	}
	defer os.RemoveAll(dir)
	f := flattening{s: s, under: under, d: d, disk: filepath.Join(dir, "disk"), flat: filepath.Join(dir, "flat")}
	if err := f.receive(ctx, r); err != nil {
		return Base{}, nil, s.full(fmt.Errorf("import disk: %w", err), f.most)
	}
	if err := f.merge(ctx); err != nil {
		return Base{}, nil, s.full(fmt.Errorf("import disk: %w", err), f.required)
	}
	return s.adopt(ctx, f.flat)
}

// flattening is a disk on its way to a base image.
type flattening struct {
	s              *Store
	under          Base // the zero Base: none
	d              DiskImport
	disk, flat     string // files
	most, required int64  // bytes: of the disk's data, as announced; of the flat image, at most
}

func (f *flattening) progress(done int64) {
	if f.d.Progress != nil {
		f.d.Progress(done, f.most+f.under.Bytes)
	}
}

// receive writes the disk as a volume over the base that is here.
func (f *flattening) receive(ctx context.Context, r io.Reader) error {
	file, err := os.OpenFile(f.disk, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer file.Close()
	in := &receiver{r: r, sum: sha256.New(), virtual: f.d.Bytes, took: f.progress}
	if err := in.head(); err != nil {
		return err
	}
	if in.virtual == 0 || in.virtual%512 != 0 || in.virtual < f.under.VirtualBytes || in.virtual > f.s.maxVirt {
		return badStream("a disk of %d bytes is not one of a VM whose image has a disk of %d", in.virtual, f.under.VirtualBytes)
	}
	f.most = in.most
	f.progress(0)
	if err := f.s.Room(ctx, f.most+overlayRoom); err != nil {
		return err
	}
	if in.b, err = newBuilder(file, in.virtual); err != nil {
		return err
	}
	if _, err := in.extents(ctx); err != nil {
		return err
	}
	f.progress(f.most)
	return in.b.finish(f.under.Path, f.under.Format)
}

// merge makes the flat image, if there is room for it.
func (f *flattening) merge(ctx context.Context) error {
	out, err := f.s.qemu(ctx, "measure", "--output=json", "-f", "qcow2", "-O", "qcow2", f.disk)
	if err != nil {
		return err
	}
	var size struct {
		Required int64 `json:"required"`
	}
	if err := json.Unmarshal(out, &size); err != nil {
		return fmt.Errorf("read what qemu-img measured: %w", err)
	}
	f.required = size.Required
	if err := f.s.Room(ctx, f.required); err != nil {
		return err
	}
	p := percents{tell: func(percent float64) { f.progress(f.most + int64(percent/100*float64(f.under.Bytes))) }}
	return f.s.qemuRun(ctx, &p, "convert", "-p", "-f", "qcow2", "-O", "qcow2", "-o", "compat=1.1", f.disk, f.flat)
}

// adopt makes a qcow2 file of ours a base, held.
func (s *Store) adopt(ctx context.Context, path string) (Base, func(), error) {
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return Base{}, nil, fmt.Errorf("import disk: %w", err)
	}
	defer file.Close()
	sum := sha256.New()
	size, err := io.Copy(sum, &until{ctx, file})
	if err != nil {
		return Base{}, nil, fmt.Errorf("import disk: %w", err)
	}
	if s.maxBytes > 0 && size > s.maxBytes {
		return Base{}, nil, tooLarge(s.maxBytes)
	}
	return s.finish(ctx, file, Digest("sha256:"+hex.EncodeToString(sum.Sum(nil))), size, string(Qcow2))
}

// until reads until ctx ends.
type until struct {
	ctx context.Context
	r   io.Reader
}

func (u *until) Read(p []byte) (int, error) {
	if u.ctx.Err() != nil {
		return 0, context.Cause(u.ctx)
	}
	return u.r.Read(p)
}

// percents reads the progress that qemu-img prints: "    (12.34/100%)", with carriage returns between.
type percents struct {
	tell func(percent float64)
	left []byte // of a word that is cut off
}

func (p *percents) Write(b []byte) (int, error) {
	p.left = append(p.left, b...)
	for {
		word, rest, whole := bytes.Cut(p.left, []byte("/100%)"))
		if !whole {
			break
		}
		p.left = rest
		if i := bytes.LastIndexByte(word, '('); i >= 0 {
			if n, err := strconv.ParseFloat(string(word[i+1:]), 64); err == nil && n >= 0 && n <= 100 {
				p.tell(n)
			}
		}
	}
	if len(p.left) > 1<<10 {
		p.left = nil
	}
	return len(b), nil
}
