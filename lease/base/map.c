#include "lease/base/map.h"

#include "lease/base/rng.h"

#include <assert.h>
#include <errno.h>

#define CAPACITY_MIN 8
/* From here on an array grows by half: what is unused in a large one is much memory. */
#define CAPACITY_LARGE 4096

uint64_t map_hash_handle(const struct handle *handle, uint64_t seed)
{
	uint64_t hash = seed ^ handle->length;
	size_t at = 0;

	while (at < handle->length) {
		uint64_t word = 0;
		size_t take = handle->length - at < 8 ? handle->length - at : 8;

		memcpy(&word, handle->bytes + at, take);
		hash = rng_mix(hash ^ word);
		at += take;
	}
	return hash;
}

static uint64_t hash_key(const struct map *map, const void *key)
{
	uint64_t value;

	if (map->key == MAP_HANDLE)
		return map_hash_handle(key, map->seed);
	memcpy(&value, key, sizeof(value));
	return rng_mix(value ^ map->seed);
}

static const void *key_of(const struct map *map, const void *object)
{
	return (const char *)object + map->key_offset;
}

static bool keys_equal(const struct map *map, const void *a, const void *b)
{
	if (map->key == MAP_HANDLE)
		return handle_equal(a, b);
	return memcmp(a, b, sizeof(uint64_t)) == 0;
}

/* Where a key would be if all were free: its hash as a fraction of the array. */
static size_t home_of(const struct map *map, const void *key)
{
	__extension__ unsigned __int128 product = hash_key(map, key);

	return (size_t)(product * map->capacity >> 64);
}

static size_t next_place(const struct map *map, size_t at)
{
	return at + 1 == map->capacity ? 0 : at + 1;
}

/* How far `at` is behind `home`, around the end. */
static size_t distance(const struct map *map, size_t home, size_t at)
{
	return at >= home ? at - home : at + map->capacity - home;
}

/* Where the key is, or the free place where it would be. */
static size_t find(const struct map *map, const void *key)
{
	size_t at = home_of(map, key);

	while (map->places[at] && !keys_equal(map, key_of(map, map->places[at]), key))
		at = next_place(map, at);
	return at;
}

void map_init(struct map *map, const struct allocator *allocator, enum map_key key,
	      size_t key_offset, uint64_t seed)
{
	memset(map, 0, sizeof(*map));
	map->allocator = allocator;
	map->key = key;
	map->key_offset = (uint32_t)key_offset;
	map->seed = seed;
}

void map_finish(struct map *map)
{
	if (map->places)
		map->allocator->resize(map->allocator->context, map->places,
				       map->capacity * sizeof(void *), 0);
	map->places = NULL;
	map->capacity = 0;
	map->count = 0;
}

int map_reserve(struct map *map, size_t more)
{
	size_t capacity = map->capacity ? map->capacity : CAPACITY_MIN;
	struct map grown = *map;
	size_t bytes;

	if (more > SIZE_MAX / 4 / sizeof(void *) - map->count)
		return -ENOMEM;
	while (map->count + more > capacity / 4 * 3)
		capacity += capacity < CAPACITY_LARGE ? capacity : capacity / 2;
	if (capacity == map->capacity)
		return 0;
	bytes = capacity * sizeof(void *);
	grown.places = map->allocator->resize(map->allocator->context, NULL, 0, bytes);
	if (!grown.places)
		return -ENOMEM;
	memset(grown.places, 0, bytes);
	grown.capacity = capacity;
	for (size_t i = 0; i < map->capacity; i++)
		if (map->places[i])
			grown.places[find(&grown, key_of(map, map->places[i]))] = map->places[i];
	if (map->places)
		map->allocator->resize(map->allocator->context, map->places,
				       map->capacity * sizeof(void *), 0);
	*map = grown;
	return 0;
}

void map_insert(struct map *map, void *object)
{
	size_t at;

	assert(map->count + 1 <= map->capacity / 4 * 3);
	at = find(map, key_of(map, object));
	assert(!map->places[at]);
	map->places[at] = object;
	map->count++;
}

void *map_get(const struct map *map, const void *key)
{
	return map->capacity ? map->places[find(map, key)] : NULL;
}

void *map_remove(struct map *map, const void *key)
{
	size_t hole;
	void *object;

	if (!map->capacity)
		return NULL;
	hole = find(map, key);
	object = map->places[hole];
	if (!object)
		return NULL;
	/* Close the hole: move back what probed past it, so that no tombstones are needed. */
	for (size_t at = next_place(map, hole); map->places[at]; at = next_place(map, at)) {
		size_t home = home_of(map, key_of(map, map->places[at]));

		if (distance(map, home, at) >= distance(map, hole, at)) {
			map->places[hole] = map->places[at];
			hole = at;
		}
	}
	map->places[hole] = NULL;
	map->count--;
	return object;
}

void *map_next(const struct map *map, size_t *cursor)
{
	while (*cursor < map->capacity) {
		void *object = map->places[(*cursor)++];

		if (object)
			return object;
	}
	return NULL;
}
