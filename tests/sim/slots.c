/*
 * What the origin records of slots and of modifications under way (PROTOCOL.md 3.5): it outlives
 * the process, which can die between any two of these steps.
 */
#include "tests/sim/answer.h"

#include <inttypes.h>

struct kept_reply *slots_reply(struct sim *sim, struct session_id session, uint32_t slot,
				     bool make)
{
	struct store *store = &sim->store;
	struct kept_reply *free_one = NULL;

	for (uint32_t i = 0; i < store->kept_high; i++) {
		struct kept_reply *kept = &store->kept[i];

		if (kept->session.value == session.value && kept->slot == slot)
			return kept;
		if (kept->session.value == 0 && !free_one)
			free_one = kept;
	}
	if (!make)
		return NULL;
	if (!free_one) {
		if (store->kept_high == KEPT_MAX)
			sim_fail(sim, "the origin keeps too many replies: sessions are not "
				      "forgotten");
		free_one = &store->kept[store->kept_high++];
	}
	free_one->session = session;
	free_one->slot = slot;
	return free_one;
}

struct store_session *slots_session(struct sim *sim, struct session_id session)
{
	for (uint32_t i = 0; i < sim->store.session_count; i++) {
		if (sim->store.sessions[i].session.value == session.value)
			return &sim->store.sessions[i];
	}
	return NULL;
}

void slots_session_add(struct sim *sim, struct session_id session, const uint8_t *host,
				 uint32_t slot_count)
{
	struct store *store = &sim->store;

	if (slots_session(sim, session))
		return; /* a repetition of the request that opened it */
	if (store->session_count == SESSIONS_MAX)
		sim_fail(sim, "the record of slots is full: sessions are not forgotten");
	store->sessions[store->session_count] = (struct store_session){
		.session = session, .slot_count = slot_count
	};
	memcpy(store->sessions[store->session_count++].host, host, 16);
}

void slots_session_forget(struct sim *sim, struct session_id session)
{
	struct store *store = &sim->store;
	struct store_session *recorded = slots_session(sim, session);

	for (uint32_t i = 0; i < store->kept_high; i++) {
		if (store->kept[i].session.value == session.value)
			store->kept[i].session.value = 0;
	}
	if (!recorded)
		return;
	store->session_count--;
	memmove(recorded, recorded + 1,
		(size_t)(&store->sessions[store->session_count] - recorded) * sizeof(*recorded));
}

/* The outcome and its reply, in one step; then the intent goes. */
void slots_record(struct sim *sim, struct store_intent *intent, const uint8_t *data,
			   uint16_t length, uint16_t bulk_length)
{
	struct store_session *recorded = slots_session(sim, intent->session);
	struct kept_reply *kept = slots_reply(sim, intent->session, intent->slot, true);

	if (!recorded || intent->slot >= recorded->slot_count)
		sim_fail(sim, "a session executes something, and its slots are not recorded");
	recorded->sequences[intent->slot] = intent->sequence;
	kept->length = length;
	kept->bulk_length = bulk_length;
	memcpy(kept->data, data, (size_t)length + bulk_length);
	intent->used = false;
}

void slots_intent(struct sim *sim, const struct origin_operation *operation)
{
	sim->store.intents[operation - sim->origin.operations] = (struct store_intent){
		.used = true,
		.session = operation->session,
		.slot = operation->slot,
		.sequence = operation->sequence,
		.m = operation->m,
		.before = sim->store.inodes[operation->m.inode].version,
	};
}

/*
 * Decides what an earlier process left unfinished, by comparing what it recorded with what is
 * there. Nobody has seen any of it: it was still under its inodes' locks.
 */
static void intent_decide(struct sim *sim, struct store_intent *intent)
{
	struct origin_operation operation = { .session = intent->session };
	struct modification *m = &intent->m;
	uint8_t data[PACKET_BYTES];
	struct answer answer;
	bool moved = sim->store.inodes[m->inode].version != intent->before;

	sim_note(sim, "origin finds attempt %u %s", m->attempt, moved ? "done" : "not done");
	if (!moved) {
		if (sim->model.attempts[m->attempt].applied)
			model_lost(sim, m);
		intent->used = false;
		return;
	}
	m->touched_count = 1;
	m->touched[0].inode = m->inode;
	m->touched[0].before = intent->before;
	m->status = STATUS_OK;
	operation.m = *m;
	answer_init(&answer);
	answer_modified(sim, &answer, &operation);
	answer_seal(sim, &answer);
	slots_record(sim, intent, data,
		       (uint16_t)network_encode(sim, &answer.message, answer.bulk_bytes,
						answer.bulk.at, data),
		       (uint16_t)answer.bulk.at);
}

void slots_restore(struct sim *sim)
{
	struct origin *o = &sim->origin;
	struct store *store = &sim->store;

	/* Sometimes the record of slots is lost: then nobody can tell. */
	if (store->session_count && rng_chance(&sim->rng, 50)) {
		sim_note(sim, "origin has lost its record of slots");
		store->session_count = store->kept_high = 0;
		memset(store->intents, 0, sizeof(store->intents));
	}
	for (uint32_t i = 0; i < OPERATIONS_MAX; i++) {
		if (store->intents[i].used)
			intent_decide(sim, &store->intents[i]);
	}
	for (uint32_t i = 0; i < store->session_count; i++) {
		const struct store_session *s = &store->sessions[i];

		if (authority_session_restore(o->authority, origin_now(sim), s->session, s->host,
					      s->sequences, s->slot_count, &o->actions))
			sim_fail(sim, "a recorded session cannot be restored");
	}
}
