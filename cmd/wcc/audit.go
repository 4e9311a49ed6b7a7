package main

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"widecloud/api"
)

type auditCmd struct {
	Actor  string        `help:"Only what this user did; agent:HOST and peer:SITE are agents and peers, agent: and peer: all of them, - whoever is not known." placeholder:"NAME"`
	Kind   string        `help:"Only what concerns objects of this kind: vms, hosts, …" placeholder:"KIND"`
	Name   string        `help:"Only what concerns the object of this name." placeholder:"NAME"`
	Verb   string        `help:"Only this operation: create-vm, delete-vm, …" placeholder:"VERB"`
	Result string        `help:"Only what was done, refused, or failed." enum:",done,refused,failed" default:"" placeholder:"done|refused|failed"`
	Since  time.Duration `help:"Only the last so long: 1h." placeholder:"TIME"`
	Limit  int           `help:"At most so many, the newest." default:"100"`
	Follow bool          `short:"f" help:"Go on: show each entry as it comes."`
	Output string        `short:"o" help:"How: table, or json, a line for each entry." enum:"table,json" default:"table"`
}

// Run shows who did what, the newest last.
func (c *auditCmd) Run(a *app) error {
	client, err := a.client()
	if err != nil {
		return err
	}
	if c.Limit < 1 {
		return usagef("--limit: must be at least 1")
	}
	q := api.AuditQuery{Actor: c.Actor, Kind: kindNamed(c.Kind), Name: c.Name, Verb: c.Verb, Result: api.AuditResult(c.Result)}
	if c.Since > 0 {
		q.Since = time.Now().Add(-c.Since)
	}
	entries, err := c.page(a, client, q)
	if err != nil {
		return err
	}
	rows := [][]string{auditHead}
	for _, e := range entries {
		rows = append(rows, auditRow(e))
	}
	if c.Output == "json" {
		err = c.lines(a, entries)
	} else if len(entries) > 0 || !c.Follow {
		err = a.out.table(rows)
	}
	if err != nil || !c.Follow {
		return err
	}
	return c.follow(a, client, q, entries, rows)
}

var auditHead = []string{"TIME", "ACTOR", "FROM", "VERB", "OBJECT", "RESULT", "WHAT"}

// kindNamed is a kind by its own name or by that of one object: "vm" is vms.
func kindNamed(name string) api.Kind {
	if n, ok := nounNamed(name); ok {
		return n.Kind
	}
	return api.Kind(name)
}

// page reads up to Limit entries, and gives the newest last.
func (c *auditCmd) page(a *app, client *api.Client, q api.AuditQuery) (out []api.AuditEntry, err error) {
	for len(out) < c.Limit {
		q.Limit = min(c.Limit-len(out), 1000)
		p, err := client.Audit(a, q)
		if err != nil {
			return nil, err
		}
		out = append(out, p.Items...)
		if q.Before = p.Next; p.Next == 0 {
			break
		}
	}
	slices.Reverse(out)
	return out, nil
}

// follow shows what comes after the entries that were shown, until it is interrupted.
func (c *auditCmd) follow(a *app, client *api.Client, q api.AuditQuery, shown []api.AuditEntry, rows [][]string) error {
	width := make([]int, len(auditHead))
	for _, row := range rows {
		for i, cell := range row {
			width[i] = max(width[i], len([]rune(cell)))
		}
	}
	if q.Before, q.Limit = 0, 1000; len(shown) > 0 {
		q.After = shown[len(shown)-1].ID
	}
	for {
		p, err := client.AuditAfter(a, q, 25*time.Second)
		for older := p; err == nil && older.Next > 0; { // much came at once
			more := q
			more.Before = older.Next
			if older, err = client.Audit(a, more); err == nil {
				p.Items = append(p.Items, older.Items...)
			}
		}
		if a.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		for _, e := range slices.Backward(p.Items) {
			q.After = e.ID
			if c.Output == "json" {
				err = a.out.jsonLine(e)
			} else {
				err = a.out.row(auditRow(e), width)
			}
			if err != nil {
				return err
			}
		}
	}
}

func (c *auditCmd) lines(a *app, entries []api.AuditEntry) error {
	for _, e := range entries {
		if err := a.out.jsonLine(e); err != nil {
			return err
		}
	}
	return nil
}

func auditRow(e api.AuditEntry) []string {
	actor := e.Actor
	if actor == "" {
		actor = "(not known)"
	}
	object := ""
	if e.Kind != "" {
		object = strings.TrimSuffix(string(e.Kind)+"/"+e.Name, "/")
	}
	return []string{stamp(e.Time), actor, e.Address, e.Verb, object, string(e.Result), whatOf(e)}
}

// whatOf says what an entry's changes are, or why there are none.
func whatOf(e api.AuditEntry) string {
	var parts []string
	if e.Result != api.AuditDone {
		parts = append(parts, strings.TrimSuffix(strings.TrimSpace(string(e.Code)+" "+e.Field)+": "+e.Message, ": "))
	}
	for _, c := range e.Changes {
		text := c.Change + " " + c.Object
		if c.Object == string(e.Kind)+"/"+e.Name {
			text = c.Change
		}
		if len(c.Fields) > 0 {
			text += " (" + strings.Join(c.Fields, ", ") + ")"
		}
		parts = append(parts, text)
	}
	if e.More > 0 {
		parts = append(parts, fmt.Sprintf("%d more", e.More))
	}
	if e.Omitted > 0 {
		parts = append(parts, fmt.Sprintf("%d refusals before this one have no entry", e.Omitted))
	}
	return strings.Join(parts, "; ")
}
