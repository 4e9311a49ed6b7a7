// Package machine builds whole sites on one machine out of real parts: virtual
// hosts with their own libvirtd and QEMU, routers that speak OSPF, wide-area
// links with rate and delay, guests that boot from a disk, and the faults that
// happen to all of them.
//
// A [Lab] owns everything that is made in it. A [Node] is a machine: a network
// namespace plus mount, UTS, IPC and PID namespaces whose root is an overlay
// over this machine's root directory, so that every program of this machine is
// there and everything the node writes is its own. A [Host] is a node with
// libvirtd, a [Router] a node with FRR. Cables ([Lab.Link]) and wide-area links
// ([Lab.WAN]) join nodes. What scripts make of these is not known here: package
// script understands them, stage plays them, topic/… has what they can say, and
// play runs them.
//
// A node's first process is this program itself, started again under another
// name (see child.go); a program that imports this package needs no preparation
// for that.
//
// Invariants:
//   - Whatever way a lab ends (Close, panic, kill -9 of the program), its
//     processes end with it: every node's first process holds a pipe from the
//     program and the kernel ends all of a node's processes with the first one.
//   - What can outlive a killed program is named namespaces and one state
//     directory; [Sweep] removes them, and Open does so for its own name.
//   - Nothing of a lab is mounted, and no device made, in the machine's own
//     namespaces, but the names in /run/netns. eBPF programs and maps are pinned
//     in a node's own bpffs.
//   - A node's disk (its overlay) survives PowerOff; its processes, its memory
//     file systems, its addresses, bridges, tunnels and routes do not. Its cables
//     stay plugged in.
//   - A wide-area link keeps the order of what is of one class, never buffers more
//     than its queues and what is in flight, and counts every byte that it accepts.
//     What neighbours need to know each other goes before all else.
//   - A node with a system of its own ([NodeOptions.System]) has that booted by
//     systemd-nspawn in the node's namespaces, so it ends as all of the node does; its
//     control groups, which are the machine's, are removed by Close and by Sweep.
//   - A node's TCP does not depend on this machine's settings.
package machine
