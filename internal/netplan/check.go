package netplan

import (
	"fmt"
	"net/netip"
	"slices"

	"widecloud/api"
	"widecloud/internal/cloud"
)

// Check judges what a network is, by itself. field is put before the names of fields in the error.
func (s Spec) Check(field string) error {
	if err := cloud.CheckUID(field+".uid", s.UID); err != nil {
		return err
	}
	if err := cloud.ValidateName(field+".name", s.Name); err != nil {
		return err
	}
	if _, ok := mobilities[s.Mobility]; !ok {
		return api.Invalidf(field+".mobility", "%.40q is not known here; known is %s", s.Mobility, defaultMobility)
	}
	return cloud.CheckCarried(field, s.VNI, s.Prefix, s.IPv4, s.MTU)
}

// Check judges an endpoint of a network.
func (e Endpoint) Check(field string, s Spec) error {
	if err := cloud.CheckUID(field+".vm", e.VM); err != nil {
		return err
	}
	if e.Hostname != "" {
		if err := cloud.ValidateName(field+".hostname", e.Hostname); err != nil {
			return err
		}
	}
	if err := cloud.CheckMAC(field+".mac", e.MAC); err != nil {
		return err
	}
	if e.VTEP.IsValid() {
		if err := cloud.CheckVTEP(field+".vtep", e.VTEP); err != nil {
			return err
		}
	}
	return cloud.CheckGuestAddresses(field, s.Prefix, s.IPv4, e.IPv6, e.IPv4)
}

// Sound gives the order without the endpoints and the flood addresses that are bad, and an error for each of these. Of two
// endpoints with the same VM, MAC or address the first one stays. Check judges the rest of the order.
func (n Order) Sound(field string) (Order, []error) {
	var errs []error
	flood := n.Flood
	n.Flood = nil
	for i, a := range flood {
		if err := cloud.CheckVTEP(fmt.Sprintf("%s.flood[%d]", field, i), a); err != nil {
			errs = append(errs, err)
		} else if !slices.Contains(n.Flood, a) {
			n.Flood = append(n.Flood, a)
		}
	}
	var bad []error
	n.Endpoints, bad = soundEndpoints(field, n.Spec, n.Endpoints)
	return n, append(errs, bad...)
}

func soundEndpoints(field string, s Spec, endpoints []Endpoint) (good []Endpoint, errs []error) {
	seen := map[string]bool{}
	for i, e := range endpoints {
		at := fmt.Sprintf("%s.endpoints[%d]", field, i)
		err := e.Check(at, s)
		keys := []string{"vm " + e.VM, "mac " + e.MAC, "address " + e.IPv6.String()}
		if e.IPv4.IsValid() {
			keys = append(keys, "address "+e.IPv4.String())
		}
		for _, key := range keys {
			if err == nil && seen[key] {
				err = api.Invalidf(at, "%s is there twice", key)
			}
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		for _, key := range keys {
			seen[key] = true
		}
		good = append(good, e)
	}
	return good, errs
}

// parse reads an address; what is none is the zero one.
func parse(text string) netip.Addr {
	a, _ := netip.ParseAddr(text)
	return a
}
