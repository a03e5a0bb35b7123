#include "lease_unit.h"
#include "unit.h"

#include "lease/authority.h"
#include "lease/holder.h"
#include "lease/seal.h"
#include "lease/status.h"

/* PROTOCOL.md 11.4. Terms of sessions: 10 s, margin 100 ms, no drift; a host fences in 1 s. */

static const struct authority_config authority_defaults = {
	.term = { 10 * NS_PER_S },
	.margin = { 100 * NS_PER_MS },
	.session_count_max = 4,
	.slot_count_max = 4,
	.lease_count_max = 4,
	.lease_total_max = 12,
	.operation_count_max = 8,
	.open_count_max = 3,
	.ended_count_max = 2,
	.backoff_min = { 10 * NS_PER_MS },
	.backoff_max = { 1000 * NS_PER_MS },
	.epoch = 1,
	.seed = 7,
};
static const struct holder_config holder_defaults = {
	.fence_margin = { NS_PER_S },
	.lease_count_max = 4,
	.recall_window_max = 4,
	.retry_min_ms = 100,
	.retry_max_ms = 800,
};
static const struct duration minute = { 60 * NS_PER_S };

static struct test_memory memory;
static struct allocator allocator = { test_resize, &memory };
static struct authority *a;
static struct authority_actions actions;
static struct holder *h;
static struct holder_actions out;

static void set_up(void)
{
	memory = (struct test_memory){ .fail_after = -1 };
	authority_actions_init(&actions, &allocator);
	holder_actions_init(&out, &allocator);
	ck_assert_int_eq(authority_create(&authority_defaults, &allocator, at_ms(0), NULL, 0, false,
					  (struct duration){ 0 }, &a), 0);
	ck_assert_int_eq(holder_create(&holder_defaults, &allocator, 3, &h), 0);
}

static void tear_down(void)
{
	authority_check_invariants(a);
	authority_destroy(a);
	authority_actions_finish(&actions);
	holder_check_invariants(h);
	holder_destroy(h);
	holder_actions_finish(&out);
	ck_assert_int_eq(memory.blocks, 0);
}

START_TEST(a_term_is_rounded_down_by_less_than_an_eighth)
{
	ck_assert_uint_eq(seal_term_code((struct duration){ NS_PER_S - 1 }), 0);
	ck_assert_uint_eq(seal_term_of_code(0).ns, 0);
	ck_assert_uint_eq(seal_term_of_code(SEAL_TERM_CODE_MAX + 1).ns, 0);
	for (uint64_t s = 1; s < 45 * 86400; s += 1 + s / 50) {
		struct duration term = { s * NS_PER_S };
		uint32_t code = seal_term_code(term);
		struct duration back = seal_term_of_code(code);

		ck_assert_uint_le(back.ns, term.ns);
		ck_assert_uint_gt(back.ns + back.ns / 8 + 1, term.ns);
		ck_assert_uint_eq(seal_term_of_mode(0100644 | MARK_SEALED |
						    code << MARK_TERM_SHIFT).ns, back.ns);
		ck_assert_uint_eq(seal_term_of_mode(0100644 | MARK_FINAL |
						    code << MARK_TERM_SHIFT).ns, 0);
	}
}
END_TEST

/* ---- the origin ---- */

static struct session_id open_session(uint64_t ms, uint64_t instance, struct session_id previous)
{
	const uint8_t host[16] = { 5 };
	struct session_id session;
	uint32_t slots;
	bool reclaim;

	ck_assert_uint_eq(authority_session_open(a, at_ms(ms), host, instance, previous, 4, &actions,
						 &session, &slots, &reclaim), STATUS_OK);
	authority_session_name(a, session, "five");
	return session;
}

static void lease_to(uint64_t ms, struct session_id session)
{
	struct handle handle = handle_of(1);
	uint64_t sequence;

	ck_assert_int_eq(authority_grant(a, at_ms(ms), session, &handle, 0, &actions, &sequence),
			 LEASE_READ);
}

static uint64_t wait_ms(uint64_t ms)
{
	authority_tick(a, at_ms(ms), &actions);
	return authority_silent_wait(a, at_ms(ms), minute).ns / NS_PER_MS;
}

START_TEST(a_session_that_ended_is_waited_for_until_the_term_is_over)
{
	struct session_id session = open_session(1, 1, (struct session_id){ 0 });
	uint64_t sequence;

	lease_to(100, session);
	ck_assert_uint_eq(authority_keepalive(a, at_ms(3000), session, &actions, &sequence),
			  STATUS_OK);
	ck_assert_uint_eq(wait_ms(13000), 0); /* it lives */
	ck_assert_uint_eq(wait_ms(13100), 3000 + 60000 + 100 - 13100);
	ck_assert_str_eq(authority_silent_next(a, NULL)->name, "five");
	ck_assert_uint_eq(wait_ms(63099), 1);
	ck_assert_uint_eq(wait_ms(63100), 0);
	ck_assert_uint_eq(authority_silent_wait(a, at_ms(14000), (struct duration){ 0 }).ns, 0);
}
END_TEST

START_TEST(who_closed_or_never_had_a_lease_is_not_waited_for)
{
	struct session_id closed = open_session(1, 1, (struct session_id){ 0 });

	(void)open_session(1, 2, (struct session_id){ 0 });
	lease_to(100, closed);
	ck_assert_uint_eq(authority_session_close(a, at_ms(200), closed, &actions), STATUS_OK);
	ck_assert_uint_eq(wait_ms(11000), 0);
	ck_assert_ptr_null(authority_silent_next(a, NULL));
}
END_TEST

START_TEST(a_host_that_is_back_is_waited_for_until_it_is_heard)
{
	struct session_id before = open_session(1, 1, (struct session_id){ 0 }), now;

	lease_to(100, before);
	now = open_session(2000, 1, before);
	ck_assert_uint_eq(wait_ms(2000), 58101); /* it may not have heard of its new session */
	ck_assert_uint_eq(authority_stream_attached(a, at_ms(2100), now, &actions), STATUS_OK);
	ck_assert_uint_eq(wait_ms(2100), 0);
}
END_TEST

START_TEST(a_daemon_that_restarted_cannot_speak_for_the_one_before)
{
	struct session_id before = open_session(1, 1, (struct session_id){ 0 }), now;

	lease_to(100, before);
	now = open_session(11000, 2, (struct session_id){ 0 });
	ck_assert_uint_eq(authority_stream_attached(a, at_ms(11000), now, &actions), STATUS_OK);
	ck_assert_uint_eq(wait_ms(11000), 49101);
	ck_assert_uint_eq(authority_silent_forget(a, "another"), 0);
	ck_assert_uint_eq(authority_silent_forget(a, "five"), 1);
	ck_assert_uint_eq(wait_ms(11000), 0);
}
END_TEST

START_TEST(what_exceeds_the_bound_is_waited_for_as_one)
{
	struct authority_silent silent = { .host = { 1 }, .renewed = at_ms(1) };

	for (uint64_t i = 1; i <= AUTHORITY_SILENT_COUNT_MAX + 3; i++) {
		silent.session.value = i;
		silent.renewed = at_ms(i);
		ck_assert_int_eq(authority_silent_restore(a, &silent), 0);
	}
	ck_assert_uint_eq(authority_silent_unknown(a).ns, at_ms(3).ns);
	ck_assert_uint_eq(authority_silent_forget(a, ""), AUTHORITY_SILENT_COUNT_MAX);
	ck_assert_uint_eq(wait_ms(1000), 3 + 60000 + 100 - 1000);
	ck_assert_uint_eq(authority_silent_forget(a, NULL), 1);
	ck_assert_uint_eq(wait_ms(1000), 0);
}
END_TEST

/* ---- the host ---- */

static void opened(uint64_t ms, uint64_t sent_ms, uint64_t id)
{
	struct message_session_opened answer = {
		.session = id, .epoch = 1, .term_ms = 10000, .reclaim = true,
	};

	holder_session_opened(h, at_ms(ms), at_ms(sent_ms), &answer, &out);
	holder_stream_attached(h, at_ms(ms), (struct session_id){ id }, &out);
}

static uint64_t granted(uint64_t ms)
{
	struct handle handle = handle_of(1);
	uint64_t stamp = holder_request_begin(h), instance;

	instance = holder_grant(h, at_ms(ms), stamp, 0, &handle, (struct change){ 1, 1 }, &out);
	holder_request_end(h, stamp);
	ck_assert_uint_ne(instance, 0);
	return instance;
}

static uint64_t sealed(uint64_t ms)
{
	struct handle handle = handle_of(1);
	struct change change;

	return holder_lease_sealed(h, at_ms(ms), &handle, minute, &change);
}

START_TEST(a_seal_is_relied_on_until_its_term_from_the_last_renewal_is_over)
{
	struct message_kept_alive answer = { .term_ms = 10000 };
	struct handle handle = handle_of(1);
	struct change change;
	uint64_t instance;

	holder_connect(h, at_ms(0), &out);
	opened(10, 0, 7);
	instance = granted(20);
	holder_kept_alive(h, at_ms(3100), at_ms(3000), (struct session_id){ 7 }, &answer, &out);
	ck_assert_uint_eq(sealed(4000), 0); /* the lease stands */
	ck_assert_uint_eq(sealed(12000), instance);
	holder_tick(h, at_ms(12000), &out);
	ck_assert_uint_eq(holder_lease(h, at_ms(12000), &handle), 0);
	ck_assert_uint_eq(sealed(12000), instance);
	ck_assert_uint_eq(holder_lease_sealed(h, at_ms(12000), &handle, (struct duration){ 0 },
					      &change), 0);
	ck_assert_uint_eq(sealed(61999), instance);
	ck_assert_uint_eq(sealed(62000), 0);
}
END_TEST

START_TEST(a_seal_is_not_relied_on_under_the_next_session_nor_after_it)
{
	holder_connect(h, at_ms(0), &out);
	opened(10, 0, 7);
	(void)granted(20);
	holder_tick(h, at_ms(9000), &out);
	ck_assert_uint_ne(sealed(9000), 0);
	holder_tick(h, at_ms(10000), &out);
	opened(10000, 10000, 8);
	ck_assert_uint_eq(sealed(10000), 0);
	holder_session_lost(h, at_ms(10100), (struct session_id){ 8 }, &out);
	ck_assert_uint_eq(sealed(10100), 0);
}
END_TEST

START_TEST(a_seal_that_was_recalled_or_is_taken_away_here_is_not_relied_on)
{
	struct message_recall recall = {
		.sequence = 1, .scope = RECALL_ALL, .handle = handle_of(1),
	};
	struct handle handle = handle_of(1);

	holder_connect(h, at_ms(0), &out);
	opened(10, 0, 7);
	(void)granted(20);
	ck_assert_int_eq(holder_modify_begin(h, &handle), 0);
	holder_tick(h, at_ms(9000), &out);
	ck_assert_uint_eq(sealed(9000), 0);
	/* Nor when nobody knows what became of it. */
	ck_assert(!holder_modify_end(h, &handle, false, (struct change){ 0 }, (struct change){ 0 }));
	ck_assert_uint_eq(sealed(9000), 0);
	holder_tick(h, at_ms(10000), &out);
	opened(10000, 10000, 8);
	(void)granted(10100);
	holder_recall(h, at_ms(10200), (struct session_id){ 8 }, &recall, &out);
	holder_tick(h, at_ms(19000), &out);
	ck_assert_uint_eq(sealed(19000), 0);
}
END_TEST

static TCase *seal_case(void)
{
	TCase *tcase = tcase_create("seal");

	tcase_add_checked_fixture(tcase, set_up, tear_down);
	tcase_add_test(tcase, a_term_is_rounded_down_by_less_than_an_eighth);
	tcase_add_test(tcase, a_session_that_ended_is_waited_for_until_the_term_is_over);
	tcase_add_test(tcase, who_closed_or_never_had_a_lease_is_not_waited_for);
	tcase_add_test(tcase, a_host_that_is_back_is_waited_for_until_it_is_heard);
	tcase_add_test(tcase, a_daemon_that_restarted_cannot_speak_for_the_one_before);
	tcase_add_test(tcase, what_exceeds_the_bound_is_waited_for_as_one);
	tcase_add_test(tcase, a_seal_is_relied_on_until_its_term_from_the_last_renewal_is_over);
	tcase_add_test(tcase, a_seal_is_not_relied_on_under_the_next_session_nor_after_it);
	tcase_add_test(tcase, a_seal_that_was_recalled_or_is_taken_away_here_is_not_relied_on);
	return tcase;
}

UNIT_MAIN("seal", seal_case)
