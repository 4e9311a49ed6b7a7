package pattern

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"image"
	"strconv"
	"time"
)

// Bounds of a picture that Draw makes and Read can read, in pixels, and of what it can carry.
const (
	MinWidth  = 128
	MinHeight = 72
	MaxNumber = 1<<56 - 1
	columns   = 16
	rows      = 8
)

// ErrUnreadable says that a picture is not a pattern, or has lost too much.
var ErrUnreadable = errors.New("the picture has no readable pattern")

// Reading is what a picture says of itself.
type Reading struct {
	Number uint64
	Taken  time.Time // in whole milliseconds
}

// colour is one of ITU-T T.871 (JFIF): luma, blue and red difference.
type colour struct{ y, cb, cr byte }

var (
	black = colour{0, 128, 128}
	white = colour{255, 128, 128}
	// bars are white, yellow, cyan, green, magenta, red, blue and black at 75 %.
	bars = []colour{{191, 128, 128}, {169, 32, 144}, {134, 160, 32}, {112, 64, 48}, {79, 192, 208}, {57, 96, 224}, {22, 224, 112}, {0, 128, 128}}
)

// Draw draws the picture with a number of at most MaxNumber, of at least MinWidth by MinHeight pixels.
func Draw(number uint64, taken time.Time, width, height int) *image.YCbCr {
	c := canvas{image.NewYCbCr(image.Rect(0, 0, width, height), image.YCbCrSubsampleRatio420)}
	for i, colour := range bars {
		c.fill(width*i/len(bars), 0, width*(i+1)/len(bars), height/2, colour)
	}
	c.people(number, taken)
	code := encode(Reading{number, taken})
	for i := range columns * rows {
		colour := black
		if code[i/8]>>(7-i%8)&1 == 1 {
			colour = white
		}
		x0, y0, x1, y1 := cell(i, width, height)
		c.fill(x0, y0, x1, y1, colour)
	}
	return c.YCbCr
}

// cell is the place of cell i.
func cell(i, width, height int) (x0, y0, x1, y1 int) {
	col, row, top := i%columns, i/columns, height/2
	return width * col / columns, top + (height-top)*row/rows, width * (col + 1) / columns, top + (height-top)*(row+1)/rows
}

func encode(r Reading) (b [columns * rows / 8]byte) {
	var n [8]byte
	binary.BigEndian.PutUint64(n[:], r.Number)
	copy(b[0:7], n[1:])
	binary.BigEndian.PutUint64(n[:], uint64(r.Taken.UnixMilli()))
	copy(b[7:13], n[2:])
	binary.BigEndian.PutUint32(n[:], crc32.ChecksumIEEE(b[:13]))
	copy(b[13:], n[:3])
	return b
}

// Read reads a picture. The error is ErrUnreadable.
func Read(m image.Image) (Reading, error) {
	size := m.Bounds().Size()
	if size.X < columns*2 || size.Y < rows*4 {
		return Reading{}, ErrUnreadable
	}
	luma := lumaOf(m)
	var b [columns * rows / 8]byte
	for i := range columns * rows {
		x0, y0, x1, y1 := cell(i, size.X, size.Y)
		// The middle alone: scaling and compression blur the edges.
		dx, dy := (x1-x0)/4, (y1-y0)/4
		sum, n := 0, 0
		for y := y0 + dy; y < y1-dy; y++ {
			for x := x0 + dx; x < x1-dx; x++ {
				sum += luma(x, y)
				n++
			}
		}
		if sum >= 128*n {
			b[i/8] |= 1 << (7 - i%8)
		}
	}
	var n [8]byte
	copy(n[1:], b[0:7])
	r := Reading{Number: binary.BigEndian.Uint64(n[:])}
	n = [8]byte{}
	copy(n[2:], b[7:13])
	r.Taken = time.UnixMilli(int64(binary.BigEndian.Uint64(n[:]))).UTC()
	if encode(r) != b {
		return Reading{}, ErrUnreadable
	}
	return r, nil
}

// lumaOf gives the luma, 0 to 255, of pixels counted from the upper left corner.
func lumaOf(m image.Image) func(x, y int) int {
	min := m.Bounds().Min
	switch m := m.(type) {
	case *image.YCbCr:
		return func(x, y int) int { return int(m.Y[m.YOffset(min.X+x, min.Y+y)]) }
	case *image.Gray:
		return func(x, y int) int { return int(m.Pix[m.PixOffset(min.X+x, min.Y+y)]) }
	}
	return func(x, y int) int {
		r, g, b, _ := m.At(min.X+x, min.Y+y).RGBA()
		return int((299*r + 587*g + 114*b) / 1000 >> 8)
	}
}

// canvas is a picture of 4:2:0 to draw into.
type canvas struct{ *image.YCbCr }

// fill fills the pixels from (x0, y0) to before (x1, y1).
func (c canvas) fill(x0, y0, x1, y1 int, to colour) {
	r := image.Rect(x0, y0, x1, y1).Intersect(c.Rect)
	for y := r.Min.Y; y < r.Max.Y; y++ {
		for x := r.Min.X; x < r.Max.X; x++ {
			c.Y[c.YOffset(x, y)] = to.y
			o := c.COffset(x, y)
			c.Cb[o], c.Cr[o] = to.cb, to.cr
		}
	}
}

// people draws what people look at: the time, the number, and a bar that crosses the picture in ten seconds.
func (c canvas) people(number uint64, taken time.Time) {
	w, h := c.Rect.Dx(), c.Rect.Dy()
	unit := h / 72
	at := int(taken.UnixMilli() % 10_000)
	c.fill((w+4*unit)*at/10_000-4*unit, 0, (w+4*unit)*at/10_000, h/16, white)
	c.text(w/16, h/8, unit, taken.UTC().Format("15:04:05.0"))
	c.text(w/16, h/8+10*unit, unit, strconv.FormatUint(number, 10))
}

// segments are the seven segments of the digits: bit 0 is the upper one, then clockwise, bit 6 the middle.
var segments = [10]byte{0x3f, 0x06, 0x5b, 0x4f, 0x66, 0x6d, 0x7d, 0x07, 0x7f, 0x6f}

// text writes digits, colons and points, four units wide and eight high, white on black.
func (c canvas) text(x, y, unit int, s string) {
	c.fill(x-unit, y-unit, x+6*unit*len(s), y+8*unit, black)
	for _, r := range s {
		bar := func(x0, y0, x1, y1 int) { c.fill(x+x0*unit, y+y0*unit, x+x1*unit, y+y1*unit, white) }
		switch r {
		case ':':
			bar(2, 2, 3, 3)
			bar(2, 4, 3, 5)
		case '.':
			bar(2, 6, 3, 7)
		default:
			for i, b := range [7][4]int{{0, 0, 4, 1}, {3, 0, 4, 4}, {3, 3, 4, 7}, {0, 6, 4, 7}, {0, 3, 1, 7}, {0, 0, 1, 4}, {0, 3, 4, 4}} {
				if segments[r-'0']>>i&1 == 1 {
					bar(b[0], b[1], b[2], b[3])
				}
			}
		}
		x += 6 * unit
	}
}
