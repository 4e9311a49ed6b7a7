package site

import (
	"context"
	"errors"
	"fmt"
	"net/netip"

	"widecloud/api"
	"widecloud/internal/lab/script"
	"widecloud/internal/lab/stage"
)

// Refused expects that a site's address plan refuses a network or a service address.
type Refused struct {
	Network netip.Prefix // valid: a network; otherwise
	Address netip.Addr   // a service address
	At      *Site
}

func parseNewNetwork(p *script.Parser) any {
	r := &Refused{Network: stage.FreshPrefix(p, p.Prefix("prefix", func(netip.Prefix) bool { return true }))}
	r.At = atSite(p)
	return r
}

func parseNewAddress(p *script.Parser) any {
	r := &Refused{Address: stage.FreshAddr(p, p.Addr())}
	r.At = atSite(p)
	return r
}

// atSite takes `at SITE refused`.
func atSite(p *script.Parser) *Site {
	p.OneOf("at")
	s := ref(p)
	p.OneOf("refused")
	return s
}

// Judge implements stage.Judge.
func (r *Refused) Judge(ctx context.Context, _ *stage.Stage) (string, error) {
	c := r.At.client
	const name = "not-to-be"
	var err error
	if r.Network.IsValid() {
		if _, err = api.Create(ctx, c, &api.Network{Meta: api.Meta{Name: name}, Spec: api.NetworkSpec{Prefix: r.Network.String()}}); err == nil {
			_, err = api.Delete[api.Network](ctx, c, name)
			return "", errors.Join(errAccepted, err)
		}
	} else if _, err = api.Create(ctx, c, &api.Address{Meta: api.Meta{Name: name}, Spec: api.AddressSpec{Address: r.Address.String()}}); err == nil {
		_, err = api.Delete[api.Address](ctx, c, name)
		return "", errors.Join(errAccepted, err)
	}
	var refusal *api.Error
	if !errors.As(err, &refusal) || refusal.Field == "" {
		return "", fmt.Errorf("no refusal by the field: %w", err)
	}
	return refusal.Error(), nil
}

var errAccepted = errors.New("it was accepted")
