#include "unit.h"

#include "lease/base/rng.h"

START_TEST(equal_seeds_give_equal_sequences_and_others_do_not)
{
	struct rng a, b, c;
	int equal = 0;

	rng_init(&a, 1);
	rng_init(&b, 1);
	rng_init(&c, 2);
	for (int i = 0; i < 100; i++) {
		uint64_t value = rng_next(&a);

		ck_assert_uint_eq(value, rng_next(&b));
		equal += value == rng_next(&c);
	}
	ck_assert_int_eq(equal, 0);
}
END_TEST

START_TEST(the_state_is_advanced_as_published)
{
	/* xoshiro256** from the state {1, 2, 3, 4}, as its authors' reference code gives it. */
	struct rng rng = { { 1, 2, 3, 4 } };

	ck_assert_uint_eq(rng_next(&rng), 11520);
	ck_assert_uint_eq(rng_next(&rng), 0);
	ck_assert_uint_eq(rng_next(&rng), 1509978240);
	ck_assert_uint_eq(rng_next(&rng), 1215971899390074240);
}
END_TEST

START_TEST(a_bound_is_kept_and_every_value_below_it_comes)
{
	struct rng rng;
	int counts[7] = { 0 };

	rng_init(&rng, 3);
	for (int i = 0; i < 7000; i++)
		counts[rng_below(&rng, 7)]++;
	for (int i = 0; i < 7; i++)
		ck_assert_int_gt(counts[i], 800);
	ck_assert_uint_eq(rng_below(&rng, 1), 0);
	ck_assert_uint_eq(rng_below(&rng, 0), 0);
}
END_TEST

static TCase *rng_case(void)
{
	TCase *tcase = tcase_create("rng");

	tcase_add_test(tcase, equal_seeds_give_equal_sequences_and_others_do_not);
	tcase_add_test(tcase, the_state_is_advanced_as_published);
	tcase_add_test(tcase, a_bound_is_kept_and_every_value_below_it_comes);
	return tcase;
}

UNIT_MAIN("rng", rng_case)
