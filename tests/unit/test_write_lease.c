/* The write lease (PROTOCOL.md 5.7), at both ends. */
#include "lease_unit.h"
#include "unit.h"

#include "lease/authority.h"
#include "lease/holder.h"
#include "lease/status.h"

/* ---- the origin's end: terms of 10 s, no drift, no margin ---- */

static const struct authority_config config = {
	.term = { 10 * NS_PER_S },
	.session_count_max = 4,
	.slot_count_max = 4,
	.lease_count_max = 4,
	.lease_total_max = 12,
	.operation_count_max = 16,
	.open_count_max = 3,
	.ended_count_max = 2,
	.epoch = 1,
	.seed = 7,
};

static const struct handle file = { .length = 2, .bytes = { 'h', 1 } };
static struct test_memory memory;
static struct allocator allocator = { test_resize, &memory };
static struct authority *a;
static struct authority_actions out;
static uint64_t op_last, sequence;
static struct session_id s, t;

static struct session_id open_session(uint8_t host)
{
	uint8_t name[16] = { host };
	struct session_id session = { 0 };
	uint32_t slots;
	bool reclaim;

	ck_assert_uint_eq(authority_session_open(a, at_ms(0), name, host, (struct session_id){ 0 },
						 4, &out, &session, &slots, &reclaim), STATUS_OK);
	return session;
}

static void set_up_origin(void)
{
	op_last = 0;
	authority_actions_init(&out, &allocator);
	ck_assert_int_eq(authority_create(&config, &allocator, at_ms(0), NULL, 0, false,
					  (struct duration){ 0 }, &a), 0);
	s = open_session(1);
	t = open_session(2);
}

static uint64_t begin(uint64_t ms, struct session_id session, enum authority_op_kind kind)
{
	struct authority_op op = {
		.id = ++op_last,
		.kind = kind,
		.session = session,
		.deadline = { UINT64_MAX },
		.target_count = 1,
		.targets = { { .handle = file } },
	};

	ck_assert_int_eq(authority_begin(a, at_ms(ms), &op, &out), 0);
	authority_check_invariants(a);
	return op.id;
}

static uint64_t write_back(uint64_t ms, struct session_id session, uint64_t lease_sequence)
{
	struct authority_op op = {
		.id = ++op_last,
		.kind = AUTHORITY_MODIFY,
		.session = session,
		.write_back = true,
		.lease_sequence = lease_sequence,
		.deadline = { UINT64_MAX },
		.target_count = 1,
		.targets = { { .handle = file } },
	};

	ck_assert_int_eq(authority_begin(a, at_ms(ms), &op, &out), 0);
	return op.id;
}

static enum lease_kind grant(uint64_t ms, struct session_id session, uint64_t op)
{
	enum lease_kind kind =
		authority_grant(a, at_ms(ms), session, &file, op, &out, &sequence);

	authority_check_invariants(a);
	return kind;
}

static void finish(uint64_t ms, uint64_t op)
{
	authority_finish(a, at_ms(ms), op, false, &out);
	authority_check_invariants(a);
}

static struct authority_action *expect(enum authority_action_kind kind)
{
	static struct authority_action action;

	ck_assert_uint_gt(out.count, 0);
	action = out.items[0];
	memmove(out.items, out.items + 1, --out.count * sizeof(*out.items));
	ck_assert_int_eq(action.kind, kind);
	return &action;
}

static void expect_run(uint64_t op)
{
	ck_assert_uint_eq(expect(AUTHORITY_RUN)->op, op);
}

static uint64_t expect_recall(struct session_id session)
{
	struct authority_action *action = expect(AUTHORITY_SEND_RECALL);

	ck_assert_uint_eq(action->session.value, session.value);
	ck_assert_int_eq(action->scope, RECALL_ALL);
	return action->recall_sequence;
}

static void acknowledge(uint64_t ms, struct session_id session, uint64_t recall)
{
	ck_assert_uint_eq(authority_acknowledge(a, at_ms(ms), session, recall, false, false, &out),
			  STATUS_OK);
	authority_check_invariants(a);
}

/* `session` gets the write lease, which nobody else stands in the way of. */
static uint64_t acquire(uint64_t ms, struct session_id session)
{
	uint64_t op = begin(ms, session, AUTHORITY_ACQUIRE);

	expect_run(op);
	ck_assert_int_eq(grant(ms, session, op), LEASE_WRITE);
	finish(ms, op);
	ck_assert_uint_eq(out.count, 0);
	return sequence;
}

START_TEST(the_write_lease_is_granted_when_every_other_lease_is_gone)
{
	uint64_t op, recall;

	ck_assert_int_eq(grant(1, s, 0), LEASE_READ);
	ck_assert_int_eq(grant(1, t, 0), LEASE_READ);
	op = begin(2, s, AUTHORITY_ACQUIRE);
	recall = expect_recall(t);
	ck_assert_uint_eq(out.count, 0);
	ck_assert_int_eq(grant(3, t, 0), LEASE_NONE);
	acknowledge(3, t, recall);
	expect_run(op);
	ck_assert_int_eq(grant(4, s, op), LEASE_WRITE);
	finish(4, op);
	ck_assert(authority_is_stored_elsewhere(a, t, &file));
	ck_assert(!authority_is_stored_elsewhere(a, s, &file));
	/* It stays one, whatever else is answered. */
	ck_assert_int_eq(grant(5, s, 0), LEASE_WRITE);
}
END_TEST

START_TEST(under_it_nobody_else_is_granted_anything_and_weak_reads_are_answered)
{
	acquire(1, s);
	ck_assert_int_eq(grant(2, t, 0), LEASE_NONE);
	ck_assert_uint_eq(out.count, 0);
}
END_TEST

START_TEST(a_strict_read_elsewhere_waits_until_it_is_given_up)
{
	uint64_t read, other, recall;

	acquire(1, s);
	read = begin(2, t, AUTHORITY_READ_STRICT);
	recall = expect_recall(s);
	other = begin(2, t, AUTHORITY_READ_STRICT);
	ck_assert_uint_eq(out.count, 0);
	acknowledge(3, s, recall);
	expect_run(read);
	expect_run(other);
	ck_assert_int_eq(grant(4, t, read), LEASE_READ);
	finish(4, read);
	finish(4, other);
}
END_TEST

START_TEST(what_was_stored_under_it_goes_ahead_of_what_recalls_it)
{
	uint64_t lease = acquire(1, s), read, change, back, recall;

	read = begin(2, t, AUTHORITY_READ_STRICT);
	recall = expect_recall(s);
	change = begin(2, t, AUTHORITY_MODIFY);
	back = write_back(3, s, lease);
	expect_run(back);
	ck_assert_int_eq(authority_cover(a, back), COVER_STANDS);
	ck_assert_int_eq(grant(3, s, back), LEASE_NONE);
	finish(3, back);
	acknowledge(4, s, recall);
	expect_run(read);
	finish(4, read);
	expect_run(change);
	ck_assert_int_eq(authority_cover(a, change), COVER_NONE);
	finish(5, change);
}
END_TEST

/* Its host's kernel writes nothing back before a change of the size is answered, and t's waits for that. */
START_TEST(what_waited_for_it_goes_ahead_of_what_recalls_it)
{
	uint64_t lease = begin(1, s, AUTHORITY_ACQUIRE), change, resize, late, recall;

	expect_run(lease);
	change = begin(2, t, AUTHORITY_MODIFY);
	resize = begin(3, s, AUTHORITY_MODIFY);
	ck_assert_uint_eq(out.count, 0);
	ck_assert_int_eq(grant(4, s, lease), LEASE_WRITE);
	expect_run(resize);
	ck_assert_int_eq(authority_cover(a, resize), COVER_STANDS);
	finish(5, lease);
	recall = expect_recall(s);
	finish(6, resize);
	late = begin(7, s, AUTHORITY_MODIFY);
	expect_run(late);
	acknowledge(8, s, recall);
	expect_run(change);
	ck_assert_int_eq(authority_cover(a, late), COVER_GONE);
	finish(9, late);
	finish(10, change);
}
END_TEST

START_TEST(what_was_stored_under_it_is_refused_once_it_is_lost)
{
	uint64_t lease = acquire(1, s), back, late, recall, again;

	back = write_back(2, s, lease);
	expect_run(back);
	begin(2, t, AUTHORITY_ACQUIRE);
	recall = expect_recall(s);
	acknowledge(3, s, recall);
	ck_assert_int_eq(authority_cover(a, back), COVER_GONE);
	finish(3, back);
	expect_run(2 + 1);
	ck_assert_int_eq(grant(3, t, 3), LEASE_WRITE);
	finish(3, 3);
	late = write_back(4, s, lease);
	expect_run(late);
	ck_assert_int_eq(authority_cover(a, late), COVER_GONE);
	finish(4, late);
	/* Not even under the next one that the session is granted. */
	again = begin(5, s, AUTHORITY_ACQUIRE);
	acknowledge(5, t, expect_recall(t));
	expect_run(again);
	ck_assert_int_eq(grant(5, s, again), LEASE_WRITE);
	finish(5, again);
	late = write_back(6, s, lease);
	expect_run(late);
	ck_assert_int_eq(authority_cover(a, late), COVER_GONE);
	finish(6, late);
}
END_TEST

START_TEST(other_modifications_under_it_begin_again_when_it_is_lost)
{
	uint64_t change, recall;

	acquire(1, s);
	change = begin(2, s, AUTHORITY_MODIFY);
	expect_run(change);
	ck_assert_int_eq(authority_cover(a, change), COVER_STANDS);
	begin(2, t, AUTHORITY_READ_STRICT);
	recall = expect_recall(s);
	ck_assert_int_eq(authority_cover(a, change), COVER_STANDS);
	acknowledge(3, s, recall);
	ck_assert_int_eq(authority_cover(a, change), COVER_GONE);
	authority_finish(a, at_ms(3), change, true, &out);
	expect_run(op_last);
	finish(4, op_last);
}
END_TEST

START_TEST(its_end_with_the_session_lets_readers_go_on)
{
	uint64_t lease = acquire(1, s), read, back;

	read = begin(9000, t, AUTHORITY_READ_STRICT);
	expect(AUTHORITY_SEND_RECALL);
	back = write_back(9000, s, lease);
	expect_run(back);
	ck_assert_uint_eq(authority_keepalive(a, at_ms(9000), t, &out, &sequence), STATUS_OK);
	authority_tick(a, at_ms(10000), &out);
	expect(AUTHORITY_SESSION_ENDED);
	expect_run(read);
	ck_assert(!authority_may_apply(a, at_ms(10000), back));
	ck_assert_int_eq(authority_cover(a, back), COVER_GONE);
	finish(10001, back);
	finish(10001, read);
}
END_TEST

/* The drop that a recall asks for may wait for the very page that is to be filled. */
START_TEST(who_acquires_while_his_own_lease_is_recalled_is_answered_at_once)
{
	uint64_t first, want, change, recall;

	ck_assert_int_eq(grant(1, s, 0), LEASE_READ);
	first = begin(1, t, AUTHORITY_READ_STRICT);
	expect_run(first);
	change = begin(2, t, AUTHORITY_MODIFY);
	/* The modification recalls at once; what was asked for before that... */
	recall = expect_recall(s);
	want = begin(2, s, AUTHORITY_ACQUIRE);
	expect_run(want);
	ck_assert_int_eq(grant(2, s, want), LEASE_NONE);
	finish(2, want);
	finish(3, first);
	acknowledge(3, s, recall);
	expect_run(change);
	finish(3, change);
}
END_TEST

START_TEST(who_waits_to_acquire_is_answered_when_his_own_lease_is_recalled)
{
	uint64_t want, first, recall;

	ck_assert_int_eq(grant(1, s, 0), LEASE_READ);
	first = begin(1, t, AUTHORITY_READ_STRICT);
	expect_run(first);
	want = begin(2, s, AUTHORITY_ACQUIRE);
	ck_assert_uint_eq(out.count, 0);
	authority_release(a, at_ms(2), s, &file, &out);
	recall = expect_recall(s);
	expect_run(want);
	ck_assert_int_eq(grant(2, s, want), LEASE_NONE);
	finish(2, want);
	finish(2, first);
	acknowledge(3, s, recall);
}
END_TEST

START_TEST(who_gave_up_acquiring_is_not_waited_for)
{
	uint64_t op, change, recall;

	ck_assert_int_eq(grant(1, t, 0), LEASE_READ);
	op = begin(1, s, AUTHORITY_ACQUIRE);
	recall = expect_recall(t);
	change = begin(1, s, AUTHORITY_MODIFY);
	authority_cancel(a, at_ms(2), op, &out);
	acknowledge(2, t, recall);
	expect_run(change);
	finish(2, change);
	ck_assert_uint_eq(out.count, 0);
}
END_TEST

/* What fills the table may be waiting for it. */
START_TEST(what_was_stored_is_not_pushed_back)
{
	uint64_t lease = acquire(1, s), back;

	for (unsigned i = 0; i < 17; i++)
		begin(2, t, AUTHORITY_READ_STRICT);
	expect(AUTHORITY_SEND_RECALL);
	ck_assert_uint_eq(expect(AUTHORITY_REFUSE)->status, STATUS_PUSHBACK);
	back = write_back(2, s, lease);
	expect_run(back);
	finish(2, back);
}
END_TEST

START_TEST(in_grace_nobody_acquires)
{
	struct authority_previous previous = { .session = { 99 } };
	struct authority_actions actions;
	struct authority *b;
	struct authority_op op = {
		.id = 1,
		.kind = AUTHORITY_ACQUIRE,
		.deadline = { UINT64_MAX },
		.target_count = 1,
		.targets = { { .handle = file } },
	};

	authority_actions_init(&actions, &allocator);
	ck_assert_int_eq(authority_create(&config, &allocator, at_ms(0), &previous, 1, false,
					  (struct duration){ NS_PER_S }, &b), 0);
	ck_assert_int_eq(authority_begin(b, at_ms(1), &op, &actions), 0);
	ck_assert_uint_eq(actions.count, 0);
	authority_tick(b, at_ms(1000), &actions);
	ck_assert_uint_eq(actions.count, 3);
	ck_assert_int_eq(actions.items[2].kind, AUTHORITY_RUN);
	authority_finish(b, at_ms(1000), 1, false, &actions);
	authority_destroy(b);
	authority_actions_finish(&actions);
}
END_TEST

/* A new process, with both sessions in its record; they are opened again. */
static void restart_origin(void)
{
	const struct authority_previous previous[] = { { .session = s, .host = { 1 } },
						       { .session = t, .host = { 2 } } };
	struct session_id *sessions[] = { &s, &t };

	authority_destroy(a);
	out.count = 0;
	ck_assert_int_eq(authority_create(&config, &allocator, at_ms(1000), previous, 2, false,
					  (struct duration){ 10 * NS_PER_S }, &a), 0);
	for (uint8_t i = 0; i < 2; i++) {
		uint8_t name[16] = { i + 1u };
		uint32_t slots;
		bool reclaim;

		ck_assert_uint_eq(authority_session_open(a, at_ms(1000), name, i, *sessions[i], 4,
							 &out, sessions[i], &slots, &reclaim),
				  STATUS_OK);
		expect(AUTHORITY_SESSION_ENDED);
	}
}

static bool reclaims(uint64_t ms, struct session_id who, enum lease_kind kind)
{
	bool confirmed = authority_reclaim(a, at_ms(ms), who, &file, kind, false, &out);

	authority_check_invariants(a);
	return confirmed;
}

START_TEST(after_a_restart_it_is_reclaimed_and_writes_back_go_ahead)
{
	uint64_t back, read, recall;

	acquire(1, s);
	restart_origin();
	ck_assert(reclaims(1001, s, LEASE_WRITE));
	ck_assert(reclaims(1001, s, LEASE_WRITE));
	ck_assert(!reclaims(1001, t, LEASE_READ));
	ck_assert(!reclaims(1001, t, LEASE_WRITE));
	read = begin(1002, t, AUTHORITY_READ_STRICT);
	back = write_back(1002, s, 0);
	expect_run(back);
	ck_assert_int_eq(authority_cover(a, back), COVER_STANDS);
	finish(1003, back);
	authority_reclaim_done(a, at_ms(1004), s, &out);
	ck_assert_uint_eq(out.count, 0);
	authority_reclaim_done(a, at_ms(1004), t, &out);
	expect(AUTHORITY_GRACE_ENDED);
	recall = expect_recall(s);
	/* The answer was lost, and the claim is repeated: it stands, to be written back under. */
	ck_assert(reclaims(1005, s, LEASE_WRITE));
	acknowledge(1006, s, recall);
	expect_run(read);
	finish(1006, read);
	ck_assert(!reclaims(1007, s, LEASE_WRITE));
}
END_TEST

START_TEST(it_is_reclaimed_in_grace_only_and_beside_nobody)
{
	struct session_id stranger;

	restart_origin();
	stranger = open_session(3);
	ck_assert(!reclaims(1001, stranger, LEASE_WRITE));
	ck_assert(!reclaims(1001, stranger, LEASE_READ));
	ck_assert(reclaims(1001, t, LEASE_READ));
	ck_assert(!reclaims(1001, s, LEASE_WRITE));
	authority_reclaim_done(a, at_ms(1002), s, &out);
	authority_reclaim_done(a, at_ms(1002), t, &out);
	expect(AUTHORITY_GRACE_ENDED);
	ck_assert(!reclaims(1003, s, LEASE_WRITE));
	ck_assert(!reclaims(1003, t, LEASE_WRITE));
	ck_assert(reclaims(1003, s, LEASE_READ));
}
END_TEST

/* ---- the host's end ---- */

static const struct session_id session = { 77 };
static struct holder *h;
static struct holder_actions does;

static void set_up_host(void)
{
	const struct holder_config limits = {
		.fence_margin = { NS_PER_S },
		.lease_count_max = 2,
		.recall_window_max = 4,
		.retry_min_ms = 100,
		.retry_max_ms = 800,
	};
	struct message_session_opened answer = { .session = 77, .epoch = 1, .term_ms = 9000 };

	holder_actions_init(&does, &allocator);
	ck_assert_int_eq(holder_create(&limits, &allocator, 3, &h), 0);
	holder_connect(h, at_ms(0), &does);
	holder_session_opened(h, at_ms(0), at_ms(0), &answer, &does);
	holder_stream_attached(h, at_ms(0), session, &does);
	does.count = 0;
}

static uint64_t hold(uint8_t inode, bool exclusive)
{
	struct handle handle = handle_of(inode);
	uint64_t stamp = holder_request_begin(h);
	uint64_t instance = holder_grant(h, at_ms(1), stamp, holder_recall_sequence(h), &handle,
					 (struct change){ 1, inode }, &does);

	if (exclusive)
		holder_set_exclusive(h, &handle, instance);
	holder_request_end(h, stamp);
	holder_check_invariants(h);
	return instance;
}

static uint64_t exclusive(uint64_t ms, uint8_t inode)
{
	struct handle handle = handle_of(inode);

	return holder_exclusive(h, at_ms(ms), &handle);
}

START_TEST(a_host_knows_which_lease_is_exclusive_until_it_is_recalled)
{
	struct message_recall recall = { .sequence = 1, .handle = handle_of(1) };
	uint64_t instance = hold(1, true);

	ck_assert_uint_ne(instance, 0);
	ck_assert_uint_eq(exclusive(2, 1), instance);
	/* A later answer that says less does not take it away. */
	ck_assert_uint_eq(hold(1, false), instance);
	ck_assert_uint_eq(exclusive(2, 1), instance);
	hold(2, false);
	ck_assert_uint_eq(exclusive(2, 2), 0);
	holder_recall(h, at_ms(3), session, &recall, &does);
	ck_assert_uint_eq(exclusive(3, 1), 0);
	holder_dropped(h, at_ms(4), session, 1, false, &does);
	ck_assert_uint_ne(hold(1, false), 0);
	ck_assert_uint_eq(exclusive(4, 1), 0);
}
END_TEST

START_TEST(a_host_lost_every_exclusive_lease_with_its_session)
{
	hold(1, true);
	ck_assert_uint_eq(exclusive(8000, 1), 0);
	holder_tick(h, at_ms(8000), &does);
	ck_assert_uint_eq(exclusive(8000, 1), 0);
}
END_TEST

START_TEST(a_host_does_not_give_up_an_exclusive_lease_to_make_room)
{
	struct handle handle = handle_of(1);

	hold(1, true);
	hold(2, false);
	does.count = 0;
	ck_assert_uint_ne(hold(3, false), 0);
	ck_assert_uint_eq(does.count, 1);
	ck_assert_uint_eq(does.items[0].handle.bytes[1], 2);
	ck_assert_uint_ne(exclusive(2, 1), 0);
	/* Released, it stands until the recall that follows: there may be something to write back. */
	does.count = 0;
	holder_release(h, &handle, &does);
	ck_assert_uint_eq(does.count, 1);
	ck_assert_int_eq(does.items[0].kind, HOLDER_SEND_RELEASE);
	ck_assert_uint_ne(exclusive(2, 1), 0);
	does.count = 0;
	holder_set_exclusive(h, &handle, 12345); /* of no lease that is held */
	hold(2, true);
	does.count = 0;
	ck_assert_uint_eq(hold(4, false), 0);
}
END_TEST

static void set_up(void)
{
	memory = (struct test_memory){ .fail_after = -1 };
	set_up_origin();
	set_up_host();
}

static void tear_down(void)
{
	holder_check_invariants(h);
	holder_destroy(h);
	holder_actions_finish(&does);
	authority_check_invariants(a);
	authority_destroy(a);
	authority_actions_finish(&out);
	ck_assert_int_eq(memory.blocks, 0);
}

static void again_host(void)
{
	holder_destroy(h);
	holder_actions_finish(&does);
	set_up_host();
}

static struct holder_action *expect_host(enum holder_action_kind kind)
{
	static struct holder_action action;

	ck_assert_uint_gt(does.count, 0);
	action = does.items[0];
	memmove(does.items, does.items + 1, --does.count * sizeof(*does.items));
	ck_assert_int_eq(action.kind, kind);
	return &action;
}

static bool kept(uint64_t ms)
{
	struct handle handle = handle_of(1);

	return holder_kept(h, at_ms(ms), &handle);
}

/* The origin was restarted at 2000, and the next session, 78, stands. */
static void reopen_host(void)
{
	struct message_session_opened answer = {
		.session = 78, .epoch = 2, .term_ms = 9000, .reclaim = 1
	};

	holder_session_refused(h, at_ms(2000), session, &does);
	expect_host(HOLDER_DROP_ALL);
	expect_host(HOLDER_SEND_SESSION_OPEN);
	ck_assert(kept(2000));
	ck_assert(holder_keeps(h));
	holder_session_opened(h, at_ms(2001), at_ms(2000), &answer, &does);
	/* What is kept is not under this session yet: the guardian's deadline stays. */
	ck_assert_uint_eq(expect_host(HOLDER_RENEWED)->until.ns, at_ms(8000).ns);
	expect_host(HOLDER_OPEN_STREAM);
	holder_stream_attached(h, at_ms(2002), (struct session_id){ 78 }, &does);
	holder_check_invariants(h);
}

static void answer_claim(uint64_t ms, uint64_t recall_sequence, struct change change, bool confirmed)
{
	struct handle handle = handle_of(1);
	uint64_t stamp = holder_request_begin(h);

	holder_reclaimed(h, at_ms(ms), (struct session_id){ 78 }, stamp, recall_sequence, &handle,
			 change, confirmed, &does);
	holder_request_end(h, stamp);
	holder_check_invariants(h);
}

START_TEST(after_a_restart_of_the_origin_it_is_kept_and_claimed_first)
{
	struct handle handle = handle_of(1);
	struct holder_action *claim;
	uint64_t instance;

	hold(2, false);
	instance = hold(1, true);
	reopen_host();
	claim = expect_host(HOLDER_SEND_RECLAIM);
	ck_assert(claim->kept && handle_equal(&claim->handle, &handle));
	ck_assert_uint_eq(claim->change.counter, 1);
	ck_assert(!expect_host(HOLDER_SEND_RECLAIM)->kept);
	/* The last word waits for its answer. */
	ck_assert_uint_eq(does.count, 0);
	answer_claim(2010, 0, (struct change){ 1, 1 }, true);
	ck_assert_uint_eq(expect_host(HOLDER_RENEWED)->until.ns, at_ms(10000).ns);
	expect_host(HOLDER_SEND_RECLAIM_DONE);
	ck_assert_uint_eq(holder_exclusive(h, at_ms(2011), &handle), instance);
	ck_assert(!kept(2011));
}
END_TEST

START_TEST(what_is_cached_under_it_is_good_at_the_same_change_only)
{
	struct handle handle = handle_of(1);
	uint64_t instance = hold(1, true);

	ck_assert_int_eq(holder_modify_begin(h, &handle), 0);
	reopen_host();
	ck_assert_uint_eq(expect_host(HOLDER_SEND_RECLAIM)->change.counter, 0);
	(void)holder_modify_end(h, &handle, false, (struct change){ 0 }, (struct change){ 0 });
	answer_claim(2010, 0, (struct change){ 0, 0 }, true);
	ck_assert_uint_ne(holder_exclusive(h, at_ms(2011), &handle), 0);
	ck_assert_uint_ne(holder_exclusive(h, at_ms(2011), &handle), instance);
	ck_assert(!change_known(holder_change(h, &handle)));
}
END_TEST

START_TEST(refused_or_too_late_it_is_lost_before_the_last_word)
{
	struct handle handle = handle_of(1);

	hold(1, true);
	reopen_host();
	expect_host(HOLDER_SEND_RECLAIM);
	answer_claim(2010, 0, (struct change){ 1, 1 }, false);
	ck_assert(handle_equal(&expect_host(HOLDER_LOST)->handle, &handle));
	expect_host(HOLDER_RENEWED);
	expect_host(HOLDER_SEND_RECLAIM_DONE);
	ck_assert_uint_eq(holder_exclusive(h, at_ms(2011), &handle), 0);
	hold(1, true);
	holder_session_refused(h, at_ms(3000), (struct session_id){ 78 }, &does);
	does.count = 0;
	ck_assert(kept(9999));
	ck_assert(!kept(10000));
	ck_assert_uint_eq(holder_timer(h).ns <= at_ms(10000).ns, true);
	holder_tick(h, at_ms(10000), &does);
	expect_host(HOLDER_LOST);
	ck_assert(!holder_keeps(h));
}
END_TEST

START_TEST(it_is_not_kept_when_the_host_gives_the_session_up)
{
	struct handle handle = handle_of(1);
	struct message_recall recall = { .sequence = 1, .handle = handle, .scope = RECALL_ALL };

	hold(1, true);
	holder_session_lost(h, at_ms(2000), session, &does);
	expect_host(HOLDER_DROP_ALL);
	ck_assert(!kept(2000));
	again_host();
	hold(1, true);
	holder_tick(h, at_ms(8000), &does); /* its term is over */
	ck_assert(!kept(8000));
	again_host();
	hold(1, true);
	holder_recall(h, at_ms(1000), session, &recall, &does);
	holder_session_refused(h, at_ms(2000), session, &does);
	ck_assert(!kept(2000));
}
END_TEST

static TCase *write_lease_case(void)
{
	TCase *tcase = tcase_create("write_lease");

	tcase_add_checked_fixture(tcase, set_up, tear_down);
	tcase_add_test(tcase, the_write_lease_is_granted_when_every_other_lease_is_gone);
	tcase_add_test(tcase, under_it_nobody_else_is_granted_anything_and_weak_reads_are_answered);
	tcase_add_test(tcase, a_strict_read_elsewhere_waits_until_it_is_given_up);
	tcase_add_test(tcase, what_was_stored_under_it_goes_ahead_of_what_recalls_it);
	tcase_add_test(tcase, what_waited_for_it_goes_ahead_of_what_recalls_it);
	tcase_add_test(tcase, what_was_stored_under_it_is_refused_once_it_is_lost);
	tcase_add_test(tcase, other_modifications_under_it_begin_again_when_it_is_lost);
	tcase_add_test(tcase, its_end_with_the_session_lets_readers_go_on);
	tcase_add_test(tcase, who_acquires_while_his_own_lease_is_recalled_is_answered_at_once);
	tcase_add_test(tcase, who_waits_to_acquire_is_answered_when_his_own_lease_is_recalled);
	tcase_add_test(tcase, who_gave_up_acquiring_is_not_waited_for);
	tcase_add_test(tcase, what_was_stored_is_not_pushed_back);
	tcase_add_test(tcase, in_grace_nobody_acquires);
	tcase_add_test(tcase, a_host_knows_which_lease_is_exclusive_until_it_is_recalled);
	tcase_add_test(tcase, a_host_lost_every_exclusive_lease_with_its_session);
	tcase_add_test(tcase, a_host_does_not_give_up_an_exclusive_lease_to_make_room);
	tcase_add_test(tcase, after_a_restart_it_is_reclaimed_and_writes_back_go_ahead);
	tcase_add_test(tcase, it_is_reclaimed_in_grace_only_and_beside_nobody);
	tcase_add_test(tcase, after_a_restart_of_the_origin_it_is_kept_and_claimed_first);
	tcase_add_test(tcase, what_is_cached_under_it_is_good_at_the_same_change_only);
	tcase_add_test(tcase, refused_or_too_late_it_is_lost_before_the_last_word);
	tcase_add_test(tcase, it_is_not_kept_when_the_host_gives_the_session_up);
	return tcase;
}

UNIT_MAIN("write_lease", write_lease_case)
