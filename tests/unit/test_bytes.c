#include "unit.h"

#include "lease/base/bytes.h"

START_TEST(what_was_written_is_read)
{
	uint8_t buffer[32];
	struct writer w = writer_of(buffer, sizeof(buffer));
	struct reader r;

	writer_u8(&w, 0xfe);
	writer_u16(&w, 0x1234);
	writer_u32(&w, 0xdeadbeef);
	writer_u64(&w, UINT64_MAX - 1);
	writer_bytes(&w, "abc", 3);
	ck_assert(!w.failed);

	r = reader_of(buffer, w.at);
	ck_assert_uint_eq(reader_u8(&r), 0xfe);
	ck_assert_uint_eq(reader_u16(&r), 0x1234);
	ck_assert_uint_eq(reader_u32(&r), 0xdeadbeef);
	ck_assert_uint_eq(reader_u64(&r), UINT64_MAX - 1);
	ck_assert(slice_equal(reader_bytes(&r, 3), slice_of("abc")));
	ck_assert(reader_done(&r));
}
END_TEST

START_TEST(numbers_are_little_endian)
{
	uint8_t buffer[4];
	struct writer w = writer_of(buffer, sizeof(buffer));

	writer_u32(&w, 0x01020304);
	ck_assert_uint_eq(buffer[0], 4);
	ck_assert_uint_eq(buffer[3], 1);
}
END_TEST

START_TEST(a_short_buffer_fails_for_good)
{
	uint8_t buffer[3];
	struct writer w = writer_of(buffer, sizeof(buffer));
	struct reader r = reader_of(buffer, sizeof(buffer));

	writer_u32(&w, 1);
	ck_assert(w.failed);
	writer_u8(&w, 1);
	ck_assert_uint_eq(w.at, 0);

	ck_assert_uint_eq(reader_u32(&r), 0);
	ck_assert(r.failed);
	ck_assert_uint_eq(reader_u8(&r), 0);
	ck_assert(!reader_done(&r));
}
END_TEST

static TCase *bytes_case(void)
{
	TCase *tcase = tcase_create("bytes");

	tcase_add_test(tcase, what_was_written_is_read);
	tcase_add_test(tcase, numbers_are_little_endian);
	tcase_add_test(tcase, a_short_buffer_fails_for_good);
	return tcase;
}

UNIT_MAIN("bytes", bytes_case)
