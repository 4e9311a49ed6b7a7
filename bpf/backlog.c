//go:build ignore

/*
 * How much of super-packets waits in a TUN device. Its rings count packets, and
 * what small packets need to ride out a burst is a hundred times as many bytes of
 * super-packets, which then have left all caches when they are read. So what is
 * over a number of bytes is dropped here, and TCP sends no faster than the reader
 * reads. Small packets pass.
 */
#include "kernel.h"

/* Set by the loader before the program is verified. */
const volatile u64 most = 1; /* bytes of super-packets in a queue, before one more */

/* Of a queue, in bytes of super-packets. In lines of memory of their own. */
struct backlog {
	u64 in, unused1[15];  /* what the device has been given */
	u64 out, unused2[15]; /* what its reader has read; written by the reader */
};

struct {
	UINT(type, MAP_ARRAY);
	UINT(max_entries, 1);
	UINT(map_flags, MAP_MMAPABLE);
	TYPE(key, u32);
	TYPE(value, struct backlog);
} backlogs SEC(".maps");

/* 0 drops; what is longer than the packet leaves it whole. */
SEC("socket")
int limit(struct __sk_buff *skb)
{
	u32 queue = skb->queue_mapping;
	struct backlog *b;

	if (!skb->gso_size)
		return -1;
	b = map_lookup(&backlogs, &queue);
	if (!b)
		return -1;
	/* The reader may be ahead for a moment, see internal/netio. */
	if ((s64)(READ_ONCE(b->in) - READ_ONCE(b->out)) > (s64)most)
		return 0;
	__sync_fetch_and_add(&b->in, skb->len);
	return -1;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
