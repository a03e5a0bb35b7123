#include "tests/sim/arena.h"

#include <assert.h>
#include <errno.h>
#include <string.h>
#include <sys/mman.h>

/* Under AddressSanitizer what is free must not be touched, here as anywhere. */
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#define POISON(block, bytes) ASAN_POISON_MEMORY_REGION(block, bytes)
#define UNPOISON(block, bytes) ASAN_UNPOISON_MEMORY_REGION(block, bytes)
#else
#define POISON(block, bytes) ((void)0)
#define UNPOISON(block, bytes) ((void)0)
#endif

/* Classes are powers of two and the point halfway between them: waste is bounded by a third. */
static unsigned class_of(size_t size, size_t *ret_bytes)
{
	size_t bytes = 32;
	unsigned class = 0;

	while (bytes < size) {
		if (bytes + bytes / 2 >= size) {
			*ret_bytes = bytes + bytes / 2;
			return class + 1;
		}
		bytes *= 2;
		class += 2;
	}
	*ret_bytes = bytes;
	return class;
}

static void *take(struct arena *arena, size_t size)
{
	size_t bytes;
	unsigned class = class_of(size, &bytes);
	void *block;

	if (class >= ARENA_CLASSES)
		return NULL;
	block = arena->free[class];
	if (block) {
		UNPOISON(block, bytes);
		memcpy(&arena->free[class], block, sizeof(void *));
		return block;
	}
	bytes = (bytes + 15) & ~(size_t)15;
	if (bytes > arena->bytes - arena->used)
		return NULL;
	block = arena->base + arena->used;
	arena->used += bytes;
	if (arena->used > arena->used_max)
		arena->used_max = arena->used;
	return block;
}

static void give(struct arena *arena, void *block, size_t size)
{
	size_t bytes;
	unsigned class = class_of(size, &bytes);

	memcpy(block, &arena->free[class], sizeof(void *));
	arena->free[class] = block;
	POISON(block, bytes);
}

static void *arena_resize(void *context, void *pointer, size_t old_size, size_t size)
{
	struct arena *arena = context;
	size_t old_bytes = 0, bytes = 0;
	void *block;

	assert(!pointer == !old_size);
	if (pointer && size && class_of(old_size, &old_bytes) == class_of(size, &bytes)) {
		arena->in_use += size - old_size;
		return pointer;
	}
	block = NULL;
	if (size) {
		if (arena->fail && rng_chance(arena->chance, arena->fail))
			return NULL;
		block = take(arena, size);
		if (!block)
			return NULL;
		if (pointer)
			memcpy(block, pointer, old_size < size ? old_size : size);
	}
	if (pointer)
		give(arena, pointer, old_size);
	arena->in_use += size - old_size;
	return block;
}

int arena_init(struct arena *arena, size_t bytes)
{
	memset(arena, 0, sizeof(*arena));
	arena->base = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (arena->base == MAP_FAILED)
		return -ENOMEM;
	arena->bytes = bytes;
	arena->allocator = (struct allocator){ arena_resize, arena };
	return 0;
}

void arena_finish(struct arena *arena)
{
	if (arena->base)
		munmap(arena->base, arena->bytes);
	memset(arena, 0, sizeof(*arena));
}

void arena_reset(struct arena *arena)
{
	UNPOISON(arena->base, arena->used);
	arena->used = 0;
	arena->in_use = 0;
	arena->fail = 0;
	memset(arena->free, 0, sizeof(arena->free));
}
