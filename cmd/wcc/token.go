package main

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
	"time"

	"widecloud/api"
)

type userTokenGroup struct {
	Create tokenCreateCmd `cmd:"" default:"withargs" help:"Make a new token; the word create may be left out."`
	List   tokenListCmd   `cmd:"" help:"List a user's tokens."`
	Revoke tokenRevokeCmd `cmd:"" help:"End tokens; watches and consoles that were opened by them end, too."`
}

type tokenCreateCmd struct {
	Name    string   `arg:"" help:"The user's name; - for yourself." complete:"users"`
	Expires lifetime `help:"How long it is good: 90d, 12h. Left out: for ever." placeholder:"TIME"`
	Note    string   `help:"What it is for."`
	format
}

// Run prints the token alone, so that a script can take it.
func (c *tokenCreateCmd) Run(a *app) error {
	client, err := a.client()
	if err != nil {
		return err
	}
	t, err := client.NewToken(a, c.Name, api.TokenRequest{Note: c.Note, Expires: api.Seconds(time.Duration(c.Expires).Seconds())})
	if err != nil {
		return err
	}
	switch c.Output {
	case "json":
		return a.out.json(t)
	case "yaml":
		return a.out.yaml(t)
	}
	return a.out.printf("%s\n", t.Token)
}

type tokenListCmd struct {
	Name   string `arg:"" optional:"" help:"The user's name; left out: yourself." complete:"users"`
	Output string `short:"o" help:"How: table, json or yaml." enum:"table,json,yaml" default:"table"`
}

func (c *tokenListCmd) Run(a *app) error {
	client, err := a.client()
	if err != nil {
		return err
	}
	tokens, err := client.Tokens(a, cmp.Or(c.Name, api.OwnTokens))
	if err != nil {
		return err
	}
	switch c.Output {
	case "json":
		return a.out.json(tokens)
	case "yaml":
		return a.out.yaml(tokens)
	}
	rows := [][]string{{"ID", "CREATED", "EXPIRES", "LAST-USED", "NOTE"}}
	for _, t := range tokens {
		rows = append(rows, dashed([]string{t.ID, stamp(t.Created), expires(t), stamp(t.LastUsed), t.Note}))
	}
	return a.out.table(rows)
}

func expires(t api.UserToken) string {
	switch {
	case t.Expires.IsZero():
		return "never"
	case t.Expires.Before(time.Now()):
		return stamp(t.Expires) + " (expired)"
	}
	return stamp(t.Expires)
}

type tokenRevokeCmd struct {
	Name string   `arg:"" help:"The user's name; - for yourself." complete:"users"`
	IDs  []string `arg:"" name:"id" help:"The tokens' ids, as wcc user token list shows them."`
}

func (c *tokenRevokeCmd) Run(a *app) error {
	client, err := a.client()
	if err != nil {
		return err
	}
	for _, id := range c.IDs {
		if err := client.RevokeToken(a, c.Name, id); err != nil {
			return fmt.Errorf("revoke token %s: %w", id, err)
		}
		if err := a.out.printf("token %s revoked\n", id); err != nil {
			return err
		}
	}
	return nil
}

// lifetime is a time for which something is good: 90d, 12h.
type lifetime time.Duration

// UnmarshalText reads whole days, or what time.ParseDuration does.
func (l *lifetime) UnmarshalText(b []byte) error {
	if days, ok := strings.CutSuffix(string(b), "d"); ok {
		if n, err := strconv.ParseUint(days, 10, 16); err == nil {
			*l = lifetime(time.Duration(n) * 24 * time.Hour)
			return nil
		}
	}
	d, err := time.ParseDuration(string(b))
	if err != nil || d <= 0 {
		return fmt.Errorf("%q is not a time such as 90d or 12h", b)
	}
	*l = lifetime(d)
	return nil
}
