// Package flow has the statements about clients: traffic that is counted, pages,
// and the path to a target. They work between whatever has clients and targets.
//
// Invariants:
//   - A request without an answer, and a byte that is not what belongs at its place,
//     are lost. Nothing is counted twice, and nothing is forgotten when the window of
//     the figures begins anew.
package flow
