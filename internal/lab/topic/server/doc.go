// Package server has the statements about servers of Debian's: daemons that the cloud
// works with, as their packages have them, each on a machine of its own at a site.
//
// A daemon is one file: its configuration, its processes, and a check that speaks its
// protocol.
//
// Invariants:
//   - A server is up when its protocol was spoken with it, from another machine.
//   - What a server keeps is under /srv, on a real file system: it outlives power cuts,
//     and goes with the lab.
package server
