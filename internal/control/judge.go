package control

import (
	"errors"
	"fmt"
	"math"
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

// maxText is how long a text for people may be that somebody else writes, in bytes.
const maxText = 500

// maxOffers is how many offers are taken of a peer.
const maxOffers = 100

// maxViews is how many networks are taken of a peer.
const maxViews = 1000

// fieldOf is the field that an error names, or another one.
func fieldOf(err error, otherwise string) string {
	var e *api.Error
	if errors.As(err, &e) && e.Field != "" {
		return e.Field
	}
	return otherwise
}

// refusal is a part of a view that is not taken, as its home gets to see it.
func refusal(r netplan.Refused) wire.Refusal {
	out := wire.Refusal{
		Code: api.CodeInvalid, Field: fieldOf(r.Err, r.Field), Network: cloud.Line(r.Network, maxText), Service: r.Service,
		Message: cloud.Line(r.Err.Error(), maxText),
	}
	var e *api.Error
	if errors.As(r.Err, &e) {
		out.Code, out.Message = e.Code, cloud.Line(e.Message, maxText)
	}
	return out
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

// judge holds what peers and agents tell of hosts and networks against this site's address plan.
func (c *Controller) judge() netplan.Judge {
	return netplan.Judge{Plan: c.o.Plan, AnycastVTEP: c.o.AnycastVTEP}
}

// judgeOffers looks at what a peer offers. It speaks for its own gateways only.
func (c *Controller) judgeOffers(from string, offers []wire.OfferBody) error {
	if len(offers) > maxOffers {
		return api.Invalidf("body.offers", "has %d offers, at most %d are possible", len(offers), maxOffers)
	}
	for i, o := range offers {
		at := fmt.Sprintf("body.offers[%d]", i)
		if len(o.Gateways) > netplan.MaxMembers {
			return api.Invalidf(at+".gateways", "has %d hosts, at most %d are possible", len(o.Gateways), netplan.MaxMembers)
		}
		for j, m := range o.Gateways {
			at := fmt.Sprintf("%s.gateways[%d]", at, j)
			if m.Site != from {
				return &api.Error{Code: api.CodeForbidden, Field: at + ".site", Message: fmt.Sprintf("is %.80q, and %s tells of it", m.Site, from)}
			}
			if err := c.judge().Member(at, m); err != nil {
				return err
			}
		}
		if err := cloud.CheckCPUs(at+".cpus", o.CPUs); err != nil {
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
	good, bad := c.judge().Views(from, "body.networks", views, known, guests, addresses)
	for _, r := range bad[:min(len(bad), maxRefusals)] {
		refused = append(refused, refusal(r))
	}
	return good, refused, nil
}

// maxRefusals bounds an answer.
const maxRefusals = 100

// judgeAnswer looks at what a lender answers to a claim: where the VM is, and what it runs on.
func (c *Controller) judgeAnswer(tx *state.Tx, call wire.ClaimCall, claim wire.Claim) error {
	if claim.Job != call.Job || claim.VM != call.Order.VM {
		return api.Invalidf("claim.job", "is %.80q for VM %.80q, and job %s for VM %s was asked for", claim.Job, claim.VM, call.Job, call.Order.VM)
	}
	if err := cloud.ValidateName("claim.host", claim.Host); err != nil {
		return err
	}
	if err := cloud.CheckCPUs("claim.cpu", []api.CPU{claim.CPU}); err != nil {
		return err
	}
	if err := c.judge().VTEP("claim.vtep", claim.VTEP); err != nil {
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
