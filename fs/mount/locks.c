#include "fs/mount/locks.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/file.h>

#include "fs/mount/call.h"
#include "fs/mount/ops.h"
#include "fs/mount/read.h"
#include "fs/mount/session.h"

#define SEND_TIMEOUT_MS 10000
#define RESEND_MS 100
#define INTERRUPTS_MAX 64

/* A request of the kernel's that is not answered. */
struct lock_wait {
	UT_hash_handle hh; /* by token */
	struct lock_wait *next; /* in replies */
	uint64_t token;
	fuse_req_t request;
	uint64_t thread;
	bool started; /* the core knows it */
	bool interrupted;
	bool tests;
	int error; /* the answer; of a close that succeeded: of the writes before it */
	struct flock found;
};

/* A message to the origin that is not answered. */
struct lock_send {
	struct lock_send *next;
	struct mount *m;
	struct session_id session;
	uint64_t id;
	struct message message;
	bool in_flight;
	struct instant retry_at;
};

struct locks {
	struct holder_locks *core;
	struct session_id session;
	struct lock_wait *waits;
	struct lock_wait *replies;
	struct lock_send *sends;
	uint64_t token_last;
	uint64_t lost_logged;
	bool shut;
};

int locks_create(struct mount *m)
{
	struct locks *l = calloc(1, sizeof(*l));
	int error;

	if (!l)
		return -ENOMEM;
	error = holder_locks_create(LOCK_REQUESTS_MAX, &session_allocator, mount_now().ns, &l->core);
	if (error)
		free(l);
	else
		m->locks = l;
	return error;
}

void locks_destroy(struct mount *m)
{
	struct locks *l = m->locks;
	struct lock_wait *wait, *next;

	if (!l)
		return;
	locks_shut(m);
	HASH_ITER(hh, l->waits, wait, next) {
		HASH_DELETE(hh, l->waits, wait);
		free(wait);
	}
	while (l->sends) {
		struct lock_send *send = l->sends;

		l->sends = send->next;
		free(send);
	}
	holder_locks_destroy(l->core);
	free(l);
	m->locks = NULL;
}

void locks_counters(const struct mount *m, struct holder_lock_counters *ret_counters)
{
	*ret_counters = (struct holder_lock_counters){ 0 };
	if (m->locks)
		holder_locks_counters(m->locks->core, ret_counters);
}

/* ---- replies ---- */

static void answer(struct mount *m, struct lock_wait *wait, int error)
{
	HASH_DELETE(hh, m->locks->waits, wait);
	if (error)
		wait->error = error;
	wait->next = m->locks->replies;
	m->locks->replies = wait;
}

static void answer_action(struct mount *m, const struct holder_lock_action *action)
{
	const struct lock_range *range = &action->range;
	struct lock_wait *wait = NULL;

	HASH_FIND(hh, m->locks->waits, &action->token, sizeof(action->token), wait);
	if (!wait)
		return;
	wait->found = (struct flock){ .l_type = F_UNLCK, .l_whence = SEEK_SET };
	if (wait->tests && range->type != LOCK_TYPE_NONE) {
		wait->found.l_type = range->type == LOCK_TYPE_WRITE ? F_WRLCK : F_RDLCK;
		wait->found.l_start = (off_t)range->start;
		wait->found.l_len =
			range->end == LOCK_END ? 0 : (off_t)(range->end - range->start + 1);
		/* A process of another host has no number here. */
		wait->found.l_pid = action->own ? (pid_t)range->pid : 0;
	}
	answer(m, wait, action->status);
}

void locks_reply(struct mount *m)
{
	struct lock_wait *wait;

	if (!m->locks)
		return;
	pthread_mutex_lock(&m->lock);
	wait = m->locks->replies;
	m->locks->replies = NULL;
	pthread_mutex_unlock(&m->lock);
	while (wait) {
		struct lock_wait *next = wait->next;

		if (wait->tests && !wait->error)
			fuse_reply_lock(wait->request, &wait->found);
		else
			fuse_reply_err(wait->request, wait->error);
		free(wait);
		wait = next;
	}
}

/* ---- messages ---- */

static void act(struct mount *m, struct holder_lock_actions *actions);

static struct holder_lock_actions no_actions(void)
{
	struct holder_lock_actions actions;

	holder_lock_actions_init(&actions, &session_allocator);
	return actions;
}

static void send_free(struct mount *m, struct lock_send *send)
{
	struct lock_send **at = &m->locks->sends;

	while (*at != send)
		at = &(*at)->next;
	*at = send->next;
	free(send);
}

/* What the origin said, if it said anything that counts. */
static bool decode(const struct client_answer *answer, struct message *ret_message,
		   uint16_t *ret_status)
{
	if (answer->error || !answer->message.length ||
	    message_decode(answer->message, ret_message) < 0)
		return false;
	switch (ret_message->type) {
	case MESSAGE_lock_answer:
		*ret_status = ret_message->lock_answer.status;
		break;
	case MESSAGE_lock_reclaimed:
		*ret_status = ret_message->lock_reclaimed.status;
		break;
	case MESSAGE_acknowledged:
		*ret_status = ret_message->acknowledged.status;
		break;
	default:
		return false;
	}
	return *ret_status != STATUS_DRAINING;
}

static void transmit(struct mount *m, struct lock_send *send);

static void on_answered(void *context, const struct client_answer *answer)
{
	struct lock_send *send = context;
	struct mount *m = send->m;
	struct holder_lock_actions actions = no_actions();
	struct holder_actions session = session_actions();
	struct session_id id;
	struct message message;
	uint16_t status = STATUS_OK;

	pthread_mutex_lock(&m->lock);
	id = send->session;
	send->in_flight = false;
	if (id.value != m->locks->session.value) {
		send_free(m, send);
	} else if (!decode(answer, &message, &status)) {
		send->retry_at = instant_add(mount_now(), duration_ms(RESEND_MS));
	} else {
		uint64_t number = send->id;

		send_free(m, send);
		if (status == STATUS_NOSESSION)
			holder_session_refused(m->holder, mount_now(), id, &session);
		else
			holder_locks_answered(m->locks->core, mount_now(), id, number, &message,
					      &actions);
	}
	session_act(m, &session);
	act(m, &actions);
	pthread_mutex_unlock(&m->lock);
	locks_reply(m);
}

static void transmit(struct mount *m, struct lock_send *send)
{
	int r = client_call(m->client, CLIENT_CONTROL, "/v1/rpc", &send->message,
			    (struct slice){ NULL, 0 }, duration_ms(SEND_TIMEOUT_MS), on_answered,
			    send, NULL);

	send->in_flight = r == 0;
	if (r < 0)
		send->retry_at = instant_add(mount_now(), duration_ms(RESEND_MS));
}

static void send_action(struct mount *m, const struct holder_lock_action *action)
{
	struct holder_actions actions = session_actions();
	struct lock_send *send = calloc(1, sizeof(*send));

	if (!send) {
		/* A lock must not wait for ever: without memory the session ends. */
		holder_session_lost(m->holder, mount_now(), action->session, &actions);
		session_act(m, &actions);
		return;
	}
	send->m = m;
	send->session = action->session;
	send->id = action->id;
	send->message = action->message;
	send->next = m->locks->sends;
	m->locks->sends = send;
	transmit(m, send);
}

static void act(struct mount *m, struct holder_lock_actions *actions)
{
	struct locks *l = m->locks;

	for (size_t i = 0; i < actions->count; i++) {
		const struct holder_lock_action *a = &actions->items[i];

		switch (a->kind) {
		case HOLDER_LOCKS_SEND:
			if (a->session.value == l->session.value)
				send_action(m, a);
			break;
		case HOLDER_LOCKS_ANSWER:
			answer_action(m, a);
			break;
		case HOLDER_LOCKS_LOST:
			break; /* counted by the core, and logged when it is settled */
		case HOLDER_LOCKS_SETTLED:
			session_calls_settled(m); /* `reclaim` with `last` waits for it, too */
			calls_session_changed(m);
			break;
		}
	}
	holder_lock_actions_finish(actions);
	if (l->replies)
		calls_session_changed(m); /* the ticker writes what nobody else does */
}

/* ---- the session ---- */

bool locks_any(const struct mount *m)
{
	return m->locks && holder_locks_any(m->locks->core);
}

bool locks_ready(const struct mount *m)
{
	return !m->locks || holder_locks_ready(m->locks->core);
}

/* One line for each time that locks were lost or came through. */
static void log_settled(struct mount *m, const struct holder_lock_counters *before)
{
	struct holder_lock_counters now;

	holder_locks_counters(m->locks->core, &now);
	if (now.lost != before->lost)
		mount_log("warning", "locks of %llu descriptors were lost with the session; they give "
			  "EIO until they are closed",
			  (unsigned long long)(now.lost - before->lost));
}

void locks_session_opened(struct mount *m, struct session_id session, bool reclaim)
{
	struct holder_lock_actions actions = no_actions();
	struct holder_lock_counters before;

	if (!m->locks || m->locks->session.value == session.value)
		return;
	m->locks->session = session;
	holder_locks_counters(m->locks->core, &before);
	holder_locks_session_opened(m->locks->core, mount_now(), session, reclaim, &actions);
	log_settled(m, &before);
	act(m, &actions);
}

void locks_session_lost(struct mount *m)
{
	struct holder_lock_actions actions = no_actions();
	struct lock_send *send, *next;

	if (!m->locks)
		return;
	m->locks->session.value = 0;
	for (send = m->locks->sends; send; send = next) {
		next = send->next;
		if (!send->in_flight)
			send_free(m, send);
	}
	holder_locks_session_lost(m->locks->core, mount_now(), &actions);
	act(m, &actions);
}

void locks_offered(struct mount *m, struct session_id session,
		   const struct message_lock_offer *offer)
{
	struct holder_lock_actions actions = no_actions();

	if (!m->locks)
		return;
	holder_locks_offered(m->locks->core, mount_now(), session, offer, &actions);
	act(m, &actions);
}

/* ---- the ticker ---- */

static void interrupts(struct mount *m)
{
	uint64_t tokens[INTERRUPTS_MAX], threads[INTERRUPTS_MAX];
	struct lock_wait *wait, *next;
	unsigned count = 0;

	pthread_mutex_lock(&m->lock);
	HASH_ITER(hh, m->locks->waits, wait, next) {
		if (wait->interrupted && count < INTERRUPTS_MAX) {
			tokens[count] = wait->token;
			threads[count++] = wait->thread;
		}
	}
	pthread_mutex_unlock(&m->lock);
	for (unsigned i = 0; i < count; i++) {
		struct holder_lock_actions actions = no_actions();
		bool dies = call_caller_dies(threads[i]);

		pthread_mutex_lock(&m->lock);
		holder_locks_interrupt(m->locks->core, mount_now(), tokens[i], dies, &actions);
		act(m, &actions);
		pthread_mutex_unlock(&m->lock);
	}
}

void locks_tick(struct mount *m)
{
	struct holder_lock_actions actions = no_actions();
	struct instant now = mount_now();
	struct holder_lock_counters before;
	struct lock_send *send;
	bool fail;

	if (!m->locks)
		return;
	interrupts(m);
	pthread_mutex_lock(&m->lock);
	fail = session_away(m) && session_fails_at_once(m);
	for (send = m->locks->sends; send; send = send->next)
		if (!send->in_flight && !instant_before(now, send->retry_at))
			transmit(m, send);
	holder_locks_counters(m->locks->core, &before);
	holder_locks_tick(m->locks->core, now, &actions);
	if (before.requests)
		holder_locks_expire(m->locks->core, now,
				    duration_ms(fail ? 0 : m->options->timeout),
				    fail ? EIO : ETIMEDOUT, &actions);
	act(m, &actions);
	pthread_mutex_unlock(&m->lock);
	locks_reply(m);
}

void locks_shut(struct mount *m)
{
	struct lock_wait *wait, *next;

	if (!m->locks)
		return;
	pthread_mutex_lock(&m->lock);
	m->locks->shut = true;
	HASH_ITER(hh, m->locks->waits, wait, next)
		if (wait->started)
			answer(m, wait, EIO);
	pthread_mutex_unlock(&m->lock);
	locks_reply(m);
}

/* ---- descriptors ---- */

enum holder_lock_state locks_file(const struct mount *m, const struct handle *handle, uint64_t file)
{
	if (!m->locks || !file)
		return HOLDER_LOCK_GOOD;
	return holder_locks_file(m->locks->core, handle, file);
}

uint64_t locks_number(struct mount *m, const struct fuse_file_info *info)
{
	const struct open_file *file = info ? (const struct open_file *)(uintptr_t)info->fh : NULL;
	uint64_t number;

	if (!file)
		return 0;
	pthread_mutex_lock(&m->lock);
	number = file->lock_number;
	pthread_mutex_unlock(&m->lock);
	return number;
}

/* The interrupt of a request: looked at by the ticker, which knows whether the caller dies. */
static void on_interrupt(fuse_req_t request, void *data)
{
	struct mount *m = fuse_req_userdata(request);
	uint64_t token = (uint64_t)(uintptr_t)data;
	struct lock_wait *wait = NULL;

	pthread_mutex_lock(&m->lock);
	HASH_FIND(hh, m->locks->waits, &token, sizeof(token), wait);
	if (wait) {
		wait->interrupted = true;
		calls_session_changed(m); /* wakes the ticker */
	}
	pthread_mutex_unlock(&m->lock);
}

/* Remembers the request. NULL: it was answered. */
static struct lock_wait *wait_make(struct mount *m, fuse_req_t request)
{
	struct lock_wait *wait = calloc(1, sizeof(*wait));
	uint64_t token;

	if (!wait) {
		fuse_reply_err(request, ENOLCK);
		return NULL;
	}
	wait->request = request;
	wait->thread = (uint64_t)fuse_req_ctx(request)->pid;
	pthread_mutex_lock(&m->lock);
	token = wait->token = ++m->locks->token_last;
	HASH_ADD(hh, m->locks->waits, token, sizeof(wait->token), wait);
	pthread_mutex_unlock(&m->lock);
	fuse_req_interrupt_func(request, on_interrupt, (void *)(uintptr_t)token);
	return wait;
}

void locks_flush(struct mount *m, fuse_req_t request, const struct open_file *file, uint64_t owner,
		 int error)
{
	struct holder_lock_actions actions = no_actions();
	struct inode *inode = file->inode;
	struct lock_wait *wait = NULL;

	if (m->locks && inode->live->locks_used)
		wait = wait_make(m, request);
	else
		fuse_reply_err(request, error);
	if (!wait)
		return;
	pthread_mutex_lock(&m->lock);
	wait->error = error;
	wait->started = true;
	holder_locks_flushed(m->locks->core, file->lock_number);
	if (m->locks->shut ||
	    !holder_locks_close(m->locks->core, mount_now(), INODE_HANDLE(inode), owner, wait->token,
				&actions))
		answer(m, wait, 0);
	act(m, &actions);
	pthread_mutex_unlock(&m->lock);
	locks_reply(m);
}

void locks_release(struct mount *m, struct inode *inode, uint64_t file)
{
	struct holder_lock_actions actions = no_actions();

	if (!m->locks || !file)
		return;
	pthread_mutex_lock(&m->lock);
	holder_locks_release(m->locks->core, mount_now(), INODE_HANDLE(inode), file, &actions);
	act(m, &actions);
	pthread_mutex_unlock(&m->lock);
	locks_reply(m);
}

/* ---- operations ---- */

/* What the descriptor is called here; from now on closing one of the inode is told to us. */
static uint64_t file_number(struct mount *m, struct open_file *file)
{
	if (!file->lock_number)
		file->lock_number = ++m->locks->token_last;
	inode_live(file->inode)->locks_used = true;
	return file->lock_number;
}

static void ask(fuse_req_t request, struct open_file *file, struct lock_request *lock, bool test)
{
	struct mount *m = fuse_req_userdata(request);
	struct holder_lock_actions actions = no_actions();
	struct lock_wait *wait;
	uint64_t number;
	int error;

	COUNT(m, requests);
	COUNT(m, locks);
	if (m->unopened) {
		/* Without closes nobody would give them up. */
		fuse_reply_err(request, lock->range.type == LOCK_TYPE_NONE ? 0 : ENOLCK);
		return;
	}
	wait = wait_make(m, request);
	if (!wait)
		return;
	pthread_mutex_lock(&m->lock);
	wait->tests = test;
	wait->started = true;
	number = file_number(m, file);
	lock->handle = inode_handle(file->inode);
	if (lock->kind == LOCK_KIND_FLOCK)
		lock->owner = number;
	if (m->locks->shut)
		error = EIO;
	else if (test)
		error = holder_locks_test(m->locks->core, mount_now(), lock, wait->token, &actions);
	else
		error = holder_locks_set(m->locks->core, mount_now(), lock, number, wait->token,
					 &actions);
	if (file->unflushed)
		holder_locks_flushed(m->locks->core, number);
	if (error)
		answer(m, wait, error);
	act(m, &actions);
	pthread_mutex_unlock(&m->lock);
	locks_reply(m);
}

/* Ranges as the kernel has them: from l_start, of l_len bytes, 0: to the end. */
static void posix_lock(fuse_req_t request, struct fuse_file_info *info, const struct flock *flock,
		       bool wait, bool test)
{
	struct lock_request lock = {
		.kind = LOCK_KIND_FCNTL,
		.owner = info->lock_owner,
		.range = {
			.start = (uint64_t)flock->l_start,
			.end = flock->l_len ? (uint64_t)(flock->l_start + flock->l_len - 1) :
					      LOCK_END,
			.pid = (uint32_t)flock->l_pid,
			.type = flock->l_type == F_WRLCK ? LOCK_TYPE_WRITE :
				flock->l_type == F_RDLCK ? LOCK_TYPE_READ : LOCK_TYPE_NONE,
		},
		.waiter = wait,
	};

	ask(request, (struct open_file *)(uintptr_t)info->fh, &lock, test);
}

void op_getlk(fuse_req_t request, fuse_ino_t nodeid, struct fuse_file_info *info,
	      struct flock *flock)
{
	posix_lock(request, info, flock, false, true);
}

void op_setlk(fuse_req_t request, fuse_ino_t nodeid, struct fuse_file_info *info,
	      struct flock *flock, int wait)
{
	posix_lock(request, info, flock, wait != 0, false);
}

void op_flock(fuse_req_t request, fuse_ino_t nodeid, struct fuse_file_info *info, int operation)
{
	struct lock_request lock = {
		.kind = LOCK_KIND_FLOCK,
		.range = { .start = 0, .end = LOCK_END,
			   .pid = (uint32_t)fuse_req_ctx(request)->pid,
			   .type = operation & LOCK_EX ? LOCK_TYPE_WRITE :
				   operation & LOCK_SH ? LOCK_TYPE_READ : LOCK_TYPE_NONE },
		.waiter = !(operation & LOCK_NB),
	};

	ask(request, (struct open_file *)(uintptr_t)info->fh, &lock, false);
}
