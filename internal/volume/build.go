package volume

import (
	"bufio"
	"encoding/binary"
	"os"
)

// What Create's volumes and those that Fill makes are made of: version 3 of docs/interop/qcow2.rst, with QEMU's defaults.
const (
	clusterBits  = 16
	clusterBytes = 1 << clusterBits
	l2PerTable   = clusterBytes / 8
	perL2Bytes   = l2PerTable * clusterBytes // of the disk
	refsPerBlock = clusterBytes / 2          // of 16 bits
	headLength   = 112

	l2Copied     = 1 << 63 // the cluster has a reference count of one
	l2Compressed = 1 << 62
	l2Zero       = 1 << 0
)

// builder writes a qcow2 file from front to end: data and tables as they come, then what leads to them, the header last. What
// it is given must go up on the disk. Errors are the file's.
type builder struct {
	f       *os.File
	w       *bufio.Writer
	at      int64 // where w writes, a cluster's begin
	virtual int64
	l1      []uint64
	l2      []uint64
	index   int64 // of l2 among the tables; -1: there is none yet
}

func newBuilder(f *os.File, virtual int64) (*builder, error) {
	_, err := f.Seek(clusterBytes, 0)
	return &builder{
		f: f, w: bufio.NewWriterSize(f, maxPiece), at: clusterBytes, virtual: virtual,
		l1: make([]uint64, (virtual+perL2Bytes-1)/perL2Bytes), l2: make([]uint64, l2PerTable), index: -1,
	}, err
}

// entry is the table's entry of a cluster of the disk.
func (b *builder) entry(at int64) (*uint64, error) {
	if index := at / perL2Bytes; index != b.index {
		if err := b.endTable(); err != nil {
			return nil, err
		}
		b.index = index
	}
	return &b.l2[at%perL2Bytes/clusterBytes], nil
}

func (b *builder) endTable() error {
	if b.index < 0 {
		return nil
	}
	b.l1[b.index] = uint64(b.at) | l2Copied
	err := b.table(b.l2)
	clear(b.l2)
	return err
}

// data puts p at a cluster of the disk and those after it. The last one may end short, at the disk's end.
func (b *builder) data(at int64, p []byte) error {
	for len(p) > 0 {
		e, err := b.entry(at)
		if err != nil {
			return err
		}
		*e = uint64(b.at) | l2Copied
		n := min(len(p), clusterBytes)
		if err := b.cluster(p[:n]); err != nil {
			return err
		}
		p, at = p[n:], at+clusterBytes
	}
	return nil
}

// zeros lets a run of clusters read as zeros, whatever the base has there.
func (b *builder) zeros(at, length int64) error {
	for end := at + length; at < end; at += clusterBytes {
		e, err := b.entry(at)
		if err != nil {
			return err
		}
		*e = l2Zero
	}
	return nil
}

// cluster writes one, filled up with zeros.
func (b *builder) cluster(p []byte) error {
	b.at += clusterBytes
	if _, err := b.w.Write(p); err != nil {
		return err
	}
	_, err := b.w.Write(make([]byte, clusterBytes-len(p)))
	return err
}

// table writes big-endian numbers of 64 bits, and fills up the last cluster.
func (b *builder) table(entries []uint64) error {
	for len(entries) > 0 {
		n := min(len(entries), l2PerTable)
		p := make([]byte, 0, n*8)
		for _, e := range entries[:n] {
			p = binary.BigEndian.AppendUint64(p, e)
		}
		if err := b.cluster(p); err != nil {
			return err
		}
		entries = entries[n:]
	}
	return nil
}

// finish writes the tables that are left and the header.
func (b *builder) finish(backing string, format Format) error {
	if err := b.endTable(); err != nil {
		return err
	}
	l1At := b.at
	if err := b.table(b.l1); err != nil {
		return err
	}
	refsAt, refsClusters, err := b.refcounts()
	if err != nil {
		return err
	}
	if err := b.w.Flush(); err != nil {
		return err
	}
	_, err = b.f.WriteAt(b.header(l1At, refsAt, refsClusters, backing, format), 0)
	return err
}

// refcounts writes the blocks of reference counts, which are one for every cluster of the file, and the table of the blocks.
func (b *builder) refcounts() (tableAt, clusters int64, err error) {
	used := b.at / clusterBytes
	blocks := int64(1)
	for {
		clusters = (blocks + l2PerTable - 1) / l2PerTable
		if need := (used + blocks + clusters + refsPerBlock - 1) / refsPerBlock; need > blocks {
			blocks = need
			continue
		}
		break
	}
	left := used + blocks + clusters
	table := make([]uint64, blocks)
	for i := range table {
		table[i] = uint64(b.at)
		p := make([]byte, clusterBytes)
		for k := range min(left, refsPerBlock) {
			p[2*k+1] = 1
		}
		left -= refsPerBlock
		if err := b.cluster(p); err != nil {
			return 0, 0, err
		}
	}
	tableAt = b.at
	return tableAt, clusters, b.table(table)
}

func (b *builder) header(l1At, refsAt, refsClusters int64, backing string, format Format) []byte {
	be := binary.BigEndian
	head := make([]byte, clusterBytes)
	be.PutUint32(head, qcow2Magic)
	be.PutUint32(head[4:], 3)
	be.PutUint32(head[20:], clusterBits)
	be.PutUint64(head[24:], uint64(b.virtual))
	be.PutUint32(head[36:], uint32(len(b.l1)))
	be.PutUint64(head[40:], uint64(l1At))
	be.PutUint64(head[48:], uint64(refsAt))
	be.PutUint32(head[56:], uint32(refsClusters))
	be.PutUint32(head[96:], 4) // counts of 16 bits
	be.PutUint32(head[100:], headLength)
	if backing == "" {
		return head
	}
	at := headLength
	be.PutUint32(head[at:], extBackingFormat)
	be.PutUint32(head[at+4:], uint32(len(format)))
	copy(head[at+8:], format)
	at += 8 + (len(format)+7)&^7 + 8 // and the end of the extensions
	be.PutUint64(head[8:], uint64(at))
	be.PutUint32(head[16:], uint32(len(backing)))
	copy(head[at:], backing)
	return head
}
