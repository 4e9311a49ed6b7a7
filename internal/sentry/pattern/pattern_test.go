package pattern_test

import (
	"bytes"
	"image"
	"image/jpeg"
	"testing"
	"time"

	"pgregory.net/rapid"

	"widecloud/internal/sentry/pattern"
	"widecloud/internal/sentry/scale"
)

// TestReadBack: a picture can be read after scaling to any usual size and compression to few bytes.
func TestReadBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := pattern.Reading{Number: rapid.Uint64Range(0, pattern.MaxNumber).Draw(t, "number"),
			Taken: time.UnixMilli(rapid.Int64Range(0, 1<<43).Draw(t, "ms")).UTC()}
		w, h := rapid.IntRange(pattern.MinWidth, 900).Draw(t, "width"), rapid.IntRange(pattern.MinHeight, 600).Draw(t, "height")
		m := pattern.Draw(want.Number, want.Taken, w, h)
		if got, err := pattern.Read(m); err != nil || got != want {
			t.Fatalf("as drawn: %+v, %v, want %+v", got, err, want)
		}
		to := image.Pt(rapid.IntRange(min(w, 120), w).Draw(t, "to width"), rapid.IntRange(min(h, 68), h).Draw(t, "to height"))
		var b bytes.Buffer
		if err := jpeg.Encode(&b, scale.To(m, to), &jpeg.Options{Quality: rapid.IntRange(10, 90).Draw(t, "quality")}); err != nil {
			t.Fatal(err)
		}
		again, err := jpeg.Decode(&b)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := pattern.Read(again); err != nil || got != want {
			t.Fatalf("as %v: %+v, %v, want %+v", to, got, err, want)
		}
	})
}

func TestOtherPictures(t *testing.T) {
	for _, m := range []image.Image{image.NewRGBA(image.Rect(0, 0, 640, 360)), image.NewGray(image.Rect(0, 0, 3, 3)), image.NewGray(image.Rectangle{})} {
		if _, err := pattern.Read(m); err == nil {
			t.Errorf("a picture of %v is read", m.Bounds())
		}
	}
	// A cell that has changed shows.
	m := pattern.Draw(1234, time.UnixMilli(1), 640, 360)
	for y := 185; y < 200; y++ {
		for x := range 40 {
			m.Y[m.YOffset(x, y)] ^= 0xff
		}
	}
	if _, err := pattern.Read(m); err == nil {
		t.Error("a changed picture is read")
	}
}

// TestPicturesDiffer: what people look at changes with the time.
func TestPicturesDiffer(t *testing.T) {
	upper := func(m *image.YCbCr) []byte { return m.Y[:m.YOffset(0, 170)] }
	one, two := pattern.Draw(1, time.UnixMilli(0), 640, 360), pattern.Draw(1, time.UnixMilli(200), 640, 360)
	if bytes.Equal(upper(one), upper(two)) {
		t.Error("0.2 seconds cannot be seen")
	}
	if !bytes.Equal(upper(one), upper(pattern.Draw(1, time.UnixMilli(0), 640, 360))) {
		t.Error("the same picture is another")
	}
}
