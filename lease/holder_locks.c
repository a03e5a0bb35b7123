#include "lease/holder_locks_internal.h"

#include "lease/status.h"

#include <assert.h>
#include <errno.h>

#define RETRY_MS 100        /* after PUSHBACK */
#define STARVED_RETRY_MS 10 /* while memory fails */
#define CLOSE_MS_MAX 5000   /* how long a close(2) waits for the origin to hear of it */
#define CLAIM_COUNT_MAX 256u

/* ---- requests ---- */

int holder_locks_set(struct holder_locks *l, struct instant now,
		      const struct lock_request *request, uint64_t file, uint64_t token,
		      struct holder_lock_actions *out)
{
	bool locks = request->range.type != LOCK_TYPE_NONE;
	struct file *through = locks ? lock_file_make(l, file) : NULL;
	struct inode *inode;
	struct owner *owner = NULL;
	struct op *op = NULL;

	holder_locks_advance(l, now);
	if (through && through->lost)
		return EIO;
	if (locks && (!through || l->counters.requests >= l->request_max))
		return ENOLCK;
	if (through)
		through->ending = false;
	inode = lock_inode_make(l, &request->handle);
	if (inode)
		owner = lock_owner_make(l, inode, request->kind, request->owner);
	/* What it closed before is unlocked before it locks again. */
	if (owner && (!owner->unlocks || lock_owner_unlock(l, owner, 0) == 0) &&
	    (!locks || lock_owner_add_file(l, owner, file) == 0))
		op = lock_op_make(l, OP_LOCK, inode, owner, request);
	if (!op) {
		if (owner)
			lock_owner_put(l, owner);
		if (inode)
			lock_inode_put(l, inode);
		return ENOLCK;
	}
	op->file = file;
	op->token = token;
	lock_op_queue(l, op, false);
	lock_inode_ready(l, inode);
	holder_locks_flush(l, out);
	return 0;
}

int holder_locks_test(struct holder_locks *l, struct instant now,
		       const struct lock_request *request, uint64_t token,
		       struct holder_lock_actions *out)
{
	struct inode *inode = l->counters.requests < l->request_max ?
				      lock_inode_make(l, &request->handle) : NULL;
	struct op *op = inode ? lock_op_make(l, OP_TEST, inode, NULL, request) : NULL;

	holder_locks_advance(l, now);
	if (!op) {
		if (inode)
			lock_inode_put(l, inode);
		return ENOLCK;
	}
	op->token = token;
	lock_op_queue(l, op, false);
	lock_inode_ready(l, inode);
	holder_locks_flush(l, out);
	return 0;
}

bool holder_locks_close(struct holder_locks *l, struct instant now, const struct handle *handle,
			uint64_t number, uint64_t token, struct holder_lock_actions *out)
{
	struct inode *inode = map_get(&l->inodes, handle);
	struct owner *owner = inode ? lock_owner_find(inode, LOCK_KIND_FCNTL, number) : NULL;

	holder_locks_advance(l, now);
	if (!owner)
		return false;
	owner->file_count = 0;
	if (lock_owner_unlock(l, owner, token))
		return false;
	LIST_ENTRY(l->ops.prev, struct op, link)->closes = true;
	holder_locks_flush(l, out);
	return true;
}

void holder_locks_flushed(struct holder_locks *l, uint64_t number)
{
	struct file *file = map_get(&l->files, &number);

	if (file)
		file->ending = true;
}

void holder_locks_release(struct holder_locks *l, struct instant now, const struct handle *handle,
			  uint64_t file, struct holder_lock_actions *out)
{
	struct inode *inode = map_get(&l->inodes, handle);
	struct file *through = map_remove(&l->files, &file);

	holder_locks_advance(l, now);
	if (through) {
		list_remove(&through->untold);
		holder_locks_free(l, through, sizeof(*through));
	}
	if (!inode)
		return;
	LIST_FOR_EACH(at, &inode->owners) {
		struct owner *owner = LIST_ENTRY(at, struct owner, in_inode);

		if (!lock_owner_has_file(owner, file))
			continue;
		lock_owner_remove_file(owner, file);
		if (owner->file_count == 0)
			(void)lock_owner_unlock(l, owner, 0); /* later, if not now */
	}
	holder_locks_flush(l, out);
}

static struct op *op_of_token(struct holder_locks *l, uint64_t token)
{
	LIST_FOR_EACH(at, &l->ops) {
		struct op *op = LIST_ENTRY(at, struct op, link);

		if (op->token == token)
			return op;
	}
	return NULL;
}

void holder_locks_interrupt(struct holder_locks *l, struct instant now, uint64_t token, bool dies,
			    struct holder_lock_actions *out)
{
	struct op *op = op_of_token(l, token);

	holder_locks_advance(l, now);
	if (!op || (!op->request.waiter && !dies))
		return;
	if (dies)
		lock_op_answer(l, op, EINTR);
	/* PROTOCOL.md 10.3: who lives on is told when the origin knows that it waits no more. */
	if (op->state == OP_WAITING) {
		lock_op_settle(l, op, false);
	} else if (op->state == OP_SENT) {
		op->interrupted = true;
	} else if (op->kind == OP_SETTLE) {
		op->take = false;
	} else if (!lock_op_unlocks(op)) { /* QUEUED, PATIENT */
		lock_op_answer(l, op, EINTR);
		lock_op_end(l, op);
	} else {
		lock_op_answer(l, op, EINTR); /* an unlock happens all the same */
	}
	holder_locks_flush(l, out);
}

void holder_locks_expire(struct holder_locks *l, struct instant now, struct duration timeout,
			 int error, struct holder_lock_actions *out)
{
	holder_locks_advance(l, now);
	LIST_FOR_EACH(at, &l->ops) {
		struct op *op = LIST_ENTRY(at, struct op, link);
		uint64_t age = instant_until(op->queued_at, l->now).ns;
		bool late = op->state == OP_QUEUED && op->kind != OP_SETTLE && age >= timeout.ns;

		if (!op->token || op->state == OP_OVER)
			continue;
		if (op->closes && (late || age >= duration_ms(CLOSE_MS_MAX).ns)) {
			lock_op_answer(l, op, 0); /* the host will not claim it, and goes on */
		} else if (late && lock_op_unlocks(op)) {
			lock_op_answer(l, op, error); /* it happens all the same */
		} else if (late) {
			lock_op_answer(l, op, error);
			lock_op_end(l, op);
		}
	}
	holder_locks_flush(l, out);
}

/* ---- answers ---- */

static void reclaim_answered(struct holder_locks *l, const struct message_lock_reclaimed *answer);

static int error_of(uint16_t status)
{
	return status == STATUS_LOCKED ? EAGAIN : status_errno(status);
}

static void lock_answered(struct holder_locks *l, struct op *op, uint16_t status)
{
	bool kept = op->request.kind == LOCK_KIND_FLOCK &&
		    (status == STATUS_LOCKED || status == STATUS_LOCKWAITS);

	if (status == STATUS_NOMEM) {
		op->unsent = true; /* it was not even noted */
		lock_op_pend(l, op);
		return;
	}
	if (status == STATUS_OK) {
		op->has_undo = false;
		lock_set_put(&op->owner->held, &op->request.range);
		if (!lock_op_unlocks(op)) /* another descriptor's close may have taken it out */
			(void)lock_owner_add_file(l, op->owner, op->file);
	} else if (!kept) {
		lock_op_undo(op);
	}
	op->has_undo = false;
	lock_set_finish(&op->undo);
	if (status == STATUS_PUSHBACK) {
		lock_op_leave(l, op);
		lock_op_queue(l, op, true);
		l->retrying = true;
		l->retry_at = instant_add(l->now, duration_ms(RETRY_MS));
		if (op->interrupted) {
			lock_op_answer(l, op, EINTR);
			lock_op_end(l, op);
		}
	} else if (status == STATUS_LOCKED && lock_op_again(l, op)) {
		return;
	} else if (status != STATUS_LOCKWAITS) {
		lock_op_answer(l, op, error_of(status));
		lock_op_end(l, op);
	} else if (op->offered && op->offer != STATUS_OK) {
		lock_op_answer(l, op, error_of(op->offer));
		lock_op_settle(l, op, false);
	} else if (op->interrupted) {
		lock_op_settle(l, op, false);
	} else if (op->offered) {
		lock_op_settle(l, op, true);
	} else {
		lock_op_leave(l, op);
		op->state = OP_WAITING;
		list_append(&op->inode->waiting, &op->in_inode);
		l->counters.waiting++;
	}
}

static void test_answered(struct holder_locks *l, struct op *op,
			  const struct message_lock_answer *answer)
{
	if (answer->own && answer->type != LOCK_TYPE_NONE && lock_op_again(l, op))
		return;
	op->own = answer->own;
	op->range = (struct lock_range){ answer->start, answer->end, answer->pid, answer->type };
	lock_op_answer(l, op, status_errno(answer->status));
	lock_op_end(l, op);
}

/* Who took the lock was told before; who is told now was interrupted. */
static void settle_answered(struct holder_locks *l, struct op *op)
{
	lock_op_answer(l, op, EINTR);
	lock_op_end(l, op);
}

void holder_locks_answered(struct holder_locks *l, struct instant now, struct session_id session,
			   uint64_t id, const struct message *answer,
			   struct holder_lock_actions *out)
{
	struct op *op = NULL;

	holder_locks_advance(l, now);
	if (session.value != l->session.value || l->state == LOCKS_DOWN)
		return;
	LIST_FOR_EACH(at, &l->sent)
		if (LIST_ENTRY(at, struct op, in_sent)->id == id)
			op = LIST_ENTRY(at, struct op, in_sent);
	/* Of a session that is no more the caller says so otherwise. */
	if (l->state == LOCKS_RECLAIMING && id == l->claim_id &&
	    answer->type == MESSAGE_lock_reclaimed)
		reclaim_answered(l, &answer->lock_reclaimed);
	else if (op && op->kind == OP_LOCK && answer->type == MESSAGE_lock_answer &&
		 answer->lock_answer.status != STATUS_NOSESSION)
		lock_answered(l, op, answer->lock_answer.status);
	else if (op && op->kind == OP_TEST && answer->type == MESSAGE_lock_answer &&
		 answer->lock_answer.status != STATUS_NOSESSION)
		test_answered(l, op, &answer->lock_answer);
	else if (op && op->kind == OP_SETTLE && answer->type == MESSAGE_acknowledged &&
		 answer->acknowledged.status == STATUS_OK)
		settle_answered(l, op);
	holder_locks_flush(l, out);
}

void holder_locks_offered(struct holder_locks *l, struct instant now, struct session_id session,
			  const struct message_lock_offer *offer, struct holder_lock_actions *out)
{
	struct op *op = NULL;

	holder_locks_advance(l, now);
	if (session.value != l->session.value || l->state != LOCKS_READY)
		return;
	LIST_FOR_EACH(at, &l->ops) {
		struct op *each = LIST_ENTRY(at, struct op, link);

		if (each->request.waiter == offer->waiter && each->kind == OP_LOCK)
			op = each;
	}
	if (op && op->state == OP_SENT) {
		op->offered = true;
		op->offer = offer->status;
	} else if (op && op->state == OP_WAITING) {
		if (offer->status != STATUS_OK)
			lock_op_answer(l, op, error_of(offer->status));
		lock_op_settle(l, op, offer->status == STATUS_OK);
	}
	holder_locks_flush(l, out);
}

/* ---- sessions ---- */

bool holder_locks_any(const struct holder_locks *l)
{
	for (const struct list *at = l->owners.next; at != &l->owners; at = at->next)
		if (LIST_ENTRY(at, const struct owner, link)->held.count)
			return true;
	return false;
}

/* What was under way is asked again, or has become pointless. */
static void op_restart(struct holder_locks *l, struct op *op)
{
	bool unlocks = lock_op_unlocks(op);
	bool settles = op->kind == OP_SETTLE;

	if (settles && op->take && op->state == OP_QUEUED) {
		op->kind = OP_LOCK; /* the offer went with the session */
		settles = false;
	}
	op->has_undo = false;
	lock_set_finish(&op->undo);
	op->offered = op->unsent = false;
	if (op->state == OP_OVER)
		return;
	if (settles) {
		settle_answered(l, op);
	} else if (unlocks && op->state == OP_SENT) {
		lock_op_answer(l, op, 0);
		lock_op_end(l, op);
	} else if (op->state != OP_QUEUED && op->interrupted) {
		lock_op_answer(l, op, EINTR);
		lock_op_end(l, op);
	} else if (op->state != OP_QUEUED) { /* PATIENT as well */
		lock_op_leave(l, op);
		lock_op_queue(l, op, true);
	}
}

void holder_locks_session_lost(struct holder_locks *l, struct instant now,
			       struct holder_lock_actions *out)
{
	struct list *at;

	holder_locks_advance(l, now);
	l->state = LOCKS_DOWN;
	l->retrying = false;
	l->claim_unsent = false;
	/* Backwards, so that each goes before those that came after it. */
	for (at = l->ops.prev; at != &l->ops;) {
		struct op *op = LIST_ENTRY(at, struct op, link);

		at = at->prev;
		op_restart(l, op);
	}
	holder_locks_flush(l, out);
}

/* The owner has lost what it held: so have the descriptors through which it locked. */
static void owner_lose(struct holder_locks *l, struct owner *owner)
{
	lock_set_clear(&owner->held);
	for (uint32_t i = 0; i < owner->file_count; i++) {
		struct file *file = map_get(&l->files, &owner->files[i]);

		if (!file || file->lost)
			continue;
		file->lost = true;
		list_append(&l->untold, &file->untold);
		l->counters.lost++;
	}
	owner->refused = false;
	/* What it asked for was asked for on the strength of what it had. */
	LIST_FOR_EACH(at, &l->ops) {
		struct op *op = LIST_ENTRY(at, struct op, link);

		if (op->owner == owner && op->kind == OP_LOCK && op->state == OP_QUEUED &&
		    op->request.range.type != LOCK_TYPE_NONE) {
			bool last = owner->op_count == 1;

			lock_op_answer(l, op, EIO);
			lock_op_end(l, op);
			if (last)
				return; /* the owner went with it */
		}
	}
	lock_owner_put(l, owner);
}

/* The first owner from `at` on that holds something: it lasts, since nothing is changed meanwhile. */
static struct list *with_locks(struct holder_locks *l, struct list *at)
{
	while (at != &l->owners && !LIST_ENTRY(at, struct owner, link)->held.count)
		at = at->next;
	return at;
}

/* The next batch of claims, from where the last one ended. */
static void claims_make(struct holder_locks *l)
{
	struct writer w = writer_of(l->claims, CLAIM_BYTES);
	struct list *at = l->claim_owner ? &l->claim_owner->link : with_locks(l, l->owners.next);
	uint32_t index = l->claim_index;

	l->claim_count = 0;
	for (; at != &l->owners && l->claim_count < CLAIM_COUNT_MAX;
	     at = with_locks(l, at->next), index = 0) {
		const struct owner *owner = LIST_ENTRY(at, const struct owner, link);

		for (; index < owner->held.count && l->claim_count < CLAIM_COUNT_MAX; index++) {
			const struct lock_range *range = &owner->held.ranges[index];
			struct item_lock_claim item = {
				owner->inode->handle, (uint8_t)owner->kind, range->type,
				owner->number, range->pid, range->start, range->end
			};

			item_lock_claim_write(&w, &item);
			l->claim_count++;
		}
		if (index < owner->held.count)
			break;
	}
	l->claim_last = at == &l->owners;
	l->claim_length = w.at;
	l->claim_id = ++l->id_last;
	l->claim_unsent = true;
}

static void reclaim_done(struct holder_locks *l)
{
	struct list *at = l->owners.next;

	l->state = LOCKS_READY;
	l->settled = true;
	l->claim_owner = NULL;
	while (at != &l->owners) {
		struct owner *owner = LIST_ENTRY(at, struct owner, link);

		at = at->next;
		if (!owner->refused)
			continue;
		/* Some of it may have been confirmed: that goes as well. */
		(void)lock_owner_unlock(l, owner, 0); /* later, if not now */
		owner_lose(l, owner);
	}
	lock_inodes_ready(l);
}

static void reclaim_answered(struct holder_locks *l, const struct message_lock_reclaimed *answer)
{
	struct list *at = l->claim_owner ? &l->claim_owner->link : with_locks(l, l->owners.next);
	uint32_t index = l->claim_index, count = 0;

	if (answer->status != STATUS_OK || answer->confirmed.length < l->claim_count) {
		l->claim_unsent = answer->status != STATUS_NOSESSION;
		return;
	}
	for (; at != &l->owners; at = with_locks(l, at->next), index = 0) {
		struct owner *owner = LIST_ENTRY(at, struct owner, link);

		for (; index < owner->held.count && count < l->claim_count; index++, count++) {
			if (answer->confirmed.data[count])
				l->counters.reclaimed++;
			else
				owner->refused = true;
		}
		if (index < owner->held.count)
			break;
	}
	if (l->claim_last) {
		reclaim_done(l);
		return;
	}
	l->claim_owner = LIST_ENTRY(at, struct owner, link);
	l->claim_index = index;
	claims_make(l);
}

void holder_locks_session_opened(struct holder_locks *l, struct instant now,
				 struct session_id session, bool reclaim,
				 struct holder_lock_actions *out)
{
	holder_locks_advance(l, now);
	if (l->state != LOCKS_DOWN)
		holder_locks_session_lost(l, now, out);
	l->session = session;
	l->id_last = 0;
	l->claim_owner = NULL;
	l->claim_index = 0;
	for (struct list *at = l->owners.next; at != &l->owners; at = at->next) {
		struct owner *owner = LIST_ENTRY(at, struct owner, link);

		owner->refused = !reclaim && owner->held.count;
	}
	if (reclaim) {
		l->state = LOCKS_RECLAIMING;
		claims_make(l);
	} else {
		reclaim_done(l);
	}
	holder_locks_flush(l, out);
}

void holder_locks_tick(struct holder_locks *l, struct instant now, struct holder_lock_actions *out)
{
	holder_locks_advance(l, now);
	holder_locks_flush(l, out);
}

struct instant holder_locks_timer(const struct holder_locks *l)
{
	if (!list_empty(&l->pending) || l->claim_unsent || l->settled || l->starved)
		return instant_add(l->now, duration_ms(STARVED_RETRY_MS));
	if (l->state == LOCKS_READY && l->retrying)
		return l->retry_at;
	if (!list_empty(&l->patient))
		return LIST_ENTRY(l->patient.next, struct op, in_patient)->patient_until;
	return (struct instant){ UINT64_MAX };
}

/* ---- looking ---- */

bool holder_locks_ready(const struct holder_locks *l)
{
	return l->state == LOCKS_READY;
}

enum holder_lock_state holder_locks_file(const struct holder_locks *l, const struct handle *handle,
					 uint64_t file)
{
	const struct inode *inode = map_get(&l->inodes, handle);
	const struct file *through = map_get(&l->files, &file);

	if (through && through->lost)
		return HOLDER_LOCK_LOST;
	if (l->state == LOCKS_READY || !inode)
		return HOLDER_LOCK_GOOD;
	for (struct list *at = inode->owners.next; at != &inode->owners; at = at->next) {
		const struct owner *owner = LIST_ENTRY(at, const struct owner, in_inode);

		if (owner->held.count && lock_owner_has_file(owner, file))
			return HOLDER_LOCK_DOUBT;
	}
	return HOLDER_LOCK_GOOD;
}

void holder_locks_counters(const struct holder_locks *l, struct holder_lock_counters *ret_counters)
{
	*ret_counters = l->counters;
}

bool holder_locks_next(const struct holder_locks *l, size_t *cursor, struct lock_request *ret_held)
{
	size_t index = 0;

	for (struct list *at = l->owners.next; at != &l->owners; at = at->next) {
		const struct owner *owner = LIST_ENTRY(at, const struct owner, link);

		if (*cursor < index + owner->held.count) {
			*ret_held = (struct lock_request){
				.handle = owner->inode->handle, .kind = owner->kind,
				.owner = owner->number,
				.range = owner->held.ranges[*cursor - index],
			};
			++*cursor;
			return true;
		}
		index += owner->held.count;
	}
	return false;
}

void holder_locks_check_invariants(const struct holder_locks *l)
{
	const struct list *at;
	uint64_t waiting = 0, id = 0;
	size_t count = 0;

	for (at = l->ops.next; at != &l->ops; at = at->next, count++) {
		const struct op *op = LIST_ENTRY(at, const struct op, link);

		assert(op->state != OP_OVER || list_linked(&op->pending));
		assert(op->state != OP_SENT || op->inode->sent == op);
		assert(op->state != OP_SENT || l->state == LOCKS_READY);
		assert(op->state == OP_OVER || op->kind == OP_TEST || op->owner);
		assert((op->state == OP_PATIENT) == list_linked(&op->in_patient));
		waiting += op->state == OP_WAITING;
	}
	assert(count == l->counters.requests && waiting == l->counters.waiting);
	for (at = l->sent.next; at != &l->sent; at = at->next) {
		const struct op *op = LIST_ENTRY(at, const struct op, in_sent);

		assert(op->state == OP_SENT && op->id > id && l->id_last - op->id < LOCK_WINDOW);
		id = op->id;
	}
	for (at = l->owners.next; at != &l->owners; at = at->next) {
		const struct owner *owner = LIST_ENTRY(at, const struct owner, link);

		assert(lock_set_valid(&owner->held));
		assert(owner->held.count || owner->op_count || owner->unlocks);
	}
}

void holder_locks_destroy(struct holder_locks *l)
{
	struct inode *inode;
	struct file *file;
	size_t cursor = 0;

	if (!l)
		return;
	LIST_FOR_EACH(at, &l->ops)
		lock_op_free(l, LIST_ENTRY(at, struct op, link));
	LIST_FOR_EACH(it, &l->owners) {
		struct owner *owner = LIST_ENTRY(it, struct owner, link);

		lock_set_finish(&owner->held);
		holder_locks_free(l, owner->files, owner->file_capacity * sizeof(*owner->files));
		holder_locks_free(l, owner, sizeof(*owner));
	}
	while ((inode = map_next(&l->inodes, &cursor)))
		holder_locks_free(l, inode, sizeof(*inode));
	cursor = 0;
	while ((file = map_next(&l->files, &cursor)))
		holder_locks_free(l, file, sizeof(*file));
	map_finish(&l->inodes);
	map_finish(&l->files);
	holder_locks_free(l, l->claims, CLAIM_BYTES);
	holder_locks_free(l, l, sizeof(*l));
}
