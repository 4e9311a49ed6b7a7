package wire

import (
	"context"
	"crypto/x509"
	"fmt"
	"net/url"
	"strings"
)

// Role is what a process is in its site.
type Role string

// The roles.
const (
	RoleController Role = "controller" // a site's controller: one per site
	RoleAgent      Role = "agent"      // the agent of one host
)

// scheme is the URI scheme of identities in certificates.
const scheme = "widecloud"

// Identity says who is at the other end of a session. A certificate carries it as its only URI SAN:
// widecloud://SITE/controller or widecloud://SITE/agent/HOST.
type Identity struct {
	Site string
	Role Role
	Host string // agents only
}

// Controller is the identity of a site's controller.
func Controller(site string) Identity { return Identity{Site: site, Role: RoleController} }

// Agent is the identity of a host's agent.
func Agent(site, host string) Identity { return Identity{Site: site, Role: RoleAgent, Host: host} }

// String gives SITE/controller or SITE/agent/HOST.
func (id Identity) String() string {
	if id.Role == RoleAgent {
		return id.Site + "/" + string(id.Role) + "/" + id.Host
	}
	return id.Site + "/" + string(id.Role)
}

// URI is the identity as a certificate carries it.
func (id Identity) URI() *url.URL {
	path := "/" + string(id.Role)
	if id.Role == RoleAgent {
		path += "/" + id.Host
	}
	return &url.URL{Scheme: scheme, Host: id.Site, Path: path}
}

// Validate says what is wrong with the identity's words.
func (id Identity) Validate() error {
	if !isLabel(id.Site) {
		return fmt.Errorf("site %q is not a DNS label", id.Site)
	}
	switch {
	case id.Role == RoleController && id.Host == "":
		return nil
	case id.Role == RoleController:
		return fmt.Errorf("a controller's identity names host %q", id.Host)
	case id.Role != RoleAgent:
		return fmt.Errorf("role %q is neither controller nor agent", id.Role)
	case !isLabel(id.Host):
		return fmt.Errorf("host %q is not a DNS label", id.Host)
	}
	return nil
}

// ParseIdentity reads the URI form. Anything but the exact text that URI would write is refused, so that one identity
// has one spelling.
func ParseIdentity(uri string) (Identity, error) {
	rest, ok := strings.CutPrefix(uri, scheme+"://")
	if !ok {
		return Identity{}, fmt.Errorf("parse identity %q: not a %s:// URI", uri, scheme)
	}
	part := strings.Split(rest, "/")
	var id Identity
	switch len(part) {
	case 2:
		id = Identity{Site: part[0], Role: Role(part[1])}
	case 3:
		id = Identity{Site: part[0], Role: Role(part[1]), Host: part[2]}
	default:
		return Identity{}, fmt.Errorf("parse identity %q: want SITE/controller or SITE/agent/HOST", uri)
	}
	if err := id.Validate(); err != nil {
		return Identity{}, fmt.Errorf("parse identity %q: %w", uri, err)
	}
	return id, nil
}

// identityOf reads the identity out of a leaf certificate: exactly one URI SAN.
func identityOf(leaf *x509.Certificate) (Identity, error) {
	if len(leaf.URIs) != 1 {
		return Identity{}, fmt.Errorf("read identity: certificate has %d URI names, want one", len(leaf.URIs))
	}
	return ParseIdentity(leaf.URIs[0].String())
}

// isLabel tells whether s is a lower-case DNS label (RFC 1123 §2.1, at most 63 octets by RFC 1035 §2.3.4).
func isLabel(s string) bool {
	if len(s) == 0 || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}

// Caller is who asks for a session: what its certificate proves, and what the session is for.
type Caller struct {
	Identity
	Purpose Purpose
	Key     string // of the certificate, as Credential.Key gives it: another key under the same name is another machine
}

type contextKey int

const (
	keyPeer contextKey = iota
	keySession
	keyStream
)

// PeerOf gives the identity at the other end of the session by which a request came. A context that is not a request's
// gives false.
func PeerOf(ctx context.Context) (Identity, bool) {
	id, ok := ctx.Value(keyPeer).(Identity)
	return id, ok
}

// SessionOf gives the session by which a request came, nil if there is none.
func SessionOf(ctx context.Context) *Session {
	s, _ := ctx.Value(keySession).(*Session)
	return s
}
