// Package cast carries stills from a sender to any number of receivers: by UDP, to one address or to a multicast group,
// or over TCP or TLS. Nothing is asked for again, so one sender can feed any number of receivers over lines of any delay.
//
// A still is cut into data shards, and parity shards are computed of them (Reed-Solomon over GF(2^8)): whichever shards
// get lost, as many as there are data shards give the still. How many parity shards there are follows from the loss that
// the sender is told to expect. Each shard is a datagram of its own, which names all that a receiver needs to know of the
// still.
//
// # Datagrams
//
// All numbers are big-endian. A header of 32 bytes, which is authenticated, is followed by what ChaCha20-Poly1305
// (RFC 8439) makes of the content, with a tag of 16 bytes:
//
//	 0  2  "WS"
//	 2  1  version: 1
//	 3  1  kind: 1 shard of a still, 2 report of a receiver
//	 4  4  which key: the first bytes of HKDF(secret, "id")
//	 8 16  session: when it began, in microseconds since 1970 (8), and a random number (8)
//	24  8  sequence number within the session, from 1; with four zero bytes before it the cipher's nonce
//
// The key of a session and a kind is HKDF-SHA256(secret, salt: the session, info: the kind) (RFC 5869), so that a nonce is
// used once, whatever restarts. The content of a shard:
//
//	 0  8  the still's number        24  2  width, pixels       30  2  index of this shard
//	 8  8  taken, us since 1970      26  2  height, pixels      32  1  parity shards in each block
//	16  4  ordinal in its stream     28  2  data shards         33  1  size
//	20  4  length of the JPEG                                   34  1  length of the channel's name, and the name
//	then the shard's bytes, as many for each shard of a still
//
// More than 128 data shards form several blocks, each with parity of its own; the shard with index i is of block i modulo
// the number of blocks, so that a burst of losses is spread over all blocks. Over TCP and TLS each datagram has its length
// (2 bytes) before it, and parity shards are left out.
//
// A receiver answers with reports, from time to time, to where the last shard was from: what it has counted, in a session
// of its own. They inform people and metrics; what is sent does not depend on them.
//
// # Keys, sessions and replays
//
// A key belongs to one sender. Its receivers hold the same key: who holds it can send stills. A new session (a restart of
// the sender) replaces an older one of the same key, and an older one never comes back. Within a session a window
// (RFC 4303 §3.4.3) lets each sequence number pass once. A receiver that has just started knows no session: what limits a
// replay then is the still's time, which may differ from the receiver's clock by MaxAge at most.
//
// Invariants:
//   - a still is delivered whole, as it was sent, or not at all; it has passed still.Still.Check;
//   - the stills of a channel and size are delivered in the order of their numbers, each once;
//   - nothing is stored, and no counter but those of refused datagrams changes, before a datagram's authentication;
//   - a receiver's memory is bounded by its options, whatever arrives;
//   - every datagram that arrives is counted under exactly one outcome;
//   - a destination that is slow or gone delays no other, and Send never waits for the network.
package cast
