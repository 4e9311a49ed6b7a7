package joining

import (
	"context"
	"errors"
	"time"

	"widecloud/api"
	"widecloud/internal/control/objects"
	"widecloud/internal/state"
	"widecloud/internal/store"
	"widecloud/internal/wire"
)

// join is what is kept of a one-time token.
type join struct {
	Kind    wire.TokenKind `json:"kind"`
	Host    string         `json:"host,omitempty"`
	Roles   []api.HostRole `json:"roles,omitempty"`
	Key     string         `json:"key,omitempty"` // of who used it, which may ask again: an agent's key, or the fingerprint of a site
	Expires time.Time      `json:"expires,omitzero"`
}

func (jn *Joining) oneTime(ctx context.Context, j join) (string, error) {
	t, err := wire.NewToken(j.Kind, jn.Authority.Certificate())
	if err != nil {
		return "", err
	}
	j.Expires = jn.Now().Add(jn.JoinLife)
	return t.String(), jn.Write(ctx, func(tx *state.Tx) error {
		if err := objects.PutRecord(tx, objects.PrefixJoins+t.ID(), j); err != nil {
			return err
		}
		return jn.Answer(ctx, tx, nil)
	})
}

// redeem reads a one-time token that somebody with a key shows: a new one, or one that the same key has used before.
func (jn *Joining) redeem(tx *state.Tx, id string, kind wire.TokenKind, key, advice string) (join, error) {
	j, err := objects.Record[join](tx, objects.PrefixJoins+id)
	refused := func(why string) error {
		return &api.Error{Code: api.CodeUnauthenticated, Field: "token", Message: why + "; " + advice}
	}
	switch {
	case errors.Is(err, store.ErrNotFound) || err == nil && j.Kind != kind:
		return j, refused("it is not known here")
	case err != nil:
		return j, err
	case !jn.Now().Before(j.Expires):
		return j, refused("it has expired")
	case j.Key != "" && j.Key != key:
		return j, refused("it was used by somebody else")
	}
	return j, nil
}

// Prune removes the tokens that have expired, used or not.
func (jn *Joining) Prune(ctx context.Context) error {
	expired := func(j join) bool { return !jn.Now().Before(j.Expires) }
	any := false
	if err := jn.Read(ctx, func(tx *state.Tx) error {
		all, err := objects.ListRecords[join](tx, objects.PrefixJoins)
		for _, j := range all {
			any = any || expired(j)
		}
		return err
	}); err != nil || !any {
		return err
	}
	return jn.Write(ctx, func(tx *state.Tx) error { return jn.forgetJoins(tx, expired) })
}

// forgetJoins removes the tokens that match.
func (jn *Joining) forgetJoins(tx *state.Tx, match func(join) bool) error {
	all, err := objects.ListRecords[join](tx, objects.PrefixJoins)
	if err != nil {
		return err
	}
	for id, j := range all {
		if match(j) {
			if err := objects.Remove(tx, objects.PrefixJoins+id); err != nil {
				return err
			}
		}
	}
	return nil
}
