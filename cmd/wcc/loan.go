package main

import (
	"fmt"

	"widecloud/api"
)

var _ = present[loanGroup](api.KindLoan,
	col("STATE", func(o *api.Loan) string { return string(o.Status.State) }),
	col("LENDER", func(o *api.Loan) string { return o.Spec.Lender }),
	col("BORROWER", func(o *api.Loan) string { return o.Spec.Borrower }),
	col("AMOUNT", func(o *api.Loan) string { return amount(o.Spec.Amount) }),
	col("USED", func(o *api.Loan) string { return amount(o.Status.Used) }),
	wide("OFFER", func(o *api.Loan) string { return o.Spec.Offer }),
	wide("EXPIRES", func(o *api.Loan) string { return stamp(o.Status.Expires) }),
	wide("MESSAGE", func(o *api.Loan) string { return o.Status.Message }),
)

type loanGroup struct {
	List    listCmd        `cmd:"" help:"List what is lent and borrowed."`
	Show    showCmd        `cmd:"" help:"Show a loan."`
	Request loanRequestCmd `cmd:"" help:"Borrow under a peer's offer."`
	Reclaim loanReclaimCmd `cmd:"" help:"Take a loan back: guests have the offer's grace to leave."`
	Return  loanReturnCmd  `cmd:"" help:"Give a loan back."`
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
