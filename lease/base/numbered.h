/*
 * numbered.h - a pool of small objects of a few sizes, each with a number of four bytes.
 *
 * Where millions of objects refer to each other, a pointer costs twice what a number does. Objects are
 * cut from blocks of some KiB, each block of one size, and do not move; numbered_at() finds the object of a
 * number with one look at the list of blocks. 0 is no object. A number that was given back is used
 * again. The pool owns the blocks and keeps them until numbered_finish(): what many objects took once stays
 * there for the next ones of that size. One caller at a time.
 */
#ifndef LEASE_BASE_NUMBERED_H
#define LEASE_BASE_NUMBERED_H

#include "lease/base/allocator.h"

#include <stdint.h>

/* Sizes that a pool may have: its smallest, and multiples of this more. */
#define NUMBERED_STEP_BYTES 8u
#define NUMBERED_SIZES 8u

struct numbered_block {
	char *objects;
	size_t object_bytes;
};

struct numbered {
	const struct allocator *allocator;
	size_t object_bytes;       /* of the smallest size */
	uint32_t shift;            /* a block has 1 << shift objects; a number is block, then object */
	uint32_t block_count;      /* with the first, which is none: 0 is not a number */
	uint32_t block_capacity;
	struct numbered_block *blocks; /* grows, and may move */
	struct {
		uint32_t free;   /* given back: chained through their first bytes */
		uint32_t next;   /* of the newest block, never handed out */
		uint32_t unused; /* how many of these are left */
	} sizes[NUMBERED_SIZES];
	size_t count;              /* handed out */
};

/* `object_bytes`: of the smallest objects; a multiple of 8, aligned like it. */
void numbered_init(struct numbered *pool, const struct allocator *allocator, size_t object_bytes);
/* Frees the blocks; all objects must have been given back. */
void numbered_finish(struct numbered *pool);
/*
 * An object of at least `bytes`, zeroed, and its number; NULL when there is no memory for another block,
 * or all numbers are taken. `bytes`: from the pool's smallest, NUMBERED_SIZES - 1 steps more at most.
 */
void *numbered_allocate(struct numbered *pool, size_t bytes, uint32_t *ret_number);
/* 0 is ignored. */
void numbered_free(struct numbered *pool, uint32_t number);

/* The object of that number, which must be handed out; NULL for 0. */
static inline void *numbered_at(const struct numbered *pool, uint32_t number)
{
	const struct numbered_block *block;
	uint32_t index = number & ((UINT32_C(1) << pool->shift) - 1);

	if (number == 0)
		return NULL;
	block = &pool->blocks[number >> pool->shift];
	return block->objects + index * block->object_bytes;
}

#endif
