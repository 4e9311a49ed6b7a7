package api

import (
	"context"
	"net/http"
	"time"
)

// OwnTokens stands for the caller's own name in the paths of tokens: a user need not know its name.
const OwnTokens = "-"

// UserToken is what is known of a user's token.
type UserToken struct {
	ID       string    `json:"id"`
	User     string    `json:"user"`
	Note     string    `json:"note,omitempty"`        // what it is for
	Created  time.Time `json:"created,omitzero"`      // zero: before it was kept
	Expires  time.Time `json:"expires,omitzero"`      // zero: never
	LastUsed time.Time `json:"last_used,omitzero"`    // to the hour; zero: not yet
	First    bool      `json:"first_login,omitempty"` // good only for making a lasting token, once
	Token    string    `json:"token,omitempty"`       // the secret: shown when the token is made, and never again
}

// UserTokens is the answer of GET /v1/users/{name}/tokens, the oldest first.
type UserTokens struct {
	Items []UserToken `json:"items"`
}

// TokenRequest is the body of POST /v1/users/{name}/tokens; no body is an empty one.
type TokenRequest struct {
	Note    string  `json:"note,omitempty"`            // what it is for; at most 100 characters
	Expires Seconds `json:"expires_seconds,omitempty"` // from now, at least a minute; 0: never
}

// Tokens lists a user's tokens, without their secrets. OwnTokens is the caller itself.
func (c *Client) Tokens(ctx context.Context, user string) ([]UserToken, error) {
	l, err := call[UserTokens](ctx, c, http.MethodGet, path(string(KindUser), user, "tokens"), nil)
	if err != nil {
		return nil, err
	}
	return l.Items, nil
}

// NewToken makes a new token for a user, or with OwnTokens for the caller; its secret is shown this once.
func (c *Client) NewToken(ctx context.Context, user string, r TokenRequest) (*UserToken, error) {
	return call[UserToken](ctx, c, http.MethodPost, path(string(KindUser), user, "tokens"), r)
}

// RevokeToken ends a token.
func (c *Client) RevokeToken(ctx context.Context, user, id string) error {
	return c.do(ctx, http.MethodDelete, path(string(KindUser), user, "tokens", id), nil, nil)
}
