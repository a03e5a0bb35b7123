/*
 * mount_lab.h - a mount without a kernel and without an origin, for the objects of fs/mount.
 *
 * The daemon's parts are real: FUSE session, holder, session, calls, notifier, cache, client. What
 * is around them is the test:
 *
 *   kernel_*   requests go straight into libfuse (fuse_session_process_buf), and what the daemon
 *              writes comes here: replies, and notifications. As in a kernel, an invalidation of
 *              pages waits as long as a READ of them is not answered.
 *   origin_*   a server of transport/ over cleartext loopback. What belongs to a session it answers
 *              by itself, unless its type is in `lab.asks`; every other request waits for the test
 *              (origin_expect), which answers it (origin_answer).
 *
 * A test calls lab_start() after it has changed lab.options; lab_prepare and lab_end are its
 * fixture. Every wait is for a condition, and fails the test after WAIT_S.
 */
#ifndef TESTS_UNIT_MOUNT_LAB_H
#define TESTS_UNIT_MOUNT_LAB_H

#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <pthread.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "fs/mount/call.h"
#include "fs/mount/inode.h"
#include "fs/mount/notifier.h"
#include "fs/mount/ops.h"
#include "fs/mount/read.h"
#include "fs/mount/session.h"
#include "lease/status.h"
#include "transport/server.h"

#include "scratch.h"
#include "unit.h"

#ifndef WAIT_S
#define WAIT_S 60
#endif
#define TEST_TIMEOUT_S 240
#define TYPES_MAX 128
#define RECORDS_MAX 4096 /* of each kind, in one test */
#define ROOT_NUMBER 1   /* inodes at the origin have numbers: lab_handle() */
#define INCARNATION 9
#define LARGE_FILE_BYTES (1 << 20)

struct kernel_reply {
	uint64_t unique;
	int error; /* a positive errno, 0 */
	size_t length;
	uint8_t *data;
};

struct kernel_notice {
	bool epoch;
	uint64_t nodeid;
	int64_t offset, length; /* offset -1: attributes only; length 0: to the end */
	bool returned;
};

struct kernel_fill {
	uint64_t unique, nodeid, start, end;
	bool waiting;
};

/* A request that waits for the test. The message's slices are good until it is answered. */
struct origin_request {
	struct origin_request *next;
	struct server_request *request;
	struct message message;
	struct slice bulk;
};

struct origin_acknowledgement {
	uint64_t sequence;
	bool open, kept;
};

static struct mount_lab {
	struct mount m;
	struct mount_options options;
	bool has_epoch; /* of the kernel that is played */
	char directory[SCRATCH_PATH_BYTES];
	char cache[SCRATCH_PATH_BYTES + 8], url[64];
	int directory_fd;
	bool started;

	pthread_mutex_t lock; /* of what follows; a leaf */
	pthread_cond_t changed;

	pid_t caller; /* of the next requests; 0: one that is being killed */
	uint32_t caller_uid;
	uint64_t unique;
	struct kernel_reply replies[RECORDS_MAX];
	unsigned reply_count;
	struct kernel_notice notices[RECORDS_MAX];
	unsigned notice_count;
	struct kernel_fill fills[RECORDS_MAX];
	unsigned fill_count;
	bool refuses;      /* the next reply: its caller was interrupted, and nobody takes it in */
	uint64_t stuck;    /* the reply to this request is not written yet */
	int notify_error;  /* what invalidations return */
	bool notify_waits; /* they do not return, but for the first `notify_let` of all */
	uint64_t notify_node; /* nor do those of it, 0: of none */
	unsigned notify_let;
	int epoch_pipe[2];

	struct server *server;
	uint16_t port;
	uint32_t term_ms;
	uint64_t session; /* the only one that is known; 0: none */
	uint64_t sessions;
	uint64_t recall_sequence;
	bool reclaim; /* sessions are opened with it */
	bool asks[TYPES_MAX];
	unsigned received[TYPES_MAX];
	struct origin_request *first, *last;
	struct server_stream *stream;
	struct origin_acknowledgement acknowledgements[RECORDS_MAX];
	unsigned acknowledgement_count;
} lab;

/* ---- waiting ---- */

static inline struct timespec lab_deadline(void)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	t.tv_sec += WAIT_S;
	return t;
}

/* Until `condition` holds of what lab.lock protects. */
#define LAB_WAIT(condition)                                                                     \
	do {                                                                                    \
		struct timespec lab_until = lab_deadline();                                     \
		bool lab_met;                                                                   \
		pthread_mutex_lock(&lab.lock);                                                  \
		while (!(condition) &&                                                          \
		       pthread_cond_timedwait(&lab.changed, &lab.lock, &lab_until) == 0)        \
			;                                                                       \
		lab_met = (condition);                                                          \
		pthread_mutex_unlock(&lab.lock);                                                \
		ck_assert_msg(lab_met, "%s", #condition);                                       \
	} while (0)

/* What `expression` is under the mount's lock. */
#define LAB_GET(expression)                                                                     \
	({                                                                                      \
		__typeof__(expression) lab_value;                                               \
		pthread_mutex_lock(&lab.m.lock);                                                \
		lab_value = (expression);                                                       \
		pthread_mutex_unlock(&lab.m.lock);                                              \
		lab_value;                                                                      \
	})

/* Until `condition` holds of what the mount's lock protects. */
#define LAB_WAIT_MOUNT(condition)                                                               \
	do {                                                                                    \
		for (unsigned lab_ms = 0; !LAB_GET((condition) != 0); lab_ms++) {               \
			ck_assert_msg(lab_ms < WAIT_S * 1000, "%s", #condition);                \
			usleep(1000);                                                           \
		}                                                                               \
	} while (0)

/* ---- the kernel ---- */

/* Epochs come through the descriptor itself: they are noted when something else is. Under lock. */
static inline void kernel_note_epochs(void)
{
	struct fuse_out_header header;

	while (lab.has_epoch &&
	       read(lab.epoch_pipe[0], &header, sizeof(header)) == (ssize_t)sizeof(header)) {
		ck_assert_uint_lt(lab.notice_count, RECORDS_MAX);
		lab.notices[lab.notice_count++] =
			(struct kernel_notice){ .epoch = true, .returned = true };
	}
}

static inline bool kernel_fills_overlap(uint64_t nodeid, int64_t offset, int64_t length)
{
	for (unsigned i = 0; i < lab.fill_count; i++) {
		const struct kernel_fill *f = &lab.fills[i];

		if (f->waiting && f->nodeid == nodeid && offset >= 0 &&
		    f->end > (uint64_t)offset &&
		    (length == 0 || f->start < (uint64_t)(offset + length)))
			return true;
	}
	return false;
}

/* Under the lock. */
static inline int kernel_notified(const struct iovec *iov, int count)
{
	const struct fuse_out_header *header = (const struct fuse_out_header *)iov[0].iov_base;
	const struct fuse_notify_inval_inode_out *out;
	struct kernel_notice *notice;

	if (header->error != FUSE_NOTIFY_INVAL_INODE || count < 2)
		return -EINVAL;
	kernel_note_epochs();
	if (lab.notify_error && lab.notice_count == RECORDS_MAX)
		return -lab.notify_error; /* it is tried again and again */
	out = (const struct fuse_notify_inval_inode_out *)iov[1].iov_base;
	ck_assert_uint_lt(lab.notice_count, RECORDS_MAX);
	notice = &lab.notices[lab.notice_count++];
	*notice = (struct kernel_notice){ false, out->ino, out->off, out->len, false };
	pthread_cond_broadcast(&lab.changed);
	while ((lab.notify_waits && notice >= &lab.notices[lab.notify_let]) ||
	       out->ino == lab.notify_node || kernel_fills_overlap(out->ino, out->off, out->len))
		pthread_cond_wait(&lab.changed, &lab.lock);
	notice->returned = true;
	return -lab.notify_error;
}

/* Under the lock. */
static inline void kernel_answered_with(const struct iovec *iov, int count, size_t total)
{
	const struct fuse_out_header *header = (const struct fuse_out_header *)iov[0].iov_base;
	struct kernel_reply *reply = &lab.replies[lab.reply_count];

	ck_assert_uint_lt(lab.reply_count++, RECORDS_MAX);
	*reply = (struct kernel_reply){ .unique = header->unique, .error = -header->error };
	reply->data = (uint8_t *)malloc(total);
	for (int i = 1; i < count; i++) {
		if (iov[i].iov_len)
			memcpy(reply->data + reply->length, iov[i].iov_base, iov[i].iov_len);
		reply->length += iov[i].iov_len;
	}
	for (unsigned i = 0; i < lab.fill_count; i++)
		if (lab.fills[i].unique == header->unique)
			lab.fills[i].waiting = false;
}

static inline ssize_t kernel_writev(int fd, struct iovec *iov, int count, void *userdata)
{
	const struct fuse_out_header *header = (const struct fuse_out_header *)iov[0].iov_base;
	size_t total = 0;
	int r = 0;

	for (int i = 0; i < count; i++)
		total += iov[i].iov_len;
	pthread_mutex_lock(&lab.lock);
	while (header->unique != 0 && lab.stuck == header->unique)
		pthread_cond_wait(&lab.changed, &lab.lock);
	if (header->unique == 0)
		r = kernel_notified(iov, count);
	else
		kernel_answered_with(iov, count, total);
	if (header->unique != 0 && lab.refuses) {
		lab.refuses = false;
		r = -ENOENT;
	}
	pthread_cond_broadcast(&lab.changed);
	pthread_mutex_unlock(&lab.lock);
	if (r == 0)
		return (ssize_t)total;
	errno = -r;
	return -1;
}

static inline ssize_t kernel_read_nothing(int fd, void *buffer, size_t size, void *userdata)
{
	errno = EAGAIN; /* requests do not come this way */
	return -1;
}

/* Sends a request: an argument struct, and what follows it. Returns its unique. */
static inline uint64_t kernel_send(uint32_t opcode, uint64_t nodeid, const void *argument,
				   size_t size, const void *tail, size_t tail_size)
{
	size_t total = sizeof(struct fuse_in_header) + size + tail_size;
	char *bytes = (char *)calloc(1, total + 1);
	struct fuse_in_header *header = (struct fuse_in_header *)bytes;
	struct fuse_buf buffer = { .size = total, .mem = bytes };
	uint64_t unique = lab.unique += 2;

	header->len = (uint32_t)total;
	header->opcode = opcode;
	header->unique = unique;
	header->nodeid = nodeid;
	header->pid = (uint32_t)lab.caller;
	header->uid = lab.caller_uid;
	if (size)
		memcpy(bytes + sizeof(*header), argument, size);
	if (tail_size)
		memcpy(bytes + sizeof(*header) + size, tail, tail_size);
	fuse_session_process_buf(lab.m.fuse, &buffer);
	free(bytes);
	return unique;
}

/* Under the lock. */
static inline struct kernel_reply *kernel_reply_of(uint64_t unique)
{
	for (unsigned i = 0; i < lab.reply_count; i++)
		if (lab.replies[i].unique == unique)
			return &lab.replies[i];
	return NULL;
}

static inline bool kernel_answered(uint64_t unique)
{
	bool answered;

	pthread_mutex_lock(&lab.lock);
	answered = kernel_reply_of(unique) != NULL;
	pthread_mutex_unlock(&lab.lock);
	return answered;
}

static inline const struct kernel_reply *kernel_wait(uint64_t unique)
{
	const struct kernel_reply *reply;

	LAB_WAIT(kernel_reply_of(unique));
	pthread_mutex_lock(&lab.lock);
	reply = kernel_reply_of(unique);
	pthread_mutex_unlock(&lab.lock);
	return reply;
}

/* The errno that a request is answered with. */
static inline int kernel_error(uint64_t unique)
{
	return kernel_wait(unique)->error;
}

/* How many notifications there were, epochs with them. */
static inline unsigned kernel_notices(void)
{
	unsigned count;

	pthread_mutex_lock(&lab.lock);
	kernel_note_epochs();
	count = lab.notice_count;
	pthread_mutex_unlock(&lab.lock);
	return count;
}

static inline void kernel_let_notifications(bool wait)
{
	pthread_mutex_lock(&lab.lock);
	lab.notify_waits = wait;
	lab.notify_let = lab.notice_count;
	pthread_cond_broadcast(&lab.changed);
	pthread_mutex_unlock(&lab.lock);
}

/* Those of `node` do not return, until it is 0. */
static inline void kernel_hold_notifications_of(uint64_t node)
{
	pthread_mutex_lock(&lab.lock);
	lab.notify_node = node;
	pthread_cond_broadcast(&lab.changed);
	pthread_mutex_unlock(&lab.lock);
}

/* The one that waits returns; the next will wait. */
static inline void kernel_let_one_notification(void)
{
	kernel_let_notifications(true);
}

static inline void kernel_hold_reply(uint64_t unique)
{
	pthread_mutex_lock(&lab.lock);
	lab.stuck = unique;
	pthread_cond_broadcast(&lab.changed);
	pthread_mutex_unlock(&lab.lock);
}

static inline uint64_t kernel_name(uint32_t opcode, uint64_t nodeid, const char *name)
{
	return kernel_send(opcode, nodeid, name, strlen(name) + 1, NULL, 0);
}

static inline uint64_t kernel_lookup(uint64_t nodeid, const char *name)
{
	return kernel_name(FUSE_LOOKUP, nodeid, name);
}

static inline uint64_t kernel_getattr(uint64_t nodeid)
{
	struct fuse_getattr_in in = { 0 };

	return kernel_send(FUSE_GETATTR, nodeid, &in, sizeof(in), NULL, 0);
}

static inline uint64_t kernel_setattr(uint64_t nodeid, uint32_t valid, uint64_t size, uint32_t mode)
{
	struct fuse_setattr_in in = { .valid = valid, .size = size, .mode = mode };

	return kernel_send(FUSE_SETATTR, nodeid, &in, sizeof(in), NULL, 0);
}

static inline uint64_t kernel_open(uint64_t nodeid, uint32_t flags)
{
	struct fuse_open_in in = { .flags = flags };

	return kernel_send(FUSE_OPEN, nodeid, &in, sizeof(in), NULL, 0);
}

static inline uint64_t kernel_release(uint64_t nodeid, uint64_t fh)
{
	struct fuse_release_in in = { .fh = fh };

	return kernel_send(FUSE_RELEASE, nodeid, &in, sizeof(in), NULL, 0);
}

/* A READ that fills pages. */
static inline uint64_t kernel_read(uint64_t nodeid, uint64_t fh, uint64_t offset, uint32_t size)
{
	struct fuse_read_in in = { .fh = fh, .offset = offset, .size = size };

	pthread_mutex_lock(&lab.lock);
	ck_assert_uint_lt(lab.fill_count, RECORDS_MAX);
	lab.fills[lab.fill_count++] = (struct kernel_fill){ lab.unique + 2, nodeid, offset,
							    offset + size, true };
	pthread_mutex_unlock(&lab.lock);
	return kernel_send(FUSE_READ, nodeid, &in, sizeof(in), NULL, 0);
}

static inline uint64_t kernel_write(uint64_t nodeid, uint64_t fh, uint64_t offset, const char *text)
{
	struct fuse_write_in in = { .fh = fh, .offset = offset, .size = (uint32_t)strlen(text) };

	return kernel_send(FUSE_WRITE, nodeid, &in, sizeof(in), text, strlen(text));
}

static inline uint64_t kernel_fsync(uint64_t nodeid, uint64_t fh)
{
	struct fuse_fsync_in in = { .fh = fh };

	return kernel_send(FUSE_FSYNC, nodeid, &in, sizeof(in), NULL, 0);
}

static inline void kernel_interrupt(uint64_t unique)
{
	struct fuse_interrupt_in in = { .unique = unique };

	(void)kernel_send(FUSE_INTERRUPT, 0, &in, sizeof(in), NULL, 0);
}

/* ---- the origin ---- */

static inline struct handle lab_handle(uint8_t number)
{
	return (struct handle){ 2, { number, 7 } };
}

/* An inode as an answer names it, at change `counter`. */
static inline struct item_node origin_node(enum node_role role, uint8_t number, uint32_t mode,
					   uint64_t counter, enum lease_kind lease)
{
	return (struct item_node){
		.role = (uint8_t)role,
		.lease = (uint8_t)lease,
		.handle = lab_handle(number),
		.before = { INCARNATION, counter },
		.change = { INCARNATION, counter },
		.attributes = { .inode = number, .mode = mode, .nlink = 1 },
	};
}

static inline void origin_release(void *context, void *data)
{
	free(data);
}

static inline void origin_respond(struct server_request *request, const struct message *message)
{
	server_respond(request, message, (struct server_bulk){ NULL, 0, NULL, NULL });
}

static inline void origin_acknowledge(struct server_request *request, uint16_t status)
{
	struct message m = { .type = MESSAGE_acknowledged, .acknowledged = { status } };

	origin_respond(request, &m);
}

static inline void origin_open_session(struct server_request *request, uint16_t status)
{
	struct item_node root = origin_node(NODE_TARGET, ROOT_NUMBER, S_IFDIR | 0755, 1, LEASE_NONE);
	uint8_t bytes[512];
	struct writer w = writer_of(bytes, sizeof(bytes));
	struct message m = { .type = MESSAGE_session_opened };

	item_node_write(&w, &root);
	pthread_mutex_lock(&lab.lock);
	if (status == STATUS_OK) {
		lab.session = ++lab.sessions;
		lab.recall_sequence = 0;
	}
	m.session_opened = (struct message_session_opened){
		.status = status,
		.version = 1,
		.session = lab.session,
		.epoch = 1,
		.incarnation = INCARNATION,
		.term_ms = lab.term_ms,
		.drift_ppm = 1000,
		.slot_count = 5, /* four, and one kept for write-back */
		.lease_count_max = 1000,
		.reclaim = lab.reclaim,
		.root = { bytes, w.at },
	};
	pthread_mutex_unlock(&lab.lock);
	origin_respond(request, &m);
}

static inline void origin_keep_alive(struct server_request *request, uint64_t session)
{
	struct message m = { .type = MESSAGE_kept_alive };

	pthread_mutex_lock(&lab.lock);
	m.kept_alive.status = session == lab.session ? STATUS_OK : STATUS_NOSESSION;
	m.kept_alive.term_ms = lab.term_ms;
	m.kept_alive.recall_sequence = lab.recall_sequence;
	pthread_mutex_unlock(&lab.lock);
	origin_respond(request, &m);
}

static inline void origin_stream_ended(void *context, struct server_stream *stream)
{
	pthread_mutex_lock(&lab.lock);
	if (lab.stream == stream)
		lab.stream = NULL;
	pthread_cond_broadcast(&lab.changed);
	pthread_mutex_unlock(&lab.lock);
	server_stream_unref(stream);
}

static inline void origin_attach(struct server_request *request, uint64_t session)
{
	struct message m = { .type = MESSAGE_acknowledged };
	struct server_stream *stream;

	if (session != lab.session) {
		origin_acknowledge(request, STATUS_NOSESSION);
		return;
	}
	stream = server_stream_start(request, origin_stream_ended, NULL);
	ck_assert_ptr_nonnull(stream);
	pthread_mutex_lock(&lab.lock);
	lab.stream = stream;
	ck_assert_int_eq(server_stream_send(stream, &m), 0);
	pthread_cond_broadcast(&lab.changed);
	pthread_mutex_unlock(&lab.lock);
}

static inline void origin_note_acknowledgements(struct slice items)
{
	struct reader r = reader_of(items.data, items.length);
	struct item_acknowledgement item;

	pthread_mutex_lock(&lab.lock);
	while (item_acknowledgement_read(&r, &item)) {
		ck_assert_uint_lt(lab.acknowledgement_count, RECORDS_MAX);
		lab.acknowledgements[lab.acknowledgement_count++] =
			(struct origin_acknowledgement){ item.sequence, item.open, item.kept };
	}
	pthread_cond_broadcast(&lab.changed);
	pthread_mutex_unlock(&lab.lock);
}

/* Confirms every claim, or none. */
static inline void origin_reclaimed(struct server_request *request, struct slice items, bool all)
{
	static const uint8_t yes[1024] = { [0 ... 1023] = 1 };
	static const uint8_t no[1024];
	struct reader r = reader_of(items.data, items.length);
	struct message m = { .type = MESSAGE_reclaimed };
	struct item_claim item;
	size_t count = 0;

	while (item_claim_read(&r, &item))
		count++;
	ck_assert_uint_le(count, sizeof(yes));
	pthread_mutex_lock(&lab.lock);
	m.reclaimed.recall_sequence = lab.recall_sequence;
	pthread_mutex_unlock(&lab.lock);
	m.reclaimed.confirmed = (struct slice){ all ? yes : no, count };
	origin_respond(request, &m);
}

/* What belongs to a session. False: not such a message. */
static inline bool origin_answers_itself(struct server_request *request, const struct message *m)
{
	switch (m->type) {
	case MESSAGE_session_open:
		origin_open_session(request, STATUS_OK);
		return true;
	case MESSAGE_keepalive:
		origin_keep_alive(request, m->keepalive.session);
		return true;
	case MESSAGE_recall_stream:
		origin_attach(request, m->recall_stream.session);
		return true;
	case MESSAGE_recall_acknowledge:
		origin_note_acknowledgements(m->recall_acknowledge.items);
		origin_acknowledge(request, STATUS_OK);
		return true;
	case MESSAGE_reclaim:
		origin_reclaimed(request, m->reclaim.items, true);
		return true;
	case MESSAGE_lease_release:
	case MESSAGE_session_close:
		origin_acknowledge(request, STATUS_OK);
		return true;
	default:
		return false;
	}
}

static inline void origin_handle(void *context, struct server_request *request)
{
	struct server_request_view view;
	struct origin_request *waits;
	struct message m;
	bool asks;

	server_request_view(request, &view);
	if (message_decode(view.message, &m) < 0) {
		origin_acknowledge(request, STATUS_BADMESSAGE);
		return;
	}
	pthread_mutex_lock(&lab.lock);
	lab.received[m.type]++;
	asks = lab.asks[m.type];
	pthread_cond_broadcast(&lab.changed);
	pthread_mutex_unlock(&lab.lock);
	if (!asks && origin_answers_itself(request, &m))
		return;
	waits = (struct origin_request *)calloc(1, sizeof(*waits));
	ck_assert_ptr_nonnull(waits);
	waits->request = request;
	waits->message = m;
	waits->bulk = view.bulk;
	pthread_mutex_lock(&lab.lock);
	if (lab.last)
		lab.last->next = waits;
	else
		lab.first = waits;
	lab.last = waits;
	pthread_cond_broadcast(&lab.changed);
	pthread_mutex_unlock(&lab.lock);
}

static inline void origin_asks(enum message_type type, bool asks)
{
	pthread_mutex_lock(&lab.lock);
	lab.asks[type] = asks;
	pthread_mutex_unlock(&lab.lock);
}

/* How many messages of a type came, ever. */
static inline unsigned origin_received(enum message_type type)
{
	unsigned count;

	pthread_mutex_lock(&lab.lock);
	count = lab.received[type];
	pthread_mutex_unlock(&lab.lock);
	return count;
}

/* Takes the first of `type` out. Under the lock. */
static inline struct origin_request *origin_take(enum message_type type)
{
	struct origin_request **at = &lab.first, *before = NULL, *found;

	for (; *at && (*at)->message.type != type; at = &(*at)->next)
		before = *at;
	found = *at;
	if (!found)
		return NULL;
	*at = found->next;
	if (lab.last == found)
		lab.last = before;
	return found;
}

/* The next request of `type` that waits for the test. */
static inline struct origin_request *origin_expect(enum message_type type)
{
	struct origin_request *found = NULL;

	LAB_WAIT((found = found ? found : origin_take(type)));
	return found;
}

struct origin_answer {
	uint16_t status;
	bool before_recalls; /* made before any recall of the session was issued */
	uint64_t incarnation;
	uint64_t offset;
	uint32_t count;
	bool eof;
	unsigned node_count;
	struct item_node nodes[4];
	const void *data;
	size_t length;
};

static inline void origin_answer(struct origin_request *waits, const struct origin_answer *answer)
{
	struct message m = { .type = MESSAGE_reply };
	struct server_bulk bulk = { NULL, 0, NULL, NULL };
	uint8_t nodes[2048];
	struct writer w = writer_of(nodes, sizeof(nodes));

	for (unsigned i = 0; i < answer->node_count; i++)
		item_node_write(&w, &answer->nodes[i]);
	m.reply.status = answer->status;
	pthread_mutex_lock(&lab.lock);
	m.reply.recall_sequence = answer->before_recalls ? 0 : lab.recall_sequence;
	pthread_mutex_unlock(&lab.lock);
	m.reply.incarnation = answer->incarnation ? answer->incarnation : INCARNATION;
	m.reply.offset = answer->offset;
	m.reply.count = answer->count;
	m.reply.eof = answer->eof;
	m.reply.nodes = (struct slice){ nodes, w.at };
	if (answer->length) {
		bulk = (struct server_bulk){ malloc(answer->length), answer->length,
					     origin_release, NULL };
		memcpy(bulk.data, answer->data, answer->length);
	}
	server_respond(waits->request, &m, bulk);
	free(waits);
}

static inline void origin_answer_status(struct origin_request *waits, uint16_t status)
{
	const struct origin_answer answer = { .status = status };

	origin_answer(waits, &answer);
}

/* With one node. */
static inline void origin_answer_node(struct origin_request *waits, const struct item_node *node)
{
	const struct origin_answer answer = { .node_count = 1, .nodes = { *node } };

	origin_answer(waits, &answer);
}

/* Recalls an inode, or one name of a directory. Returns the sequence. */
static inline uint64_t origin_recall(uint8_t number, const char *name)
{
	struct item_name item = { slice_of(name ? name : "") };
	struct message m = { .type = MESSAGE_recall };
	uint8_t bytes[300];
	struct writer w = writer_of(bytes, sizeof(bytes));

	item_name_write(&w, &item);
	LAB_WAIT(lab.stream);
	pthread_mutex_lock(&lab.lock);
	m.recall.sequence = ++lab.recall_sequence;
	m.recall.scope = name ? RECALL_NAMES : RECALL_ALL;
	m.recall.handle = lab_handle(number);
	if (name)
		m.recall.names = (struct slice){ bytes, w.at };
	ck_assert_ptr_nonnull(lab.stream);
	ck_assert_int_eq(server_stream_send(lab.stream, &m), 0);
	pthread_mutex_unlock(&lab.lock);
	return m.recall.sequence;
}

/* Under the lock. */
static inline struct origin_acknowledgement *origin_acknowledgement_of(uint64_t sequence)
{
	for (unsigned i = 0; i < lab.acknowledgement_count; i++)
		if (lab.acknowledgements[i].sequence == sequence)
			return &lab.acknowledgements[i];
	return NULL;
}

static inline bool origin_acknowledged(uint64_t sequence)
{
	bool acknowledged;

	pthread_mutex_lock(&lab.lock);
	acknowledged = origin_acknowledgement_of(sequence) != NULL;
	pthread_mutex_unlock(&lab.lock);
	return acknowledged;
}

static inline const struct origin_acknowledgement *origin_wait_acknowledged(uint64_t sequence)
{
	LAB_WAIT(origin_acknowledgement_of(sequence));
	return origin_acknowledgement_of(sequence);
}

/* It forgets its session, as after a restart without a record of it. */
static inline void origin_forget_session(void)
{
	pthread_mutex_lock(&lab.lock);
	lab.session = 0;
	pthread_mutex_unlock(&lab.lock);
}

static inline void origin_listen(void)
{
	char address[64], text[256] = "";
	struct server_config config = {
		.address = address,
		.loop_count = 1,
		.connection_count_max = 64,
		.request_count_max = 8192,
		.handler = origin_handle,
	};

	snprintf(address, sizeof(address), "127.0.0.1:%u", lab.port);
	ck_assert_msg(server_create(&config, &lab.server, text, sizeof(text)) == 0, "%s", text);
	lab.port = server_port(lab.server);
}

/* What it held is answered, if anybody still listens. */
static inline void origin_flush(void)
{
	struct origin_request *waits;

	pthread_mutex_lock(&lab.lock);
	waits = lab.first;
	lab.first = lab.last = NULL;
	pthread_mutex_unlock(&lab.lock);
	while (waits) {
		struct origin_request *next = waits->next;

		origin_acknowledge(waits->request, STATUS_IO);
		free(waits);
		waits = next;
	}
}

/* All its connections break; what it had received is lost. origin_listen() brings it back. */
static inline void origin_die(void)
{
	server_destroy(lab.server);
	lab.server = NULL;
	origin_flush();
}

/* ---- the daemon ---- */

static inline void lab_prepare(void)
{
	memset(&lab, 0, sizeof(lab));
	pthread_mutex_init(&lab.lock, NULL);
	pthread_cond_init(&lab.changed, NULL);
	pthread_mutex_init(&lab.m.lock, NULL);
	pthread_cond_init(&lab.m.replies_done, NULL);
	lab.directory_fd = scratch_make(lab.directory);
	snprintf(lab.cache, sizeof(lab.cache), "%s/cache", lab.directory);
	lab.options = (struct mount_options){
		.cache = lab.cache,
		.cache_size = 64 << 20,
		.timeout = 60000,
		.disconnected = "wait",
		.read_ahead = 128 << 10,
		.url = "http://127.0.0.1/data",
		.mountpoint = lab.directory,
	};
	lab.m.options = &lab.options;
	lab.m.export = "data";
	lab.m.fuse_fd = -1;
	lab.m.open_fetch_max_ms = WAIT_S * 1000;
	lab.term_ms = 60000;
	lab.caller = getpid();
	lab.has_epoch = true;
}

static inline void lab_start_kernel(void)
{
	const struct fuse_custom_io io = { .writev = kernel_writev, .read = kernel_read_nothing };
	struct fuse_init_in in = { .major = FUSE_KERNEL_VERSION, .minor = 31,
				   .max_readahead = 128 << 10 };
	struct fuse_args args = FUSE_ARGS_INIT(0, NULL);

	ck_assert_int_eq(pipe2(lab.epoch_pipe, O_CLOEXEC | O_NONBLOCK), 0);
	lab.m.fuse_fd = lab.epoch_pipe[1];
	ck_assert_int_eq(fuse_opt_add_arg(&args, "leasehold"), 0);
	lab.m.fuse = fuse_session_new(&args, &mount_operations, sizeof(mount_operations), &lab.m);
	fuse_opt_free_args(&args);
	ck_assert_ptr_nonnull(lab.m.fuse);
	ck_assert_int_eq(fuse_session_custom_io(lab.m.fuse, &io, sizeof(io),
						dup(lab.epoch_pipe[0])), 0);
	ck_assert_int_eq(kernel_error(kernel_send(FUSE_INIT, 0, &in, sizeof(in), NULL, 0)), 0);
	lab.m.has_epoch = lab.has_epoch;
}

static inline void lab_make_root(const struct item_node *root)
{
	struct inode *inode;

	pthread_mutex_lock(&lab.m.lock);
	inode = inode_get(&lab.m, &root->handle, root->attributes.mode);
	ck_assert_ptr_nonnull(inode);
	inode_looked_up(&lab.m, inode);
	inode_set_attributes(&lab.m, inode, &root->attributes, 0);
	pthread_mutex_unlock(&lab.m.lock);
}

/* The holder's and client's settings are those of mount.c, but for shorter retries. */
static inline void lab_start(void)
{
	const struct guardian_config guardian = {
		.inode_count_max = 64,
		.abort_after = duration_ms(60000),
		.mountpoint = lab.directory,
		.log_to_stderr = true,
	};
	const struct holder_config holder = {
		.fence_margin = duration_ms(100),
		.lease_count_max = 1000,
		.recall_window_max = 64,
		.retry_min_ms = 10,
		.retry_max_ms = 100,
	};
	struct client_config client = {
		.url = lab.url,
		.data_connections = 2,
		.connect_timeout = duration_ms(5000),
		.call_count_max = CALL_COUNT_MAX + 64,
	};
	char text[512] = "";
	struct item_node root;

	ck_assert_int_eq(guardian_start(&guardian, &lab.m.guardian), 0);
	origin_listen();
	snprintf(lab.url, sizeof(lab.url), "http://127.0.0.1:%u", lab.port);
	lab.m.origin_url = lab.url;
	ck_assert_msg(cache_open(lab.cache, lab.options.cache_size, &lab.m.cache, text,
				 sizeof(text)) == 0, "%s", text);
	ck_assert_msg(client_create(&client, &lab.m.client, text, sizeof(text)) == 0, "%s", text);
	ck_assert_int_eq(holder_create(&holder, &session_allocator, 1, &lab.m.holder), 0);
	ck_assert_int_eq(inode_table_create(&lab.m.inodes), 0);
	ck_assert_int_eq(calls_create(&lab.m), 0);
	ck_assert_int_eq(notifier_create(&lab.m), 0);
	ck_assert_msg(session_start(&lab.m, duration_ms(WAIT_S * 1000), &root, text,
				    sizeof(text)) == 0, "%s", text);
	lab.started = true;
	lab_make_root(&root);
	lab_start_kernel();
	LAB_WAIT_MOUNT(holder_valid(lab.m.holder, mount_now()));
}

/* Until no call is in flight. */
static inline void lab_wait_calls(void)
{
	for (unsigned ms = 0; calls_count(&lab.m) > 0; ms++) {
		ck_assert_uint_lt(ms, WAIT_S * 1000);
		usleep(1000);
	}
}

/* As mount.c unwinds. */
static inline void lab_stop(void)
{
	kernel_let_notifications(false);
	kernel_hold_notifications_of(0);
	calls_shut(&lab.m, STATUS_IO);
	lab_wait_calls();
	session_stop(&lab.m);
	notifier_destroy(&lab.m);
	guardian_renew(lab.m.guardian, (struct instant){ 0 });
	session_close(&lab.m);
	client_destroy(lab.m.client);
	calls_stop(&lab.m);
	guardian_stop(lab.m.guardian);
	data_forget_all(&lab.m);
	inode_table_destroy(&lab.m);
	session_discard(&lab.m);
	calls_destroy(&lab.m);
	holder_destroy(lab.m.holder);
	fuse_session_destroy(lab.m.fuse);
	cache_close(lab.m.cache);
	origin_die();
	close(lab.epoch_pipe[0]);
	close(lab.epoch_pipe[1]);
	for (unsigned i = 0; i < lab.reply_count; i++)
		free(lab.replies[i].data);
	lab.started = false;
}

static inline void lab_end(void)
{
	if (lab.started)
		lab_stop();
	scratch_remove(lab.directory, lab.directory_fd);
	pthread_mutex_destroy(&lab.lock);
	pthread_cond_destroy(&lab.changed);
	pthread_mutex_destroy(&lab.m.lock);
	pthread_cond_destroy(&lab.m.replies_done);
}

/* ---- what many tests begin with ---- */

static inline TCase *lab_case(const char *name)
{
	TCase *tcase = tcase_create(name);

	tcase_add_checked_fixture(tcase, lab_prepare, lab_end);
	tcase_set_timeout(tcase, TEST_TIMEOUT_S);
	return tcase;
}

/* The kernel looks up `name` in the root: inode `number`, at change 1, both under leases. */
static inline uint64_t lab_find(const char *name, uint8_t number, uint32_t mode, uint64_t size)
{
	uint64_t unique = kernel_lookup(FUSE_ROOT_ID, name);
	struct origin_answer answer = {
		.node_count = 2,
		.nodes = { origin_node(NODE_TARGET, number, mode, 1, LEASE_READ),
			   origin_node(NODE_DIRECTORY, ROOT_NUMBER, S_IFDIR | 0755, 1, LEASE_READ) },
	};
	struct fuse_entry_out out;

	answer.nodes[0].attributes.size = size;
	origin_answer(origin_expect(MESSAGE_lookup), &answer);
	ck_assert_int_eq(kernel_error(unique), 0);
	memcpy(&out, kernel_wait(unique)->data, sizeof(out));
	return out.nodeid;
}

static inline uint64_t lab_find_file(const char *name, uint8_t number, uint64_t size)
{
	return lab_find(name, number, S_IFREG | 0644, size);
}

/* Opens what has a lease: no request to the origin. Returns the file handle. */
static inline uint64_t lab_open(uint64_t nodeid, uint32_t flags)
{
	uint64_t unique = kernel_open(nodeid, flags);
	struct fuse_open_out out;

	ck_assert_int_eq(kernel_error(unique), 0);
	memcpy(&out, kernel_wait(unique)->data, sizeof(out));
	return out.fh;
}

static inline void lab_close(uint64_t nodeid, uint64_t fh)
{
	ck_assert_int_eq(kernel_error(kernel_release(nodeid, fh)), 0);
}

/* A READ of what is not cached: answered with `text`, at change `counter`. Without `eof` it is of a
   file of LARGE_FILE_BYTES. */
static inline void origin_answer_read(struct origin_request *waits, uint8_t number,
				      uint64_t counter, enum lease_kind lease, const char *text,
				      bool eof)
{
	struct origin_answer answer = {
		.node_count = 1,
		.nodes = { origin_node(NODE_TARGET, number, S_IFREG | 0644, counter, lease) },
		.eof = eof,
		.data = text,
		.length = strlen(text),
	};

	answer.nodes[0].attributes.size = eof ? strlen(text) : LARGE_FILE_BYTES;
	origin_answer(waits, &answer);
}

/* What a request was answered with is this text. */
static inline void kernel_expect_text(uint64_t unique, const char *text)
{
	const struct kernel_reply *reply = kernel_wait(unique);

	ck_assert_int_eq(reply->error, 0);
	ck_assert_uint_eq(reply->length, strlen(text));
	ck_assert(memcmp(reply->data, text, reply->length) == 0);
}

static inline void lab_control_done(void *context, const struct client_answer *answer)
{
	pthread_mutex_lock(&lab.lock);
	*(bool *)context = true;
	pthread_cond_broadcast(&lab.changed);
	pthread_mutex_unlock(&lab.lock);
}

/* A control message to the origin and back: those that were sent before it have come. */
static inline void lab_control_round_trip(void)
{
	const struct message m = { .type = MESSAGE_keepalive };
	bool done = false;

	ck_assert_int_eq(client_call(lab.m.client, CLIENT_CONTROL, "/v1/rpc", &m,
				     (struct slice){ NULL, 0 }, duration_ms(WAIT_S * 1000),
				     lab_control_done, &done, NULL), 0);
	LAB_WAIT(done);
}

/* A request to the origin and back: whatever was to be sent before it was sent. */
static inline void lab_round_trip(void)
{
	static const char name[] = "user.round_trip";
	const struct fuse_getxattr_in in = { .size = 0 };
	uint64_t unique = kernel_send(FUSE_GETXATTR, FUSE_ROOT_ID, &in, sizeof(in), name,
				      sizeof(name));

	origin_answer_status(origin_expect(MESSAGE_getxattr), STATUS_NODATA);
	ck_assert_int_eq(kernel_error(unique), ENODATA);
}

#endif
