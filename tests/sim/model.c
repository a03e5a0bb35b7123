/*
 * What may be seen. The store applies modifications one after the other, so the versions of an
 * inode are a total order, and linearizability per inode comes down to this: whoever begins to
 * look must not be shown anything that was already replaced at a version which, before he began,
 * was acknowledged to its writer or shown to somebody (the inode's floor).
 */
#include "tests/sim/sim.h"

#include <assert.h>
#include <inttypes.h>

void model_begin(struct sim *sim, struct since *ret_since)
{
	memcpy(ret_since->floor, sim->model.floor, sizeof(ret_since->floor));
}

static void raise_floor(struct sim *sim, uint32_t inode, uint32_t version)
{
	if (sim->model.floor[inode] < version)
		sim->model.floor[inode] = version;
}

void model_observe(struct sim *sim, unsigned host, const struct since *since, uint32_t inode,
		   enum aspect aspect, uint32_t version, const char *how)
{
	const struct store_inode *i = &sim->store.inodes[inode];
	/* 0: made after the observer began, so nothing of it was settled then. */
	uint32_t floor = since->floor[inode];
	uint32_t oldest = aspect < PARTS && floor ? i->history[floor].part[aspect] : floor;

	sim->model.reads++;
	if (version == 0 || version > i->version ||
	    (aspect < PARTS && i->history[version].part[aspect] != version))
		sim_fail(sim, "host %u read version %u of inode %u aspect %d (%s), which never was",
			 host, version, inode, (int)aspect, how);
	if (version < oldest)
		sim_fail(sim,
			 "LINEARIZABILITY: host %u read version %u of inode %u aspect %d (%s), but "
			 "version %u was settled before it began",
			 host, version, inode, (int)aspect, how, oldest);
	raise_floor(sim, inode, version);
	sim_note(sim, "host %u saw inode %u aspect %d at version %u (%s)", host, inode,
		 (int)aspect, version, how);
}

void model_observe_gone(struct sim *sim, unsigned host, uint32_t inode, bool open)
{
	const struct store_inode *i = &sim->store.inodes[inode];

	if (!i->history[i->version].gone)
		sim_fail(sim, "host %u was told that inode %u is gone, but it is there", host,
			 inode);
	if (open)
		sim_fail(sim, "host %u was told that inode %u is gone, but has it open", host,
			 inode);
	raise_floor(sim, inode, i->version);
}

uint32_t model_attempt(struct sim *sim, uint32_t what, struct session_id session, uint32_t slot,
		       uint64_t sequence)
{
	struct model *model = &sim->model;

	if (model->attempt_count == ATTEMPTS_MAX)
		return 0;
	model->attempts[model->attempt_count] = (struct attempt){
		.session = session, .slot = slot, .sequence = sequence, .what = what
	};
	return model->attempt_count++;
}

static struct slot_record *slot_record(struct sim *sim, const struct attempt *attempt)
{
	struct slot_record *slots = sim->model.slots;

	for (unsigned i = 0; i < KEPT_MAX; i++) {
		if (slots[i].session == attempt->session.value && slots[i].slot == attempt->slot)
			return &slots[i];
		if (slots[i].session == 0) {
			slots[i].session = attempt->session.value;
			slots[i].slot = attempt->slot;
			return &slots[i];
		}
	}
	sim_fail(sim, "the model's slots are used up");
}

void model_applied(struct sim *sim, const struct modification *m)
{
	struct attempt *attempt = &sim->model.attempts[m->attempt];
	struct slot_record *record = slot_record(sim, attempt);

	sim->model.modifications++;
	if (attempt->applied || sim->model.what_applied[attempt->what])
		sim_fail(sim, "AT MOST ONCE: modification %u was applied twice (attempt %u)",
			 attempt->what, m->attempt);
	if (attempt->over)
		sim_fail(sim,
			 "AT MOST ONCE: attempt %u was applied after its host was told that it "
			 "is over", m->attempt);
	if (attempt->sequence <= record->sequence)
		sim_fail(sim,
			 "AT MOST ONCE: sequence %" PRIu64 " of slot %u was applied after %" PRIu64,
			 attempt->sequence, attempt->slot, record->sequence);
	attempt->sequence_before = record->sequence;
	record->sequence = attempt->sequence;
	attempt->applied = true;
	attempt->status = m->status;
	sim->model.what_applied[attempt->what] = true;
	attempt->touched_count = m->touched_count;
	for (uint32_t t = 0; t < m->touched_count; t++) {
		attempt->touched_inode[t] = m->touched[t].inode;
		attempt->touched_after[t] = m->touched[t].after;
		sim_note(sim, "origin applied attempt %u: inode %u is at version %u", m->attempt,
			 m->touched[t].inode, m->touched[t].after);
	}
}

void model_lost(struct sim *sim, const struct modification *m)
{
	struct attempt *attempt = &sim->model.attempts[m->attempt];

	assert(attempt->applied && attempt->touched_count == 0);
	attempt->applied = false;
	sim->model.what_applied[attempt->what] = false;
	slot_record(sim, attempt)->sequence = attempt->sequence_before;
}

void model_answered(struct sim *sim, unsigned host, uint32_t number, uint16_t status)
{
	struct attempt *attempt = &sim->model.attempts[number];

	attempt->over = true;
	switch (status) {
	case STATUS_UNKNOWNOUTCOME:
		return;
	case STATUS_NOSESSION:
	case STATUS_DEADLINE:
		if (attempt->applied)
			sim_fail(sim, "host %u was told %s for attempt %u, but it was applied",
				 host, status_name(status), number);
		return;
	case STATUS_SUPERSEDED:
	case STATUS_BADMESSAGE:
	case STATUS_INVAL:
		sim_fail(sim, "host %u was told %s for attempt %u, and is not to blame", host,
			 status_name(status), number);
	default:
		break;
	}
	if (!attempt->applied || attempt->status != status)
		sim_fail(sim, "host %u was told %s for attempt %u, which is not what happened",
			 host, status_name(status), number);
	for (uint32_t t = 0; t < attempt->touched_count; t++)
		raise_floor(sim, attempt->touched_inode[t], attempt->touched_after[t]);
}
