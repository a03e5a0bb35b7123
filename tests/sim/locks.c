/*
 * Advisory locks: a few processes on each host that lock, wait, give up and die, around the real
 * cores. After every step no two hosts whose sessions are valid by their own clocks believe in locks
 * that exclude each other, and what a host believes in the origin has. In the end everybody gets what
 * is free.
 */
#include "tests/sim/sim.h"

#include <inttypes.h>

#define LOCK_INODES 3
#define LOCK_BYTES 6

static uint64_t draw(struct sim *sim, uint64_t bound)
{
	return rng_below(&sim->lock_rng, bound);
}

bool locks_on(const struct sim *sim)
{
	return sim->profile.locker_count > 0;
}

/* ---- the origin ---- */

/* Somebody's end is written down some time after it came about. */
void locks_record_later(struct sim *sim)
{
	if (!locks_on(sim) || sim->origin.record_armed)
		return;
	sim->origin.record_armed = true;
	/* In the wild phase the disk is slow, and the next process finds what the last one wrote. */
	sim_schedule(sim, sim->now + draw(sim, sim->phase == PHASE_WILD ? 2 * sim->profile.term : 50 * MS),
		     EVENT_RECORD, 0, 0, sim->origin.life);
}

void locks_offer(struct sim *sim, const struct authority_action *action)
{
	struct message message = { .type = MESSAGE_lock_offer };

	message.lock_offer.status = action->status;
	message.lock_offer.waiter = action->waiter;
	for (unsigned host = 0; host < sim->profile.host_count; host++) {
		const struct origin_stream *stream = &sim->origin.streams[host];

		if (stream->id && stream->session.value == action->session.value)
			network_send(sim, host, true, true, stream->id, &message, NULL, 0);
	}
}

static void reclaim(struct sim *sim, const struct message_lock_reclaim *m, struct message *answer,
		    uint8_t *confirmed)
{
	struct authority *a = sim->origin.authority;
	struct reader r = reader_of(m->items.data, m->items.length);
	struct session_id session = { m->session };
	struct item_lock_claim item;
	size_t count = 0;

	answer->type = MESSAGE_lock_reclaimed;
	if (!authority_session_alive(a, origin_now(sim), session)) {
		answer->lock_reclaimed.status = STATUS_NOSESSION;
		return;
	}
	while (item_lock_claim_read(&r, &item)) {
		struct lock_request claim = { item.handle, (enum lock_kind)item.kind, item.owner,
					      { item.start, item.end, item.pid, item.type }, 0 };

		confirmed[count++] = authority_lock_reclaim(a, origin_now(sim), session, &claim,
							    &sim->origin.actions);
	}
	if (m->last)
		authority_locks_reclaimed(a, session);
	answer->lock_reclaimed.confirmed = (struct slice){ confirmed, count };
}

bool locks_arrive(struct sim *sim, const struct packet *packet, const struct message *message)
{
	struct origin *o = &sim->origin;
	struct message answer = { .type = MESSAGE_lock_answer };
	uint8_t confirmed[PACKET_BYTES];

	if (message->type == MESSAGE_lock) {
		const struct message_lock *m = &message->lock;
		struct lock_request request = { m->handle, (enum lock_kind)m->kind, m->owner,
						{ m->start, m->end, m->pid, m->type }, m->waiter };

		answer.lock_answer.status =
			authority_lock(o->authority, origin_now(sim),
				       (struct session_id){ m->session }, m->id, &request,
				       &o->actions);
	} else if (message->type == MESSAGE_lock_settle) {
		answer.type = MESSAGE_acknowledged;
		answer.acknowledged.status = authority_lock_settle(
			o->authority, origin_now(sim),
			(struct session_id){ message->lock_settle.session },
			message->lock_settle.waiter, message->lock_settle.take, &o->actions);
	} else if (message->type == MESSAGE_lock_reclaim) {
		reclaim(sim, &message->lock_reclaim, &answer, confirmed);
	} else {
		return false;
	}
	network_send(sim, packet->host, true, false, packet->id, &answer, NULL, 0);
	return true;
}

/* ---- hosts ---- */

static void think(struct sim *sim, unsigned index, unsigned number)
{
	sim_schedule(sim, sim->now + 5 * MS + draw(sim, sim->profile.think_max), EVENT_LOCKER,
		     index, number, sim->hosts[index].life);
}

void locks_start(struct sim *sim, unsigned index)
{
	struct host *h = &sim->hosts[index];
	uint32_t fail = sim->arena.fail;

	holder_lock_actions_init(&h->lock_actions, &sim->arena.allocator);
	sim->arena.fail = 0;
	if (holder_locks_create(32, &sim->arena.allocator, index, &h->locks))
		sim_fail(sim, "no memory for locks");
	sim->arena.fail = fail;
	memset(h->lockers, 0, sizeof(h->lockers));
	for (unsigned i = 0; i < sim->profile.locker_count; i++)
		think(sim, index, i);
}

void locks_stop(struct sim *sim, unsigned index)
{
	struct host *h = &sim->hosts[index];

	holder_locks_destroy(h->locks);
	h->locks = NULL;
	holder_lock_actions_finish(&h->lock_actions);
}

static void answered(struct sim *sim, unsigned index, const struct holder_lock_action *action)
{
	struct host *h = &sim->hosts[index];

	for (unsigned i = 0; i < LOCKERS_MAX; i++) {
		if (h->lockers[i].token != action->token)
			continue;
		sim_note(sim, "locker %u of host %u is told %d", i, index, action->status);
		h->lockers[i].token = 0;
		sim->model.locks += action->status == 0;
		return;
	}
	sim_fail(sim, "a lock request of host %u is answered twice", index);
}

void locks_perform(struct sim *sim, unsigned index)
{
	struct host *h = &sim->hosts[index];

	for (size_t i = 0; i < h->lock_actions.count; i++) {
		struct holder_lock_action *action = &h->lock_actions.items[i];
		struct request *request;

		switch (action->kind) {
		case HOLDER_LOCKS_SEND:
			request = host_request(sim, index, FOR_LOCK, 300 * MS);
			request->session = action->session;
			request->lock_id = action->id;
			host_request_send(sim, index, request, &action->message, NULL, 0);
			break;
		case HOLDER_LOCKS_ANSWER:
			answered(sim, index, action);
			break;
		case HOLDER_LOCKS_LOST:
			sim_note(sim, "host %u lost locks of file %" PRIu64, index, action->file);
			break;
		case HOLDER_LOCKS_SETTLED:
			host_locks_settled(sim, index);
			break;
		}
	}
	h->lock_actions.count = 0;
	if (!sim->observed_only)
		holder_locks_check_invariants(h->locks);
}

/* ---- those who lock ---- */

static bool unlocks(struct sim *sim, const struct locker *locker)
{
	return sim->phase == PHASE_QUIET || locker->closing || draw(sim, 3) == 0;
}

/* Through a descriptor that lost a lock nothing is locked: it is closed, and another opened. */
static void reopen(struct sim *sim, unsigned index, unsigned number)
{
	struct host *h = &sim->hosts[index];
	uint64_t file = h->lockers[number].file;

	for (uint32_t inode = 1; inode <= LOCK_INODES; inode++) {
		struct handle handle = store_handle(inode);

		holder_locks_release(h->locks, host_now(sim, h), &handle, file, &h->lock_actions);
	}
	h->lockers[number].file = ++h->file_last * LOCKERS_MAX + number + 1;
	sim_note(sim, "locker %u of host %u has file %" PRIu64 " for %" PRIu64, number, index,
		 h->lockers[number].file, file);
}

static void ask(struct sim *sim, unsigned index, unsigned number)
{
	struct host *h = &sim->hosts[index];
	struct locker *locker = &h->lockers[number];
	uint64_t start = draw(sim, LOCK_BYTES);
	struct lock_request request = {
		.handle = store_handle(1 + (uint32_t)draw(sim, LOCK_INODES)),
		.kind = number == 0 ? LOCK_KIND_FCNTL : LOCK_KIND_FLOCK,
		.owner = locker->file,
		.range = { start, start + draw(sim, LOCK_BYTES - start), number, 0 },
	};

	if (unlocks(sim, locker)) {
		/* One inode after another; the last time is the end. */
		request.handle = store_handle(1 + locker->closing % LOCK_INODES);
		request.range.start = 0;
		request.range.end = LOCK_END;
		locker->closing = (locker->closing + 1) % (LOCK_INODES + 1);
		locker->released = locker->closing == 0 && sim->phase == PHASE_QUIET;
	} else {
		request.range.type = draw(sim, 2) ? LOCK_TYPE_READ : LOCK_TYPE_WRITE;
		request.waiter = draw(sim, 2);
		if (number > 0) {
			/* Nobody finds deadlocks of flock: one inode, and for the whole of it. */
			request.handle = store_handle(1);
			request.range.start = 0;
			request.range.end = LOCK_END;
		}
	}
	locker->token = ++h->token_last;
	sim_note(sim, "locker %u of host %u: type %u of inode %u, %" PRIu64 "-%" PRIu64 "%s", number,
		 index, request.range.type, store_inode_of(sim, &request.handle),
		 request.range.start, request.range.end, request.waiter ? ", waits" : "");
	if (holder_locks_set(h->locks, host_now(sim, h), &request, locker->file, locker->token,
			     &h->lock_actions)) {
		locker->token = 0;
		if (!locker->closing)
			reopen(sim, index, number);
	} else if (locker->token % 4 == 0) {
		holder_locks_flushed(h->locks, locker->file);
	}
}

void locks_step(struct sim *sim, unsigned index, unsigned number, uint32_t life)
{
	struct host *h = &sim->hosts[index];
	struct locker *locker = &h->lockers[number];

	if (!h->up || h->life != life)
		return;
	if (!locker->file)
		locker->file = ++h->file_last * LOCKERS_MAX + number + 1;
	if (locker->token && sim->phase != PHASE_QUIET && draw(sim, 4) == 0)
		holder_locks_interrupt(h->locks, host_now(sim, h), locker->token,
				       draw(sim, 3) == 0, &h->lock_actions);
	else if (!locker->token && !locker->released)
		ask(sim, index, number);
	if (!locker->released || locker->token)
		think(sim, index, number);
	host_after_step(sim, index);
}

/* ---- the rules ---- */

static bool believes(struct sim *sim, unsigned index)
{
	const struct host *h = &sim->hosts[index];

	return h->up && holder_locks_ready(h->locks) &&
	       holder_valid(h->holder, host_now(sim, h));
}

static void check_backed(struct sim *sim, unsigned index, struct lock_request mine)
{
	struct session_id session = holder_session(sim->hosts[index].holder);

	if (!sim->origin.up ||
	    !authority_session_alive(sim->origin.authority, origin_now(sim), session))
		return; /* an earlier process had it, and the host does not know */
	for (; mine.range.start <= mine.range.end && mine.range.start <= LOCK_BYTES;
	     mine.range.start++) {
		if (!authority_lock_backs(sim->origin.authority, session, &mine))
			sim_fail(sim, "LOCKS: host %u believes in more than it has", index);
	}
}

void locks_check(struct sim *sim, unsigned index)
{
	struct lock_request mine, other;

	if (!locks_on(sim) || !believes(sim, index))
		return;
	for (size_t i = 0; holder_locks_next(sim->hosts[index].locks, &i, &mine);) {
		check_backed(sim, index, mine);
		for (unsigned b = 0; b < sim->profile.host_count; b++) {
			if (!believes(sim, b))
				continue;
			for (size_t j = 0; holder_locks_next(sim->hosts[b].locks, &j, &other);) {
				if ((index == b && mine.owner == other.owner) ||
				    mine.kind != other.kind ||
				    !handle_equal(&mine.handle, &other.handle))
					continue;
				if (lock_conflicts(&mine.range, &other.range))
					sim_fail(sim, "LOCKS: hosts %u and %u both have one", index,
						 b);
			}
		}
	}
}

void locks_final_check(struct sim *sim)
{
	for (unsigned index = 0; index < sim->profile.host_count; index++) {
		const struct host *h = &sim->hosts[index];

		for (unsigned i = 0; h->up && i < sim->profile.locker_count; i++) {
			if (h->lockers[i].token || !h->lockers[i].released)
				sim_fail(sim, "LOCKS: locker %u of host %u waits in the end", i, index);
		}
	}
}
