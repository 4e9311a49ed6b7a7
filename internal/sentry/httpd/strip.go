package httpd

import (
	"bytes"
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"image/jpeg"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"widecloud/internal/sentry/reel"
	"widecloud/internal/sentry/still"
)

// The strip has this many thumbnails side by side, each this wide, in pixels.
const (
	stripLength = 12
	thumbWidth  = 96
	thumbHeight = 54
)

// maxDecoded is the largest still that thumbnails are made of, in pixels: decoding costs time and memory by the pixel.
const maxDecoded = 1920 * 1080

// strips are the strips of channels, each made once for all who ask.
type strips struct {
	mu sync.Mutex // held while one is made, too: one at a time
	of map[string]*stripOf
}

type stripOf struct {
	thumbs map[uint64]*image.YCbCr // by number
	last   uint64                  // number of the last thumbnail
	jpeg   []byte
	list   string // numbers, for the Stills field
	etag   string
}

// strip serves thumbnails of what is kept, at even steps, oldest first, in one JPEG. Stills has their numbers.
func (s *Server) strip(w http.ResponseWriter, r *http.Request, req *request) {
	x, err := s.strips.get(s.o.Reel, req.channel, s.o.Keep/stripLength)
	if err != nil {
		s.o.Log.Warn("cannot make thumbnails", "channel", req.channel, "err", err)
	}
	if x == nil {
		s.notFound(w, r, req)
		return
	}
	h := w.Header()
	h.Set("ETag", x.etag)
	h.Set("Stills", x.list)
	h.Set("Cache-Control", "public, max-age=5")
	if matches(r.Header.Get("If-None-Match"), x.etag) {
		s.counts.answered(strip, http.StatusNotModified, 0)
		w.WriteHeader(http.StatusNotModified)
		return
	}
	h.Set("Content-Type", "image/jpeg")
	h.Set("Content-Length", strconv.Itoa(len(x.jpeg)))
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(s.o.WriteTimeout))
	_, _ = w.Write(x.jpeg)
	s.counts.answered(strip, http.StatusOK, len(x.jpeg))
}

// get is the strip of a channel now; nil: there is nothing to make one of.
func (p *strips) get(r *reel.Reel, channel string, step time.Duration) (*stripOf, error) {
	size := smallest(r, channel)
	if size < 0 {
		p.mu.Lock()
		defer p.mu.Unlock()
		delete(p.of, channel)
		return nil, nil
	}
	frames := pick(r, channel, size, step)
	if len(frames) == 0 {
		return nil, nil
	}
	last := frames[len(frames)-1].Number
	p.mu.Lock()
	defer p.mu.Unlock()
	old := p.of[channel]
	if old != nil && old.last == last {
		return old, nil
	}
	x := &stripOf{thumbs: map[uint64]*image.YCbCr{}, last: last, etag: fmt.Sprintf(`"strip-%d-%d"`, frames[0].Number, last)}
	sheet := image.NewYCbCr(image.Rect(0, 0, stripLength*thumbWidth, thumbHeight), image.YCbCrSubsampleRatio444)
	for i := range sheet.Cb {
		sheet.Y[i], sheet.Cb[i], sheet.Cr[i] = 16, 128, 128
	}
	var numbers []string
	for i, f := range frames {
		t := (*image.YCbCr)(nil)
		if old != nil {
			t = old.thumbs[f.Number]
		}
		if t == nil {
			var err error
			if t, err = thumbnail(f); err != nil {
				return nil, fmt.Errorf("still %d: %w", f.Number, err)
			}
		}
		x.thumbs[f.Number] = t
		place(sheet, t, i*thumbWidth)
		numbers = append(numbers, strconv.FormatUint(f.Number, 10))
	}
	x.list = strings.Join(numbers, " ")
	var b bytes.Buffer
	if err := jpeg.Encode(&b, sheet, &jpeg.Options{Quality: 60}); err != nil {
		return nil, err
	}
	x.jpeg = b.Bytes()
	if p.of == nil {
		p.of = map[string]*stripOf{}
	}
	p.of[channel] = x
	return x, nil
}

// smallest is the smallest size of a channel; -1: it has none.
func smallest(r *reel.Reel, channel string) int {
	for size := still.Sizes - 1; size >= 0; size-- {
		if r.Newest(channel, size) != nil {
			return size
		}
	}
	return -1
}

// pick chooses the stills of the strip: at whole multiples of step, so that the same are chosen again the next time.
func pick(r *reel.Reel, channel string, size int, step time.Duration) []*reel.Frame {
	newest, oldest := r.Newest(channel, size), r.Oldest(channel, size)
	if newest == nil || oldest == nil {
		return nil
	}
	var frames []*reel.Frame
	end := newest.Taken.Truncate(step)
	for i := stripLength - 1; i >= 0; i-- {
		f := r.At(channel, size, end.Add(-time.Duration(i)*step))
		if f != nil && (len(frames) == 0 || f.Number > frames[len(frames)-1].Number) {
			frames = append(frames, f)
		}
	}
	return frames
}

// thumbnail makes a small picture of a still. What it says of its size is not believed before it is decoded.
func thumbnail(f *reel.Frame) (*image.YCbCr, error) {
	c, err := jpeg.DecodeConfig(bytes.NewReader(f.JPEG))
	if err != nil {
		return nil, err
	}
	if c.Width < 1 || c.Height < 1 || c.Width*c.Height > maxDecoded {
		return nil, fmt.Errorf("%d x %d are too many pixels for a thumbnail", c.Width, c.Height)
	}
	img, err := jpeg.Decode(bytes.NewReader(f.JPEG))
	if err != nil {
		return nil, err
	}
	return shrink(img), nil
}

// shrink scales by the mean of each target pixel's area, to thumbWidth x thumbHeight.
func shrink(img image.Image) *image.YCbCr {
	src, ok := img.(*image.YCbCr)
	if !ok {
		src = toYCbCr(img)
	}
	b := src.Bounds()
	out := image.NewYCbCr(image.Rect(0, 0, thumbWidth, thumbHeight), image.YCbCrSubsampleRatio444)
	for y := range thumbHeight {
		y0, y1 := b.Min.Y+y*b.Dy()/thumbHeight, b.Min.Y+(y+1)*b.Dy()/thumbHeight
		for x := range thumbWidth {
			x0, x1 := b.Min.X+x*b.Dx()/thumbWidth, b.Min.X+(x+1)*b.Dx()/thumbWidth
			var sy, sb, sr, n int
			for j := y0; j < max(y1, y0+1); j++ {
				for i := x0; i < max(x1, x0+1); i++ {
					c := src.COffset(i, j)
					sy += int(src.Y[src.YOffset(i, j)])
					sb += int(src.Cb[c])
					sr += int(src.Cr[c])
					n++
				}
			}
			o := out.YOffset(x, y)
			out.Y[o], out.Cb[o], out.Cr[o] = uint8(sy/n), uint8(sb/n), uint8(sr/n)
		}
	}
	return out
}

// toYCbCr takes a picture of another kind: grey, or CMYK.
func toYCbCr(img image.Image) *image.YCbCr {
	rgba := image.NewRGBA(img.Bounds())
	draw.Draw(rgba, rgba.Bounds(), img, img.Bounds().Min, draw.Src)
	out := image.NewYCbCr(rgba.Bounds(), image.YCbCrSubsampleRatio444)
	for y := rgba.Rect.Min.Y; y < rgba.Rect.Max.Y; y++ {
		for x := rgba.Rect.Min.X; x < rgba.Rect.Max.X; x++ {
			p := rgba.Pix[rgba.PixOffset(x, y):]
			o := out.YOffset(x, y)
			out.Y[o], out.Cb[o], out.Cr[o] = color.RGBToYCbCr(p[0], p[1], p[2])
		}
	}
	return out
}

// place copies a thumbnail into the sheet at x.
func place(sheet, t *image.YCbCr, x int) {
	for y := range thumbHeight {
		from, to := t.YOffset(0, y), sheet.YOffset(x, y)
		copy(sheet.Y[to:to+thumbWidth], t.Y[from:])
		copy(sheet.Cb[to:to+thumbWidth], t.Cb[from:])
		copy(sheet.Cr[to:to+thumbWidth], t.Cr[from:])
	}
}
