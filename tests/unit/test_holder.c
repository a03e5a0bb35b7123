#include "lease_unit.h"
#include "unit.h"

#include "lease/holder.h"
#include "lease/status.h"

/* Terms of 9 s, no drift, 1 s to fence: valid for 8 s, renewed every 3 s. */
static const struct holder_config config_default = {
	.fence_margin = { NS_PER_S },
	.lease_count_max = 4,
	.recall_window_max = 4,
	.retry_min_ms = 100,
	.retry_max_ms = 800,
};

static struct test_memory memory;
static struct allocator allocator = { test_resize, &memory };
static struct holder *h;
static struct holder_actions out;
static const struct session_id session = { 77 };

static void set_up(void)
{
	memory = (struct test_memory){ .fail_after = -1 };
	holder_actions_init(&out, &allocator);
	ck_assert_int_eq(holder_create(&config_default, &allocator, 3, &h), 0);
}

static void tear_down(void)
{
	holder_check_invariants(h);
	holder_destroy(h);
	holder_actions_finish(&out);
	ck_assert_int_eq(memory.blocks, 0);
}

/* ---- short ways ---- */

static struct holder_action *expect(enum holder_action_kind kind)
{
	static struct holder_action action;

	holder_check_invariants(h);
	ck_assert_uint_gt(out.count, 0);
	action = out.items[0];
	memmove(out.items, out.items + 1, --out.count * sizeof(*out.items));
	ck_assert_int_eq(action.kind, kind);
	return &action;
}

static void expect_nothing(void)
{
	holder_check_invariants(h);
	ck_assert_uint_eq(out.count, 0);
}

static void opened(uint64_t ms, uint64_t sent_ms, uint64_t id, bool reclaim)
{
	struct message_session_opened answer = {
		.session = id, .epoch = 1, .term_ms = 9000, .reclaim = reclaim,
	};

	holder_session_opened(h, at_ms(ms), at_ms(sent_ms), &answer, &out);
}

/* A session that is valid until 8 s after 0, with its stream. */
static void start(void)
{
	holder_connect(h, at_ms(0), &out);
	ck_assert_uint_eq(expect(HOLDER_SEND_SESSION_OPEN)->session.value, 0);
	opened(10, 0, session.value, false);
	ck_assert_uint_eq(expect(HOLDER_RENEWED)->until.ns, at_ms(8000).ns);
	ck_assert_uint_eq(expect(HOLDER_OPEN_STREAM)->session.value, session.value);
	holder_stream_attached(h, at_ms(20), session, &out);
	expect_nothing();
}

static struct change change_of(uint64_t counter)
{
	return (struct change){ 1, counter };
}

static uint64_t grant_to(uint64_t ms, uint64_t stamp, uint64_t sequence, uint8_t inode)
{
	struct handle handle = handle_of(inode);

	return holder_grant(h, at_ms(ms), stamp, sequence, &handle, change_of(inode), &out);
}

/* A grant by a request that nothing overtook. */
static uint64_t grant(uint64_t ms, uint8_t inode)
{
	uint64_t stamp = holder_request_begin(h);
	uint64_t instance = grant_to(ms, stamp, holder_recall_sequence(h), inode);

	holder_request_end(h, stamp);
	return instance;
}

static uint64_t lease(uint64_t ms, uint8_t inode)
{
	struct handle handle = handle_of(inode);

	return holder_lease(h, at_ms(ms), &handle);
}

static void recall_names(uint64_t ms, uint64_t sequence, uint8_t inode, const char *name)
{
	uint8_t bytes[600];
	struct writer w = writer_of(bytes, sizeof(bytes));
	struct item_name item = { .name = slice_of(name) };
	struct message_recall recall = {
		.sequence = sequence, .scope = RECALL_NAMES, .handle = handle_of(inode),
	};

	item_name_write(&w, &item);
	recall.names = (struct slice){ bytes, w.at };
	holder_recall(h, at_ms(ms), session, &recall, &out);
}

static void recall(uint64_t ms, uint64_t sequence, uint8_t inode)
{
	struct message_recall message = {
		.sequence = sequence, .scope = RECALL_ALL, .handle = handle_of(inode),
	};

	holder_recall(h, at_ms(ms), session, &message, &out);
}

static void expect_drop(uint64_t sequence)
{
	ck_assert_uint_eq(expect(HOLDER_DROP)->sequence, sequence);
}

static void dropped(uint64_t ms, uint64_t sequence)
{
	holder_dropped(h, at_ms(ms), session, sequence, false, &out);
}

static struct holder_action *expect_acknowledge(uint64_t sequence)
{
	struct holder_action *action = expect(HOLDER_SEND_ACKNOWLEDGE);

	ck_assert_uint_eq(action->sequence, sequence);
	return action;
}

/* ---- grants and recalls ---- */

START_TEST(a_granted_lease_stands_until_the_term_is_over)
{
	uint64_t instance;

	start();
	instance = grant(30, 1);
	ck_assert_uint_ne(instance, 0);
	ck_assert_uint_eq(lease(7999, 1), instance);
	ck_assert_uint_eq(lease(8000, 1), 0);
}
END_TEST

START_TEST(a_recall_takes_the_lease_and_is_acknowledged_once_dropped)
{
	start();
	ck_assert_uint_ne(grant(30, 1), 0);
	recall(40, 1, 1);
	expect_drop(1);
	expect_nothing();
	ck_assert_uint_eq(lease(40, 1), 0);
	dropped(50, 1);
	ck_assert(!expect_acknowledge(1)->kept);
}
END_TEST

START_TEST(a_grant_that_a_recall_overtook_is_void)
{
	uint64_t stamp;

	start();
	stamp = holder_request_begin(h);
	recall(40, 1, 1);
	expect_drop(1);
	dropped(41, 1);
	expect_acknowledge(1);
	ck_assert_uint_eq(grant_to(50, stamp, 0, 1), 0);
	ck_assert_uint_ne(grant_to(50, stamp, 0, 2), 0);
	holder_request_end(h, stamp);
	ck_assert_uint_ne(grant(60, 1), 0);
}
END_TEST

START_TEST(a_recall_of_names_leaves_the_lease)
{
	uint64_t instance;

	start();
	instance = grant(30, 1);
	recall_names(40, 1, 1, "a");
	expect_drop(1);
	ck_assert_uint_eq(lease(41, 1), 0);
	dropped(50, 1);
	ck_assert(expect_acknowledge(1)->kept);
	ck_assert_uint_eq(lease(51, 1), instance);
}
END_TEST


START_TEST(a_recall_of_one_name_overtakes_only_answers_about_it)
{
	struct handle directory = handle_of(1);
	struct slice x = slice_of("x"), y = slice_of("y");
	uint64_t stamp;

	start();
	ck_assert_uint_ne(grant(30, 1), 0);
	stamp = holder_request_begin(h);
	recall_names(40, 1, 1, "x");
	expect_drop(1);
	ck_assert(holder_overtaken(h, stamp, 0, &directory, &x));
	ck_assert(!holder_overtaken(h, stamp, 0, &directory, &y));
	ck_assert(holder_overtaken(h, stamp, 0, &directory, NULL));
	ck_assert(!holder_overtaken(h, stamp, 1, &directory, &x));
	dropped(41, 1);
	expect_acknowledge(1);
	holder_request_end(h, stamp);
}
END_TEST

START_TEST(a_recall_is_kept_until_every_older_request_is_answered)
{
	struct handle handle = handle_of(1);
	struct holder_counters counters;
	uint64_t older, newer;

	start();
	older = holder_request_begin(h);
	recall(40, 1, 1);
	expect_drop(1);
	newer = holder_request_begin(h);
	recall(41, 2, 2);
	expect_drop(2);
	dropped(42, 1);
	dropped(42, 2);
	expect_acknowledge(1);
	expect_acknowledge(2);
	holder_request_end(h, newer);
	ck_assert(holder_overtaken(h, older, 0, &handle, NULL));
	holder_counters(h, &counters);
	ck_assert_uint_eq(counters.window, 2);
	holder_request_end(h, older);
	holder_counters(h, &counters);
	ck_assert_uint_eq(counters.window, 0);
}
END_TEST

START_TEST(when_the_window_is_full_all_grants_in_flight_are_void)
{
	uint64_t stamp, later;

	start();
	stamp = holder_request_begin(h);
	for (uint64_t i = 1; i <= 5; i++) {
		recall(40, i, (uint8_t)i);
		expect_drop(i);
		dropped(40, i);
		expect_acknowledge(i);
	}
	later = holder_request_begin(h);
	ck_assert_uint_eq(grant_to(50, stamp, 5, 9), 0);
	ck_assert_uint_ne(grant_to(50, later, 5, 9), 0);
	holder_request_end(h, stamp);
	holder_request_end(h, later);
}
END_TEST

START_TEST(a_recall_that_finds_no_place_comes_again_on_a_new_stream)
{
	start();
	ck_assert_uint_ne(grant(30, 5), 0);
	for (uint64_t i = 1; i <= 4; i++) {
		recall(40, i, (uint8_t)i);
		expect_drop(i);
	}
	recall(41, 5, 5);
	expect_nothing();
	ck_assert_uint_eq(lease(41, 5), 0);
	dropped(42, 1);
	expect_acknowledge(1);
	dropped(43, 2);
	expect_acknowledge(2);
	expect(HOLDER_OPEN_STREAM);
	holder_stream_attached(h, at_ms(44), session, &out);
	recall(45, 3, 3);
	recall(45, 5, 5);
	expect_drop(5);
	expect_nothing();
	for (uint64_t i = 3; i <= 5; i++)
		if (i != 4) {
			dropped(46, i);
			expect_acknowledge(i);
		}
}
END_TEST

START_TEST(a_repeated_recall_is_acknowledged_again_and_dropped_once)
{
	start();
	ck_assert_uint_ne(grant(30, 1), 0);
	recall(40, 1, 1);
	recall(41, 1, 1);
	expect_drop(1);
	expect_nothing();
	holder_dropped(h, at_ms(42), session, 1, true, &out);
	ck_assert(expect_acknowledge(1)->open);
	dropped(43, 1);
	expect_nothing();
	recall(44, 1, 1);
	ck_assert(expect_acknowledge(1)->open);
	expect_nothing();
}
END_TEST

START_TEST(a_recall_of_what_is_not_held_is_dropped_and_acknowledged_all_the_same)
{
	start();
	recall_names(40, 1, 1, "x");
	expect_drop(1);
	dropped(41, 1);
	ck_assert(!expect_acknowledge(1)->kept);
}
END_TEST

START_TEST(no_grant_is_taken_while_the_inode_is_being_dropped)
{
	start();
	recall(40, 1, 1);
	expect_drop(1);
	ck_assert_uint_eq(grant(41, 1), 0);
	dropped(42, 1);
	expect_acknowledge(1);
	ck_assert_uint_ne(grant(43, 1), 0);
}
END_TEST

START_TEST(names_that_cannot_be_read_recall_everything)
{
	struct message_recall message = {
		.sequence = 1, .scope = RECALL_NAMES, .handle = handle_of(1),
		.names = { (const uint8_t *)"\x05" "ab", 3 },
	};

	start();
	ck_assert_uint_ne(grant(30, 1), 0);
	holder_recall(h, at_ms(40), session, &message, &out);
	ck_assert_int_eq(expect(HOLDER_DROP)->scope, RECALL_ALL);
	dropped(41, 1);
	ck_assert(!expect_acknowledge(1)->kept);
}
END_TEST

START_TEST(recalls_and_drops_of_another_session_are_ignored)
{
	struct message_recall message = { .sequence = 1, .handle = handle_of(1) };

	start();
	ck_assert_uint_ne(grant(30, 1), 0);
	holder_recall(h, at_ms(40), (struct session_id){ 5 }, &message, &out);
	holder_dropped(h, at_ms(40), (struct session_id){ 5 }, 1, false, &out);
	expect_nothing();
	ck_assert_uint_ne(lease(41, 1), 0);
}
END_TEST

/* ---- sessions ---- */

START_TEST(validity_counts_from_before_the_request_was_sent)
{
	holder_connect(h, at_ms(0), &out);
	expect(HOLDER_SEND_SESSION_OPEN);
	opened(5000, 1000, session.value, false);
	ck_assert_uint_eq(expect(HOLDER_RENEWED)->until.ns, at_ms(9000).ns);
}
END_TEST

START_TEST(drift_and_fencing_are_taken_off_the_term)
{
	struct message_session_opened answer = {
		.session = 1, .epoch = 1, .term_ms = 9000, .drift_ppm = 1000,
	};

	holder_connect(h, at_ms(0), &out);
	expect(HOLDER_SEND_SESSION_OPEN);
	holder_session_opened(h, at_ms(1), at_ms(0), &answer, &out);
	ck_assert_uint_eq(expect(HOLDER_RENEWED)->until.ns, at_ms(7991).ns);
	expect(HOLDER_OPEN_STREAM);
}
END_TEST

START_TEST(no_grant_is_taken_before_the_stream_is_attached)
{
	uint64_t instance;

	holder_connect(h, at_ms(0), &out);
	expect(HOLDER_SEND_SESSION_OPEN);
	opened(10, 0, session.value, false);
	ck_assert(!holder_valid(h, at_ms(11)));
	ck_assert_uint_eq(grant(11, 1), 0);
	holder_stream_attached(h, at_ms(12), session, &out);
	ck_assert(holder_valid(h, at_ms(12)));
	instance = grant(13, 1);
	ck_assert_uint_ne(instance, 0);
	/* Later losses of the stream are the origin's to wait out: leases stand. */
	holder_stream_lost(h, at_ms(14), session, &out);
	ck_assert_uint_eq(lease(15, 1), instance);
}
END_TEST

START_TEST(a_keepalive_goes_out_at_a_third_of_the_term_and_renews)
{
	struct message_kept_alive answer = { .status = STATUS_OK, .term_ms = 9000 };

	start();
	ck_assert_uint_eq(holder_timer(h).ns, at_ms(3000).ns);
	holder_tick(h, at_ms(2999), &out);
	expect_nothing();
	holder_tick(h, at_ms(3000), &out);
	expect(HOLDER_SEND_KEEPALIVE);
	expect_nothing();
	holder_kept_alive(h, at_ms(3500), at_ms(3000), session, &answer, &out);
	ck_assert_uint_eq(expect(HOLDER_RENEWED)->until.ns, at_ms(11000).ns);
	/* One that was overtaken takes nothing back. */
	holder_kept_alive(h, at_ms(3600), at_ms(2000), session, &answer, &out);
	expect_nothing();
	ck_assert_uint_eq(holder_remaining(h, at_ms(4000)).ns, 7 * NS_PER_S);
}
END_TEST

START_TEST(a_failing_keepalive_is_tried_again_soon_and_often)
{
	uint64_t ms = 3000;
	int tries = 0;

	start();
	for (; ms < 7990; tries++) {
		uint64_t next;

		holder_tick(h, at_ms(ms), &out);
		expect(HOLDER_SEND_KEEPALIVE);
		holder_keepalive_failed(h, at_ms(ms), session, &out);
		next = (holder_timer(h).ns + NS_PER_MS - 1) / NS_PER_MS;
		ck_assert_uint_le(next - ms, 800);
		ms = next > ms ? next : ms + 1;
	}
	ck_assert_int_ge(tries, 8);
}
END_TEST

START_TEST(at_the_end_of_the_term_everything_is_dropped_and_a_session_opened)
{
	struct holder_counters counters;

	start();
	ck_assert_uint_ne(grant(30, 1), 0);
	holder_tick(h, at_ms(8000), &out);
	expect(HOLDER_DROP_ALL);
	expect_nothing();
	ck_assert_int_eq(holder_state(h), HOLDER_NONE);
	holder_tick(h, holder_timer(h), &out);
	ck_assert_uint_eq(expect(HOLDER_SEND_SESSION_OPEN)->session.value, session.value);
	holder_counters(h, &counters);
	ck_assert_uint_eq(counters.expired, 1);
}
END_TEST

START_TEST(a_lost_session_is_dropped_before_the_next_is_opened)
{
	struct message_kept_alive answer = { .status = STATUS_NOSESSION };

	start();
	ck_assert_uint_ne(grant(30, 1), 0);
	holder_kept_alive(h, at_ms(40), at_ms(35), session, &answer, &out);
	expect(HOLDER_DROP_ALL);
	expect(HOLDER_SEND_SESSION_OPEN);
	ck_assert_uint_eq(lease(41, 1), 0);
	holder_session_lost(h, at_ms(42), session, &out);
	expect_nothing();
}
END_TEST

START_TEST(opening_is_tried_again_with_growing_waits)
{
	uint64_t now = 0, waits[6];

	holder_connect(h, at_ms(0), &out);
	for (int i = 0; i < 6; i++) {
		expect(HOLDER_SEND_SESSION_OPEN);
		holder_session_failed(h, (struct instant){ now }, &out);
		expect_nothing();
		waits[i] = holder_timer(h).ns - now;
		now += waits[i];
		holder_tick(h, (struct instant){ now }, &out);
	}
	ck_assert_uint_le(waits[0], 100 * NS_PER_MS);
	ck_assert_uint_ge(waits[5], 400 * NS_PER_MS);
	ck_assert_uint_le(waits[5], 800 * NS_PER_MS);
}
END_TEST

START_TEST(an_origin_of_a_lower_epoch_is_not_followed)
{
	struct message_session_opened answer = { .session = 9, .epoch = 0, .term_ms = 9000 };

	start();
	holder_session_lost(h, at_ms(50), session, &out);
	out.count = 0;
	holder_session_opened(h, at_ms(60), at_ms(55), &answer, &out);
	expect_nothing();
	ck_assert_int_eq(holder_state(h), HOLDER_NONE);
}
END_TEST

START_TEST(answers_to_requests_of_the_last_session_are_void)
{
	struct handle handle = handle_of(1);
	uint64_t stamp;

	start();
	stamp = holder_request_begin(h);
	holder_session_lost(h, at_ms(50), session, &out);
	out.count = 0;
	opened(60, 55, 78, false);
	holder_stream_attached(h, at_ms(61), (struct session_id){ 78 }, &out);
	ck_assert(holder_overtaken(h, stamp, 100, &handle, NULL));
	ck_assert_uint_eq(grant_to(62, stamp, 100, 1), 0);
	holder_request_end(h, stamp);
	ck_assert_uint_ne(grant(63, 1), 0);
}
END_TEST

START_TEST(a_busy_origin_makes_the_stream_come_again)
{
	struct message_kept_alive answer = { .status = STATUS_BUSY };

	start();
	holder_kept_alive(h, at_ms(3000), at_ms(2990), session, &answer, &out);
	expect(HOLDER_OPEN_STREAM);
	ck_assert_uint_le(holder_timer(h).ns, at_ms(3100).ns);
	ck_assert(holder_valid(h, at_ms(3001)));
	holder_tick(h, at_ms(3100), &out);
	expect(HOLDER_SEND_KEEPALIVE);
}
END_TEST

START_TEST(a_stream_that_brings_nothing_is_opened_again)
{
	struct message_kept_alive answer = {
		.status = STATUS_OK, .term_ms = 9000, .recall_sequence = 3,
	};

	start();
	holder_kept_alive(h, at_ms(2900), at_ms(2890), session, &answer, &out);
	expect(HOLDER_RENEWED);
	expect_nothing();
	holder_kept_alive(h, at_ms(5800), at_ms(5790), session, &answer, &out);
	expect(HOLDER_RENEWED);
	expect(HOLDER_OPEN_STREAM);
}
END_TEST

START_TEST(a_lost_stream_is_opened_at_once_and_then_with_waits)
{
	start();
	holder_stream_lost(h, at_ms(100), session, &out);
	expect(HOLDER_OPEN_STREAM);
	holder_stream_lost(h, at_ms(101), session, &out);
	expect_nothing();
	ck_assert_uint_ge(holder_timer(h).ns, at_ms(151).ns);
	holder_tick(h, holder_timer(h), &out);
	expect(HOLDER_OPEN_STREAM);
}
END_TEST

/* ---- leases ---- */

START_TEST(at_its_limit_the_least_recently_used_lease_is_released)
{
	struct handle handle = handle_of(2);

	start();
	for (uint8_t i = 1; i <= 4; i++)
		ck_assert_uint_ne(grant(30, i), 0);
	ck_assert_uint_ne(lease(31, 1), 0);
	ck_assert_uint_ne(grant(32, 5), 0);
	ck_assert(handle_equal(&expect(HOLDER_SEND_RELEASE)->handle, &handle));
	ck_assert_uint_eq(lease(33, 2), 0);
	/* Wanted again before the recall came: another instance. */
	ck_assert_uint_ne(grant(34, 2), 0);
	expect(HOLDER_SEND_RELEASE);
}
END_TEST

START_TEST(a_lease_given_up_and_granted_again_is_another_instance)
{
	uint64_t first;

	start();
	first = grant(30, 1);
	ck_assert_uint_eq(grant(31, 1), first);
	recall(40, 1, 1);
	dropped(41, 1);
	out.count = 0;
	ck_assert_uint_ne(grant(42, 1), first);
	ck_assert_uint_ne(lease(42, 1), 0);
}
END_TEST

START_TEST(nothing_is_answered_from_cache_while_this_host_modifies_the_inode)
{
	struct handle handle = handle_of(1);
	uint64_t instance;

	start();
	instance = grant(30, 1);
	ck_assert_int_eq(holder_modify_begin(h, &handle), 0);
	ck_assert_int_eq(holder_modify_begin(h, &handle), 0);
	ck_assert_uint_eq(lease(31, 1), 0);
	ck_assert_uint_eq(holder_lease_held(h, at_ms(31), &handle), instance);
	ck_assert(holder_modify_end(h, &handle, true, change_of(1), change_of(2)));
	ck_assert_uint_eq(lease(32, 1), 0);
	/* Someone else came between: what is cached is not good. */
	ck_assert(!holder_modify_end(h, &handle, true, change_of(3), change_of(4)));
	ck_assert_uint_eq(lease(33, 1), instance);
	ck_assert(!change_known(holder_change(h, &handle)));
}
END_TEST

START_TEST(a_modification_of_what_is_not_leased_is_remembered_all_the_same)
{
	struct handle handle = handle_of(1);

	start();
	ck_assert_int_eq(holder_modify_begin(h, &handle), 0);
	ck_assert(holder_modifying(h, &handle));
	ck_assert_uint_ne(grant(30, 1), 0);
	ck_assert_uint_eq(lease(31, 1), 0);
	ck_assert(!holder_modify_end(h, &handle, false, change_of(0), change_of(0)));
	ck_assert(!holder_modifying(h, &handle));
	ck_assert_uint_ne(lease(32, 1), 0);
}
END_TEST

/* ---- reclaim ---- */

START_TEST(what_was_held_is_reclaimed_under_the_next_session)
{
	struct session_id next = { 78 };
	struct handle handle = handle_of(1), unknown = handle_of(2);
	uint64_t stamp;

	start();
	ck_assert_uint_ne(grant(30, 1), 0);
	ck_assert_uint_ne(grant(30, 2), 0);
	ck_assert_uint_ne(grant(30, 3), 0);
	ck_assert_int_eq(holder_modify_begin(h, &unknown), 0);
	ck_assert(!holder_modify_end(h, &unknown, false, change_of(0), change_of(0)));
	holder_session_lost(h, at_ms(50), session, &out);
	expect(HOLDER_DROP_ALL);
	expect(HOLDER_SEND_SESSION_OPEN);
	opened(60, 55, next.value, true);
	expect(HOLDER_RENEWED);
	expect(HOLDER_OPEN_STREAM);
	expect_nothing();
	holder_stream_attached(h, at_ms(61), next, &out);
	ck_assert(change_equal(expect(HOLDER_SEND_RECLAIM)->change, change_of(1)));
	ck_assert(change_equal(expect(HOLDER_SEND_RECLAIM)->change, change_of(3)));
	expect(HOLDER_SEND_RECLAIM_DONE);
	expect_nothing();
	stamp = holder_request_begin(h);
	holder_reclaimed(h, at_ms(70), next, stamp, 0, &handle, change_of(1), true, &out);
	handle = handle_of(3);
	holder_reclaimed(h, at_ms(70), next, stamp, 0, &handle, change_of(3), false, &out);
	holder_request_end(h, stamp);
	ck_assert_uint_ne(lease(71, 1), 0);
	ck_assert_uint_eq(lease(71, 2), 0);
	ck_assert_uint_eq(lease(71, 3), 0);
}
END_TEST

START_TEST(a_reclaim_that_a_recall_overtook_is_void)
{
	struct session_id next = { 78 };
	struct message_recall message = { .sequence = 1, .handle = handle_of(1) };
	struct handle handle = handle_of(1);
	uint64_t stamp;

	start();
	ck_assert_uint_ne(grant(30, 1), 0);
	holder_session_lost(h, at_ms(50), session, &out);
	opened(60, 55, next.value, true);
	holder_stream_attached(h, at_ms(61), next, &out);
	stamp = holder_request_begin(h);
	holder_recall(h, at_ms(62), next, &message, &out);
	holder_dropped(h, at_ms(62), next, 1, false, &out);
	holder_reclaimed(h, at_ms(63), next, stamp, 0, &handle, change_of(1), true, &out);
	ck_assert_uint_eq(lease(64, 1), 0);
	holder_request_end(h, stamp);
	out.count = 0;
}
END_TEST

START_TEST(candidates_are_forgotten_when_the_origin_takes_no_reclaims)
{
	struct session_id next = { 78 };

	start();
	ck_assert_uint_ne(grant(30, 1), 0);
	holder_session_lost(h, at_ms(50), session, &out);
	out.count = 0;
	opened(60, 55, next.value, false);
	expect(HOLDER_RENEWED);
	expect(HOLDER_OPEN_STREAM);
	holder_stream_attached(h, at_ms(61), next, &out);
	expect_nothing();
}
END_TEST

/* ---- memory ---- */

START_TEST(a_failed_allocation_delays_actions_and_loses_none)
{
	for (long n = 0; n < 12; n++) {
		uint64_t drops = 0, acknowledged = 0;

		start();
		ck_assert_uint_ne(grant(30, 1), 0);
		holder_actions_finish(&out);
		memory.fail_after = n;
		recall_names(40, 1, 1, "x");
		holder_check_invariants(h);
		(void)grant(40, 2);
		holder_check_invariants(h);
		memory.fail_after = -1;
		ck_assert(out.count || holder_timer(h).ns <= at_ms(60).ns);
		holder_tick(h, at_ms(60), &out);
		for (size_t i = 0; i < out.count; i++)
			drops += out.items[i].kind == HOLDER_DROP;
		ck_assert_uint_eq(drops, 1);
		holder_actions_finish(&out);
		memory.fail_after = n;
		dropped(61, 1);
		holder_check_invariants(h);
		memory.fail_after = -1;
		holder_tick(h, at_ms(80), &out);
		for (size_t i = 0; i < out.count; i++)
			acknowledged += out.items[i].kind == HOLDER_SEND_ACKNOWLEDGE;
		ck_assert_uint_eq(acknowledged, 1);
		tear_down();
		set_up();
	}
}
END_TEST

START_TEST(our_own_modification_voids_what_was_asked_before_it_was_answered)
{
	struct handle directory = handle_of(1);
	struct slice made = slice_of("made"), other = slice_of("other");
	uint64_t before, after;

	start();
	before = holder_request_begin(h);
	holder_modified(h, &directory, &made, 1);
	after = holder_request_begin(h);
	/* The recall sequence says nothing here: the origin recalls nothing from its originator. */
	ck_assert(holder_overtaken(h, before, 100, &directory, NULL));
	ck_assert(holder_overtaken(h, before, 100, &directory, &made));
	ck_assert(!holder_overtaken(h, before, 100, &directory, &other));
	ck_assert(!holder_overtaken(h, after, 100, &directory, NULL));
	ck_assert(!holder_overtaken(h, after, 100, &directory, &made));
	holder_request_end(h, before);
	holder_request_end(h, after);
	expect_nothing();
}
END_TEST

static TCase *holder_case(void)
{
	TCase *tcase = tcase_create("holder");

	tcase_add_checked_fixture(tcase, set_up, tear_down);
	tcase_add_test(tcase, a_granted_lease_stands_until_the_term_is_over);
	tcase_add_test(tcase, a_recall_takes_the_lease_and_is_acknowledged_once_dropped);
	tcase_add_test(tcase, a_grant_that_a_recall_overtook_is_void);
	tcase_add_test(tcase, a_recall_of_names_leaves_the_lease);
	tcase_add_test(tcase, a_recall_of_one_name_overtakes_only_answers_about_it);
	tcase_add_test(tcase, a_recall_is_kept_until_every_older_request_is_answered);
	tcase_add_test(tcase, when_the_window_is_full_all_grants_in_flight_are_void);
	tcase_add_test(tcase, a_recall_that_finds_no_place_comes_again_on_a_new_stream);
	tcase_add_test(tcase, a_repeated_recall_is_acknowledged_again_and_dropped_once);
	tcase_add_test(tcase, a_recall_of_what_is_not_held_is_dropped_and_acknowledged_all_the_same);
	tcase_add_test(tcase, no_grant_is_taken_while_the_inode_is_being_dropped);
	tcase_add_test(tcase, names_that_cannot_be_read_recall_everything);
	tcase_add_test(tcase, recalls_and_drops_of_another_session_are_ignored);
	tcase_add_test(tcase, validity_counts_from_before_the_request_was_sent);
	tcase_add_test(tcase, drift_and_fencing_are_taken_off_the_term);
	tcase_add_test(tcase, no_grant_is_taken_before_the_stream_is_attached);
	tcase_add_test(tcase, a_keepalive_goes_out_at_a_third_of_the_term_and_renews);
	tcase_add_test(tcase, a_failing_keepalive_is_tried_again_soon_and_often);
	tcase_add_test(tcase, at_the_end_of_the_term_everything_is_dropped_and_a_session_opened);
	tcase_add_test(tcase, a_lost_session_is_dropped_before_the_next_is_opened);
	tcase_add_test(tcase, opening_is_tried_again_with_growing_waits);
	tcase_add_test(tcase, an_origin_of_a_lower_epoch_is_not_followed);
	tcase_add_test(tcase, answers_to_requests_of_the_last_session_are_void);
	tcase_add_test(tcase, a_busy_origin_makes_the_stream_come_again);
	tcase_add_test(tcase, a_stream_that_brings_nothing_is_opened_again);
	tcase_add_test(tcase, a_lost_stream_is_opened_at_once_and_then_with_waits);
	tcase_add_test(tcase, at_its_limit_the_least_recently_used_lease_is_released);
	tcase_add_test(tcase, a_lease_given_up_and_granted_again_is_another_instance);
	tcase_add_test(tcase, nothing_is_answered_from_cache_while_this_host_modifies_the_inode);
	tcase_add_test(tcase, a_modification_of_what_is_not_leased_is_remembered_all_the_same);
	tcase_add_test(tcase, what_was_held_is_reclaimed_under_the_next_session);
	tcase_add_test(tcase, a_reclaim_that_a_recall_overtook_is_void);
	tcase_add_test(tcase, candidates_are_forgotten_when_the_origin_takes_no_reclaims);
	tcase_add_test(tcase, our_own_modification_voids_what_was_asked_before_it_was_answered);
	tcase_add_test(tcase, a_failed_allocation_delays_actions_and_loses_none);
	return tcase;
}

UNIT_MAIN("holder", holder_case)
