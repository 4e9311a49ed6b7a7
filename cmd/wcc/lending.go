package main

import (
	"fmt"
	"time"

	"widecloud/api"
)

type offerGroup struct {
	List   listCmd[api.Offer, *api.Offer]   `cmd:"" help:"List this site's offers and its peers'."`
	Show   showCmd[api.Offer, *api.Offer]   `cmd:"" help:"Show an offer."`
	Create offerCreateCmd                   `cmd:"" help:"Offer to lend."`
	Delete deleteCmd[api.Offer, *api.Offer] `cmd:"" help:"Withdraw offers; loans under them are reclaimed first."`
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

type loanGroup struct {
	List    listCmd[api.Loan, *api.Loan] `cmd:"" help:"List what is lent and borrowed."`
	Show    showCmd[api.Loan, *api.Loan] `cmd:"" help:"Show a loan."`
	Request loanRequestCmd               `cmd:"" help:"Borrow under a peer's offer."`
	Reclaim loanReclaimCmd               `cmd:"" help:"Take a loan back: guests have the offer's grace to leave."`
	Return  loanReturnCmd                `cmd:"" help:"Give a loan back."`
}

type loanRequestCmd struct {
	Lender string `arg:"" help:"The site that lends." complete:"peers"`
	Offer  string `arg:"" help:"Its offer." complete:"offers"`
	resources
	format
}

func (c *loanRequestCmd) Run(a *app) error {
	client, err := a.client()
	if err != nil {
		return err
	}
	loan, err := client.Borrow(a, c.Lender, c.Offer, c.api())
	if err != nil {
		return err
	}
	return c.done(a, loan, fmt.Sprintf("%s: %s of %s", loan.Status.State, amount(loan.Spec.Amount), loan.Spec.Lender))
}

type loanReclaimCmd struct {
	Name string `arg:"" help:"The loan." complete:"self"`
	format
}

func (c *loanReclaimCmd) Run(a *app) error {
	client, err := a.client()
	if err != nil {
		return err
	}
	loan, err := client.Reclaim(a, c.Name)
	if err != nil {
		return err
	}
	return c.done(a, loan, string(loan.Status.State))
}

type loanReturnCmd struct {
	Name string `arg:"" help:"The loan." complete:"self"`
	format
}

func (c *loanReturnCmd) Run(a *app) error {
	client, err := a.client()
	if err != nil {
		return err
	}
	loan, err := client.Return(a, c.Name)
	if err != nil {
		return err
	}
	return c.done(a, loan, string(loan.Status.State))
}
