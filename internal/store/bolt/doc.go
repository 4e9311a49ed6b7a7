// Package bolt keeps a site's store in one file, by go.etcd.io/bbolt: the default driver of store.Store.
//
// The file has three buckets: meta (format, newest revision), data (key -> created, modified, value) and changes
// (revision -> the changes of that revision). All three are written by the transaction of the Update itself, so that
// what a watch gives after a restart is what was committed, no more and no less. The changes of the last
// Options.History revisions are kept; a watch that asks for older ones gets store.ErrCompacted.
//
// A watch first reads what it missed from the changes bucket, a little at a time, outside every lock, and is then fed by
// Update through a bounded queue. An Update never waits for a watcher: one whose queue is full ends with store.ErrSlow, and
// watches again from the last revision that it has seen.
//
// An Update inside a View or an Update of the same store waits for itself: do not nest them.
//
// Invariants:
//   - Update returns nil only after the file was synced (unless Options.NoSync, for tests of scale only);
//   - revisions are consecutive: 1, 2, 3, …; an Update that wrote nothing takes none;
//   - one process has the file at a time (flock);
//   - a change is in the queue of every live watcher before its Update returns;
//   - a watcher that nobody reads holds at most 64 KiB of history and one revision, or 16 MiB of new changes, which all
//     watchers share;
//   - no background goroutine but one for each watcher.
package bolt
