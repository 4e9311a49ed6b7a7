package map646

import (
	"maps"
	"os"
	"slices"
	"time"

	"widecloud/internal/netio"
	"widecloud/internal/packet/siit"
)

// Stats is what the daemon has counted since its start, or that of the program
// whose place it has taken by an upgrade. A super-packet counts as one packet.
type Stats struct {
	Device string `json:"device"`
	// Packets and Bytes (of IP, as they came in) of the full path by reason: "4to6",
	// "no_mapping", …
	Packets map[string]uint64 `json:"packets"`
	Bytes   map[string]uint64 `json:"bytes"`
	// QueuePackets are all packets of each queue.
	QueuePackets []uint64 `json:"queue_packets"`
	ICMPSent     uint64   `json:"icmp_sent"`
	ICMPLimited  uint64   `json:"icmp_limited"`
	// Joined datagrams went on in the super-packet of the one before them.
	Joined      uint64 `json:"joined"`
	WriteErrors uint64 `json:"write_errors"`

	// Fast is the path through the kernel; nil: it is not configured.
	Fast *FastStats `json:"fast,omitempty"`

	Mappings       int       `json:"mappings"`
	Mappings66     int       `json:"mappings66"`
	Started        time.Time `json:"started"`
	Loaded         time.Time `json:"loaded"`
	Reloads        uint64    `json:"reloads"`
	ReloadErrors   uint64    `json:"reload_errors"`
	ReloadError    string    `json:"reload_error,omitempty"` // of the last reload
	Updates        uint64    `json:"updates"`
	UpdatesRefused uint64    `json:"updates_refused"`
	RefusedLines   int       `json:"refused_lines"` // of the mappings file, left out

	Draining bool `json:"draining"`
	// Withdrawn: the addresses are off the device, so that routers go elsewhere.
	Withdrawn bool `json:"withdrawn"`
	// Unhealthy says why, if so.
	Unhealthy []string `json:"unhealthy,omitempty"`
	PID       int      `json:"pid"`
	Upgrades  int      `json:"upgrades"`
}

// Reloaded is the answer to a reload.
type Reloaded struct {
	Stats
	Refused []RefusedLine `json:"refused"`
}

// TableEntry is one mapping, as `map646 table` shows it.
type TableEntry struct {
	Outside string `json:"outside"`
	Inside  string `json:"inside"`
	MappingCount
}

// carried are counters that a program before this one has left.
type carried struct {
	Packets, Bytes        map[string]uint64
	ICMPSent, ICMPLimited uint64
	Joined, WriteErrors   uint64
	Reloads, ReloadErrors uint64
	Updates, Refused      uint64
	Upgrades              int
	// Mappings by the text of their Outside, by the full path.
	Mappings map[string]MappingCount
}

// add takes over what a queue-reading program has counted.
func (c *carried) add(s Stats) {
	if c.Packets == nil {
		c.Packets, c.Bytes = map[string]uint64{}, map[string]uint64{}
	}
	for name, n := range s.Packets {
		c.Packets[name] += n
		c.Bytes[name] += s.Bytes[name]
	}
	c.ICMPSent += s.ICMPSent
	c.ICMPLimited += s.ICMPLimited
	c.Joined += s.Joined
	c.WriteErrors += s.WriteErrors
}

// Stats reads the counters, without holding up the queues.
func (d *Daemon) Stats() Stats {
	d.mu.Lock()
	s := Stats{
		Device: d.config.TUN.Name, Packets: maps.Clone(d.carried.Packets), Bytes: maps.Clone(d.carried.Bytes),
		ICMPSent: d.carried.ICMPSent, ICMPLimited: d.carried.ICMPLimited, Joined: d.carried.Joined, WriteErrors: d.carried.WriteErrors,
		Mappings: d.count4, Mappings66: d.count6, Started: d.started, Loaded: d.loaded,
		Reloads: d.reloads + d.carried.Reloads, ReloadErrors: d.failures + d.carried.ReloadErrors, ReloadError: d.lastErr,
		Updates: d.updates + d.carried.Updates, UpdatesRefused: d.refused + d.carried.Refused,
		Draining: d.draining, Withdrawn: d.withdrawn, Unhealthy: slices.Clone(d.sick), RefusedLines: len(d.config.Refused), PID: os.Getpid(), Upgrades: d.carried.Upgrades,
	}
	d.mu.Unlock()
	if s.Packets == nil {
		s.Packets, s.Bytes = map[string]uint64{}, map[string]uint64{}
	}
	s.Fast = d.fastStats()
	for _, q := range d.queues {
		var all uint64
		for r := range siit.Reason(siit.NumReasons) {
			n := q.packets[r].Load()
			s.Packets[r.String()] += n
			s.Bytes[r.String()] += q.bytes[r].Load()
			all += n
		}
		s.QueuePackets = append(s.QueuePackets, all)
		s.ICMPSent += q.icmpSent.Load()
		s.ICMPLimited += q.icmpLimited.Load()
		s.Joined += q.joined.Load()
		s.WriteErrors += q.writeErrors.Load()
	}
	return s
}

// queueCount is what the full path's counters of an ID stand at.
func (d *Daemon) queueCount(id uint32) (n MappingCount) {
	for _, q := range d.queues {
		n.add(q.mappings.read(id))
	}
	return n
}

// fullCount is what the mapping of an ID has carried by the full path.
func (d *Daemon) fullCount(id uint32) MappingCount {
	d.basesMu.RLock()
	defer d.basesMu.RUnlock()
	n := d.queueCount(id)
	n.sub(d.bases.read(id))
	return n
}

// mappingCount is what the mapping of an ID has carried.
func (d *Daemon) mappingCount(id uint32) MappingCount {
	n := d.fullCount(id)
	n.add(d.fastCounted(id)) // the kernel's begin at zero by themselves
	return n
}

// mappingCounts is mappingCount of piece number k of the IDs.
func (d *Daemon) mappingCounts(k uint32, out *[pieceLen]MappingCount) {
	clear(out[:])
	if k >= maxMappings/pieceLen {
		return
	}
	d.basesMu.RLock()
	for _, q := range d.queues {
		if p := q.mappings.pieces[k].Load(); p != nil {
			for i := range out {
				out[i].add(p[i].read())
			}
		}
	}
	if p := d.bases.pieces[k]; p != nil {
		for i := range out {
			out[i].sub(p[i])
		}
	}
	d.basesMu.RUnlock()
	if f := d.fastPath.Load(); f != nil {
		f.EachMappingCounters(k*pieceLen, (k+1)*pieceLen, func(id uint32, in, o netio.FastCount) {
			out[id%pieceLen].add(MappingCount{in.Packets, in.Bytes, o.Packets, o.Bytes})
		})
	}
}

// rebaseCounters makes the counters of a table that came as a whole begin at zero.
func (d *Daemon) rebaseCounters(t *siit.Table) {
	d.basesMu.Lock()
	defer d.basesMu.Unlock()
	for id := range t.IDs() {
		d.bases.set(id, d.queueCount(id))
	}
}

// carryOn makes them begin where the program before this one has left off.
func (d *Daemon) carryOn(t *siit.Table, left map[string]MappingCount) {
	d.basesMu.Lock()
	defer d.basesMu.Unlock()
	for e := range t.Entries() {
		if n, ok := left[short(e.Outside)]; ok {
			var base MappingCount
			base.sub(n)
			d.bases.set(e.ID, base)
		}
	}
}

// Table lists the mappings in force.
func (d *Daemon) Table() []TableEntry {
	t := d.table.Load()
	out := make([]TableEntry, 0, t.Len()+1)
	if p := t.Spec().Pref64; p.IsValid() {
		out = append(out, TableEntry{Outside: "0.0.0.0/0", Inside: p.String()})
	}
	for e := range t.Entries() {
		out = append(out, TableEntry{short(e.Outside), short(e.Inside), d.mappingCount(e.ID)})
	}
	return out
}
