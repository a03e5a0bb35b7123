/* This host's own modifications: what is fenced before one is sent, and what its answer does. */
#include "mount_lab.h"

#define FILE_NUMBER 2

static uint64_t node, reader, writer;

/* A file of five bytes under a lease, open for reading and for writing. */
static void begin(void)
{
	lab_start();
	node = lab_find_file("f", FILE_NUMBER, 5);
	reader = lab_open(node, O_RDONLY);
	writer = lab_open(node, O_RDWR);
}

/* The kernel has its pages, the cache its bytes. */
static void fill(const char *text)
{
	uint64_t unique = kernel_read(node, reader, 0, 5);

	origin_answer_read(origin_expect(MESSAGE_read), FILE_NUMBER, 1, LEASE_READ, text, true);
	kernel_expect_text(unique, text);
	lab_wait_calls();
}

/* The answer to a write of `count` bytes at `offset`, which moved the file from `before` to `after`. */
static void answer_write(struct origin_request *write, uint64_t before, uint64_t after,
			 enum lease_kind lease, uint64_t offset, uint32_t count)
{
	struct origin_answer answer = {
		.offset = offset,
		.count = count,
		.node_count = 1,
		.nodes = { origin_node(NODE_TARGET, FILE_NUMBER, S_IFREG | 0644, after, lease) },
	};

	answer.nodes[0].before.counter = before;
	answer.nodes[0].attributes.size = 5;
	origin_answer(write, &answer);
}

static struct kernel_notice notice(unsigned index)
{
	struct kernel_notice n;

	ck_assert_uint_lt(index, kernel_notices());
	pthread_mutex_lock(&lab.lock);
	n = lab.notices[index];
	pthread_mutex_unlock(&lab.lock);
	return n;
}

/* ---- before it is sent ---- */

START_TEST(a_write_is_sent_when_the_pages_that_it_changes_are_gone)
{
	uint64_t unique;
	unsigned before;

	begin();
	before = kernel_notices();
	kernel_let_notifications(true);
	unique = kernel_write(node, writer, 1, "ABC");
	LAB_WAIT(lab.notice_count == before + 1);
	ck_assert_uint_eq(notice(before).nodeid, node);
	ck_assert_int_eq(notice(before).offset, 1);
	ck_assert_int_eq(notice(before).length, 3);
	lab_round_trip();
	ck_assert_uint_eq(origin_received(MESSAGE_write), 0);
	kernel_let_notifications(false);
	answer_write(origin_expect(MESSAGE_write), 1, 2, LEASE_READ, 1, 3);
	ck_assert_int_eq(kernel_error(unique), 0);
}
END_TEST

START_TEST(names_go_by_epoch_before_one_is_made)
{
	uint64_t unique;
	unsigned before;

	begin();
	ck_assert(LAB_GET(inode_by_nodeid(&lab.m, FUSE_ROOT_ID)->live->names_given + 0));
	before = kernel_notices();
	unique = kernel_name(FUSE_UNLINK, FUSE_ROOT_ID, "f");
	LAB_WAIT(lab.received[MESSAGE_unlink] == 1);
	ck_assert_uint_gt(kernel_notices(), before);
	ck_assert(notice(before).epoch);
	origin_answer_status(origin_expect(MESSAGE_unlink), STATUS_OK);
	ck_assert_int_eq(kernel_error(unique), 0);
}
END_TEST

START_TEST(what_the_kernel_does_not_hold_is_not_invalidated)
{
	struct fuse_mkdir_in in = { .mode = 0755 };
	uint64_t unique;

	lab_start();
	unique = kernel_send(FUSE_MKDIR, FUSE_ROOT_ID, &in, sizeof(in), "d", 2);
	origin_answer_status(origin_expect(MESSAGE_mknod), STATUS_EXIST);
	ck_assert_int_eq(kernel_error(unique), EEXIST);
	ck_assert_uint_eq(kernel_notices(), 0);
}
END_TEST

/* A READ that began before it would be answered from the old state: its page is waited for. */
START_TEST(a_write_waits_for_page_fills_that_began_before_it)
{
	uint64_t read, unique;

	begin();
	read = kernel_read(node, reader, 0, 5);
	unique = kernel_write(node, writer, 0, "ABCDE");
	LAB_WAIT(lab.notice_count && !lab.notices[lab.notice_count - 1].returned);
	lab_round_trip();
	ck_assert_uint_eq(origin_received(MESSAGE_write), 0);
	origin_answer_read(origin_expect(MESSAGE_read), FILE_NUMBER, 1, LEASE_READ, "abcde", true);
	kernel_expect_text(read, "abcde");
	answer_write(origin_expect(MESSAGE_write), 1, 2, LEASE_READ, 0, 5);
	ck_assert_int_eq(kernel_error(unique), 0);
}
END_TEST

/* Nor is it sent while pages come in again and again, each behind the invalidation. */
START_TEST(a_write_is_not_sent_while_pages_come_in)
{
	uint64_t read, unique;

	begin();
	kernel_let_notifications(true);
	unique = kernel_write(node, writer, 0, "ABCDE");
	for (unsigned i = 0; i < 5; i++) {
		LAB_WAIT(lab.notice_count == lab.notify_let + 1);
		read = kernel_read(node, reader, 0, 5);
		origin_answer_read(origin_expect(MESSAGE_read), FILE_NUMBER, 1, LEASE_READ,
				   "abcde", true);
		kernel_expect_text(read, "abcde");
		kernel_let_one_notification();
	}
	LAB_WAIT(lab.notice_count == lab.notify_let + 1);
	ck_assert_uint_eq(origin_received(MESSAGE_write), 0);
	kernel_let_one_notification();
	answer_write(origin_expect(MESSAGE_write), 1, 2, LEASE_READ, 0, 5);
	kernel_let_notifications(false);
	ck_assert_int_eq(kernel_error(unique), 0);
}
END_TEST

/* ---- until it is answered ---- */

START_TEST(page_fills_are_held_while_the_lease_stands)
{
	struct origin_request *write;
	uint64_t unique, read;

	begin();
	unique = kernel_write(node, writer, 0, "ABCDE");
	write = origin_expect(MESSAGE_write);
	read = kernel_read(node, reader, 0, 5);
	lab_round_trip();
	ck_assert_uint_eq(origin_received(MESSAGE_read), 0);
	answer_write(write, 1, 2, LEASE_READ, 0, 5);
	origin_answer_read(origin_expect(MESSAGE_read), FILE_NUMBER, 2, LEASE_READ, "ABCDE", true);
	kernel_expect_text(read, "ABCDE");
	ck_assert_int_eq(kernel_error(unique), 0);
}
END_TEST

/* Without a lease it is sent, and may come before the modification; the answer brings a lease. */
START_TEST(a_page_fill_from_before_our_change_is_not_taken_in)
{
	const struct handle handle = lab_handle(FILE_NUMBER);
	struct origin_request *write;
	uint64_t unique, read;

	begin();
	origin_wait_acknowledged(origin_recall(FILE_NUMBER, NULL));
	unique = kernel_write(node, writer, 0, "ABCDE");
	write = origin_expect(MESSAGE_write);
	read = kernel_read(node, reader, 0, 5);
	origin_answer_read(origin_expect(MESSAGE_read), FILE_NUMBER, 1, LEASE_READ, "abcde", true);
	LAB_WAIT_MOUNT(holder_lease_held(lab.m.holder, mount_now(), &handle));
	lab_round_trip();
	ck_assert(!kernel_answered(read));
	ck_assert_uint_eq(origin_received(MESSAGE_read), 1);
	answer_write(write, 1, 2, LEASE_READ, 0, 5);
	origin_answer_read(origin_expect(MESSAGE_read), FILE_NUMBER, 2, LEASE_READ, "ABCDE", true);
	kernel_expect_text(read, "ABCDE");
	ck_assert_int_eq(kernel_error(unique), 0);
}
END_TEST

/*
 * The modification may be waiting for just that recall: it waits for no page. Which comes later, since
 * others may have seen the modification by then.
 */
START_TEST(a_recall_does_not_wait_for_page_fills_that_wait_for_a_modification)
{
	struct origin_request *write, *fill;
	uint64_t unique, read, sequence;

	begin();
	unique = kernel_write(node, writer, 0, "ABCDE");
	write = origin_expect(MESSAGE_write);
	read = kernel_read(node, reader, 0, 5);
	lab_round_trip();
	ck_assert_uint_eq(origin_received(MESSAGE_read), 0);
	kernel_hold_notifications_of(node);
	sequence = origin_recall(FILE_NUMBER, NULL);
	fill = origin_expect(MESSAGE_read);
	LAB_WAIT(lab.notice_count > 0 && !lab.notices[lab.notice_count - 1].returned);
	origin_answer_read(fill, FILE_NUMBER, 1, LEASE_NONE, "abcde", true);
	fill = origin_expect(MESSAGE_read);
	ck_assert(!kernel_answered(read));
	kernel_hold_notifications_of(0);
	origin_wait_acknowledged(sequence);
	origin_answer_read(fill, FILE_NUMBER, 1, LEASE_NONE, "abcde", true);
	answer_write(write, 1, 2, LEASE_NONE, 0, 5);
	origin_answer_read(origin_expect(MESSAGE_read), FILE_NUMBER, 2, LEASE_READ, "ABCDE", true);
	kernel_expect_text(read, "ABCDE");
	ck_assert_int_eq(kernel_error(unique), 0);
}
END_TEST

START_TEST(attributes_are_asked_for_while_they_change)
{
	struct origin_request *write;
	struct item_node now = origin_node(NODE_TARGET, FILE_NUMBER, S_IFREG | 0644, 2, LEASE_NONE);
	uint64_t unique, getattr;

	begin();
	unique = kernel_write(node, writer, 0, "ABCDE");
	write = origin_expect(MESSAGE_write);
	getattr = kernel_getattr(node);
	origin_answer_node(origin_expect(MESSAGE_getattr), &now);
	ck_assert_int_eq(kernel_error(getattr), 0);
	answer_write(write, 1, 2, LEASE_READ, 0, 5);
	ck_assert_int_eq(kernel_error(unique), 0);
	ck_assert_int_eq(kernel_error(kernel_getattr(node)), 0); /* from memory again */
	ck_assert_uint_eq(origin_received(MESSAGE_getattr), 1);
}
END_TEST

/* ---- its answer ---- */

START_TEST(cached_bytes_move_with_a_write_that_alone_changed_the_file)
{
	uint64_t unique;

	begin();
	fill("abcde");
	unique = kernel_write(node, writer, 1, "XYZ");
	answer_write(origin_expect(MESSAGE_write), 1, 2, LEASE_READ, 1, 3);
	ck_assert_int_eq(kernel_error(unique), 0);
	kernel_expect_text(kernel_read(node, reader, 0, 5), "aXYZe");
	ck_assert_uint_eq(origin_received(MESSAGE_read), 1);
}
END_TEST

START_TEST(cached_bytes_do_not_move_when_somebody_else_changed_it_too)
{
	uint64_t unique, read;

	begin();
	fill("abcde");
	unique = kernel_write(node, writer, 1, "XYZ");
	answer_write(origin_expect(MESSAGE_write), 2, 3, LEASE_READ, 1, 3);
	ck_assert_int_eq(kernel_error(unique), 0);
	read = kernel_read(node, reader, 0, 5);
	origin_answer_read(origin_expect(MESSAGE_read), FILE_NUMBER, 3, LEASE_READ, "AXYZE", true);
	kernel_expect_text(read, "AXYZE");
}
END_TEST

START_TEST(a_failed_write_leaves_nothing_cached_for_sure)
{
	uint64_t unique, read;

	begin();
	fill("abcde");
	unique = kernel_write(node, writer, 1, "XYZ");
	origin_answer_status(origin_expect(MESSAGE_write), STATUS_NOSPC);
	ck_assert_int_eq(kernel_error(unique), ENOSPC);
	read = kernel_read(node, reader, 0, 5);
	origin_answer_read(origin_expect(MESSAGE_read), FILE_NUMBER, 2, LEASE_READ, "aXcde", true);
	kernel_expect_text(read, "aXcde");
}
END_TEST

START_TEST(pages_filled_meanwhile_go_before_the_writer_is_answered)
{
	struct origin_request *write;
	unsigned before;
	uint64_t unique;

	begin();
	unique = kernel_write(node, writer, 1, "XYZ");
	write = origin_expect(MESSAGE_write);
	before = kernel_notices();
	kernel_let_notifications(true);
	answer_write(write, 1, 2, LEASE_READ, 1, 3);
	LAB_WAIT(lab.notice_count == before + 1);
	ck_assert_int_eq(notice(before).offset, 1);
	ck_assert_int_eq(notice(before).length, 3);
	ck_assert(!kernel_answered(unique));
	kernel_let_notifications(false);
	ck_assert_int_eq(kernel_error(unique), 0);
}
END_TEST

START_TEST(an_append_drops_pages_from_the_start)
{
	uint64_t unique, append;
	unsigned before;

	begin();
	append = lab_open(node, O_WRONLY | O_APPEND);
	before = kernel_notices();
	unique = kernel_write(node, append, 5, "tail");
	LAB_WAIT(lab.received[MESSAGE_write] == 1);
	ck_assert_int_eq(notice(before).offset, 0);
	ck_assert_int_eq(notice(before).length, 0);
	answer_write(origin_expect(MESSAGE_write), 1, 2, LEASE_READ, 9, 4);
	ck_assert_int_eq(kernel_error(unique), 0);
}
END_TEST

START_TEST(a_removed_name_is_known_to_be_absent)
{
	struct origin_answer removed = {
		.node_count = 1,
		.nodes = { origin_node(NODE_DIRECTORY, ROOT_NUMBER, S_IFDIR | 0755, 2, LEASE_READ) },
	};
	uint64_t unique;

	begin();
	removed.nodes[0].before.counter = 1;
	unique = kernel_name(FUSE_UNLINK, FUSE_ROOT_ID, "f");
	origin_answer(origin_expect(MESSAGE_unlink), &removed);
	ck_assert_int_eq(kernel_error(unique), 0);
	unique = kernel_lookup(FUSE_ROOT_ID, "f");
	ck_assert_int_eq(kernel_error(unique), 0); /* absent, with a validity: nodeid 0 */
	ck_assert_uint_eq(((const struct fuse_entry_out *)kernel_wait(unique)->data)->nodeid, 0);
	ck_assert_uint_eq(origin_received(MESSAGE_lookup), 1);
}
END_TEST

/* The victim's open is told with the request, so that the origin keeps it alive. */
START_TEST(what_loses_its_name_is_said_to_be_open)
{
	struct origin_request *request;
	struct handle handle = lab_handle(FILE_NUMBER);
	uint64_t unique;

	begin();
	unique = kernel_name(FUSE_UNLINK, FUSE_ROOT_ID, "f");
	request = origin_expect(MESSAGE_unlink);
	ck_assert(handle_equal(&request->message.unlink.victim_open, &handle));
	origin_answer_status(request, STATUS_OK);
	ck_assert_int_eq(kernel_error(unique), 0);
	ck_assert(LAB_GET(inode_by_nodeid(&lab.m, node)->live->open_registered + 0));
}
END_TEST

/* An answer to a lookup that was asked before our own change is void for the name. */
START_TEST(what_was_asked_before_our_change_does_not_come_back)
{
	struct origin_answer removed = {
		.node_count = 1,
		.nodes = { origin_node(NODE_DIRECTORY, ROOT_NUMBER, S_IFDIR | 0755, 2, LEASE_READ) },
	}, found = {
		.node_count = 2,
		.nodes = { origin_node(NODE_TARGET, 3, S_IFREG | 0644, 1, LEASE_READ),
			   origin_node(NODE_DIRECTORY, ROOT_NUMBER, S_IFDIR | 0755, 1, LEASE_READ) },
	};
	struct origin_request *lookup;
	uint64_t unique, late;

	begin();
	removed.nodes[0].before.counter = 1;
	late = kernel_lookup(FUSE_ROOT_ID, "g");
	lookup = origin_expect(MESSAGE_lookup);
	unique = kernel_name(FUSE_UNLINK, FUSE_ROOT_ID, "g");
	origin_answer(origin_expect(MESSAGE_unlink), &removed);
	ck_assert_int_eq(kernel_error(unique), 0);
	origin_answer(lookup, &found);
	ck_assert_int_eq(kernel_error(late), 0); /* it was asked before: it may be answered so */
	late = kernel_lookup(FUSE_ROOT_ID, "g");
	origin_answer_status(origin_expect(MESSAGE_lookup), STATUS_NOENT);
	ck_assert_int_eq(kernel_error(late), ENOENT);
}
END_TEST

static TCase *modify_case(void)
{
	TCase *tcase = lab_case("mount_modify");

	tcase_add_test(tcase, a_write_is_sent_when_the_pages_that_it_changes_are_gone);
	tcase_add_test(tcase, names_go_by_epoch_before_one_is_made);
	tcase_add_test(tcase, what_the_kernel_does_not_hold_is_not_invalidated);
	tcase_add_test(tcase, a_write_waits_for_page_fills_that_began_before_it);
	tcase_add_test(tcase, a_write_is_not_sent_while_pages_come_in);
	tcase_add_test(tcase, page_fills_are_held_while_the_lease_stands);
	tcase_add_test(tcase, a_page_fill_from_before_our_change_is_not_taken_in);
	tcase_add_test(tcase, a_recall_does_not_wait_for_page_fills_that_wait_for_a_modification);
	tcase_add_test(tcase, attributes_are_asked_for_while_they_change);
	tcase_add_test(tcase, cached_bytes_move_with_a_write_that_alone_changed_the_file);
	tcase_add_test(tcase, cached_bytes_do_not_move_when_somebody_else_changed_it_too);
	tcase_add_test(tcase, a_failed_write_leaves_nothing_cached_for_sure);
	tcase_add_test(tcase, pages_filled_meanwhile_go_before_the_writer_is_answered);
	tcase_add_test(tcase, an_append_drops_pages_from_the_start);
	tcase_add_test(tcase, a_removed_name_is_known_to_be_absent);
	tcase_add_test(tcase, what_loses_its_name_is_said_to_be_open);
	tcase_add_test(tcase, what_was_asked_before_our_change_does_not_come_back);
	return tcase;
}

UNIT_MAIN("mount_modify", modify_case)
