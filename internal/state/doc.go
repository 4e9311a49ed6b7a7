// Package state holds a site's objects in memory: decoded once, immutable and indexed, beside the store that keeps them. It is a
// store.Store over a store.Store, so that whoever needs only keys and values uses it as one; its transactions are *Tx, which find
// objects by name and by index without decoding anything.
//
// A Schema says which keys hold which type, and by what they are found: Tables, each with its Indexes. Keys of no table are kept
// as bytes.
//
// A transaction runs on a snapshot, without a lock, and remembers what it has read: keys, prefixes and index values, as the watch
// channels of the radix trees (hashicorp/go-memdb). When something that it read has changed before its writes are committed, its
// function runs again. So two transactions that touch different objects do not disturb each other.
//
// Transactions that wait for a commit are a group: in their order each is held against those before it and put into the memory, then
// all are given to the store, which syncs once for them. Reads see them after that. What the store refuses is taken out of the memory.
//
// Invariants:
//   - what is read is what the store has synced, at one revision; a snapshot never changes;
//   - an object that was read is shared and must not be changed: Edit gives a copy. Verify finds one that was;
//   - revisions are the order in which the transactions could have run one after the other;
//   - what is found by an index is what a scan of all objects would find;
//   - a watch shows a change only after reads see it;
//   - after a commit whose outcome is not known, nothing is answered from memory until the store was read again.
package state
