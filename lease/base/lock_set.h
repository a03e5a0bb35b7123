/*
 * lock_set.h - the byte ranges that one owner has locked of one inode, each for reading or for
 * writing: sorted, apart, and merged as POSIX says.
 *
 * The owner embeds the struct and gives it an allocator that outlives it. One caller at a time.
 * A change can split one range into three, so it needs room for two more: that is reserved before
 * the change is decided, and then the change cannot fail. Reservations that are kept for later
 * (lock_set_reserve) are not used up by other changes.
 *
 * Both ends of a range are part of it, as in the kernel's FUSE protocol; LOCK_END is the last byte
 * that a file can have.
 */
#ifndef LEASE_BASE_LOCK_SET_H
#define LEASE_BASE_LOCK_SET_H

#include "lease/base/allocator.h"
#include "lease/base/types.h"

#define LOCK_END ((uint64_t)INT64_MAX)

enum lock_type {
	LOCK_TYPE_NONE = 0, /* to set it is to unlock */
	LOCK_TYPE_READ = 1,
	LOCK_TYPE_WRITE = 2,
};

struct lock_range {
	uint64_t start, end; /* both inclusive, start <= end <= LOCK_END */
	uint32_t pid;        /* of the process that set it; for F_GETLK */
	uint8_t type;        /* enum lock_type; in a set never LOCK_TYPE_NONE */
};

struct lock_set {
	const struct allocator *allocator;
	struct lock_range *ranges; /* borrow it until the next change */
	uint32_t count, capacity;
	uint32_t reserved; /* changes that lock_set_reserve() keeps room for */
};

/* An empty set; allocates nothing. */
void lock_set_init(struct lock_set *s, const struct allocator *allocator);
/* Frees what it holds; it is empty afterwards, without reservations, and may be used again. */
void lock_set_finish(struct lock_set *s);
/* Unlocks everything; keeps memory and reservations. */
void lock_set_clear(struct lock_set *s);
/* There is room for one change now, reservations apart. 0 or -ENOMEM. */
int lock_set_prepare(struct lock_set *s) MUST_CHECK;
/* Keeps room for one change more until lock_set_unreserve(), right before it is made. 0, -ENOMEM. */
int lock_set_reserve(struct lock_set *s) MUST_CHECK;
void lock_set_unreserve(struct lock_set *s);
/*
 * The bytes of `range` are now locked as it says, or with LOCK_TYPE_NONE not at all. Cannot fail:
 * room was prepared, or reserved and unreserved, or is not needed (lock_set_splits).
 */
void lock_set_put(struct lock_set *s, const struct lock_range *range);
/* To unlock `range` would leave two ranges of one: everything else that unlocks needs no room. */
bool lock_set_splits(const struct lock_set *s, const struct lock_range *range);
/* `to` is made equal to `from`, reservations apart. 0 or -ENOMEM (nothing changed). */
int lock_set_copy(struct lock_set *to, const struct lock_set *from) MUST_CHECK;
/* The first range that keeps another owner from locking `range`; NULL: none does. */
const struct lock_range *lock_set_conflict(const struct lock_set *s, const struct lock_range *range);
/* The first range that shares a byte with [start, end], or NULL. */
const struct lock_range *lock_set_overlap(const struct lock_set *s, uint64_t start, uint64_t end);
/* Every byte of `range` is locked at least as strongly as it says. */
bool lock_set_covers(const struct lock_set *s, const struct lock_range *range);
/* For tests: sorted, apart, merged, with room for what is reserved. */
bool lock_set_valid(const struct lock_set *s);

/* Do two ranges of different owners exclude each other? */
static inline bool lock_conflicts(const struct lock_range *a, const struct lock_range *b)
{
	return a->start <= b->end && b->start <= a->end &&
	       (a->type == LOCK_TYPE_WRITE || b->type == LOCK_TYPE_WRITE);
}

#endif
