#include "lease/base/number_map.h"

#include "lease/base/map.h"
#include "lease/base/rng.h"

#include <assert.h>
#include <errno.h>

#define CAPACITY_MIN 8
/* From here on an array grows by half: what is unused in a large one is much memory. */
#define CAPACITY_LARGE 4096

static const void *key_of(const struct number_map *map, uint32_t number)
{
	return (const char *)numbered_at(map->pool, number) + map->key_offset;
}

static uint64_t hash_key(const struct number_map *map, const void *key)
{
	uint32_t value;

	if (map->key == NUMBER_MAP_HANDLE)
		return map_hash_handle(key, map->seed);
	memcpy(&value, key, sizeof(value));
	return rng_mix(value ^ map->seed);
}

static bool keys_equal(const struct number_map *map, const void *a, const void *b)
{
	if (map->key == NUMBER_MAP_HANDLE)
		return handle_equal(a, b);
	return memcmp(a, b, sizeof(uint32_t)) == 0;
}

/* Where a key would be if all were free: its hash as a fraction of the array. */
static size_t home_of(const struct number_map *map, const void *key)
{
	__extension__ unsigned __int128 product = hash_key(map, key);

	return (size_t)(product * map->capacity >> 64);
}

static size_t next_place(const struct number_map *map, size_t at)
{
	return at + 1 == map->capacity ? 0 : at + 1;
}

/* How far `at` is behind `home`, around the end. */
static size_t distance(const struct number_map *map, size_t home, size_t at)
{
	return at >= home ? at - home : at + map->capacity - home;
}

/* Where the key is, or the free place where it would be. */
static size_t find(const struct number_map *map, const void *key)
{
	size_t at = home_of(map, key);

	while (map->places[at] && !keys_equal(map, key_of(map, map->places[at]), key))
		at = next_place(map, at);
	return at;
}

void number_map_init(struct number_map *map, const struct numbered *pool, enum number_map_key key,
		     size_t key_offset, uint64_t seed)
{
	memset(map, 0, sizeof(*map));
	map->pool = pool;
	map->key = key;
	map->key_offset = (uint32_t)key_offset;
	map->seed = seed;
}

void number_map_finish(struct number_map *map)
{
	const struct allocator *allocator = map->pool->allocator;

	if (map->places)
		allocator->resize(allocator->context, map->places,
				  map->capacity * sizeof(*map->places), 0);
	map->places = NULL;
	map->capacity = 0;
	map->count = 0;
}

int number_map_reserve(struct number_map *map, size_t more)
{
	const struct allocator *allocator = map->pool->allocator;
	size_t capacity = map->capacity ? map->capacity : CAPACITY_MIN;
	struct number_map grown = *map;
	size_t bytes;

	if (more > SIZE_MAX / 4 / sizeof(*map->places) - map->count)
		return -ENOMEM;
	while (map->count + more > capacity / 4 * 3)
		capacity += capacity < CAPACITY_LARGE ? capacity : capacity / 2;
	if (capacity == map->capacity)
		return 0;
	bytes = capacity * sizeof(*map->places);
	grown.places = allocator->resize(allocator->context, NULL, 0, bytes);
	if (!grown.places)
		return -ENOMEM;
	memset(grown.places, 0, bytes);
	grown.capacity = capacity;
	for (size_t i = 0; i < map->capacity; i++)
		if (map->places[i])
			grown.places[find(&grown, key_of(map, map->places[i]))] = map->places[i];
	if (map->places)
		allocator->resize(allocator->context, map->places,
				  map->capacity * sizeof(*map->places), 0);
	*map = grown;
	return 0;
}

void number_map_insert(struct number_map *map, uint32_t number)
{
	size_t at;

	assert(number && map->count + 1 <= map->capacity / 4 * 3);
	at = find(map, key_of(map, number));
	assert(!map->places[at]);
	map->places[at] = number;
	map->count++;
}

uint32_t number_map_get(const struct number_map *map, const void *key)
{
	return map->capacity ? map->places[find(map, key)] : 0;
}

uint32_t number_map_remove(struct number_map *map, const void *key)
{
	size_t hole;
	uint32_t number;

	if (!map->capacity)
		return 0;
	hole = find(map, key);
	number = map->places[hole];
	if (!number)
		return 0;
	/* Close the hole: move back what probed past it, so that no tombstones are needed. */
	for (size_t at = next_place(map, hole); map->places[at]; at = next_place(map, at)) {
		size_t home = home_of(map, key_of(map, map->places[at]));

		if (distance(map, home, at) >= distance(map, hole, at)) {
			map->places[hole] = map->places[at];
			hole = at;
		}
	}
	map->places[hole] = 0;
	map->count--;
	return number;
}

uint32_t number_map_next(const struct number_map *map, size_t *cursor)
{
	while (*cursor < map->capacity) {
		uint32_t number = map->places[(*cursor)++];

		if (number)
			return number;
	}
	return 0;
}
