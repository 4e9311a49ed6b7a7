// Package seed makes the cloud-init seed of a VM: the data source NoCloud as an ISO 9660 image with the volume label cidata,
// which holds user-data, meta-data and network-config (version 2).
//
// The image is written here, not by a tool: three files need two hundred lines, and the same data then give the same bytes
// on every host, whatever is installed there. That is what a migration needs, which finds the seed at both ends. The library
// kdomanski/iso9660 (v0.4.0, tried) writes neither Joliet nor Rock Ridge names, and puts the time of day into the image.
//
// All that a user gives stands in a file of its own (user-data) or in a quoted scalar with every character escaped that is not plain
// ASCII, after a check of its syntax: no name or key can become YAML structure.
//
// Invariants:
//   - the bytes of an image depend on its Data only: no clock, no host, no order of a map;
//   - user-data are given to the guest byte for byte;
//   - pure: no I/O.
package seed
