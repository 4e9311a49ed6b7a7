package site

import (
	"net/netip"

	"widecloud/internal/lab/machine"
	"widecloud/internal/lab/script"
)

// Leaf is a machine of another topic at a site: on its router, with addresses that
// everybody reaches.
type Leaf struct {
	site   *Site
	name   string
	number int
	node   *machine.Node
	// Options are the machine's, from its topic in the phase Prepare. Its name is the leaf's.
	Options machine.NodeOptions
}

// Numbers of machines behind those of hosts.
const (
	firstLeaf = firstHost + maxHosts
	maxLeaves = 1<<10 - firstLeaf
)

// AddLeaf declares a machine of that name, which is short.
func (s *Site) AddLeaf(p *script.Parser, name string) *Leaf {
	if len(s.leaves) == maxLeaves {
		p.Fail(p.First(), "more than %d servers at %s", maxLeaves, s.name)
	}
	l := &Leaf{site: s, name: name, number: firstLeaf + len(s.leaves)}
	s.leaves = append(s.leaves, l)
	return l
}

// Node is the machine; nil before it is built.
func (l *Leaf) Node() *machine.Node { return l.node }

// Addr6 and Addr4 are the machine's addresses.
func (l *Leaf) Addr6() netip.Addr { return l.site.addr6(l.number) }
func (l *Leaf) Addr4() netip.Addr { return leaf(l.site.number, l.number).b[0].Addr() }
