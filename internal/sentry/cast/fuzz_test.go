package cast_test

import (
	"bytes"
	"math/rand/v2"
	"testing"
	"time"

	"widecloud/internal/sentry/cast"
	"widecloud/internal/sentry/still"
)

// FuzzTake: bytes of a stranger are never used, whatever they are, and nothing is kept of them.
func FuzzTake(f *testing.F) {
	w := newWorldOf(f, 0.05, 0, nil)
	r := rand.New(rand.NewPCG(1, 2))
	for _, b := range w.pack(picture(r, "main", 1, start, 3000)) {
		f.Add(b[:48])
		b[40] ^= 1
		f.Add(b)
	}
	f.Add([]byte("WS\x01\x01"))
	f.Fuzz(func(t *testing.T, b []byte) {
		w := newWorldOf(t, 0.05, 0, nil)
		if o := w.take(b); o > cast.Forged {
			t.Errorf("%x is %v", b, o)
		}
		if s := w.receiver.Stats(); s.Held != 0 || len(s.Senders) != 0 || len(w.got) != 0 {
			t.Errorf("something is kept: %+v", s)
		}
	})
}

// FuzzShard: contents of a key holder are judged without harm; what is delivered is within bounds; then good stills get
// through.
func FuzzShard(f *testing.F) {
	w := newWorldOf(f, 0.05, 0, nil)
	r := rand.New(rand.NewPCG(1, 2))
	for _, length := range []int{4, 500, 3000, 200_000} {
		all := w.pack(picture(r, "main", 1, start, length))
		for _, b := range [][]byte{all[0], all[len(all)/2], all[len(all)-1]} {
			f.Add(w.packer.Content(b), w.packer.Content(all[0]))
		}
	}
	f.Fuzz(func(t *testing.T, one, two []byte) {
		if len(one)+len(two) > 60_000 {
			t.Skip()
		}
		w := newWorldOf(t, 0.05, 0, func(o *cast.ReceiverOptions) { o.Memory = 4 << 20 })
		w.take(w.packer.Seal(one), w.packer.Seal(two), w.packer.Seal(one))
		if s := w.receiver.Stats(); s.MostHeld > 4<<20 {
			t.Errorf("%d bytes are held", s.MostHeld)
		}
		for _, s := range w.got {
			if err := s.Check(); err != nil {
				t.Error(err)
			}
		}
		delivered := len(w.got)
		w.now = w.now.Add(time.Second)
		w.packer = w.session(cast.PackerOptions{Loss: 0.05})
		w.take(w.pack(picture(r, "next", still.MaxNumber, w.now, 3000))...)
		if len(w.got) != delivered+1 {
			t.Errorf("the next still is not delivered: %+v", w.receiver.Stats())
		}
	})
}

// FuzzReport: what is read as a report is written as the same bytes.
func FuzzReport(f *testing.F) {
	f.Add(cast.ReportContent("", cast.Report{}))
	f.Add(cast.ReportContent("tokyo", cast.Report{Stills: 1, Delay: time.Second, Evicted: 1 << 60}))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		if again, err := cast.ParseReport(b); err == nil && !bytes.Equal(b, again) {
			t.Errorf("%x is written as %x", b, again)
		}
	})
}
