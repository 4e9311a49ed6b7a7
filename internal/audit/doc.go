// Package audit keeps a site's audit log: who did what, or tried to, in files of its own.
//
//   - A door (the users' API, the sessions of agents and peers) begins a Deed, which goes with the context of what it does. Whoever
//     writes in that context tells the Deed what was changed. At the end the door has the Deed's entry appended.
//   - There are three books, each with a part of the log's size: users, machines (agents and peers) and strangers. What one of these
//     does can push out older entries of its own book, and of no other.
//   - A book is a few files of JSON lines. The oldest file goes when the book is full, or when all of it is too old.
//
// Invariants:
//   - an entry is in the file, by write(2), before Append returns: it survives the process. A power cut can cost the last second;
//   - an entry is bounded, and so are the log, what a question reads, and how many refusals a user, machine or stranger may have noted;
//   - an entry is never changed;
//   - what cannot be read any more (a line that was cut off) is left out, and nothing else.
package audit
