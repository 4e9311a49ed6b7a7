package vms

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"widecloud/api"
	"widecloud/internal/access"
	"widecloud/internal/cloud"
	"widecloud/internal/control/objects"
	"widecloud/internal/control/rooms"
	"widecloud/internal/lend"
	"widecloud/internal/place"
	"widecloud/internal/saga"
	"widecloud/internal/state"
)

// growth holds a VM that is made larger, hibernated or woken against the quota, and against the host or the loan where its room is.
func (vs *VMs) growth(tx *state.Tx, was, now *api.VM) error {
	before, err := vs.rooms.NeedsAt(tx, was, was.Status.Site)
	if err != nil {
		return err
	}
	after, err := vs.rooms.NeedsAt(tx, now, was.Status.Site)
	if err != nil || after == before {
		return err
	}
	had, err := vs.rooms.Needs(tx, was)
	if err != nil {
		return err
	}
	needs, err := vs.rooms.Needs(tx, now)
	if err != nil {
		return err
	}
	if err := vs.rooms.Quota(tx, now.Owner, lend.Sub(needs, had)); err != nil {
		return err
	}
	var reasons []api.Reason
	switch {
	case was.Status.Host == "":
	case was.Status.Site == vs.Name:
		reasons, err = vs.rooms.ShortOnHost(tx, was.Status.Host, before, after)
	default:
		if reasons = (peer{vs, was.Status.Site}).cannotResize(); len(reasons) == 0 {
			reasons, err = vs.rooms.ShortInLoan(tx, was.Status.Loan, before, after)
		}
	}
	if err != nil || len(reasons) == 0 {
		return err
	}
	at := was.Status.Site + "/" + was.Status.Host
	if was.Spec.Power != now.Spec.Power {
		return &api.Error{Code: api.CodeRefused, Field: "spec.power", Message: fmt.Sprintf("VM %s cannot be %s: there is no room for it at %s", now.Name, now.Spec.Power, at), Reasons: reasons}
	}
	return &api.Error{Code: api.CodeRefused, Field: "spec", Message: fmt.Sprintf("VM %s cannot have that size at %s", now.Name, at), Reasons: reasons}
}

// vmTodo is what the reconciler has to do with a VM.
func vmTodo(v *api.VM) string {
	switch {
	case v.Deleting:
		return "end"
	case v.Status.Host == "" && v.Spec.Power == api.PowerOn:
		return "place"
	case v.Status.Host != "" && v.Status.Site != v.Home:
		return "away"
	}
	return ""
}

// vmLife is what users do with VMs.
func (vs *VMs) vmLife() objects.Life[api.VM] {
	return objects.Life[api.VM]{Complete: completeVM, Faults: vs.vmFaults, Create: vs.createVM, Change: vs.changeVM, Delete: vs.endVM}
}

// vmFaults finds what a VM names and is not there. What was named before may stay: a site may have left since.
func (vs *VMs) vmFaults(tx *state.Tx, by access.Actor, was, now *api.VM) (faults []*api.Error, err error) {
	had := was
	if had == nil {
		had = &api.VM{}
		faults = vs.parts(tx, by, now)
	}
	faults = append(faults, vs.SitesKnown(tx, "spec.sites", now.Spec.Sites, had.Spec.Sites)...)
	if now.Spec.Place != had.Spec.Place {
		faults = append(faults, vs.placeKnown(tx, "spec.place", now.Spec.Place)...)
	}
	return append(faults, vs.volumeFaults(tx, by, had, now)...), nil
}

// createVM makes a VM and leads the service addresses to it that its user wants. One that cannot be had leaves nothing behind: all
// is one transaction. The error has every address that cannot be had.
func (vs *VMs) createVM(tx *state.Tx, by access.Actor, v *api.VM) error {
	wanted := v.Spec.Service
	v.Spec.Service = nil
	if err := vs.takeVolumes(tx, &api.VM{}, v); err != nil {
		return err
	}
	needs, err := vs.rooms.Needs(tx, v)
	if err != nil {
		return err
	}
	if err := vs.rooms.Quota(tx, v.Owner, needs); err != nil {
		return err
	}
	if err := vs.newVM(tx, v); err != nil {
		return err
	}
	firstDisks(v)
	if err := objects.Put(tx, v); err != nil {
		return err
	}
	var faults []*api.Error
	for i, service := range wanted {
		err := vs.networks.Lead(tx, by, service, v)
		var e *api.Error
		switch {
		case errors.As(err, &e):
			bare := *e
			bare.Field = fmt.Sprintf("spec.service[%d]", i)
			faults = append(faults, &bare)
		case err != nil:
			return err
		}
	}
	if len(faults) > 0 {
		return api.Faults(faults...)
	}
	return nil
}

func (vs *VMs) changeVM(tx *state.Tx, _ access.Actor, was, now *api.VM) error {
	// While a stopped VM moves, or its disk is read, the wish is kept for the end of that (orders.Of). Of a hibernated one the room for a
	// start is not kept.
	if was.Status.Job != "" && now.Spec.Power != was.Spec.Power && (rooms.Asleep(was) || !objects.KeepsStopped(tx, was.Status.Job)) {
		return &api.Error{Code: api.CodeConflict, Field: "spec.power", Message: fmt.Sprintf("job %s is at work on VM %s; wait for it or cancel it", was.Status.Job, was.Name)}
	}
	if now.Spec.Power != was.Spec.Power {
		if err := vs.mayRest(was, now); err != nil {
			return err
		}
		now.Status.PowerChanges++
	}
	if err := vs.takeVolumes(tx, was, now); err != nil {
		return err
	}
	if err := vs.changeMachine(tx, was, now); err != nil {
		return err
	}
	if err := vs.growth(tx, was, now); err != nil {
		return err
	}
	if err := vs.profiled(tx, was, now); err != nil {
		return err
	}
	return objects.Put(tx, now)
}

// mayRest refuses what the release where the VM is knows nothing of: to suspend it, to hibernate it, and to go on from its memory, which
// an older release would not look for.
func (vs *VMs) mayRest(was, now *api.VM) error {
	power := now.Spec.Power
	if was.Spec.Power == api.PowerHibernated && power == api.PowerOn {
		power = api.PowerHibernated
	}
	r := vs.guests.CannotRest(was.Status.Host, power)
	if was.Status.Site != vs.Name {
		r = peer{vs, was.Status.Site}.cannotRest(power)
	}
	if r == nil {
		return nil
	}
	return &api.Error{Code: api.CodeRefused, Field: "spec.power", Message: fmt.Sprintf("VM %s cannot be %s at %s/%s", was.Name, now.Spec.Power, was.Status.Site, was.Status.Host), Reasons: []api.Reason{*r}}
}

// profiled refuses a hardware profile that cannot be made where the VM's disk is.
func (vs *VMs) profiled(tx *state.Tx, was, now *api.VM) error {
	if now.Spec.Profile == was.Spec.Profile || was.Status.Host == "" {
		return nil
	}
	at := place.Choice{Site: was.Status.Site, Host: was.Status.Host}
	s, err := vs.rooms.Only(tx, at)
	if err != nil {
		return err
	}
	if most := s.Profile(at, api.NewestProfile); now.Spec.Profile > most {
		return &api.Error{Code: api.CodeRefused, Field: "spec.profile",
			Message: fmt.Sprintf("hardware profile %d cannot be made at %s, whose release makes up to %d", now.Spec.Profile, at, most)}
	}
	return nil
}

// endVM begins the end of a VM, and the job that does it: one, however often the deletion is asked for. The agents do the rest.
func (vs *VMs) endVM(tx *state.Tx, v *api.VM) error {
	if err := saga.Held("VM "+v.Name, v.Status.Job); err != nil {
		return err
	}
	if err := vs.keepsVolumes(tx, v); err != nil {
		return err
	}
	if deletionOf(tx, v.UID) == nil {
		if err := vs.beginDeletion(tx, v); err != nil {
			return err
		}
	}
	return objects.Put(tx, v)
}

// newVM gives a VM its addresses: the MAC follows from its UID, the IPv6 address from MAC and prefix (RFC 4291 App. A), the
// IPv4 address is the lowest that is free.
func (vs *VMs) newVM(tx *state.Tx, v *api.VM) error {
	n, err := objects.Get[api.Network](tx, v.Spec.Network)
	if err != nil {
		return api.Invalidf("spec.network", "no network is called %q", v.Spec.Network)
	}
	if _, err := objects.Get[api.Image](tx, v.Spec.Image); err != nil {
		return api.Invalidf("spec.image", "no image is called %q", v.Spec.Image)
	}
	if err := hostnameFree(tx, v.Spec.Network, v.Name, v.UID); err != nil {
		return err
	}
	mac := cloud.MAC(v.UID)
	v.Status = api.VMStatus{Phase: api.PhasePending, Since: vs.Now(), MAC: mac.String(), PowerChanges: 1}
	prefix, err := netip.ParsePrefix(n.Spec.Prefix)
	if err != nil {
		return fmt.Errorf("network %s: %w", n.Name, err)
	}
	v.Status.Addresses = append(v.Status.Addresses, api.VMAddress{Address: cloud.EUI64(prefix, mac).String(), Origin: api.OriginSLAAC})
	if n.Spec.IPv4 == "" {
		return nil
	}
	prefix4, err := netip.ParsePrefix(n.Spec.IPv4)
	if err != nil {
		return fmt.Errorf("network %s: %w", n.Name, err)
	}
	taken := map[string]bool{}
	for other := range objects.By[api.VM](tx, "network", v.Spec.Network) {
		for _, a := range other.Status.Addresses {
			if a.Origin == api.OriginDHCP { // what a guest claims takes nothing
				taken[a.Address] = true
			}
		}
	}
	for i := 1; ; i++ { // the first host address is the router's
		a := cloud.IPv4For(prefix4, i)
		if !a.IsValid() {
			return &api.Error{Code: api.CodeRefused, Field: "spec.network", Message: fmt.Sprintf("network %s has no IPv4 address left in %s", n.Name, prefix4)}
		}
		if !taken[a.String()] {
			v.Status.Addresses = append(v.Status.Addresses, api.VMAddress{Address: a.String(), Origin: api.OriginDHCP})
			return nil
		}
	}
}

// parts finds what a new VM is to be made of and is not there for its user.
func (vs *VMs) parts(tx *state.Tx, p access.Actor, v *api.VM) (faults []*api.Error) {
	for _, ref := range []struct {
		field string
		kind  api.Kind
		name  string
	}{{"spec.network", api.KindNetwork, v.Spec.Network}, {"spec.image", api.KindImage, v.Spec.Image}} {
		if _, err := vs.Visible(tx, p, ref.kind, ref.name); err != nil && ref.name != "" {
			faults = append(faults, api.Invalidf(ref.field, "no %s is called %.60q", ref.kind.Singular(), ref.name))
		}
	}
	return faults
}

// placeKnown finds what is wrong about SITE or SITE/HOST. Other sites' hosts are not known here.
func (vs *VMs) placeKnown(tx *state.Tx, field, place string) []*api.Error {
	site, host, split := strings.Cut(place, "/")
	if cloud.ValidateName("", site) != nil || split && cloud.ValidateName("", host) != nil {
		return nil // "" is no wish, and another check says what is wrong with the rest
	}
	if site != vs.Name {
		if _, err := objects.Get[api.Peer](tx, site); err != nil {
			return []*api.Error{api.Invalidf(field, "no site is called %q; wcc site list shows them", site)}
		}
		return nil
	}
	var e *api.Error
	if errors.As(vs.takesVMs(tx, field, host), &e) {
		return []*api.Error{e}
	}
	return nil
}

// takesVMs refuses a host of this site that is not there or is no hypervisor; "" is any host.
func (vs *VMs) takesVMs(tx *state.Tx, field, host string) error {
	if host == "" {
		return nil
	}
	h, err := objects.Get[api.Host](tx, host)
	if errors.Is(err, &api.Error{Code: api.CodeNotFound}) {
		return api.Invalidf(field, "no host of %s is called %q; wcc host list shows them", vs.Name, host)
	}
	if err == nil && !slices.Contains(h.Spec.Roles, api.RoleHypervisor) {
		return api.Invalidf(field, "host %s is no hypervisor: it cannot run VMs", host)
	}
	return err
}
