package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"testing"
)

// frames gives one frame at each Read.
type frames [][]byte

func (f *frames) Read(b []byte) (int, error) {
	if len(*f) == 0 {
		return 0, io.EOF
	}
	n := copy(b, (*f)[0])
	*f = (*f)[1:]
	return n, nil
}

// TestWritePcap: each frame is in the file with its length, and no more than asked for.
func TestWritePcap(t *testing.T) {
	for count, want := range map[int]int{0: 3, 2: 2} {
		var out bytes.Buffer
		n, err := writePcap(&out, &frames{[]byte("one"), []byte("twotwo"), []byte("x")}, count)
		if n != want || (err != nil) != (count == 0) || err != nil && !errors.Is(err, io.EOF) {
			t.Errorf("%d: %d frames, %v", count, n, err)
		}
		b := out.Bytes()
		if binary.LittleEndian.Uint32(b) != 0xa1b23c4d || binary.LittleEndian.Uint32(b[20:]) != 1 {
			t.Errorf("header % x", b[:24])
		}
		b = b[24:]
		for _, frame := range []string{"one", "twotwo", "x"}[:want] {
			size := binary.LittleEndian.Uint32(b[8:])
			if binary.LittleEndian.Uint32(b[12:]) != size || string(b[16:16+size]) != frame {
				t.Errorf("frame % x, want %q", b, frame)
			}
			b = b[16+size:]
		}
		if len(b) > 0 {
			t.Errorf("% x is left", b)
		}
	}
}
