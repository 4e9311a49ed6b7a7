// Package stage is where a script is played. It says what the things of a script
// can be ([Client], [Target], [Machine], [Runner], …), so that a statement such as
// `from` or `kill` works with whatever is that, builds what has been declared, does
// the statements one after the other, and keeps the checks and figures. It knows no
// topic.
//
// Invariants:
//   - Statements are done in the script's order, one at a time. A check that fails
//     does not end the script; a statement that cannot be done does.
//   - What is built is built in phases, each of them by all builders at once, and
//     none begins before the one before it has ended.
//   - What runs in the background ends before the machines are taken down.
package stage
