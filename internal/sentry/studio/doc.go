// Package studio is sentryd: it reads each channel's video, cuts it into stills of several sizes and sends them to the
// receivers.
//
//	source.Keep ─► Cutter ─► one slot, the newest picture ─► scale, number ─► cast.Sender ─► receivers
//
// examples/sentryd.toml is the configuration's manual; docs/sentryd.md says how to run it.
//
// Invariants:
//   - channels do not wait for each other, nor for receivers: a picture that cannot be worked on in time is skipped and
//     counted;
//   - all sizes of a picture have one number and one time; numbers grow, also over a restart;
//   - what Load gives without an error has been checked; nothing falls back to a default after that.
package studio
