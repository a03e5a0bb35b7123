#include "unit.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "fs/cache/io.h"

#define FILES_MAX 100 /* more than are in flight at a time */

static int fds[FILES_MAX], results[FILES_MAX];

static struct io *begin(const char *wish)
{
	struct io *io;

	ck_assert_int_eq(setenv("LEASEHOLD_IO_URING", wish, 1), 0);
	io = io_create();
	ck_assert_ptr_nonnull(io);
	return io;
}

static void make_files(void)
{
	static const char bytes[8192] = "bytes";
	char path[256];

	for (int i = 0; i < FILES_MAX; i++) {
		snprintf(path, sizeof(path), "%s/%d", getenv("TMPDIR"), i);
		fds[i] = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
		ck_assert_int_ge(fds[i], 0);
		ck_assert_int_eq(write(fds[i], bytes, sizeof(bytes)), sizeof(bytes));
		results[i] = 1;
	}
}

static void close_files(void)
{
	for (int i = 0; i < FILES_MAX; i++)
		close(fds[i]);
}

/* Of each number of files; none is left out, and what lies behind them is not touched. */
static void sync_some(struct io *io)
{
	static const unsigned counts[] = { 0, 1, 2, 31, 32, 33, FILES_MAX };

	for (size_t k = 0; k < sizeof(counts) / sizeof(*counts); k++) {
		for (unsigned i = 0; i < FILES_MAX; i++)
			results[i] = 1;
		io_sync(io, fds, counts[k], results);
		for (unsigned i = 0; i < FILES_MAX; i++)
			ck_assert_int_eq(results[i], i < counts[k] ? 0 : 1);
	}
}

/* A file that cannot be synced is told from the others. */
static void sync_with_errors(struct io *io)
{
	int ends[2], of_file_1 = fds[1], of_file_40 = fds[40];

	ck_assert_int_eq(pipe2(ends, O_CLOEXEC), 0);
	fds[1] = ends[0];
	fds[40] = -1;
	io_sync(io, fds, FILES_MAX, results);
	for (int i = 0; i < FILES_MAX; i++)
		ck_assert_int_eq(results[i], i == 1 ? -EINVAL : i == 40 ? -EBADF : 0);
	fds[1] = of_file_1;
	fds[40] = of_file_40;
	close(ends[0]);
	close(ends[1]);
}

START_TEST(files_are_synced_one_after_the_other)
{
	struct io *io = begin("off");

	ck_assert(!io_has_uring(io));
	make_files();
	sync_some(io);
	sync_with_errors(io);
	close_files();
	io_destroy(io);
}
END_TEST

/* Where there is no ring it does as well, by the other way. */
START_TEST(files_are_synced_at_once)
{
	struct io *io = begin("on");
	bool uring = io_has_uring(io);

	if (!uring)
		fprintf(stderr, "# no io_uring here: the fallback is tested twice\n");
	make_files();
	sync_some(io);
	sync_with_errors(io);
	sync_some(io);
	/* A file's error is no reason to give the ring up. */
	ck_assert_int_eq(io_has_uring(io), uring);
	close_files();
	io_destroy(io);
}
END_TEST

START_TEST(nothing_is_destroyed_twice)
{
	io_destroy(NULL);
	io_destroy(begin("off"));
}
END_TEST

static TCase *io_case(void)
{
	TCase *tcase = tcase_create("io");

	tcase_add_test(tcase, files_are_synced_one_after_the_other);
	tcase_add_test(tcase, files_are_synced_at_once);
	tcase_add_test(tcase, nothing_is_destroyed_twice);
	return tcase;
}

UNIT_MAIN("io", io_case)
