package scale_test

import (
	"bytes"
	"errors"
	"image"
	"image/color"
	"image/jpeg"
	"math/rand/v2"
	"testing"
	"time"

	"pgregory.net/rapid"

	"widecloud/internal/sentry/pattern"
	"widecloud/internal/sentry/scale"
)

// noise is a picture that compresses badly.
func noise(w, h int) *image.YCbCr {
	m := image.NewYCbCr(image.Rect(0, 0, w, h), image.YCbCrSubsampleRatio420)
	r := rand.New(rand.NewPCG(1, 2))
	for _, p := range [][]byte{m.Y, m.Cb, m.Cr} {
		for i := range p {
			p[i] = byte(r.Uint32())
		}
	}
	return m
}

// TestMeans: each pixel is the mean of what it covers: a picture of one colour stays so, and the mean of all stays the same.
func TestMeans(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w, h := rapid.IntRange(1, 100).Draw(t, "width"), rapid.IntRange(1, 100).Draw(t, "height")
		to := image.Pt(rapid.IntRange(1, w).Draw(t, "to width"), rapid.IntRange(1, h).Draw(t, "to height"))
		grey := byte(rapid.IntRange(0, 255).Draw(t, "grey"))
		m := image.NewGray(image.Rect(0, 0, w, h))
		for i := range m.Pix {
			m.Pix[i] = grey
		}
		out := scale.To(m, to)
		if out.Bounds().Size() != to {
			t.Fatalf("the size is %v", out.Bounds())
		}
		for x := range to.X {
			for y := range to.Y {
				if got := out.YCbCrAt(x, y); got != (color.YCbCr{Y: grey, Cb: 128, Cr: 128}) {
					t.Fatalf("%d,%d is %v, want grey %d", x, y, got, grey)
				}
			}
		}
		for i := range m.Pix {
			m.Pix[i] = byte(i * 7919)
		}
		mean := func(p []byte, stride int, size image.Point) (sum float64) {
			for y := range size.Y {
				for x := range size.X {
					sum += float64(p[y*stride+x])
				}
			}
			return sum / float64(size.X*size.Y)
		}
		out = scale.To(m, to)
		if was, is := mean(m.Pix, m.Stride, m.Rect.Max), mean(out.Y, out.YStride, to); was-is > 0.6 || is-was > 0.6 {
			t.Fatalf("the mean was %g and is %g", was, is)
		}
	})
}

// TestRatios: every kind of chroma that a JPEG can have comes out in its colour.
func TestRatios(t *testing.T) {
	for _, ratio := range []image.YCbCrSubsampleRatio{image.YCbCrSubsampleRatio444, image.YCbCrSubsampleRatio422, image.YCbCrSubsampleRatio420,
		image.YCbCrSubsampleRatio440, image.YCbCrSubsampleRatio411, image.YCbCrSubsampleRatio410} {
		for _, side := range []int{15, 16, 33} {
			m := image.NewYCbCr(image.Rect(0, 0, side, side), ratio)
			for i := range m.Y {
				m.Y[i] = 90
			}
			for i := range m.Cb {
				m.Cb[i], m.Cr[i] = 30, 200
			}
			for _, to := range []int{5, 8, side} {
				out := scale.To(m, image.Pt(to, to))
				for _, at := range []image.Point{{}, {X: to - 1, Y: to - 1}} {
					if got := out.YCbCrAt(at.X, at.Y); got != (color.YCbCr{Y: 90, Cb: 30, Cr: 200}) {
						t.Errorf("%v of %d as %d: %v is %v", ratio, side, to, at, got)
					}
				}
			}
		}
	}
}

func TestFit(t *testing.T) {
	for _, c := range []struct{ picture, box, want image.Point }{
		{image.Pt(1280, 720), image.Pt(640, 640), image.Pt(640, 360)},
		{image.Pt(720, 1280), image.Pt(640, 640), image.Pt(360, 640)},
		{image.Pt(320, 240), image.Pt(640, 480), image.Pt(320, 240)},
		{image.Pt(1000, 1), image.Pt(100, 100), image.Pt(100, 1)},
	} {
		if got := scale.Fit(c.picture, c.box); got != c.want {
			t.Errorf("%v in %v: %v, want %v", c.picture, c.box, got, c.want)
		}
	}
}

// TestBudget: every picture fits into its bytes and its box, with the best quality that does, and costs few attempts.
func TestBudget(t *testing.T) {
	for _, c := range []struct {
		what    string
		picture image.Image
		size    scale.Size
		full    bool // it keeps the size of the box
	}{
		{"pattern", pattern.Draw(1, time.UnixMilli(1), 1280, 720), scale.Size{Width: 640, Height: 360, Bytes: 20_000}, true},
		{"thumbnail", pattern.Draw(1, time.UnixMilli(1), 640, 360), scale.Size{Width: 160, Height: 90, Bytes: 3000}, true},
		{"noise", noise(640, 360), scale.Size{Width: 640, Height: 360, Bytes: 150_000}, true},
		{"noise that does not fit", noise(640, 360), scale.Size{Width: 640, Height: 360, Bytes: 10_000}, false},
	} {
		m := scale.NewMaker(c.size)
		var last scale.Made
		for range 2 {
			got, err := m.Make(c.picture)
			if err != nil {
				t.Fatalf("%s: %v", c.what, err)
			}
			last = got
		}
		conf, err := jpeg.DecodeConfig(bytes.NewReader(last.JPEG))
		if err != nil || len(last.JPEG) > c.size.Bytes || conf.Width != last.Width || conf.Height != last.Height {
			t.Errorf("%s: %d bytes, %dx%d, says %dx%d; %v", c.what, len(last.JPEG), conf.Width, conf.Height, last.Width, last.Height, err)
		}
		if full := last.Width == c.size.Width; full != c.full || last.Height*16 > last.Width*9+16 {
			t.Errorf("%s: %dx%d", c.what, last.Width, last.Height)
		}
		if last.Quality < scale.MaxQuality {
			var b bytes.Buffer
			if err := jpeg.Encode(&b, scale.To(c.picture, image.Pt(last.Width, last.Height)), &jpeg.Options{Quality: last.Quality + 1}); err != nil {
				t.Fatal(err)
			}
			if b.Len() <= c.size.Bytes {
				t.Errorf("%s: quality %d would fit, too", c.what, last.Quality+1)
			}
		}
	}
	if _, err := scale.NewMaker(scale.Size{Width: 640, Height: 360, Bytes: 300}).Make(noise(640, 360)); !errors.Is(err, scale.ErrBudget) {
		t.Errorf("an impossible budget: %v", err)
	}
}

// TestNothingElse: a JPEG has the segments that decoding needs, and no others.
func TestNothingElse(t *testing.T) {
	got, err := scale.NewMaker(scale.Size{Width: 640, Height: 360, Bytes: 50_000}).Make(pattern.Draw(1, time.UnixMilli(1), 640, 360))
	if err != nil {
		t.Fatal(err)
	}
	for b := got.JPEG[2:]; b[1] != 0xda; b = b[2+int(b[2])<<8+int(b[3]):] {
		if marker := b[1]; b[0] != 0xff || marker != 0xdb && marker != 0xc0 && marker != 0xc4 {
			t.Fatalf("there is a segment %#x", b[:2])
		}
	}
}

func TestCheck(t *testing.T) {
	for _, s := range []scale.Size{{Width: 1, Height: 90, Bytes: 9000}, {Width: 160, Height: 9000, Bytes: 9000}, {Width: 160, Height: 90, Bytes: 100}} {
		if s.Check() == nil {
			t.Errorf("%+v is right", s)
		}
	}
}

func BenchmarkMake(b *testing.B) {
	picture := pattern.Draw(1, time.UnixMilli(1), 1280, 720)
	m := scale.NewMaker(scale.Size{Width: 640, Height: 360, Bytes: 20_000})
	for b.Loop() {
		if _, err := m.Make(picture); err != nil {
			b.Fatal(err)
		}
	}
}
