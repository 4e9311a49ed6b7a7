package main

import (
	"time"

	"widecloud/api"
)

var _ = present[offerGroup](api.KindOffer,
	col("FROM", func(o *api.Offer) string { return o.Home }),
	col("TO", func(o *api.Offer) string { return list(o.Spec.To) }),
	col("LENDS", func(o *api.Offer) string { return amount(o.Spec.LendLimit) }),
	col("LENT", func(o *api.Offer) string { return amount(o.Status.Lent) }),
	col("GRACE", func(o *api.Offer) string { return o.Spec.Grace.Duration().String() }),
	wide("PER-BORROWER", func(o *api.Offer) string { return optional(o.Spec.BorrowLimit) }),
	wide("LEASE", func(o *api.Offer) string { return o.Spec.Lease.Duration().String() }),
	wide("ON-RECLAIM", func(o *api.Offer) string { return string(o.Spec.OnReclaim) }),
)

type offerGroup struct {
	List   listCmd        `cmd:"" help:"List this site's offers and its peers'."`
	Show   showCmd        `cmd:"" help:"Show an offer."`
	Create offerCreateCmd `cmd:"" help:"Offer to lend."`
	Delete deleteCmd      `cmd:"" help:"Withdraw offers; loans under them are reclaimed first."`
}

type offerCreateCmd struct {
	Name string   `arg:"" help:"Its name."`
	To   []string `required:"" help:"Sites that may borrow, or * for every peer." placeholder:"SITE" complete:"sites"`
	resources
	PerBorrower resources         `embed:"" prefix:"each-" help:"At most this much for one borrower."`
	Lease       time.Duration     `default:"1h" help:"A loan that is not renewed for so long ends."`
	Grace       time.Duration     `default:"10m" help:"Time that a borrower has to leave after a reclaim."`
	OnReclaim   api.ReclaimAction `enum:"stop" default:"stop" help:"What becomes of guests that are still there then: stop."`
	labelled
	format
}

func (c *offerCreateCmd) Run(a *app) error {
	o := &api.Offer{Meta: api.Meta{Name: c.Name}, Spec: api.OfferSpec{To: c.To, LendLimit: c.api(),
		Lease: api.Seconds(c.Lease.Seconds()), Grace: api.Seconds(c.Grace.Seconds()), OnReclaim: c.OnReclaim}}
	if c.PerBorrower != (resources{}) {
		each := c.PerBorrower.api()
		o.Spec.BorrowLimit = &each
	}
	return create(a, c.format, c.labelled, o)
}
