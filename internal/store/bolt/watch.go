package bolt

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"widecloud/internal/store"
)

// A watcher that catches up reads so much of the log at a time, so that neither its memory nor its read transaction grows
// with the log.
const (
	pumpRevisions = 256
	pumpBytes     = 64 << 10
)

// queueBytes is how many bytes of keys and values a live watcher may be behind. They are shared with all other watchers.
const queueBytes = 16 << 20

type watcher struct {
	s      *Store
	prefix string
	c      chan []store.Change // what the reader takes from; nothing waits in it
	queue  chan []store.Change // from publish, once live; closed at the end
	done   chan struct{}       // closed at the end

	// Guarded by s.mu.
	after  int64 // the newest revision that needs no sending any more, once live
	live   bool  // fed by publish
	queued int   // bytes in queue
	ended  bool
	err    error
	stop   func() bool // lets go of the context
}

// Watch gives the changes of keys with the prefix after revision from; from < 0: after the newest revision now. A
// revision that is not kept any more, or that this store never had (it was put back from a copy), gives
// store.ErrCompacted: list and watch again. Changes are shared among watchers: do not write into their values.
func (s *Store) Watch(ctx context.Context, prefix string, from int64) (store.Watcher, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	btx, err := s.read()
	if err != nil {
		return nil, err
	}
	newest, gone := revision(btx), compacted(btx)
	btx.Rollback()
	switch {
	case from < 0:
		from = newest
	case from < gone:
		return nil, fmt.Errorf("watch from revision %d, the oldest possible is %d: %w", from, gone, store.ErrCompacted)
	case from > newest:
		return nil, fmt.Errorf("watch from revision %d, the newest is %d: %w", from, newest, store.ErrCompacted)
	}
	w := &watcher{
		s:      s,
		prefix: prefix,
		c:      make(chan []store.Change),
		queue:  make(chan []store.Change, s.buffer),
		done:   make(chan struct{}),
		after:  from,
	}
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil, store.ErrClosed
	}
	s.watchers[w] = struct{}{}
	w.live = from >= s.published
	live := w.live
	s.pumps.Go(func() {
		defer close(w.c)
		if live || w.catchUp(from) {
			w.follow()
		}
	})
	s.mu.Unlock()
	// Outside the lock: for a context that has ended by now the function runs at once, on a goroutine of its own.
	stop := context.AfterFunc(ctx, func() { w.end(nil) })
	s.mu.Lock()
	defer s.mu.Unlock()
	if w.ended {
		stop()
	} else {
		w.stop = stop
	}
	return w, nil
}

func (w *watcher) C() <-chan []store.Change { return w.c }

func (w *watcher) Err() error {
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	return w.err
}

func (w *watcher) end(err error) {
	w.s.mu.Lock()
	defer w.s.mu.Unlock()
	w.endLocked(err)
}

func (w *watcher) endLocked(err error) {
	if w.ended {
		return
	}
	w.ended, w.err = true, err
	delete(w.s.watchers, w)
	close(w.done)
	if w.stop != nil {
		w.stop()
	}
	close(w.queue)
}

// publish gives the changes of rev to the live watchers. It is called in the order of revisions: by whoever has the
// turn, after the commit.
func (s *Store) publish(rev int64, changes []store.Change) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.published = rev
	for w := range s.watchers {
		if !w.live || rev <= w.after {
			continue
		}
		mine := filter(changes, w.prefix)
		if len(mine) == 0 {
			continue
		}
		size := sizeOf(mine)
		if len(w.queue) == cap(w.queue) || w.queued > 0 && w.queued+size > queueBytes {
			s.log.Warn("watcher fell behind", "prefix", w.prefix, "revision", rev)
			w.endLocked(store.ErrSlow)
			continue
		}
		w.queued += size
		w.queue <- mine // there is room: this is the only sender
	}
}

// sizeOf is how many bytes of keys and values changes hold.
func sizeOf(changes []store.Change) (n int) {
	for _, c := range changes {
		n += len(c.Key) + len(c.Value) + len(c.Prev)
	}
	return n
}

// filter copies the slice, so that no watcher can disturb another by writing into it.
func filter(changes []store.Change, prefix string) []store.Change {
	var out []store.Change
	for _, c := range changes {
		if strings.HasPrefix(c.Key, prefix) {
			out = append(out, c)
		}
	}
	return out
}

// give hands changes to the reader, who may take his time. It returns false when the watch has ended.
func (w *watcher) give(cs []store.Change) bool {
	select {
	case w.c <- cs:
		return true
	case <-w.done:
		return false
	}
}

// follow gives what publish has queued, until the watch ends.
func (w *watcher) follow() {
	for cs := range w.queue {
		if !w.give(cs) {
			return
		}
		w.s.mu.Lock()
		w.queued -= sizeOf(cs)
		w.s.mu.Unlock()
	}
}

// catchUp gives what is in the log after a revision, and returns true when publish has taken over; false when the watch ended.
func (w *watcher) catchUp(after int64) bool {
	for {
		batch, upTo, err := w.read(after)
		if err != nil {
			w.end(err)
			return false
		}
		for _, cs := range batch {
			if !w.give(cs) {
				return false
			}
		}
		after = upTo
		w.s.mu.Lock()
		if !w.ended && after >= w.s.published {
			w.after, w.live = after, true
		}
		live, ended := w.live, w.ended
		w.s.mu.Unlock()
		if live || ended {
			return live
		}
	}
}

// read returns the changes of the next revisions after a revision, and the revision up to which they were read.
func (w *watcher) read(after int64) (batch [][]store.Change, upTo int64, err error) {
	btx, err := w.s.read()
	if err != nil {
		return nil, 0, err
	}
	defer btx.Rollback()
	if gone := compacted(btx); after < gone {
		return nil, 0, fmt.Errorf("watch reached revision %d, the oldest possible is %d: %w", after, gone, store.ErrCompacted)
	}
	var key [8]byte
	binary.BigEndian.PutUint64(key[:], uint64(after+1))
	c := btx.Bucket(bucketChanges).Cursor()
	upTo = after
	size := 0
	n := 0
	for k, v := c.Seek(key[:]); k != nil && n < pumpRevisions && size < pumpBytes; k, v = c.Next() {
		rev := int64(binary.BigEndian.Uint64(k))
		cs, err := decodeChanges(rev, v)
		if err != nil {
			return nil, 0, err
		}
		if mine := filter(cs, w.prefix); len(mine) > 0 {
			batch = append(batch, mine)
			size += len(v)
		}
		upTo = rev
		n++
	}
	return batch, upTo, nil
}

const (
	flagDeleted = 1 << iota
	flagPrev
)

// encodeChanges writes, per change: flags, key, value, previous value; strings with their length before them.
func encodeChanges(changes []store.Change) []byte {
	var b []byte
	str := func(s []byte) {
		b = binary.AppendUvarint(b, uint64(len(s)))
		b = append(b, s...)
	}
	for _, c := range changes {
		var flags byte
		if c.Deleted {
			flags |= flagDeleted
		}
		if c.Prev != nil {
			flags |= flagPrev
		}
		b = append(b, flags)
		str([]byte(c.Key))
		if !c.Deleted {
			str(c.Value)
		}
		if c.Prev != nil {
			str(c.Prev)
		}
	}
	return b
}

var errDamaged = errors.New("change log is damaged")

func decodeChanges(rev int64, b []byte) ([]store.Change, error) {
	var cs []store.Change
	str := func() ([]byte, bool) {
		n, w := binary.Uvarint(b)
		if w <= 0 || n > uint64(len(b)-w) {
			return nil, false
		}
		s := append([]byte{}, b[w:w+int(n)]...)
		b = b[w+int(n):]
		return s, true
	}
	for len(b) > 0 {
		flags := b[0]
		b = b[1:]
		c := store.Change{Revision: rev, Deleted: flags&flagDeleted != 0}
		key, ok := str()
		c.Key = string(key)
		if ok && !c.Deleted {
			c.Value, ok = str()
		}
		if ok && flags&flagPrev != 0 {
			c.Prev, ok = str()
		}
		if !ok {
			return nil, fmt.Errorf("read changes of revision %d: %w", rev, errDamaged)
		}
		cs = append(cs, c)
	}
	return cs, nil
}
