#include "unit.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "fs/cache/internal.h"
#include "tests/unit/own_mounts.h"

#define KIB UINT64_C(1024)
#define MIB (1024 * KIB)

static char directory[128];
static char text[256];
static const struct change first = { 1, 10 }, second = { 1, 11 }, third = { 1, 12 };

static void setup(void)
{
	snprintf(directory, sizeof(directory), "%s/cache-XXXXXX", getenv("TMPDIR"));
	ck_assert_ptr_nonnull(mkdtemp(directory));
}

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	return remove(path);
}

static void teardown(void)
{
	nftw(directory, remove_entry, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
}

static struct cache *open_limited(const struct cache_limits *limits)
{
	struct cache *c = NULL;
	int rc = cache_open_limited(directory, limits, &c, text, sizeof(text));

	ck_assert_msg(rc == 0, "%s", text);
	return c;
}

static struct cache *open_cache(uint64_t bytes_max)
{
	return open_limited(&(struct cache_limits){ .bytes_max = bytes_max, .files_max = 100000 });
}

/* What the flusher has open at the moment does not go: here, it does not come by. */
static struct cache *without_flusher(struct cache *c)
{
	cache_flusher_stop(c);
	return c;
}

static struct handle handle_of(uint32_t n)
{
	struct handle h = { .length = 20 };

	memcpy(h.bytes, &n, sizeof(n));
	return h;
}

static struct cache_file *get(struct cache *c, uint32_t n)
{
	struct handle h = handle_of(n);
	struct cache_file *f = cache_file_get(c, 0, &h);

	ck_assert_ptr_nonnull(f);
	return f;
}

/* Every byte depends on the file, the change and the place. */
static void fill(uint8_t *data, size_t length, uint32_t n, struct change change, uint64_t offset)
{
	for (size_t i = 0; i < length; i++)
		data[i] = (uint8_t)(n * 31 + change.counter * 7 + (offset + i) / 64 + 1);
}

static int put_bytes(struct cache_file *f, uint32_t n, struct change change, uint64_t offset,
		     size_t length)
{
	uint8_t *data = malloc(length);
	int rc;

	fill(data, length, n, change, offset);
	rc = cache_file_write(f, change, offset, data, length);
	free(data);
	return rc;
}

/* How many right bytes are cached at `offset`; a wrong one fails the test. */
static size_t got_bytes(struct cache_file *f, uint32_t n, struct change change, uint64_t offset,
			size_t length)
{
	uint8_t *data = malloc(length), *expected = malloc(length);
	size_t got = cache_file_read(f, change, offset, data, length);

	fill(expected, length, n, change, offset);
	ck_assert_int_eq(memcmp(data, expected, got), 0);
	free(data);
	free(expected);
	return got;
}

static struct cache_counters counters(struct cache *c)
{
	struct cache_counters counters;

	cache_counters(c, &counters);
	return counters;
}

static char found_path[PATH_MAX];
static unsigned found_count;
static uint64_t found_bytes;

static int find_object(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	if (type == FTW_F && ftw->level >= 3) {
		snprintf(found_path, sizeof(found_path), "%s", path);
		found_bytes += (uint64_t)st->st_blocks * 512;
		found_count++;
	}
	return 0;
}

/* Looks at the disk: how many objects, their blocks, and the path of one. */
static unsigned objects_on_disk(void)
{
	found_count = 0;
	found_bytes = 0;
	nftw(directory, find_object, 16, FTW_PHYS);
	return found_count;
}

START_TEST(what_is_cached_is_read_and_nothing_else)
{
	struct cache *c = open_cache(16 * MIB);
	struct cache_file *f = get(c, 1);
	uint64_t start, end;
	char ranges[64];

	ck_assert(!change_known(cache_file_change(f)));
	ck_assert_int_eq(put_bytes(f, 1, first, 100, 5000), 0);
	ck_assert_int_eq(put_bytes(f, 1, first, 65536, 4096), 0);
	ck_assert(change_equal(cache_file_change(f), first));
	ck_assert_uint_eq(got_bytes(f, 1, first, 100, 10000), 5000);
	ck_assert_uint_eq(got_bytes(f, 1, first, 5000, 10), 10);
	ck_assert_uint_eq(got_bytes(f, 1, first, 0, 100), 0);
	ck_assert_uint_eq(got_bytes(f, 1, first, 5100, 10), 0);
	ck_assert_uint_eq(got_bytes(f, 1, second, 100, 10), 0);
	ck_assert(cache_file_covers(f, first, 100, 5000));
	ck_assert(!cache_file_covers(f, first, 100, 5001));
	ck_assert(!cache_file_covers(f, second, 100, 1));
	ck_assert(cache_file_gap(f, first, 100, 80000, &start, &end));
	ck_assert_uint_eq(start, 5100);
	ck_assert_uint_eq(end, 65536);
	ck_assert(cache_file_gap(f, second, 100, 200, &start, &end));
	ck_assert_uint_eq(start, 100);
	ck_assert(!cache_file_gap(f, first, 100, 5100, &start, &end));
	ck_assert_uint_eq(cache_file_ranges(f, first, ranges, sizeof(ranges)), 9096);
	ck_assert_str_eq(ranges, "100-5100,65536-69632");
	ck_assert_uint_eq(cache_file_ranges(f, first, ranges, 14), 9096);
	ck_assert_str_eq(ranges, "100-5100...");
	ck_assert_uint_eq(cache_file_ranges(f, first, ranges, 3), 9096);
	ck_assert_str_eq(ranges, "..");
	cache_file_put(f);
	cache_close(c);
}
END_TEST

START_TEST(equal_handles_of_two_exports_have_bytes_of_their_own)
{
	const uint64_t spaces[] = { cache_space("https://a:1", "data"), cache_space("https://a:1", "more"),
				    cache_space("https://b:1", "data") };
	struct cache *c = open_cache(16 * MIB);
	struct handle h = handle_of(1);
	struct cache_file *f;

	for (uint32_t i = 0; i < 3; i++) {
		f = cache_file_get(c, spaces[i], &h);
		ck_assert(!change_known(cache_file_change(f)));
		ck_assert_int_eq(put_bytes(f, i, first, 0, 100000 + i), 0);
		cache_file_put(f);
	}
	ck_assert_uint_eq(counters(c).files, 3);
	for (int round = 0; round < 2; round++) {
		for (uint32_t i = 0; i < 3; i++) {
			f = cache_file_get(c, spaces[i], &h);
			ck_assert_uint_eq(got_bytes(f, i, first, 0, 200000), 100000 + i);
			cache_file_put(f);
		}
		cache_close(c);
		c = open_cache(16 * MIB);
		ck_assert_uint_eq(counters(c).files, 3);
	}
	cache_close(c);
}
END_TEST

START_TEST(a_clean_stop_loses_nothing)
{
	struct cache *c = open_cache(16 * MIB);
	struct cache_file *f = get(c, 1);
	uint8_t id[16], again[16];

	cache_host_id(c, 1, 0, id);
	ck_assert_int_eq(put_bytes(f, 1, first, 0, 100000), 0);
	ck_assert_int_eq(put_bytes(f, 1, first, 200000, 1000), 0);
	cache_file_put(f);
	cache_close(c);

	c = open_cache(16 * MIB);
	cache_host_id(c, 1, 0, again);
	ck_assert_mem_eq(id, again, 16);
	cache_host_id(c, 1, 1, again);
	ck_assert_mem_ne(id, again, 16);
	cache_host_id(c, 2, 0, again);
	ck_assert_mem_ne(id, again, 16);
	f = get(c, 1);
	ck_assert(change_equal(cache_file_change(f), first));
	ck_assert_uint_eq(got_bytes(f, 1, first, 0, 200000), 100000);
	ck_assert_uint_eq(got_bytes(f, 1, first, 200000, 2000), 1000);
	ck_assert_uint_eq(counters(c).records_loaded, 1);
	cache_file_put(f);
	cache_close(c);
}
END_TEST

START_TEST(after_sigkill_what_was_flushed_is_there)
{
	struct cache *c;
	struct cache_file *f;
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		c = open_cache(64 * MIB);
		for (uint32_t n = 0; n < 40; n++) { /* enough for one syncfs */
			f = get(c, n);
			if (put_bytes(f, n, first, n * 4096, 50000) != 0)
				_exit(1);
			cache_file_put(f);
		}
		cache_flush(c);
		f = get(c, 0);
		if (put_bytes(f, 0, first, MIB, 4096) != 0)
			_exit(1);
		kill(getpid(), SIGKILL);
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert(WIFSIGNALED(status));

	c = open_cache(64 * MIB);
	for (uint32_t n = 0; n < 40; n++) {
		f = get(c, n);
		ck_assert_uint_eq(got_bytes(f, n, first, n * 4096, 50000), 50000);
		cache_file_put(f);
	}
	/* All of the rest or nothing: the flusher may have come by before the signal. */
	f = get(c, 0);
	ck_assert_uint_eq(got_bytes(f, 0, first, MIB, 4096) % 4096, 0);
	cache_file_put(f);
	cache_close(c);
}
END_TEST

/* A cache with one flushed file; its object's path is in found_path. */
static void prepare_object(void)
{
	struct cache *c = open_cache(16 * MIB);
	struct cache_file *f = get(c, 1);

	ck_assert_int_eq(put_bytes(f, 1, first, 0, 100000), 0);
	cache_file_put(f);
	cache_close(c);
	ck_assert_uint_eq(objects_on_disk(), 1);
}

static void expect_dropped(uint64_t corrupt)
{
	struct cache *c = open_cache(16 * MIB);
	struct cache_file *f = get(c, 1);

	ck_assert_uint_eq(got_bytes(f, 1, first, 0, 10), 0);
	ck_assert(!change_known(cache_file_change(f)));
	ck_assert_uint_eq(counters(c).dropped_corrupt, corrupt);
	ck_assert_uint_eq(objects_on_disk(), 0);
	/* And it is as good as new. */
	ck_assert_int_eq(put_bytes(f, 1, first, 0, 4096), 0);
	ck_assert_uint_eq(got_bytes(f, 1, first, 0, 4096), 4096);
	cache_file_put(f);
	cache_close(c);
}

START_TEST(a_damaged_record_is_dropped_and_counted)
{
	uint8_t record[RECORD_BYTES_MAX];
	ssize_t length;

	prepare_object();
	length = getxattr(found_path, RECORD_XATTR, record, sizeof(record));
	ck_assert_int_gt(length, 0);
	record[length / 2] ^= 4;
	ck_assert_int_eq(setxattr(found_path, RECORD_XATTR, record, (size_t)length, 0), 0);
	expect_dropped(1);
}
END_TEST

START_TEST(a_record_of_another_file_is_dropped_and_counted)
{
	struct record r = { .handle = handle_of(2), .change = first, .size = 100,
			    .range_count = 1, .ranges = { { 0, 100 } } };
	uint8_t record[RECORD_BYTES_MAX];
	int length = record_encode(&r, record, sizeof(record));

	prepare_object();
	ck_assert_int_gt(length, 0);
	ck_assert_int_eq(setxattr(found_path, RECORD_XATTR, record, (size_t)length, 0), 0);
	expect_dropped(1);
}
END_TEST

START_TEST(a_truncated_file_is_dropped_and_counted)
{
	prepare_object();
	ck_assert_int_eq(truncate(found_path, 60000), 0);
	expect_dropped(1);
}
END_TEST

START_TEST(a_file_with_a_hole_where_bytes_should_be_is_dropped_and_counted)
{
	prepare_object();
	ck_assert_int_eq(truncate(found_path, 8192), 0);
	ck_assert_int_eq(truncate(found_path, 100000), 0);
	expect_dropped(1);
}
END_TEST

START_TEST(a_deleted_file_and_one_without_a_record_are_as_if_never_cached)
{
	prepare_object();
	ck_assert_int_eq(removexattr(found_path, RECORD_XATTR), 0);
	expect_dropped(0);
	ck_assert_uint_eq(objects_on_disk(), 1);
	ck_assert_int_eq(unlink(found_path), 0);
	expect_dropped(0);
}
END_TEST

START_TEST(a_file_truncated_under_us_is_never_read_short_or_as_zeros)
{
	struct cache *c;
	struct cache_file *f;

	prepare_object();
	c = open_cache(16 * MIB);
	f = get(c, 1);
	ck_assert_uint_eq(got_bytes(f, 1, first, 0, 100), 100);
	ck_assert_int_eq(truncate(found_path, 10), 0);
	ck_assert_uint_eq(got_bytes(f, 1, first, 0, 100), 0);
	ck_assert_uint_eq(counters(c).dropped_errors, 1);
	ck_assert_uint_eq(got_bytes(f, 1, first, 0, 10), 0);
	cache_file_put(f);
	cache_close(c);
}
END_TEST

START_TEST(foreign_files_are_removed_and_a_foreign_directory_is_refused)
{
	struct cache *c = NULL;
	char path[PATH_MAX], deep[PATH_MAX + 64];
	int fd;

	prepare_object();
	snprintf(path, sizeof(path), "%.*s/no-handle", (int)(strrchr(found_path, '/') - found_path),
		 found_path);
	fd = open(path, O_CREAT | O_WRONLY, 0600);
	ck_assert_int_ge(fd, 0);
	close(fd);
	cache_close(open_cache(16 * MIB));
	ck_assert_uint_eq(objects_on_disk(), 1);

	snprintf(path, sizeof(path), "%s/leasehold-cache", directory);
	ck_assert_int_eq(unlink(path), 0);
	ck_assert_int_eq(cache_open(directory, MIB, &c, text, sizeof(text)), -ENOTEMPTY);
	ck_assert_ptr_nonnull(strstr(text, directory));
	ck_assert_uint_eq(objects_on_disk(), 1);

	/* A cache of an unknown version is ours, and of no use: this one has two levels, as version 2 had. */
	snprintf(deep, sizeof(deep), "%.*s/ab", (int)(strrchr(found_path, '/') - found_path), found_path);
	ck_assert_int_eq(mkdir(deep, 0700), 0);
	strcat(deep, strrchr(found_path, '/'));
	ck_assert_int_eq(rename(found_path, deep), 0);
	ck_assert_uint_eq(objects_on_disk(), 1);
	fd = open(path, O_CREAT | O_WRONLY, 0600);
	ck_assert_int_eq(write(fd, "LHCI\xff\xff and more than that, for sure", 32), 32);
	close(fd);
	cache_close(open_cache(16 * MIB));
	ck_assert_uint_eq(objects_on_disk(), 0);
	snprintf(path, sizeof(path), "%s/objects", directory);
	ck_assert_int_eq(rmdir(path), 0); /* no directory is left in there */
}
END_TEST

START_TEST(two_mounts_cannot_share_a_cache)
{
	struct cache *c = open_cache(MIB), *other = NULL;

	ck_assert_int_eq(cache_open(directory, MIB, &other, text, sizeof(text)), -EBUSY);
	ck_assert_ptr_null(other);
	cache_close(c);
}
END_TEST

START_TEST(bytes_of_a_superseded_change_are_refused)
{
	struct cache *c = open_cache(16 * MIB);
	struct cache_file *f = get(c, 1);

	ck_assert_int_eq(put_bytes(f, 1, first, 0, 8192), 0);
	ck_assert_int_eq(put_bytes(f, 1, second, 4096, 4096), 0);
	ck_assert_uint_eq(got_bytes(f, 1, first, 0, 10), 0);
	ck_assert_uint_eq(got_bytes(f, 1, second, 0, 10), 0);
	ck_assert_int_eq(put_bytes(f, 1, first, 0, 4096), -ESTALE);
	ck_assert_uint_eq(got_bytes(f, 1, second, 4096, 4096), 4096);
	cache_file_drop(f);
	ck_assert_int_eq(put_bytes(f, 1, first, 0, 4096), -ESTALE);
	ck_assert_int_eq(put_bytes(f, 1, second, 0, 4096), 0);
	ck_assert_int_eq(put_bytes(f, 1, (struct change){ 0, 0 }, 0, 1), -EINVAL);
	cache_file_put(f);
	cache_close(c);
}
END_TEST

START_TEST(a_move_keeps_what_the_modification_did_not_touch)
{
	struct cache *c = open_cache(16 * MIB);
	struct cache_file *f = get(c, 1);
	uint8_t data[100];
	char ranges[64];

	ck_assert_int_eq(put_bytes(f, 1, first, 0, 20000), 0);
	cache_file_move(f, first, second, 5000, 100);
	ck_assert(change_equal(cache_file_change(f), second));
	ck_assert_uint_eq(cache_file_ranges(f, second, ranges, sizeof(ranges)), 19900);
	ck_assert_str_eq(ranges, "0-5000,5100-20000");
	ck_assert_uint_eq(cache_file_read(f, first, 0, data, 100), 0);
	ck_assert_uint_eq(cache_file_read(f, second, 4950, data, 100), 50);
	ck_assert_int_eq(put_bytes(f, 1, first, 5000, 100), -ESTALE);
	ck_assert_int_eq(put_bytes(f, 1, second, 5000, 100), 0);
	ck_assert_uint_eq(got_bytes(f, 1, second, 5000, 100), 100);

	cache_file_move(f, second, third, 8192, UINT64_MAX);
	cache_file_ranges(f, third, ranges, sizeof(ranges));
	ck_assert_str_eq(ranges, "0-8192");
	/* Not at `before`: nothing can be said of what is there. */
	cache_file_move(f, (struct change){ 1, 20 }, (struct change){ 1, 21 }, 0, 1);
	ck_assert(!change_known(cache_file_change(f)));
	ck_assert_uint_eq(objects_on_disk(), 0);
	cache_file_put(f);
	cache_close(c);
}
END_TEST

START_TEST(zeros_of_a_hole_are_remembered_without_room)
{
	struct cache *c = open_cache(64 * MIB);
	struct cache_file *f = get(c, 1);
	uint8_t bytes[12288], zeros[8192] = { 0 };

	ck_assert_int_eq(cache_file_zero(f, first, 0, 1ull << 40), 0);
	memset(bytes, 1, sizeof(bytes));
	ck_assert_uint_eq(cache_file_read(f, first, 1 << 20, bytes, 8192), 8192);
	ck_assert_mem_eq(bytes, zeros, 8192);
	ck_assert_uint_eq(objects_on_disk(), 0);
	ck_assert_uint_eq(cache_file_read(f, second, 0, bytes, 1), 0);
	/* Data and zeros are read as one. */
	ck_assert_int_eq(put_bytes(f, 1, first, 1ull << 40, 4096), 0);
	memset(bytes, 1, sizeof(bytes));
	ck_assert_uint_eq(cache_file_read(f, first, (1ull << 40) - 8192, bytes, 12288), 12288);
	ck_assert_mem_eq(bytes, zeros, 8192);
	fill(zeros, 4096, 1, first, 1ull << 40);
	ck_assert_mem_eq(bytes + 8192, zeros, 4096);
	/* What is written there is no hole any more. */
	cache_file_move(f, first, second, 4096, 4096);
	ck_assert_uint_eq(cache_file_read(f, second, 0, bytes, 8192), 4096);
	ck_assert_uint_eq(cache_file_read(f, second, 8192, bytes, 8192), 8192);
	ck_assert_int_eq(cache_file_zero(f, first, 0, 1), -ESTALE);
	cache_file_put(f);
	cache_close(c);
}
END_TEST

START_TEST(a_move_that_comes_behind_the_next_one_harms_nothing)
{
	struct cache *c = open_cache(16 * MIB);
	struct cache_file *f = get(c, 1);

	ck_assert_int_eq(put_bytes(f, 1, first, 0, 8192), 0);
	cache_file_move(f, second, third, 0, 4096);
	ck_assert_int_eq(put_bytes(f, 1, third, 0, 4096), 0);
	cache_file_move(f, first, second, 4096, 4096);
	ck_assert_int_eq(put_bytes(f, 1, second, 4096, 4096), -ESTALE);
	ck_assert_uint_eq(got_bytes(f, 1, third, 0, 8192), 4096);
	ck_assert_int_eq(put_bytes(f, 1, third, 4096, 4096), 0);
	cache_file_put(f);
	cache_close(c);
}
END_TEST

START_TEST(a_complete_file_is_handed_out_with_all_its_bytes_and_then_stays_as_it_is)
{
	struct cache *c = open_cache(16 * MIB);
	struct cache_file *f = get(c, 1);
	uint8_t bytes[64 * KIB], expected[64 * KIB];
	struct stat st;
	int fd;

	/* 0-16K, a hole, 32-48K, a hole to 64K. */
	ck_assert_int_eq(cache_file_expose(f, first, 0), -ENODATA);
	ck_assert_int_eq(put_bytes(f, 1, first, 0, 48 * KIB), 0);
	ck_assert(!cache_file_complete(f, first, 64 * KIB));
	ck_assert_int_eq(cache_file_expose(f, first, 64 * KIB), -ENODATA);
	/* Punched by this host: the bytes are still on disk, until somebody else looks. */
	cache_file_move(f, first, second, 16 * KIB, 16 * KIB);
	ck_assert_int_eq(cache_file_zero(f, second, 16 * KIB, 16 * KIB), 0);
	ck_assert_int_eq(cache_file_zero(f, second, 48 * KIB, 16 * KIB), 0);
	ck_assert(cache_file_complete(f, second, 64 * KIB));
	ck_assert(!cache_file_complete(f, first, 64 * KIB));
	ck_assert_int_eq(cache_file_expose(f, first, 64 * KIB), -ENODATA);
	fd = cache_file_expose(f, second, 64 * KIB);
	ck_assert_int_ge(fd, 0);
	memset(expected, 0, sizeof(expected));
	fill(expected, 16 * KIB, 1, first, 0);
	fill(expected + 32 * KIB, 16 * KIB, 1, first, 32 * KIB);
	ck_assert_int_eq(pread(fd, bytes, sizeof(bytes), 0), sizeof(bytes));
	ck_assert_int_eq(memcmp(bytes, expected, sizeof(bytes)), 0);
	ck_assert_int_eq(fstat(fd, &st), 0);
	ck_assert_int_eq(st.st_size, 64 * KIB);
	/* Attributes that changed leave it alone; bytes that did do not reach it. */
	cache_file_move(f, second, third, 0, 0);
	ck_assert(cache_file_complete(f, third, 64 * KIB));
	cache_file_move(f, third, (struct change){ 1, 13 }, 0, 4 * KIB);
	ck_assert(!cache_file_complete(f, (struct change){ 1, 13 }, 64 * KIB));
	ck_assert_int_eq(put_bytes(f, 1, (struct change){ 1, 13 }, 0, 64 * KIB), 0);
	ck_assert_int_eq(pread(fd, bytes, sizeof(bytes), 0), sizeof(bytes));
	ck_assert_int_eq(memcmp(bytes, expected, sizeof(bytes)), 0);
	close(fd);
	cache_file_put(f);
	cache_close(c);
}
END_TEST

START_TEST(a_drop_removes_the_file)
{
	struct cache *c = open_cache(16 * MIB);
	struct cache_file *f = get(c, 1);

	ck_assert_int_eq(put_bytes(f, 1, first, 0, 20000), 0);
	ck_assert_uint_eq(objects_on_disk(), 1);
	cache_file_drop(f);
	ck_assert_uint_eq(objects_on_disk(), 0);
	ck_assert_uint_eq(counters(c).bytes, 0);
	cache_file_put(f);
	cache_flush(c);
	ck_assert_uint_eq(counters(c).files, 0);
	cache_close(c);
}
END_TEST

START_TEST(what_is_used_again_stays_and_what_is_pinned)
{
	struct cache *c = without_flusher(open_cache(MIB));
	struct cache_file *held = get(c, 0), *f;
	unsigned left = 0;

	ck_assert_int_eq(put_bytes(held, 0, first, 0, 200 * KIB), 0);
	cache_file_pin(held);
	cache_file_pin(held);
	for (uint32_t n = 1; n < 20; n++) {
		f = get(c, n);
		ck_assert_int_eq(put_bytes(f, n, first, 0, 80 * KIB), 0);
		ck_assert_uint_eq(got_bytes(f, n, first, 0, 80 * KIB), 80 * KIB);
		cache_file_put(f);
		f = get(c, 1); /* used again and again */
		ck_assert_uint_eq(got_bytes(f, 1, first, 0, 80 * KIB), 80 * KIB);
		cache_file_put(f);
	}
	ck_assert_uint_eq(got_bytes(held, 0, first, 0, 200 * KIB), 200 * KIB);
	for (uint32_t n = 2; n < 20; n++) {
		f = get(c, n);
		left += got_bytes(f, n, first, 0, 4096) > 0;
		cache_file_put(f);
	}
	ck_assert_uint_gt(left, 3);
	ck_assert_uint_gt(counters(c).evicted_files, 8);
	/* Nothing but pinned files: not admitted, and nothing is lost. */
	cache_file_unpin(held);
	ck_assert_int_eq(put_bytes(held, 0, first, 200 * KIB, MIB), -ENOSPC);
	ck_assert_uint_ge(counters(c).not_admitted, 1);
	ck_assert_uint_eq(got_bytes(held, 0, first, 0, 200 * KIB), 200 * KIB);
	cache_file_unpin(held);
	/* Now it is a file like any other, though it is referenced: others that are read go before. */
	for (uint32_t n = 0; n < 1000 && change_known(cache_file_change(held)); n++) {
		f = get(c, 30 + n % 20);
		ck_assert_int_eq(put_bytes(f, 30 + n % 20, first, 0, 80 * KIB), 0);
		ck_assert_uint_eq(got_bytes(f, 30 + n % 20, first, 0, 80 * KIB), 80 * KIB);
		cache_file_put(f);
	}
	ck_assert_uint_eq(got_bytes(held, 0, first, 0, 200 * KIB), 0);
	ck_assert_int_eq(put_bytes(held, 0, first, 0, 80 * KIB), 0);
	ck_assert_uint_eq(got_bytes(held, 0, first, 0, 200 * KIB), 80 * KIB);
	cache_file_put(held);
	cache_close(c);
}
END_TEST

START_TEST(files_that_are_known_make_room)
{
	struct cache *c = without_flusher(open_cache(8 * MIB));
	struct cache_file *files[40];
	unsigned cached = 0;

	for (uint32_t n = 0; n < 40; n++) {
		files[n] = get(c, n);
		ck_assert_int_eq(put_bytes(files[n], n, first, 0, 512 * KIB), 0);
	}
	ck_assert_uint_eq(counters(c).not_admitted, 0);
	ck_assert_uint_gt(counters(c).evicted_files, 20);
	for (uint32_t n = 0; n < 40; n++) {
		size_t got = got_bytes(files[n], n, first, 0, 512 * KIB);

		ck_assert(got == 0 || got == 512 * KIB);
		ck_assert(change_known(cache_file_change(files[n])) == (got > 0));
		cached += got > 0;
		cache_file_put(files[n]);
	}
	ck_assert_uint_ge(cached, 13);
	cache_close(c);
}
END_TEST

START_TEST(a_file_larger_than_the_cache_keeps_its_beginning)
{
	struct cache *c = without_flusher(open_cache(4 * MIB));
	struct cache_file *f = get(c, 1);
	char ranges[64];

	for (int round = 0; round < 2; round++) {
		for (uint64_t i = 0; i < 16; i++)
			ck_assert_int_eq(put_bytes(f, 1, first, i * 512 * KIB, 512 * KIB),
					 i < 7 ? 0 : -ENOSPC);
		ck_assert_uint_eq(cache_file_ranges(f, first, ranges, sizeof(ranges)),
				  7 * 512 * KIB);
		ck_assert_str_eq(ranges, "0-3670016");
	}
	cache_file_put(f);
	cache_close(c);
}
END_TEST

START_TEST(a_smaller_cap_is_held_from_the_start)
{
	struct cache *c = open_cache(16 * MIB);

	for (uint32_t n = 0; n < 20; n++) {
		struct cache_file *f = get(c, n);

		ck_assert_int_eq(put_bytes(f, n, first, 0, 100 * KIB), 0);
		cache_file_put(f);
	}
	cache_close(c);
	c = open_cache(MIB);
	ck_assert_uint_le(counters(c).bytes, MIB);
	ck_assert_uint_gt(counters(c).files, 4);
	objects_on_disk();
	ck_assert_uint_le(found_bytes + found_count * CACHE_FILE_OVERHEAD_BYTES, MIB);
	cache_close(c);
}
END_TEST

enum { CAP_THREADS = 4, CAP_FILES = 48 };
static const uint64_t cap = 3 * MIB;

struct worker {
	struct cache *cache;
	pthread_t thread;
	unsigned seed;
	const char *failure;
};

static void *write_read_drop(void *argument)
{
	struct worker *w = argument;
	uint8_t *data = malloc(128 * KIB), *expected = malloc(128 * KIB);

	for (int step = 0; step < 600 && !w->failure; step++) {
		uint32_t n = (uint32_t)rand_r(&w->seed) % CAP_FILES;
		struct handle h = handle_of(n);
		struct cache_file *f = cache_file_get(w->cache, 0, &h);
		struct change change = { 1, 1 + (uint64_t)(rand_r(&w->seed) % 3 == 0) };
		uint64_t offset = (uint64_t)rand_r(&w->seed) % (200 * KIB);
		size_t length = (size_t)rand_r(&w->seed) % (128 * KIB) + 1, got;
		int rc;

		if (!f) {
			w->failure = "no file";
			break;
		}
		fill(data, length, n, change, offset);
		rc = cache_file_write(f, change, offset, data, length);
		if (rc != 0 && rc != -ENOSPC && rc != -ESTALE)
			w->failure = "write";
		change = cache_file_change(f);
		got = cache_file_read(f, change, offset, data, length);
		fill(expected, got, n, change, offset);
		if (memcmp(data, expected, got) != 0)
			w->failure = "bytes of another change or file";
		if (step % 37 == 0)
			cache_file_drop(f);
		if (step % 41 == 0)
			cache_file_move(f, change, (struct change){ 1, 100 + (uint64_t)step }, 0,
					UINT64_MAX);
		if (step % 101 == 0)
			cache_flush(w->cache);
		cache_file_put(f);
	}
	free(data);
	free(expected);
	return NULL;
}

static atomic_bool watch_stop;
static bool own_disk; /* the cache has a file system of its own, which knows what it uses */

/* In a mount namespace of this test. False, loudly: not possible here. */
static bool mount_tmpfs(const char *options, const char *what)
{
	if (!own_mounts() || mount("tmpfs", directory, "tmpfs", 0, options) < 0) {
		fprintf(stderr, "SKIPPED: %s needs root and a mount namespace\n", what);
		return false;
	}
	if (setxattr(directory, "user.probe", "1", 1, 0) == 0)
		return true;
	fprintf(stderr, "SKIPPED: %s needs a tmpfs with user xattrs\n", what);
	umount2(directory, MNT_DETACH);
	return false;
}

/* Bytes of the file system in use. A walk over files that come and go would count some twice. */
static uint64_t disk_bytes(void)
{
	struct statvfs vfs;

	return statvfs(directory, &vfs) < 0 ? 0 : (vfs.f_blocks - vfs.f_bfree) * vfs.f_bsize;
}

static void *watch_cap(void *argument)
{
	struct worker *w = argument;

	while (!atomic_load(&watch_stop) && !w->failure) {
		if (counters(w->cache).bytes > cap)
			w->failure = "the account is above the cap";
		if (own_disk && disk_bytes() > cap)
			w->failure = "the disk is above the cap";
		usleep(1000);
	}
	return NULL;
}

START_TEST(the_cap_holds_under_parallel_writers)
{
	struct worker workers[CAP_THREADS + 1] = { 0 };
	struct cache_file *known[CAP_FILES];
	struct cache *c;

	own_disk = mount_tmpfs("size=64m", "watching the disk under the cap");
	c = open_cache(cap);
	/* As in a mount, somebody knows every second file all the while. */
	for (uint32_t n = 0; n < CAP_FILES; n += 2)
		known[n] = get(c, n);
	for (unsigned i = 0; i <= CAP_THREADS; i++) {
		workers[i].cache = c;
		workers[i].seed = i + 1;
		ck_assert_int_eq(pthread_create(&workers[i].thread, NULL,
						i < CAP_THREADS ? write_read_drop : watch_cap,
						&workers[i]), 0);
	}
	for (unsigned i = 0; i <= CAP_THREADS; i++) {
		atomic_store(&watch_stop, i == CAP_THREADS);
		pthread_join(workers[i].thread, NULL);
		ck_assert_msg(!workers[i].failure, "worker %u: %s", i, workers[i].failure);
	}
	for (uint32_t n = 0; n < CAP_FILES; n += 2)
		cache_file_put(known[n]);
	cache_flush(c);
	objects_on_disk();
	ck_assert_uint_le(found_bytes, counters(c).bytes);
	ck_assert_uint_gt(counters(c).evicted_files, 0);
	ck_assert_uint_eq(counters(c).dropped_errors, 0);
	ck_assert_uint_eq(counters(c).dropped_corrupt, 0);
	cache_close(c);
	/* The account was right: a new scan finds no more than it said. */
	c = open_cache(cap);
	ck_assert_uint_le(counters(c).bytes, cap);
	cache_close(c);
	if (own_disk)
		ck_assert_int_eq(umount2(directory, MNT_DETACH), 0);
}
END_TEST

START_TEST(a_full_disk_costs_speed_and_no_answer)
{
	struct cache *c;
	struct cache_file *f;
	unsigned admitted = 0;

	if (!mount_tmpfs("size=2m", "a full disk"))
		return;
	c = without_flusher(open_cache(64 * MIB));
	for (uint32_t n = 0; n < 40; n++) {
		int rc;

		f = get(c, n);
		rc = put_bytes(f, n, first, 0, 100 * KIB);
		ck_assert(rc == 0 || rc == -ENOSPC);
		admitted += rc == 0;
		ck_assert_uint_eq(got_bytes(f, n, first, 0, 100 * KIB), rc == 0 ? 100 * KIB : 0);
		cache_file_put(f);
	}
	ck_assert_uint_gt(admitted, 10);
	ck_assert_uint_gt(counters(c).evicted_files + counters(c).not_admitted, 0);
	cache_flush(c);
	admitted = 0;
	for (uint32_t n = 0; n < 40; n++) {
		size_t got;

		f = get(c, n);
		got = got_bytes(f, n, first, 0, 100 * KIB);
		ck_assert(got == 0 || got == 100 * KIB);
		admitted += got > 0;
		cache_file_put(f);
	}
	ck_assert_uint_gt(admitted, 7);
	ck_assert_uint_eq(counters(c).disk_full, 0);
	cache_close(c);
	ck_assert_int_eq(umount2(directory, MNT_DETACH), 0);
}
END_TEST

static void wait_for_the_scan(struct cache *c)
{
	while (counters(c).scanning)
		usleep(1000);
}

START_TEST(a_large_cache_is_used_before_it_is_scanned)
{
	const struct cache_limits limits = { .bytes_max = 64 * MIB, .files_max = 1000,
					     .scan_first = 1 };
	const struct cache_limits less = { .bytes_max = MIB, .files_max = 1000, .scan_first = 1 };
	struct cache *c = open_limited(&limits);
	struct cache_file *f;
	uint64_t bytes;

	for (uint32_t n = 0; n < 300; n++) {
		f = get(c, n);
		ck_assert_int_eq(put_bytes(f, n, first, 0, 20000), 0);
		cache_file_put(f);
	}
	cache_flush(c);
	bytes = counters(c).bytes;
	cache_close(c);
	for (uint32_t n = 0; n < 300; n += 150) { /* the first one hardly finds it scanned */
		c = open_limited(&limits);
		for (uint32_t i = 0; i < 300; i++) {
			f = get(c, (n + i) % 300);
			ck_assert_uint_eq(got_bytes(f, (n + i) % 300, first, 0, 20000), 20000);
			if (i == 0)
				cache_file_drop(f);
			cache_file_put(f);
		}
		wait_for_the_scan(c);
		cache_flush(c);
		/* A file that goes while it is scanned is counted until it is looked for. */
		ck_assert_uint_ge(counters(c).files, 299);
		ck_assert_uint_eq(objects_on_disk(), 299);
		ck_assert_uint_le(found_bytes, counters(c).bytes);
		ck_assert_uint_le(counters(c).bytes, bytes + 40000);
		f = get(c, n);
		ck_assert_int_eq(put_bytes(f, n, first, 0, 20000), 0);
		cache_file_put(f);
		ck_assert_uint_eq(counters(c).dropped_corrupt + counters(c).dropped_errors, 0);
		cache_close(c);
	}
	/* As much as the scan may find is not given away. */
	c = open_limited(&less);
	f = get(c, 1000);
	(void)!put_bytes(f, 1000, first, 0, 50000);
	wait_for_the_scan(c);
	cache_file_put(f);
	cache_flush(c);
	ck_assert_uint_le(counters(c).bytes, MIB);
	ck_assert_uint_gt(counters(c).files, 10);
	ck_assert_uint_le(objects_on_disk(), counters(c).files);
	cache_close(c);
}
END_TEST

START_TEST(only_so_many_inodes_are_taken)
{
	const struct cache_limits limits = { .bytes_max = 64 * MIB, .files_max = 20 };
	struct cache *c = without_flusher(open_limited(&limits));
	struct cache_file *f;
	unsigned cached = 0;

	for (uint32_t n = 0; n < 60; n++) {
		f = get(c, n);
		ck_assert_int_eq(put_bytes(f, n, first, 0, 4096), 0);
		ck_assert_uint_le(counters(c).files, 20);
		ck_assert_uint_le(objects_on_disk(), 20);
		cache_file_put(f);
	}
	for (uint32_t n = 0; n < 60; n++) {
		f = get(c, n);
		cached += got_bytes(f, n, first, 0, 4096) > 0;
		cache_file_put(f);
	}
	ck_assert_uint_eq(cached, 20);
	cache_close(c);
	c = open_limited(&(struct cache_limits){ .bytes_max = 64 * MIB, .files_max = 10 });
	ck_assert_uint_eq(counters(c).files, 10);
	ck_assert_uint_eq(objects_on_disk(), 10);
	cache_close(c);
}
END_TEST

/* Free bytes of the cache's file system. */
static uint64_t free_bytes(void)
{
	struct statvfs vfs;

	ck_assert_int_eq(statvfs(directory, &vfs), 0);
	return vfs.f_bavail * vfs.f_frsize;
}

/* The same, when all is written that is to be written. */
static uint64_t settled_free_bytes(void)
{
	int fd = open(directory, O_RDONLY | O_DIRECTORY);

	ck_assert_int_eq(syncfs(fd), 0);
	close(fd);
	return free_bytes();
}

START_TEST(space_that_others_need_stays_free)
{
	const struct cache_limits limits = { .bytes_max = 64 * MIB, .files_max = 1000,
					     .free_bytes_min = 6 * MIB };
	char path[PATH_MAX];
	struct cache_file *f;
	struct cache *c;
	int fd;

	if (!mount_tmpfs("size=16m", "a small disk"))
		return;
	c = without_flusher(open_limited(&limits));
	for (int round = 0; round < 3; round++) {
		for (uint32_t n = 0; n < 64; n++) {
			f = get(c, n);
			ck_assert_int_eq(put_bytes(f, n, first, 0, 300 * KIB), 0);
			ck_assert_uint_ge(free_bytes(), 6 * MIB);
			cache_file_put(f);
		}
	}
	ck_assert_uint_gt(counters(c).bytes, 8 * MIB);
	ck_assert_uint_eq(counters(c).disk_full, 0);
	/* Another takes room: what is cached goes for it. */
	snprintf(path, sizeof(path), "%s/other", directory);
	fd = open(path, O_CREAT | O_WRONLY, 0600);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(posix_fallocate(fd, 0, 6 * MIB), 0);
	ck_assert_uint_lt(free_bytes(), 6 * MIB);
	cache_flush(c);
	ck_assert_uint_ge(free_bytes(), 6 * MIB);
	ck_assert_uint_gt(counters(c).bytes, 2 * MIB);
	close(fd);
	cache_close(c);
	ck_assert_int_eq(umount2(directory, MNT_DETACH), 0);
}
END_TEST

/* ---- a file system of the cache's own, little larger than its cap ---- */

enum { DISK_THREADS = 4, DISK_FILES = 96, DISK_STEPS = 250 };

static void *fill_disk(void *argument)
{
	struct worker *w = argument;
	uint8_t *data = malloc(MIB), *expected = malloc(MIB);

	for (int step = 0; step < DISK_STEPS && !w->failure; step++) {
		uint32_t n = (uint32_t)rand_r(&w->seed) % DISK_FILES;
		uint64_t offset = (uint64_t)rand_r(&w->seed) % (3 * MIB);
		size_t length = (size_t)rand_r(&w->seed) % MIB + 1, got;
		struct handle h = handle_of(n);
		struct cache_file *f = cache_file_get(w->cache, 0, &h);
		int rc;

		fill(data, length, n, first, offset);
		rc = cache_file_write(f, first, offset, data, length);
		if (rc != 0 && rc != -ENOSPC)
			w->failure = "write";
		got = cache_file_read(f, first, offset, data, length);
		fill(expected, got, n, first, offset);
		if (memcmp(data, expected, got) != 0)
			w->failure = "wrong bytes";
		if (step % 50 == 0)
			cache_file_drop(f);
		cache_file_put(f);
	}
	free(data);
	free(expected);
	return NULL;
}

static const struct {
	const char *name, *make;
	uint64_t bytes, margin_share;
} disks[] = {
	{ "ext4", "mkfs.ext4 -q -m 0", 64 * MIB, 32 },
	{ "xfs", "mkfs.xfs -q --unsupported", 96 * MIB, 16 },
	{ "btrfs", "mkfs.btrfs -q", 160 * MIB, 32 },
	{ "btrfs, mixed", "mkfs.btrfs -q --mixed", 128 * MIB, 32 },
};

/* Makes and mounts it on the cache's directory. False, loudly: not possible here. */
static bool mount_disk(int i)
{
	char command[3 * PATH_MAX], image[PATH_MAX];
	int fd;

	snprintf(image, sizeof(image), "%s/disk", getenv("TMPDIR"));
	fd = open(image, O_CREAT | O_RDWR | O_TRUNC, 0600);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(ftruncate(fd, (off_t)disks[i].bytes), 0);
	close(fd);
	snprintf(command, sizeof(command), "(%s %s && mount -o loop %s %s) >/dev/null 2>&1",
		 disks[i].make, image, image, directory);
	if (own_mounts() && system(command) == 0)
		return true;
	fprintf(stderr, "SKIPPED: a disk with %s needs root, its mkfs and a loop device\n",
		disks[i].name);
	unlink(image);
	return false;
}

enum { DISKS = sizeof(disks) / sizeof(disks[0]) };

/* In the second round the cap is above what there is, so that the free space is the limit. */
START_TEST(no_write_meets_a_full_disk)
{
	struct worker workers[DISK_THREADS] = { 0 };
	struct cache_limits limits = { .files_max = 1000 };
	int disk = _i % DISKS;
	uint64_t space;
	struct cache *c;

	if (!mount_disk(disk))
		return;
	space = free_bytes();
	limits.bytes_max = _i < DISKS ? space - space / disks[disk].margin_share : 2 * space;
	c = open_limited(&limits);
	for (unsigned i = 0; i < DISK_THREADS; i++) {
		workers[i].cache = c;
		workers[i].seed = i + 1;
		ck_assert_int_eq(pthread_create(&workers[i].thread, NULL, fill_disk, &workers[i]),
				 0);
	}
	for (unsigned i = 0; i < DISK_THREADS; i++) {
		pthread_join(workers[i].thread, NULL);
		ck_assert_msg(!workers[i].failure, "worker %u: %s", i, workers[i].failure);
	}
	cache_flush(c);
	ck_assert_uint_le(counters(c).bytes, limits.bytes_max);
	ck_assert_uint_gt(counters(c).bytes, space / 2);
	ck_assert_uint_gt(counters(c).evicted_files, 10);
	ck_assert_uint_eq(counters(c).disk_full, 0);
	ck_assert_uint_eq(counters(c).record_errors, 0);
	ck_assert_uint_eq(counters(c).dropped_errors, 0);
	/* What is taken is what is counted. */
	for (int waits = 0; waits < 1000 && space - settled_free_bytes() > counters(c).bytes + MIB; waits++)
		usleep(10000);
	ck_assert_uint_le(space - settled_free_bytes(), counters(c).bytes + MIB);
	cache_close(c);
	c = open_limited(&limits);
	ck_assert_uint_le(counters(c).bytes, limits.bytes_max);
	ck_assert_uint_gt(counters(c).files, 5);
	cache_close(c);
	ck_assert_int_eq(umount2(directory, 0), 0);
}
END_TEST

START_TEST(many_ranges_stay_in_memory_and_the_largest_in_the_record)
{
	struct cache *c = open_cache(64 * MIB);
	struct cache_file *f = get(c, 1);
	char byte = 1;

	for (uint64_t i = 0; i < 1000; i++)
		ck_assert_int_eq(cache_file_write(f, first, i * 4096, &byte, 1), 0);
	ck_assert_int_eq(put_bytes(f, 1, first, 8 * MIB, 4096), 0);
	ck_assert(cache_file_covers(f, first, 999 * 4096, 1));
	cache_file_put(f);
	cache_close(c);
	c = open_cache(64 * MIB);
	f = get(c, 1);
	ck_assert_uint_eq(cache_file_ranges(f, first, NULL, 0), 4096 + CACHE_RECORD_RANGES_MAX - 1);
	ck_assert_uint_eq(got_bytes(f, 1, first, 8 * MIB, 4096), 4096);
	cache_file_put(f);
	cache_close(c);
}
END_TEST

static TCase *cache_case(void)
{
	TCase *tcase = tcase_create("cache");

	tcase_set_timeout(tcase, 240);
	tcase_add_checked_fixture(tcase, setup, teardown);
	tcase_add_test(tcase, what_is_cached_is_read_and_nothing_else);
	tcase_add_test(tcase, equal_handles_of_two_exports_have_bytes_of_their_own);
	tcase_add_test(tcase, a_clean_stop_loses_nothing);
	tcase_add_test(tcase, after_sigkill_what_was_flushed_is_there);
	tcase_add_test(tcase, a_damaged_record_is_dropped_and_counted);
	tcase_add_test(tcase, a_record_of_another_file_is_dropped_and_counted);
	tcase_add_test(tcase, a_truncated_file_is_dropped_and_counted);
	tcase_add_test(tcase, a_file_with_a_hole_where_bytes_should_be_is_dropped_and_counted);
	tcase_add_test(tcase, a_deleted_file_and_one_without_a_record_are_as_if_never_cached);
	tcase_add_test(tcase, a_file_truncated_under_us_is_never_read_short_or_as_zeros);
	tcase_add_test(tcase, foreign_files_are_removed_and_a_foreign_directory_is_refused);
	tcase_add_test(tcase, two_mounts_cannot_share_a_cache);
	tcase_add_test(tcase, bytes_of_a_superseded_change_are_refused);
	tcase_add_test(tcase, a_move_keeps_what_the_modification_did_not_touch);
	tcase_add_test(tcase, zeros_of_a_hole_are_remembered_without_room);
	tcase_add_test(tcase, a_move_that_comes_behind_the_next_one_harms_nothing);
	tcase_add_test(tcase, a_complete_file_is_handed_out_with_all_its_bytes_and_then_stays_as_it_is);
	tcase_add_test(tcase, a_drop_removes_the_file);
	tcase_add_test(tcase, what_is_used_again_stays_and_what_is_pinned);
	tcase_add_test(tcase, files_that_are_known_make_room);
	tcase_add_test(tcase, a_file_larger_than_the_cache_keeps_its_beginning);
	tcase_add_test(tcase, a_smaller_cap_is_held_from_the_start);
	tcase_add_test(tcase, the_cap_holds_under_parallel_writers);
	tcase_add_test(tcase, a_full_disk_costs_speed_and_no_answer);
	tcase_add_test(tcase, a_large_cache_is_used_before_it_is_scanned);
	tcase_add_test(tcase, only_so_many_inodes_are_taken);
	tcase_add_test(tcase, space_that_others_need_stays_free);
	tcase_add_loop_test(tcase, no_write_meets_a_full_disk, 0, 2 * DISKS);
	tcase_add_test(tcase, many_ranges_stay_in_memory_and_the_largest_in_the_record);
	return tcase;
}

UNIT_MAIN("cache", cache_case)
