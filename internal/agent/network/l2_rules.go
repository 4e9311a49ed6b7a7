package network

// The rules of l2: what arrives from other hosts by VXLAN, and what leaves for them. In VXLAN (RFC 7348 §5), behind UDP's
// header, @th,96,24 is the VNI, @th,128,48 the inner frame's destination, @th,176,48 its source, @th,224,16 its type, and
// @th,304,64 the prefix of its IPv6 source. Their sets are in rules.go, the elements in l2_elements.go.

// l2Arriving judges frames that have come out of VXLAN, before the bridge learns from them.
const l2Arriving = `	# Which hosts send, and by which MACs, is judged before the frame leaves its VXLAN packet: table inet.
	chain from-fabric {
		ether type != { ip, ip6, arp, 0x8035 } counter drop comment "tagged, or neither IP nor ARP"
{{- if .Both}}
		# A hypervisor routes to the gateway.
		ether saddr {{.Anycast}} ether daddr {{.Gateway}} ether type ip6 icmpv6 type != { 133-137 } ether saddr set {{.Routed}} return
		ether saddr {{.Anycast}} ether daddr {{.Gateway}} ether type ip6 meta l4proto != icmpv6 ether saddr set {{.Routed}} return
{{- end}}
		ether saddr {{.Anycast}} counter drop comment "another host's router speaks"
		ether daddr {{.Anycast}} counter drop comment "another host reaches for the router"
		ether type arp goto fabric-arp
		ether type ip goto fabric-ip
		ether type ip6 goto fabric-ip6
	}
	chain fabric-arp {
		arp htype 1 arp ptype ip arp hlen 6 arp plen 4 arp operation { request, reply } iifname . arp saddr ether . arp saddr ip @pairs4 return
		arp htype 1 arp ptype ip arp hlen 6 arp plen 4 arp operation request arp saddr ip 0.0.0.0 iifname . arp saddr ether . arp daddr ip @pairs4 return
		counter drop comment "another's IPv4 address"
	}
	chain fabric-ip {
		iifname . ether saddr . ip saddr != @pairs4 counter drop comment "another's IPv4 address"
		udp dport 67 counter drop comment "DHCP is each host's own"
		goto upper4
	}
	chain fabric-ip6 {
		udp dport 547 counter drop comment "DHCP is each host's own"
		icmpv6 type nd-router-solicit counter drop comment "routers are each host's own"
		icmpv6 type nd-neighbor-solicit @th,64,128 @routers counter drop comment "routers are each host's own"
		ip6 saddr :: icmpv6 type nd-neighbor-solicit iifname . @th,64,128 @taken6 iifname . ether saddr . @th,64,128 != @pairs6 counter drop comment "takes another's address"
		ip6 saddr :: goto upper6
{{- if .Both}}
		icmpv6 type nd-neighbor-solicit @th,64,128 @gateways iifname . ether saddr . @nh,64,128 != @pairs6 counter drop comment "a stranger asks for the gateway"
{{- end}}
		# A gateway speaks for all the world, but for no link-local address other than its own.
		ether saddr {{.Gateway}} @nh,64,64 != {{.LinkLocals}} goto upper6
		ether saddr & ff:ff:ff:00:00:00 == {{.Edge}} @nh,64,64 != {{.LinkLocals}} goto upper6
		iifname . @nh,64,64 != @fabric6 counter drop comment "source not in the network"
		iifname . @nh,64,128 @taken6 iifname . ether saddr . @nh,64,128 != @pairs6 counter drop comment "another's IPv6 address"
		goto upper6
	}
	chain fabric-answer {
		iifname . @th,64,128 @taken6 iifname . ether saddr . @th,64,128 != @pairs6 counter drop comment "answers for another"
	}
`

// l2Leaving judges frames that go into VXLAN.
const l2Leaving = `	chain to-others {
		iif != @ports counter drop comment "unknown plug"
		ether daddr & 01:00:00:00:00:00 == 00:00:00:00:00:00 oifname . ether daddr != @macs counter drop comment "for nobody"
	}
	chain postrouting {
		type filter hook postrouting priority 200; policy accept;
		oifname @fabric jump to-fabric
	}
	chain to-fabric {
{{- if .Both}}
		# To VMs elsewhere the gateway speaks with a MAC that is this host's alone: the gateways' common one comes from
		# the anycast VTEP only, and the routers' from nowhere.
		ether saddr {{.Anycast}} oifname . ether daddr @macs ip6 saddr != fe80::/10 icmpv6 type != { 133-137 } ether saddr set {{.Own}} accept
		ether saddr {{.Anycast}} oifname . ether daddr @macs ip6 saddr != fe80::/10 meta l4proto != icmpv6 ether saddr set {{.Own}} accept
		ether saddr {{.Anycast}} oifname . ether daddr @macs icmpv6 type nd-neighbor-advert @th,64,128 @gateways ether saddr set {{.Own}} accept
{{- end}}
		ether saddr {{.Anycast}} ether daddr != {{.Gateway}} counter drop comment "the router speaks to its own VMs only"
		udp dport { 67, 68, 546, 547 } counter drop comment "DHCP is each host's own"
		icmpv6 type { nd-router-solicit, nd-router-advert, nd-redirect } counter drop comment "routers are each host's own"
		icmpv6 type nd-neighbor-solicit @th,64,128 @routers counter drop comment "routers are each host's own"
	}
`

// l2Packets judges VXLAN packets before the kernel takes the frame out.
const l2Packets = `	# IPv6 is put together behind this hook, and what comes of it does not pass here again. A VTEP makes no fragments
	# (RFC 7348 §4.3).
	chain fragments {
		frag frag-off != 0 return
		udp dport {{.Port}} counter drop comment "VXLAN in fragments"
		udp dport != {{.Port}} return
		meta l4proto != udp return
		counter drop comment "upper layer out of sight"
	}
	# The frame inside is judged before the kernel learns from it.
	chain vxlan {
		ip6 saddr . @th,96,24 != @peers counter drop comment "VXLAN from a stranger"
		@th,224,16 != { 0x0800, 0x86dd, 0x0806, 0x8035 } counter drop comment "tagged, or neither IP nor ARP"
		@th,176,48 {{.AnycastRaw}} @th,128,48 != {{.GatewayRaw}} counter drop comment "another host's router speaks"
{{- if .GatewayRole}}
		# Behind the device the translator may have made other packets of what it is to route.
		@th,128,48 {{.GatewayRaw}} @th,224,16 != 0x86dd counter drop comment "IPv4 is not routed"
		@th,128,48 {{.GatewayRaw}} @th,96,24 . @th,304,64 != @prefixes counter drop comment "source not in the network"
{{- if not .Hypervisor}}
		@th,224,16 0x86dd @th,304,64 != 0 @th,96,24 . @th,304,64 != @prefixes counter drop comment "source not in the network"
{{- end}}
{{- end}}
		ip6 saddr . @th,96,24 . @th,176,48 @routers accept
		@th,96,24 . @th,176,48 @here counter drop comment "the MAC of a VM that runs here"
		@th,96,24 . @th,176,48 @macs accept
		counter drop comment "unknown MAC from another host"
	}
`
