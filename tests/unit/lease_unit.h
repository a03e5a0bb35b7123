/*
 * lease_unit.h - what the tests of the lease cores share: an allocator that counts, and that fails
 * when told to, and short ways to write handles, names and times.
 */
#ifndef TESTS_UNIT_LEASE_UNIT_H
#define TESTS_UNIT_LEASE_UNIT_H

#include "lease/base/allocator.h"
#include "lease/base/types.h"

#include <stdint.h>
#include <stdlib.h>

struct test_memory {
	long blocks;     /* not freed yet */
	long fail_after; /* so many allocations succeed, all later ones fail; -1: none fails */
};

static inline void *test_resize(void *context, void *pointer, size_t old_size, size_t size)
{
	struct test_memory *memory = context;
	void *moved;

	if (size == 0) {
		if (pointer)
			memory->blocks--;
		free(pointer);
		return NULL;
	}
	if (memory->fail_after == 0)
		return NULL;
	if (memory->fail_after > 0)
		memory->fail_after--;
	moved = realloc(pointer, size);
	if (moved && !pointer)
		memory->blocks++;
	return moved;
}

static inline struct handle handle_of(uint8_t number)
{
	return (struct handle){ .length = 2, .bytes = { 'h', number } };
}

static inline struct instant at_ms(uint64_t ms)
{
	return (struct instant){ ms * NS_PER_MS };
}

#endif
