// Package examples has the reference configurations for programs that show what they say. The lab's scripts beside them are for wcc lab.
//
// Invariants:
//   - what is embedded is the file that the tests read and people copy, as it is.
package examples

import _ "embed"

// Site is site.toml, the reference configuration of a site's controller.
//
//go:embed site.toml
var Site string
