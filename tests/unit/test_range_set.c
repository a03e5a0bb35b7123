#include "unit.h"

#include <errno.h>

#include "lease/base/range_set.h"

static bool no_memory;

static void *resize(void *context, void *pointer, size_t old_size, size_t size)
{
	if (size == 0) {
		free(pointer);
		return NULL;
	}
	return no_memory ? NULL : realloc(pointer, size);
}

static const struct allocator allocator = { resize, NULL };

START_TEST(neighbours_and_overlaps_become_one_range)
{
	struct range_set s;

	range_set_init(&s, &allocator, 10);
	ck_assert_int_eq(range_set_add(&s, 10, 20), 0);
	ck_assert_int_eq(range_set_add(&s, 30, 40), 0);
	ck_assert_int_eq(range_set_add(&s, 0, 5), 0);
	ck_assert_uint_eq(s.count, 3);
	ck_assert_int_eq(range_set_add(&s, 20, 30), 0);
	ck_assert_uint_eq(s.count, 2);
	ck_assert_int_eq(range_set_add(&s, 5, 10), 0);
	ck_assert_uint_eq(s.count, 1);
	ck_assert_uint_eq(s.bytes, 40);
	ck_assert(range_set_covers(&s, 0, 40));
	ck_assert(!range_set_covers(&s, 0, 41));
	ck_assert(range_set_covers(&s, 50, 50));
	ck_assert(range_set_valid(&s));
	range_set_finish(&s);
}
END_TEST

START_TEST(a_removal_cuts_and_splits)
{
	struct range_set s;
	uint64_t start, end;

	range_set_init(&s, &allocator, 10);
	ck_assert_int_eq(range_set_add(&s, 0, 100), 0);
	range_set_remove(&s, 40, 60);
	ck_assert_uint_eq(s.count, 2);
	ck_assert_uint_eq(range_set_run(&s, 10), 30);
	ck_assert_uint_eq(range_set_run(&s, 40), 0);
	ck_assert(range_set_gap(&s, 10, 80, &start, &end));
	ck_assert_uint_eq(start, 40);
	ck_assert_uint_eq(end, 60);
	ck_assert(range_set_gap(&s, 45, 50, &start, &end));
	ck_assert_uint_eq(start, 45);
	ck_assert_uint_eq(end, 50);
	ck_assert(!range_set_gap(&s, 60, 100, &start, &end));
	ck_assert(range_set_gap(&s, 60, 101, &start, &end));
	ck_assert_uint_eq(start, 100);
	range_set_remove(&s, 10, UINT64_MAX);
	ck_assert_uint_eq(s.bytes, 10);
	ck_assert(range_set_valid(&s));
	range_set_finish(&s);
}
END_TEST

START_TEST(beyond_the_bound_the_smallest_is_given_up)
{
	struct range_set s;

	range_set_init(&s, &allocator, 3);
	ck_assert_int_eq(range_set_add(&s, 0, 10), 0);
	ck_assert_int_eq(range_set_add(&s, 20, 25), 0);
	ck_assert_int_eq(range_set_add(&s, 40, 50), 0);
	ck_assert_int_eq(range_set_add(&s, 60, 70), 0);
	ck_assert_uint_eq(s.count, 3);
	ck_assert(!range_set_covers(&s, 20, 25));
	range_set_remove(&s, 1, 3); /* splits: the byte before it is the smallest now */
	ck_assert_uint_eq(s.count, 3);
	ck_assert(!range_set_covers(&s, 0, 1));
	ck_assert(range_set_valid(&s));
	range_set_finish(&s);
}
END_TEST

START_TEST(without_memory_it_knows_less_and_never_more)
{
	struct range_set s;

	range_set_init(&s, &allocator, 10);
	for (uint64_t i = 0; i < 4; i++)
		ck_assert_int_eq(range_set_add(&s, i * 20, i * 20 + 10), 0);
	no_memory = true;
	ck_assert_int_eq(range_set_add(&s, 200, 210), -ENOMEM);
	ck_assert_uint_eq(s.bytes, 40);
	range_set_remove(&s, 22, 24);
	no_memory = false;
	ck_assert(!range_set_covers(&s, 20, 21));
	ck_assert(range_set_covers(&s, 24, 30));
	ck_assert(range_set_valid(&s));
	range_set_finish(&s);
}
END_TEST

START_TEST(it_agrees_with_a_bitmap)
{
	enum { SIZE = 256 };
	bool bits[SIZE] = { false };
	uint64_t random = 88172645463325252u;
	struct range_set s;

	range_set_init(&s, &allocator, SIZE);
	for (int step = 0; step < 20000; step++) {
		uint64_t a, b, start, end, first;

		random ^= random << 13;
		random ^= random >> 7;
		random ^= random << 17;
		a = random % SIZE;
		b = a + (random >> 20) % (step % 7 ? 12 : 80);
		b = b > SIZE ? SIZE : b;
		if ((random >> 40) & 1)
			ck_assert_int_eq(range_set_add(&s, a, b), 0);
		else
			range_set_remove(&s, a, b);
		for (uint64_t i = a; i < b; i++)
			bits[i] = (random >> 40) & 1;
		ck_assert(range_set_valid(&s));
		for (first = 0; first < SIZE && bits[first]; first++)
			;
		ck_assert_uint_eq(range_set_run(&s, 0), first);
		if (range_set_gap(&s, a, SIZE, &start, &end)) {
			for (uint64_t i = a; i < end; i++)
				ck_assert(bits[i] == (i < start));
			ck_assert(end == SIZE || bits[end]);
		}
	}
	range_set_finish(&s);
}
END_TEST

static TCase *range_set_case(void)
{
	TCase *tcase = tcase_create("range_set");

	tcase_add_test(tcase, neighbours_and_overlaps_become_one_range);
	tcase_add_test(tcase, a_removal_cuts_and_splits);
	tcase_add_test(tcase, beyond_the_bound_the_smallest_is_given_up);
	tcase_add_test(tcase, without_memory_it_knows_less_and_never_more);
	tcase_add_test(tcase, it_agrees_with_a_bitmap);
	return tcase;
}

UNIT_MAIN("range_set", range_set_case)
