#include "fs/origin/handle.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/unit/scratch.h"
#include "tests/unit/unit.h"

static struct handle_space space_of(const char *export)
{
	struct handle_space space = { .export_id = handle_export_id(export) };

	memset(&space.key, 7, sizeof(space.key));
	space.root = (struct file_id){ 1, 8, { 2 } };
	return space;
}

static struct file_id some_id(void)
{
	return (struct file_id){ 1, 8, { 1, 2, 3, 4, 5, 6, 7, 8 } };
}

START_TEST(siphash_gives_the_reference_values)
{
	/* From the paper's appendix and its reference implementation. */
	uint8_t key[16], text[15];

	for (unsigned i = 0; i < 16; i++)
		key[i] = (uint8_t)i;
	for (unsigned i = 0; i < 15; i++)
		text[i] = (uint8_t)i;
	ck_assert_uint_eq(siphash(key, text, 15), UINT64_C(0xa129ca6149be45e5));
	ck_assert_uint_eq(siphash(key, text, 0), UINT64_C(0x726fdb47dd0e0e31));
}
END_TEST

START_TEST(a_handle_leads_back_to_its_file_id)
{
	struct handle_space space = space_of("data");
	struct file_id id = some_id(), back;
	struct handle handle;

	handle_make(&space, &id, &handle);
	ck_assert_int_eq(handle_parse(&space, &handle, &back), 0);
	ck_assert(file_id_equal(&id, &back));
}
END_TEST

START_TEST(a_handle_with_any_bit_flipped_is_refused)
{
	struct handle_space space = space_of("data");
	struct file_id id = some_id(), back;
	struct handle handle;

	handle_make(&space, &id, &handle);
	for (unsigned bit = 0; bit < handle.length * 8u; bit++) {
		struct handle forged = handle;

		forged.bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
		ck_assert_int_eq(handle_parse(&space, &forged, &back), -EBADMSG);
	}
}
END_TEST

START_TEST(a_handle_of_any_other_length_is_refused)
{
	struct handle_space space = space_of("data");
	struct file_id id = some_id(), back;
	struct handle handle;

	handle_make(&space, &id, &handle);
	for (unsigned length = 0; length <= HANDLE_BYTES_MAX + 1; length++) {
		struct handle forged = handle;

		forged.length = (uint8_t)length;
		if (length != handle.length)
			ck_assert_int_eq(handle_parse(&space, &forged, &back), -EBADMSG);
	}
}
END_TEST

START_TEST(a_handle_of_another_export_or_directory_is_refused)
{
	struct handle_space space = space_of("data"), other = space_of("home"), moved = space;
	struct file_id id = some_id(), back;
	struct handle handle;

	moved.root.bytes[0] = 3;
	handle_make(&space, &id, &handle);
	ck_assert_int_eq(handle_parse(&other, &handle, &back), -EBADMSG);
	ck_assert_int_eq(handle_parse(&moved, &handle, &back), -EBADMSG);
}
END_TEST

START_TEST(the_key_is_made_once_and_kept_private)
{
	char path[SCRATCH_PATH_BYTES];
	int fd = scratch_make(path);
	struct handle_key first, second;
	struct stat st;

	ck_assert_int_eq(handle_key_load(fd, "key", &first), 0);
	ck_assert_int_eq(handle_key_load(fd, "key", &second), 0);
	ck_assert_mem_eq(&first, &second, sizeof(first));
	ck_assert_int_eq(fstatat(fd, "key", &st, 0), 0);
	ck_assert_uint_eq(st.st_mode & 07777, 0600);
	scratch_remove(path, fd);
}
END_TEST

START_TEST(a_key_file_that_is_cut_is_not_replaced_silently)
{
	char path[SCRATCH_PATH_BYTES];
	int fd = scratch_make(path), file;
	struct handle_key key;

	ck_assert_int_eq(handle_key_load(fd, "key", &key), 0);
	file = openat(fd, "key", O_WRONLY);
	ck_assert_int_eq(ftruncate(file, 10), 0);
	close(file);
	ck_assert_int_eq(handle_key_load(fd, "key", &key), -EUCLEAN);
	scratch_remove(path, fd);
}
END_TEST

static TCase *make_case(void)
{
	TCase *tc = tcase_create("handle");

	tcase_add_test(tc, siphash_gives_the_reference_values);
	tcase_add_test(tc, a_handle_leads_back_to_its_file_id);
	tcase_add_test(tc, a_handle_with_any_bit_flipped_is_refused);
	tcase_add_test(tc, a_handle_of_any_other_length_is_refused);
	tcase_add_test(tc, a_handle_of_another_export_or_directory_is_refused);
	tcase_add_test(tc, the_key_is_made_once_and_kept_private);
	tcase_add_test(tc, a_key_file_that_is_cut_is_not_replaced_silently);
	return tc;
}

UNIT_MAIN("handle", make_case)
