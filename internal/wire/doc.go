// Package wire is the protocol between agents and their controller, and between the controllers of sites: identities,
// sessions, calls, bulk streams, and signed documents.
//
// A site has a certificate authority of its own (Authority). A certificate carries an Identity as its only URI name:
// widecloud://SITE/controller or widecloud://SITE/agent/HOST. Whom a process believes is its Trust, which may change
// while it runs.
//
// One TCP port takes everything (Listen). Inside TLS 1.3 with both ends' certificates a Session carries many streams, and on
// these HTTP/1.1 in both directions, whoever dialled: a member behind a firewall is a full member. Call and
// Handle are JSON calls; OpenStream and HandleStream are bulk streams with back-pressure, half-close, and resets
// that carry a reason. A pair of sites keeps two sessions, Control and Bulk (Dialer), so that bulk never delays
// control. Only two requests are answered without a certificate: Join (an agent with a one-time token) and
// JoinPeer (a site with one).
//
// Memory is the network's twin for tests; everything here runs on it inside a testing/synctest bubble.
//
// Invariants:
//   - A peer's authority vouches for that peer's controller and for nothing else; our own vouches for our own site.
//   - A joiner tells its secret only to a holder of the authority that its token names.
//   - Errors cross as api.Error. An error with ErrNoAnswer in its chain leaves open whether the work was done; one
//     without it is the other end's answer. No call is ever sent twice by this package.
//   - A peer that stays silent for Options.DeadAfter is closed; all its calls and streams fail then.
//   - No peer makes us hold more than Options.Window octets per stream, and no stranger more than one request.
//   - What others make a port hold is bounded: connections before their handshake in all and per source (strangers take no
//     place from those with a good certificate), sessions per identity, and per session streams, requests being handled,
//     octets that nobody reads, and the memory of messages. What is beyond is refused with a reason.
//   - Nothing that another end begins may last for ever without it: a handshake, a request's headers and its body, an answer
//     and the rest of a closed stream each have a time for the whole. A peer that takes nothing for Options.DeadAfter is
//     closed as one that says nothing. Only accepted streams may be slow; images (OpenImage, SendImage) may not stand still.
//   - Disconnect and RemovePeer end every session that the identity has or is about to have.
//   - A panic is logged here, and the other end is told of an internal error. Texts that nobody chose for another site go
//     there without URLs, paths and addresses.
//   - Lines that others cause in Options.Log are few per source and minute; how many were left out is logged.
//   - Locks that are held while a connection is written to are channels or none, so that a bubble's clock goes on.
//   - No field is sent to a peer whose level is lower than the field's. An unknown field is ignored if its sender is of a
//     higher level, and refused otherwise.
//   - Whether a certificate, a document or a challenge is in time is told by our own clock alone.
package wire
