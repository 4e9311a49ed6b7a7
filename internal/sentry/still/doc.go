// Package still says what a still is: one JPEG of a channel, as it goes from sentryd by way of sentryc to viewers.
//
// A channel is a camera or a programme. Each picture of it has a number, and comes in one or more sizes, which have the
// same number and the same time. Size 0 is the largest.
//
// Numbers grow, also over a restart of the sender: so "newer" is "has the larger number", at every server and in every
// browser. First and Next give numbers that do: a sender begins at the time in tenths of a second, and sends at most ten
// pictures a second, so its numbers never overtake the time.
//
// Invariants:
//   - a Still that has passed Check is within the bounds of this package, whoever sent it;
//   - a Still is never changed once it is handed on: all its readers share one JPEG;
//   - a channel's name that has passed CheckChannel is safe as a part of a path, of a URL and of a file's name.
package still
