package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"os"
	"syscall"
	"time"
)

// scan emits the pictures of a stream until it ends.
func scan(r io.Reader, emit func(Frame)) error {
	s := NewScanner(r, MaxJPEG)
	for {
		b, err := s.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		emit(Frame{Taken: time.Now(), JPEG: b})
	}
}

// Pipe reads MJPEG from a named pipe, or from the standard input if Path is "-". A named pipe stays open when its writer
// ends, and the next one goes on.
type Pipe struct{ Path string }

// Run is Source's.
func (p Pipe) Run(ctx context.Context, emit func(Frame)) error {
	f, err := p.open()
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { f.Close() })
	defer stop()
	defer f.Close()
	err = scan(f, emit)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

func (p Pipe) open() (*os.File, error) {
	if p.Path == "-" {
		// Else a read could not be ended.
		if err := syscall.SetNonblock(0, true); err != nil {
			return nil, fmt.Errorf("read the standard input: %w", err)
		}
		return os.NewFile(0, "standard input"), nil
	}
	info, err := os.Stat(p.Path)
	if err != nil {
		return nil, err
	}
	if info.Mode()&os.ModeNamedPipe == 0 {
		return nil, fmt.Errorf("%s is not a named pipe (mkfifo); a file of video is read by ffmpeg", p.Path)
	}
	// For writing as well: so there is always a writer, and opening does not wait for one.
	return os.OpenFile(p.Path, os.O_RDWR|syscall.O_NONBLOCK, 0)
}

// HTTP reads a camera: multipart/x-mixed-replace, or a JPEG that is fetched again and again. A user and a password in the
// URL are sent by Basic authentication.
type HTTP struct {
	URL   string
	Every time.Duration // between two fetches of a single JPEG
}

// Run is Source's.
func (h HTTP) Run(ctx context.Context, emit func(Frame)) error {
	t := http.DefaultTransport.(*http.Transport).Clone()
	defer t.CloseIdleConnections()
	client := &http.Client{Transport: t}
	tick := time.NewTicker(h.Every)
	defer tick.Stop()
	for {
		single, err := h.get(ctx, client, emit)
		if err != nil || !single {
			return h.plain(err)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
	}
}

// get makes one request, and tells whether its answer was a single picture.
func (h HTTP) get(ctx context.Context, client *http.Client, emit func(Frame)) (single bool, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, h.URL, nil)
	if err != nil {
		return false, err
	}
	res, err := client.Do(req)
	if err != nil {
		return false, err
	}
	defer res.Body.Close()
	kind, _, err := mime.ParseMediaType(res.Header.Get("Content-Type"))
	switch {
	case res.StatusCode != http.StatusOK:
		return false, fmt.Errorf("the camera answers %s", res.Status)
	case err == nil && kind == "image/jpeg":
		return true, scan(io.LimitReader(res.Body, MaxJPEG), emit)
	case err == nil && kind == "multipart/x-mixed-replace":
		return false, scan(res.Body, emit)
	}
	return false, fmt.Errorf("the camera sends %q, neither image/jpeg nor multipart/x-mixed-replace", res.Header.Get("Content-Type"))
}

// plain leaves the password out of an error.
func (h HTTP) plain(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return fmt.Errorf("read the camera: %w", u.Err)
	}
	return err
}
