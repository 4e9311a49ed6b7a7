package wire

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"sync"
)

// Level is the protocol level of this release. Each release that adds a field, a message or a capability counts it up by
// one. Level 0 is the release before levels were said in the hello.
const Level = 2

// Capability is a word for something that not every release can do. Both ends name theirs in the hello. A sender asks
// Session.Can where leaving a new field out would change what a message means.
type Capability string

// The capabilities of this release.
const (
	CapStateParts  Capability = "state-parts"   // an agent takes a HostState in parts
	CapGuestSize   Capability = "guest-size"    // a lender changes a guest's size by GuestOrder.Size
	CapChanges     Capability = "state-changes" // an agent takes a StateChange
	CapUsage       Capability = "usage"         // an agent keeps what VMs use, and a lender tells it
	CapDisplay     Capability = "display"       // an agent makes VMs with a display, and it and a lender relay it
	CapDisks       Capability = "disks"         // an agent gives VMs several disks, and a lender changes guests that run
	CapMoveStopped Capability = "move-stopped"  // an agent, and a lender, moves a stopped VM; MigrateCall.Cold
	CapSuspend     Capability = "suspend"       // an agent, and a lender, suspends a VM: RunSuspended, CopySuspended
	CapHibernate   Capability = "hibernate"     // an agent, and a lender, hibernates a VM: RunHibernated, CopyHibernated
	CapReadDisk    Capability = "read-disk"     // an agent sends a disk of a stopped VM, and a lender relays it
)

// Release is what one end of a session says of itself in its hello.
type Release struct {
	Level int
	Can   []Capability
}

// ThisRelease is what this program is.
func ThisRelease() Release {
	return Release{Level: Level, Can: []Capability{CapStateParts, CapGuestSize, CapChanges, CapUsage, CapDisplay, CapDisks, CapMoveStopped, CapSuspend, CapHibernate, CapReadDisk}}
}

// agreement is what two releases have in common.
type agreement struct {
	level int
	newer bool // the peer's own level is higher than ours
	can   []Capability
}

func agree(own, peer Release) agreement {
	a := agreement{level: min(own.Level, peer.Level), newer: peer.Level > own.Level}
	for _, c := range own.Can {
		if slices.Contains(peer.Can, c) {
			a.can = append(a.can, c)
		}
	}
	return a
}

// Level is the lower one of both ends' levels: no field that is newer is sent by this session.
func (s *Session) Level() int { return s.agreed.level }

// Newer tells whether the peer's level is higher than this end's own. Its messages may have fields that this end does not
// know, and these are ignored. An unknown field of any other peer is an error.
func (s *Session) Newer() bool { return s.agreed.newer }

// Can tells whether both ends have a capability.
func (s *Session) Can(c Capability) bool { return slices.Contains(s.agreed.can, c) }

// RawBody marshals a document's body for the session's level.
func (s *Session) RawBody(body any) json.RawMessage { return RawBody(forLevel(body, s.agreed.level)) }

// forLevel gives the message without the fields that are newer than a level: those with a tag since:"N" of a higher N. What
// it gives shares the rest with v, which stays as it is.
func forLevel(v any, level int) any {
	if v == nil || newest(reflect.TypeOf(v)) <= level {
		return v
	}
	return older(reflect.ValueOf(v), level).Interface()
}

func older(v reflect.Value, level int) reflect.Value {
	t := v.Type()
	if newest(t) <= level || (v.Kind() == reflect.Pointer || v.Kind() == reflect.Slice) && v.IsNil() {
		return v
	}
	switch v.Kind() {
	case reflect.Pointer:
		out := reflect.New(t.Elem())
		out.Elem().Set(older(v.Elem(), level))
		return out
	case reflect.Slice:
		out := reflect.MakeSlice(t, v.Len(), v.Len())
		for i := range v.Len() {
			out.Index(i).Set(older(v.Index(i), level))
		}
		return out
	}
	out := reflect.New(t).Elem()
	out.Set(v)
	for i := range t.NumField() {
		switch f := t.Field(i); {
		case since(f) > level:
			out.Field(i).SetZero()
		case f.IsExported():
			out.Field(i).Set(older(v.Field(i), level))
		}
	}
	return out
}

// newestOf has the answers of newest, by type.
var newestOf sync.Map

// newest is the highest level of a type's fields, and of theirs. It looks into structs, slices and pointers, which is what
// messages are made of.
func newest(t reflect.Type) (level int) {
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice:
		return newest(t.Elem())
	case reflect.Struct:
	default:
		return 0
	}
	if known, ok := newestOf.Load(t); ok {
		return known.(int)
	}
	for i := range t.NumField() {
		if f := t.Field(i); f.IsExported() {
			level = max(level, since(f), newest(f.Type))
		}
	}
	newestOf.Store(t, level)
	return level
}

// since is the level that a field came with.
func since(f reflect.StructField) int {
	tag := f.Tag.Get("since")
	if tag == "" {
		return 0
	}
	level, err := strconv.Atoi(tag)
	if err != nil {
		panic(fmt.Sprintf("wire: field %s: tag since:%q is not a level", f.Name, tag))
	}
	return level
}
