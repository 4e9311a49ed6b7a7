package api

import (
	"fmt"
	"net/http"
	"strings"
)

// Code is a stable word for a class of error.
type Code string

// The error codes, and the HTTP status that carries each.
const (
	CodeInvalid         Code = "invalid"         // 400: the request is malformed; Field names the culprit
	CodeUnauthenticated Code = "unauthenticated" // 401: no token, or one that is not known
	CodeForbidden       Code = "forbidden"       // 403: the token's owner may not do this
	CodeNotFound        Code = "not-found"       // 404
	CodeExists          Code = "already-exists"  // 409: the name or address is taken
	CodeConflict        Code = "conflict"        // 409: the object changed since it was read, or its state forbids this now
	CodeStale           Code = "stale"           // 409: an epoch, serial or lease that is no longer the newest (law 2)
	CodeRefused         Code = "refused"         // 422: understood, and not possible; Reasons says why (law 8)
	CodeTooMany         Code = "too-many"        // 429: more at once, or more often, than one user or source may; Retry-After says when to try again
	CodeUnavailable     Code = "unavailable"     // 503: a part that is needed is not reached now; try again
	CodeInternal        Code = "internal"        // 500: a defect of widecloud; the log has more
)

// Error is every error that crosses an API of widecloud, public or private.
type Error struct {
	Code    Code     `json:"code"`
	Field   string   `json:"field,omitempty"` // path of the offending field: spec.memory_mib
	Message string   `json:"message"`
	Reasons []Reason `json:"reasons,omitempty"` // all reasons of a refusal, or all faults of a request, at once
}

// Error gives the message, the field first and the reasons last.
func (e *Error) Error() string {
	var b strings.Builder
	if e.Field != "" {
		fmt.Fprintf(&b, "%s: ", e.Field)
	}
	b.WriteString(e.Message)
	for _, r := range e.Reasons {
		b.WriteString("; ")
		if r.Site != "" || r.Host != "" {
			fmt.Fprintf(&b, "%s: ", strings.Trim(r.Site+"/"+r.Host, "/"))
		}
		b.WriteString(r.Message)
	}
	return b.String()
}

// Is makes errors.Is match on the code: errors.Is(err, &api.Error{Code: api.CodeNotFound}).
func (e *Error) Is(target error) bool {
	t, ok := target.(*Error)
	return ok && t.Code == e.Code && (t.Field == "" || t.Field == e.Field)
}

// HTTPStatus is the status that carries the error.
func (e *Error) HTTPStatus() int {
	switch e.Code {
	case CodeInvalid:
		return http.StatusBadRequest
	case CodeUnauthenticated:
		return http.StatusUnauthorized
	case CodeForbidden:
		return http.StatusForbidden
	case CodeNotFound:
		return http.StatusNotFound
	case CodeExists, CodeConflict, CodeStale:
		return http.StatusConflict
	case CodeRefused:
		return http.StatusUnprocessableEntity
	case CodeTooMany:
		return http.StatusTooManyRequests
	case CodeUnavailable:
		return http.StatusServiceUnavailable
	default:
		return http.StatusInternalServerError
	}
}

// maxFaults is how many faults an Error lists.
const maxFaults = 32

// Faults makes one Error of all faults of a request; nil when there is none. One fault is itself. Of several, Reasons has
// each with its field; Code is theirs if they share one, and CodeInvalid if not. At most 32 are listed.
func Faults(faults ...*Error) *Error {
	switch len(faults) {
	case 0:
		return nil
	case 1:
		return faults[0]
	}
	e := &Error{Code: faults[0].Code}
	for i, f := range faults {
		if f.Code != e.Code {
			e.Code = CodeInvalid
		}
		if i >= maxFaults {
			continue
		}
		// The message names the field, too, for clients that do not know Reason.Field.
		e.Reasons = append(e.Reasons, Reason{Code: string(f.Code), Field: f.Field, Message: f.Error()})
	}
	if e.Message = "the request is not valid"; e.Code == CodeRefused {
		e.Message = "the request is refused"
	}
	if n := len(faults) - maxFaults; n > 0 {
		e.Reasons = append(e.Reasons, Reason{Code: string(e.Code), Message: fmt.Sprintf("%d more are not listed", n)})
	}
	return e
}

// Errorf makes an Error of a code without a field.
func Errorf(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// Invalidf makes a CodeInvalid Error that names the field.
func Invalidf(field, format string, args ...any) *Error {
	return &Error{Code: CodeInvalid, Field: field, Message: fmt.Sprintf(format, args...)}
}
