#include "lease/base/pool.h"

#include <assert.h>

/* Large enough that what malloc adds is nothing, small enough for an authority with few objects. */
#define BLOCK_BYTES 16384u

struct pool_block {
	struct pool_block *next;
	uint64_t objects[];
};

static size_t block_bytes(const struct pool *pool)
{
	return sizeof(struct pool_block) + pool->objects_in_block * pool->object_bytes;
}

void pool_init(struct pool *pool, const struct allocator *allocator, size_t object_bytes)
{
	assert(object_bytes >= sizeof(void *) && object_bytes % sizeof(uint64_t) == 0);
	assert(object_bytes <= BLOCK_BYTES / 8);
	memset(pool, 0, sizeof(*pool));
	pool->allocator = allocator;
	pool->object_bytes = object_bytes;
	pool->objects_in_block =
		(uint32_t)((BLOCK_BYTES - sizeof(struct pool_block)) / object_bytes);
}

void pool_finish(struct pool *pool)
{
	assert(pool->count == 0);
	while (pool->blocks) {
		struct pool_block *block = pool->blocks;

		pool->blocks = block->next;
		pool->allocator->resize(pool->allocator->context, block, block_bytes(pool), 0);
	}
	pool->free = NULL;
	pool->unused = 0;
}

static void *cut(struct pool *pool)
{
	uint32_t index;

	if (pool->unused == 0) {
		struct pool_block *block = pool->allocator->resize(pool->allocator->context, NULL,
								   0, block_bytes(pool));

		if (!block)
			return NULL;
		block->next = pool->blocks;
		pool->blocks = block;
		pool->unused = pool->objects_in_block;
	}
	index = pool->objects_in_block - pool->unused--;
	return (char *)pool->blocks->objects + index * pool->object_bytes;
}

void *pool_allocate(struct pool *pool)
{
	void *object = pool->free;

	if (object)
		memcpy(&pool->free, object, sizeof(pool->free));
	else
		object = cut(pool);
	if (!object)
		return NULL;
	memset(object, 0, pool->object_bytes);
	pool->count++;
	return object;
}

void pool_free(struct pool *pool, void *object)
{
	if (!object)
		return;
	assert(pool->count > 0);
	pool->count--;
	memset(object, 0xee, pool->object_bytes); /* who still uses it shall notice */
	memcpy(object, &pool->free, sizeof(pool->free));
	pool->free = object;
}
