// Package site has the statements about sites and what is between them: machines
// with controllers and agents, wide-area links, releases, and lending.
//
// Invariants:
//   - A federation is up when every agent is connected and every site has a session
//     with every other.
//   - Where a VM is, is asked of the hypervisors, not of the controllers.
package site
