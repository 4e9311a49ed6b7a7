package control

import (
	"errors"
	"fmt"
	"math"
	"net/netip"
	"slices"
	"strings"

	"widecloud/api"
	"widecloud/internal/cloud"
	"widecloud/internal/netplan"
	"widecloud/internal/state"
	"widecloud/internal/wire"
)

// What a peer writes is a stranger's word (law 9). It is held against this site's plan, loans and stores before anything
// follows from it, with the checks that an agent makes of its controller's orders (wire/check.go).

// The limits of what is taken of a peer.
const (
	maxText      = 500 // bytes of a text for people
	maxOffers    = 100
	maxMembers   = 1000 // hosts that carry a network
	maxViews     = 1000 // networks
	maxEndpoints = 10000
)

// fieldOf is the field that an error names, or another one.
func fieldOf(err error, otherwise string) string {
	var e *api.Error
	if errors.As(err, &e) && e.Field != "" {
		return e.Field
	}
	return otherwise
}

// refusal is an error of a network, or of a service address of it, as its home gets to see it.
func refusal(v wire.NetworkView, service netip.Addr, at string, err error) wire.Refusal {
	r := wire.Refusal{Code: api.CodeInvalid, Field: fieldOf(err, at), Network: cloud.Line(v.UID, maxText), Service: service, Message: cloud.Line(err.Error(), maxText)}
	var e *api.Error
	if errors.As(err, &e) {
		r.Code, r.Message = e.Code, cloud.Line(e.Message, maxText)
	}
	return r
}

// judgeClaim looks at a peer's claim. That there is room is not its question.
func (c *Controller) judgeClaim(tx *state.Tx, call wire.ClaimCall) error {
	o, home := call.Order, call.Order.Home
	forbidden := func(field, format string, args ...any) error {
		return &api.Error{Code: api.CodeForbidden, Field: field, Message: fmt.Sprintf(format, args...)}
	}
	if err := o.Check("order"); err != nil {
		return err
	}
	if err := cloud.CheckKeys("order.seed.ssh_keys", o.Seed.SSHKeys); err != nil {
		return err
	}
	switch {
	case call.Job == "" || len(call.Job) > 80 || strings.ContainsAny(call.Job, "/@ ") || cloud.Line(call.Job, 80) != call.Job:
		return api.Invalidf("job", "%.80q is not a job's name", call.Job)
	case o.Run != wire.RunOn:
		return api.Invalidf("order.run", "%q is asked for with room; only on makes sense", o.Run)
	case call.Network.UID != o.NIC.Network:
		return api.Invalidf("network.uid", "is %q, and the VM's is %q", call.Network.UID, o.NIC.Network)
	case call.Network.Home != home:
		return forbidden("network.home", "is %s, and %s asks", call.Network.Home, home)
	case call.Owner != "" && cloud.ValidateName("", call.Owner) != nil:
		return api.Invalidf("owner", "%.80q is not an owner's name", call.Owner)
	}
	if err := call.Network.Check("network"); err != nil {
		return err
	}
	if err := honest(call.Order, call.Needs, call.Image); err != nil {
		return err
	}
	if vmOf(tx, o.VM) != nil {
		return forbidden("order.vm", "VM %s is not %s's", o.VM, home)
	}
	for _, prefix := range []string{prefixOrders, prefixClaims} {
		all, err := listJSON[wire.Claim](tx, prefix)
		if err != nil {
			return err
		}
		for _, g := range all {
			if g.VM == o.VM && g.Home != home {
				return forbidden("order.vm", "VM %s is not %s's", o.VM, home)
			}
			if g.Job == call.Job && (g.Home != home || g.VM != o.VM) {
				return forbidden("job", "job %s is another one's", call.Job)
			}
			if g.Home == home && g.VM != o.VM && g.Order.Name == o.Name {
				return forbidden("order.name", "another VM %s of %s is here", o.Name, home)
			}
		}
	}
	return nil
}

// honest holds what a borrower wants to run against what it says that this needs: the loan counts the needs. An image of its
// own counts with the disk over it.
func honest(o wire.VMOrder, n api.Resources, image int64) error {
	switch {
	case n.CPUs != o.CPUs:
		return api.Invalidf("needs.cpus", "is %d, and the VM has %d", n.CPUs, o.CPUs)
	case n.MemoryMiB != o.MemoryMiB:
		return api.Invalidf("needs.memory_mib", "is %d, and the VM has %d", n.MemoryMiB, o.MemoryMiB)
	case image < 0 || image > maxImage:
		return api.Invalidf("image_bytes", "%d is not between 0 and %d", image, int64(maxImage))
	case n.DiskGiB < lentDisk(o.DiskMiB, image):
		return api.Invalidf("needs.disk_gib", "is %d, and the VM's volume has %d MiB over an image of %d bytes: %d are needed", n.DiskGiB, o.DiskMiB, image, lentDisk(o.DiskMiB, image))
	case n.Addresses != 0:
		return api.Invalidf("needs.addresses", "is %d: a VM's room has none", n.Addresses)
	}
	return nil
}

// maxImage bounds the size of an image's file, in bytes, so that sums do not overflow.
const maxImage = 1 << 50

// lentDisk is what a VM takes of a lender's disk, in GiB: its volume when it is full, and its image.
func lentDisk(diskMiB, imageBytes int64) int {
	return int((diskMiB<<20 + imageBytes + 1<<30 - 1) >> 30)
}

// judgeHostAddress looks at a tunnel end point that somebody tells of: not one of ours, and in no pool of ours.
func (c *Controller) judgeHostAddress(field string, a netip.Addr) error {
	if err := cloud.CheckVTEP(field, a); err != nil {
		return err
	}
	if a == c.o.AnycastVTEP {
		return api.Invalidf(field, "%s is the gateways' common address", a)
	}
	return c.o.Plan.Underlay(field, a)
}

// judgeOffers looks at what a peer offers. It speaks for its own gateways only.
func (c *Controller) judgeOffers(from string, offers []wire.OfferBody) error {
	if len(offers) > maxOffers {
		return api.Invalidf("body.offers", "has %d offers, at most %d are possible", len(offers), maxOffers)
	}
	for i, o := range offers {
		at := fmt.Sprintf("body.offers[%d]", i)
		if len(o.Gateways) > maxMembers {
			return api.Invalidf(at+".gateways", "has %d hosts, at most %d are possible", len(o.Gateways), maxMembers)
		}
		for j, m := range o.Gateways {
			at := fmt.Sprintf("%s.gateways[%d]", at, j)
			if m.Site != from {
				return &api.Error{Code: api.CodeForbidden, Field: at + ".site", Message: fmt.Sprintf("is %.80q, and %s tells of it", m.Site, from)}
			}
			if err := c.judgeMember(at, m); err != nil {
				return err
			}
		}
		if err := judgeCPUs(at+".cpus", o.CPUs); err != nil {
			return err
		}
		shown := api.Offer{Meta: api.Meta{Name: o.Name}, Spec: o.Spec}
		cloud.Default(&shown)
		if err := cloud.Validate(&shown, cloud.Known{}); err != nil {
			return api.Invalidf(at+"."+fieldOf(err, "spec"), "%s", cloud.Line(err.Error(), maxText))
		}
	}
	return nil
}

func (c *Controller) judgeMember(field string, m api.NetworkMember) error {
	if err := cloud.ValidateName(field+".site", m.Site); err != nil {
		return err
	}
	if err := cloud.ValidateName(field+".host", m.Host); err != nil {
		return err
	}
	if m.Role != api.RoleHypervisor && m.Role != api.RoleGateway {
		return api.Invalidf(field+".role", "%.40q is not hypervisor or gateway", m.Role)
	}
	a, err := netip.ParseAddr(m.VTEP)
	if err != nil {
		return api.Invalidf(field+".vtep", "%.60q is not an IPv6 address", m.VTEP)
	}
	return c.judgeHostAddress(field+".vtep", a)
}

// judgeLoan looks at a loan that a lender tells of, by itself.
func (c *Controller) judgeLoan(from string, b wire.LoanBody) error {
	if b.Spec.Lender != from || b.Spec.Borrower != c.o.Site {
		return api.Invalidf("body.spec", "a loan of %.80q to %.80q is not %s's to tell us of", b.Spec.Lender, b.Spec.Borrower, from)
	}
	if err := cloud.Validate(&api.Loan{Meta: api.Meta{Name: b.Name}, Spec: b.Spec}, cloud.Known{}); err != nil {
		return api.Invalidf("body."+fieldOf(err, "spec"), "%s", cloud.Line(err.Error(), maxText))
	}
	if b.State != api.LoanActive && b.State != api.LoanReclaimed && b.State != api.LoanEnded {
		return api.Invalidf("body.state", "%.40q is not active, reclaimed or ended", b.State)
	}
	for field, s := range map[string]float64{"body.lease_seconds": b.LeaseSeconds, "body.grace_seconds": b.GraceSeconds} {
		if math.IsNaN(s) || s < 0 || s > maxSeconds {
			return api.Invalidf(field, "%v is not between 0 and %d (a year)", s, maxSeconds)
		}
	}
	return nil
}

const maxSeconds = 366 * 24 * 3600

// judgeViews looks at a peer's networks, and gives those that may be carried here once something of the peer asks for them,
// without the parts that are bad, and why the rest is refused.
func (c *Controller) judgeViews(tx *state.Tx, from string, views []wire.NetworkView) (good []wire.NetworkView, refused []wire.Refusal, err error) {
	refuse := func(v wire.NetworkView, err error, at string) {
		if len(refused) < maxRefusals {
			refused = append(refused, refusal(v, netip.Addr{}, at, err))
		}
	}
	known, err := c.networksKnown(tx)
	if err != nil {
		return nil, nil, err
	}
	known = slices.DeleteFunc(known, func(k netplan.Known) bool { return k.Home == from })
	lent, err := c.addressesLent(tx)
	if err != nil {
		return nil, nil, err
	}
	addresses, err := c.addressJudge(tx, lent)
	if err != nil {
		return nil, nil, err
	}
	foreign, err := c.foreignNetworks(tx)
	if err != nil {
		return nil, nil, err
	}
	guests := map[string]bool{} // networks of its guests, which are carried whatever the plan says now
	for _, f := range foreign {
		if f.Home != from {
			addresses.Take(f.Home, f.Mappings)
		} else if f.Guests {
			guests[f.View.UID] = true
		}
	}
	for i, v := range views {
		at := fmt.Sprintf("body.networks[%d]", i)
		if err := c.judgeView(at, from, v, known, guests[v.UID]); err != nil {
			refuse(v, err, at)
			continue
		}
		var errs []error
		v, errs = c.soundView(at, v)
		for _, err := range errs {
			refuse(v, err, at)
		}
		var bad []netplan.Refused
		v.Mappings, bad = addresses.Judge(from, at, v)
		for _, r := range bad[:min(len(bad), max(0, maxRefusals-len(refused)))] {
			refused = append(refused, refusal(v, r.Service, r.Field, r.Err))
		}
		known = append(known, netplan.Known{Home: from, Spec: v.Spec})
		good = append(good, v)
	}
	return good, refused, nil
}

// maxRefusals bounds an answer.
const maxRefusals = 100

// judgeView looks at what makes a network: its identity, its prefix, what it clashes with.
func (c *Controller) judgeView(at, from string, v wire.NetworkView, known []netplan.Known, guests bool) error {
	if err := v.Check(at); err != nil {
		return err
	}
	if !guests {
		if err := c.o.Plan.CheckNetwork(at+".prefix", v.Prefix, cloud.Party{Peer: from}); err != nil {
			return err
		}
	}
	for _, k := range known {
		if field, text := (netplan.Known{Home: from, Spec: v.Spec}).Clash(k); field != "" {
			return &api.Error{Code: api.CodeExists, Field: at + "." + field, Message: text}
		}
	}
	if len(v.Members) > maxMembers || len(v.Endpoints) > maxEndpoints {
		return api.Invalidf(at, "has %d members and %d endpoints, at most %d and %d are possible", len(v.Members), len(v.Endpoints), maxMembers, maxEndpoints)
	}
	return nil
}

// soundView gives a network without the members and endpoints that are bad, and an error for each of these.
func (c *Controller) soundView(at string, v wire.NetworkView) (wire.NetworkView, []error) {
	n, errs := wire.NetworkOrder{Spec: v.Spec, Endpoints: v.Endpoints}.Sound(at)
	v.Endpoints = []wire.EndpointOrder{}
	for i, e := range n.Endpoints {
		if e.VTEP.IsValid() {
			if err := c.judgeHostAddress(fmt.Sprintf("%s.endpoints[%d].vtep", at, i), e.VTEP); err != nil {
				errs = append(errs, err)
				e.VTEP = netip.Addr{}
			}
		}
		v.Endpoints = append(v.Endpoints, e)
	}
	members := v.Members
	v.Members = []api.NetworkMember{}
	for i, m := range members {
		if err := c.judgeMember(fmt.Sprintf("%s.members[%d]", at, i), m); err != nil {
			errs = append(errs, err)
			continue
		}
		v.Members = append(v.Members, m)
	}
	return v, errs
}

// judgeAnswer looks at what a lender answers to a claim: where the VM is, and what it runs on.
func (c *Controller) judgeAnswer(tx *state.Tx, call wire.ClaimCall, claim wire.Claim) error {
	if claim.Job != call.Job || claim.VM != call.Order.VM {
		return api.Invalidf("claim.job", "is %.80q for VM %.80q, and job %s for VM %s was asked for", claim.Job, claim.VM, call.Job, call.Order.VM)
	}
	if err := cloud.ValidateName("claim.host", claim.Host); err != nil {
		return err
	}
	if err := judgeCPUs("claim.cpu", []api.CPU{claim.CPU}); err != nil {
		return err
	}
	if err := c.judgeHostAddress("claim.vtep", claim.VTEP); err != nil {
		return err
	}
	hosts, err := list[api.Host](tx)
	if err != nil {
		return err
	}
	for _, h := range hosts {
		if h.Status.VTEP == claim.VTEP.String() {
			return api.Invalidf("claim.vtep", "%s is host %s of this site", claim.VTEP, h.Name)
		}
	}
	return nil
}

// judgeCPUs looks at kinds of CPUs.
func judgeCPUs(field string, cpus []api.CPU) error {
	if len(cpus) > 100 {
		return api.Invalidf(field, "has %d kinds, at most 100 are possible", len(cpus))
	}
	for i, cpu := range cpus {
		at := fmt.Sprintf("%s[%d]", field, i)
		if len(cpu.Usable) > 1000 {
			return api.Invalidf(at+".usable", "has %d models, at most 1000 are possible", len(cpu.Usable))
		}
		for _, m := range append([]string{cpu.Arch, cpu.Accel, cpu.Model}, cpu.Usable...) {
			if err := cloud.CheckCPUModel(at, m); err != nil {
				return err
			}
		}
	}
	return nil
}
