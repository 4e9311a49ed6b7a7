package still_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"widecloud/internal/sentry/still"
)

func good() still.Still {
	return still.Still{Channel: "koshien-1", Size: 0, Number: 1, Taken: time.Unix(1_300_000_000, 0), Width: 640, Height: 360,
		JPEG: []byte{0xff, 0xd8, 0xff, 0xd9}}
}

func TestCheck(t *testing.T) {
	for _, c := range []struct {
		what string
		set  func(s *still.Still)
		want string // empty: it is good
	}{
		{"plain", func(*still.Still) {}, ""},
		{"largest", func(s *still.Still) {
			s.Channel, s.Size, s.Number = strings.Repeat("a", still.MaxChannel), still.Sizes-1, still.MaxNumber
			s.Width, s.Height = still.MaxSide, still.MaxSide
			s.JPEG = append(append([]byte{0xff, 0xd8}, bytes.Repeat([]byte{0}, still.MaxBytes-4)...), 0xff, 0xd9)
		}, ""},
		{"no channel", func(s *still.Still) { s.Channel = "" }, "channel: 0 characters"},
		{"long channel", func(s *still.Still) { s.Channel = strings.Repeat("a", still.MaxChannel+1) }, "channel: 33 characters"},
		{"path", func(s *still.Still) { s.Channel = "../a" }, "channel: "},
		{"dash first", func(s *still.Still) { s.Channel = "-a" }, "channel: "},
		{"upper case", func(s *still.Still) { s.Channel = "A" }, "channel: "},
		{"size below", func(s *still.Still) { s.Size = -1 }, "size: -1"},
		{"size above", func(s *still.Still) { s.Size = still.Sizes }, "size: 4"},
		{"number 0", func(s *still.Still) { s.Number = 0 }, "number: 0"},
		{"large number", func(s *still.Still) { s.Number = still.MaxNumber + 1 }, "number: 9007199254740992"},
		{"no time", func(s *still.Still) { s.Taken = time.Time{} }, "taken: "},
		{"far time", func(s *still.Still) { s.Taken = time.Unix(1<<33, 0) }, "taken: "},
		{"width 0", func(s *still.Still) { s.Width = 0 }, "width: 0"},
		{"wide", func(s *still.Still) { s.Width = still.MaxSide + 1 }, "width: 8193"},
		{"height 0", func(s *still.Still) { s.Height = 0 }, "height: 0"},
		{"high", func(s *still.Still) { s.Height = still.MaxSide + 1 }, "height: 8193"},
		{"no bytes", func(s *still.Still) { s.JPEG = nil }, "jpeg: 0 bytes"},
		{"many bytes", func(s *still.Still) { s.JPEG = make([]byte, still.MaxBytes+1) }, "jpeg: 1048577 bytes"},
		{"no JPEG", func(s *still.Still) { s.JPEG = []byte("GIF89a") }, "jpeg: it does not begin"},
		{"half a JPEG", func(s *still.Still) { s.JPEG = []byte{0xff, 0xd8, 0xff, 0xe0, 0} }, "jpeg: it does not end"},
	} {
		s := good()
		c.set(&s)
		err := s.Check()
		switch {
		case c.want == "" && err != nil:
			t.Errorf("%s: %v", c.what, err)
		case c.want != "" && (!errors.Is(err, still.ErrBounds) || !strings.Contains(err.Error(), c.want)):
			t.Errorf("%s: error %v, want %q", c.what, err, c.want)
		}
	}
}

// TestNumbersGrow: they grow within a run and over restarts, whatever the pace, up to MaxRate.
func TestNumbersGrow(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		now := time.Unix(rapid.Int64Range(0, 1<<32).Draw(t, "start"), 0)
		last := uint64(0)
		for range rapid.IntRange(1, 5).Draw(t, "runs") {
			now = now.Add(time.Second)
			n := still.First(now)
			for range rapid.IntRange(1, 50).Draw(t, "pictures") {
				if n <= last {
					t.Fatalf("number %d follows %d", n, last)
				}
				last = n
				now = now.Add(time.Duration(rapid.IntRange(100, 5000).Draw(t, "ms")) * time.Millisecond)
				n = still.Next(last, now)
			}
		}
	})
}
