// Package fake is a hypervisor in memory, for tests of scale and of fault schedules. A Host is a machine with its
// daemon and its guests; it outlives the agents that connect to it, as libvirtd and QEMU outlive theirs. A migration
// really sends bytes through the connections that the caller dials, with a checksum over them, so that a relay that
// loses, mixes up or repeats bytes is noticed. A World counts over all hosts what runs where.
//
// Everything blocks on channels, mutexes, timers and the caller's connections only, so a test may run inside
// testing/synctest, where time is virtual.
//
// A guest is a counter: it grows while the guest runs, and each growth is written to the guest's disks at once. It moves
// along with a migration, so that a test can tell the newest copy from a stale one.
//
// Invariants:
//   - what a host does when an agent, its daemon or its power is lost is what libvirt and QEMU do (package hyper/libvirt
//     says how that was found); where the two differ, the conformance suite is extended until they do not;
//   - a Host never runs a guest unless a Driver's call ordered it;
//   - every run of a guest is reported to the World before the call that caused it returns.
package fake
