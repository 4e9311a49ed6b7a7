package serve

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"reflect"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"widecloud/api"
)

// SelectInput are the parameters that say which objects are wanted (api.Selector).
type SelectInput struct {
	Owner    string   `query:"owner" doc:"only those of this organisation; of several: a,b"`
	Site     string   `query:"site" doc:"only those at this site; of several: a,b"`
	Host     string   `query:"host" doc:"only those on this host; of several: a,b"`
	State    string   `query:"state" doc:"only those in this state or phase; of several: a,b"`
	Label    []string `query:"label,explode" doc:"only those with these labels: KEY=VALUE, KEY!=VALUE, KEY (it has the label), !KEY (it has not); several, or with commas between them: all of these"`
	Name     string   `query:"name" doc:"only those whose name begins so"`
	selector api.Selector
}

// Resolve makes the selector (huma.Resolver).
func (in *SelectInput) Resolve(huma.Context) (errs []error) {
	var err error
	in.selector, err = api.SelectorOf(url.Values{"owner": {in.Owner}, "site": {in.Site}, "host": {in.Host}, "state": {in.State},
		"label": in.Label, "name": {in.Name}})
	return invalid(err)
}

// ResumeInput says where a watch begins.
type ResumeInput struct {
	From        int64 `query:"from" minimum:"0" doc:"watch: changes after this revision (that of a list); left out: from now on"`
	LastEventID int64 `header:"Last-Event-ID" minimum:"0" doc:"watch: resume after this event; wins over from"`
	has         bool
}

// Resolve tells "from=0" from no "from" (huma.Resolver).
func (in *ResumeInput) Resolve(ctx huma.Context) []error {
	in.has = ctx.Query("from") != "" || ctx.Header("Last-Event-ID") != ""
	if in.LastEventID > 0 {
		in.From = in.LastEventID
	}
	return nil
}

type listInput struct {
	SelectInput
	ResumeInput
	Watch  bool   `query:"watch" doc:"answer with text/event-stream and go on: one event per change, event = put or delete, data = {type, revision, kind, object}, id = revision, with the last change of each"`
	Limit  int    `query:"limit" minimum:"1" maximum:"5000" doc:"at most so many; next is the cursor of the rest. Left out: all"`
	Cursor string `query:"cursor" doc:"next of the page before; the other parameters must be the same"`
}

// watchRoute watches several kinds.
const watchRoute = "GET /v1/watch"

type watchInput struct {
	SelectInput
	ResumeInput
	Kinds string `query:"kinds" doc:"the kinds to watch: vms,jobs"`
}

// kinds judges what is to be watched.
func (in *watchInput) kinds() (kinds []api.Kind, err error) {
	for _, text := range strings.Split(in.Kinds, ",") {
		k := api.Kind(strings.TrimSpace(text))
		if !slices.Contains(api.Kinds(), k) {
			return nil, api.Invalidf("kinds", "%.40q is not a kind; possible: %v", text, api.Kinds())
		}
		if err := in.selector.Check(k); err != nil {
			return nil, err
		}
		if !slices.Contains(kinds, k) {
			kinds = append(kinds, k)
		}
	}
	return kinds, nil
}

// registerWatch makes the path that watches several kinds in one stream. It comes after the kinds, whose events it gives.
func (s *Server) registerWatch(h huma.API) {
	op := s.operation("watch", http.MethodGet, "/v1/watch", "watch", "Watch several kinds in one stream")
	op.Description = "text/event-stream, as the watch of one kind; what was written together has one revision. The other parameters " +
		"select of all kinds alike."
	events := &huma.Schema{}
	for _, k := range api.Kinds() {
		events.OneOf = append(events.OneOf, s.events[k])
	}
	op.Responses = map[string]*huma.Response{"200": {Description: "A stream of changes", Content: map[string]*huma.MediaType{"text/event-stream": {Schema: events}}}}
	op.Errors = []int{http.StatusBadRequest, http.StatusUnauthorized, http.StatusConflict}
	huma.Register(h, op, func(ctx context.Context, in *watchInput) (*streamOutput, error) {
		kinds, err := in.kinds()
		if err != nil {
			return nil, s.fail(ctx, err)
		}
		return s.watch(ctx, kinds, in.selector, in.ResumeInput)
	})
}

// invalid is an api.Error as a resolver gives it.
func invalid(err error) []error {
	var e *api.Error
	if errors.As(err, &e) {
		return []error{errorBody{apiError: e}}
	}
	return nil
}

// registerList makes the path that lists and watches the objects of a kind.
func (s *Server) registerList(h huma.API, n api.Noun) {
	kind, tag, schemas := n.Kind, string(n.Kind), h.OpenAPI().Components.Schemas
	op := s.operation("list-"+tag, http.MethodGet, "/v1/"+tag, tag, "List or watch "+tag)
	s.events[kind] = schemas.Schema(reflect.TypeOf(n.Event()).Elem(), true, "")
	op.Responses = map[string]*huma.Response{"200": {
		Description: "A listing, or with watch=true a stream of changes",
		Content: map[string]*huma.MediaType{
			"application/json":  {Schema: schemas.Schema(reflect.TypeOf(n.Listing()).Elem(), true, "")},
			"text/event-stream": {Schema: s.events[kind]},
		},
	}}
	op.Errors = []int{http.StatusBadRequest, http.StatusUnauthorized, http.StatusConflict}
	huma.Register(h, op, func(ctx context.Context, in *listInput) (*streamOutput, error) {
		if err := in.selector.Check(kind); err != nil {
			return nil, s.fail(ctx, err)
		}
		if in.Watch {
			for field, given := range map[string]bool{"cursor": in.Cursor != "", "limit": in.Limit != 0} {
				if given {
					return nil, s.fail(ctx, api.Invalidf(field, "is for lists: a watch has no pages"))
				}
			}
			return s.watch(ctx, []api.Kind{kind}, in.selector, in.ResumeInput)
		}
		l, err := s.page(ctx, kind, in)
		if err != nil {
			return nil, s.fail(ctx, err)
		}
		return &streamOutput{func(hc huma.Context) {
			_, w := humago.Unwrap(hc)
			writeJSON(w, http.StatusOK, l)
		}}, nil
	})
}

// page is one page of a list, or without a limit all of it.
func (s *Server) page(ctx context.Context, kind api.Kind, in *listInput) (l api.Listing[api.Object], err error) {
	q := Query{Selector: in.selector}
	var c cursor
	if in.Cursor != "" {
		if c, err = readCursor(in.Cursor, kind); err != nil {
			return l, err
		}
		q.After = c.After
	}
	if in.Limit > 0 {
		q.Limit = in.Limit + 1 // one more tells whether there is another page
	}
	objects, revision, err := s.o.Controller.List(ctx, who(ctx), kind, q)
	if err != nil {
		return l, err
	}
	if in.Cursor == "" {
		c.Revision = revision
	}
	l = api.Listing[api.Object]{Revision: c.Revision, Items: slices.Clip(objects)}
	if l.Items == nil {
		l.Items = []api.Object{}
	}
	if in.Limit > 0 && len(l.Items) > in.Limit {
		l.Items = l.Items[:in.Limit]
		l.Next = cursor{Kind: kind, After: l.Items[in.Limit-1].Metadata().Name, Revision: c.Revision}.String()
	}
	return l, nil
}

// cursor is where the next page begins: after a name, which stays right whatever is created and deleted meanwhile. It
// carries the revision of the first page, so that a watch from that of any page misses nothing.
type cursor struct {
	Kind     api.Kind `json:"k"`
	After    string   `json:"a"`
	Revision int64    `json:"r"`
}

// String is the cursor as a client has it: a word that says nothing to it.
func (c cursor) String() string {
	b, err := json.Marshal(c)
	if err != nil {
		panic("serve: cursor: " + err.Error()) // it holds nothing that JSON cannot
	}
	return base64.RawURLEncoding.EncodeToString(b)
}

func readCursor(text string, kind api.Kind) (c cursor, err error) {
	b, err := base64.RawURLEncoding.DecodeString(text)
	if err == nil {
		err = json.Unmarshal(b, &c)
	}
	if err != nil || c.Kind != kind || c.After == "" || c.Revision < 0 {
		return c, api.Invalidf("cursor", "is not the next of a page of %s: begin again without it", kind)
	}
	return c, nil
}
