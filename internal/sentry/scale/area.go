package scale

import (
	"image"
	"image/color"
)

// To scales a picture to a size of at least one pixel each way, which should not be larger than the picture's.
func To(m image.Image, size image.Point) *image.YCbCr {
	src := planes(m)
	if b := src.Bounds(); b.Size() == size && b.Min == (image.Point{}) && src.SubsampleRatio == image.YCbCrSubsampleRatio420 {
		return src
	}
	dst := image.NewYCbCr(image.Rectangle{Max: size}, image.YCbCrSubsampleRatio420)
	b := src.Bounds()
	area(plane{dst.Y, dst.YStride, size}, plane{src.Y[src.YOffset(b.Min.X, b.Min.Y):], src.YStride, b.Size()})
	half := image.Pt((size.X+1)/2, (size.Y+1)/2)
	at, chroma := src.COffset(b.Min.X, b.Min.Y), chromaSize(src)
	area(plane{dst.Cb, dst.CStride, half}, plane{src.Cb[at:], src.CStride, chroma})
	area(plane{dst.Cr, dst.CStride, half}, plane{src.Cr[at:], src.CStride, chroma})
	return dst
}

// chromaSize is the size of a picture's chroma planes.
func chromaSize(m *image.YCbCr) image.Point {
	last := m.COffset(m.Rect.Max.X-1, m.Rect.Max.Y-1) - m.COffset(m.Rect.Min.X, m.Rect.Min.Y)
	return image.Pt(last%m.CStride+1, last/m.CStride+1)
}

// planes gives a picture's planes of luma and chroma; those of a JPEG are its own.
func planes(m image.Image) *image.YCbCr {
	if y, ok := m.(*image.YCbCr); ok {
		return y
	}
	b := m.Bounds()
	out := image.NewYCbCr(image.Rectangle{Max: b.Size()}, image.YCbCrSubsampleRatio444)
	for y := range b.Dy() {
		for x := range b.Dx() {
			c := color.YCbCrModel.Convert(m.At(b.Min.X+x, b.Min.Y+y)).(color.YCbCr)
			i := out.YOffset(x, y)
			out.Y[i], out.Cb[i], out.Cr[i] = c.Y, c.Cb, c.Cr
		}
	}
	return out
}

// plane is one component of a picture.
type plane struct {
	pix    []byte
	stride int
	size   image.Point
}

// one is the sum of the weights of a span.
const one = 1 << 16

// span says which pixels of the source a pixel covers along one axis, and how much each of them counts.
type span struct {
	first   int
	weights []uint32
}

// spans covers from pixels with to pixels.
func spans(from, to int) []span {
	out := make([]span, to)
	for i := range out {
		// In units of 1/to of a source pixel, the pixel covers [i*from, (i+1)*from).
		begin, end := i*from, (i+1)*from
		s := span{first: begin / to}
		left := uint32(one)
		for p := s.first; p*to < end; p++ {
			covered := min(end, (p+1)*to) - max(begin, p*to)
			w := uint32(uint64(covered) * one / uint64(from))
			left -= w
			s.weights = append(s.weights, w)
		}
		s.weights[len(s.weights)/2] += left // what rounding has left over
		out[i] = s
	}
	return out
}

// area scales src to the size of dst.
func area(dst, src plane) {
	across, down := spans(src.size.X, dst.size.X), spans(src.size.Y, dst.size.Y)
	row, sum := make([]uint32, dst.size.X), make([]uint64, dst.size.X)
	in := -1 // the row of src that is in row
	for y, s := range down {
		clear(sum)
		for i, weight := range s.weights {
			if in != s.first+i {
				in = s.first + i
				squeeze(row, src.pix[in*src.stride:], across)
			}
			for x, v := range row {
				sum[x] += uint64(v) * uint64(weight)
			}
		}
		out := dst.pix[y*dst.stride:]
		for x, v := range sum {
			out[x] = byte((v + one*one/2) / (one * one))
		}
	}
}

// squeeze scales one row; its values are multiplied by one.
func squeeze(row []uint32, pix []byte, across []span) {
	for x, s := range across {
		var v uint32
		for i, weight := range s.weights {
			v += uint32(pix[s.first+i]) * weight
		}
		row[x] = v
	}
}
