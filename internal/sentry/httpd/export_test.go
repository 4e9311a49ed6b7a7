package httpd

import (
	"net/netip"

	"widecloud/internal/sentry/reel"
)

// Key is the address under which a viewer counts.
func Key(a netip.Addr, translator netip.Prefix) netip.Addr {
	l := limit{nat64: []netip.Prefix{translator}}
	return l.key(a)
}

// ETag is a still's.
func ETag(f *reel.Frame) string { return f.Prepared.(*prepared).etag }
