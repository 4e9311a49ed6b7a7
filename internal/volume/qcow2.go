package volume

import (
	"encoding/binary"
	"io"

	"widecloud/api"
)

// The qcow2 header, docs/interop/qcow2.rst of QEMU 7.2: big-endian throughout.
const (
	qcow2Magic     = 0x514649fb // "QFI\xfb"
	qcow2HeadV2    = 72
	qcow2HeadV3    = 104
	maxL1Bytes     = 32 << 20 // QEMU's QCOW_MAX_L1_SIZE
	maxRefTabBytes = 8 << 20  // QEMU's QCOW_MAX_REFTABLE_SIZE
	maxVirtualSize = 1 << 56  // an L2 entry has 56 bits of offset; also far from any overflow below
	maxBackingName = 1023

	extBackingFormat = 0xe2792aca
	extEncryption    = 0x0537be77
	extDataFile      = 0x44415441 // "DATA"

	incompatDirty    = 1 << 0
	incompatCorrupt  = 1 << 1
	incompatDataFile = 1 << 2
	incompatCompress = 1 << 3
	incompatExtL2    = 1 << 4
	incompatKnown    = incompatDirty | incompatCorrupt | incompatDataFile | incompatCompress | incompatExtL2

	offsetMask = 0x00fffffffffffe00 // bits 9 to 55 of an L1 or L2 entry
)

// qcow2 is what a header says of where the tables are.
type qcow2 struct {
	size        int64 // of the file
	clusterBits uint
	extended    bool // L2 entries of 16 bytes
	l1Size      int64
	l1Offset    int64
}

func bad(format string, args ...any) error {
	return api.Invalidf("spec.source", "qcow2: "+format, args...)
}

// parseQcow2 reads and checks the header and its extensions. It reads at most one cluster and the backing file's name. own: it
// is a volume of ours that a QEMU may be at work on, which marks it dirty or corrupt, and it is described all the same.
func parseQcow2(r io.ReaderAt, size int64, own bool) (Info, qcow2, error) {
	fail := func(err error) (Info, qcow2, error) { return Info{}, qcow2{}, err }
	be := binary.BigEndian
	head := make([]byte, qcow2HeadV3+8)
	n, err := readUpTo(r, head, 0, size)
	if err != nil {
		return fail(err)
	}
	if n < qcow2HeadV2 {
		return fail(bad("the header is cut off after %d bytes", n))
	}
	version := be.Uint32(head[4:])
	if version != 2 && version != 3 {
		return fail(bad("version %d is not 2 or 3", version))
	}
	h := qcow2{size: size, clusterBits: uint(be.Uint32(head[20:]))}
	if be.Uint32(head[20:]) < 9 || be.Uint32(head[20:]) > 21 {
		return fail(bad("cluster_bits %d is not 9 to 21", be.Uint32(head[20:])))
	}
	cluster := int64(1) << h.clusterBits
	headLen, refOrder := int64(qcow2HeadV2), uint32(4)
	if version == 3 {
		if n < qcow2HeadV3 {
			return fail(bad("the header is cut off after %d bytes", n))
		}
		headLen, refOrder = int64(be.Uint32(head[100:])), be.Uint32(head[96:])
		if headLen < qcow2HeadV3 || headLen%8 != 0 || headLen > cluster {
			return fail(bad("header_length %d is not a multiple of 8 from 104 to a cluster", headLen))
		}
		if refOrder > 6 {
			return fail(bad("refcount_order %d is over 6", refOrder))
		}
		if err := h.features(be.Uint64(head[72:]), head[:n], headLen, own); err != nil {
			return fail(err)
		}
	}
	if m := be.Uint32(head[32:]); m != 0 {
		return fail(bad("the image is encrypted (method %d)", m))
	}
	if s := be.Uint32(head[60:]); s != 0 {
		return fail(bad("the image has %d internal snapshots; a base has none (qemu-img convert makes one without)", s))
	}
	virtual := be.Uint64(head[24:])
	if virtual == 0 || virtual > maxVirtualSize || virtual%512 != 0 {
		return fail(bad("a disk of %d bytes is not a whole number of 512-byte sectors, 1 to 2^47", virtual))
	}
	info := Info{Format: Qcow2, VirtualBytes: int64(virtual)}

	// L1: one entry for each L2 table's worth of disk.
	l2Entries := cluster / 8
	if h.extended {
		l2Entries = cluster / 16
	}
	h.l1Size = int64(be.Uint32(head[36:]))
	perL2 := uint64(l2Entries) * uint64(cluster)
	need := (virtual + perL2 - 1) / perL2
	if uint64(h.l1Size) < need || h.l1Size*8 > maxL1Bytes {
		return fail(bad("l1_size %d is not %d (what the disk needs) to %d", h.l1Size, need, maxL1Bytes/8))
	}
	if h.l1Offset, err = h.table("l1_table", be.Uint64(head[40:]), h.l1Size*8); err != nil {
		return fail(err)
	}
	refs := int64(be.Uint32(head[56:])) * cluster
	if refs == 0 || refs > maxRefTabBytes {
		return fail(bad("refcount_table_clusters %d is not 1 to %d", be.Uint32(head[56:]), maxRefTabBytes/cluster))
	}
	if _, err := h.table("refcount_table", be.Uint64(head[48:]), refs); err != nil {
		return fail(err)
	}

	nameAt, nameLen := be.Uint64(head[8:]), int64(be.Uint32(head[16:]))
	extEnd := cluster
	if nameAt != 0 {
		info.HasBacking = true
		if nameLen == 0 || nameLen > maxBackingName || nameAt < uint64(headLen) || nameAt > uint64(cluster-nameLen) {
			return fail(bad("the backing file's name (%d bytes at %d) is not within the first cluster", nameLen, nameAt))
		}
		name := make([]byte, nameLen)
		if n, err := readUpTo(r, name, int64(nameAt), size); err != nil || n < len(name) {
			return fail(firstError(err, bad("the backing file's name is cut off")))
		}
		info.BackingFile = string(name)
		extEnd = int64(nameAt)
	} else if nameLen != 0 {
		return fail(bad("the backing file's name has %d bytes and no place", nameLen))
	}
	if err := h.extensions(r, headLen, extEnd, &info); err != nil {
		return fail(err)
	}
	return info, h, nil
}

// features checks the incompatible features of a version 3 header.
func (h *qcow2) features(f uint64, head []byte, headLen int64, own bool) error {
	switch {
	case f&incompatDataFile != 0:
		return bad("the image keeps its data in an external data file; a base stands alone")
	case f&^uint64(incompatKnown) != 0:
		return bad("unknown incompatible features %#x", f&^uint64(incompatKnown))
	case f&incompatCorrupt != 0 && !own:
		return bad("the image is marked corrupt")
	case f&incompatDirty != 0 && !own:
		return bad("the image was not closed cleanly; qemu-img check -r all repairs it")
	}
	if f&incompatCompress != 0 {
		if headLen <= qcow2HeadV3 || len(head) <= qcow2HeadV3 {
			return bad("a compression type is promised and not there")
		}
		if t := head[qcow2HeadV3]; t != 1 {
			return bad("compression type %d is not 1 (zstd)", t)
		}
	} else if headLen > qcow2HeadV3 && len(head) > qcow2HeadV3 && head[qcow2HeadV3] != 0 {
		return bad("compression type %d without its feature bit", head[qcow2HeadV3])
	}
	if h.extended = f&incompatExtL2 != 0; h.extended && h.clusterBits < 14 {
		return bad("extended L2 entries need clusters of 16 KiB at least")
	}
	return nil
}

// table checks that a table is aligned, after the header, and within the file.
func (h *qcow2) table(name string, at uint64, length int64) (int64, error) {
	cluster := uint64(1) << h.clusterBits
	if at%cluster != 0 || at < cluster {
		return 0, bad("%s_offset %#x is not at a cluster after the header", name, at)
	}
	if at > uint64(h.size) || length > h.size-int64(at) {
		return 0, bad("the %s (%d bytes at %#x) is not within the file of %d bytes: truncated?", name, length, at, h.size)
	}
	return int64(at), nil
}

// extensions walks the header extensions, which lie between the header and the backing file's name.
func (h *qcow2) extensions(r io.ReaderAt, at, end int64, info *Info) error {
	var head [8]byte
	for at < end {
		if end-at < 8 {
			return nil // QEMU stops here, too
		}
		if n, err := readUpTo(r, head[:], at, h.size); err != nil || n < 8 {
			return firstError(err, bad("the header extensions are cut off"))
		}
		kind, length := binary.BigEndian.Uint32(head[:]), int64(binary.BigEndian.Uint32(head[4:]))
		at += 8
		if kind == 0 {
			return nil
		}
		if length > end-at {
			return bad("header extension %#x has %d bytes, more than its place", kind, length)
		}
		switch kind {
		case extEncryption:
			return bad("the image is encrypted (LUKS header)")
		case extDataFile:
			return bad("the image names an external data file; a base stands alone")
		case extBackingFormat:
			if length > 16 {
				return bad("the backing format's name has %d bytes", length)
			}
			name := make([]byte, length)
			if n, err := readUpTo(r, name, at, h.size); err != nil || n < len(name) {
				return firstError(err, bad("the header extensions are cut off"))
			}
			info.BackingFormat = Format(name)
		}
		at += (length + 7) &^ 7
	}
	return nil
}

// walk follows the tables to every cluster and checks that each lies within the file. No L2 table may be used twice (there are
// no snapshots to share one with), which also bounds the work by the file's size.
func (h *qcow2) walk(r io.ReaderAt) error {
	cluster := int64(1) << h.clusterBits
	l1 := make([]byte, min(h.l1Size*8, 64<<10))
	l2 := make([]byte, cluster)
	seen := map[int64]bool{}
	for done := int64(0); done < h.l1Size*8; done += int64(len(l1)) {
		l1 = l1[:min(int64(len(l1)), h.l1Size*8-done)]
		if n, err := readUpTo(r, l1, h.l1Offset+done, h.size); err != nil || n < len(l1) {
			return firstError(err, bad("the l1_table is cut off"))
		}
		for i := 0; i < len(l1); i += 8 {
			entry := binary.BigEndian.Uint64(l1[i:])
			if entry&offsetMask == 0 {
				continue
			}
			at, err := h.table("l2_table", entry&offsetMask, cluster)
			if err != nil {
				return err
			}
			if seen[at] {
				return bad("the l2_table at %#x is used twice", at)
			}
			seen[at] = true
			if n, err := readUpTo(r, l2, at, h.size); err != nil || n < len(l2) {
				return firstError(err, bad("the l2_table at %#x is cut off", at))
			}
			if err := h.walkL2(l2); err != nil {
				return err
			}
		}
	}
	return nil
}

func (h *qcow2) walkL2(l2 []byte) error {
	cluster := uint64(1) << h.clusterBits
	step := 8
	if h.extended {
		step = 16
	}
	for i := 0; i < len(l2); i += step {
		entry := binary.BigEndian.Uint64(l2[i:])
		var at uint64
		if entry&(1<<62) != 0 { // compressed: offset in the low 62-(cluster_bits-8) bits, any byte
			at = entry & (1<<(62-(h.clusterBits-8)) - 1)
			if at < cluster {
				return bad("compressed data at %#x are within the header", at)
			}
		} else {
			if at = entry & offsetMask; at == 0 {
				continue
			}
			if at%cluster != 0 {
				return bad("data at %#x are not at a cluster", at)
			}
		}
		// The last cluster may end short: QEMU reads zeros there.
		if at >= uint64(h.size) {
			return bad("data at %#x are beyond the file of %d bytes: truncated?", at, h.size)
		}
	}
	return nil
}

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
