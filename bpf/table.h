/*
 * The maps, as the loader (internal/netio) fills them. Addresses are in
 * network order, as in packets.
 */
#pragma once
#include "kernel.h"

/* Set by the loader before the program is verified. */
const volatile u32 max_ids = 1;  /* mappings' counters in one share */
const volatile u32 shares = 1;   /* shares of counters: a power of two */
const volatile u32 crowded = 0;  /* CPUs have to share a share */
const volatile u32 pair_mask = 0; /* buckets of to6 and of to4, less one */
const volatile u32 six_mask = 0;  /* of six */
const volatile u32 testing = 0;  /* return the outcome, not the verdict */

/*
 * Tables of single addresses are arrays that userspace writes where they lie:
 * each entry is in one of two buckets (cuckoo hashing), so that a lookup takes
 * one line of memory, mostly, and no search. The kernel's hash maps take two or
 * three, which costs with a million entries. Entries are written while programs
 * read them, so each carries a sum over all of it. What does not add up is not
 * used; then the full path translates, which has the same table.
 */

/* An IPv4 <-> IPv6 mapping: the entry of to6 and of to4. */
struct pair {
	u64 in[2];
	u32 out;
	u32 id;
	u32 check; /* 0: no entry */
	u32 zero;
};

/* One end of an IPv6 <-> IPv6 mapping. */
struct six {
	u64 self[2], other[2];
	u32 id;
	u32 inside; /* self is the inside address */
	u32 check;
	u32 zero;
};

#define SLOTS 4

struct pairs {
	struct pair slot[SLOTS];
};

struct sixes {
	struct six slot[SLOTS];
};

/* A mapping of prefixes: of one length, so its lookups give the whole value. */
struct prefix_pair {
	u64 in_hi, in_lo; /* in host order */
	u32 out;          /* in host order */
	u32 id;
	u32 out_mask;     /* of the suffix bits of the IPv4 side */
	u32 shift;        /* how many bits the IPv4 suffix is from the IPv6 address's end */
};

/* One end of an IPv6 <-> IPv6 mapping of prefixes, of the same length. */
struct prefix_six {
	u64 other[2];
	u64 mask[2]; /* of the bits that are exchanged */
	u32 id;
	u32 inside;
};

struct key4 {
	u32 bits;
	u32 addr;
};

struct key6 {
	u32 bits;
	u64 addr[2];
} __attribute__((packed));

#define INSIDE_PREFIXES 32
#define OWN_SLOTS 2048
#define OWN_PROBES 8

enum {
	HAS_PREF64 = 1,
	HAS_PREFIXES = 2, /* there are mappings of prefixes */
	HAS_SIX = 4,      /* there are IPv6 <-> IPv6 mappings */
	ZERO_TRAFFIC_CLASS = 8,
	ALLOW_PRIVATE = 16,
	HAS_SIX_PREFIXES = 32,
	DIRECT = 64, /* send to the next hop, past the stack */
};

/* Replaced as a whole: each packet sees one value. Host order, but for own. */
struct settings {
	u32 flags;
	u32 hops; /* to take off TTL and Hop Limit */
	u32 mtu4, mtu6, lowest_mtu6;
	u32 n_inside;
	u32 full, unused; /* index of the full path's device */
	/* RFC 6052: an address under the prefix has (a & pref_mask) == pref. The IPv4
	 * address has its upper bits at the end of the first half, >> up, and those of
	 * low_mask << down in the second. */
	u64 pref_hi, pref_lo, mask_hi, mask_lo;
	u32 up, down;
	u64 high_mask, low_mask;
	struct {
		u64 hi, lo, mask_hi, mask_lo;
	} inside[INSIDE_PREFIXES];
	/* The host's own addresses: open addressing, an empty slot is zero. */
	u64 own_seed;
	u64 own[OWN_SLOTS][2];
};

/* What happened to packets; the numbers are known to the loader. */
enum outcome {
	FOUR_TO_SIX,
	SIX_TO_FOUR,
	SIX_TO_SIX,
	/* Passed on, because the packet ... */
	PASS_NO_MAPPING, /* ... is nobody's whom we know */
	PASS_FRAGMENT,
	PASS_OPTIONS,
	PASS_PROTOCOL,
	PASS_ICMP,
	PASS_TTL,
	PASS_TOO_BIG,
	PASS_UDP_ZERO,
	PASS_GSO,
	PASS_ADDRESS,
	PASS_MALFORMED,
	PASS_CHECKSUM,
	PASS_TORN,
	PASS_FAILED,
	DROP_FAILED, /* the kernel failed half way */
	OUTCOMES = 32,
};

struct count {
	u64 packets, bytes;
};

struct mapping_count {
	struct count in, out;
};

struct {
	UINT(type, MAP_ARRAY);
	UINT(max_entries, 1);
	UINT(map_flags, MAP_MMAPABLE);
	TYPE(key, u32);
	TYPE(value, struct pairs);
} to6 SEC(".maps");

struct {
	UINT(type, MAP_ARRAY);
	UINT(max_entries, 1);
	UINT(map_flags, MAP_MMAPABLE);
	TYPE(key, u32);
	TYPE(value, struct pairs);
} to4 SEC(".maps");

struct {
	UINT(type, MAP_ARRAY);
	UINT(max_entries, 1);
	UINT(map_flags, MAP_MMAPABLE);
	TYPE(key, u32);
	TYPE(value, struct sixes);
} six SEC(".maps");

struct {
	UINT(type, MAP_LPM_TRIE);
	UINT(max_entries, 1);
	UINT(map_flags, MAP_NO_PREALLOC);
	TYPE(key, struct key4);
	TYPE(value, struct prefix_pair);
} prefix6 SEC(".maps");

struct {
	UINT(type, MAP_LPM_TRIE);
	UINT(max_entries, 1);
	UINT(map_flags, MAP_NO_PREALLOC);
	UINT(key_size, 20);
	TYPE(value, struct prefix_pair);
} prefix4 SEC(".maps");

struct {
	UINT(type, MAP_LPM_TRIE);
	UINT(max_entries, 1);
	UINT(map_flags, MAP_NO_PREALLOC);
	UINT(key_size, 20);
	TYPE(value, struct prefix_six);
} prefix66 SEC(".maps");

struct {
	UINT(type, MAP_ARRAY_OF_MAPS);
	UINT(max_entries, 1);
	TYPE(key, u32);
	__attribute__((aligned(8))) struct {
		UINT(type, MAP_ARRAY);
		UINT(max_entries, 1);
		UINT(key_size, sizeof(u32));
		UINT(value_size, sizeof(struct settings)); /* its type would be incomplete in BTF */
	} *values[];
} settings SEC(".maps");

/* XDP: the addresses of the devices that it is on. */
struct {
	UINT(type, MAP_HASH);
	UINT(max_entries, 256);
	TYPE(key, u32);
	TYPE(value, u64);
} macs SEC(".maps");

/* Index: share * max_ids + id. Userspace reads it where it lies. */
struct {
	UINT(type, MAP_ARRAY);
	UINT(max_entries, 1);
	UINT(map_flags, MAP_MMAPABLE);
	TYPE(key, u32);
	TYPE(value, struct mapping_count);
} counts SEC(".maps");

/* Index: share * OUTCOMES + outcome. */
struct {
	UINT(type, MAP_ARRAY);
	UINT(max_entries, OUTCOMES);
	UINT(map_flags, MAP_MMAPABLE);
	TYPE(key, u32);
	TYPE(value, struct count);
} outcomes SEC(".maps");

INLINE void add(struct count *c, u64 bytes)
{
	if (crowded) {
		__sync_fetch_and_add(&c->packets, 1);
		__sync_fetch_and_add(&c->bytes, bytes);
	} else {
		c->packets++;
		c->bytes += bytes;
	}
}

INLINE void count_outcome(u32 outcome, u64 bytes)
{
	u32 at = (smp_processor_id() & (shares - 1)) * OUTCOMES + outcome;
	struct count *c = map_lookup(&outcomes, &at);

	if (c)
		add(c, bytes);
}

INLINE void count_mapping(u32 id, u32 out, u64 bytes)
{
	u32 at = (smp_processor_id() & (shares - 1)) * max_ids + id;
	struct mapping_count *c;

	if (id >= max_ids)
		return;
	c = map_lookup(&counts, &at);
	if (c)
		add(out ? &c->out : &c->in, bytes);
}

/* The same in internal/netio. */
#define MIX1 0x9e3779b97f4a7c15ull
#define MIX2 0xbf58476d1ce4e5b9ull
#define MIX3 0x94d049bb133111ebull

/* Never 0. */
INLINE u32 check4(u64 a, u64 b, u32 out, u32 id)
{
	return (((a * MIX1 ^ b) * MIX2 ^ ((u64)out << 32 | id)) * MIX3) >> 32 | 1;
}

INLINE u32 check6(u64 a, u64 b, u64 c, u64 d, u32 id, u32 inside)
{
	u64 x = (a * MIX1 ^ b) * MIX2;

	x = ((x ^ x >> 32 ^ c) * MIX1 ^ d) * MIX2;
	return ((x ^ x >> 32 ^ ((u64)inside << 32 | id)) * MIX3) >> 32 | 1;
}

/* Its upper 24 bits choose the one bucket, the lower ones the other. */
INLINE u64 spread(u64 x)
{
	x *= MIX2;
	x = (x ^ x >> 32) * MIX3;
	return x ^ x >> 29;
}

INLINE u64 hash6(u64 a, u64 b) { return spread(a * MIX1 ^ b); }
INLINE u64 hash4(u32 a) { return spread(a); }

struct found {
	u64 a, b;
	u32 id;
	u32 out; /* of to4 the IPv4 address; of six whether this is the inside */
};

enum { MISSING, FOUND, TORN };

INLINE int find_to6(u32 addr, struct found *to)
{
	u64 h = hash4(addr);
	int result = MISSING;

#pragma unroll
	for (int n = 0; n < 2; n++) {
		u32 at = (n ? h : h >> 40) & pair_mask;
		struct pairs *bucket = map_lookup(&to6, &at);

		if (!bucket)
			return MISSING;
#pragma unroll
		for (int i = 0; i < SLOTS; i++) {
			struct pair *e = &bucket->slot[i];

			if (READ_ONCE(e->out) != addr)
				continue;
			to->a = READ_ONCE(e->in[0]);
			to->b = READ_ONCE(e->in[1]);
			to->id = READ_ONCE(e->id);
			if (READ_ONCE(e->check) == check4(to->a, to->b, addr, to->id))
				return FOUND;
			result = TORN;
		}
	}
	return result;
}

INLINE int find_to4(u64 a, u64 b, struct found *to)
{
	u64 h = hash6(a, b);
	int result = MISSING;

#pragma unroll
	for (int n = 0; n < 2; n++) {
		u32 at = (n ? h : h >> 40) & pair_mask;
		struct pairs *bucket = map_lookup(&to4, &at);

		if (!bucket)
			return MISSING;
#pragma unroll
		for (int i = 0; i < SLOTS; i++) {
			struct pair *e = &bucket->slot[i];

			if (READ_ONCE(e->in[1]) != b || READ_ONCE(e->in[0]) != a)
				continue;
			to->out = READ_ONCE(e->out);
			to->id = READ_ONCE(e->id);
			if (READ_ONCE(e->check) == check4(a, b, to->out, to->id))
				return FOUND;
			result = TORN;
		}
	}
	return result;
}

/* Called twice, and large. */
static __attribute__((noinline)) int find_six(u64 a, u64 b, struct found *to)
{
	u64 h = hash6(a, b);
	int result = MISSING;

#pragma unroll
	for (int n = 0; n < 2; n++) {
		u32 at = (n ? h : h >> 40) & six_mask;
		struct sixes *bucket = map_lookup(&six, &at);

		if (!bucket)
			return MISSING;
#pragma unroll
		for (int i = 0; i < SLOTS; i++) {
			struct six *e = &bucket->slot[i];

			if (READ_ONCE(e->self[1]) != b || READ_ONCE(e->self[0]) != a)
				continue;
			to->a = READ_ONCE(e->other[0]);
			to->b = READ_ONCE(e->other[1]);
			to->id = READ_ONCE(e->id);
			to->out = READ_ONCE(e->inside);
			if (READ_ONCE(e->check) == check6(a, b, to->a, to->b, to->id, to->out))
				return FOUND;
			result = TORN;
		}
	}
	return result;
}

INLINE int is_own(const struct settings *s, u64 a, u64 b)
{
	u32 at = ((a * MIX1 ^ b ^ s->own_seed) * MIX2) >> 53;

#pragma unroll
	for (int i = 0; i < OWN_PROBES; i++) {
		const u64 *slot = s->own[(at + i) & (OWN_SLOTS - 1)];

		if (slot[0] == a && slot[1] == b)
			return 1;
		if (!(slot[0] | slot[1]))
			return 0;
	}
	return 0;
}
