package volume_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode"

	"github.com/google/go-cmp/cmp"

	"widecloud/api"
	"widecloud/internal/volume"
)

// put32 and put64 are patches of a header.
func put32(at int, v uint32) func([]byte) []byte {
	return func(b []byte) []byte { binary.BigEndian.PutUint32(b[at:], v); return b }
}

func put64(at int, v uint64) func([]byte) []byte {
	return func(b []byte) []byte { binary.BigEndian.PutUint64(b[at:], v); return b }
}

// extension puts a header extension in front of what is there.
func extension(kind uint32, data string) func([]byte) []byte {
	return func(b []byte) []byte {
		at := binary.BigEndian.Uint32(b[100:])
		e := binary.BigEndian.AppendUint32(nil, kind)
		e = binary.BigEndian.AppendUint32(e, uint32(len(data)))
		e = append(e, data...)
		e = append(e, make([]byte, (8-len(e)%8)%8)...)
		copy(b[at:], append(e, make([]byte, 8)...))
		return b
	}
}

// l1 and l2 patch the first entry of the first table of the level that has one.
func l1(v func(old uint64) uint64) func([]byte) []byte {
	return func(b []byte) []byte {
		at := binary.BigEndian.Uint64(b[40:])
		binary.BigEndian.PutUint64(b[at:], v(binary.BigEndian.Uint64(b[at:])))
		return b
	}
}

func l2(v uint64) func([]byte) []byte {
	return func(b []byte) []byte {
		at := binary.BigEndian.Uint64(b[binary.BigEndian.Uint64(b[40:]):]) & 0x00fffffffffffe00
		binary.BigEndian.PutUint64(b[at+8:], v)
		return b
	}
}

func both(ps ...func([]byte) []byte) func([]byte) []byte {
	return func(b []byte) []byte {
		for _, p := range ps {
			b = p(b)
		}
		return b
	}
}

func magic(at int, s string) []byte {
	b := noise(64 << 10)
	if at < 0 {
		at += len(b)
	}
	copy(b[at:], s)
	return b
}

func made(t *testing.T, args ...string) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image")
	qemuImg(t, append(append([]string{"create", "-q"}, args[:len(args)-1]...), path, args[len(args)-1])...)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestHostileImages: each is refused with the field that names the culprit, and the directory is as before. Those that
// QEMU can make are made by it.
func TestHostileImages(t *testing.T) {
	plain := qcow2(t)
	patched := func(p func([]byte) []byte) []byte { return p(bytes.Clone(plain)) }
	backed := func(name string) []byte {
		return patched(func(b []byte) []byte {
			put64(8, 4096)(b)
			put32(16, uint32(len(name)))(b)
			copy(b[4096:], name)
			return b
		})
	}
	dataFile := filepath.Join(t.TempDir(), "data")
	snapshots := filepath.Join(t.TempDir(), "snapshots")
	if err := os.WriteFile(snapshots, plain, 0o600); err != nil {
		t.Fatal(err)
	}
	qemuImg(t, "snapshot", "-c", "one", snapshots)
	snapshotted, _ := os.ReadFile(snapshots)
	luks := []string{"--object", "secret,id=s,data=abc", "-f", "qcow2", "-o", "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10"}

	dir := t.TempDir()
	s := open(t, dir)
	before := tree(t, dir)
	for name, tc := range map[string]struct {
		image  []byte
		format string // as declared
		field  string
		says   string // so that a patch is refused for what it did
	}{
		"backing file":                 {made(t, "-u", "-f", "qcow2", "-b", "/etc/passwd", "-F", "raw", "1M"), "", "spec.source", "the image has a backing file"},
		"backing file by hand":         {backed("/etc/passwd"), "qcow2", "spec.source", "the image has a backing file"},
		"backing file json":            {backed(`json:{"driver":"raw","file":{"driver":"file","filename":"/etc/shadow"}}`), "", "spec.source", "the image has a backing file"},
		"backing file nbd":             {backed("nbd:192.0.2.1:10809"), "", "spec.source", "the image has a backing file"},
		"backing file of a terminal":   {backed("\x1b]0;evil\a\x9b31m"), "", "spec.source", "the image has a backing file"},
		"backing name beyond cluster":  {patched(both(put64(8, 1<<40), put32(16, 10))), "", "spec.source", "is not within the first cluster"},
		"backing name over its end":    {patched(both(put64(8, 65530), put32(16, 10))), "", "spec.source", "is not within the first cluster"},
		"backing name in the header":   {patched(both(put64(8, 8), put32(16, 10))), "", "spec.source", "is not within the first cluster"},
		"backing name too long":        {patched(both(put64(8, 4096), put32(16, 1024))), "", "spec.source", "is not within the first cluster"},
		"backing name empty":           {patched(put64(8, 4096)), "", "spec.source", "is not within the first cluster"},
		"backing name without place":   {patched(put32(16, 4)), "", "spec.source", "the backing file's name has"},
		"data file":                    {made(t, "-f", "qcow2", "-o", "data_file="+dataFile, "1M"), "", "spec.source", "the image keeps its data in an external data file"},
		"data file bit only":           {patched(put64(72, 1<<2)), "", "spec.source", "the image keeps its data in an external data file"},
		"data file extension only":     {patched(extension(0x44415441, "/etc/shadow")), "", "spec.source", "the image names an external data file"},
		"encrypted with LUKS":          {made(t, append(luks, "1M")...), "", "spec.source", "the image is encrypted (method"},
		"encrypted with AES":           {patched(put32(32, 1)), "", "spec.source", "the image is encrypted (method"},
		"encryption extension only":    {patched(extension(0x0537be77, string(make([]byte, 16)))), "", "spec.source", "the image is encrypted (LUKS header"},
		"extension over its end":       {patched(both(extension(0x12345678, ""), put32(104+8+4, 1<<31))), "", "spec.source", "bytes, more than its place"},
		"snapshots":                    {snapshotted, "", "spec.source", "internal snapshots"},
		"snapshot count absurd":        {patched(put32(60, 0xffffffff)), "", "spec.source", "internal snapshots"},
		"dirty":                        {patched(put64(72, 1<<0)), "", "spec.source", "the image was not closed cleanly"},
		"corrupt":                      {patched(put64(72, 1<<1)), "", "spec.source", "the image is marked corrupt"},
		"compression unknown":          {patched(both(put64(72, 1<<3), put32(104, 7<<24))), "", "spec.source", "compression type"},
		"compression without bit":      {patched(put32(104, 1<<24)), "", "spec.source", "without its feature bit"},
		"unknown feature":              {patched(put64(72, 1<<40)), "", "spec.source", "unknown incompatible features"},
		"version 1":                    {patched(put32(4, 1)), "", "spec.source", "version"},
		"version 4":                    {patched(put32(4, 4)), "", "spec.source", "version"},
		"cluster_bits low":             {patched(put32(20, 8)), "", "spec.source", "cluster_bits"},
		"cluster_bits high":            {patched(put32(20, 22)), "", "spec.source", "cluster_bits"},
		"cluster_bits wraps":           {patched(put32(20, 1<<31|16)), "", "spec.source", "cluster_bits"},
		"extended in small clusters":   {patched(both(put64(72, 1<<4), put32(20, 13))), "", "spec.source", "entries need clusters of"},
		"header_length short":          {patched(put32(100, 96)), "", "spec.source", "is not a multiple of"},
		"header_length odd":            {patched(put32(100, 107)), "", "spec.source", "is not a multiple of"},
		"header_length absurd":         {patched(put32(100, 1<<31)), "", "spec.source", "is not a multiple of"},
		"refcount_order":               {patched(put32(96, 7)), "", "spec.source", "refcount_order"},
		"no disk":                      {patched(put64(24, 0)), "", "spec.source", "bytes is not a whole number of"},
		"disk of half a sector":        {patched(put64(24, 1000)), "", "spec.source", "bytes is not a whole number of"},
		"disk over the limit":          {made(t, "-f", "qcow2", "9T"), "", "spec.source", "bytes, more than the limit of"},
		"disk negative":                {patched(put64(24, 1<<63)), "", "spec.source", "bytes is not a whole number of"},
		"l1_size too small":            {patched(put32(36, 0)), "", "spec.source", "what the disk needs) to"},
		"l1_size absurd":               {patched(put32(36, 0xffffffff)), "", "spec.source", "what the disk needs) to"},
		"l1_size beyond the file":      {patched(put32(36, 1<<20)), "", "spec.source", "is not within the file of"},
		"l1_table in the header":       {patched(put64(40, 0)), "", "spec.source", "is not at a cluster after the header"},
		"l1_table not aligned":         {patched(put64(40, 0x30008)), "", "spec.source", "is not at a cluster after the header"},
		"l1_table beyond the file":     {patched(put64(40, 1<<62)), "", "spec.source", "is not within the file of"},
		"refcount_table none":          {patched(put32(56, 0)), "", "spec.source", "refcount_table_clusters"},
		"refcount_table absurd":        {patched(put32(56, 0xffffffff)), "", "spec.source", "refcount_table_clusters"},
		"refcount_table beyond":        {patched(put64(48, 1<<40)), "", "spec.source", "is not within the file of"},
		"refcount_table in the header": {patched(put64(48, 0)), "", "spec.source", "is not at a cluster after the header"},
		"l2_table beyond the file":     {patched(l1(func(uint64) uint64 { return 1<<63 | 1<<40 })), "", "spec.source", "is not within the file of"},
		"l2_table not aligned":         {patched(l1(func(old uint64) uint64 { return old + 512 })), "", "spec.source", "is not at a cluster after the header"},
		"l2_table used twice":          {patched(func(b []byte) []byte { return twice(b) }), "", "spec.source", "is used twice"},
		"data beyond the file":         {patched(l2(1<<63 | 1<<40)), "", "spec.source", "are beyond the file of"},
		"data not aligned":             {patched(l2(1<<63 | 0x50200)), "", "spec.source", "are not at a cluster"},
		"compressed beyond the file":   {patched(l2(1<<62 | 1<<50)), "", "spec.source", "are beyond the file of"},
		"compressed in the header":     {patched(l2(1<<62 | 16)), "", "spec.source", "are within the header"},
		"truncated in the data":        {plain[:len(plain)-mib/2], "", "spec.source", "are beyond the file of"},
		"truncated in the tables":      {plain[:0x20000], "", "spec.source", "is not within the file of"},
		"truncated in the header":      {plain[:100], "", "spec.source", "the header is cut off after"},
		"truncated in the magic":       {plain[:3], "", "spec.source", "bytes are no whole number of"},
		"raw claiming qcow2":           {noise(mib), "qcow2", "spec.format", ", but its bytes are raw"},
		"qcow2 claiming raw":           {plain, "raw", "spec.format", "declared as raw, but its bytes are qcow"},
		"qcow2 backed, claiming raw":   {backed("/etc/passwd"), "raw", "spec.format", "declared as raw, but its bytes are qcow"},
		"qcow2 broken, claiming raw":   {patched(put32(20, 99)), "raw", "spec.source", "cluster_bits"},
		"text, not a disk":             {[]byte("root:x:0:0:root:/root:/bin/bash\n"), "", "spec.source", "bytes are no whole number of"},
		"web page":                     {append([]byte("\n<!DOCTYPE html><html>"), make([]byte, 490)...), "", "spec.source", "the file is a web page"},
		"VMDK":                         {made(t, "-f", "vmdk", "1M"), "", "spec.source", "the file is a VMDK image"},
		"VMDK descriptor":              {magic(0, "# Disk DescriptorFile\nRW 1 FLAT \"/etc/passwd\" 0\n"), "", "spec.source", "the file is a VMDK descriptor"},
		"VMDK claiming raw":            {made(t, "-f", "vmdk", "1M"), "raw", "spec.source", "the file is a VMDK image"},
		"VMDK of ESX 3":                {magic(0, "COWD"), "", "spec.source", "the file is a VMDK image"},
		"VDI":                          {made(t, "-f", "vdi", "1M"), "", "spec.source", "the file is a VDI image"},
		"VHDX":                         {made(t, "-f", "vhdx", "1M"), "", "spec.source", "the file is a VHDX image"},
		"VHD dynamic":                  {made(t, "-f", "vpc", "1M"), "", "spec.source", "the file is a VHD image"},
		"VHD fixed":                    {made(t, "-f", "vpc", "-o", "subformat=fixed", "1M"), "", "spec.source", "the file is a VHD image"},
		"QED":                          {made(t, "-f", "qed", "1M"), "", "spec.source", "the file is a QED image"},
		"qcow 1":                       {made(t, "-f", "qcow", "1M"), "", "spec.source", "version"},
		"Parallels":                    {made(t, "-f", "parallels", "1M"), "", "spec.source", "the file is a Parallels image"},
		"LUKS":                         {made(t, "--object", "secret,id=s,data=abc", "-f", "luks", "-o", "key-secret=s,iter-time=10", "1M"), "", "spec.source", "the file is an encrypted (LUKS) image"},
		"Bochs":                        {magic(0, "Bochs Virtual HD Image"), "", "spec.source", "the file is a Bochs image"},
		"cloop":                        {magic(0, "#!/bin/sh\n#V2.0 Format\n"), "", "spec.source", "the file is a cloop image"},
		"DMG":                          {magic(-512, "koly"), "", "spec.source", "the file is a DMG image"},
		"gzip":                         {magic(0, "\x1f\x8b\x08"), "", "spec.source", "the file is compressed with gzip"},
		"xz":                           {magic(0, "\xfd7zXZ\x00"), "", "spec.source", "the file is compressed with xz"},
		"zstd":                         {magic(0, "\x28\xb5\x2f\xfd"), "", "spec.source", "the file is compressed with zstd"},
		"bzip2":                        {magic(0, "BZh9"), "", "spec.source", "the file is compressed with bzip"},
		"zip":                          {magic(0, "PK\x03\x04"), "", "spec.source", "the file is a zip archive"},
		"tar":                          {magic(257, "ustar\x0000"), "", "spec.source", "the file is a tar archive"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := imported(context.Background(), s, bytes.NewReader(tc.image), volume.Import{Format: tc.format})
			if !errors.Is(err, &api.Error{Code: api.CodeInvalid, Field: tc.field}) {
				t.Errorf("error is %v, want one of field %s", err, tc.field)
			}
			if err != nil && !strings.Contains(err.Error(), tc.says) {
				t.Errorf("error is %q, want it to say %q", err, tc.says)
			}
			if err != nil && strings.ContainsFunc(err.Error(), unicode.IsControl) {
				t.Errorf("control characters reach the user: %q", err)
			}
			if d := cmp.Diff(before, tree(t, dir)); d != "" {
				t.Errorf("the directory changed (-before +after):\n%s", d)
			}
		})
	}
}

// twice makes the L1 table two entries long, both of the same L2 table.
func twice(b []byte) []byte {
	at := binary.BigEndian.Uint64(b[40:])
	put32(36, 2)(b)
	copy(b[at+8:at+16], b[at:at+8])
	return b
}

// A patch that changes nothing must not be what the refusals are due to.
func TestHostileImagesStartFromAGoodOne(t *testing.T) {
	b := qcow2(t)
	want := volume.Info{Format: volume.Qcow2, VirtualBytes: 8 * mib}
	for name, p := range map[string]func([]byte) []byte{
		"as it is":          func(b []byte) []byte { return b },
		"unknown extension": extension(0x12345678, "harmless"),
		"l1 patched":        l1(func(old uint64) uint64 { return old }),
	} {
		got, err := volume.Inspect(bytes.NewReader(p(bytes.Clone(b))), int64(len(b)))
		if err != nil || got != want {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

func TestInspectReportsABackingFile(t *testing.T) {
	b := made(t, "-u", "-f", "qcow2", "-b", "/srv/base.img", "-F", "raw", "3M")
	want := volume.Info{Format: volume.Qcow2, VirtualBytes: 3 * mib, HasBacking: true, BackingFile: "/srv/base.img", BackingFormat: volume.Raw}
	got, err := volume.Inspect(bytes.NewReader(b), int64(len(b)))
	if err != nil || got != want {
		t.Errorf("%+v, %v", got, err)
	}
}

// FuzzInspect: no panic, no read outside the file, no error but a located one, and nothing accepted that stands on others.
func FuzzInspect(f *testing.F) {
	// Small clusters keep the corpus small: 4 clusters of 512 bytes, then one of data.
	tiny := make([]byte, 2560)
	copy(tiny, "QFI\xfb")
	both(put32(4, 3), put32(20, 9), put64(24, 32<<10), put32(36, 1), put64(40, 512), put64(48, 1024), put32(56, 1),
		put32(96, 4), put32(100, 104), put64(512, 1<<63|1536), put64(1536, 1<<63|2048))(tiny)
	if _, err := volume.Inspect(bytes.NewReader(tiny), int64(len(tiny))); err != nil {
		f.Fatal(err)
	}
	f.Add(tiny)
	f.Add(both(put64(8, 200), put32(16, 11), put64(72, 8), put32(100, 112))(bytes.Clone(tiny)))
	f.Add(both(put32(4, 2), put64(1536, 1<<62|2048))(bytes.Clone(tiny)))
	f.Add(noise(512))
	f.Fuzz(func(t *testing.T, b []byte) {
		info, err := volume.Inspect(strictReader{t, b}, int64(len(b)))
		if err != nil {
			if !errors.Is(err, &api.Error{Code: api.CodeInvalid, Field: "spec.source"}) {
				t.Fatalf("error without its field: %v", err)
			}
			return
		}
		if info.VirtualBytes <= 0 || info.VirtualBytes%512 != 0 {
			t.Fatalf("accepted a disk of %d bytes", info.VirtualBytes)
		}
		if (info.Format == volume.Qcow2) != bytes.HasPrefix(b, []byte("QFI\xfb")) {
			t.Fatalf("%s, but it starts with %q", info.Format, b[:4])
		}
		if info.HasBacking != (info.BackingFile != "") {
			t.Fatalf("backing file: %+v", info)
		}
	})
}

// strictReader fails the test when it is read outside its bytes.
type strictReader struct {
	t *testing.T
	b []byte
}

func (r strictReader) ReadAt(p []byte, at int64) (int, error) {
	if at < 0 || at+int64(len(p)) > int64(len(r.b)) {
		r.t.Errorf("read of %d bytes at %d of %d", len(p), at, len(r.b))
	}
	return bytes.NewReader(r.b).ReadAt(p, at)
}
