/* What users and policies want of files in the cache, on a disk. fs/cache/policy.h is tested by itself. */
#include "unit.h"

#include <dirent.h>
#include <errno.h>
#include <ftw.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fs/cache/internal.h"

#define KIB UINT64_C(1024)
#define MIB (1024 * KIB)
#define CACHE_BYTES (2 * MIB)
#define FILE_BYTES (64 * KIB)

static char directory[128];
static const struct change change = { 1, 10 };
static const struct cache_keep by_line_3 = { .pin_source = 7, .pin_line = 3 },
			       by_line_5 = { .pin_source = 7, .pin_line = 5 }, nothing;
static struct cache *c;

static void start(void)
{
	char text[256];

	ck_assert_msg(cache_open(directory, CACHE_BYTES, &c, text, sizeof(text)) == 0, "%s", text);
}

static void again(void)
{
	cache_close(c);
	start();
}

static void setup(void)
{
	snprintf(directory, sizeof(directory), "%s/keep-XXXXXX", getenv("TMPDIR"));
	ck_assert_ptr_nonnull(mkdtemp(directory));
	start();
}

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	return remove(path);
}

static void teardown(void)
{
	cache_close(c);
	nftw(directory, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

static struct handle handle_of(uint32_t n)
{
	struct handle h = { .length = 20 };

	memcpy(h.bytes, &n, sizeof(n));
	return h;
}

static struct cache_file *get(uint32_t n)
{
	struct handle h = handle_of(n);
	struct cache_file *f = cache_file_get(c, 1, &h);

	ck_assert_ptr_nonnull(f);
	return f;
}

/* Reads a file, through the cache; true: it was there. */
static bool read_it(uint32_t n)
{
	static uint8_t data[FILE_BYTES];
	struct cache_file *f = get(n);
	bool hit = cache_file_read(f, change, 0, data, sizeof(data)) == sizeof(data);

	if (!hit)
		(void)!cache_file_write(f, change, 0, data, sizeof(data));
	cache_file_put(f);
	return hit;
}

static bool is_there(uint32_t n)
{
	struct cache_file *f = get(n);
	bool there = cache_file_covers(f, change, 0, FILE_BYTES);

	cache_file_put(f);
	return there;
}

static void tell(uint32_t n, const struct cache_keep *keep)
{
	struct cache_file *f = get(n);

	cache_file_keep(f, keep, 1);
	cache_file_put(f);
}

static int keep(uint32_t n, bool on, uint64_t size)
{
	struct handle h = handle_of(n);

	return cache_keep(c, 1, &h, on, size);
}

static struct cache_kept kept(uint32_t n)
{
	struct cache_file *f = get(n);
	struct cache_kept kept;

	cache_file_kept(f, &kept);
	cache_file_put(f);
	return kept;
}

/* Others are read that do not fit, over and over. */
static void press(uint32_t from)
{
	for (int round = 0; round < 6; round++)
		for (uint32_t n = from; n < from + 60; n++)
			(void)read_it(n);
	ck_assert_uint_gt(c->statistics.evicted_files, 0);
}

START_TEST(what_a_user_wants_kept_stays_also_after_a_restart)
{
	for (uint32_t n = 0; n < 8; n++)
		read_it(n);
	ck_assert_int_eq(keep(0, true, FILE_BYTES), 0);
	ck_assert_int_eq(keep(1, true, FILE_BYTES), 0);
	ck_assert_int_eq(keep(1, true, FILE_BYTES), 0); /* once more is nothing */
	ck_assert_int_eq(keep(900, true, FILE_BYTES), 0); /* nothing is there of it yet */
	press(100);
	ck_assert(is_there(0) && is_there(1));
	again();
	ck_assert(kept(0).by_user && !kept(0).by_policy && !kept(2).by_user);
	read_it(900);
	press(200);
	ck_assert(is_there(0) && is_there(1) && is_there(900));
	ck_assert(kept(900).in_effect);
	ck_assert_int_eq(keep(0, false, 0), 0);
	ck_assert_int_eq(keep(5, false, 0), 0); /* it was not */
	again();
	ck_assert(!kept(0).by_user && kept(1).by_user);
	press(300);
	ck_assert(is_there(1) && !is_there(0));
}
END_TEST

START_TEST(a_dropped_file_is_kept_again_when_it_comes_back)
{
	static uint8_t data[FILE_BYTES];
	const struct change later = { 1, 11 };
	struct cache_file *f;

	read_it(0);
	ck_assert_int_eq(keep(0, true, FILE_BYTES), 0);
	f = get(0);
	cache_file_drop(f);
	ck_assert_int_eq(cache_file_write(f, later, 0, data, sizeof(data)), 0);
	cache_file_put(f);
	press(100);
	f = get(0);
	ck_assert(cache_file_covers(f, later, 0, FILE_BYTES));
	cache_file_put(f);
}
END_TEST

START_TEST(what_would_take_more_than_the_share_is_refused)
{
	uint64_t max = kept(0).bytes_max;

	ck_assert_uint_eq(max, CACHE_BYTES / 4 * 3);
	ck_assert_int_eq(keep(0, true, max + 1), -ENOSPC);
	ck_assert(!kept(0).by_user);
	for (uint32_t n = 0; n < 20; n++) {
		read_it(n);
		ck_assert_int_eq(keep(n, true, FILE_BYTES), 0);
	}
	ck_assert_int_eq(keep(50, true, CACHE_BYTES / 4), -ENOSPC);
	/* More comes of it than was there: what does not fit is like any other. */
	for (uint32_t n = 20; n < 32; n++) {
		ck_assert_int_eq(keep(n, true, 1), kept(n).bytes < max ? 0 : -ENOSPC);
		read_it(n);
	}
	ck_assert_uint_le(kept(0).bytes, max);
	ck_assert(kept(0).in_effect && !kept(24).in_effect);
	press(100);
	for (uint32_t n = 0; n < 20; n++)
		ck_assert(is_there(n));
	ck_assert(!is_there(24));
}
END_TEST

static unsigned marked;

static int count_marked(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	marked += type == FTW_F && (st->st_mode & S_ISVTX);
	return 0;
}

static unsigned marks(void)
{
	marked = 0;
	nftw(directory, count_marked, 16, FTW_PHYS);
	return marked;
}

/* The flusher may be at it already. */
static void await_marks(unsigned count)
{
	for (int i = 0; i < 2000 && marks() > count; i++) {
		cache_keep_unmark(c);
		usleep(50000);
	}
	ck_assert_uint_eq(marks(), count);
}

START_TEST(what_a_policy_pins_is_known_after_a_restart_until_it_says_otherwise)
{
	const uint32_t both[] = { 3, 5 };

	tell(0, &by_line_3); /* before there is anything of it */
	for (uint32_t n = 0; n < 4; n++)
		read_it(n);
	/* That one was not in memory any more. */
	tell(0, &by_line_3);
	tell(1, &by_line_3);
	tell(2, &by_line_5);
	ck_assert_uint_eq(marks(), 3);
	press(100);
	again();
	ck_assert(kept(0).by_policy && kept(1).by_policy && kept(2).by_policy && !kept(3).by_policy);
	press(200);
	ck_assert(is_there(0) && is_there(1) && is_there(2) && !is_there(3));
	cache_pins_stand(c, 8, NULL, 0); /* another policy */
	cache_pins_stand(c, 7, both, 2);
	ck_assert(kept(0).by_policy && kept(2).by_policy);
	/* Of the two lines one goes: its files are nobody's, at once. */
	cache_pins_stand(c, 7, both + 1, 1);
	ck_assert(!kept(0).by_policy && !kept(1).by_policy && kept(2).by_policy);
	await_marks(1);
	press(300);
	ck_assert(!is_there(0) && !is_there(1) && is_there(2));
	again();
	ck_assert(!kept(0).by_policy && kept(2).by_policy);
	tell(2, &nothing);
	ck_assert_uint_eq(marks(), 0);
	ck_assert(!kept(2).by_policy);
}
END_TEST

START_TEST(a_scan_that_comes_later_heeds_what_stands)
{
	const struct cache_limits limits = { .bytes_max = CACHE_BYTES, .files_max = 1000, .scan_first = 1 };
	const uint32_t lines[] = { 5 };
	char text[256];

	read_it(0);
	read_it(1);
	tell(0, &by_line_3);
	tell(1, &by_line_5);
	cache_close(c);
	ck_assert_int_eq(cache_open_limited(directory, &limits, &c, text, sizeof(text)), 0);
	cache_pins_stand(c, 7, lines, 1);
	ck_assert(!kept(0).by_policy && kept(1).by_policy);
	again();
	cache_pins_stand(c, 7, lines, 1);
	await_marks(1);
}
END_TEST

START_TEST(a_quota_holds_for_all_that_one_line_says_it_of)
{
	const struct cache_keep quarter = { .quota = 9, .quota_percent = 25 };
	const struct cache_keep pinned = {
		.quota = 9,
		.quota_percent = 25,
		.pin_source = 7,
		.pin_line = 3,
	};
	unsigned there = 0;

	for (uint32_t n = 0; n < 40; n++) {
		struct cache_file *f = get(n);

		cache_file_keep(f, n % 2 ? &quarter : &pinned, 1);
		read_it(n);
		cache_file_put(f);
	}
	for (uint32_t n = 0; n < 40; n++)
		there += is_there(n);
	ck_assert_uint_le(there * FILE_BYTES, CACHE_BYTES / 4);
	ck_assert_uint_ge(there, 5);
}
END_TEST

START_TEST(what_is_not_to_come_in_does_not)
{
	const struct cache_keep never = { .admit = POLICY_ADMIT_NEVER };
	const struct cache_keep second = { .admit = POLICY_ADMIT_SECOND };
	struct cache_file *f = get(0), *g = get(1);

	cache_file_keep(f, &never, 1);
	cache_file_keep(g, &second, 1);
	ck_assert_uint_eq(cache_file_keep_serial(f), 1);
	cache_file_keep(f, NULL, 2);
	ck_assert_uint_eq(cache_file_keep_serial(f), 2);
	for (int i = 0; i < 3; i++) {
		cache_file_access(f);
		cache_file_access(g);
		ck_assert(!cache_file_may_come(f));
		ck_assert(cache_file_may_come(g) == (i > 0));
		ck_assert(!read_it(0));
		ck_assert(read_it(1) == (i > 1));
	}
	cache_file_put(f);
	cache_file_put(g);
}
END_TEST

START_TEST(of_too_many_different_things_the_last_ones_are_not_heard)
{
	struct cache_file *files[POLICY_GROUPS_MAX + 10];

	for (uint32_t n = 0; n < POLICY_GROUPS_MAX + 10; n++) {
		files[n] = get(n);
		cache_file_keep(files[n], &(struct cache_keep){ .ttl_s = n + 1 }, 1);
	}
	ck_assert(cache_file_has_keep(files[0]));
	ck_assert(!cache_file_has_keep(files[POLICY_GROUPS_MAX + 5]));
	for (uint32_t n = 0; n < POLICY_GROUPS_MAX + 10; n++)
		cache_file_put(files[n]);
	/* Those are nobody's any more. */
	files[0] = get(5000);
	cache_file_keep(files[0], &by_line_3, 1);
	ck_assert(cache_file_has_keep(files[0]));
	cache_file_put(files[0]);
}
END_TEST

static TCase *keep_case(void)
{
	TCase *tcase = tcase_create("keep");

	tcase_add_checked_fixture(tcase, setup, teardown);
	tcase_add_test(tcase, what_a_user_wants_kept_stays_also_after_a_restart);
	tcase_add_test(tcase, a_dropped_file_is_kept_again_when_it_comes_back);
	tcase_add_test(tcase, what_would_take_more_than_the_share_is_refused);
	tcase_add_test(tcase, what_a_policy_pins_is_known_after_a_restart_until_it_says_otherwise);
	tcase_add_test(tcase, a_scan_that_comes_later_heeds_what_stands);
	tcase_add_test(tcase, a_quota_holds_for_all_that_one_line_says_it_of);
	tcase_add_test(tcase, what_is_not_to_come_in_does_not);
	tcase_add_test(tcase, of_too_many_different_things_the_last_ones_are_not_heard);
	return tcase;
}

UNIT_MAIN("keep", keep_case)
