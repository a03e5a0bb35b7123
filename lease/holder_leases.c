#include "lease/holder_internal.h"

#include <assert.h>
#include <errno.h>

struct node *node_get(const struct holder *h, const struct handle *handle)
{
	return map_get(&h->nodes, handle);
}

struct change node_change(const struct node *node)
{
	return node->known ? (struct change){ node->incarnation, node->counter } :
			     (struct change){ 0, 0 };
}

void node_forget_change(struct node *node)
{
	node->known = false;
}

/* 0: no lease. */
static uint64_t node_instance(const struct node *node)
{
	return node->leased ? node->instance : 0;
}

static size_t node_bytes(size_t handle_length)
{
	return offsetof(struct node, handle_bytes) + handle_length;
}

struct handle node_handle(const struct node *node)
{
	struct handle handle = { .length = node->handle_length };

	memcpy(handle.bytes, node->handle_bytes, node->handle_length);
	return handle;
}

void node_free(struct holder *h, struct node *node)
{
	h->allocator->resize(h->allocator->context, node, node_bytes(node->handle_length), 0);
}

static struct node *node_make(struct holder *h, const struct handle *handle)
{
	struct node *node = node_get(h, handle);

	if (node)
		return node;
	if (map_reserve(&h->nodes, 1))
		return NULL;
	assert(handle->length <= HANDLE_BYTES_MAX);
	node = h->allocator->resize(h->allocator->context, NULL, 0, node_bytes(handle->length));
	if (!node)
		return NULL;
	memset(node, 0, node_bytes(handle->length));
	node->handle_length = handle->length;
	memcpy(node->handle_bytes, handle->bytes, handle->length);
	list_init(&node->link);
	map_insert(&h->nodes, node);
	return node;
}

/* Frees it when it says nothing any more. */
void node_put(struct holder *h, struct node *node)
{
	if (list_linked(&node->link) || node->modifying)
		return;
	map_remove(&h->nodes, &node->handle_length);
	node_free(h, node);
}

/* One less is kept: after the last, the guardian may be told for how long this session lasts. */
static void kept_settled(struct holder *h)
{
	if (--h->kept_count == 0 && h->state == HOLDER_ACTIVE)
		h->wants |= WANT_RENEWED;
}

/* PROTOCOL.md 6.4: a kept lease is lost, which must leave as an action. */
static void node_lose(struct holder *h, struct node *node)
{
	h->candidate_count--;
	kept_settled(h);
	node->candidate = false;
	node->exclusive = false;
	node_forget_change(node);
	list_remove(&node->link);
	list_append(&h->lost, &node->link);
	h->counters.reclaim_refused++;
}

static void node_lose_all(struct holder *h, struct list *list)
{
	while (!list_empty(list))
		node_lose(h, LIST_ENTRY(list_first(list), struct node, link));
}

void kept_lose(struct holder *h)
{
	node_lose_all(h, &h->kept);
	node_lose_all(h, &h->kept_claimed);
}

bool lost_flush(struct holder *h, struct holder_actions *out)
{
	while (!list_empty(&h->lost)) {
		struct node *node = LIST_ENTRY(list_first(&h->lost), struct node, link);
		struct holder_action *action = holder_actions_add(out, HOLDER_LOST);

		if (!action)
			return false;
		action->handle = node_handle(node);
		list_remove(&node->link);
		node_put(h, node);
	}
	return true;
}

bool holder_kept(const struct holder *h, struct instant now, const struct handle *handle)
{
	const struct node *node = node_get(h, handle);

#ifdef LEASE_WRONG_KEPT_TOO_LONG
	now = h->kept_until.ns ? (struct instant){ 0 } : now;
#endif
	return node && node->candidate && node->exclusive && instant_before(now, h->kept_until);
}

bool holder_keeps(const struct holder *h)
{
	return h->kept_count > 0;
}

/* Neither a lease nor a candidate any more. */
static void node_clear(struct holder *h, struct node *node)
{
	if (node->leased)
		h->lease_count--;
	if (node->candidate)
		h->candidate_count--;
	if (node->candidate && node->exclusive)
		kept_settled(h);
	node->leased = false;
	node->exclusive = false;
	node->candidate = false;
	node_forget_change(node);
	list_remove(&node->link);
	node_put(h, node);
}

/* True when there was a lease. */
bool node_drop_lease(struct holder *h, const struct handle *handle)
{
	struct node *node = node_get(h, handle);

	if (!node || !node->leased)
		return false;
#ifdef LEASE_WRONG_CLAIM_GIVEN_UP
	/* Wrong on purpose: it was held once, and that has to do. */
	if (node->exclusive) {
		node->leased = false;
		h->lease_count--;
		list_remove(&node->link);
		list_append(&h->given_up, &node->link);
		return true;
	}
#endif
	node_clear(h, node);
	return true;
}

/* ---- grants ---- */

static void release(struct holder *h, struct node *node, struct holder_actions *out)
{
	struct holder_action *action = holder_actions_add(out, HOLDER_SEND_RELEASE);

	/* Unsaid, the origin finds out when it recalls it. */
	if (action) {
		action->session = h->session;
		action->handle = node_handle(node);
	}
	h->counters.released++;
	/* What was stored under it goes to the origin first: the recall takes it. */
	if (!node->exclusive)
		node_clear(h, node);
}

/* The write leases among them become the most recently used. NULL: there is no other. */
static struct list *least_useful(struct holder *h)
{
	for (uint64_t i = 0; i < h->lease_count; i++) {
		struct list *first = list_first(&h->leases);

		if (!LIST_ENTRY(first, struct node, link)->exclusive)
			return first;
		list_remove(first);
		list_append(&h->leases, first);
	}
	return NULL;
}

/* PROTOCOL.md 5.6: room for one more, by giving up the least useful: claims first. */
static bool leases_make_room(struct holder *h, struct holder_actions *out)
{
	while (h->lease_count + h->candidate_count >= h->lease_count_max) {
		struct list *first = list_first(&h->candidates);

		if (!first)
			first = list_first(&h->claimed);
		if (first) {
			node_clear(h, LIST_ENTRY(first, struct node, link));
			continue;
		}
		first = least_useful(h);
		if (!first) {
			/* Write leases only: one of them goes when it has been recalled. */
			first = list_first(&h->leases);
			if (first) {
				list_remove(first);
				list_append(&h->leases, first);
				release(h, LIST_ENTRY(first, struct node, link), out);
			}
			return false;
		}
		release(h, LIST_ENTRY(first, struct node, link), out);
	}
	return true;
}

/* A lease on what has none yet. */
static void node_lease(struct holder *h, struct node *node, uint64_t instance)
{
	if (node->candidate)
		h->candidate_count--;
	node->candidate = false;
	list_remove(&node->link);
	list_append(&h->leases, &node->link);
	node->instance = instance;
	node->leased = true;
	h->lease_count++;
}

/* HOLDER_LOST has not left for want of memory. */
static bool is_lost(const struct holder *h, const struct node *node)
{
	for (const struct list *at = h->lost.next; at != &h->lost; at = at->next)
		if (at == &node->link)
			return true;
	return false;
}

uint64_t holder_grant(struct holder *h, struct instant now, uint64_t stamp,
		      uint64_t recall_sequence, const struct handle *handle, struct change change,
		      struct holder_actions *out)
{
	struct node *node;
	uint64_t instance = 0;

	holder_advance(h, now);
	if (!holder_valid(h, h->now) || window_dropping(h, handle)) {
		holder_flush(h, out);
		return 0;
	}
	if (holder_overtaken(h, stamp, recall_sequence, handle, NULL)) {
		h->counters.overtaken++;
		holder_flush(h, out);
		return 0;
	}
	node = node_make(h, handle);
	if (node && ((node->candidate && node->exclusive) || is_lost(h, node))) {
		/* PROTOCOL.md 6.4: what was stored under the lease that is kept settles first. */
		holder_flush(h, out);
		return 0;
	}
	if (node && !node->leased) {
		/* A claim on it is settled by this; what it makes room for is not itself. */
		if (node->candidate)
			h->candidate_count--;
		node->candidate = false;
		node->exclusive = false;
		list_remove(&node->link);
		if (leases_make_room(h, out)) {
			node_lease(h, node, ++h->instance_last);
		} else {
			node_put(h, node);
			node = NULL;
		}
	}
	if (node) {
		list_remove(&node->link);
		list_append(&h->leases, &node->link);
		node->incarnation = change.incarnation;
		node->counter = change.counter;
		node->known = change_known(change);
		instance = node->instance;
		h->counters.granted++;
	}
	holder_flush(h, out);
	return instance;
}

/* ---- looking and using ---- */

uint64_t holder_lease_held(struct holder *h, struct instant now, const struct handle *handle)
{
	struct node *node;

	if (!holder_valid(h, now))
		return 0;
	node = node_get(h, handle);
	/* PROTOCOL.md 5.2: while names of it are being dropped, nothing is answered from it. */
	if (!node || !node->leased || window_dropping(h, handle))
		return 0;
	list_remove(&node->link);
	list_append(&h->leases, &node->link);
	return node->instance;
}

uint64_t holder_lease(struct holder *h, struct instant now, const struct handle *handle)
{
	/* PROTOCOL.md 7.3: others may see our own modification before we hear that it is done. */
	return holder_modifying(h, handle) ? 0 : holder_lease_held(h, now, handle);
}

void holder_set_exclusive(struct holder *h, const struct handle *handle, uint64_t instance)
{
	struct node *node = node_get(h, handle);

	if (node && instance && node->leased && node->instance == instance)
		node->exclusive = true;
}

uint64_t holder_exclusive(struct holder *h, struct instant now, const struct handle *handle)
{
	uint64_t instance = holder_lease_held(h, now, handle);

	return instance && node_get(h, handle)->exclusive ? instance : 0;
}

struct change holder_change(const struct holder *h, const struct handle *handle)
{
	const struct node *node = node_get(h, handle);

	return node && node->leased ? node_change(node) : (struct change){ 0, 0 };
}

uint64_t holder_lease_before(const struct holder *h, struct instant now,
			     const struct handle *handle, struct change *ret_change)
{
	const struct node *node = node_get(h, handle);
	uint64_t instance = 0;

	if (!node || node->modifying)
		return 0;
	if (node->candidate)
		instance = node->instance;
	else if (holder_expired(h, now))
		instance = node_instance(node);
	*ret_change = node_change(node);
	return instance;
}

uint64_t holder_lease_sealed(const struct holder *h, struct instant now,
			     const struct handle *handle, struct duration term,
			     struct change *ret_change)
{
	const struct node *node = node_get(h, handle);

#ifdef LEASE_WRONG_SEAL_FROM_EXPIRY
	/* Wrong on purpose: counts from the end of the session. */
	term.ns += h->term.ns;
#endif
	if (!node || node->modifying || !node->known || term.ns == 0 ||
	    !instant_before(now, validity_from(h, now, h->renewed, term)))
		return 0;
	*ret_change = node_change(node);
	if (holder_expired(h, now))
		return window_dropping(h, handle) ? 0 : node_instance(node);
#ifdef LEASE_WRONG_SEAL_IN_THE_NEXT_SESSION
	if (node->candidate)
		return node->instance;
#endif
	/* Under the next session the origin waits for nobody who has come back. */
	if (h->state == HOLDER_ACTIVE || !node->candidate ||
	    node->session_before != (uint32_t)h->counters.sessions)
		return 0;
	return node->instance;
}

void holder_release(struct holder *h, const struct handle *handle, struct holder_actions *out)
{
	struct node *node = node_get(h, handle);

	if (node && node->leased)
		release(h, node, out);
}

/* ---- own modifications (PROTOCOL.md 7.3) ---- */

int holder_modify_begin(struct holder *h, const struct handle *handle)
{
	struct node *node = node_make(h, handle);

	if (!node || node->modifying == UINT16_MAX)
		return -ENOMEM;
	node->modifying++;
	return 0;
}

bool holder_modifying(const struct holder *h, const struct handle *handle)
{
	const struct node *node = node_get(h, handle);

	return node && node->modifying > 0;
}

bool holder_modify_end(struct holder *h, const struct handle *handle, bool known,
		       struct change before, struct change after)
{
	struct node *node = node_get(h, handle);
	bool follows = false;

	assert(node && node->modifying > 0);
	node->modifying--;
	if (known && node->leased && node->known && change_equal(node_change(node), before) &&
	    after.incarnation == before.incarnation) {
		node->counter = after.counter;
		follows = true;
	} else if (!known || !change_equal(node_change(node), after)) {
		/* Also of a candidate: what it held is not what the origin has. */
		node_forget_change(node);
	}
	node_put(h, node);
	return follows;
}

/* ---- reclaim (PROTOCOL.md 6.3) ---- */

void leases_become_candidates(struct holder *h, bool keep)
{
	/* All that is kept is kept for as long as what was first. */
	if (keep && (!h->kept_count || instant_before(h->until, h->kept_until)))
		h->kept_until = h->until;
	if (!keep)
		kept_lose(h);
	while (keep && !list_empty(&h->given_up) &&
	       h->lease_count + h->candidate_count < h->lease_count_max) { /* of LEASE_WRONG_CLAIM_GIVEN_UP */
		struct node *node = LIST_ENTRY(list_first(&h->given_up), struct node, link);

		list_remove(&node->link);
		list_append(&h->kept, &node->link);
		node->candidate = true;
		h->candidate_count++;
		h->kept_count++;
	}
	while (!list_empty(&h->kept_claimed)) {
		struct list *at = list_first(&h->kept_claimed);

		list_remove(at);
		list_append(&h->kept, at);
	}
	/* Claims of the session that ended are claims of the next one again. */
	while (!list_empty(&h->claimed)) {
		struct list *at = list_first(&h->claimed);

		list_remove(at);
		list_append(&h->candidates, at);
	}
	while (!list_empty(&h->leases)) {
		struct node *node = LIST_ENTRY(list_first(&h->leases), struct node, link);

		node->exclusive &= keep;
		list_remove(&node->link);
		list_append(node->exclusive ? &h->kept : &h->candidates, &node->link);
		node->session_before = (uint32_t)h->counters.sessions;
		node->leased = false;
		node->candidate = true;
		h->lease_count--;
		h->candidate_count++;
		h->kept_count += node->exclusive;
	}
}

void candidates_forget(struct holder *h)
{
	kept_lose(h);
	while (!list_empty(&h->candidates))
		node_clear(h, LIST_ENTRY(list_first(&h->candidates), struct node, link));
	while (!list_empty(&h->claimed))
		node_clear(h, LIST_ENTRY(list_first(&h->claimed), struct node, link));
}

/* PROTOCOL.md 6.4: first, so that there is room for them; what their change is does not matter. */
static bool kept_flush(struct holder *h, struct holder_actions *out)
{
	while (!list_empty(&h->kept)) {
		struct node *node = LIST_ENTRY(list_first(&h->kept), struct node, link);
		struct holder_action *action = holder_actions_add(out, HOLDER_SEND_RECLAIM);

		if (!action)
			return false;
		action->session = h->session;
		action->handle = node_handle(node);
		action->change = node_change(node);
		if (!node->known || node->modifying)
			action->change = (struct change){ node->incarnation, 0 };
		action->kept = true;
		list_remove(&node->link);
		list_append(&h->kept_claimed, &node->link);
	}
	return true;
}

bool candidates_wait(const struct holder *h)
{
	return !list_empty(&h->kept) || !list_empty(&h->candidates) || h->kept_count == 0;
}

/* A batch of claims, and after the last the last word. False when memory ran out. */
bool candidates_flush(struct holder *h, struct holder_actions *out)
{
	struct holder_action *action;

	if (!(h->wants & WANT_RECLAIM))
		return true;
	if (!kept_flush(h, out))
		return false;
	for (uint32_t sent = 0; sent < RECLAIM_BATCH && !list_empty(&h->candidates);) {
		struct node *node = LIST_ENTRY(list_first(&h->candidates), struct node, link);

		if (!node->known || node->modifying) {
			node_clear(h, node);
			continue;
		}
		action = holder_actions_add(out, HOLDER_SEND_RECLAIM);
		if (!action)
			return false;
		action->session = h->session;
		action->handle = node_handle(node);
		action->change = node_change(node);
		list_remove(&node->link);
		list_append(&h->claimed, &node->link);
		sent++;
	}
	/* PROTOCOL.md 6.4: until then nobody else is granted anything. */
	if (!list_empty(&h->candidates) || h->kept_count)
		return true;
	action = holder_actions_add(out, HOLDER_SEND_RECLAIM_DONE);
	if (!action)
		return false;
	action->session = h->session;
	h->wants &= ~(uint32_t)WANT_RECLAIM;
	h->reclaim = false;
	return true;
}

/* The answer about a lease that is kept. */
static void kept_reclaimed(struct holder *h, struct node *node, uint64_t stamp,
			   uint64_t recall_sequence, struct change change, bool confirmed)
{
	bool same = change_known(change) && change_equal(node_change(node), change) && !node->modifying;
	struct handle handle = node_handle(node);

	if (!confirmed || !holder_valid(h, h->now)) {
		node_lose(h, node);
		return;
	}
	h->counters.reclaimed++;
	if (window_dropping(h, &handle) ||
	    holder_overtaken(h, stamp, recall_sequence, &handle, NULL)) {
		node_clear(h, node); /* it is given up again: the drop writes back first */
		return;
	}
	kept_settled(h);
	node_lease(h, node, same ? node->instance : ++h->instance_last);
	if (!same)
		node_forget_change(node);
}

void holder_reclaimed(struct holder *h, struct instant now, struct session_id session,
		      uint64_t stamp, uint64_t recall_sequence, const struct handle *handle,
		      struct change change, bool confirmed, struct holder_actions *out)
{
	struct node *node;

	holder_advance(h, now);
	node = session_is(h, session) ? node_get(h, handle) : NULL;
	/* Already granted anew, or given up: the answer settles nothing. */
	if (node && node->candidate && node->exclusive) {
		kept_reclaimed(h, node, stamp, recall_sequence, change, confirmed);
	} else if (node && node->candidate) {
		if (confirmed && holder_valid(h, h->now) && !node->modifying &&
		    change_equal(node_change(node), change) && !window_dropping(h, handle) &&
		    !holder_overtaken(h, stamp, recall_sequence, handle, NULL)) {
			/* PROTOCOL.md 6.3: unchanged, so all that was learned under it is good. */
			node_lease(h, node, node->instance);
			h->counters.reclaimed++;
		} else {
			node_clear(h, node);
			h->counters.reclaim_refused++;
		}
	}
	holder_flush(h, out);
}
