package simulated

import (
	"context"
	"errors"
	"net"
	"slices"
	"sync"

	"widecloud/internal/agent/network"
)

// networks judge what they are to carry as the real driver does: what is bad is left out, and said. They carry no frame.
type networks struct {
	mu   sync.Mutex
	uids map[string]bool // of those that are carried
}

// Apply is agent.Networks's, as what follows.
func (n *networks) Apply(_ context.Context, w network.Want) error {
	var errs []error
	w.Networks = slices.Clone(w.Networks)
	for err := w.Validate(); err != nil; err = w.Validate() {
		errs = append(errs, err)
		i := slices.IndexFunc(w.Networks, func(x network.Network) bool {
			alone := w
			alone.Networks = []network.Network{x}
			return alone.Validate() != nil
		})
		if i < 0 {
			return err // the host's own fault
		}
		w.Networks = slices.Delete(w.Networks, i, i+1)
	}
	uids := map[string]bool{}
	for _, x := range w.Networks {
		uids[x.UID] = true
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.uids = uids
	return errors.Join(errs...)
}

func (n *networks) Bridge(uid string) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.uids[uid] {
		return "br-" + uid[:8]
	}
	return ""
}

// Seen: no guest sends anything.
func (n *networks) Seen(context.Context, string, net.HardwareAddr) ([]network.Sighting, error) {
	return nil, nil
}
