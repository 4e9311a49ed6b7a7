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
	Reasons []Reason `json:"reasons,omitempty"` // all reasons at once, for CodeRefused
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

// Errorf makes an Error of a code without a field.
func Errorf(code Code, format string, args ...any) *Error {
	return &Error{Code: code, Message: fmt.Sprintf(format, args...)}
}

// Invalidf makes a CodeInvalid Error that names the field.
func Invalidf(field, format string, args ...any) *Error {
	return &Error{Code: CodeInvalid, Field: field, Message: fmt.Sprintf(format, args...)}
}
