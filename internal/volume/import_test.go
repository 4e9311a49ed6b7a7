package volume_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"widecloud/api"
	"widecloud/internal/volume"
)

// unread fails the test when it is read.
type unread struct{ t *testing.T }

func (u unread) Read([]byte) (int, error) {
	u.t.Error("the source was read")
	return 0, io.EOF
}

// Who knows a digest does not have the content for that: an import is read and hashed though the base is here.
func TestKnownDigestIsNotContent(t *testing.T) {
	ctx, dir := context.Background(), t.TempDir()
	s := open(t, dir)
	content := noise(3 * mib)
	b := importBytes(t, s, content)
	before := tree(t, dir)
	changed := bytes.Clone(content)
	changed[len(changed)-1]++
	for name, other := range map[string][]byte{"nothing": nil, "the beginning": content[:mib], "another end": changed, "more": append(content, 0)} {
		_, err := imported(ctx, s, bytes.NewReader(other), volume.Import{Digest: b.Digest, Format: "raw"})
		if !errors.Is(err, &api.Error{Code: api.CodeInvalid, Field: "spec.digest"}) {
			t.Errorf("%s: error is %v, want one of spec.digest", name, err)
		}
	}
	broken := errors.New("cut off")
	if _, err := imported(ctx, s, brokenAfter{bytes.NewReader(content), broken}, volume.Import{Digest: b.Digest, Format: "raw"}); !errors.Is(err, broken) {
		t.Errorf("a source that failed: %v", err)
	}
	if _, err := imported(ctx, s, bytes.NewReader(content), volume.Import{Digest: b.Digest}); !errors.Is(err, &api.Error{Code: api.CodeInvalid, Field: "spec.format"}) {
		t.Errorf("undeclared: %v", err)
	}
	if again, err := imported(ctx, s, bytes.NewReader(content), volume.Import{Digest: b.Digest, Format: "raw"}); err != nil || again != b {
		t.Errorf("the right bytes: %+v, %v", again, err)
	}
	if d := cmp.Diff(before, tree(t, dir)); d != "" {
		t.Errorf("the directory changed (-before +after):\n%s", d)
	}
}

// blocked gives some bytes and then blocks until it is closed.
type blocked struct {
	io.Reader
	reading chan struct{} // closed when it blocks
	closed  chan struct{}
}

func (b *blocked) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if err != io.EOF {
		return n, err
	}
	close(b.reading)
	<-b.closed
	return 0, io.ErrClosedPipe
}

// The end of its context ends an import also while the source blocks, and leaves nothing behind.
func TestImportEndsWithItsContext(t *testing.T) {
	dir := t.TempDir()
	s := open(t, dir)
	here := importBytes(t, s, noise(mib))
	before := tree(t, dir)
	for name, i := range map[string]volume.Import{
		"new":       {Format: "raw"},
		"here":      {Format: "raw", Digest: here.Digest},
		"announced": {Format: "raw", Bytes: 2 * mib},
	} {
		t.Run(name, func(t *testing.T) {
			b := &blocked{bytes.NewReader(noise(700000)), make(chan struct{}), make(chan struct{})}
			defer close(b.closed)
			gone := errors.New("the image was deleted")
			ctx, cancel := context.WithCancelCause(context.Background())
			go func() { <-b.reading; cancel(gone) }()
			if _, err := imported(ctx, s, b, i); !errors.Is(err, gone) {
				t.Errorf("error is %v, want %v", err, gone)
			}
			if d := cmp.Diff(before, tree(t, dir)); d != "" {
				t.Errorf("the directory changed (-before +after):\n%s", d)
			}
		})
	}
}

// An import leaves the reserve of the disk alone, whether it announces its size or not, and whoever takes the room meanwhile.
func TestImportLeavesTheReserve(t *testing.T) {
	ctx := context.Background()
	dir := smallDisk(t, 16*mib)
	s, err := volume.Open(volume.Options{Dir: dir, Reserve: 6 * mib})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	before := tree(t, dir)
	content := noise(11 * mib)
	for name, tc := range map[string]struct {
		r io.Reader
		i volume.Import
	}{
		"announced":   {unread{t}, volume.Import{Format: "raw", Bytes: 11 * mib}},
		"unannounced": {bytes.NewReader(content), volume.Import{Format: "raw"}},
		"a lie":       {bytes.NewReader(content), volume.Import{Format: "raw", Bytes: 1, Limit: 1 << 40}},
	} {
		_, err := imported(ctx, s, tc.r, tc.i)
		if name == "a lie" {
			if !errors.Is(err, &api.Error{Code: api.CodeInvalid, Field: "spec.source"}) {
				t.Errorf("%s: error is %v", name, err)
			}
		} else {
			wantNoSpace(t, err)
		}
		if d := cmp.Diff(before, tree(t, dir)); d != "" {
			t.Errorf("%s: the directory changed (-before +after):\n%s", name, d)
		}
	}
	if _, err := imported(ctx, s, bytes.NewReader(content[:8*mib]), volume.Import{Format: "raw", Bytes: 8 * mib}); err != nil {
		t.Errorf("what there is room for: %v", err)
	}
	// Others fill the disk while bytes come.
	fill := func() {
		if err := os.WriteFile(filepath.Join(dir, "fill"), noise(2*mib), 0o600); err != nil {
			t.Error(err)
		}
	}
	_, err = imported(ctx, s, io.MultiReader(bytes.NewReader(content[mib:2*mib]), onRead(fill), bytes.NewReader(content[2*mib:3*mib])), volume.Import{Format: "raw"})
	wantNoSpace(t, err)
	if free, err := s.Free(ctx); err != nil || free < 5*mib {
		t.Errorf("%d bytes are free, %v", free, err)
	}
	_, err = s.Create(ctx, "vm", digest(content[:8*mib]), 0)
	wantNoSpace(t, err)
}

// onRead calls itself once and is at its end.
type onRead func()

func (f onRead) Read([]byte) (int, error) {
	f()
	return 0, io.EOF
}
