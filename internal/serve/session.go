package serve

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"widecloud/api"
	"widecloud/internal/audit"
)

// A browser does not keep a token where a script can read it: it logs in with one, and gets a cookie. The cookie holds
// another token, made for this session, which ends with it, is listed with the user's tokens, and can be revoked as any.
const (
	sessionRoute  = "POST /v1/session"
	sessionCookie = "wcc_session"
	sessionTime   = 12 * time.Hour
	sessionNote   = "web page"
	maxLogin      = 4 << 10 // bytes of a login's body
)

// registerSession makes the paths of browsers' sessions.
func (s *Server) registerSession(h huma.API) {
	type cookieOutput struct {
		SetCookie http.Cookie `header:"Set-Cookie"`
		Body      *api.Session
	}
	op := s.operation("log-in", http.MethodPost, "/v1/session", "session", "Log a browser in with a token; the cookie that is set is as good as one")
	op.Description = "The cookie is for browsers of this very site, and for 12 h; what changes something by it must come from a page of this server."
	op.MaxBodyBytes = maxLogin
	op.Security = []map[string][]string{{}}
	huma.Register(h, op, func(ctx context.Context, in *loginInput) (*cookieOutput, error) {
		session, cookie, err := s.logIn(ctx, in.r, in.Body.Token)
		if err != nil {
			return nil, s.fail(ctx, err)
		}
		return &cookieOutput{cookie, session}, nil
	})

	op = s.operation("get-session", http.MethodGet, "/v1/session", "session", "Who one is, and where")
	huma.Register(h, op, func(ctx context.Context, _ *struct{}) (*output[*api.Session], error) {
		return &output[*api.Session]{s.session(who(ctx))}, nil
	})

	type endOutput struct {
		SetCookie http.Cookie `header:"Set-Cookie"`
	}
	op = s.operation("log-out", http.MethodDelete, "/v1/session", "session", "End a browser's session")
	huma.Register(h, op, func(ctx context.Context, in *sessionInput) (*endOutput, error) {
		if c := callerOf(ctx); c.cookie {
			if err := s.o.Controller.RevokeToken(ctx, c.Principal, c.User, tokenID(c.token)); err != nil {
				return nil, s.fail(ctx, err)
			}
		}
		return &endOutput{cookieOf(in.r, "", -1)}, nil
	})
}

// sessionInput keeps the request, for what cookies need of it.
type sessionInput struct{ r *http.Request }

// Resolve is huma.Resolver's.
func (in *sessionInput) Resolve(ctx huma.Context) []error {
	in.r, _ = humago.Unwrap(ctx)
	return nil
}

type loginInput struct {
	sessionInput
	Body api.Login
}

// logIn makes a session of a token.
func (s *Server) logIn(ctx context.Context, r *http.Request, token string) (*api.Session, http.Cookie, error) {
	if err := s.sameOrigin.Check(r); err != nil {
		return nil, http.Cookie{}, crossOrigin(err)
	}
	if token == "" {
		return nil, http.Cookie{}, api.Invalidf("token", "must be given")
	}
	p, err := s.principal(ctx, r, token)
	if err != nil {
		return nil, http.Cookie{}, err
	}
	audit.DeedOf(ctx).By(p.User, tokenID(token))
	if p.First {
		return nil, http.Cookie{}, firstOnly()
	}
	made, err := s.o.Controller.NewToken(ctx, p, p.User, api.TokenRequest{Note: sessionNote, Expires: api.Seconds(sessionTime.Seconds())})
	if err != nil {
		return nil, http.Cookie{}, err
	}
	return s.session(p), cookieOf(r, made.Token, int(sessionTime.Seconds())), nil
}

// session says who a principal is.
func (s *Server) session(p Principal) *api.Session {
	return &api.Session{User: p.User, Owner: p.Owner, Admin: p.Admin, Site: s.o.Site, Version: s.o.Version}
}

// cookieOf is the session's cookie: no script reads it, and no other site's page sends it (RFC 6265bis §5.6.7.1).
func cookieOf(r *http.Request, value string, maxAge int) http.Cookie {
	return http.Cookie{
		Name: sessionCookie, Value: value, Path: "/", MaxAge: maxAge,
		HttpOnly: true, SameSite: http.SameSiteStrictMode, Secure: overTLS(r),
	}
}

// overTLS tells whether the browser speaks TLS, with us or with a proxy on this host.
func overTLS(r *http.Request) bool {
	return r.TLS != nil ||
		sourceOf(r.RemoteAddr).Addr().IsLoopback() && strings.EqualFold(r.Header.Get("X-Forwarded-Proto"), "https")
}

// tokenID is the id in a token's text, by which it is revoked.
func tokenID(token string) string {
	id, _, _ := strings.Cut(strings.TrimPrefix(token, "wcc_"), "_")
	return id
}

func crossOrigin(err error) error {
	return api.Errorf(api.CodeForbidden, "a page of another origin may not use a browser's session here: %v", err)
}
