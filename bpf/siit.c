//go:build ignore

/*
 * SIIT at tc ingress. An ordinary packet is translated where it lies and left
 * to the stack, which routes it, counts the last hop and answers if it does not
 * fit; or it is sent to its next hop at once, if that is wanted and all is well.
 * Whatever else goes on untouched.
 */
#include "plan.h"

INLINE int done(int outcome, u32 bytes, int verdict)
{
	count_outcome(outcome, bytes);
	return testing ? 100 + outcome : verdict;
}

INLINE int change(struct __sk_buff *skb, const struct plan *p, u32 hdr)
{
	u32 l4 = ETH_LEN + hdr;

	/* Type and header lie one after the other, here as in the packet. */
	if (skb_store_bytes(skb, ETH_LEN - 2, &p->etype, 2 + hdr, 0))
		return -1;
	if (p->proto == PROTO_ICMP || p->proto == PROTO_ICMPV6) {
		/* Between IPv6 and IPv6 the type stays. */
		if ((p->proto == PROTO_ICMP || p->icmp_type) && skb_store_bytes(skb, l4, &p->icmp_type, 1, 0))
			return -1;
		if (p->proto == PROTO_ICMPV6)
			skb->mark |= SEEN;
	}
	/* PSEUDO_HDR: right for sums that a device will complete, too. */
	if (l4_csum_replace(skb, l4 + checksum_at(p->proto), 0, p->l4_diff, PSEUDO_HDR | (p->proto == PROTO_UDP ? MARK_MANGLED_0 : 0)))
		return -1;
	/* Fails but for CHECKSUM_COMPLETE, where the sum over the packet goes along. */
	csum_update(skb, p->skb_diff);
	return 0;
}

/* An echo that passes is nothing that the full path would have to look at: only errors are (map646's policy rules). */
INLINE void note_echo(struct __sk_buff *skb, void *data, void *end)
{
	struct ip6 *h = data + ETH_LEN;
	u8 *type = (u8 *)(h + 1);

	if ((void *)(type + 1) <= end && (u8)h->flow >> 4 == 6 && h->proto == PROTO_ICMPV6 && (*type & ~1) == 128)
		skb->mark |= SEEN;
}

/*
 * Whether the stack would do nothing but forward the translated packet, and to
 * where; then the last hop is counted here. An address of the host's own is found
 * among IPv4 routes; IPv6 ones are those of the main table, since policy rules are
 * the translator's own.
 */
INLINE int next_hop(struct __sk_buff *skb, const struct settings *s, const void *l4, const void *end, struct plan *p,
		    struct fib_lookup *f)
{
	u32 flags = 0, check;

	if (p->wire > 0xffff)
		return 0;
	f->ifindex = skb->ifindex;
	f->tot_len = p->wire;
	f->l4_protocol = p->proto;
	if ((p->proto == PROTO_TCP || p->proto == PROTO_UDP) && l4 + 4 <= end) {
		f->sport = ((const u16 *)l4)[0];
		f->dport = ((const u16 *)l4)[1];
	}
	if (p->etype == be16(ETH_P_IPV6)) {
		if (is_own(s, p->ip6.dst64[0], p->ip6.dst64[1]))
			return 0;
		f->family = AF_INET6;
		f->flow = p->ip6.flow & be32(0x0fffffff);
		__builtin_memcpy(f->src, p->ip6.src, 16);
		__builtin_memcpy(f->dst, p->ip6.dst, 16);
		flags = FIB_MAIN_ONLY;
	} else {
		f->family = AF_INET;
		f->tos = p->ip4.tos;
		f->src[0] = p->ip4.src;
		f->dst[0] = p->ip4.dst;
	}
	/* Not 0: no route, not to be forwarded, too long, the neighbour not known yet. */
	if (fib_lookup(skb, f, sizeof(*f), flags) || f->ifindex == s->full)
		return 0;
	/* TTL and Hop Limit are at least 2 here. */
	if (p->etype == be16(ETH_P_IPV6)) {
		p->ip6.hop--;
		p->skb_diff = fold32((u64)p->skb_diff + (u32)~be32(1));
	} else {
		p->ip4.ttl--;
		check = p->ip4.check + 1; /* RFC 1624, of the word's low byte in network order */
		p->ip4.check = check + (check >= 0xffff);
	}
	return 1;
}

SEC("tc")
int translate(struct __sk_buff *skb)
{
	u32 proto = skb->protocol, need;
	const struct settings *s;
	struct plan p = {};
	struct fib_lookup f = {};
	void *data, *end;
	int outcome, direct = 0;

	if (skb->pkt_type != PACKET_HOST || skb->vlan_present)
		return testing ? 100 + PASS_NO_MAPPING : TC_NEXT;
	/* As far as decisions look: transport header and, for Identification of what is
	 * short, 24 bytes. */
	if (proto == be16(ETH_P_IPV6))
		need = ETH_LEN + 40 + (skb->len > ETH_LEN + MIN_MTU6 + 64 ? 20 : 24);
	else if (proto == be16(ETH_P_IP))
		need = ETH_LEN + 20 + 20;
	else
		return testing ? 100 + PASS_NO_MAPPING : TC_NEXT;
	s = current();
	if (!s)
		return testing ? 100 + PASS_NO_MAPPING : TC_NEXT;
	data = (void *)(u64)skb->data;
	end = (void *)(u64)skb->data_end;
	if (unlikely(data + need > end && (u32)(end - data) < skb->len)) {
		if (skb_pull_data(skb, need < skb->len ? need : skb->len))
			return done(PASS_FAILED, skb->len, TC_NEXT);
		data = (void *)(u64)skb->data;
		end = (void *)(u64)skb->data_end;
	}
	if (proto == be16(ETH_P_IP))
		outcome = plan4(data, end, skb->len - ETH_LEN, skb->gso_size, s, &p);
	else
		outcome = plan6(data, end, skb->len - ETH_LEN, skb->gso_size, s, &p);
	if (s->flags & DIRECT && outcome <= SIX_TO_SIX)
		direct = next_hop(skb, s, data + ETH_LEN + (proto == be16(ETH_P_IP) ? 20 : 40), end, &p, &f);

	switch (outcome) {
	case FOUR_TO_SIX:
		if (skb_change_proto(skb, be16(ETH_P_IPV6), 0))
			return done(PASS_FAILED, p.bytes, TC_NEXT);
		if (change(skb, &p, 40))
			return done(DROP_FAILED, p.bytes, TC_SHOT);
		break;
	case SIX_TO_FOUR:
		if (skb_change_proto(skb, be16(ETH_P_IP), 0))
			return done(PASS_FAILED, p.bytes, TC_NEXT);
		if (change(skb, &p, 20))
			return done(DROP_FAILED, p.bytes, TC_SHOT);
		break;
	case SIX_TO_SIX:
		if (change(skb, &p, 40))
			return done(DROP_FAILED, p.bytes, TC_SHOT);
		break;
	default:
		if (proto == be16(ETH_P_IPV6))
			note_echo(skb, data, end);
		return done(outcome, skb->len - ETH_LEN, TC_NEXT);
	}
	count_mapping(p.id, p.out, p.bytes);
	if (direct) {
		struct next_hop hop = {f.family, {f.dst[0], f.dst[1], f.dst[2], f.dst[3]}};

		return done(outcome, p.bytes, redirect_neigh(f.ifindex, &hop, sizeof(hop), 0));
	}
	return done(outcome, p.bytes, TC_NEXT);
}

/*
 * The same before the stack has the packet: cheapest for packets as they come
 * from a wire. There are no super-packets here, and nobody has said to whom a
 * frame is addressed.
 */
INLINE int change_xdp(struct xdp_md *xdp, const struct plan *p, u32 hdr, int grow)
{
	void *data = (void *)(u64)xdp->data, *end = (void *)(u64)xdp->data_end;
	u32 mac[3], at = ETH_LEN + hdr + checksum_at(p->proto);
	u16 *field;

	if (data + ETH_LEN > end)
		return -1;
	__builtin_memcpy(mac, data, 12);
	if (grow) {
		if (xdp_adjust_head(xdp, -grow))
			return 1; /* no room, and nothing has happened */
		data = (void *)(u64)xdp->data;
		end = (void *)(u64)xdp->data_end;
	}
	if (data + ETH_LEN + hdr + 1 > end)
		return -1;
	__builtin_memcpy(data, mac, 12);
	__builtin_memcpy(data + 12, &p->etype, 2 + hdr);
	if (p->icmp_type || p->proto == PROTO_ICMP)
		*(u8 *)(data + ETH_LEN + hdr) = p->icmp_type;
	field = data + at;
	if ((void *)(field + 1) > end)
		return -1;
	*field = ~fold16((u64)(u16) ~*field + p->l4_diff);
	if (p->proto == PROTO_UDP && !*field)
		*field = 0xffff;
	return 0;
}

SEC("xdp")
int translate_xdp(struct xdp_md *xdp)
{
	void *data = (void *)(u64)xdp->data, *end = (void *)(u64)xdp->data_end;
	u32 len = end - data, dev = xdp->ingress_ifindex;
	const struct settings *s;
	struct plan p = {};
	u16 proto;
	u64 *mac;
	int outcome, failed;

	if (data + ETH_LEN > end)
		return testing ? 100 + PASS_NO_MAPPING : XDP_PASS;
	proto = *(u16 *)(data + 12);
	s = current();
	if ((proto != be16(ETH_P_IP) && proto != be16(ETH_P_IPV6)) || !s)
		return testing ? 100 + PASS_NO_MAPPING : XDP_PASS;
	mac = map_lookup(&macs, &dev);
	if (!testing && (!mac || *mac != ((u64)*(u16 *)(data + 4) << 32 | *(u32 *)data)))
		return XDP_PASS;
	if (proto == be16(ETH_P_IP))
		outcome = plan4(data, end, len - ETH_LEN, 0, s, &p);
	else
		outcome = plan6(data, end, len - ETH_LEN, 0, s, &p);
	switch (outcome) {
	case FOUR_TO_SIX:
		failed = change_xdp(xdp, &p, 40, 20);
		break;
	case SIX_TO_FOUR:
		failed = change_xdp(xdp, &p, 20, -20);
		break;
	case SIX_TO_SIX:
		failed = change_xdp(xdp, &p, 40, 0);
		break;
	default:
		return done(outcome, len - ETH_LEN, XDP_PASS);
	}
	if (failed)
		return failed > 0 ? done(PASS_FAILED, p.bytes, XDP_PASS) : done(DROP_FAILED, p.bytes, XDP_DROP);
	count_mapping(p.id, p.out, p.bytes);
	return done(outcome, p.bytes, XDP_PASS);
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
