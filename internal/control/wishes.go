package control

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"widecloud/api"
	"widecloud/internal/access"
	"widecloud/internal/cloud"
	"widecloud/internal/state"
	"widecloud/internal/store"
)

// judgeNew gives everything that is wrong about a new object at once. It gives the object what the site's address plan has
// for it first.
func (c *Controller) judgeNew(tx *state.Tx, p access.Actor, o api.Object) error {
	m := o.Metadata()
	if err := cloud.ValidateName("name", m.Name); err != nil {
		return err // the name is in what follows
	}
	k, err := c.known(tx, o.Kind())
	if err != nil {
		return err
	}
	if err := c.allot(o, k); err != nil {
		return err
	}
	faults := cloud.FaultsOf(o, k)
	if faults, err = c.planFaults(tx, o, faults); err != nil {
		return err
	}
	if m.Owner != "" && o.Kind() != api.KindOwner {
		if _, err := get[api.Owner](tx, m.Owner); err != nil {
			faults = append(faults, api.Invalidf("owner", "no owner is called %q; create it first: wcc owner create %s", m.Owner, m.Owner))
		}
	}
	if faults = append(faults, c.references(tx, p, nil, o)...); len(faults) > 0 {
		return api.Faults(faults...)
	}
	return nil
}

// judgeChange gives everything that is wrong about the change of an object at once.
func (c *Controller) judgeChange(tx *state.Tx, p access.Actor, was, now api.Object) error {
	k, err := c.known(tx, now.Kind())
	if err != nil {
		return err
	}
	k.Was = was
	faults := append(cloud.FaultsOf(now, k), cloud.UpdateFaults(was, now)...)
	if faults = append(faults, c.references(tx, p, was, now)...); len(faults) > 0 {
		return api.Faults(faults...)
	}
	return nil
}

// nameFree refuses a name that is taken. Names are one space for all owners of a site, because they are keys and paths: a
// user who may not see the other object learns that the name is taken, and nothing else of it.
func (c *Controller) nameFree(tx *state.Tx, p access.Actor, o api.Object) error {
	name := o.Metadata().Name
	if _, err := tx.Get(keyOf(o.Kind(), name)); errors.Is(err, store.ErrNotFound) {
		return nil
	} else if err != nil {
		return err
	}
	message := fmt.Sprintf("%s %q already exists", singular(o.Kind()), name)
	if _, err := c.visible(tx, p, o.Kind(), name); err != nil {
		message = fmt.Sprintf("the name %q is taken at this site by another owner; choose another name", name)
	}
	return &api.Error{Code: api.CodeExists, Field: "name", Message: message}
}

// references finds what an object names and is not there. What was named before may stay: a site may have left since.
func (c *Controller) references(tx *state.Tx, p access.Actor, was, now api.Object) (faults []*api.Error) {
	switch now := now.(type) {
	case *api.VM:
		had := &api.VM{}
		if was != nil {
			had = was.(*api.VM)
		} else {
			faults = c.parts(tx, p, now)
		}
		faults = append(faults, c.sitesKnown(tx, "spec.sites", now.Spec.Sites, had.Spec.Sites)...)
		if now.Spec.Place != had.Spec.Place {
			faults = append(faults, c.placeKnown(tx, "spec.place", now.Spec.Place)...)
		}
	case *api.Offer:
		var had []string
		if was != nil {
			had = was.(*api.Offer).Spec.To
		}
		faults = c.sitesKnown(tx, "spec.to", now.Spec.To, append(had, "*"))
		if i := slices.Index(now.Spec.To, c.o.Site); i >= 0 {
			faults = append(faults, api.Invalidf(fmt.Sprintf("spec.to[%d]", i), "%s is this site: a site does not lend to itself", c.o.Site))
		}
	}
	return faults
}

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

// planFaults holds what a new object's user named against the site's address plan and the hosts' own addresses, and adds what
// is wrong to faults: one for each field.
func (c *Controller) planFaults(tx *state.Tx, o api.Object, faults []*api.Error) ([]*api.Error, error) {
	who := cloud.Party{Owner: o.Metadata().Owner}
	var errs []error
	switch o := o.(type) {
	case *api.Network:
		if p, err := netip.ParsePrefix(o.Spec.IPv4); err == nil {
			errs = append(errs, c.o.Plan.CheckPrivate("spec.ipv4", p))
		}
		if p, err := netip.ParsePrefix(o.Spec.Prefix); err == nil {
			errs = append(errs, c.o.Plan.CheckNetwork("spec.prefix", p, who), c.clearOfHosts(tx, "spec.prefix", p))
		}
	case *api.Address:
		if x, err := netip.ParseAddr(o.Spec.Address); err == nil {
			errs = append(errs, c.o.Plan.CheckAddress("spec.address", x, who), c.clearOfHosts(tx, "spec.address", netip.PrefixFrom(x, x.BitLen())))
		}
	}
	for _, err := range errs {
		var e *api.Error
		switch {
		case err == nil:
		case !errors.As(err, &e):
			return nil, err
		case !slices.ContainsFunc(faults, func(f *api.Error) bool { return f.Field == e.Field }):
			faults = append(faults, e)
		}
	}
	return faults, nil
}
