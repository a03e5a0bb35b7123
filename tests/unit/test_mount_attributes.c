/* Attributes, links' targets, xattrs, the room of the export, the mount's status. */
#include "mount_lab.h"

#define FILE_NUMBER 2

static struct fuse_attr_out attr_of(uint64_t unique)
{
	struct fuse_attr_out out;

	ck_assert_int_eq(kernel_error(unique), 0);
	memcpy(&out, kernel_wait(unique)->data, sizeof(out));
	return out;
}

static uint64_t getxattr(uint64_t node, const char *name, uint32_t size)
{
	const struct fuse_getxattr_in in = { .size = size };

	return kernel_send(FUSE_GETXATTR, node, &in, sizeof(in), name, strlen(name) + 1);
}

START_TEST(attributes_under_a_lease_come_from_memory_until_it_is_recalled)
{
	struct item_node f = origin_node(NODE_TARGET, FILE_NUMBER, S_IFREG | 0644, 2, LEASE_NONE);
	struct fuse_attr_out out;
	uint64_t node, unique;

	lab_start();
	node = lab_find_file("f", FILE_NUMBER, 5);
	out = attr_of(kernel_getattr(node));
	ck_assert_uint_eq(out.attr.size, 5);
	ck_assert_uint_gt(out.attr_valid, 0);
	ck_assert_uint_eq(origin_received(MESSAGE_getattr), 0);
	origin_wait_acknowledged(origin_recall(FILE_NUMBER, NULL));
	f.attributes.size = 6;
	unique = kernel_getattr(node);
	origin_answer_node(origin_expect(MESSAGE_getattr), &f);
	out = attr_of(unique);
	ck_assert_uint_eq(out.attr.size, 6);
	ck_assert_uint_eq(out.attr_valid, 0); /* for this once */
	ck_assert_uint_eq(out.attr_valid_nsec, 0);
}
END_TEST

/* Its attributes never came with a lease, so nothing of them was kept but for this. */
START_TEST(a_directory_that_was_removed_is_what_was_heard_last_without_links)
{
	struct item_node d = origin_node(NODE_TARGET, FILE_NUMBER, S_IFDIR | 0750, 2, LEASE_NONE);
	struct fuse_entry_out entry;
	struct fuse_attr_out first, second;
	uint64_t unique;

	lab_start();
	d.attributes.nlink = 2;
	d.attributes.uid = 1000;
	d.attributes.ctime_s = 1;
	unique = kernel_lookup(FUSE_ROOT_ID, "d");
	origin_answer_node(origin_expect(MESSAGE_lookup), &d);
	ck_assert_int_eq(kernel_error(unique), 0);
	memcpy(&entry, kernel_wait(unique)->data, sizeof(entry));
	unique = kernel_getattr(entry.nodeid);
	origin_answer_status(origin_expect(MESSAGE_getattr), STATUS_STALE);
	first = attr_of(unique);
	ck_assert_uint_eq(first.attr.nlink, 0);
	ck_assert_uint_eq(first.attr.mode, S_IFDIR | 0750);
	ck_assert_uint_eq(first.attr.uid, 1000);
	ck_assert_uint_gt(first.attr.ctime, 1);
	unique = kernel_getattr(entry.nodeid);
	origin_answer_status(origin_expect(MESSAGE_getattr), STATUS_STALE);
	second = attr_of(unique);
	ck_assert_mem_eq(&first, &second, sizeof(first));
}
END_TEST

START_TEST(a_truncation_drops_pages_behind_the_new_end_before_and_all_after)
{
	struct item_node f = origin_node(NODE_TARGET, FILE_NUMBER, S_IFREG | 0644, 2, LEASE_READ);
	struct origin_request *setattr;
	uint64_t node, unique;
	unsigned before;

	lab_start();
	node = lab_find_file("f", FILE_NUMBER, 5);
	(void)lab_open(node, O_RDONLY);
	before = kernel_notices();
	unique = kernel_setattr(node, FATTR_SIZE, 3, 0);
	setattr = origin_expect(MESSAGE_setattr);
	ck_assert_uint_eq(setattr->message.setattr.valid, SETATTR_SIZE);
	ck_assert_uint_eq(setattr->message.setattr.size, 3);
	ck_assert_uint_eq(kernel_notices(), before + 1);
	ck_assert_int_eq(lab.notices[before].offset, 3);
	ck_assert_int_eq(lab.notices[before].length, 0);
	f.before.counter = 1;
	f.attributes.size = 3;
	origin_answer_node(setattr, &f);
	ck_assert_uint_eq(attr_of(unique).attr.size, 3);
	ck_assert_uint_eq(kernel_notices(), before + 2);
	ck_assert_int_eq(lab.notices[before + 1].offset, 0);
}
END_TEST

static uint64_t write_direct(uint64_t node, uint64_t fh)
{
	struct fuse_write_in in = { .fh = fh, .offset = 5, .size = 4, .flags = O_RDWR | O_DIRECT };

	return kernel_send(FUSE_WRITE, node, &in, sizeof(in), "more", 4);
}

static uint64_t truncate_through(uint64_t node, uint64_t fh, uint32_t valid)
{
	struct fuse_setattr_in in = { .valid = valid | FATTR_FH | FATTR_SIZE, .fh = fh, .size = 5 };

	return kernel_send(FUSE_SETATTR, node, &in, sizeof(in), NULL, 0);
}

/* Answers the truncation that the origin must get. */
static void expect_truncation(uint64_t unique)
{
	struct item_node f = origin_node(NODE_TARGET, FILE_NUMBER, S_IFREG | 0644, 3, LEASE_READ);

	origin_answer_node(origin_expect(MESSAGE_setattr), &f);
	ck_assert_int_eq(kernel_error(unique), 0);
}

/* fuse_do_truncate(), with the size that the kernel has. */
START_TEST(the_kernel_cuts_nothing_off_after_a_direct_write_that_failed)
{
	uint64_t node, fh, other, unique;

	lab_start();
	node = lab_find_file("f", FILE_NUMBER, 5);
	fh = lab_open(node, O_RDWR);
	other = lab_open(node, O_RDWR);
	lab.caller = 0; /* what it is in cannot be told; in ftruncate(2) it is not */
	unique = write_direct(node, fh);
	origin_answer_status(origin_expect(MESSAGE_write), STATUS_NOSPC);
	ck_assert_int_eq(kernel_error(unique), ENOSPC);
	expect_truncation(truncate_through(node, other, 0));
	expect_truncation(truncate_through(node, fh, FATTR_MTIME | FATTR_MTIME_NOW));
	ck_assert_int_eq(kernel_error(truncate_through(node, fh, FATTR_LOCKOWNER)), EIO);
	ck_assert_uint_eq(origin_received(MESSAGE_setattr), 2);
	/* Once. */
	expect_truncation(truncate_through(node, fh, 0));
}
END_TEST

START_TEST(the_mount_point_is_answered_while_the_origin_is_away)
{
	struct origin_request *lost;
	struct fuse_attr_out out;
	uint64_t unique;

	lab.term_ms = 3000;
	lab_start();
	unique = kernel_getattr(FUSE_ROOT_ID);
	lost = origin_expect(MESSAGE_getattr);
	server_destroy(lab.server);
	lab.server = NULL;
	origin_answer_status(lost, STATUS_OK);
	out = attr_of(unique); /* when the session is over */
	ck_assert_uint_eq(out.attr.mode, S_IFDIR | 0755);
	ck_assert_uint_eq(out.attr_valid, 0);
	ck_assert_int_eq(kernel_error(kernel_send(FUSE_STATFS, FUSE_ROOT_ID, NULL, 0, NULL, 0)), 0);
}
END_TEST

START_TEST(room_is_what_the_origin_says)
{
	const struct item_statfs item = { 1000, 500, 400, 10, 5, 4096, 255 };
	struct fuse_statfs_out out;
	uint8_t bytes[128];
	struct writer w = writer_of(bytes, sizeof(bytes));
	struct origin_answer answer = { .data = bytes };
	uint64_t unique;

	lab_start();
	item_statfs_write(&w, &item);
	answer.length = w.at;
	/* It does not wait long for the origin, and this process may be slow. */
	for (unsigned i = 0; i < 20 && LAB_GET(lab.m.space.f_blocks) != 1000; i++) {
		lab_round_trip();
		unique = kernel_send(FUSE_STATFS, FUSE_ROOT_ID, NULL, 0, NULL, 0);
		origin_answer(origin_expect(MESSAGE_statfs), &answer);
		ck_assert_int_eq(kernel_error(unique), 0);
		memcpy(&out, kernel_wait(unique)->data, sizeof(out));
	}
	ck_assert_uint_eq(LAB_GET(lab.m.space.f_blocks), 1000);
	ck_assert_uint_eq(out.st.bavail, 400);
}
END_TEST

START_TEST(a_links_target_is_remembered_under_its_lease)
{
	struct origin_answer answer = {
		.node_count = 1,
		.nodes = { origin_node(NODE_TARGET, FILE_NUMBER, S_IFLNK | 0777, 1, LEASE_READ) },
		.data = "target",
		.length = 6,
	};
	uint64_t node, unique;

	lab_start();
	node = lab_find("l", FILE_NUMBER, S_IFLNK | 0777, 6);
	unique = kernel_send(FUSE_READLINK, node, NULL, 0, NULL, 0);
	origin_answer(origin_expect(MESSAGE_readlink), &answer);
	kernel_expect_text(unique, "target");
	kernel_expect_text(kernel_send(FUSE_READLINK, node, NULL, 0, NULL, 0), "target");
	ck_assert_uint_eq(origin_received(MESSAGE_readlink), 1);
	origin_wait_acknowledged(origin_recall(FILE_NUMBER, NULL));
	unique = kernel_send(FUSE_READLINK, node, NULL, 0, NULL, 0);
	origin_answer_status(origin_expect(MESSAGE_readlink), STATUS_STALE);
	ck_assert_int_eq(kernel_error(unique), ESTALE);
}
END_TEST

/* ---- xattrs ---- */

START_TEST(what_attributes_say_is_absent_is_not_asked_for)
{
	uint64_t node, unique;

	lab_start();
	node = lab_find("f", FILE_NUMBER, S_IFREG | 0644 | LACKS_CAPABILITY, 5);
	ck_assert_int_eq(kernel_error(getxattr(node, "security.capability", 64)), ENODATA);
	ck_assert_uint_eq(origin_received(MESSAGE_getxattr), 0);
	ck_assert_uint_eq(attr_of(kernel_getattr(node)).attr.mode, S_IFREG | 0644);
	/* Another name is another matter, and so is the same one after a recall. */
	unique = getxattr(node, "security.selinux", 64);
	origin_answer_status(origin_expect(MESSAGE_getxattr), STATUS_NODATA);
	ck_assert_int_eq(kernel_error(unique), ENODATA);
	origin_wait_acknowledged(origin_recall(FILE_NUMBER, NULL));
	unique = getxattr(node, "security.capability", 64);
	origin_answer_status(origin_expect(MESSAGE_getxattr), STATUS_NODATA);
	ck_assert_int_eq(kernel_error(unique), ENODATA);
}
END_TEST

/* The kernel would keep it with attributes that it has: it must go when they do. */
START_TEST(an_access_list_without_a_lease_is_asked_for_again_under_one)
{
	const struct origin_answer weak = { .data = "old", .length = 3 };
	const struct origin_answer granted = {
		.node_count = 1,
		.nodes = { origin_node(NODE_TARGET, FILE_NUMBER, S_IFREG | 0644, 1, LEASE_READ) },
		.data = "new",
		.length = 3,
	};
	uint64_t node, unique;

	lab_start();
	node = lab_find_file("f", FILE_NUMBER, 5);
	unique = getxattr(node, "system.posix_acl_access", 64);
	origin_answer(origin_expect(MESSAGE_getxattr), &weak);
	origin_answer(origin_expect(MESSAGE_getxattr), &granted);
	kernel_expect_text(unique, "new");
}
END_TEST

/* Until it was dropped from the kernel again, nothing lets it be kept. */
START_TEST(an_access_list_without_any_lease_is_dropped_behind_its_answer)
{
	const struct origin_answer weak = { .data = "old", .length = 3 };
	struct item_node f = origin_node(NODE_TARGET, FILE_NUMBER, S_IFREG | 0644, 1, LEASE_READ);
	struct fuse_attr_out out;
	uint64_t node, unique;
	unsigned before;

	lab_start();
	node = lab_find_file("f", FILE_NUMBER, 5);
	origin_wait_acknowledged(origin_recall(FILE_NUMBER, NULL));
	before = kernel_notices();
	kernel_let_notifications(true);
	unique = getxattr(node, "system.posix_acl_access", 64);
	origin_answer(origin_expect(MESSAGE_getxattr), &weak);
	kernel_expect_text(unique, "old");
	LAB_WAIT(lab.notice_count == before + 1);
	unique = kernel_getattr(node);
	origin_answer_node(origin_expect(MESSAGE_getattr), &f);
	out = attr_of(unique);
	ck_assert_uint_eq(out.attr_valid, 0);
	ck_assert_uint_eq(out.attr_valid_nsec, 0);
	kernel_let_notifications(false);
	LAB_WAIT_MOUNT(inode_by_nodeid(&lab.m, node)->live->weak_acls == 0);
	ck_assert_uint_gt(attr_of(kernel_getattr(node)).attr_valid, 0);
}
END_TEST

START_TEST(a_value_that_does_not_fit_is_refused)
{
	const struct origin_answer value = { .data = "0123456789", .length = 10 };
	uint64_t unique;

	lab_start();
	unique = getxattr(FUSE_ROOT_ID, "user.x", 4);
	origin_answer(origin_expect(MESSAGE_getxattr), &value);
	ck_assert_int_eq(kernel_error(unique), ERANGE);
	unique = getxattr(FUSE_ROOT_ID, "user.x", 10);
	origin_answer(origin_expect(MESSAGE_getxattr), &value);
	kernel_expect_text(unique, "0123456789");
}
END_TEST

START_TEST(our_own_xattrs_need_no_origin)
{
	const struct kernel_reply *reply;
	uint64_t node, unique;

	lab_start();
	node = lab_find_file("f", FILE_NUMBER, 5);
	unique = kernel_read(node, lab_open(node, O_RDONLY), 0, 5);
	origin_answer_read(origin_expect(MESSAGE_read), FILE_NUMBER, 1, LEASE_READ, "hello", true);
	kernel_expect_text(unique, "hello");
	lab_wait_calls();
	kernel_expect_text(getxattr(node, "user.leasehold.cached", 64), "5");
	kernel_expect_text(getxattr(node, "user.leasehold.ranges", 64), "0-5");
	kernel_expect_text(getxattr(node, "user.leasehold.change", 64), "9.1");
	kernel_expect_text(getxattr(node, "user.leasehold.version", 64), LEASEHOLD_VERSION);
	ck_assert_int_eq(kernel_error(getxattr(node, "user.leasehold.none", 64)), ENODATA);
	origin_wait_acknowledged(origin_recall(FILE_NUMBER, NULL));
	kernel_expect_text(getxattr(node, "user.leasehold.lease", 64), "none");
	kernel_expect_text(getxattr(node, "user.leasehold.change", 64), "unknown");
	kernel_expect_text(getxattr(node, "user.leasehold.cached", 64), "0");
	reply = kernel_wait(getxattr(node, "system.leasehold.status", 65536));
	ck_assert_int_eq(reply->error, 0);
	ck_assert_ptr_nonnull(memmem(reply->data, reply->length, "\"connected\"", 11));
	ck_assert_uint_eq(origin_received(MESSAGE_getxattr), 0);
}
END_TEST

START_TEST(our_own_xattrs_cannot_be_set)
{
	static const char set[] = "user.leasehold.cached\0value";
	uint32_t in[2] = { 5, 0 }; /* size, flags: the struct of before extended flags */

	lab_start();
	ck_assert_int_eq(kernel_error(kernel_send(FUSE_SETXATTR, FUSE_ROOT_ID, in, sizeof(in), set,
						  sizeof(set))), EPERM);
	ck_assert_int_eq(kernel_error(kernel_name(FUSE_REMOVEXATTR, FUSE_ROOT_ID,
						  "user.leasehold.cached")), EPERM);
	ck_assert_uint_eq(lab.m.counters.calls, 0);
}
END_TEST

static TCase *attributes_case(void)
{
	TCase *tcase = lab_case("mount_attributes");

	tcase_add_test(tcase, attributes_under_a_lease_come_from_memory_until_it_is_recalled);
	tcase_add_test(tcase, a_directory_that_was_removed_is_what_was_heard_last_without_links);
	tcase_add_test(tcase, a_truncation_drops_pages_behind_the_new_end_before_and_all_after);
	tcase_add_test(tcase, the_kernel_cuts_nothing_off_after_a_direct_write_that_failed);
	tcase_add_test(tcase, the_mount_point_is_answered_while_the_origin_is_away);
	tcase_add_test(tcase, room_is_what_the_origin_says);
	tcase_add_test(tcase, a_links_target_is_remembered_under_its_lease);
	tcase_add_test(tcase, what_attributes_say_is_absent_is_not_asked_for);
	tcase_add_test(tcase, an_access_list_without_a_lease_is_asked_for_again_under_one);
	tcase_add_test(tcase, an_access_list_without_any_lease_is_dropped_behind_its_answer);
	tcase_add_test(tcase, a_value_that_does_not_fit_is_refused);
	tcase_add_test(tcase, our_own_xattrs_need_no_origin);
	tcase_add_test(tcase, our_own_xattrs_cannot_be_set);
	return tcase;
}

UNIT_MAIN("mount_attributes", attributes_case)
