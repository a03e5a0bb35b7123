/*
 * Stores through shared mappings (PROTOCOL.md 5.7): taken in by a host's kernel without asking
 * anybody, under the write lease, and written back later: when somebody syncs, before an own
 * modification, and before the recall of the lease is acknowledged. One block at a time is under way,
 * in a slot that nothing else uses.
 */
#include "tests/sim/sim.h"

/* There may be stores of this session that the origin does not have. */
bool stores_expected(struct sim *sim, const struct host *h, const struct copy *copy)
{
	return h->up && copy->stored_session.value &&
	       copy->stored_session.value == holder_session(h->holder).value &&
	       holder_valid(h->holder, host_now(sim, h));
}

void stores_granted(struct sim *sim, unsigned index, uint32_t inode, uint64_t instance,
		    struct session_id session, uint64_t sequence)
{
	struct host *h = &sim->hosts[index];
	struct handle handle = store_handle(inode);

	holder_set_exclusive(h->holder, &handle, instance);
	h->copies[inode].stored_session = session;
	h->copies[inode].stored_sequence = sequence;
}

/* Or there may be of the last one, whose lease may be reclaimed. */
static bool is_kept(struct sim *sim, const struct host *h, uint32_t inode)
{
	struct handle handle = store_handle(inode);

	return h->up && h->copies[inode].kept &&
	       holder_kept(h->holder, host_now(sim, h), &handle);
}

bool stores_clean(const struct host *h, uint32_t inode)
{
	return !h->copies[inode].dirty && !h->copies[inode].written_back;
}

/* A process stores to a page that is there, which only the kernel sees. False: it must fault. */
bool stores_store(struct sim *sim, unsigned index, uint32_t inode, uint32_t part)
{
	struct host *h = &sim->hosts[index];
	struct copy *copy = &h->copies[inode];
	uint32_t bit = ASPECT_BIT(part);

	if (!(copy->page_valid & bit) ||
	    !(stores_expected(sim, h, copy) || is_kept(sim, h, inode)) ||
	    copy->modifying > (copy->written_back != 0))
		return false;
	if (!(copy->dirty & bit) && !(copy->written_back & bit))
		copy->base[part] = copy->page_version[part];
	copy->dirty |= bit;
	sim_note(sim, "host %u stores to block %u of inode %u", index, part, inode);
	return true;
}

static void send(struct sim *sim, unsigned index, uint32_t inode, uint32_t part)
{
	struct host *h = &sim->hosts[index];
	struct copy *copy = &h->copies[inode];
	struct handle handle = store_handle(inode);
	struct message message = { .type = MESSAGE_write_back };
	uint32_t slot = h->slot_count; /* behind those that applications use */
	struct request *request;
	uint32_t attempt;
	uint8_t bulk[8];
	struct writer w = writer_of(bulk, sizeof(bulk));

	attempt = model_attempt(sim, sim->model.attempt_count, copy->stored_session, slot,
				h->slots[slot].sequence + 1);
	if (!attempt || holder_modify_begin(h->holder, &handle))
		return; /* the next pump */
	copy->modifying++;
	copy->modify_epoch++;
	copy->dirty &= ~ASPECT_BIT(part);
	copy->written_back = ASPECT_BIT(part);
	copy->valid = 0;
	request = host_request(sim, index, FOR_WRITE_BACK,
			       rng_between(&sim->rng, 200 * MS, 1500 * MS));
	request->session = copy->stored_session;
	request->stamp = holder_request_begin(h->holder);
	request->inode = inode;
	request->part = part;
	request->attempt = attempt;
	message.common.session = copy->stored_session.value;
	message.common.slot = slot;
	message.common.sequence = ++h->slots[slot].sequence;
	message.common.deadline_ms = 20000;
	message.write_back.handle = handle;
	message.write_back.offset = part;
	message.write_back.lease_sequence = copy->stored_sequence;
	writer_u32(&w, attempt);
	writer_u32(&w, copy->base[part]);
	h->writing_back = request->id;
	host_request_send(sim, index, request, &message, bulk, sizeof(bulk));
}

/* Writes back what is dirty of `inode`, as soon as it can. */
void stores_flush(struct sim *sim, unsigned index, uint32_t inode)
{
	struct host *h = &sim->hosts[index];
	struct copy *copy = &h->copies[inode];

	if (h->writing_back || !copy->dirty || !stores_expected(sim, h, copy) ||
	    h->slot_session.value != copy->stored_session.value)
		return;
	for (uint32_t part = 0; part < PARTS; part++) {
		if (copy->dirty & ASPECT_BIT(part)) {
			send(sim, index, inode, part);
			return;
		}
	}
}

static void written_back(struct sim *sim, unsigned index, struct request *request,
			 const struct message *reply)
{
	struct host *h = &sim->hosts[index];
	struct copy *copy = &h->copies[request->inode];
	struct handle handle = store_handle(request->inode);
	struct reader r = reader_of(reply->reply.nodes.data, reply->reply.nodes.length);
	struct item_node node = { .role = NODE_TARGET };
	bool known = reply->reply.status == STATUS_OK && item_node_read(&r, &node);

	(void)holder_modify_end(h->holder, &handle, known, node.before, node.change);
	holder_modified(h->holder, &handle, NULL, 0);
	copy->modifying--;
	copy->modify_epoch++;
	copy->disk_valid = 0;
	copy->written_back = 0;
	if (known) {
		copy->page_version[request->part] = (uint32_t)node.attributes.size;
		copy->base[request->part] = (uint32_t)node.attributes.size;
	}
	h->writing_back = 0;
}

/* Stores of `inode` are lost, and whoever syncs is told. What is under way may still be executed. */
static void lose(struct sim *sim, unsigned index, uint32_t inode)
{
	struct host *h = &sim->hosts[index];
	struct copy *copy = &h->copies[inode];

	if (copy->dirty || copy->written_back) {
		sim_note(sim, "host %u loses stores to inode %u", index, inode);
		copy->stores_lost++;
		copy->page_valid &= ~(copy->dirty | copy->written_back);
	}
	copy->dirty = 0;
	copy->kept = false;
	copy->stored_session.value = 0;
}

void stores_answered(struct sim *sim, unsigned index, struct request *request,
		     const struct message *reply)
{
	uint16_t status = reply->reply.status;
	uint32_t inode = request->inode;
	struct copy *copy = &sim->hosts[index].copies[inode];
	/* PROTOCOL.md 6.4: it was not executed, and goes out again when the lease is reclaimed. */
	bool again = status == STATUS_NOSESSION && copy->stored_session.value &&
		     (copy->kept || copy->stored_session.value != request->session.value);

	if (status == STATUS_PUSHBACK || status == STATUS_NOMEM)
		return; /* repeated when its timer says so */
	model_answered(sim, index, request->attempt, status);
	written_back(sim, index, request, reply);
	if (again)
		copy->dirty |= ASPECT_BIT(request->part);
	host_request_free(sim, index, request);
	if (again)
		stores_flush(sim, index, inode);
	else if (status == STATUS_NOSESSION || status == STATUS_NOLEASE ||
	    status == STATUS_UNKNOWNOUTCOME)
		lose(sim, index, inode);
	else
		stores_flush(sim, index, inode);
}

/* Nothing more of `inode` is sent, and what is under way is told off. */
void stores_lose(struct sim *sim, unsigned index, uint32_t inode)
{
	struct host *h = &sim->hosts[index];
	const struct message none = { .type = MESSAGE_reply };

	lose(sim, index, inode);
	for (uint32_t i = 0; i < h->request_high; i++) {
		struct request *request = &h->requests[i];

		if (!request->used || request->purpose != FOR_WRITE_BACK || request->inode != inode)
			continue;
		written_back(sim, index, request, &none);
		host_request_free(sim, index, request);
	}
	cache_drop_pages(h, inode);
}

/* The session is over: what is kept stays as it is. */
void stores_lose_all(struct sim *sim, unsigned index)
{
	struct host *h = &sim->hosts[index];

	for (uint32_t i = 1; i < sim->store.inode_count; i++) {
		struct handle handle = store_handle(i);
		struct copy *copy = &h->copies[i];

		copy->kept = copy->stored_session.value &&
			     holder_kept(h->holder, host_now(sim, h), &handle);
		if (copy->kept)
			sim_note(sim, "host %u keeps what was stored to inode %u", index, i);
		else
			stores_lose(sim, index, i);
	}
}

void stores_reclaimed(struct sim *sim, unsigned index, uint32_t inode, struct session_id session,
		      uint64_t sequence, bool confirmed)
{
	struct host *h = &sim->hosts[index];
	struct copy *copy = &h->copies[inode];
	struct handle handle = store_handle(inode);

	if (!copy->kept || !confirmed || holder_kept(h->holder, host_now(sim, h), &handle))
		return;
	copy->kept = false;
	copy->stored_session.value = 0;
	/* While a recall that overtook the answer is being worked in, it writes back, too. */
	if (holder_exclusive(h->holder, host_now(sim, h), &handle) || copy->drops) {
		copy->stored_session = session;
		copy->stored_sequence = sequence;
		stores_flush(sim, index, inode);
	} else if (!stores_clean(h, inode)) {
		stores_lose(sim, index, inode);
	}
}

/* PROTOCOL.md 6.4: a claim of what is kept is confirmed, but for want of room or memory. */
void stores_check_refused(struct sim *sim, unsigned index, uint32_t inode)
{
	const struct profile *p = &sim->profile;

	if (sim->observed_only || !is_kept(sim, &sim->hosts[index], inode) || p->starved ||
	    sim->origin.record_unknown || p->lease_total_max < 1000 || p->lease_count_max < 64 ||
	    sim->store.inodes[inode].freed)
		return;
	sim_fail(sim, "host %u is refused the write lease of inode %u, which nobody else can have had",
		 index, inode);
}

/*
 * Whoever has a lease answers with what the store has: nobody else may have anything newer, or somebody
 * would see the past after a process there has seen what comes. In grace a host may be granted what
 * another one is about to lose, which nobody else was told of.
 */
void stores_check_granted(struct sim *sim, struct session_id reader, uint32_t inode)
{
	const struct authority *a = sim->origin.authority;

	if (sim->observed_only || !sim->origin.up || authority_grace(a, origin_now(sim)).ns)
		return;
	for (unsigned index = 0; index < sim->profile.host_count; index++) {
		const struct host *h = &sim->hosts[index];
		const struct copy *copy = &h->copies[inode];

		if ((copy->dirty || copy->written_back) &&
		    (stores_expected(sim, h, copy) || is_kept(sim, h, inode)) &&
		    holder_session(h->holder).value != reader.value)
			sim_fail(sim, "somebody else reads inode %u, which host %u has stored to",
				 inode, index);
	}
}

void stores_check_used(struct sim *sim, unsigned host, uint32_t inode)
{
	stores_check_granted(sim, holder_session(sim->hosts[host].holder), inode);
}
