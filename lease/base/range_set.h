/*
 * range_set.h - a set of byte numbers, kept as sorted ranges that neither touch nor overlap.
 *
 * The owner embeds the struct and gives it an allocator that outlives it. One caller at a time.
 * A set holds at most `count_max` ranges: beyond that the smallest is given up, so the set may
 * know less than was added, and never more. That is the right side to err on for a cache.
 *
 * Ranges are [start, end), in bytes, start < end.
 */
#ifndef LEASE_BASE_RANGE_SET_H
#define LEASE_BASE_RANGE_SET_H

#include "lease/base/allocator.h"
#include "lease/base/types.h"

struct range {
	uint64_t start, end;
};

struct range_set {
	const struct allocator *allocator;
	struct range *ranges; /* sorted; borrow it until the next change */
	uint32_t count, capacity, count_max;
	uint64_t bytes; /* the sum of all ranges */
};

/* An empty set; allocates nothing. `count_max` is 1 or more. */
void range_set_init(struct range_set *s, const struct allocator *allocator, uint32_t count_max);
/* Frees what the set holds; it is empty afterwards and may be used again. */
void range_set_finish(struct range_set *s);
/* Empties the set and keeps its memory. */
void range_set_clear(struct range_set *s);

/* Adds [start, end). 0, or -ENOMEM: the set is as before. */
int range_set_add(struct range_set *s, uint64_t start, uint64_t end) MUST_CHECK;
/*
 * Takes [start, end) out. Cannot fail: when a range falls in two and there is no room for both,
 * the smaller part is given up as well.
 */
void range_set_remove(struct range_set *s, uint64_t start, uint64_t end);

/* How many bytes from `offset` on are in the set without a gap. */
uint64_t range_set_run(const struct range_set *s, uint64_t offset);
/* True when all of [start, end) is in the set; an empty range always is. */
bool range_set_covers(const struct range_set *s, uint64_t start, uint64_t end);
/* The first gap in [offset, end): true with [*ret_start, *ret_end) cut at `end`; false: none. */
bool range_set_gap(const struct range_set *s, uint64_t offset, uint64_t end, uint64_t *ret_start,
		   uint64_t *ret_end);

/* For tests: sorted, apart, within the bound, the sum right. */
bool range_set_valid(const struct range_set *s);

#endif
