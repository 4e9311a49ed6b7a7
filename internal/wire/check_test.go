package wire_test

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"widecloud/api"
	"widecloud/internal/netplan"
	"widecloud/internal/wire"
)

const (
	someUID  = "0192f0c1-2222-7abc-8def-0123456789ab"
	otherUID = "0192f0c1-3333-7abc-8def-0123456789ab"
)

func goodVM() wire.VMOrder {
	return wire.VMOrder{
		VM: someUID, Name: "web1", Home: "site-a", Epoch: 3, Run: wire.RunOn, Hardware: api.Hardware{CPUs: 2, MemoryMiB: 512},
		Image: "sha256:" + strings.Repeat("0a", 32), DiskMiB: 1024,
		NIC:  wire.NICOrder{Network: otherUID, MAC: "02:00:5e:00:53:01", IPv6: "2001:db8:b000::5", IPv4: "10.0.0.5", MTU: 1400},
		Seed: wire.SeedOrder{Hostname: "web1", UserData: "#cloud-config\n", SSHKeys: []string{"ssh-ed25519 AAAA"}},
	}
}

func goodNetwork() wire.NetworkOrder {
	return wire.NetworkOrder{Home: "site-a", Spec: netplan.Spec{
		UID: otherUID, Name: "red", VNI: 7, Prefix: netip.MustParsePrefix("2001:db8:b000::/64"),
		IPv4: netip.MustParsePrefix("10.0.0.0/24"), MTU: 1400,
	}}
}

// refused compares the field of an error; "" is none.
func refused(t *testing.T, err error, field string) {
	t.Helper()
	var e *api.Error
	switch {
	case field == "" && err != nil:
		t.Errorf("refused: %v", err)
	case field != "" && (!errors.As(err, &e) || e.Field != field):
		t.Errorf("error is %v, want one of the field %s", err, field)
	case field != "" && len(err.Error()) > 1000:
		t.Errorf("the error has %d bytes", len(err.Error()))
	}
}

func TestCheckUsage(t *testing.T) {
	sample := func(second int) api.Sample { return api.Sample{At: time.Unix(int64(second), 0), CPU: 0.5} }
	many := func(n int) (l []api.Sample) {
		for i := range n {
			l = append(l, sample(i))
		}
		return l
	}
	for _, c := range []struct {
		field string
		u     api.Usage
	}{
		{"", api.Usage{}},
		{"", api.Usage{Recent: many(180), Day: many(288)}},
		{"recent", api.Usage{Recent: many(601)}},
		{"day", api.Usage{Day: many(601)}},
		{"recent[1].at", api.Usage{Recent: []api.Sample{sample(2), sample(1)}}},
		{"day[1].at", api.Usage{Day: []api.Sample{sample(2), sample(2)}}},
		{"day[0]", api.Usage{Day: []api.Sample{{At: time.Unix(1, 0), Sent: -1}}}},
	} {
		refused(t, wire.CheckUsage(c.u), c.field)
	}
}

func TestVMOrderCheck(t *testing.T) {
	for _, c := range []struct {
		field string
		lie   func(o *wire.VMOrder)
	}{
		{"", func(*wire.VMOrder) {}},
		{"", func(o *wire.VMOrder) { o.NIC.IPv4, o.NIC.MTU, o.Seed = "", 0, wire.SeedOrder{} }},
		{"o.vm", func(o *wire.VMOrder) { o.VM = "../../etc/passwd" }},
		{"o.vm", func(o *wire.VMOrder) { o.VM = strings.ToUpper(o.VM) }},
		{"o.name", func(o *wire.VMOrder) { o.Name = "web 1\n<devices/>" }},
		{"o.home", func(o *wire.VMOrder) { o.Home = "" }},
		{"o.epoch", func(o *wire.VMOrder) { o.Epoch = 0 }},
		{"o.run", func(o *wire.VMOrder) { o.Run = "maybe" }},
		{"o.cpus", func(o *wire.VMOrder) { o.CPUs = 0 }},
		{"o.cpus", func(o *wire.VMOrder) { o.CPUs = 1 << 30 }},
		{"o.memory_mib", func(o *wire.VMOrder) { o.MemoryMiB = -1 }},
		{"o.cpu_model", func(o *wire.VMOrder) { o.CPUModel = "'><x/>" }},
		{"o.image", func(o *wire.VMOrder) { o.Image = "sha256:../x" }},
		{"o.disk_mib", func(o *wire.VMOrder) { o.DiskMiB = 0 }},
		{"o.disk_mib", func(o *wire.VMOrder) { o.DiskMiB = 1 << 60 }},
		{"o.nic.network", func(o *wire.VMOrder) { o.NIC.Network = "red" }},
		{"o.nic.mac", func(o *wire.VMOrder) { o.NIC.MAC = "02:57:43:00:00:07" }},
		{"o.nic.ipv6", func(o *wire.VMOrder) { o.NIC.IPv6 = "::g" }},
		{"o.nic.ipv4", func(o *wire.VMOrder) { o.NIC.IPv4 = "10.0.0" }},
		{"o.nic.mtu", func(o *wire.VMOrder) { o.NIC.MTU = 68 }},
		{"o.seed.hostname", func(o *wire.VMOrder) { o.Seed.Hostname = "a.b" }},
		{"o.seed.user_data", func(o *wire.VMOrder) { o.Seed.UserData = strings.Repeat("x", 2<<20) }},
		{"o.seed.ssh_keys", func(o *wire.VMOrder) { o.Seed.SSHKeys = make([]string, 1000) }},
		{"o.seed.ssh_keys", func(o *wire.VMOrder) { o.Seed.SSHKeys = []string{"a\nruncmd: [x]"} }},
	} {
		o := goodVM()
		c.lie(&o)
		t.Run(c.field, func(t *testing.T) { refused(t, o.Check("o"), c.field) })
	}
}

// TestStateInParts: a state of any size is split into parts that fit into messages, and is the same when they are put together.
func TestStateInParts(t *testing.T) {
	for _, vms := range []int{0, 1, 20, 300} {
		t.Run(fmt.Sprintf("%d VMs", vms), func(t *testing.T) {
			state := wire.HostState{Revision: 9, VMs: []wire.VMOrder{}, Networks: []wire.NetworkOrder{goodNetwork()}}
			for i := range vms {
				o := goodVM()
				o.VM = fmt.Sprintf("0192f0c1-2222-7abc-8def-%012x", i)
				o.Seed.UserData = strings.Repeat("x", 60<<10)
				state.VMs = append(state.VMs, o)
			}
			state.Mappings = []wire.Mapping{{Service: netip.MustParseAddr("203.0.113.1"), Target: netip.MustParseAddr("2001:db8:b000::5")}}

			parts := state.Split()
			if few := vms <= 20; few != (len(parts) == 1) {
				t.Errorf("%d VMs are in %d parts", vms, len(parts))
			}
			for i, p := range parts {
				if p.Revision != 9 || len(parts) > 1 && (p.Part != i || p.Parts != len(parts)) {
					t.Errorf("part %d of %d says revision %d, part %d of %d", i, len(parts), p.Revision, p.Part, p.Parts)
				}
				// 60 KiB of user data and little else: what a part may have beside the last VM is bounded.
				if len(p.VMs) > 100 {
					t.Errorf("part %d has %d VMs of 60 KiB", i, len(p.VMs))
				}
			}
			if diff := cmp.Diff(state, wire.JoinParts(parts), cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); diff != "" {
				t.Error(diff)
			}
		})
	}
}
