package rooms

import (
	"fmt"

	"widecloud/api"
	"widecloud/internal/control/objects"
	"widecloud/internal/lend"
	"widecloud/internal/state"
)

// quotaFields are the fields of a request that ask for what a quota limits, by the quota's own field.
var quotaFields = map[string]string{"cpus": "spec.cpus", "memory_mib": "spec.memory_mib", "disk_gib": "spec.disk_gib", "addresses": "spec.address"}

// Quota holds an owner to what the site gives it; more is what it is to have beside what it has. The error has every field
// that is short.
func (rs *Rooms) Quota(tx *state.Tx, name string, more api.Resources) error {
	if name == "" {
		return nil
	}
	owner, err := objects.Get[api.Owner](tx, name)
	if err != nil || owner.Spec.Quota == nil {
		return err
	}
	used, err := rs.UsedBy(tx, name)
	if err != nil {
		return err
	}
	var short []*api.Error
	total := lend.Add(used, more)
	for _, l := range lend.Limits(*owner.Spec.Quota) {
		if l.Most != nil && l.Of(more) > 0 && l.Of(total) > *l.Most {
			short = append(short, &api.Error{Code: api.CodeRefused, Field: quotaFields[l.Name],
				Message: fmt.Sprintf("owner %s would use %d %s; its quota is %d", name, l.Of(total), l.Unit, *l.Most)})
		}
	}
	if len(short) > 0 {
		return api.Faults(short...)
	}
	return nil
}

// UsedBy is what an owner's VMs need, wherever they are, its volumes that no VM has, and its service addresses.
func (rs *Rooms) UsedBy(tx *state.Tx, owner string) (used api.Resources, err error) {
	for v := range objects.By[api.VM](tx, "owner", owner) {
		needs, err := rs.Needs(tx, v)
		if err != nil {
			return used, err
		}
		used = lend.Add(used, needs)
	}
	for v := range objects.By[api.Volume](tx, "owner", owner) {
		used = lend.Add(used, loose(v))
	}
	for range objects.By[api.Address](tx, "owner", owner) {
		used.Addresses++
	}
	return used, nil
}
