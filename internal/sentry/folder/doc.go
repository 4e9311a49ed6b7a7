// Package folder is stills in directories: Source takes them from one into which a camera or a program writes, Captions
// takes texts from files, and Writer writes what a reel has into one that any web server can serve (the role that the
// seed's mod_sentry had).
//
// The directory of a Writer has what the server's paths have: stills/CHANNEL/SIZE/NUMBER.jpg and newest.jpg, which is the
// same file under another name. It belongs onto a tmpfs: a still that is a minute old is nothing to keep.
//
// Invariants:
//   - a reader of a Writer's directory sees a whole still or none: files get their names when they are complete;
//   - a Writer keeps as many files as its reel keeps stills, and removes none that it did not write;
//   - a Source takes a file when it is a whole JPEG, and each state of it once.
package folder
