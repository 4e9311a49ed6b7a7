package rfb_test

import (
	"bytes"
	"encoding/binary"
	"image"
	"image/color"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"widecloud/internal/rfb"
)

func picture() *image.RGBA {
	m := image.NewRGBA(image.Rect(0, 0, 7, 3))
	for i := range m.Pix {
		m.Pix[i] = byte(i * 11)
		if i%4 == 3 {
			m.Pix[i] = 255
		}
	}
	return m
}

func TestCapture(t *testing.T) {
	a, b := net.Pipe()
	served := make(chan error, 1)
	go func() { served <- rfb.Serve(a, picture()) }()
	got, err := rfb.Capture(b)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(picture(), got); diff != "" {
		t.Error(diff)
	}
	b.Close()
	if err := <-served; err != nil {
		t.Errorf("the server ends with %v", err)
	}
}

func TestBlack(t *testing.T) {
	m := image.NewRGBA(image.Rect(0, 0, 4, 4))
	if !rfb.Black(m) {
		t.Error("a new picture is not black")
	}
	m.Set(3, 3, color.RGBA{B: 1, A: 255})
	if rfb.Black(m) {
		t.Error("a picture with a blue pixel is black")
	}
}

// conversation is a server that says what it says, whoever asks.
type conversation struct{ io.Reader }

func (conversation) Write(b []byte) (int, error) { return len(b), nil }

// server is what a server says, with a display of a size, before what follows.
func server(w, h uint16, more ...byte) []byte {
	b := []byte(rfb.Version + "\x01\x01\x00\x00\x00\x00")
	b = binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(b, w), h)
	b = append(b, make([]byte, 16)...)
	b = append(b, 0, 0, 0, 2, 'v', 'm')
	return append(b, more...)
}

// rect is a rectangle of an update.
func rect(x, y, w, h uint16, encoding int32, pixels ...byte) []byte {
	var b []byte
	for _, v := range []uint16{x, y, w, h} {
		b = binary.BigEndian.AppendUint16(b, v)
	}
	return append(binary.BigEndian.AppendUint32(b, uint32(encoding)), pixels...)
}

// TestResized: a display that changes its size is asked for again; a bell and a clipboard before it do no harm.
func TestResized(t *testing.T) {
	talk := server(4, 4, 2, 3, 0, 0, 0, 0, 0, 0, 1, 'x', 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0)
	talk = append(append(talk, 0, 0, 0, 1), rect(0, 0, 1, 1, -223)...)
	talk = append(append(talk, 0, 0, 0, 1), rect(0, 0, 1, 1, 0, 3, 2, 1, 0)...)
	got, err := rfb.Capture(conversation{bytes.NewReader(talk)})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]byte{1, 2, 3, 255}, got.Pix); diff != "" {
		t.Error(diff)
	}
}

func TestRefused(t *testing.T) {
	for name, c := range map[string]struct {
		talk []byte
		want string
	}{
		"no RFB":              {[]byte("SSH-2.0-OpenSSH_9"), "is not the greeting of RFB 3.8"},
		"an old one":          {[]byte("RFB 003.003\n"), "is not the greeting of RFB 3.8"},
		"a reason":            {[]byte(rfb.Version + "\x00\x00\x00\x00\x03no!"), `the server refuses: "no!"`},
		"a password":          {[]byte(rfb.Version + "\x01\x02"), "security types [2]"},
		"a failed result":     {[]byte(rfb.Version + "\x01\x01\x00\x00\x00\x01\x00\x00\x00\x03no!"), `the server refuses: "no!"`},
		"an endless reason":   {[]byte(rfb.Version + "\x00\xff\xff\xff\xff"), "4294967295 bytes is not taken"},
		"an absurd size":      {server(65535, 65535), "65535 x 65535 pixels is not taken"},
		"nothing to be seen":  {server(0, 7), "0 x 7 pixels is not taken"},
		"beside the display":  {server(4, 4, append([]byte{0, 0, 0, 1}, rect(3, 0, 2, 1, 0)...)...), "is not in the display"},
		"another encoding":    {server(4, 4, append([]byte{0, 0, 0, 1}, rect(0, 0, 1, 1, 7)...)...), "encoding 7 was not asked for"},
		"an unknown message":  {server(4, 4, 99), "message 99 is not known"},
		"an end in mid-frame": {server(4, 4, 0, 0, 0, 1), "EOF"},
	} {
		if _, err := rfb.Capture(conversation{bytes.NewReader(c.talk)}); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
	}
}

func FuzzCapture(f *testing.F) {
	f.Add(server(2, 1, append([]byte{0, 0, 0, 1}, rect(0, 0, 2, 1, 0, 1, 2, 3, 4, 5, 6, 7, 8)...)...))
	f.Add(server(4, 4, 2, 3, 0, 0, 0, 0, 0, 0, 1, 'x'))
	f.Fuzz(func(t *testing.T, talk []byte) {
		m, err := rfb.Capture(conversation{bytes.NewReader(talk)})
		if err == nil && len(m.Pix) > 4*rfb.MaxPixels {
			t.Errorf("a picture of %d bytes", len(m.Pix))
		}
	})
}
