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
	ck_assert_uint_eq(LAB_GET((uint64_t)inode_by_nodeid(&lab.m, node)->lookup_count), 1);
	lab.refuses = true;
	(void)kernel_lookup(FUSE_ROOT_ID, "f");
	ck_assert_uint_eq(LAB_GET((uint64_t)inode_by_nodeid(&lab.m, node)->lookup_count), 1);
	(void)kernel_lookup(FUSE_ROOT_ID, "f");
	ck_assert_uint_eq(LAB_GET((uint64_t)inode_by_nodeid(&lab.m, node)->lookup_count), 2);
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

/* A file that a create of this host made, and the directory that it is in. */
static struct origin_answer made_file(void)
{
	return (struct origin_answer){
		.node_count = 2,
		.nodes = { origin_node(NODE_TARGET, FILE_NUMBER, S_IFREG | 0644, 1, LEASE_READ),
			   origin_node(NODE_DIRECTORY, ROOT_NUMBER, S_IFDIR | 0755, 2, LEASE_READ) },
	};
}

static uint64_t create(const char *name, uint32_t flags)
{
	struct fuse_create_in in = { .flags = flags | O_CREAT, .mode = S_IFREG | 0644 };

	return kernel_send(FUSE_CREATE, FUSE_ROOT_ID, &in, sizeof(in), name, strlen(name) + 1);
}

START_TEST(a_created_file_is_open_and_its_name_is_known)
{
	struct origin_answer made = made_file();
	struct origin_request *request;
	struct fuse_open_out opened;
	struct fuse_entry_out out;
	uint64_t unique;

	lab_start();
	made.nodes[0].open = 1;
	unique = create("f", O_WRONLY | O_EXCL);
	request = origin_expect(MESSAGE_create);
	ck_assert(request->message.create.exclusive);
	ck_assert(!request->message.create.truncate);
	origin_answer(request, &made);
	out = entry_of(unique);
	memcpy(&opened, kernel_wait(unique)->data + sizeof(out), sizeof(opened));
	ck_assert_uint_eq(out.attr_valid, 0);
	ck_assert(opened.open_flags & FOPEN_DIRECT_IO);
	ck_assert_uint_eq(LAB_GET(inode_by_nodeid(&lab.m, out.nodeid)->live->open_count + 0), 1);
	(void)entry_of(kernel_lookup(FUSE_ROOT_ID, "f"));
	ck_assert_uint_eq(origin_received(MESSAGE_lookup), 0);
	/* The origin registered the open, so it hears of the close. */
	(void)kernel_error(kernel_release(out.nodeid, opened.fh));
	origin_answer_status(origin_expect(MESSAGE_close), STATUS_OK);
}
END_TEST

START_TEST(a_create_that_nobody_takes_in_is_closed_again)
{
	struct origin_answer made = made_file();
	struct origin_request *request;
	uint64_t unique;

	lab_start();
	made.nodes[0].open = 1;
	unique = create("f", O_WRONLY);
	request = origin_expect(MESSAGE_create);
	pthread_mutex_lock(&lab.lock);
	lab.refuses = true;
	pthread_mutex_unlock(&lab.lock);
	origin_answer(request, &made);
	(void)kernel_wait(unique);
	origin_answer_status(origin_expect(MESSAGE_close), STATUS_OK);
	LAB_WAIT_MOUNT(!inode_find(&lab.m, &made.nodes[0].handle) ||
		       (inode_find(&lab.m, &made.nodes[0].handle)->live->open_count == 0 &&
			inode_find(&lab.m, &made.nodes[0].handle)->lookup_count == 0));
}
END_TEST

START_TEST(a_create_that_fails_leaves_nothing_open)
{
	uint64_t unique;

	lab_start();
	unique = create("f", O_WRONLY | O_EXCL);
	origin_answer_status(origin_expect(MESSAGE_create), STATUS_EXIST);
	ck_assert_int_eq(kernel_error(unique), EEXIST);
	ck_assert(LAB_GET(lab.m.open_files == NULL));
}
END_TEST

START_TEST(a_symbolic_link_is_sent_with_its_target)
{
	static const char text[] = "l\0../target";
	struct origin_answer made = made_file();
	struct origin_request *request;
	uint64_t unique;

	lab_start();
	made.nodes[0] = origin_node(NODE_TARGET, FILE_NUMBER, S_IFLNK | 0777, 1, LEASE_READ);
	unique = kernel_send(FUSE_SYMLINK, FUSE_ROOT_ID, NULL, 0, text, sizeof(text));
	request = origin_expect(MESSAGE_symlink);
	ck_assert(slice_equal(request->message.symlink.name, slice_of("l")));
	ck_assert(slice_equal(request->message.symlink.target, slice_of("../target")));
	origin_answer(request, &made);
	ck_assert_uint_eq(entry_of(unique).attr.mode & S_IFMT, S_IFLNK);
}
END_TEST

START_TEST(a_hard_link_is_another_name_of_the_same_inode)
{
	struct origin_answer made = made_file();
	struct origin_request *request;
	struct fuse_link_in in;
	uint64_t unique, node;

	lab_start();
	node = lab_find_file("f", FILE_NUMBER, 5);
	in = (struct fuse_link_in){ .oldnodeid = node };
	made.nodes[0].attributes.nlink = 2;
	unique = kernel_send(FUSE_LINK, FUSE_ROOT_ID, &in, sizeof(in), "g", 2);
	request = origin_expect(MESSAGE_link);
	ck_assert(slice_equal(request->message.link.name, slice_of("g")));
	ck_assert(handle_equal(&request->message.link.handle, &made.nodes[0].handle));
	origin_answer(request, &made);
	ck_assert_uint_eq(entry_of(unique).nodeid, node);
	ck_assert_uint_eq(entry_of(kernel_lookup(FUSE_ROOT_ID, "g")).nodeid, node);
	ck_assert_uint_eq(origin_received(MESSAGE_lookup), 1); /* of "f" */
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
	tcase_add_test(tcase, a_created_file_is_open_and_its_name_is_known);
	tcase_add_test(tcase, a_create_that_nobody_takes_in_is_closed_again);
	tcase_add_test(tcase, a_create_that_fails_leaves_nothing_open);
	tcase_add_test(tcase, a_symbolic_link_is_sent_with_its_target);
	tcase_add_test(tcase, a_hard_link_is_another_name_of_the_same_inode);
	tcase_add_test(tcase, a_rename_forgets_both_names);
	tcase_add_test(tcase, a_read_only_mount_refuses_without_asking);
	tcase_add_test(tcase, names_that_are_too_long_and_inodes_that_are_gone_are_refused);
	tcase_add_test(tcase, attributes_reach_the_kernel_as_they_are);
	return tcase;
}

UNIT_MAIN("mount_names", names_case)
