#include "lease/authority_internal.h"

#include "lease/status.h"

/* ---- sessions, grace, the record ---- */

/*
 * PROTOCOL.md 10.6: in grace nobody can get a conflicting lock, and the host may reclaim under its
 * next session. Otherwise the end must be durable first, or the next run of the origin would let
 * the host reclaim what others have got since.
 */
void authority_locks_session_end(struct authority *a, struct session *session)
{
	session->owes_locks = false;
	lock_table_end(a->locks, a->now, session->id, ++a->ended_mark);
	if (a->grace)
		lock_table_release(a->locks, a->now, a->ended_mark);
}

/* What was not reclaimed is lost, and that must be durable before anybody gets a lock. */
void authority_locks_grace_end(struct authority *a)
{
	LIST_FOR_EACH(at, &a->live) {
		struct session *session = LIST_ENTRY(at, struct session, link);

		if (session->owes_locks)
			session_end(a, session);
	}
	a->lock_gate = ++a->ended_mark;
}

bool authority_locks_expected(struct authority *a, struct session_id id)
{
	struct session *session = session_get_live(a, id);

	if (!session || !session->claims)
		return false;
	/* A repetition of what was answered before must not open the door again. */
	session->owes_locks = !session->paid_locks;
	return true;
}

void authority_locks_reclaimed(struct authority *a, struct session_id id)
{
	struct session *session = session_get_live(a, id);

	if (!session)
		return;
	session->owes_locks = false;
	session->paid_locks = true;
}

uint64_t authority_record_mark(const struct authority *a)
{
	/* The caller has not heard of all ends yet. */
	return list_empty(&a->pending) ? a->ended_mark : a->recorded_mark;
}

void authority_recorded(struct authority *a, struct instant now, uint64_t mark,
			struct authority_actions *out)
{
	authority_advance(a, now);
	if (a->recorded_mark < mark)
		a->recorded_mark = mark;
	lock_table_release(a->locks, a->now, a->recorded_mark);
	authority_flush(a, out);
}

bool authority_record_pending(const struct authority *a)
{
	return lock_table_has_ended(a->locks) || a->recorded_mark < a->lock_gate;
}

/* ---- requests ---- */

static bool is_closed(const struct authority *a)
{
#ifdef LEASE_WRONG_LOCKS_IN_GRACE
	return false; /* wrong on purpose: those who were here before will find out */
#endif
	return a->grace || a->recorded_mark < a->lock_gate;
}

uint16_t authority_lock(struct authority *a, struct instant now, struct session_id id,
			uint64_t number, const struct lock_request *request,
			struct authority_actions *out)
{
	uint16_t status;

	authority_advance(a, now);
	if (!session_get_live(a, id))
		status = STATUS_NOSESSION;
	else
		status = lock_table_set(a->locks, a->now, id, number, request, is_closed(a));
	authority_flush(a, out);
	return status;
}

bool authority_lock_test(struct authority *a, struct instant now, struct session_id id,
			 const struct lock_request *request, struct authority_actions *out,
			 struct lock_range *ret_range, struct session_id *ret_session)
{
	bool found;

	authority_advance(a, now);
	found = lock_table_test(a->locks, id, request, ret_range, ret_session);
	authority_flush(a, out);
	return found;
}

uint16_t authority_lock_settle(struct authority *a, struct instant now, struct session_id id,
			       uint64_t waiter, bool take, struct authority_actions *out)
{
	struct session *session;

	authority_advance(a, now);
	session = session_get_live(a, id);
	if (session)
		lock_table_settle(a->locks, a->now, id, waiter, take);
	authority_flush(a, out);
	return session ? STATUS_OK : STATUS_NOSESSION;
}

bool authority_lock_reclaim(struct authority *a, struct instant now, struct session_id id,
			    const struct lock_request *claim, struct authority_actions *out)
{
	struct session *session;
	bool granted;

	authority_advance(a, now);
	session = session_get_live(a, id);
	granted = session && lock_table_reclaim(a->locks, id, claim, session->owes_locks);
	authority_flush(a, out);
	return granted;
}

/* ---- offers ---- */

/* What finds no memory leaves with the next call. */
void authority_locks_flush(struct authority *a, struct authority_actions *out)
{
	while (lock_table_has_offer(a->locks)) {
		struct authority_action *action =
			authority_actions_add(out, AUTHORITY_SEND_LOCK_OFFER);

		if (!action || !lock_table_offer(a->locks, &action->session, &action->waiter,
						 &action->status))
			return;
	}
}

/* PROTOCOL.md 10.5, as a recall: others wait for what is offered and not taken. */
bool authority_offer_is_overdue(const struct authority *a, const struct session *session)
{
	struct instant since = lock_table_offered_since(a->locks, session->id);

	return instant_until(since, a->now).ns >= a->config.term.ns / 3;
}

/* ---- looking ---- */

void authority_lock_counters(const struct authority *a, struct lock_counters *ret_counters)
{
	lock_table_counters(a->locks, ret_counters);
}

bool authority_lock_backs(const struct authority *a, struct session_id id,
			  const struct lock_request *what)
{
	return lock_table_backs(a->locks, id, what);
}
