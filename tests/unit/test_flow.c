#include "unit.h"

#include "fs/origin/flow.h"

#define MIB (1ull << 20)

static struct flow f;
static uint64_t start, end;

static void reads(void)
{
	f = (struct flow){ .clock = 0 };
	flow_init(&f, 8 * MIB, 4 * MIB);
}

static void writes(void)
{
	f = (struct flow){ .clock = 0 };
	flow_init(&f, 0, 8 * MIB);
}

/* In MiB. */
static bool note(uint64_t key, uint64_t offset, uint64_t length)
{
	return flow_note(&f, key, offset * MIB, length * MIB, &start, &end);
}

static void told(uint64_t from, uint64_t to)
{
	ck_assert_uint_eq(start, from * MIB);
	ck_assert_uint_eq(end, to * MIB);
}

START_TEST(the_third_read_in_a_row_is_read_ahead_of)
{
	reads();
	ck_assert(!note(7, 0, 1));
	ck_assert(!note(7, 1, 1));
	ck_assert(note(7, 2, 1));
	told(3, 11);
	/* A step at a time, each byte once. */
	ck_assert(!note(7, 3, 1));
	ck_assert(!note(7, 4, 1));
	ck_assert(!note(7, 5, 1));
	ck_assert(note(7, 6, 1));
	told(11, 15);
}
END_TEST

START_TEST(random_reads_are_not)
{
	uint64_t place = 1;
	unsigned count = 0;

	reads();
	for (unsigned i = 0; i < 10000; i++) {
		place = place * 6364136223846793005ull + 1442695040888963407ull;
		count += flow_note(&f, 7, (place >> 20) & ~4095ull, 4096, &start, &end);
	}
	ck_assert_uint_eq(count, 0);
}
END_TEST

START_TEST(pieces_that_overtake_each_other_are_one_run)
{
	static const uint64_t order[] = { 1, 0, 3, 2, 5, 4, 7, 6, 9, 8 };
	uint64_t at = 0;

	reads();
	for (unsigned i = 0; i < 10; i++) {
		if (!note(7, order[i], 1))
			continue;
		ck_assert(at == 0 || start == at);
		ck_assert_uint_le(end, (order[i] + 1 + 8) * MIB);
		at = end;
	}
	ck_assert_uint_ge(at, 14 * MIB);
}
END_TEST

START_TEST(readers_at_several_places_of_a_file_are_runs_of_their_own)
{
	unsigned count = 0;

	reads();
	for (uint64_t i = 0; i < 16; i++)
		for (uint64_t reader = 0; reader < FLOW_WAYS; reader++)
			count += note(7, reader * 1000 + i, 1);
	ck_assert_uint_eq(count, 4 * FLOW_WAYS);
}
END_TEST

START_TEST(a_reader_that_jumps_is_read_ahead_of_where_it_went_on)
{
	reads();
	for (uint64_t i = 0; i < 3; i++)
		(void)note(7, i, 1);
	ck_assert(!note(7, 500, 1));
	ck_assert(!note(7, 501, 1));
	ck_assert(note(7, 502, 1));
	told(503, 511);
}
END_TEST

START_TEST(writes_are_told_once_there_is_a_step_of_them)
{
	writes();
	for (uint64_t i = 0; i < 7; i++)
		ck_assert(!note(7, i, 1));
	ck_assert(note(7, 7, 1));
	told(0, 8);
	for (uint64_t i = 8; i < 15; i++)
		ck_assert(!note(7, i, 1));
	ck_assert(note(7, 15, 1));
	told(8, 16);
}
END_TEST

START_TEST(what_is_written_again_and_again_is_left_to_the_kernel)
{
	unsigned count = 0;

	writes();
	for (uint64_t i = 0; i < 1000; i++)
		count += note(7, i % 4, 1);
	ck_assert_uint_eq(count, 0);
}
END_TEST

START_TEST(numbers_at_the_end_of_the_world_are_no_run)
{
	reads();
	for (unsigned i = 0; i < 8; i++) {
		ck_assert(!flow_note(&f, 7, UINT64_MAX - 4096, 8192, &start, &end));
		ck_assert(!flow_note(&f, 7, INT64_MAX - 4096, 4096, &start, &end));
		ck_assert(!flow_note(&f, 7, 0, 0, &start, &end));
	}
}
END_TEST

START_TEST(a_flood_of_other_files_costs_a_run_its_place_and_no_more)
{
	unsigned count = 0;

	reads();
	for (uint64_t key = 0; key < 100000; key++)
		count += note(key, 0, 1);
	ck_assert_uint_eq(count, 0);
	ck_assert(!note(7, 0, 1));
	ck_assert(!note(7, 1, 1));
	ck_assert(note(7, 2, 1));
}
END_TEST

static TCase *flow_case(void)
{
	TCase *tests = tcase_create("flow");

	tcase_add_test(tests, the_third_read_in_a_row_is_read_ahead_of);
	tcase_add_test(tests, random_reads_are_not);
	tcase_add_test(tests, pieces_that_overtake_each_other_are_one_run);
	tcase_add_test(tests, readers_at_several_places_of_a_file_are_runs_of_their_own);
	tcase_add_test(tests, a_reader_that_jumps_is_read_ahead_of_where_it_went_on);
	tcase_add_test(tests, writes_are_told_once_there_is_a_step_of_them);
	tcase_add_test(tests, what_is_written_again_and_again_is_left_to_the_kernel);
	tcase_add_test(tests, numbers_at_the_end_of_the_world_are_no_run);
	tcase_add_test(tests, a_flood_of_other_files_costs_a_run_its_place_and_no_more);
	return tests;
}

UNIT_MAIN("flow", flow_case)
