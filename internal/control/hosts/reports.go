package hosts

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"widecloud/api"
	"widecloud/internal/cloud"
	"widecloud/internal/control/objects"
	"widecloud/internal/state"
	"widecloud/internal/store"
	"widecloud/internal/wire"
)

// seeHost keeps what an agent says of its host. Roles are its admin's to give: what the agent is configured for is shown, and
// can only be less.
func (hs *Hosts) seeHost(tx *state.Tx, h *api.Host, r wire.HostReport) error {
	if h.Status.Message == hostLost {
		hs.Event(tx, "host.back", "hosts/"+h.Name, "", fmt.Sprintf("its agent was not reached for %v", hs.Now().Sub(h.Status.Since).Round(time.Second)))
	}
	if !h.Status.Connected {
		h.Status.Connected, h.Status.Since = true, hs.Now()
	}
	h.Status.Roles = r.Roles
	h.Status.VTEP, h.Status.Hypervisor, h.Status.CPU, h.Status.Capacity = r.VTEP.String(), r.Hypervisor, r.CPU, r.Capacity
	h.Status.Images, h.Status.Message = r.Images, r.Message
	h.Status.ImageBytes, h.Status.UnusedImageBytes = r.ImageBytes, r.UnusedBytes
	for _, role := range r.Roles {
		if !slices.Contains(h.Spec.Roles, role) {
			h.Status.Message = fmt.Sprintf("its agent is configured as %s, which it is not here (spec.roles); %s", role, r.Message)
		}
	}
	var err error
	if h.Status.Allotted, err = hs.rooms.Allotted(tx, h.Name, ""); err != nil {
		return err
	}
	return objects.Put(tx, h)
}

// showReportRefused shows at a host why its agent's report is not taken. What it said before stays in force.
func (hs *Hosts) showReportRefused(ctx context.Context, host string, why error) {
	if _, err := objects.Change(ctx, hs.Site, host, func(_ *state.Tx, h *api.Host) error {
		h.Status.Message = "its agent's report is refused: " + cloud.Line(why.Error(), objects.MaxText)
		return nil
	}); err != nil && ctx.Err() == nil {
		hs.Log.Error("show why a report is refused", "host", host, "err", err)
	}
}

// Report takes what an agent sees, once it is judged. It returns when it is written. Reports that come together are written together: a
// State commits what waits in one go.
func (hs *Hosts) Report(ctx context.Context, host string, said wire.HostReport) error {
	if err := hs.judgeReport(&said); err != nil {
		hs.showReportRefused(ctx, host, err)
		return err
	}
	var then []func() // what follows once it is written
	// What is seen replaces what was seen; a full disk must not hide that a VM has ended.
	err := hs.Write(store.Urgent(ctx), func(tx *state.Tx) (err error) {
		then, err = hs.see(tx, host, said)
		return err
	})
	if errors.Is(err, &api.Error{Code: api.CodeInvalid}) || errors.Is(err, &api.Error{Code: api.CodeRefused}) {
		hs.showReportRefused(ctx, host, err)
	}
	if err != nil {
		return err
	}
	hs.used.set(host, said.Usage)
	if t := said.Translator; t != nil {
		hs.networks.Carried(host, t.Outcomes, t.Traffic)
	}
	for _, f := range then {
		f()
	}
	return nil
}

// see keeps what a host's agent says of the host and its translator, and has the others keep what it says of VMs.
func (hs *Hosts) see(tx *state.Tx, host string, said wire.HostReport) (then []func(), err error) {
	h, err := objects.Get[api.Host](tx, host)
	if err != nil {
		return nil, err
	}
	if err := hs.judgeVTEP(tx, host, said.VTEP); err != nil {
		return nil, err
	}
	if err := hs.seeHost(tx, h, said); err != nil {
		return nil, err
	}
	translator := said.Translator
	if !slices.Contains(h.Spec.Roles, api.RoleGateway) {
		translator = nil
	}
	if err := hs.networks.ReportTranslator(tx, host, translator); err != nil {
		return nil, err
	}
	seen := map[string]wire.VMReport{}
	for _, v := range said.VMs {
		seen[v.VM] = v
	}
	for _, observe := range hs.observers {
		f, err := observe(tx, host, seen)
		if err != nil {
			return nil, err
		}
		if f != nil {
			then = append(then, f)
		}
	}
	return then, hs.volumes(tx, host, said.Volumes)
}

// Observer keeps what a host's agent reports of copies of VMs, by their UIDs. then, if not nil, is called once it is written.
type Observer func(tx *state.Tx, host string, seen map[string]wire.VMReport) (then func(), err error)

// VolumeObserver keeps what a host's agent reports of volumes that no VM has.
type VolumeObserver func(tx *state.Tx, host string, seen []wire.VolumeReport) error
