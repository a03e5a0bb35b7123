#include "fs/origin/service_private.h"

#include <stdlib.h>

/*
 * Advisory locks (PROTOCOL.md 10): the authority decides, here is what comes in and goes out. No thread
 * waits, so all of it is done on the server's thread; but for tries that are held back, on the timer's.
 */

static bool is_ours(const struct session *session, const struct handle *handle)
{
	return store_made(session->store, handle);
}

static void respond(struct server_request *request, const struct message *message)
{
	server_respond(request, message, (struct server_bulk){ .data = NULL });
}

static struct lock_request request_of(const struct message_lock *m)
{
	return (struct lock_request){ m->handle, (enum lock_kind)m->kind, m->owner,
				      { m->start, m->end, m->pid, m->type }, m->waiter };
}

/* Asks the authority. */
static uint16_t decide(struct service *s, struct session_id session, uint64_t id,
		       const struct lock_request *lock)
{
	struct instant now = service_now();
	uint16_t status = authority_lock(s->authority, now, session, id, lock, &s->actions);

	if (lock->range.type == LOCK_TYPE_NONE)
		return status;
	if (status == STATUS_LOCKED)
		courtesy_refused(&s->courtesy, now, session, lock);
	else if (status == STATUS_OK || status == STATUS_LOCKWAITS)
		courtesy_granted(&s->courtesy, session, lock);
	return status;
}

static void respond_lock(struct server_request *request, uint16_t status)
{
	struct message answer = { .type = MESSAGE_lock_answer };

	answer.lock_answer.status = status;
	respond(request, &answer);
}

/* ---- tries that are held back (PROTOCOL.md 10.7) ---- */

#define TRIES_MAX 256u /* beyond: nobody is held back */

struct lock_try {
	struct lock_try *next;
	struct server_request *request;
	struct session_id session;
	uint64_t id;
	struct lock_request lock;
	struct instant until;
};

static bool can_have(struct service *s, struct session_id session, const struct lock_request *lock)
{
	struct session_id whose;
	struct lock_range found;

	return !authority_lock_test(s->authority, service_now(), session, lock, &s->actions, &found,
				    &whose);
}

/* Could this try succeed, and also that of somebody who was refused before? */
static bool comes_later(struct service *s, struct session_id session,
			const struct lock_request *lock)
{
	struct instant now = service_now();
	const struct courtesy_refusal *r = NULL;

	if (lock->waiter || lock->range.type == LOCK_TYPE_NONE)
		return false;
	while ((r = courtesy_before(&s->courtesy, now, session, lock, r)))
		if (can_have(s, r->session, &r->request))
			return can_have(s, session, lock);
	return false;
}

static bool hold_back(struct service *s, struct server_request *request, struct session_id session,
		      uint64_t id, const struct lock_request *lock)
{
	struct lock_try *try;

	if (s->try_count >= TRIES_MAX || !comes_later(s, session, lock))
		return false;
	try = (struct lock_try *)malloc(sizeof(*try));
	if (!try)
		return false;
	*try = (struct lock_try){ s->tries, request, session, id, *lock,
				  instant_add(service_now(), duration_ms(COURTESY_WAIT_MS)) };
	s->tries = try;
	s->try_count++;
	return true;
}

/* It is in the list at `at`. */
static void let_go(struct service *s, struct lock_try **at)
{
	struct lock_try *try = *at;
	const struct session *session = session_find(s, try->session);
	uint16_t status;

	*at = try->next;
	s->try_count--;
	if (s->stopping)
		status = STATUS_DRAINING;
	else if (!session || !session->alive)
		status = STATUS_NOSESSION;
	else
		status = decide(s, try->session, try->id, &try->lock);
	respond_lock(try->request, status);
	free(try);
}

/* The locks of the inode have changed. Each that goes may make the next one go. */
static void look_again(struct service *s, const struct handle *handle)
{
	struct lock_try **at = &s->tries;

	while (*at) {
		struct lock_try *try = *at;

		if (!handle_equal(&try->lock.handle, handle) ||
		    comes_later(s, try->session, &try->lock)) {
			at = &try->next;
			continue;
		}
		let_go(s, at);
		at = &s->tries;
	}
}

struct instant service_locks_timer(const struct service *s)
{
	struct instant timer = { UINT64_MAX };

	for (const struct lock_try *try = s->tries; try; try = try->next)
		if (instant_before(try->until, timer))
			timer = try->until;
	return timer;
}

void service_locks_tick(struct service *s, struct instant now)
{
	struct lock_try **at = &s->tries;

	while (*at) {
		struct lock_try *try = *at;

		if (!s->stopping && instant_before(now, try->until)) {
			at = &try->next;
			continue;
		}
		courtesy_forget(&s->courtesy, now, try->session, &try->lock);
		let_go(s, at);
	}
}

/* ---- messages ---- */

static void lock(struct service *s, struct server_request *request, const struct session *session,
		 const struct message_lock *m, uint16_t status)
{
	struct lock_request lock = request_of(m);

	if (status == STATUS_OK && !is_ours(session, &m->handle))
		status = STATUS_BADHANDLE;
	if (status == STATUS_OK && hold_back(s, request, session->id, m->id, &lock))
		return;
	if (status == STATUS_OK)
		status = decide(s, session->id, m->id, &lock);
	respond_lock(request, status);
	look_again(s, &m->handle);
}

static void lock_test(struct service *s, struct server_request *request,
		      const struct session *session, const struct message_lock_test *m,
		      uint16_t status)
{
	struct message answer = { .type = MESSAGE_lock_answer };
	struct lock_request lock = { m->handle, (enum lock_kind)m->kind, m->owner,
				     { m->start, m->end, m->pid, m->type }, 0 };
	struct session_id whose;
	struct lock_range found;

	answer.lock_answer.status = status;
	if (status == STATUS_OK && authority_lock_test(s->authority, service_now(), session->id,
						       &lock, &s->actions, &found, &whose))
		answer.lock_answer = (struct message_lock_answer){
			.status = STATUS_OK, .type = found.type,
			.own = whose.value == session->id.value,
			.pid = found.pid, .start = found.start, .end = found.end,
		};
	respond(request, &answer);
}

static void lock_settle(struct service *s, struct server_request *request,
			const struct session *session, const struct message_lock_settle *m,
			uint16_t status)
{
	struct message answer = { .type = MESSAGE_acknowledged };

	if (status == STATUS_OK)
		status = authority_lock_settle(s->authority, service_now(), session->id,
					       m->waiter, m->take, &s->actions);
	answer.acknowledged.status = status;
	respond(request, &answer);
}

static void lock_reclaim(struct service *s, struct server_request *request,
			 const struct session *session, const struct message_lock_reclaim *m,
			 uint16_t status)
{
	struct message answer = { .type = MESSAGE_lock_reclaimed };
	struct reader items = reader_of(m->items.data, m->items.length);
	/* A claim takes more than one byte. */
	uint8_t *confirmed = (uint8_t *)malloc(m->items.length + 1);
	struct item_lock_claim item;
	size_t count = 0;

	if (status == STATUS_OK && !confirmed)
		status = STATUS_NOMEM;
	while (status == STATUS_OK && item_lock_claim_read(&items, &item)) {
		struct lock_request claim = { item.handle, (enum lock_kind)item.kind, item.owner,
					      { item.start, item.end, item.pid, item.type }, 0 };

		confirmed[count++] = is_ours(session, &item.handle) &&
				     authority_lock_reclaim(s->authority, service_now(),
							    session->id, &claim, &s->actions);
	}
	if (status == STATUS_OK && items.failed)
		status = STATUS_BADMESSAGE;
	if (status == STATUS_OK && m->last)
		authority_locks_reclaimed(s->authority, session->id);
	answer.lock_reclaimed.status = status;
	if (status == STATUS_OK)
		answer.lock_reclaimed.confirmed = (struct slice){ confirmed, count };
	respond(request, &answer);
	free(confirmed);
}

bool service_is_lock(enum message_type type)
{
	return type == MESSAGE_lock || type == MESSAGE_lock_test ||
	       type == MESSAGE_lock_settle || type == MESSAGE_lock_reclaim;
}

uint64_t service_lock_session(const struct message *message)
{
	switch (message->type) {
	case MESSAGE_lock:
		return message->lock.session;
	case MESSAGE_lock_test:
		return message->lock_test.session;
	case MESSAGE_lock_settle:
		return message->lock_settle.session;
	case MESSAGE_lock_reclaim:
		return message->lock_reclaim.session;
	default:
		return 0;
	}
}

void service_lock_message(struct service *s, struct server_request *request,
			  const struct session *session, const struct message *message,
			  uint16_t status)
{
	if (message->type == MESSAGE_lock)
		lock(s, request, session, &message->lock, status);
	else if (message->type == MESSAGE_lock_test)
		lock_test(s, request, session, &message->lock_test, status);
	else if (message->type == MESSAGE_lock_settle)
		lock_settle(s, request, session, &message->lock_settle, status);
	else
		lock_reclaim(s, request, session, &message->lock_reclaim, status);
}

void service_lock_offer(struct service *s, const struct authority_action *action)
{
	struct session *session = session_find(s, action->session);
	struct message message = { .type = MESSAGE_lock_offer };

	message.lock_offer.status = action->status;
	message.lock_offer.waiter = action->waiter;
	if (!session || !session->stream || server_stream_send(session->stream, &message) < 0)
		return; /* sent when there is a stream again */
}
