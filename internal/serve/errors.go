package serve

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"widecloud/api"
)

// errorBody is api.Error as huma wants its errors. (The alias keeps the embedded field from hiding the method Error.)
type errorBody struct{ *apiError }

type apiError = api.Error

// GetStatus is the HTTP status (huma.StatusError).
func (e errorBody) GetStatus() int { return e.HTTPStatus() }

// huma's errors and the strictness of its field names are package variables; this package is huma's only user here.
func init() {
	huma.ValidateStrictCasing = true
	huma.NewError = func(status int, message string, errs ...error) huma.StatusError {
		return errorBody{fromHuma(status, message, errs)}
	}
}

// fromHuma makes one api.Error of what huma found wrong with a request: the first finding is the error, and when there
// are several, Reasons has all. A finding's Value is left out: it may be a secret.
func fromHuma(status int, message string, errs []error) *api.Error {
	if status >= http.StatusInternalServerError {
		return api.Errorf(api.CodeInternal, "%s", message)
	}
	e := &api.Error{Code: api.CodeInvalid, Message: message}
	for i, err := range errs {
		field, text := "", err.Error()
		var d huma.ErrorDetailer
		if errors.As(err, &d) {
			field, text = fieldOf(d.ErrorDetail().Location), d.ErrorDetail().Message
		}
		if i == 0 {
			e.Field, e.Message = field, text
		}
		if len(errs) > 1 {
			if field != "" {
				text = field + ": " + text
			}
			e.Reasons = append(e.Reasons, api.Reason{Code: string(api.CodeInvalid), Message: text})
		}
	}
	if len(e.Reasons) > 1 {
		e.Field, e.Message = "", "the request is not valid"
	}
	return e
}

// fieldOf turns huma's "body.spec.cpus" into "spec.cpus", and "query.from" into "from".
func fieldOf(location string) string {
	place, field, ok := strings.Cut(location, ".")
	if !ok && (place == "body" || place == "query" || place == "path" || place == "header") {
		return ""
	}
	if !ok {
		return location
	}
	return field
}

// fail makes what a client may see of a Controller's error. What is not an api.Error is a defect: it is logged and hidden.
func (s *Server) fail(ctx context.Context, err error) errorBody {
	var e *api.Error
	switch {
	case errors.As(err, &e):
		if e.Code == api.CodeInternal {
			s.log.Error("controller failed", "error", err)
		}
		return errorBody{e}
	case ctx.Err() != nil:
		return errorBody{api.Errorf(api.CodeUnavailable, "the request was given up")}
	}
	s.log.Error("controller failed", "error", err)
	return errorBody{api.Errorf(api.CodeInternal, "internal error; the controller's log has more")}
}

func writeError(w http.ResponseWriter, err interface{ HTTPStatus() int }) {
	writeErrorStatus(w, err.HTTPStatus(), err)
}

func writeErrorStatus(w http.ResponseWriter, status int, err any) { writeJSON(w, status, err) }
