package wire_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"widecloud/api"
	"widecloud/internal/wire"
)

// line is a memory connection, not coded.
func line(t testing.TB) (a, b net.Conn) {
	t.Helper()
	m := wire.NewMemory()
	ln, err := m.Node("b").Listen(t.Context(), ":1")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	if a, err = m.Node("a").Dial(t.Context(), "b:1"); err != nil {
		t.Fatal(err)
	}
	if b, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	return a, b
}

func coded(t testing.TB, c wire.Codec) (a, b wire.Coded) {
	t.Helper()
	x, y := line(t)
	a, err := c.Wrap(x)
	if err != nil {
		t.Fatal(err)
	}
	if b, err = c.Wrap(y); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close(); b.Close() })
	return a, b
}

func eachCodec(t *testing.T, f func(*testing.T, wire.Codec)) {
	for _, c := range []wire.Codec{wire.None, wire.Zstd} {
		t.Run(c.Name(), func(t *testing.T) { f(t, c) })
	}
}

func TestPickCodec(t *testing.T) {
	have := []wire.Codec{wire.Zstd, wire.None}
	if c, err := wire.PickCodec(have, "none", "zstd"); err != nil || c.Name() != "zstd" {
		t.Errorf("%v, %v", c, err)
	}
	if c, err := wire.PickCodec(have, "lz4", "none"); err != nil || c.Name() != "none" {
		t.Errorf("%v, %v", c, err)
	}
	if _, err := wire.PickCodec(have, "lz4"); !errors.Is(err, &api.Error{Code: api.CodeInvalid, Field: "codec"}) {
		t.Errorf("%v", err)
	}
}

// A request and its answer cross without anybody writing more, as NBD needs it. In the bubble, what is held back
// would be a deadlock.
func TestCodecInteractive(t *testing.T) {
	eachCodec(t, func(t *testing.T, c wire.Codec) {
		synctest.Test(t, func(t *testing.T) {
			a, b := coded(t, c)
			go func() {
				for {
					var head [8]byte
					if _, err := io.ReadFull(b, head[:]); err != nil {
						return
					}
					b.Write(make([]byte, 3))
					b.Write(bytes.Repeat([]byte{7}, int(binary.BigEndian.Uint64(head[:]))))
				}
			}()
			for _, n := range []uint64{0, 1, 512, 4096, 65536, 1 << 20, 1} {
				if _, err := a.Write(binary.BigEndian.AppendUint64(nil, n)); err != nil {
					t.Fatal(err)
				}
				got := make([]byte, n+3)
				if _, err := io.ReadFull(a, got); err != nil {
					t.Fatal(err)
				}
			}
			a.Close()
			b.Close()
		})
	})
}

// Whatever is written, in whatever pieces, both ways at once, comes out, and its end is seen.
func TestCodecRoundTrip(t *testing.T) {
	eachCodec(t, func(t *testing.T, c wire.Codec) {
		rapid.Check(t, func(rt *rapid.T) {
			pieces := rapid.SliceOfN(rapid.SliceOfN(rapid.Byte(), 0, 3000), 0, 8).Draw(rt, "pieces")
			repeat := rapid.IntRange(1, 40).Draw(rt, "repeat")
			a, b := coded(t, c)
			send := func(w wire.Coded) (all []byte) {
				for _, p := range pieces {
					p = bytes.Repeat(p, repeat)
					all = append(all, p...)
					if _, err := w.Write(p); err != nil {
						rt.Error(err)
					}
				}
				if err := w.CloseWrite(); err != nil {
					rt.Error(err)
				}
				return all
			}
			var want []byte
			for _, p := range pieces {
				want = append(want, bytes.Repeat(p, repeat)...)
			}
			got := make(chan []byte, 2)
			for _, end := range []wire.Coded{a, b} {
				go send(end)
				go func() {
					data, err := io.ReadAll(end)
					if err != nil {
						rt.Error(err)
					}
					got <- data
				}()
			}
			for range 2 {
				if data := <-got; !bytes.Equal(data, want) {
					rt.Errorf("%d octets came, %d were sent", len(data), len(want))
				}
			}
			s := a.Stats()
			if s.PlainIn != uint64(len(want)) || s.PlainOut != uint64(len(want)) || s.WireOut != b.Stats().WireIn || s.WireIn != b.Stats().WireOut {
				rt.Errorf("stats %+v and %+v for %d octets", s, b.Stats(), len(want))
			}
			a.Close()
			b.Close()
		})
	})
}

func TestCodecRatio(t *testing.T) {
	a, b := coded(t, wire.Zstd)
	go func() {
		// Half zero pages, as a guest's memory has them, half text.
		for i := range 64 {
			page := make([]byte, 32<<10)
			if i%2 == 0 {
				page = []byte(strings.Repeat(fmt.Sprintf("line %d of the guest's page cache\n", i), 1000))[:32<<10]
			}
			a.Write(page)
		}
		a.Close()
	}()
	if n, err := io.Copy(io.Discard, b); n != 2<<20 || err != nil {
		t.Errorf("%d octets, %v", n, err)
	}
	if s := a.Stats(); s.WireOut > s.PlainOut/20 {
		t.Errorf("%d octets became %d", s.PlainOut, s.WireOut)
	}
	// What cannot be compressed does not grow.
	a, b = coded(t, wire.Zstd)
	go func() {
		page := make([]byte, 32<<10)
		for range 32 {
			for i := range page {
				page[i] = byte(rand.Uint32())
			}
			a.Write(page)
		}
		a.Close()
	}()
	io.Copy(io.Discard, b)
	if s := a.Stats(); s.WireOut > s.PlainOut+s.PlainOut/500 {
		t.Errorf("noise of %d octets became %d", s.PlainOut, s.WireOut)
	}
}

// A stream that is cut in two never passes for a whole one.
func TestCodecTruncated(t *testing.T) {
	x, y := line(t)
	a, _ := wire.Zstd.Wrap(x)
	b, _ := wire.Zstd.Wrap(y)
	defer b.Close()
	a.Write(bytes.Repeat([]byte("abc"), 1000))
	x.Close() // as a dying relay does
	data, err := io.ReadAll(b)
	if !errors.Is(err, wire.ErrCorrupt) || len(data) != 3000 {
		t.Errorf("%d octets, %v", len(data), err)
	}
	a.Close()
}

func TestCodecCorrupt(t *testing.T) {
	x, y := line(t)
	b, _ := wire.Zstd.Wrap(y)
	defer b.Close()
	x.Write([]byte("NBDMAGIC, that is not zstd"))
	x.Close()
	if _, err := io.ReadAll(b); !errors.Is(err, wire.ErrCorrupt) {
		t.Errorf("got %v", err)
	}
}

// Errors of the connection below stay what they are, reasons and deadlines too.
func TestCodecErrors(t *testing.T) {
	eachCodec(t, func(t *testing.T, c wire.Codec) {
		p := newPair(t, wire.Bulk, nil)
		defer p.close()
		wire.HandleStream(p.osaka.mux, "/s", func(_ context.Context, _ wire.Identity, _ none, s *wire.Stream) error {
			z, err := c.Wrap(s)
			if err != nil {
				return err
			}
			if _, err := io.ReadFull(z, make([]byte, 5)); err != nil {
				return err
			}
			return z.CloseWithError(api.Errorf(api.CodeRefused, "disk full"))
		})
		s, err := wire.OpenStream(t.Context(), p.s, "/s", nil)
		if err != nil {
			t.Fatal(err)
		}
		z, err := c.Wrap(s)
		if err != nil {
			t.Fatal(err)
		}
		z.Write([]byte("hello"))
		if _, err := z.Read(make([]byte, 1)); !errors.Is(err, &api.Error{Code: api.CodeRefused}) || errors.Is(err, wire.ErrCorrupt) {
			t.Errorf("read: %v", err)
		}
		if _, err := z.Write(make([]byte, 1)); !errors.Is(err, &api.Error{Code: api.CodeRefused}) {
			t.Errorf("write: %v", err)
		}
		z.Close()
		if _, err := z.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("read after close: %v", err)
		}
		if _, err := z.Write(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("write after close: %v", err)
		}

		a, _ := coded(t, c)
		a.SetReadDeadline(time.Unix(1, 0))
		var timeout net.Error
		if _, err := a.Read(make([]byte, 1)); !errors.As(err, &timeout) || !timeout.Timeout() || errors.Is(err, wire.ErrCorrupt) {
			t.Errorf("deadline: %v", err)
		}
	})
}

// Close ends a Read and a Write that are waiting.
func TestCodecCloseUnblocks(t *testing.T) {
	eachCodec(t, func(t *testing.T, c wire.Codec) {
		synctest.Test(t, func(t *testing.T) {
			a, b := coded(t, c)
			errs := make(chan error, 2)
			go func() {
				_, err := a.Read(make([]byte, 1))
				errs <- err
			}()
			go func() {
				noise := make([]byte, 1<<20)
				for i := range noise {
					noise[i] = byte(rand.Uint32())
				}
				_, err := a.Write(noise)
				errs <- err
			}()
			synctest.Wait()
			a.Close()
			for range 2 {
				if err := <-errs; err == nil {
					t.Error("ended without an error")
				}
			}
			b.Close()
		})
	})
}

func FuzzZstdRead(f *testing.F) {
	a, b := coded(f, wire.None)
	z, _ := wire.Zstd.Wrap(a)
	z.Write([]byte(strings.Repeat("hello ", 100)))
	z.Write([]byte("world"))
	z.Close()
	seed, err := io.ReadAll(b)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Add(seed[:20])
	f.Add([]byte{})
	f.Add([]byte{0x50, 0x2a, 0x4d, 0x18, 0xff, 0xff, 0xff, 0xff}) // a skippable frame of 4 GiB
	f.Fuzz(func(t *testing.T, data []byte) {
		x, y := line(t)
		go func() {
			x.Write(data)
			x.Close()
		}()
		c, err := wire.Zstd.Wrap(y)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		n, err := io.Copy(io.Discard, io.LimitReader(c, 64<<20))
		if err != nil && !errors.Is(err, wire.ErrCorrupt) {
			t.Errorf("after %d octets: %v", n, err)
		}
	})
}
