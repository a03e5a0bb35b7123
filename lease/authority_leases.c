#include "lease/authority_internal.h"

#include "lease/status.h"

#include <assert.h>
#include <errno.h>

/* ---- inodes ---- */

struct inode *authority_inode_get(const struct authority *a, const struct handle *handle)
{
	return numbered_at(&a->inode_pool, number_map_get(&a->inodes, handle));
}

struct handle inode_handle(const struct inode *inode)
{
	struct handle handle = { .length = inode->handle[0] };

	memcpy(handle.bytes, inode->handle + offsetof(struct handle, bytes), handle.length);
	return handle;
}

static size_t inode_bytes(const struct handle *handle)
{
	size_t bytes = sizeof(struct inode) + offsetof(struct handle, bytes) + handle->length;

	return bytes < INODE_BYTES_MIN ? INODE_BYTES_MIN : bytes;
}

/* NULL when there is no memory. */
struct inode *authority_inode_make(struct authority *a, const struct handle *handle,
				   uint32_t *ret_number)
{
	struct inode *inode;

	*ret_number = number_map_get(&a->inodes, handle);
	if (*ret_number)
		return numbered_at(&a->inode_pool, *ret_number);
	if (number_map_reserve(&a->inodes, 1))
		return NULL;
	inode = numbered_allocate(&a->inode_pool, inode_bytes(handle), ret_number);
	if (!inode)
		return NULL;
	static_assert(offsetof(struct handle, length) == 0 && offsetof(struct handle, bytes) == 1,
		      "its length, then what is in use");
	memcpy(inode->handle, handle, offsetof(struct handle, bytes) + handle->length);
	number_map_insert(&a->inodes, *ret_number);
	return inode;
}

/* The same, for what has opens or operations. */
struct inode *authority_inode_make_busy(struct authority *a, const struct handle *handle)
{
	uint32_t number;
	struct inode *inode = authority_inode_make(a, handle, &number);
	struct inode_busy *busy;

	if (!inode || inode->busy)
		return inode;
	busy = numbered_allocate(&a->busy_pool, sizeof(*busy), &number);
	if (!busy) {
		authority_inode_put(a, inode);
		return NULL;
	}
	busy->inode = inode;
	list_init(&busy->places);
	list_init(&busy->in_backoffs);
	list_init(&busy->unused.link);
	busy->unused.what = PENDING_UNUSED;
	inode->busy = number;
	return inode;
}

/* Frees what nothing is known about any more. */
void authority_inode_put(struct authority *a, struct inode *inode)
{
	struct inode_busy *busy = inode_busy(a, inode);

	if (busy && list_empty(&busy->places) && !busy->open_count &&
	    !list_linked(&busy->unused.link) && !list_linked(&busy->in_backoffs)) {
		numbered_free(&a->busy_pool, inode->busy);
		inode->busy = 0;
	}
	if (inode->busy || inode->leases)
		return;
	numbered_free(&a->inode_pool, number_map_remove(&a->inodes, inode->handle));
}

/* ---- back-off (PROTOCOL.md 5.5) ---- */

/* Halves the back-off for each backoff_max that passed without a recall. */
static void backoff_decay(const struct authority *a, struct inode_busy *busy)
{
	uint64_t quiet = instant_until(busy->contended_at, a->now).ns;
	uint64_t period = a->config.backoff_max.ns ? a->config.backoff_max.ns : 1;

	for (uint64_t periods = quiet / period; periods && busy->backoff_ns; periods--)
		busy->backoff_ns /= 2;
	if (busy->backoff_ns < a->config.backoff_min.ns)
		busy->backoff_ns = 0;
}

static void backoff_forget(struct authority *a, struct list *at)
{
	list_remove(at);
	a->backoff_count--;
	authority_inode_put(a, LIST_ENTRY(at, struct inode_busy, in_backoffs)->inode);
}

/*
 * The list is in the order of the last contention, so what has calmed down is in front. Frees
 * inodes: only where nobody holds on to one.
 */
void backoffs_trim(struct authority *a)
{
	struct list *first;

	while ((first = list_first(&a->backoffs))) {
		struct inode_busy *busy = LIST_ENTRY(first, struct inode_busy, in_backoffs);
		uint64_t quiet = instant_until(busy->contended_at, a->now).ns;

		if (a->backoff_count <= BACKOFF_COUNT_MAX &&
		    quiet / 16 < a->config.backoff_max.ns)
			return;
		backoff_forget(a, first);
	}
}

/*
 * A modification recalls leases on `inode`. The second such recall within backoff_max starts the
 * back-off, each further one doubles it; one now and then costs nobody anything.
 */
void authority_inode_contended(struct authority *a, struct inode *inode)
{
	struct inode_busy *busy = inode_busy(a, inode);
	bool again = list_linked(&busy->in_backoffs) &&
		     instant_until(busy->contended_at, a->now).ns < a->config.backoff_max.ns;

	if (list_linked(&busy->in_backoffs)) {
		backoff_decay(a, busy);
		list_remove(&busy->in_backoffs);
	} else {
		a->backoff_count++;
		busy->backoff_ns = 0;
	}
	if (again)
		busy->backoff_ns = busy->backoff_ns ? busy->backoff_ns * 2 :
						      a->config.backoff_min.ns;
	if (busy->backoff_ns > a->config.backoff_max.ns)
		busy->backoff_ns = a->config.backoff_max.ns;
	busy->contended_at = a->now;
	busy->quiet_until = instant_add(a->now, (struct duration){ busy->backoff_ns });
	list_append(&a->backoffs, &busy->in_backoffs);
}

/* ---- leases ---- */

/* The first lease of the inode knows the inode's number, and it may be the one. */
struct lease *lease_get(const struct authority *a, const struct session *session,
			const struct inode *inode)
{
	struct lease *first = inode_lease_first(a, inode);

	if (!first || first->session == session->number)
		return first;
	return lease_at(a, number_map_get(&session->leases, &first->inode));
}

/* The write lease on `inode`, or NULL. */
struct lease *lease_exclusive(const struct authority *a, const struct inode *inode)
{
	struct lease *lease = inode_lease_first(a, inode);

	return lease && lease->exclusive ? lease : NULL;
}

/* Somebody has a lease on `inode` other than `lease`, which may be NULL. */
static bool leased_beside(const struct authority *a, const struct inode *inode,
			  const struct lease *lease)
{
	const struct lease *first = inode_lease_first(a, inode);

	return first && (first != lease || inode_lease_next(a, inode, first));
}

static void lease_link(struct authority *a, struct inode *inode, uint32_t lease)
{
	assert(!lease_exclusive(a, inode));
	ring_append(&a->leases, offsetof(struct lease, in_inode), &inode->leases, lease);
}

static void lease_unlink(struct authority *a, struct inode *inode, struct lease *lease)
{
	if (lease->exclusive)
		inode->leases = 0;
	else
		(void)ring_remove(&a->leases, offsetof(struct lease, in_inode), &inode->leases,
				  &lease->in_inode);
}

/* Its own: its neighbours in its session's list know it. */
static uint32_t lease_number(const struct authority *a, const struct lease *lease)
{
	return ring_number(&a->leases, offsetof(struct lease, in_session), &lease->in_session);
}

/* From one of its session's lists to the end of another, or of the same. */
static void lease_move(struct authority *a, struct lease *lease, uint32_t *from, uint32_t *to)
{
	size_t offset = offsetof(struct lease, in_session);
	uint32_t number = ring_remove(&a->leases, offset, from, &lease->in_session);

	ring_append(&a->leases, offset, to, number);
}

/* The list of its session that it is in. */
static uint32_t *lease_list(struct session *session, const struct lease *lease)
{
	return lease->recall_sequence ? &session->recalled : &session->granted;
}

struct recall_names *lease_names(const struct authority *a, const struct lease *lease)
{
	uint64_t id = lease->names_id;

	return id ? map_get(&a->names, &id) : NULL;
}

void names_unref(struct authority *a, struct recall_names *names)
{
	if (!names || --names->refs)
		return;
	map_remove(&a->names, &names->id);
	authority_free(a, names, sizeof(*names));
}

static void lease_drop_names(struct authority *a, struct lease *lease)
{
	names_unref(a, lease_names(a, lease));
	lease->names_id = 0;
}

static uint32_t recalled_at(struct instant now)
{
	return (uint32_t)(now.ns / RECALLED_AT_NS);
}

/* How long its recall has been out, to RECALLED_AT_NS. */
struct duration lease_recalled_for(const struct authority *a, const struct lease *lease)
{
	uint32_t units = recalled_at(a->now) - lease->recalled_at;

	return (struct duration){ units * RECALLED_AT_NS };
}

/* The one behind `lease` among those that are recalled from its session; 0: none. */
static uint32_t recalled_next(const struct session *session, const struct lease *lease)
{
	return ring_next(&lease->in_session, session->recalled);
}

/* `lease` leaves its place among the recalled: what is sent next is the one behind it. */
static void lease_unsend(struct authority *a, struct session *session, const struct lease *lease)
{
	if (lease_at(a, session->unsent) == lease)
		session->unsent = recalled_next(session, lease);
}

/*
 * Sends a recall of `lease`. One at a time is out: a RECALL_ALL takes the place of a RECALL_NAMES
 * that is not acknowledged, whose acknowledgement is then ignored (5.2).
 */
void lease_recall(struct authority *a, struct lease *lease, enum recall_scope scope,
		  struct recall_names *names)
{
	struct session *session = lease_session(a, lease);
	uint32_t *list = lease_list(session, lease);

	if (lease->recall_sequence && lease->scope == RECALL_ALL)
		return;
	lease_unsend(a, session, lease);
	if (lease->recall_sequence)
		scope = RECALL_ALL;
	else
		lease->recalled_at = recalled_at(a->now);
	lease_drop_names(a, lease);
	lease->scope = scope;
	if (scope == RECALL_NAMES) {
		lease->names_id = (uint32_t)names->id;
		names->refs++;
	}
	lease->recall_sequence = ++session->recall_sequence;
	lease_move(a, lease, list, &session->recalled);
	if (!session->unsent)
		session->unsent = lease_number(a, lease);
	authority_pend(a, &session->recalls);
	a->counters.recalls++;
}

/* The session holds it no more; an operation that waited for that may run. */
void lease_remove(struct authority *a, struct lease *lease)
{
	struct inode *inode = lease_inode(a, lease);
	struct session *session = lease_session(a, lease);
	uint32_t number;

	lease_unsend(a, session, lease);
	(void)ring_remove(&a->leases, offsetof(struct lease, in_session), lease_list(session, lease),
			  &lease->in_session);
	lease_unlink(a, inode, lease);
	a->counters.leases--;
	number = number_map_remove(&session->leases, &lease->inode);
	lease_drop_names(a, lease);
	operation_drained(a, lease);
	if (lease->exclusive)
		operations_start(a, inode); /* readers that waited for it */
	numbered_free(&a->leases, number);
	authority_inode_put(a, inode);
}

/*
 * PROTOCOL.md 5.1: at its limit a session gives up what was granted longest ago; a little before it,
 * so that the room is there when it is needed.
 */
static bool lease_room(struct authority *a, struct session *session)
{
	uint32_t max = a->config.lease_count_max;
	size_t count = session->leases.count;

	if (count + 1 > max - max / 8 && session->granted)
		lease_recall(a, lease_at(a, session->granted), RECALL_ALL, NULL);
	return count < max && a->counters.leases < a->config.lease_total_max;
}

/* A new lease; false when there is no room or no memory. */
static bool lease_make(struct authority *a, struct session *session, const struct handle *handle)
{
	struct inode *inode;
	struct lease *lease;
	uint32_t number;

	if (!lease_room(a, session) || number_map_reserve(&session->leases, 1))
		return false;
	lease = numbered_allocate(&a->leases, sizeof(*lease), &number);
	if (!lease)
		return false;
	inode = authority_inode_make(a, handle, &lease->inode);
	if (!inode) {
		numbered_free(&a->leases, number);
		return false;
	}
	lease->session = session->number;
	lease_link(a, inode, number);
	session->leased = true;
	ring_append(&a->leases, offsetof(struct lease, in_session), &session->granted, number);
	a->counters.leases++;
	number_map_insert(&session->leases, number);
	operations_promote(a, session, inode);
	return true;
}

/*
 * PROTOCOL.md 5.1: the rules of a grant, for grants and reclaims alike. A lease that stands is
 * confirmed whatever grace, back-off and limits say: nothing new is promised.
 */
static bool lease_grant(struct authority *a, struct session *session, const struct handle *handle,
			uint64_t op, bool in_grace, bool in_backoff)
{
	struct inode *inode = authority_inode_get(a, handle);
	struct lease *lease = inode ? lease_get(a, session, inode) : NULL;
	struct inode_busy *busy = inode ? inode_busy(a, inode) : NULL;

	/* I2: no grant while someone else's modification drains or runs. */
	if (inode && operation_modifies(a, inode, op))
		return false;
#ifndef LEASE_WRONG_READ_BESIDE_WRITER
	/* PROTOCOL.md 5.7: somebody else may have newer bytes than the answer. */
	if (inode && lease_exclusive(a, inode) && !lease)
		return false;
#endif
	if (lease) {
		/* The acknowledgement of the recall that is out would take it away again. */
		if (lease->recall_sequence)
			return false;
		lease_move(a, lease, &session->granted, &session->granted);
		return true;
	}
	/* PROTOCOL.md 6.3: whose session had ended before may not know what happened since. */
	if (a->grace && !(in_grace && session->claims))
		return false;
	/* It would be recalled by what waits, which then waits once more. */
	if (busy && !in_backoff &&
	    (instant_before(a->now, busy->quiet_until) || operation_waits(a, inode, op)))
		return false;
	return lease_make(a, session, handle);
}

/* PROTOCOL.md 5.7: when there is no other. */
static void lease_make_exclusive(struct authority *a, struct lease *lease)
{
	if (lease->exclusive || leased_beside(a, lease_inode(a, lease), lease))
		return;
	lease->exclusive = true;
	lease->exclusive_since = lease_session(a, lease)->recall_sequence;
	operations_go_ahead(a, lease);
}

enum lease_kind authority_grant(struct authority *a, struct instant now, struct session_id id,
				const struct handle *handle, uint64_t op,
				struct authority_actions *out, uint64_t *ret_recall_sequence)
{
	struct session *session;
	struct operation *o;
	struct lease *lease = NULL;
	bool granted = false;
	bool exempt;

	authority_advance(a, now);
	session = session_get_live(a, id);
	/* Before anything that this call itself may recall (I3). */
	*ret_recall_sequence = session ? session->recall_sequence : 0;
	o = op ? map_get(&a->operations, &op) : NULL;
	/* 5.4: a strict read that runs under its session's old lease is weak. */
	if (o && (o->state != OPERATION_RUNNING || o->place_count == 0))
		o = NULL;
	exempt = o && o->kind != AUTHORITY_MODIFY;
	if (session)
		granted = lease_grant(a, session, handle, o ? op : 0, false, exempt);
	if (granted)
		lease = lease_get(a, session, authority_inode_get(a, handle));
	if (lease && o && o->kind == AUTHORITY_ACQUIRE)
		lease_make_exclusive(a, lease);
	if (granted)
		a->counters.grants++;
	else
		a->counters.grants_refused++;
	authority_flush(a, out);
	if (!lease)
		return LEASE_NONE;
	return lease->exclusive ? LEASE_WRITE : LEASE_READ;
}

static int opened_add(struct authority *a, struct session *session, const struct handle *handle)
{
	struct inode *inode = authority_inode_get(a, handle);
	struct opened *opened;

	if (inode && map_get(&session->opens, &inode))
		return 0;
	if (session->opens.count >= a->config.open_count_max)
		return -EAGAIN;
	if (map_reserve(&session->opens, 1))
		return -ENOMEM;
	opened = authority_allocate(a, sizeof(*opened));
	if (!opened)
		return -ENOMEM;
	inode = authority_inode_make_busy(a, handle);
	if (!inode) {
		authority_free(a, opened, sizeof(*opened));
		return -ENOMEM;
	}
	opened->inode = inode;
	list_init(&opened->link);
	list_append(&session->open_list, &opened->link);
	inode_busy(a, inode)->open_count++;
	a->counters.opens++;
	map_insert(&session->opens, opened);
	return 0;
}

/*
 * PROTOCOL.md 6.4: what `session` says that it held under its previous session it did: that one was in
 * the record, nothing was granted or modified since, and the host would not ask if the lease had been
 * recalled or its term were over. One that stands is confirmed also while it is being recalled: its
 * host may have stores that it has to write back first.
 */
static bool reclaim_exclusive(struct authority *a, struct session *session,
			      const struct handle *handle)
{
	struct inode *inode = authority_inode_get(a, handle);
	struct lease *lease = inode ? lease_get(a, session, inode) : NULL;

	if (lease && lease->exclusive)
		return true;
	if (!a->grace || !session->claims || (inode && leased_beside(a, inode, lease)) ||
	    !lease_grant(a, session, handle, 0, true, true))
		return false;
	lease = lease_get(a, session, authority_inode_get(a, handle));
	lease_make_exclusive(a, lease);
	/* The first of this session on the inode: all that it writes back was stored under it. */
	lease->exclusive_since = 0;
	return true;
}

bool authority_reclaim(struct authority *a, struct instant now, struct session_id id,
		       const struct handle *handle, enum lease_kind kind, bool open,
		       struct authority_actions *out)
{
	struct session *session;
	bool granted = false;

	authority_advance(a, now);
	session = session_get_live(a, id);
	/*
	 * PROTOCOL.md 10.6: should its claims of locks not come to an end, the session ends with grace,
	 * while its host would go on answering under what was granted here.
	 */
	if (session && session->owes_locks)
		session = NULL;
	/* An open that cannot be registered must not look registered: the host opens again. */
	if (session && (!open || opened_add(a, session, handle) == 0))
		granted = kind == LEASE_WRITE ?
				  reclaim_exclusive(a, session, handle) :
				  lease_grant(a, session, handle, 0, true, true);
	if (granted)
		a->counters.grants++;
	else
		a->counters.grants_refused++;
	authority_flush(a, out);
	return granted;
}

void authority_release(struct authority *a, struct instant now, struct session_id id,
		       const struct handle *handle, struct authority_actions *out)
{
	struct session *session;
	struct inode *inode;
	struct lease *lease;

	authority_advance(a, now);
	session = session_get_live(a, id);
	inode = authority_inode_get(a, handle);
	lease = session && inode ? lease_get(a, session, inode) : NULL;
	/* PROTOCOL.md 5.6: a recall that is out does for the release, too. */
	if (lease && lease->recall_sequence)
		lease->released = true;
	else if (lease)
		lease_recall(a, lease, RECALL_ALL, NULL);
	authority_flush(a, out);
}

static struct lease *lease_by_sequence(const struct authority *a, const struct session *session,
				       uint64_t sequence)
{
	struct lease *lease = lease_at(a, session->recalled);

	/* Hosts acknowledge about in order, so this is short. */
	while (lease && lease->recall_sequence < sequence)
		lease = lease_at(a, recalled_next(session, lease));
	return lease && lease->recall_sequence == sequence ? lease : NULL;
}

/* The host keeps the lease after a RECALL_NAMES. */
static void lease_keep(struct authority *a, struct lease *lease)
{
	struct session *session = lease_session(a, lease);

	lease_unsend(a, session, lease);
	lease_move(a, lease, &session->recalled, &session->granted);
	lease->recall_sequence = 0;
	lease_drop_names(a, lease);
	/* Before the operation runs: what was released meanwhile is recalled as a whole. */
	if (lease->released)
		lease_recall(a, lease, RECALL_ALL, NULL);
	lease->released = false;
	operation_drained(a, lease);
}

uint16_t authority_acknowledge(struct authority *a, struct instant now, struct session_id id,
			       uint64_t sequence, bool open, bool kept,
			       struct authority_actions *out)
{
	struct session *session;
	struct lease *lease;
	uint16_t status = STATUS_OK;

	authority_advance(a, now);
	session = session_get_live(a, id);
	lease = session ? lease_by_sequence(a, session, sequence) : NULL;
	if (!session) {
		status = STATUS_NOSESSION;
	} else if (lease) {
		struct handle handle = inode_handle(lease_inode(a, lease));
		int ret = open ? opened_add(a, session, &handle) : 0;

		/* At the bound the open is not registered: I8 comes before an orphan's life. */
		if (ret == -EAGAIN)
			a->counters.pushbacks++;
		if (ret == -ENOMEM)
			status = STATUS_NOMEM;
		else if (kept && lease->scope == RECALL_NAMES)
			lease_keep(a, lease);
		else
			lease_remove(a, lease);
	}
	authority_flush(a, out);
	return status;
}

bool authority_is_leased(const struct authority *a, const struct handle *handle)
{
	const struct inode *inode = authority_inode_get(a, handle);

	return inode && inode->leases;
}

uint32_t authority_leased(const struct authority *a, size_t *cursor, struct handle *ret_handles,
			  uint32_t max)
{
	const struct inode *inode;
	uint32_t count = 0;

	while (count < max &&
	       (inode = numbered_at(&a->inode_pool, number_map_next(&a->inodes, cursor))))
		if (inode->leases)
			ret_handles[count++] = inode_handle(inode);
	return count;
}

bool authority_holds(const struct authority *a, struct session_id id, const struct handle *handle)
{
	const struct session *session = session_get_live(a, id);
	const struct inode *inode = authority_inode_get(a, handle);

	return session && inode && lease_get(a, session, inode);
}

/* ---- registered opens ---- */

/* The last one of all sessions tells the caller that an orphan can go. */
void opened_remove(struct authority *a, struct session *session, struct opened *opened)
{
	struct inode *inode = opened->inode;
	struct inode_busy *busy = inode_busy(a, inode);

	map_remove(&session->opens, &inode);
	list_remove(&opened->link);
	authority_free(a, opened, sizeof(*opened));
	a->counters.opens--;
	if (--busy->open_count == 0)
		authority_pend(a, &busy->unused);
}

uint16_t authority_open(struct authority *a, struct session_id id, const struct handle *handle)
{
	struct session *session = session_get_live(a, id);
	int ret;

	if (!session)
		return STATUS_NOSESSION;
	ret = opened_add(a, session, handle);
	if (ret == -EAGAIN) {
		a->counters.pushbacks++;
		return STATUS_PUSHBACK;
	}
	return ret ? STATUS_NOMEM : STATUS_OK;
}

/* PROTOCOL.md 3.3: each number once. */
static bool close_is_new(struct session *session, uint64_t number)
{
	uint64_t *word = &session->closes[number % CLOSE_WINDOW / 64];
	uint64_t bit = UINT64_C(1) << (number % 64);

	if (number == 0)
		return true;
	if (session->close_number >= CLOSE_WINDOW &&
	    number <= session->close_number - CLOSE_WINDOW)
		return false;
	if (number <= session->close_number && (*word & bit))
		return false;
	if (number > session->close_number + CLOSE_WINDOW)
		memset(session->closes, 0, sizeof(session->closes));
	else
		for (uint64_t n = session->close_number + 1; n < number; n++)
			session->closes[n % CLOSE_WINDOW / 64] &= ~(UINT64_C(1) << (n % 64));
	if (number > session->close_number)
		session->close_number = number;
	*word |= bit;
#ifdef LEASE_WRONG_CLOSE_TWICE
	*word &= ~bit;
#endif
	return true;
}

void authority_close(struct authority *a, struct instant now, struct session_id id,
		     uint64_t number, const struct handle *handle, struct authority_actions *out)
{
	struct session *session;
	struct inode *inode;
	struct opened *opened;

	authority_advance(a, now);
	session = session_get_live(a, id);
	inode = authority_inode_get(a, handle);
	opened = session && inode ? map_get(&session->opens, &inode) : NULL;
	if (session && close_is_new(session, number) && opened)
		opened_remove(a, session, opened);
	authority_flush(a, out);
}

bool authority_is_open(const struct authority *a, const struct handle *handle)
{
	const struct inode *inode = authority_inode_get(a, handle);

	return inode && inode->busy && inode_busy(a, inode)->open_count > 0;
}

bool authority_is_stored_elsewhere(const struct authority *a, struct session_id session,
				   const struct handle *handle)
{
	const struct inode *inode = authority_inode_get(a, handle);
	const struct lease *lease = inode ? lease_exclusive(a, inode) : NULL;

	return lease && lease_session(a, lease)->id.value != session.value;
}
