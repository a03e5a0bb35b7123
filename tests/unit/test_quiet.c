/* What others change is fetched when they are quiet. */
#include "unit.h"

#include <stdio.h>

#include "prefetch/quiet.h"

static struct quiet q;
static struct instant now;
static struct quiet_item item;

static void begin(void)
{
	q = (struct quiet){ 0 };
	now = (struct instant){ 100 * NS_PER_S };
}

static void pass(uint64_t ms)
{
	now = instant_add(now, duration_ms(ms));
}

/* Takes `name` and nothing else. */
static void take(uint64_t directory, const char *name)
{
	ck_assert(quiet_take(&q, now, false, &item));
	ck_assert_uint_eq(item.directory, directory);
	ck_assert_uint_eq(item.name_length, strlen(name));
	ck_assert(memcmp(item.name, name, strlen(name)) == 0);
	ck_assert(!quiet_take(&q, now, false, &item));
}

START_TEST(it_waits_for_a_little)
{
	begin();
	quiet_changed(&q, now, 1, slice_of("a"));
	ck_assert(!quiet_take(&q, now, false, &item));
	pass(150);
	/* Once more is the same. */
	quiet_changed(&q, now, 1, slice_of("a"));
	ck_assert_uint_eq(q.waiting, 1);
	pass(50);
	take(1, "a");
	ck_assert_uint_eq(q.waiting, 0);
}
END_TEST

START_TEST(what_changes_again_and_again_waits_longer_each_time)
{
	uint64_t ms = 200;

	begin();
	quiet_changed(&q, now, 1, slice_of("a"));
	for (unsigned i = 0; i < 20; i++) {
		pass(ms - 1);
		ck_assert(!quiet_take(&q, now, false, &item));
		pass(1);
		take(1, "a");
		quiet_changed(&q, now, 1, slice_of("a"));
		ms = 2 * ms > 60000 ? 60000 : 2 * ms;
	}
	pass(ms);
	take(1, "a");
	/* It was quiet for long. */
	pass(QUIET_SOON * ms);
	quiet_changed(&q, now, 1, slice_of("a"));
	pass(200);
	take(1, "a");
}
END_TEST

START_TEST(what_could_not_be_had_comes_again_a_few_times)
{
	unsigned times = 0;

	begin();
	quiet_again(&q, now, 1, slice_of("a"));
	ck_assert_uint_eq(q.waiting, 1);
	pass(200);
	for (take(1, "a"); quiet_again(&q, now, 1, slice_of("a")), q.waiting > 0; times++) {
		pass(60000);
		take(1, "a");
	}
	ck_assert_uint_eq(times, QUIET_TRIES_MAX);
	quiet_changed(&q, now, 1, slice_of("a"));
	ck_assert_uint_eq(q.waiting, 1);
}
END_TEST

static void change(uint64_t directory, unsigned from, unsigned count)
{
	char name[32];

	for (unsigned i = from; i < from + count; i++) {
		snprintf(name, sizeof(name), "n%u", i);
		quiet_changed(&q, now, directory, slice_of(name));
	}
}

START_TEST(many_names_are_their_directory)
{
	begin();
	change(1, 0, QUIET_NAMES_MAX);
	ck_assert_uint_eq(q.waiting, QUIET_NAMES_MAX);
	change(1, 1000, 5000);
	ck_assert_uint_eq(q.waiting, 1);
	pass(200);
	ck_assert(!quiet_take(&q, now, true, &item));
	take(1, "");
	/* The next name is one again; and many are the directory, which was taken lately. */
	change(1, 0, 1);
	ck_assert_uint_eq(q.waiting, 1);
	change(1, 0, QUIET_NAMES_MAX + 1);
	ck_assert_uint_eq(q.waiting, 1);
	pass(399);
	ck_assert(!quiet_take(&q, now, false, &item));
	pass(1);
	take(1, "");
	/* A directory that changed stands for its names. */
	change(2, 0, 3);
	quiet_changed(&q, now, 2, slice_of(""));
	change(2, 7, 3);
	ck_assert_uint_eq(q.waiting, 1);
	pass(200);
	take(2, "");
}
END_TEST

START_TEST(when_it_is_full_what_has_no_room_is_left)
{
	begin();
	for (unsigned i = 0; i < 4; i++)
		change(i + 1, 0, QUIET_NAMES_MAX);
	ck_assert_uint_eq(q.waiting, QUIET_COUNT_MAX);
	change(9, 0, 1);
	ck_assert_uint_eq(q.dropped, 1);
	/* Of one that has names there, it is the directory. */
	change(3, 500, 1);
	ck_assert_uint_eq(q.waiting, QUIET_COUNT_MAX - QUIET_NAMES_MAX + 1);
	change(9, 0, 1);
	ck_assert_uint_eq(q.dropped, 1);
	pass(200);
	for (unsigned i = 0; i < QUIET_COUNT_MAX - QUIET_NAMES_MAX + 1; i++)
		ck_assert(quiet_take(&q, now, false, &item));
	/* What was taken is forgotten for what is new. */
	change(10, 0, QUIET_NAMES_MAX);
	change(11, 0, QUIET_NAMES_MAX);
	ck_assert_uint_eq(q.dropped, 1);
}
END_TEST

static TCase *quiet_case(void)
{
	TCase *tcase = tcase_create("quiet");

	tcase_add_test(tcase, it_waits_for_a_little);
	tcase_add_test(tcase, what_changes_again_and_again_waits_longer_each_time);
	tcase_add_test(tcase, what_could_not_be_had_comes_again_a_few_times);
	tcase_add_test(tcase, many_names_are_their_directory);
	tcase_add_test(tcase, when_it_is_full_what_has_no_room_is_left);
	return tcase;
}

UNIT_MAIN("quiet", quiet_case)
