// Package agent makes a host's desired state true, again and again, by drivers: the hypervisor, the networks, the
// volumes, the translator. It talks to its own site's controller only, and goes on without it: the last orders are kept
// on disk, and neither the agent's restart nor the controller's loss disturbs a VM.
//
// What a VM may do here is decided by its record: the newest order with its epoch, and the migration, if any, that it is
// part of. The record is on stable storage before anything that follows from it happens.
//
// Invariants:
//   - an order with an epoch lower than the highest seen of its VM changes nothing (law 2);
//   - while a record names a migration, nothing but that migration's coordinator starts, resumes or removes the VM's copy;
//   - a copy that was handed over is never started again at an epoch that is not higher than the handed-over one;
//   - a guest runs at most once out of its saved memory, never with disks that were written to since, and is not booted instead
//     when that cannot be (memory.go);
//   - orders come into force as a whole and in their order: the newest revision wins, also of two at once;
//   - an order that is bad is left out and reported, and so is what covers the controller, this host's own addresses, pref64 or
//     the anycast VTEP, whoever orders it: it harms its own VM, network or address alone;
//   - what the orders do not name is reported, and left alone; unused base images go.
package agent
