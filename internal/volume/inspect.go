package volume

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"widecloud/api"
)

// Format is the format of a disk image, by qemu-img's name.
type Format string

// The formats that a base may have. Every other is recognised only to be refused by its name.
const (
	Raw   Format = "raw"
	Qcow2 Format = "qcow2"
)

// Info is what an image's own bytes say.
type Info struct {
	Format        Format
	VirtualBytes  int64 // of the disk
	HasBacking    bool
	BackingFile   string // as it is in the header
	BackingFormat Format // as it is in the header; empty: none named
}

// Inspect reads an image of size bytes: the format from the bytes alone, and of a qcow2 the whole header and both levels
// of tables. It refuses, with an *api.Error that names spec.source: other formats, compressed files and web pages; of qcow2,
// external data files, encryption, unknown or unsafe features, internal snapshots, tables and data outside the file. A backing
// file is reported, not refused: overlays have one. What is not an error of the image's is one of r's.
func Inspect(r io.ReaderAt, size int64) (Info, error) {
	info, h, err := inspect(r, size, false)
	if err == nil && info.Format == Qcow2 {
		err = h.walk(r)
	}
	if err != nil {
		return Info{}, err
	}
	return info, nil
}

// inspectHead is Inspect without the walk through the tables: for what is ours, inspected once or made here.
func inspectHead(r io.ReaderAt, size int64) (Info, error) {
	info, _, err := inspect(r, size, true)
	return info, err
}

// foreign are the signatures of what is neither qcow2 nor a plain disk: the formats that QEMU would recognise in a file whose
// format nobody names, and what users upload by mistake.
var foreign = []struct {
	at    int64 // negative: from the end
	magic string
	name  string
}{
	{0, "KDMV", "a VMDK image"},
	{0, "COWD", "a VMDK image"},
	{0, "# Disk DescriptorFile", "a VMDK descriptor"},
	{0x40, "\x7f\x10\xda\xbe", "a VDI image"},
	{0, "vhdxfile", "a VHDX image"},
	{0, "conectix", "a VHD image"},
	{-512, "conectix", "a VHD image"},
	{0, "QED\x00", "a QED image"},
	{0, "LUKS\xba\xbe", "an encrypted (LUKS) image"},
	{0, "WithoutFreeSpace", "a Parallels image"},
	{0, "WithouFreSpacExt", "a Parallels image"},
	{0, "Bochs Virtual HD Image", "a Bochs image"},
	{0, "#!/bin/sh\n#V2.0 Format\n", "a cloop image"},
	{-512, "koly", "a DMG image"},
	{0, "\x1f\x8b", "compressed with gzip"},
	{0, "\xfd7zXZ\x00", "compressed with xz"},
	{0, "\x28\xb5\x2f\xfd", "compressed with zstd"},
	{0, "BZh", "compressed with bzip2"},
	{0, "PK\x03\x04", "a zip archive"},
	{257, "ustar", "a tar archive"},
}

func inspect(r io.ReaderAt, size int64, own bool) (Info, qcow2, error) {
	if size <= 0 {
		return Info{}, qcow2{}, api.Invalidf("spec.source", "the image is empty")
	}
	head := make([]byte, 512)
	n, err := readUpTo(r, head, 0, size)
	if err != nil {
		return Info{}, qcow2{}, err
	}
	head = head[:n]
	if bytes.HasPrefix(head, []byte("QFI\xfb")) {
		return parseQcow2(r, size, own)
	}
	tail := make([]byte, min(size, 512))
	if _, err := readUpTo(r, tail, size-int64(len(tail)), size); err != nil {
		return Info{}, qcow2{}, err
	}
	for _, f := range foreign {
		where, at := head, f.at
		if at < 0 {
			where, at = tail, int64(len(tail))+at
		}
		if at >= 0 && at < int64(len(where)) && bytes.HasPrefix(where[at:], []byte(f.magic)) {
			return Info{}, qcow2{}, api.Invalidf("spec.source", "the file is %s; want raw or qcow2", f.name)
		}
	}
	if text := bytes.ToLower(bytes.TrimSpace(head)); bytes.HasPrefix(text, []byte("<!doctype")) || bytes.HasPrefix(text, []byte("<html")) {
		return Info{}, qcow2{}, api.Invalidf("spec.source", "the file is a web page; want raw or qcow2")
	}
	if size%512 != 0 {
		return Info{}, qcow2{}, api.Invalidf("spec.source",
			"the file is not qcow2, and not raw either: %d bytes are no whole number of 512-byte sectors", size)
	}
	return Info{Format: Raw, VirtualBytes: size}, qcow2{}, nil
}

// readUpTo fills p from at, or reads as far as the file of size bytes goes.
func readUpTo(r io.ReaderAt, p []byte, at, size int64) (int, error) {
	if at >= size {
		return 0, nil
	}
	p = p[:min(int64(len(p)), size-at)]
	n, err := r.ReadAt(p, at)
	if n < len(p) {
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF // shorter than it was said to be
		}
		return n, fmt.Errorf("read image: %w", err)
	}
	return n, nil
}
