#include "lease/authority_internal.h"

#include <assert.h>
#include <errno.h>

/* ---- memory ---- */

/* Zeroed; NULL when there is none. */
void *authority_allocate(struct authority *a, size_t size)
{
	void *pointer = a->allocator->resize(a->allocator->context, NULL, 0, size);

	if (pointer)
		memset(pointer, 0, size);
	return pointer;
}

void authority_free(struct authority *a, void *pointer, size_t size)
{
	if (pointer)
		a->allocator->resize(a->allocator->context, pointer, size, 0);
}

/* ---- actions ---- */

void authority_actions_init(struct authority_actions *actions, const struct allocator *allocator)
{
	memset(actions, 0, sizeof(*actions));
	actions->allocator = allocator;
}

void authority_actions_finish(struct authority_actions *actions)
{
	if (actions->items)
		actions->allocator->resize(actions->allocator->context, actions->items,
					   actions->capacity * sizeof(*actions->items), 0);
	actions->items = NULL;
	actions->count = 0;
	actions->capacity = 0;
}

/* The next action, zeroed; NULL when there is no memory for it. */
struct authority_action *authority_actions_add(struct authority_actions *out,
					       enum authority_action_kind kind)
{
	void *items = out->items;
	struct authority_action *action = array_append(out->allocator, &items, &out->count,
						&out->capacity, sizeof(*action));

	if (!action)
		return NULL;
	out->items = items;
	action->kind = kind;
	return action;
}

void authority_pend(struct authority *a, struct pending *pending)
{
	if (!list_linked(&pending->link))
		list_append(&a->pending, &pending->link);
}

/* False when memory ran out before all of them left. */
static bool flush_recalls(struct authority *a, struct session *session,
			  struct authority_actions *out)
{
	while (session->unsent) {
		struct lease *lease = lease_at(a, session->unsent);
		struct inode *inode = lease_inode(a, lease);
		struct authority_action *action;
		const struct recall_names *names;

		operations_yield(a, session, inode);
		action = authority_actions_add(out, AUTHORITY_SEND_RECALL);
		if (!action)
			return false;
		action->session = session->id;
		action->handle = inode_handle(inode);
		action->recall_sequence = lease->recall_sequence;
		action->scope = (enum recall_scope)lease->scope;
		names = lease_names(a, lease);
		if (names) {
			action->name_count = names->count;
			memcpy(action->name_length, names->length, sizeof(action->name_length));
			memcpy(action->names, names->bytes, sizeof(action->names));
		}
		session->unsent = ring_next(&lease->in_session, session->recalled);
	}
	list_remove(&session->recalls.link);
	return true;
}

static bool flush_operation(struct authority *a, struct operation *o,
			    struct authority_actions *out)
{
	struct authority_action *action = authority_actions_add(out, o->outcome);

	if (!action)
		return false;
	action->op = o->id;
	action->session = o->session_id;
	action->slot = o->slot_index;
	action->status = o->status;
	action->other = o->other;
	list_remove(&o->pending.link);
	if (o->state == OPERATION_OVER)
		operation_free(a, o);
	return true;
}

static bool flush_session(struct authority *a, struct session *session, bool forgotten,
			  struct authority_actions *out)
{
	struct authority_action *action =
		authority_actions_add(out, forgotten ? AUTHORITY_SESSION_FORGOTTEN : AUTHORITY_SESSION_ENDED);

	if (!action)
		return false;
	action->session = session->id;
	list_remove(forgotten ? &session->forgotten.link : &session->over.link);
	if (forgotten)
		session_free(a, session);
	return true;
}

static bool flush_unused(struct authority *a, struct inode_busy *busy, struct authority_actions *out)
{
	/* Opened again before anybody heard of it. */
	if (!busy->open_count) {
		struct authority_action *action = authority_actions_add(out, AUTHORITY_UNUSED);

		if (!action)
			return false;
		action->handle = inode_handle(busy->inode);
	}
	list_remove(&busy->unused.link);
	authority_inode_put(a, busy->inode);
	return true;
}

static bool flush_previous(struct previous *previous, struct authority_actions *out)
{
	struct authority_action *action = authority_actions_add(out, AUTHORITY_SESSION_ENDED);

	if (!action)
		return false;
	action->session = previous->session;
	list_remove(&previous->ended.link);
	return true;
}

static bool flush_grace(struct authority *a, struct authority_actions *out)
{
	if (!authority_actions_add(out, AUTHORITY_GRACE_ENDED))
		return false;
	list_remove(&a->grace_ended.link);
	return true;
}

/* Turns what is pending into actions, in order. What finds no memory leaves with a later call. */
void authority_flush(struct authority *a, struct authority_actions *out)
{
	struct list *at;
	bool left = true;

	while (left && (at = list_first(&a->pending))) {
		struct pending *pending = LIST_ENTRY(at, struct pending, link);

		switch (pending->what) {
		case PENDING_RECALLS:
			left = flush_recalls(a, LIST_ENTRY(pending, struct session, recalls),
					     out);
			break;
		case PENDING_SESSION_ENDED:
			left = flush_session(a, LIST_ENTRY(pending, struct session, over), false,
					     out);
			break;
		case PENDING_SESSION_FORGOTTEN:
			left = flush_session(a, LIST_ENTRY(pending, struct session, forgotten),
					     true, out);
			break;
		case PENDING_PREVIOUS_ENDED:
			left = flush_previous(LIST_ENTRY(pending, struct previous, ended), out);
			break;
		case PENDING_OPERATION:
			left = flush_operation(a, LIST_ENTRY(pending, struct operation, pending),
					       out);
			break;
		case PENDING_UNUSED:
			left = flush_unused(a, LIST_ENTRY(pending, struct inode_busy, unused),
					    out);
			break;
		case PENDING_GRACE_ENDED:
			left = flush_grace(a, out);
			break;
		}
	}
	authority_locks_flush(a, out);
}

/* ---- making ---- */

static void authority_set_up(struct authority *a, const struct authority_config *config,
			     const struct allocator *allocator, struct instant now)
{
	a->config = *config;
	a->allocator = allocator;
	a->now = now;
	/* Every start of an origin has an epoch of its own, so its session ids are its own, too. */
	rng_init(&a->rng, rng_mix(config->seed) ^ config->epoch);
	map_init(&a->sessions, allocator, MAP_U64, offsetof(struct session, id),
		 rng_next(&a->rng));
	number_map_init(&a->inodes, &a->inode_pool, NUMBER_MAP_HANDLE,
			offsetof(struct inode, handle), rng_next(&a->rng));
	map_init(&a->operations, allocator, MAP_U64, offsetof(struct operation, id),
		 rng_next(&a->rng));
	map_init(&a->names, allocator, MAP_U64, offsetof(struct recall_names, id),
		 rng_next(&a->rng));
	numbered_init(&a->leases, allocator, sizeof(struct lease));
	numbered_init(&a->inode_pool, allocator, INODE_BYTES_MIN);
	numbered_init(&a->busy_pool, allocator, sizeof(struct inode_busy));
	numbered_init(&a->session_pool, allocator, sizeof(struct session));
	list_init(&a->live);
	list_init(&a->ended);
	list_init(&a->pending);
	list_init(&a->queued);
	list_init(&a->backoffs);
	list_init(&a->silent);
	list_init(&a->grace_ended.link);
	a->grace_ended.what = PENDING_GRACE_ENDED;
}

int authority_create(const struct authority_config *config, const struct allocator *allocator,
		     struct instant now, const struct authority_previous *previous,
		     size_t previous_count, bool previous_unknown, struct duration previous_term,
		     struct authority **ret_authority)
{
	struct authority *a = allocator->resize(allocator->context, NULL, 0, sizeof(*a));

	if (!a)
		return -ENOMEM;
	memset(a, 0, sizeof(*a));
	authority_set_up(a, config, allocator, now);
#ifdef LEASE_WRONG_NO_GRACE
	/* Wrong on purpose: forgets that there was a run before this one. */
	previous_count = 0;
	previous_unknown = false;
#endif
	if (lock_table_create(&(struct lock_limits){ config->lock_count_max, config->lock_total_max },
			      allocator, rng_next(&a->rng), &a->locks)) {
		authority_free(a, a, sizeof(*a));
		return -ENOMEM;
	}
	if (previous_count) {
		a->previous = authority_allocate(a, previous_count * sizeof(*a->previous));
		if (!a->previous) {
			lock_table_destroy(a->locks);
			authority_free(a, a, sizeof(*a));
			return -ENOMEM;
		}
		a->previous_count = previous_count;
	}
	for (size_t i = 0; i < previous_count; i++) {
		a->previous[i].session = previous[i].session;
		memcpy(a->previous[i].host, previous[i].host, sizeof(a->previous[i].host));
		a->previous[i].ended.what = PENDING_PREVIOUS_ENDED;
		list_init(&a->previous[i].ended.link);
	}
	/* PROTOCOL.md 6.2 */
	a->grace = previous_count > 0 || previous_unknown;
	a->grace_full = previous_unknown;
	a->grace_end = instant_add(now, previous_term);
	if (previous_unknown) /* PROTOCOL.md 11.4: any of them may rely on a seal */
		a->silent_unknown = now;
	*ret_authority = a;
	return 0;
}

static void free_sessions(struct authority *a)
{
	struct session *session;
	size_t cursor = 0;

	while ((session = map_next(&a->sessions, &cursor))) {
		while (session->granted)
			lease_remove(a, lease_at(a, session->granted));
		while (session->recalled)
			lease_remove(a, lease_at(a, session->recalled));
		while (!list_empty(&session->open_list))
			opened_remove(a, session, LIST_ENTRY(list_first(&session->open_list),
							     struct opened, link));
	}
}

/* Objects whose last action has not left are reached by the pending list only. */
static void free_pending(struct authority *a)
{
	LIST_FOR_EACH(at, &a->pending) {
		struct pending *pending = LIST_ENTRY(at, struct pending, link);

		list_remove(at);
		if (pending->what == PENDING_OPERATION) {
			struct operation *o = LIST_ENTRY(pending, struct operation, pending);

			if (o->state == OPERATION_OVER)
				operation_free(a, o);
		} else if (pending->what == PENDING_SESSION_FORGOTTEN) {
			session_free(a, LIST_ENTRY(pending, struct session, forgotten));
		}
	}
}

void authority_destroy(struct authority *a)
{
	struct session *session;
	struct operation *o;
	size_t cursor = 0;
	uint32_t inode;

	if (!a)
		return;
	free_sessions(a);
	free_pending(a);
	while ((o = map_next(&a->operations, &cursor))) {
		for (uint32_t i = 0; i < o->place_count; i++)
			names_unref(a, o->places[i].names);
		operation_free(a, o);
	}
	cursor = 0;
	while ((session = map_next(&a->sessions, &cursor)))
		session_free(a, session);
	cursor = 0;
	while ((inode = number_map_next(&a->inodes, &cursor))) {
		numbered_free(&a->busy_pool, ((struct inode *)numbered_at(&a->inode_pool, inode))->busy);
		numbered_free(&a->inode_pool, inode);
	}
	silent_free_all(a);
	lock_table_destroy(a->locks);
	map_finish(&a->operations);
	map_finish(&a->sessions);
	number_map_finish(&a->inodes);
	map_finish(&a->names);
	numbered_finish(&a->leases);
	numbered_finish(&a->inode_pool);
	numbered_finish(&a->busy_pool);
	numbered_finish(&a->session_pool);
	authority_free(a, a->deadlines, a->deadline_capacity * sizeof(struct operation *));
	authority_free(a, a->previous, a->previous_count * sizeof(*a->previous));
	authority_free(a, a, sizeof(*a));
}

/* ---- time ---- */

/*
 * Every call comes through here first: what is over by time is over before anything else is
 * decided. Callers read the clock before they take their lock, so time may seem to go back.
 */
void authority_advance(struct authority *a, struct instant now)
{
	struct list *first;

	if (instant_before(a->now, now))
		a->now = now;
	while ((first = list_first(&a->live))) {
		struct session *session = LIST_ENTRY(first, struct session, link);

		/* PROTOCOL.md 4.2: at its very end a session is over here; a host's is earlier. */
		if (instant_before(a->now, session->end))
			break;
		a->counters.sessions_expired++;
		session_end(a, session);
	}
	grace_check(a);
	operations_refuse_late(a);
	backoffs_trim(a);
}

void authority_tick(struct authority *a, struct instant now, struct authority_actions *out)
{
	authority_advance(a, now);
	authority_flush(a, out);
}

struct instant authority_timer(const struct authority *a)
{
	struct instant timer = { UINT64_MAX };
	struct list *first = list_first(&a->live);

	if (first)
		timer = LIST_ENTRY(first, struct session, link)->end;
	if (a->deadline_count && instant_before(a->deadlines[0]->deadline, timer))
		timer = a->deadlines[0]->deadline;
	if (a->grace && instant_before(a->grace_end, timer))
		timer = a->grace_end;
	if (!list_empty(&a->pending) || lock_table_has_offer(a->locks)) {
		struct instant soon = instant_add(a->now, duration_ms(STARVED_RETRY_MS));

		if (instant_before(soon, timer))
			timer = soon;
	}
	return timer;
}

/* ---- looking ---- */

void authority_counters(const struct authority *a, struct authority_counters *ret_counters)
{
	*ret_counters = a->counters;
	ret_counters->sessions = a->live_count;
}

/* Its queues are in the order of admission, and it is in the state that its place allows (I2). */
static void check_inode(const struct authority *a, const struct inode *inode)
{
	const struct inode_busy *busy = inode_busy(a, inode);
	const struct list *places = busy ? &busy->places : NULL;
	const struct lease *exclusive = lease_exclusive(a, inode);
	const struct operation *before = NULL;
	uint32_t lease_count = 0;

	for (const struct list *at = busy ? places->next : NULL; at != places; at = at->next) {
		const struct operation *o = LIST_ENTRY(at, const struct place, link)->operation;

		assert(o->state != OPERATION_OVER);
		assert(!before || before->order < o->order);
		/* Only what is first, or a reader behind readers, has left the queue. */
		if (before && (before->kind != AUTHORITY_READ_STRICT ||
			       o->kind != AUTHORITY_READ_STRICT))
			assert(o->state == OPERATION_QUEUED);
		/* 5.7: its host may finish it before it gives the lease up. */
		assert(!exclusive || !operation_goes_ahead(a, o, exclusive) ||
		       o->state != OPERATION_QUEUED);
		before = o;
	}
	LEASE_FOR_EACH(lease, a, inode) {
		assert(lease_inode(a, lease) == inode);
		assert(lease_session(a, lease)->live);
		assert(lease->exclusive == (exclusive == lease));
		lease_count++;
	}
	assert(!exclusive || lease_count == 1);
	assert(lease_count || busy);
	assert(!busy || busy->inode == inode);
	assert(!busy || busy->open_count || !list_empty(places) ||
	       list_linked(&busy->in_backoffs) || list_linked(&busy->unused.link));
}

/* I2: what runs has drained, and nothing was granted since. */
static void check_operation(const struct authority *a, const struct operation *o)
{
	uint32_t awaited = 0;

	for (uint32_t i = 0; i < o->place_count; i++) {
		const struct place *place = &o->places[i];

		LEASE_FOR_EACH(lease, a, place->inode) {
			if (o->state == OPERATION_DRAINING && lease->awaited) {
				assert(lease->recall_sequence);
				awaited++;
			}
			if (o->state == OPERATION_RUNNING && o->kind != AUTHORITY_READ_STRICT &&
			    place->scope == RECALL_ALL)
				assert(lease_session(a, lease) == o->session);
		}
	}
	if (o->state == OPERATION_DRAINING)
		assert(o->waiting > 0 && o->waiting == awaited);
	else
		assert(o->waiting == 0);
	assert((o->heap_index != HEAP_NONE) ==
	       (o->state == OPERATION_QUEUED || o->state == OPERATION_DRAINING));
}

static size_t check_session(const struct authority *a, const struct session *session)
{
	uint64_t sequence = 0;
	size_t count = 0;

	const struct lease *lease;

	for (lease = lease_at(a, session->granted); lease; count++) {
		assert(lease->recall_sequence == 0 && lease_session(a, lease) == session);
		lease = lease_at(a, ring_next(&lease->in_session, session->granted));
	}
	for (lease = lease_at(a, session->recalled); lease; count++) {
		assert(lease->recall_sequence > sequence && lease_session(a, lease) == session);
		sequence = lease->recall_sequence;
		lease = lease_at(a, ring_next(&lease->in_session, session->recalled));
	}
	assert(sequence <= session->recall_sequence);
	assert(count == session->leases.count && count <= a->config.lease_count_max);
	assert(session->opens.count <= a->config.open_count_max);
	assert(session->live || (count == 0 && session->opens.count == 0));
	return count;
}

/* After a call every action has left, or memory failed; everything else must hold always. */
void authority_check_invariants(const struct authority *a)
{
	const struct session *session;
	const struct inode *inode;
	const struct operation *o;
	size_t cursor = 0;
	size_t leases = 0;
	uint32_t live = 0, placed = 0;

	while ((session = map_next(&a->sessions, &cursor))) {
		leases += check_session(a, session);
		live += session->live;
	}
	assert(leases == a->counters.leases && live == a->live_count);
	assert(live <= a->config.session_count_max);
	assert(leases <= a->config.lease_total_max);
	cursor = 0;
	while ((inode = numbered_at(&a->inode_pool, number_map_next(&a->inodes, &cursor))))
		check_inode(a, inode);
	cursor = 0;
	while ((o = map_next(&a->operations, &cursor))) {
		check_operation(a, o);
		placed += o->place_count > 0;
	}
	assert(a->operations.count == a->counters.operations);
	assert(placed <= a->config.operation_count_max);
	assert(a->sessions.count == (size_t)a->live_count + a->ended_count);
	lock_table_check_invariants(a->locks);
}
