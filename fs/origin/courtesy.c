#include "fs/origin/courtesy.h"

static bool is_over(const struct courtesy_refusal *r, struct instant now)
{
	return instant_until(r->latest, now).ns >= duration_ms(COURTESY_MEMORY_MS).ns;
}

static void drop(struct courtesy *c, uint32_t index)
{
	c->refusals[index] = c->refusals[--c->count];
}

static bool same_inode(const struct courtesy_refusal *r, const struct lock_request *request)
{
	return r->request.kind == request->kind &&
	       handle_equal(&r->request.handle, &request->handle);
}

static bool same_owner(const struct courtesy_refusal *r, struct session_id session,
		       const struct lock_request *request)
{
	return r->session.value == session.value && r->request.owner == request->owner &&
	       same_inode(r, request);
}

/* The one of this owner, or one that can be used for it. */
static struct courtesy_refusal *place(struct courtesy *c, struct instant now,
				      struct session_id session, const struct lock_request *request)
{
	struct courtesy_refusal *oldest = &c->refusals[0];

	for (uint32_t i = 0; i < c->count;) {
		struct courtesy_refusal *r = &c->refusals[i];

		if (is_over(r, now)) {
			drop(c, i);
			continue;
		}
		if (same_owner(r, session, request))
			return r;
		if (instant_before(r->latest, oldest->latest))
			oldest = r;
		i++;
	}
	if (c->count < COURTESY_MAX)
		oldest = &c->refusals[c->count++];
	oldest->since = now;
	return oldest;
}

void courtesy_refused(struct courtesy *c, struct instant now, struct session_id session,
		      const struct lock_request *request)
{
	struct courtesy_refusal *r = place(c, now, session, request);

	r->session = session;
	r->request = *request;
	r->latest = now;
}

void courtesy_granted(struct courtesy *c, struct session_id session,
		      const struct lock_request *request)
{
	for (uint32_t i = 0; i < c->count;) {
		const struct courtesy_refusal *r = &c->refusals[i];
		const struct lock_range *wanted = &r->request.range, *got = &request->range;

		if (same_owner(r, session, request) && got->type >= wanted->type &&
		    got->start <= wanted->end && wanted->start <= got->end)
			drop(c, i);
		else
			i++;
	}
}

/* Since when somebody of the session is refused here; `now`: nobody is. */
static struct instant refused_since(const struct courtesy *c, struct instant now,
				    struct session_id session, const struct lock_request *request)
{
	struct instant since = now;

	for (uint32_t i = 0; i < c->count; i++) {
		const struct courtesy_refusal *r = &c->refusals[i];

		if (r->session.value == session.value && same_inode(r, request) &&
		    !is_over(r, now) && instant_before(r->since, since))
			since = r->since;
	}
	return since;
}

const struct courtesy_refusal *courtesy_before(struct courtesy *c, struct instant now,
					       struct session_id session,
					       const struct lock_request *request,
					       const struct courtesy_refusal *previous)
{
	struct instant since;

	if (c->count == 0)
		return NULL;
	since = refused_since(c, now, session, request);
	for (uint32_t i = previous ? (uint32_t)(previous - c->refusals) + 1 : 0; i < c->count; i++) {
		const struct courtesy_refusal *r = &c->refusals[i];

		if (r->session.value != session.value && same_inode(r, request) &&
		    !is_over(r, now) && instant_before(r->since, since) &&
		    lock_conflicts(&r->request.range, &request->range))
			return r;
	}
	return NULL;
}

void courtesy_forget(struct courtesy *c, struct instant now, struct session_id session,
		     const struct lock_request *request)
{
	const struct courtesy_refusal *r;

	while ((r = courtesy_before(c, now, session, request, NULL)))
		drop(c, (uint32_t)(r - c->refusals));
}
