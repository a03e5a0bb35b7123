#include "fs/mount/sweep.h"

#include "unit.h"

static struct sweep sweep;
static struct instant now;

static void begin(void)
{
	sweep = (struct sweep){ 0 };
	now = (struct instant){ NS_PER_S };
}

/* Looked up and opened, a second after what was before. */
static bool opened(uint64_t directory, uint64_t file)
{
	now = instant_add(now, (struct duration){ NS_PER_S });
	sweep_saw_lookup(&sweep, directory, file);
	return sweep_saw_open(&sweep, now, file);
}

START_TEST(the_fourth_file_in_a_row_is_a_sweep)
{
	for (uint64_t file = 101; file < 104; file++)
		ck_assert(!opened(7, file));
	ck_assert(opened(7, 104));
	ck_assert(opened(7, 105));
	ck_assert(!opened(8, 201));
}
END_TEST

START_TEST(of_a_listed_directory_the_second_file_is)
{
	sweep_saw_listing(&sweep, now, 7);
	ck_assert(!opened(7, 101));
	ck_assert(opened(7, 102));
	ck_assert(!opened(8, 201));
	ck_assert(!opened(8, 202));
}
END_TEST

START_TEST(one_file_again_and_again_is_none)
{
	sweep_saw_listing(&sweep, now, 7);
	for (unsigned i = 0; i < 20; i++)
		ck_assert(!opened(7, 101));
}
END_TEST

START_TEST(files_that_are_far_apart_are_none)
{
	for (uint64_t file = 101; file < 120; file++) {
		ck_assert(!opened(7, file));
		now = instant_add(now, SWEEP_GAP);
	}
}
END_TEST

START_TEST(directories_that_are_swept_at_the_same_time_do_not_disturb_each_other)
{
	for (uint64_t file = 1; file < 4; file++)
		for (uint64_t directory = 1; directory <= SWEEP_DIRECTORIES; directory++) {
			sweep_saw_lookup(&sweep, directory, directory * 100 + file);
			ck_assert(!sweep_saw_open(&sweep, now, directory * 100 + file));
		}
	for (uint64_t directory = 1; directory <= SWEEP_DIRECTORIES; directory++) {
		sweep_saw_lookup(&sweep, directory, directory * 100 + 50);
		ck_assert(sweep_saw_open(&sweep, now, directory * 100 + 50));
	}
	/* With more of them at a time each has to begin anew. */
	ck_assert(!opened(1000, 1));
}
END_TEST

START_TEST(a_file_that_was_looked_up_long_ago_is_of_no_directory)
{
	sweep_saw_lookup(&sweep, 7, 101);
	for (uint64_t i = 0; i < SWEEP_LOOKUPS; i++)
		sweep_saw_lookup(&sweep, 8, 1000 + i);
	sweep_saw_listing(&sweep, now, 7);
	ck_assert(!sweep_saw_open(&sweep, now, 101));
	ck_assert(!opened(7, 102));
	/* By another name in another directory: where it was looked up last counts. */
	ck_assert(!opened(8, 103));
	ck_assert(opened(7, 103));
}
END_TEST

static TCase *sweep_case(void)
{
	TCase *tcase = tcase_create("sweep");

	tcase_add_checked_fixture(tcase, begin, NULL);
	tcase_add_test(tcase, the_fourth_file_in_a_row_is_a_sweep);
	tcase_add_test(tcase, of_a_listed_directory_the_second_file_is);
	tcase_add_test(tcase, one_file_again_and_again_is_none);
	tcase_add_test(tcase, files_that_are_far_apart_are_none);
	tcase_add_test(tcase, directories_that_are_swept_at_the_same_time_do_not_disturb_each_other);
	tcase_add_test(tcase, a_file_that_was_looked_up_long_ago_is_of_no_directory);
	return tcase;
}

UNIT_MAIN("sweep", sweep_case)
