package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"widecloud/api"
)

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

// seconds shows a round-trip time.
func seconds(s float64) string {
	if s == 0 {
		return ""
	}
	return fmt.Sprintf("%.1fms", s*1000)
}

func list[S ~string](l []S) string {
	var b []string
	for _, s := range l {
		b = append(b, string(s))
	}
	return strings.Join(b, ",")
}

func place(site, host string) string { return strings.Trim(site+"/"+host, "/") }

// amount shows resources as 4c/2G/20G, with 1a for an address.
func amount(r api.Resources) string {
	s := fmt.Sprintf("%dc/%s/%dG", r.CPUs, strings.ReplaceAll(size(int64(r.MemoryMiB)<<20), "iB", ""), r.DiskGiB)
	if r.Addresses > 0 {
		s += fmt.Sprintf("/%da", r.Addresses)
	}
	return s
}

func optional(r *api.Resources) string {
	if r == nil {
		return ""
	}
	return amount(*r)
}

// quota shows the limits that there are as 4c/2G, and "" when there is none.
func quota(q *api.Quota) string {
	if q == nil {
		return ""
	}
	var l []string
	for _, f := range []struct {
		limit *int
		text  func(int) string
	}{
		{q.CPUs, func(n int) string { return strconv.Itoa(n) + "c" }},
		{q.MemoryMiB, func(n int) string { return strings.ReplaceAll(size(int64(n)<<20), "iB", "") }},
		{q.DiskGiB, func(n int) string { return strconv.Itoa(n) + "G" }},
		{q.Addresses, func(n int) string { return strconv.Itoa(n) + "a" }},
	} {
		if f.limit != nil {
			l = append(l, f.text(*f.limit))
		}
	}
	return strings.Join(l, "/")
}

// size shows an amount of bytes with one unit: 512MiB, 1.5GiB.
func size(n int64) string {
	if n < 1<<10 {
		return strconv.FormatInt(n, 10) + "B"
	}
	f, units := float64(n), []string{"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}
	i := 0
	for f >= 1024 && i < len(units)-1 {
		f /= 1024
		i++
	}
	return strings.TrimSuffix(strconv.FormatFloat(f, 'f', 1, 64), ".0") + units[i]
}

func sizeOr(n int64) string {
	if n == 0 {
		return ""
	}
	return size(n)
}
