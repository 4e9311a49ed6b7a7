package main

import "widecloud/api"

var _ = present[ownerGroup](api.KindOwner,
	col("TITLE", func(o *api.Owner) string { return o.Spec.Title }),
	col("USED", func(o *api.Owner) string { return amount(o.Status.Used) }),
	col("QUOTA", func(o *api.Owner) string { return quota(o.Spec.Quota) }),
)

type ownerGroup struct {
	List   listCmd        `cmd:"" help:"List organisations."`
	Show   showCmd        `cmd:"" help:"Show an organisation."`
	Create ownerCreateCmd `cmd:"" help:"Make an organisation."`
	Quota  ownerQuotaCmd  `cmd:"" help:"Change the limits that are named; without any: no limit."`
	Delete deleteCmd      `cmd:"" help:"Delete organisations."`
}

type ownerCreateCmd struct {
	Name  string `arg:"" help:"Its name."`
	Title string `help:"Its name in full."`
	labelled
	format
}

func (c *ownerCreateCmd) Run(a *app) error {
	return create(a, c.format, c.labelled, &api.Owner{Meta: api.Meta{Name: c.Name}, Spec: api.OwnerSpec{Title: c.Title}})
}

type ownerQuotaCmd struct {
	Name string `arg:"" help:"Its name." complete:"self"`
	limits
	format
}

func (c *ownerQuotaCmd) Run(a *app) error {
	client, err := a.client()
	if err != nil {
		return err
	}
	o, err := api.Edit(a, client, c.Name, func(o *api.Owner) error {
		var q api.Quota
		if o.Spec.Quota != nil {
			q = *o.Spec.Quota
		}
		if err := c.change(&q); err != nil {
			return err
		}
		if o.Spec.Quota = &q; c.limits == (limits{}) || q == (api.Quota{}) {
			o.Spec.Quota = nil
		}
		return nil
	})
	if err != nil {
		return err
	}
	if o.Spec.Quota == nil {
		return c.done(a, o, "has no limit")
	}
	return c.done(a, o, "may use "+quota(o.Spec.Quota))
}
