package wire

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strings"
)

// SendImage answers an ImageHeader on an accepted stream: 8 octets of length, big endian, the format's name ended by a
// newline, the content.
func SendImage(w io.Writer, format string, size int64, content io.Reader) error {
	head := binary.BigEndian.AppendUint64(nil, uint64(size))
	if _, err := w.Write(append(head, format+"\n"...)); err != nil {
		return fmt.Errorf("send image: %w", err)
	}
	if _, err := io.CopyN(w, content, size); err != nil {
		return fmt.Errorf("send image: %w", err)
	}
	return nil
}

// imageContent is what OpenImage reads.
type imageContent struct {
	io.Reader
	s *Stream
}

func (i imageContent) Close() error { return i.s.Close() }

// OpenImage asks for an image by a session. A stream that ends early is an error of the reader.
func OpenImage(ctx context.Context, s *Session, path, digest string) (format string, n int64, content io.ReadCloser, err error) {
	st, err := OpenStream(ctx, s, path, ImageHeader{Digest: digest})
	if err != nil {
		return "", 0, nil, err
	}
	var size uint64
	r := bufio.NewReader(st)
	if err := binary.Read(r, binary.BigEndian, &size); err != nil {
		st.Close()
		return "", 0, nil, fmt.Errorf("read the image's size: %w", err)
	}
	line, err := r.ReadString('\n')
	if err != nil {
		st.Close()
		return "", 0, nil, fmt.Errorf("read the image's format: %w", err)
	}
	return strings.TrimSpace(line), int64(size), imageContent{&exactly{r, int64(size)}, st}, nil
}

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
