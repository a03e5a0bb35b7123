/*
 * What is asked of the hosts: a few concurrent callers on each, every one of them checked by the
 * model from the moment it begins to the moment it is told something.
 */
#include "lease/seal.h"
#include "tests/sim/sim.h"

#include <assert.h>

#define GIVE_UP_TRIES 200

static void wake(struct sim *sim, unsigned index, unsigned app, uint64_t delay)
{
	sim_schedule(sim, sim->now + delay, EVENT_APP, index, app,
		     ++sim->hosts[index].apps[app].generation);
}

static void think(struct sim *sim, unsigned index, unsigned number)
{
	struct app *app = &sim->hosts[index].apps[number];

	app->action = APP_IDLE;
	app->asked = false;
	wake(sim, index, number, rng_below(&sim->rng, sim->profile.think_max));
}

static void retry(struct sim *sim, unsigned index, unsigned number)
{
	struct app *app = &sim->hosts[index].apps[number];

	app->asked = false;
	/* Where leases are few, there may be none: the process that stores is killed (SIGBUS). */
	if (app->action == APP_STORE && app->tries > GIVE_UP_TRIES / 10 &&
	    (sim->profile.lease_total_max < 1000 || sim->profile.lease_count_max < 64 ||
	     sim->profile.host_lease_count_max < 64)) {
		think(sim, index, number);
		return;
	}
	if (++app->tries > GIVE_UP_TRIES && app->action != APP_MODIFY) {
		think(sim, index, number); /* EIO */
		return;
	}
	wake(sim, index, number, rng_between(&sim->rng, 5 * MS, 60 * MS));
}

void app_start(struct sim *sim, unsigned index)
{
	struct host *h = &sim->hosts[index];

	for (unsigned i = 0; i < sim->profile.app_count; i++) {
		uint32_t generation = h->apps[i].generation;

		memset(&h->apps[i], 0, sizeof(h->apps[i]));
		h->apps[i].generation = generation;
		h->apps[i].slot = -1;
		think(sim, index, i);
	}
}

/* ---- choosing ---- */

static uint32_t pick_inode(struct sim *sim, bool directory)
{
	/* The low numbers are hot. */
	uint32_t bound = (uint32_t)rng_between(&sim->rng, 2, sim->store.inode_count);

	for (unsigned tries = 0; tries < 20; tries++) {
		uint32_t inode = 1 + (uint32_t)rng_below(&sim->rng, bound - 1);

		if (sim->store.inodes[inode].directory == directory)
			return inode;
	}
	return directory ? 1 : 3;
}

static uint32_t pick_part(struct sim *sim)
{
	return (uint32_t)rng_below(&sim->rng, PARTS);
}

/* Seals and unseals, what is sealed rather than what is not. */
static void choose_seal(struct sim *sim, struct modification *m)
{
	struct rng *rng = &sim->seal_rng;

	m->action = ACTION_SETATTR;
	for (unsigned tries = 0; tries < 10; tries++) {
		const struct store_inode *i;

		m->inode = 1 + (uint32_t)rng_below(rng, rng_chance(rng, 700) ? 5 :
							sim->store.inode_count - 1);
		i = &sim->store.inodes[m->inode];
		m->seal = i->history[i->version].seal ? SEAL_REMOVE : 0;
		if (m->seal)
			break;
	}
	if (!m->seal || rng_chance(rng, 400))
		m->seal = seal_term_code((struct duration){
			rng_between(rng, 1000 * MS, 3 * sim->profile.term) });
}

static void choose_modification(struct sim *sim, struct app *app)
{
	struct modification *m = &app->m;
	uint64_t choice = rng_below(&sim->rng, 100);

	memset(m, 0, sizeof(*m));
	app->action = APP_MODIFY;
	if (sim->profile.seal && rng_chance(&sim->seal_rng, sim->profile.seal)) {
		choose_seal(sim, m);
		return;
	}
	if (choice < 55) {
		m->action = choice < 40 ? ACTION_WRITE : ACTION_SETATTR;
		m->inode = pick_inode(sim, false);
		m->part = choice < 40 ? pick_part(sim) : 0;
		return;
	}
	m->action = choice < 72 ? ACTION_CREATE : choice < 85 ? ACTION_UNLINK : ACTION_RENAME;
	m->inode = pick_inode(sim, true);
	m->part = pick_part(sim);
	if (m->action == ACTION_RENAME) {
		m->to_inode = pick_inode(sim, true);
		m->to_part = pick_part(sim);
	}
}

static void choose(struct sim *sim, unsigned index, struct app *app)
{
	static const enum app_action reads[] = {
		APP_READ,    APP_READ,   APP_PAGE_READ, APP_PAGE_READ, APP_PAGE_READ,
		APP_GETATTR, APP_LOOKUP, APP_LOOKUP,    APP_LIST,      APP_OPEN,
		APP_CLOSE,   APP_STORE,  APP_STORE,
	};

	app->tries = 0;
	app->asked = app->syncing = false;
	app->slot = -1;
	app->what = app->attempt = 0;
	app->began = sim->now;
	model_begin(sim, &app->since);
	if (rng_chance(&sim->rng, sim->profile.modify)) {
		choose_modification(sim, app);
		return;
	}
	app->action = reads[rng_below(&sim->rng, sizeof(reads) / sizeof(reads[0]))];
	/* What is stored through mappings, and a seal, is not modelled together. */
	if (app->action == APP_STORE && sim->profile.seal)
		app->action = APP_GETATTR;
	app->part = pick_part(sim);
	if (app->action == APP_GETATTR)
		app->inode = pick_inode(sim, rng_chance(&sim->rng, 300));
	else
		app->inode = pick_inode(sim, app->action == APP_LOOKUP ||
					     app->action == APP_LIST);
}

static void release_something(struct sim *sim, unsigned index)
{
	struct host *h = &sim->hosts[index];
	uint32_t inode = 1 + (uint32_t)rng_below(&sim->rng, sim->store.inode_count - 1);
	struct handle handle = store_handle(inode);

	if (holder_lease_held(h->holder, host_now(sim, h), &handle))
		holder_release(h->holder, &handle, &h->actions);
}

/* ---- asking ---- */

static struct request *new_request(struct sim *sim, unsigned index, unsigned number, bool modify)
{
	struct host *h = &sim->hosts[index];
	uint64_t timeout = rng_between(&sim->rng, 200 * MS, 1500 * MS);
	struct request *request = host_request(sim, index, FOR_APP, timeout);
	struct handle handle = store_handle(h->apps[number].inode);

	request->app = (uint8_t)number;
	request->stamp = holder_request_begin(h->holder);
	request->inode = h->apps[number].inode;
	request->open = h->copies[request->inode].open;
	request->close_epoch = h->copies[request->inode].close_epoch;
	if (h->apps[number].action == APP_STORE)
		request->held = holder_exclusive(h->holder, host_now(sim, h), &handle);
	else if (!modify)
		request->held = holder_lease_held(h->holder, host_now(sim, h), &handle);
	for (uint32_t i = 0; i < INODES_MAX; i++) {
		request->modify_epoch[i] = h->copies[i].modify_epoch;
		request->drop_epoch[i] = h->copies[i].drop_epoch;
	}
	h->apps[number].asked = true;
	return request;
}

static void ask(struct sim *sim, unsigned index, unsigned number)
{
	struct host *h = &sim->hosts[index];
	struct app *app = &h->apps[number];
	struct message message = { .type = MESSAGE_read };

	message.common.session = holder_session(h->holder).value;
	message.common.deadline_ms = (uint32_t)rng_between(&sim->rng, 100, 20000);
	switch (app->action) {
	case APP_READ:
	case APP_PAGE_READ:
		message.read.handle = store_handle(app->inode);
		message.read.offset = app->part;
		message.read.count = 1;
		message.read.strict = app->action == APP_PAGE_READ;
		break;
	case APP_STORE:
		message.type = MESSAGE_read_exclusive;
		message.read_exclusive.handle = store_handle(app->inode);
		message.read_exclusive.offset = app->part;
		message.read_exclusive.count = 1;
		break;
	case APP_GETATTR:
		message.type = MESSAGE_getattr;
		message.getattr.handle = store_handle(app->inode);
		break;
	case APP_LOOKUP:
		message.type = MESSAGE_lookup;
		message.lookup.directory = store_handle(app->inode);
		message.lookup.name = store_name(app->part);
		break;
	case APP_LIST:
		message.type = MESSAGE_readdir;
		message.readdir.directory = store_handle(app->inode);
		break;
	case APP_OPEN:
		message.type = MESSAGE_open;
		message.open.handle = store_handle(app->inode);
		message.open.access = OPEN_ACCESS_READ;
		break;
	case APP_CLOSE:
		message.type = MESSAGE_close;
		message.close.handle = store_handle(app->inode);
		message.close.sequence = h->copies[app->inode].close_number;
		break;
	default:
		assert(false);
	}
	host_request_send(sim, index, new_request(sim, index, number, false), &message, NULL, 0);
}

static void modification_message(const struct modification *m, struct message *ret_message)
{
	struct message *message = ret_message;

	switch (m->action) {
	case ACTION_WRITE:
		message->type = MESSAGE_write;
		message->write.handle = store_handle(m->inode);
		message->write.offset = m->part;
		break;
	case ACTION_SETATTR:
		message->type = MESSAGE_setattr;
		message->setattr.handle = store_handle(m->inode);
		message->setattr.valid = SETATTR_MODE;
		message->setattr.mode = m->seal;
		break;
	case ACTION_CREATE:
		message->type = MESSAGE_create;
		message->create.directory = store_handle(m->inode);
		message->create.name = store_name(m->part);
		message->create.exclusive = 1;
		break;
	case ACTION_UNLINK:
		message->type = MESSAGE_unlink;
		message->unlink.directory = store_handle(m->inode);
		message->unlink.name = store_name(m->part);
		break;
	case ACTION_RENAME:
		message->type = MESSAGE_rename;
		message->rename.directory = store_handle(m->inode);
		message->rename.name = store_name(m->part);
		message->rename.new_directory = store_handle(m->to_inode);
		message->rename.new_name = store_name(m->to_part);
		break;
	}
}

/* Sends the modification in a slot of the present session; without a free one it waits. */
static void ask_modification(struct sim *sim, unsigned index, unsigned number)
{
	struct host *h = &sim->hosts[index];
	struct app *app = &h->apps[number];
	struct session_id session = holder_session(h->holder);
	struct message message;
	uint8_t bulk[4];
	struct writer w = writer_of(bulk, sizeof(bulk));
	uint32_t slot;

	for (slot = 0; slot < h->slot_count && h->slots[slot].busy; slot++)
		;
	if (h->slot_session.value != session.value || slot >= h->slot_count) {
		retry(sim, index, number);
		return;
	}
	if (!app->what && !cache_modify_begin(sim, index, app)) {
		retry(sim, index, number);
		return;
	}
	app->attempt = model_attempt(sim, app->what ? app->what : sim->model.attempt_count,
				     session, slot, h->slots[slot].sequence + 1);
	if (!app->attempt) {
		cache_modify_end(sim, index, NULL, app, NULL);
		think(sim, index, number);
		return;
	}
	if (!app->what)
		app->what = app->attempt;
	app->slot = (int)slot;
	h->slots[slot].busy = true;
	h->slots[slot].sequence++;
	memset(&message, 0, sizeof(message));
	modification_message(&app->m, &message);
	message.common.session = session.value;
	message.common.slot = slot;
	message.common.sequence = h->slots[slot].sequence;
	message.common.deadline_ms = (uint32_t)rng_between(&sim->rng, 500, 20000);
	writer_u32(&w, app->attempt);
	host_request_send(sim, index, new_request(sim, index, number, true), &message, bulk,
			  sizeof(bulk));
}

/* ---- being answered from what the host has ---- */

static bool served_from_pages(struct sim *sim, unsigned index, struct app *app)
{
	const struct copy *copy = &sim->hosts[index].copies[app->inode];
	uint32_t bit = ASPECT_BIT(app->part);

	/* What was stored here has no version yet. */
	if (copy->page_valid & bit & (copy->dirty | copy->written_back))
		return true;
	if (copy->page_valid & bit)
		model_observe(sim, index, &app->since, app->inode, (enum aspect)app->part,
			      copy->page_version[app->part], "page");
	else if (copy->orphan_valid & bit)
		model_observe(sim, index, &app->since, app->inode, (enum aspect)app->part,
			      copy->orphan_version[app->part], "page of a dead daemon");
	else
		return false;
	sim->model.reads_paged++;
	return true;
}

static bool served_from_cache(struct sim *sim, unsigned index, struct app *app)
{
	struct copy *copy = &sim->hosts[index].copies[app->inode];
	enum aspect aspect = (enum aspect)app->part;
	uint32_t version;

	if (app->action == APP_GETATTR)
		aspect = ASPECT_ATTRIBUTES;
	else if (app->action == APP_LIST)
		aspect = ASPECT_LISTING;
	if (!cache_serve(sim, index, app->inode, aspect, &version))
		return false;
	sim->model.reads_cached++;
	model_observe(sim, index, &app->since, app->inode, aspect, version, "cache");
	if (app->action == APP_PAGE_READ && !copy->modifying) {
		copy->page_valid |= ASPECT_BIT(app->part);
		copy->page_version[app->part] = version;
	}
	return true;
}

/*
 * Opens and closes without the origin where that is possible. A message that closes may come late
 * or twice, and must not undo an open that came after it: it has a number, which the origin takes
 * once, and until it is answered nobody opens the inode here.
 */
static bool opened_here(struct sim *sim, unsigned index, struct app *app)
{
	struct host *h = &sim->hosts[index];
	struct copy *copy = &h->copies[app->inode];
	uint32_t version;

	if (app->action == APP_OPEN) {
		/* By its lease the origin knows, as long as there is a name whose removal recalls
		   that: what has none is opened by message. */
		if (!copy->open && !copy->closing &&
		    cache_serve(sim, index, app->inode, ASPECT_ATTRIBUTES, &version) &&
		    !sim->store.inodes[app->inode].history[version].gone)
			copy->open = true;
		return copy->open || copy->closing;
	}
	if (!copy->open && !app->tries)
		return true;
	if (app->tries && !copy->closing)
		return true; /* of a session that is no more */
	if (!app->tries && copy->registered) {
		copy->closing = true;
		copy->close_epoch++;
		copy->close_number = ++h->close_number;
	}
	copy->open = copy->registered = false;
	return !copy->closing;
}

/* ---- steps ---- */

/* True when there is nothing to ask: it stored, waits until that is written back, or is done. */
static bool store_step(struct sim *sim, unsigned index, unsigned number)
{
	struct host *h = &sim->hosts[index];
	struct app *app = &h->apps[number];
	struct copy *copy = &h->copies[app->inode];

	if (!app->syncing && h->may_store && stores_store(sim, index, app->inode, app->part)) {
		app->syncing = rng_chance(&sim->rng, 500);
		app->stores_lost = copy->stores_lost;
	} else if (!app->syncing && h->may_store) {
		return false;
	}
	if (app->syncing && copy->stores_lost == app->stores_lost &&
	    !stores_clean(h, app->inode)) {
		stores_flush(sim, index, app->inode);
		wake(sim, index, number, rng_between(&sim->rng, 5 * MS, 20 * MS));
		return true;
	}
	think(sim, index, number); /* msync has returned; or without a sync somebody else will */
	return true;
}

static void go_on(struct sim *sim, unsigned index, unsigned number)
{
	struct host *h = &sim->hosts[index];
	struct app *app = &h->apps[number];

	if (app->action == APP_PAGE_READ && served_from_pages(sim, index, app)) {
		think(sim, index, number);
		return;
	}
	if (!h->up) {
		think(sim, index, number); /* the mount is gone: EIO */
		return;
	}
	if (app->action == APP_STORE && h->paused_until <= sim->now &&
	    store_step(sim, index, number))
		return;
	if (h->paused_until > sim->now) {
		wake(sim, index, number, h->paused_until - sim->now + 1);
		return;
	}
	if (!holder_valid(h->holder, host_now(sim, h))) {
		/* PROTOCOL.md 11.4 */
		if (sim->profile.seal && app->action >= APP_GETATTR && app->action <= APP_LIST &&
		    served_from_cache(sim, index, app))
			think(sim, index, number);
		else
			retry(sim, index, number);
		return;
	}
	if (app->action == APP_MODIFY)
		ask_modification(sim, index, number);
	else if (app->action == APP_STORE)
		ask(sim, index, number);
	else if (app->action == APP_OPEN || app->action == APP_CLOSE ?
			 opened_here(sim, index, app) : served_from_cache(sim, index, app))
		think(sim, index, number);
	else
		ask(sim, index, number);
}

void app_step(struct sim *sim, unsigned index, unsigned number, uint32_t generation)
{
	struct host *h = &sim->hosts[index];
	struct app *app = &h->apps[number];

	if (app->generation != generation)
		return;
	if (app->action == APP_IDLE) {
		if (sim->phase == PHASE_QUIET)
			return;
		if (h->up && h->paused_until <= sim->now && rng_chance(&sim->rng, 30))
			release_something(sim, index);
		choose(sim, index, app);
	}
	go_on(sim, index, number);
	if (h->up && h->paused_until <= sim->now)
		host_after_step(sim, index);
}

/* ---- answers ---- */

static void observe_answer(struct sim *sim, unsigned index, struct app *app,
			   const struct message *reply, struct slice bulk)
{
	struct reader r = reader_of(reply->reply.nodes.data, reply->reply.nodes.length);
	struct reader b = reader_of(bulk.data, bulk.length);
	struct item_node node;
	uint32_t child = 0, part_version = 0;

	if (app->action == APP_READ || app->action == APP_PAGE_READ ||
	    app->action == APP_LOOKUP || app->action == APP_STORE) {
		part_version = reader_u32(&b);
		model_observe(sim, index, &app->since, app->inode, (enum aspect)app->part,
			      part_version, "origin");
	}
	while (item_node_read(&r, &node)) {
		uint32_t inode = store_inode_of(sim, &node.handle);

		model_observe(sim, index, &app->since, inode,
			      app->action == APP_LIST ? ASPECT_LISTING : ASPECT_ATTRIBUTES,
			      (uint32_t)node.attributes.size, "origin");
		if (app->action == APP_LOOKUP && node.role == NODE_TARGET)
			child = inode;
	}
	if (app->action == APP_LOOKUP &&
	    sim->store.inodes[app->inode].history[part_version].child[app->part] != child)
		sim_fail(sim, "host %u: a name leads to inode %u, which it never did", index,
			 child);
}

static void note_open(struct host *h, const struct request *request, const struct app *app)
{
	struct copy *copy = &h->copies[app->inode];

	if (request->session.value != holder_session(h->holder).value)
		return;
	if (app->action == APP_OPEN && !copy->closing && request->close_epoch == copy->close_epoch)
		copy->open = copy->registered = true;
	if (app->action == APP_CLOSE && request->close_epoch == copy->close_epoch)
		copy->closing = false;
}

static void read_answered(struct sim *sim, unsigned index, struct request *request,
			  const struct message *reply, struct slice bulk)
{
	struct host *h = &sim->hosts[index];
	unsigned number = request->app;
	struct app *app = &h->apps[number];
	bool page_allowed = false;
	struct reader b = reader_of(bulk.data, bulk.length);

	switch (reply->reply.status) {
	case STATUS_OK:
	case STATUS_NOENT:
		break;
	case STATUS_STALE:
		model_observe_gone(sim, index, app->inode,
				   request->open && h->copies[app->inode].open &&
					   request->session.value ==
						   holder_session(h->holder).value);
		host_request_free(sim, index, request);
		think(sim, index, number);
		return;
	case STATUS_NOSESSION:
	case STATUS_PUSHBACK:
	case STATUS_DEADLINE:
	case STATUS_NOMEM:
		host_request_free(sim, index, request);
		retry(sim, index, number);
		return;
	default:
		sim_fail(sim, "host %u was told %s, and is not to blame", index,
			 status_name(reply->reply.status));
	}
	note_open(h, request, app);
	cache_learn(sim, index, request, reply, bulk, &page_allowed);
	host_request_free(sim, index, request);
	if (app->action == APP_STORE) {
		struct copy *copy = &h->copies[app->inode];
		struct handle handle = store_handle(app->inode);

		if (page_allowed &&
		    !((copy->dirty | copy->written_back) & ASPECT_BIT(app->part)) &&
		    holder_exclusive(h->holder, host_now(sim, h), &handle)) {
			copy->page_valid |= ASPECT_BIT(app->part);
			copy->page_version[app->part] = reader_u32(&b);
			stores_check_used(sim, index, app->inode);
		}
		observe_answer(sim, index, app, reply, bulk);
		/* The instruction that faulted goes on at once. */
		if (!store_step(sim, index, number))
			retry(sim, index, number);
		return;
	}
	if (app->action == APP_PAGE_READ && page_allowed) {
		struct copy *copy = &h->copies[app->inode];

		stores_check_used(sim, index, app->inode);
		copy->page_valid |= ASPECT_BIT(app->part);
		copy->page_version[app->part] = reader_u32(&b);
	} else if (app->action == APP_PAGE_READ && app->tries < 20) {
		/* The kernel would keep what it is given: rather ask again. */
		retry(sim, index, number);
		return;
	}
	observe_answer(sim, index, app, reply, bulk);
	think(sim, index, number);
}

static void free_slot(struct host *h, struct app *app)
{
	if (app->slot >= 0)
		h->slots[app->slot].busy = false;
	app->slot = -1;
}

static void modification_answered(struct sim *sim, unsigned index, struct request *request,
				  const struct message *reply)
{
	struct host *h = &sim->hosts[index];
	struct app *app = &h->apps[request->app];
	uint16_t status = reply->reply.status;

	if (status == STATUS_PUSHBACK || status == STATUS_NOMEM)
		return; /* nothing was begun: the request is repeated when its timer says so */
	model_answered(sim, index, app->attempt, status);
	free_slot(h, app);
	if (status == STATUS_NOSESSION) {
		/* It was not executed and never will be: again, under a new session. */
		host_request_free(sim, index, request);
		retry(sim, index, request->app);
		return;
	}
	cache_modify_end(sim, index, request, app, status == STATUS_OK ? reply : NULL);
	host_request_free(sim, index, request);
	think(sim, index, request->app);
}

void app_answer(struct sim *sim, unsigned index, struct request *request,
		const struct message *reply, struct slice bulk)
{
	if (sim->hosts[index].apps[request->app].action == APP_MODIFY)
		modification_answered(sim, index, request, reply);
	else
		read_answered(sim, index, request, reply, bulk);
}

void app_unanswered(struct sim *sim, unsigned index, struct request *request)
{
	struct host *h = &sim->hosts[index];
	struct app *app = &h->apps[request->app];
	uint8_t data[PACKET_BYTES];

	if (app->action != APP_MODIFY) {
		host_request_free(sim, index, request);
		retry(sim, index, request->app);
		return;
	}
	/* The same slot and sequence, under the session that they are of, until it is answered. */
	memcpy(data, request->data, (size_t)request->length + request->bulk_length);
	network_send_bytes(sim, index, false, false, request->id, data, request->length,
			   request->bulk_length);
	sim_schedule(sim, sim->now + request->timeout, EVENT_REQUEST, index,
		     (unsigned)(request - h->requests), request->id);
}

/* ---- the end ---- */

void app_final_check(struct sim *sim)
{
	for (unsigned index = 0; index < sim->profile.host_count; index++) {
		struct host *h = &sim->hosts[index];

		if (!h->up || !holder_valid(h->holder, host_now(sim, h)))
			sim_fail(sim, "LIVENESS: host %u has no session at the end", index);
		for (unsigned i = 0; i < sim->profile.app_count; i++) {
			if (h->apps[i].action != APP_IDLE)
				sim_fail(sim, "LIVENESS: caller %u of host %u has waited since "
					      "%.3f", i, index, (double)h->apps[i].began / 1e9);
		}
		for (uint32_t inode = 1; inode < sim->store.inode_count; inode++) {
			const struct store_inode *i = &sim->store.inodes[inode];

			for (unsigned a = 0; a < ASPECT_COUNT; a++) {
				uint32_t now = a < PARTS ? i->history[i->version].part[a] :
							   i->version;
				uint32_t version;

				if (cache_serve(sim, index, inode, (enum aspect)a, &version) &&
				    version != now)
					sim_fail(sim, "host %u ends with version %u of inode %u "
						      "aspect %u, which is at %u", index,
						 version, inode, a, now);
			}
		}
	}
	for (uint32_t i = 0; i < sim->origin.operation_high; i++) {
		if (sim->origin.operations[i].used)
			sim_fail(sim, "LIVENESS: an operation is under way at the end");
	}
}
