#include <assert.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "fs/origin/service_private.h"

struct session *session_find(struct service *s, struct session_id id)
{
	struct session *session = s->sessions[id.value % SESSION_BUCKETS];

	while (session && session->id.value != id.value)
		session = session->next;
	return session;
}

/* NULL while stopping, for an operation that was answered already. */
static struct task *task_of(const struct service *s, uint64_t op)
{
	struct task *t = s->tasks;

	if (!s->stopping)
		return (struct task *)(uintptr_t)op;
	while (t && (uint64_t)(uintptr_t)t != op)
		t = t->older;
	return t;
}

static void send_recall(struct service *s, const struct authority_action *action)
{
	uint8_t names[AUTHORITY_NAMES_MAX * (1 + NAME_BYTES_MAX)];
	struct writer w = writer_of(names, sizeof(names));
	struct session *session = session_find(s, action->session);
	struct message message = { .type = MESSAGE_recall };

	if (!session || !session->stream)
		return; /* sent when its stream is attached */
	for (uint32_t i = 0; i < action->name_count; i++) {
		struct item_name name = { { action->names[i], action->name_length[i] } };

		item_name_write(&w, &name);
	}
	message.recall = (struct message_recall){
		.sequence = action->recall_sequence,
		.scope = (uint8_t)action->scope,
		.handle = action->handle,
		.names = { names, w.at },
	};
	if (server_stream_send(session->stream, &message) < 0)
		return; /* it has ended: sent again when there is another */
}

static void previous_remove(struct service *s, struct session_id id)
{
	struct session_record *previous = &s->previous;

	for (uint32_t i = 0; i < previous->count; i++)
		if (previous->entries[i].session.value == id.value) {
			previous->entries[i] = previous->entries[--previous->count];
			return;
		}
}

void service_queue_record(struct service *s)
{
	struct task *t;

	/* Written late, it names a session a little longer: grace would only last longer. */
	if (s->record_queued || s->stopping)
		return;
	t = task_create(s, TASK_RECORD);
	if (t)
		s->record_queued = task_enqueue(t, true);
}

static void end_session(struct service *s, struct session_id id)
{
	struct session *session = session_find(s, id);

	previous_remove(s, id);
	if (session) {
		session->alive = false;
		if (session->stream)
			server_stream_end(session->stream);
	}
	service_queue_record(s);
}

static void forget_session(struct service *s, struct session_id id)
{
	struct session *session = session_find(s, id);

	if (!session)
		return;
	session_remove(s, session);
	slots_session_release(s->slots, session->place);
	session_destroy(session);
}

/* The operation of `t` is no longer the authority's. */
void service_task_over(struct task *t)
{
	struct service *s = t->service;

	if (!t->begun)
		return;
	if (t->newer)
		t->newer->older = t->older;
	else
		s->tasks = t->older;
	if (t->older)
		t->older->newer = t->newer;
	t->newer = t->older = NULL;
	t->begun = false;
}

static void task_begun(struct task *t)
{
	struct service *s = t->service;

	t->begun = true;
	t->newer = NULL;
	t->older = s->tasks;
	if (s->tasks)
		s->tasks->newer = t;
	s->tasks = t;
}

void service_own_work(struct service *s, enum task_step step, const struct handle *handle)
{
	struct task *t = task_create(s, step);

	if (!t)
		return; /* an orphan stays until the sweep of the next start */
	if (handle)
		t->handle = *handle;
	(void)task_enqueue(t, true); /* urgent work is always taken */
}

static void join(struct service *s, const struct authority_action *action)
{
	struct task *t = task_of(s, action->op), *other = task_of(s, action->other), **end;

	if (!t)
		return;
	service_task_over(t);
	if (!other) { /* answered while stopping */
		t->step = TASK_REFUSE;
		t->status = STATUS_DRAINING;
		(void)task_enqueue(t, true);
		return;
	}
	/* With those that wait for `t`, which can be here for the second time. */
	end = &t->joined;
	while (*end)
		end = &(*end)->next;
	*end = other->joined;
	t->next = t->joined;
	t->joined = NULL;
	other->joined = t;
}

/* True when the operation of `own` may run now. */
static bool perform(struct service *s, const struct authority_action *action,
		    const struct task *own)
{
	struct task *t;

	switch (action->kind) {
	case AUTHORITY_SEND_RECALL:
		send_recall(s, action);
		break;
	case AUTHORITY_RUN:
		t = task_of(s, action->op);
		if (t)
			t->step = TASK_RUN;
		if (t && t == own)
			return true;
		if (t)
			(void)task_enqueue(t, true);
		break;
	case AUTHORITY_REFUSE:
	case AUTHORITY_REPLAY:
		t = task_of(s, action->op);
		if (!t)
			break;
		service_task_over(t);
		t->step = action->kind == AUTHORITY_REFUSE ? TASK_REFUSE : TASK_REPLAY;
		t->status = action->status;
		(void)task_enqueue(t, true);
		break;
	case AUTHORITY_JOIN:
		join(s, action);
		break;
	case AUTHORITY_SESSION_ENDED:
		end_session(s, action->session);
		break;
	case AUTHORITY_SESSION_FORGOTTEN:
		forget_session(s, action->session);
		break;
	case AUTHORITY_UNUSED:
		service_own_work(s, TASK_ORPHAN, &action->handle);
		break;
	case AUTHORITY_SEND_LOCK_OFFER:
		service_lock_offer(s, action);
		break;
	case AUTHORITY_GRACE_ENDED:
		service_log("event=grace_ended");
		s->previous.count = 0;
		s->previous.unknown = false;
		service_queue_record(s);
		service_own_work(s, TASK_SWEEP, NULL);
		break;
	}
	return false;
}

struct instant service_timer(const struct service *s)
{
	struct instant authority = authority_timer(s->authority);
	struct instant locks = service_locks_timer(s), room = service_room_timer(s);

	if (instant_before(room, locks))
		locks = room;
	return instant_before(locks, authority) ? locks : authority;
}

void service_lock(struct service *s)
{
	pthread_mutex_lock(&s->lock);
}

bool service_unlock(struct service *s, const struct task *own)
{
	struct instant timer;
	bool run = false;

	for (size_t i = 0; i < s->actions.count; i++)
		run |= perform(s, &s->actions.items[i], own);
	s->actions.count = 0;
	timer = service_timer(s);
	if (instant_before(timer, s->timer_armed))
		pthread_cond_signal(&s->timer_changed);
	pthread_mutex_unlock(&s->lock);
	return run;
}

enum lease_kind task_grant_locked(struct task *t, const struct handle *handle, uint64_t op)
{
	struct service *s = t->service;
	uint64_t sequence;
	enum lease_kind kind = authority_grant(
		s->authority, service_now(), (struct session_id){ t->message.common.session },
		handle, op, &s->actions, &sequence);

	if (sequence < t->recall_sequence)
		t->recall_sequence = sequence;
	return kind;
}

enum lease_kind task_grant(struct task *t, const struct handle *handle, uint64_t op)
{
	enum lease_kind kind;

	service_lock(t->service);
	kind = task_grant_locked(t, handle, op);
	(void)service_unlock(t->service, NULL);
	return kind;
}

int service_begin_own(struct task *t)
{
	struct service *s = t->service;
	int error = 0;

	t->op = (struct authority_op){
		.id = (uint64_t)(uintptr_t)t,
		.kind = AUTHORITY_MODIFY,
		.deadline = instant_add(service_now(), duration_ms(DEADLINE_MS_MAX)),
		.target_count = 1,
		.targets = { { .handle = t->handle, .scope = RECALL_ALL } },
	};
	service_lock(s);
	if (s->outside_count >= OUTSIDE_COUNT_MAX) {
		error = -EAGAIN;
	} else if (!s->stopping) {
		s->outside_count++;
		task_begun(t);
		error = authority_begin(s->authority, service_now(), &t->op, &s->actions);
		if (error) {
			service_task_over(t);
			s->outside_count--;
		} else {
			t = NULL;
		}
	}
	(void)service_unlock(s, NULL);
	if (t)
		task_destroy(t);
	return error;
}

bool service_outside(struct service *s, struct store *store, const struct handle *handle)
{
	struct task *t = task_create(s, TASK_OUTSIDE);
	int error;

	if (!t)
		return false;
	t->store = store;
	t->handle = *handle;
	error = service_begin_own(t);
	if (error == -EAGAIN)
		atomic_fetch_add(&s->outside_dropped, 1);
	return error == 0;
}

bool service_changed(struct service *s, struct store *store, const struct identity *identity)
{
	bool leased;

	changes_renumber(s->changes, &identity->key);
	pthread_mutex_lock(&s->lock);
	leased = authority_is_leased(s->authority, &identity->handle);
	pthread_mutex_unlock(&s->lock);
	return !leased || service_outside(s, store, &identity->handle);
}

uint32_t service_leased(struct service *s, size_t *cursor, struct handle *ret_handles,
			uint32_t max)
{
	uint32_t count;

	pthread_mutex_lock(&s->lock);
	count = authority_leased(s->authority, cursor, ret_handles, max);
	pthread_mutex_unlock(&s->lock);
	return count;
}

int service_look(struct service *s, const struct handle *handle, bool again)
{
	for (uint32_t i = 0; i < s->export_count; i++) {
		struct store *store = s->exports[i].store;
		struct item_node node;
		struct inode *inode;
		bool outside = false;
		int error = store_get(store, handle, &inode);

		if (error == -EBADMSG) /* of another export */
			continue;
		if (!error) {
			store_lock_shared(store, inode);
			error = store_look(store, inode, &node, &outside);
			store_unlock_shared(store, inode);
			store_put(store, inode);
		}
		outside |= again || error == -ESTALE;
		if (outside && !service_outside(s, store, handle))
			return -EAGAIN;
		return outside;
	}
	return 0;
}

void task_refuse(struct task *t)
{
	struct task *joined = t->joined;

	t->joined = NULL;
	while (joined) {
		struct task *next = joined->next;

		task_reply(joined, t->status);
		joined = next;
	}
	task_reply(t, t->status);
}

bool service_begin(struct task *t)
{
	struct service *s = t->service;
	bool run;
	int error;

	t->op.id = (uint64_t)(uintptr_t)t;
	service_lock(s);
	if (s->stopping) {
		pthread_mutex_unlock(&s->lock);
		t->status = STATUS_DRAINING;
		task_refuse(t);
		return false;
	}
	task_begun(t);
	error = authority_begin(s->authority, service_now(), &t->op, &s->actions);
	if (error)
		service_task_over(t);
	run = service_unlock(s, t);
	/* Unless it runs here, `t` is another thread's from now on. */
	if (error) {
		t->status = STATUS_NOMEM;
		task_refuse(t);
	}
	return run;
}
