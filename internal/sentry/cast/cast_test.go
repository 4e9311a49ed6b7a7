package cast_test

import (
	"bytes"
	"encoding/binary"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"widecloud/internal/sentry/cast"
	"widecloud/internal/sentry/still"
)

var start = time.Date(2011, 8, 6, 1, 30, 0, 0, time.UTC)

const keyText = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"

func key(t interface{ Fatal(...any) }, text string) cast.Key {
	k, err := cast.ParseKey(text)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// picture is a still of n bytes that no compression would make smaller.
func picture(r *rand.Rand, channel string, number uint64, taken time.Time, n int) *still.Still {
	b := make([]byte, 0, n+8)
	for len(b) < n {
		b = binary.LittleEndian.AppendUint64(b, r.Uint64())
	}
	b = b[:n]
	copy(b, "\xff\xd8")
	copy(b[n-2:], "\xff\xd9")
	return &still.Still{Channel: channel, Number: number, Taken: taken, Width: 1280, Height: 720, JPEG: b}
}

// world is a packer and a receiver with one clock.
type world struct {
	t interface {
		Fatal(...any)
		Fatalf(string, ...any)
	}
	now      time.Time
	packer   *cast.Packer
	receiver *cast.Receiver
	got      []*still.Still
	fed      uint64
}

func newWorld(t *testing.T, loss float64, size int, change func(*cast.ReceiverOptions)) *world {
	return newWorldOf(t, loss, size, change)
}

func newWorldOf(t interface {
	Fatal(...any)
	Fatalf(string, ...any)
}, loss float64, size int, change func(*cast.ReceiverOptions)) *world {
	w := &world{t: t, now: start}
	w.packer = w.session(cast.PackerOptions{Loss: loss, Bytes: size})
	o := cast.ReceiverOptions{Name: "test", Keys: []cast.Key{key(t, keyText)}, Now: func() time.Time { return w.now },
		Deliver: func(s *still.Still) { w.got = append(w.got, s) }}
	if change != nil {
		change(&o)
	}
	var err error
	if w.receiver, err = cast.NewReceiver(o); err != nil {
		t.Fatal(err)
	}
	return w
}

// session begins a session of the sender.
func (w *world) session(o cast.PackerOptions) *cast.Packer {
	o.Key, o.Now, o.Rand = key(w.t, keyText), w.now, rand.NewChaCha8([32]byte{1})
	p, err := cast.NewPacker(o)
	if err != nil {
		w.t.Fatal(err)
	}
	return p
}

func (w *world) pack(s *still.Still) [][]byte {
	d, err := w.packer.Pack(s)
	if err != nil {
		w.t.Fatal(err)
	}
	var out [][]byte
	for _, x := range d {
		out = append(out, x.Bytes)
	}
	return out
}

// take feeds datagrams and gives the outcome of the last.
func (w *world) take(all ...[]byte) (o cast.Outcome) {
	for _, b := range all {
		before := bytes.Clone(b)
		o = w.receiver.Take(b)
		w.fed++
		if !bytes.Equal(b, before) {
			w.t.Fatal("a datagram was changed")
		}
	}
	s := w.receiver.Stats()
	if s.Datagrams.Total() != w.fed {
		w.t.Fatalf("%d datagrams were taken, %d are counted: %v", w.fed, s.Datagrams.Total(), s.Datagrams)
	}
	return o
}

// TestAnyShardsWillDo: whichever shards of each block get lost, as long as no more than its parity, and in whatever order
// and how often the others arrive, the still is delivered once and as it was. One less, and nothing is.
func TestAnyShardsWillDo(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		size := rapid.IntRange(cast.MinDatagram, 9000).Draw(t, "datagram")
		loss := rapid.SampledFrom([]float64{0, 0.01, 0.05, 0.3}).Draw(t, "loss")
		length := rapid.OneOf(rapid.IntRange(4, 3000), rapid.IntRange(4, 200_000)).Draw(t, "length")
		w := newWorldOf(t, loss, size, nil)
		r := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		want := picture(r, "main", 7, start, length)
		all, err := w.packer.Pack(want)
		if err != nil {
			t.Fatal(err)
		}
		data := 0
		for _, d := range all {
			if !d.Parity {
				data++
			}
			if len(d.Bytes) > size {
				t.Fatalf("a datagram has %d bytes", len(d.Bytes))
			}
		}
		blocks := (data + 127) / 128
		parity := (len(all) - data) / blocks
		keep := make([][][]byte, blocks)
		for i, d := range all {
			keep[i%blocks] = append(keep[i%blocks], d.Bytes)
		}
		var chosen [][]byte
		spoilt := rapid.IntRange(-1, blocks-1).Draw(t, "spoilt")
		for b, shards := range keep {
			r.Shuffle(len(shards), func(i, j int) { shards[i], shards[j] = shards[j], shards[i] })
			lose := min(r.IntN(parity+1), parity)
			if b == spoilt {
				lose = parity + 1
			}
			chosen = append(chosen, shards[lose:]...)
		}
		if len(chosen) > 0 {
			chosen = append(chosen, chosen[r.IntN(len(chosen))])
		}
		r.Shuffle(len(chosen), func(i, j int) { chosen[i], chosen[j] = chosen[j], chosen[i] })
		w.take(chosen...)
		var expect []*still.Still
		if spoilt < 0 {
			expect = append(expect, want)
		}
		if d := cmp.Diff(expect, w.got); d != "" {
			t.Fatalf("-sent +delivered:\n%s", d)
		}
	})
}

// TestFivePercent is the aim: at 5 % of random loss at most one in a thousand stills of 30 kB is lost.
func TestFivePercent(t *testing.T) {
	const length = 30_000
	run := func(stills int, designed, actual float64) (lost int, overhead float64) {
		w := newWorld(t, designed, 0, nil)
		r := rand.New(rand.NewPCG(1, 2))
		var sent, needed float64
		for n := range stills {
			w.now = w.now.Add(time.Second)
			s := picture(r, "main", uint64(n+1), w.now, length)
			for _, d := range w.pack(s) {
				sent += float64(len(d))
				if r.Float64() >= actual {
					w.receiver.Take(d)
				}
			}
			needed += length
		}
		for _, s := range w.got {
			if len(s.JPEG) != length {
				t.Fatalf("a still has %d bytes", len(s.JPEG))
			}
		}
		return stills - len(w.got), sent / needed
	}
	const stills, few = 5_000, 300
	lost, overhead := run(stills, 0.05, 0.05)
	t.Logf("5 %% of loss, as expected: %d of %d stills lost; %.3f bytes sent for each of a JPEG", lost, stills, overhead)
	if lost > stills/1000 {
		t.Errorf("%d of %d stills are lost", lost, stills)
	}
	if overhead > 1.6 {
		t.Errorf("%.2f bytes are sent for each", overhead)
	}
	// The measure can fail: without parity most stills are lost, and so they are when a third of the datagrams is.
	if lost, _ := run(few, 0, 0.05); lost < few/2 {
		t.Errorf("without parity %d of %d stills are lost", lost, few)
	}
	if lost, _ := run(few, 0.05, 0.35); lost < few/2 {
		t.Errorf("at 35 %% of loss %d of %d stills are lost", lost, few)
	}
}

func TestStatsOfLoss(t *testing.T) {
	w := newWorld(t, 0.05, 0, nil)
	r := rand.New(rand.NewPCG(1, 2))
	for n := range 10 {
		w.now = w.now.Add(time.Second)
		all := w.pack(picture(r, "main", uint64(n+1), w.now.Add(-30*time.Millisecond), 30_000))
		switch n {
		case 3, 4: // lost
			all = all[:5]
		case 6: // recovered
			all = all[1:]
		}
		w.take(all...)
	}
	s := w.receiver.Stats()
	want := cast.Tally{Stills: 8, Recovered: 1, Lost: 2, Delay: 30 * time.Millisecond}
	if d := cmp.Diff(want, s.Tally); d != "" {
		t.Errorf("-want +got:\n%s", d)
	}
	perStill := uint64(len(w.pack(picture(r, "main", 11, w.now, 30_000))))
	if len(s.Senders) != 1 || s.Senders[0].Missing != 2*(perStill-5)+1 || s.Senders[0].Arrived != w.fed || s.Senders[0].Tally != want {
		t.Errorf("senders: %+v", s.Senders)
	}
	if s.Held != 0 || s.MostHeld == 0 {
		t.Errorf("%d bytes are held, at most %d", s.Held, s.MostHeld)
	}
}

// TestOrder: stills are delivered in order; what is older than the newest is late.
func TestOrder(t *testing.T) {
	w := newWorld(t, 0, 0, nil)
	r := rand.New(rand.NewPCG(1, 2))
	first, second := w.pack(picture(r, "main", 10, start, 5000)), w.pack(picture(r, "main", 20, start, 5000))
	other := w.pack(picture(r, "other", 5, start, 500))
	w.take(first[0])
	w.take(second...)
	if o := w.take(first[1]); o != cast.Late {
		t.Errorf("a shard of an older still is %v", o)
	}
	if o := w.take(other...); o != cast.Used {
		t.Errorf("another channel's is %v", o)
	}
	if len(w.got) != 2 || w.got[0].Number != 20 || w.got[1].Number != 5 {
		t.Errorf("delivered: %v", w.got)
	}
	if s := w.receiver.Stats(); s.Held != 0 {
		t.Errorf("%d bytes are held for what will never be delivered", s.Held)
	}
}

// TestHostile: what a datagram of a stranger, a recording or a broken sender becomes.
func TestHostile(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	good := func(w *world) [][]byte { return w.pack(picture(r, "main", 1000, w.now, 5000)) }
	// tamper seals a good shard's content again after a change.
	tamper := func(change func(b []byte) []byte) func(w *world) []byte {
		return func(w *world) []byte { return w.packer.Seal(change(w.packer.Content(good(w)[0]))) }
	}
	u16 := func(at int, v uint16) func(w *world) []byte {
		return tamper(func(b []byte) []byte { binary.BigEndian.PutUint16(b[at:], v); return b })
	}
	u64 := func(at int, v uint64) func(w *world) []byte {
		return tamper(func(b []byte) []byte { binary.BigEndian.PutUint64(b[at:], v); return b })
	}
	for _, c := range []struct {
		what string
		b    func(w *world) []byte
		want cast.Outcome
	}{
		{"empty", func(*world) []byte { return nil }, cast.Short},
		{"short", func(w *world) []byte { return good(w)[0][:47] }, cast.Short},
		{"long", func(w *world) []byte { return append(good(w)[0], make([]byte, cast.MaxDatagram)...) }, cast.Short},
		{"another protocol", func(*world) []byte { return bytes.Repeat([]byte("x"), 100) }, cast.Foreign},
		{"another version", func(w *world) []byte { b := good(w)[0]; b[2] = 2; return b }, cast.Foreign},
		{"another key", func(w *world) []byte {
			p, err := cast.NewPacker(cast.PackerOptions{Key: key(t, strings.Repeat("7", 64)), Now: w.now, Rand: r8()})
			if err != nil {
				t.Fatal(err)
			}
			d, err := p.Pack(picture(r, "main", 1, w.now, 500))
			if err != nil {
				t.Fatal(err)
			}
			return d[0].Bytes
		}, cast.Foreign},
		{"a bit of the content", func(w *world) []byte { b := good(w)[0]; b[100] ^= 1; return b }, cast.Forged},
		{"a bit of the tag", func(w *world) []byte { b := good(w)[0]; b[len(b)-1] ^= 1; return b }, cast.Forged},
		{"the sequence number", func(w *world) []byte { b := good(w)[0]; b[30] ^= 1; return b }, cast.Forged},
		{"sequence number 0", func(w *world) []byte { b := good(w)[0]; clear(b[24:32]); return b }, cast.Replayed},
		{"the session", func(w *world) []byte { b := good(w)[0]; b[15]++; return b }, cast.Forged},
		{"cut", func(w *world) []byte { b := good(w)[0]; return b[:len(b)-1] }, cast.Forged},
		{"of an older session", func(w *world) []byte {
			old := w.packer
			w.now = w.now.Add(time.Second)
			w.packer = w.session(cast.PackerOptions{})
			w.take(good(w)[0])
			w.packer = old
			return good(w)[0]
		}, cast.Old},
		{"of a session far ahead", func(w *world) []byte {
			w.now = w.now.Add(time.Hour)
			w.packer = w.session(cast.PackerOptions{})
			b := good(w)[0]
			w.now = w.now.Add(-time.Hour)
			return b
		}, cast.Future},
		{"twice", func(w *world) []byte { b := good(w)[0]; w.take(b); return b }, cast.Replayed},
		{"taken long ago", func(w *world) []byte {
			w.now = w.now.Add(time.Hour)
			return w.pack(picture(r, "main", 1, start, 500))[0]
		}, cast.Stale},
		{"taken far ahead", func(w *world) []byte { return w.pack(picture(r, "main", 1, start.Add(time.Hour), 500))[0] }, cast.Stale},
		{"no content", func(w *world) []byte { return w.packer.Seal(nil) }, cast.Malformed},
		{"no bytes", tamper(func(b []byte) []byte { return b[:39] }), cast.Malformed},
		{"number 0", u64(0, 0), cast.Malformed},
		{"a large number", u64(0, 1<<60), cast.Malformed},
		{"an absurd time", u64(8, 1<<63), cast.Malformed},
		{"ordinal 0", tamper(func(b []byte) []byte { clear(b[16:20]); return b }), cast.Malformed},
		{"an absurd length", tamper(func(b []byte) []byte { binary.BigEndian.PutUint32(b[20:], 1<<31); return b }), cast.Malformed},
		{"width 0", u16(24, 0), cast.Malformed},
		{"height 65535", u16(26, 65535), cast.Malformed},
		{"no data shards", u16(28, 0), cast.Malformed},
		{"too many data shards", u16(28, 65535), cast.Malformed},
		{"another number of data shards", u16(28, 6), cast.Malformed},
		{"an index above all", u16(30, 400), cast.Malformed},
		{"absurd parity", tamper(func(b []byte) []byte { b[32] = 200; return b }), cast.Malformed},
		{"size 9", tamper(func(b []byte) []byte { b[33] = 9; return b }), cast.Malformed},
		{"a long channel", tamper(func(b []byte) []byte { b[34] = 33; return b }), cast.Malformed},
		{"no channel", tamper(func(b []byte) []byte { b[34] = 0; return b }), cast.Malformed},
		{"a path as channel", tamper(func(b []byte) []byte { copy(b[35:], "../a"); return b }), cast.Malformed},
		{"another width than before", func(w *world) []byte {
			all := good(w)
			w.take(all[0])
			b := w.packer.Content(all[1])
			b[25]++
			return w.packer.Seal(b)
		}, cast.Malformed},
		{"the same shard, sealed again", func(w *world) []byte {
			all := good(w)
			w.take(all[0])
			return w.packer.Seal(w.packer.Content(all[0]))
		}, cast.Surplus},
		{"of a still that is delivered", func(w *world) []byte {
			all := good(w)
			w.take(all...)
			return w.packer.Seal(w.packer.Content(all[0]))
		}, cast.Surplus},
		{"good", func(w *world) []byte { return good(w)[0] }, cast.Used},
	} {
		w := newWorld(t, 0, 0, nil)
		b := c.b(w)
		delivered := len(w.got)
		if o := w.take(b); o != c.want {
			t.Errorf("%s: %v, want %v", c.what, o, c.want)
		}
		if len(w.got) != delivered {
			t.Errorf("%s: a still is delivered", c.what)
		}
		// What was refused has done no harm: the next still gets through.
		if w.packer = w.session(cast.PackerOptions{}); c.want != cast.Old && c.want != cast.Future && c.want != cast.Stale {
			w.now = w.now.Add(time.Second)
			w.packer = w.session(cast.PackerOptions{})
			w.take(w.pack(picture(r, "main", 2000, w.now, 5000))...)
			if len(w.got) != delivered+1 {
				t.Errorf("%s: the next still is not delivered", c.what)
			}
		}
	}
}

func r8() *rand.ChaCha8 { return rand.NewChaCha8([32]byte{9}) }

// TestBrokenJPEG: a key holder sends bytes that are no JPEG. They are not delivered, and the next still is.
func TestBrokenJPEG(t *testing.T) {
	w := newWorld(t, 0, 0, nil)
	r := rand.New(rand.NewPCG(1, 2))
	all := w.pack(picture(r, "main", 1, start, 500))
	b := w.packer.Content(all[0])
	b[len(b)-1] = 0 // the end-of-image marker
	w.take(w.packer.Seal(b))
	if len(w.got) != 0 {
		t.Fatal("half a JPEG is delivered")
	}
	w.take(w.pack(picture(r, "main", 2, start, 500))...)
	if len(w.got) != 1 {
		t.Fatal("the next still is not delivered")
	}
}

// TestRestarts: after a restart of the sender its new session counts, and recordings of the old one are of no use; after a
// restart of the receiver they are of no use when they are older than MaxAge.
func TestRestarts(t *testing.T) {
	w := newWorld(t, 0.05, 0, nil)
	r := rand.New(rand.NewPCG(1, 2))
	old := w.pack(picture(r, "main", still.First(w.now), w.now, 5000))
	w.take(old...)
	w.now = w.now.Add(10 * time.Second)
	w.packer = w.session(cast.PackerOptions{Loss: 0.05})
	w.take(w.pack(picture(r, "main", still.First(w.now), w.now, 5000))...)
	if len(w.got) != 2 {
		t.Fatalf("%d stills are delivered, want 2", len(w.got))
	}
	if o := w.take(old...); o != cast.Old {
		t.Errorf("the recording is %v", o)
	}
	w.now = w.now.Add(time.Minute)
	fresh := newWorld(t, 0.05, 0, func(o *cast.ReceiverOptions) { o.Now = func() time.Time { return w.now } })
	if o := fresh.take(old...); o != cast.Stale || len(fresh.got) != 0 {
		t.Errorf("for a fresh receiver the recording is %v, %d stills are delivered", o, len(fresh.got))
	}
	now := fresh.now
	fresh.now = w.now
	fresh.take(w.pack(picture(r, "main", still.First(w.now), w.now, 5000))...)
	if fresh.now = now; len(fresh.got) != 1 {
		t.Error("the sender's session is not taken after a recording of an older one")
	}
}

// TestTwoSenders: each key has sessions of its own.
func TestTwoSenders(t *testing.T) {
	second := key(t, strings.Repeat("8", 64))
	w := newWorld(t, 0, 0, func(o *cast.ReceiverOptions) { o.Keys = append(o.Keys, second) })
	r := rand.New(rand.NewPCG(1, 2))
	other, err := cast.NewPacker(cast.PackerOptions{Key: second, Now: start.Add(-time.Second), Rand: r8()})
	if err != nil {
		t.Fatal(err)
	}
	one := w.pack(picture(r, "main", 1, start, 3000))
	two, err := other.Pack(picture(r, "second", 1, start, 3000))
	if err != nil {
		t.Fatal(err)
	}
	for i := range one {
		w.take(one[i], two[i].Bytes)
	}
	if len(w.got) != 2 || len(w.receiver.Stats().Senders) != 2 {
		t.Errorf("%d stills are delivered; senders: %+v", len(w.got), w.receiver.Stats().Senders)
	}
}

// TestMemory: whatever a key holder sends, no more is held than was allowed; and when it is over, stills get through.
func TestMemory(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.IntRange(30_000, 200_000).Draw(t, "memory")
		w := newWorldOf(t, 0.05, 0, func(o *cast.ReceiverOptions) { o.Memory, o.Streams = limit, 8 })
		r := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		for n := range rapid.IntRange(1, 40).Draw(t, "stills") {
			w.now = w.now.Add(100 * time.Millisecond)
			channel := string(rune('a' + r.IntN(12)))
			all := w.pack(picture(r, channel, uint64(1+n+r.IntN(5)), w.now, 4+r.IntN(60_000)))
			for _, b := range all[:r.IntN(min(len(all), 8))] {
				w.take(b)
			}
			if s := w.receiver.Stats(); s.Held > limit || s.MostHeld > limit {
				t.Fatalf("%d bytes are held, at most %d, of %d", s.Held, s.MostHeld, limit)
			}
		}
	})
	// Too many streams are refused, and those that are known go on.
	w := newWorld(t, 0, 0, func(o *cast.ReceiverOptions) { o.Streams = 2 })
	r := rand.New(rand.NewPCG(1, 2))
	for i, c := range []struct {
		channel string
		want    cast.Outcome
	}{{"a", cast.Used}, {"b", cast.Used}, {"c", cast.Crowded}, {"a", cast.Used}} {
		if o := w.take(w.pack(picture(r, c.channel, uint64(i+1), start, 500))...); o != c.want {
			t.Errorf("channel %s: %v, want %v", c.channel, o, c.want)
		}
	}
	// A still that is larger than the memory has no room, ever.
	w = newWorld(t, 0, 0, func(o *cast.ReceiverOptions) { o.Memory = 10_000 })
	if o := w.take(w.pack(picture(r, "a", 1, start, 50_000))...); o != cast.Crowded {
		t.Errorf("a large still is %v", o)
	}
}

// TestSequence holds the window against a set of all numbers.
func TestSequence(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var w cast.Sequence
		seen, newest := map[uint64]bool{}, uint64(0)
		for range rapid.IntRange(1, 300).Draw(t, "numbers") {
			base := newest
			if far := rapid.IntRange(0, 20).Draw(t, "far"); far == 0 {
				base += uint64(rapid.IntRange(0, 5*cast.Window).Draw(t, "jump"))
			}
			n := base + uint64(rapid.IntRange(0, 200).Draw(t, "ahead"))
			n -= min(n, uint64(rapid.OneOf(rapid.IntRange(0, 300), rapid.IntRange(0, 2*cast.Window)).Draw(t, "behind")))
			passed := w.Pass(n)
			switch {
			case passed && (n == 0 || seen[n]):
				t.Fatalf("%d passes twice, or is 0", n)
			case !passed && n > 0 && !seen[n] && n+cast.Window > newest:
				t.Fatalf("%d does not pass; the newest is %d", n, newest)
			}
			seen[n] = seen[n] || passed
			if passed {
				newest = max(newest, n)
			}
		}
	})
}

func TestOptions(t *testing.T) {
	k := key(t, keyText)
	for _, o := range []cast.PackerOptions{{Bytes: 10}, {Bytes: 70000}, {Loss: -1}, {Loss: 0.5}} {
		o.Key, o.Rand = k, r8()
		if _, err := cast.NewPacker(o); err == nil {
			t.Errorf("%+v: no error", o)
		}
	}
	deliver := func(*still.Still) {}
	for _, o := range []cast.ReceiverOptions{{Deliver: deliver}, {Keys: []cast.Key{k}}, {Keys: []cast.Key{k}, Deliver: deliver, Name: strings.Repeat("x", 65)}} {
		if _, err := cast.NewReceiver(o); err == nil {
			t.Errorf("%+v: no error", o)
		}
	}
	w := newWorld(t, 0, 0, nil)
	if _, err := w.packer.Pack(&still.Still{}); err == nil {
		t.Error("an empty still is packed")
	}
}
