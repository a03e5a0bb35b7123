#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#include "fs/origin/credentials.h"
#include "fs/origin/service_private.h"

#define EXPORT_NAME_BYTES 256

void session_destroy(struct session *session)
{
	if (session->stream)
		server_stream_unref(session->stream);
	free(session);
}

struct session *session_create(struct store *store, struct slots_session *place,
			       const struct slots_owner *owner)
{
	struct session *session = (struct session *)calloc(1, sizeof(*session));

	if (!session)
		return NULL;
	session->id = (struct session_id){ owner->session };
	session->store = store;
	session->alive = true;
	session->place = place;
	memcpy(session->host, owner->host, sizeof(session->host));
	memcpy(session->peer, owner->peer, sizeof(session->peer));
	return session;
}

void session_add(struct service *s, struct session *session)
{
	session->next = s->sessions[session->id.value % SESSION_BUCKETS];
	s->sessions[session->id.value % SESSION_BUCKETS] = session;
	s->session_count++;
}

void session_remove(struct service *s, struct session *session)
{
	struct session **at = &s->sessions[session->id.value % SESSION_BUCKETS];

	while (*at != session)
		at = &(*at)->next;
	*at = session->next;
	s->session_count--;
}

bool service_host_allowed(const struct service_export *export, const char *peer)
{
	const char *at = export->hosts;
	size_t length = strlen(peer);

	if (!at || !*peer) /* without TLS every peer on this machine is trusted */
		return true;
	while (*at) {
		size_t bytes = strcspn(at, ":");

		if (bytes == length && memcmp(at, peer, length) == 0)
			return true;
		at += bytes + (at[bytes] == ':');
	}
	return false;
}

/* ---- the record ---- */

int service_write_record(struct service *s)
{
	struct session_record record = { .epoch = s->config.epoch };
	uint64_t mark;
	int error;

	credentials_reset(); /* a worker is still who it last acted as */
	/* Whoever comes later writes what is newer, never the other way round. */
	pthread_mutex_lock(&s->record_lock);
	pthread_mutex_lock(&s->lock);
	record.promise_ms = s->record_promise_ms;
	error = service_record_seals(s, &record);
	mark = authority_record_mark(s->authority);
	record.unknown = s->previous.unknown;
	record.entries = (struct authority_previous *)calloc(
		s->session_count + s->previous.count + 1u, sizeof(*record.entries));
	/* This run may end within its grace, too. */
	if (record.entries && s->previous.count) {
		memcpy(record.entries, s->previous.entries,
		       s->previous.count * sizeof(*record.entries));
		record.count = s->previous.count;
	}
	for (unsigned i = 0; record.entries && i < SESSION_BUCKETS; i++)
		for (struct session *session = s->sessions[i]; session; session = session->next)
			if (session->alive) {
				struct authority_previous *e = &record.entries[record.count++];

				e->session = session->id;
				memcpy(e->host, session->host, sizeof(e->host));
			}
	pthread_mutex_unlock(&s->lock);
	if (!error)
		error = record.entries ? session_record_store(s->state_fd, "sessions", &record) :
					 -ENOMEM;
	session_record_finish(&record);
	if (!error) {
		/* PROTOCOL.md 10.6: what those who ended had locked is free now. */
		service_lock(s);
		authority_recorded(s->authority, service_now(), mark, &s->actions);
		(void)service_unlock(s, NULL);
	}
	pthread_mutex_unlock(&s->record_lock);
	return error;
}

/* ---- opening ---- */

static const struct service_export *find_export(struct service *s, struct slice name)
{
	for (uint32_t i = 0; i < s->export_count; i++)
		if (slice_equal(name, slice_of(store_name(s->exports[i].store))))
			return &s->exports[i];
	return NULL;
}

static uint16_t check_open(struct task *t, const struct service_export **ret_export)
{
	const struct message_session_open *m = &t->message.session_open;
	const struct service_export *export;

	if (m->host.length != 16)
		return STATUS_BADMESSAGE;
	if (m->version_min > PROTOCOL_VERSION_MAX || m->version_max < PROTOCOL_VERSION_MIN)
		return STATUS_VERSION;
	export = find_export(t->service, m->export);
	if (!export)
		return STATUS_NOEXPORT;
	if (!service_host_allowed(export, t->view.peer))
		return STATUS_FORBIDDEN;
	*ret_export = export;
	return STATUS_OK;
}

/*
 * Under the service's lock: the session as the authority gave it, in our table. `*place` is NULL
 * afterwards when the session has it.
 */
static uint16_t add_session(struct task *t, struct store *store, struct session_id id,
			    uint32_t slot_count, struct slots_session **place)
{
	struct service *s = t->service;
	struct session *session = session_find(s, id);
	struct slots_owner owner = { .session = id.value,
				     .export_id = store_export_id(store),
				     .slot_count = slot_count };

	if (session) /* the answer to a repetition */
		return strcmp(session->peer, t->view.peer) == 0 && session->store == store ?
			       STATUS_OK : STATUS_FORBIDDEN;
	memcpy(owner.host, t->message.session_open.host.data, sizeof(owner.host));
	strncpy(owner.peer, t->view.peer, sizeof(owner.peer) - 1);
	session = session_create(store, *place, &owner);
	if (!session)
		return STATUS_NOMEM;
	session->instance = t->message.session_open.instance;
	/* PROTOCOL.md 3.5: before its first answer. */
	slots_session_set(s->slots, *place, &owner);
	*place = NULL;
	session_add(s, session);
	return STATUS_OK;
}

static uint16_t open_session(struct task *t, struct store *store,
			     struct message_session_opened *reply)
{
	const struct message_session_open *m = &t->message.session_open;
	struct service *s = t->service;
	struct session_id id;
	struct instant now = service_now();
	struct slots_session *place;
	struct session *previous;
	uint32_t slot_count;
	uint16_t status;
	bool reclaim;
	int error = slots_session_take(s->slots, &place);

	if (error)
		return error == -EAGAIN ? STATUS_PUSHBACK : service_status(error);
	service_lock(s);
	/* Nobody ends the session of another host by naming it. */
	previous = session_find(s, (struct session_id){ m->previous_session });
	if (previous && strcmp(previous->peer, t->view.peer) != 0) {
		(void)service_unlock(s, NULL);
		slots_session_release(s->slots, place);
		return STATUS_FORBIDDEN;
	}
	status = authority_session_open(s->authority, now, m->host.data, m->instance,
					(struct session_id){ m->previous_session }, m->slot_count,
					&s->actions, &id, &slot_count, &reclaim);
	if (status == STATUS_OK) {
		status = add_session(t, store, id, slot_count, &place);
		authority_session_name(s->authority, id, t->view.peer);
		if (status == STATUS_NOMEM)
			(void)authority_session_close(s->authority, now, id, &s->actions);
		reply->session = id.value;
		reply->slot_count = slot_count;
		reply->reclaim = reclaim;
		reply->locks = m->locks && authority_locks_expected(s->authority, id);
		reply->grace_ms = (uint32_t)(authority_grace(s->authority, now).ns / NS_PER_MS);
	}
	(void)service_unlock(s, NULL);
	slots_session_release(s->slots, place);
	return status;
}

static void answer_opened(struct task *t, const struct message_session_opened *reply)
{
	struct message message = { .type = MESSAGE_session_opened, .session_opened = *reply };
	struct server_request *request = t->request;

	t->request = NULL;
	server_respond(request, &message, (struct server_bulk){ .data = NULL });
	task_destroy(t);
}

/* The export's root as a node item; no lease, since the answer states no recall sequence. */
static int describe_root(struct store *store, struct writer *w)
{
	struct item_node node;
	struct inode *root;
	int error = store_get_root(store, &root);

	if (error)
		return error;
	store_lock_shared(store, root);
	error = store_look(store, root, &node, NULL);
	store_unlock_shared(store, root);
	store_put(store, root);
	if (!error)
		item_node_write(w, &node);
	return error;
}

void service_session_open(struct task *t)
{
	struct service *s = t->service;
	struct message_session_opened reply = {
		.version = PROTOCOL_VERSION_MAX,
		.epoch = s->config.epoch,
		.incarnation = changes_incarnation(s->changes),
		.term_ms = (uint32_t)(s->config.term.ns / NS_PER_MS),
		.drift_ppm = s->config.drift_ppm,
		.lease_count_max = s->config.lease_count_max,
	};
	const struct service_export *export = NULL;
	int error;

	credentials_reset();
	reply.status = check_open(t, &export);
	if (reply.status == STATUS_OK) {
		error = describe_root(export->store, &t->nodes);
		reply.status = service_status(error);
	}
	if (reply.status == STATUS_OK) {
		reply.root = (struct slice){ t->nodes_buffer, t->nodes.at };
		reply.read_only = store_read_only(export->store);
		reply.status = open_session(t, export->store, &reply);
	}
	if (reply.status == STATUS_OK) {
		/* PROTOCOL.md 6.1: on disk before the first grant. */
		error = service_write_record(s);
		if (error) {
			service_log("event=session_refused error=\"the record of sessions cannot "
				    "be written: %s\"", strerror(-error));
			reply.status = service_status(error);
			service_lock(s);
			(void)authority_session_close(s->authority, service_now(),
						      (struct session_id){ reply.session },
						      &s->actions);
			(void)service_unlock(s, NULL);
		} else {
			service_log("event=session_opened host=%s export=%s",
				    *t->view.peer ? t->view.peer : "-", store_name(export->store));
		}
	}
	if (reply.status != STATUS_OK)
		reply = (struct message_session_opened){ .status = reply.status };
	answer_opened(t, &reply);
}

/* ---- reclaim ---- */

/*
 * Granted when `change` is the current one; of the write lease what it is counts for the store having
 * kept all that it was given, since nobody but its holder has changed the inode (PROTOCOL.md 6.4).
 */
static enum confirmed reclaim_one(struct task *t, struct store *store, struct session_id id,
			const struct item_claim *claim)
{
	struct service *s = t->service;
	struct inode *inode;
	bool granted = false, current = false, outside;
	struct change change, after;

	if (store_get(store, &claim->handle, &inode) < 0)
		return CONFIRMED_NOT;
	store_lock_shared(store, inode);
	if (store_change(store, inode, &change, &outside) == 0) {
		service_lock(s);
		current = change_equal(change, claim->change);
		if ((claim->lease == LEASE_READ && current) ||
		    (claim->lease == LEASE_WRITE &&
		     change.incarnation == claim->change.incarnation))
			granted = authority_reclaim(s->authority, service_now(), id,
						    &claim->handle, (enum lease_kind)claim->lease,
						    claim->open, &s->actions);
		/* What is open stays open, whatever became of what is cached. */
		if (!granted && claim->open)
			(void)authority_open(s->authority, id, &claim->handle);
		(void)service_unlock(s, NULL);
		/* What others modify from the grant on is recalled; before it, it must not be confirmed. */
		if (granted && (store_change(store, inode, &after, &outside) < 0 ||
				!change_equal(change, after))) {
			current = false;
			granted = claim->lease == LEASE_WRITE;
			(void)service_outside(s, store, &claim->handle);
		}
	}
	store_unlock_shared(store, inode);
	store_put(store, inode);
	if (!granted)
		return CONFIRMED_NOT;
	return current ? CONFIRMED : CONFIRMED_ELSEWHERE;
}

static void answer_reclaimed(struct task *t, const struct message_reclaimed *reply)
{
	struct message message = { .type = MESSAGE_reclaimed, .reclaimed = *reply };
	struct server_request *request = t->request;

	t->request = NULL;
	server_respond(request, &message, (struct server_bulk){ .data = NULL });
	task_destroy(t);
}

void service_reclaim(struct task *t)
{
	const struct message_reclaim *m = &t->message.reclaim;
	struct session_id id = { m->session };
	struct service *s = t->service;
	struct message_reclaimed reply = { .status = STATUS_OK };
	struct reader items = reader_of(m->items.data, m->items.length);
	/* A claim takes more than one byte. */
	uint8_t *confirmed = (uint8_t *)malloc(m->items.length + 1);
	struct item_claim claim;
	struct session *session;
	struct store *store = NULL;
	size_t count = 0;

	service_lock(s);
	session = session_find(s, id);
	/* It also tells the sequence before the first grant; that the term counts anew only makes
	   the origin wait longer. */
	reply.status = authority_keepalive(s->authority, service_now(), id, &s->actions,
					   &reply.recall_sequence);
	if (reply.status == STATUS_BUSY)
		reply.status = STATUS_OK; /* not renewed, and alive */
	if (!session)
		reply.status = STATUS_NOSESSION;
	else if (strcmp(session->peer, t->view.peer) != 0)
		reply.status = STATUS_FORBIDDEN;
	else
		store = session->store;
	(void)service_unlock(s, NULL);
	if (reply.status == STATUS_OK && !confirmed)
		reply.status = STATUS_NOMEM;
	while (reply.status == STATUS_OK && item_claim_read(&items, &claim))
		confirmed[count++] = (uint8_t)reclaim_one(t, store, id, &claim);
	if (reply.status == STATUS_OK && items.failed)
		reply.status = STATUS_BADMESSAGE;
	if (reply.status == STATUS_OK && m->last) {
		service_lock(s);
		authority_reclaim_done(s->authority, service_now(), id, &s->actions);
		(void)service_unlock(s, NULL);
	}
	if (reply.status == STATUS_OK)
		reply.confirmed = (struct slice){ confirmed, count };
	answer_reclaimed(t, &reply);
	free(confirmed);
}

/* ---- what never waits: on the server's thread ---- */

struct attached {
	struct service *service;
	struct session_id session;
};

static void stream_ended(void *context, struct server_stream *stream)
{
	struct attached *attached = (struct attached *)context;
	struct service *s = attached->service;
	struct session *session;

	pthread_mutex_lock(&s->lock);
	session = session_find(s, attached->session);
	if (session && session->stream == stream) {
		session->stream = NULL;
		server_stream_unref(stream);
	}
	pthread_mutex_unlock(&s->lock);
	free(attached);
}

static void acknowledged(struct server_request *request, uint16_t status)
{
	struct message message = { .type = MESSAGE_acknowledged, .acknowledged = { status } };

	server_respond(request, &message, (struct server_bulk){ .data = NULL });
}

static void attach_stream(struct service *s, struct server_request *request,
			  struct session *session)
{
	struct attached *attached = (struct attached *)malloc(sizeof(*attached));
	const struct message hello = { .type = MESSAGE_acknowledged,
				       .acknowledged = { STATUS_OK } };
	struct server_stream *stream;

	if (!attached) {
		acknowledged(request, STATUS_NOMEM);
		return;
	}
	*attached = (struct attached){ s, session->id };
	if (session->stream) {
		server_stream_end(session->stream);
		server_stream_unref(session->stream);
		session->stream = NULL;
	}
	stream = server_stream_start(request, stream_ended, attached);
	if (!stream) /* answered by the server, which is out of memory */ {
		free(attached);
		return;
	}
	session->stream = stream;
	/* PROTOCOL.md 3.2: the stream begins with this, so that the host knows it is attached. A
	   stream that cannot take it has ended, and `ended` says so. */
	if (server_stream_send(stream, &hello) < 0)
		return;
	(void)authority_stream_attached(s->authority, service_now(), session->id, &s->actions);
}

static uint16_t acknowledge(struct service *s, const struct message_recall_acknowledge *m)
{
	struct reader items = reader_of(m->items.data, m->items.length);
	struct item_acknowledgement item;
	uint16_t status = STATUS_OK;

	while (status == STATUS_OK && item_acknowledgement_read(&items, &item))
		status = authority_acknowledge(s->authority, service_now(),
					       (struct session_id){ m->session }, item.sequence,
					       item.open, item.kept, &s->actions);
	return items.failed ? STATUS_BADMESSAGE : status;
}

static uint16_t release(struct service *s, const struct message_lease_release *m)
{
	struct reader items = reader_of(m->handles.data, m->handles.length);
	struct item_handle item;

	while (item_handle_read(&items, &item))
		authority_release(s->authority, service_now(), (struct session_id){ m->session },
				  &item.handle, &s->actions);
	return items.failed ? STATUS_BADMESSAGE : STATUS_OK;
}

/* Answers a keep-alive. */
static void keepalive(struct service *s, struct server_request *request, struct session_id id,
		      uint16_t status)
{
	struct message message = { .type = MESSAGE_kept_alive };
	uint64_t sequence = 0;

	if (status == STATUS_OK)
		status = authority_keepalive(s->authority, service_now(), id, &s->actions,
					     &sequence);
	message.kept_alive = (struct message_kept_alive){
		.status = status,
		.term_ms = (uint32_t)(s->config.term.ns / NS_PER_MS),
		.recall_sequence = sequence,
	};
	server_respond(request, &message, (struct server_bulk){ .data = NULL });
}

/* The session that a control message speaks for; 0: it is not a control message. */
static struct session_id control_session(const struct message *message)
{
	switch (message->type) {
	case MESSAGE_keepalive:
		return (struct session_id){ message->keepalive.session };
	case MESSAGE_recall_acknowledge:
		return (struct session_id){ message->recall_acknowledge.session };
	case MESSAGE_lease_release:
		return (struct session_id){ message->lease_release.session };
	case MESSAGE_session_close:
		return (struct session_id){ message->session_close.session };
	case MESSAGE_recall_stream:
		return (struct session_id){ message->recall_stream.session };
	default:
		return (struct session_id){ service_lock_session(message) };
	}
}

bool service_control(struct service *s, struct server_request *request,
		     const struct server_request_view *view, const struct message *message)
{
	struct session_id id = control_session(message);
	uint16_t status = STATUS_OK;
	struct session *session;
	bool stream = message->type == MESSAGE_recall_stream;

	switch (message->type) {
	case MESSAGE_keepalive:
	case MESSAGE_recall_acknowledge:
	case MESSAGE_lease_release:
	case MESSAGE_session_close:
	case MESSAGE_recall_stream:
		break;
	default:
		if (!service_is_lock(message->type))
			return false;
	}
	service_lock(s);
	session = session_find(s, id);
	if (s->stopping)
		status = STATUS_DRAINING;
	else if (!session || !session->alive)
		status = STATUS_NOSESSION;
	else if (strcmp(session->peer, view->peer) != 0)
		status = STATUS_FORBIDDEN;
	else if (stream != (strcmp(view->path, "/v1/recalls") == 0))
		status = STATUS_BADMESSAGE;
	if (message->type == MESSAGE_keepalive) {
		keepalive(s, request, id, status);
	} else if (service_is_lock(message->type)) {
		service_lock_message(s, request, session, message, status);
	} else if (stream && status == STATUS_OK) {
		attach_stream(s, request, session);
	} else {
		if (status == STATUS_OK && message->type == MESSAGE_recall_acknowledge)
			status = acknowledge(s, &message->recall_acknowledge);
		else if (status == STATUS_OK && message->type == MESSAGE_lease_release)
			status = release(s, &message->lease_release);
		else if (status == STATUS_OK)
			status = authority_session_close(s->authority, service_now(), id,
							 &s->actions);
		acknowledged(request, status);
	}
	(void)service_unlock(s, NULL);
	return true;
}
