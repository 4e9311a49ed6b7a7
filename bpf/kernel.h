/*
 * What the programs use of the kernel's interface (linux/bpf.h, linux/pkt_cls.h,
 * linux/if_ether.h), written down here so that the compiled objects do not
 * depend on which headers a machine has.
 */
#pragma once

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef int s32;
typedef unsigned long long u64;
typedef long long s64;

#define SEC(name) __attribute__((section(name), used))
#define INLINE static inline __attribute__((always_inline))
#define likely(x) __builtin_expect(!!(x), 1)
#define unlikely(x) __builtin_expect(!!(x), 0)
#define READ_ONCE(x) (*(const volatile typeof(x) *)&(x))

/* The objects are compiled for little-endian machines (-target bpfel). */
#define be16(x) __builtin_bswap16(x)
#define be32(x) __builtin_bswap32(x)
#define be64(x) __builtin_bswap64(x)

enum { MAP_HASH = 1, MAP_ARRAY = 2, MAP_LPM_TRIE = 11, MAP_ARRAY_OF_MAPS = 12 };
#define MAP_NO_PREALLOC 1
#define MAP_MMAPABLE (1 << 10)
#define UINT(name, value) int(*name)[value]
#define TYPE(name, type) typeof(type) *name

#define ETH_P_IP 0x0800
#define ETH_P_IPV6 0x86dd
#define PACKET_HOST 0
#define TC_NEXT (-1) /* TCX_NEXT and TC_ACT_UNSPEC: go on as if there were no program */
#define TC_SHOT 2
#define SEEN 0x4000000 /* of marks; internal/netio has the same */
#define XDP_DROP 1
#define XDP_PASS 2

#define PSEUDO_HDR (1 << 4)
#define MARK_MANGLED_0 (1 << 5)

struct __sk_buff {
	u32 len, pkt_type, mark, queue_mapping, protocol, vlan_present, vlan_tci, vlan_proto, priority, ingress_ifindex, ifindex,
		tc_index, cb[5], hash, tc_classid, data, data_end, napi_id, family, remote_ip4, local_ip4, remote_ip6[4], local_ip6[4],
		remote_port, local_port, data_meta;
	u64 flow_keys __attribute__((aligned(8)));
	u64 tstamp;
	u32 wire_len, gso_segs;
	u64 sk __attribute__((aligned(8)));
	u32 gso_size;
};

struct xdp_md {
	u32 data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex;
};

#define AF_INET 2
#define AF_INET6 10
#define FIB_MAIN_ONLY 1 /* BPF_FIB_LOOKUP_DIRECT: no policy rules */

struct fib_lookup {
	u8 family, l4_protocol;
	u16 sport, dport;
	u16 tot_len;
	u32 ifindex;
	union {
		u8 tos;
		u32 flow;
	};
	u32 src[4], dst[4]; /* dst: then the next hop */
	u16 vlan_proto, vlan_tci;
	u8 smac[6], dmac[6];
};

struct next_hop {
	u32 family;
	u32 addr[4];
};

static void *(*map_lookup)(void *map, const void *key) = (void *)1;
static u32 (*smp_processor_id)(void) = (void *)8;
static long (*skb_store_bytes)(struct __sk_buff *skb, u32 offset, const void *from, u32 len, u64 flags) = (void *)9;
static long (*skb_load_bytes)(const struct __sk_buff *skb, u32 offset, void *to, u32 len) = (void *)26;
static long (*l4_csum_replace)(struct __sk_buff *skb, u32 offset, u64 from, u64 to, u64 flags) = (void *)11;
static long (*skb_change_proto)(struct __sk_buff *skb, u16 proto, u64 flags) = (void *)31;
static long (*skb_pull_data)(struct __sk_buff *skb, u32 len) = (void *)39;
static s64 (*csum_update)(struct __sk_buff *skb, u32 csum) = (void *)40;
static long (*fib_lookup)(void *ctx, struct fib_lookup *params, int size, u32 flags) = (void *)69;
static long (*redirect_neigh)(u32 ifindex, struct next_hop *hop, int size, u64 flags) = (void *)152;
static long (*xdp_adjust_head)(struct xdp_md *xdp, int delta) = (void *)44;
