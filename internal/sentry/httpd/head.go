package httpd

import "bytes"

// head is a request that the fast loop serves by itself.
type head struct {
	target    []byte // of the request's bytes, as noneMatch
	noneMatch []byte // If-None-Match; nil: there is none
	onlyHead  bool   // HEAD
	close     bool   // the client sends no other request
	length    int    // of the head
}

// outcome is what parseHead says of bytes.
type outcome int

const (
	more    outcome = iota // the head does not end here
	fast                   // h is set
	foreign                // it is for net/http to understand or to refuse
)

// parseHead understands the head of a plain GET or HEAD by HTTP/1.1 (RFC 9112 §2.1) whose target begins with /stills/:
// without a body, conditions but If-None-Match, or anything that is not plainly right.
func parseHead(b []byte) (h head, o outcome) {
	end := bytes.Index(b, []byte("\r\n\r\n"))
	if end < 0 {
		if len(b) > 8 && !startsFast(b) {
			return h, foreign
		}
		return h, more
	}
	h.length = end + 4
	line, rest, _ := bytes.Cut(b[:end+2], []byte("\r\n"))
	target, ok := bytes.CutPrefix(line, []byte("GET "))
	if !ok {
		if target, ok = bytes.CutPrefix(line, []byte("HEAD ")); !ok {
			return h, foreign
		}
		h.onlyHead = true
	}
	if target, ok = bytes.CutSuffix(target, []byte(" HTTP/1.1")); !ok || !bytes.HasPrefix(target, []byte(prefix)) {
		return h, foreign
	}
	for _, c := range target {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '/' && c != '-' && c != '.' && c != '?' && c != '=' {
			return h, foreign
		}
	}
	h.target = target
	hosts := 0
	for len(rest) > 0 {
		line, rest, _ = bytes.Cut(rest, []byte("\r\n"))
		colon := bytes.IndexByte(line, ':')
		if colon < 1 || !token(line[:colon]) {
			return h, foreign
		}
		name, value := line[:colon], bytes.Trim(line[colon+1:], " \t")
		for _, c := range value {
			if c < ' ' && c != '\t' || c >= 0x7f {
				return h, foreign
			}
		}
		// Of the names that matter, each length is looked at, so that others cost little.
		switch len(name) {
		case len("Host"):
			if is(name, "host") {
				hosts++
				if !plainHost(value) {
					return h, foreign
				}
			}
		case len("Connection"):
			if is(name, "connection") {
				switch {
				case is(value, "keep-alive"):
				case is(value, "close"):
					h.close = true
				default:
					return h, foreign
				}
			}
		case len("If-None-Match"):
			if is(name, "if-none-match") {
				if h.noneMatch != nil || len(value) == 0 {
					return h, foreign
				}
				h.noneMatch = value
			}
		case len("Expect"): // and Pragma, Accept, Cookie, which do no harm
			if is(name, "expect") {
				return h, foreign
			}
		case len("Upgrade"):
			if is(name, "upgrade") || is(name, "trailer") {
				return h, foreign
			}
		case len("Content-Length"):
			if is(name, "content-length") {
				return h, foreign
			}
		case len("Transfer-Encoding"):
			if is(name, "transfer-encoding") {
				return h, foreign
			}
		}
	}
	if hosts != 1 {
		return h, foreign
	}
	return h, fast
}

// startsFast tells whether b, of more than 8 bytes, can be the beginning of a fast request.
func startsFast(b []byte) bool {
	for _, s := range []string{"GET " + prefix, "HEAD " + prefix} {
		n := min(len(b), len(s))
		if string(b[:n]) == s[:n] {
			return true
		}
	}
	return false
}

// is compares b to a word in lower case, without regard to b's case.
func is(b []byte, word string) bool {
	if len(b) != len(word) {
		return false
	}
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		if c != word[i] {
			return false
		}
	}
	return true
}

// token tells whether b is a field's name of letters, digits, "-" and "_" (RFC 9110 §5.6.2 allows more, nobody uses it).
func token(b []byte) bool {
	for _, c := range b {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '_' {
			return false
		}
	}
	return true
}

// plainHost tells whether b is a name or an address with or without a port.
func plainHost(b []byte) bool {
	for _, c := range b {
		if (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (c < '0' || c > '9') && c != '-' && c != '.' && c != ':' && c != '[' && c != ']' {
			return false
		}
	}
	return len(b) > 0
}
