package serve

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"widecloud/api"
	"widecloud/internal/audit"
)

// maxWait is how long a request may wait for news, in seconds.
const maxWait = 30

type auditInput struct {
	Actor  string    `query:"actor" maxLength:"200" doc:"a user, agent:HOST or peer:SITE; agent: and peer: are all of these; - is whoever is not known"`
	Kind   string    `query:"kind" maxLength:"40" doc:"the kind of the object"`
	Name   string    `query:"name" maxLength:"80" doc:"the object's name"`
	Verb   string    `query:"verb" maxLength:"80" doc:"the operation, as this description names it"`
	Result string    `query:"result" enum:"done,refused,failed" doc:"what became of it"`
	Since  time.Time `query:"since" doc:"only entries since this time (RFC 3339)"`
	Before int64     `query:"before" minimum:"0" doc:"next of the page before: only older entries"`
	After  int64     `query:"after" minimum:"0" doc:"only entries that are newer than the one of this id"`
	Limit  int       `query:"limit" minimum:"1" maximum:"1000" doc:"at most so many; left out: 100"`
	Wait   int       `query:"wait" minimum:"0" maximum:"30" doc:"seconds to wait until there is an entry after that of after"`
}

func (in *auditInput) query() api.AuditQuery {
	return api.AuditQuery{Actor: in.Actor, Kind: api.Kind(in.Kind), Name: in.Name, Verb: in.Verb, Result: api.AuditResult(in.Result),
		Since: in.Since, Before: in.Before, After: in.After, Limit: in.Limit}
}

// registerAdmin makes the paths by which operators look at the site itself.
func (s *Server) registerAdmin(h huma.API) {
	op := s.operation("list-audit", http.MethodGet, "/v1/audit", "site", "Who did what, or tried to")
	op.Description = "The newest first. A member sees what concerns its organisation's objects. A page may have fewer entries than the limit and " +
		"still have a next one: the site looks at so many entries at a time. With wait, the answer comes once there is something new."
	huma.Register(h, op, func(ctx context.Context, in *auditInput) (*output[*api.Audit], error) {
		p := who(ctx)
		if !p.Admin && p.Owner == "" {
			return nil, s.fail(ctx, api.Errorf(api.CodeForbidden, "only an admin, or a member of an organisation, may read the audit log"))
		}
		if in.Wait > 0 {
			s.waitForAudit(ctx, in)
		}
		items, next := s.o.Audit.Page(in.query(), func(e api.AuditEntry) bool { return audit.Sees(p, e) })
		for i, e := range items {
			items[i] = audit.Shown(p, e)
		}
		return &output[*api.Audit]{&api.Audit{Items: items, Next: next}}, nil
	})

	op = s.operation("get-doctor", http.MethodGet, "/v1/doctor", "site", "What is wrong at the site, or soon will be, and what to do")
	op.Description = "As far as the controller knows. A member hears of its organisation's objects."
	huma.Register(h, op, func(ctx context.Context, _ *struct{}) (*output[*api.Diagnosis], error) {
		d, err := s.o.Controller.Doctor(ctx, who(ctx))
		return result(s, ctx, d, err)
	})

	op = s.operation("get-settings", http.MethodGet, "/v1/settings", "site", "The controller's configuration as it is in force")
	op.Description = "It is changed in the controller's file, which has no secrets, only the names of files that have some. For admins."
	huma.Register(h, op, func(ctx context.Context, _ *struct{}) (*output[*api.Settings], error) {
		if !who(ctx).Admin {
			return nil, s.fail(ctx, api.Errorf(api.CodeForbidden, "only an admin may read the site's settings"))
		}
		items := s.o.Settings
		if items == nil {
			items = []api.Setting{}
		}
		return &output[*api.Settings]{&api.Settings{Items: items}}, nil
	})
}

// waitForAudit returns when there is an entry for the request, or when it has waited long enough.
func (s *Server) waitForAudit(ctx context.Context, in *auditInput) {
	ctx, cancel := context.WithTimeout(ctx, time.Duration(min(in.Wait, maxWait))*time.Second)
	defer cancel()
	defer context.AfterFunc(s.running, cancel)()
	q, p := in.query(), who(ctx)
	q.Limit = 1
	for after := in.After; ; after = s.o.Audit.Last() {
		s.o.Audit.Wait(ctx, after)
		if ctx.Err() != nil {
			return
		}
		if found, _ := s.o.Audit.Page(q, func(e api.AuditEntry) bool { return audit.Sees(p, e) }); len(found) > 0 {
			return
		}
	}
}
