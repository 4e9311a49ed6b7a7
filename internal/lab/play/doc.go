// Package play is the lab's language, with all its topics, and what runs scripts: it
// builds, plays, reports, and takes everything down.
//
// A topic that is to be in the language has its line in [Language].
//
// Invariants:
//   - Whatever way a script ends, everything is taken down, and the last check is
//     that nothing is left.
//   - The language's reference in docs/lab.md is what the topics say of themselves
//     (wcc lab words --markdown).
package play
