// Package dns64 answers AAAA questions about names that have only IPv4
// addresses (RFC 6147), with addresses under the translator's own prefix: so
// IPv6-only machines reach the IPv4 Internet through it.
//
// A Server forwards to recursive resolvers, which do the resolving, the
// validating and the caching. It has no cache of its own: a synthesised answer
// is two questions to a resolver beside it, and a second cache would be one more
// place where an old answer, or an old prefix, lives on.
//
// Of one question becomes:
//
//	AAAA              the same; if that brings no usable AAAA, A, made into AAAA
//	AAAA with DO, CD  the same, nothing else: who validates also synthesises
//	PTR in the prefix PTR of the IPv4 address, with a CNAME to it
//	ipv4only.arpa     answered here (RFC 7050, RFC 8880): it tells the prefix
//	all else          the same
//
// docs/dns64.md has the table of RFC sections, each with its test.
//
// Invariants:
//   - A name that has a usable AAAA is never given a synthesised one, nor one
//     whose AAAA answer failed validation (RFC 6147 §5.5, 2).
//   - Nothing is synthesised for who set DO and CD (RFC 6147 §5.5, 3).
//   - Each synthesised address translates back into the A record's address, which
//     is one that the translator forwards: under 64:ff9b::/96, only global ones.
//   - Nobody outside AllowFrom is answered anything but REFUSED, and AllowFrom is
//     never the whole Internet.
//   - No question is asked of upstream twice on its way round: a loop through
//     Servers ends where it closes.
//   - No more than MaxInFlight questions wait for an answer; no answer is waited
//     for longer than four Timeouts; when Run returns, no goroutine and no socket
//     is left.
//   - An answer from upstream counts only if it comes from the address that was
//     asked to the random port that asked, with the random identifier and the
//     question that were sent.
package dns64
