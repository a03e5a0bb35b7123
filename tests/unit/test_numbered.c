#include "lease_unit.h"
#include "unit.h"

#include "lease/base/number_map.h"
#include "lease/base/ring.h"
#include "lease/base/rng.h"
#include "lease/base/numbered.h"

#include <errno.h>

struct object {
	uint32_t key;
	uint32_t tag;
	struct ring links;
	uint8_t handle[]; /* a struct handle up to its last byte in use */
};

#define COUNT 3000
#define BYTES_MIN (sizeof(struct object) + 8)

static struct test_memory memory;
static const struct allocator allocator = { test_resize, &memory };
static struct numbered pool;
static uint32_t numbers[COUNT];

static void init(void)
{
	memory = (struct test_memory){ .fail_after = -1 };
	memset(numbers, 0, sizeof(numbers));
	numbered_init(&pool, &allocator, BYTES_MIN);
}

static void finish(void)
{
	numbered_finish(&pool);
	ck_assert_int_eq(memory.blocks, 0);
}

static struct object *at(size_t i)
{
	return numbered_at(&pool, numbers[i]);
}

/* Of i, the length with it. */
static struct handle name_of(size_t i)
{
	struct handle handle = { .length = (uint8_t)(4 + i % (HANDLE_BYTES_MAX - 3)) };

	memcpy(handle.bytes + handle.length - sizeof(uint32_t), &(uint32_t){ (uint32_t)i },
	       sizeof(uint32_t));
	return handle;
}

static size_t bytes_of(size_t i)
{
	size_t bytes = sizeof(struct object) + 1 + name_of(i).length;

	return bytes < BYTES_MIN ? BYTES_MIN : bytes;
}

static bool make(size_t i)
{
	struct handle handle = name_of(i);
	struct object *object = numbered_allocate(&pool, bytes_of(i), &numbers[i]);
	static const uint8_t zeros[sizeof(*object) + sizeof(struct handle)];

	if (!object)
		return false;
	ck_assert_mem_eq(object, zeros, bytes_of(i));
	object->key = (uint32_t)i;
	object->tag = ~(uint32_t)i;
	memcpy(object->handle, &handle, 1u + handle.length);
	return true;
}

static void drop(size_t i)
{
	numbered_free(&pool, numbers[i]);
	numbers[i] = 0;
}

static void drop_all(void)
{
	for (size_t i = 0; i < COUNT; i++)
		drop(i);
}

START_TEST(objects_of_all_sizes_are_zeroed_and_apart_whatever_was_given_back_before)
{
	struct rng rng;

	init();
	rng_init(&rng, 3);
	for (int step = 0; step < 20000; step++) {
		size_t i = (size_t)rng_below(&rng, COUNT);

		if (numbers[i]) {
			struct handle handle = name_of(i);

			ck_assert_uint_eq(at(i)->key, i);
			ck_assert_uint_eq(at(i)->tag, ~(uint32_t)i);
			ck_assert_mem_eq(at(i)->handle, &handle, 1u + handle.length);
			drop(i);
		} else {
			ck_assert(make(i));
		}
	}
	drop_all();
	ck_assert_ptr_null(numbered_at(&pool, 0));
	finish();
}
END_TEST

START_TEST(what_was_given_back_needs_no_memory_and_what_fails_changes_nothing)
{
	size_t made = 0;

	init();
	memory.fail_after = 0;
	ck_assert(!make(0));
	memory.fail_after = 1; /* the list of blocks, and no block */
	ck_assert(!make(0));
	memory.fail_after = -1;
	while (made < 1000)
		ck_assert(make(made++));
	memory.fail_after = 0;
	for (size_t i = 0; i < made; i++)
		drop(i);
	for (size_t i = 0; i < made; i++)
		ck_assert(make(i));
	while (made < COUNT && make(made))
		made++;
	ck_assert_uint_lt(made, COUNT);
	ck_assert_uint_eq(pool.count, made);
	drop_all();
	finish();
}
END_TEST

START_TEST(a_ring_is_in_order_and_its_members_know_their_numbers)
{
	const size_t offset = offsetof(struct object, links);
	uint32_t first = 0, order[COUNT];
	size_t count = 0;
	struct rng rng;

	init();
	rng_init(&rng, 7);
	for (size_t i = 0; i < COUNT; i++)
		ck_assert(make(i));
	for (size_t step = 0; step < 2000; step++) {
		bool as_expected = true;
		size_t seen = 0;

		/* A list that is short again and again: removals meet its ends, and empty it. */
		if (step % 100 < 60 && rng_below(&rng, 3)) {
			order[count++] = numbers[step];
			ring_append(&pool, offset, &first, numbers[step]);
		} else if (count) {
			size_t k = (size_t)rng_below(&rng, count);

			ck_assert_uint_eq(ring_remove(&pool, offset, &first,
						      ring_of(&pool, offset, order[k])), order[k]);
			memmove(order + k, order + k + 1, (--count - k) * sizeof(*order));
		}
		for (uint32_t n = first; n; n = ring_next(ring_of(&pool, offset, n), first)) {
			as_expected &= seen < count && n == order[seen] &&
				       ring_number(&pool, offset, ring_of(&pool, offset, n)) == n;
			if (++seen > count)
				break;
		}
		ck_assert(as_expected && seen == count);
	}
	drop_all();
	finish();
}
END_TEST

static const void *key_of(const struct number_map *map, size_t i, struct handle *handle)
{
	static uint32_t number;

	number = (uint32_t)i;
	*handle = name_of(i);
	return map->key == NUMBER_MAP_HANDLE ? (const void *)handle : (const void *)&number;
}

START_TEST(a_map_agrees_with_a_plain_table_under_random_inserts_and_removes)
{
	bool present[COUNT] = { false };
	size_t count = 0, seen = 0, cursor = 0;
	struct number_map map;
	struct rng rng;

	init();
	number_map_init(&map, &pool, (enum number_map_key)_i,
			_i == NUMBER_MAP_HANDLE ? offsetof(struct object, handle) :
						  offsetof(struct object, key), 5);
	rng_init(&rng, 11);
	for (size_t i = 0; i < COUNT; i++)
		ck_assert(make(i));
	for (int step = 0; step < 20000; step++) {
		size_t i = (size_t)rng_below(&rng, COUNT);
		struct handle handle;
		const void *key = key_of(&map, i, &handle);

		ck_assert_uint_eq(number_map_get(&map, key), present[i] ? numbers[i] : 0);
		if (present[i]) {
			ck_assert_uint_eq(number_map_remove(&map, key), numbers[i]);
			count--;
		} else {
			ck_assert_uint_eq(number_map_remove(&map, key), 0);
			ck_assert_int_eq(number_map_reserve(&map, 1), 0);
			number_map_insert(&map, numbers[i]);
			count++;
		}
		present[i] = !present[i];
		ck_assert_uint_eq(map.count, count);
	}
	while (number_map_next(&map, &cursor))
		seen++;
	ck_assert_uint_eq(seen, count);
	number_map_finish(&map);
	drop_all();
	finish();
}
END_TEST

START_TEST(a_map_without_memory_keeps_what_it_has_and_what_was_reserved)
{
	uint32_t key = 1;
	struct number_map map;

	init();
	number_map_init(&map, &pool, NUMBER_MAP_U32, offsetof(struct object, key), 5);
	ck_assert_uint_eq(number_map_get(&map, &key), 0);
	ck_assert_uint_eq(number_map_remove(&map, &key), 0);
	for (size_t i = 0; i < 100; i++)
		ck_assert(make(i));
	ck_assert_int_eq(number_map_reserve(&map, 90), 0);
	memory.fail_after = 0;
	for (size_t i = 0; i < 90; i++)
		number_map_insert(&map, numbers[i]);
	ck_assert_int_eq(number_map_reserve(&map, 1000), -ENOMEM);
	ck_assert_int_eq(number_map_reserve(&map, SIZE_MAX), -ENOMEM);
	for (key = 0; key < 100; key++)
		ck_assert_uint_eq(number_map_get(&map, &key), key < 90 ? numbers[key] : 0);
	number_map_finish(&map);
	drop_all();
	finish();
}
END_TEST

static TCase *numbered_case(void)
{
	TCase *tcase = tcase_create("numbered");

	tcase_set_timeout(tcase, 60);
	tcase_add_test(tcase, objects_of_all_sizes_are_zeroed_and_apart_whatever_was_given_back_before);
	tcase_add_test(tcase, what_was_given_back_needs_no_memory_and_what_fails_changes_nothing);
	tcase_add_test(tcase, a_ring_is_in_order_and_its_members_know_their_numbers);
	tcase_add_loop_test(tcase, a_map_agrees_with_a_plain_table_under_random_inserts_and_removes,
			    NUMBER_MAP_U32, NUMBER_MAP_HANDLE + 1);
	tcase_add_test(tcase, a_map_without_memory_keeps_what_it_has_and_what_was_reserved);
	return tcase;
}

UNIT_MAIN("numbered", numbered_case)
