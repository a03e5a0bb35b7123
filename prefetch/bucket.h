/*
 * bucket.h - how much may be fetched in a second, for each of some keys.
 *
 * A token bucket a key: it fills at its rate, up to BUCKET_SHARE of a second, and what is taken may empty it
 * below zero by one piece, which is as large. So in T seconds no more is taken than T and twice that share
 * would fill, or two pieces of BUCKET_BYTES_MIN where these are more. A key of which nothing was heard for
 * the longest time goes when there are more than BUCKETS_MAX, and begins full again.
 *
 * Pure: no clock, no I/O, fixed size. The owner serializes calls. All zeros: all are full.
 */
#ifndef PREFETCH_BUCKET_H
#define PREFETCH_BUCKET_H

#include "lease/base/types.h"

#define BUCKETS_MAX	 64u
#define BUCKET_SHARE	 8u /* of a second's bytes */
#define BUCKET_BYTES_MIN (UINT64_C(64) << 10)

struct buckets {
	struct bucket {
		uint64_t key, rate; /* rate 0: the place is free */
		int64_t bytes;      /* that may be taken; below zero: that were taken too much */
		struct instant at;  /* as of then */
	} items[BUCKETS_MAX];
};

/*
 * Takes at most `bytes` (not 0), at `rate` (bytes a second, not 0; the latest counts): how many of them;
 * 0: none can be before `*ret_at`, which is later than now.
 */
uint64_t buckets_take(struct buckets *b, struct instant now, uint64_t key, uint64_t rate, uint64_t bytes,
		      struct instant *ret_at);

#endif
