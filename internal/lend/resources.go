package lend

import (
	"fmt"
	"math"

	"widecloud/api"
)

// field is one field of api.Resources: the Code of the reasons about it, its words, and its value.
type field struct {
	code, name, unit string
	of               func(api.Resources) int
}

var fields = []field{
	{"cpu", "cpus", "CPUs", func(r api.Resources) int { return r.CPUs }},
	{"memory", "memory_mib", "MiB of memory", func(r api.Resources) int { return r.MemoryMiB }},
	{"disk", "disk_gib", "GiB of disk", func(r api.Resources) int { return r.DiskGiB }},
	{"address", "addresses", "service addresses", func(r api.Resources) int { return r.Addresses }},
}

// each names the fields itself: placement does this for every host, and pointers to them would be memory for each.
func each(a, b api.Resources, f func(x, y int) int) api.Resources {
	return api.Resources{
		CPUs:      f(a.CPUs, b.CPUs),
		MemoryMiB: f(a.MemoryMiB, b.MemoryMiB),
		DiskGiB:   f(a.DiskGiB, b.DiskGiB),
		Addresses: f(a.Addresses, b.Addresses),
	}
}

// Add is a + b, field by field; a field that would overflow stops at the largest int.
func Add(a, b api.Resources) api.Resources {
	return each(a, b, func(x, y int) int {
		switch {
		case y > 0 && x > math.MaxInt-y:
			return math.MaxInt
		case y < 0 && x < math.MinInt-y:
			return math.MinInt
		}
		return x + y
	})
}

// Sub is what is left of a when b is taken out of it, field by field; never below zero.
func Sub(a, b api.Resources) api.Resources {
	return each(a, b, func(x, y int) int {
		if y < 0 && x > math.MaxInt+y { // would overflow
			return math.MaxInt
		}
		if y >= x {
			return 0
		}
		return max(0, x-y)
	})
}

// Max is the larger of a and b, field by field.
func Max(a, b api.Resources) api.Resources {
	return each(a, b, func(x, y int) int { return max(x, y) })
}

// Negative returns the name of the first field below zero, as it stands in documents (memory_mib); "" if there is none.
func Negative(r api.Resources) string {
	for _, d := range fields {
		if d.of(r) < 0 {
			return d.name
		}
	}
	return ""
}

// short tells whether what is needed of a field is more than is left. A field that is not needed is never short.
func short(left, need int) bool { return need > 0 && need > left }

// Enough tells whether needs fit into what is left, as Fits does, but without the reasons and without allocating.
func Enough(left, needs api.Resources) bool {
	for _, d := range fields {
		if short(d.of(left), d.of(needs)) {
			return false
		}
	}
	return true
}

// Limit is one limit of a quota.
type Limit struct {
	Name, Unit string // memory_mib, "MiB of memory"
	Most       *int   // nil: no limit
	of         func(api.Resources) int
}

// Of is the amount that the limit is about.
func (l Limit) Of(r api.Resources) int { return l.of(r) }

// Limits are a quota's, in the order of its fields.
func Limits(q api.Quota) []Limit {
	most := []*int{q.CPUs, q.MemoryMiB, q.DiskGiB, q.Addresses}
	out := make([]Limit, len(fields))
	for i, d := range fields {
		out[i] = Limit{d.name, d.unit, most[i], d.of}
	}
	return out
}

// Fits tells whether needs fit into what where ("loan l1", "host h1") has left: one reason for each field that is
// short, none if they fit. A field that is not needed is never short.
func Fits(where string, left, needs api.Resources) []api.Reason {
	var rs []api.Reason
	for _, d := range fields {
		if n, l := d.of(needs), d.of(left); short(l, n) {
			rs = append(rs, api.Reason{
				Code:    d.code,
				Message: fmt.Sprintf("needs %d %s, %s has %d left", n, d.unit, where, max(l, 0)),
			})
		}
	}
	return rs
}
