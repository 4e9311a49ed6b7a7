package wire

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"time"

	"widecloud/api"
)

const (
	// imageStall is how long an image may stand still before its transfer is given up.
	imageStall = time.Minute
	maxFormat  = 32 // octets of a format's name
)

// SendImage answers an ImageHeader on an accepted stream: 8 octets of length, big endian, the format's name ended by a
// newline, the content. A receiver that takes nothing for a minute (two at most, by when it took something last) is
// CodeUnavailable.
func SendImage(s *Stream, format string, size int64, content io.Reader) error {
	if size < 0 || !isFormat(format) {
		return fmt.Errorf("send image: no image has format %q and %d octets", format, size)
	}
	defer s.SetWriteDeadline(time.Time{})
	head := binary.BigEndian.AppendUint64(nil, uint64(size))
	to := stallWriter{s}
	if _, err := to.Write(append(head, format+"\n"...)); err != nil {
		return fmt.Errorf("send image: %w", err)
	}
	if _, err := io.CopyN(to, content, size); err != nil {
		return fmt.Errorf("send image: %w", err)
	}
	return nil
}

// stallWriter writes for as long as something is taken.
type stallWriter struct{ s *Stream }

func (w stallWriter) Write(p []byte) (int, error) {
	done := 0
	for {
		w.s.SetWriteDeadline(time.Now().Add(imageStall))
		n, err := w.s.Write(p[done:])
		done += n
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return done, err
		}
		if n == 0 {
			return done, api.Errorf(api.CodeUnavailable, "the receiver of the image has taken nothing for %v", imageStall)
		}
	}
}

// OpenImage asks for an image by a session. size is the length that the other end announces, octets: hold it against what
// there is room for before content is read. content gives exactly size octets or an error: a stream that ends early is
// io.ErrUnexpectedEOF, and one that stands still for a minute is CodeUnavailable. An answer that is no image is
// CodeInvalid. content must be closed.
func OpenImage(ctx context.Context, s *Session, path, digest string) (format string, size int64, content io.ReadCloser, err error) {
	st, err := OpenStream(ctx, s, path, ImageHeader{Digest: digest})
	if err != nil {
		return "", 0, nil, err
	}
	stop := context.AfterFunc(ctx, func() { st.CloseWithError(context.Cause(ctx)) })
	r := bufio.NewReader(stallReader{st})
	format, size, err = readImageHead(r)
	if !stop() {
		err = context.Cause(ctx) // which has torn the stream
	}
	if err != nil {
		err = fmt.Errorf("open image %s at %s: %w", digest, s.peer, err)
		st.CloseWithError(err)
		return "", 0, nil, err
	}
	return format, size, imageContent{&exactly{r, size}, st}, nil
}

func readImageHead(r *bufio.Reader) (format string, size int64, err error) {
	var length uint64
	if err := binary.Read(r, binary.BigEndian, &length); err != nil {
		return "", 0, fmt.Errorf("read the image's length: %w", err)
	}
	if length > math.MaxInt64 {
		return "", 0, api.Errorf(api.CodeInvalid, "an image cannot have a length of %d octets", length)
	}
	var name []byte
	for len(name) <= maxFormat {
		b, err := r.ReadByte()
		if err != nil {
			return "", 0, fmt.Errorf("read the image's format: %w", err)
		}
		if b == '\n' {
			break
		}
		name = append(name, b)
	}
	if !isFormat(string(name)) {
		return "", 0, api.Errorf(api.CodeInvalid, "%q is not the name of an image's format", name)
	}
	return string(name), int64(length), nil
}

// isFormat tells whether s may be a format's name: lower-case letters and digits (raw, qcow2).
func isFormat(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return false
		}
	}
	return 0 < len(s) && len(s) <= maxFormat
}

// stallReader reads for as long as something comes.
type stallReader struct{ s *Stream }

func (r stallReader) Read(p []byte) (int, error) {
	r.s.SetReadDeadline(time.Now().Add(imageStall))
	n, err := r.s.Read(p)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = api.Errorf(api.CodeUnavailable, "nothing of the image has come for %v", imageStall)
	}
	return n, err
}

// imageContent is what OpenImage reads.
type imageContent struct {
	io.Reader
	s *Stream
}

func (i imageContent) Close() error { return i.s.Close() }

// exactly reads n bytes and makes an early end an error.
type exactly struct {
	r io.Reader
	n int64
}

func (e *exactly) Read(p []byte) (int, error) {
	if e.n == 0 {
		return 0, io.EOF
	}
	n, err := e.r.Read(p[:min(int64(len(p)), e.n)])
	e.n -= int64(n)
	if errors.Is(err, io.EOF) && e.n > 0 {
		err = io.ErrUnexpectedEOF
	} else if e.n == 0 {
		err = nil
	}
	return n, err
}
