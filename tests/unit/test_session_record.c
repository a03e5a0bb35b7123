#include "fs/origin/session_record.h"

#include <errno.h>

#include "lease/base/bytes.h"
#include "tests/unit/scratch.h"
#include "tests/unit/unit.h"

static char path[SCRATCH_PATH_BYTES];
static int state_fd;

static void setup(void)
{
	state_fd = scratch_make(path);
}

static void teardown(void)
{
	scratch_remove(path, state_fd);
}

static struct authority_previous entries[3] = {
	{ { 7 }, { 1 } }, { { 8 }, { 2 } }, { { 9 }, { 3 } },
};

static void store(uint32_t count)
{
	struct session_record record = { .epoch = 5, .promise_ms = 30530, .count = count,
					 .entries = entries };

	ck_assert_int_eq(session_record_store(state_fd, "sessions", &record), 0);
}

START_TEST(no_record_is_an_empty_one)
{
	struct session_record record;

	ck_assert_int_eq(session_record_load(state_fd, "sessions", &record), 0);
	ck_assert_uint_eq(record.count, 0);
	ck_assert_uint_eq(record.epoch, 0);
	session_record_finish(&record);
}
END_TEST

START_TEST(what_was_stored_is_loaded)
{
	struct session_record record;

	store(3);
	ck_assert_int_eq(session_record_load(state_fd, "sessions", &record), 0);
	ck_assert_uint_eq(record.epoch, 5);
	ck_assert_uint_eq(record.promise_ms, 30530);
	ck_assert(!record.unknown);
	ck_assert_uint_eq(record.count, 3);
	ck_assert_mem_eq(record.entries, entries, sizeof(entries));
	session_record_finish(&record);
	store(0);
	ck_assert_int_eq(session_record_load(state_fd, "sessions", &record), 0);
	ck_assert_uint_eq(record.count, 0);
	session_record_finish(&record);
}
END_TEST

START_TEST(who_is_silent_is_loaded)
{
	struct authority_silent silent[2] = {
		{ .session = { 4 }, .host = { 1, 2 }, .instance = 5, .renewed = { 6 }, .name = "a" },
		{ .session = { 7 }, .host = { 3 }, .instance = 8, .name = "b" },
	};
	struct session_record record = { .epoch = 5, .count = 1, .entries = entries,
					 .boot = { 9, 1 }, .silent_unknown = { 77 },
					 .silent_count = 2, .silent = silent };

	ck_assert_int_eq(session_record_store(state_fd, "sessions", &record), 0);
	ck_assert_int_eq(session_record_load(state_fd, "sessions", &record), 0);
	ck_assert_uint_eq(record.boot[1], 1);
	ck_assert_uint_eq(record.silent_unknown.ns, 77);
	ck_assert_uint_eq(record.silent_count, 2);
	for (unsigned i = 0; i < 2; i++) {
		ck_assert_uint_eq(record.silent[i].session.value, silent[i].session.value);
		ck_assert_mem_eq(record.silent[i].host, silent[i].host, 16);
		ck_assert_uint_eq(record.silent[i].instance, silent[i].instance);
		ck_assert_uint_eq(record.silent[i].renewed.ns, silent[i].renewed.ns);
		ck_assert_str_eq(record.silent[i].name, silent[i].name);
	}
	session_record_finish(&record);
}
END_TEST

START_TEST(a_record_of_the_version_before_is_read)
{
	uint8_t bytes[8 + 4 + 8 + 8 + 1 + 4 + 2 * 24 + SESSION_RECORD_CHECK_BYTES];
	struct writer w = writer_of(bytes, sizeof(bytes));
	struct session_record record;

	writer_u64(&w, UINT64_C(0x7373657373694c01));
	writer_u32(&w, 1);
	writer_u64(&w, 5);
	writer_u64(&w, 30530);
	writer_u8(&w, 0);
	writer_u32(&w, 2);
	for (unsigned i = 0; i < 2; i++) {
		writer_u64(&w, entries[i].session.value);
		writer_bytes(&w, entries[i].host, 16);
	}
	writer_u64(&w, session_record_checksum(bytes, w.at));
	ck_assert_int_eq(session_record_decode(bytes, w.at, &record), 0);
	ck_assert_uint_eq(record.epoch, 5);
	ck_assert_uint_eq(record.promise_ms, 30530);
	ck_assert(!record.unknown);
	ck_assert_uint_eq(record.count, 2);
	ck_assert_mem_eq(record.entries, entries, 2 * sizeof(entries[0]));
	ck_assert_uint_eq(record.silent_count, 0);
	ck_assert_uint_ne(record.silent_unknown.ns, 0);
	session_record_finish(&record);
	ck_assert_int_eq(session_record_decode(bytes, w.at - 1, &record), -EUCLEAN);
}
END_TEST

START_TEST(a_record_with_any_byte_changed_or_missing_is_not_trusted)
{
	struct session_record record;
	uint8_t bytes[256];
	ssize_t length;
	int fd;

	store(2);
	fd = openat(state_fd, "sessions", O_RDWR);
	length = pread(fd, bytes, sizeof(bytes), 0);
	ck_assert_int_gt(length, 60);
	for (ssize_t i = 0; i < length; i++) {
		bytes[i] ^= 0x41;
		ck_assert_int_eq(pwrite(fd, bytes, (size_t)length, 0), length);
		ck_assert_int_eq(session_record_load(state_fd, "sessions", &record), -EUCLEAN);
		bytes[i] ^= 0x41;
	}
	ck_assert_int_eq(pwrite(fd, bytes, (size_t)length, 0), length);
	for (ssize_t i = length - 1; i >= 0; i--) {
		ck_assert_int_eq(ftruncate(fd, i), 0);
		ck_assert_int_eq(session_record_load(state_fd, "sessions", &record), -EUCLEAN);
	}
	close(fd);
}
END_TEST

static TCase *make_case(void)
{
	TCase *tc = tcase_create("session_record");

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, no_record_is_an_empty_one);
	tcase_add_test(tc, what_was_stored_is_loaded);
	tcase_add_test(tc, who_is_silent_is_loaded);
	tcase_add_test(tc, a_record_of_the_version_before_is_read);
	tcase_add_test(tc, a_record_with_any_byte_changed_or_missing_is_not_trusted);
	return tc;
}

UNIT_MAIN("session_record", make_case)
