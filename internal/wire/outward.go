package wire

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/netip"
	"regexp"
	"runtime/debug"
	"strings"

	"widecloud/api"
)

// outward decides what another end gets to see of an error of ours, and logs the rest.
//
// Within a site texts go as they are: an admin reads them at the controller. Another site, or a stranger, gets an api.Error
// as it is, since somebody chose its words, but not one of CodeInternal: such texts, and those of all other errors, come from
// anywhere and lose their URLs, paths and addresses. What is left ("no space left on device") is often the only reason
// that a user has.
type outward struct {
	foreign bool   // the other end is not of our site
	peer    string // whom to name in the log
	own     Identity
	log     *sparseLog
}

func newOutward(o Options, peer Identity) outward {
	return outward{foreign: peer.Site != o.Trust.Site(), peer: peer.String(), own: o.Credential.Identity, log: o.sparse}
}

// tell makes the api.Error that crosses.
func (o outward) tell(err error) *api.Error {
	var panicked *panicError
	if errors.As(err, &panicked) {
		return panicked.told
	}
	var e *api.Error
	if errors.As(err, &e) && e.Code != api.CodeInternal && !errors.Is(err, ErrNoAnswer) {
		return e
	}
	if e == nil {
		e = api.Errorf(codeOf(err), "%v", err)
	}
	if !o.foreign {
		return e
	}
	if e.Code == api.CodeInternal {
		o.log.line(slog.LevelWarn, o.peer, "internal error; the peer gets it without paths and addresses",
			"peer", o.peer, "error", brief(err))
	}
	return redact(e)
}

// codeOf is the code of an error that has no api.Error: running out of time is no defect, nor is a connection that broke.
func codeOf(err error) api.Code {
	var side *relayError
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) || errors.As(err, &side) {
		return api.CodeUnavailable
	}
	return api.CodeInternal
}

// guard makes an error of a panic, which it logs: one wrong request must not end a controller that others rely on. The
// panic's words and stack may hold anybody's data and stay here. It is to be deferred.
func (o outward) guard(what string, err *error) {
	p := recover()
	if p == nil {
		return
	}
	if p == http.ErrAbortHandler {
		panic(p)
	}
	o.log.line(slog.LevelError, o.peer, "panic", "peer", o.peer, "request", what, "panic", p, "stack", string(debug.Stack()))
	*err = &panicError{api.Errorf(api.CodeInternal, "internal error at %s; its log has more", o.own)}
}

// panicError stands for a panic that is logged.
type panicError struct{ told *api.Error }

func (e *panicError) Error() string { return e.told.Error() }
func (e *panicError) Unwrap() error { return e.told }

// asError makes an api.Error of any error.
func asError(err error) *api.Error {
	var e *api.Error
	if errors.As(err, &e) {
		return e
	}
	return api.Errorf(codeOf(err), "%v", err)
}

var (
	urlText     = regexp.MustCompile(`\w+://[^\s"']+[^\s"'.,:;)]`)
	pathText    = regexp.MustCompile(`(^|[^\w.@-])(/[\w.@%+~=,-]+)+/?`)
	callPath    = regexp.MustCompile(`^.?/(agent|control|fed)/v1/`)
	addressText = regexp.MustCompile(`[0-9A-Fa-f:.]{3,}(%[\w.-]+)?`)
)

// redact gives the error without URLs, file paths and IP addresses. The protocol's own paths stay.
func redact(e *api.Error) *api.Error {
	hide := func(text string) string {
		text = urlText.ReplaceAllString(text, "(url)")
		return addressText.ReplaceAllStringFunc(pathText.ReplaceAllStringFunc(text, hidePath), hideAddress)
	}
	out := &api.Error{Code: e.Code, Field: e.Field, Message: hide(e.Message)}
	for _, r := range e.Reasons {
		r.Message, r.Advice = hide(r.Message), hide(r.Advice)
		out.Reasons = append(out.Reasons, r)
	}
	return out
}

func hidePath(m string) string {
	switch {
	case callPath.MatchString(m):
		return m
	case m[0] == '/':
		return "(path)"
	}
	return m[:1] + "(path)" // with what stands before it
}

func hideAddress(m string) string {
	for _, s := range []string{m, strings.TrimRight(m, ":."), strings.TrimLeft(m, ":."), strings.Trim(m, ":.")} {
		_, err := netip.ParseAddr(s)
		if err != nil {
			_, err = netip.ParseAddrPort(s)
		}
		if err == nil {
			return strings.Replace(m, s, "(address)", 1)
		}
	}
	return m
}
