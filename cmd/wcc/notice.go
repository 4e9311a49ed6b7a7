package main

import (
	"time"

	"widecloud/api"
)

var _ = present[noticeGroup](api.KindNotice,
	col("LEVEL", func(o *api.Notice) string { return string(o.Spec.Level) }),
	col("STATE", func(o *api.Notice) string { return string(o.Status.State) }),
	col("FROM", func(o *api.Notice) string { return stamp(o.Spec.From) }),
	col("UNTIL", func(o *api.Notice) string { return stamp(o.Spec.Until) }),
	col("FOR", func(o *api.Notice) string { return audience(o) }),
	col("TITLE", func(o *api.Notice) string { return o.Spec.Title }),
	wide("TEXT", func(o *api.Notice) string { return o.Spec.Text }),
)

// audience is whom a notice is for.
func audience(o *api.Notice) string {
	switch {
	case o.Owner != "":
		return o.Owner
	case len(o.Spec.Owners) > 0:
		return list(o.Spec.Owners)
	}
	return "all"
}

type noticeGroup struct {
	List   listCmd         `cmd:"" help:"List notices: those that are shown to you, and those that you may change."`
	Show   showCmd         `cmd:"" help:"Show a notice."`
	Create noticeCreateCmd `cmd:"" help:"Pin up a notice."`
	Edit   noticeEditCmd   `cmd:"" help:"Change a notice."`
	Delete deleteCmd       `cmd:"" help:"Take notices down."`
}

// noticeFields are what a notice says.
type noticeFields struct {
	Text   *string  `help:"What follows the title: plain text, at most 2000 characters." placeholder:"TEXT"`
	Level  string   `help:"How much it matters." enum:",info,warning,urgent" default:"" placeholder:"info|warning|urgent"`
	From   *when    `help:"When it is shown first: a time (RFC 3339), or in how long (2h)." placeholder:"TIME"`
	Until  *when    `help:"When it ends: a time (RFC 3339), or in how long (2h); none: when it is deleted." placeholder:"TIME"`
	Owners []string `name:"for" help:"Organisations whose users see it, of a notice of the site's own; left out: all." complete:"owners" placeholder:"OWNER"`
}

// fill puts into a spec what was given.
func (f noticeFields) fill(s *api.NoticeSpec) {
	if f.Text != nil {
		s.Text = *f.Text
	}
	if f.Level != "" {
		s.Level = api.NoticeLevel(f.Level)
	}
	if f.From != nil {
		s.From = f.From.Time
	}
	if f.Until != nil {
		s.Until = f.Until.Time
	}
	if f.Owners != nil {
		s.Owners = f.Owners
	}
}

// when is a time as people give it: one of RFC 3339, or in how long from now.
type when struct{ time.Time }

// UnmarshalText reads it.
func (w *when) UnmarshalText(b []byte) error {
	text := string(b)
	if text == "none" {
		*w = when{}
		return nil
	}
	if d, err := time.ParseDuration(text); err == nil {
		w.Time = time.Now().Add(d).UTC().Truncate(time.Second)
		return nil
	}
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return usagef("%q is neither a time such as 2026-12-01T18:00:00Z nor a length of time such as 2h", text)
	}
	w.Time = t
	return nil
}

type noticeCreateCmd struct {
	Name  string `arg:"" help:"Its name."`
	Title string `help:"What it says in one line, at most 120 characters." required:"" placeholder:"TEXT"`
	noticeFields
	Owner string `help:"Organisation that pins it up, for its own users; left out: the user's, or the site." complete:"owners"`
	labelled
	format
}

func (c *noticeCreateCmd) Run(a *app) error {
	n := &api.Notice{Meta: api.Meta{Name: c.Name, Owner: c.Owner}, Spec: api.NoticeSpec{Title: c.Title}}
	c.fill(&n.Spec)
	return create(a, c.format, c.labelled, n)
}

type noticeEditCmd struct {
	Name  string  `arg:"" help:"Its name." complete:"self"`
	Title *string `help:"What it says in one line." placeholder:"TEXT"`
	noticeFields
	format
}

func (c *noticeEditCmd) Run(a *app) error {
	client, err := a.client()
	if err != nil {
		return err
	}
	n, err := api.Edit(a, client, c.Name, func(n *api.Notice) error {
		if c.Title != nil {
			n.Spec.Title = *c.Title
		}
		c.fill(&n.Spec)
		return nil
	})
	if err != nil {
		return err
	}
	return c.done(a, n, "changed")
}
