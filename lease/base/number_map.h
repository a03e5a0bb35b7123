/*
 * number_map.h - map.h for the objects of a pool: four bytes a place, which has the object's number.
 *
 * Like there: open addressing with linear probing, at most three quarters full, room reserved before it
 * is needed, an object's key does not change while it is in, and the order of number_map_next() is
 * not specified. One caller at a time.
 */
#ifndef LEASE_BASE_NUMBER_MAP_H
#define LEASE_BASE_NUMBER_MAP_H

#include "lease/base/numbered.h"
#include "lease/base/types.h"

enum number_map_key {
	NUMBER_MAP_U32,
	NUMBER_MAP_HANDLE, /* a struct handle up to its last byte in use */
};

struct number_map {
	const struct numbered *pool;
	uint64_t seed; /* differs between maps, so that peers cannot choose collisions */
	uint32_t *places;
	size_t capacity;
	size_t count;
	enum number_map_key key;
	uint32_t key_offset; /* of the key in each object */
};

/* Memory comes from the pool's allocator; the pool outlives the map. */
void number_map_init(struct number_map *map, const struct numbered *pool, enum number_map_key key,
		     size_t key_offset, uint64_t seed);
/* Frees the array, not the objects. */
void number_map_finish(struct number_map *map);
/* The next `more` inserts will not need memory. 0 or -ENOMEM (nothing changed). */
int number_map_reserve(struct number_map *map, size_t more) MUST_CHECK;
/* Inserts an object, whose key must not be there; room must have been reserved. */
void number_map_insert(struct number_map *map, uint32_t number);
/* The object with that key (a uint32_t or a struct handle), or 0. */
uint32_t number_map_get(const struct number_map *map, const void *key);
/* Takes the object with that key out; 0 when there is none. */
uint32_t number_map_remove(struct number_map *map, const void *key);
/* Walks all objects: start with *cursor 0; 0 at the end. No insert or remove meanwhile. */
uint32_t number_map_next(const struct number_map *map, size_t *cursor);

#endif
