package control

import (
	"errors"
	"fmt"

	"widecloud/api"
	"widecloud/internal/state"
	"widecloud/internal/wire"
)

// X_resize gives a stopped guest another size, if its loan and its host have room for it.
func (l *Controller) X_resize(tx *state.Tx, g *wire.Claim, size wire.GuestSize) error {
	order := g.Order
	order.Hardware = size.Hardware
	if order.Hardware == g.Order.Hardware && size.Needs == g.Needs {
		return nil
	}
	if g.Order.Run == wire.RunOn {
		return &api.Error{Code: api.CodeConflict, Field: "size", Message: fmt.Sprintf("guest %s is to run: its size changes while it is stopped", g.Order.Name)}
	}
	if err := order.Check("order"); err != nil {
		return err
	}
	if err := honest(order, size.Needs, g.Image); err != nil {
		return err
	}
	loan, err := get[api.Loan](tx, g.Loan)
	if err != nil {
		return err
	}
	reasons, err := l.admit(tx, *loan, g.VM, g.Job, size.Needs)
	if err != nil {
		return err
	}
	short, err := l.shortOnHost(tx, g.Host, g.Needs, size.Needs)
	if err != nil {
		return err
	}
	if reasons = append(reasons, short...); len(reasons) > 0 {
		return &api.Error{Code: api.CodeRefused, Field: "size", Message: "there is no room for guest " + g.Order.Name + " at its new size", Reasons: reasons}
	}
	g.Order, g.Needs = order, size.Needs
	guest, err := get[api.Guest](tx, g.Order.Name+"@"+g.Home)
	if err != nil {
		return err
	}
	guest.Spec.Needs = g.Needs
	return put(tx, guest)
}

// X_rehouse puts a guest whose loan is over under another one of its home's.
func (l *Controller) X_rehouse(tx *state.Tx, g *wire.Claim, name string) error {
	loan, err := get[api.Loan](tx, name)
	if errors.Is(err, &api.Error{Code: api.CodeNotFound}) {
		return api.Invalidf("loan", "there is no loan %q here", name)
	}
	if err != nil {
		return err
	}
	if loan.Spec.Borrower != g.Home || loan.Spec.Lender != l.o.Site {
		return &api.Error{Code: api.CodeForbidden, Field: "loan", Message: fmt.Sprintf("loan %s is not %s's to use here", name, g.Home)}
	}
	reasons, err := l.admit(tx, *loan, g.VM, g.Job, g.Needs)
	if err != nil {
		return err
	}
	if len(reasons) > 0 {
		return &api.Error{Code: api.CodeRefused, Field: "loan", Message: "the guest does not fit under loan " + name, Reasons: reasons}
	}
	g.Loan = name
	guest, err := get[api.Guest](tx, g.Order.Name+"@"+g.Home)
	if err != nil {
		return err
	}
	guest.Spec.Loan = name
	return put(tx, guest)
}
