package folder

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"time"

	"widecloud/internal/sentry/reel"
	"widecloud/internal/sentry/still"
)

// WriterOptions are the options of a Writer.
type WriterOptions struct {
	Dir   string // is made if it is not there
	Reel  *reel.Reel
	Every time.Duration // how often it looks for new stills; a still may be that much later here than in the reel
	Log   *slog.Logger

	// Files are more files to write, by name, when there is another channel or size: the page. nil: none.
	Files func(channels []string) map[string][]byte
}

// Writer writes what a reel has into a directory.
type Writer struct {
	o       WriterOptions
	written map[string]uint64 // number of the newest still in each CHANNEL/SIZE
	files   int               // how many of them there were when Files was written
}

// NewWriter makes a Writer. Its directory must be writable.
func NewWriter(o WriterOptions) (*Writer, error) {
	if err := os.MkdirAll(filepath.Join(o.Dir, "stills"), 0o755); err != nil {
		return nil, fmt.Errorf("directory for stills: %w", err)
	}
	return &Writer{o: o, written: map[string]uint64{}}, nil
}

// Run writes until ctx ends. What cannot be written is logged, and tried again with the next still.
func (w *Writer) Run(ctx context.Context) error {
	t := time.NewTicker(w.o.Every)
	defer t.Stop()
	for failing := false; ; {
		err := w.Write()
		if err != nil && !failing {
			w.o.Log.Error("cannot write stills", "dir", w.o.Dir, "err", err)
		}
		failing = err != nil
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
	}
}

// Write writes what is new, and removes what the reel does not keep any more.
func (w *Writer) Write() error {
	var errs []error
	channels := w.o.Reel.Channels()
	for _, name := range channels {
		for size := range still.Sizes {
			if f := w.o.Reel.Newest(name, size); f != nil {
				errs = append(errs, w.still(f))
			}
		}
	}
	if w.o.Files != nil && w.files != len(w.written) {
		w.files = len(w.written)
		for name, b := range w.o.Files(channels) {
			errs = append(errs, replace(filepath.Join(w.o.Dir, name), b, time.Time{}))
		}
	}
	return errors.Join(errs...)
}

// still writes f, if it is not written yet, and removes old ones of its channel and size.
func (w *Writer) still(f *reel.Frame) error {
	key := filepath.Join("stills", f.Channel, strconv.Itoa(f.Size))
	if w.written[key] == f.Number {
		return nil
	}
	dir := filepath.Join(w.o.Dir, key)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	name := filepath.Join(dir, strconv.FormatUint(f.Number, 10)+".jpg")
	if err := replace(name, f.JPEG, f.Taken); err != nil {
		return err
	}
	// A second name for the same file: it takes no room, and replaces the last newest one at once.
	link := filepath.Join(dir, ".newest")
	if err := os.Remove(link); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Link(name, link); err != nil {
		return err
	}
	if err := os.Rename(link, filepath.Join(dir, "newest.jpg")); err != nil {
		return err
	}
	w.written[key] = f.Number
	return w.prune(dir, f)
}

var numbered = regexp.MustCompile(`^[1-9][0-9]{0,15}\.jpg$`)

// prune removes the stills before the oldest that the reel keeps.
func (w *Writer) prune(dir string, f *reel.Frame) error {
	oldest := w.o.Reel.Oldest(f.Channel, f.Size)
	entries, err := os.ReadDir(dir)
	if oldest == nil || err != nil {
		return err
	}
	for _, e := range entries {
		if !numbered.MatchString(e.Name()) {
			continue
		}
		n, err := strconv.ParseUint(e.Name()[:len(e.Name())-len(".jpg")], 10, 64)
		if err == nil && n < oldest.Number {
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// replace writes a file and gives it its name when it is complete. It is not synced: what is lost with the machine is old.
func replace(name string, b []byte, at time.Time) error {
	if old, err := os.ReadFile(name); err == nil && bytes.Equal(old, b) {
		return nil
	}
	part := filepath.Join(filepath.Dir(name), "."+filepath.Base(name)+".part")
	if err := os.WriteFile(part, b, 0o644); err != nil {
		return err
	}
	if !at.IsZero() {
		if err := os.Chtimes(part, at, at); err != nil {
			return err
		}
	}
	return os.Rename(part, name)
}
