package httpd

import (
	"strconv"
	"strings"
	"time"

	"widecloud/internal/sentry/still"
)

// what is the kind of thing that is asked for.
type what int

const (
	newest   what = iota + 1 // the newest still, at once
	poll                     // the newest still, when it is newer than number
	byNumber                 // one still
	byTime                   // a redirect to the still of a time
	live                     // multipart: one still after the other
	events                   // Server-Sent Events: the numbers
	strip                    // thumbnails of what is kept
	caption                  // the text beside the picture
	index                    // what there is of a channel
)

var names = map[what]string{newest: "newest", poll: "poll", byNumber: "number", byTime: "time", live: "live",
	events: "events", strip: "strip", caption: "caption", index: "index"}

// request is a target below /stills/ that has been understood.
type request struct {
	what    what
	channel string
	size    int
	number  uint64    // of poll and byNumber
	at      time.Time // of byTime and caption; zero: now
}

const prefix = "/stills/"

// parse reads the target of a request (RFC 9112 §3.2.1) below /stills/:
//
//	/stills/CHANNEL/SIZE/newest.jpg[?after=NUMBER]
//	/stills/CHANNEL/SIZE/NUMBER.jpg
//	/stills/CHANNEL/SIZE/at.jpg?t=MILLISECONDS
//	/stills/CHANNEL/SIZE/live.mjpg
//	/stills/CHANNEL/SIZE/events
//	/stills/CHANNEL/strip.jpg
//	/stills/CHANNEL/index.json
//	/stills/CHANNEL/caption.json[?t=MILLISECONDS]
//
// Each thing has one spelling: nothing is decoded, cleaned or left out, so that there is nothing to trick, and caches
// have each thing once.
func parse(target string) (request, bool) {
	path, query, asked := strings.Cut(target, "?")
	rest, ok := strings.CutPrefix(path, prefix)
	if !ok {
		return request{}, false
	}
	channel, rest, ok := strings.Cut(rest, "/")
	if !ok || still.CheckChannel(channel) != nil {
		return request{}, false
	}
	r := request{channel: channel}
	switch rest {
	case "strip.jpg":
		r.what = strip
		return r, !asked
	case "index.json":
		r.what = index
		return r, !asked
	case "caption.json":
		r.what = caption
		return r, !asked || r.time(query)
	}
	if len(rest) < 2 || rest[0] < '0' || rest[0] >= '0'+still.Sizes || rest[1] != '/' {
		return request{}, false
	}
	r.size = int(rest[0] - '0')
	switch file := rest[2:]; file {
	case "newest.jpg":
		r.what = newest
		if asked {
			r.what = poll
			after, ok := strings.CutPrefix(query, "after=")
			r.number, asked = number(after)
			return r, ok && asked
		}
		return r, true
	case "at.jpg":
		r.what = byTime
		return r, asked && r.time(query)
	case "live.mjpg":
		r.what = live
	case "events":
		r.what = events
	default:
		r.what = byNumber
		if file, ok = strings.CutSuffix(file, ".jpg"); !ok {
			return request{}, false
		}
		if r.number, ok = number(file); !ok {
			return request{}, false
		}
	}
	return r, !asked
}

// time reads t=MILLISECONDS, Unix time.
func (r *request) time(query string) bool {
	text, ok := strings.CutPrefix(query, "t=")
	ms, good := number(text)
	r.at = time.UnixMilli(int64(ms))
	return ok && good
}

// number reads a decimal number as it is written by us: without sign, leading zero or anything else.
func number(s string) (uint64, bool) {
	if len(s) == 0 || len(s) > 16 || s[0] == '0' && len(s) > 1 {
		return 0, false
	}
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
	}
	n, err := strconv.ParseUint(s, 10, 64)
	return n, err == nil && n <= still.MaxNumber
}
