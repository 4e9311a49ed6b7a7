// Package lisp reads and writes the messages of LISP, the Locator/ID Separation Protocol: the control messages of
// RFC 9301, with the addresses of RFC 8060 (LCAF) and publish/subscribe (RFC 9437), and the header of data packets of
// RFC 9300.
//
// Decode makes a Message of a UDP payload, and Append makes the payload of a Message. What Append writes, Decode reads
// back as the same. A Message shares no bytes with what it was read from.
//
// A Map-Register, Map-Notify and Map-Notify-Ack carry an HMAC over the whole message. Sign appends the message with it;
// Verify looks at the bytes as they came, before they mean anything.
//
// Left out, and refused with ErrUnsupported: LISP-SEC (RFC 9303), Map-Referral (RFC 8111), Info-Request (NAT
// traversal), mapping data in a Map-Request (its M bit), and LCAF types in an EID other than Instance ID. An LCAF type
// that is not known is kept as it is in a locator, as RFC 8060 §3 asks.
//
// Invariants:
//   - No input makes Decode, DecodeHeader or Verify panic, nor allocate more than a small multiple of its length.
//   - Bytes after a message, a prefix with bits set beyond its length, and reserved bits that change the layout are
//     errors; other reserved bits are ignored, as RFC 9301 §5 asks.
package lisp
