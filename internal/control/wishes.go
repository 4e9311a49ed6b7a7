package control

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"widecloud/api"
	"widecloud/internal/access"
	"widecloud/internal/cloud"
	"widecloud/internal/state"
)

// parts finds what a new VM is to be made of and is not there for its user.
func (c *Controller) parts(tx *state.Tx, p access.Actor, v *api.VM) (faults []*api.Error) {
	for _, ref := range []struct {
		field string
		kind  api.Kind
		name  string
	}{{"spec.network", api.KindNetwork, v.Spec.Network}, {"spec.image", api.KindImage, v.Spec.Image}} {
		if _, err := c.visible(tx, p, ref.kind, ref.name); err != nil && ref.name != "" {
			faults = append(faults, api.Invalidf(ref.field, "no %s is called %.60q", singular(ref.kind), ref.name))
		}
	}
	return faults
}

// sitesKnown finds the sites of a list that are neither this site, nor a peer, nor in had.
func (c *Controller) sitesKnown(tx *state.Tx, field string, sites, had []string) (faults []*api.Error) {
	for i, name := range sites {
		if name != c.o.Site && !slices.Contains(had, name) {
			if _, err := get[api.Peer](tx, name); err != nil && cloud.ValidateName("", name) == nil {
				faults = append(faults, api.Invalidf(field+"["+strconv.Itoa(i)+"]", "no site is called %q; wcc site list shows them", name))
			}
		}
	}
	return faults
}

// placeKnown finds what is wrong about SITE or SITE/HOST. Other sites' hosts are not known here.
func (c *Controller) placeKnown(tx *state.Tx, field, place string) []*api.Error {
	site, host, split := strings.Cut(place, "/")
	if cloud.ValidateName("", site) != nil || split && cloud.ValidateName("", host) != nil {
		return nil // "" is no wish, and another check says what is wrong with the rest
	}
	if site != c.o.Site {
		if _, err := get[api.Peer](tx, site); err != nil {
			return []*api.Error{api.Invalidf(field, "no site is called %q; wcc site list shows them", site)}
		}
		return nil
	}
	var e *api.Error
	if errors.As(c.takesVMs(tx, field, host), &e) {
		return []*api.Error{e}
	}
	return nil
}

// takesVMs refuses a host of this site that is not there or is no hypervisor; "" is any host.
func (c *Controller) takesVMs(tx *state.Tx, field, host string) error {
	if host == "" {
		return nil
	}
	h, err := get[api.Host](tx, host)
	if errors.Is(err, &api.Error{Code: api.CodeNotFound}) {
		return api.Invalidf(field, "no host of %s is called %q; wcc host list shows them", c.o.Site, host)
	}
	if err == nil && !slices.Contains(h.Spec.Roles, api.RoleHypervisor) {
		return api.Invalidf(field, "host %s is no hypervisor: it cannot run VMs", host)
	}
	return err
}

// offerFaults finds whom an offer is to and is no peer. Who was named before may stay: a site may have left since.
func (c *Controller) offerFaults(tx *state.Tx, _ access.Actor, was, now *api.Offer) ([]*api.Error, error) {
	had := []string{"*"}
	if was != nil {
		had = append(had, was.Spec.To...)
	}
	faults := c.sitesKnown(tx, "spec.to", now.Spec.To, had)
	if i := slices.Index(now.Spec.To, c.o.Site); i >= 0 {
		faults = append(faults, api.Invalidf(fmt.Sprintf("spec.to[%d]", i), "%s is this site: a site does not lend to itself", c.o.Site))
	}
	return faults, nil
}
