// Package browser has the statements about the web page: the tests of web/e2e, in Debian's Chromium, on the page of a
// site of the script.
//
// Invariants:
//   - each test is a check of the script; one that was skipped has not passed, and a run without tests has failed;
//   - Chromium is on the controller's machine, and goes with its power.
package browser
