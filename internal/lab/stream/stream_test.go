package stream_test

import (
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"widecloud/internal/lab/stream"
)

func TestServe(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(stream.Serve))
	defer s.Close()
	get := func(query string) (int, []byte) {
		t.Helper()
		r, err := s.Client().Get(s.URL + query)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Body.Close()
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Fatal(err)
		}
		return r.StatusCode, b
	}
	_, b := get("?rate=200004&seconds=1&from=1003")
	if len(b) != 200_000 {
		t.Errorf("%d bytes", len(b))
	}
	if n := stream.Wrong(1000, b); n != 0 {
		t.Errorf("%d bytes wrong", n)
	}
	if n := stream.Wrong(1003, b[3:]); n != 0 {
		t.Errorf("%d bytes wrong from the middle of a word", n)
	}
	b[17] ^= 1
	if n := stream.Wrong(1000, b); n != 1 {
		t.Errorf("one byte changed, %d wrong", n)
	}
	if n := stream.Wrong(1008, b); n < 20_000 {
		t.Errorf("in the wrong place, %d wrong", n)
	}
	for _, q := range []string{"?rate=0", "?rate=-1", "?seconds=x", "?from=-8"} {
		if code, _ := get(q); code != http.StatusBadRequest {
			t.Errorf("%s: %d", q, code)
		}
	}
}
