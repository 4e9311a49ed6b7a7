// Package bolt keeps a site's store in one file, by go.etcd.io/bbolt: the default driver of store.Store.
//
// The file has three buckets: meta (format, newest revision), data (key -> created, modified, value) and changes
// (revision -> the changes of that revision). All three are written by the transaction of the Update itself, so that
// what a watch gives after a restart is what was committed, no more and no less. The changes of the last
// Options.History revisions are kept; a watch that asks for older ones gets store.ErrCompacted.
//
// Updates that wait for their turn at the same time are a group: they run one after the other in one transaction of bbolt, each with a
// revision of its own, and share its two syncs. Nobody hears of an outcome before that, unless it depends on no write of the group. The
// writes of an Update that fails are undone, and the others go on. A group that the disk has no room for is made one by one, so that each
// Update is judged for itself.
//
// A watch first reads what it missed from the changes bucket, a little at a time, outside every lock, and is then fed by
// Update through a bounded queue. An Update never waits for a watcher: one whose queue is full ends with store.ErrSlow, and
// watches again from the last revision that it has seen.
//
// All of the file is allocated (fallocate) and has been written once, so that no write into it meets a full disk, and beyond the
// pages in use it is longer by Options.Reserve. An Update that finds no room left drops old changes first, down to the newest one; then an ordinary one
// gives up with store.ErrFull, and an urgent one (store.Urgent) takes pages of the reserve. Every Update and Room take back
// what the reserve lacks. An ordinary Update may go through on a full disk, as long as it finds pages that earlier ones left:
// an agent's reports do, and a removal. Room tells before new work begins. On a file system that writes each block to a new
// place (btrfs, zfs) allocated blocks are no promise; use ext4, xfs or tmpfs.
//
// A sync that fails leaves open whether the disk has what was written (the kernel reports it once and then takes the page
// for clean). If that was the sync of the meta page, the store writes that page again, at once and before every later View
// and Update; these return store.ErrUnsure until it succeeds. Then the commit has taken effect, and watchers receive it.
//
// An Update inside a View or an Update of the same store waits for itself: do not nest them.
//
// Invariants:
//   - Update returns nil only after the file was synced (unless Options.NoSync, for tests of scale only);
//   - a View begun while an Update commits waits for its sync: it never shows what a power cut could take back;
//   - bbolt never makes the file longer: what it may use has been allocated before;
//   - revisions are consecutive: 1, 2, 3, …; an Update that wrote nothing takes none;
//   - a group is on the disk as a whole or not at all, and fits into the queue of a watcher that has kept up;
//   - one process has the file at a time (flock);
//   - a change is in the queue of every live watcher before its Update returns;
//   - a watcher that nobody reads holds at most 64 KiB of history and one revision, or 16 MiB of new changes, which all
//     watchers share;
//   - no background goroutine but one for each watcher.
package bolt
