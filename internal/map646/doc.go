// Package map646 is the translator's daemon: it reads the configuration (TOML,
// or the map646.conf of the first map646), opens a TUN device, leads packets to
// it, has package siit translate them, and answers on a control socket.
//
// Each queue of the device has one goroutine, which does nothing but read,
// translate and write. The table is an immutable siit.Table behind an atomic
// pointer: a reload builds a new one, brings the kernel's addresses, routes and
// rules to the sum of old and new, swaps the pointer, and then takes away what
// only the old one needed. No packet is lost or held up by it.
//
// The device is not persistent. When the daemon ends, however it ends, the
// device goes with its addresses, the routing daemon beside it withdraws their
// prefixes, and other nodes, which have the same table, take over.
//
// Invariants:
//   - A configuration that is not wholly valid changes nothing; its error names
//     the file, the line and the field.
//   - The data path waits for nothing but the device: counters belong to one
//     queue and are read from outside without a lock, reloads swap a pointer.
//   - ICMP errors of our own are limited in rate.
//   - What should have been translated never leaves untranslated: with the device
//     gone, its packets end in black holes.
//   - When Run returns, device, addresses, routes and rules are gone; what a
//     killed run left (rules, throw routes, black holes) is found by its mark and
//     taken over by the next run.
package map646
