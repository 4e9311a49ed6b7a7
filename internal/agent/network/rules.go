package network

import (
	"net/netip"
	"strings"
	"text/template"
	"time"

	"widecloud/internal/netio"
)

// The rule set of a host. Its text depends on the host's role and VTEPs alone: which networks, VMs and plugs there are is in
// sets (see elements.go), so that a VM that comes or goes changes elements and no rule, and no counter starts anew.
//
// All that is not known to be right is dropped: a rule that reads what a packet is too short for does not match, so a chain
// that lets pass what it has looked at ends in a drop. Addresses in neighbour discovery are compared as raw bytes: @nh,64,128
// is a packet's IPv6 source (64 bits of prefix: @nh,64,64), @th,64,128 the target of a neighbour solicitation or
// advertisement (RFC 4861 §4.3, §4.4).
//
// What crosses hosts is judged by the rules of the networks' mobilities (l2_rules.go), which stand between these.
const (
	// floodRate of multicast and broadcast frames that a VM may send: each is copied to all VMs and hosts of the network.
	floodRate, floodBurst = "300/second", "600"
	// addressRate of addresses that a VM may take beside its own, so that it fills no neighbour table. Each counts for
	// addressTime, so it has addressBurst and what the rate gives in that time at most.
	addressRate, addressBurst, addressTime = "1/minute", "16", "1h"
	// seenFor is how long what a VM was seen with is kept after it.
	seenFor  = 2 * time.Hour
	seenText = "2h"
)

// bridgeRules are about frames: who may claim to be whom, and what crosses hosts. Only ports of our bridges are judged. Rules can
// ask which bridge a port belongs to on some kernels only (CONFIG_NFT_BRIDGE_META), so ports are in sets: one that the driver has
// not looked at yet passes the first chain, but its frames reach no plug and no host of ours.
const bridgeRules = plugRules + l2Arriving + portRules + l2Leaving

const plugRules = `
	chain prerouting {
		type filter hook prerouting priority -200; policy accept;
		iif @strangers counter drop comment "unknown plug"
		iif @ports jump from-vm
		iifname @fabric jump from-fabric
{{- if .Both}}
		# The bridge is the gateway too.
		ether daddr {{.Gateway}} ether daddr set {{.Anycast}} meta pkttype set host
{{- end}}
	}
	# Frames of LACP (IEEE 802.1Q §8.6.3) end at the bridge: they do not pass the chain before, but teach it their sender's MAC.
	chain input {
		type filter hook input priority -200; policy accept;
		ether daddr 01:80:c2:00:00:02 iif @strangers counter drop comment "unknown plug"
		ether daddr 01:80:c2:00:00:02 iif @ports counter drop comment "for the bridge itself"
		ether daddr 01:80:c2:00:00:02 iifname @fabric counter drop comment "for the bridge itself"
	}
	chain from-vm {
		ether type != { ip, ip6, arp, 0x8035 } counter drop comment "tagged, or neither IP nor ARP"
		ether saddr { {{.Anycast}}, {{.Gateway}}, {{.Routed}} } counter drop comment "VM claims to be a router"
		ether saddr & ff:ff:ff:00:00:00 == {{.Edge}} counter drop comment "VM claims to be a router"
		iif . ether saddr != @plugs counter drop comment "another's MAC"
		ether daddr & 01:00:00:00:00:00 != 00:00:00:00:00:00 update @floods { iif limit rate over {{.FloodRate}} burst {{.FloodBurst}} packets } counter drop comment "VM floods"
		ether type arp goto vm-arp
		ether type ip goto vm-ip
		ether type ip6 goto vm-ip6
	}
	chain vm-arp {
		arp htype 1 arp ptype ip arp hlen 6 arp plen 4 arp operation { request, reply } iif . arp saddr ether @plugs iif . arp saddr ip @own4 return
		# A probe (RFC 5227 §2.1.1): it keeps another from taking the address.
		arp htype 1 arp ptype ip arp hlen 6 arp plen 4 arp operation request iif . arp saddr ether @plugs arp saddr ip 0.0.0.0 iif . arp daddr ip @own4 return
		counter drop comment "another's IPv4 address"
	}
	chain vm-ip {
		ip saddr 0.0.0.0 udp sport 68 udp dport 67 return
		iif . ip saddr != @own4 counter drop comment "IPv4 source not its own"
		udp sport 68 udp dport 67 return
		ether daddr { {{.Anycast}}, {{.Gateway}} } counter drop comment "IPv4 is not routed"
		goto upper4
	}
	chain vm-ip6 {
		ip6 saddr :: goto vm-nobody
		iif . @nh,64,64 != @prefixes counter drop comment "source not in the network"
		iif . @nh,64,128 @own6 goto upper6
		@nh,64,128 @known6 counter drop comment "another's IPv6 address"
		jump vm-newcomer
		goto upper6
	}
	chain vm-newcomer {
		iif . @nh,64,128 @others return
		update @arrivals { iif limit rate over {{.AddressRate}} burst {{.AddressBurst}} packets } counter drop comment "VM takes too many addresses"
		add @others { iif . @nh,64,128 } return
		counter drop comment "VM takes too many addresses"
	}
	# A VM that has no address yet: duplicate address detection (RFC 4862 §5.4), and what else goes from nowhere.
	chain vm-nobody {
		ip6 nexthdr icmpv6 icmpv6 type nd-neighbor-solicit goto vm-claim
		icmpv6 type { nd-router-solicit, mld-listener-report, mld-listener-done, mld2-listener-report } return
		counter drop comment "source not in the network"
	}
	chain vm-claim {
		iif . @th,64,128 @own6 return
		@th,64,128 @known6 counter drop comment "takes another's address"
		goto vm-target
	}
	chain vm-answer {
		iif . @th,64,128 @own6 return
		@th,64,128 @known6 counter drop comment "answers for another"
		goto vm-target
	}
	chain vm-target {
		iif . @th,64,64 != @prefixes counter drop comment "answers for another"
		iif . @th,64,128 @others return
		update @arrivals { iif limit rate over {{.AddressRate}} burst {{.AddressBurst}} packets } counter drop comment "VM takes too many addresses"
		add @others { iif . @th,64,128 } return
		counter drop comment "VM takes too many addresses"
	}
	# What both VMs and other hosts may not say. Where the beginning of a packet is judged, the rest of its fragments pass.
	chain upper4 {
		udp sport 67 counter drop comment "acts as a DHCP server"
		udp dport 68 counter drop comment "acts as a DHCP server"
		icmp type { redirect, router-advertisement } counter drop comment "acts as a router"
	}
	chain upper6 {
		exthdr frag exists jump fragments
		# These are headers that the kernel does not look behind (RFC 7045 §4: HIP, Shim6, experiments).
		meta l4proto { 139, 140, 253, 254, 255 } counter drop comment "upper layer out of sight"
		meta l4proto icmpv6 goto icmp6
		meta l4proto udp goto udp6
		meta l4proto != 255 return
		counter drop comment "upper layer out of sight"
	}
	# The upper layer's header must be in the first fragment, or the next one brings it (RFC 7112 §5). A frame may be longer than its
	# packet, and rules read on behind the packet's end: so the header must be where a fragment of 56 bytes has it for sure.
	chain fragments {
		ip6 nexthdr != 44 counter drop comment "upper layer out of sight"
		frag nexthdr { 0, 43, 44, 51, 60, 135 } counter drop comment "upper layer out of sight"
		frag frag-off 0 frag more-fragments 1 ip6 length < 56 counter drop comment "upper layer out of sight"
	}
	chain udp6 {
		udp sport 547 counter drop comment "acts as a DHCP server"
		udp dport 546 counter drop comment "acts as a DHCP server"
		udp dport != 546 return
		frag frag-off != 0 return
		counter drop comment "upper layer out of sight"
	}
	chain icmp6 {
		frag frag-off != 0 return
		# RFC 6980 §5 for fragments; no honest node puts another header before neighbour discovery.
		icmpv6 type { 133-137 } ip6 nexthdr != icmpv6 counter drop comment "neighbour discovery behind another header"
		icmpv6 type { nd-router-advert, nd-redirect, router-renumbering } counter drop comment "acts as a router"
		icmpv6 type nd-neighbor-advert iifname @fabric goto fabric-answer
		icmpv6 type nd-neighbor-advert goto vm-answer
		icmpv6 type != 255 return
		counter drop comment "upper layer out of sight"
	}
`

const portRules = `	# What leaves by a plug, or for other hosts.
	chain forward {
		type filter hook forward priority -200; policy accept;
		oif @ports goto to-vm
		oifname @fabric goto to-others
		iif @ports counter drop comment "unknown plug"
		iifname @fabric counter drop comment "unknown plug"
	}
	chain to-vm {
		iif != @ports iifname != @fabric counter drop comment "unknown plug"
		ether daddr & 01:00:00:00:00:00 == 00:00:00:00:00:00 oif . ether daddr != @plugs counter drop comment "for another's plug"
	}
`

// inetRules are about packets: which VXLAN is taken, what a VM may say to the host, and where it may be routed.
const inetRules = hostRules + l2Packets + wayRules

const hostRules = `
	chain input {
		type filter hook input priority -10; policy accept;
		exthdr frag exists jump fragments
		meta nfproto ipv6 udp dport {{.Port}} goto vxlan
		iifname @networks goto from-network
	}
`

const wayRules = `	chain from-network {
		ip6 daddr @vteps counter drop comment "VM reaches for the host"
{{- if .Hypervisor}}
		ip6 daddr ff02::/16 meta l4proto icmpv6 accept
		iifname . ip6 daddr @own6 meta l4proto icmpv6 accept
		iifname . ip6 daddr @resolvers meta l4proto { tcp, udp } th dport 53 accept
		# The other one is the host's own broadcast, which it hears itself.
		meta nfproto ipv4 udp sport 68 udp dport 67 accept
		meta nfproto ipv4 udp sport 67 udp dport 68 accept
{{- end}}
{{- if .GatewayRole}}
{{- if not .Hypervisor}}
		# A gateway asks for nobody, so it needs no answers.
		icmpv6 type nd-neighbor-solicit iifname . ip6 saddr @known accept
		icmpv6 type { 133-137 } counter drop comment "gateways know their neighbours"
{{- end}}
		icmpv6 type { destination-unreachable, packet-too-big, time-exceeded, parameter-problem, echo-request } accept
{{- end}}
		counter drop comment "VM reaches for the host"
	}
	chain forward {
		type filter hook forward priority -10; policy accept;
{{- if .GatewayRole}}
		iifname @networks ip6 daddr @vteps counter drop comment "VM reaches for the underlay"
		iifname @networks udp dport {{.Port}} counter drop comment "VM makes VXLAN"
		# Nobody is asked for an address that no VM has, so a scan fills no neighbour table.
		oifname @networks meta nfproto ipv6 oifname . ip6 daddr != @known counter reject with icmpv6 type addr-unreachable comment "no VM has this address"
{{- else}}
		iifname @networks meta nfproto ipv4 counter drop comment "IPv4 is not routed"
		iifname @networks iifname . oifname != @same counter drop comment "VM reaches for the underlay"
		oifname @networks iifname . oifname != @same counter drop comment "the underlay reaches for a VM"
{{- end}}
	}
	chain output {
		type filter hook output priority -10; policy accept;
		oifname @networks icmpv6 type nd-redirect counter drop comment "VMs know one router"
{{- if and .GatewayRole (not .Hypervisor)}}
		oifname @networks meta nfproto ipv6 ip6 daddr != ff00::/8 oifname . ip6 daddr != @known counter drop comment "no VM has this address"
{{- end}}
	}
`

// seenRules keep which address each plug has spoken of in ARP and neighbour discovery (the target of a solicitation counts for
// duplicate address detection only), and has sent IPv6 packets from: a VM that knows its router and is known to it has no need
// of neighbour discovery for hours. What is cheap to ask comes first, since each packet of a VM comes here: it costs a few
// comparisons and one look-up; an address is written once in a minute. They are a table of their own, so that what was seen outlives
// a change of the rules.
// What comes to the second chain has passed the rules above, which bound the addresses of a plug. The first one stands before
// them: it keeps what a plug claims whether or not it may have it, at a bounded rate, too.
const seenRules = `
	chain claims {
		type filter hook prerouting priority -250; policy accept;
		ether type ip6 meta l4proto != icmpv6 accept
		iif != @ports accept
		ether type arp arp htype 1 arp ptype ip arp hlen 6 arp plen 4 arp saddr ip != 0.0.0.0 goto claims4
		ip6 saddr :: icmpv6 type nd-neighbor-solicit goto claims6
		icmpv6 type nd-neighbor-advert goto claims6
	}
	chain claims4 {
		iif . arp saddr ip @seen4 accept
		iif . arp saddr ip @claimed4 update @claimed4 { iif . arp saddr ip } accept
		update @claimants { iif limit rate over {{.AddressRate}} burst {{.AddressBurst}} packets } accept
		add @claimed4 { iif . arp saddr ip }
	}
	chain claims6 {
		iif . @th,64,128 @seen6 accept
		iif . @th,64,128 @claimed6 update @claimed6 { iif . @th,64,128 } accept
		update @claimants { iif limit rate over {{.AddressRate}} burst {{.AddressBurst}} packets } accept
		add @claimed6 { iif . @th,64,128 }
	}
	chain prerouting {
		type filter hook prerouting priority -150; policy accept;
		iif != @ports accept
		arp saddr ip != 0.0.0.0 update @seen4 { iif . arp saddr ip }
		ether type != ip6 accept
		meta l4proto != icmpv6 goto speaks
		ip6 saddr :: icmpv6 type nd-neighbor-solicit update @seen6 { iif . @th,64,128 }
		icmpv6 type nd-neighbor-advert update @seen6 { iif . @th,64,128 }
		goto speaks
	}
	chain speaks {
		iif . @nh,64,128 @fresh6 accept
		ip6 saddr :: accept
		ip6 saddr fe80::/10 accept
		add @fresh6 { iif . @nh,64,128 }
		update @seen6 { iif . @nh,64,128 }
	}
`

// set is a set of a table. The driver keeps the elements of all but those that are the rules' own.
type set struct {
	name, typ string
	dynamic   bool
}

// table is a table of the rule set.
type table struct {
	family, name string
	sets         []set
	rules        string
}

func (t table) String() string { return t.family + " " + t.name }

var tables = []table{
	{"bridge", "widecloud", []set{
		{name: "strangers", typ: "type iface_index"},
		{name: "ports", typ: "type iface_index"},
		{name: "plugs", typ: "type iface_index . ether_addr"},
		{name: "own4", typ: "type iface_index . ipv4_addr"},
		{name: "own6", typ: "typeof iif . @nh,64,128"},
		{name: "prefixes", typ: "typeof iif . @nh,64,64"},
		{name: "known6", typ: "typeof @nh,64,128"},
		{name: "fabric", typ: "type ifname"},
		{name: "fabric6", typ: "typeof iifname . @nh,64,64"},
		{name: "macs", typ: "type ifname . ether_addr"},
		{name: "pairs4", typ: "type ifname . ether_addr . ipv4_addr"},
		{name: "pairs6", typ: "typeof iifname . ether saddr . @nh,64,128"},
		{name: "taken6", typ: "typeof iifname . @nh,64,128"},
		{name: "routers", typ: "typeof @nh,64,128"},
		{name: "gateways", typ: "typeof @nh,64,128"},
		{name: "floods", typ: "type iface_index; size 65535; flags dynamic,timeout; timeout 1m", dynamic: true},
		{name: "others", typ: "typeof iif . @nh,64,128; size 65535; flags dynamic,timeout; timeout " + addressTime, dynamic: true},
		{name: "arrivals", typ: "type iface_index; size 65535; flags dynamic,timeout; timeout " + addressTime, dynamic: true},
	}, bridgeRules},
	{"inet", "widecloud", []set{
		{name: "networks", typ: "type ifname"},
		{name: "same", typ: "type ifname . ifname"},
		{name: "peers", typ: "typeof ip6 saddr . @th,96,24"},
		{name: "routers", typ: "typeof ip6 saddr . @th,96,24 . @th,176,48"},
		{name: "macs", typ: "typeof @th,96,24 . @th,176,48"},
		{name: "here", typ: "typeof @th,96,24 . @th,176,48"},
		{name: "vteps", typ: "type ipv6_addr"},
		{name: "own6", typ: "type ifname . ipv6_addr"},
		{name: "resolvers", typ: "type ifname . ipv6_addr"},
		{name: "prefixes", typ: "typeof @th,96,24 . @th,304,64"},
		{name: "known", typ: "type ifname . ipv6_addr"},
	}, inetRules},
	{"bridge", "widecloud-seen", []set{
		{name: "ports", typ: "type iface_index"},
		{name: "seen4", typ: "type iface_index . ipv4_addr; size 65535; flags dynamic,timeout; timeout " + seenText, dynamic: true},
		{name: "seen6", typ: "typeof iif . @nh,64,128; size 65535; flags dynamic,timeout; timeout " + seenText, dynamic: true},
		{name: "claimed4", typ: "type iface_index . ipv4_addr; size 65535; flags dynamic,timeout; timeout " + seenText, dynamic: true},
		{name: "claimed6", typ: "typeof iif . @nh,64,128; size 65535; flags dynamic,timeout; timeout " + seenText, dynamic: true},
		{name: "fresh6", typ: "typeof iif . @nh,64,128; size 65535; flags dynamic,timeout; timeout 1m", dynamic: true},
		{name: "claimants", typ: "type iface_index; size 65535; flags dynamic,timeout; timeout " + addressTime, dynamic: true},
	}, seenRules},
}

var tableText = template.Must(template.New("table").Parse(`table {{.Table}}
delete table {{.Table}}
table {{.Table}} {
{{- range .Sets}}
	set {{.Name}} { {{.Type}}; }
{{- end}}
`))

// script renders the commands that make a table anew, with its sets empty.
func (t table) script(w Want) (string, error) {
	var b strings.Builder
	type setText struct{ Name, Type string }
	var sets []setText
	for _, s := range t.sets {
		sets = append(sets, setText{s.name, s.typ})
	}
	if err := tableText.Execute(&b, map[string]any{"Table": t.String(), "Sets": sets}); err != nil {
		return "", err
	}
	rules, err := template.New(t.name).Parse(t.rules)
	if err != nil {
		return "", err
	}
	err = rules.Execute(&b, map[string]any{
		"Hypervisor": w.Role.Hypervisor, "GatewayRole": w.Role.Gateway, "Both": w.Role.both(), "Port": netio.VXLANPort,
		"Anycast": AnycastMAC, "Gateway": GatewayMAC, "AnycastRaw": number(AnycastMAC), "GatewayRaw": number(GatewayMAC), "Routed": routedMAC, "Edge": edgeOUI.String() + ":00:00:00", "Own": edgeMAC(w.VTEP),
		"LinkLocals": hex(linkLocals.Addr(), 8), "FloodRate": floodRate, "FloodBurst": floodBurst, "AddressRate": addressRate, "AddressBurst": addressBurst,
	})
	b.WriteString("}\n")
	return b.String(), err
}

// hex renders the first bytes of an address as nft has raw bytes.
func hex(a netip.Addr, bytes int) string {
	const digits = "0123456789abcdef"
	b := []byte("0x")
	for _, v := range a.AsSlice()[:bytes] {
		b = append(b, digits[v>>4], digits[v&15])
	}
	return string(b)
}
