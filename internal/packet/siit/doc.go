// Package siit translates single IP packets, without any state: IPv4 <-> IPv6
// after RFC 7915 with explicit address mappings (RFC 7757) and an RFC 6052
// prefix, and IPv6 <-> IPv6 one to one (a service address outside, a machine's
// own address inside).
//
// A Table is built once from a Spec and never changes; whoever reloads a
// configuration builds a new one and swaps a pointer. Table.Translate rewrites
// a Packet where it lies: headers grow into the headroom before it, the payload
// is not moved, so a 64 KB super-packet with a virtio-net header costs as much
// as a small one. The verdict names what happened (Reason, which is also the
// index of a statistics counter) and, for Reject, the ICMP error that the
// caller has to send; Table.AppendError makes it.
//
// Addresses. IPv4 to IPv6: the destination is looked up in the mappings, the
// source always goes into the prefix. A packet between two mapped machines is
// therefore hairpinned symmetrically (RFC 7757 §4.2.1): each sees the other
// under the prefix. IPv6 to IPv4: the source is looked up in the mappings, the
// destination comes out of the prefix. In packets inside ICMP errors, which
// travel the other way, the parts are exchanged.
//
// Left out, for the complete translator: mappings of prefixes (the types are
// there, NewTable refuses lengths other than /32 and /128), ICMP extensions
// (RFC 4884: cut off, the rest translated), splitting of GSO packets that come
// without DF, DCCP and UDP-Lite checksums. docs/map646.md has the table of RFC
// sections.
//
// Invariants:
//   - A Table is immutable and safe for concurrent use.
//   - Translate does no I/O, takes no lock, reads no clock, allocates nothing.
//   - Translate gives the same output for the same packet and the same Spec, on
//     every node: even the IPv4 Identification is a function of the packet.
//   - A Packet is changed only if the verdict is Send or SendFragments. (One
//     exception: an ICMP error with a checksum left to the device, which no kernel
//     makes, has it filled in before it is checked.)
//   - A wrong transport checksum stays wrong: checksums are adjusted
//     (RFC 1624), not made anew. Exceptions, verified before: ICMP errors, which
//     are dropped if wrong, and UDP without a checksum, which has none to keep.
//   - No input makes Translate panic or write outside Packet.Buf.
package siit
