package volume

import (
	"encoding/binary"
	"errors"
	"io"
)

// extent is a run of a volume's disk that the volume's own file decides, whatever the base has there.
type extent struct {
	at, length int64 // on the disk, bytes
	from       int64 // in the file; 0: zeros
}

// maxPiece bounds the data of an extent, in bytes: what is read and sent at once.
const maxPiece = 1 << 20

// errCluster says that a volume was not made by Create.
var errCluster = errors.New("it has compressed or divided clusters, or ones of less than 64 KiB: it was not made here")

// extents calls f for each extent, in the order of the disk. Neighbours are joined; what the base decides is left out.
func (h *qcow2) extents(r io.ReaderAt, virtual int64, f func(extent) error) error {
	cluster := int64(1) << h.clusterBits
	if h.extended || cluster < clusterBytes {
		return errCluster
	}
	var last extent
	add := func(e extent) error {
		follows := last.at+last.length == e.at && (e.from == 0) == (last.from == 0)
		if e.from != 0 {
			follows = follows && last.from+last.length == e.from && last.length+e.length <= max(maxPiece, cluster)
		}
		if last.length > 0 && follows {
			last.length += e.length
			return nil
		}
		was := last
		last = e
		if was.length == 0 {
			return nil
		}
		return f(was)
	}
	perL2 := cluster / 8 * cluster
	l1 := make([]byte, h.l1Size*8)
	if n, err := readUpTo(r, l1, h.l1Offset, h.size); err != nil || n < len(l1) {
		return firstError(err, bad("the l1_table is cut off"))
	}
	l2 := make([]byte, cluster)
	for i := int64(0); i*perL2 < virtual; i++ {
		entry := binary.BigEndian.Uint64(l1[i*8:])
		if entry&offsetMask == 0 {
			continue
		}
		table, err := h.table("l2_table", entry&offsetMask, cluster)
		if err != nil {
			return err
		}
		if n, err := readUpTo(r, l2, table, h.size); err != nil || n < len(l2) {
			return firstError(err, bad("the l2_table at %#x is cut off", table))
		}
		if err := h.walkL2(l2); err != nil {
			return err
		}
		for at := i * perL2; at < min(virtual, (i+1)*perL2); at += cluster {
			entry := binary.BigEndian.Uint64(l2[at%perL2/cluster*8:])
			e := extent{at: at, length: min(cluster, virtual-at), from: int64(entry & offsetMask)}
			switch {
			case entry&l2Compressed != 0:
				return errCluster
			case entry&l2Zero != 0:
				e.from = 0
			case e.from == 0:
				continue
			}
			if err := add(e); err != nil {
				return err
			}
		}
	}
	if last.length == 0 {
		return nil
	}
	return f(last)
}
