package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"widecloud/internal/wire"
)

// Enrolment is how a host becomes a member of its site.
type Enrolment struct {
	Site, Host string
	Controller string // HOST:PORT
	File       string // where the host's certificate is kept
	Network    wire.Network
	// Token gives the one-time join token; it is asked when there is no certificate.
	Token func() (string, error)
}

// Enrol gives the host's certificate, which a host that has none gets by its join token. joined: it was got now.
func Enrol(ctx context.Context, e Enrolment) (credential *wire.Credential, joined bool, err error) {
	credential, err = wire.LoadCredential(e.File)
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return credential, false, err
	}
	text, err := e.Token()
	if err != nil {
		return nil, false, fmt.Errorf("join_token: %w", err)
	}
	token, err := wire.ParseToken(text)
	if err != nil {
		return nil, false, fmt.Errorf("join_token: %w", err)
	}
	if credential, _, err = wire.Join(ctx, e.Network, e.Controller, token, e.Host, nil); err != nil {
		return nil, false, err
	}
	if credential.Identity.Site != e.Site {
		return nil, false, fmt.Errorf("site: the controller at %s is of site %s, not %s", e.Controller, credential.Identity.Site, e.Site)
	}
	return credential, true, credential.Save(e.File)
}
