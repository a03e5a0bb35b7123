#include "fs/origin/changes.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "tests/unit/scratch.h"
#include "tests/unit/unit.h"

#define RECORDS 64u /* four sets */

static char path[SCRATCH_PATH_BYTES];
static int state_fd;

static void setup(void)
{
	state_fd = scratch_make(path);
}

static void teardown(void)
{
	scratch_remove(path, state_fd);
}

static struct changes *open_table(const char *boot_id)
{
	struct changes *c;
	const char *text;

	ck_assert_int_eq(changes_open(state_fd, "changes", boot_id, RECORDS, &c, &text), 0);
	return c;
}

static struct changes_seen old_file(void)
{
	return (struct changes_seen){ INT64_C(1500000000) * (int64_t)NS_PER_S, 100 };
}

static struct changes_seen fresh_file(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	/* Fresh for as long as a test takes. */
	return (struct changes_seen){ (now.tv_sec + 600) * (int64_t)NS_PER_S + now.tv_nsec, 100 };
}

static struct change look(struct changes *c, struct changes_key key, struct changes_seen seen)
{
	bool outside;

	return changes_get(c, &key, &seen, &outside);
}

static struct change modify(struct changes *c, struct changes_key key, struct changes_seen before,
			    struct changes_seen after)
{
	struct changes_token token;

	ck_assert_int_eq(changes_begin(c, &key, &before, &token), 0);
	return changes_end(c, &token, &after);
}

static const struct changes_key key_a = { { 1, 11 } }, key_b = { { 2, 12 } };

/* ---- a table that has nothing to lose ---- */

/* The machine crashes: the table as it is on disk, under another boot id. */
static bool stands_after_crash(struct changes *c)
{
	uint64_t incarnation = changes_incarnation(c);
	bool stands;

	changes_close(c, false);
	c = open_table("another boot");
	ck_assert(changes_crashed(c));
	stands = changes_incarnation(c) == incarnation;
	changes_close(c, false);
	return stands;
}

START_TEST(what_is_settled_stands_after_a_crash_of_the_machine)
{
	struct changes *c = open_table("boot");
	struct change change = modify(c, key_a, old_file(), fresh_file());
	uint64_t activity = changes_activity(c);

	ck_assert_uint_ne(activity, 0);
	ck_assert_int_eq(changes_settle(c, activity), 0);
	ck_assert_uint_eq(changes_activity(c), 0);
	(void)look(c, key_b, old_file()); /* derived: the table need not know */
	ck_assert_uint_eq(changes_activity(c), 0);
	ck_assert(change_known(change));
	ck_assert(stands_after_crash(c));
}
END_TEST

START_TEST(what_is_modified_after_it_was_settled_does_not)
{
	struct changes *c = open_table("boot");

	ck_assert_int_eq(changes_settle(c, changes_activity(c)), 0);
	(void)modify(c, key_a, old_file(), fresh_file());
	ck_assert_uint_ne(changes_activity(c), 0);
	ck_assert(!stands_after_crash(c));
}
END_TEST

START_TEST(a_number_that_is_made_after_it_was_settled_ends_that)
{
	struct changes *c = open_table("boot");

	ck_assert_int_eq(changes_settle(c, changes_activity(c)), 0);
	(void)look(c, key_a, fresh_file());
	ck_assert(!stands_after_crash(c));
}
END_TEST

START_TEST(what_ends_while_it_is_synced_is_not_settled)
{
	struct changes *c = open_table("boot");
	struct changes_seen seen = old_file(), after = fresh_file();
	struct changes_token token;
	uint64_t activity;

	ck_assert_int_eq(changes_begin(c, &key_a, &seen, &token), 0);
	activity = changes_activity(c);
	/* Here the store is synced, with a part of it. */
	(void)changes_end(c, &token, &after);
	ck_assert_int_eq(changes_settle(c, activity), -EBUSY);
	ck_assert(!stands_after_crash(c));
}
END_TEST

START_TEST(what_changes_while_it_is_synced_is_not_settled)
{
	struct changes *c = open_table("boot");
	struct changes_seen seen = old_file();
	struct changes_token token;
	uint64_t activity = changes_activity(c);

	ck_assert_int_eq(changes_begin(c, &key_a, &seen, &token), 0);
	ck_assert_int_eq(changes_settle(c, activity), -EBUSY);
	ck_assert_int_eq(changes_settle(c, changes_activity(c)), -EBUSY);
	changes_cancel(c, &token);
	ck_assert_int_eq(changes_settle(c, activity), -EBUSY);
	ck_assert_int_eq(changes_settle(c, changes_activity(c)), 0);
	ck_assert(stands_after_crash(c));
}
END_TEST

START_TEST(an_old_inode_has_the_number_of_its_ctime)
{
	struct changes *c = open_table("boot");
	struct change first = look(c, key_a, old_file());

	ck_assert_uint_eq(first.counter >> 63, 1);
	ck_assert(change_equal(first, look(c, key_a, old_file())));
	changes_close(c, false);
}
END_TEST

START_TEST(an_inode_changed_a_moment_ago_gets_a_record)
{
	struct changes *c = open_table("boot");
	struct changes_seen seen = fresh_file();
	struct change first = look(c, key_a, seen);

	ck_assert_uint_eq(first.counter >> 63, 0);
	ck_assert(change_equal(first, look(c, key_a, seen)));
	ck_assert(!change_equal(first, look(c, key_b, seen)));
	changes_close(c, false);
}
END_TEST

START_TEST(a_modification_moves_the_number_even_within_one_ctime)
{
	struct changes *c = open_table("boot");
	struct changes_seen seen = fresh_file();
	struct change first = look(c, key_a, seen);
	struct change second = modify(c, key_a, seen, seen);

	ck_assert(!change_equal(first, second));
	ck_assert(change_equal(second, look(c, key_a, seen)));
	changes_close(c, false);
}
END_TEST

START_TEST(a_cancelled_modification_leaves_the_number)
{
	struct changes *c = open_table("boot");
	struct changes_seen seen = old_file();
	struct changes_token token;
	struct change first = look(c, key_a, seen), second;

	ck_assert_int_eq(changes_begin(c, &key_a, &seen, &token), 0);
	ck_assert(change_equal(token.before, first));
	changes_cancel(c, &token);
	ck_assert(change_equal(first, look(c, key_a, seen)));
	second = modify(c, key_a, seen, seen);
	ck_assert_int_eq(changes_begin(c, &key_a, &seen, &token), 0);
	changes_cancel(c, &token);
	ck_assert(change_equal(second, look(c, key_a, seen)));
	changes_close(c, false);
}
END_TEST

/* A modification by someone else in the jiffy of the last one leaves ctime and size as they were. */
START_TEST(what_is_renumbered_gets_a_number_that_was_never_given)
{
	struct changes *c = open_table("boot");
	struct changes_seen seen = old_file();
	struct change first = modify(c, key_a, seen, seen), second, third;
	struct changes_token token;
	bool outside;

	changes_renumber(c, &key_a);
	second = changes_get(c, &key_a, &seen, &outside);
	ck_assert(!change_equal(first, second));
	ck_assert(change_equal(second, look(c, key_a, seen)));

	/* In the middle of a modification of ours: its number is not the last word either. */
	ck_assert_int_eq(changes_begin(c, &key_a, &seen, &token), 0);
	changes_renumber(c, &key_a);
	third = changes_end(c, &token, &seen);
	ck_assert(!change_equal(third, look(c, key_a, seen)));
	second = look(c, key_a, seen);
	ck_assert_int_eq(changes_begin(c, &key_a, &seen, &token), 0);
	changes_renumber(c, &key_a);
	changes_cancel(c, &token);
	ck_assert(!change_equal(second, look(c, key_a, seen)));

	/* Without a record the ctime, which is new then, makes the number. */
	first = look(c, key_b, seen);
	changes_renumber(c, &key_b);
	seen.ctime_ns += 5;
	ck_assert(!change_equal(first, changes_get(c, &key_b, &seen, &outside)));
	ck_assert_msg(!outside, "who renumbers recalls");
	changes_close(c, false);
}
END_TEST

START_TEST(a_change_behind_our_back_is_noticed_with_and_without_a_record)
{
	struct changes *c = open_table("boot");
	struct changes_seen seen = old_file(), later = old_file();
	struct change first;
	bool outside;

	later.ctime_ns += 5;
	first = look(c, key_a, seen);
	ck_assert(!change_equal(first, changes_get(c, &key_a, &later, &outside)));
	ck_assert(outside);
	changes_get(c, &key_a, &later, &outside);
	ck_assert(!outside);

	first = modify(c, key_b, seen, seen);
	later.size++;
	ck_assert(!change_equal(first, changes_get(c, &key_b, &later, &outside)));
	ck_assert(outside);
	changes_close(c, false);
}
END_TEST

START_TEST(numbers_survive_the_process)
{
	struct changes *c = open_table("boot");
	struct changes_seen seen = old_file();
	struct change first = modify(c, key_a, seen, seen);

	changes_close(c, false);
	c = open_table("boot");
	ck_assert(change_equal(first, look(c, key_a, seen)));
	changes_close(c, false);
}
END_TEST

/* A process that dies at a given point of a modification; the number before it. */
static struct change die_while_changing(struct changes_seen seen)
{
	struct change before;
	int pipe_fds[2], status;
	pid_t child;

	ck_assert_int_eq(pipe(pipe_fds), 0);
	child = fork();
	ck_assert_int_ge(child, 0);
	if (child == 0) {
		struct changes *c = open_table("boot");
		struct changes_token token;

		(void)modify(c, key_a, seen, seen);
		if (changes_begin(c, &key_a, &seen, &token) ||
		    write(pipe_fds[1], &token.before, sizeof(token.before)) < 0)
			_exit(1);
		raise(SIGKILL);
	}
	ck_assert_int_eq(waitpid(child, &status, 0), child);
	ck_assert(WIFSIGNALED(status));
	ck_assert_int_eq(read(pipe_fds[0], &before, sizeof(before)), sizeof(before));
	close(pipe_fds[0]);
	close(pipe_fds[1]);
	return before;
}

START_TEST(what_was_changing_when_the_process_was_killed_gets_a_new_number)
{
	struct changes_seen seen = old_file();
	struct change before = die_while_changing(seen);
	struct changes *c = open_table("boot");
	struct changes_counters counters;

	ck_assert_uint_eq(before.incarnation, changes_incarnation(c));
	ck_assert(!change_equal(before, look(c, key_a, seen)));
	changes_counters(c, &counters);
	ck_assert_uint_eq(counters.unfinished, 1);
	changes_close(c, false);
}
END_TEST

START_TEST(a_crash_of_the_machine_voids_every_number)
{
	struct changes *c = open_table("boot");
	struct change recorded = modify(c, key_a, old_file(), old_file());
	struct change derived = look(c, key_b, old_file());
	uint64_t incarnation = changes_incarnation(c);

	changes_close(c, false);
	c = open_table("another boot");
	ck_assert_uint_ne(incarnation, changes_incarnation(c));
	ck_assert(!change_equal(recorded, look(c, key_a, old_file())));
	ck_assert(!change_equal(derived, look(c, key_b, old_file())));
	changes_close(c, false);
}
END_TEST

START_TEST(a_clean_stop_keeps_the_numbers_across_a_boot_once)
{
	struct changes *c = open_table("boot");
	struct change first = modify(c, key_a, old_file(), old_file());

	changes_close(c, true);
	c = open_table("another boot");
	ck_assert(change_equal(first, look(c, key_a, old_file())));
	changes_close(c, false);
	c = open_table("a third boot");
	ck_assert(!change_equal(first, look(c, key_a, old_file())));
	changes_close(c, false);
}
END_TEST

START_TEST(a_damaged_table_is_replaced_under_a_new_incarnation)
{
	static const off_t places[] = { 3, 20, 45, 4096 + 16 * 64 + 30 };

	for (size_t i = 0; i < sizeof(places) / sizeof(places[0]); i++) {
		struct changes *c = open_table("boot");
		uint64_t incarnation = changes_incarnation(c);
		uint8_t byte;
		int fd;

		/* Key 1 lies in the second set. */
		(void)modify(c, key_a, old_file(), old_file());
		changes_close(c, true);
		fd = openat(state_fd, "changes", O_RDWR);
		ck_assert_int_eq(pread(fd, &byte, 1, places[i]), 1);
		byte ^= 0x10;
		ck_assert_int_eq(pwrite(fd, &byte, 1, places[i]), 1);
		close(fd);
		c = open_table("boot");
		ck_assert_msg(incarnation != changes_incarnation(c), "place %ld", (long)places[i]);
		changes_close(c, false);
	}
}
END_TEST

START_TEST(a_table_that_was_cut_is_replaced)
{
	struct changes *c = open_table("boot");
	uint64_t incarnation = changes_incarnation(c);
	int fd;

	changes_close(c, true);
	fd = openat(state_fd, "changes", O_RDWR);
	ck_assert_int_eq(ftruncate(fd, 5000), 0);
	close(fd);
	c = open_table("boot");
	ck_assert_uint_ne(incarnation, changes_incarnation(c));
	changes_close(c, false);
}
END_TEST

START_TEST(numbers_never_come_back_when_records_make_room)
{
	struct changes *c = open_table("boot");
	struct changes_seen seen = fresh_file();
	struct change first[200];
	struct changes_counters counters;

	for (uint64_t i = 0; i < 200; i++) {
		struct changes_key key = { { i, i + 1000 } };

		first[i] = modify(c, key, seen, seen);
	}
	changes_counters(c, &counters);
	ck_assert_uint_ge(counters.evicted, 200 - RECORDS);
	for (uint64_t i = 0; i < 200; i++) {
		struct changes_key key = { { i, i + 1000 } };
		struct change now = modify(c, key, seen, seen);

		for (uint64_t j = 0; j < 200; j++)
			ck_assert(!change_equal(now, first[j]));
	}
	changes_close(c, false);
}
END_TEST

START_TEST(a_set_in_which_everything_is_changing_refuses_more)
{
	struct changes *c = open_table("boot");
	struct changes_seen seen = old_file();
	struct changes_token tokens[17];

	for (uint64_t i = 0; i < 16; i++) {
		struct changes_key key = { { i * 4, i } };

		ck_assert_int_eq(changes_begin(c, &key, &seen, &tokens[i]), 0);
	}
	ck_assert_int_eq(changes_begin(c, &(struct changes_key){ { 64, 16 } }, &seen, &tokens[16]),
			 -EBUSY);
	for (uint64_t i = 0; i < 16; i++)
		changes_cancel(c, &tokens[i]);
	changes_close(c, false);
}
END_TEST

static TCase *make_case(void)
{
	TCase *tc = tcase_create("changes");

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, what_is_settled_stands_after_a_crash_of_the_machine);
	tcase_add_test(tc, what_is_modified_after_it_was_settled_does_not);
	tcase_add_test(tc, a_number_that_is_made_after_it_was_settled_ends_that);
	tcase_add_test(tc, what_ends_while_it_is_synced_is_not_settled);
	tcase_add_test(tc, what_changes_while_it_is_synced_is_not_settled);
	tcase_add_test(tc, an_old_inode_has_the_number_of_its_ctime);
	tcase_add_test(tc, an_inode_changed_a_moment_ago_gets_a_record);
	tcase_add_test(tc, a_modification_moves_the_number_even_within_one_ctime);
	tcase_add_test(tc, a_cancelled_modification_leaves_the_number);
	tcase_add_test(tc, what_is_renumbered_gets_a_number_that_was_never_given);
	tcase_add_test(tc, a_change_behind_our_back_is_noticed_with_and_without_a_record);
	tcase_add_test(tc, numbers_survive_the_process);
	tcase_add_test(tc, what_was_changing_when_the_process_was_killed_gets_a_new_number);
	tcase_add_test(tc, a_crash_of_the_machine_voids_every_number);
	tcase_add_test(tc, a_clean_stop_keeps_the_numbers_across_a_boot_once);
	tcase_add_test(tc, a_damaged_table_is_replaced_under_a_new_incarnation);
	tcase_add_test(tc, a_table_that_was_cut_is_replaced);
	tcase_add_test(tc, numbers_never_come_back_when_records_make_room);
	tcase_add_test(tc, a_set_in_which_everything_is_changing_refuses_more);
	return tc;
}

UNIT_MAIN("changes", make_case)
