package netio

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// ForwardHooks lists what, beside routes, has a say in packets that the namespace
// forwards, in words: chains of nftables (also those of iptables-nft) where such
// packets pass, unless they are empty and accept; tables of the older iptables; policy
// rules, but for the kernel's and those that carry protocol; IPsec policies. It does
// not know of netfilter hooks that have no rules, like those of IPVS, nor of tc.
func (n *NS) ForwardHooks(protocol int) ([]string, error) {
	var out []string
	for _, look := range []func() ([]string, error){
		n.nftChains, n.OldTables, func() ([]string, error) { return n.foreignRules(protocol) }, n.ipsecPolicies,
	} {
		found, err := look()
		if err != nil {
			return nil, err
		}
		out = append(out, found...)
	}
	return out, nil
}

// foreignRules lists policy rules that are neither the kernel's nor of protocol.
func (n *NS) foreignRules(protocol int) ([]string, error) {
	var out []string
	for _, family := range []struct{ number, name int }{{unix.AF_INET, 4}, {unix.AF_INET6, 6}} {
		rules, err := n.h.RuleList(family.number)
		if err != nil {
			return nil, fmt.Errorf("list rules: %w", err)
		}
		for _, r := range rules {
			kernels := r.Priority == 0 && r.Table == unix.RT_TABLE_LOCAL || r.Priority == 32766 && r.Table == unix.RT_TABLE_MAIN ||
				r.Priority == 32767 && r.Table == unix.RT_TABLE_DEFAULT
			if !kernels && int(r.Protocol) != protocol {
				out = append(out, fmt.Sprintf("IPv%d rule %d", family.name, r.Priority))
			}
		}
	}
	return out, nil
}

// ipsecPolicies says so if there are any.
func (n *NS) ipsecPolicies() ([]string, error) {
	var list []netlink.XfrmPolicy
	err := n.Do(func() (err error) {
		list, err = netlink.XfrmPolicyList(unix.AF_UNSPEC)
		return err
	})
	if errors.Is(err, unix.EPROTONOSUPPORT) {
		return nil, nil // a kernel without IPsec
	}
	if err != nil {
		return nil, fmt.Errorf("list IPsec policies: %w", err)
	}
	for _, p := range list {
		if p.Dir == netlink.XFRM_DIR_FWD || p.Dir == netlink.XFRM_DIR_OUT {
			return []string{"IPsec policies"}, nil
		}
	}
	return nil, nil
}

// OldTables lists the tables of iptables that are not made of nftables, as ForwardHooks
// does. They are there once they have been looked at, and then see each packet.
func (n *NS) OldTables() ([]string, error) {
	var out []string
	err := n.Do(func() error {
		for _, name := range []string{"ip_tables", "ip6_tables"} {
			text, err := os.ReadFile("/proc/thread-self/net/" + name + "_names")
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return err
			}
			for table := range strings.FieldsSeq(string(text)) {
				out = append(out, name+" "+table)
			}
		}
		return nil
	})
	return out, err
}

// Of linux/netfilter/nf_tables.h and linux/netfilter.h.
const (
	nftGetChain    = unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETCHAIN
	nftAccept      = 1
	hookPrerouting = 0
	hookForward    = 2
	hookPost       = 4
	hookIngress    = 5 // of family inet
	deviceIngress  = 0 // of family netdev
)

// nftChains lists the chains of nftables where forwarded packets pass.
func (n *NS) nftChains() ([]string, error) {
	var replies [][]byte
	err := n.Do(func() (err error) {
		r := nl.NewNetlinkRequest(nftGetChain, unix.NLM_F_DUMP)
		r.AddData(&nl.Nfgenmsg{NfgenFamily: unix.AF_UNSPEC, Version: nl.NFNETLINK_V0})
		replies, err = r.Execute(unix.NETLINK_NETFILTER, 0)
		return err
	})
	if errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil, nil // a kernel without netfilter, or without nftables
	}
	if err != nil {
		return nil, fmt.Errorf("list chains of nftables: %w", err)
	}
	var out []string
	for _, b := range replies {
		name, err := forwardChain(b)
		if err != nil {
			return nil, fmt.Errorf("list chains of nftables: %w", err)
		}
		if name != "" {
			out = append(out, name)
		}
	}
	return out, nil
}

// forwardChain is the name of the chain in a message, if forwarded packets pass it
// and it does anything.
func forwardChain(b []byte) (string, error) {
	if len(b) < nl.SizeofNfgenmsg {
		return "", fmt.Errorf("message of %d bytes", len(b))
	}
	attrs, err := nl.ParseRouteAttr(b[nl.SizeofNfgenmsg:])
	if err != nil {
		return "", err
	}
	number := func(v []byte) uint32 {
		if len(v) < 4 {
			return 0
		}
		return binary.BigEndian.Uint32(v)
	}
	text := func(v []byte) string { return strings.TrimRight(string(v), "\x00") }
	var table, name string
	hooked, hook, uses, policy := false, uint32(0), uint32(1), uint32(nftAccept)
	for _, a := range attrs {
		switch a.Attr.Type &^ unix.NLA_F_NESTED {
		case unix.NFTA_CHAIN_TABLE:
			table = text(a.Value)
		case unix.NFTA_CHAIN_NAME:
			name = text(a.Value)
		case unix.NFTA_CHAIN_USE:
			uses = number(a.Value)
		case unix.NFTA_CHAIN_POLICY:
			policy = number(a.Value)
		case unix.NFTA_CHAIN_HOOK:
			hooked = true
			inner, err := nl.ParseRouteAttr(a.Value)
			if err != nil {
				return "", err
			}
			for _, h := range inner {
				if h.Attr.Type == unix.NFTA_HOOK_HOOKNUM {
					hook = number(h.Value)
				}
			}
		}
	}
	family := map[byte]string{unix.AF_INET: "ip", unix.AF_INET6: "ip6", unix.NFPROTO_INET: "inet", unix.NFPROTO_NETDEV: "netdev"}[b[0]]
	passed := hook == hookPrerouting || hook == hookForward || hook == hookPost || hook == hookIngress
	if family == "netdev" {
		passed = hook == deviceIngress
	}
	if family == "" || !hooked || !passed || uses == 0 && policy == nftAccept {
		return "", nil
	}
	return fmt.Sprintf("nftables chain %s %s %s", family, table, name), nil
}
