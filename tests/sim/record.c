/* The durable record of sessions, and who may still rely on seals (PROTOCOL.md 6.1, 11.4). */
#include "tests/sim/sim.h"

static void record_silent(struct sim *sim)
{
	struct store *store = &sim->store;
	const struct authority_silent *silent = NULL;

	store->silent_count = 0;
	while ((silent = authority_silent_next(sim->origin.authority, silent))) {
		if (store->silent_count == SILENT_MAX)
			sim_fail(sim, "too many hosts are silent");
		store->silent[store->silent_count++] = *silent;
	}
	store->silent_unknown = authority_silent_unknown(sim->origin.authority);
}

void record_add(struct sim *sim, struct session_id session,
		       const struct message_session_open *open)
{
	struct store *store = &sim->store;

	record_silent(sim);

	for (uint32_t i = 0; i < store->record_count; i++) {
		if (store->records[i].session.value == session.value)
			return; /* a repetition of the request that opened it */
	}
	if (store->record_count == RECORDS_MAX)
		sim_fail(sim, "the record of sessions is full: they do not end");
	store->records[store->record_count].session = session;
	store->records[store->record_count].life = sim->origin.life;
	store->records[store->record_count].ended = false;
	store->records[store->record_count].instance = open->instance;
	memcpy(store->records[store->record_count++].host, open->host.data, 16);
	if (store->term_max < origin_promise(&sim->profile))
		store->term_max = origin_promise(&sim->profile);
}

void record_remove(struct sim *sim, struct session_id session)
{
	struct store *store = &sim->store;

	for (uint32_t i = 0; i < store->record_count; i++) {
		if (store->records[i].session.value == session.value && locks_on(sim)) {
			store->records[i].ended = true;
			locks_record_later(sim);
			return;
		}
		if (store->records[i].session.value == session.value) {
			store->records[i] = store->records[--store->record_count];
			record_silent(sim);
			return;
		}
	}
}

void record_expire(struct sim *sim)
{
	struct store *store = &sim->store;

	for (uint32_t i = 0; i < store->record_count;) {
		if (store->records[i].life == sim->origin.life)
			i++;
		else if (locks_on(sim))
			store->records[i++].ended = true;
		else
			store->records[i] = store->records[--store->record_count];
	}
}

void record_write(struct sim *sim)
{
	struct store *store = &sim->store;

	record_silent(sim);
	for (uint32_t i = 0; i < store->record_count;) {
		if (store->records[i].ended)
			store->records[i] = store->records[--store->record_count];
		else
			i++;
	}
}

static void restore_one(struct sim *sim, struct authority_silent silent, bool rebooted)
{
	if (rebooted || silent.renewed.ns == 0)
		silent.renewed = origin_now(sim);
	if (authority_silent_restore(sim->origin.authority, &silent))
		sim_fail(sim, "no memory for who is silent");
}

void record_restore_silent(struct sim *sim, bool unknown, bool rebooted)
{
	struct store *store = &sim->store;

	for (uint32_t i = 0; !unknown && i < store->record_count; i++) {
		struct authority_silent silent = { .session = store->records[i].session,
						   .instance = store->records[i].instance };

		memcpy(silent.host, store->records[i].host, 16);
		restore_one(sim, silent, rebooted);
	}
	for (uint32_t i = 0; !unknown && i < store->silent_count; i++)
		restore_one(sim, store->silent[i], rebooted);
	if (store->silent_unknown.ns)
		authority_silent_restore_unknown(sim->origin.authority,
						 rebooted ? origin_now(sim) : store->silent_unknown);
	record_silent(sim);
}
