package serve

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"widecloud/api"
)

// maxKey is how long an Idempotency-Key may be.
const maxKey = 100

// OnceInput is the key under which a POST may be repeated.
type OnceInput struct {
	Key string `header:"Idempotency-Key" doc:"any word that no other request of the user has: within 24 h a request with the same key takes effect once, and is answered again"`
}

// Resolve judges the key (huma.Resolver).
func (in *OnceInput) Resolve(huma.Context) []error {
	if len(in.Key) > maxKey || strings.ContainsFunc(in.Key, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return []error{errorBody{apiError: api.Invalidf("Idempotency-Key", "is not 1 to %d visible ASCII characters", maxKey)}}
	}
	return nil
}

// Attempt is a POST that its client may repeat.
type Attempt struct {
	User string
	Key  string
	Hash string // of what is asked for
}

// Answer is what a Controller keeps of an Attempt, for 24 h, in the transaction of what the attempt did.
type Answer struct {
	Hash string
	Kind api.Kind // of the object that it was answered with; "": nothing that can be shown again
	Name string
	UID  string // "": of any
}

type attemptKey struct{}

// WithAttempt makes the ctx of a POST that its client may repeat.
func WithAttempt(ctx context.Context, a Attempt) context.Context {
	return context.WithValue(ctx, attemptKey{}, a)
}

// AttemptOf is the Attempt that a POST is; false when its client gave no key.
func AttemptOf(ctx context.Context) (Attempt, bool) {
	a, ok := ctx.Value(attemptKey{}).(Attempt)
	return a, ok
}

// once makes a POST, or when it was made before under the same key, answers it again. what names the operation and its object;
// again makes the answer of an object that the first attempt was answered with.
func once[V any](s *Server, ctx context.Context, in OnceInput, what string, body any, do func(context.Context) (V, error),
	again func(api.Object) (V, error)) (v V, err error) {
	if in.Key == "" {
		return do(ctx)
	}
	b, err := json.Marshal(body)
	if err != nil {
		return v, fmt.Errorf("encode the request: %w", err)
	}
	sum := sha256.Sum256(append([]byte(what+"\n"), b...))
	a := Attempt{User: who(ctx).User, Key: in.Key, Hash: hex.EncodeToString(sum[:])}
	repeat := func() (v V, found bool, err error) {
		have, err := s.o.Controller.Answered(ctx, a)
		if err != nil || have == nil {
			return v, err != nil, err
		}
		o, err := s.answeredWith(ctx, a, *have)
		if err != nil {
			return v, true, err
		}
		v, err = again(o)
		return v, true, err
	}
	if v, found, err := repeat(); found {
		return v, err
	}
	if v, err = do(WithAttempt(ctx, a)); err == nil {
		return v, nil
	}
	// The same request may have been made at the same time.
	if v, found, rerr := repeat(); found && rerr == nil {
		return v, nil
	}
	return v, err
}

// answeredWith is the object that an attempt was answered with, as it is now; nil when there is none to show.
func (s *Server) answeredWith(ctx context.Context, a Attempt, have Answer) (api.Object, error) {
	const field = "Idempotency-Key"
	switch {
	case have.Hash != a.Hash:
		return nil, &api.Error{Code: api.CodeConflict, Field: field, Message: fmt.Sprintf("%q is the key of another request: take a new key for each", a.Key)}
	case have.Kind == "":
		return nil, nil
	}
	o, err := s.o.Controller.Get(ctx, who(ctx), have.Kind, have.Name)
	if errors.Is(err, &api.Error{Code: api.CodeNotFound}) || err == nil && have.UID != "" && have.UID != o.Metadata().UID {
		return nil, &api.Error{Code: api.CodeConflict, Field: field,
			Message: fmt.Sprintf("the request was made before, and what it made is not there now: %s/%s", have.Kind, have.Name)}
	}
	return o, err
}

// shown makes an answer of the object that a request was answered with before.
func shown[P api.Object](o api.Object) (P, error) {
	p, ok := o.(P)
	if !ok {
		var none P
		return none, errShownOnce
	}
	return p, nil
}

// errShownOnce answers a repeated request for a secret.
var errShownOnce = &api.Error{Code: api.CodeConflict, Field: "Idempotency-Key",
	Message: "the request was made before, and its secret is shown once: revoke what it made if the answer was lost, and make another with a new key"}

// secret is again of a request that is answered with a secret.
func secret[V any](api.Object) (v V, err error) { return v, errShownOnce }
