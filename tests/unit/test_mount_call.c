/* Calls: what is repeated, what ends when, and how often a modification may be executed. */
#include "mount_lab.h"

/* ---- requests and answers ---- */

START_TEST(a_request_is_answered_once_with_what_the_origin_said)
{
	uint64_t unique;

	lab_start();
	unique = kernel_getattr(FUSE_ROOT_ID);
	origin_answer_status(origin_expect(MESSAGE_getattr), STATUS_ACCES);
	ck_assert_int_eq(kernel_error(unique), EACCES);
	lab_round_trip();
	ck_assert_uint_eq(calls_count(&lab.m), 0);
}
END_TEST

START_TEST(a_read_is_repeated_when_its_connection_breaks)
{
	struct item_node root = origin_node(NODE_TARGET, ROOT_NUMBER, S_IFDIR | 0755, 1, LEASE_NONE);
	struct origin_request *lost;
	uint64_t unique;

	lab_start();
	unique = kernel_getattr(FUSE_ROOT_ID);
	lost = origin_expect(MESSAGE_getattr);
	server_destroy(lab.server);
	origin_answer_status(lost, STATUS_OK); /* nobody hears it */
	origin_listen();
	origin_answer_node(origin_expect(MESSAGE_getattr), &root);
	ck_assert_int_eq(kernel_error(unique), 0);
}
END_TEST

START_TEST(a_modification_is_repeated_under_its_session_slot_and_sequence)
{
	struct origin_request *lost, *again;
	uint64_t unique, session, sequence;
	uint32_t slot;

	lab_start();
	unique = kernel_name(FUSE_UNLINK, FUSE_ROOT_ID, "x");
	lost = origin_expect(MESSAGE_unlink);
	session = lost->message.common.session;
	slot = lost->message.common.slot;
	sequence = lost->message.common.sequence;
	ck_assert_uint_ne(sequence, 0);
	server_destroy(lab.server);
	origin_answer_status(lost, STATUS_OK);
	origin_listen();
	again = origin_expect(MESSAGE_unlink);
	ck_assert_uint_eq(again->message.common.session, session);
	ck_assert_uint_eq(again->message.common.slot, slot);
	ck_assert_uint_eq(again->message.common.sequence, sequence);
	origin_answer_status(again, STATUS_OK);
	ck_assert_int_eq(kernel_error(unique), 0);
}
END_TEST

START_TEST(each_modification_in_a_slot_has_the_next_sequence)
{
	struct origin_request *first, *second;
	uint64_t one, two, sequence;
	uint32_t slot;

	lab_start();
	one = kernel_name(FUSE_UNLINK, FUSE_ROOT_ID, "x");
	first = origin_expect(MESSAGE_unlink);
	two = kernel_name(FUSE_RMDIR, FUSE_ROOT_ID, "y");
	second = origin_expect(MESSAGE_unlink);
	ck_assert_uint_ne(first->message.common.slot, second->message.common.slot);
	slot = first->message.common.slot;
	sequence = first->message.common.sequence;
	origin_answer_status(first, STATUS_OK);
	ck_assert_int_eq(kernel_error(one), 0);
	one = kernel_name(FUSE_UNLINK, FUSE_ROOT_ID, "z");
	first = origin_expect(MESSAGE_unlink);
	ck_assert_uint_eq(first->message.common.slot, slot);
	ck_assert_uint_eq(first->message.common.sequence, sequence + 1);
	origin_answer_status(first, STATUS_OK);
	origin_answer_status(second, STATUS_OK);
	ck_assert_int_eq(kernel_error(one), 0);
	ck_assert_int_eq(kernel_error(two), 0);
}
END_TEST

START_TEST(modifications_beyond_the_slots_wait_for_one)
{
	struct origin_request *held[4], *fifth;
	uint64_t unique[5];
	char name[2] = "a";

	lab_start();
	for (unsigned i = 0; i < 5; i++, name[0]++)
		unique[i] = kernel_name(FUSE_UNLINK, FUSE_ROOT_ID, name);
	for (unsigned i = 0; i < 4; i++)
		held[i] = origin_expect(MESSAGE_unlink);
	lab_round_trip();
	ck_assert_uint_eq(origin_received(MESSAGE_unlink), 4);
	origin_answer_status(held[2], STATUS_OK);
	fifth = origin_expect(MESSAGE_unlink);
	origin_answer_status(fifth, STATUS_OK);
	origin_answer_status(held[0], STATUS_OK);
	origin_answer_status(held[1], STATUS_OK);
	origin_answer_status(held[3], STATUS_OK);
	for (unsigned i = 0; i < 5; i++)
		ck_assert_int_eq(kernel_error(unique[i]), 0);
}
END_TEST

/* ---- sessions ---- */

START_TEST(what_was_never_executed_goes_out_under_the_new_session)
{
	struct origin_request *refused, *again;
	uint64_t unique, session;

	lab_start();
	unique = kernel_name(FUSE_UNLINK, FUSE_ROOT_ID, "x");
	refused = origin_expect(MESSAGE_unlink);
	session = refused->message.common.session;
	origin_forget_session();
	origin_answer_status(refused, STATUS_NOSESSION);
	again = origin_expect(MESSAGE_unlink);
	ck_assert_uint_ne(again->message.common.session, session);
	ck_assert_uint_eq(again->message.common.session, lab.session);
	ck_assert_uint_eq(again->message.common.sequence, 1);
	origin_answer_status(again, STATUS_OK);
	ck_assert_int_eq(kernel_error(unique), 0);
}
END_TEST

START_TEST(unknown_outcome_of_what_was_sent_once_is_no_outcome)
{
	struct origin_request *refused;
	uint64_t unique;

	lab_start();
	unique = kernel_name(FUSE_UNLINK, FUSE_ROOT_ID, "x");
	refused = origin_expect(MESSAGE_unlink);
	origin_forget_session();
	origin_answer_status(refused, STATUS_UNKNOWNOUTCOME);
	origin_answer_status(origin_expect(MESSAGE_unlink), STATUS_OK);
	ck_assert_int_eq(kernel_error(unique), 0);
}
END_TEST

START_TEST(unknown_outcome_of_what_was_sent_twice_is_an_error)
{
	struct origin_request *lost;
	uint64_t unique;

	lab_start();
	unique = kernel_name(FUSE_UNLINK, FUSE_ROOT_ID, "x");
	lost = origin_expect(MESSAGE_unlink);
	server_destroy(lab.server);
	origin_answer_status(lost, STATUS_OK);
	origin_listen();
	origin_answer_status(origin_expect(MESSAGE_unlink), STATUS_UNKNOWNOUTCOME);
	ck_assert_int_eq(kernel_error(unique), EIO);
	lab_round_trip();
	ck_assert_uint_eq(origin_received(MESSAGE_unlink), 2);
}
END_TEST

START_TEST(pushback_is_repeated_until_it_is_over)
{
	uint64_t unique;

	lab_start();
	unique = kernel_name(FUSE_UNLINK, FUSE_ROOT_ID, "x");
	for (unsigned i = 0; i < 3; i++)
		origin_answer_status(origin_expect(MESSAGE_unlink), STATUS_PUSHBACK);
	origin_answer_status(origin_expect(MESSAGE_unlink), STATUS_NOENT);
	ck_assert_int_eq(kernel_error(unique), ENOENT);
}
END_TEST

/* ---- bounds ---- */

/* A mount whose calls have little time, on a connection that stands already. */
static void start_hurried(void)
{
	lab_start();
	lab_round_trip();
	lab_wait_calls();
	lab.options.timeout = 1000;
}

START_TEST(a_read_ends_at_its_deadline)
{
	struct origin_request *never;
	uint64_t unique;

	start_hurried();
	unique = kernel_getattr(FUSE_ROOT_ID);
	never = origin_expect(MESSAGE_getattr);
	ck_assert_int_eq(kernel_error(unique), ETIMEDOUT);
	ck_assert_uint_ge(lab.m.counters.calls_timed_out, 1);
	origin_answer_status(never, STATUS_OK);
}
END_TEST

START_TEST(a_modification_past_its_deadline_is_superseded_in_its_slot)
{
	struct origin_request *lost, *supersedes;
	uint64_t unique, sequence;
	uint32_t slot;

	start_hurried();
	unique = kernel_name(FUSE_UNLINK, FUSE_ROOT_ID, "y");
	lost = origin_expect(MESSAGE_unlink);
	slot = lost->message.common.slot;
	sequence = lost->message.common.sequence;
	ck_assert_int_eq(kernel_error(unique), ETIMEDOUT);
	server_destroy(lab.server);
	origin_answer_status(lost, STATUS_OK);
	origin_listen();
	supersedes = origin_expect(MESSAGE_setattr);
	ck_assert_uint_eq(supersedes->message.common.slot, slot);
	ck_assert_uint_eq(supersedes->message.common.sequence, sequence + 1);
	ck_assert_uint_eq(supersedes->message.setattr.valid, 0);
	origin_answer_status(supersedes, STATUS_OK);
	lab_wait_calls();
	ck_assert_uint_eq(origin_received(MESSAGE_unlink), 1);
}
END_TEST

START_TEST(a_modification_refused_past_its_deadline_is_over)
{
	struct origin_request *refused;
	uint64_t unique;

	start_hurried();
	unique = kernel_name(FUSE_UNLINK, FUSE_ROOT_ID, "x");
	refused = origin_expect(MESSAGE_unlink);
	ck_assert_int_eq(kernel_error(unique), ETIMEDOUT);
	origin_answer_status(refused, STATUS_PUSHBACK);
	lab_wait_calls();
	ck_assert_uint_eq(origin_received(MESSAGE_unlink), 1);
	ck_assert_uint_eq(origin_received(MESSAGE_setattr), 0);
}
END_TEST

START_TEST(a_killed_caller_is_answered_at_once)
{
	struct origin_request *never;
	uint64_t unique;

	lab_start();
	lab.caller = 0;
	unique = kernel_getattr(FUSE_ROOT_ID);
	never = origin_expect(MESSAGE_getattr);
	kernel_interrupt(unique);
	ck_assert_int_eq(kernel_error(unique), EINTR);
	ck_assert_uint_eq(lab.m.counters.calls_interrupted, 1);
	origin_answer_status(never, STATUS_OK);
}
END_TEST

START_TEST(a_signal_that_does_not_kill_interrupts_nothing)
{
	uint64_t unique, other;

	lab_start();
	unique = kernel_getattr(FUSE_ROOT_ID);
	kernel_interrupt(unique);
	lab.caller = 0;
	other = kernel_getattr(FUSE_ROOT_ID);
	kernel_interrupt(other);
	ck_assert_int_eq(kernel_error(other), EINTR); /* both were looked at by now */
	ck_assert(!kernel_answered(unique));
	origin_answer_status(origin_expect(MESSAGE_getattr), STATUS_STALE);
	ck_assert_int_eq(kernel_error(unique), ESTALE);
}
END_TEST

START_TEST(too_many_calls_are_refused_and_counted)
{
	static struct call *calls[CALL_COUNT_MAX];
	uint64_t unique;

	lab_start();
	for (unsigned i = 0; i < CALL_COUNT_MAX; i++) {
		calls[i] = call_new(&lab.m, NULL, MESSAGE_getattr);
		ck_assert_ptr_nonnull(calls[i]);
	}
	unique = kernel_getattr(FUSE_ROOT_ID);
	ck_assert_int_eq(kernel_error(unique), EAGAIN);
	ck_assert_uint_eq(lab.m.counters.calls_refused, 1);
	for (unsigned i = 0; i < CALL_COUNT_MAX; i++)
		call_destroy(&lab.m, calls[i]);
	unique = kernel_getattr(FUSE_ROOT_ID);
	origin_answer_status(origin_expect(MESSAGE_getattr), STATUS_STALE);
	ck_assert_int_eq(kernel_error(unique), ESTALE);
}
END_TEST

START_TEST(disconnected_fail_ends_a_call_when_the_origin_is_away)
{
	struct origin_request *lost;
	uint64_t unique;

	lab.options.disconnected = "fail";
	lab_start();
	unique = kernel_getattr(FUSE_ROOT_ID);
	lost = origin_expect(MESSAGE_getattr);
	server_destroy(lab.server);
	lab.server = NULL;
	origin_answer_status(lost, STATUS_OK);
	ck_assert_int_eq(kernel_error(unique), EIO);
}
END_TEST

START_TEST(at_the_end_every_call_is_answered)
{
	struct origin_request *never;
	uint64_t sent, later;

	lab_start();
	sent = kernel_name(FUSE_UNLINK, FUSE_ROOT_ID, "x");
	never = origin_expect(MESSAGE_unlink);
	calls_shut(&lab.m, STATUS_IO);
	later = kernel_getattr(FUSE_ROOT_ID);
	ck_assert_int_eq(kernel_error(later), EIO);
	ck_assert_int_ne(kernel_error(sent), 0);
	origin_answer_status(never, STATUS_OK);
}
END_TEST

static TCase *call_case(void)
{
	TCase *tcase = lab_case("mount_call");

	tcase_add_test(tcase, a_request_is_answered_once_with_what_the_origin_said);
	tcase_add_test(tcase, a_read_is_repeated_when_its_connection_breaks);
	tcase_add_test(tcase, a_modification_is_repeated_under_its_session_slot_and_sequence);
	tcase_add_test(tcase, each_modification_in_a_slot_has_the_next_sequence);
	tcase_add_test(tcase, modifications_beyond_the_slots_wait_for_one);
	tcase_add_test(tcase, what_was_never_executed_goes_out_under_the_new_session);
	tcase_add_test(tcase, unknown_outcome_of_what_was_sent_once_is_no_outcome);
	tcase_add_test(tcase, unknown_outcome_of_what_was_sent_twice_is_an_error);
	tcase_add_test(tcase, pushback_is_repeated_until_it_is_over);
	tcase_add_test(tcase, a_read_ends_at_its_deadline);
	tcase_add_test(tcase, a_modification_past_its_deadline_is_superseded_in_its_slot);
	tcase_add_test(tcase, a_modification_refused_past_its_deadline_is_over);
	tcase_add_test(tcase, a_killed_caller_is_answered_at_once);
	tcase_add_test(tcase, a_signal_that_does_not_kill_interrupts_nothing);
	tcase_add_test(tcase, too_many_calls_are_refused_and_counted);
	tcase_add_test(tcase, disconnected_fail_ends_a_call_when_the_origin_is_away);
	tcase_add_test(tcase, at_the_end_every_call_is_answered);
	return tcase;
}

UNIT_MAIN("mount_call", call_case)
