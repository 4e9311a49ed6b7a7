// Package hosts speaks with a site's agents: it tells each its orders, takes its reports in, and shows which are not reached.
//
// An agent's word is that of a machine that may have been stolen: it is held against what the site knows of the host. What it says of
// VMs is for those who know VMs (Observe).
//
// Invariants:
//   - an agent that was told something wrong, or may have been, is told everything;
//   - of a report, an entry that is bad is left out, and the host shows why; the others act;
//   - each report is written by itself, so that one that cannot be written harms no other.
package hosts

import (
	"widecloud/api"
	"widecloud/internal/control/networks"
	"widecloud/internal/control/objects"
	"widecloud/internal/control/orders"
	"widecloud/internal/control/rooms"
	"widecloud/internal/state"
)

// Hosts are a site's hosts.
type Hosts struct {
	*objects.Site
	rooms     *rooms.Rooms
	networks  *networks.Networks
	orders    *orders.Orders
	agents    *agents
	used      used
	observers []Observer
	volumes   VolumeObserver
	lost      []func(tx *state.Tx, host string) error
}

// New speaks with the agents of a site.
func New(site *objects.Site, rooms *rooms.Rooms, networks *networks.Networks, orders *orders.Orders) *Hosts {
	hs := &Hosts{Site: site, rooms: rooms, networks: networks, orders: orders}
	hs.agents = newAgents(hs)
	return hs
}

// Observe has f keep what reports say of VMs. It is for the time before Run.
func (hs *Hosts) Observe(f Observer) { hs.observers = append(hs.observers, f) }

// ObserveVolumes has f keep what reports say of volumes that no VM has. It is for the time before Run.
func (hs *Hosts) ObserveVolumes(f VolumeObserver) { hs.volumes = f }

// OnLost has f write what follows when a host's agent is not reached. It is for the time before Run.
func (hs *Hosts) OnLost(f func(tx *state.Tx, host string) error) { hs.lost = append(hs.lost, f) }

// Tables are those of hosts.
func Tables() state.Schema {
	return state.Schema{objects.NounTable(objects.Index("vtep", func(h *api.Host) string { return h.Status.VTEP }))}
}
