/*
 * The store behind the origin. An inode's content is its version; a part of it (a block, a name)
 * knows the version at which it was last modified. All of this survives the origin's process.
 */
#include "tests/sim/sim.h"

#include <assert.h>
#include <stdio.h>

static const char *const names[PARTS] = { "alpha", "beta", "gamma", "delta" };

static void make_inode(struct store *store, uint32_t inode, bool directory, uint32_t links)
{
	struct store_inode *i = &store->inodes[inode];

	i->exists = true;
	i->freed = false;
	i->directory = directory;
	i->version = 1;
	i->links = links;
	memset(&i->history[1], 0, sizeof(i->history[1]));
	for (unsigned part = 0; part < PARTS; part++)
		i->history[1].part[part] = 1;
}

void store_init(struct sim *sim)
{
	struct store *store = &sim->store;
	/* Two directories; two files under the root, one under the other directory. */
	static const uint8_t root_child[PARTS] = { 3, 4, 0, 0 };

	store->incarnation = 7;
	store->epoch = 0;
	store->record_count = store->silent_count = 0;
	store->silent_unknown.ns = 0;
	store->session_count = store->kept_high = 0;
	memset(store->intents, 0, sizeof(store->intents));
	store->term_max = 0;
	for (unsigned i = 0; i < INODES_MAX; i++)
		store->inodes[i].exists = false;
	make_inode(store, 1, true, 1);
	make_inode(store, 2, true, 1);
	make_inode(store, 3, false, 1);
	make_inode(store, 4, false, 1);
	make_inode(store, 5, false, 1);
	memcpy(store->inodes[1].history[1].child, root_child, PARTS);
	store->inodes[2].history[1].child[0] = 5;
	store->inode_count = 6;
	for (unsigned i = 1; i < store->inode_count; i++)
		sim->model.floor[i] = 1;
}

struct handle store_handle(uint32_t inode)
{
	struct handle handle = { .length = 12 };

	memcpy(handle.bytes, "inode", 5);
	handle.bytes[8] = (uint8_t)(inode * 37);
	handle.bytes[11] = (uint8_t)inode;
	return handle;
}

uint32_t store_inode_of(struct sim *sim, const struct handle *handle)
{
	uint32_t inode = handle->bytes[11];
	struct handle expected;

	if (inode == 0 || inode >= sim->store.inode_count)
		sim_fail(sim, "a handle that was never made");
	expected = store_handle(inode);
	if (!handle_equal(handle, &expected))
		sim_fail(sim, "a handle was changed on its way");
	return inode;
}

struct change store_change(struct sim *sim, uint32_t inode, uint32_t version)
{
	(void)inode;
	return (struct change){ sim->store.incarnation, version };
}

struct slice store_name(uint32_t part)
{
	return slice_of(names[part]);
}

uint32_t store_part_of(struct sim *sim, struct slice name)
{
	for (uint32_t part = 0; part < PARTS; part++) {
		if (slice_equal(name, store_name(part)))
			return part;
	}
	sim_fail(sim, "a name that nobody uses");
}

static uint32_t child_of(const struct store *store, uint32_t directory, uint32_t part)
{
	const struct store_inode *d = &store->inodes[directory];

	return d->history[d->version].child[part];
}

void store_resolve(struct sim *sim, struct modification *m)
{
	m->child = m->replaced = 0;
	if (m->action == ACTION_UNLINK || m->action == ACTION_RENAME)
		m->child = child_of(&sim->store, m->inode, m->part);
	if (m->action == ACTION_RENAME)
		m->replaced = child_of(&sim->store, m->to_inode, m->to_part);
}

/* Makes the next version of `inode`, or returns the one that this modification has made. */
static struct store_version *touch(struct sim *sim, struct modification *m, uint32_t inode,
				   uint32_t aspects)
{
	struct store_inode *i = &sim->store.inodes[inode];
	struct store_version *v;
	uint32_t t;

	for (t = 0; t < m->touched_count && m->touched[t].inode != inode; t++)
		;
	if (t == m->touched_count) {
		assert(t < AUTHORITY_TARGETS_MAX && i->version + 1 < VERSIONS_MAX);
		m->touched_count++;
		m->touched[t].inode = inode;
		m->touched[t].before = i->version;
		m->touched[t].after = i->version + 1;
		m->touched[t].aspects = 0;
		i->history[i->version + 1] = i->history[i->version];
		i->version++;
	}
	m->touched[t].aspects |= aspects | ASPECT_BIT(ASPECT_ATTRIBUTES);
	v = &i->history[i->version];
	for (unsigned part = 0; part < PARTS; part++) {
		if (aspects & ASPECT_BIT(part))
			v->part[part] = (uint16_t)i->version;
	}
	return v;
}

static void set_name(struct sim *sim, struct modification *m, uint32_t directory, uint32_t part,
		     uint32_t child)
{
	touch(sim, m, directory, ASPECT_BIT(part) | ASPECT_BIT(ASPECT_LISTING))->child[part] =
		(uint8_t)child;
}

/* The inode lost a name. */
static void unlink_inode(struct sim *sim, struct modification *m, uint32_t inode)
{
	struct store_version *v = touch(sim, m, inode, 0);

	if (--sim->store.inodes[inode].links == 0)
		v->gone = true;
}

static bool has_room(struct sim *sim, uint32_t inode)
{
	return !inode || sim->store.inodes[inode].version + 1 < VERSIONS_MAX;
}

void store_free(struct sim *sim, uint32_t inode)
{
	struct store_inode *i = &sim->store.inodes[inode];

	if (i->history[i->version].gone)
		i->freed = true;
}

static bool is_sealed(const struct sim *sim, uint32_t inode)
{
	const struct store_inode *i = &sim->store.inodes[inode];

	return inode && i->history[i->version].seal;
}

/* PROTOCOL.md 11.2: what is refused; what would fail anyway fails as it would. */
static bool refuses(const struct sim *sim, const struct modification *m)
{
	switch (m->action) {
	case ACTION_WRITE:
	case ACTION_SETATTR:
		return !m->seal && is_sealed(sim, m->inode);
	case ACTION_CREATE:
		return !child_of(&sim->store, m->inode, m->part) && is_sealed(sim, m->inode);
	case ACTION_UNLINK:
	case ACTION_RENAME:
		return m->child && m->child != m->replaced &&
		       (is_sealed(sim, m->inode) || is_sealed(sim, m->child) ||
			is_sealed(sim, m->to_inode) || is_sealed(sim, m->replaced));
	}
	return false;
}

static uint16_t apply_seal(struct sim *sim, struct modification *m)
{
	const struct store_inode *i = &sim->store.inodes[m->inode];
	uint8_t seal = i->history[i->version].seal;

	if (i->history[i->version].gone)
		return STATUS_NOENT;
	if (m->seal == SEAL_REMOVE && !seal)
		return STATUS_NODATA;
	if (m->seal <= seal)
		return STATUS_OK; /* a seal's term is never made shorter */
	touch(sim, m, m->inode, 0)->seal = m->seal == SEAL_REMOVE ? 0 : (uint8_t)m->seal;
	return STATUS_OK;
}

static uint16_t apply_names(struct sim *sim, struct modification *m)
{
	struct store *store = &sim->store;

	switch (m->action) {
	case ACTION_CREATE:
		if (child_of(store, m->inode, m->part))
			return STATUS_EXIST;
		if (store->inode_count == INODES_MAX)
			return STATUS_NOSPC;
		m->created = store->inode_count++;
		make_inode(store, m->created, false, 1);
		sim->model.floor[m->created] = 1;
		set_name(sim, m, m->inode, m->part, m->created);
		return STATUS_OK;
	case ACTION_UNLINK:
		if (!m->child)
			return STATUS_NOENT;
		set_name(sim, m, m->inode, m->part, 0);
		unlink_inode(sim, m, m->child);
		return STATUS_OK;
	case ACTION_RENAME:
		if (!m->child)
			return STATUS_NOENT;
		if (m->child == m->replaced)
			return STATUS_OK;
		set_name(sim, m, m->inode, m->part, 0);
		set_name(sim, m, m->to_inode, m->to_part, m->child);
		touch(sim, m, m->child, 0);
		if (m->replaced)
			unlink_inode(sim, m, m->replaced);
		return STATUS_OK;
	default:
		assert(false);
		return STATUS_INVAL;
	}
}

bool store_apply(struct sim *sim, struct modification *m)
{
	struct modification now = *m;

	store_resolve(sim, &now);
	if (now.child != m->child || now.replaced != m->replaced)
		return false;
	m->touched_count = 0;
	m->created = 0;
	if (sim->store.inodes[m->inode].freed) {
		m->status = STATUS_STALE;
	} else if (!has_room(sim, m->inode) || !has_room(sim, m->to_inode) ||
		   !has_room(sim, m->child) || !has_room(sim, m->replaced)) {
		m->status = STATUS_NOSPC;
	} else if (refuses(sim, m)) {
		m->status = STATUS_SEALED;
	} else if (m->action == ACTION_SETATTR && m->seal) {
		m->status = apply_seal(sim, m);
	} else if (m->action == ACTION_WRITE || m->action == ACTION_SETATTR) {
		touch(sim, m, m->inode, m->action == ACTION_WRITE ? ASPECT_BIT(m->part) : 0);
		m->status = STATUS_OK;
	} else {
		m->status = apply_names(sim, m);
	}
	return true;
}
