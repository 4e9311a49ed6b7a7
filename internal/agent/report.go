package agent

import (
	"cmp"
	"context"
	"net"
	"slices"
	"strings"
	"time"

	"widecloud/api"
	"widecloud/internal/agent/network"
	"widecloud/internal/wire"
)

// reportLoop sends what is seen whenever it is asked to.
func (a *Agent) reportLoop(ctx context.Context, ask <-chan struct{}) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-ask:
		}
		cctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		err := a.o.Controller.Report(cctx, a.Report(cctx))
		cancel()
		if err != nil && ctx.Err() == nil {
			a.log.Debug("report", "err", err)
		}
	}
}

// message is what is wrong with the host, in one line. a.mu is held.
func (a *Agent) message() string {
	parts := []string{a.netErr, a.trErr}
	for _, err := range a.unread {
		parts = append(parts, err.Error())
	}
	return joined(parts...)
}

// joined makes one line of texts, without the empty ones.
func joined(parts ...string) string {
	return strings.Join(slices.DeleteFunc(parts, func(s string) bool { return s == "" }), "; ")
}

// Report is what the agent sees of its host.
func (a *Agent) Report(ctx context.Context) wire.HostReport {
	a.mu.Lock()
	r := wire.HostReport{
		Boot: a.o.Boot, Roles: a.o.Roles, VTEP: a.o.VTEP, Applied: a.applied,
		Hypervisor: a.caps.Hypervisor, Capacity: a.o.Capacity,
		Message: a.message(), VMs: []wire.VMReport{}, Images: []string{},
	}
	r.CPU.Arch, r.CPU.Accel, r.CPU.Model, r.CPU.Usable = a.caps.Arch, a.caps.Accel, a.caps.CPUModel, a.caps.CPUUsable
	r.CPU.Profile = a.caps.Profile
	if a.o.Hypervisor != nil {
		r.CPU.Disks = api.MaxDisks
	}
	if r.Capacity.CPUs == 0 {
		r.Capacity.CPUs = a.caps.CPUs
	}
	if r.Capacity.MemoryMiB == 0 {
		r.Capacity.MemoryMiB = a.caps.MemoryMiB
	}
	type ask struct {
		*vm
		nic wire.NICOrder
	}
	var asks []ask
	for _, v := range a.vms {
		if v.record.Order.VM == "" {
			continue // a call named it, and nothing came of it
		}
		r.VMs = append(r.VMs, wire.VMReport{VM: v.uid, Epoch: v.record.Order.Epoch, Serial: v.record.Order.Serial, State: v.state, Job: v.record.Job, Message: joined(v.message, v.diskMessage)})
		if v.record.Order.Run != wire.RunGone {
			asks = append(asks, ask{v, v.record.Order.NIC})
		}
	}
	a.mu.Unlock()
	slices.SortFunc(r.VMs, func(x, y wire.VMReport) int { return strings.Compare(x.VM, y.VM) })
	if a.o.Translator != nil {
		t := a.o.Translator.Report(ctx)
		a.mu.Lock()
		t.Refused = append(t.Refused, a.kept...)
		a.mu.Unlock()
		r.Translator = &t
	}
	for _, u := range a.used.Now() {
		r.Usage = append(r.Usage, wire.VMUsage{
			VM: u.VM, CPU: u.CPU.Seconds(), Memory: u.Memory, DiskRead: u.DiskRead, DiskWritten: u.DiskWritten,
			Reads: u.Reads, Writes: u.Writes, Received: u.Received, Sent: u.Sent,
		})
	}
	if a.o.Volumes == nil {
		return r
	}
	if bases, err := a.o.Volumes.Bases(ctx); err == nil {
		a.reportBases(&r, bases)
	}
	for _, q := range asks {
		i := slices.IndexFunc(r.VMs, func(x wire.VMReport) bool { return x.VM == q.uid })
		if m := a.machine(ctx, q.vm); m != nil {
			r.VMs[i].Machine = m
			for _, k := range m.Disks {
				r.VMs[i].DiskBytes += k.Bytes
			}
		}
		if r.VMs[i].State == wire.CopyRunning {
			a.addresses(ctx, &r.VMs[i], q.nic)
		}
	}
	r.Volumes = a.keptVolumes()
	return r
}

// reportBases tells which base images are here, what they take, and what of that nothing needs.
func (a *Agent) reportBases(r *wire.HostReport, bases []Base) {
	for _, b := range bases {
		r.Images = append(r.Images, b.Digest)
		r.ImageBytes += b.Bytes
		if !a.names(b.Digest) {
			r.UnusedBytes += b.Bytes
		}
	}
}

// addresses tells what a VM was seen with. What it may have comes first, and what was seen last: a guest that takes many addresses
// hides none of those that matter.
func (a *Agent) addresses(ctx context.Context, r *wire.VMReport, nic wire.NICOrder) {
	mac, err := net.ParseMAC(nic.MAC)
	if err != nil {
		return
	}
	seen, err := a.o.Networks.Seen(ctx, nic.Network, mac)
	if err != nil {
		a.log.Warn("cannot see the addresses of a VM", "uid", r.VM, "mac", nic.MAC, "err", err)
		return
	}
	planned := func(s network.Sighting) bool { return s.Addr.String() == nic.IPv4 || s.Addr.String() == nic.IPv6 }
	rank := func(s network.Sighting) int {
		switch {
		case planned(s):
			return 0
		case s.Refused:
			return 2
		}
		return 1
	}
	slices.SortFunc(seen, func(x, y network.Sighting) int {
		return cmp.Or(rank(x)-rank(y), y.At.Compare(x.At), x.Addr.Compare(y.Addr), cmp.Compare(x.Source, y.Source))
	})
	now := time.Now()
	for _, s := range seen[:min(len(seen), wire.MaxSeen)] {
		r.Addresses = append(r.Addresses, wire.SeenAddress{Address: s.Addr, Source: api.AddressSource(s.Source), Age: max(0, int64(now.Sub(s.At)/time.Second)), Refused: s.Refused})
		switch { // for controllers of older releases
		case !planned(s):
		case s.Addr.Is4():
			r.IPv4Seen = s.Addr
		default:
			r.IPv6Seen = s.Addr
		}
	}
}
