package wire_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"

	"widecloud/api"
	"widecloud/internal/wire"
)

// desk is a site that takes documents, with a clock of its own.
type desk struct {
	*site
	v   *wire.Verifier
	now time.Time
}

func newDesk(t testing.TB, s *site) *desk {
	t.Helper()
	// Years off the senders' clock: it plays no part. Certificates are checked by the true one.
	d := &desk{site: s, now: time.Date(2040, 1, 1, 0, 0, 0, 0, time.UTC)}
	ch, err := wire.NewChallenges([]byte("0123456789abcdef"), func() time.Time { return d.now })
	if err != nil {
		t.Fatal(err)
	}
	d.v = &wire.Verifier{Trust: s.trust, Challenges: ch, Serials: &wire.MemorySerials{}}
	return d
}

func (d *desk) letter(t testing.TB, from *site, change func(*wire.Envelope)) wire.Envelope {
	t.Helper()
	e := wire.Envelope{
		Kind: "offer", To: "osaka", Subject: "o1", Serial: 1, Challenge: d.v.Challenges.New("tokyo"), ValidSeconds: 60,
		Body: json.RawMessage(`{ "cpus": 4, "note": "<a & b>" }`),
	}
	if change != nil {
		change(&e)
	}
	e, err := wire.Sign(from.cred, e)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

func TestDocument(t *testing.T) {
	tokyo, osaka := newSite(t, "tokyo"), newSite(t, "osaka")
	befriend(t, tokyo, osaka)
	d := newDesk(t, osaka)
	e := d.letter(t, tokyo, nil)
	// The same, however it is formatted on its way.
	plain, _ := json.Marshal(e)
	pretty, _ := json.MarshalIndent(e, "", "    ")
	var unescaped bytes.Buffer
	enc := json.NewEncoder(&unescaped)
	enc.SetEscapeHTML(false)
	enc.Encode(e)
	for i, text := range [][]byte{plain, pretty, unescaped.Bytes()} {
		got, err := d.v.Open(t.Context(), text)
		if err != nil {
			t.Fatal(err)
		}
		if got.From != "tokyo" || got.Repeated != (i > 0) || !got.Expires.Equal(d.now.Add(time.Minute)) {
			t.Errorf("form %d: from %s, repeated %t, expires %v", i, got.From, got.Repeated, got.Expires)
		}
		var body struct {
			CPUs int    `json:"cpus"`
			Note string `json:"note"`
		}
		if err := got.DecodeBody(&body); err != nil || body.CPUs != 4 || body.Note != "<a & b>" {
			t.Errorf("%+v, %v", body, err)
		}
		var other struct {
			CPUs int `json:"cpus"`
		}
		if err := got.DecodeBody(&other); !errors.Is(err, &api.Error{Code: api.CodeInvalid, Field: "body.note"}) {
			t.Errorf("unknown field of the body: %v", err)
		}
	}
	d.now = d.now.Add(59 * time.Second)
	if _, err := d.v.Verify(t.Context(), d.letter(t, tokyo, func(e *wire.Envelope) { e.Serial = 7 })); err != nil {
		t.Error(err)
	}
	// Serials of another kind or subject count for themselves.
	for _, change := range []func(*wire.Envelope){
		func(e *wire.Envelope) { e.Kind = "loan" }, func(e *wire.Envelope) { e.Subject = "o2" }, func(e *wire.Envelope) { e.Subject = "" },
	} {
		if _, err := d.v.Verify(t.Context(), d.letter(t, tokyo, change)); err != nil {
			t.Error(err)
		}
	}
}

func TestDocumentRefusals(t *testing.T) {
	tokyo, osaka, nagoya := newSite(t, "tokyo"), newSite(t, "osaka"), newSite(t, "nagoya")
	befriend(t, tokyo, osaka)
	befriend(t, nagoya, osaka)
	stranger := newSite(t, "kyoto")
	impostor := newSite(t, "tokyo")
	d := newDesk(t, osaka)
	good := d.letter(t, tokyo, func(e *wire.Envelope) { e.Serial = 5 })
	if _, err := d.v.Verify(t.Context(), good); err != nil {
		t.Fatal(err)
	}
	next := func(e *wire.Envelope) { e.Serial = 6 }
	tamper := func(f func(*wire.Envelope)) func() wire.Envelope {
		return func() wire.Envelope {
			e := d.letter(t, tokyo, next)
			f(&e)
			return e
		}
	}
	for name, c := range map[string]struct {
		make  func() wire.Envelope
		code  api.Code
		field string
	}{
		"for another site": {func() wire.Envelope {
			return d.letter(t, tokyo, func(e *wire.Envelope) { e.Serial, e.To = 6, "nagoya" })
		}, api.CodeForbidden, "to"},
		"of a stranger":  {func() wire.Envelope { return d.letter(t, stranger, next) }, api.CodeForbidden, "from"},
		"of an impostor": {func() wire.Envelope { return d.letter(t, impostor, next) }, api.CodeForbidden, "certificate"},
		"one peer as another": {func() wire.Envelope {
			e := d.letter(t, nagoya, next)
			e.From = "tokyo"
			return e
		}, api.CodeForbidden, "certificate"},
		"another peer's challenge": {func() wire.Envelope { return d.letter(t, nagoya, next) }, api.CodeStale, "challenge"},
		"a made-up challenge": {func() wire.Envelope {
			return d.letter(t, tokyo, func(e *wire.Envelope) { e.Serial, e.Challenge = 6, "abc" })
		}, api.CodeStale, "challenge"},
		"no challenge": {func() wire.Envelope {
			return d.letter(t, tokyo, func(e *wire.Envelope) { e.Serial, e.Challenge = 6, "" })
		}, api.CodeStale, "challenge"},
		"expired": {func() wire.Envelope {
			e := d.letter(t, tokyo, next)
			d.now = d.now.Add(time.Minute)
			return e
		}, api.CodeStale, "valid_seconds"},
		"challenge of the future": {func() wire.Envelope {
			e := d.letter(t, tokyo, next)
			d.now = d.now.Add(-time.Hour)
			return e
		}, api.CodeStale, "challenge"},
		"replayed": {func() wire.Envelope { return d.letter(t, tokyo, func(e *wire.Envelope) { e.Serial = 4 }) }, api.CodeStale, "serial"},
		"serial used twice": {func() wire.Envelope {
			return d.letter(t, tokyo, func(e *wire.Envelope) { e.Serial, e.Body = 5, json.RawMessage(`{"cpus":400}`) })
		}, api.CodeStale, "serial"},
		"body changed":               {tamper(func(e *wire.Envelope) { e.Body = json.RawMessage(`{"cpus":400}`) }), api.CodeForbidden, "signature"},
		"serial changed":             {tamper(func(e *wire.Envelope) { e.Serial = 60 }), api.CodeForbidden, "signature"},
		"kind changed":               {tamper(func(e *wire.Envelope) { e.Kind = "loan" }), api.CodeForbidden, "signature"},
		"subject changed":            {tamper(func(e *wire.Envelope) { e.Subject = "o2" }), api.CodeForbidden, "signature"},
		"validity changed":           {tamper(func(e *wire.Envelope) { e.ValidSeconds++ }), api.CodeForbidden, "signature"},
		"challenge changed":          {tamper(func(e *wire.Envelope) { d.now = d.now.Add(time.Second); e.Challenge = d.v.Challenges.New("tokyo") }), api.CodeForbidden, "signature"},
		"signature changed":          {tamper(func(e *wire.Envelope) { e.Signature[len(e.Signature)-1] ^= 1 }), api.CodeForbidden, "signature"},
		"no signature":               {tamper(func(e *wire.Envelope) { e.Signature = nil }), api.CodeForbidden, "signature"},
		"no certificate":             {tamper(func(e *wire.Envelope) { e.Certificate = nil }), api.CodeInvalid, "certificate"},
		"an authority's certificate": {tamper(func(e *wire.Envelope) { e.Certificate = tokyo.ca.Certificate().Raw }), api.CodeForbidden, "certificate"},
		"bad kind":                   {tamper(func(e *wire.Envelope) { e.Kind = "Of fer" }), api.CodeInvalid, "kind"},
		"bad sender":                 {tamper(func(e *wire.Envelope) { e.From = "" }), api.CodeInvalid, "from"},
		"bad receiver":               {tamper(func(e *wire.Envelope) { e.To = "" }), api.CodeInvalid, "to"},
		"long subject":               {tamper(func(e *wire.Envelope) { e.Subject = strings.Repeat("x", 300) }), api.CodeInvalid, "subject"},
		"no serial":                  {tamper(func(e *wire.Envelope) { e.Serial = 0 }), api.CodeInvalid, "serial"},
		"no validity":                {tamper(func(e *wire.Envelope) { e.ValidSeconds = 0 }), api.CodeInvalid, "valid_seconds"},
		"minus validity":             {tamper(func(e *wire.Envelope) { e.ValidSeconds = -1 }), api.CodeInvalid, "valid_seconds"},
		"for ever":                   {tamper(func(e *wire.Envelope) { e.ValidSeconds = 1 << 62 }), api.CodeInvalid, "valid_seconds"},
		"no body":                    {tamper(func(e *wire.Envelope) { e.Body = nil }), api.CodeInvalid, "body"},
		"body not JSON":              {tamper(func(e *wire.Envelope) { e.Body = json.RawMessage(`{`) }), api.CodeInvalid, "body"},
	} {
		before := d.now
		e := c.make()
		_, err := d.v.Verify(t.Context(), e)
		var got *api.Error
		if !errors.As(err, &got) || got.Code != c.code || got.Field != c.field {
			t.Errorf("%s: got %v, want %s of %s", name, err, c.code, c.field)
		}
		d.now = before
	}
	// None of the refused has moved the serial.
	if _, err := d.v.Verify(t.Context(), d.letter(t, tokyo, next)); err != nil {
		t.Errorf("after the refusals: %v", err)
	}

	agent, _, err := joinOne(t, osaka)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := wire.Sign(agent, good); err == nil {
		t.Error("an agent signs for its site")
	}
	for text, want := range map[string]string{
		`{"colour":1}`: "colour", `{"serial":-1}`: "serial", `[]`: "", ``: "", `{} {}`: "", strings.Repeat(" ", 2<<20): "",
	} {
		_, err := d.v.Open(t.Context(), []byte(text))
		var got *api.Error
		if !errors.As(err, &got) || got.Code != api.CodeInvalid || got.Field != want {
			t.Errorf("%.20q: %v", text, err)
		}
	}
	osaka.trust.RemovePeer("tokyo")
	if _, err := d.v.Verify(t.Context(), d.letter(t, tokyo, func(e *wire.Envelope) { e.Serial = 9 })); !errors.Is(err, &api.Error{Code: api.CodeForbidden, Field: "from"}) {
		t.Errorf("of a former peer: %v", err)
	}
	if _, err := wire.NewChallenges([]byte("short"), nil); err == nil {
		t.Error("a short secret is taken")
	}
}

func joinOne(t *testing.T, s *site) (*wire.Credential, json.RawMessage, error) {
	n := wire.NewMemory()
	server, tok, _ := door(t, s, n.Node(s.ca.Site()))
	defer server.Close()
	return wire.Join(t.Context(), n.Node("h1"), server.Addr().String(), tok, "h1", nil)
}

// Whatever the order of arrival, what is taken as fresh only counts up, and repetition of the newest is no error.
func TestSerials(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := &wire.MemorySerials{}
		var top uint64
		var topDigest byte
		for range rapid.IntRange(1, 30).Draw(t, "n") {
			serial, digest := rapid.Uint64Range(1, 6).Draw(t, "serial"), rapid.ByteRange(0, 1).Draw(t, "digest")
			fresh, err := s.Advance(context.Background(), wire.SerialKey{From: "a"}, serial, [32]byte{digest})
			switch {
			case serial > top:
				if !fresh || err != nil {
					t.Fatalf("%d after %d: %t, %v", serial, top, fresh, err)
				}
				top, topDigest = serial, digest
			case serial == top && digest == topDigest:
				if fresh || err != nil {
					t.Fatalf("%d again: %t, %v", serial, fresh, err)
				}
			default:
				if fresh || !errors.Is(err, &api.Error{Code: api.CodeStale, Field: "serial"}) {
					t.Fatalf("%d after %d: %t, %v", serial, top, fresh, err)
				}
			}
		}
	})
}

func FuzzOpen(f *testing.F) {
	tokyo, osaka := newSite(f, "tokyo"), newSite(f, "osaka")
	befriend(f, tokyo, osaka)
	d := newDesk(f, osaka)
	good := d.letter(f, tokyo, nil)
	text, _ := json.Marshal(good)
	f.Add(text)
	f.Add([]byte(`{"kind":"offer","from":"tokyo","to":"osaka","serial":1,"challenge":"","valid_seconds":1,"body":{},"certificate":"","signature":""}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		v := *d.v
		v.Serials = &wire.MemorySerials{}
		got, err := v.Open(t.Context(), text)
		if err != nil {
			var e *api.Error
			if !errors.As(err, &e) {
				t.Errorf("not an api.Error: %v", err)
			}
			return
		}
		// Whatever is taken is the one document that was signed.
		a, _ := json.Marshal(good.Body)
		b, _ := json.Marshal(got.Body)
		if got.Serial != good.Serial || got.Kind != good.Kind || got.Subject != good.Subject || got.ValidSeconds != good.ValidSeconds || !bytes.Equal(a, b) {
			t.Errorf("taken: %+v", got)
		}
	})
}
