/*
 * pool.h - small objects of one size without an allocation each.
 *
 * They are cut from blocks of some KiB, so an object costs what it is large, where malloc would add
 * to each and round up. The pool owns the blocks and keeps them until pool_finish(): what many
 * objects took once stays there for the next ones. Objects do not move. One caller at a time.
 */
#ifndef LEASE_BASE_POOL_H
#define LEASE_BASE_POOL_H

#include "lease/base/allocator.h"

#include <stdint.h>

struct pool_block;

struct pool {
	const struct allocator *allocator;
	size_t object_bytes;
	uint32_t objects_in_block;
	uint32_t unused;           /* of the newest block, never handed out */
	struct pool_block *blocks; /* newest first */
	void *free;                /* chained through the first bytes of what was given back */
	size_t count;              /* handed out */
};

/* `object_bytes`: a multiple of 8, aligned like it. */
void pool_init(struct pool *pool, const struct allocator *allocator, size_t object_bytes);
/* Frees the blocks; all objects must have been given back. */
void pool_finish(struct pool *pool);
/* An object, zeroed; NULL when there is no memory for another block. */
void *pool_allocate(struct pool *pool);
void pool_free(struct pool *pool, void *object);

#endif
