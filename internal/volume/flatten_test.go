package volume_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"widecloud/api"
	"widecloud/internal/volume"
)

// TestImportDisk: the disk of a VM at a host becomes an image at its site: it reads as the disk does, stands alone, and takes no room
// for what is empty.
func TestImportDisk(t *testing.T) {
	raw, compressed := append(noise(3*mib), make([]byte, mib+512)...), qcow2(t, "-c")
	for name, tc := range map[string]struct {
		image   []byte // nil: the disk is beside the root disk
		sizeMiB int64
		do      []string
		most    int64 // bytes of the image
	}{
		"nothing written":     {raw, 0, nil, 4 * mib},
		"zeros over the base": {raw, 0, []string{"write -z 0 2M", "write -P 0 2M 512k"}, mib + mib/2},
		"grown":               {compressed, 4096, []string{"write -P 5 8M 1M", "write -P 6 4095M 1M"}, 4 * mib},
		"many pieces":         {compressed, 8, scattered(200, 8<<20), 9 * mib},
		"empty one beside":    {nil, 40 << 10, nil, mib},
		"written one beside":  {nil, 100, []string{"write -P 7 99M 64k", "write -z 0 5M"}, mib},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			host, dir := open(t, t.TempDir()), t.TempDir()
			site := open(t, dir)
			var from volume.Volume
			in := volume.DiskImport{Bytes: max(tc.sizeMiB, 5) * mib}
			if tc.image == nil {
				k, err := host.CreateDisk(t.Context(), vm1, "data", tc.sizeMiB)
				if err != nil {
					t.Fatal(err)
				}
				from = volume.Volume{Path: k.Path, VirtualBytes: k.VirtualBytes}
			} else {
				importBytes(t, host, tc.image)
				in.Base = importBytes(t, site, tc.image).Digest
				v, err := host.Create(t.Context(), vm1, in.Base, tc.sizeMiB)
				if err != nil {
					t.Fatal(err)
				}
				from = v
			}
			if len(tc.do) > 0 {
				change(t, from, tc.do...)
			}
			stream, _ := sent(t, host, from)
			var seen []int64
			var total int64
			in.Progress = func(done, of int64) { seen, total = append(seen, done), of }
			base, release, err := site.ImportDisk(t.Context(), bytes.NewReader(stream), in)
			if err != nil {
				t.Fatal(err)
			}
			if base.Format != volume.Qcow2 || base.VirtualBytes != from.VirtualBytes || base.Bytes > tc.most {
				t.Errorf("the image is %+v, want qcow2 with a disk of %d bytes in at most %d", base, from.VirtualBytes, tc.most)
			}
			tool(t, "qemu-img", "compare", "-f", "qcow2", "-F", "qcow2", from.Path, base.Path)
			content, err := os.ReadFile(base.Path)
			if err != nil || digest(content) != base.Digest {
				t.Errorf("its bytes have %s, %v; it is called %s", digest(content), err, base.Digest)
			}
			if info, err := volume.Inspect(bytes.NewReader(content), base.Bytes); err != nil || info.HasBacking {
				t.Errorf("inspected: %+v, %v", info, err)
			}
			for i := range seen {
				if i > 0 && seen[i] < seen[i-1] || seen[i] > total {
					t.Errorf("progress: %d of %d, after %d", seen[i], total, seen[max(i-1, 0)])
				}
			}
			if len(seen) < 2 || seen[len(seen)-1] != total {
				t.Errorf("progress ends with %v of %d", seen, total)
			}
			// It stays until it is named, and goes as others do.
			for _, d := range sweep(t, site) {
				if d == base.Digest {
					t.Error("it was swept before it was released")
				}
			}
			release()
			if sweep(t, site); site.HasBase(base.Digest) {
				t.Error("it stays for ever")
			}
			if left, _ := filepath.Glob(filepath.Join(dir, "tmp", "*")); len(left) > 0 {
				t.Errorf("left over: %v", left)
			}
		})
	}
}

// TestImportDiskHostile: what is no disk of such a VM changes nothing, and is refused with what is wrong. One that does not end is not
// read for ever.
func TestImportDiskHostile(t *testing.T) {
	const size, k64 = 8 * mib, 64 << 10
	dir := t.TempDir()
	site := open(t, dir)
	base := importBytes(t, site, noise(4*mib))
	data := make([]byte, k64)
	good := signed(stream(size, k64, part('d', 0, k64, noise(k64))))
	flipped := bytes.Clone(good)
	flipped[100] ^= 1
	for name, tc := range map[string]struct {
		in   io.Reader
		want string
	}{
		"empty":           {bytes.NewReader(nil), "it ends before its end"},
		"a qcow2":         {bytes.NewReader(qcow2(t)), "does not begin"},
		"a larger disk":   {bytes.NewReader(signed(stream(size+512, 0))), "this one has 8388608"},
		"a smaller disk":  {bytes.NewReader(signed(stream(4*mib-512, 0))), "is not one of a VM whose image"},
		"no disk":         {bytes.NewReader(signed(stream(0, 0))), "is not one of a VM whose image"},
		"not sectors":     {bytes.NewReader(signed(stream(size-1, 0))), "is not one of a VM whose image"},
		"cut off":         {bytes.NewReader(good[:len(good)/2]), "it ends before its end"},
		"another digest":  {bytes.NewReader(flipped), "digest"},
		"more than said":  {bytes.NewReader(signed(stream(size, 512, part('d', 0, k64, data)))), "announced"},
		"endless data":    {&endless{head: bytes.NewReader(stream(size, size)), again: part('d', k64, k64, data)}, "comes after"},
		"endless zeros":   {&endless{head: bytes.NewReader(stream(size, size)), again: part('z', 0, k64, nil)}, "comes after"},
		"beyond the disk": {bytes.NewReader(signed(stream(size, k64, part('d', size, k64, data)))), "not on the disk"},
	} {
		t.Run(name, func(t *testing.T) {
			before := tree(t, dir)
			_, release, err := site.ImportDisk(t.Context(), tc.in, volume.DiskImport{Base: base.Digest, Bytes: size})
			var e *api.Error
			if release != nil || !errors.As(err, &e) || e.Code != api.CodeInvalid || e.Field != "stream" || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want one of the stream with %q", err, tc.want)
			}
			if d := cmp.Diff(before, tree(t, dir)); d != "" {
				t.Errorf("changed (-before +after):\n%s", d)
			}
		})
	}
}

// TestImportDiskErrors: what is wrong at the site itself. Its base stays as long as it is needed.
func TestImportDiskErrors(t *testing.T) {
	image := noise(mib)
	p := newPair(t, image, 4)
	change(t, p.from, "write -P 7 1M 2M")
	good, _ := sent(t, p.source, p.from)
	dir := t.TempDir()
	site := open(t, dir)
	in := volume.DiskImport{Base: p.from.Base, Bytes: 4 * mib}
	if _, _, err := site.ImportDisk(t.Context(), bytes.NewReader(good), in); !errors.Is(err, volume.ErrNotFound) {
		t.Errorf("without the base: %v", err)
	}
	if _, _, err := site.ImportDisk(t.Context(), bytes.NewReader(good), volume.DiskImport{Base: "x", Bytes: 4 * mib}); !errors.Is(err, &api.Error{Code: api.CodeInvalid, Field: "spec.digest"}) {
		t.Errorf("no digest: %v", err)
	}
	base := importBytes(t, site, image)
	before := tree(t, dir)
	ctx, stop := context.WithCancelCause(t.Context())
	half := &hook{Reader: bytes.NewReader(good), at: len(good) / 2, do: func() {
		if sweep(t, site); !site.HasBase(base.Digest) {
			t.Error("the base was swept while the disk was being read")
		}
		stop(io.ErrClosedPipe)
	}}
	if _, _, err := site.ImportDisk(ctx, half, in); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("after its context's end: %v", err)
	}
	if d := cmp.Diff(before, tree(t, dir)); d != "" {
		t.Errorf("changed (-before +after):\n%s", d)
	}
	for name, o := range map[string]volume.Options{"the reserve": {Dir: dir, Reserve: 1 << 60}, "the largest image": {Dir: dir, MaxBytes: 2 * mib}} {
		if err := site.Close(); err != nil {
			t.Fatal(err)
		}
		var err error
		if site, err = volume.Open(o); err != nil {
			t.Fatal(err)
		}
		_, _, err = site.ImportDisk(t.Context(), bytes.NewReader(good), in)
		if !errors.Is(err, volume.ErrNoSpace) && !errors.Is(err, &api.Error{Code: api.CodeInvalid, Field: "spec.source"}) {
			t.Errorf("%s: %v", name, err)
		}
		if d := cmp.Diff(before, tree(t, dir)); d != "" {
			t.Errorf("%s: changed (-before +after):\n%s", name, d)
		}
	}
	site.Close()
}

// TestImportDiskFull: the disk is large enough for what comes, and not for the image that it would be: it is refused, with figures,
// before anything of that is written.
func TestImportDiskFull(t *testing.T) {
	image := noise(3 * mib)
	p := newPair(t, image, 8)
	change(t, p.from, "write -P 7 3M 1M")
	good, _ := sent(t, p.source, p.from)
	dir := smallDisk(t, 8*mib)
	site := open(t, dir)
	base := importBytes(t, site, image)
	before := tree(t, dir)
	_, _, err := site.ImportDisk(t.Context(), bytes.NewReader(good), volume.DiskImport{Base: base.Digest, Bytes: 8 * mib})
	wantNoSpace(t, err)
	if d := cmp.Diff(before, tree(t, dir)); d != "" {
		t.Errorf("changed (-before +after):\n%s", d)
	}
}
