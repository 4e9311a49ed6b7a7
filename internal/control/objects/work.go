package objects

import (
	"context"
	"errors"
	"strings"
	"time"

	"widecloud/api"
)

// Start lets Once and Go run work until ctx ends. The work is over when wait returns.
func (st *Site) Start(ctx context.Context) (wait func()) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.ctx = ctx
	return st.work.Wait
}

// Go runs f in the background, from Start on.
func (st *Site) Go(f func()) { st.work.Go(f) }

// Concerns tells whether anybody has something to do because of a change of a key. Events and progress come often, and
// nothing follows from them; Cancel pokes by itself.
func Concerns(key string) bool {
	for _, prefix := range []string{Key(api.KindEvent, ""), Key(api.KindJob, ""), Key(api.KindVolume, ""), Key(api.KindSite, ""), PrefixTokens, PrefixJoins, PrefixAnswers, PrefixResults, "accounts/", "ledger/", "fed/"} {
		if strings.HasPrefix(key, prefix) {
			return false
		}
	}
	return true
}

// Poke wakes everybody who waits for a change.
func (st *Site) Poke() {
	st.mu.Lock()
	defer st.mu.Unlock()
	close(st.changed)
	st.changed = make(chan struct{})
}

// WhenChanged is closed at the next change.
func (st *Site) WhenChanged() <-chan struct{} {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.changed
}

// Once runs f in the background unless work of that name is under way already.
func (st *Site) Once(name string, f func(context.Context)) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.busy[name] || st.ctx == nil || st.ctx.Err() != nil {
		return
	}
	st.busy[name] = true
	ctx := st.ctx
	st.work.Go(func() {
		defer func() {
			st.mu.Lock()
			delete(st.busy, name)
			st.mu.Unlock()
		}()
		f(ctx)
	})
}

// Working tells whether work of a name is under way.
func (st *Site) Working(name string) bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.busy[name]
}

// Pause waits a little before a call is repeated that has to succeed.
func (st *Site) Pause(ctx context.Context) error { return st.PauseFor(ctx, st.Retry) }

// PauseFor waits, and is ErrHalt when ctx ends first.
func (st *Site) PauseFor(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ErrHalt
	case <-time.After(d):
		return nil
	}
}

// ErrHalt says that there is nothing to do now.
var ErrHalt = errors.New("halt")
