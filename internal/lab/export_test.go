package lab

import (
	"context"
	"net/netip"
)

// Flow shows the tests what a traffic statement runs.
type Flow struct{ *flow }

// StartFlow is startFlow.
func StartFlow(ctx context.Context, n *Node, t *TrafficStmt, to netip.Addr) (Flow, error) {
	f, err := startFlow(ctx, n, t, to.String())
	return Flow{f}, err
}

// Count and the rest are flow's.
func (f Flow) Count() flowCount                     { return f.count() }
func (f Flow) Settle(ctx context.Context) flowCount { return f.settle(ctx) }
func (f Flow) Alive(ctx context.Context) error      { return f.alive(ctx) }
func (f Flow) Reset()                               { f.reset() }
func (f Flow) Stop()                                { f.stop() }

// Request is request.
var Request = request
