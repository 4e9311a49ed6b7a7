package httpd

import (
	"crypto/sha256"
	"encoding/hex"
	"net/http"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"widecloud/internal/sentry/reel"
	"widecloud/internal/sentry/still"
)

// prepared is what goes out with a still, made once for all who get it.
type prepared struct {
	etag   string
	fields []byte              // of HTTP/1.1, with length and type of the JPEG
	same   []byte              // those of them that belong into a 304
	header map[string][]string // the same as fields, for net/http; shared: never changed
	file   atomic.Pointer[madeFile]
}

// Prepare is for reel.Options.
func Prepare(s *still.Still) any {
	sum := sha256.Sum256(s.JPEG)
	p := &prepared{etag: `"` + strconv.FormatUint(s.Number, 10) + "-" + hex.EncodeToString(sum[:6]) + `"`}
	list := [][2]string{
		{"ETag", p.etag},
		{"Last-Modified", s.Taken.UTC().Format(http.TimeFormat)},
		{"Still", strconv.FormatUint(s.Number, 10) + " " + strconv.FormatInt(s.Taken.UnixMilli(), 10)},
		{"Access-Control-Allow-Origin", "*"},
		{"Access-Control-Expose-Headers", exposed},
		{"Content-Type", "image/jpeg"},
		{"Content-Length", strconv.Itoa(len(s.JPEG))},
	}
	p.header = make(map[string][]string, len(list))
	for i, f := range list {
		if i == len(list)-2 {
			p.same = p.fields
		}
		p.fields = append(p.fields, f[0]+": "+f[1]+"\r\n"...)
		p.header[http.CanonicalHeaderKey(f[0])] = []string{f[1]}
	}
	p.same = p.same[:len(p.same):len(p.same)]
	return p
}

// exposed is what a page from another server may read.
const exposed = "Still, Sentry, Stills, Retry-After"

// answer is what is said to a request for one still.
type answer struct {
	status int         // 200, 204 (nothing newer in time), 304, 404, 410
	frame  *reel.Frame // of 200 and 304
	cache  string      // Cache-Control
}

// Cache-Control of what changes: caches may give the newest still for a second, which is what viewers wait for it at most.
const (
	cacheNewest = "public, max-age=1"
	cacheNever  = "no-store"
)

// answer finds what to say to r, which is newest, byNumber, or a poll that has waited.
func (s *Server) answer(r *request, noneMatch string) answer {
	var a answer
	switch r.what {
	case byNumber:
		f, gone := s.o.Reel.Number(r.channel, r.size, r.number)
		if f == nil {
			a = answer{status: http.StatusNotFound, cache: cacheNever}
			if gone {
				a.status = http.StatusGone
			}
			return a
		}
		a = answer{status: http.StatusOK, frame: f, cache: s.cacheNumber}
	default:
		f := s.o.Reel.Newest(r.channel, r.size)
		if f == nil {
			return answer{status: http.StatusNotFound, cache: cacheNever}
		}
		if r.what == poll && f.Number <= r.number {
			return answer{status: http.StatusNoContent, cache: cacheNever}
		}
		a = answer{status: http.StatusOK, frame: f, cache: cacheNewest}
		if s.Draining() {
			a.cache = cacheNever
		}
	}
	if noneMatch != "" && matches(noneMatch, a.frame.Prepared.(*prepared).etag) {
		a.status = http.StatusNotModified
	}
	return a
}

// matches tells whether an If-None-Match field names etag (RFC 9110 §13.1.2: by weak comparison).
func matches(field, etag string) bool {
	if field == etag {
		return true
	}
	for part := range strings.SplitSeq(field, ",") {
		part = strings.Trim(part, " \t")
		if part == "*" || strings.TrimPrefix(part, "W/") == etag {
			return true
		}
	}
	return false
}

// wait returns when there is a still that r, a poll, waits for, or when there is no use in waiting: time is up, the
// server drains, done is closed.
func (s *Server) wait(r *request, done <-chan struct{}) {
	f := s.o.Reel.Newest(r.channel, r.size)
	if f == nil || f.Number > r.number || s.Draining() {
		return
	}
	s.polls.Add(1)
	defer s.polls.Add(-1)
	timer := time.NewTimer(s.o.PollWait)
	defer timer.Stop()
	for f != nil && f.Number <= r.number {
		select {
		case <-f.Next():
			f = s.o.Reel.Newest(r.channel, r.size)
		case <-timer.C:
			return
		case <-s.draining:
			return
		case <-done:
			return
		}
	}
}
