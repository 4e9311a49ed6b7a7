package main

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"time"

	"widecloud/api"
	"widecloud/internal/place"
)

// placement measures place.Decide alone, one decision after the other, by CPU time: how many a core makes. The hosts fill up
// as VMs are placed, and are emptied when they are full.
func (r *run) placement(ctx context.Context) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for _, n := range r.plan.Curve {
		s := place.Snapshot{Sites: []place.Site{{Name: siteName, Self: true, Hosts: placeHosts(n)}}}
		hosts := s.Sites[0].Hosts
		index := map[string]*place.Host{}
		for i := range hosts {
			index[hosts[i].Name] = &hosts[i]
		}
		request := place.Request{Needs: vmNeeds, CPUModel: "Nehalem", Image: imageDigest}
		var took []time.Duration
		var sum time.Duration
		for began := time.Now(); time.Since(began) < r.plan.CurveTime && ctx.Err() == nil; {
			at := threadTime()
			plan := place.Decide(s, request)
			took = append(took, threadTime()-at)
			sum += took[len(took)-1]
			if plan.Chosen == nil {
				return fmt.Errorf("placement: no place among %d hosts: %v", n, plan.Refused[0])
			}
			h := index[plan.Chosen.Host]
			if h.Allotted.MemoryMiB += vmNeeds.MemoryMiB; h.Allotted.MemoryMiB > hostRoom.MemoryMiB/2 {
				h.Allotted = api.Resources{}
			}
		}
		perSecond := float64(len(took)) / sum.Seconds()
		slices.Sort(took)
		if n == 1000 {
			r.add("placement.p99_ms", percentile(took, 99), "ms")
			r.add("placement.per_second", perSecond, "1/s")
		}
		r.add(fmt.Sprintf("placement.hosts_%d.p99_ms", n), percentile(took, 99), "ms")
		r.add(fmt.Sprintf("placement.hosts_%d.per_second", n), perSecond, "1/s")
	}
	return ctx.Err()
}

// placeHosts are n hosts, of which each tenth is full and each twentieth is cordoned. Every second one keeps the image.
func placeHosts(n int) []place.Host {
	hosts := make([]place.Host, n)
	for i := range hosts {
		hosts[i] = place.Host{Name: hostName(i), Roles: []api.HostRole{api.RoleHypervisor}, Connected: true, Capacity: hostRoom, CPU: hostCPU}
		switch {
		case i%10 == 9:
			hosts[i].Allotted = hostRoom
		case i%20 == 4:
			hosts[i].Cordoned = true
		case i%2 == 0:
			hosts[i].Images = []string{imageDigest}
		}
	}
	return hosts
}
