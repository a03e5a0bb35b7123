#include "fs/mount/read.h"

#include <errno.h>
#include <stdlib.h>

#include "fs/mount/ahead.h"
#include "fs/mount/memory.h"
#include "fs/mount/keep.h"
#include "fs/mount/locks.h"
#include "fs/mount/pages.h"
#include "fs/mount/prefetch.h"
#include "fs/mount/reply.h"
#include "fs/mount/write_back.h"

#define TRY_MAX 3
#define AGAIN_MAX_MS 64

/* One READ of the kernel's that is not answered. */
struct reading {
	struct reading *next, *previous;         /* in inode->readings */
	struct reading *all_next, *all_previous; /* in mount->readings */
	struct reading *wait_next;               /* behind a fetch */
	uint64_t id;
	fuse_req_t request;
	fuse_req_t answering; /* taken out: a fetch answers it now */
	uint64_t thread;
	bool interrupted;
	struct instant deadline;
	struct credential credential;
	struct inode *inode; /* with a use */
	uint64_t lock_file;  /* of its descriptor (call.h) */
	uint64_t offset;
	size_t size;
	bool direct;    /* no page of the kernel's is filled */
	bool exclusive; /* a fill of a file that may be mapped for writing: write_back.h */
	bool held;
	bool alone;     /* a fetch on another's behalf was refused: it joins none */
	size_t ahead; /* read-ahead behind it, when it has to be fetched */
};

static __thread void *read_buffer; /* BULK_BYTES_MAX, for answers from the cache */
static pthread_key_t buffer_key;
static pthread_once_t buffer_once = PTHREAD_ONCE_INIT;

static void buffer_init(void)
{
	/* Frees a thread's buffer at its end; without the key it would leak, no more. */
	(void)pthread_key_create(&buffer_key, free);
}

static void *buffer_get(void)
{
	if (!read_buffer) {
		pthread_once(&buffer_once, buffer_init);
		read_buffer = malloc(BULK_BYTES_MAX);
		(void)pthread_setspecific(buffer_key, read_buffer);
	}
	return read_buffer;
}

static void reading_try(struct mount *m, struct reading *reading);

/* ---- the lists ---- */

static void reading_link(struct mount *m, struct reading *reading)
{
	struct inode *inode = reading->inode;

	reading->next = inode->live->readings;
	if (inode->live->readings)
		inode->live->readings->previous = reading;
	inode_live(inode)->readings = reading;
	reading->all_next = m->readings;
	if (m->readings)
		m->readings->all_previous = reading;
	m->readings = reading;
	inode_live(inode)->fills++;
	inode_live(inode)->fill_serial++;
}

/* Takes the request out: from here on it must be answered by the caller. Under the lock. */
static fuse_req_t reading_take(struct mount *m, struct reading *reading)
{
	struct inode *inode = reading->inode;
	fuse_req_t request = reading->request;

	if (!request)
		return NULL;
	reading->request = NULL;
	if (reading->previous)
		reading->previous->next = reading->next;
	else
		inode_live(inode)->readings = reading->next;
	if (reading->next)
		reading->next->previous = reading->previous;
	if (reading->all_previous)
		reading->all_previous->all_next = reading->all_next;
	else
		m->readings = reading->all_next;
	if (reading->all_next)
		reading->all_next->all_previous = reading->all_previous;
	inode_live(inode)->fills--;
	return request;
}

static void reading_free(struct mount *m, struct reading *reading)
{
	pthread_mutex_lock(&m->lock);
	inode_unuse(m, reading->inode);
	pthread_mutex_unlock(&m->lock);
	free(reading);
}

static void reading_fail(struct mount *m, struct reading *reading, int error)
{
	fuse_req_t request;

	pthread_mutex_lock(&m->lock);
	request = reading_take(m, reading);
	pthread_mutex_unlock(&m->lock);
	reading_free(m, reading);
	if (request)
		fuse_reply_err(request, error);
}

static int range_order(const void *a, const void *b)
{
	const struct busy_range *x = a, *y = b;

	return x->start < y->start ? -1 : x->start > y->start;
}

unsigned read_busy_ranges(const struct inode *inode, bool held, struct busy_range *ranges,
			  unsigned max)
{
	const uint64_t page = 4096;
	unsigned count = 0, merged = 0;

	for (const struct reading *r = inode->live->readings; r && count < max; r = r->next)
		if (!r->direct && (r->held || !held))
			ranges[count++] = (struct busy_range){ r->offset & ~(page - 1),
							       (r->offset + r->size + page - 1) &
								       ~(page - 1) };
	if (count == 0)
		return 0;
	qsort(ranges, count, sizeof(*ranges), range_order);
	for (unsigned i = 1; i < count; i++) {
		if (ranges[i].start > ranges[merged].end)
			ranges[++merged] = ranges[i];
		else if (ranges[i].end > ranges[merged].end)
			ranges[merged].end = ranges[i].end;
	}
	return merged + 1;
}

/* ---- killed readers ---- */

static void on_interrupt(fuse_req_t request, void *data)
{
	struct mount *m = fuse_req_userdata(request);
	uint64_t id = (uint64_t)(uintptr_t)data;

	pthread_mutex_lock(&m->lock);
	for (struct reading *r = m->readings; r; r = r->all_next)
		if (r->id == id)
			r->interrupted = true;
	calls_session_changed(m); /* wakes the ticker */
	pthread_mutex_unlock(&m->lock);
}

/*
 * The kernel interrupts a request once, for the first signal. When that one has a handler, the
 * reading stays marked: a fatal one may follow.
 */
void read_interrupts(struct mount *m)
{
	uint64_t after = 0;

	for (;;) {
		fuse_req_t request = NULL;
		struct reading *r;
		uint64_t id = UINT64_MAX, thread = 0;

		pthread_mutex_lock(&m->lock);
		for (r = m->readings; r; r = r->all_next) {
			if (r->interrupted && r->id > after && r->id < id) {
				id = r->id;
				thread = r->thread;
			}
		}
		pthread_mutex_unlock(&m->lock);
		if (id == UINT64_MAX)
			return;
		after = id;
		if (!call_caller_dies(thread))
			continue;
		pthread_mutex_lock(&m->lock);
		for (r = m->readings; r && r->id != id; r = r->all_next)
			;
		if (r)
			request = reading_take(m, r);
		pthread_mutex_unlock(&m->lock);
		if (request) {
			COUNT(m, calls_interrupted);
			fuse_reply_err(request, EINTR);
		}
	}
}

/* ---- fetches: a call whose context is the list of readings that wait for it ---- */

static void fetch_unlink(struct inode *inode, struct call *call)
{
	for (struct call **at = &inode_live(inode)->fetches; *at; at = &(*at)->fetch_next) {
		if (*at == call) {
			*at = call->fetch_next;
			return;
		}
	}
}

/* Under the lock: everybody who waits for the fetch. */
static struct reading *fetch_take(struct call *call)
{
	struct reading *first = call->context;

	call->context = NULL;
	return first;
}

/* What one caller may not read, another one may. */
static bool same_caller(const struct credential *a, const struct credential *b)
{
	return a->uid == b->uid && a->gid == b->gid && a->group_count == b->group_count &&
	       memcmp(a->groups, b->groups, a->group_count * sizeof(a->groups[0])) == 0;
}

static void fetch_end(struct mount *m, struct call *call, int error)
{
	const struct credential caller = call->message.common.credential;
	struct instant now = mount_now();
	struct reading *reading, *next;
	bool others;

	pthread_mutex_lock(&m->lock);
	fetch_unlink(call->inode, call);
	reading = fetch_take(call);
	if (call->ahead && !call->unit)
		m->ahead_count--;
	pthread_mutex_unlock(&m->lock);
	if (call->unit)
		prefetch_ended(m, call->unit, error == 0, NULL);
	call_destroy(m, call);
	for (; reading; reading = next) {
		next = reading->wait_next;
		reading->wait_next = NULL;
		/* Who joined later has time left; the others failed as the fetch did. */
		others = error && !same_caller(&reading->credential, &caller);
		reading->alone |= others;
		if (!reading->request)
			reading_free(m, reading);
		else if (error && (error == ETIMEDOUT ? !instant_before(now, reading->deadline) :
							!others))
			reading_fail(m, reading, error);
		else
			reading_try(m, reading);
	}
}

enum use {
	USE_NONE, /* sent again */
	USE_ONCE, /* by the kernel: a recall under way drops the page */
	USE_KEEP, /* and by the cache */
};

/* Of the lease `held`: granted with the answer, or it stands since before it was sent, and so will be
   recalled. Under the lock. */
static bool certain(struct mount *m, const struct call *call, const struct answer_node *node,
		    uint64_t held)
{
	if (!held || (node->instance && node->instance == held))
		return held != 0;
	return held == call->lease_instance &&
	       change_equal(holder_change(m->holder, INODE_HANDLE(call->inode)), node->item.change) &&
	       !holder_overtaken(m->holder, call->stamp, call->reply.recall_sequence,
				 INODE_HANDLE(call->inode), NULL);
}

/* By whom may what the answer brought be used? The kernel's pages outlive it. Under the lock. */
static enum use usable(struct mount *m, const struct call *call, const struct answer_node *node)
{
	struct inode *inode = call->inode;
	bool exclusive = call->message.type == MESSAGE_read_exclusive;
	uint64_t held = exclusive ? write_back_lease(m, inode) :
				    holder_lease_held(m->holder, mount_now(), INODE_HANDLE(inode));

	/* Sent beside our own modification, since there was no lease to hold it under, and answered
	   from before it: others may see the new state already. It is sent again behind it. */
	if (held && !exclusive && inode_fills_wait(inode))
		return USE_NONE;
	if (node->instance && node->instance == held)
		inode_live(inode)->filled_at = mount_now();
	if (certain(m, call, node, held))
		return USE_KEEP;
	/* From before our own modification, which others may have seen, or a recall, that ended since:
	   whoever joined after that must not see it. What is sent now is answered from after both. Nor
	   does what a session that is over still drops: changes do not wait for that. */
	if (inode->live->dropping_pages == 0 || inode->live->settle_serial != call->settle_serial ||
	    (!exclusive && inode->live->hold_count > 0) ||
	    inode->live->drop_session.value != call->session.value ||
	    holder_session(m->holder).value != call->session.value)
		return USE_NONE;
	/* What is stored to such a page could not be written back; no drop waits for it (notifier.c). */
	if (exclusive && inode->live->stored_drops == 0)
		return USE_NONE;
	inode_live(inode)->weak_fills++;
	return USE_ONCE;
}

/* Bytes of the fetch that are this reading's. */
static size_t fetched(const struct call *call, const struct reading *reading)
{
	uint64_t skip = reading->offset - call->offset;
	size_t have = skip < call->data.length ? call->data.length - skip : 0;

	return have < reading->size ? have : reading->size;
}

/* It may have waited for its end only: fetch_join(). */
static bool suffices(const struct call *call, const struct reading *reading)
{
	return reading->offset >= call->offset &&
	       (fetched(call, reading) == reading->size || call->reply.eof);
}

/*
 * Everybody who waits for the fetch. Whom it answers is taken out in the section in which that is
 * allowed: from then on its pages are not stepped around any more (read_busy_ranges), but waited for
 * with its reply. Under the lock.
 */
static struct reading *fetch_take_answered(struct mount *m, struct call *call)
{
	struct reading *first = fetch_take(call);

	for (struct reading *reading = first; reading; reading = reading->wait_next)
		if (suffices(call, reading))
			reading->answering = reading_take(m, reading);
	return first;
}

/* Answers one reading from the bytes of the fetch. False: they do not suffice. */
static bool serve(struct mount *m, struct call *call, struct reading *reading)
{
	uint64_t skip = reading->offset - call->offset;
	size_t have = fetched(call, reading);

	if (!suffices(call, reading))
		return false;
	COUNT_BY(m, read_bytes, have);
	if (reading->answering)
		fuse_reply_buf(reading->answering,
			       have ? (const char *)call->data.data + skip : NULL, have);
	reading_free(m, reading);
	return true;
}

/* Answers the waiting readings. Under the token of the section in which they were allowed to. Returns
   those for whom it is not enough. */
static struct reading *fetch_serve(struct mount *m, struct call *call, struct reading *reading,
				   unsigned token)
{
	struct reading *next, *retry = NULL;

	for (; reading; reading = next) {
		next = reading->wait_next;
		if (!serve(m, call, reading)) {
			reading->wait_next = retry;
			retry = reading;
		}
	}
	mount_reply_end(m, token);
	return retry;
}

/* What an answer says is stored: the rest of it is zeros. */
struct stored {
	uint64_t zeros; /* before it */
	size_t length;
	size_t count;   /* all together */
};

/* Puts the zeros in that the answer left out. 0 or -errno. */
static int fill_holes(struct call *call, struct stored *ret_stored)
{
	const struct message_reply *reply = &call->reply;
	struct stored stored = { 0, call->data.length, call->data.length };
	uint8_t *bytes;

	/* An origin that leaves nothing out need not count. */
	if (reply->count > call->data.length) {
		stored.zeros = reply->offset;
		stored.count = reply->count;
		if (stored.count > call->size || stored.zeros > stored.count - stored.length)
			return -EPROTO;
		bytes = calloc(1, stored.count);
		if (!bytes)
			return -ENOMEM;
		if (stored.length)
			memcpy(bytes + stored.zeros, call->data.data, stored.length);
		free(call->bulk_memory); /* of an answer that was not used */
		call->bulk = call->bulk_memory = bytes;
		call->data = (struct slice){ bytes, stored.count };
	}
	*ret_stored = stored;
	return 0;
}

static void fetch_keep(struct mount *m, struct call *call, struct change change,
		       const struct stored *stored)
{
	uint64_t start = call->offset + stored->zeros, end = start + stored->length;

	read_keep_zeros(m, call->inode, change, call->offset, stored->zeros);
	if (!read_keep(m, call->inode, change, start,
		       (struct slice){ call->data.data + stored->zeros, stored->length }) &&
	    call->ahead) {
		/* What nobody waits for yet would only be fetched twice. */
		pthread_mutex_lock(&m->lock);
		inode_live(call->inode)->no_ahead = true;
		pthread_mutex_unlock(&m->lock);
	}
	read_keep_zeros(m, call->inode, change, end, call->offset + stored->count - end);
}

void read_fetched(struct mount *m, struct call *call)
{
	const struct answer_node *node;
	struct stored stored;
	struct answer answer;
	bool kept;

	if (call->status != STATUS_OK || fill_holes(call, &stored) < 0)
		return;
	pthread_mutex_lock(&m->lock);
	answer_work_in(m, call, NULL, NULL, &answer);
	node = &answer.nodes[NODE_TARGET];
	kept = node->present && !inode_fills_wait(call->inode) &&
	       certain(m, call, node,
		       holder_lease_held(m->holder, mount_now(), INODE_HANDLE(call->inode)));
	pthread_mutex_unlock(&m->lock);
	answer_done(m, &answer);
	if (!kept)
		return;
	COUNT(m, fetches);
	COUNT_BY(m, fetched_bytes, stored.length);
	fetch_keep(m, call, node->item.change, &stored);
}

static void fetch_work(struct mount *m, struct call *call)
{
	const struct answer_node *node;
	struct reading *waiting = NULL, *next;
	enum use use = USE_NONE;
	struct stored stored;
	struct answer answer;
	unsigned token = 0;
	bool wanted;
	int r = call->status == STATUS_OK ? fill_holes(call, &stored) : 0;

	if (call->status != STATUS_OK || r < 0) {
		fetch_end(m, call, r < 0 ? -r : call_errno(call));
		return;
	}
	pthread_mutex_lock(&m->lock);
	answer_work_in(m, call, NULL, NULL, &answer);
	node = &answer.nodes[NODE_TARGET];
	if (node->present)
		use = usable(m, call, node);
	if (use != USE_NONE) {
		waiting = fetch_take_answered(m, call);
		for (const struct reading *at = waiting; at; at = at->wait_next)
			inode_live(call->inode)->filled_serial += !at->direct;
		token = mount_reply_begin(m);
	}
	wanted = call->context || !call->ahead;
	pthread_mutex_unlock(&m->lock);
	answer_done(m, &answer);
	if (!node->present) {
		fetch_end(m, call, EIO);
		return;
	}
	if (use == USE_NONE && !wanted) {
		fetch_end(m, call, 0); /* who has joined since tries for himself */
		return;
	}
	if (use == USE_NONE) {
		/* A recall passed it on its way: the next one waits its turn at the origin. */
		unsigned delay_ms = call->retries < 6 ? 1u << call->retries : AGAIN_MAX_MS;

		call->retries++;
		call_again(m, call, call->retries == 1 ? 0 : delay_ms);
		return;
	}
	COUNT(m, fetches);
	COUNT_BY(m, fetched_bytes, stored.length);
	waiting = fetch_serve(m, call, waiting, token);
	if (use == USE_KEEP)
		fetch_keep(m, call, node->item.change, &stored);
	fetch_end(m, call, 0);
	for (; waiting; waiting = next) {
		next = waiting->wait_next;
		waiting->wait_next = NULL;
		reading_try(m, waiting);
	}
}

/* Where what is cached of the range ends. Without the lock. */
static uint64_t first_missing(struct mount *m, const struct reading *reading)
{
	uint64_t start = reading->offset, end = 0;
	struct cache_file *file;
	struct change change;
	bool leased;

	if (reading->exclusive)
		return start;
	pthread_mutex_lock(&m->lock);
	leased = inode_lease(m, reading->inode, mount_now(), &change) != 0;
	pthread_mutex_unlock(&m->lock);
	file = leased ? read_cache_file(m, reading->inode) : NULL;
	if (!file || !cache_file_gap(file, change, start, start + reading->size, &start, &end))
		return reading->offset;
	return start;
}

/* A fetch in flight that brings [start, end), or with others that continue it. Under the lock. */
static struct call *fetch_of(const struct inode *inode, bool exclusive, uint64_t start, uint64_t end)
{
	struct call *part = NULL;

	for (struct call *call = inode->live->fetches; call; call = call->fetch_next) {
		if ((call->message.type == MESSAGE_read_exclusive) != exclusive ||
		    call->offset > start || start - call->offset >= call->size)
			continue;
		if (end <= call->offset + call->size)
			return call;
		part = call;
	}
	return part && !exclusive && read_fetched_to(inode, start) >= end ? part : NULL;
}

/* Waits for fetches in flight that bring all of it that is not cached. Under the lock. */
static bool fetch_join(struct mount *m, struct reading *reading, uint64_t missing)
{
	uint64_t end = reading->offset + reading->size, known = inode_size(m, reading->inode, mount_now());
	struct call *call;

	call = fetch_of(reading->inode, reading->exclusive, reading->offset, end);
	if (!call && known < end)
		end = known;
	if (!call && missing < end)
		call = fetch_of(reading->inode, reading->exclusive, missing, end);
	if (!call)
		return false;
	reading->wait_next = call->context;
	call->context = reading;
	COUNT(m, fetches_shared);
	return true;
}

/*
 * While the write lease is being given up, page fills wait here: the drop steps around them, and what
 * is filled now would only be dropped again. Not while the kernel is invalidating: it may have met
 * this very page. Under the lock.
 */
static bool hold(struct reading *reading)
{
	struct inode *inode = reading->inode;

	if (!reading->exclusive || inode->live->stored_drops == 0 || inode->live->invalidating ||
	    inode->live->held_count == READ_HELD_MAX)
		return false;
	reading->held = true;
	reading->wait_next = inode->live->held;
	inode_live(inode)->held = reading;
	inode_live(inode)->held_count++;
	return true;
}

void read_release_held(struct mount *m, struct inode *inode)
{
	struct reading *reading, *next;

	pthread_mutex_lock(&m->lock);
	reading = inode->live->held;
	if (reading) {
		inode_live(inode)->held = NULL;
		inode_live(inode)->held_count = 0;
	}
	for (next = reading; next; next = next->wait_next)
		next->held = false;
	pthread_mutex_unlock(&m->lock);
	for (; reading; reading = next) {
		next = reading->wait_next;
		reading->wait_next = NULL;
		if (reading->request)
			reading_try(m, reading);
		else
			reading_free(m, reading);
	}
}

static void fetch_message(struct call *call, const struct reading *reading)
{
	if (reading->exclusive) {
		call->message.read_exclusive.handle = inode_handle(reading->inode);
		call->message.read_exclusive.offset = call->offset;
		call->message.read_exclusive.count = (uint32_t)call->size;
		return;
	}
	read_message(call, INODE_HANDLE(reading->inode), call->offset, call->size);
}

void read_message(struct call *call, const struct handle *handle, uint64_t offset, size_t size)
{
	call->offset = offset;
	call->size = size;
	call->message.read.handle = *handle;
	call->message.read.offset = offset;
	call->message.read.count = (uint32_t)size;
	call->message.read.strict = READ_STRICT | READ_HOLES;
}

static void reading_fetch(struct mount *m, struct reading *reading)
{
	struct inode *inode = reading->inode;
	uint64_t known;
	uint64_t missing = first_missing(m, reading);
	struct call *call;
	bool joined;

	pthread_mutex_lock(&m->lock);
	joined = hold(reading) ||
		 (!reading->lock_file && !reading->alone && fetch_join(m, reading, missing));
	pthread_mutex_unlock(&m->lock);
	if (joined)
		return;
	call = call_new(m, NULL, reading->exclusive ? MESSAGE_read_exclusive : MESSAGE_read);
	if (!call) {
		reading_fail(m, reading, EAGAIN);
		return;
	}
	call->offset = reading->offset;
	call->size = reading->size + reading->ahead;
	if (call->size > BULK_BYTES_MAX)
		call->size = BULK_BYTES_MAX;
	call->deadline = reading->deadline;
	call->message.common.credential = reading->credential;
	call->context = reading;
	pthread_mutex_lock(&m->lock);
	inode_use(m, inode);
	call->inode = inode;
	known = inode_size(m, inode, mount_now());
	if (known > call->offset && known - call->offset < call->size) {
		uint64_t left = known - call->offset;

		call->size = left > reading->size ? (size_t)left : reading->size;
	}
	fetch_message(call, reading);
	prefetch_demand_for(m, inode);
	call->lock_file = reading->lock_file;
	if (!call->lock_file) { /* it may fail for its descriptor alone: nobody joins it */
		call->fetch_next = inode->live->fetches;
		inode_live(inode)->fetches = call;
	}
	pthread_mutex_unlock(&m->lock);
	call_send(m, call, fetch_work);
}

uint64_t read_fetched_to(const struct inode *inode, uint64_t offset)
{
	const struct call *call = inode->live->fetches;

	while (call) {
		if (call->message.type == MESSAGE_read && call->offset <= offset &&
		    offset - call->offset < call->size) {
			offset = call->offset + call->size;
			call = inode->live->fetches; /* from the first again: they are in no order */
		} else {
			call = call->fetch_next;
		}
	}
	return offset;
}

bool read_fetch_for(struct mount *m, struct inode *inode, const struct credential *credential,
		    uint64_t offset, size_t size, struct prefetch_unit *unit)
{
	struct call *call = call_new(m, NULL, MESSAGE_read);

	if (!call)
		return false;
	call->ahead = true;
	call->unit = unit;
	call->ends_when_away = true;
	call->deadline = instant_add(mount_now(), duration_ms(m->options->timeout));
	call->message.common.credential = *credential;
	read_message(call, INODE_HANDLE(inode), offset, size);
	pthread_mutex_lock(&m->lock);
	inode_use(m, inode);
	call->inode = inode;
	call->fetch_next = inode->live->fetches;
	inode_live(inode)->fetches = call;
	m->ahead_count += !unit;
	pthread_mutex_unlock(&m->lock);
	call_send(m, call, fetch_work);
	return true;
}

bool read_fetch_ahead(struct mount *m, struct inode *inode, const struct credential *credential,
		      uint64_t offset, size_t size)
{
	return read_fetch_for(m, inode, credential, offset, size, NULL);
}

/* ---- from the cache ---- */

struct cache_file *read_cache_file(struct mount *m, struct inode *inode)
{
	struct cache_file *file;

	pthread_mutex_lock(&m->lock);
	file = inode->file;
	pthread_mutex_unlock(&m->lock);
	if (file)
		return keep_checked(m, inode, file);
	file = cache_file_get(m->cache, m->cache_space, INODE_HANDLE(inode));
	pthread_mutex_lock(&m->lock);
	if (inode->file) {
		struct cache_file *other = inode->file;

		pthread_mutex_unlock(&m->lock);
		if (file)
			cache_file_put(file);
		return other;
	}
	inode->file = file;
	pthread_mutex_unlock(&m->lock);
	return keep_checked(m, inode, file);
}

void read_keep_zeros(struct mount *m, struct inode *inode, struct change change, uint64_t offset,
		     uint64_t length)
{
	struct cache_file *file = length ? read_cache_file(m, inode) : NULL;

	if (file)
		(void)!cache_file_zero(file, change, offset, length); /* asked for again then */
}

bool read_keep(struct mount *m, struct inode *inode, struct change change, uint64_t offset,
	       struct slice data)
{
	struct cache_file *file = read_cache_file(m, inode);
	int r = -ENOSPC;

	/* A cache that refuses costs speed, never an answer; it counts why. What is of no use any more
	   was not refused. */
	if (file && data.length)
		r = cache_file_write(file, change, offset, data.data, data.length);
	return data.length == 0 || r == 0 || r == -ESTALE;
}

/* True when the reading was answered, or ended, from the cache. */
static bool from_cache(struct mount *m, struct reading *reading)
{
	struct inode *inode = reading->inode;
	struct cache_file *file = read_cache_file(m, inode);

	for (unsigned i = 0; i < TRY_MAX; i++) {
		const struct attributes *attributes;
		struct attributes heard;
		struct change change, change_now;
		fuse_req_t request;
		uint64_t instance;
		unsigned token;
		size_t want = 0;

		pthread_mutex_lock(&m->lock);
		instance = inode_lease(m, inode, mount_now(), &change);
		attributes = inode_attributes(m, inode, mount_now(), &heard);
		if (!instance || !attributes ||
		    locks_file(m, INODE_HANDLE(inode), reading->lock_file) != HOLDER_LOCK_GOOD ||
		    (reading->exclusive && !write_back_lease(m, inode))) {
			pthread_mutex_unlock(&m->lock);
			return false;
		}
		if (reading->offset < attributes->size) {
			want = reading->size;
			if (attributes->size - reading->offset < want)
				want = (size_t)(attributes->size - reading->offset);
		}
		pthread_mutex_unlock(&m->lock);
		if (want && (!file || !buffer_get() ||
			     cache_file_read(file, change, reading->offset, read_buffer, want) !=
				     want))
			return false;
		/* The bytes were read without the lock: they count if the lease stood throughout. */
		pthread_mutex_lock(&m->lock);
		if (inode_lease(m, inode, mount_now(), &change_now) != instance ||
		    !change_equal(change_now, change)) {
			pthread_mutex_unlock(&m->lock);
			continue;
		}
		inode_live(inode)->filled_serial += !reading->direct;
		request = reading_take(m, reading);
		token = mount_reply_begin(m);
		pthread_mutex_unlock(&m->lock);
		COUNT(m, reads_cached);
		COUNT_BY(m, read_bytes, want);
		if (request)
			fuse_reply_buf(request, read_buffer, want);
		mount_reply_end(m, token);
		reading_free(m, reading);
		return true;
	}
	return false;
}

static void reading_try(struct mount *m, struct reading *reading)
{
	if (!from_cache(m, reading))
		reading_fetch(m, reading);
}

/* One READ, with what the request says. NULL: it was answered. */
static struct reading *reading_new(struct mount *m, fuse_req_t request, uint64_t offset, size_t size,
				   bool direct)
{
	struct reading *reading = calloc(1, sizeof(*reading));

	if (!reading || size > BULK_BYTES_MAX) {
		free(reading);
		fuse_reply_err(request, reading ? EINVAL : ENOMEM);
		return NULL;
	}
	COUNT(m, reads);
	reading->request = request;
	reading->offset = offset;
	reading->size = size;
	reading->direct = direct;
	reading->thread = (uint64_t)fuse_req_ctx(request)->pid;
	reading->deadline = instant_add(mount_now(), duration_ms(m->options->timeout));
	call_credential(request, &reading->credential);
	return reading;
}

/* Under the lock. */
static size_t ahead_of(struct mount *m, const struct inode *inode)
{
	uint64_t most = rules_read_ahead(m, inode);

	return most < AHEAD_MISS ? most : AHEAD_MISS;
}

/* With a use of the inode. Under the lock. */
static void reading_begin(struct mount *m, struct reading *reading, struct inode *inode)
{
	inode_use(m, inode);
	reading->inode = inode;
	reading->id = ++m->reading_id;
	reading_link(m, reading);
}

void read_request(struct mount *m, fuse_req_t request, struct open_file *file, uint64_t offset,
		  size_t size, bool direct)
{
	struct reading *reading;
	struct sequence *sequence;
	struct access told;
	struct ahead ahead;

	memory_wait(m);
	reading = reading_new(m, request, offset, size, direct);
	if (!reading)
		return;
	pthread_mutex_lock(&m->lock);
	/* More than the guardian can fence gets no page. */
	if (!direct && (!pages_allow(m, file->inode) || (file->mappable && m->unguarded))) {
		pthread_mutex_unlock(&m->lock);
		free(reading);
		fuse_reply_err(request, EIO);
		return;
	}
	reading->lock_file = file->lock_number;
	/* Sequential readers, and those that begin at the start, get read-ahead; random ones get
	   what they ask for. */
	sequence = ahead_count(file, offset, size, !direct);
	if (sequence->count > 0 && !memory_is_short(m))
		reading->ahead = ahead_of(m, file->inode);
	reading->exclusive = !direct && file->inode->live->mappable > 0;
	/* Mapping it dropped what was there; from now on pages come under the write lease only. */
	if (reading->exclusive && file->mappable)
		inode_live(file->inode)->mapped = true;
	reading_begin(m, reading, file->inode);
	told = (struct access){
		.type = ACCESS_READ,
		.reader = (uint64_t)(uintptr_t)file,
		.size = inode_heard(m, file->inode).size,
		.offset = offset,
		.length = size,
	};
	pages_note_read(file->inode, offset, direct ? 0 : size, told.size);
	prefetch_access(m, request, file->inode, &told);
	pthread_mutex_unlock(&m->lock);
	fuse_req_interrupt_func(request, on_interrupt, (void *)(uintptr_t)reading->id);
	ahead_plan(m, file, sequence, offset, size, &ahead);
	reading_try(m, reading); /* the descriptor may be closed from here on */
	ahead_send(m, &ahead);
}

/* ---- of files whose opens are not told ---- */

/* Until slots are given back; what is under way, for which it waits, may itself wait for a READ of
   another file. True: it waits. False, with 0 or an errno: it does not. */
static bool slotless(struct mount *m, struct reading *reading, int *ret_error)
{
	bool waits = false;

	*ret_error = 0;
	pthread_mutex_lock(&m->lock);
	if (!reading->direct && !pages_allow(m, reading->inode)) {
		waits = m->pages_evicting;
		*ret_error = EIO;
	} else if (!reading->direct && m->unguarded) {
		*ret_error = EIO;
	}
	if (waits) {
		reading->wait_next = m->slotless;
		m->slotless = reading;
	}
	pthread_mutex_unlock(&m->lock);
	return waits;
}

static void unopened_try(struct mount *m, struct reading *reading)
{
	int error;

	if (slotless(m, reading, &error))
		return;
	if (error)
		reading_fail(m, reading, error);
	else
		reading_try(m, reading);
}

void read_release_slotless(struct mount *m)
{
	struct reading *reading, *next;

	pthread_mutex_lock(&m->lock);
	reading = m->slotless;
	m->slotless = NULL;
	pthread_mutex_unlock(&m->lock);
	for (; reading; reading = next) {
		next = reading->wait_next;
		reading->wait_next = NULL;
		if (reading->request)
			unopened_try(m, reading);
		else
			reading_free(m, reading);
	}
}

void read_unopened(struct mount *m, fuse_req_t request, uint64_t nodeid, uint64_t offset,
		   size_t size, bool direct)
{
	struct reading *reading = reading_new(m, request, offset, size, direct);
	struct inode *inode;

	if (!reading)
		return;
	pthread_mutex_lock(&m->lock);
	inode = inode_by_nodeid(m, nodeid);
	if (inode) {
		/* Who begins at the start wants all of it. */
		reading->ahead = offset == 0 ? ahead_of(m, inode) : 0;
		reading_begin(m, reading, inode);
	}
	pthread_mutex_unlock(&m->lock);
	if (!inode) {
		free(reading);
		fuse_reply_err(request, ESTALE);
		return;
	}
	fuse_req_interrupt_func(request, on_interrupt, (void *)(uintptr_t)reading->id);
	unopened_try(m, reading);
}
