#include "lease/authority_internal.h"

#include "lease/status.h"

#include <assert.h>
#include <errno.h>

/* ---- the heap of deadlines ---- */

static void heap_put(struct authority *a, size_t index, struct operation *o)
{
	a->deadlines[index] = o;
	o->heap_index = index;
}

static void heap_up(struct authority *a, size_t index)
{
	struct operation *o = a->deadlines[index];

	while (index > 0) {
		size_t parent = (index - 1) / 2;

		if (!instant_before(o->deadline, a->deadlines[parent]->deadline))
			break;
		heap_put(a, index, a->deadlines[parent]);
		index = parent;
	}
	heap_put(a, index, o);
}

static void heap_down(struct authority *a, size_t index)
{
	struct operation *o = a->deadlines[index];

	for (;;) {
		size_t child = 2 * index + 1;

		if (child >= a->deadline_count)
			break;
		if (child + 1 < a->deadline_count &&
		    instant_before(a->deadlines[child + 1]->deadline,
				   a->deadlines[child]->deadline))
			child++;
		if (!instant_before(a->deadlines[child]->deadline, o->deadline))
			break;
		heap_put(a, index, a->deadlines[child]);
		index = child;
	}
	heap_put(a, index, o);
}

static int heap_reserve(struct authority *a)
{
	size_t capacity = a->deadline_capacity ? a->deadline_capacity * 2 : 16;
	struct operation **grown;

	if (a->deadline_count < a->deadline_capacity)
		return 0;
	grown = a->allocator->resize(a->allocator->context, a->deadlines,
				     a->deadline_capacity * sizeof(*grown),
				     capacity * sizeof(*grown));
	if (!grown)
		return -ENOMEM;
	a->deadlines = grown;
	a->deadline_capacity = capacity;
	return 0;
}

static void heap_add(struct authority *a, struct operation *o)
{
	assert(a->deadline_count < a->deadline_capacity);
	heap_put(a, a->deadline_count++, o);
	heap_up(a, o->heap_index);
}

static void heap_remove(struct authority *a, struct operation *o)
{
	size_t index = o->heap_index;
	struct operation *last;

	if (index == HEAP_NONE)
		return;
	o->heap_index = HEAP_NONE;
	last = a->deadlines[--a->deadline_count];
	if (last == o)
		return;
	heap_put(a, index, last);
	heap_up(a, index);
	heap_down(a, last->heap_index);
}

/* ---- queues ---- */

static struct operation *operation_first(const struct authority *a, const struct inode *inode)
{
	struct inode_busy *busy = inode_busy(a, inode);
	struct list *first = busy ? list_first(&busy->places) : NULL;

	return first ? LIST_ENTRY(first, struct place, link)->operation : NULL;
}

/* Nothing else runs on its inodes, and nothing of them is granted meanwhile. */
static bool operation_excludes(const struct operation *o)
{
	return o->kind != AUTHORITY_READ_STRICT;
}

/* One that excludes, other than `except`, drains or runs on `inode`. It can only be the first. */
bool operation_modifies(const struct authority *a, const struct inode *inode, uint64_t except)
{
	const struct operation *o = operation_first(a, inode);

	return o && operation_excludes(o) && o->id != except &&
	       (o->state == OPERATION_DRAINING || o->state == OPERATION_RUNNING);
}

/* A modification other than `except` is in the queue of `inode`. */
bool operation_waits(const struct authority *a, const struct inode *inode, uint64_t except)
{
	struct inode_busy *busy = inode_busy(a, inode);

	if (!busy)
		return false;
	LIST_FOR_EACH(at, &busy->places) {
		const struct operation *o = LIST_ENTRY(at, struct place, link)->operation;

		if (o->kind == AUTHORITY_MODIFY && o->id != except)
			return true;
	}
	return false;
}

/*
 * PROTOCOL.md 5.2: first in all its queues; a strict read also behind strict reads, since readers
 * do not disturb each other.
 */
static bool operation_is_first(const struct authority *a, const struct operation *o)
{
	for (uint32_t i = 0; i < o->place_count; i++) {
		const struct inode_busy *busy = inode_busy(a, o->places[i].inode);

		for (struct list *at = busy->places.next; at != &o->places[i].link;
		     at = at->next) {
			const struct operation *other =
				LIST_ENTRY(at, struct place, link)->operation;

			if (operation_excludes(o) || operation_excludes(other))
				return false;
		}
	}
	return true;
}

static void operation_pend(struct authority *a, struct operation *o,
			   enum authority_action_kind outcome)
{
	o->outcome = outcome;
	authority_pend(a, &o->pending);
}

static void operation_run(struct authority *a, struct operation *o)
{
	heap_remove(a, o);
	list_remove(&o->in_queued);
	o->state = OPERATION_RUNNING;
	a->counters.operations_run++;
	operation_pend(a, o, AUTHORITY_RUN);
}

/*
 * PROTOCOL.md 5.2: the originator's own lease stays, for it does not use what it modifies until it
 * is answered. That needs it to know the inode: where a name led to it, the originator may hold a
 * lease on that inode without knowing that the name leads there now.
 */
static bool own_lease_stays(const struct place *place)
{
	const struct operation *o = place->operation;

	for (uint32_t i = 0; i < o->place_count; i++) {
		if (o->places[i].scope == RECALL_NAMES)
			return place->scope == RECALL_NAMES;
	}
	return true;
}

/* Recalls what is held on the inode of `place`; counts what the operation must wait for. */
static void place_drain(struct authority *a, struct place *place)
{
	struct inode *inode = place->inode;
	const struct inode_busy *busy = inode_busy(a, inode);
	struct operation *o = place->operation;
	bool own_stays = own_lease_stays(place);
	bool contended = false;
	enum recall_scope scope = place->scope;

	LEASE_FOR_EACH(lease, a, inode) {
		bool others = lease_session(a, lease) != o->session;

		lease->awaited = others || !own_stays;
		contended |= others;
	}
	if (contended)
		authority_inode_contended(a, inode);
	/* PROTOCOL.md 5.5: where names change all the time, keeping the lease is no use. */
	if (busy->backoff_ns >= 4 * a->config.backoff_min.ns && busy->backoff_ns)
		scope = RECALL_ALL;
	LEASE_FOR_EACH(lease, a, inode) {
		if (!lease->awaited)
			continue;
		lease_recall(a, lease, scope, place->names);
		o->waiting++;
	}
}

/*
 * PROTOCOL.md 5.2: what must queue recalls at once what it will have to wait for, as a whole, where
 * no recall is out: so it waits for one round trip and not for one after each that is before it.
 */
static void operation_recall_early(struct authority *a, const struct operation *o)
{
	for (uint32_t i = 0; i < o->place_count; i++) {
		struct inode *inode = o->places[i].inode;
		bool own_stays = own_lease_stays(&o->places[i]);
		bool contended = false;

		LEASE_FOR_EACH(lease, a, inode) {
			bool others = lease_session(a, lease) != o->session;

			if ((!others && own_stays) || lease->recall_sequence)
				continue;
			contended |= others;
			lease_recall(a, lease, RECALL_ALL, NULL);
		}
		if (contended)
			authority_inode_contended(a, inode);
	}
}

/* QUEUED and first everywhere: drains, or runs at once when there is nothing to wait for. */
static void operation_start(struct authority *a, struct operation *o)
{
	list_remove(&o->in_queued);
	o->state = OPERATION_DRAINING;
	if (operation_excludes(o))
		for (uint32_t i = 0; i < o->place_count; i++)
			place_drain(a, &o->places[i]);
#ifdef LEASE_WRONG_ACK_BEFORE_DRAINED
	/* Wrong on purpose: the recalls are out, and that has to do. */
	o->waiting = 0;
	for (uint32_t i = 0; i < o->place_count; i++)
		LEASE_FOR_EACH(lease, a, o->places[i].inode)
			lease->awaited = false;
#endif
	if (o->waiting == 0)
		operation_run(a, o);
}

/*
 * PROTOCOL.md 5.7: another session may have newer bytes than the store. The reader keeps its place
 * until that lease is gone.
 */
static bool reader_waits(struct authority *a, const struct operation *o)
{
	struct inode *inode = o->places[0].inode;
	struct lease *lease = lease_exclusive(a, inode);

	if (operation_excludes(o) || !lease || lease_session(a, lease) == o->session)
		return false;
#ifdef LEASE_WRONG_READ_BESIDE_WRITER
	/* Wrong on purpose: what the store has is taken for newest. */
	return false;
#endif
	if (!lease->recall_sequence) {
		authority_inode_contended(a, inode);
		lease_recall(a, lease, RECALL_ALL, NULL);
	}
	return true;
}

static void operation_try(struct authority *a, struct operation *o)
{
	if (o->state != OPERATION_QUEUED || a->grace || (o->session && !o->session->live))
		return;
	if (operation_is_first(a, o) && !reader_waits(a, o))
		operation_start(a, o);
}

/* Starts what has come to the front of the queue of `inode`. */
void operations_start(struct authority *a, struct inode *inode)
{
	struct inode_busy *busy = inode_busy(a, inode);

	if (!busy)
		return;
	LIST_FOR_EACH(at, &busy->places) {
		struct operation *o = LIST_ENTRY(at, struct place, link)->operation;

		operation_try(a, o);
		if (operation_excludes(o))
			return;
	}
}

void operations_start_all(struct authority *a)
{
	LIST_FOR_EACH(at, &a->queued)
		operation_try(a, LIST_ENTRY(at, struct operation, in_queued));
}

/* `lease` was given up or kept: the operation that drains on its inode waits for one less. */
void operation_drained(struct authority *a, struct lease *lease)
{
	struct operation *o = operation_first(a, lease_inode(a, lease));

	if (!lease->awaited)
		return;
	lease->awaited = false;
	if (o && o->state == OPERATION_DRAINING && --o->waiting == 0)
		operation_run(a, o);
}

/* Gives up all places; then those behind may start. */
static void operation_leave(struct authority *a, struct operation *o)
{
	struct inode *inodes[AUTHORITY_TARGETS_MAX];
	uint32_t count = o->place_count;

	heap_remove(a, o);
	list_remove(&o->in_queued);
	for (uint32_t i = 0; i < count; i++) {
		inodes[i] = o->places[i].inode;
		list_remove(&o->places[i].link);
		names_unref(a, o->places[i].names);
	}
	o->place_count = 0;
	for (uint32_t i = 0; i < count; i++)
		operations_start(a, inodes[i]);
	for (uint32_t i = 0; i < count; i++)
		authority_inode_put(a, inodes[i]);
}

static bool operation_is_of_one(const struct operation *o)
{
	return o->place_count == 1 && o->places[0].scope == RECALL_ALL;
}

/*
 * The first in the queue of `inode` of that kind and session that still waits, or NULL. Looked for anew
 * after each one that leaves: with the last of them the queue itself may go.
 */
static struct operation *operation_queued(const struct authority *a, const struct inode *inode,
					  enum authority_op_kind kind,
					  const struct session *session)
{
	struct inode_busy *busy = inode_busy(a, inode);

	if (!busy)
		return NULL;
	LIST_FOR_EACH(at, &busy->places) {
		struct operation *o = LIST_ENTRY(at, struct place, link)->operation;

		if (o->kind == kind && o->state == OPERATION_QUEUED && o->session == session &&
		    (kind != AUTHORITY_MODIFY || operation_is_of_one(o)))
			return o;
	}
	return NULL;
}

/*
 * PROTOCOL.md 5.4: `session` has got a lease on `inode` while strict reads of it wait there. Its host
 * may finish those before it acknowledges the lease's recall, which what they wait behind may
 * cause: so they run now, under the lease, and wait for nobody (I6).
 */
void operations_promote(struct authority *a, const struct session *session, struct inode *inode)
{
	struct operation *o;

	while ((o = operation_queued(a, inode, AUTHORITY_READ_STRICT, session))) {
		operation_leave(a, o);
		operation_run(a, o);
	}
}

/* PROTOCOL.md 5.7: a modification by who has the write lease, of that file alone. */
bool operation_goes_ahead(const struct authority *a, const struct operation *o,
			  const struct lease *lease)
{
	return o->kind == AUTHORITY_MODIFY && o->session == lease_session(a, lease) &&
	       operation_is_of_one(o);
}

/*
 * PROTOCOL.md 5.7: `lease` has become the write lease while modifications of its session wait. Its host may
 * finish those before it acknowledges the recall that others cause who are before them: they run now.
 */
void operations_go_ahead(struct authority *a, const struct lease *lease)
{
	const struct session *session = lease_session(a, lease);
	struct inode *inode = lease_inode(a, lease);
	struct operation *o;

	while ((o = operation_queued(a, inode, AUTHORITY_MODIFY, session))) {
		o->covered = true;
		o->covered_inode = inode_handle(inode);
		operation_leave(a, o);
		operation_run(a, o);
	}
}

/*
 * PROTOCOL.md 5.4, 5.7: a lease of `session` on `inode` is recalled. Its host's drop may wait for pages
 * that what `session` wants to acquire here would fill: that runs now, and leads to no grant.
 */
void operations_yield(struct authority *a, const struct session *session, struct inode *inode)
{
	struct operation *o;

	while ((o = operation_queued(a, inode, AUTHORITY_ACQUIRE, session))) {
		operation_leave(a, o);
		operation_run(a, o);
	}
}

/* Takes the operation out of everything; what is pending of it still leaves. */
static void operation_end(struct authority *a, struct operation *o)
{
	struct session *session = o->session;

	o->state = OPERATION_OVER;
	map_remove(&a->operations, &o->id);
	a->counters.operations--;
	list_remove(&o->in_session);
	operation_leave(a, o);
	if (session && !session->live)
		session_forget_surplus(a);
}

void operation_free(struct authority *a, struct operation *o)
{
	authority_free(a, o, sizeof(*o));
}

/*
 * A QUEUED or DRAINING operation is over. Its slot remembers the refusal (3.3): a repetition gets
 * the same answer and never runs.
 */
void operation_refuse(struct authority *a, struct operation *o, uint16_t status)
{
	assert(o->state == OPERATION_QUEUED || o->state == OPERATION_DRAINING);
	if (o->in_slot && !o->superseded) {
		struct slot *slot = &o->session->slots[o->slot_index];

		slot->operation = 0;
		slot->refused = status;
	}
	o->status = status;
	a->counters.operations_refused++;
	operation_pend(a, o, AUTHORITY_REFUSE);
	operation_end(a, o);
}

void operations_refuse_late(struct authority *a)
{
	while (a->deadline_count && !instant_before(a->now, a->deadlines[0]->deadline))
		operation_refuse(a, a->deadlines[0], STATUS_DEADLINE);
}

/* ---- begin ---- */

static void admission_refuse(struct authority *a, struct operation *o, uint16_t status)
{
	o->outcome = AUTHORITY_REFUSE;
	o->status = status;
	a->counters.operations_refused++;
	if (status == STATUS_PUSHBACK)
		a->counters.pushbacks++;
}

/*
 * PROTOCOL.md 3.3: a request takes its slot once. True when it is new; otherwise what becomes of it
 * is set.
 */
static bool admit_slot(struct authority *a, struct operation *o)
{
	struct slot *slot;

	if (o->slot_index >= o->session->slot_count) {
		admission_refuse(a, o, STATUS_BADMESSAGE);
		return false;
	}
	slot = &o->session->slots[o->slot_index];
	if (o->sequence > slot->sequence)
		return true;
#ifdef LEASE_WRONG_DUPLICATE_WRITE
	/* Wrong on purpose: what was done is done again. */
	if (!slot->operation)
		return true;
#endif
	if (o->sequence < slot->sequence) {
		admission_refuse(a, o, STATUS_SUPERSEDED);
		return false;
	}
	if (slot->operation) {
		o->outcome = AUTHORITY_JOIN;
		o->other = slot->operation;
		a->counters.replays++;
	} else if (slot->refused) {
		admission_refuse(a, o, slot->refused);
	} else {
		o->outcome = AUTHORITY_REPLAY;
		a->counters.replays++;
	}
	return false;
}

/*
 * May `o` take its place? Otherwise its outcome is set. What needs none is bounded by slots, or by who
 * runs it, and what fills the table may be waiting for it (I6).
 */
static bool admit(struct authority *a, struct operation *o, bool placeless)
{
	if (o->session_id.value != 0 && !o->session) {
		/* PROTOCOL.md 3.4: never known here: the previous run may have done it. */
		admission_refuse(a, o, o->kind == AUTHORITY_MODIFY ? STATUS_UNKNOWNOUTCOME :
								     STATUS_NOSESSION);
		return false;
	}
	if (o->in_slot && !admit_slot(a, o))
		return false;
	if (o->session && !o->session->live) {
		admission_refuse(a, o, STATUS_NOSESSION);
		return false;
	}
	if (!placeless && a->counters.operations >= a->config.operation_count_max) {
		admission_refuse(a, o, STATUS_PUSHBACK);
		return false;
	}
	return true;
}

/* A newer request took the slot of an older one that is still under way (3.3). */
static void slot_take(struct authority *a, struct operation *o)
{
	struct slot *slot = &o->session->slots[o->slot_index];
	struct operation *older = slot->operation ? map_get(&a->operations, &slot->operation) :
						    NULL;

	if (older)
		older->superseded = true;
	o->slot_before = *slot;
	if (older) {
		/* What retries under `o` must not find the older one's number free again. */
		o->slot_before.operation = 0;
		o->slot_before.refused = STATUS_SUPERSEDED;
	}
	*slot = (struct slot){ .sequence = o->sequence, .operation = o->id };
	if (older && older->state != OPERATION_RUNNING)
		operation_refuse(a, older, STATUS_SUPERSEDED);
}

static struct recall_names *names_make(struct authority *a, const struct authority_target *target)
{
	struct recall_names *names;

	if (map_reserve(&a->names, 1))
		return NULL;
	names = authority_allocate(a, sizeof(*names));
	if (!names)
		return NULL;
	do
		names->id = ++a->names_id_last;
	while (names->id == 0 || map_get(&a->names, &names->id));
	map_insert(&a->names, names);
	names->refs = 1;
	assert(target->name_count <= AUTHORITY_NAMES_MAX);
	for (uint32_t i = 0; i < target->name_count; i++) {
		const struct slice *name = &target->names[i];

		assert(name->length <= NAME_BYTES_MAX);
		names->length[i] = (uint8_t)name->length;
		memcpy(names->bytes[i], name->data, name->length);
		names->count++;
	}
	return names;
}

/* Makes the inodes and names of all targets; on -ENOMEM nothing is left of them. */
static int places_make(struct authority *a, struct operation *o, const struct authority_op *op,
		       uint32_t count)
{
	uint32_t made;

	for (made = 0; made < count; made++) {
		const struct authority_target *target = &op->targets[made];
		struct place *place = &o->places[made];

		place->operation = o;
		place->scope = target->scope;
		list_init(&place->link);
		place->inode = authority_inode_make_busy(a, &target->handle);
		if (!place->inode)
			break;
		if (target->scope == RECALL_NAMES) {
			place->names = names_make(a, target);
			if (!place->names) {
				authority_inode_put(a, place->inode);
				break;
			}
		}
	}
	if (made == count && !heap_reserve(a) && !map_reserve(&a->operations, 1))
		return 0;
	while (made--) {
		names_unref(a, o->places[made].names);
		authority_inode_put(a, o->places[made].inode);
	}
	return -ENOMEM;
}

/* From here on nothing fails: into all queues at once (I2), and off. */
static void operation_admit(struct authority *a, struct operation *o, uint32_t place_count)
{
	o->place_count = place_count;
	o->order = ++a->order_last;
	map_insert(&a->operations, o);
	a->counters.operations++;
	if (o->session)
		list_append(&o->session->operations, &o->in_session);
	for (uint32_t i = 0; i < place_count; i++) {
		/* Each inode at most once: the place is not linked yet. */
		assert(!list_linked(&o->places[i].link));
		list_append(&inode_busy(a, o->places[i].inode)->places, &o->places[i].link);
	}
	if (place_count) {
		heap_add(a, o);
		list_append(&a->queued, &o->in_queued);
	}
	/* That ends the one before in its slot, and it may be the turn of this one by that. */
	if (o->in_slot)
		slot_take(a, o);
	if (place_count == 0) {
		operation_run(a, o);
		return;
	}
	if (o->state == OPERATION_QUEUED)
		operation_try(a, o);
	if (o->kind == AUTHORITY_MODIFY && o->state == OPERATION_QUEUED && !a->grace)
		operation_recall_early(a, o);
}

static struct operation *operation_make(struct authority *a, const struct authority_op *op)
{
	struct operation *o = authority_allocate(a, sizeof(*o));

	if (!o)
		return NULL;
	o->id = op->id;
	o->kind = op->kind;
	o->session_id = op->session;
	o->session = op->session.value ? session_get(a, op->session) : NULL;
	o->slot_index = op->slot;
	o->sequence = op->sequence;
	o->in_slot = o->session && op->kind == AUTHORITY_MODIFY && op->sequence != 0;
	o->deadline = op->deadline;
	o->write_back = op->kind == AUTHORITY_MODIFY && op->write_back;
	o->lease_sequence = op->lease_sequence;
	o->heap_index = HEAP_NONE;
	o->pending.what = PENDING_OPERATION;
	list_init(&o->pending.link);
	list_init(&o->in_session);
	list_init(&o->in_queued);
	return o;
}

/*
 * PROTOCOL.md 5.4: the session holds a lease on what it wants to read, so no modification can run
 * before it drops what this read fills: nothing to wait for, and it must not wait for itself.
 */
static bool covered_by_lease(const struct authority *a, struct operation *o,
			     const struct authority_op *op)
{
	const struct inode *inode = authority_inode_get(a, &op->targets[0].handle);
	const struct lease *lease =
		inode && o->session && o->session->live ? lease_get(a, o->session, inode) : NULL;

	/* Without the lease it is told so when it runs. */
	if (!lease)
		return o->write_back;
	o->covered_inode = op->targets[0].handle;
	switch (o->kind) {
	case AUTHORITY_READ_STRICT:
		return true;
	case AUTHORITY_ACQUIRE:
		return lease->exclusive || lease->recall_sequence;
	case AUTHORITY_MODIFY:
		/* PROTOCOL.md 5.7: nobody else holds anything, and the recall may wait for this. */
		o->covered = lease->exclusive && op->target_count == 1 &&
			     op->targets[0].scope == RECALL_ALL;
		return o->covered || o->write_back;
	}
	return false;
}

int authority_begin(struct authority *a, struct instant now, const struct authority_op *op,
		    struct authority_actions *out)
{
	struct operation *o;
	uint32_t place_count = op->target_count;

	assert(op->id != 0 && !map_get(&a->operations, &op->id));
	assert(op->target_count >= 1 && op->target_count <= AUTHORITY_TARGETS_MAX);
	assert(op->kind == AUTHORITY_MODIFY || op->target_count == 1);
	authority_advance(a, now);
	o = operation_make(a, op);
	if (!o) {
		authority_flush(a, out);
		return -ENOMEM;
	}
	if (covered_by_lease(a, o, op))
		place_count = 0;
	if (!admit(a, o, place_count == 0)) {
		o->state = OPERATION_OVER;
		authority_pend(a, &o->pending);
		authority_flush(a, out);
		return 0;
	}
	if (places_make(a, o, op, place_count)) {
		operation_free(a, o);
		authority_flush(a, out);
		return -ENOMEM;
	}
	operation_admit(a, o, place_count);
	operations_refuse_late(a);
	authority_flush(a, out);
	return 0;
}

/* ---- the rest of an operation's life ---- */

bool authority_may_apply(const struct authority *a, struct instant now, uint64_t op)
{
	const struct operation *o = map_get(&a->operations, &op);

	if (!o || o->state != OPERATION_RUNNING || o->superseded)
		return false;
	if (!o->session)
		return true;
	return o->session->live && instant_before(now, o->session->end);
}

enum authority_cover authority_cover(const struct authority *a, uint64_t op)
{
	const struct operation *o = map_get(&a->operations, &op);
	const struct inode *inode;
	const struct lease *lease;

	if (!o || (!o->covered && !o->write_back))
		return COVER_NONE;
#ifdef LEASE_WRONG_LATE_WRITEBACK
	/* Wrong on purpose: it was stored under the lease once, and that has to do. */
	return COVER_STANDS;
#endif
	inode = o->covered && o->session->live ? authority_inode_get(a, &o->covered_inode) : NULL;
	lease = inode ? lease_get(a, o->session, inode) : NULL;
	if (!lease || !lease->exclusive ||
	    (o->write_back && o->lease_sequence < lease->exclusive_since))
		return COVER_GONE;
	return COVER_STANDS;
}

void authority_finish(struct authority *a, struct instant now, uint64_t op, bool retry,
		      struct authority_actions *out)
{
	struct operation *o;

	authority_advance(a, now);
	o = map_get(&a->operations, &op);
	assert(o && o->state == OPERATION_RUNNING);
	if (o->in_slot && !o->superseded) {
		struct slot *slot = &o->session->slots[o->slot_index];

		if (retry)
			*slot = o->slot_before;
		else
			slot->operation = 0;
	}
	/* 5.5: the time without grants counts from when the modification is done. */
	for (uint32_t i = 0; operation_excludes(o) && i < o->place_count; i++) {
		struct inode_busy *busy = inode_busy(a, o->places[i].inode);

		if (busy->backoff_ns && list_linked(&busy->in_backoffs))
			busy->quiet_until = instant_add(a->now,
							(struct duration){ busy->backoff_ns });
	}
	/* Nobody can finish what he was not yet told to run. */
	assert(!list_linked(&o->pending.link));
	operation_end(a, o);
	operation_free(a, o);
	authority_flush(a, out);
}

/* Memory failed when `op` was to leave: the action that names it must not leave any more. */
static void operation_unpend(struct authority *a, uint64_t op)
{
	LIST_FOR_EACH(at, &a->pending) {
		struct pending *pending = LIST_ENTRY(at, struct pending, link);
		struct operation *o = LIST_ENTRY(pending, struct operation, pending);

		if (pending->what != PENDING_OPERATION || o->id != op ||
		    o->kind == AUTHORITY_MODIFY)
			continue;
		list_remove(at);
		if (o->state != OPERATION_OVER)
			operation_end(a, o);
		operation_free(a, o);
		return;
	}
}

void authority_cancel(struct authority *a, struct instant now, uint64_t op,
		      struct authority_actions *out)
{
	struct operation *o;

	authority_advance(a, now);
	operation_unpend(a, op);
	o = map_get(&a->operations, &op);
	if (o && o->kind != AUTHORITY_MODIFY &&
	    (o->state == OPERATION_QUEUED || o->state == OPERATION_DRAINING)) {
		operation_end(a, o);
		operation_free(a, o);
	}
	authority_flush(a, out);
}
