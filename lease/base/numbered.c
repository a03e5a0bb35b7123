#include "lease/base/numbered.h"

#include <assert.h>
#include <stdbool.h>

/* Large enough that what malloc adds is nothing, small enough for an authority with few objects. */
#define BLOCK_BYTES 16384u
/* More objects in a block would leave much unused where there are few of a size. */
#define SHIFT_MAX 8u

void numbered_init(struct numbered *pool, const struct allocator *allocator, size_t object_bytes)
{
	assert(object_bytes >= sizeof(uint64_t) && object_bytes % sizeof(uint64_t) == 0);
	assert(object_bytes <= BLOCK_BYTES / 8);
	memset(pool, 0, sizeof(*pool));
	pool->allocator = allocator;
	pool->object_bytes = object_bytes;
	pool->shift = SHIFT_MAX;
	while (object_bytes << pool->shift > BLOCK_BYTES)
		pool->shift--;
}

static size_t block_bytes(const struct numbered *pool, const struct numbered_block *block)
{
	return block->object_bytes << pool->shift;
}

void numbered_finish(struct numbered *pool)
{
	assert(pool->count == 0);
	for (uint32_t i = 1; i < pool->block_count; i++)
		pool->allocator->resize(pool->allocator->context, pool->blocks[i].objects,
					block_bytes(pool, &pool->blocks[i]), 0);
	if (pool->blocks)
		pool->allocator->resize(pool->allocator->context, pool->blocks,
					pool->block_capacity * sizeof(*pool->blocks), 0);
	numbered_init(pool, pool->allocator, pool->object_bytes);
}

static bool blocks_reserve(struct numbered *pool)
{
	uint32_t capacity = pool->block_capacity ? pool->block_capacity * 2 : 8;
	struct numbered_block *grown;

	if (pool->block_count < pool->block_capacity)
		return true;
	if (pool->block_count >= UINT32_MAX >> pool->shift)
		return false;
	grown = pool->allocator->resize(pool->allocator->context, pool->blocks,
					pool->block_capacity * sizeof(*grown),
					capacity * sizeof(*grown));
	if (!grown)
		return false;
	pool->blocks = grown;
	pool->block_capacity = capacity;
	if (pool->block_count == 0)
		pool->blocks[pool->block_count++] = (struct numbered_block){ NULL, 0 };
	return true;
}

/* False: no memory, or no numbers. */
static bool block_make(struct numbered *pool, size_t size)
{
	struct numbered_block block = { .object_bytes = pool->object_bytes + size * NUMBERED_STEP_BYTES };

	if (!blocks_reserve(pool))
		return false;
	block.objects = pool->allocator->resize(pool->allocator->context, NULL, 0,
						block_bytes(pool, &block));
	if (!block.objects)
		return false;
	pool->sizes[size].next = pool->block_count << pool->shift;
	pool->sizes[size].unused = UINT32_C(1) << pool->shift;
	pool->blocks[pool->block_count++] = block;
	return true;
}

void *numbered_allocate(struct numbered *pool, size_t bytes, uint32_t *ret_number)
{
	size_t more = bytes - pool->object_bytes;
	size_t size = (more + NUMBERED_STEP_BYTES - 1) / NUMBERED_STEP_BYTES;
	uint32_t number;
	void *object;

	assert(bytes >= pool->object_bytes && size < NUMBERED_SIZES);
	number = pool->sizes[size].free;
	object = numbered_at(pool, number);
	if (object) {
		memcpy(&pool->sizes[size].free, object, sizeof(number));
	} else {
		if (pool->sizes[size].unused == 0 && !block_make(pool, size))
			return NULL;
		pool->sizes[size].unused--;
		number = pool->sizes[size].next++;
		object = numbered_at(pool, number);
	}
	memset(object, 0, pool->object_bytes + size * NUMBERED_STEP_BYTES);
	pool->count++;
	*ret_number = number;
	return object;
}

void numbered_free(struct numbered *pool, uint32_t number)
{
	char *object = numbered_at(pool, number);
	size_t bytes, size;

	if (!object)
		return;
	assert(pool->count > 0 && number >> pool->shift < pool->block_count);
	bytes = pool->blocks[number >> pool->shift].object_bytes;
	size = (bytes - pool->object_bytes) / NUMBERED_STEP_BYTES;
	pool->count--;
	memset(object, 0xee, bytes); /* who still uses it shall notice */
	memcpy(object, &pool->sizes[size].free, sizeof(number));
	pool->sizes[size].free = number;
}
