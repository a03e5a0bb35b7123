/* What the page cache gives up behind who reads a file in order, and that nothing depends on it. */
#include "unit.h"

#include <fcntl.h>
#include <ftw.h>
#include <linux/magic.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "fs/cache/internal.h"

#define MIB (UINT64_C(1) << 20)
#define FILE_MIB 80u /* a step more than is kept behind who reads */
#define BASE CACHE_BEHIND_FROM_BYTES
#define WAIT_MS 60000u

static char directory[128];
static const struct change change = { 1, 10 };

static int remove_entry(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	return remove(path);
}

static void setup(void)
{
	snprintf(directory, sizeof(directory), "%s/behind-XXXXXX", getenv("TMPDIR"));
	ck_assert_ptr_nonnull(mkdtemp(directory));
}

static void teardown(void)
{
	nftw(directory, remove_entry, 16, FTW_DEPTH | FTW_PHYS);
}

static struct cache *open_it(void)
{
	char text[256];
	struct cache *c = NULL;
	int rc = cache_open(directory, 1024 * MIB, &c, text, sizeof(text));

	ck_assert_msg(rc == 0, "%s", text);
	return c;
}

static struct cache_file *filled(struct cache *c)
{
	const struct handle h = { .length = 20, .bytes = { 1 } };
	struct cache_file *f = cache_file_get(c, 0, &h);
	uint8_t *data = malloc(MIB);

	ck_assert_ptr_nonnull(f);
	ck_assert_ptr_nonnull(data);
	for (unsigned i = 0; i < FILE_MIB; i++) {
		memset(data, (int)i + 1, MIB);
		ck_assert_int_eq(cache_file_write(f, change, BASE + i * MIB, data, MIB), 0);
	}
	free(data);
	ck_assert_int_eq(cache_file_zero(f, change, 0, BASE), 0);
	return f;
}

static void read_past(struct cache_file *f)
{
	for (unsigned i = 0; i < FILE_MIB; i++)
		cache_file_behind(f, BASE + i * MIB, BASE + (i + 1) * MIB);
}

/* Pages of that MiB that are in memory. */
static unsigned resident(struct cache *c, const struct cache_file *f, unsigned mib)
{
	unsigned char pages[MIB / 4096];
	char name[CACHE_NAME_BYTES];
	unsigned count = 0;
	void *map;
	int fd;

	cache_file_name(f, name);
	fd = openat(c->objects_fd, name, O_RDONLY | O_CLOEXEC);
	ck_assert_int_ge(fd, 0);
	map = mmap(NULL, MIB, PROT_READ, MAP_SHARED, fd, (off_t)(BASE + mib * MIB));
	ck_assert_ptr_ne(map, MAP_FAILED);
	ck_assert_int_eq(mincore(map, MIB, pages), 0);
	for (size_t i = 0; i < sizeof(pages); i++)
		count += pages[i] & 1;
	munmap(map, MIB);
	close(fd);
	return count;
}

static bool in_memory_only(void)
{
	struct statfs st;

	return statfs(directory, &st) == 0 && st.f_type == TMPFS_MAGIC;
}

START_TEST(what_lies_far_behind_is_given_up_and_read_again_from_the_disk)
{
	struct cache *c = open_it();
	struct cache_file *f = filled(c);
	uint8_t byte[2];

	for (unsigned ms = 0; !in_memory_only() && resident(c, f, 0) > 0; ms += 100) {
		ck_assert_uint_lt(ms, WAIT_MS);
		read_past(f);
		usleep(100000);
	}
	for (unsigned i = 0; i < FILE_MIB; i++) {
		ck_assert_uint_eq(cache_file_read(f, change, BASE + (i + 1) * MIB - 1, byte, 2),
				  i + 1 < FILE_MIB ? 2 : 1);
		ck_assert_uint_eq(byte[0], i + 1);
	}
	cache_file_put(f);
	cache_close(c);
}
END_TEST

START_TEST(a_file_that_goes_meanwhile_is_out_of_the_account)
{
	struct cache *c = open_it();
	struct cache_file *f = filled(c);
	struct cache_counters counters;

	read_past(f);
	cache_file_drop(f);
	read_past(f);
	cache_file_put(f);
	cache_behind_stop(c);
	cache_flush(c);
	cache_counters(c, &counters);
	ck_assert_uint_eq(counters.bytes, 0);
	ck_assert_uint_eq(counters.files, 0);
	cache_close(c);
}
END_TEST

START_TEST(what_others_read_themselves_stays)
{
	struct cache *c = open_it();
	struct cache_file *f = filled(c);
	int fd;

	cache_file_pin(f);
	fd = cache_file_expose(f, change, BASE + FILE_MIB * MIB);
	ck_assert_int_ge(fd, 0);
	cache_flush(c);
	read_past(f);
	cache_behind_stop(c);
	/* The machine may be short of memory, but not for all of it at that moment. */
	ck_assert_uint_gt(resident(c, f, 0) + resident(c, f, 1) + resident(c, f, 2), 0);
	close(fd);
	cache_file_unpin(f);
	cache_file_put(f);
	cache_close(c);
}
END_TEST

START_TEST(more_than_fits_the_queue_is_left_out_and_the_end_waits_for_what_is_in_it)
{
	struct cache *c = open_it();
	struct cache_file *f = filled(c);

	for (unsigned i = 0; i < 4 * CACHE_BEHIND_JOBS; i++)
		cache_file_behind(f, BASE + i, BASE + i + CACHE_BEHIND_STEP_BYTES);
	cache_file_put(f);
	cache_close(c); /* asserts that nothing is referenced any more */
}
END_TEST

static TCase *behind_case(void)
{
	TCase *tcase = tcase_create("cache_behind");

	tcase_set_timeout(tcase, 240);
	tcase_add_checked_fixture(tcase, setup, teardown);
	tcase_add_test(tcase, what_lies_far_behind_is_given_up_and_read_again_from_the_disk);
	tcase_add_test(tcase, a_file_that_goes_meanwhile_is_out_of_the_account);
	tcase_add_test(tcase, what_others_read_themselves_stays);
	tcase_add_test(tcase, more_than_fits_the_queue_is_left_out_and_the_end_waits_for_what_is_in_it);
	return tcase;
}

UNIT_MAIN("cache_behind", behind_case)
