package scale

import (
	"bytes"
	"errors"
	"fmt"
	"image"
	"image/jpeg"

	"widecloud/internal/sentry/still"
)

// Quality is that of image/jpeg, 1 to 100. Above MaxQuality bytes are spent that nobody sees; below MinQuality a smaller
// picture shows more.
const (
	MinQuality = 20
	MaxQuality = 92
	minSide    = 16 // pixels
)

// MinBytes is the smallest budget of a size.
const MinBytes = 2000

// Size is what a still must fit into.
type Size struct {
	Width, Height int // pixels
	Bytes         int
}

// Check tells what is wrong with a size.
func (s Size) Check() error {
	switch {
	case s.Width < minSide || s.Width > still.MaxSide:
		return fmt.Errorf("width: %d is not between %d and %d", s.Width, minSide, still.MaxSide)
	case s.Height < minSide || s.Height > still.MaxSide:
		return fmt.Errorf("height: %d is not between %d and %d", s.Height, minSide, still.MaxSide)
	case s.Bytes < MinBytes || s.Bytes > still.MaxBytes:
		return fmt.Errorf("bytes: %d is not between %d and %d", s.Bytes, MinBytes, still.MaxBytes)
	}
	return nil
}

// Made is a still's JPEG.
type Made struct {
	JPEG          []byte
	Width, Height int
	Quality       int
}

// Maker makes JPEGs of one size. It remembers the quality of the last one, which is mostly that of the next.
type Maker struct {
	size    Size
	quality int
	buf     bytes.Buffer
}

// NewMaker makes a Maker for a size that Check finds right.
func NewMaker(s Size) *Maker { return &Maker{size: s, quality: 75} }

// ErrBudget says that a picture cannot be made as small as its budget demands.
var ErrBudget = errors.New("the picture does not fit into its bytes")

// Make scales a picture, and compresses it with the best quality that the budget allows. If even MinQuality takes too many
// bytes, the picture is made smaller.
func (m *Maker) Make(picture image.Image) (Made, error) {
	size := Fit(picture.Bounds().Size(), image.Pt(m.size.Width, m.size.Height))
	for ; size.X >= minSide && size.Y >= minSide; size = image.Pt(size.X*3/4, size.Y*3/4) {
		out, ok, err := m.compress(To(picture, size))
		if ok || err != nil {
			return out, err
		}
	}
	return Made{}, ErrBudget
}

// Fit is the largest size with a picture's proportions that is not larger than the picture and fits into a box.
func Fit(picture, box image.Point) image.Point {
	if picture.X <= box.X && picture.Y <= box.Y {
		return picture
	}
	if picture.X*box.Y > picture.Y*box.X { // wider than the box
		return image.Pt(box.X, max(1, (picture.Y*box.X+picture.X/2)/picture.X))
	}
	return image.Pt(max(1, (picture.X*box.Y+picture.Y/2)/picture.Y), box.Y)
}

// compress looks for the highest quality that fits, beginning at the last one. A higher quality takes more bytes, as good
// as always; should it not be so, what is found fits all the same.
func (m *Maker) compress(picture *image.YCbCr) (best Made, ok bool, err error) {
	low, high, try := MinQuality, MaxQuality, m.quality
	for step := 1; low <= high; step *= 2 {
		m.buf.Reset()
		if err := jpeg.Encode(&m.buf, picture, &jpeg.Options{Quality: try}); err != nil {
			return Made{}, false, fmt.Errorf("compress a still: %w", err)
		}
		if m.buf.Len() <= m.size.Bytes {
			best = Made{JPEG: bytes.Clone(m.buf.Bytes()), Width: picture.Rect.Dx(), Height: picture.Rect.Dy(), Quality: try}
			ok, m.quality = true, try
			low = try + 1
			try += step
		} else {
			high = try - 1
			try -= step
		}
		if try < low || try > high { // both ends are known
			try = (low + high) / 2
		}
	}
	if !ok {
		m.quality = MinQuality
	}
	return best, ok, nil
}
