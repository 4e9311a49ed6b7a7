package machine

import (
	"fmt"
	"io/fs"
)

// RestartWith is Restart with an environment beside the node's own, which is only of
// this start.
func (n *Node) RestartWith(name string, env ...string) (*Process, error) {
	p := n.Process(name)
	if p == nil {
		return nil, fmt.Errorf("restart %s on %s: %w", name, n.name, fs.ErrNotExist)
	}
	if err := p.stop(); err != nil {
		return nil, fmt.Errorf("restart %s on %s: %w", name, n.name, err)
	}
	o := p.o
	o.Env = env
	return n.Start(o)
}
