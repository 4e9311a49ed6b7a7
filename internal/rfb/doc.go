// Package rfb speaks the Remote Framebuffer protocol (RFC 6143) as far as a picture of a display needs it: Capture is a viewer
// that looks once, Serve a server that shows one picture, for simulated guests. Both take a connection that somebody else made.
//
// Invariants:
//   - what the other end says is judged before memory is given to it: a display has at most MaxPixels;
//   - only the security type "None" is spoken: whoever relays the bytes has judged who may have them.
package rfb
