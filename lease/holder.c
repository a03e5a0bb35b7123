#include "lease/holder_internal.h"

#include <assert.h>
#include <errno.h>

/* ---- actions ---- */

void holder_actions_init(struct holder_actions *actions, const struct allocator *allocator)
{
	memset(actions, 0, sizeof(*actions));
	actions->allocator = allocator;
}

void holder_actions_finish(struct holder_actions *actions)
{
	if (actions->items)
		actions->allocator->resize(actions->allocator->context, actions->items,
					   actions->capacity * sizeof(*actions->items), 0);
	actions->items = NULL;
	actions->count = 0;
	actions->capacity = 0;
}

/* The next action, zeroed; NULL when there is no memory for it. */
struct holder_action *holder_actions_add(struct holder_actions *out, enum holder_action_kind kind)
{
	void *items = out->items;
	struct holder_action *action = array_append(out->allocator, &items, &out->count,
						&out->capacity, sizeof(*action));

	if (!action)
		return NULL;
	out->items = items;
	action->kind = kind;
	return action;
}

/* One action without more to say than the session; true when it left, or was not wanted. */
static bool flush_want(struct holder *h, enum want want, enum holder_action_kind kind,
		       struct holder_actions *out)
{
	struct holder_action *action;

	if (!(h->wants & want))
		return true;
	action = holder_actions_add(out, kind);
	if (!action)
		return false;
	action->session = h->session;
	action->until = h->until;
#ifndef LEASE_WRONG_KEPT_TOO_LONG
	/* PROTOCOL.md 6.4: what is kept is not under this session yet. */
	if (h->kept_count && instant_before(h->kept_until, h->until))
		action->until = h->kept_until;
#endif
	h->wants &= ~(uint32_t)want;
	return true;
}

/* Turns what must leave into actions, in order. What finds no memory leaves with a later call. */
void holder_flush(struct holder *h, struct holder_actions *out)
{
	h->starved = !(flush_want(h, WANT_DROP_ALL, HOLDER_DROP_ALL, out) && lost_flush(h, out) &&
		       flush_want(h, WANT_SESSION_OPEN, HOLDER_SEND_SESSION_OPEN, out) &&
		       flush_want(h, WANT_RENEWED, HOLDER_RENEWED, out) &&
		       flush_want(h, WANT_STREAM, HOLDER_OPEN_STREAM, out) &&
		       flush_want(h, WANT_KEEPALIVE, HOLDER_SEND_KEEPALIVE, out) &&
		       window_flush(h, out) && candidates_flush(h, out));
	window_forget_borrowed(h);
}

/* ---- making ---- */

int holder_create(const struct holder_config *config, const struct allocator *allocator,
		  uint64_t seed, struct holder **ret_holder)
{
	struct holder *h = allocator->resize(allocator->context, NULL, 0, sizeof(*h));

	if (!h)
		return -ENOMEM;
	memset(h, 0, sizeof(*h));
	h->config = *config;
	h->allocator = allocator;
	h->lease_count_max = config->lease_count_max;
	rng_init(&h->rng, seed);
	map_init(&h->nodes, allocator, MAP_HANDLE, offsetof(struct node, handle_length),
		 rng_next(&h->rng));
	list_init(&h->leases);
	list_init(&h->candidates);
	list_init(&h->claimed);
	list_init(&h->kept);
	list_init(&h->kept_claimed);
	list_init(&h->lost);
	list_init(&h->given_up);
	if (window_create(h)) {
		allocator->resize(allocator->context, h, sizeof(*h), 0);
		return -ENOMEM;
	}
	*ret_holder = h;
	return 0;
}

void holder_destroy(struct holder *h)
{
	struct node *node;
	size_t cursor = 0;

	if (!h)
		return;
	while ((node = map_next(&h->nodes, &cursor)))
		node_free(h, node);
	map_finish(&h->nodes);
	window_destroy(h);
	h->allocator->resize(h->allocator->context, h, sizeof(*h), 0);
}

/* ---- time ---- */

/*
 * Doubling with every failure, up to the maximum, and drawn from its upper half: hosts that lost
 * the same origin must not come back in step.
 */
struct duration holder_backoff(struct holder *h, uint32_t failures)
{
	uint64_t ms = h->config.retry_min_ms;

	for (uint32_t i = 0; i < failures && ms < h->config.retry_max_ms; i++)
		ms *= 2;
	if (ms > h->config.retry_max_ms)
		ms = h->config.retry_max_ms;
	return (struct duration){ ms * NS_PER_MS / 2 +
				  rng_below(&h->rng, ms * NS_PER_MS / 2 + 1) };
}

/* Every call that is told the time comes through here: what is over by time is over first. */
void holder_advance(struct holder *h, struct instant now)
{
	if (instant_before(h->now, now))
		h->now = now;
	session_advance(h);
}

void holder_tick(struct holder *h, struct instant now, struct holder_actions *out)
{
	holder_advance(h, now);
	holder_flush(h, out);
}

static struct instant earlier(struct instant a, struct instant b)
{
	return instant_before(b, a) ? b : a;
}

struct instant holder_timer(const struct holder *h)
{
	struct instant timer = { UINT64_MAX };

	if (h->state == HOLDER_NONE && h->connecting)
		timer = h->open_at;
	if (h->state == HOLDER_ACTIVE) {
		timer = earlier(h->until, h->keepalive_at);
		if (h->stream == STREAM_WAITING)
			timer = earlier(timer, h->stream_at);
	}
#ifndef LEASE_WRONG_KEPT_TOO_LONG
	if (h->kept_count)
		timer = earlier(timer, h->kept_until);
#endif
	/* Claims leave in batches: the next one at once. */
	if (h->starved)
		timer = earlier(timer, instant_add(h->now, duration_ms(STARVED_RETRY_MS)));
	else if ((h->wants & WANT_RECLAIM) && candidates_wait(h))
		timer = earlier(timer, h->now);
	return timer;
}

/* ---- looking ---- */

enum holder_state holder_state(const struct holder *h)
{
	return h->state;
}

struct session_id holder_session(const struct holder *h)
{
	return h->state == HOLDER_ACTIVE ? h->session : (struct session_id){ 0 };
}

uint64_t holder_recall_sequence(const struct holder *h)
{
	return h->recall_sequence;
}

void holder_counters(const struct holder *h, struct holder_counters *ret_counters)
{
	*ret_counters = h->counters;
	ret_counters->leases = h->lease_count;
	ret_counters->window = h->window_count;
}

static size_t check_list(const struct holder *h, const struct list *head, bool leases,
			 bool exclusive)
{
	size_t count = 0;

	for (const struct list *at = head->next; at != head; at = at->next, count++) {
		const struct node *node = LIST_ENTRY(at, const struct node, link);
		const struct handle handle = node_handle(node);

		assert(node->leased == leases);
		assert(node->instance != 0 || !node->leased);
		assert(node->candidate == !leases);
		assert(leases || node->exclusive == exclusive);
		assert(node_get(h, &handle) == node);
	}
	return count;
}

void holder_check_invariants(const struct holder *h)
{
	const struct node *node;
	size_t cursor = 0;
	size_t leases = check_list(h, &h->leases, true, false);
	size_t kept = check_list(h, &h->kept, false, true) +
		      check_list(h, &h->kept_claimed, false, true);
	size_t candidates = check_list(h, &h->candidates, false, false) +
			    check_list(h, &h->claimed, false, false) + kept;

	assert(leases == h->lease_count && candidates == h->candidate_count);
	assert(kept == h->kept_count);
	assert(leases + candidates <= h->config.lease_count_max);
	/* No lease outlives its session (I1). */
	assert(leases == 0 || h->state == HOLDER_ACTIVE);
	assert(h->state != HOLDER_ACTIVE || h->session.value != 0);
	while ((node = map_next(&h->nodes, &cursor)))
		assert(list_linked(&node->link) || node->modifying > 0);
	window_check(h);
}
