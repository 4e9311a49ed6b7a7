// Package siit translates single IP packets, without any state: IPv4 <-> IPv6
// after RFC 7915 with explicit address mappings (RFC 7757) and an RFC 6052
// prefix, and IPv6 <-> IPv6 one to one (a service address outside, a machine's
// own address inside).
//
// A Table is settings, which never change, and mappings, which Table.Update adds,
// replaces and removes while others translate; Table.Rebase puts other settings
// over the same mappings. Table.Translate rewrites a Packet where it lies: headers
// grow into the headroom before it, the payload is not moved, so a 64 KB
// super-packet with a virtio-net header costs as much as a small one. The verdict
// names what happened (Reason, which is also the index of a statistics counter),
// whose packet it was (Entry.ID, likewise) and, for Reject, the ICMP error that
// the caller has to send; Table.AppendError makes it. Table.Explain tells the same
// in words.
//
// Addresses. IPv4 to IPv6: the destination is looked up in the mappings, the
// source always goes into the prefix. A packet between two mapped machines is
// therefore hairpinned symmetrically (RFC 7757 §4.2.1): each sees the other
// under the prefix. IPv6 to IPv4: the source is looked up in the mappings, the
// destination comes out of the prefix. In packets inside ICMP errors, which
// travel the other way, the parts are exchanged. The longest match counts, on
// either side by itself; a mapping of prefixes puts what follows the one behind the
// other.
//
// What neither end of which is mapped is refused, but for ICMPv6: an error that
// quotes a packet to an inside address is translated with what it quotes, because a
// router behind the translator made it, and the rest passes untouched.
//
// The store of the mappings. Each is an immutable record, in force under its ID by
// one pointer; two hashes for each prefix length in use, of outside and inside
// prefixes, only say which IDs to look at. So one store of a pointer adds, replaces
// or removes a mapping, for both directions at once. Hashes are in shards of some
// hundred slots, the unit of growth. About 80 bytes a mapping.
//
// Left out: checksums of fragmented ICMP, which no single fragment tells; mappings
// of IPv6 prefixes of unequal length. docs/map646.md has the table of RFC sections.
//
// Invariants:
//   - A Table is safe for concurrent use. Readers take no lock and never wait for a
//     writer; Update and Rebase exclude each other.
//   - A packet is translated by a mapping as it was before or as it is after an
//     Update, and IDs in force are unique.
//   - No IPv6 address is outside and inside at once, nor mapped and under the
//     prefix.
//   - Translate does no I/O, takes no lock, reads no clock, allocates nothing.
//   - Translate gives the same output for the same packet, the same settings and
//     mappings, on every node: even the IPv4 Identification is a function of the
//     packet, and a router's IPv4 address one of its IPv6 address. (IDs may differ.)
//   - A Packet is changed only if the verdict is Send or SendFragments. (One
//     exception: an ICMP error with a checksum left to the device, which no kernel
//     makes, has it filled in before it is checked.)
//   - A wrong transport checksum stays wrong: checksums are adjusted
//     (RFC 1624), not made anew. Exceptions, verified before: ICMP errors, which
//     are dropped if wrong; and what has no checksum to keep: UDP without one, and
//     super-packets that are cut here.
//   - No input makes Translate panic or write outside Packet.Buf, nor use more than
//     56 bytes of the headroom.
package siit
