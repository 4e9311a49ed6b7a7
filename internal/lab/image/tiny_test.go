package image_test

import (
	"os"
	"testing"

	"widecloud/internal/lab/image"
)

func TestTinyImageIsCached(t *testing.T) {
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	a, err := image.Tiny(t.Context(), image.Options{})
	must(err)
	st, err := os.Stat(a)
	must(err)
	b, err := image.Tiny(t.Context(), image.Options{})
	must(err)
	st2, err := os.Stat(b)
	must(err)
	if a != b || !st.ModTime().Equal(st2.ModTime()) {
		t.Errorf("made twice: %s %s", a, b)
	}
	t.Logf("figure image.tiny_bytes %d bytes", st.Size())
}
