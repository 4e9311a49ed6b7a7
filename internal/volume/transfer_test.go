package volume_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"widecloud/api"
	"widecloud/internal/volume"
)

const vm1 = "11111111-1111-4111-8111-111111111111"

// pair are two hosts' stores with the same base, and a VM's empty volume at each.
type pair struct {
	source, target *volume.Store
	from, to       volume.Volume
}

func newPair(t *testing.T, image []byte, sizeMiB int64) pair {
	t.Helper()
	p := pair{source: open(t, t.TempDir()), target: open(t, t.TempDir())}
	for _, s := range []*volume.Store{p.source, p.target} {
		b := importBytes(t, s, image)
		v, err := s.Create(t.Context(), vm1, b.Digest, sizeMiB)
		if err != nil {
			t.Fatal(err)
		}
		if s == p.source {
			p.from = v
		} else {
			p.to = v
		}
	}
	return p
}

// change does to a disk what a guest does, by commands of qemu-io.
func change(t *testing.T, v volume.Volume, commands ...string) {
	t.Helper()
	args := []string{"-d", "unmap", "-f", "qcow2"}
	for _, c := range commands {
		args = append(args, "-c", c)
	}
	tool(t, "qemu-io", append(args, v.Path)...)
}

// sent is what Send writes of a volume.
func sent(t *testing.T, s *volume.Store, v volume.Volume) (stream []byte, digest string) {
	t.Helper()
	e, err := s.Export(t.Context(), v.Path)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Close()
	var out bytes.Buffer
	var moved int64
	digest, err = e.Send(t.Context(), &out, func(n int64) { moved += n })
	if err != nil {
		t.Fatal(err)
	}
	if moved != e.Bytes || int64(out.Len()) > e.Bytes+e.Bytes/1000+1<<20 {
		t.Errorf("%d bytes were said to be sent, of %d; the stream has %d", moved, e.Bytes, out.Len())
	}
	return out.Bytes(), digest
}

// TestMove: a volume that is sent and taken in elsewhere reads as it did, and is sound by QEMU's own word. What the base has, and
// what is zeros, is not sent.
func TestMove(t *testing.T) {
	raw, compressed := append(noise(3*mib), make([]byte, mib+512)...), qcow2(t, "-c")
	for name, tc := range map[string]struct {
		image   []byte
		sizeMiB int64
		do      []string
		most    int // bytes of the stream
	}{
		"nothing":                {raw, 0, nil, 100},
		"one sector":             {raw, 0, []string{"write -P 7 1M 512"}, 70 << 10},
		"the last short cluster": {raw, 0, []string{"write -P 7 4M 512"}, 1 << 10},
		"zeros over the base":    {raw, 0, []string{"write -z 0 2M", "write -P 0 2M 1M"}, 1 << 10},
		"given back":             {raw, 0, []string{"write -P 7 0 1M", "discard 128k 256k"}, 1<<20 - 256<<10 + 1<<10},
		"many pieces":            {compressed, 8, scattered(200, 8<<20), 8<<20 + 1<<16},
		"many tables":            {raw, 40 << 10, []string{"write -P 1 0 64k", "write -P 2 511M 3M", "write -P 3 30G 5M", "write -P 4 40959M 1M", "write -z 20G 1G"}, 10 << 20},
		"ends with zeros":        {raw, 100, []string{"write -z 99M 1M"}, 1 << 10},
		"grown":                  {compressed, 4096, []string{"write -P 5 8M 1M", "write -P 6 4095M 1M"}, 3 << 20},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPair(t, tc.image, tc.sizeMiB)
			if len(tc.do) > 0 {
				change(t, p.from, tc.do...)
			}
			stream, digest := sent(t, p.source, p.from)
			if len(stream) > tc.most {
				t.Errorf("the stream has %d bytes, want at most %d", len(stream), tc.most)
			}
			rest := strings.NewReader("what follows")
			got, err := p.target.Fill(t.Context(), p.to.Path, io.MultiReader(bytes.NewReader(stream), rest))
			if err != nil || got != digest {
				t.Fatalf("fill: digest %s, want %s, error %v", got, digest, err)
			}
			if rest.Len() != int(rest.Size()) {
				t.Error("it has read on after the end of the stream")
			}
			tool(t, "qemu-img", "check", "-f", "qcow2", p.to.Path)
			tool(t, "qemu-img", "compare", "-f", "qcow2", "-F", "qcow2", p.from.Path, p.to.Path)
			u, err := p.target.Stat(t.Context(), vm1)
			if d := cmp.Diff(p.to, u.Volume); err != nil || d != "" {
				t.Errorf("%v; the volume (-want +got):\n%s", err, d)
			}
			// A guest writes to it, over new and old clusters.
			change(t, p.to, "write -P 9 512k 700k", "read -P 9 512k 700k")
			tool(t, "qemu-img", "check", "-f", "qcow2", p.to.Path)
			if left, _ := filepath.Glob(filepath.Join(filepath.Dir(filepath.Dir(p.to.Path)), "tmp", "*")); len(left) > 0 {
				t.Errorf("left over: %v", left)
			}
		})
	}
}

// TestMoveBeside: so does a disk that has no base, and one that was made larger at its target meanwhile.
func TestMoveBeside(t *testing.T) {
	source, target := open(t, t.TempDir()), open(t, t.TempDir())
	from, err := source.CreateDisk(t.Context(), vm1, "data", 5)
	if err != nil {
		t.Fatal(err)
	}
	to, err := target.CreateDisk(t.Context(), vm1, "data", 9)
	if err != nil {
		t.Fatal(err)
	}
	change(t, volume.Volume{Path: from.Path}, "write -P 7 1M 300k", "write -P 8 5119k 1k", "write -z 3M 1M")
	stream, digest := sent(t, source, volume.Volume{Path: from.Path})
	if got, err := target.Fill(t.Context(), to.Path, bytes.NewReader(stream)); err != nil || got != digest {
		t.Fatalf("fill: digest %s, want %s, error %v", got, digest, err)
	}
	tool(t, "qemu-img", "check", "-f", "qcow2", to.Path)
	tool(t, "qemu-img", "compare", "-f", "qcow2", "-F", "qcow2", from.Path, to.Path) // without -s, one may be longer if that is zeros
	all, err := target.Disks(t.Context(), vm1)
	if err != nil || len(all) != 1 || all[0].VirtualBytes != 9*mib || all[0].Path != to.Path {
		t.Errorf("disks %+v, %v", all, err)
	}
	for _, path := range []string{strings.Replace(to.Path, "data", "..", 1), strings.Replace(to.Path, ".data", ".", 1), strings.Replace(to.Path, ".data", "", 1)} {
		if _, err := target.Fill(t.Context(), path, bytes.NewReader(stream)); !errors.Is(err, &api.Error{Code: api.CodeInvalid, Field: "path"}) {
			t.Errorf("fill %s: %v", path, err)
		}
	}
}

// scattered are n writes, zeros and discards of whatever places and sizes.
func scattered(n int, size int64) (commands []string) {
	r := rand.New(rand.NewPCG(1, 2))
	for i := range n {
		at := r.Int64N(size/512) * 512
		length := min(size-at, (r.Int64N(300)+1)*512)
		verb := []string{"write -P " + strconv.Itoa(i%255+1), "write -P " + strconv.Itoa(i%255+1), "write -z", "discard"}[r.IntN(4)]
		commands = append(commands, fmt.Sprintf("%s %d %d", verb, at, length))
	}
	return commands
}

// stream is a stream as Send writes it, of whatever content.
func stream(virtual, most uint64, parts ...[]byte) []byte {
	b := binary.BigEndian.AppendUint64([]byte("wcdisk1\n"), virtual)
	b = binary.BigEndian.AppendUint64(b, most)
	for _, p := range parts {
		b = append(b, p...)
	}
	return b
}

func part(kind byte, at, length uint64, data []byte) []byte {
	b := binary.BigEndian.AppendUint64([]byte{kind}, at)
	return append(binary.BigEndian.AppendUint64(b, length), data...)
}

// signed ends a stream with its digest.
func signed(b []byte) []byte {
	sum := sha256.Sum256(b)
	return append(append(b, 'e'), sum[:]...)
}

// endless gives the same bytes again and again.
type endless struct {
	head  io.Reader
	again []byte
	at    int
	read  int64
}

func (e *endless) Read(p []byte) (int, error) {
	if n, err := e.head.Read(p); err == nil {
		return n, nil
	}
	n := copy(p, e.again[e.at:])
	e.at = (e.at + n) % len(e.again)
	e.read += int64(n)
	return n, nil
}

// TestHostileStream: a stream that is not what Send would write changes nothing, and is refused with what is wrong. One that does not
// end is not read for ever.
func TestHostileStream(t *testing.T) {
	const size, k64 = 8 * mib, 64 << 10
	p := newPair(t, noise(size), 0)
	change(t, p.from, "write -P 7 1M 200k", "write -z 4M 1M")
	good, _ := sent(t, p.source, p.from)
	flip := func(at int) []byte {
		b := bytes.Clone(good)
		b[at] ^= 1
		return b
	}
	data := make([]byte, 2*mib)
	for name, tc := range map[string]struct {
		in   io.Reader
		want string
	}{
		"empty":                    {bytes.NewReader(nil), "it ends before its end"},
		"another magic":            {bytes.NewReader(flip(3)), "does not begin"},
		"a qcow2":                  {bytes.NewReader(qcow2(t)), "does not begin"},
		"a larger disk":            {bytes.NewReader(signed(stream(size+512, 0))), "this one has 8388608"},
		"beyond its own disk":      {bytes.NewReader(signed(stream(k64, k64, part('d', k64, k64, data[:k64])))), "not on the disk"},
		"more than the disk":       {bytes.NewReader(signed(stream(size, size+1))), "announces"},
		"cut off":                  {bytes.NewReader(good[:len(good)/2]), "it ends before its end"},
		"cut off in the digest":    {bytes.NewReader(good[:len(good)-1]), "it ends before its end"},
		"a byte of data":           {bytes.NewReader(flip(1000)), "digest"},
		"a byte of the digest":     {bytes.NewReader(flip(len(good) - 1)), "digest"},
		"another kind":             {bytes.NewReader(signed(stream(size, k64, part('q', 0, k64, data[:k64])))), "not a kind of extent"},
		"beyond the disk":          {bytes.NewReader(signed(stream(size, k64, part('d', size, k64, data[:k64])))), "not on the disk"},
		"over the disk's end":      {bytes.NewReader(signed(stream(size, 2*k64, part('d', size-k64, 2*k64, data[:2*k64])))), "not on the disk"},
		"an offset that wraps":     {bytes.NewReader(signed(stream(size, k64, part('d', 1<<64-k64, k64, data[:k64])))), "not on the disk"},
		"a length that wraps":      {bytes.NewReader(signed(stream(size, k64, part('z', k64, 1<<64-k64, nil)))), "not on the disk"},
		"not a cluster":            {bytes.NewReader(signed(stream(size, k64, part('d', 512, k64, data[:k64])))), "whole clusters"},
		"a part of one":            {bytes.NewReader(signed(stream(size, k64, part('d', 0, 512, data[:512])))), "whole clusters"},
		"an empty extent":          {bytes.NewReader(signed(stream(size, k64, part('z', 0, 0, nil)))), "is empty"},
		"a piece that is too long": {bytes.NewReader(signed(stream(size, size, part('d', 0, 2*mib, data)))), "the most is"},
		"backwards":                {bytes.NewReader(signed(stream(size, size, part('z', k64, k64, nil), part('z', 0, k64, nil)))), "comes after"},
		"twice":                    {bytes.NewReader(signed(stream(size, size, part('d', 0, k64, data[:k64]), part('d', 0, k64, data[:k64])))), "comes after"},
		"more than announced":      {bytes.NewReader(signed(stream(size, k64, part('d', 0, 2*k64, data[:2*k64])))), "announced"},
		"endless zeros":            {&endless{head: bytes.NewReader(stream(size, size)), again: part('z', 0, k64, nil)}, "comes after"},
		"endless data":             {&endless{head: bytes.NewReader(stream(size, size)), again: part('d', k64, k64, data[:k64])}, "comes after"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := filepath.Dir(filepath.Dir(p.to.Path))
			before := tree(t, dir)
			_, err := p.target.Fill(t.Context(), p.to.Path, tc.in)
			var e *api.Error
			if !errors.As(err, &e) || e.Code != api.CodeInvalid || e.Field != "stream" || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error %v, want one of the stream with %q", err, tc.want)
			}
			if d := cmp.Diff(before, tree(t, dir)); d != "" {
				t.Errorf("changed (-before +after):\n%s", d)
			}
		})
	}
}

// TestFillErrors: what is wrong with the receiver's own side.
func TestFillErrors(t *testing.T) {
	p := newPair(t, noise(mib), 0)
	change(t, p.from, "write -P 7 0 1M")
	good, _ := sent(t, p.source, p.from)
	dir := filepath.Dir(filepath.Dir(p.to.Path))
	for name, path := range map[string]string{
		"another directory": p.from.Path, "a base": p.to.BasePath, "above": filepath.Join(dir, "volume", "..", "x.qcow2"), "no volume": filepath.Join(dir, "volume", "x"),
	} {
		if _, err := p.target.Fill(t.Context(), path, bytes.NewReader(good)); !errors.Is(err, &api.Error{Code: api.CodeInvalid, Field: "path"}) {
			t.Errorf("fill %s: %v", name, err)
		}
		if _, err := p.target.Export(t.Context(), path); !errors.Is(err, &api.Error{Code: api.CodeInvalid, Field: "path"}) {
			t.Errorf("export %s: %v", name, err)
		}
	}
	stopped, stop := context.WithCancelCause(t.Context())
	stop(io.ErrClosedPipe)
	if _, err := p.target.Fill(stopped, p.to.Path, bytes.NewReader(good)); !errors.Is(err, context.Canceled) && !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("after its context's end: %v", err)
	}
	// Removed while it comes: it does not come back.
	half := &hook{Reader: bytes.NewReader(good), at: len(good) / 2, do: func() {
		if err := p.target.Remove(t.Context(), vm1); err != nil {
			t.Error(err)
		}
	}}
	if _, err := p.target.Fill(t.Context(), p.to.Path, half); !errors.Is(err, volume.ErrNotFound) {
		t.Errorf("removed meanwhile: %v", err)
	}
	if _, err := os.Stat(p.to.Path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the volume is there again: %v", err)
	}
	if _, err := p.target.Fill(t.Context(), p.to.Path, bytes.NewReader(good)); !errors.Is(err, volume.ErrNotFound) {
		t.Errorf("no volume: %v", err)
	}
}

// TestFillNeedsRoom: a disk without room refuses before the first byte of data.
func TestFillNeedsRoom(t *testing.T) {
	p := newPair(t, noise(mib), 0)
	change(t, p.from, "write -P 7 0 1M")
	good, _ := sent(t, p.source, p.from)
	dir := filepath.Dir(filepath.Dir(p.to.Path))
	if err := p.target.Close(); err != nil {
		t.Fatal(err)
	}
	full, err := volume.Open(volume.Options{Dir: dir, Reserve: 1 << 60})
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	in := bytes.NewReader(good)
	if _, err := full.Fill(t.Context(), p.to.Path, in); !errors.Is(err, volume.ErrNoSpace) {
		t.Errorf("fill: %v", err)
	}
	if in.Len() < mib {
		t.Errorf("it has read %d bytes", int(in.Size())-in.Len())
	}
}

// tool runs one of QEMU's tools.
func tool(t *testing.T, program string, args ...string) {
	t.Helper()
	if out, err := exec.Command(program, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v: %s", program, args, err, out)
	}
}

// hook does something once, when so many bytes have been read.
type hook struct {
	io.Reader
	at int
	do func()
}

func (h *hook) Read(p []byte) (int, error) {
	n, err := h.Reader.Read(p[:min(len(p), 4096)])
	if h.at -= n; h.at <= 0 && h.do != nil {
		h.do()
		h.do = nil
	}
	return n, err
}

// TestExportRefuses: a volume that is not as Create makes one, or is damaged, is not sent as something else.
func TestExportRefuses(t *testing.T) {
	for name, spoil := range map[string]func(t *testing.T, v volume.Volume){
		"snapshot":       func(t *testing.T, v volume.Volume) { tool(t, "qemu-img", "snapshot", "-c", "s1", v.Path) },
		"small clusters": func(t *testing.T, v volume.Volume) { create(t, v, "cluster_size=4k") },
		"divided":        func(t *testing.T, v volume.Volume) { create(t, v, "extended_l2=on") },
		"compressed": func(t *testing.T, v volume.Volume) {
			change(t, v, "write -c -P 7 0 64k")
		},
		"truncated": func(t *testing.T, v volume.Volume) {
			change(t, v, "write -P 7 0 1M")
			if err := os.Truncate(v.Path, 5<<16); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPair(t, noise(2*mib), 0)
			spoil(t, p.from)
			e, err := p.source.Export(t.Context(), p.from.Path)
			if err == nil {
				e.Close()
				t.Error("it is exported")
			}
		})
	}
}

// create makes a volume anew, in another way than Create.
func create(t *testing.T, v volume.Volume, option string) {
	t.Helper()
	tool(t, "qemu-img", "create", "-q", "-f", "qcow2", "-o", option, "-b", v.BasePath, "-F", string(v.BaseFormat), v.Path)
}
