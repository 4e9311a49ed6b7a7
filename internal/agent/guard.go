package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"widecloud/internal/store"
	"widecloud/internal/wire"
)

// What an agent refuses, whoever orders it: networks and service addresses that would take from this host its controller, its
// own addresses, or what all of its networks need. Orders that undo such a thing would no longer reach it.

// keyController holds the address at which the controller was reached last.
const keyController = "controller"

// reached notes where the controller is, for as long as it cannot be reached, too.
func (a *Agent) reached(ctx context.Context, at net.Addr) {
	ap, err := netip.ParseAddrPort(at.String())
	if err != nil {
		return // not of an IP network
	}
	addr := ap.Addr().Unmap().WithZone("")
	a.mu.Lock()
	known := a.controller == addr
	a.controller = addr
	a.mu.Unlock()
	if known {
		return
	}
	if _, err := a.o.Store.Update(store.Urgent(ctx), func(tx store.Tx) error { return tx.Put(keyController, []byte(addr.String())) }); err != nil && ctx.Err() == nil {
		a.log.Error("keep the controller's address", "err", err)
	}
}

// loadController reads where the controller was.
func (a *Agent) loadController(tx store.Tx) error {
	kv, err := tx.Get(keyController)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	a.controller, err = netip.ParseAddr(string(kv.Value))
	return err
}

// guarded are the ranges that no network of this host may touch. The driver of networks knows the host's own addresses.
func (a *Agent) guarded() []netip.Prefix {
	a.mu.Lock()
	defer a.mu.Unlock()
	out := slices.Clone(a.o.Guarded)
	for _, addr := range []netip.Addr{a.controller, a.o.VTEP, a.state.AnycastVTEP} {
		if addr.IsValid() {
			out = append(out, netip.PrefixFrom(addr, addr.BitLen()))
		}
	}
	if a.state.Pref64.IsValid() {
		out = append(out, a.state.Pref64)
	}
	return out
}

// guardMappings leaves out the mappings that would take an address from this host, outside or inside, and says why.
func (a *Agent) guardMappings(mappings []wire.Mapping) (good []wire.Mapping, refused []wire.RefusedMapping) {
	guarded := a.guarded()
	own := ownAddresses()
	why := func(addr netip.Addr) string {
		if i := slices.IndexFunc(guarded, func(p netip.Prefix) bool { return p.Contains(addr) }); i >= 0 {
			return fmt.Sprintf("%s is in %s, which this host needs for itself", addr, guarded[i])
		}
		if slices.Contains(own, addr) {
			return fmt.Sprintf("%s is an address of this host", addr)
		}
		return ""
	}
	for _, m := range mappings {
		if no := cmp.Or(why(m.Service), why(m.Target)); no != "" {
			refused = append(refused, wire.RefusedMapping{Service: m.Service, Message: no})
			continue
		}
		good = append(good, m)
	}
	return good, refused
}

// ownAddresses are those of this host's devices.
func ownAddresses() (out []netip.Addr) {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return nil // the kernel does not say: the translator refuses its own ones itself
	}
	for _, a := range addrs {
		if p, err := netip.ParsePrefix(a.String()); err == nil {
			out = append(out, p.Addr().Unmap().WithZone(""))
		}
	}
	return out
}
