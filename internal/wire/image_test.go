package wire_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"widecloud/api"
	"widecloud/internal/wire"
)

// imageHead is what begins an image.
func imageHead(size uint64, format string) []byte {
	return append(binary.BigEndian.AppendUint64(nil, size), format+"\n"...)
}

// serveImage has osaka answer each opening of an image with f.
func serveImage(p *pair, f func(ctx context.Context, s *wire.Stream) error) {
	wire.HandleStream(p.osaka.mux, "POST /image", func(ctx context.Context, _ wire.Identity, _ wire.ImageHeader, s *wire.Stream) error {
		if err := s.Accept(); err != nil {
			return err
		}
		return f(ctx, s)
	})
}

func TestImage(t *testing.T) {
	p := newPair(t, wire.Bulk, nil)
	defer p.close()
	for _, want := range []string{"", "x", strings.Repeat("0123456789", 100_000)} {
		wire.HandleStream(p.osaka.mux, fmt.Sprintf("POST /image/%d", len(want)), func(_ context.Context, _ wire.Identity, h wire.ImageHeader, s *wire.Stream) error {
			if h.Digest != "sha256:1" {
				return api.Errorf(api.CodeNotFound, "no image %s", h.Digest)
			}
			return wire.SendImage(s, "qcow2", int64(len(want)), strings.NewReader(want+"more"))
		})
		format, size, content, err := wire.OpenImage(t.Context(), p.s, fmt.Sprintf("/image/%d", len(want)), "sha256:1")
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(content)
		if err != nil || string(got) != want || format != "qcow2" || size != int64(len(want)) {
			t.Errorf("%d octets of %d, %s, %v; want %d", len(got), size, format, err, len(want))
		}
		content.Close()
	}
	if _, _, _, err := wire.OpenImage(t.Context(), p.s, "/image/1", "sha256:2"); !errors.Is(err, &api.Error{Code: api.CodeNotFound}) {
		t.Errorf("an image that is not there: %v", err)
	}
}

// TestImageAnswers has the other end send what is no image. Nothing of it is gathered in memory, and nothing panics.
func TestImageAnswers(t *testing.T) {
	invalid := &api.Error{Code: api.CodeInvalid}
	for name, c := range map[string]struct {
		begin []byte
		more  string // repeated without end
		want  error
	}{
		"endless format":   {make([]byte, 8), strings.Repeat("x", 64<<10), invalid},
		"2^63 octets":      {imageHead(1<<63, "raw"), "0123456789", invalid},
		"2^64-1 octets":    {imageHead(1<<64-1, "raw"), "0123456789", invalid},
		"no format":        {imageHead(10, ""), "0123456789", invalid},
		"format with path": {imageHead(10, "../raw"), "0123456789", invalid},
		"format of spaces": {imageHead(10, " raw "), "0123456789", invalid},
		"nothing":          {nil, "", io.EOF},
		"half a length":    {[]byte{0, 0, 0}, "", io.ErrUnexpectedEOF},
		"no end of format": {append(make([]byte, 8), "raw"...), "", io.EOF},
		"ends early":       {append(imageHead(10, "raw"), "012345678"...), "", io.ErrUnexpectedEOF},
		"2^63-1 octets":    {append(imageHead(1<<63-1, "raw"), "012345678"...), "", io.ErrUnexpectedEOF},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPair(t, wire.Bulk, nil)
			defer p.close()
			took := make(chan int, 1)
			serveImage(p, func(_ context.Context, s *wire.Stream) error {
				n, err := s.Write(c.begin)
				for m := 0; err == nil && c.more != "" && n < 64<<20; n += m {
					m, err = s.Write([]byte(c.more))
				}
				took <- n
				return nil
			})
			_, size, content, err := wire.OpenImage(t.Context(), p.s, "/image", "sha256:1")
			if err == nil {
				if size < 0 {
					t.Errorf("size %d", size)
				}
				_, err = io.Copy(io.Discard, content)
				content.Close()
			}
			if !errors.Is(err, c.want) {
				t.Errorf("got %v, want %v", err, c.want)
			}
			if n := <-took; n > 1<<20 {
				t.Errorf("%d octets were taken", n)
			}
		})
	}
}

// TestImageStalls has either end stand still. The other gives up after a minute, and says so; one that is only slow is
// waited for.
func TestImageStalls(t *testing.T) {
	for name, c := range map[string]struct {
		sent  int           // octets before the sender stands still
		pause time.Duration // between octets before that
		size  int
	}{
		"before the head":       {0, 0, 1000},
		"in the head":           {5, time.Second, 1000},
		"after the head":        {12, 0, 1000},
		"in the content":        {500, 0, 1000},
		"slow, then not at all": {60, 50 * time.Second, 1000},
	} {
		t.Run("sender, "+name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPair(t, wire.Bulk, nil)
				defer p.close()
				all := append(imageHead(uint64(c.size), "raw"), make([]byte, c.size)...)
				torn := make(chan error, 1)
				serveImage(p, func(ctx context.Context, s *wire.Stream) error {
					if c.pause == 0 {
						s.Write(all[:c.sent])
					} else {
						drip(s, all[:c.sent], c.pause)
					}
					<-ctx.Done()
					torn <- ctx.Err()
					return nil
				})
				began := time.Now()
				_, _, content, err := wire.OpenImage(t.Context(), p.s, "/image", "sha256:1")
				if err == nil {
					_, err = io.Copy(io.Discard, content)
					content.Close()
				}
				want := max(time.Duration(c.sent-1), 0)*c.pause + time.Minute
				if took := time.Since(began); took < want-time.Second || took > want+time.Second {
					t.Errorf("given up after %v, want %v", took, want)
				}
				if !errors.Is(err, &api.Error{Code: api.CodeUnavailable}) || !strings.Contains(err.Error(), "nothing of the image has come for 1m0s") {
					t.Errorf("got %v", err)
				}
				p.s.Close()
				<-torn
			})
		})
	}
	t.Run("receiver", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			p := newPair(t, wire.Bulk, nil)
			defer p.close()
			ended := make(chan time.Duration, 1)
			result := make(chan error, 1)
			serveImage(p, func(_ context.Context, s *wire.Stream) error {
				began := time.Now()
				err := wire.SendImage(s, "raw", 10<<20, bytes.NewReader(make([]byte, 10<<20)))
				ended <- time.Since(began)
				result <- err
				return err
			})
			_, _, content, err := wire.OpenImage(t.Context(), p.s, "/image", "sha256:1")
			if err != nil {
				t.Fatal(err)
			}
			defer content.Close()
			for range 10 { // slow at first
				time.Sleep(50 * time.Second)
				if _, err := io.CopyN(io.Discard, content, 128<<10); err != nil {
					t.Fatal(err)
				}
			}
			if took := <-ended; took < 550*time.Second || took > 621*time.Second {
				t.Errorf("given up after %v", took)
			}
			if err := <-result; !errors.Is(err, &api.Error{Code: api.CodeUnavailable}) || !strings.Contains(err.Error(), "taken nothing for 1m0s") {
				t.Errorf("the sender's error: %v", err)
			}
			if _, err := io.Copy(io.Discard, content); !errors.Is(err, &api.Error{Code: api.CodeUnavailable}) || !strings.Contains(err.Error(), "taken nothing for 1m0s") {
				t.Errorf("the receiver's error: %v", err)
			}
		})
	})
}

// TestImageGivenUp ends the opening's context while the head is waited for.
func TestImageGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPair(t, wire.Bulk, nil)
		defer p.close()
		ended := make(chan struct{})
		serveImage(p, func(ctx context.Context, s *wire.Stream) error {
			<-ctx.Done()
			close(ended)
			return nil
		})
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		began := time.Now()
		if _, _, _, err := wire.OpenImage(ctx, p.s, "/image", "sha256:1"); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) > 6*time.Second {
			t.Errorf("after %v: %v", time.Since(began), err)
		}
		<-ended
	})
}
