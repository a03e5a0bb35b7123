/* The session: what is reclaimed, acknowledged and released, and in which order it ends and begins. */
#include "mount_lab.h"

#define FILE_NUMBER 2

/* The origin says that the session is over, by the next thing that the host asks. */
static void lose_session(void)
{
	uint64_t unique = kernel_lookup(FUSE_ROOT_ID, "lost");
	struct origin_request *refused = origin_expect(MESSAGE_lookup);

	origin_forget_session();
	origin_answer_status(refused, STATUS_NOSESSION);
	origin_answer_status(origin_expect(MESSAGE_lookup), STATUS_STALE); /* in the next one */
	ck_assert_int_eq(kernel_error(unique), ESTALE);
}

static uint64_t session_now(void)
{
	return LAB_GET(holder_session(lab.m.holder)).value;
}

/* ---- alive ---- */

START_TEST(a_keepalive_that_was_lost_is_repeated_and_renews_the_session)
{
	struct origin_request *lost;

	lab.term_ms = 9000;
	origin_asks(MESSAGE_keepalive, true);
	lab_start();
	lost = origin_expect(MESSAGE_keepalive);
	server_destroy(lab.server);
	origin_keep_alive(lost->request, 1);
	free(lost);
	origin_asks(MESSAGE_keepalive, false);
	origin_listen();
	LAB_WAIT(lab.received[MESSAGE_keepalive] >= 2);
	LAB_WAIT_MOUNT(holder_remaining(lab.m.holder, mount_now()).ns > 8 * NS_PER_S);
	ck_assert_uint_eq(session_now(), 1);
	ck_assert_uint_eq(lab.m.counters.fences, 0);
}
END_TEST

START_TEST(a_session_that_is_not_renewed_ends_and_everything_is_dropped)
{
	struct origin_request *keepalive;
	uint64_t node;

	lab.term_ms = 4000;
	lab_start();
	node = lab_find_file("f", FILE_NUMBER, 5);
	(void)lab_open(node, O_RDONLY);
	origin_asks(MESSAGE_keepalive, true);
	keepalive = origin_expect(MESSAGE_keepalive);
	LAB_WAIT(lab.received[MESSAGE_session_open] >= 2); /* by itself, when the term is over */
	ck_assert_uint_ge(lab.m.counters.fences, 1);
	ck_assert_uint_eq(lab.notices[lab.notice_count - 1].nodeid, node);
	origin_asks(MESSAGE_keepalive, false);
	origin_keep_alive(keepalive->request, 1);
	free(keepalive);
	LAB_WAIT_MOUNT(holder_valid(lab.m.holder, mount_now()));
}
END_TEST

START_TEST(a_lost_stream_is_opened_again_and_the_session_goes_on)
{
	uint64_t sequence;

	lab_start();
	(void)lab_find_file("f", FILE_NUMBER, 5);
	pthread_mutex_lock(&lab.lock);
	server_stream_end(lab.stream);
	lab.stream = NULL;
	pthread_mutex_unlock(&lab.lock);
	LAB_WAIT(lab.received[MESSAGE_recall_stream] == 2);
	sequence = origin_recall(FILE_NUMBER, NULL);
	origin_wait_acknowledged(sequence);
	ck_assert_uint_eq(origin_received(MESSAGE_session_open), 1);
	ck_assert_uint_eq(lab.m.counters.fences, 0);
}
END_TEST

/* ---- acknowledgements ---- */

START_TEST(acknowledgements_are_batched_and_repeated_until_they_are_answered)
{
	struct origin_request *first, *second;
	struct item_acknowledgement item;
	struct reader r;
	unsigned count = 0;

	lab_start();
	origin_asks(MESSAGE_recall_acknowledge, true);
	(void)origin_recall(50, NULL);
	first = origin_expect(MESSAGE_recall_acknowledge);
	for (uint8_t i = 0; i < 3; i++)
		(void)origin_recall((uint8_t)(51 + i), NULL);
	LAB_WAIT_MOUNT(lab.m.counters.drops == 4);
	ck_assert_uint_eq(origin_received(MESSAGE_recall_acknowledge), 1); /* one in flight */
	origin_acknowledge(first->request, STATUS_OK);
	free(first);
	second = origin_expect(MESSAGE_recall_acknowledge);
	r = reader_of(second->message.recall_acknowledge.items.data,
		      second->message.recall_acknowledge.items.length);
	while (item_acknowledgement_read(&r, &item))
		ck_assert_uint_eq(item.sequence, 2 + count++);
	ck_assert_uint_eq(count, 3);
	/* Its connection breaks: the same again. */
	server_destroy(lab.server);
	origin_acknowledge(second->request, STATUS_OK);
	free(second);
	origin_asks(MESSAGE_recall_acknowledge, false);
	origin_listen();
	for (uint64_t sequence = 2; sequence <= 4; sequence++)
		origin_wait_acknowledged(sequence);
}
END_TEST

/* An acknowledgement says "open here" and registers it; a close must not come before it. */
START_TEST(a_close_waits_for_the_acknowledgement_that_says_open)
{
	struct origin_request *acknowledgement;
	uint64_t node, fh;

	lab_start();
	node = lab_find_file("f", FILE_NUMBER, 5);
	fh = lab_open(node, O_RDONLY);
	origin_asks(MESSAGE_recall_acknowledge, true);
	(void)origin_recall(FILE_NUMBER, NULL);
	acknowledgement = origin_expect(MESSAGE_recall_acknowledge);
	lab_close(node, fh);
	lab_round_trip();
	ck_assert_uint_eq(origin_received(MESSAGE_close), 0);
	origin_acknowledge(acknowledgement->request, STATUS_OK);
	free(acknowledgement);
	origin_answer_status(origin_expect(MESSAGE_close), STATUS_OK);
}
END_TEST

/* ---- the end of one, and the next ---- */

START_TEST(the_next_session_is_opened_when_the_kernel_has_dropped)
{
	struct origin_request *refused;
	uint64_t node, unique;

	lab_start();
	node = lab_find_file("f", FILE_NUMBER, 5);
	(void)lab_open(node, O_RDONLY);
	unique = kernel_lookup(FUSE_ROOT_ID, "x");
	refused = origin_expect(MESSAGE_lookup);
	kernel_let_notifications(true);
	origin_forget_session();
	origin_answer_status(refused, STATUS_NOSESSION);
	LAB_WAIT(lab.notice_count && !lab.notices[lab.notice_count - 1].returned);
	lab_control_round_trip();
	ck_assert_uint_eq(origin_received(MESSAGE_session_open), 1);
	kernel_let_notifications(false);
	origin_answer_status(origin_expect(MESSAGE_lookup), STATUS_NOENT);
	ck_assert_int_eq(kernel_error(unique), ENOENT);
	ck_assert_uint_eq(session_now(), 2);
}
END_TEST

/* A READ came when what there is to drop had been looked at: its page waits for the next session. */
START_TEST(the_next_session_does_not_wait_for_a_read_that_comes_while_the_kernel_drops)
{
	struct origin_request *refused;
	uint64_t node, fh, read, unique;
	unsigned before;

	lab_start();
	node = lab_find_file("f", FILE_NUMBER, 5);
	fh = lab_open(node, O_RDONLY);
	unique = kernel_lookup(FUSE_ROOT_ID, "x");
	refused = origin_expect(MESSAGE_lookup);
	before = kernel_notices();
	kernel_let_notifications(true);
	origin_forget_session();
	origin_answer_status(refused, STATUS_NOSESSION);
	LAB_WAIT(lab.notice_count > before && !lab.notices[lab.notice_count - 1].returned);
	read = kernel_read(node, fh, 0, 5);
	kernel_let_notifications(false); /* but it waits for that page */
	origin_answer_status(origin_expect(MESSAGE_lookup), STATUS_NOENT);
	ck_assert_int_eq(kernel_error(unique), ENOENT);
	ck_assert_uint_eq(session_now(), 2);
	origin_answer_read(origin_expect(MESSAGE_read), FILE_NUMBER, 1, LEASE_READ, "abcde", true);
	kernel_expect_text(read, "abcde");
}
END_TEST

START_TEST(nothing_of_an_old_session_is_answered_from_memory)
{
	struct item_node f = origin_node(NODE_TARGET, FILE_NUMBER, S_IFREG | 0644, 2, LEASE_READ);
	uint64_t node, unique;

	lab_start();
	node = lab_find_file("f", FILE_NUMBER, 5);
	ck_assert_int_eq(kernel_error(kernel_getattr(node)), 0);
	ck_assert_uint_eq(origin_received(MESSAGE_getattr), 0);
	lose_session();
	unique = kernel_getattr(node);
	origin_answer_node(origin_expect(MESSAGE_getattr), &f);
	ck_assert_int_eq(kernel_error(unique), 0);
}
END_TEST

START_TEST(leases_and_opens_are_reclaimed_in_the_next_session)
{
	struct origin_request *reclaim;
	struct handle handle = lab_handle(FILE_NUMBER);
	struct item_claim claim;
	struct reader r;
	bool found = false, open = false;
	uint64_t node;

	lab_start();
	node = lab_find_file("f", FILE_NUMBER, 5);
	(void)lab_open(node, O_RDONLY);
	lab.reclaim = true;
	origin_asks(MESSAGE_reclaim, true);
	lose_session();
	reclaim = origin_expect(MESSAGE_reclaim);
	ck_assert_uint_eq(reclaim->message.reclaim.session, 2);
	ck_assert_uint_eq(reclaim->message.reclaim.last, 1);
	r = reader_of(reclaim->message.reclaim.items.data, reclaim->message.reclaim.items.length);
	while (item_claim_read(&r, &claim)) {
		if (!handle_equal(&claim.handle, &handle))
			continue;
		open |= claim.open;
		found |= claim.change.incarnation == INCARNATION && claim.change.counter == 1;
	}
	ck_assert(found);
	ck_assert(open);
	origin_reclaimed(reclaim->request, reclaim->message.reclaim.items, true);
	free(reclaim);
	LAB_WAIT_MOUNT(holder_lease(lab.m.holder, mount_now(), &handle));
}
END_TEST

START_TEST(who_has_nothing_to_reclaim_says_so)
{
	struct origin_request *reclaim;

	lab_start();
	lab.reclaim = true;
	origin_asks(MESSAGE_reclaim, true);
	lose_session();
	reclaim = origin_expect(MESSAGE_reclaim);
	ck_assert_uint_eq(reclaim->message.reclaim.last, 1);
	ck_assert_uint_eq(reclaim->message.reclaim.items.length, 0);
	origin_reclaimed(reclaim->request, reclaim->message.reclaim.items, true);
	free(reclaim);
	lab_control_round_trip();
	ck_assert_uint_eq(session_now(), 2);
}
END_TEST

/* What is open here is named even without a lease: the origin registers it. */
START_TEST(an_open_without_a_lease_is_named_all_the_same)
{
	struct origin_request *reclaim;
	struct handle handle = lab_handle(FILE_NUMBER);
	struct item_claim claim;
	struct reader r;
	bool open = false;
	uint64_t node;

	lab_start();
	node = lab_find_file("f", FILE_NUMBER, 5);
	(void)lab_open(node, O_RDONLY);
	origin_wait_acknowledged(origin_recall(FILE_NUMBER, NULL));
	lab.reclaim = true;
	origin_asks(MESSAGE_reclaim, true);
	lose_session();
	reclaim = origin_expect(MESSAGE_reclaim);
	r = reader_of(reclaim->message.reclaim.items.data, reclaim->message.reclaim.items.length);
	while (item_claim_read(&r, &claim))
		open |= claim.open && handle_equal(&claim.handle, &handle);
	ck_assert(open);
	origin_reclaimed(reclaim->request, reclaim->message.reclaim.items, false);
	free(reclaim);
}
END_TEST

/* True when the claims say that the file is open here. Answers them. */
static bool claims_open(struct origin_request *reclaim)
{
	struct slice items = reclaim->message.reclaim.items;
	struct reader r = reader_of(items.data, items.length);
	struct handle handle = lab_handle(FILE_NUMBER);
	struct item_claim claim;
	bool open = false;

	while (item_claim_read(&r, &claim))
		open |= claim.open && handle_equal(&claim.handle, &handle);
	origin_reclaimed(reclaim->request, items, false);
	free(reclaim);
	return open;
}

/* PROTOCOL.md 3.5: a repetition is answered with what it opened, for a session that has ended. */
START_TEST(the_last_claim_waits_for_what_was_under_way_and_what_that_opened)
{
	struct item_node f = origin_node(NODE_TARGET, FILE_NUMBER, S_IFREG | 0644, 0, LEASE_NONE);
	struct fuse_create_in in = { .flags = O_RDWR | O_CREAT, .mode = S_IFREG | 0644 };
	struct origin_request *create, *reclaim;
	bool last = false, open = false;
	uint64_t unique;

	lab_start();
	lab.reclaim = true;
	origin_asks(MESSAGE_reclaim, true);
	unique = kernel_send(FUSE_CREATE, FUSE_ROOT_ID, &in, sizeof(in), "f", 2);
	create = origin_expect(MESSAGE_create);
	ck_assert_uint_eq(create->message.common.session, 1);
	lose_session();
	lab_control_round_trip();
	reclaim = origin_take(MESSAGE_reclaim);
	if (reclaim) {
		ck_assert_uint_eq(reclaim->message.reclaim.last, 0);
		ck_assert(!claims_open(reclaim));
	}
	origin_answer_node(create, &f);
	ck_assert_int_eq(kernel_error(unique), 0);
	while (!last) {
		reclaim = origin_expect(MESSAGE_reclaim);
		last = reclaim->message.reclaim.last;
		open |= claims_open(reclaim);
	}
	ck_assert(open);
}
END_TEST

START_TEST(what_is_not_confirmed_is_not_held)
{
	struct origin_request *reclaim;
	struct handle handle = lab_handle(FILE_NUMBER);

	lab_start();
	(void)lab_find_file("f", FILE_NUMBER, 5);
	lab.reclaim = true;
	origin_asks(MESSAGE_reclaim, true);
	lose_session();
	reclaim = origin_expect(MESSAGE_reclaim);
	origin_reclaimed(reclaim->request, reclaim->message.reclaim.items, false);
	free(reclaim);
	origin_asks(MESSAGE_reclaim, false);
	lab_round_trip();
	LAB_WAIT_MOUNT(holder_valid(lab.m.holder, mount_now()));
	ck_assert_uint_eq(LAB_GET(holder_lease(lab.m.holder, mount_now(), &handle)), 0);
}
END_TEST

START_TEST(claims_go_in_batches_and_the_last_one_says_so)
{
	struct origin_request *reclaim;
	struct item_claim claim;
	unsigned batches = 0, claims = 0;
	bool last = false;

	lab_start();
	(void)lab_find_file("f", FILE_NUMBER, 5);
	pthread_mutex_lock(&lab.m.lock);
	for (unsigned i = 0; i < 600; i++) {
		struct handle handle = { 3, { (uint8_t)i, (uint8_t)(i >> 8), 8 } };
		struct holder_actions actions = session_actions();
		uint64_t stamp = holder_request_begin(lab.m.holder);

		(void)holder_grant(lab.m.holder, mount_now(), stamp, 0, &handle,
				   (struct change){ INCARNATION, 1 }, &actions);
		holder_request_end(lab.m.holder, stamp);
		session_act(&lab.m, &actions);
	}
	pthread_mutex_unlock(&lab.m.lock);
	lab.reclaim = true;
	origin_asks(MESSAGE_reclaim, true);
	lose_session();
	for (; !last; batches++) {
		struct reader r;

		reclaim = origin_expect(MESSAGE_reclaim);
		last = reclaim->message.reclaim.last;
		r = reader_of(reclaim->message.reclaim.items.data,
			      reclaim->message.reclaim.items.length);
		while (item_claim_read(&r, &claim))
			claims++;
		ck_assert_uint_eq(origin_received(MESSAGE_reclaim), batches + 1);
		origin_reclaimed(reclaim->request, reclaim->message.reclaim.items, true);
		free(reclaim);
	}
	ck_assert_uint_ge(batches, 2);
	ck_assert_uint_eq(claims, 602); /* with the root and the file */
}
END_TEST

/* ---- release, and the end of the mount ---- */

START_TEST(a_released_lease_is_told_and_given_up_by_the_recall)
{
	struct handle handle = lab_handle(FILE_NUMBER);
	struct holder_actions actions = session_actions();
	struct origin_request *release;
	struct item_handle item;
	struct reader r;

	lab_start();
	(void)lab_find_file("f", FILE_NUMBER, 5);
	origin_asks(MESSAGE_lease_release, true);
	pthread_mutex_lock(&lab.m.lock);
	holder_release(lab.m.holder, &handle, &actions);
	session_act(&lab.m, &actions);
	pthread_mutex_unlock(&lab.m.lock);
	release = origin_expect(MESSAGE_lease_release);
	r = reader_of(release->message.lease_release.handles.data,
		      release->message.lease_release.handles.length);
	ck_assert(item_handle_read(&r, &item));
	ck_assert(handle_equal(&item.handle, &handle));
	ck_assert(!item_handle_read(&r, &item));
	origin_acknowledge(release->request, STATUS_OK);
	free(release);
	origin_wait_acknowledged(origin_recall(FILE_NUMBER, NULL));
	ck_assert_uint_eq(LAB_GET(holder_lease_held(lab.m.holder, mount_now(), &handle)), 0);
}
END_TEST

START_TEST(an_abandoned_session_is_fenced_and_no_other_is_opened)
{
	uint64_t node;

	lab_start();
	node = lab_find_file("f", FILE_NUMBER, 5);
	(void)lab_open(node, O_RDONLY);
	kernel_let_notifications(true);
	session_abandon(&lab.m);
	ck_assert(!session_is_fenced(&lab.m));
	kernel_let_notifications(false);
	LAB_WAIT_MOUNT(lab.m.counters.fences == 1);
	while (!session_is_fenced(&lab.m)) /* right after it was counted */
		usleep(1000);
	lab_control_round_trip();
	ck_assert_uint_eq(origin_received(MESSAGE_session_open), 1);
}
END_TEST

static TCase *session_case(void)
{
	TCase *tcase = lab_case("mount_session");

	tcase_add_test(tcase, a_keepalive_that_was_lost_is_repeated_and_renews_the_session);
	tcase_add_test(tcase, a_session_that_is_not_renewed_ends_and_everything_is_dropped);
	tcase_add_test(tcase, a_lost_stream_is_opened_again_and_the_session_goes_on);
	tcase_add_test(tcase, acknowledgements_are_batched_and_repeated_until_they_are_answered);
	tcase_add_test(tcase, a_close_waits_for_the_acknowledgement_that_says_open);
	tcase_add_test(tcase, the_next_session_is_opened_when_the_kernel_has_dropped);
	tcase_add_test(tcase,
		       the_next_session_does_not_wait_for_a_read_that_comes_while_the_kernel_drops);
	tcase_add_test(tcase, nothing_of_an_old_session_is_answered_from_memory);
	tcase_add_test(tcase, leases_and_opens_are_reclaimed_in_the_next_session);
	tcase_add_test(tcase, who_has_nothing_to_reclaim_says_so);
	tcase_add_test(tcase, an_open_without_a_lease_is_named_all_the_same);
	tcase_add_test(tcase, the_last_claim_waits_for_what_was_under_way_and_what_that_opened);
	tcase_add_test(tcase, what_is_not_confirmed_is_not_held);
	tcase_add_test(tcase, claims_go_in_batches_and_the_last_one_says_so);
	tcase_add_test(tcase, a_released_lease_is_told_and_given_up_by_the_recall);
	tcase_add_test(tcase, an_abandoned_session_is_fenced_and_no_other_is_opened);
	return tcase;
}

UNIT_MAIN("mount_session", session_case)
