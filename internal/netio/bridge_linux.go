package netio

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// addrGenNone: the device makes itself no link-local address (IN6_ADDR_GEN_MODE_NONE of linux/if_link.h).
const addrGenNone = 1

// AddSilentBridge makes a bridge like AddBridge's, but down and without a link-local address of its own making, so that
// it is given all its addresses before it says a word. It does not run STP, so its ports forward at once.
func (n *NS) AddSilentBridge(s BridgeSpec) error {
	if s.MTU == 0 {
		s.MTU = 1500
	}
	off := false
	b := &netlink.Bridge{LinkAttrs: attrs(s.Name, s.MTU, s.MAC), MulticastSnooping: &off}
	if err := n.h.LinkAdd(b); err != nil {
		return fmt.Errorf("add bridge %s: %w", s.Name, err)
	}
	err := n.onLink("silence", s.Name, n.silence)
	if err == nil {
		err = n.bridgesBypassNetfilter()
	}
	if err != nil {
		return fmt.Errorf("add bridge %s: %w", s.Name, errors.Join(err, n.DeleteLink(s.Name)))
	}
	return nil
}

// reservedGroups are the addresses 01:80:c2:00:00:03 to 0f, as group_fwd_mask has them; the kernel takes no other.
const reservedGroups uint16 = 0xfff8

// HideBridge makes a bridge forward frames for the groups that end at a bridge (IEEE 802.1Q §8.6.3) like all others. Otherwise
// they pass no rule of nftables, yet teach the bridge the sender's MAC, and end at the port as if the host itself had been
// addressed. Those for 00 are forwarded in any case, as long as the bridge has no STP, and 01 is dropped; 02 alone ends at
// the bridge still, and passes the hook input.
func (n *NS) HideBridge(name string) error {
	return n.onLink("hide bridge", name, func(l netlink.Link) error {
		b, ok := l.(*netlink.Bridge)
		if !ok {
			return fmt.Errorf("it is a %s", l.Type())
		}
		if b.GroupFwdMask != nil && *b.GroupFwdMask == reservedGroups {
			return nil
		}
		mask := reservedGroups
		return n.h.LinkModify(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: name, Index: l.Attrs().Index}, GroupFwdMask: &mask})
	})
}

func (n *NS) silence(l netlink.Link) error { return n.h.LinkSetIP6AddrGenMode(l, addrGenNone) }

// SetAlias gives a device a description for people (`ip link` shows it). One that it has already is left alone.
func (n *NS) SetAlias(name, alias string) error {
	return n.onLink("set alias of", name, func(l netlink.Link) error {
		if l.Attrs().Alias == alias {
			return nil
		}
		return n.h.LinkSetAlias(l, alias)
	})
}

// AddAddrOnly gives a device an address without making its prefix a route.
func (n *NS) AddAddrOnly(link string, p netip.Prefix) error {
	return n.onLink("add address "+p.String()+" to", link, func(l netlink.Link) error {
		a := netlinkAddr(p)
		a.Flags |= unix.IFA_F_NOPREFIXROUTE
		return n.h.AddrAdd(l, a)
	})
}

// LinkRule makes IPv6 packets that come in by Link be routed by Table. Priority orders the rules; it comes before the
// main table's 32766.
type LinkRule struct {
	Link            string     // "lo": packets that the host makes itself
	Src             netip.Addr // of the packets; zero: any
	Table, Priority int
}

// LinkRules lists the IPv6 rules that have a device and a table, and are of the priority.
func (n *NS) LinkRules(priority int) ([]LinkRule, error) {
	list, err := n.h.RuleList(netlink.FAMILY_V6)
	if err != nil {
		return nil, fmt.Errorf("list rules: %w", err)
	}
	var out []LinkRule
	for _, r := range list {
		if r.Priority != priority || r.IifName == "" {
			continue
		}
		rule := LinkRule{Link: r.IifName, Table: r.Table, Priority: r.Priority}
		if p, ok := toPrefix(r.Src); ok {
			rule.Src = p.Addr()
		}
		out = append(out, rule)
	}
	return out, nil
}

// AddLinkRule makes a rule; fs.ErrExist when there is one like it.
func (n *NS) AddLinkRule(r LinkRule) error { return n.onRule("add", r, n.h.RuleAdd) }

// DelLinkRule deletes a rule; fs.ErrNotExist if there is none. The device may be gone.
func (n *NS) DelLinkRule(r LinkRule) error { return n.onRule("delete", r, n.h.RuleDel) }

func (n *NS) onRule(what string, r LinkRule, f func(*netlink.Rule) error) error {
	k := netlink.NewRule()
	k.Family, k.IifName, k.Table, k.Priority = netlink.FAMILY_V6, r.Link, r.Table, r.Priority
	if r.Src.IsValid() {
		k.Src = ipNet(netip.PrefixFrom(r.Src, r.Src.BitLen()))
	}
	if err := f(k); err != nil {
		if errors.Is(err, unix.ENOENT) {
			err = fmt.Errorf("%w (%w)", err, fs.ErrNotExist)
		}
		return fmt.Errorf("%s rule for %s: %w", what, r.Link, notExist(err))
	}
	return nil
}
