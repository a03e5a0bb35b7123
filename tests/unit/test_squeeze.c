#include "unit.h"

#include "transport/squeeze.h"

#define MB   1000000ull
#define BODY (1u << 20)

static struct squeeze s;

static void set_up(void)
{
	squeeze_init(&s);
}

START_TEST(it_pays_on_a_link_slower_than_the_core)
{
	ck_assert(squeeze_pays(125 * MB, 300 * MB, 600));
	ck_assert(squeeze_pays(200 * MB, 300 * MB, 600));
	ck_assert(!squeeze_pays(250 * MB, 300 * MB, 600)); /* not by enough */
	ck_assert(!squeeze_pays(2000 * MB, 300 * MB, 900));
	ck_assert(!squeeze_pays(1 * MB, 300 * MB, 100));
	ck_assert(!squeeze_pays(0, 300 * MB, 900));
}
END_TEST

START_TEST(nothing_is_compressed_for_a_link_that_is_not_known)
{
	ck_assert_int_eq(squeeze_decide(&s, 7, BODY, 0), SQUEEZE_NOT);
	ck_assert_int_eq(squeeze_decide(&s, 7, 1000, 10 * MB), SQUEEZE_NOT); /* too small */
}
END_TEST

START_TEST(of_what_is_new_a_sample_is_tried)
{
	ck_assert_int_eq(squeeze_decide(&s, 7, BODY, 100 * MB), SQUEEZE_SAMPLE);
	squeeze_learned(&s, 7, 1000, 400);
	ck_assert_int_eq(squeeze_decide(&s, 7, BODY, 100 * MB), SQUEEZE_ALL);
	ck_assert_int_eq(squeeze_decide(&s, 8, BODY, 100 * MB), SQUEEZE_SAMPLE);
	ck_assert_int_eq(squeeze_decide(&s, 7, BODY, 1000 * MB), SQUEEZE_NOT);
	/* What is like nothing else is always new. */
	squeeze_learned(&s, 0, 1000, 100);
	ck_assert_int_eq(squeeze_decide(&s, 0, BODY, 100 * MB), SQUEEZE_SAMPLE);
}
END_TEST

START_TEST(what_is_compressed_already_is_left_alone_but_for_a_sample_now_and_then)
{
	unsigned samples = 0;

	squeeze_learned(&s, 7, 1000, 1000);
	for (unsigned i = 0; i < 1000; i++) {
		enum squeeze_verdict verdict = squeeze_decide(&s, 7, BODY, 100 * MB);

		ck_assert_int_ne(verdict, SQUEEZE_ALL);
		if (verdict == SQUEEZE_SAMPLE) {
			samples++;
			squeeze_learned(&s, 7, 1000, 1010);
		}
	}
	ck_assert_uint_ge(samples, 10);
	ck_assert_uint_le(samples, 20);
	squeeze_learned(&s, 7, 1000, 300); /* it became another */
	ck_assert_int_eq(squeeze_decide(&s, 7, BODY, 100 * MB), SQUEEZE_ALL);
}
END_TEST

START_TEST(a_busy_core_does_not_compress_and_is_asked_again_later)
{
	squeeze_learned(&s, 7, 1000, 400);
	for (unsigned i = 0; i < 50; i++)
		squeeze_measured(&s, BODY, 100 * 1000000ull); /* 10 MB/s */
	ck_assert_int_eq(squeeze_decide(&s, 7, BODY, 100 * MB), SQUEEZE_NOT);
	for (unsigned i = 0; i < 500; i++)
		(void)squeeze_decide(&s, 7, BODY, 100 * MB);
	ck_assert_int_eq(squeeze_decide(&s, 7, BODY, 100 * MB), SQUEEZE_ALL);
}
END_TEST

START_TEST(a_fast_core_is_believed)
{
	squeeze_learned(&s, 7, 1000, 400);
	ck_assert_int_eq(squeeze_decide(&s, 7, BODY, 400 * MB), SQUEEZE_NOT);
	for (unsigned i = 0; i < 50; i++)
		squeeze_measured(&s, BODY, 1000000ull); /* 1 GB/s */
	ck_assert_int_eq(squeeze_decide(&s, 7, BODY, 400 * MB), SQUEEZE_ALL);
	squeeze_measured(&s, BODY, 0);
}
END_TEST

static TCase *squeeze_case(void)
{
	TCase *tests = tcase_create("squeeze");

	tcase_add_checked_fixture(tests, set_up, NULL);
	tcase_add_test(tests, it_pays_on_a_link_slower_than_the_core);
	tcase_add_test(tests, nothing_is_compressed_for_a_link_that_is_not_known);
	tcase_add_test(tests, of_what_is_new_a_sample_is_tried);
	tcase_add_test(tests, what_is_compressed_already_is_left_alone_but_for_a_sample_now_and_then);
	tcase_add_test(tests, a_busy_core_does_not_compress_and_is_asked_again_later);
	tcase_add_test(tests, a_fast_core_is_believed);
	return tests;
}

UNIT_MAIN("squeeze", squeeze_case)
