package wire

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/klauspost/compress/zstd"

	"widecloud/api"
)

// Codec makes fewer octets of what goes over the WAN. Both ends of a stream wrap their connection with the codec of the
// same name, which the stream's header carries. A codec may hold what makes it clever (the images that both ends
// have); one value serves many connections.
type Codec interface {
	// Name is what the stream's header calls it.
	Name() string
	// Wrap codes what is written to the result on its way to c, and decodes what comes from c. The result owns c.
	Wrap(c net.Conn) (Coded, error)
}

// Coded is a connection through a codec. What a Write was given can be read at the other end without a further Write:
// a codec holds nothing back that a request-and-response protocol would wait for. Input that the codec cannot have made
// gives an error of the chain ErrCorrupt.
//
// A read deadline that passes in the midst of a coded block ends the connection's reading for good.
type Coded interface {
	net.Conn
	CloseWrite() error
	CloseWithError(error) error
	Gone() <-chan struct{} // nil where the connection cannot tell
	Stats() Stats
}

// Stats counts a coded connection's octets. Plain is what the user of the connection sees, wire what goes below.
type Stats struct {
	PlainIn, PlainOut uint64
	WireIn, WireOut   uint64
}

// ErrCorrupt is in the chain of the error of reading what is not of the codec.
var ErrCorrupt = errors.New("coded stream is corrupt")

// The names of the codecs of this package.
const (
	CodecNone = "none"
	CodecZstd = "zstd"
)

// None passes everything as it is, and counts it.
var None Codec = noneCodec{}

// Zstd compresses (RFC 8878) with a window of 1 MiB: about 4 MiB for each connection and direction in use.
var Zstd Codec = zstdCodec{}

// PickCodec gives the first codec of have, the own preference, whose name is in want. None at all is a CodeInvalid error
// of field codec.
func PickCodec(have []Codec, want ...string) (Codec, error) {
	for _, c := range have {
		if slices.Contains(want, c.Name()) {
			return c, nil
		}
	}
	names := make([]string, len(have))
	for i, c := range have {
		names[i] = c.Name()
	}
	return nil, api.Invalidf("codec", "%q is not known here, but %s", strings.Join(want, ", "), strings.Join(names, ", "))
}

// counted counts what goes below a codec.
type counted struct {
	net.Conn
	in, out atomic.Uint64
}

func (c *counted) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.in.Add(uint64(n))
	return n, err
}

func (c *counted) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	c.out.Add(uint64(n))
	return n, err
}

func (c *counted) CloseWrite() error {
	if h, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return h.CloseWrite()
	}
	return c.Conn.Close()
}

func (c *counted) CloseWithError(err error) error {
	if h, ok := c.Conn.(interface{ CloseWithError(error) error }); ok {
		return h.CloseWithError(err)
	}
	return c.Conn.Close()
}

func (c *counted) Gone() <-chan struct{} {
	if h, ok := c.Conn.(interface{ Gone() <-chan struct{} }); ok {
		return h.Gone()
	}
	return nil
}

type noneCodec struct{}

func (noneCodec) Name() string { return CodecNone }

func (noneCodec) Wrap(c net.Conn) (Coded, error) { return plain{&counted{Conn: c}}, nil }

type plain struct{ *counted }

func (p plain) Stats() Stats {
	in, out := p.in.Load(), p.out.Load()
	return Stats{PlainIn: in, PlainOut: out, WireIn: in, WireOut: out}
}

type zstdCodec struct{}

const (
	zstdWindow = 1 << 20
	// closeTime bounds how long Close waits to send the end of the coded stream to a reader that is slow.
	closeTime = 5 * time.Second
)

func (zstdCodec) Name() string { return CodecZstd }

func (zstdCodec) Wrap(c net.Conn) (Coded, error) {
	z := &zstdConn{counted: &counted{Conn: c}, writing: make(chan struct{}, 1), reading: make(chan struct{}, 1), down: make(chan struct{})}
	var err error
	// One goroutine: the work is done in Write's and Read's, so that a slow link slows the writer down.
	z.enc, err = zstd.NewWriter(z.counted, zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(zstdWindow),
		zstd.WithEncoderLevel(zstd.SpeedDefault), zstd.WithLowerEncoderMem(true))
	if err != nil {
		return nil, fmt.Errorf("make zstd encoder: %w", err)
	}
	// The buffer spares a system call per block header; a read of it returns what there is.
	z.dec, err = zstd.NewReader(bufio.NewReaderSize(z.counted, 32<<10), zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true),
		zstd.WithDecoderMaxWindow(zstdWindow))
	if err != nil {
		return nil, fmt.Errorf("make zstd decoder: %w", err)
	}
	return z, nil
}

type zstdConn struct {
	*counted
	enc *zstd.Encoder
	dec *zstd.Decoder

	// Held over I/O, and therefore channels: in a synctest bubble a wait for a mutex would stop the clock.
	writing  chan struct{}
	reading  chan struct{}
	down     chan struct{} // closed by Close
	closing  atomic.Bool
	ended    bool // under writing: the end of the coded stream is sent
	writeErr error
	plainIn  atomic.Uint64
	plainOut atomic.Uint64
}

func (z *zstdConn) Stats() Stats {
	return Stats{PlainIn: z.plainIn.Load(), PlainOut: z.plainOut.Load(), WireIn: z.in.Load(), WireOut: z.out.Load()}
}

func (z *zstdConn) Read(p []byte) (int, error) {
	select {
	case z.reading <- struct{}{}:
	case <-z.down:
		return 0, net.ErrClosed
	}
	defer func() { <-z.reading }()
	if len(p) == 0 {
		return 0, nil
	}
	if z.closing.Load() {
		return 0, net.ErrClosed
	}
	n, err := z.dec.Read(p)
	z.plainIn.Add(uint64(n))
	var netErr net.Error
	var reason *api.Error
	switch {
	case err == nil, err == io.EOF:
	case errors.As(err, &netErr), errors.As(err, &reason), errors.Is(err, net.ErrClosed), errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, ErrClosed):
		// below the codec, not of it
	case errors.Is(err, io.ErrUnexpectedEOF):
		err = fmt.Errorf("%w: it ends before its end: %w", ErrCorrupt, err)
	default:
		err = fmt.Errorf("%w: %w", ErrCorrupt, err)
	}
	return n, err
}

func (z *zstdConn) Write(p []byte) (int, error) {
	select {
	case z.writing <- struct{}{}:
	case <-z.down:
		return 0, net.ErrClosed
	}
	defer func() { <-z.writing }()
	switch {
	case z.closing.Load() || z.ended:
		return 0, net.ErrClosed
	case z.writeErr != nil:
		return 0, z.writeErr
	}
	n, err := z.enc.Write(p)
	if err == nil {
		// The block ends with every Write: nothing waits for more to come. What it costs is small, since matches reach
		// back over blocks.
		err = z.enc.Flush()
	}
	z.writeErr = err
	z.plainOut.Add(uint64(n))
	return n, err
}

// CloseWrite sends the end of the coded stream, by which the reader knows that it is whole, and half-closes.
func (z *zstdConn) CloseWrite() error {
	select {
	case z.writing <- struct{}{}:
	case <-z.down:
		return net.ErrClosed
	}
	defer func() { <-z.writing }()
	return z.end()
}

func (z *zstdConn) end() error {
	if z.ended {
		return nil
	}
	z.ended = true
	if z.writeErr != nil {
		return z.writeErr
	}
	if z.plainOut.Load() == 0 {
		// An empty stream is nothing at all on the wire; the decoder takes it so.
		return z.counted.CloseWrite()
	}
	if err := z.enc.Close(); err != nil {
		return err
	}
	return z.counted.CloseWrite()
}

// Close ends both directions. Unless a Write is under way, the end of the coded stream is sent.
func (z *zstdConn) Close() error {
	if z.closing.Swap(true) {
		return nil
	}
	close(z.down)
	select {
	case z.writing <- struct{}{}:
		z.counted.SetWriteDeadline(time.Now().Add(closeTime))
		z.end()
		<-z.writing
	default:
	}
	err := z.counted.Close()
	go z.release()
	return err
}

// CloseWithError tears the connection without an end of the coded stream.
func (z *zstdConn) CloseWithError(reason error) error {
	if reason == nil {
		return z.Close()
	}
	if z.closing.Swap(true) {
		return nil
	}
	close(z.down)
	err := z.counted.CloseWithError(reason)
	go z.release()
	return err
}

// release gives the decoder's memory back as soon as no Read is in it.
func (z *zstdConn) release() {
	z.reading <- struct{}{}
	z.dec.Close()
	<-z.reading
}
