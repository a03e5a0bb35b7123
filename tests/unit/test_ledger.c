#include "unit.h"

#include <errno.h>

#include "lease/base/rng.h"
#include "prefetch/ledger.h"

#define KIB 1024u
#define MIB (1024u * KIB)

static int64_t blocks;

static void *resize(void *context, void *pointer, size_t old_size, size_t size)
{
	if (size == 0) {
		blocks -= pointer != NULL;
		free(pointer);
		return NULL;
	}
	blocks += pointer == NULL;
	return realloc(pointer, size);
}

static const struct allocator allocator = { resize, NULL };

static struct ledger *l;

static void setup(void)
{
	ck_assert_int_eq(ledger_create(1000, &allocator, &l), 0);
}

static void teardown(void)
{
	ledger_destroy(l);
	ck_assert_int_eq(blocks, 0);
}

static void sent(enum predictor_id predictor, uint64_t scope, uint64_t inode, uint64_t offset,
		 uint64_t length)
{
	ledger_sent(l, &(struct ledger_item){ .predictor = predictor, .scope = scope, .inode = inode,
					      .offset = offset, .length = length, .distance = 1 });
	ck_assert(ledger_valid(l));
}

static struct ledger_counts counts(enum predictor_id predictor)
{
	struct ledger_counts c;

	ledger_counts(l, predictor, &c);
	return c;
}

START_TEST(what_is_read_was_used)
{
	struct ledger_counts c;

	sent(PREDICTOR_SEQUENTIAL, 1, 2, 0, 10 * MIB);
	ledger_arrived(l, 2, 0, 10 * MIB, false);
	for (uint64_t at = 0; at < 5 * MIB; at += 128 * KIB)
		ledger_read(l, 2, at, 128 * KIB);
	ck_assert(ledger_valid(l));
	c = counts(PREDICTOR_SEQUENTIAL);
	ck_assert_uint_eq(c.fetched_bytes, 10 * MIB);
	ck_assert_uint_eq(c.used_bytes, 5 * MIB);
	ck_assert_uint_eq(c.used_count, 5);
	ck_assert_uint_eq(c.wasted_bytes, 0);
	ck_assert_uint_eq(c.late_count, 0);
	ledger_evicted(l, 2, 0, UINT64_MAX);
	ck_assert(ledger_valid(l));
	c = counts(PREDICTOR_SEQUENTIAL);
	ck_assert_uint_eq(c.wasted_bytes, 5 * MIB);
	ck_assert_uint_eq(c.used_bytes, 5 * MIB);
}
END_TEST

START_TEST(who_comes_before_the_bytes_finds_them_late)
{
	sent(PREDICTOR_SWEEP, 1, 2, 0, 100 * KIB);
	ledger_read(l, 2, 0, 50 * KIB);
	ledger_arrived(l, 2, 0, 100 * KIB, false);
	ledger_read(l, 2, 50 * KIB, 50 * KIB);
	ck_assert_uint_eq(counts(PREDICTOR_SWEEP).late_count, 1);
	ck_assert_uint_eq(counts(PREDICTOR_SWEEP).late_bytes, 50 * KIB);
	ck_assert_uint_eq(counts(PREDICTOR_SWEEP).used_bytes, 100 * KIB);
}
END_TEST

START_TEST(what_failed_counts_for_nothing)
{
	sent(PREDICTOR_SERIES, 1, 2, 0, 3 * MIB);
	ledger_arrived(l, 2, 0, 3 * MIB, true);
	ck_assert(ledger_valid(l));
	ck_assert_uint_eq(counts(PREDICTOR_SERIES).fetched_bytes, 0);
	ck_assert_uint_eq(counts(PREDICTOR_SERIES).fetched_count, 0);
}
END_TEST

START_TEST(listings_are_counted_too)
{
	sent(PREDICTOR_WALK, 1, 2, LEDGER_LISTING, 5000);
	sent(PREDICTOR_WALK, 1, 3, LEDGER_LISTING, 0);
	ledger_arrived(l, 2, LEDGER_LISTING, 0, false);
	ledger_read(l, 2, LEDGER_LISTING, 0);
	ledger_read(l, 2, 0, 4096); /* a file of that id has none */
	ck_assert_uint_eq(counts(PREDICTOR_WALK).used_bytes, 5000);
	ledger_evicted(l, 3, LEDGER_LISTING, 0);
	ck_assert_uint_eq(counts(PREDICTOR_WALK).wasted_count, 1);
	ck_assert(ledger_valid(l));
}
END_TEST

START_TEST(what_is_not_read_in_time_was_wasted)
{
	sent(PREDICTOR_STRIDED, 1, 2, 7 * MIB + 5, 2 * MIB);
	for (unsigned i = 0; i < 10000; i++)
		ledger_read(l, 3, i * 4096, 4096);
	ck_assert_uint_eq(counts(PREDICTOR_STRIDED).wasted_bytes, 2 * MIB);
	ck_assert_uint_eq(counts(PREDICTOR_STRIDED).wasted_count, 3);
	/* What is too much to be remembered. */
	for (unsigned i = 0; i < 1100; i++)
		sent(PREDICTOR_STRIDED, 1, 4 + i, 0, MIB);
	ck_assert_uint_eq(counts(PREDICTOR_STRIDED).wasted_count, 103);
	ck_assert(ledger_valid(l));
}
END_TEST

START_TEST(two_requests_for_the_same_bytes_are_one)
{
	sent(PREDICTOR_WHOLE, 1, 2, 0, 300 * KIB);
	sent(PREDICTOR_WHOLE, 1, 2, 100 * KIB, 300 * KIB);
	ck_assert_uint_eq(counts(PREDICTOR_WHOLE).fetched_bytes, 400 * KIB);
	ck_assert_uint_eq(counts(PREDICTOR_WHOLE).fetched_count, 1);
	sent(PREDICTOR_WHOLE, 1, 2, 900 * KIB, 100 * KIB); /* apart: one of them is given up */
	ck_assert_uint_eq(counts(PREDICTOR_WHOLE).wasted_bytes, 400 * KIB);
}
END_TEST

/* Fetches `count` files in the scope, of which every `used`th is read. Returns how many were allowed. */
static unsigned guess(uint64_t scope, unsigned count, unsigned used)
{
	static uint64_t inode = 100;
	unsigned allowed = 0;

	for (unsigned i = 0; i < count; i++, inode++) {
		if (!ledger_allows(l, PREDICTOR_SWEEP, scope))
			continue;
		allowed++;
		sent(PREDICTOR_SWEEP, scope, inode, 0, 100 * KIB);
		ledger_arrived(l, inode, 0, 100 * KIB, false);
		if (used && i % used == 0)
			ledger_read(l, inode, 0, 100 * KIB);
		else
			ledger_evicted(l, inode, 0, UINT64_MAX);
	}
	return allowed;
}

START_TEST(who_is_never_right_falls_silent_and_may_come_back)
{
	unsigned allowed;

	ck_assert_uint_le(guess(7, 100000, 0), 200);
	ck_assert(ledger_silent(l, PREDICTOR_SWEEP, 7));
	ck_assert(!ledger_silent(l, PREDICTOR_SWEEP, 8));
	ck_assert(!ledger_silent(l, PREDICTOR_SERIES, 7));
	ck_assert_uint_ge(counts(PREDICTOR_SWEEP).silenced, 99000);
	/* The job changed. */
	allowed = guess(7, 100000, 1);
	ck_assert_uint_ge(allowed, 50000);
	ck_assert(!ledger_silent(l, PREDICTOR_SWEEP, 7));
}
END_TEST

START_TEST(who_is_right_often_enough_goes_on)
{
	ck_assert_uint_eq(guess(7, 10000, 3), 10000);
	ck_assert_uint_eq(guess(7, 10000, 1), 10000);
}
END_TEST

START_TEST(who_is_wrong_everywhere_falls_silent_everywhere)
{
	unsigned allowed = 0;

	for (uint64_t scope = 1; scope < 1000; scope++)
		allowed += guess(scope, 20, 0);
	ck_assert_uint_le(allowed, 1000);
	ck_assert(ledger_silent(l, PREDICTOR_SWEEP, 123456));
}
END_TEST

START_TEST(whatever_is_told_the_sums_are_right)
{
	struct rng rng;

	rng_init(&rng, 1);
	for (unsigned i = 0; i < 100000; i++) {
		uint64_t inode = rng_below(&rng, 20), offset = rng_below(&rng, 4 * MIB);
		uint64_t length = rng_below(&rng, 2 * MIB);
		enum predictor_id predictor = (enum predictor_id)rng_below(&rng, PREDICTOR_COUNT);

		if (rng_below(&rng, 10) == 0)
			offset = rng_next(&rng) >> rng_below(&rng, 64);
		if (rng_below(&rng, 50) == 0)
			length = rng_next(&rng) >> (20 + rng_below(&rng, 40));
		if (length > 64u * MIB && rng_below(&rng, 2))
			length = 64u * MIB;
		if (rng_below(&rng, 10) == 0)
			offset = LEDGER_LISTING;
		switch (rng_below(&rng, 5)) {
		case 0:
			if (length > 64u * MIB)
				length = 64u * MIB;
			ledger_sent(l, &(struct ledger_item){ predictor, inode % 3, inode, offset,
							      length, 3 });
			break;
		case 1:
			if (length > 64u * MIB)
				length = 64u * MIB;
			ledger_arrived(l, inode, offset, length, rng_below(&rng, 4) == 0);
			break;
		case 2:
		case 3:
			if (length > 64u * MIB)
				length = 64u * MIB;
			ledger_read(l, inode, offset, length);
			break;
		default:
			if (rng_below(&rng, 10) == 0)
				ledger_evicted(l, inode, offset, length);
		}
		(void)ledger_allows(l, predictor, inode % 3);
		if (i % 16 == 0)
			ck_assert(ledger_valid(l));
	}
}
END_TEST

static TCase *ledger_case(void)
{
	TCase *t = tcase_create("ledger");

	tcase_add_checked_fixture(t, setup, teardown);
	tcase_add_test(t, what_is_read_was_used);
	tcase_add_test(t, who_comes_before_the_bytes_finds_them_late);
	tcase_add_test(t, what_failed_counts_for_nothing);
	tcase_add_test(t, listings_are_counted_too);
	tcase_add_test(t, what_is_not_read_in_time_was_wasted);
	tcase_add_test(t, two_requests_for_the_same_bytes_are_one);
	tcase_add_test(t, who_is_never_right_falls_silent_and_may_come_back);
	tcase_add_test(t, who_is_right_often_enough_goes_on);
	tcase_add_test(t, who_is_wrong_everywhere_falls_silent_everywhere);
	tcase_add_test(t, whatever_is_told_the_sums_are_right);
	return t;
}

UNIT_MAIN("ledger", ledger_case)
