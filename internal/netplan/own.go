package netplan

import (
	"slices"
	"strings"

	"widecloud/api"
)

// Own is a network of this site and all objects that its plan follows from.
type Own struct {
	Network   *api.Network
	VMs       []*api.VM           // all that are on it
	Moves     []api.NetworkMember // both ends of the migrations of these VMs that are under way
	Rooms     []string            // hosts of this site that keep room for one of these VMs
	Gateways  []api.NetworkMember // hosts that let traffic in and out: this site's, and those of peers that lend addresses
	Addresses []*api.Address      // of these VMs; others are passed over
}

// Own plans a network of this site. An error is of the network's own fields.
func (s *Site) Own(in Own) (Network, error) {
	spec, err := SpecOf(in.Network)
	if err != nil {
		return Network{}, err
	}
	n := Network{Home: s.name, here: map[string]bool{}, gateways: true}
	n.View = View{Spec: spec, Members: in.members(), Endpoints: []Endpoint{}, Mappings: in.mappings()}
	for _, v := range in.VMs {
		if v.Status.Site == s.name && v.Status.Epoch > 0 {
			n.here[v.Status.Host] = true
		}
		if e, ok := endpointOf(v); ok {
			n.View.Endpoints = append(n.View.Endpoints, e)
		}
	}
	// The network is there before the VM arrives.
	for _, host := range in.Rooms {
		n.here[host] = true
	}
	for _, m := range n.View.Members {
		if a := parse(m.VTEP); a.IsValid() {
			n.carriers = append(n.carriers, carrier{a, m.Role == api.RoleGateway})
		}
	}
	n.carriers = merged(n.carriers)
	n.Mappings = n.View.Mappings
	return n, nil
}

// endpointOf gives a VM's place on its network; ok is false while it has none.
func endpointOf(v *api.VM) (e Endpoint, ok bool) {
	e = Endpoint{VM: v.UID, Hostname: api.HostnameOf(v), MAC: v.Status.MAC, VTEP: parse(v.Status.VTEP)}
	for _, a := range v.Status.Addresses {
		addr := parse(a.Address)
		switch {
		case !addr.IsValid():
		case a.Origin == "slaac":
			e.IPv6 = addr
		case a.Origin == "dhcp":
			e.IPv4 = addr
		}
	}
	return e, e.VTEP.IsValid()
}

// members are the hosts that carry the network, in a fixed order.
func (in Own) members() []api.NetworkMember {
	set := map[api.NetworkMember]bool{}
	for _, v := range in.VMs {
		if parse(v.Status.VTEP).IsValid() {
			set[api.NetworkMember{Site: v.Status.Site, Host: v.Status.Host, VTEP: v.Status.VTEP, Role: api.RoleHypervisor}] = true
		}
	}
	// Both ends of a migration carry the network while it lasts, so that what the VM's arrival announces is heard.
	for _, m := range in.Moves {
		if m.VTEP != "" {
			m.Role = api.RoleHypervisor
			set[m] = true
		}
	}
	for _, g := range in.Gateways {
		set[g] = true
	}
	out := make([]api.NetworkMember, 0, len(set))
	for m := range set {
		out = append(out, m)
	}
	slices.SortFunc(out, func(a, b api.NetworkMember) int {
		return strings.Compare(a.Site+"/"+a.Host+string(a.Role), b.Site+"/"+b.Host+string(b.Role))
	})
	return out
}

// mappings lead the service addresses of the network's VMs to them.
func (in Own) mappings() (out []Mapping) {
	vms := make(map[string]*api.VM, len(in.VMs))
	for _, v := range in.VMs {
		vms[v.Name] = v
	}
	for _, a := range in.Addresses {
		service, v := parse(a.Spec.Address), vms[a.Spec.VM]
		if v == nil || !service.IsValid() || a.Deleting {
			continue
		}
		for _, va := range v.Status.Addresses {
			if target := parse(va.Address); target.IsValid() && va.Origin == "slaac" {
				out = append(out, Mapping{service, target})
			}
		}
	}
	return out
}
