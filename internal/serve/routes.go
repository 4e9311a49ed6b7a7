package serve

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"reflect"
	"strconv"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"widecloud/api"
	"widecloud/internal/audit"
)

// object ties a noun's struct to its pointer, which is the api.Object.
type object[T any] interface {
	*T
	api.Object
}

// describe registers every operation and makes the OpenAPI description.
func (s *Server) describe() {
	c := huma.DefaultConfig("widecloud", s.o.Version)
	c.Info.Description = "The API of one site of a widecloud federation. Every noun has a spec (what is wanted) and a status " +
		"(what is seen). Errors are Error objects with a stable code."
	// No $schema links in the bodies, no pages that load scripts from elsewhere; the description is made once, below.
	c.CreateHooks, c.DocsPath, c.SchemasPath, c.OpenAPIPath = nil, "", "", ""
	// The Controller says which fields are needed: it knows more than "present", and it must anyway.
	c.FieldsOptionalByDefault = true
	c.RejectUnknownQueryParameters = true
	c.Components.SecuritySchemes = map[string]*huma.SecurityScheme{
		"bearer":  {Type: "http", Scheme: "bearer"},
		"session": {Type: "apiKey", In: "cookie", Name: sessionCookie},
	}
	c.Security = []map[string][]string{{"bearer": {}}, {"session": {}}}
	c.Components.Schemas.RegisterTypeAlias(reflect.TypeFor[errorBody](), reflect.TypeFor[api.Error]())
	h := humago.New(s.mux, c)

	for _, n := range api.Nouns() {
		s.register(h, n)
	}
	s.registerWatch(h)
	s.registerVerbs(h)
	s.registerStreams(h)
	s.registerSession(h)
	s.registerAdmin(h)

	s.verbs = verbsOf(h.OpenAPI())
	finishSchemas(c.Components.Schemas)
	spec, err := json.Marshal(h.OpenAPI())
	if err != nil {
		panic("serve: openapi: " + err.Error()) // of constant input: a test would have shown it
	}
	s.spec = spec
}

type (
	nameInput struct {
		Name string `path:"name" doc:"the object's name"`
	}
	createInput[T any] struct {
		OnceInput
		Body T
	}
	verbInput[T any] struct {
		Name string `path:"name" doc:"the object's name"`
		OnceInput
		Body T
	}
	bareVerbInput struct {
		Name string `path:"name" doc:"the object's name"`
		OnceInput
	}
	updateInput[T any] struct {
		Name string `path:"name" doc:"the object's name; the body's must be the same or left out"`
		IfMatchInput
		Body T
	}
	deleteInput struct {
		Name string `path:"name" doc:"the object's name"`
		IfMatchInput
	}
	output[T any]       struct{ Body T }
	objectOutput[T any] struct {
		ETag string `header:"ETag" doc:"of this revision of the object, for If-Match"`
		Body T
	}
	streamOutput    struct{ Body func(huma.Context) }
	noContentOutput struct{}
)

// operation is what all operations have in common.
func (s *Server) operation(id, method, path, tag, summary string) huma.Operation {
	return huma.Operation{
		OperationID: id, Method: method, Path: path, Tags: []string{tag}, Summary: summary, MaxBodyBytes: s.o.MaxBody,
		// The type body has its own: huma's stays on the connection and would cancel the context of a call that takes longer.
		BodyReadTimeout: -1,
	}
}

// nameOf is a noun's name as its operations have it: that of its type.
func nameOf(n api.Noun) string { return strings.ToLower(reflect.TypeOf(n.New()).Elem().Name()) }

// objectSchema refers to the schema of a noun's objects.
func objectSchema(h huma.API, n api.Noun) *huma.Schema {
	return h.OpenAPI().Components.Schemas.Schema(reflect.TypeOf(n.New()).Elem(), true, "")
}

// objectBody describes a request that has an object.
func objectBody(h huma.API, n api.Noun) *huma.RequestBody {
	return &huma.RequestBody{Content: map[string]*huma.MediaType{"application/json": {Schema: objectSchema(h, n)}}}
}

// objectOperation is an operation on one object, which it answers with.
func (s *Server) objectOperation(h huma.API, n api.Noun, verb, method, path, summary string, status int) huma.Operation {
	op := s.operation(verb+"-"+nameOf(n), method, path, string(n.Kind), summary)
	op.DefaultStatus = status
	op.Responses = map[string]*huma.Response{strconv.Itoa(status): {Content: map[string]*huma.MediaType{"application/json": {Schema: objectSchema(h, n)}}}}
	return op
}

// document is an object's JSON, as it stands in a request; huma has held it against the object's schema.
type document []byte

// UnmarshalJSON keeps the JSON (json.Unmarshaler).
func (d *document) UnmarshalJSON(b []byte) error {
	*d = bytes.Clone(b)
	return nil
}

// object reads the object. Its error is api.CodeInvalid.
func (d document) object(n api.Noun) (api.Object, error) {
	o := n.New()
	if err := json.Unmarshal(d, o); err != nil {
		return nil, api.Invalidf("body", "%v", err)
	}
	return o, nil
}

// register makes the paths of one noun.
func (s *Server) register(h huma.API, n api.Noun) {
	kind, path, tag := n.Kind, "/v1/"+string(n.Kind), string(n.Kind)
	ctl := s.o.Controller
	one := func(ctx context.Context, o api.Object, err error) (*objectOutput[api.Object], error) {
		if err != nil {
			return nil, s.fail(ctx, err)
		}
		if reflect.TypeOf(o) != reflect.TypeOf(n.New()) {
			return nil, s.fail(ctx, api.Errorf(api.CodeInternal, "controller gave a %T for one of %s", o, kind))
		}
		return &objectOutput[api.Object]{api.ETag(o.Metadata().Revision), o}, nil
	}

	s.registerList(h, n)

	get := s.objectOperation(h, n, "get", http.MethodGet, path+"/{name}", "Get one of "+tag, http.StatusOK)
	huma.Register(h, get, func(ctx context.Context, in *nameInput) (*objectOutput[api.Object], error) {
		o, err := ctl.Get(ctx, who(ctx), kind, in.Name)
		return one(ctx, o, err)
	})

	if n.Created {
		op := s.objectOperation(h, n, "create", http.MethodPost, path, "Create one of "+tag, http.StatusCreated)
		op.RequestBody = objectBody(h, n)
		huma.Register(h, op, func(ctx context.Context, in *createInput[document]) (*objectOutput[api.Object], error) {
			body, err := in.Body.object(n)
			if err != nil {
				return nil, s.fail(ctx, err)
			}
			audit.DeedOf(ctx).About(kind, body.Metadata().Name, body.Metadata().Owner)
			o, err := once(s, ctx, in.OnceInput, op.OperationID, body,
				func(ctx context.Context) (api.Object, error) { return ctl.Create(ctx, who(ctx), body) },
				func(o api.Object) (api.Object, error) { return o, nil })
			return one(ctx, o, err)
		})
	}
	if n.Changed {
		op := s.objectOperation(h, n, "update", http.MethodPut, path+"/{name}", "Replace the spec of one of "+tag, http.StatusOK)
		op.RequestBody = objectBody(h, n)
		op.Description = "Only spec and labels are taken from the body, labels only if they are there; a revision that is stated must be the newest."
		huma.Register(h, op, func(ctx context.Context, in *updateInput[document]) (*objectOutput[api.Object], error) {
			body, err := in.Body.object(n)
			if err != nil {
				return nil, s.fail(ctx, err)
			}
			m := body.Metadata()
			switch {
			case m.Name != "" && m.Name != in.Name:
				return nil, s.fail(ctx, api.Invalidf("name", "is %q in the body and %q in the path", m.Name, in.Name))
			case m.Revision != 0 && in.revision != 0 && m.Revision != in.revision:
				return nil, s.fail(ctx, api.Invalidf("revision", "is %d in the body, and another in If-Match", m.Revision))
			}
			m.Name = in.Name
			if in.revision != 0 {
				m.Revision = in.revision
			}
			o, err := ctl.Update(ctx, who(ctx), body)
			if err != nil {
				return nil, in.failed(s.fail(ctx, err))
			}
			return one(ctx, o, nil)
		})
		s.registerPatch(h, n, one)
	}
	if n.Deleted {
		op := s.objectOperation(h, n, "delete", http.MethodDelete, path+"/{name}", "Delete one of "+tag, http.StatusAccepted)
		op.Description = "Accepted: the object shows deleting until what it stood for is gone."
		huma.Register(h, op, func(ctx context.Context, in *deleteInput) (*objectOutput[api.Object], error) {
			o, err := ctl.Delete(WithRevision(ctx, in.revision), who(ctx), kind, in.Name)
			if err != nil {
				return nil, in.failed(s.fail(ctx, err))
			}
			return one(ctx, o, nil)
		})
	}
}

// registerVerbs makes the sub-resources that are verbs.
func (s *Server) registerVerbs(h huma.API) {
	ctl := s.o.Controller

	type migrateOutput struct {
		Status int
		Body   api.MigrateResult
	}
	op := s.operation("migrate-vm", http.MethodPost, "/v1/vms/{name}/migrate", "vms", "Move a VM to another site or host with its disk: alive, or stopped if it is")
	op.DefaultStatus = http.StatusAccepted
	op.Description = "202 with a job; 200 with dry_run, where no reasons mean that it would be accepted; 422 with all reasons when refused."
	huma.Register(h, op, func(ctx context.Context, in *verbInput[api.MigrateRequest]) (*migrateOutput, error) {
		var reasons []api.Reason
		if in.Body.DryRun {
			in.Key = "" // it does nothing
			audit.DeedOf(ctx).Drop()
		}
		job, err := once(s, ctx, in.OnceInput, "migrate-vm "+in.Name, in.Body, func(ctx context.Context) (job *api.Job, err error) {
			job, reasons, err = ctl.Migrate(ctx, who(ctx), in.Name, in.Body.Target, in.Body.DryRun)
			return job, err
		}, shown[*api.Job])
		switch {
		case err != nil:
			return nil, s.fail(ctx, err)
		case in.Body.DryRun:
			return &migrateOutput{http.StatusOK, api.MigrateResult{Reasons: reasons}}, nil
		case job == nil:
			return nil, s.fail(ctx, &api.Error{Code: api.CodeRefused,
				Message: "vm " + in.Name + " cannot migrate to " + in.Body.Target, Reasons: reasons})
		}
		return &migrateOutput{http.StatusAccepted, api.MigrateResult{Job: job, Reasons: reasons}}, nil
	})

	op = s.operation("reboot-vm", http.MethodPost, "/v1/vms/{name}/reboot", "vms", "Reboot a VM")
	huma.Register(h, op, func(ctx context.Context, in *verbInput[api.RebootRequest]) (*noContentOutput, error) {
		_, err := once(s, ctx, in.OnceInput, "reboot-vm "+in.Name, in.Body,
			func(ctx context.Context) (_ struct{}, err error) {
				return struct{}{}, ctl.Reboot(ctx, who(ctx), in.Name, in.Body.Hard)
			},
			func(api.Object) (_ struct{}, err error) { return struct{}{}, nil })
		if err != nil {
			return nil, s.fail(ctx, err)
		}
		return nil, nil
	})

	op = s.operation("rename-vm", http.MethodPost, "/v1/vms/{name}/rename", "vms", "Give a VM another name")
	op.Description = "Everything else stays: its UID, addresses and disks, and the hostname that its guest and its network know."
	huma.Register(h, op, func(ctx context.Context, in *verbInput[api.RenameRequest]) (*objectOutput[*api.VM], error) {
		v, err := once(s, ctx, in.OnceInput, "rename-vm "+in.Name, in.Body, func(ctx context.Context) (*api.VM, error) {
			return ctl.Rename(ctx, who(ctx), in.Name, in.Body.Name)
		}, shown[*api.VM])
		return objectResult(s, ctx, v, err)
	})

	type whyInput struct {
		Name string `path:"name"`
		Not  string `query:"not" doc:"SITE or SITE/HOST; left out: why it is where it is"`
	}
	op = s.operation("why-vm", http.MethodGet, "/v1/vms/{name}/why", "vms", "Why a VM is not at a site")
	huma.Register(h, op, func(ctx context.Context, in *whyInput) (*output[api.WhyResult], error) {
		reasons, err := ctl.Why(ctx, who(ctx), in.Name, in.Not)
		if err != nil {
			return nil, s.fail(ctx, err)
		}
		if reasons == nil {
			reasons = []api.Reason{}
		}
		return &output[api.WhyResult]{api.WhyResult{Reasons: reasons}}, nil
	})

	op = s.operation("get-vm-usage", http.MethodGet, "/v1/vms/{name}/usage", "vms", "What a VM has used lately")
	op.Description = "As its host has seen it, in the host's memory: it begins anew where the VM is moved to."
	huma.Register(h, op, func(ctx context.Context, in *nameInput) (*output[*api.Usage], error) {
		u, err := ctl.Usage(ctx, who(ctx), in.Name)
		return result(s, ctx, u, err)
	})

	s.registerFigures(h)

	verb(s, h, "cancel-job", "/v1/jobs/{name}/cancel", "jobs", "Cancel a job; it undoes what it did", ctl.Cancel)
	verb(s, h, "reclaim-loan", "/v1/loans/{name}/reclaim", "loans", "Take a loan back (the lender)", ctl.Reclaim)
	verb(s, h, "return-loan", "/v1/loans/{name}/return", "loans", "Give a loan back (the borrower)", ctl.Return)

	op = s.operation("request-loan", http.MethodPost, "/v1/loans", "loans", "Borrow an amount under a peer's offer")
	op.DefaultStatus = http.StatusCreated
	huma.Register(h, op, func(ctx context.Context, in *createInput[api.LoanRequest]) (*objectOutput[*api.Loan], error) {
		loan, err := once(s, ctx, in.OnceInput, "request-loan", in.Body, func(ctx context.Context) (*api.Loan, error) {
			return ctl.Borrow(ctx, who(ctx), in.Body.Lender, in.Body.Offer, in.Body.Amount)
		}, shown[*api.Loan])
		return objectResult(s, ctx, loan, err)
	})

	op = s.operation("create-join-token", http.MethodPost, "/v1/hosts/join-tokens", "hosts", "Make a one-time token with which an agent enrols")
	op.DefaultStatus = http.StatusCreated
	huma.Register(h, op, func(ctx context.Context, in *createInput[api.JoinTokenRequest]) (*output[*api.Token], error) {
		token, err := once(s, ctx, in.OnceInput, "create-join-token", in.Body, func(ctx context.Context) (string, error) {
			return ctl.JoinToken(ctx, who(ctx), in.Body.Host, in.Body.Roles)
		}, secret[string])
		return result(s, ctx, &api.Token{Token: token}, err)
	})

	op = s.operation("create-invitation", http.MethodPost, "/v1/peers/invitations", "peers", "Make a one-time invitation for another site's admin")
	op.DefaultStatus = http.StatusCreated
	huma.Register(h, op, func(ctx context.Context, in *OnceInput) (*output[*api.Invitation], error) {
		invitation, err := once(s, ctx, *in, "create-invitation", nil,
			func(ctx context.Context) (string, error) { return ctl.PeerInvite(ctx, who(ctx)) }, secret[string])
		return result(s, ctx, &api.Invitation{Invitation: invitation}, err)
	})

	op = s.operation("add-peer", http.MethodPost, "/v1/peers", "peers", "Accept another site's invitation")
	op.DefaultStatus = http.StatusCreated
	huma.Register(h, op, func(ctx context.Context, in *createInput[api.Invitation]) (*objectOutput[*api.Peer], error) {
		peer, err := once(s, ctx, in.OnceInput, "add-peer", in.Body,
			func(ctx context.Context) (*api.Peer, error) { return ctl.PeerAdd(ctx, who(ctx), in.Body.Invitation) }, shown[*api.Peer])
		return objectResult(s, ctx, peer, err)
	})

	s.registerBulk(h)
	s.registerTokens(h)
}

// registerBulk makes the paths of what is done to many VMs, and of a creation that is only tried.
func (s *Server) registerBulk(h huma.API) {
	ctl := s.o.Controller
	op := s.operation("dry-run-vm", http.MethodPost, "/v1/vms/dry-run", "vms", "What the creation of a VM would come to")
	op.Description = "Judges as a creation does, and says where the VM would go, why not elsewhere, and what it would take of quota and loan. " +
		"Lenders are asked, for at most a second. Nothing is written. What a creation would be refused with is in refused."
	huma.Register(h, op, func(ctx context.Context, in *struct{ Body api.VM }) (*output[*api.VMDryRun], error) {
		audit.DeedOf(ctx).Drop() // it writes nothing
		d, err := ctl.DryRun(ctx, who(ctx), &in.Body)
		return result(s, ctx, d, err)
	})

	op = s.operation("bulk", http.MethodPost, "/v1/bulk", "jobs", "Start, stop, reboot, delete or move many VMs")
	op.DefaultStatus = http.StatusAccepted
	op.Description = "Accepted: a job that acts on a few VMs at a time. Whether its user may act on a VM is judged when it is that VM's turn. " +
		"Cancelling the job leaves alone the VMs whose turn has not come."
	huma.Register(h, op, func(ctx context.Context, in *createInput[api.BulkRequest]) (*objectOutput[*api.Job], error) {
		job, err := once(s, ctx, in.OnceInput, op.OperationID, in.Body, func(ctx context.Context) (*api.Job, error) {
			return ctl.Bulk(ctx, who(ctx), in.Body)
		}, shown[*api.Job])
		return objectResult(s, ctx, job, err)
	})

	op = s.operation("get-job-results", http.MethodGet, "/v1/jobs/{name}/results", "jobs", "What became of each VM of a bulk job")
	huma.Register(h, op, func(ctx context.Context, in *nameInput) (*output[*api.BulkResults], error) {
		items, err := ctl.BulkResults(ctx, who(ctx), in.Name)
		if items == nil {
			items = []api.BulkResult{}
		}
		return result(s, ctx, &api.BulkResults{Items: items}, err)
	})
}

// registerFigures makes the paths of what is counted.
func (s *Server) registerFigures(h huma.API) {
	ctl := s.o.Controller
	type ledgerInput struct {
		From string `query:"from" doc:"the first day, such as 2026-11-30; left out: as long as it is kept"`
	}
	op := s.operation("get-ledger", http.MethodGet, "/v1/ledger", "loans", "What was lent and borrowed, by loan and day")
	op.Description = "As this site has counted it; a day is one of UTC, and the last one goes up to now."
	huma.Register(h, op, func(ctx context.Context, in *ledgerInput) (*output[*api.Ledger], error) {
		l, err := ctl.Ledger(ctx, who(ctx), in.From)
		return result(s, ctx, l, err)
	})
	op = s.operation("get-address-traffic", http.MethodGet, "/v1/addresses/{name}/traffic", "addresses", "What translators have carried for a service address")
	op.Description = "Of this site's translators, as they told last: some seconds ago."
	huma.Register(h, op, func(ctx context.Context, in *nameInput) (*output[*api.Traffic], error) {
		t, err := ctl.AddressTraffic(ctx, who(ctx), in.Name)
		return result(s, ctx, t, err)
	})
	op = s.operation("get-translator-traffic", http.MethodGet, "/v1/translators/{name}/traffic", "translators", "What a translator has carried")
	huma.Register(h, op, func(ctx context.Context, in *nameInput) (*output[*api.Traffic], error) {
		t, err := ctl.TranslatorTraffic(ctx, who(ctx), in.Name)
		return result(s, ctx, t, err)
	})
}

// registerTokens makes the paths of users' tokens.
func (s *Server) registerTokens(h huma.API) {
	ctl := s.o.Controller
	const path = "/v1/users/{name}/tokens"
	const doc = "The name - stands for the caller itself. A user who is no admin sees and changes its own tokens only."
	of := func(ctx context.Context, name string) string {
		if name == api.OwnTokens {
			return who(ctx).User
		}
		return name
	}

	op := s.operation("list-tokens", http.MethodGet, path, "users", "List a user's tokens, without their secrets")
	op.Description = doc
	huma.Register(h, op, func(ctx context.Context, in *nameInput) (*output[*api.UserTokens], error) {
		items, err := ctl.Tokens(ctx, who(ctx), of(ctx, in.Name))
		if items == nil {
			items = []api.UserToken{}
		}
		return result(s, ctx, &api.UserTokens{Items: items}, err)
	})

	type createToken struct {
		Name string `path:"name" doc:"the user's name, or -"`
		OnceInput
		Body *api.TokenRequest
	}
	op = s.operation("create-token", http.MethodPost, path, "users", "Make a new token for a user; its secret is shown this once")
	op.Description = doc
	op.DefaultStatus = http.StatusCreated
	huma.Register(h, op, func(ctx context.Context, in *createToken) (*output[*api.UserToken], error) {
		var r api.TokenRequest
		if in.Body != nil {
			r = *in.Body
		}
		token, err := once(s, ctx, in.OnceInput, "create-token "+of(ctx, in.Name), r,
			func(ctx context.Context) (*api.UserToken, error) {
				return ctl.NewToken(ctx, who(ctx), of(ctx, in.Name), r)
			}, secret[*api.UserToken])
		return result(s, ctx, token, err)
	})

	type revokeToken struct {
		Name string `path:"name" doc:"the user's name, or -"`
		ID   string `path:"id" doc:"the token's id"`
	}
	op = s.operation("revoke-token", http.MethodDelete, path+"/{id}", "users", "End a token")
	op.Description = doc
	huma.Register(h, op, func(ctx context.Context, in *revokeToken) (*noContentOutput, error) {
		if err := ctl.RevokeToken(ctx, who(ctx), of(ctx, in.Name), in.ID); err != nil {
			return nil, s.fail(ctx, err)
		}
		return nil, nil
	})
}

// verb registers a POST without a body that answers with the object.
func verb[T any, P object[T]](s *Server, h huma.API, id, path, tag, summary string, f func(context.Context, Principal, string) (*T, error)) {
	huma.Register(h, s.operation(id, http.MethodPost, path, tag, summary),
		func(ctx context.Context, in *bareVerbInput) (*objectOutput[P], error) {
			o, err := once(s, ctx, in.OnceInput, id+" "+in.Name, nil, func(ctx context.Context) (P, error) {
				v, err := f(ctx, who(ctx), in.Name)
				return P(v), err
			}, shown[P])
			return objectResult(s, ctx, o, err)
		})
}

func result[T any](s *Server, ctx context.Context, v *T, err error) (*output[*T], error) {
	if err != nil {
		return nil, s.fail(ctx, err)
	}
	return &output[*T]{v}, nil
}

func objectResult[P api.Object](s *Server, ctx context.Context, o P, err error) (*objectOutput[P], error) {
	if err != nil {
		return nil, s.fail(ctx, err)
	}
	return &objectOutput[P]{api.ETag(o.Metadata().Revision), o}, nil
}

// finishSchemas says in the description what validation leaves to the Controller: which fields are always there
// (all that are not omitempty), and that a status is the server's to write.
func finishSchemas(r huma.Registry) {
	for name, schema := range r.Map() {
		t := r.TypeFromRef("#/components/schemas/" + name)
		if t == nil || t.Kind() != reflect.Struct {
			continue
		}
		schema.Required = nil
		for _, f := range reflect.VisibleFields(t) {
			tag := f.Tag.Get("json")
			field, rest, _ := strings.Cut(tag, ",")
			if field == "" || field == "-" || strings.Contains(rest, "omit") {
				continue
			}
			schema.Required = append(schema.Required, field)
		}
		if _, noun := reflect.New(t).Interface().(api.Object); noun {
			for _, field := range []string{"status", "uid", "home", "created", "deleting"} {
				if p := schema.Properties[field]; p != nil {
					p.ReadOnly = true
				}
			}
		}
	}
}

// uploadInput takes the body as it is, unread.
type uploadInput struct {
	Name string `path:"name" doc:"the image's name"`
	body io.Reader
}

// Resolve keeps the body for the handler (huma.Resolver).
func (in *uploadInput) Resolve(ctx huma.Context) []error {
	in.body = ctx.BodyReader()
	return nil
}
