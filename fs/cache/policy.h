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
 * Items belong to groups, which say what policies want of them (leasehold-policy(5)). What is kept, of a
 * pinned group or by itself, is in a list of its own, of at most POLICY_KEPT_SHARE of the cache; what does
 * not fit in there is like any other, and takes the place of one that was kept and not used for the
 * distance. Of a group whose items have a time to live, those that outlived it go first. Groups with the
 * same quota take no more than that together: then one of them goes, or what is new passes by.
 *
 * Pure: no I/O, no clock. One caller at a time. Items are embedded in what their owner keeps.
 */
#ifndef FS_CACHE_POLICY_H
#define FS_CACHE_POLICY_H

#include "lease/base/allocator.h"
#include "lease/base/types.h"

enum policy_place { POLICY_NOWHERE, POLICY_WINDOW, POLICY_MAIN, POLICY_PINNED, POLICY_DONE,
		    POLICY_KEPT, POLICY_PLACES };

/* What is kept takes at most so much of what the cache can have. */
#define POLICY_KEPT_SHARE(limit) ((limit) / 4 * 3)
#define POLICY_GROUPS_MAX 256 /* 0: nothing is said of its items */

enum policy_admit { POLICY_ADMIT_FIRST, POLICY_ADMIT_SECOND, POLICY_ADMIT_NEVER };

struct policy_group {
	uint64_t quota;       /* which; 0: none */
	uint64_t quota_bytes; /* all groups of that quota together */
	uint64_t bytes;       /* that its items take; not the caller's */
	uint32_t ttl_s;       /* 0: none */
	bool kept;
	enum policy_admit admit;
};

struct policy_item {
	struct policy_item *newer, *older;
	uint64_t bytes; /* that it takes: policy_resize() */
	uint32_t used;  /* when, in ticks */
	uint32_t used_s; /* and by the clock: policy_time() */
	uint8_t place;
	uint8_t group;   /* policy_regroup() */
	bool kept;       /* whatever its group says */
	bool admitted;   /* it was asked for twice: POLICY_ADMIT_SECOND */
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
	uint32_t now, now_s;
	struct policy_group groups[POLICY_GROUPS_MAX];
	uint32_t ttl_count; /* of them have one */
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
/* The clock, in seconds. */
void policy_time(struct policy *p, uint32_t now_s);
/* What is said of a group, other than 0, from now on; `group->bytes` is not looked at. */
void policy_set_group(struct policy *p, uint8_t index, const struct policy_group *group);
/* The item is of this group, and kept for itself or not. What is not kept any more is the next to go. */
void policy_regroup(struct policy *p, struct policy_item *item, uint8_t group, bool kept);
/* It is where it is wanted to be; or has nothing that could be. */
bool policy_is_kept(const struct policy_item *item);

/* It was opened: of POLICY_ADMIT_SECOND, the first time is remembered. */
void policy_access(struct policy *p, struct policy_item *item, uint64_t hash);
/* False: nothing more of it comes in, by what its group says of admission. */
bool policy_may_come(const struct policy *p, const struct policy_item *item);
/* `bytes` more would be above its quota. */
bool policy_above_quota(const struct policy *p, const struct policy_item *item, uint64_t bytes);
/* `bytes` more of it are about to come: if all that is kept has no room for them, it is not kept. */
void policy_expect(struct policy *p, struct policy_item *item, uint64_t bytes);

/* Bytes were read through the cache, found or not. */
void policy_pass(struct policy *p, uint64_t bytes);
/* An item that is nowhere comes in, as used now; `hash` is its lasting name. */
void policy_admit(struct policy *p, struct policy_item *item, uint64_t hash);
/* An item that was found: it is nobody's use, and goes before those that were used; `used_s` is set. */
void policy_admit_unused(struct policy *p, struct policy_item *item);
/* It was read, or would have been. */
void policy_use(struct policy *p, struct policy_item *item);
/* More of it came in: that belongs to a use which was told already. */
void policy_fill(struct policy *p, struct policy_item *item);
void policy_resize(struct policy *p, struct policy_item *item, uint64_t bytes);
/* A pinned item is never a victim; what it takes is not to be had. Of one that is nowhere: nothing. */
void policy_pin(struct policy *p, struct policy_item *item, bool pinned);
/* Nobody is going to need it, as who read it says: it goes before all others, unless it is used again. One
   that is nowhere, pinned or kept stays as it is. */
void policy_done(struct policy *p, struct policy_item *item);
/* It goes, evicted or not: nowhere from here on. */
void policy_remove(struct policy *p, struct policy_item *item, uint64_t hash);

/*
 * The item that goes so that `self` (may be NULL: room as such) can grow by `bytes`; after `previous`
 * the next choice, when that one cannot go. NULL: rather nothing is cached of `self`. Never `self`,
 * nor an item without bytes, nor one that is kept. Above a quota: one of those that it is of.
 */
struct policy_item *policy_victim(struct policy *p, struct policy_item *self, uint64_t bytes,
				  const struct policy_item *previous);

/* For tests: lists in order, sums right. */
bool policy_valid(const struct policy *p);

#endif
