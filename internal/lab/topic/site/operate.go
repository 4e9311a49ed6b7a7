package site

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"widecloud/api"
	"widecloud/internal/lab/script"
	"widecloud/internal/lab/stage"
)

// operating are the statements about what a site's operator looks at.
var operating = [...]script.Entry{
	{
		Form: "notice at SITE \"TEXT\"", Part: script.Happens, Doc: "the site's operator pins up a notice for all",
		Parse: func(p *script.Parser) any {
			return &Pin{At: ref(p), Title: p.Quoted()}
		},
	},
	{
		Form: "expect notice at SITE \"TEXT\"", Part: script.Checks, Doc: "the site's users are shown a notice of that title",
		Parse: func(p *script.Parser) any {
			return &ExpectPin{At: ref(p), Title: p.Quoted()}
		},
	},
	{
		Form: "expect doctor of SITE finds FINDING [within TIME]", Part: script.Checks,
		Doc: "`wcc doctor` finds this: `peer.unreached`, `host.down`, …", Parse: func(p *script.Parser) any {
			e := &ExpectFinding{Of: ref(p)}
			p.OneOf("finds")
			e.ID = p.Next("finding").Text
			e.Within = p.Within(30 * time.Second)
			return e
		},
	},
	{
		Form: "expect doctor of SITE well [within TIME]", Part: script.Checks, Doc: "nothing is bad, by `wcc doctor`", Parse: func(p *script.Parser) any {
			e := &ExpectFinding{Of: ref(p)}
			p.OneOf("well")
			e.Within = p.Within(30 * time.Second)
			return e
		},
	},
	{
		Form: "expect audit of SITE has VERB by ACTOR", Part: script.Checks,
		Doc: "the audit log has that operation by a user, `agent:HOST` or `peer:SITE`", Parse: func(p *script.Parser) any {
			e := &ExpectAudit{Of: ref(p)}
			p.OneOf("has")
			e.Verb = p.Next("operation").Text
			p.OneOf("by")
			e.Actor = p.Next("actor").Text
			return e
		},
	},
}

// Pin pins up a notice.
type Pin struct {
	At    *Site
	Title string
}

// Do implements stage.Doer.
func (n *Pin) Do(ctx context.Context, _ *stage.Stage) error {
	_, err := api.Create(ctx, n.At.client, &api.Notice{Meta: api.Meta{Name: "notice-" + fmt.Sprint(time.Now().UnixMilli())}, Spec: api.NoticeSpec{Title: n.Title, Level: api.NoticeWarning}})
	return err
}

// ExpectPin expects that users are shown a notice.
type ExpectPin struct {
	At    *Site
	Title string
}

// Judge implements stage.Judge.
func (e *ExpectPin) Judge(ctx context.Context, _ *stage.Stage) (string, error) {
	all, _, err := api.List[api.Notice](ctx, e.At.Tenant())
	if err != nil {
		return "", err
	}
	var titles []string
	for _, n := range all {
		if n.Spec.Title == e.Title && n.Status.State == api.NoticeShown {
			return string(n.Spec.Level), nil
		}
		titles = append(titles, n.Spec.Title)
	}
	return "", fmt.Errorf("there are %q", titles)
}

// ExpectFinding expects what a site's doctor finds.
type ExpectFinding struct {
	Of     *Site
	ID     string // "": nothing bad
	Within time.Duration
}

// Judge implements stage.Judge.
func (e *ExpectFinding) Judge(ctx context.Context, _ *stage.Stage) (found string, err error) {
	err = stage.Until(ctx, e.Within, func(ctx context.Context) error {
		d, err := e.Of.client.Doctor(ctx)
		if err != nil {
			return err
		}
		var all []string
		for _, f := range d.Findings {
			if f.ID == e.ID {
				found = f.Message
				return nil
			}
			if e.ID != "" || f.Severity == api.SeverityBad {
				all = append(all, f.ID+": "+f.Message)
			}
		}
		if e.ID == "" && len(all) == 0 {
			return nil
		}
		return fmt.Errorf("it finds: %s", strings.Join(all, "; "))
	})
	return found, err
}

// ExpectAudit expects an entry in a site's audit log.
type ExpectAudit struct {
	Of          *Site
	Verb, Actor string
}

// Judge implements stage.Judge.
func (e *ExpectAudit) Judge(ctx context.Context, _ *stage.Stage) (string, error) {
	a, err := e.Of.client.Audit(ctx, api.AuditQuery{Verb: e.Verb, Actor: e.Actor})
	if err != nil {
		return "", err
	}
	if len(a.Items) > 0 {
		x := a.Items[0]
		return strings.TrimSuffix(string(x.Kind)+"/"+x.Name, "/") + " " + string(x.Result), nil
	}
	if a, err = e.Of.client.Audit(ctx, api.AuditQuery{}); err != nil {
		return "", err
	}
	var all []string
	for _, x := range a.Items {
		all = append(all, x.Verb+" by "+x.Actor)
	}
	slices.Sort(all)
	return "", fmt.Errorf("it has: %s", strings.Join(slices.Compact(all), ", "))
}
