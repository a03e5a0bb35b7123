/*
 * The origin around the real authority: what fs/origin does with threads and system calls, done
 * in steps. Between AUTHORITY_RUN and the store, and between the store and the answer, time passes
 * (workers are slow), and the process can die at each of these points.
 */
#include "lease/seal.h"
#include "tests/sim/answer.h"

#include <assert.h>
#include <inttypes.h>

struct instant origin_now(struct sim *sim)
{
	return (struct instant){ clock_read(&sim->origin.clock, sim->now) };
}

/* The longest time from a promise to its end, by the origin's clock. */
uint64_t origin_promise(const struct profile *p)
{
	return p->term + p->term / 1000000 * p->drift_ppm + p->margin;
}

static void perform(struct sim *sim);

/* ---- operations ---- */

static struct origin_operation *operation_find(struct sim *sim, uint64_t id)
{
	struct origin *o = &sim->origin;

	for (uint32_t i = 0; i < o->operation_high; i++) {
		if (o->operations[i].used && o->operations[i].id == id)
			return &o->operations[i];
	}
	sim_fail(sim, "the authority names operation %" PRIu64 ", which is not under way", id);
}

static struct origin_operation *operation_new(struct sim *sim)
{
	struct origin *o = &sim->origin;
	uint32_t i;

	for (i = 0; i < o->operation_high && o->operations[i].used; i++)
		;
	if (i == OPERATIONS_MAX)
		return NULL;
	if (i == o->operation_high)
		o->operation_high++;
	memset(&o->operations[i], 0, offsetof(struct origin_operation, reply));
	o->operations[i].used = true;
	return &o->operations[i];
}

static void answer_waiters(struct sim *sim, const struct origin_operation *operation,
			   const uint8_t *data, size_t length, size_t bulk_length)
{
	for (uint32_t i = 0; i < operation->waiter_count; i++)
		network_send_bytes(sim, operation->waiters[i].host, true, false,
				   operation->waiters[i].id, data, length, bulk_length);
}

static void operation_refuse(struct sim *sim, struct origin_operation *operation, uint16_t status)
{
	sim_note(sim, "origin refuses operation %" PRIu64 ": %s", operation->id,
		 status_name(status));
	if (status == STATUS_UNKNOWNOUTCOME && slots_session(sim, operation->session))
		sim_fail(sim, "EXACTLY ONCE: what became of operation %" PRIu64 " was recorded",
			 operation->id);
	for (uint32_t i = 0; i < operation->waiter_count; i++)
		answer_status(sim, operation->waiters[i].host, operation->waiters[i].id, status);
	operation->used = false;
}

static void add_target(struct authority_op *op, uint32_t inode, enum recall_scope scope,
		       uint32_t part)
{
	struct handle handle = store_handle(inode);
	struct authority_target *target = NULL;

	for (uint32_t i = 0; i < op->target_count; i++) {
		if (handle_equal(&op->targets[i].handle, &handle))
			target = &op->targets[i];
	}
	if (!target) {
		target = &op->targets[op->target_count++];
		target->handle = handle;
		target->scope = scope;
		target->name_count = 0;
	}
	if (scope == RECALL_NAMES &&
	    (target->name_count == 0 || !slice_equal(target->names[0], store_name(part))))
		target->names[target->name_count++] = store_name(part);
}

static void operation_targets(struct authority_op *op, const struct modification *m)
{
	op->target_count = 0;
	switch (m->action) {
	case ACTION_WRITE:
	case ACTION_SETATTR:
		add_target(op, m->inode, RECALL_ALL, 0);
		return;
	case ACTION_RENAME:
		add_target(op, m->inode, RECALL_NAMES, m->part);
		add_target(op, m->to_inode, RECALL_NAMES, m->to_part);
		if (m->child)
			add_target(op, m->child, RECALL_ALL, 0);
		if (m->replaced)
			add_target(op, m->replaced, RECALL_ALL, 0);
		return;
	case ACTION_CREATE:
	case ACTION_UNLINK:
		add_target(op, m->inode, RECALL_NAMES, m->part);
		if (m->child)
			add_target(op, m->child, RECALL_ALL, 0);
		return;
	}
}

/* Hands the operation to the authority, for the first time or after its names had moved. */
static void operation_begin(struct sim *sim, struct origin_operation *operation)
{
	struct origin *o = &sim->origin;
	struct authority_op *op = &operation->op;

	operation->id = ++o->next_op;
	operation->running = false;
	operation->first_at = 0;
	op->id = operation->id;
	op->kind = operation->acquire ? AUTHORITY_ACQUIRE :
		   operation->strict_read ? AUTHORITY_READ_STRICT : AUTHORITY_MODIFY;
	op->write_back = operation->write_back;
	op->lease_sequence = operation->lease_sequence;
	op->session = operation->session;
	op->slot = operation->slot;
	op->sequence = operation->sequence;
	op->deadline = operation->deadline;
	if (operation->strict_read) {
		op->target_count = 0;
		add_target(op, operation->m.inode, RECALL_ALL, 0);
	} else {
		store_resolve(sim, &operation->m);
		operation_targets(op, &operation->m);
	}
	if (authority_begin(o->authority, origin_now(sim), op, &o->actions))
		operation_refuse(sim, operation, STATUS_NOMEM);
}

static struct origin_operation *operation_arrives(struct sim *sim, const struct packet *packet,
						  const struct message *message)
{
	struct origin_operation *operation = operation_new(sim);

	if (!operation) {
		answer_status(sim, packet->host, packet->id, STATUS_PUSHBACK);
		return NULL;
	}
	operation->host = packet->host;
	operation->session = (struct session_id){ message->common.session };
	operation->slot = message->common.slot;
	operation->sequence = message->common.sequence;
	operation->deadline =
		instant_add(origin_now(sim), duration_ms(message->common.deadline_ms));
	operation->waiter_count = 1;
	operation->waiters[0].host = packet->host;
	operation->waiters[0].id = packet->id;
	return operation;
}

static void modify_arrives(struct sim *sim, const struct packet *packet,
			   const struct message *message, struct slice bulk)
{
	struct origin_operation *operation = operation_arrives(sim, packet, message);
	struct reader r = reader_of(bulk.data, bulk.length);
	struct modification *m;

	if (!operation)
		return;
	m = &operation->m;
	m->attempt = reader_u32(&r);
	switch (message->type) {
	case MESSAGE_write:
		m->action = ACTION_WRITE;
		m->inode = store_inode_of(sim, &message->write.handle);
		m->part = (uint32_t)message->write.offset;
		break;
	case MESSAGE_write_back:
		m->action = ACTION_WRITE;
		m->inode = store_inode_of(sim, &message->write_back.handle);
		m->part = (uint32_t)message->write_back.offset;
		m->writer = packet->host + 1u;
		m->base = reader_u32(&r);
		operation->write_back = true;
		operation->lease_sequence = message->write_back.lease_sequence;
		break;
	case MESSAGE_setattr:
		m->action = ACTION_SETATTR;
		m->inode = store_inode_of(sim, &message->setattr.handle);
		m->seal = message->setattr.mode;
		break;
	case MESSAGE_create:
		m->action = ACTION_CREATE;
		m->inode = store_inode_of(sim, &message->create.directory);
		m->part = store_part_of(sim, message->create.name);
		break;
	case MESSAGE_unlink:
		m->action = ACTION_UNLINK;
		m->inode = store_inode_of(sim, &message->unlink.directory);
		m->part = store_part_of(sim, message->unlink.name);
		break;
	case MESSAGE_rename:
		m->action = ACTION_RENAME;
		m->inode = store_inode_of(sim, &message->rename.directory);
		m->part = store_part_of(sim, message->rename.name);
		m->to_inode = store_inode_of(sim, &message->rename.new_directory);
		m->to_part = store_part_of(sim, message->rename.new_name);
		break;
	default:
		sim_fail(sim, "an unexpected %s", message_name(message->type));
	}
	operation_begin(sim, operation);
}

static void strict_read_arrives(struct sim *sim, const struct packet *packet,
				const struct message *message)
{
	struct origin *o = &sim->origin;
	bool acquire = message->type == MESSAGE_read_exclusive;
	uint32_t inode = store_inode_of(sim, acquire ? &message->read_exclusive.handle :
						       &message->read.handle);
	struct origin_operation *operation;

	/* The one who asked before and asks again does not wait for the first answer. */
	for (uint32_t i = 0; i < o->operation_high; i++) {
		operation = &o->operations[i];
		if (operation->used && operation->strict_read && !operation->running &&
		    operation->host == packet->host && operation->m.inode == inode &&
		    rng_chance(&sim->rng, 500)) {
			operation->used = false;
			authority_cancel(o->authority, origin_now(sim), operation->id,
					 &o->actions);
			perform(sim); /* others may go on, and must not be cancelled then */
		}
	}
	operation = operation_arrives(sim, packet, message);
	if (!operation)
		return;
	operation->strict_read = true;
	operation->acquire = acquire;
	operation->m.inode = inode;
	operation->m.part = (uint32_t)(acquire ? message->read_exclusive.offset :
						  message->read.offset);
	operation_begin(sim, operation);
}

static void operation_run(struct sim *sim, struct origin_operation *operation)
{
	uint32_t index = (uint32_t)(operation - sim->origin.operations);

	operation->running = true;
	sim_note(sim, "origin runs operation %" PRIu64, operation->id);
	sim_schedule(sim, sim->now + rng_below(&sim->rng, sim->profile.apply_max), EVENT_APPLY, 0,
		     index, (uint32_t)operation->id);
}

static struct origin_operation *operation_due(struct sim *sim, uint32_t index,
					      uint32_t generation)
{
	struct origin_operation *operation = &sim->origin.operations[index];

	if (!sim->origin.up || !operation->used || !operation->running ||
	    (uint32_t)operation->id != generation || index >= sim->origin.operation_high)
		return NULL;
	return operation;
}

static void keep_answer(struct sim *sim, struct origin_operation *operation, struct answer *answer)
{
	answer_seal(sim, answer);
	operation->reply_bulk = (uint16_t)answer->bulk.at;
	operation->reply_length =
		(uint16_t)network_encode(sim, &answer->message, answer->bulk_bytes,
					 answer->bulk.at, operation->reply);
}

/* PROTOCOL.md 5.7: nobody else stored to the block since the page was read that was stored to. */
static void check_base(struct sim *sim, const struct origin_operation *operation)
{
	const struct modification *m = &operation->m;
	const struct store_inode *i = &sim->store.inodes[m->inode];

	if (i->history[i->version].part[m->part] != m->base)
		sim_fail(sim, "host %u writes back to block %u of inode %u what it stored at version "
			      "%u, which is at %u by now", m->writer - 1, m->part, m->inode,
			 m->base, i->history[i->version].part[m->part]);
}

/* PROTOCOL.md 11.4: its leases are given up; who does not answer may still rely on the seal. */
static bool unseal_waits(struct sim *sim, const struct modification *m)
{
	const struct store_inode *i = &sim->store.inodes[m->inode];

	/* A longer term is a change like another. */
	return m->action == ACTION_SETATTR && m->seal > i->history[i->version].seal &&
	       authority_silent_wait(sim->origin.authority, origin_now(sim),
				     seal_term_of_code(i->history[i->version].seal)).ns > 0;
}

/* Right before the store: the last moment at which a modification can be refused. */
static bool apply_modification(struct sim *sim, struct origin_operation *operation)
{
	struct origin *o = &sim->origin;
	struct instant now = origin_now(sim);
	enum authority_cover cover;

	if (!authority_may_apply(o->authority, now, operation->id)) {
		authority_finish(o->authority, now, operation->id, true, &o->actions);
		operation_refuse(sim, operation, STATUS_NOSESSION);
		return false;
	}
	cover = authority_cover(o->authority, operation->id);
	if (cover == COVER_GONE && !operation->write_back) {
		sim_note(sim, "origin begins operation %" PRIu64 " again: its lease is gone",
			 operation->id);
		authority_finish(o->authority, now, operation->id, true, &o->actions);
		operation_begin(sim, operation);
		return false;
	}
	slots_intent(sim, operation);
	if (cover == COVER_GONE || unseal_waits(sim, &operation->m)) {
		operation->m.status = cover == COVER_GONE ? STATUS_NOLEASE : STATUS_BUSY;
		model_applied(sim, &operation->m);
		return true;
	}
	if (operation->write_back)
		check_base(sim, operation);
	if (!store_apply(sim, &operation->m)) {
		sim->store.intents[operation - o->operations].used = false;
		sim_note(sim, "origin begins operation %" PRIu64 " again", operation->id);
		authority_finish(o->authority, now, operation->id, true, &o->actions);
		operation_begin(sim, operation);
		return false;
	}
	model_applied(sim, &operation->m);
	for (uint32_t t = 0; t < operation->m.touched_count; t++) {
		struct handle handle = store_handle(operation->m.touched[t].inode);

		if (!authority_is_open(o->authority, &handle))
			store_free(sim, operation->m.touched[t].inode);
	}
	cache_check_applied(sim, &operation->m);
	return true;
}

void origin_apply(struct sim *sim, uint32_t index, uint32_t generation)
{
	struct origin_operation *operation = operation_due(sim, index, generation);
	struct message request = { .type = MESSAGE_read };
	struct answer answer;

	if (!operation)
		return;
	answer_init(&answer);
	if (operation->strict_read) {
		request.read.session = operation->session.value;
		request.read.handle = store_handle(operation->m.inode);
		request.read.offset = operation->m.part;
		answer_content(sim, &answer, &request, operation->id);
	} else {
		if (!apply_modification(sim, operation)) {
			perform(sim);
			origin_after_step(sim);
			return;
		}
		answer_modified(sim, &answer, operation);
	}
	keep_answer(sim, operation, &answer);
	/* Mostly at once; else the process may die with the intent alone behind it. */
	if (operation->sequence && rng_chance(&sim->rng, 700))
		slots_record(sim, &sim->store.intents[index], operation->reply,
			       operation->reply_length, operation->reply_bulk);
	perform(sim);
	sim_schedule(sim, sim->now + rng_below(&sim->rng, sim->profile.apply_max), EVENT_FINISH, 0,
		     index, generation);
	origin_after_step(sim);
}

void origin_finish(struct sim *sim, uint32_t index, uint32_t generation)
{
	struct origin_operation *operation = operation_due(sim, index, generation);
	struct origin *o = &sim->origin;

	if (!operation)
		return;
	if (operation->sequence && sim->store.intents[index].used)
		slots_record(sim, &sim->store.intents[index], operation->reply,
			       operation->reply_length, operation->reply_bulk);
	answer_waiters(sim, operation, operation->reply, operation->reply_length,
		       operation->reply_bulk);
	operation->used = false;
	authority_finish(o->authority, origin_now(sim), operation->id, false, &o->actions);
	perform(sim);
	origin_after_step(sim);
}

/* ---- what the authority asks for ---- */

static void send_recall(struct sim *sim, const struct authority_action *action)
{
	struct message message = { .type = MESSAGE_recall };
	uint8_t bytes[2 * (NAME_BYTES_MAX + 1)];
	struct writer w = writer_of(bytes, sizeof(bytes));

	for (uint32_t i = 0; i < action->name_count; i++) {
		struct item_name item = { { action->names[i], action->name_length[i] } };

		item_name_write(&w, &item);
	}
	message.recall.sequence = action->recall_sequence;
	message.recall.scope = (uint8_t)action->scope;
	message.recall.handle = action->handle;
	message.recall.names = (struct slice){ bytes, w.at };
	for (unsigned host = 0; host < sim->profile.host_count; host++) {
		const struct origin_stream *stream = &sim->origin.streams[host];

		if (stream->id && stream->session.value == action->session.value) {
			network_send(sim, host, true, true, stream->id, &message, NULL, 0);
			return;
		}
	}
	sim_note(sim, "origin has no stream for recall %" PRIu64 " of session %" PRIx64,
		 action->recall_sequence, action->session.value);
}

/* PROTOCOL.md 10.6: only now may anybody get what those who have ended had locked. */
void origin_record(struct sim *sim, uint32_t life)
{
	struct origin *o = &sim->origin;
	uint64_t mark;

	if (!o->up || o->life != life)
		return;
	o->record_armed = false;
	mark = authority_record_mark(o->authority);
	record_write(sim);
	authority_recorded(o->authority, origin_now(sim), mark, &o->actions);
	perform(sim);
	origin_after_step(sim);
}

static void session_ended(struct sim *sim, struct session_id session)
{
	sim_note(sim, "origin ended session %" PRIx64, session.value);
	record_remove(sim, session);
	for (unsigned host = 0; host < sim->profile.host_count; host++) {
		struct host *h = &sim->hosts[host];
		struct origin_stream *stream = &sim->origin.streams[host];

		if (stream->session.value == session.value && stream->id) {
			sim_schedule(sim, sim->now + rng_below(&sim->rng, 50 * MS),
				     EVENT_STREAM_LOST, host, 0, stream->id);
			stream->id = 0;
		}
		if (sim->phase == PHASE_MILD && h->up && h->holder &&
		    holder_session(h->holder).value == session.value &&
		    holder_state(h->holder) == HOLDER_ACTIVE)
			sim_fail(sim, "LIVENESS: the session of host %u was ended, though nothing "
				      "but its recall stream ever fails", host);
	}
}

static void replay(struct sim *sim, struct origin_operation *operation)
{
	struct kept_reply *kept =
		slots_reply(sim, operation->session, operation->slot, false);

	if (!kept)
		sim_fail(sim, "the authority wants a reply repeated that was never made");
	answer_waiters(sim, operation, kept->data, kept->length, kept->bulk_length);
	operation->used = false;
}

static void join(struct sim *sim, struct origin_operation *operation, uint64_t id)
{
	struct origin_operation *other = operation_find(sim, id);
	bool known = false;

	for (uint32_t i = 0; i < other->waiter_count; i++)
		known |= other->waiters[i].host == operation->waiters[0].host &&
			 other->waiters[i].id == operation->waiters[0].id;
	if (!known && other->waiter_count < WAITERS_MAX)
		other->waiters[other->waiter_count++] = operation->waiters[0];
	operation->used = false;
}

static void perform(struct sim *sim)
{
	struct origin *o = &sim->origin;

	for (size_t i = 0; i < o->actions.count; i++) {
		const struct authority_action *action = &o->actions.items[i];

		switch (action->kind) {
		case AUTHORITY_SEND_RECALL:
			send_recall(sim, action);
			break;
		case AUTHORITY_RUN:
			operation_run(sim, operation_find(sim, action->op));
			break;
		case AUTHORITY_REFUSE:
			operation_refuse(sim, operation_find(sim, action->op), action->status);
			break;
		case AUTHORITY_REPLAY:
			replay(sim, operation_find(sim, action->op));
			break;
		case AUTHORITY_JOIN:
			join(sim, operation_find(sim, action->op), action->other);
			break;
		case AUTHORITY_SESSION_ENDED:
			session_ended(sim, action->session);
			break;
		case AUTHORITY_SESSION_FORGOTTEN:
			slots_session_forget(sim, action->session);
			break;
		case AUTHORITY_UNUSED:
			store_free(sim, store_inode_of(sim, &action->handle));
			break;
		case AUTHORITY_SEND_LOCK_OFFER:
			locks_offer(sim, action);
			break;
		case AUTHORITY_GRACE_ENDED:
			sim_note(sim, "origin: grace is over");
			record_expire(sim);
			break;
		}
	}
	o->actions.count = 0;
}

/* ---- messages ---- */

static void session_open_arrives(struct sim *sim, const struct packet *packet,
				 const struct message_session_open *open)
{
	struct origin *o = &sim->origin;
	struct instant now = origin_now(sim);
	struct message message = { .type = MESSAGE_session_opened };
	struct message_session_opened *opened = &message.session_opened;
	struct session_id session = { 0 };
	struct item_node root = { .role = NODE_TARGET, .handle = store_handle(1) };
	uint8_t root_bytes[200];
	struct writer w = writer_of(root_bytes, sizeof(root_bytes));
	uint32_t slot_count = 0;
	bool reclaim = false;

	opened->status = authority_session_open(
		o->authority, now, open->host.data, open->instance,
		(struct session_id){ open->previous_session }, open->slot_count, &o->actions,
		&session, &slot_count, &reclaim);
	if (opened->status == STATUS_OK) {
		record_add(sim, session, open);
		slots_session_add(sim, session, open->host.data, slot_count);
		opened->version = PROTOCOL_VERSION_MAX;
		opened->session = session.value;
		opened->epoch = sim->store.epoch;
		opened->incarnation = sim->store.incarnation;
		opened->term_ms = (uint32_t)(sim->profile.term / MS);
		opened->drift_ppm = sim->profile.drift_ppm;
		opened->slot_count = slot_count;
		opened->lease_count_max = sim->profile.lease_count_max;
		opened->grace_ms = (uint32_t)(authority_grace(o->authority, now).ns / MS);
		opened->reclaim = reclaim;
		opened->locks = open->locks && authority_locks_expected(o->authority, session);
		item_node_write(&w, &root);
		opened->root = (struct slice){ root_bytes, w.at };
	}
	network_send(sim, packet->host, true, false, packet->id, &message, NULL, 0);
}

static void reclaim_arrives(struct sim *sim, const struct packet *packet,
			    const struct message_reclaim *reclaim)
{
	struct origin *o = &sim->origin;
	struct instant now = origin_now(sim);
	struct session_id session = { reclaim->session };
	struct message message = { .type = MESSAGE_reclaimed };
	struct reader r = reader_of(reclaim->items.data, reclaim->items.length);
	struct item_claim claim;
	uint8_t confirmed[INODES_MAX];
	uint64_t recall_sequence = 0;
	bool have_sequence = false;
	size_t count = 0;

	if (!authority_session_alive(o->authority, now, session)) {
		message.reclaimed.status = STATUS_NOSESSION;
		network_send(sim, packet->host, true, false, packet->id, &message, NULL, 0);
		return;
	}
	while (item_claim_read(&r, &claim)) {
		uint32_t inode = store_inode_of(sim, &claim.handle);
		const struct store_inode *i = &sim->store.inodes[inode];
		bool current = change_equal(claim.change, store_change(sim, inode, i->version)) &&
			       !i->freed;

		bool write = claim.lease == LEASE_WRITE;

		/* Of the write lease whatever its own modifications came to: nobody else's did. */
		confirmed[count] = (write ? claim.change.incarnation == sim->store.incarnation &&
						    !i->freed : current) &&
				   authority_reclaim(o->authority, now, session, &claim.handle,
						     (enum lease_kind)claim.lease,
						     claim.open != 0, &o->actions);
		if (confirmed[count] && !current)
			confirmed[count] = CONFIRMED_ELSEWHERE;
		if (write && !confirmed[count])
			stores_check_refused(sim, packet->host, inode);
		if (confirmed[count] && !have_sequence) {
			/* The sequence at the first of these grants holds for all. */
			(void)authority_grant(o->authority, now, session, &claim.handle, 0,
					      &o->actions, &recall_sequence);
			have_sequence = true;
		}
		count++;
	}
	if (reclaim->last)
		authority_reclaim_done(o->authority, now, session, &o->actions);
	message.reclaimed.status = STATUS_OK;
	message.reclaimed.recall_sequence = recall_sequence;
	message.reclaimed.confirmed = (struct slice){ confirmed, count };
	network_send(sim, packet->host, true, false, packet->id, &message, NULL, 0);
}

static void stream_arrives(struct sim *sim, const struct packet *packet,
			   const struct message_recall_stream *open)
{
	struct origin *o = &sim->origin;
	struct session_id session = { open->session };
	struct origin_stream *stream = &o->streams[packet->host];
	struct message message = { .type = MESSAGE_acknowledged };

	if (!authority_session_alive(o->authority, origin_now(sim), session)) {
		message.acknowledged.status = STATUS_NOSESSION;
		network_send(sim, packet->host, true, false, packet->id, &message, NULL, 0);
		return;
	}
	/* A stream replaces the one before it, which is closed. */
	if (stream->id && stream->id != packet->id)
		sim_schedule(sim, sim->now + rng_below(&sim->rng, 50 * MS), EVENT_STREAM_LOST,
			     packet->host, 0, stream->id);
	stream->id = packet->id;
	stream->session = session;
	message.acknowledged.status = STATUS_OK;
	network_send(sim, packet->host, true, true, packet->id, &message, NULL, 0);
	message.acknowledged.status = authority_stream_attached(
		o->authority, origin_now(sim), session, &o->actions);
	if (message.acknowledged.status != STATUS_OK)
		sim_fail(sim, "a session that is alive has no stream");
}

/* Messages that are answered by `acknowledged`. */
static void control_arrives(struct sim *sim, const struct packet *packet,
			    const struct message *message)
{
	struct origin *o = &sim->origin;
	struct instant now = origin_now(sim);
	struct message answer = { .type = MESSAGE_acknowledged };
	struct session_id session;
	struct reader r;
	struct item_acknowledgement item;
	struct item_handle handle;

	if (message->type == MESSAGE_recall_acknowledge) {
		session.value = message->recall_acknowledge.session;
		r = reader_of(message->recall_acknowledge.items.data,
			      message->recall_acknowledge.items.length);
		answer.acknowledged.status = STATUS_OK;
		while (item_acknowledgement_read(&r, &item))
			answer.acknowledged.status =
				authority_acknowledge(o->authority, now, session, item.sequence,
						      item.open != 0, item.kept != 0,
						      &o->actions);
	} else if (message->type == MESSAGE_lease_release) {
		session.value = message->lease_release.session;
		r = reader_of(message->lease_release.handles.data,
			      message->lease_release.handles.length);
		answer.acknowledged.status = STATUS_OK;
		if (!authority_session_alive(o->authority, now, session))
			answer.acknowledged.status = STATUS_NOSESSION;
		while (item_handle_read(&r, &handle))
			authority_release(o->authority, now, session, &handle.handle,
					  &o->actions);
	} else {
		session.value = message->session_close.session;
		answer.acknowledged.status =
			authority_session_close(o->authority, now, session, &o->actions);
	}
	network_send(sim, packet->host, true, false, packet->id, &answer, NULL, 0);
}

/* Registers an open, or forgets it. */
static void open_or_close(struct sim *sim, struct answer *answer, const struct message *message)
{
	struct origin *o = &sim->origin;
	struct session_id session = { message->common.session };
	const struct handle *handle = &message->close.handle;
	uint32_t inode;

	if (message->type == MESSAGE_close) {
		authority_close(o->authority, origin_now(sim), session, message->common.sequence,
				handle, &o->actions);
		return;
	}
	handle = &message->open.handle;
	inode = store_inode_of(sim, handle);
	if (sim->store.inodes[inode].freed) {
		answer->message.reply.status = STATUS_STALE;
		return;
	}
	answer->message.reply.status = authority_open(o->authority, session, handle);
	if (answer->message.reply.status == STATUS_OK)
		answer_node(sim, answer, NODE_TARGET, inode, sim->store.inodes[inode].version,
			    session, 0, true);
}

static void request_arrives(struct sim *sim, const struct packet *packet,
			    const struct message *message, struct slice bulk)
{
	struct answer answer;

	if (message->common.sequence && message->type != MESSAGE_close) {
		modify_arrives(sim, packet, message, bulk);
		return;
	}
	if (!authority_session_alive(sim->origin.authority, origin_now(sim),
				     (struct session_id){ message->common.session })) {
		answer_status(sim, packet->host, packet->id, STATUS_NOSESSION);
		return;
	}
	if (message->type == MESSAGE_read_exclusive ||
	    (message->type == MESSAGE_read && message->read.strict)) {
		strict_read_arrives(sim, packet, message);
		return;
	}
	answer_init(&answer);
	if (message->type == MESSAGE_open || message->type == MESSAGE_close)
		open_or_close(sim, &answer, message);
	else
		answer_content(sim, &answer, message, 0);
	answer_send(sim, &answer, packet->host, packet->id);
}

void origin_packet(struct sim *sim, struct packet *packet)
{
	struct origin *o = &sim->origin;
	struct message message, answer;
	struct slice bulk;

	if (!o->up) {
		packet->used = false;
		return;
	}
	network_decode(sim, packet, &message, &bulk);
	sim_note(sim, "origin <- host%u arrives #%u %s", packet->host, packet->id,
		 message_name(message.type));
	switch (message.type) {
	case MESSAGE_session_open:
		session_open_arrives(sim, packet, &message.session_open);
		break;
	case MESSAGE_keepalive:
		answer.type = MESSAGE_kept_alive;
		answer.kept_alive.recall_sequence = 0;
		answer.kept_alive.term_ms = (uint32_t)(sim->profile.term / MS);
		answer.kept_alive.status = authority_keepalive(
			o->authority, origin_now(sim),
			(struct session_id){ message.keepalive.session }, &o->actions,
			&answer.kept_alive.recall_sequence);
		network_send(sim, packet->host, true, false, packet->id, &answer, NULL, 0);
		break;
	case MESSAGE_recall_stream:
		stream_arrives(sim, packet, &message.recall_stream);
		break;
	case MESSAGE_recall_acknowledge:
	case MESSAGE_lease_release:
	case MESSAGE_session_close:
		control_arrives(sim, packet, &message);
		break;
	case MESSAGE_reclaim:
		reclaim_arrives(sim, packet, &message.reclaim);
		break;
	default:
		if (locks_arrive(sim, packet, &message))
			break;
		request_arrives(sim, packet, &message, bulk);
		break;
	}
	perform(sim);
	packet->used = false;
	origin_after_step(sim);
}

/* ---- life, time, rules ---- */

/* The process dies between the store and anything that comes after it, too. */
static void die_in_the_store(struct sim *sim)
{
	struct origin *o = &sim->origin;

	for (uint32_t i = 0; i < o->operation_high; i++) {
		struct origin_operation *operation = &o->operations[i];

		if (!operation->used || !operation->running || operation->strict_read ||
		    sim->store.intents[i].used || operation->reply_length ||
		    !rng_chance(&sim->rng, 500) ||
		    !authority_may_apply(o->authority, origin_now(sim), operation->id) ||
		    authority_cover(o->authority, operation->id) == COVER_GONE ||
		    unseal_waits(sim, &operation->m))
			continue;
		slots_intent(sim, operation);
		if (rng_chance(&sim->rng, 500) && store_apply(sim, &operation->m)) {
			model_applied(sim, &operation->m);
			cache_check_applied(sim, &operation->m);
		}
	}
}

void origin_start(struct sim *sim)
{
	struct origin *o = &sim->origin;
	const struct profile *p = &sim->profile;
	struct store *store = &sim->store;
	struct authority_previous previous[RECORDS_MAX];
	struct authority_config config = {
		.term = { p->term },
		.drift_ppm = p->drift_ppm,
		.margin = { p->margin },
		.session_count_max = p->session_count_max,
		.slot_count_max = SLOTS_MAX,
		.lease_count_max = p->lease_count_max,
		.lease_total_max = p->lease_total_max,
		.operation_count_max = p->operation_count_max,
		.open_count_max = INODES_MAX,
		.lock_count_max = 40,
		.lock_total_max = 200,
		.ended_count_max = p->ended_count_max,
		.backoff_min = { p->backoff_min },
		.backoff_max = { p->backoff_max },
		.epoch = ++store->epoch,
		.seed = rng_next(&sim->rng),
	};
	uint32_t count = store->record_count;
	/* Sometimes the record cannot be read: then everything may be out there. */
	bool unknown = count > 0 && rng_chance(&sim->rng, 50);

	for (uint32_t i = 0; i < count; i++) {
		store->records[i].ended = false; /* that was not written in time */
		previous[i].session = store->records[i].session;
		memcpy(previous[i].host, store->records[i].host, 16);
	}
	o->up = true;
	o->life++;
	sim->arena.fail = 0;
	o->operation_high = 0;
	o->tick_at = UINT64_MAX;
	o->record_armed = false;
	o->record_unknown = unknown;
	memset(o->streams, 0, sizeof(o->streams));
	authority_actions_init(&o->actions, &sim->arena.allocator);
	/* That the machine was restarted, too, is told by its boot id: then the clock began anew. */
	bool rebooted = rng_chance(&sim->seal_rng, 300);

	if (authority_create(&config, &sim->arena.allocator, origin_now(sim), previous,
			     unknown ? 0 : count, unknown, (struct duration){ store->term_max },
			     &o->authority))
		sim_fail(sim, "no memory for an authority");
	record_restore_silent(sim, unknown, rebooted);
	slots_restore(sim);
	perform(sim);
	sim->arena.fail = sim->phase == PHASE_WILD ? p->starved : 0;
	/* Opens are of sessions, and none of those lives on: orphans go. */
	for (uint32_t i = 1; i < store->inode_count; i++)
		store_free(sim, i);
	o->grace_until = count ? origin_now(sim).ns + store->term_max + MS : 0;
	sim_note(sim, "ORIGIN STARTS, %u sessions in its record%s", count,
		 unknown ? ", which is unreadable" : "");
	origin_after_step(sim);
}

void origin_crash(struct sim *sim)
{
	struct origin *o = &sim->origin;

	sim_note(sim, "ORIGIN CRASHES");
	die_in_the_store(sim);
	o->up = false;
	authority_destroy(o->authority);
	o->authority = NULL;
	authority_actions_finish(&o->actions);
	o->tick_generation++;
	for (unsigned host = 0; host < sim->profile.host_count; host++) {
		if (o->streams[host].id)
			sim_schedule(sim, sim->now + rng_below(&sim->rng, 500 * MS),
				     EVENT_STREAM_LOST, host, 0, o->streams[host].id);
		o->streams[host].id = 0;
	}
}

void origin_tick(struct sim *sim, uint32_t generation)
{
	struct origin *o = &sim->origin;

	if (!o->up || o->tick_generation != generation)
		return;
	o->tick_at = UINT64_MAX;
	authority_tick(o->authority, origin_now(sim), &o->actions);
	perform(sim);
	if (!instant_before(origin_now(sim), authority_timer(o->authority)))
		sim_fail(sim, "the authority wants to be woken for what it has just done");
	origin_after_step(sim);
}

/* Nothing that was begun before it and shares an inode with it is under way. */
static bool is_first(const struct origin *o, const struct origin_operation *operation)
{
	for (uint32_t i = 0; i < o->operation_high; i++) {
		const struct origin_operation *other = &o->operations[i];

		if (!other->used || other->id >= operation->id)
			continue;
		for (uint32_t a = 0; a < other->op.target_count; a++) {
			for (uint32_t b = 0; b < operation->op.target_count; b++) {
				if (handle_equal(&other->op.targets[a].handle,
						 &operation->op.targets[b].handle))
					return false;
			}
		}
	}
	return true;
}

/* I8: once it is its turn, an operation waits for no host longer than its session can last. */
static void check_waits(struct sim *sim)
{
	struct origin *o = &sim->origin;
	uint64_t now = origin_now(sim).ns;
	bool grace = authority_grace(o->authority, (struct instant){ now }).ns > 0;
	/* Renewal stops when a recall has been out for a third of the term (4.4). */
	uint64_t bound = origin_promise(&sim->profile) + sim->profile.term / 3 + MS +
			 (sim->profile.starved ? 200 * MS : 0);

	if (grace && now > o->grace_until)
		sim_fail(sim, "I8: grace lasts longer than the longest promise");
	if (sim->phase == PHASE_MILD && sim->now - sim->phase_at > sim->profile.mild / 2)
		bound = sim->profile.term / 2;
	for (uint32_t i = 0; i < o->operation_high; i++) {
		struct origin_operation *operation = &o->operations[i];

		if (!operation->used || operation->running)
			continue;
		if (grace)
			operation->first_at = 0;
		else if (!operation->first_at && is_first(o, operation))
			operation->first_at = now;
		if (operation->first_at && now - operation->first_at > bound)
			sim_fail(sim, "I8: operation %" PRIu64 " has waited %" PRIu64
				 " ms at the head of its queues", operation->id,
				 (now - operation->first_at) / MS);
	}
}

void origin_after_step(struct sim *sim)
{
	struct origin *o = &sim->origin;
	uint64_t at;

	if (!sim->observed_only)
		authority_check_invariants(o->authority);
	check_waits(sim);
	if (authority_record_pending(o->authority))
		locks_record_later(sim);
	at = authority_timer(o->authority).ns;
	if (at == o->tick_at)
		return;
	o->tick_at = at;
	o->tick_generation++;
	if (at != UINT64_MAX)
		sim_schedule(sim, clock_reaches(&o->clock, at), EVENT_ORIGIN_TICK, 0, 0,
			     o->tick_generation);
}
