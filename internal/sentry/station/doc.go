// Package station is sentryc's life: it reads the configuration, makes the parts (reel, httpd, page, folder, the receiver),
// runs them until it is told to stop, and then drains.
//
// Invariants:
//   - a configuration that Load gives has passed Check;
//   - Run has ended when all of its parts have;
//   - what a part cannot do at the start (an address in use, a key that cannot be read) ends Run with an error that names
//     the field; what fails later is logged and tried again.
package station
