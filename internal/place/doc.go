// Package place decides where a VM goes: a snapshot and a request in, a plan with reasons out. (Model: nomad's scheduler.)
//
// A candidate is a host of the own site, or a peer as a whole: which of its hosts takes a guest is the lender's business,
// which decides with this package too, on a snapshot of itself alone. Of a peer only the loans from it and the CPUs that
// it has are known.
//
// Among what is possible, the own site comes before lenders; then what would have the largest part of its memory left
// wins (this spreads), where keeping the base image already is worth a quarter of the memory; then the name decides.
//
// Invariants:
//   - Decide is a function of its arguments: the same for the same, whatever the order of sites, hosts and loans;
//   - what is chosen has the room, the CPU and the permission, by the snapshot (safety);
//   - if any candidate satisfies the request, one is chosen (liveness);
//   - when nothing is possible, and always for who asks (Explain), every candidate that is not possible has at least one
//     reason, and all of them at once;
//   - Decide and Explain choose alike: a rule is written once, with what it judges and what it says (rule.go);
//   - a Decide that chooses makes no reasons, and its memory does not grow with the number of hosts;
//   - no I/O, no clock, no log.
package place
