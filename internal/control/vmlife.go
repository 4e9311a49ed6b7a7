package control

import (
	"errors"
	"fmt"

	"widecloud/api"
	"widecloud/internal/access"
	"widecloud/internal/saga"
	"widecloud/internal/state"
)

// vmLife is what users do with VMs.
func (c *Controller) vmLife() life[api.VM] {
	return life[api.VM]{Faults: c.vmFaults, Create: c.createVM, Change: c.changeVM, Delete: c.endVM}
}

// vmFaults finds what a VM names and is not there. What was named before may stay: a site may have left since.
func (c *Controller) vmFaults(tx *state.Tx, by access.Actor, was, now *api.VM) (faults []*api.Error, err error) {
	had := was
	if had == nil {
		had = &api.VM{}
		faults = c.parts(tx, by, now)
	}
	faults = append(faults, c.sitesKnown(tx, "spec.sites", now.Spec.Sites, had.Spec.Sites)...)
	if now.Spec.Place != had.Spec.Place {
		faults = append(faults, c.placeKnown(tx, "spec.place", now.Spec.Place)...)
	}
	return faults, nil
}

// createVM makes a VM and leads the service addresses to it that its user wants. One that cannot be had leaves nothing behind: all
// is one transaction. The error has every address that cannot be had.
func (c *Controller) createVM(tx *state.Tx, by access.Actor, v *api.VM) error {
	wanted := v.Spec.Service
	v.Spec.Service = nil
	needs, err := c.needs(tx, v)
	if err != nil {
		return err
	}
	if err := c.quota(tx, v.Owner, needs); err != nil {
		return err
	}
	if err := c.newVM(tx, v); err != nil {
		return err
	}
	if err := put(tx, v); err != nil {
		return err
	}
	var faults []*api.Error
	for i, service := range wanted {
		err := c.lead(tx, by, service, v)
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

func (c *Controller) changeVM(tx *state.Tx, _ access.Actor, was, now *api.VM) error {
	if was.Status.Job != "" && now.Spec.Power != was.Spec.Power {
		return &api.Error{Code: api.CodeConflict, Field: "spec.power", Message: fmt.Sprintf("job %s is at work on VM %s; wait for it or cancel it", was.Status.Job, was.Name)}
	}
	if err := c.growth(tx, was, now); err != nil {
		return err
	}
	return put(tx, now)
}

// endVM begins the end of a VM. The deletion job and the agents do the rest.
func (c *Controller) endVM(tx *state.Tx, v *api.VM) error {
	if err := saga.Held("VM "+v.Name, v.Status.Job); err != nil {
		return err
	}
	return put(tx, v)
}
