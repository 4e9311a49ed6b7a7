package control

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"strings"

	"widecloud/api"
	"widecloud/internal/cloud"
	"widecloud/internal/store"
	"widecloud/internal/wire"
)

var reUID = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`)

// judgeClaim looks at a peer's claim as at what a stranger has written. That there is room is not its question.
func (c *Controller) judgeClaim(tx store.Tx, call wire.ClaimCall) error {
	o, home := call.Order, call.Order.Home
	forbidden := func(field, format string, args ...any) error {
		return &api.Error{Code: api.CodeForbidden, Field: field, Message: fmt.Sprintf(format, args...)}
	}
	if err := cloud.ValidateName("order.name", o.Name); err != nil {
		return err
	}
	if _, err := net.ParseMAC(o.NIC.MAC); err != nil {
		return api.Invalidf("order.nic.mac", "%q is no MAC address", o.NIC.MAC)
	}
	if err := cloud.ValidateDigest("order.image", o.Image); err != nil {
		return err
	}
	switch {
	case call.Job == "" || len(call.Job) > 80 || strings.ContainsAny(call.Job, "/@ "):
		return api.Invalidf("job", "%.80q is no job's name", call.Job)
	case !reUID.MatchString(o.VM):
		return api.Invalidf("order.vm", "%q is no UUID in lower case", o.VM)
	case o.Epoch == 0:
		return api.Invalidf("order.epoch", "is 0, and counts from 1")
	case o.Run != wire.RunOn:
		return api.Invalidf("order.run", "%q is asked for with room; only on makes sense", o.Run)
	case call.Network.UID != o.NIC.Network:
		return api.Invalidf("network.uid", "is %q, and the VM's is %q", call.Network.UID, o.NIC.Network)
	case call.Network.Home != home:
		return forbidden("network.home", "is %s, and %s asks", call.Network.Home, home)
	}
	if err := judgeNetwork("network", call.Network.UID, call.Network.Name, call.Network.VNI, call.Network.Prefix); err != nil {
		return err
	}
	if err := honest(call); err != nil {
		return err
	}
	vms, err := list[api.VM](tx)
	if err != nil {
		return err
	}
	for _, v := range vms {
		if v.UID == o.VM {
			return forbidden("order.vm", "VM %s is not %s's", o.VM, home)
		}
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
		}
	}
	return nil
}

// judgeNetwork looks at a network that a peer tells of.
func judgeNetwork(field, uid, name string, vni uint32, prefix netip.Prefix) error {
	if err := cloud.ValidateName(field+".name", name); err != nil {
		return err
	}
	switch {
	case !reUID.MatchString(uid):
		return api.Invalidf(field+".uid", "%q is no UUID in lower case", uid)
	case vni < 1 || vni > 1<<24-1:
		return api.Invalidf(field+".vni", "%d is not within 1 and 16777215 (RFC 7348 §4)", vni)
	case !prefix.IsValid() || !prefix.Addr().Is6() || prefix.Bits() != 64 || prefix != prefix.Masked():
		return api.Invalidf(field+".prefix", "%s is not an IPv6 /64", prefix)
	}
	return nil
}

// clash says what two networks cannot share; "" when they can live side by side.
func clash(home, uid string, vni uint32, prefix netip.Prefix, k knownNetwork) (field, text string) {
	switch same := k.UID == uid; {
	case same && k.Home == home && k.VNI == vni && k.Prefix == prefix:
		return "", ""
	case same:
		return "uid", fmt.Sprintf("network %s is %s's network %s (vni %d, %s)", uid, k.Home, k.Name, k.VNI, k.Prefix)
	case k.VNI == vni:
		return "vni", fmt.Sprintf("VXLAN identifier %d is in use here by network %s of %s", vni, k.Name, k.Home)
	case k.Prefix.Overlaps(prefix):
		return "prefix", fmt.Sprintf("prefix %s overlaps %s of network %s of %s", prefix, k.Prefix, k.Name, k.Home)
	}
	return "", ""
}

// judgeMembers looks at the hosts that a peer names: it speaks for its own gateways only.
func judgeMembers(field, from string, members []api.NetworkMember) error {
	for i, m := range members {
		at := fmt.Sprintf("%s[%d]", field, i)
		if from != "" && m.Site != from {
			return &api.Error{Code: api.CodeForbidden, Field: at + ".site", Message: fmt.Sprintf("is %q, and %s tells of it", m.Site, from)}
		}
		if a, err := netip.ParseAddr(m.VTEP); err != nil || !a.Is6() || !a.IsGlobalUnicast() {
			return api.Invalidf(at+".vtep", "%q is no IPv6 unicast address", m.VTEP)
		}
	}
	return nil
}

// rehouse puts a guest whose loan is over under another one of its home's.
func (l local) rehouse(tx store.Tx, g *wire.Claim, name string) error {
	loan, err := get[api.Loan](tx, name)
	if errors.Is(err, &api.Error{Code: api.CodeNotFound}) {
		return api.Invalidf("loan", "there is no loan %q here", name)
	}
	if err != nil {
		return err
	}
	if loan.Spec.Borrower != g.Home || loan.Spec.Lender != l.c.o.Site {
		return &api.Error{Code: api.CodeForbidden, Field: "loan", Message: fmt.Sprintf("loan %s is not %s's to use here", name, g.Home)}
	}
	reasons, err := l.c.admit(tx, *loan, g.VM, g.Job, g.Needs)
	if err != nil {
		return err
	}
	if len(reasons) > 0 {
		return &api.Error{Code: api.CodeRefused, Field: "loan", Message: "the guest does not fit under loan " + name, Reasons: reasons}
	}
	g.Loan = name
	guest, err := get[api.Guest](tx, g.Order.Name+"@"+g.Home)
	if err != nil {
		return err
	}
	guest.Spec.Loan = name
	return put(tx, guest)
}
