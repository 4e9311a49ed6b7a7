package hosts

import (
	"sync"

	"widecloud/internal/wire"
)

// used is what the VMs of each connected host have used, as its agent told last. It is in memory: it changes with every
// report, and means nothing when it is old.
type used struct {
	mu    sync.Mutex
	hosts map[string][]wire.VMUsage
}

func (u *used) set(host string, vms []wire.VMUsage) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.hosts == nil {
		u.hosts = map[string][]wire.VMUsage{}
	}
	if len(vms) == 0 {
		delete(u.hosts, host)
		return
	}
	u.hosts[host] = vms
}

// Used is what the VMs of a host have used since they run there; nil: its agent is not reached, or does not say. It is
// shared and must not be changed.
func (hs *Hosts) Used(host string) []wire.VMUsage {
	hs.used.mu.Lock()
	defer hs.used.mu.Unlock()
	return hs.used.hosts[host]
}
