package still

import (
	"bytes"
	"errors"
	"fmt"
	"time"
)

// Bounds of a still.
const (
	MaxChannel = 32        // length of a channel's name, in bytes
	Sizes      = 4         // sizes of one picture: 0, the largest, to 3
	MaxSide    = 8192      // width and height, in pixels
	MaxBytes   = 1 << 20   // length of a JPEG
	MaxNumber  = 1<<53 - 1 // what a browser's numbers hold exactly
	MaxRate    = 10        // pictures of a channel a second
	minBytes   = 4         // start and end marker
	maxTaken   = 1 << 33   // Unix time in seconds: the year 2242
	tenth      = time.Second / MaxRate
)

// ErrBounds is in every error of Check and CheckChannel.
var ErrBounds = errors.New("still out of bounds")

// Still is one picture of a channel in one size.
type Still struct {
	Channel string
	Size    int    // 0 is the largest
	Number  uint64 // the same for all sizes of a picture; grows
	Taken   time.Time
	Width   int // pixels
	Height  int
	JPEG    []byte // shared: never changed
}

// Markers of JPEG (ITU-T T.81, table B.1).
var (
	startOfImage = []byte{0xff, 0xd8}
	endOfImage   = []byte{0xff, 0xd9}
)

// Check tells whether s is within bounds. It looks at the JPEG's length and its first and last marker, not into it. The
// error names the field, and is an ErrBounds.
func (s *Still) Check() error {
	if err := CheckChannel(s.Channel); err != nil {
		return err
	}
	switch {
	case s.Size < 0 || s.Size >= Sizes:
		return bad("size", "%d is not between 0 and %d", s.Size, Sizes-1)
	case s.Number < 1 || s.Number > MaxNumber:
		return bad("number", "%d is not between 1 and %d", s.Number, uint64(MaxNumber))
	case s.Taken.Unix() < 0 || s.Taken.Unix() >= maxTaken:
		return bad("taken", "%d s is not a Unix time between 0 and %d s", s.Taken.Unix(), uint64(maxTaken)-1)
	case s.Width < 1 || s.Width > MaxSide:
		return bad("width", "%d is not between 1 and %d", s.Width, MaxSide)
	case s.Height < 1 || s.Height > MaxSide:
		return bad("height", "%d is not between 1 and %d", s.Height, MaxSide)
	case len(s.JPEG) < minBytes || len(s.JPEG) > MaxBytes:
		return bad("jpeg", "%d bytes are not between %d and %d", len(s.JPEG), minBytes, MaxBytes)
	case !bytes.HasPrefix(s.JPEG, startOfImage):
		return bad("jpeg", "it does not begin with a start-of-image marker")
	case !bytes.HasSuffix(s.JPEG, endOfImage):
		return bad("jpeg", "it does not end with an end-of-image marker")
	}
	return nil
}

// CheckChannel tells whether name can be a channel's: 1 to MaxChannel of a-z, 0-9 and "-", and no "-" at its start. The
// error is an ErrBounds.
func CheckChannel(name string) error {
	if len(name) < 1 || len(name) > MaxChannel {
		return bad("channel", "%d characters are not between 1 and %d", len(name), MaxChannel)
	}
	for i, c := range []byte(name) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && (c != '-' || i == 0) {
			return bad("channel", "%q has another character than a-z, 0-9 and, not at its start, -", name)
		}
	}
	return nil
}

func bad(field, format string, args ...any) error {
	return fmt.Errorf("%w: %s: %s", ErrBounds, field, fmt.Sprintf(format, args...))
}

// First is the number of a sender's first picture: t in tenths of a second since 1970. It is larger than all numbers of
// an earlier run, as long as the clock is not put back.
func First(t time.Time) uint64 { return uint64(max(1, t.UnixNano()/int64(tenth))) }

// Next is the number after last. A sender that slept or skipped pictures catches up with the time.
func Next(last uint64, t time.Time) uint64 { return max(last+1, First(t)) }
