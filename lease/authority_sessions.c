#include "lease/authority_internal.h"

#include "lease/status.h"

#include <assert.h>
#include <errno.h>

struct session *session_get(const struct authority *a, struct session_id id)
{
	return map_get(&a->sessions, &id.value);
}

struct session *session_get_live(const struct authority *a, struct session_id id)
{
	struct session *session = session_get(a, id);

	return session && session->live ? session : NULL;
}

/*
 * PROTOCOL.md 4.2: from the moment at which the authority answers, the term by the slowest clock,
 * and the margin.
 */
static struct instant session_end_from(const struct authority *a, struct instant now)
{
	struct duration term = a->config.term;

#ifndef LEASE_WRONG_NO_DRIFT_MARGIN
	term.ns += term.ns / 1000000 * a->config.drift_ppm;
	term.ns += a->config.term.ns % 1000000 * a->config.drift_ppm / 1000000;
#endif
	return instant_add(instant_add(now, term), a->config.margin);
}

/* Terms are equal, so a renewed session belongs at the tail, or near it: O(1). */
static void session_renew(struct authority *a, struct session *session, struct instant now)
{
	struct instant end = session_end_from(a, now);
	struct list *at;

	if (!instant_before(session->end, end))
		return;
	session->end = end;
	session->silent->is.renewed = now;
	list_remove(&session->link);
	at = a->live.prev;
	while (at != &a->live &&
	       instant_before(end, LIST_ENTRY(at, struct session, link)->end))
		at = at->prev;
	list_insert_after(at, &session->link);
}

static struct session_id session_id_draw(struct authority *a)
{
	struct session_id id;

	do
		id.value = rng_next(&a->rng);
	while (id.value == 0 || session_get(a, id));
	return id;
}

/* In no list yet, and not live. */
static struct session *session_allocate(struct authority *a, struct session_id id,
					uint32_t slot_count)
{
	struct session *session;
	struct slot *slots;
	uint32_t number;

	if (map_reserve(&a->sessions, 1))
		return NULL;
	slots = authority_allocate(a, slot_count * sizeof(*slots));
	session = slots ? numbered_allocate(&a->session_pool, sizeof(*session), &number) : NULL;
	if (!session) {
		authority_free(a, slots, slot_count * sizeof(*slots));
		return NULL;
	}
	session->id = id;
	session->number = number;
	session->slots = slots;
	session->slot_count = slot_count;
	list_init(&session->link);
	list_init(&session->open_list);
	list_init(&session->operations);
	list_init(&session->recalls.link);
	list_init(&session->over.link);
	list_init(&session->forgotten.link);
	session->recalls.what = PENDING_RECALLS;
	session->over.what = PENDING_SESSION_ENDED;
	session->forgotten.what = PENDING_SESSION_FORGOTTEN;
	static_assert(sizeof(struct inode *) == sizeof(uint64_t), "an address is a key");
	number_map_init(&session->leases, &a->leases, NUMBER_MAP_U32, offsetof(struct lease, inode),
			session->id.value);
	map_init(&session->opens, a->allocator, MAP_U64, offsetof(struct opened, inode),
		 session->id.value);
	map_insert(&a->sessions, session);
	return session;
}

static struct session *session_make(struct authority *a, struct instant now, uint32_t slot_count)
{
	struct silent *silent = silent_make(a);
	struct session *session =
		silent ? session_allocate(a, session_id_draw(a), slot_count) : NULL;

	if (!session) {
		authority_free(a, silent, sizeof(*silent));
		return NULL;
	}
	silent->is.session = session->id;
	session->silent = silent;
	session->live = true;
	a->live_count++;
	session_renew(a, session, now);
	return session;
}

/* Frees the memory; the session is in no list and no map any more. */
void session_free(struct authority *a, struct session *session)
{
	number_map_finish(&session->leases);
	map_finish(&session->opens);
	authority_free(a, session->silent, sizeof(*session->silent));
	authority_free(a, session->slots, session->slot_count * sizeof(*session->slots));
	numbered_free(&a->session_pool, session->number);
}

/*
 * PROTOCOL.md 3.4: the slots of ended sessions are remembered for a while. The oldest go first; one
 * with an operation still running stays until that is done.
 */
void session_forget_surplus(struct authority *a)
{
	LIST_FOR_EACH(at, &a->ended) {
		struct session *session = LIST_ENTRY(at, struct session, link);

		if (a->ended_count <= a->config.ended_count_max)
			return;
		if (!list_empty(&session->operations))
			continue;
		list_remove(&session->link);
		map_remove(&a->sessions, &session->id);
		a->ended_count--;
		authority_pend(a, &session->forgotten);
	}
}

/* Grace does not wait for `previous` any longer (6.2). */
static void previous_resolve(struct authority *a, struct previous *previous)
{
	previous->resolved = true;
	previous->claimed_by = NULL;
	grace_check(a);
}

/*
 * Ends a session (I2, 3.4): its leases vanish and what drained on them goes on, its operations that
 * have not begun are refused, its opens are closed. A RUNNING operation is stopped by
 * authority_may_apply(), or was applied already and ends as it may.
 */
void session_end(struct authority *a, struct session *session)
{
	assert(session->live);
	session->live = false;
	a->live_count--;
	list_remove(&session->link);
	list_append(&a->ended, &session->link);
	a->ended_count++;
	session->unsent = 0;
	list_remove(&session->recalls.link);
	authority_pend(a, &session->over);
	authority_locks_session_end(a, session);
	/* PROTOCOL.md 11.4: without a lease its host has learned of no seal. */
	if (session->leased && session->silent) {
		silent_add(a, session->silent);
		session->silent = NULL;
	}

	LIST_FOR_EACH(at, &session->operations) {
		struct operation *o = LIST_ENTRY(at, struct operation, in_session);

		if (o->state != OPERATION_RUNNING)
			operation_refuse(a, o, STATUS_NOSESSION);
	}
	while (session->recalled) {
		a->counters.recalls_expired++;
		lease_remove(a, lease_at(a, session->recalled));
	}
	while (session->granted)
		lease_remove(a, lease_at(a, session->granted));
	while (!list_empty(&session->open_list))
		opened_remove(a, session, LIST_ENTRY(list_first(&session->open_list),
						     struct opened, link));
	number_map_finish(&session->leases);
	map_finish(&session->opens);
	if (session->claims) {
		struct previous *claims = session->claims;

		session->claims = NULL;
		previous_resolve(a, claims);
	}
	session_forget_surplus(a);
}

int authority_session_restore(struct authority *a, struct instant now, struct session_id id,
			      const uint8_t host[16], const uint64_t *sequences,
			      uint32_t slot_count, struct authority_actions *out)
{
	struct session *session;

	assert(slot_count > 0);
	authority_advance(a, now);
	if (id.value == 0 || session_get(a, id))
		return -EEXIST;
	session = session_allocate(a, id, slot_count);
	if (!session)
		return -ENOMEM;
	memcpy(session->host, host, sizeof(session->host));
#ifndef LEASE_WRONG_SLOTS_FORGOTTEN
	for (uint32_t i = 0; i < slot_count; i++)
		session->slots[i].sequence = sequences[i];
#endif
	list_append(&a->ended, &session->link);
	a->ended_count++;
	session_forget_surplus(a);
	authority_flush(a, out);
	return 0;
}

/* The record of the previous run that `id` of `host` belongs to, or NULL. */
static struct previous *previous_get(struct authority *a, const uint8_t host[16],
				     struct session_id id)
{
	for (size_t i = 0; a->grace && i < a->previous_count; i++) {
		struct previous *previous = &a->previous[i];

		if (previous->session.value == id.value && !previous->resolved &&
		    memcmp(previous->host, host, sizeof(previous->host)) == 0)
			return previous;
	}
	return NULL;
}

/*
 * PROTOCOL.md 3.1: the session that this very request opened when it came before. A repetition must
 * not end it nor open another: the host may have taken the first answer and be using it.
 */
static struct session *session_opened_before(struct authority *a, const uint8_t host[16],
					     uint64_t instance, struct session_id previous)
{
	LIST_FOR_EACH(at, &a->live) {
		struct session *session = LIST_ENTRY(at, struct session, link);

		if (session->instance == instance && session->previous.value == previous.value &&
		    memcmp(session->host, host, sizeof(session->host)) == 0)
			return session;
	}
	return NULL;
}

static void session_answer(const struct session *session, bool reclaim,
			   struct session_id *ret_session, uint32_t *ret_slot_count,
			   bool *ret_reclaim)
{
	*ret_session = session->id;
	*ret_slot_count = session->slot_count;
	*ret_reclaim = reclaim;
}

/*
 * PROTOCOL.md 4.4 (I8): while a recall has been out for a third of the term, the session is not
 * renewed: a host whose stream is dead but whose keep-alives come through would otherwise hold up
 * a modification for ever.
 */
static bool recall_is_overdue(const struct authority *a, const struct session *session)
{
	const struct lease *first = lease_at(a, session->recalled);

	if (authority_offer_is_overdue(a, session))
		return true;
	return first && lease_recalled_for(a, first).ns >= a->config.term.ns / 3;
}

uint16_t authority_session_open(struct authority *a, struct instant now, const uint8_t host[16],
				uint64_t instance, struct session_id previous, uint32_t slot_count,
				struct authority_actions *out, struct session_id *ret_session,
				uint32_t *ret_slot_count, bool *ret_reclaim)
{
	struct session *session, *old;
	struct previous *record;
	bool named;

	authority_advance(a, now);
	session = session_opened_before(a, host, instance, previous);
	if (session && recall_is_overdue(a, session)) {
		/* 4.4: a stray repetition must not renew it either, and so must not be believed. */
		a->counters.pushbacks++;
		authority_flush(a, out);
		return STATUS_PUSHBACK;
	}
	if (session) {
		session_renew(a, session, now);
		session_answer(session, previous.value != 0, ret_session, ret_slot_count,
			       ret_reclaim);
		authority_flush(a, out);
		return STATUS_OK;
	}
	old = session_get(a, previous);
	if (old && memcmp(old->host, host, sizeof(old->host)) != 0)
		old = NULL; /* another host's session is not this one's to end */
	named = old && old->live;
	if (a->live_count - (named ? 1 : 0) >= a->config.session_count_max) {
		a->counters.pushbacks++;
		authority_flush(a, out);
		return STATUS_PUSHBACK;
	}
	if (slot_count > a->config.slot_count_max)
		slot_count = a->config.slot_count_max;
	session = session_make(a, now, slot_count ? slot_count : 1);
	if (!session) {
		authority_flush(a, out);
		return STATUS_NOMEM;
	}
	memcpy(session->host, host, sizeof(session->host));
	memcpy(session->silent->is.host, host, sizeof(session->silent->is.host));
	session->silent->is.instance = instance;
	session->instance = instance;
	session->previous = previous;
	if (named && old->claims) {
		session->claims = old->claims;
		session->claims->claimed_by = session;
		old->claims = NULL;
	}
	if (named)
		session_end(a, old);
	/* PROTOCOL.md 6.2: the host gave its old session up, and may reclaim under the new one. */
	record = previous_get(a, host, previous);
	if (record && !record->claimed_by && !session->claims) {
		record->claimed_by = session;
		session->claims = record;
		if (!record->told) {
			record->told = true;
			authority_pend(a, &record->ended);
		}
	}
	session_answer(session, previous.value != 0, ret_session, ret_slot_count, ret_reclaim);
	authority_flush(a, out);
	return STATUS_OK;
}

uint16_t authority_keepalive(struct authority *a, struct instant now, struct session_id id,
			     struct authority_actions *out, uint64_t *ret_recall_sequence)
{
	struct session *session;
	uint16_t status = STATUS_OK;

	authority_advance(a, now);
	session = session_get_live(a, id);
	*ret_recall_sequence = session ? session->recall_sequence : 0;
	if (!session)
		status = STATUS_NOSESSION;
	else if (recall_is_overdue(a, session))
		status = STATUS_BUSY;
	else
		session_renew(a, session, now);
	if (session)
		silent_heard(a, session);
	authority_flush(a, out);
	return status;
}

uint16_t authority_stream_attached(struct authority *a, struct instant now, struct session_id id,
				   struct authority_actions *out)
{
	struct session *session;

	authority_advance(a, now);
	session = session_get_live(a, id);
#ifdef LEASE_WRONG_RECALL_LOST_ON_RECONNECT
	/* Wrong on purpose: takes what was sent on the old stream for received. */
	while (session && session->recalled)
		lease_remove(a, lease_at(a, session->recalled));
#else
	/* PROTOCOL.md 5.2: what was sent on the stream before may never have arrived. */
	if (session && session->recalled) {
		session->unsent = session->recalled;
		authority_pend(a, &session->recalls);
	}
#endif
	if (session) {
		silent_heard(a, session);
		lock_table_resend(a->locks, id);
	}
	authority_flush(a, out);
	return session ? STATUS_OK : STATUS_NOSESSION;
}

uint16_t authority_session_close(struct authority *a, struct instant now, struct session_id id,
				 struct authority_actions *out)
{
	struct session *session;

	authority_advance(a, now);
	session = session_get_live(a, id);
	if (session) {
		session->leased = false; /* everything is given up, what is sealed as well */
		session_end(a, session);
	}
	authority_flush(a, out);
	return session ? STATUS_OK : STATUS_NOSESSION;
}

bool authority_session_alive(const struct authority *a, struct instant now, struct session_id id)
{
	const struct session *session = session_get_live(a, id);

	return session && instant_before(now, session->end);
}

/* ---- grace ---- */

/* PROTOCOL.md 6.2: over when everyone who may hold something has reclaimed, or its time is up. */
void grace_check(struct authority *a)
{
	bool waits = a->grace_full;

	if (!a->grace)
		return;
	for (size_t i = 0; i < a->previous_count; i++)
		waits |= !a->previous[i].resolved;
	if (waits && instant_before(a->now, a->grace_end))
		return;
	a->grace = false;
	for (size_t i = 0; i < a->previous_count; i++) {
		struct previous *previous = &a->previous[i];

		if (previous->claimed_by)
			previous->claimed_by->claims = NULL;
		previous->claimed_by = NULL;
		previous->resolved = true;
		if (!previous->told) {
			previous->told = true;
			authority_pend(a, &previous->ended);
		}
	}
	authority_pend(a, &a->grace_ended);
	authority_locks_grace_end(a);
	operations_start_all(a);
}

struct duration authority_grace(const struct authority *a, struct instant now)
{
	if (!a->grace)
		return (struct duration){ 0 };
	return instant_until(now, a->grace_end);
}

void authority_reclaim_done(struct authority *a, struct instant now, struct session_id id,
			    struct authority_actions *out)
{
	struct session *session;

	authority_advance(a, now);
	session = session_get_live(a, id);
	if (session && session->claims) {
		struct previous *claims = session->claims;

		session->owes_locks = false; /* they come before the last of the leases */
		session->claims = NULL;
		previous_resolve(a, claims);
	}
	authority_flush(a, out);
}
