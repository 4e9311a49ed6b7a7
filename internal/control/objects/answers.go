package objects

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"slices"
	"time"

	"widecloud/api"
	"widecloud/internal/serve"
	"widecloud/internal/state"
	"widecloud/internal/store"
)

const (
	// answerLife is how long a request is known by its key.
	answerLife = 24 * time.Hour
	// answersKept is how many of a user's newest requests are known by their keys.
	answersKept = 1000
)

// answer is what a request with a key was answered with.
type answer struct {
	Hash string    `json:"hash"`
	Kind api.Kind  `json:"kind,omitempty"`
	Name string    `json:"name,omitempty"`
	UID  string    `json:"uid,omitempty"`
	At   time.Time `json:"at"`
}

// AnswersOf is where a user's answers are.
func AnswersOf(user string) string { return PrefixAnswers + user + "/" }

// answerKey hides the client's word, which may have any characters.
func answerKey(a serve.Attempt) string {
	sum := sha256.Sum256([]byte(a.Key))
	return AnswersOf(a.User) + hex.EncodeToString(sum[:16])
}

// Answered is what a request with a key was answered with; nil when it is new.
func (st *Site) Answered(ctx context.Context, a serve.Attempt) (out *serve.Answer, err error) {
	err = st.Read(ctx, func(tx *state.Tx) error {
		have, err := st.answered(tx, a)
		if have != nil {
			out = &serve.Answer{Hash: have.Hash, Kind: have.Kind, Name: have.Name, UID: have.UID}
		}
		return err
	})
	return out, err
}

func (st *Site) answered(tx *state.Tx, a serve.Attempt) (*answer, error) {
	have, err := Record[answer](tx, answerKey(a))
	if errors.Is(err, store.ErrNotFound) || err == nil && st.Now().Sub(have.At) >= answerLife {
		return nil, nil
	}
	return &have, err
}

// Answer keeps what the request of ctx is answered with, in the transaction of what it does, so that it takes effect once
// however often its client repeats it. o may be nil: a secret, which is not shown again.
func (st *Site) Answer(ctx context.Context, tx *state.Tx, o api.Object) error {
	a, ok := serve.AttemptOf(ctx)
	if !ok {
		return nil
	}
	have, err := st.answered(tx, a)
	if err != nil {
		return err
	}
	if have != nil {
		return api.Errorf(api.CodeConflict, "the request was made before")
	}
	kept := answer{Hash: a.Hash, At: st.Now()}
	if o != nil {
		kept.Kind, kept.Name, kept.UID = o.Kind(), o.Metadata().Name, o.Metadata().UID
	}
	return PutRecord(tx, answerKey(a), kept)
}

// Unanswered forgets the answer of a request that did nothing in the end.
func (st *Site) Unanswered(ctx context.Context) {
	a, ok := serve.AttemptOf(ctx)
	if !ok {
		return
	}
	if err := st.Write(store.Urgent(ctx), func(tx *state.Tx) error { return Remove(tx, answerKey(a)) }); err != nil {
		st.Log.Error("forget a request that did nothing", "user", a.User, "err", err)
	}
}

// AtMostOnce does what no transaction of this site does, for a request that is answered with o: its client's repetition after a
// crash in between does nothing more.
func (st *Site) AtMostOnce(ctx context.Context, o api.Object, do func() error) error {
	if _, ok := serve.AttemptOf(ctx); !ok {
		return do()
	}
	if err := st.Write(ctx, func(tx *state.Tx) error { return st.Answer(ctx, tx, o) }); err != nil {
		return err
	}
	err := do()
	if err != nil {
		st.Unanswered(context.WithoutCancel(ctx))
	}
	return err
}

// PruneAnswers forgets what has been kept long enough, and of each user what is over the number.
func (st *Site) PruneAnswers(ctx context.Context) error {
	var old []string
	if err := st.Read(ctx, func(tx *state.Tx) error {
		old = st.oldAnswers(tx)
		return nil
	}); err != nil || len(old) == 0 {
		return err
	}
	return st.Write(store.Urgent(ctx), func(tx *state.Tx) error {
		for _, key := range old {
			if err := Remove(tx, key); err != nil {
				return err
			}
		}
		return nil
	})
}

// oldAnswers are the keys of those that need not be kept.
func (st *Site) oldAnswers(tx *state.Tx) (old []string) {
	type dated struct {
		key string
		at  time.Time
	}
	byUser := map[string][]dated{}
	for key, o := range tx.Objects(PrefixAnswers) {
		a := o.(*answer)
		if st.Now().Sub(a.At) >= answerLife {
			old = append(old, key)
			continue
		}
		user := key[:len(key)-32] // the hash of the client's key is 32 digits
		byUser[user] = append(byUser[user], dated{key, a.At})
	}
	for _, all := range byUser {
		if len(all) <= answersKept {
			continue
		}
		slices.SortFunc(all, func(a, b dated) int { return a.at.Compare(b.at) })
		for _, d := range all[:len(all)-answersKept] {
			old = append(old, d.key)
		}
	}
	return old
}
