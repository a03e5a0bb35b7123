/*
 * map.h - a hash map of the caller's objects, keyed by a field inside them.
 *
 * Open addressing with linear probing over one array of pointers: eight bytes a place, at most
 * three quarters full, and grown by half when it is large. The map owns the array, never the
 * objects; an object must not move nor change its key while it is in. Room is reserved before it is
 * needed, so that inserting cannot fail in the middle of something: reserve, do the rest, insert.
 *
 * The order of map_next() is not specified: use it for sums and clean-up, never to decide the
 * order of what leaves the machine. One caller at a time.
 */
#ifndef LEASE_BASE_MAP_H
#define LEASE_BASE_MAP_H

#include "lease/base/allocator.h"
#include "lease/base/types.h"

enum map_key {
	MAP_U64,    /* the key is a uint64_t, or a pointer */
	MAP_HANDLE, /* the key is a struct handle; of one in an object no unused byte is looked at */
};

struct map {
	const struct allocator *allocator;
	enum map_key key;
	uint32_t key_offset; /* of the key in each object */
	uint64_t seed;       /* differs between maps, so that peers cannot choose collisions */
	void **places;
	size_t capacity;
	size_t count;
};

void map_init(struct map *map, const struct allocator *allocator, enum map_key key,
	      size_t key_offset, uint64_t seed);
/* Frees the array, not the objects. */
void map_finish(struct map *map);
/* The next `more` inserts will not need memory. 0 or -ENOMEM (nothing changed). */
int map_reserve(struct map *map, size_t more) MUST_CHECK;
/* Inserts `object`, whose key must not be there; room must have been reserved. */
void map_insert(struct map *map, void *object);
/* The object with that key (a uint64_t or a struct handle), or NULL. */
void *map_get(const struct map *map, const void *key);
/* Takes the object with that key out; NULL when there is none. */
void *map_remove(struct map *map, const void *key);
/* Walks all objects: start with *cursor 0; NULL at the end. No insert or remove meanwhile. */
void *map_next(const struct map *map, size_t *cursor);
/* What a map hashes a struct handle to, of which no unused byte is looked at. */
uint64_t map_hash_handle(const struct handle *handle, uint64_t seed);

#endif
