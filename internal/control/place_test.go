package control_test

import (
	"fmt"
	"sync"
	"testing"

	"widecloud/api"
	"widecloud/internal/lend"
	"widecloud/internal/serve"
)

// TestPlacedTogether: VMs that are made at once share the hosts' room: none of it is given away twice, and none is left while a VM
// waits that it is enough for.
func TestPlacedTogether(t *testing.T) {
	federation(t, options{sites: []string{"tokyo"}, hosts: 3, capacity: api.Resources{CPUs: 4, MemoryMiB: 4096, DiskGiB: 40}}, func(t *testing.T, w *world) {
		tokyo := w.sites["tokyo"]
		tokyo.ready("2001:db8:a::/64")
		var all sync.WaitGroup
		for i := range 16 { // for 12 of them there is room
			all.Go(func() {
				v := &api.VM{Meta: api.Meta{Name: fmt.Sprint("web", i), Owner: "lab"}, Spec: api.VMSpec{
					Hardware: api.Hardware{CPUs: 1, MemoryMiB: 256}, Image: "tiny", Network: "blue", Power: api.PowerOn,
				}}
				if _, err := tokyo.ctl.Create(t.Context(), tokyo.admin, v); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		placed := func() (n int) {
			vms, _, err := tokyo.ctl.List(t.Context(), tokyo.admin, api.KindVM, serve.Query{})
			w.must(err)
			given := map[string]api.Resources{}
			for _, o := range vms {
				if v := o.(*api.VM); v.Status.Host != "" {
					given[v.Status.Host] = lend.Add(given[v.Status.Host], api.Resources{CPUs: v.Spec.CPUs})
					n++
				}
			}
			for host, g := range given {
				if g.CPUs > 4 {
					t.Fatalf("host %s has given away %d of 4 CPUs", host, g.CPUs)
				}
			}
			return n
		}
		w.until("12 VMs have a place", func() bool { return placed() == 12 })
	})
}
