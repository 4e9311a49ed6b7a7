package main

import (
	"fmt"
	"slices"
	"strings"
)

// All paths and loads, in the order of the report.
var (
	allPaths = []string{"ipv6", "ipv4", "tun", "fast", "stack", "full", "fast66", "stack66", "full66", "tayga"}
	allLoads = []string{"tcp1", "tcp1r", "tcp4", "tcp_mtu", "udp64", "udp64_single", "udp64_burst", "web", "full_table", "scraped", "rtt", "zero_loss", "table"}
)

// stackLoads are what the fast path is measured with, too, when the kernel's stack
// sends on what it translates.
var stackLoads = []string{"tcp1", "tcp1r", "tcp4", "udp64", "rtt"}

// base is what all is compared to: plain IPv6 forwarding.
const base = "ipv6"

// plan is what a run does.
type plan struct {
	Paths, Loads []string
	Rounds       int
	Seconds      float64 // of a sample
	Stream       float64 // of TCP streams on a path in a round
	Turn         float64 // of TCP streams on a path, before it is another one's turn
	Mappings     int     // in the big table
	Rate         int     // of small packets, a second
	Burst        int     // of small packets
	Pings        int
	Queues       int // of the TUN device; 0: map646's choice
}

// choose checks a list of names, separated by commas, against those there are.
func choose(field, list string, all []string) ([]string, error) {
	if list == "" || list == "all" {
		return all, nil
	}
	var out []string
	for _, n := range strings.Split(list, ",") {
		if n = strings.TrimSpace(n); !slices.Contains(all, n) {
			return nil, fmt.Errorf("%s: %q is none of %s", field, n, strings.Join(all, ", "))
		}
	}
	for _, n := range all {
		if slices.Contains(strings.Split(strings.ReplaceAll(list, " ", ""), ","), n) {
			out = append(out, n)
		}
	}
	return out, nil
}

func (p plan) check() error {
	switch {
	case p.Rounds < 1 || p.Rounds > 1000:
		return fmt.Errorf("rounds: %d is not from 1 to 1000", p.Rounds)
	case !(p.Seconds >= 0.05 && p.Seconds <= 60):
		return fmt.Errorf("seconds: %v is not from 0.05 to 60", p.Seconds)
	case !(p.Stream >= 0.05 && p.Stream <= 60):
		return fmt.Errorf("stream: %v is not from 0.05 to 60", p.Stream)
	case !(p.Turn >= 0.05 && p.Turn <= p.Stream):
		return fmt.Errorf("turn: %v is not from 0.05 to stream, %v", p.Turn, p.Stream)
	case p.Mappings < 2 || p.Mappings > many:
		return fmt.Errorf("mappings: %d is not from 2 to %d", p.Mappings, many)
	case p.Rate < 100 || p.Rate > 500_000:
		return fmt.Errorf("rate: %d is not from 100 to 500000", p.Rate)
	case p.Burst < 1 || p.Burst > 256:
		return fmt.Errorf("burst: %d is not from 1 to 256", p.Burst)
	case p.Queues < 0 || p.Queues > 256:
		return fmt.Errorf("queues: %d is not from 0 to 256", p.Queues)
	case p.Pings < 10 || p.Pings > 100_000:
		return fmt.Errorf("pings: %d is not from 10 to 100000", p.Pings)
	}
	return nil
}

func (p plan) wants(load string) bool { return slices.Contains(p.Loads, load) }

// full is the world of a path with the big table, single the one that it is
// compared to: as full but for the number of mappings.
func (p plan) full(path string) worldSpec {
	return worldSpec{Path: path, Table: p.Mappings, Metrics: p.wants("scraped")}
}

func (p plan) single(path string) worldSpec {
	w := p.full(path)
	w.Table = 1
	return w
}

// prefix is the world of a path with one mapping that stands for all of those of the
// big table.
func (p plan) prefix(path string) worldSpec {
	w := p.full(path)
	w.Prefix = true
	return w
}

// job is a load on a world; the sample counts for Path.
type job struct {
	Load  string
	Path  string
	World worldSpec
}

// streams is whether the load is TCP streams, which paths carry in turns.
func (j job) streams() bool { return strings.HasPrefix(j.Load, "tcp") }

// packets is whether the load is small packets that paths carry in turns, too.
func (j job) packets() bool {
	return slices.Contains([]string{"udp64", "udp64_single", "udp64_burst", "one_address", "one_mapping", "full_table"}, j.Load)
}

// jobs are the samples of a round but their order; those of one load are together.
func (p plan) jobs() [][]job {
	paths := p.Paths
	var out [][]job
	for _, load := range p.Loads {
		var group []job
		for _, path := range paths {
			ours := path == "fast" || path == "full"
			w := worldSpec{Path: path}
			if strings.HasPrefix(path, "stack") && !slices.Contains(stackLoads, load) {
				continue
			}
			switch load {
			case "tcp_mtu":
				if path == "ipv4" || strings.HasSuffix(path, "66") {
					continue
				}
				w.MTU = true
			case "full_table":
				if path != base && !ours {
					continue
				}
				// For comparison: the same packets and one mapping, and packets to one address.
				group = append(group, job{"one_address", path, p.single(path)}, job{"one_mapping", path, p.prefix(path)})
				w = p.full(path)
			case "scraped":
				if path != base && !ours {
					continue
				}
				w = p.full(path)
				// For comparison: the same in samples of the same length.
				group = append(group, job{"unscraped", path, w})
			case "udp64_single", "udp64_burst":
				if strings.HasSuffix(path, "66") {
					continue
				}
			case "zero_loss":
				if path == "ipv4" || strings.HasSuffix(path, "66") {
					continue
				}
			case "table":
				continue // no samples in rounds
			}
			group = append(group, job{load, path, w})
		}
		for i := range group {
			if w := &group[i].World; w.Path == base && !w.MTU {
				*w = worldSpec{Path: base} // it has no table: one world serves all
			}
		}
		if len(group) > 0 {
			out = append(out, group)
		}
	}
	return out
}

// worlds are those that the jobs need.
func (p plan) worlds() []worldSpec {
	var out []worldSpec
	for _, group := range p.jobs() {
		for _, j := range group {
			if !slices.Contains(out, j.World) {
				out = append(out, j.World)
			}
		}
	}
	if p.wants("table") {
		for _, path := range []string{"fast", "full"} {
			if !slices.Contains(p.Paths, path) {
				continue
			}
			for _, w := range []worldSpec{p.single(path), p.full(path)} {
				if !slices.Contains(out, w) {
					out = append(out, w)
				}
			}
		}
	}
	return out
}
