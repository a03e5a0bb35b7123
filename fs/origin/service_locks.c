#include "fs/origin/service_private.h"

#include <stdlib.h>

/*
 * Advisory locks (PROTOCOL.md 10): the authority decides, here is what comes in and goes out. Nothing
 * waits, so all of it is done on the server's thread.
 */

static bool is_ours(const struct session *session, const struct handle *handle)
{
	return store_made(session->store, handle);
}

static void respond(struct server_request *request, const struct message *message)
{
	server_respond(request, message, (struct server_bulk){ .data = NULL });
}

static void lock(struct service *s, struct server_request *request, const struct session *session,
		 const struct message_lock *m, uint16_t status)
{
	struct message answer = { .type = MESSAGE_lock_answer };
	struct lock_request lock = { m->handle, (enum lock_kind)m->kind, m->owner,
				     { m->start, m->end, m->pid, m->type }, m->waiter };

	if (status == STATUS_OK && !is_ours(session, &m->handle))
		status = STATUS_BADHANDLE;
	if (status == STATUS_OK)
		status = authority_lock(s->authority, service_now(), session->id, m->id, &lock,
					&s->actions);
	answer.lock_answer.status = status;
	respond(request, &answer);
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
