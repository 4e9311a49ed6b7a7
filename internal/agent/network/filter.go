package network

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sort"
	"strings"
	"text/template"

	"widecloud/internal/netio"
)

// filterText is the host's rule set. The bridge table is about frames: who may claim to be whom, and what stays on a
// host. The inet table is about packets: what a VM may say to the host, and where it may be routed. The names
// begin with vx- for devices of ours alone; a bridge of somebody else on this host passes, since only frames with our
// MACs and addresses, or from plugs of our VMs, match.
var filterText = template.Must(template.New("filter").Parse(`
table bridge widecloud
delete table bridge widecloud
table inet widecloud
delete table inet widecloud
table bridge widecloud {
{{- range .Sets}}
	set {{.Name}} {
		{{.Type}}
{{- if .Elements}}
		elements = { {{range $i, $e := .Elements}}{{if $i}},
			{{end}}{{$e}}{{end}} }
{{- end}}
	}
{{- end}}
	chain prerouting {
		type filter hook prerouting priority -200; policy accept;
		iifname "vx-*" jump from-fabric
		iifname != "vx-*" jump from-vm
{{- if .Both}}
		# The bridge is the gateway too.
		ether daddr {{.Gateway}} ether daddr set {{.Anycast}} meta pkttype set host
{{- end}}
	}
	chain from-fabric {
{{- if .Both}}
		# A hypervisor routes to the gateway. The bridge must not see its own MAC as a source.
		ether saddr {{.Anycast}} ether daddr {{.Gateway}} ether saddr set {{.Other}}
{{- end}}
		ether saddr {{.Anycast}} counter drop comment "another host's router speaks"
		udp dport { 67, 68, 546, 547 } counter drop comment "DHCP is the host's own affair"
		icmpv6 type { nd-router-solicit, nd-router-advert, nd-redirect } counter drop comment "so are routers"
	}
	chain from-vm {
		ether saddr { {{.Anycast}}, {{.Gateway}} } counter drop comment "VM claims to be a router"
		iif @ports ether saddr != @macs counter drop comment "unknown MAC"
		iif @boundports iif . ether saddr != @bound counter drop comment "another VM's MAC"
		arp saddr ip @addrs4 ether saddr . arp saddr ip != @allowed4 counter drop comment "another's IPv4 address"
		ip6 saddr @addrs6 ether saddr . ip6 saddr != @pairs6 counter drop comment "another's IPv6 address"
		icmpv6 type nd-neighbor-advert @th,64,128 @targets ether saddr . @th,64,128 != @ndpairs counter drop comment "answers for another"
		ether saddr != @macs return
		icmpv6 type { nd-router-advert, nd-redirect } counter drop comment "VM acts as a router"
		udp sport { 67, 547 } counter drop comment "VM acts as a DHCP server"
		ether type ip6 ether saddr . ip6 saddr != @allowed6 counter drop comment "source not in the network"
		ether type arp ether saddr . arp saddr ip != @allowed4 counter drop comment "IPv4 address not its own"
		ether type ip ether saddr . ip saddr != @allowed4 counter drop comment "IPv4 source not its own"
	}
	chain postrouting {
		type filter hook postrouting priority 200; policy accept;
		oifname "vx-*" jump to-fabric
	}
	chain to-fabric {
{{- if .Both}}
		# To VMs elsewhere the gateway speaks with a MAC that is this host's alone: the gateways' common one comes from
		# the anycast VTEP only, and the routers' from nowhere.
		ether saddr {{.Anycast}} ether daddr @macs ip6 saddr != fe80::/10 icmpv6 type != { 133-137 } ether saddr set {{.Own}} accept
		ether saddr {{.Anycast}} ether daddr @macs ip6 saddr != fe80::/10 meta l4proto != ipv6-icmp ether saddr set {{.Own}} accept
		ether saddr {{.Anycast}} ether daddr @macs icmpv6 type nd-neighbor-advert @th,64,128 @gateways ether saddr set {{.Own}} accept
{{- end}}
		ether saddr {{.Anycast}} ether daddr != {{.Gateway}} counter drop comment "the router speaks to its own VMs only"
		udp dport { 67, 68, 546, 547 } counter drop comment "DHCP is the host's own affair"
		icmpv6 type { nd-router-solicit, nd-router-advert, nd-redirect } counter drop comment "so are routers"
	}
}
table inet widecloud {
	set peers {
		type ipv6_addr
		elements = { {{range $i, $e := .Peers}}{{if $i}}, {{end}}{{$e}}{{end}} }
	}
	chain input {
		type filter hook input priority -10; policy accept;
		udp dport {{.Port}} ip6 saddr != @peers counter drop comment "VXLAN from a stranger"
{{- if .Bridges}}
		iifname { {{.Bridges}} } jump from-vm
{{- end}}
	}
{{- if .Bridges}}
	chain from-vm {
		ip6 daddr { {{.Routers6}} } meta l4proto ipv6-icmp accept
		ip6 daddr { {{.Routers6}} } meta l4proto { tcp, udp } th dport 53 accept
		udp dport 67 accept
{{- if .Routers4}}
		ip daddr { {{.Routers4}} } icmp type echo-request accept
		ip daddr { {{.Routers4}} } meta l4proto { tcp, udp } th dport 53 accept
{{- end}}
		counter drop comment "VM reaches for the host"
	}
{{- end}}
	chain forward {
		type filter hook forward priority -10; policy accept;
{{- range .BridgeList}}
{{- if not $.Both}}
		iifname "{{.}}" oifname != "{{.}}" counter drop comment "VM reaches for the underlay"
		iifname != "{{.}}" oifname "{{.}}" counter drop comment "the underlay reaches for a VM"
{{- end}}
		iifname "{{.}}" meta nfproto ipv4 counter drop comment "IPv4 is not routed"
{{- end}}
{{- range .Edges}}
		iifname "{{.}}" ip6 daddr @peers counter drop comment "VM reaches for the underlay"
		iifname "{{.}}" udp dport {{$.Port}} counter drop comment "VM makes VXLAN"
{{- end}}
	}
{{- if .Devices}}
	chain output {
		type filter hook output priority -10; policy accept;
		oifname { {{.Devices}} } icmpv6 type nd-redirect counter drop comment "VMs know one router"
	}
{{- end}}
}
`))

// seenText, a table of its own that is never replaced, keeps which address each MAC has spoken of in neighbour discovery; the
// target of a solicitation (offset 8 of the ICMPv6 message, RFC 4861 §4.3) counts for duplicate address detection only.
const seenText = `
table bridge widecloud-seen {
	set seen {
		typeof ether saddr . @th,64,128
		size 65536
		flags dynamic,timeout
		timeout 2h
	}
	set used {
		type ether_addr . ipv6_addr
		size 65536
		flags dynamic,timeout
		timeout 2h
	}
	set used4 {
		type ether_addr . ipv4_addr
		size 65536
		flags dynamic,timeout
		timeout 2h
	}
	chain prerouting {
		type filter hook prerouting priority -150; policy accept;
		iifname "vx-*" accept
		arp saddr ip != 0.0.0.0 update @used4 { ether saddr . arp saddr ip }
		ip6 saddr :: icmpv6 type nd-neighbor-solicit update @seen { ether saddr . @th,64,128 }
		icmpv6 type nd-neighbor-advert update @seen { ether saddr . @th,64,128 }
		ip6 saddr != :: icmpv6 type nd-neighbor-solicit update @used { ether saddr . ip6 saddr }
	}
}
`

type nftSet struct {
	Name, Type string
	Elements   []string
}

// filterScript renders the rule set. It is the same for the same input, whatever its order.
func filterScript(w Want, links []netio.Link) (string, error) {
	el := map[string][]string{}
	add := func(set, format string, args ...any) { el[set] = append(el[set], fmt.Sprintf(format, args...)) }
	router := func(a netip.Addr) {
		add("addrs6", "%s", a)
		add("targets", "%s", hex(a))
	}
	if w.Role.Hypervisor {
		router(RouterAddr)
		router(GatewayAddr)
	}
	peers := []string{w.VTEP.String()}
	if w.AnycastVTEP.IsValid() {
		peers = append(peers, w.AnycastVTEP.String())
	}
	var bridges, edges, devices, routers4 []string
	routers6 := []string{RouterAddr.String(), "ff02::/16"}
	for _, n := range w.Networks {
		br, vx := BridgeName(n.UID), VXLANName(n.UID)
		for _, a := range n.Flood {
			peers = append(peers, a.String())
		}
		for _, e := range n.Endpoints {
			if e.VTEP.IsValid() {
				peers = append(peers, e.VTEP.String())
			}
		}
		if !w.Role.Hypervisor {
			edges, devices = append(edges, vx), append(devices, fmt.Sprintf("%q", vx))
			continue
		}
		if w.Role.Gateway {
			edges = append(edges, br)
			routers6 = append(routers6, n.gateway6().String())
			add("gateways", "%s", hex(n.gateway6()))
		}
		bridges, devices = append(bridges, br), append(devices, fmt.Sprintf("%q", br))
		routers6 = append(routers6, n.router6().String())
		router(n.router6())
		router(n.gateway6())
		if n.IPv4.IsValid() {
			routers4 = append(routers4, n.router4().String())
			add("addrs4", "%s", n.router4())
		}
		for _, e := range n.Endpoints {
			add("macs", "%s", e.MAC)
			add("addrs6", "%s", e.IPv6)
			add("targets", "%s", hex(e.IPv6))
			add("pairs6", "%s . %s", e.MAC, e.IPv6)
			add("ndpairs", "%s . %s", e.MAC, hex(e.IPv6))
			add("allowed6", "%s . ::", e.MAC) // duplicate address detection
			add("allowed6", "%s . fe80::/10", e.MAC)
			add("allowed6", "%s . %s", e.MAC, n.Prefix)
			add("allowed4", "%s . 0.0.0.0", e.MAC) // DHCP, and probes (RFC 5227)
			if e.IPv4.IsValid() {
				add("addrs4", "%s", e.IPv4)
				add("allowed4", "%s . %s", e.MAC, e.IPv4)
			}
		}
		macs := map[string]bool{}
		for _, e := range n.Endpoints {
			macs[tail(e.MAC)] = true
		}
		for _, l := range links {
			if l.Master != br || l.Name == vx {
				continue
			}
			// By number, not by name: libvirt uses a name again, the kernel does not use a number again.
			add("ports", "%d", l.Index)
			// libvirt gives the host's end of a plug the guest's MAC, the first byte set to fe.
			if l.MAC[0] == 0xfe && macs[tail(l.MAC)] {
				add("boundports", "%d", l.Index)
				for _, e := range n.Endpoints {
					if tail(e.MAC) == tail(l.MAC) {
						add("bound", "%d . %s", l.Index, e.MAC)
					}
				}
			}
		}
	}
	types := map[string]string{
		"macs": "type ether_addr", "addrs6": "type ipv6_addr", "targets": "typeof @th,64,128",
		"pairs6": "type ether_addr . ipv6_addr", "ndpairs": "typeof ether saddr . @th,64,128",
		"allowed6": "type ether_addr . ipv6_addr\n\t\tflags interval", "addrs4": "type ipv4_addr",
		"allowed4": "type ether_addr . ipv4_addr", "ports": "type iface_index", "boundports": "type iface_index",
		"bound": "type iface_index . ether_addr", "gateways": "typeof @th,64,128",
	}
	var sets []nftSet
	for name, typ := range types {
		sets = append(sets, nftSet{Name: name, Type: typ, Elements: unique(el[name])})
	}
	sort.Slice(sets, func(i, j int) bool { return sets[i].Name < sets[j].Name })
	slices.Sort(bridges)
	slices.Sort(edges)
	own := sha256.Sum256(w.VTEP.AsSlice())
	var out bytes.Buffer
	err := filterText.Execute(&out, map[string]any{
		"Sets": sets, "Anycast": AnycastMAC.String(), "Gateway": GatewayMAC.String(), "Peers": unique(peers),
		"Port": netio.VXLANPort, "Bridges": quoted(bridges), "BridgeList": bridges, "Edges": edges,
		"Routers6": strings.Join(unique(routers6), ", "), "Routers4": strings.Join(unique(routers4), ", "),
		"Both": w.Role.both(), "Own": slices.Concat(edgeOUI, net.HardwareAddr(own[:3])).String(),
		"Other":   "02:57:46:00:00:01",
		"Devices": strings.Join(unique(devices), ", "),
	})
	return out.String(), err
}

// filter loads the rule set, in one transaction, if it is not the one that is loaded.
func (d *Driver) filter(ctx context.Context, w Want) error {
	links, err := d.ns.Links()
	if err != nil {
		return err
	}
	script, err := filterScript(w, links)
	if err != nil {
		return err
	}
	tables, err := d.ns.Nft(ctx, d.o.Nft, "", "list", "tables")
	if err != nil {
		return err
	}
	if seen := strings.Contains(tables, "table bridge widecloud-seen\n"); seen != w.Role.Hypervisor {
		script := seenText
		if seen {
			script = "delete table bridge widecloud-seen\n"
		}
		if _, err := d.ns.Nft(ctx, d.o.Nft, script, "-f", "-"); err != nil {
			return err
		}
	}
	if strings.Contains(tables, "table bridge widecloud\n") && strings.Contains(tables, "table inet widecloud\n") && script == d.state.Filter {
		loaded, err := d.loaded(ctx)
		if err != nil || loaded == d.state.Loaded {
			return err
		}
		d.o.Logger.Warn("the rule set was changed by somebody else; load it again", "table", "widecloud")
	}
	if _, err := d.ns.Nft(ctx, d.o.Nft, script, "-f", "-"); err != nil {
		return err
	}
	d.state.Filter = script
	d.state.Loaded, err = d.loaded(ctx)
	return err
}

// loaded is what nft says of our tables, without counters, words sorted: a set's elements come in any order.
func (d *Driver) loaded(ctx context.Context) (string, error) {
	var words []string
	for _, family := range []string{"bridge", "inet"} {
		out, err := d.ns.Nft(ctx, d.o.Nft, "", "-s", "list", "table", family, "widecloud")
		if err != nil {
			return "", err
		}
		words = append(words, strings.FieldsFunc(out, func(r rune) bool { return strings.ContainsRune(" \t\n,", r) })...)
	}
	slices.Sort(words)
	return strings.Join(words, " "), nil
}

func (d *Driver) removeFilter(ctx context.Context) error {
	tables, err := d.ns.Nft(ctx, d.o.Nft, "", "list", "tables")
	if err != nil {
		return err
	}
	var script strings.Builder
	for _, t := range []string{"bridge widecloud", "bridge widecloud-seen", "inet widecloud"} {
		if strings.Contains(tables, "table "+t+"\n") {
			fmt.Fprintf(&script, "delete table %s\n", t)
		}
	}
	d.state.Filter, d.state.Loaded = "", ""
	if script.Len() == 0 {
		return nil
	}
	_, err = d.ns.Nft(ctx, d.o.Nft, script.String(), "-f", "-")
	return err
}

func hex(a netip.Addr) string { return fmt.Sprintf("0x%x", a.AsSlice()) }

func tail(mac net.HardwareAddr) string {
	if len(mac) != 6 {
		return ""
	}
	return mac[1:].String()
}

func unique(s []string) []string {
	s = slices.Clone(s)
	slices.Sort(s)
	return slices.Compact(s)
}

func quoted(s []string) string {
	q := make([]string, len(s))
	for i, v := range s {
		q[i] = fmt.Sprintf("%q", v)
	}
	return strings.Join(q, ", ")
}
