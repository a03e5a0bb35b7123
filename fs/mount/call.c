#include "fs/mount/call.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "fs/mount/bulk.h"
#include "fs/mount/locks.h"
#include "fs/mount/read.h"
#include "fs/mount/rules.h"
#include "fs/mount/session.h"
#include "fs/mount/write_back.h"

#define TICK_MS 100          /* how often deadlines, repetitions and killed callers are looked at */
#define RETRY_FIRST_MS 50
#define RETRY_MAX_MS 1000
#define SLOTS_MAX 256
#define SLOTS_RESERVED 8 /* for what a recall may be waiting for: one in so many */

struct slot {
	bool used;
	uint64_t sequence;
};

struct call_table {
	struct call *by_id;
	uint64_t id_next;
	uint64_t count;
	struct call *parked;      /* wait for a session, a slot, or retry_at */
	struct session_id session; /* that the slots belong to */
	struct slot slots[SLOTS_MAX];
	uint32_t slot_count;
	uint64_t close_number;    /* the last one given */
	bool shut;
	uint16_t shut_status;

	pthread_mutex_t queue_lock; /* ranks below mount->lock: may be taken with it held */
	pthread_cond_t queue_filled;
	struct call *queue_first, *queue_last;
	bool stopping;
	pthread_t workers[COMPLETION_THREADS];
	pthread_t ticker;
	pthread_cond_t tick;      /* with mount->lock */
	bool started;
};

/* ---- the completion queue ---- */

static void queue_push(struct call_table *table, struct call *call)
{
	pthread_mutex_lock(&table->queue_lock);
	call->next = NULL;
	if (table->queue_last)
		table->queue_last->next = call;
	else
		table->queue_first = call;
	table->queue_last = call;
	pthread_cond_signal(&table->queue_filled);
	pthread_mutex_unlock(&table->queue_lock);
}

static struct call *queue_pop(struct call_table *table)
{
	struct call *call;

	pthread_mutex_lock(&table->queue_lock);
	while (!table->queue_first && !table->stopping)
		pthread_cond_wait(&table->queue_filled, &table->queue_lock);
	call = table->queue_first;
	if (call) {
		table->queue_first = call->next;
		if (!table->queue_first)
			table->queue_last = NULL;
		call->next = NULL;
	}
	pthread_mutex_unlock(&table->queue_lock);
	return call;
}

/* ---- making and ending ---- */

void call_credential(fuse_req_t request, struct credential *ret)
{
	const struct fuse_ctx *context = fuse_req_ctx(request);
	gid_t groups[GROUPS_MAX];
	int count;

	ret->uid = context->uid;
	ret->gid = context->gid;
	ret->group_count = 0;
	if (context->uid == 0)
		return;
	count = fuse_req_getgroups(request, GROUPS_MAX, groups);
	for (int i = 0; i < count && i < (int)GROUPS_MAX; i++)
		ret->groups[ret->group_count++] = groups[i];
}

struct call *call_new(struct mount *m, fuse_req_t request, enum message_type type)
{
	struct call_table *table = m->calls;
	struct call *call = calloc(1, sizeof(*call));
	bool full;

	if (!call)
		return NULL;
	call->request = request;
	call->operation = type;
	call->message.type = type;
	if (request) {
		call->request_thread = (uint64_t)fuse_req_ctx(request)->pid;
		call_credential(request, &call->message.common.credential);
	}
	call->deadline = instant_add(mount_now(), duration_ms(m->options->timeout));
	call->deadline_errno = ETIMEDOUT;
	pthread_mutex_lock(&m->lock);
	/* Write-back is bounded by the kernel, and a recall may be waiting for it. */
	full = table->count >= CALL_COUNT_MAX && type != MESSAGE_write_back;
	if (!full) {
		call->id = ++table->id_next;
		table->count++;
		HASH_ADD(hh, table->by_id, id, sizeof(call->id), call);
	}
	pthread_mutex_unlock(&m->lock);
	if (full) {
		COUNT(m, calls_refused);
		free(call);
		return NULL;
	}
	return call;
}

void call_limit(struct call *call)
{
	struct instant limit = instant_add(mount_now(), (struct duration){ LOCKED_TIMEOUT_NS });

	if (instant_before(limit, call->deadline)) {
		call->deadline = limit;
		call->deadline_errno = EIO;
	}
}

struct slice call_name(struct call *call, unsigned which, const char *name)
{
	size_t length = strnlen(name, NAME_BYTES_MAX);

	memcpy(call->names[which], name, length);
	call->names[which][length] = '\0';
	return (struct slice){ (const uint8_t *)call->names[which], length };
}

void call_set_inode(struct mount *m, struct call *call, struct inode *inode)
{
	pthread_mutex_lock(&m->lock);
	inode_use(m, inode);
	call->inode = inode;
	pthread_mutex_unlock(&m->lock);
}

static void slot_free(struct mount *m, struct call *call)
{
	struct call_table *table = m->calls;

	if (call->has_slot && call->session.value == table->session.value)
		table->slots[call->slot].used = false;
	else if (call->has_slot)
		session_calls_settled(m);
	call->has_slot = false;
}

void call_destroy(struct mount *m, struct call *call)
{
	struct call_table *table = m->calls;
	struct inode *inodes[] = { call->inode, call->inode2, call->child, call->child2 };

	pthread_mutex_lock(&m->lock);
	slot_free(m, call);
	HASH_DELETE(hh, table->by_id, call);
	table->count--;
	for (unsigned i = 0; i < 4; i++)
		if (inodes[i])
			inode_unuse(m, inodes[i]);
	if (table->parked)
		pthread_cond_signal(&table->tick); /* somebody may wait for the slot */
	pthread_mutex_unlock(&m->lock);
	bulk_drop(m, call);
	free(call->bytes);
	free(call->answer);
	free(call);
}

fuse_req_t call_take_request(struct mount *m, struct call *call)
{
	fuse_req_t request;

	pthread_mutex_lock(&m->lock);
	request = call->request;
	call->request = NULL;
	pthread_mutex_unlock(&m->lock);
	return request;
}

int call_errno(const struct call *call)
{
	if (call->status == STATUS_DEADLINE)
		return call->deadline_errno;
	return status_errno(call->status);
}

/* ---- sending ---- */

/* Parks the call: it goes out when a session stands, a slot is free, and retry_at has come. */
static void park(struct mount *m, struct call *call, unsigned delay_ms)
{
	call->state = CALL_PARKED;
	call->retry_at = instant_add(mount_now(), duration_ms(delay_ms));
	call->next = m->calls->parked;
	m->calls->parked = call;
	pthread_cond_signal(&m->calls->tick);
}

static void on_done(void *context, const struct client_answer *answer);

struct pending_send {
	struct mount *m;
	struct call *call;
};

static bool slot_take(struct call_table *table, struct call *call)
{
	uint32_t reserved = (table->slot_count + SLOTS_RESERVED - 1) / SLOTS_RESERVED;

	if (call->bound || call_changes_size(call) || reserved == table->slot_count)
		reserved = 0;
	for (uint32_t i = reserved; i < table->slot_count; i++) {
		if (!table->slots[i].used) {
			table->slots[i].used = true;
			call->has_slot = true;
			call->slot = i;
			call->sequence = ++table->slots[i].sequence;
			return true;
		}
	}
	return false;
}

/*
 * The caller was told that it failed: from now on it must not be executed any more, or it would
 * undo what came after it. Instead of repeating it, its slot is taken by a request that changes
 * nothing: when that is answered, the modification was executed before or never will be
 * (PROTOCOL.md 3.3). Under the lock.
 */
static void supersede(struct mount *m, struct call *call)
{
	call->superseding = true;
	call->sequence = ++m->calls->slots[call->slot].sequence;
	bulk_drop(m, call);
	call->message = (struct message){ .type = MESSAGE_setattr };
	call->message.setattr.handle = inode_handle(call->inode);
}

/* The write lease that it belongs to is lost. Under the lock. */
static bool bound_elsewhere(struct mount *m, const struct call *call)
{
	return call->bound && (call->inode->live->stored.number != call->bound ||
			       !write_back_expected(m, call->inode));
}

/* Of the descriptors that it goes through. Under the lock. */
static enum holder_lock_state lock_state(const struct mount *m, const struct call *call)
{
	enum holder_lock_state state = HOLDER_LOCK_GOOD;

	if (call->lock_file)
		state = locks_file(m, INODE_HANDLE(call->inode), call->lock_file);
	if (state == HOLDER_LOCK_GOOD && call->source_lock_file)
		state = locks_file(m, &call->message.copy_range.source, call->source_lock_file);
	return state;
}

/*
 * Prepares the next attempt under the lock. False: it has to wait (parked, not yet in the list).
 * A modification that may have been executed keeps its session, slot and sequence; everything
 * else goes out under the session that stands.
 */
static bool prepare(struct mount *m, struct call *call)
{
	struct call_table *table = m->calls;
	bool closes = call->message.type == MESSAGE_close;

	if (holder_state(m->holder) != HOLDER_ACTIVE || bound_elsewhere(m, call))
		return false;
	if (call->modifying && call->has_slot) {
		if (call->abandoned && !call->superseding)
			supersede(m, call);
	} else {
		/* What was locked may be another's by now. */
		if (lock_state(m, call) != HOLDER_LOCK_GOOD)
			return false;
		/* PROTOCOL.md 3.3: a number of its own under each session. */
		if (closes && (!call->sequence ||
			       call->session.value != holder_session(m->holder).value))
			call->sequence = ++table->close_number;
		call->session = holder_session(m->holder);
		/* PROTOCOL.md 6.4: when it is reclaimed. */
		if (call->bound && call->inode->live->stored.kept)
			return false;
		if (call->message.type == MESSAGE_write_back)
			call->message.write_back.lease_sequence = call->inode->live->stored.sequence;
		if (call->modifying) {
			if (call->session.value != table->session.value ||
			    !slot_take(table, call))
				return false;
		}
	}
	call->message.common.session = call->session.value;
	call->message.common.slot = call->has_slot ? call->slot : 0;
	call->message.common.sequence = call->has_slot || closes ? call->sequence : 0;
	call->stamp = holder_request_begin(m->holder);
	call->tries++;
	call->attempts++;
	call->state = CALL_SENT;
	if (call->inode) {
		call->lease_instance =
			holder_lease_held(m->holder, mount_now(), INODE_HANDLE(call->inode));
		call->settle_serial = call->inode->live->settle_serial;
		call->write_serial = call->inode->live->write_serial;
	}
	return true;
}

/* Nothing of the latest attempt left this host: without others it was not executed. Under lock. */
static void unsent(struct mount *m, struct call *call)
{
	if (--call->attempts == 0)
		slot_free(m, call);
}

/* Without the lock; the call is SENT and owned by the caller until client_call() took it. */
static void transmit(struct mount *m, struct call *call)
{
	struct pending_send *pending = malloc(sizeof(*pending));
	struct duration left = instant_until(mount_now(), call->deadline);
	struct client_call *transfer = NULL;
	int r = -ENOMEM;

	/* An abandoned modification is asked after in short steps until its session is over. */
	if (call->abandoned || left.ns < 10 * NS_PER_MS)
		left = duration_ms(call->abandoned ? 5000 : 10);
	call->message.common.deadline_ms = (uint32_t)(left.ns / NS_PER_MS);
	COUNT(m, calls);
	if (call->tries > 1)
		COUNT(m, calls_repeated);
	pthread_mutex_lock(&m->lock);
	if (pending) {
		*pending = (struct pending_send){ m, call };
		r = client_call(m->client, rules_channel(m, call), "/v1/rpc", &call->message,
				(struct slice){ call->bulk, call->bulk_length },
				(struct duration){ left.ns + NS_PER_S }, on_done, pending,
				&transfer);
	}
	if (r == 0) {
		call->transfer = transfer;
		pthread_mutex_unlock(&m->lock);
		return;
	}
	holder_request_end(m->holder, call->stamp);
	call->stamp = 0;
	if (r == -EAGAIN) {
		unsent(m, call);
		park(m, call, RETRY_FIRST_MS);
		pthread_mutex_unlock(&m->lock);
	} else {
		pthread_mutex_unlock(&m->lock);
		mount_log("warning", "cannot send %s: %s", message_name(call->message.type),
			  strerror(-r));
		call_fail(m, call, r == -EMSGSIZE ? STATUS_INVAL : STATUS_NOMEM);
	}
	free(pending);
}

/* The interrupt of a request: looked at by the ticker, which knows whether the caller dies. */
static void on_interrupt(fuse_req_t request, void *data)
{
	struct mount *m = fuse_req_userdata(request);
	uint64_t id = (uint64_t)(uintptr_t)data;
	struct call *call = NULL;

	pthread_mutex_lock(&m->lock);
	HASH_FIND(hh, m->calls->by_id, &id, sizeof(id), call);
	if (call) {
		call->interrupted = true;
		pthread_cond_signal(&m->calls->tick);
	}
	pthread_mutex_unlock(&m->lock);
}

/*
 * Opens wait for a close that is on its way, lest it undo what they register. Page fills wait for
 * our own modification while the lease stands: when it goes, a recall waits for their pages, and
 * the modification may be waiting for that recall. A close waits for what registers the open that
 * it ends: acknowledgements and claims go another way, and it must not overtake them (5.2).
 */
static bool must_hold(struct mount *m, const struct call *call)
{
	const struct inode *inode = call->inode;

	if (call->message.type == MESSAGE_open)
		return inode->live->closing;
	if (call->message.type == MESSAGE_close)
		return !session_acknowledged(m, call->acknowledge_mark);
	return (call->message.type == MESSAGE_read ||
		call->message.type == MESSAGE_read_exclusive) &&
	       inode_fills_wait(inode) &&
	       holder_lease_held(m->holder, mount_now(), INODE_HANDLE(inode)) != 0;
}

void call_send(struct mount *m, struct call *call, call_work *work)
{
	fuse_req_t request = call->request;
	bool ready;

	call->work = work;
	if (request)
		fuse_req_interrupt_func(request, on_interrupt, (void *)(uintptr_t)call->id);
	pthread_mutex_lock(&m->lock);
	if (m->calls->shut) {
		pthread_mutex_unlock(&m->lock);
		call_fail(m, call, m->calls->shut_status);
		return;
	}
	call->acknowledge_mark = session_acknowledge_mark(m);
	call->held = must_hold(m, call);
	ready = !call->held && prepare(m, call);
	if (!ready)
		park(m, call, 0);
	pthread_mutex_unlock(&m->lock);
	if (ready)
		transmit(m, call);
}

void call_again(struct mount *m, struct call *call, unsigned delay_ms)
{
	free(call->answer);
	call->answer = NULL;
	call->replied = false;
	call->data = (struct slice){ NULL, 0 };
	memset(&call->reply, 0, sizeof(call->reply));
	pthread_mutex_lock(&m->lock);
	slot_free(m, call);
	call->attempts = 0;
	call->held = call->message.type == MESSAGE_read && must_hold(m, call);
	park(m, call, delay_ms);
	pthread_mutex_unlock(&m->lock);
}

void call_fail(struct mount *m, struct call *call, uint16_t status)
{
	pthread_mutex_lock(&m->lock); /* the ticker looks at the state of every call */
	call->status = status;
	call->state = CALL_ANSWERED;
	call->error = 0;
	pthread_mutex_unlock(&m->lock);
	queue_push(m->calls, call);
}

/* ---- answers ---- */

/* On the client's thread: keeps the bytes, and hands the call to a completion thread. */
static void on_done(void *context, const struct client_answer *answer)
{
	struct pending_send *pending = context;
	struct mount *m = pending->m;
	struct call *call = pending->call;
	size_t length = answer->message.length + answer->bulk.length;

	free(pending);
	pthread_mutex_lock(&m->lock);
	call->transfer = NULL;
	call->state = CALL_ANSWERED;
	if (answer->unsent)
		unsent(m, call);
	pthread_mutex_unlock(&m->lock);
	call->error = answer->error;
	call->replied = false;
	if (answer->error == 0 && answer->message.length) {
		uint8_t *copy = malloc(length);

		if (copy) {
			memcpy(copy, answer->message.data, answer->message.length);
			if (answer->bulk.length)
				memcpy(copy + answer->message.length, answer->bulk.data,
				       answer->bulk.length);
			call->answer = copy;
			call->data = (struct slice){ copy + answer->message.length,
						     answer->bulk.length };
			call->reply.nodes = (struct slice){ copy, answer->message.length };
			call->replied = true;
		} else {
			call->error = -ENOMEM;
		}
	} else if (answer->error == 0) {
		call->error = -EPROTO;
	}
	queue_push(m->calls, call);
}

/* What the attempt came to: true when `work` is to have it, false when it goes out again. */
static bool settled(struct mount *m, struct call *call)
{
	struct message message;
	struct slice encoded = call->reply.nodes;
	bool fresh, lost;

	if (call->error == 0) {
		if (!call->replied) /* a status of our own: call_fail() */
			return true;
		memset(&call->reply, 0, sizeof(call->reply));
		if (message_decode(encoded, &message) < 0 || message.type != MESSAGE_reply) {
			call->error = -EPROTO;
			call->replied = false;
			mount_log("warning", "origin %s: malformed answer to %s", m->origin_url,
				  message_name(call->message.type));
		} else {
			call->reply = message.reply;
			call->status = message.reply.status;
		}
	}
	if (call->error == 0) {
		switch (call->status) {
		case STATUS_UNKNOWNOUTCOME:
			/* Sent once, and answered by an origin that never knew the session: it
			   was not executed by anybody. */
			fresh = call->attempts == 1;
			if (!fresh)
				return true;
			/* fall through */
		case STATUS_NOSESSION:
			session_refused(m, call->session);
			pthread_mutex_lock(&m->lock);
			lost = bound_elsewhere(m, call);
			pthread_mutex_unlock(&m->lock);
			if (lost)
				return true;
			break;
		case STATUS_PUSHBACK:
		case STATUS_DRAINING:
			break;
		default:
			if (call->status == STATUS_IO || call->status == STATUS_NOMEM ||
			    (call->status >= STATUS_BADMESSAGE && call->status != STATUS_SEALED))
				mount_log("warning", "origin %s answered %s with %s: %s",
					  m->origin_url, message_name(call->message.type),
					  status_name(call->status), status_text(call->status));
			return true;
		}
	} else if (call->error == -ECANCELED) {
		call->status = STATUS_DEADLINE;
		return true;
	}
	if (call->error != 0 && !(call->modifying && call->attempts > 0) &&
	    rules_fail_call_now(m, call)) {
		call->status = STATUS_IO;
		return true;
	}
	return false;
}

static void repeat(struct mount *m, struct call *call)
{
	unsigned delay_ms = RETRY_FIRST_MS << (call->tries < 5 ? call->tries - 1 : 4);
	bool definite = call->error == 0; /* the origin said that it was not executed */

	if (delay_ms > RETRY_MAX_MS)
		delay_ms = RETRY_MAX_MS;
	free(call->answer);
	call->answer = NULL;
	call->data = (struct slice){ NULL, 0 };
	call->replied = false;
	call->error = 0;
	pthread_mutex_lock(&m->lock);
	if (definite) {
		slot_free(m, call);
		call->attempts = 0;
		call->tries = 0;
		delay_ms = call->status == STATUS_NOSESSION || call->status == STATUS_UNKNOWNOUTCOME ?
				   0 : delay_ms;
	}
	park(m, call, delay_ms);
	pthread_mutex_unlock(&m->lock);
}

static void *worker(void *context)
{
	struct mount *m = context;
	struct call *call;

	while ((call = queue_pop(m->calls))) {
		bool done = settled(m, call);
		bool sent = call->stamp != 0;
		uint64_t stamp = call->stamp;

		/* Its slot is taken; what its caller was told stands. */
		if (done && call->superseding)
			call->status = STATUS_DEADLINE;
		if (done) {
			call->work(m, call);
		} else {
			repeat(m, call);
		}
		if (sent) {
			pthread_mutex_lock(&m->lock);
			holder_request_end(m->holder, stamp);
			pthread_mutex_unlock(&m->lock);
		}
	}
	return NULL;
}

/* ---- the ticker: deadlines, killed callers, repetitions ---- */

bool call_caller_dies(uint64_t thread)
{
	char path[64], line[256];
	uint64_t pending = 0, blocked = 0, ignored = 0, caught = 0, value;
	/* Signals whose default is to be ignored: CHLD, CONT, URG, WINCH; and the stops. */
	const uint64_t harmless = 1ull << (SIGCHLD - 1) | 1ull << (SIGCONT - 1) |
				  1ull << (SIGURG - 1) | 1ull << (SIGWINCH - 1) |
				  1ull << (SIGSTOP - 1) | 1ull << (SIGTSTP - 1) |
				  1ull << (SIGTTIN - 1) | 1ull << (SIGTTOU - 1);
	FILE *file;

	if (thread == 0)
		return true; /* not in our pid namespace: nothing is known, so believe the kernel */
	snprintf(path, sizeof(path), "/proc/%llu/status", (unsigned long long)thread);
	file = fopen(path, "re");
	if (!file)
		return true;
	while (fgets(line, sizeof(line), file)) {
		char *colon = strchr(line, ':');

		if (!colon)
			continue;
		value = strtoull(colon + 1, NULL, 16);
		if (strncmp(line, "SigPnd:", 7) == 0 || strncmp(line, "ShdPnd:", 7) == 0)
			pending |= value;
		else if (strncmp(line, "SigBlk:", 7) == 0)
			blocked = value;
		else if (strncmp(line, "SigIgn:", 7) == 0)
			ignored = value;
		else if (strncmp(line, "SigCgt:", 7) == 0)
			caught = value;
	}
	fclose(file);
	return pending & ~blocked & ~ignored & ~caught & ~harmless;
}

/* Answers the kernel now; the call goes on or ends without it. Under the lock; returns what to
   reply to. A read that is in flight is cancelled. */
static fuse_req_t give_up(struct mount *m, struct call *call)
{
	fuse_req_t request = call->request;

	call->request = NULL;
	if (request && call->direct)
		call->direct->direct_failed = true;
	call->abandoned = true;
	if (call->state == CALL_SENT && !call->modifying && call->transfer)
		client_cancel(call->transfer);
	return request;
}

struct verdict {
	fuse_req_t request;
	int error;
};

#define VERDICTS_MAX 64

/* Looks at every call in flight; fills in whom to answer. Under the lock. */
static unsigned judge(struct mount *m, struct instant now, struct verdict *verdicts)
{
	bool away = session_away(m), fail, over;
	struct call *call, *next;
	unsigned count = 0;

	HASH_ITER(hh, m->calls->by_id, call, next) {
		if (count == VERDICTS_MAX)
			break;
		if (call->state != CALL_PARKED && call->state != CALL_SENT)
			continue;
		if (!call->abandoned && away && call->ends_when_away) {
			call->abandoned = true;
			if (call->state == CALL_SENT && call->transfer)
				client_cancel(call->transfer);
			continue;
		}
		over = bound_elsewhere(m, call);
		fail = away && rules_fail_call(m, call);
		if (!call->abandoned && (fail || over || !instant_before(now, call->deadline))) {
			if (fail || over)
				call->deadline_errno = EIO;
			else
				COUNT(m, calls_timed_out);
			verdicts[count++] = (struct verdict){ give_up(m, call), call->deadline_errno };
		}
	}
	return count;
}

/* Parked calls that nobody waits for and that were never executed, or whose session is over, end;
   those whose time has come are handed out. Under the lock. */
static struct call *unpark(struct mount *m, struct instant now, struct call **ret_ended)
{
	struct call *ready = NULL, *ended = NULL, *keep = NULL, *call = m->calls->parked;

	while (call) {
		struct call *next = call->next;
		bool unknown = call->modifying && call->attempts > 0;
		bool lost = !call->has_slot && lock_state(m, call) == HOLDER_LOCK_LOST;

		if (m->calls->shut || lost ||
		    (call->abandoned &&
		     (!unknown || call->session.value != m->calls->session.value))) {
			call->next = ended;
			ended = call;
		} else if (!call->held && !instant_before(now, call->retry_at) &&
			   prepare(m, call)) {
			call->next = ready;
			ready = call;
		} else {
			call->next = keep;
			keep = call;
		}
		call = next;
	}
	m->calls->parked = keep;
	*ret_ended = ended;
	return ready;
}

static void interrupts(struct mount *m)
{
	uint64_t ids[VERDICTS_MAX], threads[VERDICTS_MAX];
	unsigned count = 0;
	struct call *call, *next;

	pthread_mutex_lock(&m->lock);
	HASH_ITER(hh, m->calls->by_id, call, next) {
		if (call->interrupted && !call->abandoned && call->request &&
		    count < VERDICTS_MAX) {
			ids[count] = call->id;
			threads[count++] = call->request_thread;
		}
	}
	pthread_mutex_unlock(&m->lock);
	for (unsigned i = 0; i < count; i++) {
		fuse_req_t request = NULL;

		if (!call_caller_dies(threads[i]))
			continue;
		pthread_mutex_lock(&m->lock);
		call = NULL;
		HASH_FIND(hh, m->calls->by_id, &ids[i], sizeof(ids[i]), call);
		if (call && call->request && call->state != CALL_ANSWERED)
			request = give_up(m, call);
		pthread_mutex_unlock(&m->lock);
		if (request) {
			COUNT(m, calls_interrupted);
			fuse_reply_err(request, EINTR);
		}
	}
}

static void *ticker(void *context)
{
	struct mount *m = context;
	struct call_table *table = m->calls;
	struct timespec at;

	pthread_mutex_lock(&m->lock);
	while (!table->stopping) {
		struct verdict verdicts[VERDICTS_MAX];
		struct instant now = mount_now();
		unsigned count = judge(m, now, verdicts);
		struct call *ended, *ready = unpark(m, now, &ended);

		pthread_mutex_unlock(&m->lock);
		for (unsigned i = 0; i < count; i++)
			if (verdicts[i].request)
				fuse_reply_err(verdicts[i].request, verdicts[i].error);
		while (ready) {
			struct call *next = ready->next;

			ready->next = NULL;
			transmit(m, ready);
			ready = next;
		}
		while (ended) {
			struct call *next = ended->next;

			ended->stamp = 0;
			call_fail(m, ended, table->shut ? table->shut_status :
				  ended->abandoned ? STATUS_DEADLINE : STATUS_IO);
			ended = next;
		}
		interrupts(m);
		read_interrupts(m);
		session_check_guardian(m);
		locks_tick(m);
		pthread_mutex_lock(&m->lock);
		if (table->stopping)
			break;
		clock_gettime(CLOCK_MONOTONIC, &at);
		at.tv_nsec += TICK_MS * (long)NS_PER_MS;
		if (at.tv_nsec >= (long)NS_PER_S) {
			at.tv_nsec -= (long)NS_PER_S;
			at.tv_sec++;
		}
		pthread_cond_timedwait(&table->tick, &m->lock, &at);
	}
	pthread_mutex_unlock(&m->lock);
	return NULL;
}

/* ---- the table ---- */

void calls_session_changed(struct mount *m)
{
	pthread_cond_signal(&m->calls->tick);
}

void calls_release_held(struct mount *m, const struct inode *inode)
{
	bool any = false;

	for (struct call *call = m->calls->parked; call; call = call->next) {
		if (call->held && call->inode == inode && !must_hold(m, call)) {
			call->held = false;
			any = true;
		}
	}
	if (any)
		calls_session_changed(m);
}

void calls_bind(struct mount *m, const struct inode *inode)
{
	struct call *call, *next;

	HASH_ITER(hh, m->calls->by_id, call, next)
		if (call->inode == inode && !call->bound && call_changes_size(call) &&
		    call->state != CALL_ANSWERED && !call->abandoned)
			call->bound = inode->live->stored.number;
}

void calls_unbind(struct mount *m, struct inode *inode)
{
	struct call *call, *next;

	HASH_ITER(hh, m->calls->by_id, call, next) {
		if (call->inode != inode || !call->bound ||
		    call->message.type != MESSAGE_setattr ||
		    (call->state == CALL_ANSWERED && !call->modify_marks)) /* it is over */
			continue;
		call->bound = 0;
		/* The pages have just been dropped: so it is fenced. */
		inode_live(inode)->hold_count++;
		call->modify_marks |= 1u << 4;
	}
}

void calls_release_closes(struct mount *m)
{
	bool any = false;

	for (struct call *call = m->calls->parked; call; call = call->next) {
		if (call->held && call->message.type == MESSAGE_close && !must_hold(m, call)) {
			call->held = false;
			any = true;
		}
	}
	if (any)
		calls_session_changed(m);
}

void calls_slots_reset(struct mount *m, struct session_id session, uint32_t count)
{
	struct call_table *table = m->calls;

	table->session = session;
	table->slot_count = count < SLOTS_MAX ? count : SLOTS_MAX;
	memset(table->slots, 0, sizeof(table->slots));
	/* The origin answers again. */
	for (struct call *call = table->parked; call; call = call->next)
		call->retry_at = (struct instant){ 0 };
	calls_session_changed(m);
}

bool calls_unsettled(const struct mount *m)
{
	struct call *call, *next;

	HASH_ITER(hh, m->calls->by_id, call, next)
		if (call->has_slot && !call->abandoned &&
		    call->session.value != m->calls->session.value)
			return true;
	return false;
}

void calls_shut(struct mount *m, uint16_t status)
{
	struct call *call, *next;

	pthread_mutex_lock(&m->lock);
	m->calls->shut = true;
	m->calls->shut_status = status;
	HASH_ITER(hh, m->calls->by_id, call, next)
		if (call->state == CALL_SENT && call->transfer)
			client_cancel(call->transfer);
	calls_session_changed(m);
	pthread_mutex_unlock(&m->lock);
}

uint64_t calls_count(struct mount *m)
{
	uint64_t count;

	pthread_mutex_lock(&m->lock);
	count = m->calls->count;
	pthread_mutex_unlock(&m->lock);
	return count;
}

int calls_create(struct mount *m)
{
	struct call_table *table = calloc(1, sizeof(*table));
	pthread_condattr_t attributes;
	unsigned made = 0;

	if (!table)
		return -ENOMEM;
	m->calls = table;
	pthread_mutex_init(&table->queue_lock, NULL);
	pthread_cond_init(&table->queue_filled, NULL);
	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&table->tick, &attributes);
	pthread_condattr_destroy(&attributes);
	while (made < COMPLETION_THREADS &&
	       pthread_create(&table->workers[made], NULL, worker, m) == 0)
		made++;
	if (made == COMPLETION_THREADS && pthread_create(&table->ticker, NULL, ticker, m) == 0) {
		table->started = true;
		return 0;
	}
	pthread_mutex_lock(&table->queue_lock);
	table->stopping = true;
	pthread_cond_broadcast(&table->queue_filled);
	pthread_mutex_unlock(&table->queue_lock);
	while (made > 0)
		pthread_join(table->workers[--made], NULL);
	return -EAGAIN;
}

void calls_stop(struct mount *m)
{
	struct call_table *table = m->calls;

	if (!table || !table->started)
		return;
	pthread_mutex_lock(&m->lock);
	pthread_mutex_lock(&table->queue_lock);
	table->stopping = true;
	pthread_cond_broadcast(&table->queue_filled);
	pthread_mutex_unlock(&table->queue_lock);
	pthread_cond_signal(&table->tick);
	pthread_mutex_unlock(&m->lock);
	pthread_join(table->ticker, NULL);
	for (unsigned i = 0; i < COMPLETION_THREADS; i++)
		pthread_join(table->workers[i], NULL);
	table->started = false;
}

void calls_destroy(struct mount *m)
{
	if (!m->calls)
		return;
	pthread_mutex_destroy(&m->calls->queue_lock);
	pthread_cond_destroy(&m->calls->queue_filled);
	pthread_cond_destroy(&m->calls->tick);
	free(m->calls);
	m->calls = NULL;
}
