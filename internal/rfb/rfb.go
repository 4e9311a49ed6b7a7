package rfb

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"image"
	"io"
)

// Version is the greeting of both ends (RFC 6143 §7.1.1).
const Version = "RFB 003.008\n"

// MaxPixels is the largest display that is taken.
const MaxPixels = 1 << 25

const (
	securityNone = 1
	maxText      = 1 << 20 // bytes of a text of the server's

	encodingRaw         = 0
	encodingDesktopSize = -223
)

// The messages.
const (
	setPixelFormat = 0
	setEncodings   = 2
	updateRequest  = 3
	keyEvent       = 4
	pointerEvent   = 5
	clientCutText  = 6

	update        = 0
	colourMap     = 1
	bell          = 2
	serverCutText = 3
)

// pixels is the format that is spoken here: 32 bits, little endian, 0x00RRGGBB.
var pixels = []byte{32, 24, 0, 1, 0, 255, 0, 255, 0, 255, 16, 8, 0, 0, 0, 0}

var order = binary.BigEndian

// viewer is the client's end.
type viewer struct {
	rw      io.ReadWriter
	picture *image.RGBA
}

// Capture greets a server, and returns what its display shows. It does not end rw. What bounds its time is rw's deadline.
func Capture(rw io.ReadWriter) (*image.RGBA, error) {
	v := &viewer{rw: rw}
	if err := v.greet(); err != nil {
		return nil, fmt.Errorf("greet the display: %w", err)
	}
	if err := v.look(); err != nil {
		return nil, fmt.Errorf("read the display: %w", err)
	}
	return v.picture, nil
}

// greet does the handshake (§7.1 to §7.3).
func (v *viewer) greet() error {
	greeting, err := v.take(len(Version))
	if err != nil {
		return err
	}
	var major, minor int
	if _, err := fmt.Sscanf(string(greeting), "RFB %03d.%03d\n", &major, &minor); err != nil || major != 3 || minor < 8 {
		return fmt.Errorf("%q is not the greeting of RFB 3.8", greeting)
	}
	types, err := v.send([]byte(Version), 1)
	if err != nil {
		return err
	}
	if types[0] == 0 {
		return v.refused()
	}
	offered, err := v.take(int(types[0]))
	if err != nil {
		return err
	}
	if !bytes.Contains(offered, []byte{securityNone}) {
		return fmt.Errorf("security types %v: 1, none, is not among them", offered)
	}
	result, err := v.send([]byte{securityNone}, 4)
	if err != nil {
		return err
	}
	if order.Uint32(result) != 0 {
		return v.refused()
	}
	const shared = 1
	head, err := v.send([]byte{shared}, 24)
	if err != nil {
		return err
	}
	if _, err := v.text(order.Uint32(head[20:])); err != nil { // the display's name
		return err
	}
	return v.resize(int(order.Uint16(head)), int(order.Uint16(head[2:])))
}

// look asks for the whole display, and reads until it is there.
func (v *viewer) look() error {
	format := append([]byte{setPixelFormat, 0, 0, 0}, pixels...)
	encodings := []byte{setEncodings, 0, 0, 2}
	for _, e := range []int32{encodingRaw, encodingDesktopSize} {
		encodings = order.AppendUint32(encodings, uint32(e))
	}
	if _, err := v.rw.Write(append(format, encodings...)); err != nil {
		return err
	}
	for {
		size := v.picture.Rect.Max
		if err := v.ask(size); err != nil {
			return err
		}
		if err := v.untilUpdate(); err != nil {
			return err
		}
		if v.picture.Rect.Max == size {
			return nil
		}
	}
}

func (v *viewer) ask(size image.Point) error {
	m := []byte{updateRequest, 0, 0, 0, 0, 0}
	m = order.AppendUint16(order.AppendUint16(m, uint16(size.X)), uint16(size.Y))
	_, err := v.rw.Write(m)
	return err
}

// untilUpdate reads messages until one was an update.
func (v *viewer) untilUpdate() error {
	for {
		kind, err := v.take(1)
		if err != nil {
			return err
		}
		switch kind[0] {
		case update:
			return v.update()
		case colourMap:
			head, err := v.take(5)
			if err == nil {
				_, err = v.take(6 * int(order.Uint16(head[3:])))
			}
			if err != nil {
				return err
			}
		case bell:
		case serverCutText:
			head, err := v.take(7)
			if err == nil {
				_, err = v.text(order.Uint32(head[3:]))
			}
			if err != nil {
				return err
			}
		default:
			return fmt.Errorf("message %d is not known", kind[0])
		}
	}
}

// update reads the rectangles of an update (§7.6.1).
func (v *viewer) update() error {
	head, err := v.take(3)
	if err != nil {
		return err
	}
	for range order.Uint16(head[1:]) {
		r, err := v.take(12)
		if err != nil {
			return err
		}
		x, y, w, h := int(order.Uint16(r)), int(order.Uint16(r[2:])), int(order.Uint16(r[4:])), int(order.Uint16(r[6:]))
		switch encoding := int32(order.Uint32(r[8:])); encoding {
		case encodingDesktopSize:
			err = v.resize(w, h)
		case encodingRaw:
			err = v.paint(image.Rect(x, y, x+w, y+h))
		default:
			err = fmt.Errorf("encoding %d was not asked for", encoding)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (v *viewer) resize(w, h int) error {
	if w < 1 || h < 1 || w*h > MaxPixels {
		return fmt.Errorf("a display of %d x %d pixels is not taken", w, h)
	}
	v.picture = image.NewRGBA(image.Rect(0, 0, w, h))
	return nil
}

func (v *viewer) paint(r image.Rectangle) error {
	if !r.In(v.picture.Rect) {
		return fmt.Errorf("rectangle %v is not in the display %v", r, v.picture.Rect)
	}
	line := make([]byte, 4*r.Dx())
	for y := r.Min.Y; y < r.Max.Y; y++ {
		if _, err := io.ReadFull(v.rw, line); err != nil {
			return err
		}
		out := v.picture.Pix[v.picture.PixOffset(r.Min.X, y):]
		for i := 0; i < len(line); i += 4 {
			out[i], out[i+1], out[i+2], out[i+3] = line[i+2], line[i+1], line[i], 255
		}
	}
	return nil
}

// send writes a message and takes the answer of n bytes.
func (v *viewer) send(m []byte, n int) ([]byte, error) {
	if _, err := v.rw.Write(m); err != nil {
		return nil, err
	}
	return v.take(n)
}

// take reads n bytes, a number that the protocol bounds.
func (v *viewer) take(n int) ([]byte, error) {
	b := make([]byte, n)
	_, err := io.ReadFull(v.rw, b)
	return b, err
}

func (v *viewer) text(n uint32) (string, error) {
	if n > maxText {
		return "", fmt.Errorf("a text of %d bytes is not taken", n)
	}
	b, err := v.take(int(n))
	return string(b), err
}

// refused is the server's reason.
func (v *viewer) refused() error {
	n, err := v.take(4)
	if err != nil {
		return err
	}
	why, err := v.text(order.Uint32(n))
	if err != nil {
		return err
	}
	return fmt.Errorf("the server refuses: %.200q", why)
}

// Black tells whether nothing is to be seen in a picture.
func Black(m *image.RGBA) bool {
	for i := 0; i+3 < len(m.Pix); i += 4 {
		if m.Pix[i]|m.Pix[i+1]|m.Pix[i+2] != 0 {
			return false
		}
	}
	return true
}

// Serve shows one picture to a viewer that takes the raw encoding at 32 bits, until the viewer ends, which is nil.
func Serve(rw io.ReadWriter, picture *image.RGBA) error {
	err := serve(rw, picture)
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrClosedPipe) {
		return nil
	}
	return err
}

func serve(rw io.ReadWriter, picture *image.RGBA) error {
	v := &viewer{rw: rw}
	if _, err := v.send([]byte(Version), len(Version)); err != nil {
		return err
	}
	if _, err := v.send([]byte{1, securityNone}, 1); err != nil {
		return err
	}
	if _, err := v.send([]byte{0, 0, 0, 0}, 1); err != nil {
		return err
	}
	size := picture.Rect.Size()
	const name = "simulated"
	head := append(order.AppendUint16(order.AppendUint16(nil, uint16(size.X)), uint16(size.Y)), pixels...)
	if _, err := rw.Write(append(order.AppendUint32(head, uint32(len(name))), name...)); err != nil {
		return err
	}
	format := pixels
	for {
		kind, err := v.take(1)
		if err != nil {
			return err
		}
		switch kind[0] {
		case setPixelFormat:
			m, err := v.take(19)
			if err != nil {
				return err
			}
			if format = m[3:]; format[0] != 32 || format[3] == 0 {
				return errors.New("only true colour of 32 bits is shown")
			}
		case updateRequest:
			m, err := v.take(9)
			if err != nil {
				return err
			}
			if incremental := m[0] != 0; !incremental { // nothing changes
				if err := show(rw, picture, format); err != nil {
					return err
				}
			}
		case setEncodings:
			m, err := v.take(3)
			if err == nil {
				_, err = v.take(4 * int(order.Uint16(m[1:])))
			}
			if err != nil {
				return err
			}
		case keyEvent, pointerEvent:
			if _, err := v.take(map[byte]int{keyEvent: 7, pointerEvent: 5}[kind[0]]); err != nil {
				return err
			}
		case clientCutText:
			m, err := v.take(7)
			if err == nil {
				_, err = v.text(order.Uint32(m[3:]))
			}
			if err != nil {
				return err
			}
		default:
			return fmt.Errorf("message %d is not known", kind[0])
		}
	}
}

// show sends a whole picture in a viewer's format.
func show(w io.Writer, picture *image.RGBA, format []byte) error {
	size := picture.Rect.Size()
	m := []byte{update, 0, 0, 1, 0, 0, 0, 0}
	m = order.AppendUint32(order.AppendUint16(order.AppendUint16(m, uint16(size.X)), uint16(size.Y)), encodingRaw)
	for y := range size.Y {
		for x := range size.X {
			c := picture.RGBAAt(x, y)
			p := uint32(c.R)<<(format[10]&31) | uint32(c.G)<<(format[11]&31) | uint32(c.B)<<(format[12]&31)
			if format[2] != 0 {
				m = binary.BigEndian.AppendUint32(m, p)
			} else {
				m = binary.LittleEndian.AppendUint32(m, p)
			}
		}
	}
	_, err := w.Write(m)
	return err
}
