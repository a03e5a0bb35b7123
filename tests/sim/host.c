/*
 * One host around the real holder: its session, its requests, its recalls, and its guardian. What
 * the daemon of a mount does in threads is done here in steps.
 */
#include "tests/sim/sim.h"

#include <assert.h>
#include <inttypes.h>

struct instant host_now(struct sim *sim, const struct host *host)
{
	return (struct instant){ clock_read(&host->clock, sim->now) };
}

/* A time of this host's clock, `local` from now, in true time. */
static uint64_t host_later(struct sim *sim, const struct host *host, uint64_t local)
{
	return clock_reaches(&host->clock, host_now(sim, host).ns + local);
}

/* ---- requests ---- */

struct request *host_request(struct sim *sim, unsigned index, enum request_purpose purpose,
			     uint64_t timeout)
{
	struct host *h = &sim->hosts[index];
	struct request *request;
	uint32_t i;

	for (i = 0; i < h->request_high && h->requests[i].used; i++)
		;
	if (i == REQUESTS_MAX)
		sim_fail(sim, "host %u has too many requests under way", index);
	if (i == h->request_high)
		h->request_high++;
	request = &h->requests[i];
	memset(request, 0, offsetof(struct request, data));
	request->used = true;
	request->id = ++h->next_id;
	request->purpose = purpose;
	request->session = holder_session(h->holder);
	request->timeout = timeout;
	return request;
}

static void arm_request(struct sim *sim, unsigned index, struct request *request)
{
	struct host *h = &sim->hosts[index];

	sim_schedule(sim, host_later(sim, h, request->timeout), EVENT_REQUEST, index,
		     (unsigned)(request - h->requests), request->id);
}

void host_request_send(struct sim *sim, unsigned index, struct request *request,
		       const struct message *message, const void *bulk, size_t bulk_length)
{
	request->sent = host_now(sim, &sim->hosts[index]);
	request->length = (uint16_t)network_encode(sim, message, bulk, bulk_length, request->data);
	request->bulk_length = (uint16_t)bulk_length;
	network_send_bytes(sim, index, false, false, request->id, request->data, request->length,
			   bulk_length);
	arm_request(sim, index, request);
}

void host_request_free(struct sim *sim, unsigned index, struct request *request)
{
	if (request->stamp)
		holder_request_end(sim->hosts[index].holder, request->stamp);
	request->used = false;
}

/* ---- what the holder asks for ---- */

static void send_session_open(struct sim *sim, unsigned index)
{
	struct host *h = &sim->hosts[index];
	struct message message = { .type = MESSAGE_session_open };
	struct message_session_open *open = &message.session_open;

	h->open_wanted = false;
	open->version_min = PROTOCOL_VERSION_MIN;
	open->version_max = PROTOCOL_VERSION_MAX;
	open->host = (struct slice){ h->identity, sizeof(h->identity) };
	open->instance = h->instance;
	open->previous_session = h->open_previous.value;
	open->export = slice_of("data");
	open->slot_count = sim->profile.slot_count;
	open->locks = holder_locks_any(h->locks);
	host_request_send(sim, index,
			  host_request(sim, index, FOR_SESSION_OPEN, sim->profile.term / 6),
			  &message, NULL, 0);
}

static void send_stream_open(struct sim *sim, unsigned index, struct session_id session)
{
	struct host *h = &sim->hosts[index];
	struct message message = { .type = MESSAGE_recall_stream };
	struct request *request = host_request(sim, index, FOR_STREAM, sim->profile.term / 6);

	message.recall_stream.session = session.value;
	message.recall_stream.recall_sequence = holder_recall_sequence(h->holder);
	request->session = session;
	h->stream = request->id;
	host_request_send(sim, index, request, &message, NULL, 0);
}

static void send_keepalive(struct sim *sim, unsigned index, struct session_id session)
{
	struct host *h = &sim->hosts[index];
	struct message message = { .type = MESSAGE_keepalive };
	struct request *request = host_request(sim, index, FOR_KEEPALIVE, sim->profile.term);

	message.keepalive.session = session.value;
	message.keepalive.recall_sequence = holder_recall_sequence(h->holder);
	request->session = session;
	/* Some answers are waited for longer than is wise, and used when they come. */
	if (rng_chance(&sim->rng, 500))
		request->timeout = sim->profile.term / 8;
	host_request_send(sim, index, request, &message, NULL, 0);
}

static void send_acknowledge(struct sim *sim, unsigned index, const struct holder_action *action)
{
	struct message message = { .type = MESSAGE_recall_acknowledge };
	struct item_acknowledgement item = { action->sequence, action->open, action->kept };
	struct request *request = host_request(sim, index, FOR_ACKNOWLEDGE, 300 * MS);
	uint8_t bytes[32];
	struct writer w = writer_of(bytes, sizeof(bytes));

	item_acknowledgement_write(&w, &item);
	message.recall_acknowledge.session = action->session.value;
	message.recall_acknowledge.items = (struct slice){ bytes, w.at };
	request->session = action->session;
	host_request_send(sim, index, request, &message, NULL, 0);
}

static void send_release(struct sim *sim, unsigned index, const struct holder_action *action)
{
	struct message message = { .type = MESSAGE_lease_release };
	struct item_handle item = { action->handle };
	struct request *request = host_request(sim, index, FOR_RELEASE, 300 * MS);
	uint8_t bytes[80];
	struct writer w = writer_of(bytes, sizeof(bytes));

	item_handle_write(&w, &item);
	message.lease_release.session = action->session.value;
	message.lease_release.handles = (struct slice){ bytes, w.at };
	request->session = action->session;
	host_request_send(sim, index, request, &message, NULL, 0);
}

/* Sends what was collected; a lost one is sent again as it is. */
static void send_reclaim(struct sim *sim, unsigned index, struct session_id session, bool last)
{
	struct host *h = &sim->hosts[index];
	struct message message = { .type = MESSAGE_reclaim };
	struct request *request = host_request(sim, index, FOR_RECLAIM, 300 * MS);
	uint8_t bytes[INODES_MAX * 40];
	struct writer w = writer_of(bytes, sizeof(bytes));

	for (uint32_t i = 0; i < h->reclaim_count; i++)
		item_claim_write(&w, &h->reclaim[i]);
	h->reclaim_count = 0;
	message.reclaim.session = session.value;
	message.reclaim.last = last;
	message.reclaim.items = (struct slice){ bytes, w.at };
	request->session = session;
	request->stamp = holder_request_begin(h->holder);
	host_request_send(sim, index, request, &message, NULL, 0);
}

static void add_claim(struct sim *sim, unsigned index, const struct holder_action *action)
{
	struct host *h = &sim->hosts[index];
	struct item_claim claim = { .lease = action->kept ? LEASE_WRITE : LEASE_READ,
				    .handle = action->handle,
				    .change = action->change };

	h->reclaim[h->reclaim_count++] = claim;
	/* Two messages rather than one when it is more than a few: bulk is sent in pieces. */
	if (h->reclaim_count >= INODES_MAX / 2 && holder_locks_ready(h->locks))
		send_reclaim(sim, index, action->session, false);
}

/* The daemon drops what it holds in memory at once; the kernel's part takes time. */
static void begin_drop(struct sim *sim, unsigned index, const struct holder_action *action)
{
	struct host *h = &sim->hosts[index];
	uint64_t delay = rng_below(&sim->rng, sim->profile.drop_max);
	uint32_t inode = store_inode_of(sim, &action->handle);
	struct drop *drop = NULL;
	unsigned i;

	for (i = 0; i < DROPS_MAX && !drop; i++) {
		if (!h->drops[i].used)
			drop = &h->drops[i];
	}
	if (!drop)
		sim_fail(sim, "host %u is asked to drop too much at once", index);
	i = (unsigned)(drop - h->drops);
	if (h->wedged_until > sim->now)
		delay += h->wedged_until - sim->now;
	*drop = (struct drop){ .used = true,
			       .id = ++h->next_id,
			       .session = action->session,
			       .sequence = action->sequence,
			       .inode = inode,
			       .scope = action->scope };
	h->copies[inode].drops++;
	cache_drop(sim, index, action);
	sim_schedule(sim, sim->now + delay, EVENT_DROPPED, index, i, drop->id);
}

/* Pages go first, then whatever says that they are gone: an opened session ends the old one. */
static void begin_drop_all(struct sim *sim, unsigned index)
{
	struct host *h = &sim->hosts[index];

	h->dropping_all = true;
	stores_lose_all(sim, index);
	sim_schedule(sim, host_later(sim, h, rng_below(&sim->rng, sim->profile.fence_margin)),
		     EVENT_DROPPED_ALL, index, 0, h->life);
}

static void tell_guardian(struct sim *sim, unsigned index, struct instant until)
{
	struct host *h = &sim->hosts[index];

	h->fence_at = until.ns;
	h->fence_generation++;
	/* Fencing takes time, at most the margin that the holder keeps for it. */
	sim_schedule(sim,
		     clock_reaches(&h->clock,
				   until.ns + rng_below(&sim->rng, sim->profile.fence_margin)),
		     EVENT_FENCE, index, 0, h->fence_generation);
}

void host_perform(struct sim *sim, unsigned index)
{
	struct host *h = &sim->hosts[index];

	for (size_t i = 0; i < h->actions.count; i++) {
		struct holder_action *action = &h->actions.items[i];

		switch (action->kind) {
		case HOLDER_SEND_SESSION_OPEN:
			h->open_previous = action->session;
			h->open_wanted = true;
			if (!h->dropping_all)
				send_session_open(sim, index);
			break;
		case HOLDER_OPEN_STREAM:
			send_stream_open(sim, index, action->session);
			break;
		case HOLDER_SEND_KEEPALIVE:
			send_keepalive(sim, index, action->session);
			break;
		case HOLDER_SEND_ACKNOWLEDGE:
			send_acknowledge(sim, index, action);
			break;
		case HOLDER_SEND_RELEASE:
			send_release(sim, index, action);
			break;
		case HOLDER_SEND_RECLAIM:
			add_claim(sim, index, action);
			break;
		case HOLDER_SEND_RECLAIM_DONE:
			h->reclaim_done_waits = !holder_locks_ready(h->locks);
			if (!h->reclaim_done_waits)
				send_reclaim(sim, index, action->session, true);
			break;
		case HOLDER_DROP:
			begin_drop(sim, index, action);
			break;
		case HOLDER_DROP_ALL:
			sim_note(sim, "host %u drops all", index);
			h->reclaim_done_waits = false;
			holder_locks_session_lost(h->locks, host_now(sim, h), &h->lock_actions);
			begin_drop_all(sim, index);
			break;
		case HOLDER_LOST:
			stores_lose(sim, index, store_inode_of(sim, &action->handle));
			break;
		case HOLDER_RENEWED:
			tell_guardian(sim, index, action->until);
			break;
		}
	}
	h->actions.count = 0;
}

/* ---- answers ---- */

static void session_opened(struct sim *sim, unsigned index, const struct request *request,
			   const struct message_session_opened *opened)
{
	struct host *h = &sim->hosts[index];

	h->reclaim_count = 0;
	if (opened->status == STATUS_OK) {
		/* A new session has new slots; what is under way keeps its old ones. */
		h->slot_session = (struct session_id){ opened->session };
		h->slot_count = opened->slot_count < SLOTS_MAX ? opened->slot_count : SLOTS_MAX;
		/* The last one is for write-back; with a single one there is none. */
		if (h->slot_count > 1)
			h->slot_count--;
		h->may_store = h->slot_count < opened->slot_count;
		memset(h->slots, 0, sizeof(h->slots));
		for (unsigned a = 0; a < sim->profile.app_count; a++)
			h->apps[a].slot = -1;
	}
	holder_session_opened(h->holder, host_now(sim, h), request->sent, opened, &h->actions);
	if (opened->status == STATUS_OK && holder_state(h->holder) == HOLDER_ACTIVE &&
	    holder_session(h->holder).value == opened->session)
		holder_locks_session_opened(h->locks, host_now(sim, h), holder_session(h->holder),
					    opened->locks, &h->lock_actions);
}

void host_locks_settled(struct sim *sim, unsigned index)
{
	struct host *h = &sim->hosts[index];

	if (h->reclaim_done_waits)
		send_reclaim(sim, index, holder_session(h->holder), true);
	h->reclaim_done_waits = false;
}

static void reclaimed(struct sim *sim, unsigned index, const struct request *request,
		      const struct message_reclaimed *reclaimed)
{
	struct host *h = &sim->hosts[index];
	struct message message;
	struct reader r;
	struct item_claim claim;
	size_t i = 0;

	if (reclaimed->status != STATUS_OK ||
	    message_decode((struct slice){ request->data, request->length }, &message))
		return;
	r = reader_of(message.reclaim.items.data, message.reclaim.items.length);
	while (item_claim_read(&r, &claim) && i < reclaimed->confirmed.length) {
		uint8_t confirmed = reclaimed->confirmed.data[i++];
		const struct change unknown = { 0, 0 };

		holder_reclaimed(h->holder, host_now(sim, h), request->session, request->stamp,
				 reclaimed->recall_sequence, &claim.handle,
				 confirmed == CONFIRMED_ELSEWHERE ? unknown : claim.change,
				 confirmed != 0, &h->actions);
		if (claim.lease == LEASE_WRITE &&
		    request->session.value == holder_session(h->holder).value)
			stores_reclaimed(sim, index, store_inode_of(sim, &claim.handle),
					 request->session, reclaimed->recall_sequence,
					 confirmed != 0);
	}
}

/* Tells the holder when an answer says that a session is no more. */
static void look_for_nosession(struct sim *sim, unsigned index, const struct request *request,
			       const struct message *answer)
{
	struct host *h = &sim->hosts[index];
	uint16_t status = STATUS_OK;

	if (answer->type == MESSAGE_acknowledged)
		status = answer->acknowledged.status;
	else if (answer->type == MESSAGE_kept_alive)
		status = answer->kept_alive.status;
	else if (answer->type == MESSAGE_reclaimed)
		status = answer->reclaimed.status;
	else if (answer->type == MESSAGE_lock_answer)
		status = answer->lock_answer.status;
	else if (answer->type == MESSAGE_lock_reclaimed)
		status = answer->lock_reclaimed.status;
	else if (answer->type == MESSAGE_reply)
		status = answer->reply.status;
	if (status == STATUS_NOSESSION || status == STATUS_UNKNOWNOUTCOME)
		holder_session_refused(h->holder, host_now(sim, h), request->session, &h->actions);
}

static void stream_frame(struct sim *sim, unsigned index, const struct packet *packet,
			 const struct message *message)
{
	struct host *h = &sim->hosts[index];
	struct request *request = NULL;

	if (!h->stream || packet->id != h->stream || packet->id == h->stream_broken)
		return;
	for (uint32_t i = 0; i < h->request_high; i++) {
		if (h->requests[i].used && h->requests[i].id == packet->id)
			request = &h->requests[i];
	}
	if (message->type == MESSAGE_acknowledged) {
		if (request) {
			holder_stream_attached(h->holder, host_now(sim, h), request->session,
					       &h->actions);
			host_request_free(sim, index, request);
		}
		return;
	}
	if (message->type == MESSAGE_lock_offer) {
		holder_locks_offered(h->locks, host_now(sim, h), holder_session(h->holder),
				     &message->lock_offer, &h->lock_actions);
		return;
	}
	holder_recall(h->holder, host_now(sim, h), holder_session(h->holder), &message->recall,
		      &h->actions);
}

static void answer(struct sim *sim, unsigned index, struct request *request,
		   const struct message *message, struct slice bulk)
{
	struct host *h = &sim->hosts[index];
	struct instant now = host_now(sim, h);

	switch (request->purpose) {
	case FOR_APP:
		/* Before the request ends: it stands for its place among the recalls (I3). */
		look_for_nosession(sim, index, request, message);
		app_answer(sim, index, request, message, bulk);
		return;
	case FOR_SESSION_OPEN:
		session_opened(sim, index, request, &message->session_opened);
		break;
	case FOR_KEEPALIVE:
		holder_kept_alive(h->holder, now, request->sent, request->session,
				  &message->kept_alive, &h->actions);
		break;
	case FOR_STREAM:
		/* Only a refusal comes this way. */
		if (h->stream == request->id) {
			h->stream = 0;
			holder_stream_lost(h->holder, now, request->session, &h->actions);
		}
		break;
	case FOR_RECLAIM:
		reclaimed(sim, index, request, &message->reclaimed);
		break;
	case FOR_LOCK:
		holder_locks_answered(h->locks, now, request->session, request->lock_id, message,
				      &h->lock_actions);
		break;
	case FOR_WRITE_BACK:
		stores_answered(sim, index, request, message);
		return;
	case FOR_ACKNOWLEDGE:
	case FOR_RELEASE:
		break;
	}
	look_for_nosession(sim, index, request, message);
	host_request_free(sim, index, request);
}

void host_packet(struct sim *sim, struct packet *packet)
{
	unsigned index = packet->host;
	struct host *h = &sim->hosts[index];
	struct message message;
	struct slice bulk;

	if (!h->up) {
		packet->used = false;
		return;
	}
	network_decode(sim, packet, &message, &bulk);
	sim_note(sim, "host%u <- origin arrives #%u %s", index, packet->id,
		 message_name(message.type));
	if (packet->on_stream) {
		stream_frame(sim, index, packet, &message);
	} else {
		for (uint32_t i = 0; i < h->request_high; i++) {
			if (h->requests[i].used && h->requests[i].id == packet->id) {
				answer(sim, index, &h->requests[i], &message, bulk);
				break;
			}
		}
	}
	packet->used = false;
	host_after_step(sim, index);
}

void host_request_timeout(struct sim *sim, unsigned index, unsigned number, uint32_t id)
{
	struct host *h = &sim->hosts[index];
	struct request *request = &h->requests[number];
	struct instant now = host_now(sim, h);

	if (!h->up || !request->used || request->id != id)
		return;
	switch (request->purpose) {
	case FOR_APP:
		app_unanswered(sim, index, request);
		host_after_step(sim, index);
		return;
	case FOR_SESSION_OPEN:
		holder_session_failed(h->holder, now, &h->actions);
		break;
	case FOR_KEEPALIVE:
		holder_keepalive_failed(h->holder, now, request->session, &h->actions);
		break;
	case FOR_STREAM:
		if (h->stream == request->id) {
			h->stream = 0;
			holder_stream_lost(h->holder, now, request->session, &h->actions);
		}
		break;
	case FOR_ACKNOWLEDGE:
	case FOR_RELEASE:
	case FOR_RECLAIM:
	case FOR_LOCK:
	case FOR_WRITE_BACK:
		/* Again and again, until it is answered or pointless. */
		if (request->purpose != FOR_WRITE_BACK &&
		    request->session.value != holder_session(h->holder).value)
			break;
		network_send_bytes(sim, index, false, false, request->id, request->data,
				   request->length, request->bulk_length);
		arm_request(sim, index, request);
		return;
	}
	host_request_free(sim, index, request);
	host_after_step(sim, index);
}

/* ---- drops, fences, streams ---- */

void host_drop_done(struct sim *sim, unsigned index, unsigned number, uint32_t id)
{
	struct host *h = &sim->hosts[index];
	struct drop *drop = &h->drops[number];
	struct copy *copy = &h->copies[drop->inode];
	bool open = false;

	if (!h->up || !drop->used || drop->id != id)
		return;
	if (drop->scope == RECALL_ALL && copy->stored_session.value) {
		/* PROTOCOL.md 5.7: the page goes first, and what was stored to it with it. */
		copy->page_valid = 0;
		if (!stores_clean(h, drop->inode)) {
			stores_flush(sim, index, drop->inode);
			host_perform(sim, index);
			sim_schedule(sim, sim->now + 5 * MS, EVENT_DROPPED, index, number, id);
			return;
		}
		copy->stored_session.value = 0;
	}
	drop->used = false;
	copy->drops--;
	if (drop->scope == RECALL_ALL) {
		/* What is in flight on it may no longer enter the kernel. */
		cache_drop_pages(h, drop->inode);
		open = copy->open && drop->session.value == holder_session(h->holder).value;
		copy->registered |= open;
	}
	sim_note(sim, "host %u has dropped recall %" PRIu64, index, drop->sequence);
	holder_dropped(h->holder, host_now(sim, h), drop->session, drop->sequence, open,
		       &h->actions);
	host_after_step(sim, index);
}

void host_dropped_all(struct sim *sim, unsigned index, uint32_t life)
{
	struct host *h = &sim->hosts[index];

	if (!h->up || h->life != life || !h->dropping_all)
		return;
	h->dropping_all = false;
	cache_drop_all(sim, h);
	if (h->open_wanted)
		send_session_open(sim, index);
	host_after_step(sim, index);
}

void host_fence(struct sim *sim, unsigned index, uint32_t generation)
{
	struct host *h = &sim->hosts[index];

	/* The guardian lives and runs whatever became of its daemon. */
	if (generation == h->fence_generation) {
		for (uint32_t i = 0; i < INODES_MAX; i++) {
			h->copies[i].drop_epoch++;
			h->copies[i].page_valid = 0;
		}
	} else if (generation == h->orphan_fence_generation) {
		h->orphan_fence_generation = 0;
		for (uint32_t i = 0; i < INODES_MAX; i++)
			h->copies[i].orphan_valid = 0;
	} else {
		return;
	}
	sim_note(sim, "guardian of host %u fences", index);
}

void host_stream_lost(struct sim *sim, unsigned index, uint32_t stream)
{
	struct host *h = &sim->hosts[index];

	if (!h->up || h->stream != stream)
		return;
	sim_note(sim, "host %u lost its stream #%u", index, stream);
	h->stream = 0;
	for (uint32_t i = 0; i < h->request_high; i++) {
		if (h->requests[i].used && h->requests[i].id == stream)
			host_request_free(sim, index, &h->requests[i]);
	}
	holder_stream_lost(h->holder, host_now(sim, h), holder_session(h->holder), &h->actions);
	host_after_step(sim, index);
}

/* ---- life, time, rules ---- */

void host_start(struct sim *sim, unsigned index)
{
	struct host *h = &sim->hosts[index];
	const struct profile *p = &sim->profile;
	struct holder_config config = {
		.fence_margin = { p->fence_margin },
		.lease_count_max = p->host_lease_count_max,
		.recall_window_max = p->recall_window_max,
		.retry_min_ms = 10,
		.retry_max_ms = 200,
	};

	h->up = true;
	h->life++;
	h->instance = rng_next(&sim->rng);
	h->tick_at = UINT64_MAX;
	h->tick_generation++;
	memset(h->identity, (int)('a' + index), sizeof(h->identity));
	sim_note(sim, "HOST %u STARTS", index);
	sim->arena.fail = 0;
	holder_actions_init(&h->actions, &sim->arena.allocator);
	if (holder_create(&config, &sim->arena.allocator, rng_next(&sim->rng), &h->holder))
		sim_fail(sim, "no memory for a holder");
	sim->arena.fail = sim->phase == PHASE_WILD ? p->starved : 0;
	locks_start(sim, index);
	holder_connect(h->holder, host_now(sim, h), &h->actions);
	app_start(sim, index);
	host_after_step(sim, index);
}

void host_crash(struct sim *sim, unsigned index, bool machine)
{
	struct host *h = &sim->hosts[index];

	sim_note(sim, "HOST %u CRASHES%s", index, machine ? " with its machine" : "");
	h->up = false;
	holder_destroy(h->holder);
	h->holder = NULL;
	holder_actions_finish(&h->actions);
	locks_stop(sim, index);
	h->reclaim_done_waits = false;
	h->stream = 0;
	h->slot_session.value = 0;
	h->writing_back = 0;
	h->dropping_all = h->open_wanted = false;
	h->paused_until = h->wedged_until = 0;
	while (h->request_high)
		h->requests[--h->request_high].used = false;
	h->reclaim_count = 0;
	memset(h->drops, 0, sizeof(h->drops));
	for (uint32_t i = 0; i < INODES_MAX; i++) {
		struct copy *copy = &h->copies[i];

		copy->instance = 0;
		copy->valid = 0;
		/* Stores are lost; their pages stay, and say what nobody else was told. */
		copy->page_valid &= ~(copy->dirty | copy->written_back);
		copy->dirty = copy->written_back = 0;
		copy->stored_session.value = 0;
		copy->kept = false;
		copy->modifying = copy->drops = 0;
		copy->open = copy->registered = copy->closing = false;
		memset(copy->part_modifying, 0, sizeof(copy->part_modifying));
		if (!machine) {
			copy->orphan_valid = copy->page_valid;
			memcpy(copy->orphan_version, copy->page_version,
			       sizeof(copy->orphan_version));
		} else {
			copy->orphan_valid = 0;
		}
		copy->page_valid = 0;
	}
	/* The guardian of the dead daemon keeps its deadline. */
	h->orphan_fence_generation = machine ? 0 : h->fence_generation;
	h->fence_generation += 2;
}

void host_tick(struct sim *sim, unsigned index, uint32_t generation)
{
	struct host *h = &sim->hosts[index];
	struct instant now = host_now(sim, h);

	if (!h->up || h->tick_generation != generation)
		return;
	h->tick_at = UINT64_MAX;
	holder_tick(h->holder, now, &h->actions);
	holder_locks_tick(h->locks, now, &h->lock_actions);
	host_perform(sim, index);
	locks_perform(sim, index);
	if (!instant_before(now, holder_timer(h->holder)))
		sim_fail(sim, "the holder wants to be woken for what it has just done");
	host_after_step(sim, index);
}

void host_after_step(struct sim *sim, unsigned index)
{
	struct host *h = &sim->hosts[index];
	uint64_t at;

	do {
		host_perform(sim, index);
		locks_perform(sim, index);
	} while (h->actions.count || h->lock_actions.count);
	if (!sim->observed_only)
		holder_check_invariants(h->holder);
	locks_check(sim, index);
	at = holder_timer(h->holder).ns;
	if (holder_locks_timer(h->locks).ns < at)
		at = holder_locks_timer(h->locks).ns;
	if (at == h->tick_at)
		return;
	h->tick_at = at;
	h->tick_generation++;
	if (at != UINT64_MAX)
		sim_schedule(sim, clock_reaches(&h->clock, at), EVENT_HOST_TICK, index, 0,
			     h->tick_generation);
}
