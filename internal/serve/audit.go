package serve

import (
	"encoding/json"
	"net/http"
	"net/netip"
	"slices"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"widecloud/api"
	"widecloud/internal/audit"
)

// Every request that is to change something has an entry in the audit log, whatever its route: ServeHTTP begins its deed, and notes it
// once it is answered. What is changed by it is told by whoever does so, in the request's context.

// alsoDeeds are the routes that only read by their method, and are noted all the same: whoever is at a console acts.
var alsoDeeds = []string{"GET /v1/vms/{name}/console"}

// verbsOf gives the operations' names by their routes.
func verbsOf(spec *huma.OpenAPI) map[string]string {
	verbs := map[string]string{}
	for path, item := range spec.Paths {
		for method, op := range map[string]*huma.Operation{
			http.MethodGet: item.Get, http.MethodPost: item.Post, http.MethodPut: item.Put, http.MethodPatch: item.Patch, http.MethodDelete: item.Delete,
		} {
			if op != nil {
				verbs[method+" "+path] = op.OperationID
			}
		}
	}
	return verbs
}

// deed begins the entry of a request.
func (s *Server) deed(r *http.Request, route string) *audit.Deed {
	if s.o.Audit == nil || s.verbs[route] == "" {
		return nil
	}
	e := api.AuditEntry{Verb: s.verbs[route], Address: addressOf(r.RemoteAddr)}
	part := strings.Split(strings.TrimPrefix(r.URL.Path, "/v1/"), "/") // of a path that has the route's form
	if _, err := api.NounOf(api.Kind(part[0])); err == nil {
		e.Kind = api.Kind(part[0])
		if len(part) > 1 && strings.Contains(route, "{name}") {
			e.Name = part[1]
		}
	}
	return audit.NewDeed(e)
}

// addressOf is the IP address of HOST:PORT.
func addressOf(remote string) string {
	a, err := netip.ParseAddrPort(remote)
	if err != nil {
		return ""
	}
	return a.Addr().Unmap().WithZone("").String()
}

// note has the audit log note a request that has been answered, if it was to change something, or somebody was not let in.
func (s *Server) note(r *http.Request, w *recorder, route string, d *audit.Deed) {
	if d == nil {
		return
	}
	acts := route != "" && (r.Method != http.MethodGet && r.Method != http.MethodHead || slices.Contains(alsoDeeds, route))
	kept := w.status == http.StatusForbidden || s.tried(r, w.status)
	if acts || kept {
		s.o.Audit.End(d, w.refusal())
	}
}

// refusal is the error that a request was answered with; nil: it was done.
func (w *recorder) refusal() error {
	if w.status < http.StatusBadRequest {
		return nil
	}
	e := &api.Error{}
	if json.Unmarshal(w.error, e) != nil || e.Code == "" {
		e = &api.Error{Code: api.CodeInvalid}
		if w.status >= http.StatusInternalServerError {
			e.Code = api.CodeInternal
		}
	}
	if e.Code == api.CodeInvalid {
		e.Message = "" // it may have what was sent
	}
	return e
}
