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
	Link            string
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
		if r.Priority == priority && r.IifName != "" {
			out = append(out, LinkRule{Link: r.IifName, Table: r.Table, Priority: r.Priority})
		}
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
	if err := f(k); err != nil {
		if errors.Is(err, unix.ENOENT) {
			err = fmt.Errorf("%w (%w)", err, fs.ErrNotExist)
		}
		return fmt.Errorf("%s rule for %s: %w", what, r.Link, notExist(err))
	}
	return nil
}
