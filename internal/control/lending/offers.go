package lending

import (
	"fmt"
	"slices"

	"widecloud/api"
	"widecloud/internal/access"
	"widecloud/internal/control/objects"
	"widecloud/internal/state"
)

func (ln *Lending) endOffer(tx *state.Tx, o *api.Offer) error {
	if o.Home != ln.Name {
		return api.Errorf(api.CodeForbidden, "offer %s is %s's", o.Name, o.Home)
	}
	loans, err := ln.rooms.LoansFromUs(tx)
	if err != nil {
		return err
	}
	for _, l := range loans {
		if l.Spec.Offer == o.Name && l.Status.State != api.LoanEnded {
			return objects.InUse(o, "spec.offer", "loan %s (reclaim it first: wcc loan reclaim %s)", l.Name, l.Name)
		}
	}
	return objects.Gone(tx, o)
}

// offerLife is what users do with offers.
func (ln *Lending) offerLife() objects.Life[api.Offer] {
	return objects.Life[api.Offer]{
		Faults: ln.offerFaults, Delete: ln.endOffer,
		Change: func(tx *state.Tx, _ access.Actor, _, now *api.Offer) error {
			if now.Home != ln.Name {
				return api.Errorf(api.CodeForbidden, "offer %s is %s's", now.Name, now.Home)
			}
			return objects.Put(tx, now)
		},
	}
}

// offerFaults finds whom an offer is to and is no peer. Who was named before may stay: a site may have left since.
func (ln *Lending) offerFaults(tx *state.Tx, _ access.Actor, was, now *api.Offer) ([]*api.Error, error) {
	had := []string{"*"}
	if was != nil {
		had = append(had, was.Spec.To...)
	}
	faults := ln.SitesKnown(tx, "spec.to", now.Spec.To, had)
	if i := slices.Index(now.Spec.To, ln.Name); i >= 0 {
		faults = append(faults, api.Invalidf(fmt.Sprintf("spec.to[%d]", i), "%s is this site: a site does not lend to itself", ln.Name))
	}
	return faults, nil
}
