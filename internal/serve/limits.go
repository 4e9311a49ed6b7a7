package serve

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

	"widecloud/api"
)

// limit names what one user can have only so many of at once. It is a label of the metrics.
type limit string

// The limits of a user.
const (
	limitRequests limit = "requests"
	limitWatches  limit = "watches"
	limitConsoles limit = "consoles"
	limitUploads  limit = "uploads"
)

// most is how many of each one user may have at once. docs/wcc.md states them.
var most = map[limit]int{
	limitRequests: 32,
	limitWatches:  100,
	limitConsoles: 16,
	limitUploads:  4,
}

// retryAfter is when a user who is at a limit is told to try again.
const retryAfter = 5 * time.Second

// limitOf is the limit under which a request falls.
func limitOf(route string, r *http.Request) limit {
	switch {
	case route == "PUT /v1/images/{name}/content":
		return limitUploads
	case route == "GET /v1/vms/{name}/console", route == "GET /v1/vms/{name}/display":
		return limitConsoles
	case route == watchRoute:
		return limitWatches
	case strings.HasPrefix(route, "GET ") && r.URL.Query().Has("watch"):
		if on, err := strconv.ParseBool(r.URL.Query().Get("watch")); err == nil && on {
			return limitWatches
		}
	}
	return limitRequests
}

// usage counts what each user has under way. Its size is bounded by that.
type usage struct {
	mu sync.Mutex
	n  map[ofUser]int
}

type ofUser struct {
	user  string
	limit limit
}

// take counts one more until release is called, or refuses it.
func (u *usage) take(user string, l limit) (release func(), err error) {
	k := ofUser{user, l}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.n[k] >= most[l] {
		return nil, errorBody{
			apiError: api.Errorf(api.CodeTooMany, "user %s has %d %s open, as many as one user may have at once: end one, or try again in %v",
				user, u.n[k], l, retryAfter),
			header: retryIn(retryAfter),
		}
	}
	if u.n == nil {
		u.n = map[ofUser]int{}
	}
	u.n[k]++
	return func() {
		u.mu.Lock()
		defer u.mu.Unlock()
		if u.n[k]--; u.n[k] == 0 {
			delete(u.n, k)
		}
	}, nil
}

// retryIn is the header that says when to try again (RFC 9110 §10.2.3): in whole seconds, at least one.
func retryIn(d time.Duration) http.Header {
	return http.Header{"Retry-After": {fmt.Sprint(max(1, int((d+time.Second-1)/time.Second)))}}
}
