package serve

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"widecloud/api"
)

// errorBody is api.Error as huma wants its errors. (The alias keeps the embedded field from hiding the method Error.)
type errorBody struct {
	*apiError
	status int         // of HTTP; 0: that of the code
	header http.Header // of the answer, beside those that all have
}

type apiError = api.Error

// GetStatus is the HTTP status (huma.StatusError).
func (e errorBody) GetStatus() int { return cmp.Or(e.status, e.HTTPStatus()) }

// GetHeaders are those of the answer (huma.HeadersError).
func (e errorBody) GetHeaders() http.Header { return e.header }

// Unwrap lets a Controller that passes our error on show it as an api.Error.
func (e errorBody) Unwrap() error { return e.apiError }

// huma's errors and the strictness of its field names are package variables; this package is huma's only user here.
func init() {
	huma.ValidateStrictCasing = true
	huma.NewError = func(status int, message string, errs ...error) huma.StatusError {
		return fromHuma(status, message, errs)
	}
}

// fromHuma makes one api.Error of what huma found wrong with a request: the first finding is the error, and when there
// are several, Reasons has all. A finding's Value is left out: it may be a secret.
func fromHuma(status int, message string, errs []error) errorBody {
	var ours errorBody
	for _, err := range errs {
		if errors.As(err, &ours) { // the body's reader has said what is wrong
			return ours
		}
	}
	invalid := func(field, format string, args ...any) errorBody {
		return errorBody{apiError: api.Invalidf(field, format, args...), status: status}
	}
	switch {
	case status >= http.StatusInternalServerError:
		return errorBody{apiError: api.Errorf(api.CodeInternal, "%s", message)}
	case status == http.StatusRequestEntityTooLarge:
		return invalid("body", "is larger than %s", strings.TrimPrefix(message, "request body is too large limit="))
	case status == http.StatusUnsupportedMediaType && len(errs) > 0:
		return invalid("Content-Type", "is%s, must be application/json", strings.TrimPrefix(findingOf(errs[0]).message, "unknown content type:"))
	case status == http.StatusBadRequest && len(errs) == 0:
		return invalid("body", "is missing: send a JSON object")
	case status == http.StatusBadRequest && len(errs) == 1 && findingOf(errs[0]).field == "body":
		return invalid("body", "is not JSON: %s", findingOf(errs[0]).message)
	}
	faults := []*api.Error{}
	for _, err := range errs {
		f := findingOf(err)
		faults = append(faults, api.Invalidf(f.field, "%s", f.message))
	}
	if len(faults) == 0 {
		faults = append(faults, api.Invalidf("", "%s", message))
	}
	return errorBody{apiError: api.Faults(faults...)}
}

// finding is one thing that huma found wrong.
type finding struct{ field, message string }

func findingOf(err error) finding {
	var d huma.ErrorDetailer
	if errors.As(err, &d) {
		return finding{fieldOf(d.ErrorDetail().Location), d.ErrorDetail().Message}
	}
	return finding{"", err.Error()}
}

// fieldOf turns huma's "body.spec.cpus" into "spec.cpus", and "query.from" into "from"; "body" is the body itself.
func fieldOf(location string) string {
	_, field, ok := strings.Cut(location, ".")
	if !ok {
		return location
	}
	return field
}

// fail makes what a client may see of a Controller's error. What is not an api.Error is a defect: it is logged and hidden.
func (s *Server) fail(ctx context.Context, err error) errorBody {
	var b errorBody
	var e *api.Error
	switch {
	case errors.As(err, &b):
		return b
	case errors.As(err, &e):
		if e.Code == api.CodeInternal {
			s.log.Error("controller failed", "error", err)
		}
		return errorBody{apiError: e}
	case ctx.Err() != nil:
		return errorBody{apiError: api.Errorf(api.CodeUnavailable, "the request was given up")}
	}
	s.log.Error("controller failed", "error", err)
	return errorBody{apiError: api.Errorf(api.CodeInternal, "internal error; the controller's log has more")}
}

// writeError answers with an error.
func writeError(w http.ResponseWriter, e errorBody) {
	for k, v := range e.GetHeaders() {
		w.Header()[k] = v
	}
	writeJSON(w, e.GetStatus(), e)
}
