// Package hypertest is the conformance suite of hyper.Driver. A driver's test makes an Env of two hosts and calls Run; what
// the suite asserts is what the agent and the migration saga rely on.
//
// Invariants:
//   - the suite knows a driver by its interface only; what it cannot see through it (the inside of a guest, a full file
//     system) the Env tells or does;
//   - it waits for conditions, never for time, and holds the streams of a migration at a byte, not at a moment.
package hypertest
