#include "tests/unit/unit.h"

#include <errno.h>

#include "tools/parse.h"

START_TEST(sizes_are_powers_of_1024)
{
	uint64_t bytes = 7;

	ck_assert_int_eq(parse_bytes("0", &bytes), 0);
	ck_assert_uint_eq(bytes, 0);
	ck_assert_int_eq(parse_bytes("512", &bytes), 0);
	ck_assert_uint_eq(bytes, 512);
	ck_assert_int_eq(parse_bytes("64k", &bytes), 0);
	ck_assert_uint_eq(bytes, 64 * 1024);
	ck_assert_int_eq(parse_bytes("10G", &bytes), 0);
	ck_assert_uint_eq(bytes, UINT64_C(10) << 30);
	ck_assert_int_eq(parse_bytes("10GiB", &bytes), 0);
	ck_assert_uint_eq(bytes, UINT64_C(10) << 30);
	ck_assert_int_eq(parse_bytes("3P", &bytes), 0);
	ck_assert_uint_eq(bytes, UINT64_C(3) << 50);
}
END_TEST

START_TEST(what_is_not_a_size_is_refused_and_writes_nothing)
{
	static const char *const texts[] = { "",    "G",   "-1",   "+1",  " 1",	  "1 ",
					     "1 G", "1.5G", "1GB", "1Gi", "10x", "0x10" };
	uint64_t bytes = 7;

	for (size_t i = 0; i < sizeof(texts) / sizeof(texts[0]); i++)
		ck_assert_int_eq(parse_bytes(texts[i], &bytes), -EINVAL);
	ck_assert_uint_eq(bytes, 7);
}
END_TEST

START_TEST(a_size_that_does_not_fit_is_out_of_range)
{
	uint64_t bytes = 7;

	ck_assert_int_eq(parse_bytes("99999999999999999999999", &bytes), -ERANGE);
	ck_assert_int_eq(parse_bytes("9223372036854775808", &bytes), -ERANGE);
	ck_assert_int_eq(parse_bytes("8192P", &bytes), -ERANGE);
	ck_assert_uint_eq(bytes, 7);
	ck_assert_int_eq(parse_bytes("9223372036854775807", &bytes), 0);
	ck_assert_uint_eq(bytes, INT64_MAX);
}
END_TEST

START_TEST(durations_need_their_unit)
{
	uint64_t ms = 7;

	ck_assert_int_eq(parse_milliseconds("30", &ms), -EINVAL);
	ck_assert_int_eq(parse_milliseconds("", &ms), -EINVAL);
	ck_assert_int_eq(parse_milliseconds("s", &ms), -EINVAL);
	ck_assert_int_eq(parse_milliseconds("1.5s", &ms), -EINVAL);
	ck_assert_int_eq(parse_milliseconds("-1s", &ms), -EINVAL);
	ck_assert_int_eq(parse_milliseconds("1s2", &ms), -EINVAL);
	ck_assert_uint_eq(ms, 7);
	ck_assert_int_eq(parse_milliseconds("500ms", &ms), 0);
	ck_assert_uint_eq(ms, 500);
	ck_assert_int_eq(parse_milliseconds("30s", &ms), 0);
	ck_assert_uint_eq(ms, 30000);
	ck_assert_int_eq(parse_milliseconds("2m", &ms), 0);
	ck_assert_uint_eq(ms, 120000);
	ck_assert_int_eq(parse_milliseconds("1h", &ms), 0);
	ck_assert_uint_eq(ms, 3600000);
}
END_TEST

START_TEST(a_duration_of_more_than_ten_years_is_out_of_range)
{
	uint64_t ms = 7;

	ck_assert_int_eq(parse_milliseconds("999999h", &ms), -ERANGE);
	ck_assert_int_eq(parse_milliseconds("99999999999999999999ms", &ms), -ERANGE);
	ck_assert_uint_eq(ms, 7);
}
END_TEST

START_TEST(counts_keep_to_their_range)
{
	uint32_t count = 7;

	ck_assert_int_eq(parse_count("0", 1, 10, &count), -ERANGE);
	ck_assert_int_eq(parse_count("11", 1, 10, &count), -ERANGE);
	ck_assert_int_eq(parse_count("4294967296", 1, UINT32_MAX, &count), -ERANGE);
	ck_assert_int_eq(parse_count("4k", 1, 10, &count), -EINVAL);
	ck_assert_uint_eq(count, 7);
	ck_assert_int_eq(parse_count("10", 1, 10, &count), 0);
	ck_assert_uint_eq(count, 10);
}
END_TEST

START_TEST(sizes_are_printed_for_people)
{
	char text[PARSE_TEXT_BYTES_MAX];

	print_bytes(text, 17);
	ck_assert_str_eq(text, "17 bytes");
	print_bytes(text, 1536);
	ck_assert_str_eq(text, "1.5 KiB");
	print_bytes(text, UINT64_C(10) << 30);
	ck_assert_str_eq(text, "10.0 GiB");
	print_bytes(text, UINT64_MAX);
	ck_assert_str_eq(text, "16.0 EiB");
}
END_TEST

static TCase *parse_case(void)
{
	TCase *tcase = tcase_create("parse");

	tcase_add_test(tcase, sizes_are_powers_of_1024);
	tcase_add_test(tcase, what_is_not_a_size_is_refused_and_writes_nothing);
	tcase_add_test(tcase, a_size_that_does_not_fit_is_out_of_range);
	tcase_add_test(tcase, durations_need_their_unit);
	tcase_add_test(tcase, a_duration_of_more_than_ten_years_is_out_of_range);
	tcase_add_test(tcase, counts_keep_to_their_range);
	tcase_add_test(tcase, sizes_are_printed_for_people);
	return tcase;
}

UNIT_MAIN("parse", parse_case)
