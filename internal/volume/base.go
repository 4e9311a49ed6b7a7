package volume

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

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

// OpenBase opens a base for sending it elsewhere; Base.Bytes is what will come. A Sweep meanwhile does not disturb the
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
