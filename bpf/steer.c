//go:build ignore

/*
 * Which queue of a TUN device a packet goes to: always the same for a
 * connection's packets of one direction. The kernel's own choice dissects each
 * packet and hashes it with a keyed hash, on its way out and once more on its
 * way in, to bring both directions to one queue; for a translator, whose
 * packets go out with other addresses than they come in with, it cannot.
 *
 * Fragments and protocols without ports go by their addresses alone, so that
 * the pieces of a packet stay together.
 */
#include "kernel.h"

#define MIX1 0x9e3779b97f4a7c15ull
#define MIX2 0xbf58476d1ce4e5b9ull

/* DCCP, TCP, UDP, UDP-Lite and SCTP begin with their ports. */
INLINE int has_ports(u8 proto) { return proto == 6 || proto == 17 || proto == 33 || proto == 132 || proto == 136; }

/* The kernel takes the result modulo the number of queues. */
INLINE int choice(u64 hash, u32 ports)
{
	hash = (hash ^ ports) * MIX2;
	return hash >> 33;
}

SEC("socket")
int steer(struct __sk_buff *skb)
{
	u64 ip[5]; /* an IPv4 or IPv6 header */
	u8 *byte = (u8 *)ip;
	u32 ports = 0;

	if (skb->protocol == be16(ETH_P_IPV6)) {
		if (skb_load_bytes(skb, 0, ip, 40))
			return 0;
		if (has_ports(byte[6]))
			skb_load_bytes(skb, 40, &ports, 4);
		return choice((((ip[1] * MIX1 ^ ip[2]) * MIX1 ^ ip[3]) * MIX1) ^ ip[4], ports);
	}
	if (skb_load_bytes(skb, 0, ip, 20))
		return 0;
	/* Header of five words, and no fragment, not a first one either. */
	if (byte[0] == 0x45 && !((u32)(ip[0] >> 48) & ~be16(0x4000)) && has_ports(byte[9]))
		skb_load_bytes(skb, 20, &ports, 4);
	return choice((ip[1] >> 32) * MIX1 ^ (u32)ip[2], ports);
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
