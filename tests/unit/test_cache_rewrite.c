/* What is truncated and written anew is written in place; what is not goes. */
#include "unit.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fs/cache/internal.h"

#define MIB (UINT64_C(1) << 20)

static char directory[128];
static const struct change before = { 1, 10 }, truncated = { 1, 11 }, after = { 1, 12 };

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	return remove(path);
}

static void setup(void)
{
	snprintf(directory, sizeof(directory), "%s/rewrite-XXXXXX", getenv("TMPDIR"));
	ck_assert_ptr_nonnull(mkdtemp(directory));
}

static void teardown(void)
{
	nftw(directory, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

static struct cache *open_it(uint64_t bytes_max)
{
	char text[256];
	struct cache *c = NULL;
	int rc = cache_open(directory, bytes_max, &c, text, sizeof(text));

	ck_assert_msg(rc == 0, "%s", text);
	return c;
}

/* The flusher comes by when the test says so. */
static struct cache *without_flusher(struct cache *c)
{
	cache_flusher_stop(c);
	return c;
}

static struct cache_file *get(struct cache *c)
{
	const struct handle h = { .length = 20, .bytes = { 1 } };
	struct cache_file *f = cache_file_get(c, 0, &h);

	ck_assert_ptr_nonnull(f);
	return f;
}

static void put_bytes(struct cache_file *f, struct change change, uint64_t offset, uint64_t length)
{
	uint8_t *data = malloc(length);

	ck_assert_ptr_nonnull(data);
	memset(data, (int)change.counter, length);
	ck_assert_int_eq(cache_file_write(f, change, offset, data, length), 0);
	free(data);
}

static void check_bytes(struct cache_file *f, struct change change, uint64_t offset, uint64_t length)
{
	uint8_t *data = malloc(length);

	ck_assert_ptr_nonnull(data);
	ck_assert_uint_eq(cache_file_read(f, change, offset, data, length), length);
	/* All are equal when each equals the next. */
	ck_assert_uint_eq(data[0], change.counter);
	ck_assert_int_eq(memcmp(data, data + 1, length - 1), 0);
	free(data);
}

static struct stat on_disk(struct cache *c, const struct cache_file *f)
{
	char name[CACHE_NAME_BYTES];
	struct stat st;

	cache_file_name(f, name);
	ck_assert_int_eq(fstatat(c->objects_fd, name, &st, AT_SYMLINK_NOFOLLOW), 0);
	return st;
}

static uint64_t cached(struct cache *c)
{
	struct cache_counters counters;

	cache_counters(c, &counters);
	return counters.bytes;
}

/* A host's own write, answered. */
static void rewrite(struct cache_file *f, uint64_t offset, uint64_t length)
{
	struct change at = cache_file_change(f);

	cache_file_move(f, change_known(at) ? at : truncated, after, offset, length);
	put_bytes(f, after, offset, length);
}

START_TEST(what_is_truncated_and_written_anew_stays_where_it_is)
{
	struct cache *c = without_flusher(open_it(256 * MIB));
	struct cache_file *f = get(c);
	struct stat old, new;

	put_bytes(f, before, 0, 8 * MIB);
	old = on_disk(c, f);
	cache_file_move(f, before, truncated, 0, UINT64_MAX);
	ck_assert(!cache_file_covers(f, truncated, 0, 1));
	ck_assert(!cache_file_covers(f, before, 0, 1));
	ck_assert_uint_eq(cache_file_ranges(f, truncated, NULL, 0), 0);
	rewrite(f, 0, 8 * MIB);
	new = on_disk(c, f);
	ck_assert_uint_eq(old.st_ino, new.st_ino);
	check_bytes(f, after, 0, 8 * MIB);
	cache_flush(c);
	check_bytes(f, after, 0, 8 * MIB);
	cache_file_put(f);
	cache_close(c);
	c = open_it(256 * MIB);
	f = get(c);
	check_bytes(f, after, 0, 8 * MIB);
	cache_file_put(f);
	cache_close(c);
}
END_TEST

START_TEST(what_is_truncated_and_not_written_goes)
{
	struct cache *c = without_flusher(open_it(256 * MIB));
	struct cache_file *f = get(c);

	put_bytes(f, before, 0, 8 * MIB);
	cache_file_move(f, before, truncated, 0, UINT64_MAX);
	cache_file_put(f);
	cache_flush(c);
	ck_assert_uint_eq(cached(c), 0);
	cache_close(c);
}
END_TEST

START_TEST(what_is_written_shorter_and_with_gaps_takes_no_more_than_that)
{
	struct cache *c = without_flusher(open_it(256 * MIB));
	struct cache_file *f = get(c);
	struct stat st;

	put_bytes(f, before, 0, 16 * MIB);
	cache_file_move(f, before, truncated, 0, UINT64_MAX);
	rewrite(f, 0, MIB);
	put_bytes(f, after, 4 * MIB, MIB);
	cache_flush(c);
	st = on_disk(c, f);
	ck_assert_uint_eq((uint64_t)st.st_size, 5 * MIB);
	ck_assert_uint_lt((uint64_t)st.st_blocks * 512, 3 * MIB);
	ck_assert_uint_lt(cached(c), 3 * MIB);
	ck_assert(!cache_file_covers(f, after, MIB, 1));
	check_bytes(f, after, 0, MIB);
	check_bytes(f, after, 4 * MIB, MIB);
	cache_file_put(f);
	cache_close(c);
	c = open_it(256 * MIB);
	f = get(c);
	check_bytes(f, after, 0, MIB);
	check_bytes(f, after, 4 * MIB, MIB);
	cache_file_put(f);
	cache_close(c);
}
END_TEST

START_TEST(a_complete_file_that_became_shorter_is_handed_out)
{
	struct cache *c = without_flusher(open_it(256 * MIB));
	struct cache_file *f = get(c);
	int fd;

	put_bytes(f, before, 0, 8 * MIB);
	cache_file_move(f, before, truncated, 0, UINT64_MAX);
	rewrite(f, 0, MIB);
	cache_file_pin(f);
	fd = cache_file_expose(f, after, MIB);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq((int)on_disk(c, f).st_size, (int)MIB);
	close(fd);
	cache_file_unpin(f);
	cache_file_put(f);
	cache_close(c);
}
END_TEST

START_TEST(in_a_full_cache_what_was_truncated_makes_room)
{
	struct cache *c = without_flusher(open_it(17 * MIB));
	struct cache_file *f = get(c);
	struct cache_counters counters;

	put_bytes(f, before, 0, 16 * MIB);
	cache_file_move(f, before, truncated, 0, UINT64_MAX);
	for (uint64_t at = 0; at < 16 * MIB; at += 2 * MIB)
		rewrite(f, at, 2 * MIB);
	check_bytes(f, after, 0, 16 * MIB);
	cache_counters(c, &counters);
	ck_assert_uint_eq(counters.not_admitted, 0);
	ck_assert_uint_le(counters.bytes, 17 * MIB);
	cache_file_put(f);
	cache_close(c);
}
END_TEST

static TCase *rewrite_case(void)
{
	TCase *tcase = tcase_create("cache_rewrite");

	tcase_set_timeout(tcase, 240);
	tcase_add_checked_fixture(tcase, setup, teardown);
	tcase_add_test(tcase, what_is_truncated_and_written_anew_stays_where_it_is);
	tcase_add_test(tcase, what_is_truncated_and_not_written_goes);
	tcase_add_test(tcase, what_is_written_shorter_and_with_gaps_takes_no_more_than_that);
	tcase_add_test(tcase, a_complete_file_that_became_shorter_is_handed_out);
	tcase_add_test(tcase, in_a_full_cache_what_was_truncated_makes_room);
	return tcase;
}

UNIT_MAIN("cache_rewrite", rewrite_case)
