package folder

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"image/jpeg"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"widecloud/internal/sentry/reel"
	"widecloud/internal/sentry/still"
)

// SourceOptions are the options of a Source.
type SourceOptions struct {
	Dir     string
	Channel string
	Size    int
	Every   time.Duration // how often it looks
	Reel    *reel.Reel
	Log     *slog.Logger
}

// Source takes the JPEGs of a directory as the stills of a channel in one size: files that end with .jpg or .jpeg and do
// not begin with a dot, each when it is new or has changed, in the order of their times.
type Source struct {
	o    SourceOptions
	last uint64
	seen map[string]state
}

// state is how a file was when it was looked at.
type state struct {
	at   time.Time
	size int64
}

// NewSource makes a Source. The directory need not be there yet.
func NewSource(o SourceOptions) *Source { return &Source{o: o, seen: map[string]state{}} }

// Run takes stills until ctx ends.
func (s *Source) Run(ctx context.Context) error {
	t := time.NewTicker(s.o.Every)
	defer t.Stop()
	for failing := false; ; {
		err := s.Take()
		if err != nil && !failing {
			s.o.Log.Warn("cannot take stills", "dir", s.o.Dir, "channel", s.o.Channel, "err", err)
		}
		failing = err != nil
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
	}
}

// maxFiles is how many files of a directory are looked at: one that has more is not meant for this.
const maxFiles = 10_000

// Take takes what is new. Of several new files only the newest is read: the others would be late at once.
func (s *Source) Take() error {
	d, err := os.Open(s.o.Dir)
	if err != nil {
		return err
	}
	entries, err := d.ReadDir(maxFiles)
	d.Close()
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	now := map[string]state{}
	newest := ""
	for _, e := range entries {
		ext := strings.ToLower(filepath.Ext(e.Name()))
		if strings.HasPrefix(e.Name(), ".") || !slices.Contains([]string{".jpg", ".jpeg"}, ext) || !e.Type().IsRegular() {
			continue
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		st := state{info.ModTime(), info.Size()}
		now[e.Name()] = st
		if s.seen[e.Name()] != st && (newest == "" || st.at.After(now[newest].at)) {
			newest = e.Name()
		}
	}
	if newest == "" {
		s.seen = now
		return nil
	}
	whole, err := s.read(newest, now[newest])
	if whole || err != nil {
		s.seen = now
	}
	return err
}

// read adds a file's JPEG to the reel; whole: it is one.
func (s *Source) read(name string, st state) (whole bool, err error) {
	if st.size > still.MaxBytes {
		return false, fmt.Errorf("%s: %d bytes are more than %d", name, st.size, still.MaxBytes)
	}
	b, err := os.ReadFile(filepath.Join(s.o.Dir, name))
	if err != nil {
		return false, err
	}
	if !bytes.HasSuffix(b, []byte{0xff, 0xd9}) {
		return false, nil // it is being written
	}
	c, err := jpeg.DecodeConfig(bytes.NewReader(b))
	if err != nil {
		return false, fmt.Errorf("%s: %w", name, err)
	}
	n := still.Next(s.last, st.at)
	if f := s.o.Reel.Newest(s.o.Channel, s.o.Size); f != nil {
		n = max(n, f.Number+1)
	}
	err = s.o.Reel.Add(still.Still{Channel: s.o.Channel, Size: s.o.Size, Number: n, Taken: st.at, Width: c.Width, Height: c.Height, JPEG: b})
	if err == nil {
		s.last = n
	}
	return true, err
}

// CaptionOptions are the options of Captions.
type CaptionOptions struct {
	File    string // its first line is shown; the rest is the text for those who do not see the picture
	Channel string
	Every   time.Duration
	Reel    *reel.Reel
	Log     *slog.Logger
	Now     func() time.Time
}

// Captions takes a channel's captions from a file until ctx ends: its text, each time that it has changed.
func Captions(ctx context.Context, o CaptionOptions) error {
	t := time.NewTicker(o.Every)
	defer t.Stop()
	last := reel.Caption{}
	for {
		c, err := readCaption(o.File)
		if err == nil && (c.Text != last.Text || c.Alt != last.Alt) {
			c.From = o.Now()
			if err = o.Reel.AddCaption(o.Channel, c); err == nil || errors.Is(err, still.ErrBounds) {
				last = c // otherwise it is tried again
			}
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			o.Log.Warn("cannot take a caption", "file", o.File, "channel", o.Channel, "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-t.C:
		}
	}
}

func readCaption(file string) (reel.Caption, error) {
	f, err := os.Open(file)
	if err != nil {
		return reel.Caption{}, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, 2*reel.MaxCaption+1))
	text, alt, _ := strings.Cut(string(b), "\n")
	return reel.Caption{Text: strings.TrimSpace(text), Alt: strings.TrimSpace(alt)}, err
}
