#include "fs/origin/service_private.h"

#include <assert.h>
#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/random.h>
#include <time.h>

#include "fs/origin/credentials.h"

#define TIMER_WAIT_MS_MAX 1000u
#define QUIET_MS 3000u /* without a modification; then what there is is synced */
#define UNKNOWN_PROMISE_MS 3600000u

struct instant service_now(void)
{
	struct timespec now;

	clock_gettime(CLOCK_BOOTTIME, &now);
	return (struct instant){ (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec };
}

void service_log(const char *format, ...)
{
	char line[512];
	va_list list;

	va_start(list, format);
	(void)vsnprintf(line, sizeof(line), format, list); /* a line that is cut is still one */
	va_end(list);
	(void)fprintf(stderr, "leasehold origin: %s\n", line);
}

/* ---- tasks ---- */

struct task *task_create(struct service *s, enum task_step step)
{
	struct task *t = (struct task *)malloc(sizeof(*t));

	if (!t)
		return NULL;
	/* Everything but the buffers at the end; they are written before they are read. */
	memset(t, 0, offsetof(struct task, nodes_buffer));
	t->service = s;
	t->step = step;
	t->recall_sequence = UINT64_MAX;
	t->nodes = writer_of(t->nodes_buffer, sizeof(t->nodes_buffer));
	return t;
}

void task_forget_inodes(struct task *t)
{
	for (unsigned i = 0; i < TASK_INODES; i++) {
		if (t->inodes[i])
			store_put(t->store, t->inodes[i]);
		t->inodes[i] = NULL;
	}
}

void task_destroy(struct task *t)
{
	assert(!t->begun && !t->request);
	task_forget_inodes(t);
	if (t->bulk.release)
		t->bulk.release(t->bulk.context, t->bulk.data);
	free(t);
}

static void queue_add(struct task_queue *queue, struct task *t)
{
	t->next = NULL;
	*queue->end = t;
	queue->end = &t->next;
	queue->count++;
}

static struct task *queue_take(struct task_queue *queue)
{
	struct task *t = queue->first;

	if (!t)
		return NULL;
	queue->first = t->next;
	if (!queue->first)
		queue->end = &queue->first;
	queue->count--;
	return t;
}

/*
 * What changes, grace or somebody's locks may be waiting for: it does not queue behind data, nor wait
 * until a worker comes back from its disk.
 */
static bool is_control(const struct task *t)
{
	return t->step == TASK_RECORD ||
	       (t->step == TASK_REQUEST && (t->message.type == MESSAGE_session_open ||
					    t->message.type == MESSAGE_reclaim));
}

bool task_enqueue(struct task *t, bool urgent)
{
	struct service *s = t->service;
	bool control = is_control(t), room;
	struct task_queue *queue = control ? &s->control : urgent ? &s->urgent : &s->fresh;
	uint32_t count_max = control ? CONTROL_COUNT_MAX : QUEUE_COUNT_MAX;

	pthread_mutex_lock(&s->queue_lock);
	/* What is urgent was admitted by the authority, or is one of a few of our own. */
	room = urgent || (queue->count < count_max && !s->queue_stopped);
	if (room) {
		queue_add(queue, t);
		pthread_cond_signal(&s->queue_filled);
		if (control)
			pthread_cond_signal(&s->control_filled);
	}
	pthread_mutex_unlock(&s->queue_lock);
	return room;
}

/* ---- answers ---- */

uint16_t service_status(int error)
{
	/* A forged handle and a stale one are different things to say, and one errno to a host. */
	if (error == -EBADMSG)
		return STATUS_BADHANDLE;
	return error < 0 ? status_of_errno(-error) : STATUS_OK;
}

void task_add_node(struct task *t, enum node_role role, const struct item_node *node)
{
	struct item_node item = *node;

	item.role = (uint8_t)role;
	item_node_write(&t->nodes, &item);
}

static void respond(struct task *t, const struct message_reply *reply, struct server_bulk bulk)
{
	struct message message = { .type = MESSAGE_reply, .reply = *reply };
	struct server_request *request = t->request;

	t->request = NULL;
	server_respond(request, &message, bulk);
}

void task_reply(struct task *t, uint16_t status)
{
	struct server_bulk bulk = t->bulk;

	assert(!t->nodes.failed); /* four nodes fit, and nobody adds more */
	t->reply.status = status;
	t->reply.recall_sequence = t->recall_sequence == UINT64_MAX ? 0 : t->recall_sequence;
	t->reply.nodes = (struct slice){ t->nodes_buffer, t->nodes.at };
	if (!t->reply.incarnation)
		t->reply.incarnation = changes_incarnation(t->service->changes);
	t->bulk = (struct server_bulk){ .data = NULL };
	respond(t, &t->reply, bulk);
	task_destroy(t);
}

void service_answer_status(struct server_request *request, uint16_t status)
{
	struct message message = { .type = MESSAGE_reply, .reply = { .status = status } };

	server_respond(request, &message, (struct server_bulk){ .data = NULL });
}

/* ---- buffers ---- */

static void pool_release(void *context, void *data)
{
	struct service *s = (struct service *)context;

	pthread_mutex_lock(&s->pool_lock);
	if (s->pool_count < POOL_COUNT_MAX) {
		s->pool[s->pool_count++] = data;
		data = NULL;
	}
	pthread_mutex_unlock(&s->pool_lock);
	free(data);
}

static void plain_release(void *context, void *data)
{
	free(data);
}

int service_buffer(struct service *s, size_t size, struct server_bulk *ret_bulk)
{
	struct server_bulk bulk = { .release = plain_release };

	if (size < POOL_THRESHOLD_BYTES) {
		bulk.data = malloc(size ? size : 1);
	} else {
		assert(size <= POOL_BUFFER_BYTES);
		bulk.release = pool_release;
		bulk.context = s;
		pthread_mutex_lock(&s->pool_lock);
		if (s->pool_count > 0)
			bulk.data = s->pool[--s->pool_count];
		pthread_mutex_unlock(&s->pool_lock);
		/* From the pool its pages are there already; fresh ones cost a fault each. */
		if (!bulk.data)
			bulk.data = malloc(POOL_BUFFER_BYTES);
	}
	if (!bulk.data)
		return -ENOMEM;
	*ret_bulk = bulk;
	return 0;
}

/* ---- workers ---- */

static void outside_over(struct task *t)
{
	struct service *s = t->service;

	service_lock(s);
	if (t->begun) {
		authority_finish(s->authority, service_now(), t->op.id, false, &s->actions);
		service_task_over(t);
	}
	s->outside_count--;
	(void)service_unlock(s, NULL);
	task_destroy(t);
}

bool service_orphan_used(void *context, const struct handle *handle)
{
	struct service *s = (struct service *)context;
	bool used;

	pthread_mutex_lock(&s->lock);
	used = authority_is_open(s->authority, handle) || service_replaced_is_kept(s, handle);
	pthread_mutex_unlock(&s->lock);
	return used;
}

void service_remove_orphan(struct service *s, const struct handle *handle)
{
	struct store_locks locks;
	struct inode *inode;

	credentials_reset();
	for (uint32_t i = 0; i < s->export_count; i++) {
		struct store *store = s->exports[i].store;

		if (store_get(store, handle, &inode) < 0)
			continue;
		store_lock_exclusive(store, &inode, 1, &locks);
		if (!service_orphan_used(s, handle))
			store_remove_orphan(store, inode);
		store_unlock_exclusive(store, &locks);
		store_put(store, inode);
		atomic_fetch_add(&s->reaped, 1);
	}
}

static void sweep(struct task *t)
{
	struct service *s = t->service;

	for (uint32_t i = 0; i < s->export_count; i++)
		if (!store_read_only(s->exports[i].store))
			store_sweep_orphans(s->exports[i].store, service_orphan_used, s);
	task_destroy(t);
}

/* A crash of the machine from here to the next modification loses nothing, and hosts keep their
   caches through it. */
static void settle(struct task *t)
{
	struct service *s = t->service;
	uint64_t activity = changes_activity(s->changes);
	int error = 0;

	credentials_reset();
	/* Read-only ones, too: others write there. */
	for (uint32_t i = 0; i < s->export_count && !error; i++)
		error = store_sync_all(s->exports[i].store);
	if (!error && activity)
		error = changes_settle(s->changes, activity);
	if (error && error != -EBUSY)
		service_log("event=sync_failed error=\"%s\"", strerror(-error));
	pthread_mutex_lock(&s->lock);
	s->settle_queued = false;
	s->quiet_activity = 0;
	pthread_mutex_unlock(&s->lock);
	task_destroy(t);
}

/* On the timer, with the service's lock held. */
static void settle_when_quiet(struct service *s, struct instant now)
{
	uint64_t activity = changes_activity(s->changes);
	struct task *t;

	if (activity == 0 || s->settle_queued)
		return;
	if (activity != s->quiet_activity) {
		s->quiet_activity = activity;
		s->quiet_since = now;
		return;
	}
	if (instant_until(s->quiet_since, now).ns < QUIET_MS * NS_PER_MS)
		return;
	t = task_create(s, TASK_SETTLE);
	if (t)
		s->settle_queued = task_enqueue(t, true);
}

static void write_record(struct task *t)
{
	struct service *s = t->service;
	int error;

	pthread_mutex_lock(&s->lock);
	s->record_queued = false;
	pthread_mutex_unlock(&s->lock);
	error = service_write_record(s);
	if (error)
		service_log("event=record_failed error=\"%s\" (the record names sessions that "
			    "have ended; a restart waits for them)", strerror(-error));
	task_destroy(t);
}

/*
 * The reply that was kept. What it says is open was open for its session: when that has ended, the
 * host has to say it again under its new one (PROTOCOL.md 3.5).
 */
static bool load_kept(struct task *t)
{
	struct service *s = t->service;
	const struct request_common *common = &t->message.common;
	uint8_t encoded[SLOTS_REPLY_BYTES_MAX];
	struct message_reply reply;
	struct session *session;
	struct item_node node;
	struct reader r;
	bool kept, alive;

	/* A place can be forgotten at any time, but under the lock: a reply is short. */
	pthread_mutex_lock(&s->lock);
	session = session_find(s, (struct session_id){ common->session });
	alive = session && session->alive;
	kept = session && slots_load(s->slots, session->place, common->slot, common->sequence,
				     encoded, &reply);
	pthread_mutex_unlock(&s->lock);
	if (!kept)
		return false;
	r = reader_of(reply.nodes.data, reply.nodes.length);
	while (item_node_read(&r, &node)) {
		node.open = node.open && alive;
		item_node_write(&t->nodes, &node);
	}
	t->reply = reply;
	t->recall_sequence = reply.recall_sequence;
	return !r.failed && !t->nodes.failed;
}

static void replay(struct task *t)
{
	struct task *joined = t->joined;
	struct service *s = t->service;
	uint16_t status = load_kept(t) ? t->reply.status : STATUS_UNKNOWNOUTCOME;

	atomic_fetch_add(&s->replays, 1);
	t->joined = NULL;
	task_reply(t, status);
	while (joined) {
		t = joined;
		joined = t->next;
		t->step = TASK_REPLAY;
		(void)task_enqueue(t, true);
	}
}

/* A close has a number of its own, and is in no slot (PROTOCOL.md 3.3). */
static bool is_in_slot(const struct message *m)
{
	return m->common.sequence != 0 && m->type != MESSAGE_close;
}

/* The session's export, and whether this peer may speak for it. */
static uint16_t resolve_session(struct task *t)
{
	struct service *s = t->service;
	struct session *session;
	uint16_t status = STATUS_OK;
	struct session_id id = { t->message.common.session };

	pthread_mutex_lock(&s->lock);
	session = session_find(s, id);
	if (!session)
		status = is_in_slot(&t->message) ? STATUS_UNKNOWNOUTCOME : STATUS_NOSESSION;
	else if (!t->view.peer || strcmp(session->peer, t->view.peer) != 0)
		status = STATUS_FORBIDDEN;
	else if (!is_in_slot(&t->message) &&
		 !authority_session_alive(s->authority, service_now(), id))
		status = STATUS_NOSESSION; /* of a modification the authority says it (3.4) */
	else
		t->store = session->store;
	pthread_mutex_unlock(&s->lock);
	return status;
}

void task_unwrap(struct task *t)
{
	struct message *m = &t->message;

	if (m->type == MESSAGE_read_exclusive) {
		const struct message_read_exclusive asked = m->read_exclusive;

		m->type = MESSAGE_read;
		m->read.handle = asked.handle;
		m->read.offset = asked.offset;
		m->read.count = asked.count;
		m->read.strict = READ_STRICT;
		t->acquire = true;
	} else if (m->type == MESSAGE_write_back) {
		const struct message_write_back asked = m->write_back;

		m->type = MESSAGE_write;
		m->write.handle = asked.handle;
		m->write.offset = asked.offset;
		m->write.append = 0;
		m->write.flags = 0;
		t->write_back = true;
		t->lease_sequence = asked.lease_sequence;
	}
}

static void request(struct task *t)
{
	uint16_t status;

	/* An answer that nobody waits for: a read is not worth doing. */
	if (server_request_cancelled(t->request) && message_is_request(t->message.type) &&
	    !is_in_slot(&t->message)) {
		task_reply(t, STATUS_DEADLINE);
		return;
	}
	if (t->message.type == MESSAGE_session_open) {
		service_session_open(t);
		return;
	}
	if (t->message.type == MESSAGE_reclaim) {
		service_reclaim(t);
		return;
	}
	if (!message_is_request(t->message.type)) {
		task_reply(t, STATUS_BADMESSAGE);
		return;
	}
	status = resolve_session(t);
	if (status != STATUS_OK) {
		task_reply(t, status);
		return;
	}
	store_caller(t->store, &t->message.common.credential, &t->caller);
	t->reply.incarnation = changes_incarnation(t->service->changes);
	task_unwrap(t);
	if (!service_read_request(t))
		service_modify_request(t);
}

static void work(struct task *t)
{
	switch (t->step) {
	case TASK_REQUEST:
		request(t);
		break;
	case TASK_PLAIN:
		service_plain(t);
		break;
	case TASK_RUN:
		if (t->quiet_ms)
			service_seal_run(t);
		if (!t->request)
			outside_over(t);
		else if (t->op.kind != AUTHORITY_MODIFY)
			service_read_run(t);
		else
			service_modify_run(t);
		break;
	case TASK_REFUSE:
		if (!t->request)
			outside_over(t);
		else
			task_refuse(t);
		break;
	case TASK_REPLAY:
		replay(t);
		break;
	case TASK_OUTSIDE:
	case TASK_SEAL:
		outside_over(t);
		break;
	case TASK_ORPHAN:
		service_remove_orphan(t->service, &t->handle);
		task_destroy(t);
		break;
	case TASK_SWEEP:
		sweep(t);
		break;
	case TASK_RECORD:
		write_record(t);
		break;
	case TASK_SETTLE:
		settle(t);
		break;
	}
}

static void *worker(void *argument)
{
	struct service *s = (struct service *)argument;
	struct task *t;

	credentials_reset();
	for (;;) {
		pthread_mutex_lock(&s->queue_lock);
		while (!(t = queue_take(&s->urgent)) && !(t = queue_take(&s->control)) &&
		       !(t = queue_take(&s->fresh)) && !s->queue_stopped)
			pthread_cond_wait(&s->queue_filled, &s->queue_lock);
		pthread_mutex_unlock(&s->queue_lock);
		if (!t)
			return NULL;
		work(t);
	}
}

static void *control_worker(void *argument)
{
	struct service *s = (struct service *)argument;
	struct task *t;

	credentials_reset();
	for (;;) {
		pthread_mutex_lock(&s->queue_lock);
		while (!(t = queue_take(&s->control)) && !s->queue_stopped)
			pthread_cond_wait(&s->control_filled, &s->queue_lock);
		pthread_mutex_unlock(&s->queue_lock);
		if (!t)
			return NULL;
		work(t);
	}
}

static void *timer(void *argument)
{
	struct service *s = (struct service *)argument;

	pthread_mutex_lock(&s->lock);
	while (!s->stopping) {
		struct instant now = service_now(), due = service_timer(s);
		struct instant latest = instant_add(now, duration_ms(TIMER_WAIT_MS_MAX));
		struct timespec until;
		uint64_t ns;

		/* One that could not be written: nobody gets the locks of those who ended. */
		if (authority_record_pending(s->authority))
			service_queue_record(s);
		if (!instant_before(now, due)) {
			authority_tick(s->authority, now, &s->actions);
			service_locks_tick(s, now);
			(void)service_unlock(s, NULL);
			pthread_mutex_lock(&s->lock);
			continue;
		}
		settle_when_quiet(s, now);
		service_replaced_tick(s, now);
		service_room_tick(s, now);
		/* A condition cannot wait by CLOCK_BOOTTIME: look again after a second. */
		s->timer_armed = instant_before(due, latest) ? due : latest;
		ns = instant_until(now, s->timer_armed).ns;
		clock_gettime(CLOCK_MONOTONIC, &until);
		ns += (uint64_t)until.tv_nsec;
		until.tv_sec += (time_t)(ns / NS_PER_S);
		until.tv_nsec = (long)(ns % NS_PER_S);
		pthread_cond_timedwait(&s->timer_changed, &s->lock, &until);
	}
	pthread_mutex_unlock(&s->lock);
	return NULL;
}

/* ---- the handler ---- */

void service_handle(void *context, struct server_request *request)
{
	struct service *s = (struct service *)context;
	struct server_request_view view;
	struct message message;
	struct task *t;
	bool is_message;

	server_request_view(request, &view);
	atomic_fetch_add(&s->requests, 1);
	is_message = strcmp(view.method, "POST") == 0 &&
		     (strcmp(view.path, "/v1/rpc") == 0 || strcmp(view.path, "/v1/recalls") == 0);
	if (is_message) {
		int error = message_decode(view.message, &message);

		if (error || !view.peer) {
			service_answer_status(request, error == -EOPNOTSUPP ? STATUS_NOTSUP :
						       error ? STATUS_BADMESSAGE :
							       STATUS_FORBIDDEN);
			return;
		}
		if (service_control(s, request, &view, &message))
			return;
	}
	t = task_create(s, is_message ? TASK_REQUEST : TASK_PLAIN);
	if (t) {
		t->request = request;
		t->view = view;
		if (is_message)
			t->message = message;
		if ((is_control(t) || server_request_ordinary(request)) && task_enqueue(t, false))
			return;
		t->request = NULL;
		task_destroy(t);
	}
	atomic_fetch_add(&s->pushbacks, 1);
	if (is_message)
		service_answer_status(request, STATUS_PUSHBACK);
	else
		server_respond_plain(request, 503, "text/plain", NULL,
				     (struct server_bulk){ .data = NULL });
}

/* ---- life ---- */

static void *resize(void *context, void *pointer, size_t old_size, size_t size)
{
	if (size == 0) {
		free(pointer);
		return NULL;
	}
	return realloc(pointer, size);
}

static const struct allocator heap = { resize, NULL };

static int fail(char *text, size_t size, int error, const char *what)
{
	(void)snprintf(text, size, "%s: %s", what, strerror(-error));
	return error;
}

/*
 * The record of the previous run; what is damaged becomes `unknown`. The epoch and the longest
 * promise stand in a file of their own as well, which is written once a run.
 */
static int load_record(struct service *s, struct session_record *ret_record)
{
	struct session_record record, lasting;
	struct timespec now;
	int error = session_record_load(s->state_fd, "sessions", &record);

	if (error == -EUCLEAN)
		record = (struct session_record){ .unknown = true };
	else if (error)
		return error;
	error = session_record_load(s->state_fd, "promise", &lasting);
	if (error == -EUCLEAN || (!error && record.unknown && !lasting.promise_ms)) {
		/* Nothing tells what was promised: as much as an operator might have set. */
		lasting = (struct session_record){ .promise_ms = UNKNOWN_PROMISE_MS };
		record.unknown = true;
	} else if (error) {
		session_record_finish(&record);
		return error;
	}
	if (record.promise_ms < lasting.promise_ms)
		record.promise_ms = lasting.promise_ms;
	if (record.epoch < lasting.epoch)
		record.epoch = lasting.epoch;
	session_record_finish(&lasting);
	/* It also grows when both files are lost. */
	clock_gettime(CLOCK_REALTIME, &now);
	record.epoch++;
	if (record.epoch < (uint64_t)now.tv_sec)
		record.epoch = (uint64_t)now.tv_sec;
	*ret_record = record;
	return 0;
}

/* What this run promises, durable before anyone hears it. */
static int store_promise(struct service *s, const struct session_record *record)
{
	struct session_record lasting = { .epoch = record->epoch,
					  .promise_ms = record->promise_ms };
	int error = session_record_store(s->state_fd, "promise", &lasting);

	return error ? error : session_record_store(s->state_fd, "sessions", record);
}

/* The authority continues where the record of the previous run ends. */
static int start_authority(struct service *s, char *text, size_t size)
{
	uint64_t drift_ns = s->config.term.ns / 1000000 * s->config.drift_ppm;
	struct session_record record;
	struct duration longest;
	int error = load_record(s, &record);

	if (error)
		return fail(text, size, error, "cannot read the record of sessions");
	longest = duration_ms(record.promise_ms);
	s->previous = record;
	s->record_promise_ms = (s->config.term.ns + drift_ns + s->config.margin.ns) / NS_PER_MS + 1;
	if (s->record_promise_ms < record.promise_ms)
		s->record_promise_ms = record.promise_ms;
	s->previous.promise_ms = s->record_promise_ms;
	s->config.epoch = record.epoch;
	error = store_promise(s, &s->previous);
	if (error)
		return fail(text, size, error, "cannot write the record of sessions");
	if (getrandom(&s->config.seed, sizeof(s->config.seed), 0) != sizeof(s->config.seed))
		error = -EIO;
	else
		error = authority_create(&s->config, &heap, service_now(), record.entries,
					 record.count, record.unknown, longest, &s->authority);
	if (!error)
		error = service_restore_seals(s, &record);
	if (error)
		return fail(text, size, error, "cannot start the lease authority");
	if (record.unknown || record.count)
		service_log("event=grace sessions=%u longest_ms=%llu%s", record.count,
			    (unsigned long long)(longest.ns / NS_PER_MS),
			    record.unknown ? " (the record of sessions is damaged)" : "");
	return 0;
}

static int start_threads(struct service *s, unsigned count)
{
	int error;

	s->workers = (pthread_t *)calloc(count + 1u, sizeof(*s->workers));
	if (!s->workers)
		return -ENOMEM;
	for (unsigned i = 0; i <= count; i++) {
		error = pthread_create(&s->workers[i], NULL, i ? worker : control_worker, s);
		if (error)
			return -error;
		s->worker_count++;
	}
	error = pthread_create(&s->timer, NULL, timer, s);
	s->timer_started = error == 0;
	return -error;
}

int service_create(const struct service_config *config, struct service **ret_service,
		   char *ret_text, size_t text_size)
{
	struct service *s = (struct service *)calloc(1, sizeof(*s));
	pthread_condattr_t monotonic;
	int error;

	if (!s)
		return fail(ret_text, text_size, -ENOMEM, "no memory");
	s->config = config->authority;
	s->changes = config->changes;
	s->slots = config->slots;
	s->state_fd = config->state_fd;
	s->started = service_now();
	pthread_mutex_init(&s->lock, NULL);
	pthread_mutex_init(&s->record_lock, NULL);
	pthread_mutex_init(&s->queue_lock, NULL);
	pthread_mutex_init(&s->pool_lock, NULL);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&s->timer_changed, &monotonic);
	pthread_condattr_destroy(&monotonic);
	pthread_cond_init(&s->queue_filled, NULL);
	pthread_cond_init(&s->control_filled, NULL);
	s->urgent.end = &s->urgent.first;
	s->control.end = &s->control.first;
	s->fresh.end = &s->fresh.first;
	authority_actions_init(&s->actions, &heap);
	s->exports = (struct service_export *)calloc(config->export_count, sizeof(*s->exports));
	s->tls_directory = config->tls_directory ? strdup(config->tls_directory) : NULL;
	if (!s->exports || (config->tls_directory && !s->tls_directory)) {
		service_destroy(s);
		return fail(ret_text, text_size, -ENOMEM, "no memory");
	}
	memcpy(s->exports, config->exports, config->export_count * sizeof(*s->exports));
	s->export_count = config->export_count;
	error = start_authority(s, ret_text, text_size);
	if (!error) {
		service_recover(s);
		error = start_threads(s, config->worker_count);
		if (error)
			(void)fail(ret_text, text_size, error, "cannot start threads");
	}
	if (error) {
		service_stop(s);
		service_destroy(s);
		return error;
	}
	/* Without grace nobody will claim an orphan. */
	if (authority_grace(s->authority, service_now()).ns == 0)
		service_own_work(s, TASK_SWEEP, NULL);
	*ret_service = s;
	return 0;
}

void service_set_server(struct service *s, struct server *server)
{
	pthread_mutex_lock(&s->lock);
	s->server = server;
	pthread_mutex_unlock(&s->lock);
}

struct duration service_grace(struct service *s)
{
	struct duration grace;

	pthread_mutex_lock(&s->lock);
	grace = authority_grace(s->authority, service_now());
	pthread_mutex_unlock(&s->lock);
	return grace;
}

static void drop(struct task *t, uint16_t status)
{
	t->begun = false;
	if (t->request) {
		while (t->joined) {
			struct task *joined = t->joined;

			t->joined = joined->next;
			task_reply(joined, status);
		}
		task_reply(t, status);
	} else {
		task_destroy(t);
	}
}

void service_drain(struct service *s)
{
	struct task *t, *older, *waiting = NULL;

	pthread_mutex_lock(&s->lock);
	s->stopping = true;
	service_locks_tick(s, service_now());
	service_room_tick(s, service_now());
	pthread_cond_broadcast(&s->timer_changed);
	/* Acknowledgements do not come in any more: what waits for them never runs here. */
	for (t = s->tasks; t; t = older) {
		older = t->older;
		if (t->step == TASK_RUN)
			continue;
		service_task_over(t);
		t->next = waiting;
		waiting = t;
	}
	pthread_mutex_unlock(&s->lock);
	while (waiting) {
		t = waiting;
		waiting = t->next;
		drop(t, STATUS_DRAINING);
	}
}

void service_stop(struct service *s)
{
	struct task *t;

	service_drain(s);
	if (s->timer_started)
		pthread_join(s->timer, NULL);
	s->timer_started = false;
	pthread_mutex_lock(&s->queue_lock);
	s->queue_stopped = true;
	pthread_cond_broadcast(&s->queue_filled);
	pthread_cond_broadcast(&s->control_filled);
	pthread_mutex_unlock(&s->queue_lock);
	for (unsigned i = 0; i < s->worker_count; i++)
		pthread_join(s->workers[i], NULL);
	s->worker_count = 0;
	pthread_mutex_lock(&s->queue_lock);
	while ((t = queue_take(&s->urgent)) || (t = queue_take(&s->control)) ||
	       (t = queue_take(&s->fresh)))
		drop(t, STATUS_DRAINING);
	pthread_mutex_unlock(&s->queue_lock);
	service_replaced_end(s);
	pthread_mutex_lock(&s->lock);
	for (unsigned i = 0; i < SESSION_BUCKETS; i++)
		for (struct session *session = s->sessions[i]; session; session = session->next)
			if (session->stream)
				server_stream_end(session->stream);
	pthread_mutex_unlock(&s->lock);
}

void service_destroy(struct service *s)
{
	if (!s)
		return;
	for (unsigned i = 0; i < SESSION_BUCKETS; i++) {
		struct session *next;

		for (struct session *session = s->sessions[i]; session; session = next) {
			next = session->next;
			session_destroy(session);
		}
	}
	authority_destroy(s->authority);
	session_record_finish(&s->previous);
	authority_actions_finish(&s->actions);
	while (s->pool_count > 0)
		free(s->pool[--s->pool_count]);
	pthread_mutex_destroy(&s->lock);
	pthread_mutex_destroy(&s->record_lock);
	pthread_mutex_destroy(&s->queue_lock);
	pthread_mutex_destroy(&s->pool_lock);
	pthread_cond_destroy(&s->timer_changed);
	pthread_cond_destroy(&s->queue_filled);
	pthread_cond_destroy(&s->control_filled);
	free(s->workers);
	free(s->exports);
	free(s->tls_directory);
	free(s);
}
