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

struct allocator {
	void *(*resize)(void *context, void *pointer, size_t old_size, size_t size);
	void *context;
};

#endif
