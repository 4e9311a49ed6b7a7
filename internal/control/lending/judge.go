package lending

import (
	"fmt"
	"math"

	"widecloud/api"
	"widecloud/internal/cloud"
	"widecloud/internal/control/objects"
	"widecloud/internal/netplan"
	"widecloud/internal/wire"
)

// maxOffers is how many offers are taken of a peer.
const maxOffers = 100

// judgeOffers looks at what a peer offers. It speaks for its own gateways only.
func (ln *Lending) judgeOffers(from string, offers []wire.OfferBody) error {
	if len(offers) > maxOffers {
		return api.Invalidf("body.offers", "has %d offers, at most %d are possible", len(offers), maxOffers)
	}
	for i, o := range offers {
		at := fmt.Sprintf("body.offers[%d]", i)
		if len(o.Gateways) > netplan.MaxMembers {
			return api.Invalidf(at+".gateways", "has %d hosts, at most %d are possible", len(o.Gateways), netplan.MaxMembers)
		}
		for j, m := range o.Gateways {
			at := fmt.Sprintf("%s.gateways[%d]", at, j)
			if m.Site != from {
				return &api.Error{Code: api.CodeForbidden, Field: at + ".site", Message: fmt.Sprintf("is %.80q, and %s tells of it", m.Site, from)}
			}
			if err := ln.Judge().Member(at, m); err != nil {
				return err
			}
		}
		if err := cloud.CheckCPUs(at+".cpus", o.CPUs); err != nil {
			return err
		}
		shown := api.Offer{Meta: api.Meta{Name: o.Name}, Spec: o.Spec}
		cloud.Default(&shown)
		if err := cloud.Validate(&shown, cloud.Known{}); err != nil {
			return api.Invalidf(at+"."+objects.FieldOf(err, "spec"), "%s", cloud.Line(err.Error(), objects.MaxText))
		}
	}
	return nil
}

// judgeLocation looks at where a peer says that it is. Its name becomes a line that can be shown.
func judgeLocation(l *api.Location) error {
	if l == nil {
		return nil
	}
	if fault := l.Fault(); fault != nil {
		return api.Invalidf("body.location."+fault.Field, "%s", fault.Message)
	}
	l.Place = cloud.Line(l.Place, api.MaxPlace)
	return nil
}

// judgeLoan looks at a loan that a lender tells of, by itself.
func (ln *Lending) judgeLoan(from string, b wire.LoanBody) error {
	if b.Spec.Lender != from || b.Spec.Borrower != ln.Name {
		return api.Invalidf("body.spec", "a loan of %.80q to %.80q is not %s's to tell us of", b.Spec.Lender, b.Spec.Borrower, from)
	}
	if err := cloud.Validate(&api.Loan{Meta: api.Meta{Name: b.Name}, Spec: b.Spec}, cloud.Known{}); err != nil {
		return api.Invalidf("body."+objects.FieldOf(err, "spec"), "%s", cloud.Line(err.Error(), objects.MaxText))
	}
	if b.State != api.LoanActive && b.State != api.LoanReclaimed && b.State != api.LoanEnded {
		return api.Invalidf("body.state", "%.40q is not active, reclaimed or ended", b.State)
	}
	for field, s := range map[string]float64{"body.lease_seconds": b.LeaseSeconds, "body.grace_seconds": b.GraceSeconds} {
		if math.IsNaN(s) || s < 0 || s > maxSeconds {
			return api.Invalidf(field, "%v is not between 0 and %d (a year)", s, maxSeconds)
		}
	}
	return nil
}

const maxSeconds = 366 * 24 * 3600
