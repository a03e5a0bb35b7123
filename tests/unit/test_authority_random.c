/*
 * Random lives of an authority, in which every third allocation may fail. What is checked: its
 * invariants after every call, that each operation gets exactly one outcome, and that nothing is
 * left when everybody has gone. Whether leases are coherent is the simulator's to check.
 */
#include "lease_unit.h"
#include "unit.h"

#include "lease/authority.h"
#include "lease/base/rng.h"
#include "lease/status.h"

#define STEPS 20000
#define OPERATIONS_MAX (STEPS + 1)
#define SESSIONS_MAX 6
#define INODES 5

static const struct authority_config config = {
	.term = { 10 * NS_PER_S },
	.drift_ppm = 1000,
	.margin = { 100 * NS_PER_MS },
	.session_count_max = 5,
	.slot_count_max = 3,
	.lease_count_max = 3,
	.lease_total_max = 10,
	.operation_count_max = 12,
	.open_count_max = 2,
	.ended_count_max = 2,
	.backoff_min = { 10 * NS_PER_MS },
	.backoff_max = { 1000 * NS_PER_MS },
	.epoch = 1,
	.seed = 1,
};

enum fate { UNKNOWN, BEGUN, RUNNING, OVER };

static struct test_memory memory;
static struct rng rng;
static uint64_t fail_one_in; /* 0: none fails */

static void *resize(void *context, void *pointer, size_t old_size, size_t size)
{
	if (size && fail_one_in && rng_below(&rng, fail_one_in) == 0)
		return NULL;
	return test_resize(context, pointer, old_size, size);
}

static struct allocator allocator = { resize, &memory };
static struct authority *a;
static struct authority_actions out;
static struct instant now;
static struct session_id sessions[SESSIONS_MAX];
static uint64_t acknowledge_max;
static uint8_t fates[OPERATIONS_MAX];
static uint64_t op_last;
static uint64_t running[64];
static size_t running_count;

static void perform(void)
{
	for (size_t i = 0; i < out.count; i++) {
		const struct authority_action *action = &out.items[i];

		switch (action->kind) {
		case AUTHORITY_RUN:
			ck_assert_int_eq(fates[action->op], BEGUN);
			fates[action->op] = RUNNING;
			ck_assert_uint_lt(running_count, 64);
			running[running_count++] = action->op;
			break;
		case AUTHORITY_REFUSE:
		case AUTHORITY_REPLAY:
		case AUTHORITY_JOIN:
			ck_assert_int_eq(fates[action->op], BEGUN);
			fates[action->op] = OVER;
			break;
		case AUTHORITY_SEND_RECALL:
			if (action->recall_sequence > acknowledge_max)
				acknowledge_max = action->recall_sequence;
			break;
		default:
			break;
		}
	}
	out.count = 0;
	authority_check_invariants(a);
}

static struct session_id any_session(void)
{
	return sessions[rng_below(&rng, SESSIONS_MAX)];
}

static struct handle any_handle(void)
{
	return handle_of((uint8_t)rng_below(&rng, INODES));
}

static void open_any(void)
{
	size_t at = (size_t)rng_below(&rng, SESSIONS_MAX);
	uint8_t host[16] = { (uint8_t)at };
	struct session_id id;
	uint32_t slots;
	bool reclaim;

	if (authority_session_open(a, now, host, 1, sessions[at], 3, &out, &id, &slots,
				   &reclaim) == STATUS_OK)
		sessions[at] = id;
}

static void begin_any(void)
{
	struct authority_op op = {
		.id = ++op_last,
		.kind = rng_below(&rng, 3) ? AUTHORITY_MODIFY : AUTHORITY_READ_STRICT,
		.session = any_session(),
		.slot = (uint32_t)rng_below(&rng, 4),
		.sequence = rng_below(&rng, 2) ? op_last / 50 : 0,
		.deadline = { rng_below(&rng, 3) ? UINT64_MAX : now.ns + 50 * NS_PER_MS },
		.target_count = 1,
	};
	uint8_t first = (uint8_t)rng_below(&rng, INODES);

	if (op.kind == AUTHORITY_MODIFY)
		op.target_count += (uint32_t)rng_below(&rng, AUTHORITY_TARGETS_MAX);
	for (uint8_t i = 0; i < op.target_count; i++) {
		op.targets[i].handle = handle_of((uint8_t)((first + i) % INODES));
		if (op.kind == AUTHORITY_MODIFY && rng_below(&rng, 2)) {
			op.targets[i].scope = RECALL_NAMES;
			op.targets[i].name_count = 1;
			op.targets[i].names[0] = slice_of("name");
		}
	}
	fates[op.id] = BEGUN;
	if (authority_begin(a, now, &op, &out))
		fates[op.id] = OVER;
}

static void finish_any(void)
{
	size_t at = (size_t)rng_below(&rng, running_count);
	uint64_t op = running[at];
	uint64_t sequence;
	struct handle handle = any_handle();

	(void)authority_may_apply(a, now, op);
	(void)authority_grant(a, now, any_session(), &handle, op, &out, &sequence);
	running[at] = running[--running_count];
	fates[op] = OVER;
	authority_finish(a, now, op, rng_below(&rng, 4) == 0, &out);
}

static void step(void)
{
	struct session_id id = any_session();
	struct handle handle = any_handle();
	uint64_t sequence;

	switch (rng_below(&rng, 14)) {
	case 0:
		open_any();
		break;
	case 1:
		now.ns += rng_below(&rng, 900 * NS_PER_MS);
		authority_tick(a, now, &out);
		break;
	case 2:
		(void)authority_keepalive(a, now, id, &out, &sequence);
		break;
	case 3:
	case 4:
	case 5:
		(void)authority_grant(a, now, id, &handle, 0, &out, &sequence);
		break;
	case 6:
	case 7:
		for (uint64_t i = 0; i < 8 && i < acknowledge_max; i++)
			(void)authority_acknowledge(a, now, id, acknowledge_max - i,
						    rng_below(&rng, 4) == 0,
						    rng_below(&rng, 2) == 0, &out);
		break;
	case 8:
	case 9:
		begin_any();
		break;
	case 10:
		if (running_count)
			finish_any();
		break;
	case 11:
		authority_release(a, now, id, &handle, &out);
		authority_cancel(a, now, op_last ? 1 + rng_below(&rng, op_last) : 1, &out);
		break;
	case 12:
		(void)authority_open(a, id, &handle);
		(void)authority_reclaim(a, now, id, &handle, LEASE_READ, rng_below(&rng, 2) == 0, &out);
		break;
	case 13:
		authority_close(a, now, id, 0, &handle, &out);
		if (rng_below(&rng, 20) == 0)
			(void)authority_session_close(a, now, id, &out);
		else
			(void)authority_stream_attached(a, now, id, &out);
		break;
	}
}

/* Everyone goes, memory is back: what was begun is over, and nothing is held. */
static void wind_up(void)
{
	struct authority_counters counters;

	fail_one_in = 0;
	now.ns += 100 * NS_PER_S;
	authority_tick(a, now, &out);
	perform();
	while (running_count) {
		finish_any();
		perform();
	}
	authority_counters(a, &counters);
	ck_assert_uint_eq(counters.sessions, 0);
	ck_assert_uint_eq(counters.leases, 0);
	ck_assert_uint_eq(counters.opens, 0);
	ck_assert_uint_eq(counters.operations, 0);
}

START_TEST(whatever_happens_the_invariants_hold_and_nothing_is_left)
{
	rng_init(&rng, (uint64_t)_i);
	memory = (struct test_memory){ .fail_after = -1 };
	now = at_ms(1);
	op_last = 0;
	running_count = 0;
	acknowledge_max = 0;
	fail_one_in = 0;
	memset(sessions, 0, sizeof(sessions));
	memset(fates, 0, sizeof(fates));
	authority_actions_init(&out, &allocator);
	ck_assert_int_eq(authority_create(&config, &allocator, now, NULL, 0, false,
					  (struct duration){ 0 }, &a), 0);
	for (int i = 0; i < STEPS; i++) {
		fail_one_in = _i % 2 && rng_below(&rng, 2) ? 3 : 0;
		step();
		/* The array is sometimes made anew, so that actions find no memory, too. */
		perform();
		if (rng_below(&rng, 4) == 0)
			authority_actions_finish(&out);
	}
	wind_up();
	authority_destroy(a);
	authority_actions_finish(&out);
	ck_assert_int_eq(memory.blocks, 0);
}
END_TEST

static TCase *authority_case(void)
{
	TCase *tcase = tcase_create("authority, random");

	tcase_add_loop_test(tcase, whatever_happens_the_invariants_hold_and_nothing_is_left, 0, 8);
	return tcase;
}

UNIT_MAIN("authority, random", authority_case)
