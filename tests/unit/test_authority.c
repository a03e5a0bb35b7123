#include "lease_unit.h"
#include "unit.h"

#include "lease/authority.h"
#include "lease/status.h"

/* Terms of 10 s and no drift: times in the tests are easy to follow. Margin 100 ms. */
static const struct authority_config config_default = {
	.term = { 10 * NS_PER_S },
	.drift_ppm = 0,
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

static struct test_memory memory;
static struct allocator allocator = { test_resize, &memory };
static struct authority *a;
static struct authority_actions out;
static uint64_t op_last;

static void create(const struct authority_config *config, const struct authority_previous *previous,
		   size_t count, bool unknown)
{
	memory = (struct test_memory){ .fail_after = -1 };
	op_last = 0;
	authority_actions_init(&out, &allocator);
	ck_assert_int_eq(authority_create(config, &allocator, at_ms(0), previous, count, unknown,
					  (struct duration){ 10 * NS_PER_S }, &a), 0);
}

static void set_up(void)
{
	create(&config_default, NULL, 0, false);
}

static void tear_down(void)
{
	authority_check_invariants(a);
	authority_destroy(a);
	authority_actions_finish(&out);
	ck_assert_int_eq(memory.blocks, 0);
}

/* ---- short ways ---- */

static struct session_id open_as(uint64_t ms, uint8_t host, struct session_id previous)
{
	uint8_t name[16] = { host };
	struct session_id session = { 0 };
	uint32_t slots;
	bool reclaim;

	ck_assert_uint_eq(authority_session_open(a, at_ms(ms), name, host, previous, 4, &out,
						 &session, &slots, &reclaim), STATUS_OK);
	ck_assert_uint_ne(session.value, 0);
	ck_assert_uint_eq(slots, 4);
	return session;
}

static struct session_id open_session(uint64_t ms, uint8_t host)
{
	return open_as(ms, host, (struct session_id){ 0 });
}

static uint64_t grant_sequence;

static bool grant_op(uint64_t ms, struct session_id session, uint8_t inode, uint64_t op)
{
	struct handle handle = handle_of(inode);

	return authority_grant(a, at_ms(ms), session, &handle, op, &out, &grant_sequence) ==
	       LEASE_READ;
}

static bool grant(uint64_t ms, struct session_id session, uint8_t inode)
{
	return grant_op(ms, session, inode, 0);
}

static struct authority_op modification(struct session_id session, uint8_t inode)
{
	return (struct authority_op){
		.id = ++op_last,
		.kind = AUTHORITY_MODIFY,
		.session = session,
		.deadline = { UINT64_MAX },
		.target_count = 1,
		.targets = { { .handle = handle_of(inode) } },
	};
}

static uint64_t begin(uint64_t ms, const struct authority_op *op)
{
	ck_assert_int_eq(authority_begin(a, at_ms(ms), op, &out), 0);
	authority_check_invariants(a);
	return op->id;
}

static uint64_t modify(uint64_t ms, struct session_id session, uint8_t inode)
{
	struct authority_op op = modification(session, inode);

	return begin(ms, &op);
}

static uint64_t modify_in_slot(uint64_t ms, struct session_id session, uint8_t inode, uint32_t slot,
			       uint64_t sequence)
{
	struct authority_op op = modification(session, inode);

	op.slot = slot;
	op.sequence = sequence;
	return begin(ms, &op);
}

static uint64_t read_strict(uint64_t ms, struct session_id session, uint8_t inode)
{
	struct authority_op op = modification(session, inode);

	op.kind = AUTHORITY_READ_STRICT;
	return begin(ms, &op);
}

static void finish(uint64_t ms, uint64_t op)
{
	authority_finish(a, at_ms(ms), op, false, &out);
	authority_check_invariants(a);
}

static void acknowledge(uint64_t ms, struct session_id session, uint64_t sequence)
{
	ck_assert_uint_eq(authority_acknowledge(a, at_ms(ms), session, sequence, false, false,
						&out), STATUS_OK);
	authority_check_invariants(a);
}

static void tick(uint64_t ms)
{
	authority_tick(a, at_ms(ms), &out);
	authority_check_invariants(a);
}

/* Takes the next action, which must be of that kind. */
static struct authority_action *expect(enum authority_action_kind kind)
{
	static struct authority_action action;

	ck_assert_uint_gt(out.count, 0);
	action = out.items[0];
	memmove(out.items, out.items + 1, --out.count * sizeof(*out.items));
	ck_assert_int_eq(action.kind, kind);
	return &action;
}

static void expect_nothing(void)
{
	ck_assert_uint_eq(out.count, 0);
}

static void expect_run(uint64_t op)
{
	ck_assert_uint_eq(expect(AUTHORITY_RUN)->op, op);
}

static void expect_refuse(uint64_t op, uint16_t status)
{
	struct authority_action *action = expect(AUTHORITY_REFUSE);

	ck_assert_uint_eq(action->op, op);
	ck_assert_uint_eq(action->status, status);
}

static uint64_t expect_recall(struct session_id session, uint8_t inode)
{
	struct authority_action *action = expect(AUTHORITY_SEND_RECALL);
	struct handle handle = handle_of(inode);

	ck_assert_uint_eq(action->session.value, session.value);
	ck_assert(handle_equal(&action->handle, &handle));
	return action->recall_sequence;
}

static void expect_ended(struct session_id session)
{
	ck_assert_uint_eq(expect(AUTHORITY_SESSION_ENDED)->session.value, session.value);
}

static bool holds(struct session_id session, uint8_t inode)
{
	struct handle handle = handle_of(inode);

	return authority_holds(a, session, &handle);
}

/* ---- operations and recalls ---- */

START_TEST(a_modification_of_what_nobody_holds_runs_at_once)
{
	struct session_id s = open_session(0, 1);
	uint64_t op = modify(1, s, 1);

	expect_run(op);
	finish(2, op);
	expect_nothing();
}
END_TEST

START_TEST(a_modification_waits_for_the_acknowledgement)
{
	struct session_id s = open_session(0, 1), t = open_session(0, 2);
	uint64_t op, sequence;

	ck_assert(grant(1, t, 1));
	op = modify(2, s, 1);
	sequence = expect_recall(t, 1);
	ck_assert_uint_eq(sequence, 1);
	expect_nothing();
	acknowledge(3, t, sequence);
	expect_run(op);
	ck_assert(!holds(t, 1));
	finish(4, op);
	expect_nothing();
}
END_TEST

START_TEST(the_originators_own_lease_stays)
{
	struct session_id s = open_session(0, 1);
	uint64_t op;

	ck_assert(grant(1, s, 1));
	op = modify(2, s, 1);
	expect_run(op);
	ck_assert(grant_op(3, s, 1, op));
	finish(4, op);
	ck_assert(holds(s, 1));
}
END_TEST


START_TEST(a_dead_host_delays_a_modification_until_its_session_ends_and_no_longer)
{
	struct session_id s = open_session(0, 1), t = open_session(0, 2);
	uint64_t sequence, op;

	ck_assert(grant(1, t, 1));
	ck_assert_uint_eq(authority_keepalive(a, at_ms(5000), s, &out, &sequence), STATUS_OK);
	op = modify(5000, s, 1);
	expect_recall(t, 1);
	ck_assert_uint_eq(authority_timer(a).ns, at_ms(10100).ns);
	authority_tick(a, (struct instant){ at_ms(10100).ns - 1 }, &out);
	expect_nothing();
	tick(10100);
	expect_ended(t);
	expect_run(op);
	finish(10101, op);
}
END_TEST

START_TEST(an_acknowledgement_that_is_repeated_or_late_changes_nothing)
{
	struct session_id s = open_session(0, 1), t = open_session(0, 2);
	uint64_t first;

	ck_assert(grant(1, t, 1));
	first = modify(2, s, 1);
	expect_recall(t, 1);
	acknowledge(3, t, 1);
	expect_run(first);
	finish(4, first);
	ck_assert(grant(3000, t, 1));
	acknowledge(3001, t, 1);
	ck_assert(holds(t, 1));
	acknowledge(3001, t, 99);
	authority_session_close(a, at_ms(3002), t, &out);
	expect_ended(t);
	ck_assert_uint_eq(authority_acknowledge(a, at_ms(3003), t, 1, true, false, &out),
			  STATUS_NOSESSION);
	expect_nothing();
}
END_TEST

START_TEST(recalls_that_are_not_acknowledged_come_again_on_a_new_stream)
{
	struct session_id s = open_session(0, 1), t = open_session(0, 2);

	ck_assert(grant(1, t, 1));
	ck_assert(grant(1, t, 2));
	modify(2, s, 1);
	modify(2, s, 2);
	ck_assert_uint_eq(expect_recall(t, 1), 1);
	ck_assert_uint_eq(expect_recall(t, 2), 2);
	acknowledge(3, t, 1);
	expect(AUTHORITY_RUN);
	ck_assert_uint_eq(authority_stream_attached(a, at_ms(4), t, &out), STATUS_OK);
	ck_assert_uint_eq(expect_recall(t, 2), 2);
	expect_nothing();
}
END_TEST

START_TEST(a_second_modification_of_the_inode_waits_for_the_first)
{
	struct session_id s = open_session(0, 1);
	uint64_t first = modify(1, s, 1), second = modify(1, s, 1);

	expect_run(first);
	expect_nothing();
	finish(2, first);
	expect_run(second);
}
END_TEST

START_TEST(an_operation_on_four_inodes_drains_all_at_once_and_runs_once)
{
	struct session_id s = open_session(0, 1), t = open_session(0, 2);
	struct authority_op op = modification(s, 1);
	uint64_t other;

	for (uint8_t i = 1; i <= 4; i++) {
		op.targets[i - 1].handle = handle_of(i);
		ck_assert(grant(1, t, i));
	}
	op.target_count = 4;
	begin(2, &op);
	for (uint8_t i = 1; i <= 4; i++)
		expect_recall(t, i);
	other = modify(2, s, 3);
	for (uint64_t i = 1; i <= 4; i++) {
		expect_nothing();
		acknowledge(3, t, i);
	}
	expect_run(op.id);
	expect_nothing();
	finish(4, op.id);
	expect_run(other);
}
END_TEST

START_TEST(operations_in_opposite_order_do_not_wait_for_each_other)
{
	struct session_id s = open_session(0, 1);
	uint64_t before = modify(1, s, 1);
	struct authority_op x = modification(s, 1), y = modification(s, 2);

	x.target_count = 2;
	x.targets[1].handle = handle_of(2);
	y.target_count = 2;
	y.targets[1].handle = handle_of(1);
	begin(1, &x);
	begin(1, &y);
	expect_run(before);
	finish(2, before);
	expect_run(x.id);
	expect_nothing();
	finish(3, x.id);
	expect_run(y.id);
}
END_TEST

/* ---- grants ---- */

START_TEST(nothing_is_granted_while_a_modification_drains_or_runs)
{
	struct session_id s = open_session(0, 1), t = open_session(0, 2), u = open_session(0, 3);
	uint64_t op;

	ck_assert(grant(1, t, 1));
	op = modify(2, s, 1);
	expect_recall(t, 1);
	ck_assert(!grant(3, u, 1));
	ck_assert(!grant(3, t, 1));
	ck_assert(!grant(3, s, 1));
	ck_assert(grant(3, u, 2));
	acknowledge(4, t, 1);
	expect_run(op);
	ck_assert(!grant(5, u, 1));
	ck_assert(!grant(5, s, 1));
	ck_assert(grant_op(5, s, 1, op));
	finish(6, op);
	ck_assert(grant(6, u, 1));
}
END_TEST

START_TEST(an_answer_states_the_sequence_of_recalls_before_its_own_grant)
{
	struct session_id t = open_session(0, 2);

	for (uint8_t i = 1; i <= 4; i++)
		ck_assert(grant(1, t, i));
	expect_nothing();
	/* The fifth is one too many: the oldest is recalled, and this answer is before that. */
	ck_assert(!grant(2, t, 5));
	ck_assert_uint_eq(grant_sequence, 0);
	ck_assert_uint_eq(expect_recall(t, 1), 1);
	acknowledge(3, t, 1);
	ck_assert(grant(4, t, 5));
	ck_assert_uint_eq(grant_sequence, 1);
}
END_TEST

START_TEST(what_was_granted_longest_ago_is_given_up_first)
{
	struct session_id t = open_session(0, 2);

	for (uint8_t i = 1; i <= 4; i++)
		ck_assert(grant(1, t, i));
	ck_assert(grant(2, t, 1));
	ck_assert(!grant(3, t, 5));
	expect_recall(t, 2);
}
END_TEST

START_TEST(a_strict_read_waits_behind_a_pending_modification_and_is_granted)
{
	struct session_id s = open_session(0, 1), t = open_session(0, 2), u = open_session(0, 3);
	uint64_t change, read, next;

	ck_assert(grant(1, t, 1));
	change = modify(2, s, 1);
	expect_recall(t, 1);
	read = read_strict(3, u, 1);
	next = modify(3, s, 1);
	expect_nothing();
	acknowledge(4, t, 1);
	expect_run(change);
	finish(5, change);
	expect_run(read);
	expect_nothing();
	ck_assert(grant_op(6, u, 1, read));
	finish(7, read);
	expect_recall(u, 1);
	acknowledge(8, u, 1);
	expect_run(next);
}
END_TEST

/* Two hosts write to one file: each waits for one round trip of the other, not for two. */
START_TEST(what_must_queue_recalls_at_once_what_it_will_wait_for)
{
	struct session_id s = open_session(0, 1), t = open_session(0, 2);
	uint64_t first, second;

	ck_assert(grant(1, s, 1));
	ck_assert(grant(1, t, 1));
	first = modify(2, s, 1);
	expect_recall(t, 1);
	second = modify(2, t, 1);
	expect_recall(s, 1);
	acknowledge(3, s, 1);
	expect_nothing();
	acknowledge(3, t, 1);
	expect_run(first);
	/* A lease for the first one's host would only have to be recalled for the second. */
	ck_assert(!grant_op(4, s, 1, first));
	finish(4, first);
	expect_run(second);
	finish(5, second);
}
END_TEST

START_TEST(a_strict_read_under_an_unacknowledged_lease_runs_at_once_without_a_grant)
{
	struct session_id s = open_session(0, 1), t = open_session(0, 2);
	uint64_t change, read;

	ck_assert(grant(1, t, 1));
	change = modify(2, s, 1);
	expect_recall(t, 1);
	read = read_strict(3, t, 1);
	expect_run(read);
	ck_assert(!grant_op(3, t, 1, read));
	acknowledge(4, t, 1);
	expect_run(change);
	finish(5, read);
	finish(6, change);
	expect_nothing();
}
END_TEST

START_TEST(a_strict_read_does_not_wait_behind_what_its_sessions_new_lease_holds_up)
{
	struct session_id s = open_session(0, 1), t = open_session(0, 2);
	uint64_t elsewhere = modify(1, s, 2), read;
	struct authority_op both = modification(s, 1);

	expect_run(elsewhere);
	both.target_count = 2;
	both.targets[1].handle = handle_of(2);
	begin(2, &both);
	read = read_strict(3, t, 1);
	expect_nothing();
	/* The modification waits elsewhere: nothing new is granted but to a reclaim. */
	ck_assert(!grant(4, t, 1));
	ck_assert(authority_reclaim(a, at_ms(4), t, &both.targets[0].handle, LEASE_READ, false, &out));
	expect_run(read);
	finish(5, elsewhere);
	expect_recall(t, 1);
	finish(6, read);
	acknowledge(7, t, 1);
	expect_run(both.id);
}
END_TEST

START_TEST(strict_reads_do_not_wait_for_each_other)
{
	struct session_id s = open_session(0, 1), t = open_session(0, 2);
	uint64_t x = read_strict(1, s, 1), y = read_strict(1, t, 1), change;

	expect_run(x);
	expect_run(y);
	ck_assert(grant_op(2, s, 1, x));
	ck_assert(grant_op(2, t, 1, y));
	change = modify(2, s, 1);
	expect_recall(t, 1);
	finish(3, x);
	expect_nothing();
	finish(3, y);
	expect_nothing();
	acknowledge(4, t, 1);
	expect_run(change);
}
END_TEST

START_TEST(a_cancelled_strict_read_is_forgotten_and_a_cancelled_modification_is_not)
{
	struct session_id s = open_session(0, 1), t = open_session(0, 2);
	uint64_t change = modify(1, s, 1), read = read_strict(2, t, 1), next = modify(2, s, 1);

	expect_run(change);
	authority_cancel(a, at_ms(3), read, &out);
	authority_cancel(a, at_ms(3), next, &out);
	expect_nothing();
	finish(4, change);
	expect_run(next);
}
END_TEST

/* ---- recalls of names, release ---- */

static uint64_t modify_name(uint64_t ms, struct session_id session, uint8_t inode, const char *name)
{
	struct authority_op op = modification(session, inode);

	op.targets[0].scope = RECALL_NAMES;
	op.targets[0].name_count = 1;
	op.targets[0].names[0] = slice_of(name);
	return begin(ms, &op);
}

static void keep(uint64_t ms, struct session_id session, uint64_t sequence)
{
	ck_assert_uint_eq(authority_acknowledge(a, at_ms(ms), session, sequence, false, true, &out),
			  STATUS_OK);
	authority_check_invariants(a);
}

START_TEST(a_recall_of_names_can_leave_the_lease)
{
	struct session_id s = open_session(0, 1), t = open_session(0, 2);
	struct authority_action *action;
	uint64_t op;

	ck_assert(grant(1, t, 1));
	op = modify_name(2, s, 1, "new");
	action = expect(AUTHORITY_SEND_RECALL);
	ck_assert_int_eq(action->scope, RECALL_NAMES);
	ck_assert_uint_eq(action->name_count, 1);
	ck_assert_uint_eq(action->name_length[0], 3);
	ck_assert_mem_eq(action->names[0], "new", 3);
	keep(3, t, 1);
	expect_run(op);
	finish(4, op);
	ck_assert(holds(t, 1));
	/* Not a recall of everything: that is not the host's to keep. */
	op = modify(2000, s, 1);
	expect_recall(t, 1);
	keep(2001, t, 2);
	expect_run(op);
	ck_assert(!holds(t, 1));
}
END_TEST

START_TEST(a_directory_that_changes_all_the_time_is_recalled_as_a_whole)
{
	struct session_id s = open_session(0, 1), t = open_session(0, 2);
	enum recall_scope scope = RECALL_NAMES;
	uint64_t sequence;

	ck_assert(grant(1, t, 1));
	for (uint64_t i = 1; scope == RECALL_NAMES; i++) {
		uint64_t op = modify_name(1 + i, s, 1, "x");
		struct authority_action *action = expect(AUTHORITY_SEND_RECALL);

		scope = action->scope;
		sequence = action->recall_sequence;
		ck_assert_uint_lt(i, 10);
		keep(1 + i, t, sequence);
		expect_run(op);
		finish(1 + i, op);
	}
	ck_assert(!holds(t, 1));
	ck_assert(!grant(20, t, 1));
}
END_TEST

START_TEST(a_release_is_answered_by_a_recall)
{
	struct session_id t = open_session(0, 2);
	struct handle handle = handle_of(1), nobodys = handle_of(9);

	ck_assert(grant(1, t, 1));
	authority_release(a, at_ms(2), t, &nobodys, &out);
	expect_nothing();
	authority_release(a, at_ms(2), t, &handle, &out);
	expect_recall(t, 1);
	authority_release(a, at_ms(2), t, &handle, &out);
	expect_nothing();
	ck_assert(!grant(3, t, 1));
	acknowledge(4, t, 1);
	ck_assert(!holds(t, 1));
	ck_assert(grant(5, t, 1));
}
END_TEST

START_TEST(a_release_under_a_draining_operation_needs_no_second_recall)
{
	struct session_id s = open_session(0, 1), t = open_session(0, 2);
	struct handle handle = handle_of(1);
	uint64_t op;

	ck_assert(grant(1, t, 1));
	op = modify(2, s, 1);
	expect_recall(t, 1);
	authority_release(a, at_ms(3), t, &handle, &out);
	expect_nothing();
	acknowledge(4, t, 1);
	expect_run(op);
	expect_nothing();
}
END_TEST

START_TEST(a_lease_released_while_its_names_are_recalled_goes_when_that_is_acknowledged)
{
	struct session_id s = open_session(0, 1), t = open_session(0, 2);
	struct handle handle = handle_of(1);
	uint64_t op;

	ck_assert(grant(1, t, 1));
	op = modify_name(2, s, 1, "x");
	expect_recall(t, 1);
	authority_release(a, at_ms(3), t, &handle, &out);
	expect_nothing();
	/* Sent before the host released it. */
	keep(4, t, 1);
	ck_assert_uint_eq(expect_recall(t, 1), 2);
	expect_run(op);
	acknowledge(5, t, 2);
	ck_assert(!holds(t, 1));
}
END_TEST

START_TEST(a_refused_operation_leaves_its_recall_and_the_next_one_waits_for_it)
{
	struct session_id s = open_session(0, 1), t = open_session(0, 2);
	struct authority_op late = modification(s, 1);
	uint64_t next;

	ck_assert(grant(1, t, 1));
	late.deadline = at_ms(50);
	begin(2, &late);
	expect_recall(t, 1);
	ck_assert_uint_eq(authority_timer(a).ns, at_ms(50).ns);
	tick(50);
	expect_refuse(late.id, STATUS_DEADLINE);
	ck_assert(!grant(51, t, 1));
	next = modify(52, s, 1);
	expect_nothing();
	acknowledge(53, t, 1);
	expect_run(next);
}
END_TEST

START_TEST(a_recall_of_everything_takes_the_place_of_one_of_names)
{
	struct session_id s = open_session(0, 1), t = open_session(0, 2);
	struct authority_op late = modification(s, 1);
	uint64_t next;

	ck_assert(grant(1, t, 1));
	late.deadline = at_ms(50);
	late.targets[0].scope = RECALL_NAMES;
	late.targets[0].name_count = 1;
	late.targets[0].names[0] = slice_of("a");
	begin(2, &late);
	expect_recall(t, 1);
	tick(50);
	expect_refuse(late.id, STATUS_DEADLINE);
	next = modify_name(60, s, 1, "b");
	ck_assert_uint_eq(expect_recall(t, 1), 2);
	keep(61, t, 1);
	expect_nothing();
	keep(62, t, 2);
	expect_run(next);
	ck_assert(!holds(t, 1));
}
END_TEST

/* ---- back-off ---- */

START_TEST(an_inode_that_is_recalled_again_and_again_gets_no_leases_for_a_while)
{
	struct session_id s = open_session(0, 1), t = open_session(0, 2);
	uint64_t now = 1, wait = 0;

	for (int i = 0; i < 4; i++) {
		uint64_t op, sequence, waited = 0;

		while (!grant(now, t, 1)) {
			now += 5;
			waited += 5;
		}
		ck_assert_uint_ge(waited, wait);
		wait = waited;
		op = modify(now, s, 1);
		sequence = expect_recall(t, 1);
		acknowledge(now, t, sequence);
		expect_run(op);
		finish(now, op);
	}
	ck_assert_uint_ge(wait, 20);
	/* A strict read is exempt. */
	ck_assert(!grant(now, t, 1));
	expect_run(read_strict(now, t, 1));
	ck_assert(grant_op(now, t, 1, op_last));
	finish(now, op_last);
}
END_TEST

START_TEST(a_recall_now_and_then_costs_no_leases)
{
	struct session_id s = open_session(0, 1), t = open_session(0, 2);

	for (uint64_t now = 1; now < 8000; now += 2000) {
		uint64_t op, sequence;

		ck_assert(grant(now, t, 1));
		op = modify(now, s, 1);
		sequence = expect_recall(t, 1);
		acknowledge(now, t, sequence);
		expect_run(op);
		finish(now, op);
	}
}
END_TEST

/* ---- sessions ---- */

START_TEST(a_keepalive_renews_the_session_and_comes_too_late_at_its_very_end)
{
	struct session_id s = open_session(0, 1);
	uint64_t sequence;

	ck_assert_uint_eq(authority_keepalive(a, at_ms(10099), s, &out, &sequence), STATUS_OK);
	ck_assert(authority_session_alive(a, at_ms(20198), s));
	ck_assert(!authority_session_alive(a, at_ms(20199), s));
	ck_assert_uint_eq(authority_keepalive(a, at_ms(20199), s, &out, &sequence),
			  STATUS_NOSESSION);
	expect_ended(s);
}
END_TEST

START_TEST(drift_and_margin_are_added_to_the_term)
{
	struct authority_config config = config_default;
	struct session_id s;

	tear_down();
	config.drift_ppm = 1000;
	create(&config, NULL, 0, false);
	s = open_session(0, 1);
	ck_assert(authority_session_alive(a, at_ms(10109), s));
	ck_assert(!authority_session_alive(a, at_ms(10110), s));
}
END_TEST

START_TEST(a_session_whose_recall_is_overdue_is_not_renewed)
{
	struct session_id s = open_session(0, 1), t = open_session(0, 2);
	uint64_t sequence, op;

	ck_assert(grant(1, t, 1));
	ck_assert_uint_eq(authority_keepalive(a, at_ms(1000), s, &out, &sequence), STATUS_OK);
	op = modify(1000, s, 1);
	expect_recall(t, 1);
	ck_assert_uint_eq(authority_keepalive(a, at_ms(2000), t, &out, &sequence), STATUS_OK);
	ck_assert_uint_eq(authority_keepalive(a, at_ms(5000), t, &out, &sequence), STATUS_BUSY);
	ck_assert_uint_eq(authority_keepalive(a, at_ms(9000), s, &out, &sequence), STATUS_OK);
	tick(12100);
	expect_ended(t);
	expect_run(op);
}
END_TEST

START_TEST(a_repeated_open_is_answered_with_the_same_session_and_ends_nothing)
{
	struct session_id s = open_session(0, 1), u;

	ck_assert(grant(1, s, 1));
	ck_assert_uint_eq(open_session(5, 1).value, s.value);
	expect_nothing();
	ck_assert(holds(s, 1));
	u = open_as(6, 1, s);
	ck_assert_uint_ne(u.value, s.value);
	expect_ended(s);
	/* A duplicate of the first open arrives late: the session in use is not touched. */
	ck_assert_uint_ne(open_session(7, 1).value, u.value);
	expect_nothing();
	ck_assert(authority_session_alive(a, at_ms(8), u));
}
END_TEST

START_TEST(nobody_ends_the_session_of_another_host)
{
	struct session_id s = open_session(0, 1);

	(void)open_as(1, 2, s);
	expect_nothing();
	ck_assert(authority_session_alive(a, at_ms(2), s));
}
END_TEST

START_TEST(a_session_that_ends_refuses_what_it_queued_and_stops_what_runs)
{
	struct session_id s = open_session(0, 1), t = open_session(0, 2);
	uint64_t running = modify(1, s, 1), queued = modify(1, s, 1), next = modify(1, t, 1);

	expect_run(running);
	ck_assert(authority_may_apply(a, at_ms(2), running));
	authority_session_close(a, at_ms(2), s, &out);
	expect_ended(s);
	expect_refuse(queued, STATUS_NOSESSION);
	expect_nothing();
	ck_assert(!authority_may_apply(a, at_ms(2), running));
	authority_finish(a, at_ms(3), running, true, &out);
	expect_run(next);
}
END_TEST

START_TEST(ended_sessions_are_forgotten_at_their_bound_oldest_first)
{
	struct session_id first = open_session(0, 1), s = first;

	for (int i = 0; i < 3; i++)
		s = open_as(1, 1, s);
	ck_assert_uint_eq(expect(AUTHORITY_SESSION_ENDED)->session.value, first.value);
	expect(AUTHORITY_SESSION_ENDED);
	expect(AUTHORITY_SESSION_ENDED);
	ck_assert_uint_eq(expect(AUTHORITY_SESSION_FORGOTTEN)->session.value, first.value);
	expect_nothing();
}
END_TEST

/* ---- at most once ---- */

START_TEST(a_repetition_of_what_is_done_is_replayed)
{
	struct session_id s = open_session(0, 1);
	uint64_t op = modify_in_slot(1, s, 1, 2, 1), again;
	struct authority_action *action;

	expect_run(op);
	finish(2, op);
	again = modify_in_slot(3, s, 1, 2, 1);
	action = expect(AUTHORITY_REPLAY);
	ck_assert_uint_eq(action->op, again);
	ck_assert_uint_eq(action->slot, 2);
	expect_run(modify_in_slot(4, s, 1, 2, 2));
}
END_TEST

START_TEST(a_repetition_of_what_is_under_way_joins_it)
{
	struct session_id s = open_session(0, 1);
	uint64_t op = modify_in_slot(1, s, 1, 0, 1), again;
	struct authority_action *action;

	expect_run(op);
	again = modify_in_slot(2, s, 1, 0, 1);
	action = expect(AUTHORITY_JOIN);
	ck_assert_uint_eq(action->op, again);
	ck_assert_uint_eq(action->other, op);
	expect_nothing();
}
END_TEST

START_TEST(an_older_request_than_the_slots_last_is_superseded)
{
	struct session_id s = open_session(0, 1);
	uint64_t op = modify_in_slot(1, s, 1, 0, 5);

	expect_run(op);
	finish(2, op);
	expect_refuse(modify_in_slot(3, s, 1, 0, 4), STATUS_SUPERSEDED);
	expect_refuse(modify_in_slot(3, s, 1, 9, 1), STATUS_BADMESSAGE);
}
END_TEST

START_TEST(a_newer_request_in_the_slot_stops_the_one_under_way)
{
	struct session_id s = open_session(0, 1);
	uint64_t running = modify_in_slot(1, s, 1, 0, 1);
	uint64_t queued = modify_in_slot(1, s, 1, 1, 1), newer;

	expect_run(running);
	newer = modify_in_slot(2, s, 1, 1, 2);
	expect_refuse(queued, STATUS_SUPERSEDED);
	expect_run(modify_in_slot(2, s, 2, 0, 2));
	ck_assert(!authority_may_apply(a, at_ms(3), running));
	authority_finish(a, at_ms(3), running, true, &out);
	expect_run(newer);
	expect_refuse(modify_in_slot(4, s, 1, 0, 1), STATUS_SUPERSEDED);
}
END_TEST

START_TEST(what_was_refused_once_never_runs)
{
	struct session_id s = open_session(0, 1);
	struct authority_op late;
	uint64_t running = modify(1, s, 1);

	expect_run(running);
	late = modification(s, 1);
	late.sequence = 1;
	late.deadline = at_ms(10);
	begin(2, &late);
	tick(10);
	expect_refuse(late.id, STATUS_DEADLINE);
	finish(11, running);
	expect_refuse(modify_in_slot(12, s, 1, 0, 1), STATUS_DEADLINE);
	expect_run(modify_in_slot(12, s, 1, 0, 2));
}
END_TEST

START_TEST(a_retry_leaves_no_trace_in_the_slot)
{
	struct session_id s = open_session(0, 1);
	uint64_t op = modify_in_slot(1, s, 1, 0, 1);

	expect_run(op);
	authority_finish(a, at_ms(2), op, true, &out);
	expect_run(modify_in_slot(3, s, 1, 0, 1));
}
END_TEST

START_TEST(an_ended_session_replays_what_was_done_and_executes_nothing)
{
	struct session_id s = open_session(0, 1), never = { 12345 };
	uint64_t op = modify_in_slot(1, s, 1, 0, 1), read;

	expect_run(op);
	finish(2, op);
	authority_session_close(a, at_ms(2), s, &out);
	expect_ended(s);
	modify_in_slot(3, s, 1, 0, 1);
	expect(AUTHORITY_REPLAY);
	expect_refuse(modify_in_slot(3, s, 1, 0, 2), STATUS_NOSESSION);
	expect_refuse(modify_in_slot(3, never, 1, 0, 1), STATUS_UNKNOWNOUTCOME);
	read = read_strict(3, never, 1);
	expect_refuse(read, STATUS_NOSESSION);
}
END_TEST

/* ---- opens ---- */

START_TEST(the_last_close_of_all_hosts_says_that_the_inode_is_unused)
{
	struct session_id s = open_session(0, 1), t = open_session(0, 2);
	struct handle handle = handle_of(1);

	ck_assert_uint_eq(authority_open(a, s, &handle), STATUS_OK);
	ck_assert_uint_eq(authority_open(a, s, &handle), STATUS_OK);
	ck_assert_uint_eq(authority_open(a, t, &handle), STATUS_OK);
	authority_close(a, at_ms(1), s, 0, &handle, &out);
	authority_close(a, at_ms(1), s, 0, &handle, &out);
	expect_nothing();
	ck_assert(authority_is_open(a, &handle));
	authority_session_close(a, at_ms(2), t, &out);
	expect_ended(t);
	ck_assert(handle_equal(&expect(AUTHORITY_UNUSED)->handle, &handle));
	ck_assert(!authority_is_open(a, &handle));
}
END_TEST

static bool close_number(struct session_id session, uint64_t number)
{
	struct handle handle = handle_of(1);
	bool was_open;

	ck_assert_uint_eq(authority_open(a, session, &handle), STATUS_OK);
	authority_close(a, at_ms(1), session, number, &handle, &out);
	was_open = !authority_is_open(a, &handle);
	authority_close(a, at_ms(1), session, 0, &handle, &out);
	out.count = 0;
	return was_open;
}

START_TEST(a_close_that_comes_again_undoes_no_later_open)
{
	struct session_id s = open_session(0, 1), t = open_session(0, 2);

	ck_assert(close_number(s, 2));
	ck_assert(!close_number(s, 2));
	ck_assert(close_number(s, 1)); /* late, and for the first time */
	ck_assert(!close_number(s, 1));
	ck_assert(close_number(t, 1)); /* numbers are a session's own */
	ck_assert(close_number(s, 4097));
	ck_assert(!close_number(s, 1)); /* too old to tell */
	ck_assert(close_number(s, 4));
	ck_assert(!close_number(s, 2));
	ck_assert(close_number(s, 100000));
	ck_assert(!close_number(s, 4098));
	ck_assert(close_number(s, 100000 - 4095));
	ck_assert(!close_number(s, 100000 - 4095));
	ck_assert(close_number(s, 100000 - 4094));
}
END_TEST

START_TEST(an_acknowledgement_can_register_an_open)
{
	struct session_id s = open_session(0, 1), t = open_session(0, 2);
	struct handle handle = handle_of(1);
	uint64_t op;

	ck_assert(grant(1, t, 1));
	op = modify(2, s, 1);
	expect_recall(t, 1);
	ck_assert_uint_eq(authority_acknowledge(a, at_ms(3), t, 1, true, false, &out), STATUS_OK);
	expect_run(op);
	ck_assert(authority_is_open(a, &handle));
	finish(4, op);
	authority_close(a, at_ms(5), t, 0, &handle, &out);
	expect(AUTHORITY_UNUSED);
}
END_TEST

/* ---- bounds ---- */

START_TEST(each_bound_pushes_back)
{
	struct session_id s = open_session(0, 1), extra;
	uint8_t host[16] = { 9 };
	uint32_t slots;
	bool reclaim;

	for (uint8_t i = 2; i <= 4; i++)
		open_session(0, i);
	ck_assert_uint_eq(authority_session_open(a, at_ms(0), host, 9, (struct session_id){ 0 }, 4,
						 &out, &extra, &slots, &reclaim),
			  STATUS_PUSHBACK);
	for (uint8_t i = 1; i <= 3; i++) {
		struct handle handle = handle_of(i);

		ck_assert_uint_eq(authority_open(a, s, &handle), STATUS_OK);
	}
	ck_assert_uint_eq(authority_open(a, s, &(struct handle){ .length = 1 }), STATUS_PUSHBACK);
	for (int i = 0; i < 8; i++)
		modify(1, s, 1);
	expect(AUTHORITY_RUN);
	expect_nothing();
	expect_refuse(modify_in_slot(1, s, 2, 0, 1), STATUS_PUSHBACK);
	finish(2, 1);
	expect(AUTHORITY_RUN);
	/* Pushed back before it took its slot: the same number may come again. */
	expect_run(modify_in_slot(3, s, 2, 0, 1));
}
END_TEST

START_TEST(all_sessions_together_hold_no_more_than_the_total)
{
	for (uint8_t host = 1; host <= 4; host++) {
		struct session_id s = open_session(0, host);

		for (uint8_t i = 1; i <= 4; i++)
			ck_assert_int_eq(grant(1, s, i), host <= 3);
	}
}
END_TEST

/* ---- grace ---- */

static const struct authority_previous previous_two[2] = {
	{ { 501 }, { 1 } },
	{ { 502 }, { 2 } },
};

static void restart(bool unknown)
{
	tear_down();
	create(&config_default, previous_two, unknown ? 0 : 2, unknown);
}

START_TEST(after_a_restart_modifications_wait_until_everyone_has_reclaimed)
{
	struct session_id s, t;
	struct handle handle = handle_of(1);
	uint64_t op;

	restart(false);
	s = open_as(1, 1, previous_two[0].session);
	expect_ended(previous_two[0].session);
	op = modify(2, s, 2);
	ck_assert(!grant(2, s, 1));
	ck_assert(authority_reclaim(a, at_ms(3), s, &handle, LEASE_READ, false, &out));
	ck_assert(grant(3, s, 1));
	authority_reclaim_done(a, at_ms(4), (struct session_id){ 999 }, &out);
	authority_reclaim_done(a, at_ms(4), s, &out);
	authority_reclaim_done(a, at_ms(4), s, &out);
	expect_nothing();
	ck_assert_uint_gt(authority_grace(a, at_ms(4)).ns, 0);
	t = open_as(5, 2, previous_two[1].session);
	expect_ended(previous_two[1].session);
	authority_reclaim_done(a, at_ms(6), t, &out);
	expect(AUTHORITY_GRACE_ENDED);
	expect_run(op);
	ck_assert_uint_eq(authority_grace(a, at_ms(6)).ns, 0);
}
END_TEST

/* Whose locks are not reclaimed in grace ends with it: its host must not answer from a cache then. */
START_TEST(a_session_that_owes_claims_of_locks_gets_no_lease)
{
	struct handle handle = handle_of(1);
	struct session_id s;

	restart(false);
	s = open_as(1, 1, previous_two[0].session);
	expect_ended(previous_two[0].session);
	ck_assert(authority_locks_expected(a, s));
	ck_assert(!authority_reclaim(a, at_ms(2), s, &handle, LEASE_READ, false, &out));
	ck_assert(!authority_holds(a, s, &handle));
	authority_locks_reclaimed(a, s);
	ck_assert(authority_reclaim(a, at_ms(3), s, &handle, LEASE_READ, false, &out));
}
END_TEST

START_TEST(grace_ends_when_the_longest_promise_is_over)
{
	struct session_id s;
	uint64_t op;

	restart(false);
	s = open_session(1, 3);
	op = modify(2, s, 1);
	expect_nothing();
	ck_assert_uint_eq(authority_timer(a).ns, at_ms(10000).ns);
	tick(10000);
	expect_ended(previous_two[0].session);
	expect_ended(previous_two[1].session);
	expect(AUTHORITY_GRACE_ENDED);
	expect_run(op);
}
END_TEST

START_TEST(without_a_readable_record_grace_lasts_to_its_end)
{
	struct session_id s;

	restart(true);
	s = open_as(1, 1, previous_two[0].session);
	authority_reclaim_done(a, at_ms(2), s, &out);
	expect_nothing();
	tick(10000);
	expect(AUTHORITY_GRACE_ENDED);
}
END_TEST

START_TEST(a_host_that_reopens_in_grace_still_owes_its_last_word)
{
	struct session_id s, t;

	restart(false);
	t = open_as(1, 2, previous_two[1].session);
	authority_reclaim_done(a, at_ms(1), t, &out);
	s = open_as(1, 1, previous_two[0].session);
	s = open_as(2, 1, s);
	for (int i = 0; i < 3; i++)
		expect(AUTHORITY_SESSION_ENDED);
	expect_nothing();
	authority_reclaim_done(a, at_ms(3), s, &out);
	expect(AUTHORITY_GRACE_ENDED);
}
END_TEST

/* Slots 0 and 1 of a session of the previous run, in which 7 and nothing were executed. */
static void restore(uint64_t session, uint8_t host, int result)
{
	static const uint64_t sequences[2] = { 7, 0 };
	uint8_t name[16] = { host };

	ck_assert_int_eq(authority_session_restore(a, at_ms(0), (struct session_id){ session },
						   name, sequences, 2, &out), result);
	authority_check_invariants(a);
}

static struct authority_op repetition(uint64_t session, uint32_t slot, uint64_t sequence)
{
	struct authority_op op = modification((struct session_id){ session }, 1);

	op.slot = slot;
	op.sequence = sequence;
	return op;
}

START_TEST(what_an_earlier_process_did_is_replayed_and_the_rest_never_runs)
{
	struct authority_op op;

	restart(false);
	restore(501, 1, 0);
	restore(501, 1, -EEXIST);
	op = repetition(501, 0, 7);
	begin(1, &op);
	expect(AUTHORITY_REPLAY);
	op = repetition(501, 0, 8);
	begin(1, &op);
	expect_refuse(op.id, STATUS_NOSESSION);
	op = repetition(501, 0, 6);
	begin(1, &op);
	expect_refuse(op.id, STATUS_SUPERSEDED);
	op = repetition(501, 1, 1);
	begin(1, &op);
	expect_refuse(op.id, STATUS_NOSESSION);
	op = repetition(502, 0, 1);
	begin(1, &op);
	expect_refuse(op.id, STATUS_UNKNOWNOUTCOME);
	/* Named by its host's next session, it is not ended a second time. */
	(void)open_as(2, 1, previous_two[0].session);
	expect_ended(previous_two[0].session);
	expect_nothing();
	op = repetition(501, 0, 7);
	begin(3, &op);
	expect(AUTHORITY_REPLAY);
}
END_TEST

START_TEST(restored_sessions_are_forgotten_at_their_bound_oldest_first)
{
	struct authority_op op;

	restart(false);
	restore(501, 1, 0);
	restore(502, 2, 0);
	expect_nothing();
	restore(503, 3, 0);
	ck_assert_uint_eq(expect(AUTHORITY_SESSION_FORGOTTEN)->session.value, 501);
	op = repetition(501, 0, 7);
	begin(1, &op);
	expect_refuse(op.id, STATUS_UNKNOWNOUTCOME);
	op = repetition(503, 0, 7);
	begin(1, &op);
	expect(AUTHORITY_REPLAY);
}
END_TEST

/* ---- memory ---- */

/* Runs a whole life with the n-th and all later allocations failing, for a while. */
static void life_without_memory(long n)
{
	uint8_t host[16] = { 1 };
	struct handle handle = handle_of(1);
	struct session_id s = { 0 }, t = open_session(0, 2);
	uint64_t sequence, run = 0, recalled = 0;
	struct authority_op op;
	uint32_t slots;
	bool reclaim;

	ck_assert(grant(1, t, 1));
	memory.fail_after = n;
	(void)authority_session_open(a, at_ms(1), host, 1, (struct session_id){ 0 }, 4, &out, &s,
				     &slots, &reclaim);
	(void)authority_grant(a, at_ms(2), s, &handle, 0, &out, &sequence);
	(void)authority_open(a, s, &handle);
	op = modification((struct session_id){ 0 }, 1);
	op.targets[0].scope = RECALL_NAMES;
	op.targets[0].name_count = 1;
	op.targets[0].names[0] = slice_of("n");
	if (authority_begin(a, at_ms(3), &op, &out))
		run = 1; /* refused for want of memory, and nothing was done */
	authority_check_invariants(a);
	(void)authority_acknowledge(a, at_ms(4), t, 1, true, false, &out);
	authority_check_invariants(a);
	(void)authority_session_close(a, at_ms(5), t, &out);
	authority_check_invariants(a);
	memory.fail_after = -1;
	(void)authority_session_close(a, at_ms(5), s, &out);
	tick(6);
	/* Nothing that had to leave was lost. */
	for (size_t i = 0; i < out.count; i++) {
		recalled += out.items[i].kind == AUTHORITY_SESSION_ENDED &&
			    out.items[i].session.value == t.value;
		run += out.items[i].kind == AUTHORITY_RUN && out.items[i].op == op.id;
	}
	ck_assert_uint_eq(run, 1);
	ck_assert_uint_eq(recalled, 1);
	out.count = 0;
}

START_TEST(a_failed_allocation_changes_nothing_and_loses_nothing)
{
	for (long n = 0; n < 40; n++) {
		life_without_memory(n);
		tear_down();
		set_up();
	}
}
END_TEST

START_TEST(what_a_name_leads_to_is_recalled_from_the_originator_as_well)
{
	struct session_id s = open_session(0, 1);
	struct authority_op op = modification(s, 1);

	ck_assert(grant(1, s, 1));
	ck_assert(grant(1, s, 2));
	op.targets[0].scope = RECALL_NAMES;
	op.targets[0].name_count = 1;
	op.targets[0].names[0] = slice_of("x");
	op.target_count = 2;
	op.targets[1].handle = handle_of(2);
	begin(2, &op);
	expect_recall(s, 2);
	expect_nothing();
	acknowledge(3, s, 1);
	expect_run(op.id);
	ck_assert(holds(s, 1));
}
END_TEST

START_TEST(a_repeated_open_does_not_renew_a_session_whose_recall_is_overdue)
{
	struct session_id s = open_session(0, 1), t = open_session(0, 2), again;
	uint8_t host[16] = { 2 };
	uint32_t slots;
	bool reclaim;

	ck_assert(grant(1, t, 1));
	modify(2, s, 1);
	expect_recall(t, 1);
	ck_assert_uint_eq(authority_session_open(a, at_ms(5000), host, 2, (struct session_id){ 0 },
						 4, &out, &again, &slots, &reclaim),
			  STATUS_PUSHBACK);
	tick(10100);
	ck_assert(!authority_session_alive(a, at_ms(10100), t));
}
END_TEST

static TCase *authority_case(void)
{
	TCase *tcase = tcase_create("authority");

	tcase_add_checked_fixture(tcase, set_up, tear_down);
	tcase_add_test(tcase, a_modification_of_what_nobody_holds_runs_at_once);
	tcase_add_test(tcase, a_modification_waits_for_the_acknowledgement);
	tcase_add_test(tcase, the_originators_own_lease_stays);
	tcase_add_test(tcase, a_dead_host_delays_a_modification_until_its_session_ends_and_no_longer);
	tcase_add_test(tcase, an_acknowledgement_that_is_repeated_or_late_changes_nothing);
	tcase_add_test(tcase, recalls_that_are_not_acknowledged_come_again_on_a_new_stream);
	tcase_add_test(tcase, a_second_modification_of_the_inode_waits_for_the_first);
	tcase_add_test(tcase, an_operation_on_four_inodes_drains_all_at_once_and_runs_once);
	tcase_add_test(tcase, operations_in_opposite_order_do_not_wait_for_each_other);
	tcase_add_test(tcase, nothing_is_granted_while_a_modification_drains_or_runs);
	tcase_add_test(tcase, an_answer_states_the_sequence_of_recalls_before_its_own_grant);
	tcase_add_test(tcase, what_was_granted_longest_ago_is_given_up_first);
	tcase_add_test(tcase, a_strict_read_waits_behind_a_pending_modification_and_is_granted);
	tcase_add_test(tcase, a_strict_read_under_an_unacknowledged_lease_runs_at_once_without_a_grant);
	tcase_add_test(tcase,
		       a_strict_read_does_not_wait_behind_what_its_sessions_new_lease_holds_up);
	tcase_add_test(tcase, strict_reads_do_not_wait_for_each_other);
	tcase_add_test(tcase, what_must_queue_recalls_at_once_what_it_will_wait_for);
	tcase_add_test(tcase, a_cancelled_strict_read_is_forgotten_and_a_cancelled_modification_is_not);
	tcase_add_test(tcase, a_recall_of_names_can_leave_the_lease);
	tcase_add_test(tcase, a_directory_that_changes_all_the_time_is_recalled_as_a_whole);
	tcase_add_test(tcase, a_release_is_answered_by_a_recall);
	tcase_add_test(tcase, a_release_under_a_draining_operation_needs_no_second_recall);
	tcase_add_test(tcase, a_lease_released_while_its_names_are_recalled_goes_when_that_is_acknowledged);
	tcase_add_test(tcase, a_refused_operation_leaves_its_recall_and_the_next_one_waits_for_it);
	tcase_add_test(tcase, a_recall_of_everything_takes_the_place_of_one_of_names);
	tcase_add_test(tcase, an_inode_that_is_recalled_again_and_again_gets_no_leases_for_a_while);
	tcase_add_test(tcase, a_recall_now_and_then_costs_no_leases);
	tcase_add_test(tcase, a_keepalive_renews_the_session_and_comes_too_late_at_its_very_end);
	tcase_add_test(tcase, drift_and_margin_are_added_to_the_term);
	tcase_add_test(tcase, a_session_whose_recall_is_overdue_is_not_renewed);
	tcase_add_test(tcase, a_repeated_open_is_answered_with_the_same_session_and_ends_nothing);
	tcase_add_test(tcase, nobody_ends_the_session_of_another_host);
	tcase_add_test(tcase, a_session_that_ends_refuses_what_it_queued_and_stops_what_runs);
	tcase_add_test(tcase, ended_sessions_are_forgotten_at_their_bound_oldest_first);
	tcase_add_test(tcase, a_repetition_of_what_is_done_is_replayed);
	tcase_add_test(tcase, a_repetition_of_what_is_under_way_joins_it);
	tcase_add_test(tcase, an_older_request_than_the_slots_last_is_superseded);
	tcase_add_test(tcase, a_newer_request_in_the_slot_stops_the_one_under_way);
	tcase_add_test(tcase, what_was_refused_once_never_runs);
	tcase_add_test(tcase, a_retry_leaves_no_trace_in_the_slot);
	tcase_add_test(tcase, an_ended_session_replays_what_was_done_and_executes_nothing);
	tcase_add_test(tcase, the_last_close_of_all_hosts_says_that_the_inode_is_unused);
	tcase_add_test(tcase, a_close_that_comes_again_undoes_no_later_open);
	tcase_add_test(tcase, an_acknowledgement_can_register_an_open);
	tcase_add_test(tcase, each_bound_pushes_back);
	tcase_add_test(tcase, all_sessions_together_hold_no_more_than_the_total);
	tcase_add_test(tcase, after_a_restart_modifications_wait_until_everyone_has_reclaimed);
	tcase_add_test(tcase, a_session_that_owes_claims_of_locks_gets_no_lease);
	tcase_add_test(tcase, grace_ends_when_the_longest_promise_is_over);
	tcase_add_test(tcase, without_a_readable_record_grace_lasts_to_its_end);
	tcase_add_test(tcase, a_host_that_reopens_in_grace_still_owes_its_last_word);
	tcase_add_test(tcase, what_an_earlier_process_did_is_replayed_and_the_rest_never_runs);
	tcase_add_test(tcase, restored_sessions_are_forgotten_at_their_bound_oldest_first);
	tcase_add_test(tcase, a_failed_allocation_changes_nothing_and_loses_nothing);
	tcase_add_test(tcase, what_a_name_leads_to_is_recalled_from_the_originator_as_well);
	tcase_add_test(tcase, a_repeated_open_does_not_renew_a_session_whose_recall_is_overdue);
	return tcase;
}

UNIT_MAIN("authority", authority_case)
