// Package source reads video as single pictures: out of a pipe or over HTTP as MJPEG, from a directory of JPEGs, from
// ffmpeg, or from a test pattern. A Cutter chooses the pictures that become stills.
//
// A source runs until its video ends, and Keep runs it again, also when it has gone silent.
//
// Invariants:
//   - a picture is whole: one that was cut off, or is larger than MaxJPEG, is skipped;
//   - a source never waits for those who use its pictures;
//   - when Run returns, what it started (ffmpeg, a connection) is gone.
package source
