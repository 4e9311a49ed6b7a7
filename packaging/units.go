// Package packaging holds the files that are installed beside the programs, for
// the lab, whose systemd hosts install them as an operator does.
//
// Invariant: it is data, and imports nothing of this module.
package packaging

import "embed"

// Units are the services, as systemd/NAME.service.
//
//go:embed systemd/*.service
var Units embed.FS
