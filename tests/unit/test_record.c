#include "unit.h"

#include <errno.h>

#include "fs/cache/record.h"

static struct record example(uint32_t ranges)
{
	struct record r = {
		.handle = { 3, { 7, 8, 9 } },
		.change = { 5, 6 },
		.size = (uint64_t)ranges * 100,
		.range_count = ranges,
	};

	for (uint32_t i = 0; i < ranges; i++)
		r.ranges[i] = (struct range){ (uint64_t)i * 100 + 10, (uint64_t)i * 100 + 100 };
	return r;
}

START_TEST(a_record_comes_back_as_it_was)
{
	struct record in = example(CACHE_RECORD_RANGES_MAX), out;
	uint8_t buffer[RECORD_BYTES_MAX];
	int length = record_encode(&in, buffer, sizeof(buffer));

	ck_assert_int_gt(length, 0);
	ck_assert_int_eq(record_decode(buffer, (size_t)length, 0, &out), 0);
	ck_assert(handle_equal(&in.handle, &out.handle));
	ck_assert(change_equal(in.change, out.change));
	ck_assert_uint_eq(in.size, out.size);
	ck_assert_uint_eq(in.range_count, out.range_count);
	ck_assert_mem_eq(in.ranges, out.ranges, sizeof(in.ranges));
}
END_TEST

START_TEST(the_largest_record_fits_one_block_of_xattrs)
{
	ck_assert_int_lt(RECORD_BYTES_MAX, 4096 - 256);
}
END_TEST

START_TEST(every_flipped_bit_and_every_cut_is_noticed)
{
	struct record in = example(3), out;
	uint8_t buffer[RECORD_BYTES_MAX];
	int length = record_encode(&in, buffer, sizeof(buffer));

	for (int i = 0; i < length * 8; i++) {
		buffer[i / 8] ^= (uint8_t)(1 << i % 8);
		ck_assert_int_eq(record_decode(buffer, (size_t)length, 0, &out), -EINVAL);
		buffer[i / 8] ^= (uint8_t)(1 << i % 8);
	}
	for (int i = 0; i < length; i++)
		ck_assert_int_eq(record_decode(buffer, (size_t)i, 0, &out), -EINVAL);
	ck_assert_int_eq(record_decode(buffer, (size_t)length + 1, 0, &out), -EINVAL);
}
END_TEST

START_TEST(ranges_that_make_no_sense_are_refused)
{
	static const struct range wrong[][2] = {
		{ { 20, 30 }, { 10, 15 } }, /* unsorted */
		{ { 0, 20 }, { 10, 30 } },  /* overlapping */
		{ { 0, 20 }, { 20, 30 } },  /* touching */
		{ { 5, 5 }, { 10, 30 } },   /* empty */
		{ { 0, 5 }, { 10, 3000 } }, /* beyond the size */
	};
	uint8_t buffer[RECORD_BYTES_MAX];
	struct record r, out;

	for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++) {
		int length;

		r = example(2);
		memcpy(r.ranges, wrong[i], sizeof(wrong[i]));
		length = record_encode(&r, buffer, sizeof(buffer));
		ck_assert_int_gt(length, 0);
		ck_assert_int_eq(record_decode(buffer, (size_t)length, 0, &out), -EINVAL);
	}
	r = example(1);
	r.change = (struct change){ 0, 0 };
	ck_assert_int_eq(record_decode(buffer, (size_t)record_encode(&r, buffer, sizeof(buffer)), 0,
				       &out), -EINVAL);
}
END_TEST

START_TEST(a_record_of_another_space_is_refused)
{
	uint8_t buffer[RECORD_BYTES_MAX];
	struct record r = example(2), out;
	int length;

	r.space = UINT64_C(0x123456789abcdef0);
	length = record_encode(&r, buffer, sizeof(buffer));
	ck_assert_int_gt(length, 0);
	ck_assert_int_eq(record_decode(buffer, (size_t)length, r.space, &out), 0);
	ck_assert_uint_eq(out.space, r.space);
	ck_assert_int_eq(record_decode(buffer, (size_t)length, 0, &out), -EINVAL);
	ck_assert_int_eq(record_decode(buffer, (size_t)length, r.space + 1, &out), -EINVAL);
}
END_TEST

static TCase *record_case(void)
{
	TCase *tcase = tcase_create("record");

	tcase_add_test(tcase, a_record_comes_back_as_it_was);
	tcase_add_test(tcase, the_largest_record_fits_one_block_of_xattrs);
	tcase_add_test(tcase, every_flipped_bit_and_every_cut_is_noticed);
	tcase_add_test(tcase, ranges_that_make_no_sense_are_refused);
	tcase_add_test(tcase, a_record_of_another_space_is_refused);
	return tcase;
}

UNIT_MAIN("record", record_case)
