package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"widecloud/internal/sentry/pattern"
)

// Directory gives the JPEGs of a directory (*.jpg, *.jpeg): all in the order of their names, again and again; or, with
// Newest, always the one that was changed last, as cameras store them.
type Directory struct {
	Path   string
	Every  time.Duration
	Newest bool
}

// Run is Source's.
func (d Directory) Run(ctx context.Context, emit func(Frame)) error {
	t := time.NewTicker(d.Every)
	defer t.Stop()
	var round []string
	var shown time.Time
	for {
		if len(round) == 0 || d.Newest {
			all, changed, err := d.list()
			if err != nil {
				return err
			}
			switch round = all; {
			case d.Newest && !changed.After(shown):
				round = nil // it has been shown
			case d.Newest:
				shown = changed
			}
		}
		if len(round) > 0 {
			b, err := whole(round[0])
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			round = round[1:]
			if b != nil {
				emit(Frame{Taken: time.Now(), JPEG: b})
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.C:
		}
	}
}

// list gives the JPEGs' paths in order; with Newest the one that was changed last, and when.
func (d Directory) list() (paths []string, changed time.Time, err error) {
	entries, err := os.ReadDir(d.Path)
	if err != nil {
		return nil, changed, err
	}
	for _, e := range entries {
		if ext := strings.ToLower(filepath.Ext(e.Name())); ext != ".jpg" && ext != ".jpeg" {
			continue
		}
		path := filepath.Join(d.Path, e.Name())
		if !d.Newest {
			paths = append(paths, path)
			continue
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue // removed meanwhile
		}
		if err != nil {
			return nil, changed, err
		}
		if info.ModTime().After(changed) {
			paths, changed = []string{path}, info.ModTime()
		}
	}
	if len(paths) == 0 && !d.Newest {
		return nil, changed, fmt.Errorf("%s has no *.jpg", d.Path)
	}
	slices.Sort(paths)
	return paths, changed, nil
}

// whole reads a file's picture; nil: it is not whole, because it is being written, or no JPEG.
func whole(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := NewScanner(io.LimitReader(f, MaxJPEG), MaxJPEG).Next()
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, nil
	}
	return b, err
}

// Pattern draws test pictures, numbered from 1. See package pattern.
type Pattern struct {
	Width, Height int
	Every         time.Duration
}

// Run is Source's.
func (p Pattern) Run(ctx context.Context, emit func(Frame)) error {
	t := time.NewTicker(p.Every)
	defer t.Stop()
	for n := uint64(1); ; n++ {
		now := time.Now()
		emit(Frame{Taken: now, Picture: pattern.Draw(n, now, p.Width, p.Height)})
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-t.C:
		}
	}
}
