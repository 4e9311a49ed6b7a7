package lisp_test

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"widecloud/internal/packet/lisp"
)

// FuzzDecode: what is read can be written, and is then read as the same.
func FuzzDecode(f *testing.F) {
	for _, m := range messages {
		f.Add(bytesOf(f, m.message))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		_ = lisp.Verify(b, keyring)
		if h, err := lisp.DecodeHeader(b); err == nil {
			out := make([]byte, lisp.HeaderSize)
			if err := h.Put(out); err != nil {
				t.Errorf("%+v: %v", h, err)
			}
			if again, err := lisp.DecodeHeader(out); err != nil || again != h {
				t.Errorf("%+v: %+v, %v", h, again, err)
			}
		}
		m, err := lisp.Decode(b)
		if err != nil {
			return
		}
		out, err := lisp.Append(nil, m)
		if err != nil {
			t.Fatalf("%+v: %v", m, err)
		}
		again, err := lisp.Decode(out)
		if err != nil {
			t.Fatalf("%+v: %v", m, err)
		}
		if diff := cmp.Diff(m, again, comparers); diff != "" {
			t.Error(diff)
		}
	})
}
