// Package bpf carries the translator's eBPF programs, compiled. Their sources
// are beside it; scripts/bpf compiles them (Debian 12's clang 14 is the
// reference) and scripts/check compares. internal/netio loads them and fills
// their maps, so table.h and netio change together.
//
// Invariants:
//   - The objects are what scripts/bpf makes of the sources, byte for byte, on
//     any machine.
//   - No path of the machine that compiled them is in them.
package bpf

import _ "embed"

//go:generate ../scripts/bpf

// SIIT is the object of siit.c: the tc program "translate", and its maps.
//
//go:embed siit.o
var SIIT []byte

// Steer is the object of steer.c: the socket filter "steer".
//
//go:embed steer.o
var Steer []byte

// Backlog is the object of backlog.c: the socket filter "limit", and its map.
//
//go:embed backlog.o
var Backlog []byte
