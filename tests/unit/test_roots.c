/* What is walked, and what is not walked again. */
#include "unit.h"

#include "prefetch/roots.h"

static struct roots r;

static void name(uint64_t directory, const char *below, uint64_t stamp)
{
	roots_name(&r, directory, slice_of(below), stamp);
}

static uint64_t next(uint64_t directory, const char *below)
{
	const struct root *root = roots_next(&r);

	ck_assert(root != NULL);
	ck_assert_uint_eq(root->directory, directory);
	ck_assert_uint_eq(root->below_length, strlen(below));
	ck_assert(memcmp(root->below, below, strlen(below)) == 0);
	return root->number;
}

START_TEST(each_is_walked_once)
{
	uint64_t a, b;

	r = (struct roots){ 0 };
	roots_begin(&r);
	name(1, "a/b", 7);
	name(1, "c", 7);
	name(1, "a/b", 7);
	roots_end(&r);
	a = next(1, "a/b");
	roots_begin(&r);
	name(1, "a/b", 7);
	name(2, "", 9);
	name(1, "c", 7);
	roots_end(&r);
	b = next(1, "c");
	ck_assert(roots_stands(&r, a) && roots_stands(&r, b) && !roots_stands(&r, 0));
	(void)next(2, "");
	ck_assert(!roots_next(&r));
	/* Its policy is another: again. What is not named any more is gone. */
	roots_begin(&r);
	name(1, "a/b", 8);
	roots_end(&r);
	ck_assert(!roots_stands(&r, a) && !roots_stands(&r, b));
	ck_assert(next(1, "a/b") != a);
	ck_assert(!roots_next(&r));
	roots_begin(&r);
	roots_end(&r);
	roots_begin(&r);
	name(1, "a/b", 8);
	roots_end(&r);
	(void)next(1, "a/b");
}
END_TEST

START_TEST(a_path_that_is_too_long_is_cut_between_parts)
{
	char path[601];

	r = (struct roots){ 0 };
	memset(path, 'x', 600);
	path[600] = '\0';
	roots_begin(&r);
	name(1, path, 1);
	path[255] = '/';
	name(2, path, 1);
	path[255] = 'x';
	path[100] = '/';
	name(3, path, 1);
	roots_end(&r);
	(void)next(1, "");
	ck_assert_uint_eq(roots_next(&r)->below_length, 255);
	ck_assert_uint_eq(roots_next(&r)->below_length, 100);
}
END_TEST

START_TEST(of_too_many_the_later_ones_are_left)
{
	r = (struct roots){ 0 };
	roots_begin(&r);
	for (uint64_t i = 0; i < ROOTS_MAX + 3; i++)
		name(i, "a", 1);
	roots_end(&r);
	ck_assert_uint_eq(r.dropped, 3);
	for (uint64_t i = 0; i < ROOTS_MAX; i++)
		(void)next(i, "a");
	ck_assert(!roots_next(&r));
}
END_TEST

static TCase *roots_case(void)
{
	TCase *tcase = tcase_create("roots");

	tcase_add_test(tcase, each_is_walked_once);
	tcase_add_test(tcase, a_path_that_is_too_long_is_cut_between_parts);
	tcase_add_test(tcase, of_too_many_the_later_ones_are_left);
	return tcase;
}

UNIT_MAIN("roots", roots_case)
