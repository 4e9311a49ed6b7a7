package lab

import (
	"context"
	"net/netip"
	"strings"
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

// Request and UnpackCommit are what they are called.
var (
	Request      = request
	UnpackCommit = unpackCommit
)

// FRRExamples are the configurations of the first translator of a script and of
// the Internet's router beside it, each as one text for /etc/frr/frr.conf.
func FRRExamples(s *Script) (translator, router string) {
	d := &dataCentre{spec: s.DC}
	return d.translatorRouting(0).oneConfig(s.DC.Translators[0].Name), d.inetRouting().oneConfig("inet")
}

func (r Routing) oneConfig(host string) string {
	configs := r.configs(host)
	var b strings.Builder
	for _, daemon := range frrDaemons {
		if text, ok := configs[daemon]; ok {
			b.WriteString("!\n! " + daemon + "\n" + text)
		}
	}
	return b.String()
}
