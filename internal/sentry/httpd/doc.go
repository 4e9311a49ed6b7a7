// Package httpd hands out stills by HTTP/1.1 and HTTP/2, to thousands of viewers at a time.
//
// A connection begins in a loop of its own (fast.go), which understands one thing: a plain GET or HEAD of one still by
// HTTP/1.1. It reads the request, waits if it is a poll, and sends head and JPEG without a copy and without an allocation:
// of a newest still from a file in memory, as nginx does, of others with one write of head and bytes. Whatever it does not
// understand goes, with the bytes that were read, to net/http, which serves everything (handler.go): a still as well, over
// HTTP/2 too, and the page, streams, thumbnails, captions. Both decide by the same functions (parse, Server.answer), so
// that a viewer cannot tell them apart.
//
// While a connection waits for its next request it has no buffer. It has no timer either: one goroutine looks at all
// connections once a second, and closes those that have been idle, sending a request or taking an answer for too long.
//
// Files: request.go what can be asked for, answer.go what is answered, head.go the heads of fast requests, fast.go their
// loop, files.go the files in memory, server.go connections and draining, limit.go who may have how many, handler.go,
// stream.go, strip.go what net/http serves, metrics.go counters.
//
// Invariants:
//   - a request that the fast loop accepts means the same to net/http;
//   - there is one copy of each still, and of each newest one a file; a reader that is slow holds it for WriteTimeout at
//     most, so that what all slow readers hold is what was sent in that time, however many they are;
//   - connections are bounded, in all and for each address. One too many is told so, 503 with Retry-After, while there is
//     room for telling;
//   - nothing below /stills/ is decoded or cleaned: it is what parse knows, or it is not found;
//   - when Drain has ended no connection is left.
package httpd
