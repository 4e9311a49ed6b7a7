package source

import (
	"bufio"
	"io"
)

// Scanner finds the JPEGs in a stream: MJPEG as it is, and multipart of any kind, whose headers it passes over. So it needs
// no boundary and no length, which many cameras get wrong.
type Scanner struct {
	r     *bufio.Reader
	max   int
	buf   []byte
	begun bool // the 0xff of the next marker has been read
	// Skipped counts the pictures that were cut off, too large, or broken.
	Skipped int
}

// NewScanner makes a Scanner for pictures of at most max bytes.
func NewScanner(r io.Reader, max int) *Scanner {
	return &Scanner{r: bufio.NewReaderSize(r, 1<<16), max: max}
}

// Markers of JPEG (ITU-T T.81, table B.1), without their 0xff.
const (
	markerTEM  = 0x01
	markerRST0 = 0xd0
	markerRST7 = 0xd7
	markerSOI  = 0xd8
	markerEOI  = 0xd9
	markerSOS  = 0xda
)

// Next gives the next whole picture, in memory of its own. The error is the reader's; io.EOF in the midst of a picture is
// io.ErrUnexpectedEOF.
func (s *Scanner) Next() ([]byte, error) {
	for {
		if err := s.start(); err != nil {
			return nil, err
		}
		for inside := true; inside; {
			whole, good, err := s.picture()
			switch {
			case err == io.EOF:
				return nil, io.ErrUnexpectedEOF
			case err != nil:
				return nil, err
			case whole:
				return append([]byte(nil), s.buf...), nil
			}
			s.Skipped++
			// A picture that ends where another begins: go on with that one.
			inside = good
			s.buf = append(s.buf[:0], 0xff, markerSOI)
		}
	}
}

// start reads up to the beginning of a picture.
func (s *Scanner) start() error {
	for last := byte(0); ; {
		b, err := s.r.ReadByte()
		if err != nil {
			return err
		}
		if last == 0xff && b == markerSOI {
			s.buf = append(s.buf[:0], 0xff, markerSOI)
			return nil
		}
		last = b
	}
}

// picture reads the rest of a picture. whole: it is in buf; else it is of no use, and again tells that the next one has
// begun.
func (s *Scanner) picture() (whole, again bool, err error) {
	for {
		marker, ok, err := s.marker()
		switch {
		case err != nil || !ok:
			return false, false, err
		case marker == markerSOI:
			return false, true, nil
		case marker == markerEOI:
			s.buf = append(s.buf, 0xff, marker)
			return true, false, nil
		}
		s.buf = append(s.buf, 0xff, marker)
		if marker == markerTEM || marker >= markerRST0 && marker <= markerRST7 {
			continue
		}
		if ok, err := s.segment(); err != nil || !ok {
			return false, false, err
		}
		if marker == markerSOS {
			if ok, err := s.entropy(); err != nil || !ok {
				return false, false, err
			}
		}
	}
}

// marker reads a marker, which must be next.
func (s *Scanner) marker() (marker byte, ok bool, err error) {
	b := byte(0xff)
	if !s.begun {
		if b, err = s.r.ReadByte(); err != nil || b != 0xff {
			return 0, false, err
		}
	}
	s.begun = false
	for b == 0xff { // any number of fill bytes
		if b, err = s.r.ReadByte(); err != nil {
			return 0, false, err
		}
	}
	return b, b != 0, nil
}

// segment reads a segment's length and content.
func (s *Scanner) segment() (ok bool, err error) {
	var length [2]byte
	if _, err := io.ReadFull(s.r, length[:]); err != nil {
		return false, ended(err)
	}
	n := int(length[0])<<8 + int(length[1])
	if n < 2 || len(s.buf)+n > s.max {
		return false, nil
	}
	s.buf = append(s.buf, length[:]...)
	at := len(s.buf)
	s.buf = append(s.buf, make([]byte, n-2)...)
	_, err = io.ReadFull(s.r, s.buf[at:])
	return true, ended(err)
}

func ended(err error) error {
	if err == io.ErrUnexpectedEOF {
		return io.EOF
	}
	return err
}

// entropy reads the data behind a start of scan, up to the next marker, of which it has read the first byte.
func (s *Scanner) entropy() (ok bool, err error) {
	for {
		b, err := s.r.ReadByte()
		if err != nil {
			return false, err
		}
		if b != 0xff {
			s.buf = append(s.buf, b)
		} else {
			next, err := s.r.Peek(1)
			if err != nil {
				return false, err
			}
			if next[0] != 0 && (next[0] < markerRST0 || next[0] > markerRST7) {
				s.begun = true
				return true, nil
			}
			s.r.Discard(1) // it is there
			s.buf = append(s.buf, 0xff, next[0])
		}
		if len(s.buf) > s.max {
			return false, nil
		}
	}
}
