#include "lease/holder_locks_internal.h"

#include <assert.h>
#include <errno.h>

/* ---- what is believed while a request is under way ---- */

static int undo_keep(struct op *op)
{
	int error = lock_set_copy(&op->undo, &op->owner->held);

	op->has_undo = !error;
	return error;
}

void lock_op_undo(struct op *op)
{
	struct lock_set old = op->owner->held;

	if (!op->has_undo)
		return;
	op->owner->held = op->undo;
	op->undo = old;
	op->has_undo = false;
}

/* Of `request` what is locked for writing is believed to be locked for reading from now on. */
static void weaken(struct lock_set *held, const struct lock_range *range)
{
	uint64_t at = range->start;
	const struct lock_range *next;

	while (at <= range->end && (next = lock_set_overlap(held, at, range->end))) {
		struct lock_range weaker = *next;

		at = next->end + 1;
		if (next->type != LOCK_TYPE_WRITE)
			continue;
		if (weaker.start < range->start)
			weaker.start = range->start;
		if (weaker.end > range->end)
			weaker.end = range->end;
		weaker.type = LOCK_TYPE_READ;
		lock_set_put(held, &weaker);
	}
}

/*
 * PROTOCOL.md 10.3: nothing is claimed after a restart of the origin that it may have given to somebody
 * else: until the answer comes, what is held by either outcome. For flock that is nothing, when the
 * conversion may fail. Room is made for the outcome. 0 or -ENOMEM; never for an unlock of everything.
 */
static int believe_less(struct op *op)
{
	struct lock_set *held = &op->owner->held;
	struct lock_range range = op->request.range;
	const struct lock_range *old = lock_set_overlap(held, range.start, range.end);
	bool converts = op->request.kind == LOCK_KIND_FLOCK && old && old->type < range.type;
	int error;

	/* What the origin cannot refuse. */
	if (range.type == LOCK_TYPE_NONE && !lock_set_splits(held, &range)) {
		lock_set_put(held, &range);
		return 0;
	}
	if (lock_set_reserve(held))
		return -ENOMEM;
	error = lock_set_prepare(held);
	lock_set_unreserve(held);
	if (error)
		return error;
	if (!old || (range.type == LOCK_TYPE_WRITE && !converts))
		return 0;
	if (undo_keep(op))
		return -ENOMEM;
	if (range.type == LOCK_TYPE_READ && !converts) {
		weaken(held, &range);
	} else {
		range.type = LOCK_TYPE_NONE;
		lock_set_put(held, &range);
	}
	return 0;
}

/* ---- sending ---- */

static bool window_is_full(const struct holder_locks *l)
{
	struct list *first = l->sent.next;

	return first != &l->sent &&
	       l->id_last + 1 - LIST_ENTRY(first, struct op, in_sent)->id >= LOCK_WINDOW;
}

/* False: it has ended. */
static bool op_prepare(struct holder_locks *l, struct op *op)
{
	if (op->kind == OP_LOCK && believe_less(op)) {
		lock_op_answer(l, op, ENOLCK);
		lock_op_end(l, op);
		return false;
	}
	if (op->kind != OP_SETTLE || !op->take)
		return true;
	if (lock_set_prepare(&op->owner->held)) {
		lock_op_answer(l, op, ENOLCK);
		op->take = false;
	} else {
		lock_set_put(&op->owner->held, &op->request.range);
		(void)lock_owner_add_file(l, op->owner, op->file);
		lock_op_answer(l, op, 0);
	}
	return true;
}

static void op_send(struct holder_locks *l, struct op *op)
{
	list_remove(&op->in_inode);
	op->state = OP_SENT;
	op->inode->sent = op;
	op->id = ++l->id_last;
	list_append(&l->sent, &op->in_sent);
	op->unsent = true;
	lock_op_pend(l, op);
}

/* The first that may go: while the origin gives no new locks, not those who want one. */
static struct op *inode_next(const struct holder_locks *l, const struct inode *inode)
{
	for (struct list *at = inode->queue.next; at != &inode->queue; at = at->next) {
		struct op *op = LIST_ENTRY(at, struct op, in_inode);

		if (!l->retrying || op->kind != OP_LOCK || lock_op_unlocks(op))
			return op;
	}
	return NULL;
}

void lock_inodes_ready(struct holder_locks *l)
{
	struct inode *inode;
	size_t cursor = 0;

	while ((inode = map_next(&l->inodes, &cursor)))
		lock_inode_ready(l, inode);
}

static void pump(struct holder_locks *l)
{
	struct list *at;

	if (l->state != LOCKS_READY)
		return;
	if (l->retrying && !instant_before(l->now, l->retry_at)) {
		l->retrying = false;
		lock_inodes_ready(l);
	}
	while (!window_is_full(l) && (at = list_first(&l->ready))) {
		struct inode *inode = LIST_ENTRY(at, struct inode, in_ready);
		struct op *op = inode->sent ? NULL : inode_next(l, inode);

		/* One that ends here may take the inode with it. */
		if (!op)
			list_remove(at);
		else if (op_prepare(l, op))
			op_send(l, op);
	}
}

/* ---- what leaves ---- */

static struct holder_lock_action *action_add(struct holder_lock_actions *out,
					     enum holder_lock_action_kind kind)
{
	void *items = out->items;
	struct holder_lock_action *action = array_append(out->allocator, &items, &out->count,
						&out->capacity, sizeof(*action));

	if (!action)
		return NULL;
	out->items = items;
	action->kind = kind;
	return action;
}

static void fill_lock(const struct op *op, struct session_id session, struct message *message)
{
	const struct lock_request *r = &op->request;

	message->type = MESSAGE_lock;
	message->lock = (struct message_lock){
		.session = session.value, .id = op->id, .handle = r->handle,
		.kind = (uint8_t)r->kind, .type = r->range.type, .owner = r->owner,
		.pid = r->range.pid, .start = r->range.start, .end = r->range.end,
		.waiter = r->waiter,
	};
}

static void fill_test(const struct op *op, struct session_id session, struct message *message)
{
	const struct lock_request *r = &op->request;

	message->type = MESSAGE_lock_test;
	message->lock_test = (struct message_lock_test){
		.session = session.value, .handle = r->handle, .kind = (uint8_t)r->kind,
		.type = r->range.type, .owner = r->owner, .pid = r->range.pid,
		.start = r->range.start, .end = r->range.end,
	};
}

static bool flush_send(struct holder_locks *l, struct op *op, struct holder_lock_actions *out)
{
	struct holder_lock_action *action = action_add(out, HOLDER_LOCKS_SEND);

	if (!action)
		return false;
	action->session = l->session;
	action->id = op->id;
	if (op->kind == OP_LOCK) {
		fill_lock(op, l->session, &action->message);
	} else if (op->kind == OP_TEST) {
		fill_test(op, l->session, &action->message);
	} else {
		action->message.type = MESSAGE_lock_settle;
		action->message.lock_settle = (struct message_lock_settle){
			l->session.value, op->request.waiter, op->take
		};
	}
	op->unsent = false;
	return true;
}

static bool flush_answer(struct op *op, struct holder_lock_actions *out)
{
	struct holder_lock_action *action = action_add(out, HOLDER_LOCKS_ANSWER);

	if (!action)
		return false;
	action->token = op->answer_token;
	action->status = op->status;
	action->own = op->own;
	action->range = op->range;
	op->unanswered = false;
	return true;
}

static bool flush_claims(struct holder_locks *l, struct holder_lock_actions *out)
{
	struct holder_lock_action *action = action_add(out, HOLDER_LOCKS_SEND);

	if (!action)
		return false;
	action->session = l->session;
	action->id = l->claim_id;
	action->message.type = MESSAGE_lock_reclaim;
	action->message.lock_reclaim = (struct message_lock_reclaim){
		l->session.value, l->claim_last, { l->claims, l->claim_length }
	};
	l->claim_unsent = false;
	return true;
}

/* Unlocks all that the owner has. Without memory that is tried again: -ENOMEM. */
int lock_owner_unlock(struct holder_locks *l, struct owner *owner, uint64_t token)
{
	struct lock_request request = {
		.handle = owner->inode->handle,
		.kind = owner->kind,
		.owner = owner->number,
		.range = { 0, LOCK_END, 0, LOCK_TYPE_NONE },
	};
	struct op *op = lock_op_make(l, OP_LOCK, owner->inode, owner, &request);

	owner->unlocks = !op;
	l->starved |= !op;
	if (!op)
		return -ENOMEM;
	op->token = token;
	lock_op_queue(l, op, false);
	lock_inode_ready(l, owner->inode);
	return 0;
}

/* What was closed while there was no memory is unlocked now. */
static void unlock_abandoned(struct holder_locks *l)
{
	l->starved = false;
	LIST_FOR_EACH(at, &l->owners) {
		struct owner *owner = LIST_ENTRY(at, struct owner, link);

		if (owner->unlocks && lock_owner_unlock(l, owner, 0))
			return;
	}
}

/* What finds no memory leaves with a later call; the timer asks for one. */
void holder_locks_flush(struct holder_locks *l, struct holder_lock_actions *out)
{
	struct list *at;

	if (l->starved)
		unlock_abandoned(l);
	lock_ops_hurry(l);
	pump(l);
	while ((at = list_first(&l->pending))) {
		struct op *op = LIST_ENTRY(at, struct op, pending);

		if (op->unanswered && !flush_answer(op, out))
			return;
		if (op->unsent && !flush_send(l, op, out))
			return;
		list_remove(at);
		if (op->state == OP_OVER)
			lock_op_free(l, op);
	}
	if (l->claim_unsent && !flush_claims(l, out))
		return;
	while ((at = list_first(&l->untold))) {
		struct holder_lock_action *action = action_add(out, HOLDER_LOCKS_LOST);

		if (!action)
			return;
		action->file = LIST_ENTRY(at, struct file, untold)->number;
		list_remove(at);
	}
	if (l->settled && action_add(out, HOLDER_LOCKS_SETTLED))
		l->settled = false;
}
