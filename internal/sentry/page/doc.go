// Package page is the viewers' page: the flip-book. It needs no framework, and shows the newest still without a script,
// too, by loading itself again.
//
// koshien.js asks for the still after the one that it has (a long poll), so that a line carries one still at a time and
// never a queue of old ones. It shows stills as evenly as they were taken, goes to a smaller size when a still takes
// longer to load than to look at, and goes to another server of its list when the one that it has is slow, full, drains
// or does not answer. Numbers of stills are the same at all servers, so it goes on where it was. It also shows what
// nginx or Apache serve from a directory of stills, with plain requests in the place of polls.
//
// Invariants:
//   - script, style and page together are less than 15 kB with gzip;
//   - the page works without a script, and in 320 pixels;
//   - a text of the page is in koshien.html in each language; the script has no words;
//   - a server that the page may ask stands in its Content-Security-Policy.
package page
