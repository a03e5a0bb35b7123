/*
 * unit.h - the few lines that every Check program needs: one suite, run, exit status.
 *
 * The program gets a TMPDIR of its own, which goes when it ends: Check ends a failed or crashed
 * test at once, without its teardown, and what that test had made would stay.
 */
#ifndef TESTS_UNIT_UNIT_H
#define TESTS_UNIT_UNIT_H

#include <check.h>
#include <ftw.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

static char unit_directory[PATH_MAX];

static inline int unit_remove_one(const char *path, const struct stat *st, int type,
				  struct FTW *ftw)
{
	return remove(path);
}

/* Neither follows a link nor enters what is still mounted there. */
static inline void unit_directory_remove(void)
{
	(void)nftw(unit_directory, unit_remove_one, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
}

static inline void unit_directory_make(void)
{
	const char *base = getenv("TMPDIR");

	snprintf(unit_directory, sizeof(unit_directory), "%s/leasehold-unit-XXXXXX",
		 base && *base ? base : "/tmp");
	if (!mkdtemp(unit_directory) || setenv("TMPDIR", unit_directory, 1) != 0) {
		perror(unit_directory);
		exit(EXIT_FAILURE);
	}
}

/* Defines main(): runs the TCase that `make_case` returns. TAP goes where meson asks for it. */
#define UNIT_MAIN(name, make_case)                                      \
	int main(void)                                                  \
	{                                                               \
		Suite *suite = suite_create(name);                      \
		SRunner *runner = srunner_create(suite);                \
		int failed;                                             \
                                                                        \
		unit_directory_make();                                  \
		suite_add_tcase(suite, make_case());                    \
		srunner_run_all(runner, CK_ENV);                        \
		unit_directory_remove();                                \
		failed = srunner_ntests_failed(runner);                 \
		srunner_free(runner);                                   \
		return failed ? EXIT_FAILURE : EXIT_SUCCESS;            \
	}

#endif
