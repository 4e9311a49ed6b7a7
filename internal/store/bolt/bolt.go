package bolt

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"widecloud/internal/store"
)

// DefaultReserve is the reserve of a site's or an agent's store, in bytes.
const DefaultReserve = 16 << 20

const (
	defaultHistory = 10000
	defaultBuffer  = 1024
	// A controller that was killed and started again at once may find the kernel still at work on the old one's lock.
	lockWait = time.Second
	format   = "1"
)

var (
	bucketMeta    = []byte("meta")
	bucketData    = []byte("data")
	bucketChanges = []byte("changes")
	keyFormat     = []byte("format")
	keyRevision   = []byte("revision")

	errTxEnded  = errors.New("transaction has ended")
	errReadOnly = errors.New("write in a View")
)

// Options says where the store is and how much it remembers.
type Options struct {
	Path    string       // of the file; made (mode 0600) when it is not there; its directory must exist
	Logger  *slog.Logger // nil: nothing is logged
	History int          // revisions that watches can catch up on; 0: 10000
	Buffer  int          // revisions that a live watcher may be behind (and 16 MiB) before it ends with store.ErrSlow; 0: 1024
	// Reserve is how many bytes of the disk are kept for urgent Updates (store.Urgent), allocated in the file; 0: none.
	// DefaultReserve is enough for hundreds of journal rows.
	Reserve int64
	// NoSync leaves out the sync before an answer. It breaks law 3 on power loss (not on kill -9): only for tests that run
	// a hundred stores at once.
	NoSync bool
}

// Store is a store.Store in a file.
type Store struct {
	db      *bbolt.DB
	file    *os.File // bbolt's
	path    string
	log     *slog.Logger
	history int64
	buffer  int
	reserve int64

	queue *store.Queue[[]*update] // whoever has its turn has the right to write
	group int                     // Updates that are committed together at most
	pumps sync.WaitGroup

	// The bytes of the file, from its beginning, that are blocks of the disk; only with the turn.
	allocated int64

	synced sync.RWMutex // held by a commit, so that readers begin before it or after its sync
	unsure *unsure      // a commit whose outcome is not known; guarded by synced

	mu        sync.Mutex
	closed    bool
	published int64 // newest revision given to the live watchers; at most the newest committed one
	watchers  map[*watcher]struct{}
}

var _ store.Store = (*Store)(nil)

// Open opens or makes the store at o.Path. Errors begin with "store.path:". Close it after use.
func Open(o Options) (*Store, error) {
	if o.Path == "" {
		return nil, errors.New("store.path: is empty")
	}
	if o.History < 0 || o.Buffer < 0 {
		return nil, errors.New("store.history: is negative")
	}
	if o.Reserve < 0 {
		return nil, fmt.Errorf("store.reserve: %d is negative", o.Reserve)
	}
	s := &Store{
		path:     o.Path,
		log:      o.Logger,
		history:  int64(o.History),
		buffer:   o.Buffer,
		reserve:  o.Reserve,
		queue:    store.NewQueue[[]*update](maxGroup),
		watchers: map[*watcher]struct{}{},
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.history == 0 {
		s.history = defaultHistory
	}
	if s.buffer == 0 {
		s.buffer = defaultBuffer
	}
	s.group = min(maxGroup, s.buffer)
	_, statErr := os.Stat(o.Path)
	db, err := bbolt.Open(o.Path, 0o600, &bbolt.Options{
		Timeout:      lockWait,
		FreelistType: bbolt.FreelistMapType,
		NoSync:       o.NoSync,
		OpenFile:     s.openFile,
		// Address space only. A writer that has to enlarge the mapping waits for all readers; this way it seldom has to.
		InitialMmapSize: 128 << 20,
	})
	switch {
	case errors.Is(err, berrors.ErrTimeout):
		return nil, fmt.Errorf("store.path: %s is in use by another process", o.Path)
	case errors.Is(err, berrors.ErrInvalid), errors.Is(err, berrors.ErrVersionMismatch), errors.Is(err, berrors.ErrChecksum):
		return nil, fmt.Errorf("store.path: %s is not a store: %w", o.Path, err)
	case noSpace(err):
		return nil, fmt.Errorf("store.path: %s: %w: %w", o.Path, store.ErrFull, err)
	case err != nil:
		return nil, fmt.Errorf("store.path: %w", err)
	}
	s.db = db
	db.AllocSize = 0 // bbolt must not grow the file itself: what it adds is a hole, and a write into it can fail
	if err := s.init(); err != nil {
		db.Close()
		return nil, fmt.Errorf("store.path: %s: %w", o.Path, err)
	}
	if errors.Is(statErr, os.ErrNotExist) && !o.NoSync {
		// The sync of a file does not cover its name in the directory.
		if err := syncDir(filepath.Dir(o.Path)); err != nil {
			db.Close()
			return nil, fmt.Errorf("store.path: sync directory: %w", err)
		}
	}
	return s, nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// init makes the file what Update needs: allocated, with all buckets, and with no more history than is wanted. On a full disk it
// opens an existing store all the same, and may use its reserve.
func (s *Store) init() error {
	used, err := s.used() // bbolt has written all of that
	if err != nil {
		return err
	}
	if s.allocated, err = s.allocatedFrom(used); err != nil {
		return err
	}
	switch err := s.grow(minGrowth); {
	case errors.Is(err, store.ErrFull):
		s.log.Warn("open store", "err", err)
	case err != nil:
		return err
	}
	btx, err := s.begin(true)
	if err != nil {
		return err
	}
	defer btx.Rollback()
	s.setLimit(s.allocated)
	changed, err := s.prepare(btx)
	if err != nil || !changed {
		return err
	}
	err = s.commit(btx, func() {})
	if errors.Is(err, berrors.ErrMaxSizeReached) {
		return s.errFull(s.allocated + minGrowth)
	}
	return err
}

func (s *Store) prepare(btx *bbolt.Tx) (changed bool, err error) {
	for _, name := range [][]byte{bucketMeta, bucketData, bucketChanges} {
		if btx.Bucket(name) == nil {
			if _, err := btx.CreateBucket(name); err != nil {
				return false, err
			}
			changed = true
		}
	}
	meta := btx.Bucket(bucketMeta)
	switch f := meta.Get(keyFormat); {
	case f == nil:
		if err := meta.Put(keyFormat, []byte(format)); err != nil {
			return false, err
		}
		changed = true
	case string(f) != format:
		return false, fmt.Errorf("has format %q, this program knows %q", f, format)
	}
	s.published = revision(btx)
	if upTo := s.published - s.history; compacted(btx) < upTo { // History was lowered
		return true, compact(btx.Bucket(bucketChanges), upTo)
	}
	return changed, nil
}

func revision(tx *bbolt.Tx) int64 {
	v := tx.Bucket(bucketMeta).Get(keyRevision)
	if v == nil {
		return 0
	}
	return int64(binary.BigEndian.Uint64(v))
}

// compacted is the newest revision whose changes are no longer kept; 0 when all are.
func compacted(tx *bbolt.Tx) int64 {
	k, _ := tx.Bucket(bucketChanges).Cursor().First()
	if k == nil {
		return revision(tx)
	}
	return int64(binary.BigEndian.Uint64(k)) - 1
}

func compact(changes *bbolt.Bucket, upTo int64) error {
	c := changes.Cursor()
	for k, _ := c.First(); k != nil && int64(binary.BigEndian.Uint64(k)) <= upTo; k, _ = c.First() {
		if err := c.Delete(); err != nil {
			return err
		}
	}
	return nil
}

// View runs f on the newest committed state.
func (s *Store) View(ctx context.Context, f func(store.Tx) error) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	btx, err := s.read()
	if err != nil {
		return err
	}
	defer btx.Rollback()
	t := &tx{data: btx.Bucket(bucketData), revision: revision(btx)}
	defer t.end()
	return f(t)
}

// begin begins a transaction, with the seam's error for a closed store.
func (s *Store) begin(writable bool) (*bbolt.Tx, error) {
	btx, err := s.db.Begin(writable)
	if errors.Is(err, berrors.ErrDatabaseNotOpen) {
		return nil, store.ErrClosed
	}
	if err != nil {
		return nil, fmt.Errorf("begin transaction: %w", err)
	}
	return btx, nil
}

// Close ends all watches with store.ErrClosed, waits for running transactions and closes the file.
func (s *Store) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	for w := range s.watchers {
		w.endLocked(store.ErrClosed)
	}
	s.mu.Unlock()
	s.pumps.Wait()
	if err := s.queue.Lock(context.Background()); err != nil {
		return err
	}
	defer s.queue.Unlock()
	if err := s.db.Close(); err != nil {
		return fmt.Errorf("close store: %w", err)
	}
	return nil
}

// tx is a store.Tx over a bbolt transaction.
type tx struct {
	data     *bbolt.Bucket
	revision int64
	writable bool
	ended    bool
	writes   []write        // in the order of first touch
	touched  map[string]int // key -> index in writes
}

// write is what an Update did to one key in the end.
type write struct {
	change  store.Change
	existed bool     // before the Update
	was     store.KV // if it existed
}

func (t *tx) end()            { t.ended = true }
func (t *tx) Revision() int64 { return t.revision }

func (t *tx) Get(key string) (store.KV, error) {
	if t.ended {
		return store.KV{}, errTxEnded
	}
	v := t.data.Get([]byte(key))
	if v == nil {
		return store.KV{}, fmt.Errorf("%s: %w", key, store.ErrNotFound)
	}
	return decodeKV([]byte(key), v)
}

func (t *tx) List(prefix string) ([]store.KV, error) {
	if t.ended {
		return nil, errTxEnded
	}
	var kvs []store.KV
	p := []byte(prefix)
	c := t.data.Cursor()
	for k, v := c.Seek(p); k != nil && bytes.HasPrefix(k, p); k, v = c.Next() {
		kv, err := decodeKV(k, v)
		if err != nil {
			return nil, err
		}
		kvs = append(kvs, kv)
	}
	return kvs, nil
}

func (t *tx) Put(key string, value []byte) error {
	prev, existed, err := t.check(key)
	if err != nil {
		return err
	}
	rev := t.revision + 1
	created := rev
	if existed {
		created = prev.Created
	}
	if err := t.data.Put([]byte(key), encodeValue(created, rev, value)); err != nil {
		return fmt.Errorf("put %s: %w", key, err)
	}
	c := t.touch(key, prev, existed)
	c.Deleted, c.Value = false, bytes.Clone(value)
	if c.Value == nil {
		c.Value = []byte{}
	}
	return nil
}

func (t *tx) Delete(key string) error {
	prev, existed, err := t.check(key)
	if err != nil {
		return err
	}
	if !existed {
		return fmt.Errorf("%s: %w", key, store.ErrNotFound)
	}
	if err := t.data.Delete([]byte(key)); err != nil {
		return fmt.Errorf("delete %s: %w", key, err)
	}
	c := t.touch(key, prev, true)
	c.Deleted, c.Value = true, nil
	return nil
}

// check tells whether key may be written, and what is there now.
func (t *tx) check(key string) (prev store.KV, existed bool, err error) {
	switch {
	case t.ended:
		return store.KV{}, false, errTxEnded
	case !t.writable:
		return store.KV{}, false, errReadOnly
	case key == "":
		return store.KV{}, false, errors.New("key is empty")
	case len(key) > bbolt.MaxKeySize:
		return store.KV{}, false, fmt.Errorf("key has %d bytes, the limit is %d", len(key), bbolt.MaxKeySize)
	}
	prev, err = t.Get(key)
	if errors.Is(err, store.ErrNotFound) {
		return store.KV{}, false, nil
	}
	return prev, err == nil, err
}

func (t *tx) touch(key string, prev store.KV, existed bool) *store.Change {
	i, ok := t.touched[key]
	if !ok {
		i = len(t.writes)
		t.touched[key] = i
		t.writes = append(t.writes, write{
			change:  store.Change{Revision: t.revision + 1, Key: key, Prev: prev.Value},
			existed: existed,
			was:     prev,
		})
	}
	return &t.writes[i].change
}

// undo puts back what was there before the Update.
func (t *tx) undo() error {
	for _, w := range t.writes {
		key := []byte(w.change.Key)
		var err error
		if w.existed {
			err = t.data.Put(key, encodeValue(w.was.Created, w.was.Modified, w.was.Value))
		} else {
			err = t.data.Delete(key)
		}
		if err != nil {
			return fmt.Errorf("undo the write of %s: %w", key, err)
		}
	}
	return nil
}

// net is what the Update changed: a key that was made and deleted again is not in it.
func (t *tx) net() []store.Change {
	var cs []store.Change
	for _, w := range t.writes {
		if w.change.Deleted && !w.existed {
			continue
		}
		cs = append(cs, w.change)
	}
	return cs
}

func encodeValue(created, modified int64, value []byte) []byte {
	b := make([]byte, 16, 16+len(value))
	binary.BigEndian.PutUint64(b, uint64(created))
	binary.BigEndian.PutUint64(b[8:], uint64(modified))
	return append(b, value...)
}

// decodeKV copies: what bbolt hands out is the mapped file, gone after the transaction.
func decodeKV(k, v []byte) (store.KV, error) {
	if len(v) < 16 {
		return store.KV{}, fmt.Errorf("read %s: value has %d bytes, at least 16 are needed: the store is damaged", k, len(v))
	}
	return store.KV{
		Key:      string(k),
		Created:  int64(binary.BigEndian.Uint64(v)),
		Modified: int64(binary.BigEndian.Uint64(v[8:])),
		Value:    append([]byte{}, v[16:]...),
	}, nil
}
