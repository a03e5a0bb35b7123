/*
 * policy.h - which cache file goes when room is needed.
 *
 * After PDP (Duong and others, "Improving Cache Management Policies Using Dynamic Reuse Distances",
 * MICRO 2012): an item is protected for a distance after each use, and when all are protected, what
 * is new passes the cache by. The distance is the one that promises most hits for the room that it
 * takes, by the reuse distances that were seen. So of a data set that is larger than the cache, read
 * over and over in whatever order, a stable part stays; of what is not read any more, nothing.
 *
 * Two lists, both in the order of use. What is new goes to the window, a small share of the cache, of
 * which the least recently used goes. It gets to the main list while there is room, or when it was
 * used before (lately enough that its ghost, a hash and a time, is remembered) and something there
 * is not protected any more. So what is read once displaces nothing but what was read once.
 *
 * Time is the number of bytes that were read through the cache. Uses of an item that lie close
 * together are one use.
 *
 * Pure: no I/O, no clock. One caller at a time. Items are embedded in what their owner keeps.
 */
#ifndef FS_CACHE_POLICY_H
#define FS_CACHE_POLICY_H

#include "lease/base/allocator.h"
#include "lease/base/types.h"

enum policy_place { POLICY_NOWHERE, POLICY_WINDOW, POLICY_MAIN, POLICY_PINNED, POLICY_DONE, POLICY_PLACES };

struct policy_item {
	struct policy_item *newer, *older;
	uint64_t bytes; /* that it takes: policy_resize() */
	uint32_t used;  /* when, in ticks */
	uint8_t place;
};

/* Distances from 1/32 to 64 times the cache, eight buckets an octave. */
#define POLICY_BUCKETS 88

struct policy_list {
	struct policy_item *newest, *oldest;
	uint64_t bytes;
};

struct policy_ghost;

struct policy {
	const struct allocator *allocator;
	uint64_t bytes_max;
	uint64_t limit;        /* what it can have now */
	uint64_t scale;        /* about that: what shares and ticks are of */
	uint64_t tick_bytes;   /* a tick is 1/4096 of the cache */
	uint64_t passed_bytes; /* since the last tick */
	uint32_t now;
	uint32_t chosen_at, decayed_at;
	struct policy_list lists[POLICY_PLACES];
	uint64_t window_bytes; /* of bytes_max: not the main list's */
	uint32_t seen[POLICY_BUCKETS]; /* reuse distances, lately */
	uint32_t protect;              /* ticks */
	struct policy_ghost *ghosts;
	uint32_t ghost_count; /* a power of two */
	uint32_t ghosts_lost; /* young ones, overwritten since the table grew last */
};

#define POLICY_GHOSTS_MIN 4096
#define POLICY_GHOSTS_MAX (1u << 21) /* 16 MiB */

/* 0 or -ENOMEM. */
int policy_init(struct policy *p, const struct allocator *allocator, uint64_t bytes_max) MUST_CHECK;
void policy_finish(struct policy *p);

/* The cache can have only so many bytes now, of bytes_max at most: its disk is needed for others. */
void policy_limit(struct policy *p, uint64_t bytes);
/* What all items take that are somewhere. */
uint64_t policy_bytes(const struct policy *p);
/* Bytes were read through the cache, found or not. */
void policy_pass(struct policy *p, uint64_t bytes);
/* An item that is nowhere comes in, as used now; `hash` is its lasting name. */
void policy_admit(struct policy *p, struct policy_item *item, uint64_t hash);
/* An item that was found: it is nobody's use, and goes before those that were used. */
void policy_admit_unused(struct policy *p, struct policy_item *item);
/* It was read, or would have been. */
void policy_use(struct policy *p, struct policy_item *item);
/* More of it came in: that belongs to a use which was told already. */
void policy_fill(struct policy *p, struct policy_item *item);
void policy_resize(struct policy *p, struct policy_item *item, uint64_t bytes);
/* A pinned item is never a victim; what it takes is not to be had. Of one that is nowhere: nothing. */
void policy_pin(struct policy *p, struct policy_item *item, bool pinned);
/* Nobody is going to need it, as who read it says: it goes before all others, unless it is used again. One
   that is nowhere or pinned stays as it is. */
void policy_done(struct policy *p, struct policy_item *item);
/* It goes, evicted or not: nowhere from here on. */
void policy_remove(struct policy *p, struct policy_item *item, uint64_t hash);

/*
 * The item that goes so that `self` (may be NULL: room as such) can grow by `bytes`; after `previous`
 * the next choice, when that one cannot go. NULL: rather nothing is cached of `self`. Never `self`,
 * nor an item without bytes.
 */
struct policy_item *policy_victim(struct policy *p, struct policy_item *self, uint64_t bytes,
				  const struct policy_item *previous);

/* For tests: lists in order, sums right. */
bool policy_valid(const struct policy *p);

#endif
