#include "fs/mount/session.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>

#include "fs/mount/call.h"
#include "fs/mount/drop_all.h"
#include "fs/mount/inode.h"
#include "fs/mount/locks.h"
#include "fs/mount/notifier.h"
#include "fs/mount/send_list.h"
#include "fs/mount/sync.h"
#include "fs/mount/write_back.h"
#include "lease/status.h"

#define TICK_MAX_MS 200
#define CONTROL_TIMEOUT_MS 10000
#define CLOCK_JUMP_NS ((int64_t)(100 * NS_PER_MS)) /* BOOTTIME against MONOTONIC: the machine was suspended */
#define ACKNOWLEDGE_BATCH 256
#define HANDLE_BATCH 512
#define RETRY_MS 100
#define GUARDIAN_DELAY_MS 250 /* part of the holder's fence margin (mount.c) */

struct acknowledgement {
	uint64_t sequence;
	bool open, kept;
};

struct claim {
	struct handle handle;
	struct change change;
	bool open;
	bool kept; /* the write lease */
};

struct session {
	pthread_t thread;
	bool started, stopping;
	pthread_cond_t wake;    /* with mount->lock */
	uint8_t host[16];
	uint64_t instance;
	struct session_id id;   /* that the lists belong to */

	LIST(acknowledgement) acknowledgements;
	LIST(handle) releases;
	LIST(claim) claims;
	bool acknowledging, releasing, reclaiming;
	uint64_t acknowledgements_added; /* ever; those in the list are the last of them */
	unsigned losing;        /* kept leases that are lost and being dropped: `last` waits */
	bool claims_done;       /* RECLAIM_DONE came; `last` waits for calls_unsettled() */
	bool claims_last;       /* the last batch says so */
	bool claims_last_sent;  /* the batch in flight does */
	struct instant retry_at;

	struct client_stream *stream;
	uint64_t stream_number; /* of the newest; what others still say is of no interest */
	bool stream_open;

	/* The kernel's caches are being dropped: the next session is opened only then, since that
	   ends the old one at the origin and lets others' changes go on. */
	unsigned fencing;
	bool open_waits;
	bool unfenced; /* there was no memory for it: the guardian has to do it */
	bool ending;   /* session_abandon(): no other session is opened */
	struct session_id open_previous;

	bool away; /* session_away() */
	struct instant lost_at; /* the last session; {0}: one stands */
	struct holder_counters at_open; /* to tell what came of the reclaim */
	/* disconnected=stale: something was served so since the last fence; the origin is back, and
	   nothing more is. */
	bool served_stale, returning;

	/* The first open, waited for by session_start(). */
	bool answered;
	uint16_t first_status;
	int first_error;
	char first_text[256];
	struct item_node root;
	uint16_t logged_status;
};

/* ---- memory for the holder ---- */

static void *resize(void *context, void *pointer, size_t old_size, size_t size)
{
	if (size == 0) {
		free(pointer);
		return NULL;
	}
	return realloc(pointer, size);
}

const struct allocator session_allocator = { resize, NULL };

/* ---- control calls ---- */

struct control {
	struct mount *m;
	struct session_id session;
	struct instant sent;
	uint64_t stamp; /* of the request at the holder; of a stream: its number */
};

/* Sends a control message; `done` gets a struct control that it frees. Under the lock. */
static int control_send(struct mount *m, const struct message *message,
			struct session_id session, uint64_t stamp, client_done *done)
{
	struct control *control = malloc(sizeof(*control));
	int r;

	if (!control)
		return -ENOMEM;
	*control = (struct control){ m, session, mount_now(), stamp };
	r = client_call(m->client, CLIENT_CONTROL, "/v1/rpc", message, (struct slice){ NULL, 0 },
			duration_ms(CONTROL_TIMEOUT_MS), done, control, NULL);
	if (r < 0)
		free(control);
	return r;
}

/* The decoded answer, if it is one of the wanted type. */
static bool answer_decode(const struct client_answer *answer, enum message_type type,
			  struct message *ret_message)
{
	return answer->error == 0 && answer->message.length &&
	       message_decode(answer->message, ret_message) == 0 && ret_message->type == type;
}

static bool current(struct mount *m, struct session_id session)
{
	return holder_session(m->holder).value == session.value;
}

/* ---- opening a session ---- */

static void note_first(struct mount *m, const struct client_answer *answer, uint16_t status)
{
	struct session *s = m->session;

	if (s->answered)
		return;
	s->answered = true;
	s->first_error = answer->error;
	s->first_status = status;
	snprintf(s->first_text, sizeof(s->first_text), "%s",
		 answer->error ? answer->text : status_text(status));
	pthread_cond_broadcast(&s->wake);
}

/* Drops what was served stale from the kernel; the next open waits for it. Under the lock. */
static void fence_stale(struct mount *m)
{
	const struct holder_action all = { .kind = HOLDER_DROP_ALL };

	if (!drop_all(m, &all))
		return; /* without memory: at the next answer */
	m->session->fencing++;
	m->session->served_stale = false;
}

/* A session stands again: says for how long there was none. Under the lock. */
static void note_return(struct mount *m)
{
	struct session *s = m->session;

	if (s->lost_at.ns == 0)
		return;
	mount_log("info", "session with %s stands again after %.1f s", m->origin_url,
		  (double)instant_until(s->lost_at, mount_now()).ns / (double)NS_PER_S);
	s->lost_at.ns = 0;
	holder_counters(m->holder, &s->at_open);
}

/* Every claim was answered: what was not confirmed is fetched again. Under the lock. */
static void note_reclaimed(struct mount *m)
{
	struct session *s = m->session;
	struct holder_counters now;

	holder_counters(m->holder, &now);
	mount_log("info", "%llu leases reclaimed, %llu not: what is cached under those is fetched "
		  "again", (unsigned long long)(now.reclaimed - s->at_open.reclaimed),
		  (unsigned long long)(now.reclaim_refused - s->at_open.reclaim_refused));
}

static void on_session_opened(void *context, const struct client_answer *answer)
{
	struct control *control = context;
	struct mount *m = control->m;
	struct session *s = m->session;
	struct holder_actions actions = session_actions();
	struct message message;
	struct reader r;

	pthread_mutex_lock(&m->lock);
	if (!answer_decode(answer, MESSAGE_session_opened, &message)) {
		note_first(m, answer, STATUS_BADMESSAGE);
		s->away = true;
		s->returning = false;
		holder_session_failed(m->holder, mount_now(), &actions);
	} else {
		struct message_session_opened *opened = &message.session_opened;

		/* Nothing stale may be in the kernel when the session stands: it is opened again, which
		   is answered with the same one, once that is gone. */
		s->returning = opened->status == STATUS_OK;
		if (s->returning && s->served_stale) {
			fence_stale(m);
			opened->status = STATUS_BUSY;
		}
		r = reader_of(opened->root.data, opened->root.length);
		if (opened->status == STATUS_OK && !item_node_read(&r, &s->root))
			message.session_opened.status = STATUS_BADMESSAGE;
		if (opened->status == STATUS_OK) {
			s->id = (struct session_id){ opened->session };
			s->acknowledgements.count = s->acknowledgements.sent = 0;
			s->releases.count = s->releases.sent = 0;
			s->claims.count = s->claims.sent = 0;
			s->claims_done = s->claims_last = false;
			sync_session_opened(m, opened->incarnation);
			m->read_only = m->options->read_only || m->options->small ||
				       opened->read_only;
			calls_slots_reset(m, s->id, opened->slot_count);
		} else if (s->answered && !s->returning && s->logged_status != opened->status) {
			mount_log("warning", "origin %s refuses a session: %s", m->origin_url,
				  status_text(opened->status));
		}
		s->logged_status = opened->status;
		holder_session_opened(m->holder, mount_now(), control->sent, opened, &actions);
		s->away = holder_state(m->holder) != HOLDER_ACTIVE;
		s->returning &= s->away;
		if (!s->away) {
			note_return(m);
			locks_session_opened(m, s->id, opened->locks);
		}
		note_first(m, answer, opened->status);
	}
	session_act(m, &actions);
	calls_release_closes(m);
	calls_session_changed(m);
	pthread_mutex_unlock(&m->lock);
	free(control);
}

static void send_session_open(struct mount *m, struct session_id previous)
{
	struct session *s = m->session;
	struct message message = { .type = MESSAGE_session_open };
	struct holder_actions actions = session_actions();

	message.session_open.version_min = PROTOCOL_VERSION_MIN;
	message.session_open.version_max = PROTOCOL_VERSION_MAX;
	message.session_open.host = (struct slice){ s->host, sizeof(s->host) };
	message.session_open.instance = s->instance;
	message.session_open.previous_session = previous.value;
	message.session_open.export = slice_of(m->export);
	message.session_open.slot_count = 64;
	message.session_open.locks = locks_any(m);
	if (control_send(m, &message, previous, 0, on_session_opened) < 0) {
		s->away = true;
		holder_session_failed(m->holder, mount_now(), &actions);
		session_act(m, &actions);
	}
}

/* ---- keep-alives ---- */

static void on_kept_alive(void *context, const struct client_answer *answer)
{
	struct control *control = context;
	struct mount *m = control->m;
	struct holder_actions actions = session_actions();
	struct message message;

	pthread_mutex_lock(&m->lock);
	if (!answer_decode(answer, MESSAGE_kept_alive, &message))
		holder_keepalive_failed(m->holder, mount_now(), control->session, &actions);
	else
		holder_kept_alive(m->holder, mount_now(), control->sent, control->session,
				  &message.kept_alive, &actions);
	session_act(m, &actions);
	pthread_mutex_unlock(&m->lock);
	free(control);
}

static void send_keepalive(struct mount *m, struct session_id session)
{
	struct message message = { .type = MESSAGE_keepalive };
	struct holder_actions actions = session_actions();

	message.keepalive.session = session.value;
	message.keepalive.recall_sequence = holder_recall_sequence(m->holder);
	if (control_send(m, &message, session, 0, on_kept_alive) < 0) {
		holder_keepalive_failed(m->holder, mount_now(), session, &actions);
		session_act(m, &actions);
	}
}

/* ---- the recall stream ---- */

static void on_stream_message(void *context, struct slice encoded)
{
	struct control *control = context;
	struct mount *m = control->m;
	struct holder_actions actions = session_actions();
	struct message message;

	pthread_mutex_lock(&m->lock);
	if (m->session->stream_number != control->stamp) {
		/* An older stream: what it brings comes again on the newest. */
	} else if (message_decode(encoded, &message) < 0) {
		holder_session_lost(m->holder, mount_now(), control->session, &actions);
	} else if (message.type == MESSAGE_acknowledged &&
		   message.acknowledged.status == STATUS_NOSESSION) {
		holder_session_refused(m->holder, mount_now(), control->session, &actions);
	} else if (message.type == MESSAGE_acknowledged &&
		   message.acknowledged.status != STATUS_OK) {
		holder_session_lost(m->holder, mount_now(), control->session, &actions);
	} else if (message.type == MESSAGE_acknowledged) {
		holder_stream_attached(m->holder, mount_now(), control->session, &actions);
	} else if (message.type == MESSAGE_recall) {
		holder_recall(m->holder, mount_now(), control->session, &message.recall, &actions);
	} else if (message.type == MESSAGE_lock_offer) {
		locks_offered(m, control->session, &message.lock_offer);
	}
	session_act(m, &actions);
	pthread_mutex_unlock(&m->lock);
	locks_reply(m);
}

static void on_stream_ended(void *context, int error, int http_status, const char *text)
{
	struct control *control = context;
	struct mount *m = control->m;
	struct holder_actions actions = session_actions();

	pthread_mutex_lock(&m->lock);
	if (m->session->stream_number != control->stamp) {
		pthread_mutex_unlock(&m->lock);
		free(control);
		return;
	}
	m->session->stream = NULL;
	m->session->stream_open = false;
	if (http_status == status_http(STATUS_NOSESSION))
		holder_session_refused(m->holder, mount_now(), control->session, &actions);
	else
		holder_stream_lost(m->holder, mount_now(), control->session, &actions);
	session_act(m, &actions);
	pthread_mutex_unlock(&m->lock);
	free(control);
}

static void open_stream(struct mount *m, struct session_id session)
{
	struct session *s = m->session;
	struct message message = { .type = MESSAGE_recall_stream };
	struct control *control = malloc(sizeof(*control));
	struct holder_actions actions = session_actions();

	message.recall_stream.session = session.value;
	message.recall_stream.recall_sequence = holder_recall_sequence(m->holder);
	if (s->stream_open)
		client_stream_close(s->stream);
	s->stream = NULL;
	s->stream_open = false;
	if (control) {
		*control = (struct control){ m, session, mount_now(), ++s->stream_number };
		if (client_stream(m->client, "/v1/recalls", &message, on_stream_message,
				  on_stream_ended, control, &s->stream) == 0) {
			s->stream_open = true;
			return;
		}
		free(control);
	}
	holder_stream_lost(m->holder, mount_now(), session, &actions);
	session_act(m, &actions);
}

/* ---- acknowledgements, releases, reclaims: batched and repeated ---- */

static void pump(struct mount *m);

static void on_acknowledged(void *context, const struct client_answer *answer)
{
	struct control *control = context;
	struct mount *m = control->m;
	struct session *s = m->session;
	struct holder_actions actions = session_actions();
	struct message message;

	pthread_mutex_lock(&m->lock);
	s->acknowledging = false;
	if (control->session.value == s->id.value) {
		if (!answer_decode(answer, MESSAGE_acknowledged, &message)) {
			s->acknowledgements.sent = 0;
			s->retry_at = instant_add(mount_now(), duration_ms(RETRY_MS));
		} else {
			LIST_DONE(&s->acknowledgements);
			if (message.acknowledged.status == STATUS_NOSESSION)
				holder_session_refused(m->holder, mount_now(), control->session,
						       &actions);
		}
	}
	session_act(m, &actions);
	pump(m);
	calls_release_closes(m);
	pthread_mutex_unlock(&m->lock);
	free(control);
}

static void send_acknowledgements(struct mount *m)
{
	struct session *s = m->session;
	struct message message = { .type = MESSAGE_recall_acknowledge };
	uint8_t buffer[ACKNOWLEDGE_BATCH * 16];
	struct writer w = writer_of(buffer, sizeof(buffer));
	size_t i;

	for (i = 0; i < s->acknowledgements.count && i < ACKNOWLEDGE_BATCH; i++) {
		const struct acknowledgement *a = &s->acknowledgements.items[i];
		struct item_acknowledgement item = { a->sequence, a->open, a->kept };

		item_acknowledgement_write(&w, &item);
	}
	s->acknowledgements.sent = i;
	message.recall_acknowledge.session = s->id.value;
	message.recall_acknowledge.items = (struct slice){ buffer, w.at };
	if (control_send(m, &message, s->id, 0, on_acknowledged) == 0) {
		s->acknowledging = true;
	} else {
		s->acknowledgements.sent = 0;
		s->retry_at = instant_add(mount_now(), duration_ms(RETRY_MS));
	}
}

static void on_released(void *context, const struct client_answer *answer)
{
	struct control *control = context;
	struct mount *m = control->m;
	struct session *s = m->session;
	struct message message;

	pthread_mutex_lock(&m->lock);
	s->releasing = false;
	if (control->session.value == s->id.value) {
		if (answer_decode(answer, MESSAGE_acknowledged, &message)) {
			LIST_DONE(&s->releases);
		} else {
			s->releases.sent = 0;
			s->retry_at = instant_add(mount_now(), duration_ms(RETRY_MS));
		}
	}
	pump(m);
	pthread_mutex_unlock(&m->lock);
	free(control);
}

static void send_releases(struct mount *m)
{
	struct session *s = m->session;
	struct message message = { .type = MESSAGE_lease_release };
	uint8_t *buffer = malloc(HANDLE_BATCH * sizeof(struct handle));
	struct writer w = writer_of(buffer, HANDLE_BATCH * sizeof(struct handle));
	size_t i;

	for (i = 0; buffer && i < s->releases.count && i < HANDLE_BATCH; i++)
		item_handle_write(&w, &(struct item_handle){ s->releases.items[i] });
	s->releases.sent = i;
	message.lease_release.session = s->id.value;
	message.lease_release.handles = (struct slice){ buffer, w.at };
	if (buffer && control_send(m, &message, s->id, 0, on_released) == 0) {
		s->releasing = true;
	} else {
		s->releases.sent = 0;
		s->retry_at = instant_add(mount_now(), duration_ms(RETRY_MS));
	}
	free(buffer);
}

static void claims_answered(struct mount *m, const struct control *control,
			    const struct message_reclaimed *r, struct holder_actions *actions)
{
	const struct change unknown = { 0, 0 };

	for (size_t i = 0; i < m->session->claims.sent; i++) {
		const struct claim *claim = &m->session->claims.items[i];
		uint8_t confirmed = r->status == STATUS_OK && i < r->confirmed.length ?
					    r->confirmed.data[i] : CONFIRMED_NOT;

		holder_reclaimed(m->holder, mount_now(), control->session, control->stamp,
				 r->recall_sequence, &claim->handle,
				 confirmed == CONFIRMED_ELSEWHERE ? unknown : claim->change,
				 confirmed != CONFIRMED_NOT, actions);
		if (claim->kept && confirmed != CONFIRMED_NOT)
			write_back_reclaimed(m, &claim->handle, control->session,
					     r->recall_sequence);
	}
}

static void on_reclaimed(void *context, const struct client_answer *answer)
{
	struct control *control = context;
	struct mount *m = control->m;
	struct session *s = m->session;
	struct holder_actions actions = session_actions();
	struct message message;

	pthread_mutex_lock(&m->lock);
	s->reclaiming = false;
	if (control->session.value == s->id.value) {
		if (!answer_decode(answer, MESSAGE_reclaimed, &message)) {
			s->claims.sent = 0;
			s->retry_at = instant_add(mount_now(), duration_ms(RETRY_MS));
		} else if (message.reclaimed.status == STATUS_NOSESSION) {
			holder_session_refused(m->holder, mount_now(), control->session, &actions);
		} else {
			claims_answered(m, control, &message.reclaimed, &actions);
			LIST_DONE(&s->claims);
			if (s->claims_last_sent) {
				s->claims_last = false;
				note_reclaimed(m);
			}
		}
	}
	holder_request_end(m->holder, control->stamp);
	session_act(m, &actions);
	pump(m);
	calls_release_closes(m);
	pthread_mutex_unlock(&m->lock);
	free(control);
}

static void send_reclaims(struct mount *m)
{
	struct session *s = m->session;
	struct message message = { .type = MESSAGE_reclaim };
	size_t size = HANDLE_BATCH * (sizeof(struct handle) + 20);
	uint8_t *buffer = malloc(size);
	struct writer w = writer_of(buffer, size);
	uint64_t stamp = holder_request_begin(m->holder);
	size_t i;

	for (i = 0; buffer && i < s->claims.count && i < HANDLE_BATCH; i++) {
		const struct claim *c = &s->claims.items[i];
		struct item_claim item = { c->kept ? LEASE_WRITE : LEASE_READ, c->open,
					   c->handle, c->change };

		item_claim_write(&w, &item);
	}
	s->claims.sent = i;
	message.reclaim.session = s->id.value;
	message.reclaim.items = (struct slice){ buffer, w.at };
	message.reclaim.last = s->claims_last && i == s->claims.count;
	s->claims_last_sent = message.reclaim.last;
	if (buffer && control_send(m, &message, s->id, stamp, on_reclaimed) == 0) {
		s->reclaiming = true;
	} else {
		holder_request_end(m->holder, stamp);
		s->claims.sent = 0;
		s->retry_at = instant_add(mount_now(), duration_ms(RETRY_MS));
	}
	free(buffer);
}

static void add_claim(struct mount *m, const struct handle *handle, struct change change, bool kept)
{
	struct inode *inode = inode_find(m, handle);
	struct claim *claim = LIST_ADD(&m->session->claims);
	bool open = inode && inode->live->open_count > 0;

	/* Without memory it is not reclaimed: fetched again, never wrong. */
	if (!claim)
		return;
	*claim = (struct claim){ *handle, change, open, kept };
	if (open)
		inode_live(inode)->open_registered = true; /* its close waits for the claim */
}

/* Open inodes without a lease to reclaim are named all the same: the origin registers the open. */
static void add_open_claims(struct mount *m)
{
	struct inode *inode;
	size_t cursor = 0;

	while ((inode = inode_next(m, &cursor)))
		if (inode->live->open_count > 0)
			add_claim(m, INODE_HANDLE(inode), (struct change){ 0, 0 }, false);
}

void session_claim_open(struct mount *m, const struct inode *inode)
{
	/* Without a session the next one claims everything that is open. */
	if (m->session->stopping || holder_state(m->holder) != HOLDER_ACTIVE)
		return;
	add_claim(m, INODE_HANDLE(inode), (struct change){ 0, 0 }, false);
	pump(m);
}

void session_calls_settled(struct mount *m)
{
	if (m->session)
		pthread_cond_broadcast(&m->session->wake);
}

/* Sends what waits and is not in flight. Under the lock. */
static void pump(struct mount *m)
{
	struct session *s = m->session;

	if (s->stopping || holder_state(m->holder) != HOLDER_ACTIVE || !current(m, s->id) ||
	    instant_before(mount_now(), s->retry_at))
		return;
	if (!s->acknowledging && s->acknowledgements.count)
		send_acknowledgements(m);
	if (!s->releasing && s->releases.count)
		send_releases(m);
	/* PROTOCOL.md 3.5: what earlier sessions did may have opened something. */
	if (s->claims_done && s->losing == 0 && !calls_unsettled(m) && locks_ready(m)) {
		s->claims_done = false;
		add_open_claims(m);
		s->claims_last = true;
	}
	/* PROTOCOL.md 10.6: after the locks, else the origin refuses it. */
	if (!s->reclaiming && (s->claims.count || s->claims_last) && locks_ready(m))
		send_reclaims(m);
}

static void add_acknowledgement(struct mount *m, const struct holder_action *action)
{
	struct acknowledgement *a = LIST_ADD(&m->session->acknowledgements);
	struct holder_actions actions = session_actions();

	if (a) {
		m->session->acknowledgements_added++;
		*a = (struct acknowledgement){ action->sequence, action->open, action->kept };
		return;
	}
	/* Never leave a recall unanswered in silence: without memory the session ends. */
	holder_session_lost(m->holder, mount_now(), action->session, &actions);
	session_act(m, &actions);
}

void session_act(struct mount *m, struct holder_actions *actions)
{
	/* At the end of the mount nothing is in the kernel any more, and nothing is sent. */
	for (size_t i = 0; i < actions->count && m->session && !m->session->stopping; i++) {
		const struct holder_action *a = &actions->items[i];
		struct handle *handle;

		switch (a->kind) {
		case HOLDER_SEND_SESSION_OPEN:
			if (m->session->ending)
				break;
			m->session->open_waits = m->session->fencing > 0;
			m->session->open_previous = a->session;
			if (!m->session->open_waits)
				send_session_open(m, a->session);
			break;
		case HOLDER_OPEN_STREAM:
			open_stream(m, a->session);
			break;
		case HOLDER_SEND_KEEPALIVE:
			send_keepalive(m, a->session);
			break;
		case HOLDER_SEND_ACKNOWLEDGE:
			add_acknowledgement(m, a);
			break;
		case HOLDER_SEND_RELEASE:
			handle = LIST_ADD(&m->session->releases);
			if (handle)
				*handle = a->handle;
			break;
		case HOLDER_SEND_RECLAIM:
			add_claim(m, &a->handle, a->change, a->kept);
			break;
		case HOLDER_SEND_RECLAIM_DONE:
			m->session->claims_done = true;
			break;
		case HOLDER_DROP:
			notifier_drop(m, a);
			break;
		case HOLDER_DROP_ALL:
			mount_log("info", "session with %s ended; nothing is served from the cache "
				  "until there is a new one", m->origin_url);
			m->session->lost_at = mount_now();
			locks_session_lost(m);
			if (drop_all(m, a))
				m->session->fencing++;
			else
				m->session->unfenced = true;
			/* Expired; where the origin ended it, the next open is under way by now. */
			if (holder_state(m->holder) == HOLDER_NONE)
				m->session->away = true;
			calls_session_changed(m);
			break;
		case HOLDER_LOST:
			m->session->losing += drop_lost(m, &a->handle);
			break;
		case HOLDER_RENEWED:
			/* This daemon fences by itself at `until`; the guardian when it did not. */
			guardian_renew(m->guardian, instant_add(a->until, duration_ms(
							    GUARDIAN_DELAY_MS)));
			break;
		}
	}
	holder_actions_finish(actions);
	if (!m->session || m->session->stopping)
		return;
	pump(m);
	pthread_cond_broadcast(&m->session->wake);
}

void session_fenced(struct mount *m)
{
	struct session *s = m->session;

	pthread_mutex_lock(&m->lock);
	if (--s->fencing == 0 && s->open_waits && !s->stopping && !s->ending) {
		s->open_waits = false;
		send_session_open(m, s->open_previous);
	}
	pthread_mutex_unlock(&m->lock);
}

void session_abandon(struct mount *m)
{
	struct holder_actions actions = session_actions();

	pthread_mutex_lock(&m->lock);
	m->session->ending = true;
	holder_session_lost(m->holder, mount_now(), holder_session(m->holder), &actions);
	session_act(m, &actions);
	pthread_mutex_unlock(&m->lock);
}

bool session_is_fenced(struct mount *m)
{
	bool fenced;

	pthread_mutex_lock(&m->lock);
	fenced = m->session->fencing == 0 && !m->session->unfenced;
	pthread_mutex_unlock(&m->lock);
	return fenced;
}

void session_refused(struct mount *m, struct session_id session)
{
	struct holder_actions actions = session_actions();

	pthread_mutex_lock(&m->lock);
	holder_session_refused(m->holder, mount_now(), session, &actions);
	session_act(m, &actions);
	pthread_mutex_unlock(&m->lock);
}

void session_check_guardian(struct mount *m)
{
	struct holder_actions actions = session_actions();

	if (m->unguarded || guardian_aborted(m->guardian) || !guardian_gone(m->guardian))
		return;
	m->unguarded = true;
	mount_log("error", "the guardian process of %s was killed: the kernel caches nothing of it "
		  "any more, which is slow; unmount it and mount it again", m->options->mountpoint);
	pthread_mutex_lock(&m->lock);
	holder_session_lost(m->holder, mount_now(), holder_session(m->holder), &actions);
	session_act(m, &actions);
	pthread_mutex_unlock(&m->lock);
}

void session_lost_dropped(struct mount *m)
{
	m->session->losing--;
	pthread_cond_broadcast(&m->session->wake);
}

void session_dropped(struct mount *m, struct session_id session, uint64_t sequence, bool open)
{
	struct holder_actions actions = session_actions();

	holder_dropped(m->holder, mount_now(), session, sequence, open, &actions);
	session_act(m, &actions);
}

bool session_away(const struct mount *m)
{
	return m->session && m->session->away && holder_state(m->holder) != HOLDER_ACTIVE;
}

bool session_serves_stale(const struct mount *m, struct instant now)
{
	return m->session && !m->session->returning &&
	       (session_away(m) || holder_expired(m->holder, now));
}

void session_served_stale(struct mount *m)
{
	if (!m->session->served_stale)
		mount_log("warning", "origin %s is away: answering from the cache without a lease "
			  "(disconnected=stale)", m->origin_url);
	m->session->served_stale = true;
	COUNT(m, stale);
}

uint64_t session_acknowledge_mark(const struct mount *m)
{
	return m->session->acknowledgements_added;
}

bool session_acknowledged(const struct mount *m, uint64_t mark)
{
	const struct session *s = m->session;

	return s->acknowledgements_added - s->acknowledgements.count >= mark &&
	       s->claims.count == 0;
}

/* ---- the thread ---- */

static void *run(void *context)
{
	struct mount *m = context;
	struct session *s = m->session;
	int64_t apart = mount_suspended_ns();

	pthread_mutex_lock(&m->lock);
	while (!s->stopping) {
		struct holder_actions actions = session_actions();
		int64_t apart_now = mount_suspended_ns();
		struct instant now = mount_now();
		struct duration wait;
		struct timespec at;

		if (apart_now > apart + CLOCK_JUMP_NS) {
			mount_log("warning", "the machine was suspended: the session is opened anew");
			holder_session_lost(m->holder, now, holder_session(m->holder), &actions);
		}
		apart = apart_now;
		holder_tick(m->holder, now, &actions);
		session_act(m, &actions);
		wait = instant_until(now, holder_timer(m->holder));
		if (wait.ns > TICK_MAX_MS * NS_PER_MS)
			wait.ns = TICK_MAX_MS * NS_PER_MS;
		if (wait.ns < NS_PER_MS)
			wait.ns = NS_PER_MS;
		clock_gettime(CLOCK_MONOTONIC, &at);
		at.tv_nsec += (long)wait.ns;
		if (at.tv_nsec >= (long)NS_PER_S) {
			at.tv_nsec -= (long)NS_PER_S;
			at.tv_sec++;
		}
		pthread_cond_timedwait(&s->wake, &m->lock, &at);
	}
	pthread_mutex_unlock(&m->lock);
	return NULL;
}

/* Waits for the first answer to session_open, under the lock. */
static void wait_first(struct mount *m, struct duration timeout)
{
	struct session *s = m->session;
	struct timespec at;

	clock_gettime(CLOCK_MONOTONIC, &at);
	at.tv_sec += (time_t)(timeout.ns / NS_PER_S) + 1;
	while (!s->answered)
		if (pthread_cond_timedwait(&s->wake, &m->lock, &at) == ETIMEDOUT)
			break;
}

int session_start(struct mount *m, struct duration timeout, struct item_node *ret_root,
		  char *ret_text, size_t text_size)
{
	struct session *s = calloc(1, sizeof(*s));
	struct holder_actions actions = session_actions();
	pthread_condattr_t attributes;
	int r = 0;

	if (!s)
		return -ENOMEM;
	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&s->wake, &attributes);
	pthread_condattr_destroy(&attributes);
	cache_host_id(m->cache, m->cache_space, m->number, s->host);
	if (getrandom(&s->instance, sizeof(s->instance), 0) != sizeof(s->instance))
		s->instance = mount_now().ns;
	pthread_mutex_lock(&m->lock);
	m->session = s;
	pthread_mutex_unlock(&m->lock);
	if (pthread_create(&s->thread, NULL, run, m) != 0)
		return -EAGAIN;
	s->started = true;
	pthread_mutex_lock(&m->lock);
	holder_connect(m->holder, mount_now(), &actions);
	session_act(m, &actions);
	wait_first(m, timeout);
	if (!s->answered) {
		snprintf(ret_text, text_size, "origin %s does not answer; is `leasehold origin` "
			 "running there, and the port open?", m->origin_url);
		r = -ETIMEDOUT;
	} else if (s->first_error) {
		snprintf(ret_text, text_size, "%s", s->first_text); /* it names the origin */
		r = s->first_error;
	} else if (s->first_status == STATUS_NOEXPORT) {
		snprintf(ret_text, text_size, "origin %s has no export \"%s\"; it prints the names "
			 "of its exports when it starts", m->origin_url, m->export);
		r = -ENOENT;
	} else if (s->first_status != STATUS_OK) {
		snprintf(ret_text, text_size, "origin %s refuses export \"%s\": %s", m->origin_url,
			 m->export, s->first_text);
		r = -status_errno(s->first_status);
	} else {
		*ret_root = s->root;
	}
	pthread_mutex_unlock(&m->lock);
	return r;
}

struct closing {
	pthread_mutex_t lock;
	pthread_cond_t done;
	bool answered;
};

static void on_closed(void *context, const struct client_answer *answer)
{
	struct closing *closing = context;

	pthread_mutex_lock(&closing->lock);
	closing->answered = true;
	pthread_cond_signal(&closing->done);
	pthread_mutex_unlock(&closing->lock);
}

void session_stop(struct mount *m)
{
	struct session *s = m->session;

	if (!s)
		return;
	pthread_mutex_lock(&m->lock);
	s->stopping = true;
	pthread_cond_broadcast(&s->wake);
	pthread_mutex_unlock(&m->lock);
	if (s->started)
		pthread_join(s->thread, NULL);
	pthread_mutex_lock(&m->lock);
	if (s->stream_open)
		client_stream_close(s->stream);
	s->stream_open = false;
	pthread_mutex_unlock(&m->lock);
}

void session_close(struct mount *m)
{
	struct session *s = m->session;
	struct message message = { .type = MESSAGE_session_close };
	struct closing closing = { PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, false };

	if (!s)
		return;
	pthread_mutex_lock(&m->lock);
	message.session_close.session = s->id.value;
	pthread_mutex_unlock(&m->lock);
	/* The answer, or the timeout, always comes: `closing` outlives it. */
	if (s->id.value && client_call(m->client, CLIENT_CONTROL, "/v1/rpc", &message,
				       (struct slice){ NULL, 0 }, duration_ms(2000), on_closed,
				       &closing, NULL) == 0) {
		pthread_mutex_lock(&closing.lock);
		while (!closing.answered)
			pthread_cond_wait(&closing.done, &closing.lock);
		pthread_mutex_unlock(&closing.lock);
	}
}

void session_discard(struct mount *m)
{
	struct session *s = m->session;

	if (!s)
		return;
	free(s->acknowledgements.items);
	free(s->releases.items);
	free(s->claims.items);
	pthread_cond_destroy(&s->wake);
	free(s);
	m->session = NULL;
}
