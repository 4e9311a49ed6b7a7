package server

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"widecloud/internal/lab/machine"
)

// daemon is what a server can run. Each has a file, which puts it into the table.
type daemon struct {
	doc      string   // what it is, for the reference
	programs []string // that must be here, by their packages: scripts/deps --test
	// prepare writes configurations and makes what the daemon keeps; once.
	prepare func(context.Context, *Server) error
	// processes are started in this order. The last is the daemon itself.
	processes func(*Server) []machine.ProcessOptions
	// configure tells the daemon what no file can tell it, after each start; nil: nothing.
	configure func(context.Context, *Server) error
	// check speaks the protocol, from another machine, and says what was seen.
	check func(context.Context, *Server) (string, error)
	// patience is how long it may take to be ready; 0: startTime.
	patience time.Duration
	// answer is how long the check may take; 0: answerTime.
	answer time.Duration
}

const (
	startTime  = 30 * time.Second
	answerTime = 5 * time.Second
)

var daemons = map[string]*daemon{}

// names are those of all daemons, sorted.
func names() []string { return slices.Sorted(maps.Keys(daemons)) }

// reference is a line of documentation for each daemon.
func reference() string {
	var l []string
	for _, n := range names() {
		l = append(l, fmt.Sprintf("`%s`: %s", n, daemons[n].doc))
	}
	return strings.Join(l, ". ")
}
