package lab_test

import (
	"os"
	"testing"

	"widecloud/internal/lab"
)

func TestTinyImageIsCached(t *testing.T) {
	a, err := lab.TinyImage(t.Context(), lab.ImageOptions{})
	must(t, err)
	st, err := os.Stat(a)
	must(t, err)
	b, err := lab.TinyImage(t.Context(), lab.ImageOptions{})
	must(t, err)
	st2, err := os.Stat(b)
	must(t, err)
	if a != b || !st.ModTime().Equal(st2.ModTime()) {
		t.Errorf("made twice: %s %s", a, b)
	}
	t.Logf("figure image.tiny_bytes %d bytes", st.Size())
}
