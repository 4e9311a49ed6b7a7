/*
 * What is to become of a packet. All of it is decided before the packet is
 * touched, because there is no way back. Only what is ordinary is taken: TCP,
 * UDP with a checksum and echo, in plain headers, to a mapping that we have.
 * What is not goes to the full path, which knows what to answer.
 */
#pragma once
#include "table.h"

#define PROTO_ICMP 1
#define PROTO_TCP 6
#define PROTO_UDP 17
#define PROTO_ICMPV6 58

#define ETH_LEN 14
#define MIN_MTU6 1280

struct ip4 {
	u8 version_ihl, tos;
	u16 total, id, frag;
	u8 ttl, proto;
	u16 check;
	u32 src, dst;
} __attribute__((packed, aligned(2)));

struct ip6 {
	u32 flow;
	u16 payload;
	u8 proto, hop;
	union {
		u32 src[4];
		u64 src64[2] __attribute__((packed, aligned(2)));
	};
	union {
		u32 dst[4];
		u64 dst64[2] __attribute__((packed, aligned(2)));
	};
} __attribute__((packed, aligned(2)));

struct plan {
	u32 bytes;      /* length of the IP packet before translation */
	u32 wire;       /* of the longest packet that it will be on the wire, after it */
	u32 id, out;    /* whose counters */
	u32 l4_diff;    /* what comes into the transport checksum */
	u32 skb_diff;   /* what comes into a CHECKSUM_COMPLETE sum, the transport's aside */
	u8 proto;       /* after translation */
	u8 icmp_type;
	u16 etype;      /* network order; right before the header, to be written in one go */
	union {
		u32 words[10];
		struct ip4 ip4;
		struct ip6 ip6;
	};
};

/* Ones'-complement sums are taken over words as they lie in memory. */
INLINE u32 fold32(u64 s)
{
	s = (s >> 32) + (s & 0xffffffff);
	s = (s >> 32) + (s & 0xffffffff);
	return s;
}

INLINE u16 fold16(u64 s)
{
	u32 x = fold32(s);

	x = (x >> 16) + (x & 0xffff);
	x = (x >> 16) + (x & 0xffff);
	return x;
}

INLINE u64 sum64(u64 a) { return (a >> 32) + (a & 0xffffffff); }

/* a is in host order. */
INLINE int usable4(u32 a)
{
	u32 top = a >> 24;

	return top != 0 && top != 127 && top < 224;
}

/* Addresses without a meaning in the Internet: RFC 6890, without those that are never usable. */
INLINE int private4(u32 a)
{
	u32 top = a >> 16;

	switch (a >> 24) {
	case 10:
		return 1;
	case 100:
		return (top & 0xffc0) == 0x6440;
	case 169:
		return top == 0xa9fe;
	case 172:
		return (top & 0xfff0) == 0xac10;
	case 192:
		return top == 0xc0a8 || a >> 8 == 0xc00000 || a >> 8 == 0xc00002;
	case 198:
		return (top & 0xfffe) == 0xc612 || a >> 8 == 0xc63364;
	case 203:
		return a >> 8 == 0xcb0071;
	}
	return 0;
}

/* hi, lo in host order. */
INLINE int usable6(u64 hi, u64 lo)
{
	return hi >> 56 != 0xff && hi >> 54 != 0xfe80 >> 6 && (hi || lo > 1);
}

/* The longest packet that this one will be on the wire, behind a header of hdr bytes; 0: leave it. */
INLINE u32 wire_length(u32 hdr, u32 l4_len, u8 proto, void *l4, void *end, u32 gso_size)
{
	u32 doff;

	if (!gso_size)
		return hdr + l4_len;
	if (proto != PROTO_TCP || l4 + 20 > end)
		return 0;
	doff = (*(u8 *)(l4 + 12) >> 4) * 4;
	if (doff < 20)
		return 0;
	return hdr + doff + gso_size;
}

/* Looks at the transport header; what is not ordinary gives its outcome. */
INLINE int transport(u8 proto, u8 icmp, void *l4, u32 l4_len, void *end, u32 gso_size)
{
	switch (proto) {
	case PROTO_TCP:
		if (l4_len < 20 || l4 + 20 > end)
			return PASS_MALFORMED;
		return 0;
	case PROTO_UDP:
		if (l4_len < 8 || l4 + 8 > end)
			return PASS_MALFORMED;
		if (gso_size)
			return PASS_GSO;
		if (!*(u16 *)(l4 + 6))
			return PASS_UDP_ZERO;
		return 0;
	case PROTO_ICMP:
	case PROTO_ICMPV6:
		if (proto != icmp)
			return PASS_PROTOCOL;
		if (l4_len < 8 || l4 + 8 > end)
			return PASS_MALFORMED;
		if (gso_size)
			return PASS_GSO;
		if (icmp == PROTO_ICMP ? *(u16 *)l4 != 8 && *(u16 *)l4 != 0 : *(u16 *)l4 != 128 && *(u16 *)l4 != 129)
			return PASS_ICMP; /* a code other than zero, too */
		return 0;
	}
	return PASS_PROTOCOL;
}

/* len: bytes of the IP packet that there are, perhaps with padding behind it. */
INLINE int plan4(void *data, void *end, u32 len, u32 gso_size, const struct settings *s, struct plan *p)
{
	struct ip4 *h = data + ETH_LEN;
	void *l4 = h + 1;
	u32 src, dst, total, l4_len, wire, suffix, dst4, src4, old, new;
	u64 sum, hi, lo, a, b;
	struct found e = {};
	int r;

	if (unlikely(l4 > end))
		return PASS_MALFORMED;
	if (!(s->flags & HAS_PREF64))
		return PASS_NO_MAPPING;
	dst4 = h->dst;
	src4 = h->src;
	r = find_to6(dst4, &e);
	if (likely(r == FOUND)) {
		a = e.a;
		b = e.b;
		p->id = e.id;
	} else if (unlikely(r == TORN)) {
		return PASS_TORN;
	} else {
		struct key4 k = {32, dst4};
		struct prefix_pair *m;

		if (!(s->flags & HAS_PREFIXES))
			return PASS_NO_MAPPING;
		m = map_lookup(&prefix6, &k);
		if (!m || is_own(s, 0, (u64)dst4 << 32 | 0xffff0000))
			return PASS_NO_MAPPING;
		suffix = be32(dst4) & m->out_mask;
		hi = m->in_hi;
		lo = m->in_lo;
		r = m->shift & 127;
		if (r >= 64) {
			hi |= (u64)suffix << (r - 64);
		} else {
			lo |= (u64)suffix << r;
			if (r > 32)
				hi |= (u64)suffix >> (64 - r);
		}
		a = be64(hi);
		b = be64(lo);
		p->id = m->id;
	}
	p->out = 0;
	if (unlikely(h->version_ihl != 0x45))
		return h->version_ihl >> 4 == 4 ? PASS_OPTIONS : PASS_MALFORMED;
	total = be16(h->total);
	if (unlikely(total < 20 || total > len))
		return PASS_MALFORMED;
	if (unlikely(h->frag & ~be16(0x4000)))
		return PASS_FRAGMENT;
	src = be32(src4);
	dst = be32(dst4);
	if (unlikely(!usable4(src) || !usable4(dst)))
		return PASS_ADDRESS;
	if (unlikely(!(s->flags & ALLOW_PRIVATE) && private4(src)))
		return PASS_ADDRESS;
	/* The stack drops what comes from outside with an address of the host's own. */
	if (unlikely(is_own(s, 0, (u64)src4 << 32 | 0xffff0000)))
		return PASS_ADDRESS;
	sum = (u64)((u32 *)h)[0] + ((u32 *)h)[1] + ((u32 *)h)[2] + src4 + dst4;
	if (unlikely(fold16(sum) != 0xffff))
		return PASS_CHECKSUM;
	if (unlikely(h->ttl <= s->hops + 1))
		return PASS_TTL;
	l4_len = total - 20;
	r = transport(h->proto, PROTO_ICMP, l4, l4_len, end, gso_size);
	if (unlikely(r))
		return r;
	wire = wire_length(40, l4_len, h->proto, l4, end, gso_size);
	if (unlikely(!wire))
		return PASS_GSO;
	if (unlikely((s->mtu6 && wire > s->mtu6) || (!h->frag && wire > s->lowest_mtu6)))
		return PASS_TOO_BIG;

	p->wire = wire;
	hi = s->pref_hi | (u64)src >> s->up;
	lo = s->pref_lo | (src & s->low_mask) << s->down;
	p->proto = h->proto;
	p->etype = be16(ETH_P_IPV6);
	p->ip6.flow = s->flags & ZERO_TRAFFIC_CLASS ? be32(0x60000000) : be32(0x60000000 | (u32)h->tos << 20);
	p->ip6.payload = be16(l4_len);
	p->ip6.hop = h->ttl - s->hops;
	p->ip6.src64[0] = be64(hi);
	p->ip6.src64[1] = be64(lo);
	p->ip6.dst64[0] = a;
	p->ip6.dst64[1] = b;
	p->bytes = total;
	sum = sum64(be64(hi)) + sum64(be64(lo)) + sum64(a) + sum64(b);
	p->skb_diff = 0;
	if (h->proto == PROTO_ICMP) {
		/* The checksum now covers a pseudo-header, too. */
		p->proto = PROTO_ICMPV6;
		p->icmp_type = *(u8 *)l4 == 8 ? 128 : 129;
		old = *(u8 *)l4;
		new = p->icmp_type;
		p->skb_diff = fold32((u64)new + (u32)~old);
		p->l4_diff = fold32(sum + be32(l4_len) + be32(PROTO_ICMPV6) + p->skb_diff);
	} else {
		p->l4_diff = fold32(sum + (u32)~fold32((u64)src4 + dst4));
	}
	p->ip6.proto = p->proto;
	/* The old header adds up to nothing, as its checksum is right; what is put
	 * before it is zeroes. */
	p->skb_diff = fold32(sum + p->words[0] + p->words[1] + p->skb_diff);
	return FOUR_TO_SIX;
}

/* Identification of a packet without DF, mixed from the packet so that all nodes give it the same. */
INLINE u16 identification(u32 src, u32 dst, u32 total, u8 proto, void *l4, u32 l4_len, void *end)
{
	u64 x = (u64)src << 32 | dst;

	x = (x ^ (u64)total << 16 ^ proto) * MIX1;
#pragma unroll
	for (u32 n = 0; n < 3; n++) {
		if (l4_len < 8 * (n + 1) || l4 + 8 * (n + 1) > end)
			break;
		u32 *w = l4 + 8 * n;

		x = (x ^ x >> 29 ^ ((u64)be32(w[0]) << 32 | be32(w[1]))) * MIX1;
	}
	return x >> 48;
}

/* One end's mapping, of an address or of a prefix. */
INLINE int lookup66(const struct settings *s, u64 a, u64 b, struct found *to)
{
	int r = find_six(a, b, to);

	if (unlikely(r == MISSING && s->flags & HAS_SIX_PREFIXES)) {
		struct key6 k = {128, {a, b}};
		struct prefix_six *m = map_lookup(&prefix66, &k);

		if (!m)
			return MISSING;
		to->a = m->other[0] | (a & ~m->mask[0]);
		to->b = m->other[1] | (b & ~m->mask[1]);
		to->id = m->id;
		to->out = m->inside;
		return FOUND;
	}
	return r;
}

INLINE int in_pref64(const struct settings *s, u64 hi, u64 lo)
{
	return s->flags & HAS_PREF64 && (hi & s->mask_hi) == s->pref_hi && (lo & s->mask_lo) == s->pref_lo;
}

/* The IPv4 address under the prefix, in host order (RFC 6052 §2.2). */
INLINE u32 extract(const struct settings *s, u64 hi, u64 lo)
{
	return (hi & s->high_mask) << s->up | ((lo >> s->down) & s->low_mask);
}

/* Whether a source can be nobody's: the host's own, or under the prefix one that no IPv4 packet comes from. */
INLINE int bad_source6(const struct settings *s, u64 a, u64 b)
{
	u64 hi = be64(a), lo = be64(b);
	u32 src;

	if (is_own(s, a, b))
		return 1;
	if (!in_pref64(s, hi, lo))
		return 0;
	src = extract(s, hi, lo);
	return !usable4(src) || src >> 16 == 0xa9fe;
}

INLINE int in_prefixes(const struct settings *s, u64 a, u64 b)
{
	u64 hi = be64(a), lo = be64(b);

	for (u32 i = 0; i < INSIDE_PREFIXES && i < s->n_inside; i++)
		if ((hi & s->inside[i].mask_hi) == s->inside[i].hi && (lo & s->inside[i].mask_lo) == s->inside[i].lo)
			return 1;
	return 0;
}

INLINE int plan66(struct ip6 *h, void *l4, void *end, u32 payload, u32 gso_size, const struct settings *s, struct plan *p,
		  u64 src0, u64 src1, u64 dst0, u64 dst1)
{
	u64 nsrc0 = src0, nsrc1 = src1, ndst0 = dst0, ndst1 = dst1;
	u32 kept = 0, hit = 0, wire;
	struct found to = {}, from = {};
	int r;

	if (!(s->flags & HAS_SIX))
		return PASS_NO_MAPPING;
	r = lookup66(s, dst0, dst1, &to);
	if (unlikely(r == TORN))
		return PASS_TORN;
	if (r == FOUND) {
		if (unlikely(is_own(s, dst0, dst1)))
			return PASS_NO_MAPPING;
		kept = to.out;
		if (!kept) {
			ndst0 = to.a;
			ndst1 = to.b;
			p->id = to.id;
			p->out = 0;
			hit = 1;
		}
	}
	/* A mapped machine keeps its own source towards what is inside. */
	if (!kept) {
		r = lookup66(s, src0, src1, &from);
		if (unlikely(r == TORN))
			return PASS_TORN;
		if (r == FOUND && from.out && !in_prefixes(s, dst0, dst1) && !is_own(s, dst0, dst1)) {
			nsrc0 = from.a;
			nsrc1 = from.b;
			if (!hit) {
				p->id = from.id;
				p->out = 1;
				hit = 1;
			}
		}
	}
	if (!hit)
		return PASS_NO_MAPPING;
	if (unlikely(bad_source6(s, src0, src1)))
		return PASS_ADDRESS;
	if (unlikely(h->hop <= s->hops + 1))
		return PASS_TTL;
	r = transport(h->proto, PROTO_ICMPV6, l4, payload, end, gso_size);
	if (unlikely(r))
		return r;
	wire = wire_length(40, payload, h->proto, l4, end, gso_size);
	if (unlikely(!wire))
		return PASS_GSO;
	if (unlikely(s->mtu6 && wire > s->mtu6))
		return PASS_TOO_BIG;

	p->wire = wire;
	p->proto = h->proto;
	p->etype = be16(ETH_P_IPV6);
	p->words[0] = h->flow;
	p->ip6.payload = h->payload;
	p->ip6.proto = h->proto;
	p->ip6.hop = h->hop - s->hops;
	p->ip6.src64[0] = nsrc0;
	p->ip6.src64[1] = nsrc1;
	p->ip6.dst64[0] = ndst0;
	p->ip6.dst64[1] = ndst1;
	p->l4_diff = fold32(sum64(nsrc0) + sum64(nsrc1) + sum64(ndst0) + sum64(ndst1) +
			    (u32)~fold32(sum64(src0) + sum64(src1) + sum64(dst0) + sum64(dst1)));
	p->skb_diff = fold32((u64)p->l4_diff + p->words[1] + (u32) ~((u32 *)h)[1]);
	return SIX_TO_SIX;
}

INLINE int plan6(void *data, void *end, u32 len, u32 gso_size, const struct settings *s, struct plan *p)
{
	struct ip6 *h = data + ETH_LEN;
	void *l4 = h + 1;
	u32 payload, src4, dst, src, wire, old, new;
	u64 src0, src1, dst0, dst1, shi, slo, dhi, dlo, sum;
	struct found e = {};
	u8 tos;
	int r;

	if (unlikely(l4 > end))
		return PASS_MALFORMED;
	src0 = (u64)h->src[1] << 32 | h->src[0];
	src1 = (u64)h->src[3] << 32 | h->src[2];
	dst0 = (u64)h->dst[1] << 32 | h->dst[0];
	dst1 = (u64)h->dst[3] << 32 | h->dst[2];
	shi = be64(src0);
	slo = be64(src1);
	dhi = be64(dst0);
	dlo = be64(dst1);
	/* Neighbour discovery, MLD and whatever else stays on its link is not touched. */
	if (!usable6(dhi, dlo) || !usable6(shi, slo))
		return PASS_NO_MAPPING;
	if ((u8)h->flow >> 4 != 6)
		return PASS_MALFORMED;
	payload = be16(h->payload);
	if (unlikely(40 + payload > len))
		return PASS_MALFORMED;
	p->bytes = 40 + payload;
	if (!in_pref64(s, dhi, dlo))
		return plan66(h, l4, end, payload, gso_size, s, p, src0, src1, dst0, dst1);

	if (is_own(s, dst0, dst1))
		return PASS_NO_MAPPING;
	r = find_to4(src0, src1, &e);
	if (likely(r == FOUND)) {
		src4 = e.out;
		src = be32(src4);
		p->id = e.id;
	} else if (unlikely(r == TORN)) {
		return PASS_TORN;
	} else {
		struct key6 k = {128, {src0, src1}};
		struct prefix_pair *m;
		u32 shift;

		if (!(s->flags & HAS_PREFIXES))
			return PASS_NO_MAPPING;
		m = map_lookup(&prefix4, &k);
		if (!m)
			return PASS_NO_MAPPING;
		/* What is behind the suffix falls off. */
		shift = m->shift & 127;
		if (shift >= 64) {
			src = shi >> (shift - 64);
		} else {
			src = slo >> shift;
			if (shift > 32)
				src |= shi << (64 - shift);
		}
		src &= m->out_mask;
		src |= m->out;
		src4 = be32(src);
		p->id = m->id;
	}
	p->out = 1;
	/* RFC 6052 §2.2: octet 8 and what is behind the IPv4 address are zero. */
	if (unlikely((dhi & ~s->high_mask) != s->pref_hi || (dlo & ~(s->low_mask << s->down)) != s->pref_lo))
		return PASS_ADDRESS;
	dst = extract(s, dhi, dlo);
	if (unlikely(!usable4(src) || !usable4(dst)))
		return PASS_ADDRESS;
	if (unlikely(!(s->flags & ALLOW_PRIVATE) && private4(dst)))
		return PASS_ADDRESS;
	if (unlikely(is_own(s, src0, src1)))
		return PASS_ADDRESS;
	if (unlikely(h->hop <= s->hops + 1))
		return PASS_TTL;
	if (unlikely(h->proto == 44))
		return PASS_FRAGMENT;
	if (unlikely(h->proto == 0 || h->proto == 43 || h->proto == 60))
		return PASS_OPTIONS;
	r = transport(h->proto, PROTO_ICMPV6, l4, payload, end, gso_size);
	if (unlikely(r))
		return r;
	wire = wire_length(20, payload, h->proto, l4, end, gso_size);
	if (unlikely(!wire))
		return PASS_GSO;
	if (unlikely(20 + payload > 65535 || (s->mtu4 && wire > s->mtu4)))
		return PASS_TOO_BIG;

	p->wire = wire;
	p->proto = h->proto;
	tos = be32(h->flow) >> 20;
	if (s->flags & ZERO_TRAFFIC_CLASS)
		tos = 0;
	dst = be32(dst);
	sum = sum64(src0) + sum64(src1) + sum64(dst0) + sum64(dst1);
	p->skb_diff = 0;
	if (h->proto == PROTO_ICMPV6) {
		p->proto = PROTO_ICMP;
		p->icmp_type = *(u8 *)l4 == 128 ? 8 : 0;
		old = *(u8 *)l4;
		new = p->icmp_type;
		p->skb_diff = fold32((u64)new + (u32)~old);
		p->l4_diff = fold32((u64)p->skb_diff + (u32)~fold32(sum + be32(payload) + be32(PROTO_ICMPV6)));
	} else {
		p->l4_diff = fold32((u64)src4 + dst + (u32)~fold32(sum));
	}
	/* The kernel takes the header's first 20 bytes out of the sum when it takes
	 * them away; the last 20 are overwritten by a header that adds up to nothing. */
	p->skb_diff = fold32((u64)p->skb_diff + (u32)~fold32((u64)h->src[3] + sum64(dst0) + sum64(dst1)));
	p->etype = be16(ETH_P_IP);
	p->ip4.version_ihl = 0x45;
	p->ip4.tos = tos;
	p->ip4.total = be16(20 + payload);
	if (20 + payload > MIN_MTU6 - 20) {
		p->ip4.id = 0;
		p->ip4.frag = be16(0x4000);
	} else {
		p->ip4.id = be16(identification(be32(src4), be32(dst), 20 + payload, h->proto, l4, payload, end));
		p->ip4.frag = 0;
	}
	p->ip4.ttl = h->hop - s->hops;
	p->ip4.proto = p->proto;
	p->ip4.check = 0;
	p->ip4.src = src4;
	p->ip4.dst = dst;
	p->ip4.check = ~fold16((u64)p->words[0] + p->words[1] + p->words[2] + src4 + dst);
	return SIX_TO_FOUR;
}

INLINE u32 checksum_at(u8 proto)
{
	return proto == PROTO_TCP ? 16 : proto == PROTO_UDP ? 6 : 2;
}

INLINE const struct settings *current(void)
{
	u32 zero = 0;
	void *inner = map_lookup(&settings, &zero);

	return inner ? map_lookup(inner, &zero) : 0;
}
