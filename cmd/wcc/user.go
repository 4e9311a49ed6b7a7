package main

import (
	"strconv"

	"widecloud/api"
)

var _ = present[userGroup](api.KindUser,
	col("OWNER", func(o *api.User) string { return o.Owner }),
	col("ADMIN", func(o *api.User) string { return yes(o.Spec.Admin) }),
	col("TOKENS", func(o *api.User) string { return strconv.Itoa(len(o.Status.Tokens)) }),
)

type userGroup struct {
	List   listCmd        `cmd:"" help:"List users."`
	Show   showCmd        `cmd:"" help:"Show a user."`
	Create userCreateCmd  `cmd:"" help:"Make a user; wcc user token gives it a token."`
	Token  userTokenGroup `cmd:"" help:"Make, list and revoke tokens."`
	Delete deleteCmd      `cmd:"" help:"Delete users and their tokens."`
}

type userCreateCmd struct {
	Name  string `arg:"" help:"Its name."`
	Owner string `help:"Organisation that it belongs to." complete:"owners"`
	Admin bool   `help:"It may do everything at this site."`
	labelled
	format
}

func (c *userCreateCmd) Run(a *app) error {
	return create(a, c.format, c.labelled, &api.User{Meta: api.Meta{Name: c.Name, Owner: c.Owner}, Spec: api.UserSpec{Admin: c.Admin}})
}
