/*
 * Random lives of a holder, in which every third allocation may fail. What is checked: its
 * invariants after every call, that each recall of a session is acknowledged or asked for again,
 * that no lease stands outside the term, and that nothing is left. Coherence is the simulator's.
 */
#include "lease_unit.h"
#include "unit.h"

#include "lease/base/rng.h"
#include "lease/holder.h"
#include "lease/status.h"

#define STEPS 20000
#define INODES 6
#define REQUESTS 12
#define DROPS 64

static const struct holder_config config = {
	.fence_margin = { NS_PER_S },
	.lease_count_max = 4,
	.recall_window_max = 3,
	.retry_min_ms = 100,
	.retry_max_ms = 800,
};

static struct test_memory memory;
static struct rng rng;
static uint64_t fail_one_in;

static void *resize(void *context, void *pointer, size_t old_size, size_t size)
{
	if (size && fail_one_in && rng_below(&rng, fail_one_in) == 0)
		return NULL;
	return test_resize(context, pointer, old_size, size);
}

static struct allocator allocator = { resize, &memory };
static struct holder *h;
static struct holder_actions out;
static struct instant now;
static uint64_t requests[REQUESTS];
static uint64_t drops[DROPS]; /* HOLDER_DROP that left and was not performed */
static struct session_id drop_sessions[DROPS];
static size_t drop_count;
static uint64_t session_last;
static uint64_t recall_last;
static uint32_t modifying[INODES];
static bool opening;
static struct handle claimed;
static struct change claimed_change;

static void perform(void)
{
	for (size_t i = 0; i < out.count; i++) {
		const struct holder_action *action = &out.items[i];

		if (action->kind == HOLDER_DROP) {
			for (size_t d = 0; d < drop_count; d++)
				ck_assert(drops[d] != action->sequence ||
					  drop_sessions[d].value != action->session.value);
			ck_assert_uint_lt(drop_count, DROPS);
			drop_sessions[drop_count] = action->session;
			drops[drop_count++] = action->sequence;
		} else if (action->kind == HOLDER_DROP_ALL) {
			drop_count = 0;
		} else if (action->kind == HOLDER_SEND_SESSION_OPEN) {
			opening = true;
		} else if (action->kind == HOLDER_SEND_RECLAIM) {
			claimed = action->handle;
			claimed_change = action->change;
		} else if (action->kind == HOLDER_SEND_ACKNOWLEDGE) {
			ck_assert_uint_eq(action->session.value, holder_session(h).value);
		}
	}
	out.count = 0;
	holder_check_invariants(h);
}

static struct handle any_handle(void)
{
	return handle_of((uint8_t)rng_below(&rng, INODES));
}

static void open_any(void)
{
	struct message_session_opened answer = {
		.session = ++session_last, .epoch = 1, .term_ms = 9000, .drift_ppm = 1000,
		.reclaim = rng_below(&rng, 2) == 0,
	};

	if (!opening) {
		holder_connect(h, now, &out);
		return;
	}
	opening = false;
	recall_last = 0;
	if (rng_below(&rng, 4))
		holder_session_opened(h, now, now, &answer, &out);
	else
		holder_session_failed(h, now, &out);
}

static void recall_any(void)
{
	uint8_t bytes[16];
	struct writer w = writer_of(bytes, sizeof(bytes));
	struct item_name name = { .name = slice_of("name") };
	struct message_recall recall = { .sequence = 0 };
	bool again = recall_last && rng_below(&rng, 3) == 0;

	recall.sequence = again ? 1 + rng_below(&rng, recall_last) : ++recall_last;
	/* A repetition says what the recall said. */
	recall.handle = handle_of((uint8_t)(recall.sequence % INODES));
	recall.scope = recall.sequence % 3 ? RECALL_ALL : RECALL_NAMES;
	item_name_write(&w, &name);
	if (recall.scope == RECALL_NAMES)
		recall.names = (struct slice){ bytes, w.at };
	holder_recall(h, now, holder_session(h), &recall, &out);
}

static void answer_any(void)
{
	size_t at = (size_t)rng_below(&rng, REQUESTS);
	struct handle handle = any_handle();
	struct change change = { 1, rng_below(&rng, 3) };
	uint64_t sequence = rng_below(&rng, 2) ? recall_last : rng_below(&rng, recall_last + 1);

	if (!requests[at]) {
		requests[at] = holder_request_begin(h);
		return;
	}
	if (rng_below(&rng, 3) == 0)
		holder_reclaimed(h, now, holder_session(h), requests[at], sequence, &claimed,
				 claimed_change, rng_below(&rng, 2) == 0, &out);
	else if (holder_grant(h, now, requests[at], sequence, &handle, change, &out))
		ck_assert(holder_valid(h, now));
	holder_request_end(h, requests[at]);
	requests[at] = 0;
}

static void modify_any(void)
{
	size_t at = (size_t)rng_below(&rng, INODES);
	struct handle handle = handle_of((uint8_t)at);

	if (modifying[at] && rng_below(&rng, 2)) {
		modifying[at]--;
		(void)holder_modify_end(h, &handle, rng_below(&rng, 3) > 0,
					holder_change(h, &handle),
					(struct change){ 1, rng_below(&rng, 3) });
	} else if (holder_modify_begin(h, &handle) == 0) {
		modifying[at]++;
	}
}

static void step(void)
{
	struct message_kept_alive kept = {
		.status = STATUS_OK, .term_ms = 9000, .recall_sequence = recall_last,
	};
	struct session_id id = holder_session(h);
	struct handle handle = any_handle();

	switch (rng_below(&rng, 12)) {
	case 0:
		if (holder_state(h) != HOLDER_ACTIVE)
			open_any();
		break;
	case 1:
		now.ns += rng_below(&rng, 4000 * NS_PER_MS);
		holder_tick(h, now, &out);
		break;
	case 2:
		if (rng_below(&rng, 40) == 0)
			kept.status = rng_below(&rng, 2) ? STATUS_BUSY : STATUS_NOSESSION;
		holder_kept_alive(h, now, now, id, &kept, &out);
		break;
	case 3:
		if (rng_below(&rng, 3) == 0)
			recall_any();
		break;
	case 5:
	case 6:
		if (drop_count) {
			drop_count--;
			holder_dropped(h, now, drop_sessions[drop_count], drops[drop_count],
				       rng_below(&rng, 2) == 0, &out);
		}
		break;
	case 4:
	case 7:
	case 8:
		answer_any();
		break;
	case 9:
		modify_any();
		break;
	case 10:
		if (rng_below(&rng, 4))
			holder_stream_attached(h, now, id, &out);
		else
			holder_stream_lost(h, now, id, &out);
		break;
	case 11:
		if (rng_below(&rng, 4) == 0)
			holder_release(h, &handle, &out);
		if (rng_below(&rng, 100) == 0)
			holder_session_lost(h, now, id, &out);
		break;
	}
	ck_assert(!holder_lease(h, now, &handle) || holder_valid(h, now));
}

START_TEST(whatever_happens_the_invariants_hold_and_nothing_is_left)
{
	rng_init(&rng, (uint64_t)_i);
	memory = (struct test_memory){ .fail_after = -1 };
	now = at_ms(1);
	fail_one_in = 0;
	drop_count = 0;
	session_last = 0;
	recall_last = 0;
	opening = false;
	memset(requests, 0, sizeof(requests));
	memset(modifying, 0, sizeof(modifying));
	holder_actions_init(&out, &allocator);
	ck_assert_int_eq(holder_create(&config, &allocator, (uint64_t)_i, &h), 0);
	for (int i = 0; i < STEPS; i++) {
		fail_one_in = _i % 2 && rng_below(&rng, 2) ? 3 : 0;
		step();
		perform();
		if (rng_below(&rng, 4) == 0)
			holder_actions_finish(&out);
	}
	holder_destroy(h);
	holder_actions_finish(&out);
	ck_assert_int_eq(memory.blocks, 0);
}
END_TEST

static TCase *holder_case(void)
{
	TCase *tcase = tcase_create("holder, random");

	tcase_add_loop_test(tcase, whatever_happens_the_invariants_hold_and_nothing_is_left, 0, 8);
	return tcase;
}

UNIT_MAIN("holder, random", holder_case)
