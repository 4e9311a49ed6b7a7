package main

import (
	"cmp"
	"fmt"
	"time"

	"widecloud/api"
)

// showDryRun says what the creation of a VM would come to. What it would be refused with is the error.
func (a *app) showDryRun(v *api.VM, d *api.VMDryRun) error {
	if q := d.Quota; q != nil {
		if err := a.out.printf("quota of %s: %s, then %s, of %s\n", q.Owner, amount(q.Before), amount(q.After), cmp.Or(quota(q.Quota), "no limit")); err != nil {
			return err
		}
	}
	if d.Refused != nil {
		return d.Refused
	}
	if d.Waits != "" {
		a.out.printf("first: %s\n", d.Waits)
	}
	for _, p := range d.Places {
		a.out.printf("%s\n", verdict(p))
		a.out.reasons(p.Reasons)
	}
	if l := d.Loan; l != nil {
		a.out.printf("loan %s: %s, then %s, of %s\n", l.Loan, amount(l.Before), amount(l.After), amount(l.Amount))
	}
	if c := d.Chosen(); c == nil {
		return a.out.printf("vm %s would be created, and wait for room\n", v.Name)
	}
	return a.out.printf("vm %s would be created; nothing was written\n", v.Name)
}

// verdict is a line about a site.
func verdict(p api.PlaceVerdict) string {
	free := fmt.Sprintf("%.0f %% of memory left", p.Free*100)
	switch {
	case p.Loan != "":
		free += " of loan " + p.Loan
	case p.Image:
		free += ", has the image"
	}
	at := place(p.Site, p.Host)
	switch p.Verdict {
	case api.PlaceChosen:
		return fmt.Sprintf("would go to %s: %s", at, free)
	case api.PlacePossible:
		return fmt.Sprintf("could go to %s: %s", at, free)
	case api.PlaceNoAnswer:
		if !p.Since.IsZero() {
			return fmt.Sprintf("no answer of %s: not reached since %s", at, p.Since.Format(time.DateTime))
		}
		return "no answer of " + at
	}
	return "not to " + at
}
