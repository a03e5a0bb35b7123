#include "unit.h"

#include "lease/base/lock_set.h"
#include "lease/base/rng.h"

#define BYTES 24

static void *resize(void *context, void *pointer, size_t old_size, size_t size)
{
	if (size == 0) {
		free(pointer);
		return NULL;
	}
	return realloc(pointer, size);
}

static const struct allocator allocator = { resize, NULL };

static void put(struct lock_set *s, uint64_t start, uint64_t end, enum lock_type type)
{
	const struct lock_range range = { start, end, 1, (uint8_t)type };

	ck_assert_int_eq(lock_set_prepare(s), 0);
	lock_set_put(s, &range);
	ck_assert(lock_set_valid(s));
}

START_TEST(a_lock_in_the_middle_splits_one_of_another_type)
{
	struct lock_set s;

	lock_set_init(&s, &allocator);
	put(&s, 0, LOCK_END, LOCK_TYPE_WRITE);
	put(&s, 10, 19, LOCK_TYPE_READ);
	ck_assert_uint_eq(s.count, 3);
	ck_assert_uint_eq(s.ranges[1].start, 10);
	ck_assert_uint_eq(s.ranges[2].start, 20);
	ck_assert_uint_eq(s.ranges[2].end, LOCK_END);
	put(&s, 10, 19, LOCK_TYPE_WRITE);
	ck_assert_uint_eq(s.count, 1);
	lock_set_finish(&s);
}
END_TEST

START_TEST(neighbours_of_one_type_merge)
{
	struct lock_set s;

	lock_set_init(&s, &allocator);
	put(&s, 0, 9, LOCK_TYPE_READ);
	put(&s, 20, 29, LOCK_TYPE_READ);
	put(&s, 10, 19, LOCK_TYPE_READ);
	ck_assert_uint_eq(s.count, 1);
	put(&s, 30, 30, LOCK_TYPE_WRITE);
	ck_assert_uint_eq(s.count, 2);
	lock_set_finish(&s);
}
END_TEST

START_TEST(what_is_reserved_is_there_without_memory)
{
	struct lock_set s;
	uint32_t capacity;

	lock_set_init(&s, &allocator);
	put(&s, 0, 9, LOCK_TYPE_READ);
	ck_assert_int_eq(lock_set_reserve(&s), 0);
	for (uint64_t i = 2; i < 60; i += 2)
		put(&s, i * 10, i * 10 + 1, LOCK_TYPE_READ);
	capacity = s.capacity;
	ck_assert_uint_ge(capacity, s.count + 2);
	lock_set_unreserve(&s);
	lock_set_finish(&s);
}
END_TEST

/* Every operation against an array of bytes. */
START_TEST(any_sequence_does_what_bytes_would_do)
{
	uint8_t bytes[BYTES] = { 0 };
	struct lock_set s;
	struct rng rng;

	rng_init(&rng, 1);
	lock_set_init(&s, &allocator);
	for (unsigned step = 0; step < 20000; step++) {
		uint64_t start = rng_below(&rng, BYTES);
		uint64_t end = start + rng_below(&rng, BYTES - start);
		struct lock_range range = { start, end, 1, (uint8_t)rng_below(&rng, 3) };
		struct lock_range wanted = { start, end, 1, (uint8_t)(1 + rng_below(&rng, 2)) };
		bool conflict = false, covers = true, overlap = false;

		put(&s, start, end, (enum lock_type)range.type);
		memset(bytes + start, range.type, end - start + 1);
		start = wanted.start = rng_below(&rng, BYTES);
		end = wanted.end = start + rng_below(&rng, BYTES - start);
		for (uint64_t i = start; i <= end; i++) {
			conflict |= bytes[i] && (bytes[i] == LOCK_TYPE_WRITE ||
						 wanted.type == LOCK_TYPE_WRITE);
			covers &= bytes[i] >= wanted.type;
			overlap |= bytes[i] != 0;
		}
		ck_assert_int_eq(conflict, lock_set_conflict(&s, &wanted) != NULL);
		ck_assert_int_eq(covers, lock_set_covers(&s, &wanted));
		ck_assert_int_eq(overlap, lock_set_overlap(&s, start, end) != NULL);
	}
	lock_set_finish(&s);
}
END_TEST

static TCase *lock_set_case(void)
{
	TCase *tcase = tcase_create("lock_set");

	tcase_add_test(tcase, a_lock_in_the_middle_splits_one_of_another_type);
	tcase_add_test(tcase, neighbours_of_one_type_merge);
	tcase_add_test(tcase, what_is_reserved_is_there_without_memory);
	tcase_add_test(tcase, any_sequence_does_what_bytes_would_do);
	return tcase;
}

UNIT_MAIN("lock_set", lock_set_case)
