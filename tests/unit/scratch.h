/* scratch.h - a directory of its own for one test, and its removal. */
#ifndef TESTS_UNIT_SCRATCH_H
#define TESTS_UNIT_SCRATCH_H

#include <check.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define SCRATCH_PATH_BYTES 128

/* Makes it; returns a descriptor of it. */
static inline int scratch_make(char ret_path[SCRATCH_PATH_BYTES])
{
	const char *base = getenv("TMPDIR");
	int fd;

	snprintf(ret_path, SCRATCH_PATH_BYTES, "%s/leasehold-test-XXXXXX",
		 base && *base ? base : "/tmp");
	ck_assert_ptr_nonnull(mkdtemp(ret_path));
	fd = open(ret_path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	ck_assert_int_ge(fd, 0);
	return fd;
}

static inline int scratch_remove_one(const char *path, const struct stat *st, int type,
				     struct FTW *ftw)
{
	return remove(path);
}

static inline void scratch_remove(const char *path, int fd)
{
	close(fd);
	ck_assert_int_eq(nftw(path, scratch_remove_one, 16, FTW_DEPTH | FTW_PHYS), 0);
}

#endif
