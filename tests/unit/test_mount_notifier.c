/* The two lanes to the kernel: order, what waits for what, and when a recall is acknowledged. */
#include "mount_lab.h"

#define FILE_NUMBER 2
#define OTHER_NUMBER 3

static struct inode *inode_of(uint64_t nodeid)
{
	return LAB_GET(inode_by_nodeid(&lab.m, nodeid));
}

/* Opens it for reading when it has to be asked for. Returns the descriptor. */
static uint64_t open_at_origin(uint64_t node)
{
	uint64_t unique = kernel_open(node, O_RDONLY);
	struct fuse_open_out out;

	origin_answer_status(origin_expect(MESSAGE_open), STATUS_OK);
	ck_assert_int_eq(kernel_error(unique), 0);
	memcpy(&out, kernel_wait(unique)->data, sizeof(out));
	return out.fh;
}

/* The origin forgets it, and the next stream is refused. */
static void lose_session(void)
{
	LAB_WAIT(lab.stream);
	origin_forget_session();
	pthread_mutex_lock(&lab.lock);
	server_stream_end(lab.stream);
	lab.stream = NULL;
	pthread_mutex_unlock(&lab.lock);
}

/* ---- order ---- */

static unsigned done_count, done_order[3];

static void note_done(struct mount *m, struct notifier_work *work)
{
	pthread_mutex_lock(&lab.lock);
	done_order[done_count++] = (unsigned)(uintptr_t)work->context;
	pthread_cond_broadcast(&lab.changed);
	pthread_mutex_unlock(&lab.lock);
	free(work);
}

/* Work of one invalidation of attributes, numbered. */
static void push(enum notifier_lane lane, uint64_t nodeid, unsigned number)
{
	struct notifier_work *work = calloc(1, sizeof(*work));
	struct inode *inode = inode_of(nodeid);

	pthread_mutex_lock(&lab.m.lock);
	inode->attributes_given = true;
	ck_assert(notifier_collect(&lab.m, work, inode, false, 0, 0));
	pthread_mutex_unlock(&lab.m.lock);
	work->done = note_done;
	work->context = (void *)(uintptr_t)number;
	notifier_push(&lab.m, lane, work);
}

START_TEST(work_in_a_lane_is_done_in_order)
{
	uint64_t node;

	lab_start();
	node = lab_find_file("f", FILE_NUMBER, 5);
	for (unsigned i = 0; i < 3; i++)
		push(LANE_MODIFY, node, i);
	LAB_WAIT(done_count == 3);
	for (unsigned i = 0; i < 3; i++)
		ck_assert_uint_eq(done_order[i], i);
}
END_TEST

/* A READ of the one may be queued at the origin behind a change that waits for the other. */
START_TEST(neither_lane_waits_for_the_other)
{
	uint64_t node, fh, read, unique;

	lab_start();
	node = lab_find_file("f", FILE_NUMBER, 5);
	(void)lab_find_file("g", OTHER_NUMBER, 5);
	fh = lab_open(node, O_RDWR);
	read = kernel_read(node, lab_open(node, O_RDONLY), 0, 5);
	unique = kernel_write(node, fh, 0, "ABCDE");
	LAB_WAIT(lab.notice_count && !lab.notices[lab.notice_count - 1].returned);
	origin_wait_acknowledged(origin_recall(OTHER_NUMBER, NULL));
	ck_assert_uint_eq(origin_received(MESSAGE_write), 0);
	origin_answer_read(origin_expect(MESSAGE_read), FILE_NUMBER, 1, LEASE_READ, "abcde", true);
	kernel_expect_text(read, "abcde");
	origin_answer_status(origin_expect(MESSAGE_write), STATUS_IO);
	ck_assert_int_eq(kernel_error(unique), EIO);
}
END_TEST

/* ---- recalls ---- */

START_TEST(a_recall_is_acknowledged_when_the_kernel_has_dropped)
{
	uint64_t node, sequence;
	unsigned before;

	lab_start();
	node = lab_find_file("f", FILE_NUMBER, 5);
	(void)lab_open(node, O_RDONLY);
	before = kernel_notices();
	kernel_let_notifications(true);
	sequence = origin_recall(FILE_NUMBER, NULL);
	LAB_WAIT(lab.notice_count > before); /* more: it takes a while, and is tried again */
	ck_assert_int_eq(lab.notices[before].offset, 0);
	ck_assert_int_eq(lab.notices[before].length, 0);
	ck_assert_uint_eq(LAB_GET(inode_by_nodeid(&lab.m, node)->attributes_instance), 0);
	lab_round_trip();
	ck_assert(!origin_acknowledged(sequence));
	kernel_let_notifications(false);
	ck_assert(origin_wait_acknowledged(sequence)->open);
	ck_assert_uint_eq(lab.m.counters.drops, 1);
}
END_TEST

START_TEST(a_recall_of_what_is_not_known_is_acknowledged_at_once)
{
	uint64_t sequence;

	lab_start();
	sequence = origin_recall(77, NULL);
	ck_assert(!origin_wait_acknowledged(sequence)->open);
	ck_assert_uint_eq(kernel_notices(), 0);
}
END_TEST

START_TEST(a_recall_of_a_name_drops_that_name_and_keeps_the_lease)
{
	const struct origin_acknowledgement *acknowledgement;
	uint64_t unique;
	unsigned before;

	lab_start();
	(void)lab_find_file("f", FILE_NUMBER, 5);
	(void)lab_find_file("g", OTHER_NUMBER, 5);
	before = kernel_notices();
	acknowledgement = origin_wait_acknowledged(origin_recall(ROOT_NUMBER, "f"));
	ck_assert(acknowledgement->kept);
	ck_assert_uint_gt(kernel_notices(), before);
	ck_assert(lab.notices[before].epoch); /* names go by epoch: all of them */
	ck_assert_int_eq(kernel_error(kernel_lookup(FUSE_ROOT_ID, "g")), 0);
	ck_assert_uint_eq(origin_received(MESSAGE_lookup), 2);
	unique = kernel_lookup(FUSE_ROOT_ID, "f");
	origin_answer_status(origin_expect(MESSAGE_lookup), STATUS_NOENT);
	ck_assert_int_eq(kernel_error(unique), ENOENT);
}
END_TEST

START_TEST(names_without_epochs_have_no_validity_and_need_no_invalidation)
{
	struct fuse_entry_out out;
	uint64_t unique;

	lab.has_epoch = false;
	lab_start();
	(void)lab_find_file("f", FILE_NUMBER, 5);
	unique = kernel_lookup(FUSE_ROOT_ID, "f");
	ck_assert_int_eq(kernel_error(unique), 0);
	memcpy(&out, kernel_wait(unique)->data, sizeof(out));
	ck_assert_uint_eq(out.entry_valid, 0);
	ck_assert_uint_eq(out.entry_valid_nsec, 0);
	ck_assert(!inode_of(FUSE_ROOT_ID)->live->names_given);
	origin_wait_acknowledged(origin_recall(ROOT_NUMBER, "f"));
	ck_assert_uint_eq(kernel_notices(), 0);
}
END_TEST

/* A decision to give something, and the reply, are one section for a drop. */
START_TEST(a_drop_waits_for_replies_on_their_way)
{
	uint64_t node, sequence;
	unsigned before, token;

	lab_start();
	node = lab_find_file("f", FILE_NUMBER, 5);
	(void)lab_open(node, O_RDONLY);
	before = kernel_notices();
	pthread_mutex_lock(&lab.m.lock);
	token = mount_reply_begin(&lab.m);
	pthread_mutex_unlock(&lab.m.lock);
	sequence = origin_recall(FILE_NUMBER, NULL);
	LAB_WAIT_MOUNT(inode_by_nodeid(&lab.m, node)->live->dropping);
	lab_round_trip();
	ck_assert_uint_eq(kernel_notices(), before);
	mount_reply_end(&lab.m, token);
	origin_wait_acknowledged(sequence);
	ck_assert_uint_gt(kernel_notices(), before);
}
END_TEST

/* It had no pages when the recall came: it was opened, and read without a lease, meanwhile. */
START_TEST(a_drop_takes_the_first_page_of_a_file_that_was_opened_meanwhile)
{
	uint64_t node, fh, read, sequence;
	unsigned before, token;

	lab_start();
	node = lab_find_file("f", FILE_NUMBER, 5);
	pthread_mutex_lock(&lab.m.lock);
	token = mount_reply_begin(&lab.m); /* the drop begins later */
	pthread_mutex_unlock(&lab.m.lock);
	sequence = origin_recall(FILE_NUMBER, NULL);
	LAB_WAIT_MOUNT(inode_by_nodeid(&lab.m, node)->live->dropping);
	fh = open_at_origin(node);
	read = kernel_read(node, fh, 0, 5);
	origin_answer_read(origin_expect(MESSAGE_read), FILE_NUMBER, 1, LEASE_NONE, "abcde", true);
	kernel_expect_text(read, "abcde");
	before = kernel_notices();
	mount_reply_end(&lab.m, token);
	origin_wait_acknowledged(sequence);
	ck_assert_uint_gt(kernel_notices(), before);
	ck_assert_int_eq(lab.notices[kernel_notices() - 1].offset, 0);
	ck_assert_int_eq(lab.notices[kernel_notices() - 1].length, 0);
}
END_TEST

/* ---- what both lanes have to drop ---- */

static bool noticed(uint64_t nodeid)
{
	bool found = false;

	pthread_mutex_lock(&lab.lock);
	for (unsigned i = 0; i < lab.notice_count; i++)
		found |= !lab.notices[i].epoch && lab.notices[i].nodeid == nodeid &&
			 lab.notices[i].returned;
	pthread_mutex_unlock(&lab.lock);
	return found;
}

/*
 * The kernel has attributes of "f". Our own chmod of it is about to invalidate them, but waits for the
 * lane, in which a write to "g" waits for a reader. Returns the reader; nodes in `ret`.
 */
static uint64_t begin_behind_a_reader(uint64_t ret[2])
{
	uint64_t reader, fh, writer;

	lab_start();
	ret[0] = lab_find_file("f", FILE_NUMBER, 5);
	ret[1] = lab_find_file("g", FILE_NUMBER + 1, 5);
	fh = lab_open(ret[1], O_RDONLY);
	writer = lab_open(ret[1], O_WRONLY);
	reader = kernel_read(ret[1], fh, 0, 5);
	(void)kernel_write(ret[1], writer, 0, "g");
	LAB_WAIT(lab.notice_count == 1);
	(void)kernel_setattr(ret[0], FATTR_MODE, 0, 0600);
	return reader;
}

START_TEST(a_recall_drops_attributes_that_our_own_change_is_about_to_drop)
{
	uint64_t node[2], reader = begin_behind_a_reader(node);

	origin_wait_acknowledged(origin_recall(FILE_NUMBER, NULL));
	ck_assert(noticed(node[0]));
	ck_assert(!kernel_answered(reader));
	origin_answer_read(origin_expect(MESSAGE_read), FILE_NUMBER + 1, 1, LEASE_READ, "old g", true);
	origin_answer_status(origin_expect(MESSAGE_write), STATUS_IO);
	origin_answer_status(origin_expect(MESSAGE_setattr), STATUS_IO);
}
END_TEST

START_TEST(a_fence_drops_attributes_that_our_own_change_is_about_to_drop)
{
	uint64_t node[2], reader = begin_behind_a_reader(node);

	lose_session();
	LAB_WAIT(lab.received[MESSAGE_session_open] == 2);
	ck_assert(noticed(node[0]));
	ck_assert(!kernel_answered(reader));
}
END_TEST

START_TEST(our_own_change_drops_names_that_a_recall_is_about_to_drop)
{
	unsigned before, epochs = 0;

	lab_start();
	(void)lab_find_file("f", FILE_NUMBER, 5);
	kernel_hold_notifications_of(lab_find_file("g", FILE_NUMBER + 1, 5));
	(void)origin_recall(FILE_NUMBER + 1, NULL);
	LAB_WAIT(lab.notice_count > 0 && !lab.notices[lab.notice_count - 1].returned);
	(void)origin_recall(ROOT_NUMBER, NULL); /* behind it */
	LAB_WAIT_MOUNT(inode_by_nodeid(&lab.m, FUSE_ROOT_ID)->live->dropping);
	before = kernel_notices();
	(void)kernel_name(FUSE_UNLINK, FUSE_ROOT_ID, "f");
	origin_answer_status(origin_expect(MESSAGE_unlink), STATUS_NOENT);
	(void)kernel_notices();
	for (unsigned i = before; i < lab.notice_count; i++)
		epochs += lab.notices[i].epoch;
	ck_assert_uint_eq(epochs, 1);
}
END_TEST

/* ---- a kernel that refuses ---- */

START_TEST(an_error_of_the_kernel_does_not_keep_a_recall_waiting)
{
	uint64_t node;

	lab_start();
	node = lab_find_file("f", FILE_NUMBER, 5);
	(void)lab_open(node, O_RDONLY);
	pthread_mutex_lock(&lab.lock);
	lab.notify_error = ENODEV;
	pthread_mutex_unlock(&lab.lock);
	origin_wait_acknowledged(origin_recall(FILE_NUMBER, NULL));
}
END_TEST

/* The kernel was told of an inode, and has not taken it in: what it was told would come after. */
START_TEST(an_inode_that_the_kernel_does_not_know_yet_is_invalidated_again)
{
	uint64_t node, sequence;
	unsigned before;

	lab_start();
	node = lab_find_file("f", FILE_NUMBER, 5);
	before = kernel_notices();
	pthread_mutex_lock(&lab.lock);
	lab.notify_error = ENOENT;
	pthread_mutex_unlock(&lab.lock);
	sequence = origin_recall(FILE_NUMBER, NULL);
	LAB_WAIT(lab.notice_count >= before + 3);
	ck_assert(!origin_acknowledged(sequence));
	pthread_mutex_lock(&lab.lock);
	lab.notify_error = 0;
	pthread_mutex_unlock(&lab.lock);
	origin_wait_acknowledged(sequence);
	ck_assert_uint_eq(inode_of(node)->live->dropping, 0);
}
END_TEST

START_TEST(an_inode_that_the_kernel_forgot_is_not_invalidated_for_ever)
{
	struct fuse_forget_in forget = { .nlookup = 1 };
	uint64_t node, sequence;
	unsigned before;

	lab_start();
	node = lab_find_file("f", FILE_NUMBER, 5);
	before = kernel_notices();
	pthread_mutex_lock(&lab.lock);
	lab.notify_error = ENOENT;
	pthread_mutex_unlock(&lab.lock);
	sequence = origin_recall(FILE_NUMBER, NULL);
	LAB_WAIT(lab.notice_count > before);
	(void)kernel_send(FUSE_FORGET, node, &forget, sizeof(forget), NULL, 0);
	origin_wait_acknowledged(sequence);
}
END_TEST

/* So it is at the end of a session, whose leases may have had a while to go. */
START_TEST(the_end_of_a_session_waits_for_what_the_kernel_does_not_know_yet)
{
	uint64_t node;
	unsigned before;

	lab_start();
	node = lab_find_file("f", FILE_NUMBER, 5);
	before = kernel_notices();
	pthread_mutex_lock(&lab.lock);
	lab.notify_error = ENOENT;
	pthread_mutex_unlock(&lab.lock);
	lose_session();
	LAB_WAIT(lab.notice_count >= before + 3);
	ck_assert_uint_eq(origin_received(MESSAGE_session_open), 1);
	pthread_mutex_lock(&lab.lock);
	lab.notify_error = 0;
	pthread_mutex_unlock(&lab.lock);
	LAB_WAIT(lab.received[MESSAGE_session_open] == 2);
	ck_assert_uint_eq(lab.notices[lab.notice_count - 1].nodeid, node);
}
END_TEST

/* After an unmount the kernel knows no inode, and forgets none by name. */
START_TEST(the_end_of_a_mount_does_not_wait_for_a_kernel_that_has_let_go)
{
	uint64_t sequence;
	unsigned before;

	lab_start();
	(void)lab_find_file("f", FILE_NUMBER, 5);
	before = kernel_notices();
	pthread_mutex_lock(&lab.lock);
	lab.notify_error = ENOENT;
	pthread_mutex_unlock(&lab.lock);
	sequence = origin_recall(FILE_NUMBER, NULL);
	LAB_WAIT(lab.notice_count > before);
	fuse_session_exit(lab.m.fuse);
	before = kernel_notices();
	origin_wait_acknowledged(sequence);
	/* Those that were on their way; until the term there would be thousands. */
	ck_assert_uint_le(kernel_notices(), before + 2);
}
END_TEST

static TCase *notifier_case(void)
{
	TCase *tcase = lab_case("mount_notifier");

	tcase_add_test(tcase, work_in_a_lane_is_done_in_order);
	tcase_add_test(tcase, neither_lane_waits_for_the_other);
	tcase_add_test(tcase, a_recall_is_acknowledged_when_the_kernel_has_dropped);
	tcase_add_test(tcase, a_recall_of_what_is_not_known_is_acknowledged_at_once);
	tcase_add_test(tcase, a_recall_of_a_name_drops_that_name_and_keeps_the_lease);
	tcase_add_test(tcase, names_without_epochs_have_no_validity_and_need_no_invalidation);
	tcase_add_test(tcase, a_drop_waits_for_replies_on_their_way);
	tcase_add_test(tcase, a_drop_takes_the_first_page_of_a_file_that_was_opened_meanwhile);
	tcase_add_test(tcase, a_recall_drops_attributes_that_our_own_change_is_about_to_drop);
	tcase_add_test(tcase, a_fence_drops_attributes_that_our_own_change_is_about_to_drop);
	tcase_add_test(tcase, our_own_change_drops_names_that_a_recall_is_about_to_drop);
	tcase_add_test(tcase, an_error_of_the_kernel_does_not_keep_a_recall_waiting);
	tcase_add_test(tcase, an_inode_that_the_kernel_does_not_know_yet_is_invalidated_again);
	tcase_add_test(tcase, the_end_of_a_session_waits_for_what_the_kernel_does_not_know_yet);
	tcase_add_test(tcase, an_inode_that_the_kernel_forgot_is_not_invalidated_for_ever);
	tcase_add_test(tcase, the_end_of_a_mount_does_not_wait_for_a_kernel_that_has_let_go);
	return tcase;
}

UNIT_MAIN("mount_notifier", notifier_case)
