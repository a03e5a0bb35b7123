/* unit.h - the few lines that every Check program needs: one suite, run, exit status. */
#ifndef TESTS_UNIT_UNIT_H
#define TESTS_UNIT_UNIT_H

#include <check.h>
#include <stdlib.h>

/* Defines main(): runs the TCase that `make_case` returns. TAP goes where meson asks for it. */
#define UNIT_MAIN(name, make_case)                                      \
	int main(void)                                                  \
	{                                                               \
		Suite *suite = suite_create(name);                      \
		SRunner *runner = srunner_create(suite);                \
		int failed;                                             \
                                                                        \
		suite_add_tcase(suite, make_case());                    \
		srunner_run_all(runner, CK_ENV);                        \
		failed = srunner_ntests_failed(runner);                 \
		srunner_free(runner);                                   \
		return failed ? EXIT_FAILURE : EXIT_SUCCESS;            \
	}

#endif
