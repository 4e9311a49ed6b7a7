// Command bench measures what sentryc costs, beside Debian's nginx with the same bytes from a tmpfs (`make bench-koshien`).
//
// Servers run one at a time on the first CPU, the client (wrk, or this program) on the second, in turns; a figure is the
// median of the rounds. The CPU time of a server is what the kernel has counted for its threads. It prints lines
// "figure NAME VALUE UNIT" and "ratio NAME VALUE"; a ratio is sentryc's part of nginx's, so that less than 1 is cheaper
// (CPU) or slower (requests a second).
//
// Invariants:
//   - both get the same requests from the same client over connections that stay, and give the same bytes;
//   - an answer that is not what it should be ends the benchmark with an error;
//   - what it starts it ends.
package main
