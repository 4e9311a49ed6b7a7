// Package storetest is the conformance suite that every driver of store.Store passes.
//
// A driver's test package calls Run, and Main from its TestMain: the durability test runs the test binary again as a
// child that writes until it is killed.
//
// Invariants:
//   - every sentence of store's invariants has a test here;
//   - no test reads a clock to decide whether it passed.
package storetest
