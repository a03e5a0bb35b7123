#include "lease/holder_locks_internal.h"

#include <assert.h>
#include <errno.h>

#define PATIENT_MS 200 /* a release that takes longer to come is not on its way */
#define AGAIN_MAX 8

/* ---- memory ---- */

void *holder_locks_allocate(struct holder_locks *l, size_t size)
{
	void *pointer = l->allocator->resize(l->allocator->context, NULL, 0, size);

	if (pointer)
		memset(pointer, 0, size);
	return pointer;
}

void holder_locks_free(struct holder_locks *l, void *pointer, size_t size)
{
	if (pointer)
		l->allocator->resize(l->allocator->context, pointer, size, 0);
}

void holder_lock_actions_init(struct holder_lock_actions *actions,
			      const struct allocator *allocator)
{
	*actions = (struct holder_lock_actions){ .allocator = allocator };
}

void holder_lock_actions_finish(struct holder_lock_actions *actions)
{
	if (actions->items)
		actions->allocator->resize(actions->allocator->context, actions->items,
					   actions->capacity * sizeof(*actions->items), 0);
	*actions = (struct holder_lock_actions){ .allocator = actions->allocator };
}

int holder_locks_create(uint32_t request_max, const struct allocator *allocator, uint64_t seed,
			struct holder_locks **ret_locks)
{
	struct holder_locks *l = allocator->resize(allocator->context, NULL, 0, sizeof(*l));

	if (!l)
		return -ENOMEM;
	*l = (struct holder_locks){ .allocator = allocator, .request_max = request_max };
	l->claims = holder_locks_allocate(l, CLAIM_BYTES);
	if (!l->claims) {
		holder_locks_free(l, l, sizeof(*l));
		return -ENOMEM;
	}
	map_init(&l->inodes, allocator, MAP_HANDLE, offsetof(struct inode, handle), seed);
	map_init(&l->files, allocator, MAP_U64, offsetof(struct file, number), ~seed);
	list_init(&l->owners);
	list_init(&l->ops);
	list_init(&l->sent);
	list_init(&l->ready);
	list_init(&l->patient);
	list_init(&l->pending);
	list_init(&l->untold);
	*ret_locks = l;
	return 0;
}

void holder_locks_advance(struct holder_locks *l, struct instant now)
{
	if (instant_before(l->now, now))
		l->now = now;
}

/* ---- inodes, owners, files ---- */

struct inode *lock_inode_make(struct holder_locks *l, const struct handle *handle)
{
	struct inode *inode = map_get(&l->inodes, handle);

	if (inode)
		return inode;
	if (map_reserve(&l->inodes, 1))
		return NULL;
	inode = holder_locks_allocate(l, sizeof(*inode));
	if (!inode)
		return NULL;
	inode->handle = *handle;
	list_init(&inode->owners);
	list_init(&inode->queue);
	list_init(&inode->waiting);
	list_init(&inode->patient);
	list_init(&inode->in_ready);
	map_insert(&l->inodes, inode);
	return inode;
}

void lock_inode_put(struct holder_locks *l, struct inode *inode)
{
	if (!list_empty(&inode->owners) || !list_empty(&inode->queue) ||
	    !list_empty(&inode->waiting) || !list_empty(&inode->patient) || inode->sent)
		return;
	list_remove(&inode->in_ready);
	map_remove(&l->inodes, &inode->handle);
	holder_locks_free(l, inode, sizeof(*inode));
}

struct owner *lock_owner_find(const struct inode *inode, enum lock_kind kind, uint64_t number)
{
	for (struct list *at = inode->owners.next; at != &inode->owners; at = at->next) {
		struct owner *owner = LIST_ENTRY(at, struct owner, in_inode);

		if (owner->kind == kind && owner->number == number)
			return owner;
	}
	return NULL;
}

struct owner *lock_owner_make(struct holder_locks *l, struct inode *inode, enum lock_kind kind,
				uint64_t number)
{
	struct owner *owner = lock_owner_find(inode, kind, number);

	if (owner)
		return owner;
	owner = holder_locks_allocate(l, sizeof(*owner));
	if (!owner)
		return NULL;
	owner->inode = inode;
	owner->kind = kind;
	owner->number = number;
	lock_set_init(&owner->held, l->allocator);
	list_init(&owner->in_inode);
	list_init(&owner->link);
	list_append(&inode->owners, &owner->in_inode);
	list_append(&l->owners, &owner->link);
	return owner;
}

/* One that holds nothing, and asks for nothing and does not have to, is not remembered. */
void lock_owner_put(struct holder_locks *l, struct owner *owner)
{
	if (owner->held.count || owner->op_count || owner->unlocks)
		return;
	list_remove(&owner->in_inode);
	list_remove(&owner->link);
	lock_set_finish(&owner->held);
	holder_locks_free(l, owner->files, owner->file_capacity * sizeof(*owner->files));
	holder_locks_free(l, owner, sizeof(*owner));
}

struct file *lock_file_make(struct holder_locks *l, uint64_t number)
{
	struct file *file = map_get(&l->files, &number);

	if (file || map_reserve(&l->files, 1))
		return file;
	file = holder_locks_allocate(l, sizeof(*file));
	if (!file)
		return NULL;
	file->number = number;
	list_init(&file->untold);
	map_insert(&l->files, file);
	return file;
}

bool lock_owner_has_file(const struct owner *owner, uint64_t file)
{
	for (uint32_t i = 0; i < owner->file_count; i++)
		if (owner->files[i] == file)
			return true;
	return false;
}

int lock_owner_add_file(struct holder_locks *l, struct owner *owner, uint64_t file)
{
	uint32_t capacity = owner->file_capacity ? owner->file_capacity * 2 : 2;
	uint64_t *files;

	if (lock_owner_has_file(owner, file))
		return 0;
	if (owner->file_count == owner->file_capacity) {
		files = l->allocator->resize(l->allocator->context, owner->files,
					     owner->file_capacity * sizeof(*files),
					     capacity * sizeof(*files));
		if (!files)
			return -ENOMEM;
		owner->files = files;
		owner->file_capacity = capacity;
	}
	owner->files[owner->file_count++] = file;
	return 0;
}

void lock_owner_remove_file(struct owner *owner, uint64_t file)
{
	for (uint32_t i = 0; i < owner->file_count; i++)
		if (owner->files[i] == file)
			owner->files[i--] = owner->files[--owner->file_count];
}

/* ---- operations ---- */

bool lock_op_unlocks(const struct op *op)
{
	return op->kind == OP_LOCK && op->request.range.type == LOCK_TYPE_NONE;
}

struct op *lock_op_make(struct holder_locks *l, enum op_kind kind, struct inode *inode,
			  struct owner *owner, const struct lock_request *request)
{
	struct op *op = holder_locks_allocate(l, sizeof(*op));

	if (!op)
		return NULL;
	op->kind = kind;
	op->inode = inode;
	op->owner = owner;
	op->request = *request;
	if (request->waiter)
		op->request.waiter = ++l->waiter_last;
	lock_set_init(&op->undo, l->allocator);
	list_init(&op->in_inode);
	list_init(&op->link);
	list_init(&op->in_sent);
	list_init(&op->in_patient);
	list_init(&op->pending);
	list_append(&l->ops, &op->link);
	if (owner)
		owner->op_count++;
	l->counters.requests++;
	return op;
}

void lock_op_free(struct holder_locks *l, struct op *op)
{
	list_remove(&op->link);
	list_remove(&op->pending);
	lock_set_finish(&op->undo);
	l->counters.requests--;
	holder_locks_free(l, op, sizeof(*op));
}

void lock_op_pend(struct holder_locks *l, struct op *op)
{
	if (!list_linked(&op->pending))
		list_append(&l->pending, &op->pending);
}

void lock_op_answer(struct holder_locks *l, struct op *op, int status)
{
	if (!op->token)
		return;
	op->answer_token = op->token;
	op->token = 0;
	op->status = status;
	op->unanswered = true;
	lock_op_pend(l, op);
}

/* Something may go out for the inode. */
void lock_inode_ready(struct holder_locks *l, struct inode *inode)
{
	if (!list_linked(&inode->in_ready))
		list_append(&l->ready, &inode->in_ready);
}

void lock_op_leave(struct holder_locks *l, struct op *op)
{
	list_remove(&op->in_inode);
	list_remove(&op->in_sent);
	list_remove(&op->in_patient);
	l->counters.waiting -= op->state == OP_WAITING;
	if (op->inode->sent == op) {
		op->inode->sent = NULL;
		lock_inode_ready(l, op->inode);
	}
}

/* ---- tries that are made again ---- */

static void patient_queue(struct holder_locks *l, struct op *op)
{
	list_remove(&op->in_inode);
	list_remove(&op->in_patient);
	op->state = OP_QUEUED;
	op->queued_at = l->now;
	list_append(&op->inode->queue, &op->in_inode);
	lock_inode_ready(l, op->inode);
}

static bool is_unlocked_soon(const struct owner *owner)
{
	const struct inode *inode = owner->inode;

	for (const struct list *at = inode->queue.next; at != &inode->queue; at = at->next) {
		const struct op *op = LIST_ENTRY(at, const struct op, in_inode);

		if (op->owner == owner && lock_op_unlocks(op))
			return true;
	}
	return false;
}

/* `hurry`: it was waited for long enough. */
static bool ends_soon(struct holder_locks *l, const struct owner *owner, bool hurry)
{
	bool ends = false;

	for (uint32_t i = 0; i < owner->file_count; i++) {
		struct file *file = map_get(&l->files, &owner->files[i]);

		if (!file || !file->ending)
			continue;
		ends = true;
		file->ending = !hurry;
	}
	return ends;
}

static bool is_in_the_way(const struct owner *owner, const struct op *op)
{
	return owner->kind == op->request.kind && owner->number != op->request.owner &&
	       lock_set_conflict(&owner->held, &op->request.range) != NULL;
}

/*
 * `op` was refused. If what is in its way is unlocked or closed by this host already, but the origin
 * has not heard of it yet, it is made again after that: true.
 */
bool lock_op_again(struct holder_locks *l, struct op *op)
{
	bool unlocks = false, ends = false;

	if (op->again == AGAIN_MAX || op->interrupted)
		return false;
	LIST_FOR_EACH(at, &op->inode->owners) {
		const struct owner *owner = LIST_ENTRY(at, struct owner, in_inode);

		if (!is_in_the_way(owner, op))
			continue;
		unlocks |= is_unlocked_soon(owner);
		ends |= op->patient_until.ns == 0 && ends_soon(l, owner, false);
	}
	if (!unlocks && !ends)
		return false;
	op->again++;
	lock_op_leave(l, op);
	if (unlocks) {
		lock_op_queue(l, op, false);
		return true;
	}
	op->state = OP_PATIENT;
	op->patient_until = instant_add(l->now, duration_ms(PATIENT_MS));
	list_append(&op->inode->patient, &op->in_inode);
	list_append(&l->patient, &op->in_patient);
	return true;
}

/* What was waited for long enough is not on its way. */
void lock_ops_hurry(struct holder_locks *l)
{
	struct list *at;

	while ((at = list_first(&l->patient))) {
		struct op *op = LIST_ENTRY(at, struct op, in_patient);

		if (instant_before(l->now, op->patient_until))
			return;
		LIST_FOR_EACH(it, &op->inode->owners) {
			const struct owner *owner = LIST_ENTRY(it, struct owner, in_inode);

			if (is_in_the_way(owner, op))
				(void)ends_soon(l, owner, true);
		}
		patient_queue(l, op);
	}
}

/* It is over; what has to be said of it is said first. */
void lock_op_end(struct holder_locks *l, struct op *op)
{
	struct owner *owner = op->owner;
	struct inode *inode = op->inode;

	lock_op_leave(l, op);
	op->state = OP_OVER;
	op->unsent = false;
	if (owner) {
		owner->op_count--;
		lock_owner_put(l, owner);
	}
	op->owner = NULL;
	op->inode = NULL;
	lock_inode_put(l, inode);
	if (op->unanswered)
		lock_op_pend(l, op);
	else
		lock_op_free(l, op);
}

void lock_op_queue(struct holder_locks *l, struct op *op, bool first)
{
	op->state = OP_QUEUED;
	op->queued_at = l->now;
	if (first)
		list_insert_after(&op->inode->queue, &op->in_inode);
	else
		list_append(&op->inode->queue, &op->in_inode);
	if (lock_op_unlocks(op)) {
		/* Who was patient comes next. */
		LIST_FOR_EACH(at, &op->inode->patient)
			patient_queue(l, LIST_ENTRY(at, struct op, in_inode));
	}
}

/* It waits no longer, or was offered what it waits for: the origin is to hear of that first. */
void lock_op_settle(struct holder_locks *l, struct op *op, bool take)
{
	lock_op_leave(l, op);
	op->kind = OP_SETTLE;
	op->take = take;
	lock_op_queue(l, op, true);
	lock_inode_ready(l, op->inode);
}
