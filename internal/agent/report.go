package agent

import (
	"context"
	"net"
	"slices"
	"strings"
	"time"

	"widecloud/api"
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
		network, mac string
	}
	var asks []ask
	for _, v := range a.vms {
		if v.record.Order.VM == "" {
			continue // a call named it, and nothing came of it
		}
		r.VMs = append(r.VMs, wire.VMReport{VM: v.uid, Epoch: v.record.Order.Epoch, Serial: v.record.Order.Serial, State: v.state, Job: v.record.Job, Message: joined(v.message, v.diskMessage)})
		if v.record.Order.Run != wire.RunGone {
			asks = append(asks, ask{v, v.record.Order.NIC.Network, v.record.Order.NIC.MAC})
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
		r.Images = bases
	}
	for _, q := range asks {
		i := slices.IndexFunc(r.VMs, func(x wire.VMReport) bool { return x.VM == q.uid })
		if m := a.machine(ctx, q.vm); m != nil {
			r.VMs[i].Machine = m
			for _, k := range m.Disks {
				r.VMs[i].DiskBytes += k.Bytes
			}
		}
		if mac, err := net.ParseMAC(q.mac); err == nil && r.VMs[i].State == wire.CopyRunning {
			r.VMs[i].IPv4Seen, r.VMs[i].IPv6Seen = a.o.Networks.Seen(ctx, q.network, mac)
		}
	}
	return r
}
