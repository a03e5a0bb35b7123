#include "lease_unit.h"
#include "unit.h"

#include "lease/base/map.h"
#include "lease/base/rng.h"

#include <errno.h>

struct object {
	int payload;
	uint64_t number;
	struct handle handle;
};

static struct test_memory memory;
static const struct allocator allocator = { test_resize, &memory };
static struct object objects[2000];
static struct map map;

static void init(enum map_key key)
{
	memory = (struct test_memory){ .fail_after = -1 };
	map_init(&map, &allocator, key,
		 key == MAP_U64 ? offsetof(struct object, number) : offsetof(struct object, handle),
		 5);
	for (size_t i = 0; i < 2000; i++) {
		objects[i].number = i * 4096;
		objects[i].handle = (struct handle){ .length = HANDLE_BYTES_MAX };
		memcpy(objects[i].handle.bytes + HANDLE_BYTES_MAX - sizeof(i), &i, sizeof(i));
	}
}

static void finish(void)
{
	map_finish(&map);
	ck_assert_int_eq(memory.blocks, 0);
}

static const void *key_of(size_t i)
{
	return map.key == MAP_HANDLE ? (const void *)&objects[i].handle :
				       (const void *)&objects[i].number;
}

START_TEST(it_agrees_with_a_plain_table_under_random_inserts_and_removes)
{
	bool present[2000] = { false };
	size_t count = 0, seen = 0, cursor = 0;
	struct rng rng;

	init((enum map_key)_i);
	rng_init(&rng, 11);
	for (int step = 0; step < 50000; step++) {
		size_t i = (size_t)rng_below(&rng, 2000);

		ck_assert_ptr_eq(map_get(&map, key_of(i)), present[i] ? &objects[i] : NULL);
		if (present[i]) {
			ck_assert_ptr_eq(map_remove(&map, key_of(i)), &objects[i]);
			count--;
		} else {
			ck_assert_ptr_null(map_remove(&map, key_of(i)));
			ck_assert_int_eq(map_reserve(&map, 1), 0);
			map_insert(&map, &objects[i]);
			count++;
		}
		present[i] = !present[i];
		ck_assert_uint_eq(map.count, count);
	}
	while (map_next(&map, &cursor))
		seen++;
	ck_assert_uint_eq(seen, count);
	finish();
}
END_TEST

START_TEST(an_empty_map_has_nothing_and_needs_no_memory)
{
	size_t cursor = 0;

	init(MAP_U64);
	memory.fail_after = 0;
	ck_assert_ptr_null(map_get(&map, key_of(1)));
	ck_assert_ptr_null(map_remove(&map, key_of(1)));
	ck_assert_ptr_null(map_next(&map, &cursor));
	finish();
}
END_TEST

START_TEST(what_was_reserved_needs_no_memory_and_what_fails_changes_nothing)
{
	init(MAP_U64);
	ck_assert_int_eq(map_reserve(&map, 100), 0);
	memory.fail_after = 0;
	for (size_t i = 0; i < 96; i++)
		map_insert(&map, &objects[i]);
	ck_assert_int_eq(map_reserve(&map, 1000), -ENOMEM);
	ck_assert_int_eq(map_reserve(&map, SIZE_MAX), -ENOMEM);
	for (size_t i = 0; i < 96; i++)
		ck_assert_ptr_eq(map_get(&map, key_of(i)), &objects[i]);
	finish();
}
END_TEST

static TCase *map_case(void)
{
	TCase *tcase = tcase_create("map");

	tcase_add_loop_test(tcase, it_agrees_with_a_plain_table_under_random_inserts_and_removes,
			    MAP_U64, MAP_HANDLE + 1);
	tcase_add_test(tcase, an_empty_map_has_nothing_and_needs_no_memory);
	tcase_add_test(tcase, what_was_reserved_needs_no_memory_and_what_fails_changes_nothing);
	return tcase;
}

UNIT_MAIN("map", map_case)
