package wire

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"widecloud/api"
)

// StateChange is what has changed of a host's orders (CapChanges). It says of which orders, and what they are then, so that a
// step that got lost is noticed: the agent answers api.CodeConflict, and is sent all of them.
type StateChange struct {
	Revision int64        `json:"revision"`       // of the controller's store
	From     string       `json:"from,omitempty"` // Orders.Sum of what is changed; empty: nothing, these are all orders
	To       string       `json:"to"`             // Orders.Sum of what it is then
	Set      []StateEntry `json:"set,omitempty"`
	Gone     []string     `json:"gone,omitempty"` // keys
	Part     int          `json:"part,omitempty"` // from 0
	Parts    int          `json:"parts,omitempty"`
}

// StateEntry is one entry of a host's orders: what is said of the host itself (key "host"), a VMOrder (vms/HOME/UID), a NetworkOrder
// (networks/HOME/UID), a Mapping (mappings/SERVICE/TARGET) or a VolumeOrder (volumes/UID, from level 2 on).
type StateEntry struct {
	Key   string          `json:"key"`
	Value json.RawMessage `json:"value"`
}

const (
	keyHost      = "host"
	volumesSince = 2 // the level with entries of volumes: an older agent would name them as unknown
)

// hostEntry is what a HostState says of the host itself.
type hostEntry struct {
	AnycastVTEP netip.Addr   `json:"anycast_vtep,omitzero"`
	Pref64      netip.Prefix `json:"pref64,omitzero"`
}

// Orders are a host's orders by their entries, as both ends keep them. They never change: Apply makes others. The zero Orders are
// those of an agent that has none.
type Orders struct {
	entries map[string]entry
	sum     digest
}

// entry is one entry as it was sent. Its value is not of a known form when err is set.
type entry struct {
	text   json.RawMessage
	digest digest
	value  any
	err    error
}

type digest [sha256.Size]byte

// digestOf tells entries with the same key apart, and changes the sum of those with others.
func digestOf(key string, text []byte) digest {
	h := sha256.New()
	h.Write([]byte(key))
	h.Write([]byte{0})
	h.Write(text)
	return digest(h.Sum(nil))
}

// add adds or takes away an entry. A sum finds what got lost; it is no proof against a forger, which the session is.
func (d *digest) add(other digest) {
	for i := range d {
		d[i] ^= other[i]
	}
}

func (d digest) text() string { return fmt.Sprintf("%x", d[:]) }

// Sum tells these orders from others.
func (o Orders) Sum() string { return o.sum.text() }

// Keys are the keys of all entries, in order.
func (o Orders) Keys() []string { return slices.Sorted(maps.Keys(o.entries)) }

// OrdersOf gives a state's entries, without the fields that are newer than a level.
func OrdersOf(s HostState, level int) (Orders, error) {
	o := Orders{entries: make(map[string]entry, 1+len(s.VMs)+len(s.Networks)+len(s.Mappings))}
	var errs error
	put := func(key string, v any) {
		text, err := json.Marshal(forLevel(v, level))
		o.drop(key)
		o.set(key, entry{text: text, value: v})
		errs = errors.Join(errs, err)
	}
	put(keyHost, hostEntry{s.AnycastVTEP, s.Pref64})
	for _, v := range s.VMs {
		put("vms/"+v.Home+"/"+v.VM, v)
	}
	for _, n := range s.Networks {
		put("networks/"+n.Home+"/"+n.UID, n)
	}
	for _, m := range s.Mappings {
		put("mappings/"+m.Service.String()+"/"+m.Target.String(), m)
	}
	if level >= volumesSince {
		for _, v := range s.Volumes {
			put("volumes/"+v.Volume, v)
		}
	}
	if errs != nil {
		return Orders{}, fmt.Errorf("marshal orders: %w", errs)
	}
	return o, nil
}

func (o *Orders) set(key string, e entry) {
	e.digest = digestOf(key, e.text)
	o.sum.add(e.digest)
	o.entries[key] = e
}

func (o *Orders) drop(key string) {
	if have, ok := o.entries[key]; ok {
		o.sum.add(have.digest)
		delete(o.entries, key)
	}
}

// With gives the orders with some entries set and others gone.
func (o Orders) With(set []StateEntry, gone []string) Orders {
	next := Orders{entries: maps.Clone(o.entries), sum: o.sum}
	if next.entries == nil {
		next.entries = map[string]entry{}
	}
	for _, key := range gone {
		next.drop(key)
	}
	for _, s := range set {
		next.drop(s.Key)
		e := entry{text: s.Value}
		e.value, e.err = decodeEntry(s)
		next.set(s.Key, e)
	}
	return next
}

// Apply carries out a change. The error is api.CodeConflict when the change is not of these orders, or does not lead to what it
// says.
func (o Orders) Apply(c StateChange) (Orders, error) {
	from := o
	switch c.From {
	case "":
		from = Orders{}
	case o.Sum():
	default:
		return o, api.Errorf(api.CodeConflict, "the change is of orders %.12s, and %.12s are in force: send all of them", c.From, o.Sum())
	}
	next := from.With(c.Set, c.Gone)
	if next.Sum() != c.To {
		return o, api.Errorf(api.CodeConflict, "the change leads to orders %.12s, and says %.12s: send all of them", next.Sum(), c.To)
	}
	return next, nil
}

// Diff says which entries are set and gone in the orders that follow these.
func (o Orders) Diff(next Orders) (set []StateEntry, gone []string) {
	for _, key := range next.Keys() {
		if have, ok := o.entries[key]; !ok || have.digest != next.entries[key].digest {
			set = append(set, StateEntry{key, next.entries[key].text})
		}
	}
	for _, key := range o.Keys() {
		if _, ok := next.entries[key]; !ok {
			gone = append(gone, key)
		}
	}
	return set, gone
}

// State is what the entries mean. Those that cannot be read are left out; the errors name them.
func (o Orders) State(revision int64) (HostState, []error) {
	s := HostState{Revision: revision, VMs: []VMOrder{}, Networks: []NetworkOrder{}}
	var bad []error
	for _, key := range o.Keys() {
		switch v := o.entries[key].value.(type) {
		case hostEntry:
			s.AnycastVTEP, s.Pref64 = v.AnycastVTEP, v.Pref64
		case VMOrder:
			s.VMs = append(s.VMs, v)
		case NetworkOrder:
			s.Networks = append(s.Networks, v)
		case Mapping:
			s.Mappings = append(s.Mappings, v)
		case VolumeOrder:
			s.Volumes = append(s.Volumes, v)
		default:
			bad = append(bad, fmt.Errorf("order %.100q: %w", key, o.entries[key].err))
		}
	}
	return s, bad
}

func decodeEntry(e StateEntry) (any, error) {
	noun, _, _ := strings.Cut(e.Key, "/")
	switch noun {
	case keyHost:
		return decoded[hostEntry](e.Value)
	case "vms":
		return decoded[VMOrder](e.Value)
	case "networks":
		return decoded[NetworkOrder](e.Value)
	case "mappings":
		return decoded[Mapping](e.Value)
	case "volumes":
		return decoded[VolumeOrder](e.Value)
	}
	return nil, api.Invalidf("key", "is of an unknown kind")
}

func decoded[T any](text json.RawMessage) (any, error) {
	var v T
	if err := json.Unmarshal(text, &v); err != nil {
		return nil, err
	}
	return v, nil
}

// Sent is what a controller remembers of the orders that an agent has: enough to know what has changed since.
type Sent struct {
	sum     digest
	digests map[string]digest
}

// Sum is that of the orders.
func (s Sent) Sum() string { return s.sum.text() }

// SentOf remembers orders.
func SentOf(o Orders) Sent {
	s := Sent{sum: o.sum, digests: make(map[string]digest, len(o.entries))}
	for key, e := range o.entries {
		s.digests[key] = e.digest
	}
	return s
}

// Changes is what leads from what was sent to other orders, in parts that fit into messages; from the zero Sent, all of them.
// There is always one part at least.
func (s Sent) Changes(to Orders, revision int64) []StateChange {
	head := StateChange{Revision: revision, To: to.Sum()}
	if s.digests != nil {
		head.From = s.sum.text()
	}
	parts, size := []StateChange{head}, 0
	part := func(octets int) *StateChange {
		if size > 0 && size+octets > maxPart {
			parts, size = append(parts, head), 0
		}
		size += octets
		return &parts[len(parts)-1]
	}
	for _, key := range to.Keys() {
		e := to.entries[key]
		if have, ok := s.digests[key]; !ok || have != e.digest {
			p := part(len(key) + len(e.text))
			p.Set = append(p.Set, StateEntry{key, e.text})
		}
	}
	for _, key := range slices.Sorted(maps.Keys(s.digests)) {
		if _, ok := to.entries[key]; !ok {
			p := part(len(key))
			p.Gone = append(p.Gone, key)
		}
	}
	if len(parts) > 1 {
		for i := range parts {
			parts[i].Part, parts[i].Parts = i, len(parts)
		}
	}
	return parts
}

// JoinChanges puts the parts of a change together. They are of one change, and in order.
func JoinChanges(parts []StateChange) StateChange {
	whole := parts[0]
	for _, p := range parts[1:] {
		whole.Set = append(whole.Set, p.Set...)
		whole.Gone = append(whole.Gone, p.Gone...)
	}
	whole.Part, whole.Parts = 0, 0
	return whole
}

// PartOf says which part of how many a message is.
type PartOf struct {
	Revision    int64
	To          string // of a StateChange
	Part, Parts int
}

// Follows tells whether two parts are of one whole.
func (p PartOf) Follows(first PartOf) bool {
	return p.Revision == first.Revision && p.To == first.To && p.Parts == first.Parts
}

// Place is which part the state is.
func (s HostState) Place() PartOf { return PartOf{s.Revision, "", s.Part, s.Parts} }

// Place is which part the change is.
func (c StateChange) Place() PartOf { return PartOf{c.Revision, c.To, c.Part, c.Parts} }
