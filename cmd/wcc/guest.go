package main

import (
	"strconv"

	"widecloud/api"
)

var _ = present[guestGroup](api.KindGuest,
	col("VM", func(o *api.Guest) string { return o.Spec.VM }),
	col("PHASE", func(o *api.Guest) string { return string(o.Status.Phase) }),
	col("HOST", func(o *api.Guest) string { return o.Spec.Host }),
	col("LOAN", func(o *api.Guest) string { return o.Spec.Loan }),
	col("NEEDS", func(o *api.Guest) string { return amount(o.Spec.Needs) }),
	wide("EPOCH", func(o *api.Guest) string { return strconv.FormatUint(o.Spec.Epoch, 10) }),
	wide("MESSAGE", func(o *api.Guest) string { return o.Status.Message }),
)

type guestGroup struct {
	List listCmd `cmd:"" help:"List guests."`
	Show showCmd `cmd:"" help:"Show a guest."`
}
