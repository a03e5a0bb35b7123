#include "lease/holder_internal.h"

#include "lease/status.h"

/* `session` is the one that is ACTIVE. */
bool session_is(const struct holder *h, struct session_id session)
{
	return h->state == HOLDER_ACTIVE && h->session.value == session.value;
}

/*
 * PROTOCOL.md 4.1 (I1): counted from before the request was sent, by the fastest clock, less the
 * time that fencing takes.
 */
struct instant validity_from(const struct holder *h, struct instant now,
				    struct instant sent, struct duration term)
{
#ifdef LEASE_WRONG_TERM_FROM_ANSWER
	/* Wrong on purpose: the answer may have been under way for as long as it liked. */
	sent = now;
#endif
#ifndef LEASE_WRONG_NO_DRIFT_MARGIN
	uint64_t drift = term.ns / 1000000 * h->drift_ppm +
			 term.ns % 1000000 * h->drift_ppm / 1000000;

	term.ns = drift < term.ns ? term.ns - drift : 0;
#endif
	term.ns = h->config.fence_margin.ns < term.ns ? term.ns - h->config.fence_margin.ns : 0;
	return instant_add(sent, term);
}

/* ---- opening ---- */

static void session_open(struct holder *h)
{
	h->state = HOLDER_OPENING;
	h->wants |= WANT_SESSION_OPEN;
}

void holder_connect(struct holder *h, struct instant now, struct holder_actions *out)
{
	holder_advance(h, now);
	h->connecting = true;
	if (h->state == HOLDER_NONE)
		session_open(h);
	holder_flush(h, out);
}

static void open_failed(struct holder *h)
{
	h->state = HOLDER_NONE;
	h->wants &= ~(uint32_t)WANT_SESSION_OPEN;
	h->open_at = instant_add(h->now, holder_backoff(h, h->failures));
	h->failures++;
}

void holder_session_failed(struct holder *h, struct instant now, struct holder_actions *out)
{
	holder_advance(h, now);
	if (h->state == HOLDER_OPENING)
		open_failed(h);
	holder_flush(h, out);
}

static void session_start(struct holder *h, struct instant sent,
			  const struct message_session_opened *answer)
{
	h->state = HOLDER_ACTIVE;
	h->renewed = sent;
	h->failures = 0;
	h->keepalive_failures = 0;
	h->keepalive_at = instant_add(sent, (struct duration){ h->term.ns / 3 });
	h->sequence_announced = 0;
	h->recall_sequence = 0;
	h->stream = STREAM_OPENING;
	h->stream_failures = 0;
	h->attached = false;
	h->lease_count_max = h->config.lease_count_max;
	if (answer->lease_count_max && answer->lease_count_max < h->lease_count_max)
		h->lease_count_max = answer->lease_count_max;
	h->counters.sessions++;
	window_reset(h);
	h->reclaim = answer->reclaim != 0;
	if (!h->reclaim)
		candidates_forget(h);
	h->wants |= WANT_RENEWED | WANT_STREAM;
}

void holder_session_opened(struct holder *h, struct instant now, struct instant sent,
			   const struct message_session_opened *answer, struct holder_actions *out)
{
	struct instant until;

	holder_advance(h, now);
	/* The answer to an attempt that was given up: that session ends by its own term. */
	if (h->state != HOLDER_OPENING) {
		holder_flush(h, out);
		return;
	}
	/* PROTOCOL.md 9: an origin of a lower epoch has been replaced, and must not be followed. */
	if (answer->status != STATUS_OK || answer->session == 0 || answer->epoch < h->epoch) {
		open_failed(h);
		holder_flush(h, out);
		return;
	}
	h->epoch = answer->epoch;
	h->session.value = answer->session;
	h->drift_ppm = answer->drift_ppm;
	h->term = duration_ms(answer->term_ms);
	until = validity_from(h, now, sent, h->term);
	if (!instant_before(h->now, until)) {
		/* It took so long that nothing is left; it is named as the previous one next. */
		open_failed(h);
		holder_flush(h, out);
		return;
	}
	h->until = until;
	session_start(h, sent, answer);
	holder_flush(h, out);
}

/* ---- the stream ---- */

void holder_stream_attached(struct holder *h, struct instant now, struct session_id session,
			    struct holder_actions *out)
{
	holder_advance(h, now);
	if (session_is(h, session)) {
		h->stream = STREAM_ATTACHED;
		h->stream_failures = 0;
		/* PROTOCOL.md 6.3: before it, no recall could void what is granted. */
		if (!h->attached && h->reclaim)
			h->wants |= WANT_RECLAIM;
		h->attached = true;
	}
	holder_flush(h, out);
}

void holder_stream_lost(struct holder *h, struct instant now, struct session_id session,
			struct holder_actions *out)
{
	holder_advance(h, now);
	if (session_is(h, session) && h->stream != STREAM_WAITING) {
		h->stream = STREAM_WAITING;
		h->wants &= ~(uint32_t)WANT_STREAM;
		/* The first attempt at once: a recall may be waiting. */
		h->stream_at = h->now;
		if (h->stream_failures)
			h->stream_at = instant_add(h->now,
						   holder_backoff(h, h->stream_failures - 1));
		h->stream_failures++;
		session_advance(h);
	}
	holder_flush(h, out);
}

/* The stream may be dead without knowing it, or a recall must come again. */
void stream_reopen(struct holder *h)
{
	if (h->stream != STREAM_ATTACHED)
		return;
	h->stream = STREAM_OPENING;
	h->wants |= WANT_STREAM;
}

/* ---- keep-alive ---- */

static void keepalive_failed(struct holder *h)
{
	struct duration wait = holder_backoff(h, h->keepalive_failures++);
	struct duration left = instant_until(h->now, h->until);

	/* Several more attempts fit into what is left, however long the back-off has become. */
	if (wait.ns > left.ns / 4)
		wait.ns = left.ns / 4;
	h->keepalive_at = instant_add(h->now, wait);
}

static void kept_alive(struct holder *h, struct instant sent,
		       const struct message_kept_alive *answer)
{
	struct instant until = validity_from(h, h->now, sent, duration_ms(answer->term_ms));
	uint64_t announced = h->sequence_announced;

	h->term = duration_ms(answer->term_ms);
	h->keepalive_failures = 0;
	h->keepalive_at = instant_add(sent, (struct duration){ h->term.ns / 3 });
	h->sequence_announced = answer->recall_sequence;
	if (instant_before(h->renewed, sent))
		h->renewed = sent;
	/* Answers may overtake each other: validity never shrinks. */
	if (instant_before(h->until, until)) {
		h->until = until;
		h->wants |= WANT_RENEWED;
	}
	/* A recall that was out a third of a term ago has still not come: the stream is dead. */
	if (h->recall_sequence < announced)
		stream_reopen(h);
}

void holder_kept_alive(struct holder *h, struct instant now, struct instant sent,
		       struct session_id session, const struct message_kept_alive *answer,
		       struct holder_actions *out)
{
	holder_advance(h, now);
	if (session_is(h, session)) {
		if (answer->status == STATUS_OK) {
			kept_alive(h, sent, answer);
		} else if (answer->status == STATUS_NOSESSION) {
			session_over(h, true);
			session_open(h);
		} else {
			/* PROTOCOL.md 4.4: BUSY: a recall is overdue, perhaps lost with the stream. */
			if (answer->status == STATUS_BUSY)
				stream_reopen(h);
			keepalive_failed(h);
		}
	}
	holder_flush(h, out);
}

void holder_keepalive_failed(struct holder *h, struct instant now, struct session_id session,
			     struct holder_actions *out)
{
	holder_advance(h, now);
	if (session_is(h, session))
		keepalive_failed(h);
	holder_flush(h, out);
}

/* ---- the end ---- */

/* No lease stands any more; those that stood may be reclaimed under the next session. */
void session_over(struct holder *h, bool keep)
{
	h->state = HOLDER_NONE;
	h->stream = STREAM_NONE;
	h->attached = false;
	h->wants = WANT_DROP_ALL;
	leases_become_candidates(h, keep);
	window_reset(h);
}

void holder_session_lost(struct holder *h, struct instant now, struct session_id session,
			 struct holder_actions *out)
{
	holder_advance(h, now);
	if (session_is(h, session)) {
		session_over(h, false);
		session_open(h);
	}
	holder_flush(h, out);
}

void holder_session_refused(struct holder *h, struct instant now, struct session_id session,
			    struct holder_actions *out)
{
	holder_advance(h, now);
	if (session_is(h, session)) {
		session_over(h, true);
		session_open(h);
	}
	holder_flush(h, out);
}

/* What is due by time. */
void session_advance(struct holder *h)
{
#ifndef LEASE_WRONG_KEPT_TOO_LONG
	/* PROTOCOL.md 6.4: from here on others may get what was kept. */
	if (h->kept_count && !instant_before(h->now, h->kept_until))
		kept_lose(h);
#endif
	if (h->state == HOLDER_ACTIVE && !instant_before(h->now, h->until)) {
		h->counters.expired++;
#ifdef LEASE_WRONG_KEPT_TOO_LONG
		session_over(h, true);
#else
		session_over(h, false);
#endif
		h->failures = 0;
		h->open_at = instant_add(h->now, holder_backoff(h, 0));
	}
	if (h->state == HOLDER_NONE && h->connecting && !instant_before(h->now, h->open_at))
		session_open(h);
	if (h->state != HOLDER_ACTIVE)
		return;
	if (!instant_before(h->now, h->keepalive_at)) {
		h->wants |= WANT_KEEPALIVE;
		/* Should nobody say what became of it, another one goes out in time. */
		h->keepalive_at = instant_add(h->now, (struct duration){ h->term.ns / 3 + 1 });
	}
	if (h->stream == STREAM_WAITING && !instant_before(h->now, h->stream_at)) {
		h->stream = STREAM_OPENING;
		h->wants |= WANT_STREAM;
	}
}

bool holder_valid(const struct holder *h, struct instant now)
{
	return h->state == HOLDER_ACTIVE && h->attached && instant_before(now, h->until);
}

bool holder_expired(const struct holder *h, struct instant now)
{
	return h->state == HOLDER_ACTIVE && !instant_before(now, h->until);
}

struct duration holder_remaining(const struct holder *h, struct instant now)
{
	if (!holder_valid(h, now))
		return (struct duration){ 0 };
	return instant_until(now, h->until);
}
