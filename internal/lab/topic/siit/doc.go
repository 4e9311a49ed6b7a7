// Package siit has the statements about a data centre behind translators (SIIT-DC,
// RFC 7755), and servers in the Internet.
//
// Invariants:
//   - All translators have the same table, and it is in their files, too.
//   - A translator is announced only while it has its own ways to both sides.
package siit
