package rooms

import (
	"cmp"

	"widecloud/api"
	"widecloud/internal/control/objects"
	"widecloud/internal/place"
	"widecloud/internal/state"
	"widecloud/internal/wire"
)

// Here is this site as placement sees it.
func (rs *Rooms) Here(tx *state.Tx, exceptJob string) (place.Site, error) {
	s := place.Site{Name: rs.Name, Self: true, Reached: true}
	for h := range objects.Each[api.Host](tx) {
		seen, err := rs.host(tx, h, exceptJob)
		if err != nil {
			return s, err
		}
		s.Hosts = append(s.Hosts, seen)
	}
	return s, nil
}

// host is a host of this site as placement sees it.
func (rs *Rooms) host(tx *state.Tx, h *api.Host, exceptJob string) (place.Host, error) {
	allotted, err := rs.Allotted(tx, h.Name, exceptJob)
	return place.Host{
		Name: h.Name, Roles: objects.Roles(h), Connected: h.Status.Connected, Cordoned: h.Spec.Cordoned || h.Deleting,
		Capacity: h.Status.Capacity, Allotted: allotted, CPU: h.Status.CPU, Images: h.Status.Images,
	}, err
}

// Snapshot is everything that placement sees: this site and what its peers lend it. What one VM takes of loans is left out: it is
// that one's own to take.
func (rs *Rooms) Snapshot(tx *state.Tx, exceptVM string) (place.Snapshot, error) {
	self, err := rs.Here(tx, "")
	if err != nil {
		return place.Snapshot{}, err
	}
	out := place.Snapshot{Sites: []place.Site{self}}
	for p := range objects.Each[api.Peer](tx) {
		s, err := rs.peer(tx, p.Name, exceptVM)
		if err != nil {
			return out, err
		}
		out.Sites = append(out.Sites, s)
	}
	return out, nil
}

// Only is what placement sees of one place.
func (rs *Rooms) Only(tx *state.Tx, c place.Choice) (out place.Snapshot, err error) {
	if c.Site != rs.Name {
		s, err := rs.peer(tx, c.Site, "")
		return place.Snapshot{Sites: []place.Site{s}}, err
	}
	h, err := objects.Find[api.Host](tx, c.Host)
	if err != nil {
		return out, err
	}
	seen, err := rs.host(tx, h, "")
	return place.Snapshot{Sites: []place.Site{{Name: rs.Name, Self: true, Reached: true, Hosts: []place.Host{seen}}}}, err
}

// peer is a peer as placement sees it.
func (rs *Rooms) peer(tx *state.Tx, name, exceptVM string) (place.Site, error) {
	session, err := rs.Federation.Session(name, false)
	s := place.Site{Name: name, Reached: err == nil}
	if err == nil && session.Can(wire.CapDisplay) {
		s.Profile = api.NewestProfile
	}
	if err == nil && session.Can(wire.CapDisks) {
		s.Disks = api.MaxDisks
	}
	for l := range objects.By[api.Loan](tx, "lender", name) {
		if l.Spec.Borrower != rs.Name {
			continue
		}
		used, err := rs.Borrowed(tx, l.Name, exceptVM)
		if err != nil {
			return s, err
		}
		s.Loans = append(s.Loans, place.Loan{Name: l.Name, State: l.Status.State, Amount: l.Spec.Amount, Used: used})
	}
	offers, err := rs.OffersOf(tx, name)
	for _, o := range offers {
		s.CPUs = append(s.CPUs, o.CPUs...)
	}
	return s, err
}

// Request is a VM as placement sees it.
func (rs *Rooms) Request(tx *state.Tx, v *api.VM) (place.Request, error) {
	needs, err := rs.Needs(tx, v)
	if err != nil {
		return place.Request{}, err
	}
	lent, err := rs.lentNeeds(tx, v, needs)
	if err != nil {
		return place.Request{}, err
	}
	r := place.Request{Needs: needs, Lent: lent, CPUModel: CPUModel(v), Profile: api.ProfileOf(v), Disks: len(v.Status.Disks), Sites: v.Spec.Sites}
	if v.Status.Host != "" {
		r.Arch = v.Status.CPU.Arch // what is on its disk
	}
	if v.Status.Machine != (api.Machine{}) {
		r.Disks = max(r.Disks, 1) // releases without further disks have no pending changes either
	}
	if v.Status.Host != "" && (v.Spec.Power == api.PowerOn || Asleep(v)) {
		r.Accel = v.Status.CPU.Accel
	}
	if img, err := objects.Find[api.Image](tx, v.Spec.Image); err == nil {
		r.Image = img.Status.Digest
	}
	return r, nil
}

// CPUModel is the guest CPU model of a VM: its user's choice, or the baseline of the host where it ran first, which it keeps.
func CPUModel(v *api.VM) string { return cmp.Or(v.Spec.CPUModel, v.Status.CPU.Model) }

// GuestCPU is what a guest of a model, or of none in particular, has on a host.
func GuestCPU(h *api.Host, model string) api.CPU {
	return api.CPU{Arch: h.Status.CPU.Arch, Accel: h.Status.CPU.Accel, Model: cmp.Or(model, h.Status.CPU.Model)}
}
