// Package viewer is a viewer without a browser. It follows the rules by which the page (package page) asks for stills, and
// reads from each still the number and the time that the test picture (package pattern) carries, so that what viewers miss
// can be counted whatever lies between them and the camera.
//
// Invariants:
//   - a still that is told of has come whole and has been read; nothing is counted by what a server says of it;
//   - the stills of a viewer have growing numbers;
//   - a viewer has one connection at a time to one server, as a page has.
package viewer
