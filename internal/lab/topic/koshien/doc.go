// Package koshien has the statements about the Koshien application: sentryd in the Internet, which sends stills of its
// test picture to sentryc in VMs, viewers, and what hammers a translator meanwhile.
//
// Invariants:
//   - what viewers have missed is counted by the numbers in the pictures that came, on the clock that they were drawn by:
//     all of it is one machine;
//   - a still that no viewer has got yet is not lost before a later one has come.
package koshien
