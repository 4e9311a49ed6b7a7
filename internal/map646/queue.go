package map646

import (
	"errors"
	"io/fs"
	"os"
	"sync/atomic"
	"time"

	"widecloud/internal/netio"
	"widecloud/internal/packet/siit"
)

// queue is one reader of the device, with its counters: written by it alone,
// read by whoever asks.
type queue struct {
	d    *Daemon
	rate float64

	packets, bytes [siit.NumReasons]atomic.Uint64
	icmpSent       atomic.Uint64
	icmpLimited    atomic.Uint64
	joined         atomic.Uint64
	writeErrors    atomic.Uint64
	mappings       mappingCounters

	tokens float64
	filled time.Time
	_      [64]byte // the next queue's counters are another CPU's
}

// MappingCount is what a mapping has carried: In to its machine, Out from it. A
// super-packet counts as one packet.
type MappingCount struct {
	PacketsIn  uint64 `json:"packets_in"`
	BytesIn    uint64 `json:"bytes_in"`
	PacketsOut uint64 `json:"packets_out"`
	BytesOut   uint64 `json:"bytes_out"`
}

func (c *MappingCount) add(o MappingCount) {
	c.PacketsIn += o.PacketsIn
	c.BytesIn += o.BytesIn
	c.PacketsOut += o.PacketsOut
	c.BytesOut += o.BytesOut
}

func (c *MappingCount) sub(o MappingCount) {
	c.PacketsIn -= o.PacketsIn
	c.BytesIn -= o.BytesIn
	c.PacketsOut -= o.PacketsOut
	c.BytesOut -= o.BytesOut
}

func (c MappingCount) packets() uint64 { return c.PacketsIn + c.PacketsOut }

// mappingCounters are a queue's counters by Entry.ID, in pieces that are made
// when a mapping in them first carries something.
type mappingCounters struct {
	pieces [maxMappings / pieceLen]atomic.Pointer[[pieceLen]mappingCounter]
}

type mappingCounter struct{ packetsIn, bytesIn, packetsOut, bytesOut atomic.Uint64 }

const (
	pieceLen    = 1024
	maxMappings = 1 << 24 // mappings beyond work, but are not counted
)

func (m *mappingCounters) count(id uint32, out bool, bytes int) {
	if id >= maxMappings {
		return
	}
	at := &m.pieces[id/pieceLen]
	p := at.Load()
	if p == nil {
		p = new([pieceLen]mappingCounter)
		at.Store(p)
	}
	c := &p[id%pieceLen]
	if out {
		count(&c.packetsOut, 1)
		count(&c.bytesOut, uint64(bytes))
	} else {
		count(&c.packetsIn, 1)
		count(&c.bytesIn, uint64(bytes))
	}
}

func (m *mappingCounters) read(id uint32) MappingCount {
	if id >= maxMappings {
		return MappingCount{}
	}
	p := m.pieces[id/pieceLen].Load()
	if p == nil {
		return MappingCount{}
	}
	return p[id%pieceLen].read()
}

func (c *mappingCounter) read() MappingCount {
	return MappingCount{c.packetsIn.Load(), c.bytesIn.Load(), c.packetsOut.Load(), c.bytesOut.Load()}
}

// baseCounts are what counters by Entry.ID stood at, in pieces as theirs.
type baseCounts struct {
	pieces [maxMappings / pieceLen]*[pieceLen]MappingCount
}

func (b *baseCounts) read(id uint32) MappingCount {
	if id >= maxMappings || b.pieces[id/pieceLen] == nil {
		return MappingCount{}
	}
	return b.pieces[id/pieceLen][id%pieceLen]
}

func (b *baseCounts) set(id uint32, n MappingCount) {
	if id >= maxMappings {
		return
	}
	p := &b.pieces[id/pieceLen]
	if *p == nil {
		if n == (MappingCount{}) {
			return
		}
		*p = new([pieceLen]MappingCount)
	}
	(*p)[id%pieceLen] = n
}

// count adds without a locked instruction: there is one writer.
func count(c *atomic.Uint64, n uint64) { c.Store(c.Load() + n) }

// run reads until the device is closed or parked; nil then.
func (q *queue) run(dev *netio.TUNQueue) error {
	const size = siit.Headroom + 1<<16 + 64
	buf, spare := make([]byte, size), make([]byte, size)
	reply := make([]byte, netio.VNetHeaderLen, netio.VNetHeaderLen+1280)
	// Here, for they escape.
	var p siit.Packet
	var train siit.Train // it waits for nothing: only what is there already can join
	for {
		n, h, err := dev.ReadNow(buf, siit.Headroom)
		if err != nil {
			q.depart(dev, &train)
			if err == netio.ErrEmpty {
				err = dev.Wait()
			}
			switch {
			case err == nil:
				continue
			case errors.Is(err, os.ErrClosed) || errors.Is(err, os.ErrDeadlineExceeded):
				return nil
			}
			return err
		}
		p = siit.Packet{Buf: buf, Off: siit.Headroom, Len: n, Offload: siit.Offload(h)}
		t := q.d.table.Load()
		v := t.Translate(&p)
		count(&q.packets[v.Reason], 1)
		count(&q.bytes[v.Reason], uint64(n))
		if v.Mapping != siit.NoEntry {
			q.mappings.count(v.Mapping, v.Outbound, n)
		}
		if v.Action == siit.Send && train.Join(&p) {
			count(&q.joined, 1)
			continue
		}
		q.depart(dev, &train) // nothing overtakes it
		switch v.Action {
		case siit.Send:
			if dev.USO() && train.Start(&p) {
				buf, spare = spare, buf
				break
			}
			q.wrote(1, dev.Write(buf, p.Off, p.Len, netio.VNetHeader(p.Offload)))
		case siit.SendFragments:
			for it := t.Fragments(&p); ; {
				piece, ok := it.Next()
				if !ok {
					break
				}
				// The virtio-net header goes before the piece, where the end of the
				// piece before it was.
				q.wrote(1, dev.Write(buf, piece.Off, piece.Len, netio.VNetHeader{}))
			}
		case siit.Reject:
			e := t.AppendError(reply, p.Bytes(), v.Error)
			if len(e) == len(reply) {
				break
			}
			if !q.allow() {
				count(&q.icmpLimited, 1)
				break
			}
			count(&q.icmpSent, 1)
			q.wrote(1, dev.Write(e, len(reply), len(e)-len(reply), netio.VNetHeader{}))
		}
	}
}

// depart writes the train, if there is one.
func (q *queue) depart(dev *netio.TUNQueue, train *siit.Train) {
	n := train.Len()
	if n == 0 {
		return
	}
	p := train.Packet()
	q.wrote(n, dev.Write(p.Buf, p.Off, p.Len, netio.VNetHeader(p.Offload)))
}

// wrote counts a failed write of n packets. The device refuses packets while it is down,
// and nonsensical ones; neither is a reason to stop.
func (q *queue) wrote(n int, err error) {
	if err != nil && !errors.Is(err, fs.ErrClosed) {
		count(&q.writeErrors, uint64(n))
	}
}

// allow is a token bucket of one second's worth (RFC 4443 §2.4 (f)).
func (q *queue) allow() bool {
	now := q.d.now()
	if q.filled.IsZero() {
		q.tokens = q.rate
	} else {
		q.tokens = min(q.rate, q.tokens+now.Sub(q.filled).Seconds()*q.rate)
	}
	q.filled = now
	if q.tokens < 1 {
		return false
	}
	q.tokens--
	return true
}
