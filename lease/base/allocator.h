/*
 * allocator.h - where the pure rooms get memory from.
 *
 * The caller owns the allocator and lets it outlive what was made with it. `resize` is realloc:
 * pointer NULL allocates, size 0 frees and returns NULL, failure returns NULL and leaves the old
 * block. Tests pass one that fails on purpose.
 */
#ifndef LEASE_BASE_ALLOCATOR_H
#define LEASE_BASE_ALLOCATOR_H

#include <stddef.h>
#include <string.h>

struct allocator {
	void *(*resize)(void *context, void *pointer, size_t old_size, size_t size);
	void *context;
};

/*
 * Appends a zeroed element to an array that belongs to the caller: `*items` with room for
 * `*capacity` elements of `size` bytes, `*count` of them used. NULL when there is no memory for it;
 * nothing has changed then.
 */
static inline void *array_append(const struct allocator *allocator, void **items, size_t *count,
				 size_t *capacity, size_t size)
{
	void *element;

	if (*count == *capacity) {
		size_t larger = *capacity ? *capacity * 2 : 8;
		void *grown = allocator->resize(allocator->context, *items, *capacity * size,
						larger * size);

		if (!grown)
			return NULL;
		*items = grown;
		*capacity = larger;
	}
	element = (char *)*items + (*count)++ * size;
	memset(element, 0, size);
	return element;
}

#endif
