// Package image makes what labs boot: images of guests ([Tiny], [Debian]) and the system of
// a host ([System]).
//
// Each takes long to make and is always the same, so it is an artefact of the user's cache
// ([Cached]), under a key that is a hash of all that it is made of.
//
// Invariants:
//   - An artefact appears whole or not at all, and is made by one program at a time.
//   - Nobody writes to an artefact: nodes and hosts have overlays over it.
package image
