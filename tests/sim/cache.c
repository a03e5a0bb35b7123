/*
 * What a host remembers and when it may use it: the part of a mount that decides whether a lease
 * covers a piece of state. Blocks of files lie on disk, tagged with the change; names, attributes
 * and listings lie in memory, tagged with the lease's instance; pages lie in the kernel and are
 * read without asking anybody (section 6 of the design: they are dropped before a recall is
 * acknowledged, before an own modification is sent, and by the guardian at the deadline).
 */
#include "lease/seal.h"
#include "tests/sim/sim.h"

#include <assert.h>

/* PROTOCOL.md 11.4: what was learned while it was sealed, by what its attributes say. */
static uint64_t sealed_instance(struct sim *sim, const struct host *h, uint32_t inode,
				struct change *ret_change)
{
	const struct copy *copy = &h->copies[inode];
	struct handle handle = store_handle(inode);
	uint64_t instance;
	uint8_t seal;

	if (!copy->instance || !(copy->valid & ASPECT_BIT(ASPECT_ATTRIBUTES)))
		return 0;
	seal = sim->store.inodes[inode].history[copy->version[ASPECT_ATTRIBUTES]].seal;
	instance = holder_lease_sealed(h->holder, host_now(sim, h), &handle,
				       seal_term_of_code(seal), ret_change);
	return instance == copy->instance ? instance : 0;
}

bool cache_serve(struct sim *sim, unsigned index, uint32_t inode, enum aspect aspect,
		 uint32_t *ret_version)
{
	struct host *h = &sim->hosts[index];
	struct copy *copy = &h->copies[inode];
	struct handle handle = store_handle(inode);
	bool directory = sim->store.inodes[inode].directory;
	struct instant now = host_now(sim, h);
	struct change change;
	uint64_t instance;

	if (directory && aspect < PARTS) {
		/* A modification of other names does not keep this one from being used. */
		if (copy->part_modifying[aspect])
			return false;
		instance = holder_lease_held(h->holder, now, &handle);
	} else {
		instance = holder_lease(h->holder, now, &handle);
	}
	change = holder_change(h->holder, &handle);
	if (!instance)
		instance = sealed_instance(sim, h, inode, &change);
	if (!instance)
		return false;
	if (!directory && aspect < PARTS) {
		if (!(copy->disk_valid & ASPECT_BIT(aspect)) ||
		    !change_known(copy->disk_change) ||
		    !change_equal(copy->disk_change, change))
			return false;
		*ret_version = copy->disk_version[aspect];
		return true;
	}
	if (copy->instance != instance || !(copy->valid & ASPECT_BIT(aspect)))
		return false;
	*ret_version = copy->version[aspect];
	return true;
}

/* ---- learning ---- */

static void remember(struct copy *copy, uint64_t instance, enum aspect aspect, uint32_t version)
{
	if (copy->instance != instance) {
		copy->instance = instance;
		copy->valid = 0;
	}
	copy->valid |= ASPECT_BIT(aspect);
	copy->version[aspect] = version;
}

static void remember_block(struct copy *copy, struct change change, uint32_t part,
			   uint32_t version)
{
	if (!change_equal(copy->disk_change, change)) {
		copy->disk_change = change;
		copy->disk_valid = 0;
	}
	copy->disk_valid |= ASPECT_BIT(part);
	copy->disk_version[part] = version;
}

static bool overtaken(struct host *h, const struct request *request, uint64_t recall_sequence,
		      const struct handle *handle, const struct slice *name)
{
	return holder_overtaken(h->holder, request->stamp, recall_sequence, handle, name);
}

/*
 * The instance under which what an answer says of this node may be remembered; 0: not at all. Not
 * when an own modification began or ended since the request was sent, for nobody recalls from a
 * host what it modifies itself.
 */
static uint64_t node_instance(struct sim *sim, unsigned index, const struct request *request,
			      uint64_t recall_sequence, const struct item_node *node,
			      uint32_t own_steps)
{
	struct host *h = &sim->hosts[index];
	uint32_t inode = store_inode_of(sim, &node->handle);
	struct copy *copy = &h->copies[inode];
	struct change before = holder_change(h->holder, &node->handle);
	uint64_t instance;

	if (node->lease == LEASE_NONE || copy->modifying ||
	    copy->modify_epoch != request->modify_epoch[inode] + own_steps)
		return 0;
	instance = holder_grant(h->holder, host_now(sim, h), request->stamp, recall_sequence,
				&node->handle, node->change, &h->actions);
	if (instance && node->lease == LEASE_WRITE)
		stores_granted(sim, index, inode, instance, request->session, recall_sequence);
	/* A file that moved under a standing lease: what memory says of it is from before. */
	if (instance && instance == copy->instance && !sim->store.inodes[inode].directory &&
	    !change_equal(before, node->change))
		copy->valid = 0;
	return instance;
}

/*
 * A grant that a recall of names overtook is void, but where the same lease stood when the request
 * was sent and stands now, the names that the recall did not name are good: that recall, and any
 * other since the answer was made, is remembered, and holder_overtaken() tells for each name.
 */
static uint64_t standing_instance(struct sim *sim, unsigned index, const struct request *request,
				  const struct item_node *node)
{
	struct host *h = &sim->hosts[index];
	uint32_t inode = store_inode_of(sim, &node->handle);
	struct copy *copy = &h->copies[inode];

	if (node->lease == LEASE_NONE || inode != request->inode || copy->modifying ||
	    copy->modify_epoch != request->modify_epoch[inode] || !request->held ||
	    holder_lease_held(h->holder, host_now(sim, h), &node->handle) != request->held)
		return 0;
	return request->held;
}

/* Names of the directory `inode` as of its version `version`. */
static void learn_names(struct sim *sim, unsigned index, const struct request *request,
			uint64_t recall_sequence, uint32_t inode, uint64_t instance,
			uint32_t version, uint32_t parts)
{
	struct host *h = &sim->hosts[index];
	struct handle handle = store_handle(inode);

	for (uint32_t part = 0; part < PARTS; part++) {
		struct slice name = store_name(part);

		if ((parts & ASPECT_BIT(part)) &&
		    !overtaken(h, request, recall_sequence, &handle, &name))
			remember(&h->copies[inode], instance, (enum aspect)part,
				 sim->store.inodes[inode].history[version].part[part]);
	}
}

void cache_learn(struct sim *sim, unsigned index, const struct request *request,
		 const struct message *reply, struct slice bulk, bool *ret_page_allowed)
{
	struct host *h = &sim->hosts[index];
	uint64_t recall_sequence = reply->reply.recall_sequence;
	struct reader r = reader_of(reply->reply.nodes.data, reply->reply.nodes.length);
	struct reader b = reader_of(bulk.data, bulk.length);
	bool page_allowed = false;
	struct message asked;
	struct item_node node;

	if (message_decode((struct slice){ request->data, request->length }, &asked))
		sim_fail(sim, "a request of our own does not decode");
	while (item_node_read(&r, &node)) {
		uint32_t inode = store_inode_of(sim, &node.handle);
		uint32_t version = (uint32_t)node.attributes.size;
		struct copy *copy = &h->copies[inode];
		uint64_t instance =
			node_instance(sim, index, request, recall_sequence, &node, 0);
		bool whole = instance &&
			     !overtaken(h, request, recall_sequence, &node.handle, NULL);

		if (!instance && sim->store.inodes[inode].directory)
			instance = standing_instance(sim, index, request, &node);
		if (whole)
			remember(copy, instance, ASPECT_ATTRIBUTES, version);
		if (asked.type == MESSAGE_read || asked.type == MESSAGE_read_exclusive) {
			if (whole)
				remember_block(copy, node.change,
					       (uint32_t)(asked.type == MESSAGE_read ?
								  asked.read.offset :
								  asked.read_exclusive.offset),
					       reader_u32(&b));
			/* A page also may stay under a lease that stood all the time. */
			page_allowed = copy->drop_epoch == request->drop_epoch[inode] &&
				       copy->modify_epoch == request->modify_epoch[inode] &&
				       !copy->modifying && (whole || request->held);
		} else if (asked.type == MESSAGE_lookup && node.role == NODE_DIRECTORY &&
			   instance) {
			learn_names(sim, index, request, recall_sequence, inode, instance,
				    version, ASPECT_BIT(store_part_of(sim, asked.lookup.name)));
		} else if (asked.type == MESSAGE_readdir && instance) {
			learn_names(sim, index, request, recall_sequence, inode, instance,
				    version, PARTS_MASK);
			if (whole)
				remember(copy, instance, ASPECT_LISTING, version);
		}
	}
	if (ret_page_allowed)
		*ret_page_allowed = page_allowed;
}

/* ---- own modifications ---- */

/* The names that `m` modifies of the directory `inode`. */
static uint32_t modified_names(const struct modification *m, uint32_t inode)
{
	uint32_t parts = 0;

	if (m->action == ACTION_WRITE || m->action == ACTION_SETATTR)
		return 0;
	if (inode == m->inode)
		parts |= ASPECT_BIT(m->part);
	if (m->action == ACTION_RENAME && inode == m->to_inode)
		parts |= ASPECT_BIT(m->to_part);
	return parts;
}

static bool begin_one(struct sim *sim, unsigned index, struct app *app, uint32_t inode)
{
	struct host *h = &sim->hosts[index];
	struct copy *copy = &h->copies[inode];
	struct handle handle = store_handle(inode);
	uint32_t parts = modified_names(&app->m, inode);

	for (uint32_t i = 0; i < app->begun_count; i++) {
		if (app->begun[i] == inode)
			return true;
	}
	if (!stores_clean(h, inode)) {
		stores_flush(sim, index, inode);
		return false; /* its pages are to go, and what was stored to them goes first */
	}
	if (holder_modify_begin(h->holder, &handle))
		return false;
	app->begun[app->begun_count++] = inode;
	copy->modifying++;
	copy->modify_epoch++;
	for (uint32_t part = 0; part < PARTS; part++)
		copy->part_modifying[part] += (parts & ASPECT_BIT(part)) != 0;
	copy->valid &= ~(parts | ASPECT_BIT(ASPECT_ATTRIBUTES) | ASPECT_BIT(ASPECT_LISTING));
	/* Pages go before it is sent: another host may see the new state before we hear of it. */
	cache_drop_pages(h, inode);
	return true;
}

bool cache_modify_begin(struct sim *sim, unsigned index, struct app *app)
{
	struct host *h = &sim->hosts[index];
	struct modification *m = &app->m;
	uint32_t version;

	app->begun_count = 0;
	if (!begin_one(sim, index, app, m->inode) ||
	    (m->action == ACTION_RENAME && !begin_one(sim, index, app, m->to_inode))) {
		cache_modify_end(sim, index, NULL, app, NULL);
		return false;
	}
	if (m->action != ACTION_UNLINK && m->action != ACTION_RENAME)
		return true;
	/* What the names lead to is modified, too, as far as this host knows. */
	if (h->copies[m->inode].version[m->part] &&
	    cache_serve(sim, index, m->inode, (enum aspect)m->part, &version)) {
		uint32_t child = sim->store.inodes[m->inode].history[version].child[m->part];

		/* Should there be no memory for that, the origin's recall does as well. */
		if (child)
			(void)begin_one(sim, index, app, child);
	}
	return true;
}

static bool find_node(struct sim *sim, const struct message *reply, uint32_t inode,
		      struct item_node *ret_node)
{
	struct reader r;
	struct item_node node;

	if (!reply || reply->reply.status != STATUS_OK)
		return false;
	r = reader_of(reply->reply.nodes.data, reply->reply.nodes.length);
	while (item_node_read(&r, &node)) {
		if (store_inode_of(sim, &node.handle) == inode) {
			*ret_node = node;
			return true;
		}
	}
	return false;
}

static void end_one(struct sim *sim, unsigned index, const struct request *request,
		    struct app *app, const struct message *reply, uint32_t inode)
{
	struct host *h = &sim->hosts[index];
	struct copy *copy = &h->copies[inode];
	struct handle handle = store_handle(inode);
	bool directory = sim->store.inodes[inode].directory;
	uint32_t parts = modified_names(&app->m, inode), version;
	struct item_node node;
	bool known = find_node(sim, reply, inode, &node);
	uint64_t instance;
	bool keep;

	if (!known)
		memset(&node, 0, sizeof(node));
	keep = holder_modify_end(h->holder, &handle, known, node.before, node.change);
	copy->modifying--;
	copy->modify_epoch++;
	for (uint32_t part = 0; part < PARTS; part++)
		copy->part_modifying[part] -= (parts & ASPECT_BIT(part)) != 0;
	copy->valid &= ~(parts | ASPECT_BIT(ASPECT_ATTRIBUTES) | ASPECT_BIT(ASPECT_LISTING));
	cache_drop_pages(h, inode);
	version = (uint32_t)node.attributes.size;
	if (!keep || !change_equal(copy->disk_change, node.before))
		copy->disk_valid = 0;
	copy->disk_change = node.change;
	if (keep && app->m.action == ACTION_WRITE)
		remember_block(copy, node.change, app->m.part, version);
	if (!known)
		return;
	instance = node_instance(sim, index, request, reply->reply.recall_sequence, &node, 1);
	if (!instance)
		return;
	if (directory)
		learn_names(sim, index, request, reply->reply.recall_sequence, inode, instance,
			    version, parts);
	if (overtaken(h, request, reply->reply.recall_sequence, &handle, NULL))
		return;
	remember(copy, instance, ASPECT_ATTRIBUTES, version);
	if (app->m.action == ACTION_WRITE)
		remember_block(copy, node.change, app->m.part, version);
}

void cache_modify_end(struct sim *sim, unsigned index, const struct request *request,
		      struct app *app, const struct message *reply)
{
	for (uint32_t i = 0; i < app->begun_count; i++)
		end_one(sim, index, request, app, reply, app->begun[i]);
	app->begun_count = 0;
}

/* ---- dropping ---- */

void cache_drop_pages(struct host *host, uint32_t inode)
{
	host->copies[inode].page_valid = 0;
	host->copies[inode].drop_epoch++;
}

void cache_drop(struct sim *sim, unsigned index, const struct holder_action *action)
{
	struct copy *copy = &sim->hosts[index].copies[store_inode_of(sim, &action->handle)];

	if (action->scope == RECALL_ALL) {
		copy->valid = 0;
		return;
	}
	copy->valid &= ~(ASPECT_BIT(ASPECT_ATTRIBUTES) | ASPECT_BIT(ASPECT_LISTING));
	for (uint32_t i = 0; i < action->name_count; i++) {
		struct slice name = { action->names[i], action->name_length[i] };

		copy->valid &= ~ASPECT_BIT(store_part_of(sim, name));
	}
}

void cache_drop_all(struct sim *sim, struct host *host)
{
	for (uint32_t i = 0; i < INODES_MAX; i++) {
		struct change change;

		if (!sealed_instance(sim, host, i, &change)) {
			host->copies[i].instance = 0;
			host->copies[i].valid = 0;
		}
		/* Opens end with the session that they were known under. */
		host->copies[i].open = host->copies[i].registered = false;
		host->copies[i].closing = false;
		if (!host->copies[i].kept)
			cache_drop_pages(host, i);
	}
}

/* ---- I2 ---- */

void cache_check_applied(struct sim *sim, const struct modification *m)
{
	for (uint32_t t = 0; t < m->touched_count && !sim->observed_only; t++) {
		uint32_t inode = m->touched[t].inode, version;

		for (unsigned index = 0; index < sim->profile.host_count; index++) {
			struct host *h = &sim->hosts[index];
			struct copy *copy = &h->copies[inode];

			for (unsigned aspect = 0; aspect < ASPECT_COUNT; aspect++) {
				if (!(m->touched[t].aspects & ASPECT_BIT(aspect)))
					continue;
				if (h->up && h->paused_until <= sim->now &&
				    cache_serve(sim, index, inode, (enum aspect)aspect, &version))
					sim_fail(sim,
						 "I2: version %u of inode %u was applied while "
						 "host %u can answer aspect %u from version %u",
						 m->touched[t].after, inode, index, aspect,
						 version);
				/* What was written back is what the page says. */
				if (m->writer == index + 1)
					continue;
				if (aspect < PARTS && ((copy->page_valid | copy->orphan_valid) &
						       ASPECT_BIT(aspect)))
					sim_fail(sim,
						 "I2: version %u of inode %u was applied while a "
						 "page of block %u is in the kernel of host %u",
						 m->touched[t].after, inode, aspect, index);
			}
		}
	}
}
