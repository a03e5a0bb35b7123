#include "lease_unit.h"
#include "unit.h"

#include "lease/base/pool.h"
#include "lease/base/rng.h"

struct object {
	uint64_t number;
	uint64_t more[7];
};

#define COUNT 3000

static struct test_memory memory;
static const struct allocator allocator = { test_resize, &memory };
static struct object *objects[COUNT];
static struct pool pool;

static void init(void)
{
	memory = (struct test_memory){ .fail_after = -1 };
	pool_init(&pool, &allocator, sizeof(struct object));
}

static void finish(void)
{
	pool_finish(&pool);
	ck_assert_int_eq(memory.blocks, 0);
}

START_TEST(objects_are_zeroed_and_apart_whatever_was_given_back_before)
{
	struct rng rng;

	init();
	rng_init(&rng, 3);
	for (int step = 0; step < 50000; step++) {
		size_t i = (size_t)rng_below(&rng, COUNT);

		if (objects[i]) {
			ck_assert_uint_eq(objects[i]->number, i);
			ck_assert_uint_eq(objects[i]->more[6], ~(uint64_t)i);
			pool_free(&pool, objects[i]);
			objects[i] = NULL;
			continue;
		}
		objects[i] = pool_allocate(&pool);
		ck_assert_ptr_nonnull(objects[i]);
		ck_assert_uint_eq(objects[i]->number, 0);
		ck_assert_uint_eq(objects[i]->more[6], 0);
		objects[i]->number = i;
		objects[i]->more[6] = ~(uint64_t)i;
	}
	for (size_t i = 0; i < COUNT; i++)
		pool_free(&pool, objects[i]);
	finish();
}
END_TEST

START_TEST(a_thousand_objects_take_few_blocks_and_what_was_given_back_needs_none)
{
	init();
	for (size_t i = 0; i < 1000; i++)
		objects[i] = pool_allocate(&pool);
	ck_assert_int_le(memory.blocks, 4);
	memory.fail_after = 0;
	while (pool.unused)
		ck_assert_ptr_nonnull(objects[pool.count] = pool_allocate(&pool));
	ck_assert_ptr_null(pool_allocate(&pool));
	for (size_t i = 0; i < 1000; i++)
		pool_free(&pool, objects[i]);
	for (size_t i = 0; i < 1000; i++)
		ck_assert_ptr_nonnull(objects[i] = pool_allocate(&pool));
	while (pool.count)
		pool_free(&pool, objects[pool.count - 1]);
	finish();
}
END_TEST

static TCase *pool_case(void)
{
	TCase *tcase = tcase_create("pool");

	tcase_add_test(tcase, objects_are_zeroed_and_apart_whatever_was_given_back_before);
	tcase_add_test(tcase, a_thousand_objects_take_few_blocks_and_what_was_given_back_needs_none);
	return tcase;
}

UNIT_MAIN("pool", pool_case)
