/* Names: lookups from memory, absent names, what the kernel refuses, names made and taken away. */
#include "mount_lab.h"

#include "fs/mount/reply.h"

#define FILE_NUMBER 2

static struct fuse_entry_out entry_of(uint64_t unique)
{
	struct fuse_entry_out out;

	ck_assert_int_eq(kernel_error(unique), 0);
	memcpy(&out, kernel_wait(unique)->data, sizeof(out));
	return out;
}

START_TEST(a_name_under_a_lease_is_answered_from_memory_with_a_validity)
{
	struct fuse_entry_out out;
	uint64_t node;

	lab_start();
	node = lab_find_file("f", FILE_NUMBER, 5);
	out = entry_of(kernel_lookup(FUSE_ROOT_ID, "f"));
	ck_assert_uint_eq(out.nodeid, node);
	ck_assert_uint_gt(out.entry_valid, 0);
	ck_assert_uint_le(out.entry_valid, lab.term_ms / 1000);
	ck_assert_uint_gt(out.attr_valid, 0);
	ck_assert_uint_eq(out.attr.size, 5);
	ck_assert_uint_eq(origin_received(MESSAGE_lookup), 1);
	ck_assert_uint_eq(lab.m.counters.lookups_cached, 1);
}
END_TEST

START_TEST(a_name_without_a_lease_is_answered_once_and_asked_for_again)
{
	struct item_node f = origin_node(NODE_TARGET, FILE_NUMBER, S_IFREG | 0644, 1, LEASE_NONE);
	struct fuse_entry_out out;
	uint64_t unique;

	lab_start();
	for (unsigned i = 0; i < 2; i++) {
		unique = kernel_lookup(FUSE_ROOT_ID, "f");
		origin_answer_node(origin_expect(MESSAGE_lookup), &f);
		out = entry_of(unique);
		ck_assert_uint_eq(out.entry_valid, 0);
		ck_assert_uint_eq(out.entry_valid_nsec, 0);
		ck_assert_uint_eq(out.attr_valid, 0);
		ck_assert_uint_eq(out.attr_valid_nsec, 0);
	}
}
END_TEST

START_TEST(an_absent_name_under_a_lease_is_remembered)
{
	struct origin_answer absent = {
		.status = STATUS_NOENT,
		.node_count = 1,
		.nodes = { origin_node(NODE_DIRECTORY, ROOT_NUMBER, S_IFDIR | 0755, 1, LEASE_READ) },
	};
	struct fuse_entry_out out;
	uint64_t unique;

	lab_start();
	unique = kernel_lookup(FUSE_ROOT_ID, "gone");
	origin_answer(origin_expect(MESSAGE_lookup), &absent);
	for (unsigned i = 0; i < 2; i++) {
		out = entry_of(unique);
		ck_assert_uint_eq(out.nodeid, 0);
		ck_assert_uint_gt(out.entry_valid, 0);
		unique = kernel_lookup(FUSE_ROOT_ID, "gone");
	}
	(void)entry_of(unique);
	ck_assert_uint_eq(origin_received(MESSAGE_lookup), 1);
}
END_TEST

START_TEST(an_absent_name_without_a_lease_is_not)
{
	uint64_t unique;

	lab_start();
	for (unsigned i = 0; i < 2; i++) {
		unique = kernel_lookup(FUSE_ROOT_ID, "gone");
		origin_answer_status(origin_expect(MESSAGE_lookup), STATUS_NOENT);
		ck_assert_int_eq(kernel_error(unique), ENOENT);
	}
}
END_TEST

START_TEST(a_lookup_that_the_kernel_refused_is_not_counted)
{
	struct item_node g = origin_node(NODE_TARGET, FILE_NUMBER + 1, S_IFREG | 0644, 1, LEASE_NONE);
	uint64_t node, unique;

	lab_start();
	node = lab_find_file("f", FILE_NUMBER, 5);
	ck_assert_uint_eq(LAB_GET(inode_by_nodeid(&lab.m, node)->lookup_count), 1);
	lab.refuses = true;
	(void)kernel_lookup(FUSE_ROOT_ID, "f");
	ck_assert_uint_eq(LAB_GET(inode_by_nodeid(&lab.m, node)->lookup_count), 1);
	(void)kernel_lookup(FUSE_ROOT_ID, "f");
	ck_assert_uint_eq(LAB_GET(inode_by_nodeid(&lab.m, node)->lookup_count), 2);
	/* From the origin: without a lookup nothing keeps the inode. */
	unique = kernel_lookup(FUSE_ROOT_ID, "g");
	pthread_mutex_lock(&lab.lock);
	lab.refuses = true;
	pthread_mutex_unlock(&lab.lock);
	origin_answer_node(origin_expect(MESSAGE_lookup), &g);
	(void)kernel_wait(unique);
	LAB_WAIT_MOUNT(!inode_find(&lab.m, &g.handle) ||
		       inode_find(&lab.m, &g.handle)->lookup_count == 0);
}
END_TEST

START_TEST(a_small_file_comes_with_its_lookup)
{
	struct origin_answer found = {
		.eof = true,
		.node_count = 2,
		.nodes = { origin_node(NODE_TARGET, FILE_NUMBER, S_IFREG | 0644, 1, LEASE_READ),
			   origin_node(NODE_DIRECTORY, ROOT_NUMBER, S_IFDIR | 0755, 1, LEASE_READ) },
		.data = "small",
		.length = 5,
	};
	struct origin_request *lookup;
	struct fuse_entry_out out;
	uint64_t unique;

	lab_start();
	found.nodes[0].attributes.size = 5;
	unique = kernel_lookup(FUSE_ROOT_ID, "s");
	lookup = origin_expect(MESSAGE_lookup);
	ck_assert_uint_eq(lookup->message.lookup.data_bytes_max, SMALL_FILE_BYTES_MAX);
	origin_answer(lookup, &found);
	out = entry_of(unique);
	kernel_expect_text(kernel_read(out.nodeid, lab_open(out.nodeid, O_RDONLY), 0, 4096),
			   "small");
	ck_assert_uint_eq(origin_received(MESSAGE_read), 0);
	ck_assert_uint_eq(origin_received(MESSAGE_open), 0);
}
END_TEST

/* The kernel takes them in even when they were invalidated meanwhile. */
START_TEST(a_made_name_brings_no_attributes_that_last)
{
	struct fuse_mkdir_in in = { .mode = 0755 };
	struct origin_answer made = {
		.node_count = 2,
		.nodes = { origin_node(NODE_TARGET, FILE_NUMBER, S_IFDIR | 0755, 1, LEASE_READ),
			   origin_node(NODE_DIRECTORY, ROOT_NUMBER, S_IFDIR | 0755, 2, LEASE_READ) },
	};
	struct origin_request *mknod;
	struct fuse_entry_out out;
	uint64_t unique;

	lab_start();
	unique = kernel_send(FUSE_MKDIR, FUSE_ROOT_ID, &in, sizeof(in), "d", 2);
	mknod = origin_expect(MESSAGE_mknod);
	ck_assert_uint_eq(mknod->message.mknod.mode, S_IFDIR | 0755);
	origin_answer(mknod, &made);
	out = entry_of(unique);
	ck_assert_uint_ne(out.nodeid, 0);
	ck_assert_uint_eq(out.attr_valid, 0);
	ck_assert_uint_eq(out.attr_valid_nsec, 0);
	(void)entry_of(kernel_lookup(FUSE_ROOT_ID, "d")); /* known from now on */
	ck_assert_uint_eq(origin_received(MESSAGE_lookup), 0);
}
END_TEST

START_TEST(a_rename_forgets_both_names)
{
	static const char names[] = "f\0g";
	const struct fuse_rename_in in = { .newdir = FUSE_ROOT_ID };
	struct origin_request *rename;
	uint64_t unique;

	lab_start();
	(void)lab_find_file("f", FILE_NUMBER, 5);
	(void)lab_find_file("g", FILE_NUMBER + 1, 5);
	unique = kernel_send(FUSE_RENAME, FUSE_ROOT_ID, &in, sizeof(in), names, sizeof(names));
	rename = origin_expect(MESSAGE_rename);
	ck_assert(slice_equal(rename->message.rename.name, slice_of("f")));
	ck_assert(slice_equal(rename->message.rename.new_name, slice_of("g")));
	origin_answer_status(rename, STATUS_OK);
	ck_assert_int_eq(kernel_error(unique), 0);
	for (unsigned i = 0; i < 2; i++) {
		unique = kernel_lookup(FUSE_ROOT_ID, i == 0 ? "f" : "g");
		origin_answer_status(origin_expect(MESSAGE_lookup), STATUS_NOENT);
		ck_assert_int_eq(kernel_error(unique), ENOENT);
	}
}
END_TEST

START_TEST(a_read_only_mount_refuses_without_asking)
{
	lab_start();
	lab.m.read_only = true;
	ck_assert_int_eq(kernel_error(kernel_name(FUSE_UNLINK, FUSE_ROOT_ID, "f")), EROFS);
	ck_assert_int_eq(kernel_error(kernel_setattr(FUSE_ROOT_ID, FATTR_MODE, 0, 0700)), EROFS);
	ck_assert_uint_eq(lab.m.counters.calls, 0);
}
END_TEST

START_TEST(names_that_are_too_long_and_inodes_that_are_gone_are_refused)
{
	char name[300];

	lab_start();
	memset(name, 'n', sizeof(name) - 1);
	name[sizeof(name) - 1] = '\0';
	ck_assert_int_eq(kernel_error(kernel_lookup(FUSE_ROOT_ID, name)), ENAMETOOLONG);
	ck_assert_int_eq(kernel_error(kernel_lookup(12345, "f")), ESTALE);
	ck_assert_uint_eq(lab.m.counters.calls, 0);
}
END_TEST

START_TEST(attributes_reach_the_kernel_as_they_are)
{
	const struct attributes a = { .inode = 7, .size = 1000, .blocks = 8, .mode = S_IFREG | 0640,
				      .nlink = 3, .uid = 11, .gid = 12, .mtime_s = 99,
				      .mtime_ns = 5, .ctime_s = 100, .atime_s = 98 };
	struct stat st;

	attributes_stat(&a, &st);
	ck_assert_uint_eq(st.st_ino, 7);
	ck_assert_int_eq(st.st_size, 1000);
	ck_assert_int_eq(st.st_blocks, 8);
	ck_assert_uint_eq(st.st_mode, S_IFREG | 0640);
	ck_assert_uint_eq(st.st_nlink, 3);
	ck_assert_uint_eq(st.st_uid, 11);
	ck_assert_uint_eq(st.st_gid, 12);
	ck_assert_int_eq(st.st_mtim.tv_sec, 99);
	ck_assert_int_eq(st.st_mtim.tv_nsec, 5);
	ck_assert_int_eq(st.st_ctim.tv_sec, 100);
	ck_assert_int_eq(st.st_atim.tv_sec, 98);
}
END_TEST

static TCase *names_case(void)
{
	TCase *tcase = lab_case("mount_names");

	tcase_add_test(tcase, a_name_under_a_lease_is_answered_from_memory_with_a_validity);
	tcase_add_test(tcase, a_name_without_a_lease_is_answered_once_and_asked_for_again);
	tcase_add_test(tcase, an_absent_name_under_a_lease_is_remembered);
	tcase_add_test(tcase, an_absent_name_without_a_lease_is_not);
	tcase_add_test(tcase, a_lookup_that_the_kernel_refused_is_not_counted);
	tcase_add_test(tcase, a_small_file_comes_with_its_lookup);
	tcase_add_test(tcase, a_made_name_brings_no_attributes_that_last);
	tcase_add_test(tcase, a_rename_forgets_both_names);
	tcase_add_test(tcase, a_read_only_mount_refuses_without_asking);
	tcase_add_test(tcase, names_that_are_too_long_and_inodes_that_are_gone_are_refused);
	tcase_add_test(tcase, attributes_reach_the_kernel_as_they_are);
	return tcase;
}

UNIT_MAIN("mount_names", names_case)
