// Package map646 is the translator's daemon: it reads the configuration (TOML,
// or the map646.conf of the first map646), opens a TUN device, leads packets to
// it, has package siit translate them, keeps a copy of the table in the kernel's
// fast path (netio.Fast), and answers on a control socket.
//
// Each queue of the device has one goroutine, which does nothing but read,
// translate and write. Mappings are in a siit.Table that changes under it; a
// reload changes them by difference, brings the kernel's addresses, routes and
// rules to the sum of old and new, goes over to new settings by swapping a pointer,
// and then takes away what only the old ones needed. No packet is lost or held up
// by it.
//
// The device is not persistent. When the daemon ends, however it ends, the
// device goes with its addresses, the routing daemon beside it withdraws their
// prefixes, and other nodes, which have the same table, take over. A node that
// drains or is not healthy takes its prefixes off the device itself. An upgrade
// keeps the device: its descriptors go from program to program.
//
// Files: daemon.go is the life of a Daemon, queue.go the data path, change.go the
// table, fast.go the kernel's copy, drain.go routing and health, upgrade.go
// the change of programs, control.go the socket, stats.go and metrics.go counters,
// trace.go and describe.go single packets, doctor.go the machine, config.go, toml.go
// and seedconf.go the configuration.
//
// Invariants:
//   - A configuration or change that is not wholly valid changes nothing; its error
//     names the file, the line and the field, or the change.
//   - The data path waits for nothing but the device: counters belong to one
//     queue and are read from outside without a lock, reloads swap a pointer.
//   - A mapping that the fast path does not have is the full path's. Whatever goes
//     wrong with the fast path, it is detached: rather slow than wrong.
//   - Changes of table, kernel and configuration are made one after the other
//     (Daemon.changing).
//   - Only one program reads a queue at a time, also in an upgrade.
//   - ICMP errors of our own are limited in rate.
//   - What should have been translated never leaves untranslated: with the device
//     gone, its packets end in black holes.
//   - When Run returns, device, addresses, routes, rules and the fast path (unless it
//     is to be kept) are gone; what a killed run left (rules, routes, black holes,
//     pins) is found by its mark and taken over by the next run.
package map646
