package wire_test

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"widecloud/api"
	"widecloud/internal/wire"
)

// between makes a session from tokyo to osaka, of two releases.
func between(t *testing.T, tokyo, osaka wire.Release) *pair {
	t.Helper()
	releases := []*wire.Release{&osaka, &tokyo} // the listener is made first
	p := newPair(t, wire.Control, func(o *wire.Options) { o.Release, releases = releases[0], releases[1:] })
	t.Cleanup(p.close)
	return p
}

// TestRelease: two releases agree on the lower level and on what both can, whoever dialled. One that names neither is of
// level 0.
func TestRelease(t *testing.T) {
	const a, b, c = wire.Capability("a"), wire.Capability("b"), wire.Capability("c")
	can := func(words ...wire.Capability) []wire.Capability { return words }
	for _, tt := range []struct {
		name         string
		tokyo, osaka wire.Release
		level        int
		newer        string // whose peer is newer
		both         []wire.Capability
	}{
		{"equal", wire.Release{2, can(a, b)}, wire.Release{2, can(b, a)}, 2, "", can(a, b)},
		{"older dials", wire.Release{1, can(a)}, wire.Release{2, can(a, b)}, 1, "tokyo", can(a)},
		{"newer dials", wire.Release{2, can(a, c)}, wire.Release{1, can(b)}, 1, "osaka", nil},
		{"before levels", wire.Release{}, wire.ThisRelease(), 0, "tokyo", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := between(t, tt.tokyo, tt.osaka)
			for own, s := range map[string]*wire.Session{"tokyo": p.s, "osaka": p.peer} {
				if s.Level() != tt.level || s.Newer() != (own == tt.newer) {
					t.Errorf("%s has level %d, newer %t", own, s.Level(), s.Newer())
				}
				var both []wire.Capability
				for _, word := range []wire.Capability{a, b, c, wire.CapStateParts, wire.CapGuestSize} {
					if s.Can(word) {
						both = append(both, word)
					}
				}
				if d := cmp.Diff(tt.both, both); d != "" {
					t.Errorf("what both can, by %s (-want +got):\n%s", own, d)
				}
			}
		})
	}
}

// TestOddHello: a hello with a level that cannot be is refused. One with more fields, or with words that nobody knows, is not.
func TestOddHello(t *testing.T) {
	for _, tt := range []struct {
		text string
		ok   bool
	}{
		{`{"version":1,"purpose":"control","window":262144}`, true},
		{`{"version":1,"purpose":"control","window":262144,"level":7,"can":["x","x"],"colour":"red"}`, true},
		{`{"version":1,"purpose":"control","window":262144,"level":-1}`, false},
		{`{"version":1,"purpose":"control","window":262144,"level":1e9999}`, false},
	} {
		p := newPair(t, wire.Control, nil)
		conn := hostile(t, p, say(tt.text))
		answer := readAnswer(t, conn)
		if ok := answer.Refused == nil; ok != tt.ok {
			t.Errorf("%s is answered by %+v", tt.text, answer)
		}
		if own := wire.ThisRelease(); answer.Level != own.Level || !cmp.Equal(answer.Can, own.Can) {
			t.Errorf("the answer says %+v, want %+v", answer, own)
		}
		conn.Close()
		p.close()
	}
}

// TestUnknownField: a field that this release does not know is ignored if its sender is of a newer release, and an error
// otherwise; in calls and in headers of streams.
func TestUnknownField(t *testing.T) {
	for _, tt := range []struct {
		name         string
		tokyo, osaka int // levels
		ok           bool
	}{{"newer sender", 2, 1, true}, {"same level", 1, 1, false}, {"older sender", 0, 1, false}} {
		t.Run(tt.name, func(t *testing.T) {
			p := between(t, wire.Release{Level: tt.tokyo}, wire.Release{Level: tt.osaka})
			wire.Handle(p.osaka.mux, "POST /call", func(_ context.Context, _ wire.Identity, q question) (answer, error) {
				return answer{Word: q.Word}, nil
			})
			wire.HandleStream(p.osaka.mux, "/stream", func(context.Context, wire.Identity, question, *wire.Stream) error { return nil })
			message := map[string]any{"word": "hai", "colour": "red"}
			var got answer
			callErr := wire.Call(t.Context(), p.s, "POST", "/call", message, &got)
			stream, streamErr := wire.OpenStream(t.Context(), p.s, "/stream", message)
			if streamErr == nil {
				stream.Close()
			}
			for what, err := range map[string]error{"call": callErr, "stream": streamErr} {
				switch {
				case tt.ok && err != nil:
					t.Errorf("%s: %v", what, err)
				case !tt.ok && !errors.Is(err, &api.Error{Code: api.CodeInvalid, Field: "colour"}):
					t.Errorf("%s: %v, want an error of the field", what, err)
				}
			}
			if tt.ok && got.Word != "hai" {
				t.Errorf("the known field is lost: %+v", got)
			}
		})
	}
}

// TestUnknownAnswer: what an answer has more than its reader knows is ignored at every level, since the work is done.
func TestUnknownAnswer(t *testing.T) {
	p := between(t, wire.Release{Level: 1}, wire.Release{Level: 1})
	wire.Handle(p.osaka.mux, "POST /call", func(context.Context, wire.Identity, none) (map[string]any, error) {
		return map[string]any{"word": "hai", "colour": "red"}, nil
	})
	var got answer
	if err := wire.Call(t.Context(), p.s, "POST", "/call", nil, &got); err != nil || got.Word != "hai" {
		t.Errorf("%+v, %v", got, err)
	}
}

// TestDocumentOfNewer: an unknown field of a document's body is ignored if the sender is newer.
func TestDocumentOfNewer(t *testing.T) {
	d := wire.Verified{Envelope: wire.Envelope{Body: json.RawMessage(`{"name":"l1","colour":"red"}`)}}
	var body wire.LoanRenew
	if err := d.DecodeBody(&body); !errors.Is(err, &api.Error{Code: api.CodeInvalid, Field: "body.colour"}) {
		t.Errorf("of the same level: %v", err)
	}
	d.Newer = true
	if err := d.DecodeBody(&body); err != nil || body.Name != "l1" {
		t.Errorf("of a newer one: %+v, %v", body, err)
	}
}

// TestSentForLevel: what is newer than the session's level is not sent, deep in a message neither, and the message itself
// stays as it is.
func TestSentForLevel(t *testing.T) {
	service := netip.MustParseAddr("203.0.113.10")
	report := wire.HostReport{Boot: "b", Translator: &wire.TranslatorReport{Running: true, Refused: []wire.RefusedMapping{{service, "no"}}}}
	for _, tt := range []struct {
		level   int
		refused bool
	}{{0, false}, {1, true}} {
		p := between(t, wire.ThisRelease(), wire.Release{Level: tt.level})
		got := make(chan wire.HostReport, 1)
		wire.Handle(p.osaka.mux, "POST /report", func(_ context.Context, _ wire.Identity, r wire.HostReport) (none, error) {
			got <- r
			return none{}, nil
		})
		if err := wire.Call(t.Context(), p.s, "POST", "/report", report, nil); err != nil {
			t.Fatal(err)
		}
		r := <-got
		if r.Boot != "b" || r.Translator == nil || !r.Translator.Running || (len(r.Translator.Refused) > 0) != tt.refused {
			t.Errorf("level %d: %+v with %+v", tt.level, r, r.Translator)
		}
		var body wire.HostReport
		if err := json.Unmarshal(p.s.RawBody(report), &body); err != nil || (len(body.Translator.Refused) > 0) != tt.refused {
			t.Errorf("level %d, as a body: %+v, %v", tt.level, body.Translator, err)
		}
		if len(report.Translator.Refused) != 1 {
			t.Fatal("the message itself was changed")
		}
	}
}

// TestStateForOlderAgent: an agent that takes no parts gets the whole.
func TestStateForOlderAgent(t *testing.T) {
	var s wire.HostState
	for range 20_000 {
		s.VMs = append(s.VMs, wire.VMOrder{VM: "6f1c0b44-4d2f-4b9a-9a55-0c5a3e0d7f10", Name: "web1", Image: "sha256:0000000000000000000000000000000000000000000000000000000000000000"})
	}
	for _, tt := range []struct {
		agent wire.Release
		split bool
	}{{wire.Release{}, false}, {wire.ThisRelease(), true}} {
		p := between(t, wire.ThisRelease(), tt.agent)
		if parts := s.SplitFor(p.s); (len(parts) > 1) != tt.split {
			t.Errorf("%+v gets %d parts", tt.agent, len(parts))
		}
	}
}

// readAnswer reads a listener's hello.
func readAnswer(t *testing.T, r io.Reader) (h wire.Hello) {
	t.Helper()
	var size [2]byte
	if _, err := io.ReadFull(r, size[:]); err != nil {
		t.Fatal(err)
	}
	text := make([]byte, binary.BigEndian.Uint16(size[:]))
	if _, err := io.ReadFull(r, text); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, &h); err != nil {
		t.Fatal(err)
	}
	return h
}
