#include "fs/mount/inode.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <xxhash.h>

#include "fs/mount/log.h"
#include "fs/mount/pages.h"
#include "fs/mount/rules.h"
#include "fs/mount/session.h"
#include "lease/seal.h"

/* ---- what only some have ---- */

static const struct inode_live nothing = { .guardian_slot = -1 };

/*
 * Those made first have their place before there is a mount: a recall must not fail for want of memory.
 * Of all mounts of the process; its lock is a leaf.
 */
#define RESERVE_COUNT 256

static pthread_mutex_t reserve_lock = PTHREAD_MUTEX_INITIALIZER;
static struct inode_live *reserve[RESERVE_COUNT];
static unsigned reserve_count;

static int reserve_fill(void)
{
	int r = 0;

	pthread_mutex_lock(&reserve_lock);
	while (r == 0 && reserve_count < RESERVE_COUNT) {
		struct inode_live *live = malloc(sizeof(*live));

		if (live)
			reserve[reserve_count++] = live;
		else
			r = -ENOMEM;
	}
	pthread_mutex_unlock(&reserve_lock);
	return r;
}

static struct inode_live *reserve_take(void)
{
	struct inode_live *live = NULL;

	pthread_mutex_lock(&reserve_lock);
	if (reserve_count > 0)
		live = reserve[--reserve_count];
	pthread_mutex_unlock(&reserve_lock);
	return live;
}

static void live_destroy(struct inode_live *live)
{
	pthread_mutex_lock(&reserve_lock);
	if (reserve_count < RESERVE_COUNT) {
		reserve[reserve_count++] = live;
		live = NULL;
	}
	pthread_mutex_unlock(&reserve_lock);
	free(live);
}

struct inode_live *inode_live(struct inode *inode)
{
	if (inode->live == &nothing) {
		struct inode_live *live = malloc(sizeof(*live));

		if (!live)
			live = reserve_take();
		if (!live) {
			mount_log("error", "out of memory");
			abort(); /* the guardian ends the mount */
		}
		*live = nothing;
		inode->live = live;
	}
	return (struct inode_live *)inode->live;
}

static bool modes_say_nothing(const struct mode_state *modes)
{
	return modes->pages == 0 && modes->direct == 0 && modes->writers == 0 &&
	       modes->passthrough == 0 && modes->backing_id == 0;
}

/* Leaves out what means something to others of it only, and hints. */
static bool says_nothing(const struct inode_live *live)
{
	return live->weak_acls == 0 && live->target_instance == 0 && !live->target &&
	       live->names.count == 0 && live->names_complete_instance == 0 && !live->listing &&
	       !live->names_given && !live->fetches && !live->readings &&
	       modes_say_nothing(&live->modes) && live->backing.id == 0 && !live->backing.file &&
	       !live->open_fetching && !change_known(live->open_unkept) && live->open_count == 0 &&
	       live->hold_count == 0 && live->fence_count == 0 && live->fills == 0 &&
	       !live->no_ahead && live->dropping == 0 && live->dropping_pages == 0 &&
	       live->weak_fills == 0 && live->mappable == 0 && !live->mapped &&
	       live->stored.session.value == 0 && live->stored.number == 0 && !live->stored.kept &&
	       live->stored_drops == 0 && live->invalidating == 0 && !live->held &&
	       live->held_count == 0 && !live->locks_used && !live->closing &&
	       !live->open_registered && live->open_told == 0 && !live->pages &&
	       live->guardian_slot == -1 && live->unsynced_incarnation == 0 &&
	       live->lost_serial == 0 && live->lost_incarnation == 0;
}

/* Nobody uses it: no operation, and one name at most. */
static void settle(struct inode *inode)
{
	struct inode_live *live;

	if (inode->live == &nothing || inode->use_count > (inode_name(inode) ? 1 : 0) ||
	    !says_nothing(inode->live))
		return;
	live = inode_live(inode);
	inode->live = &nothing;
	live_destroy(live);
}

/* ---- names ---- */

static void not_complete(struct inode *directory)
{
	if (directory->live->names_complete_instance)
		inode_live(directory)->names_complete_instance = 0;
}

static void name_remove(struct mount *m, struct inode *directory, struct name_entry *entry)
{
	struct inode *child = entry->child;

	name_table_remove(&inode_live(directory)->names, entry);
	m->inodes->name_count--;
	if (child && inode_name(child) == entry)
		child->some_name = NULL;
	slab_free(&m->inodes->slab, entry, name_entry_bytes(entry->length));
	if (child)
		inode_unuse(m, child);
}

void inode_names_forget(struct mount *m, struct inode *directory)
{
	struct name_table *names;
	uint32_t at = 0;

	not_complete(directory);
	if (directory->live->names.count == 0)
		return;
	names = &inode_live(directory)->names;
	while (at < names->capacity) { /* 0 once they are gone */
		if (names->heads[at])
			name_remove(m, directory, names->heads[at]);
		else
			at++;
	}
}

void inode_name_forget(struct mount *m, struct inode *directory, struct slice name)
{
	struct name_entry *entry = name_table_find(&directory->live->names, name);

	not_complete(directory);
	if (entry)
		name_remove(m, directory, entry);
}

uint64_t inode_lease_strict(struct mount *m, const struct inode *inode, struct instant now,
			    struct change *ret_change)
{
	struct handle handle = inode_handle(inode);
	uint64_t instance = holder_lease(m->holder, now, &handle);

	if (instance) {
		*ret_change = holder_change(m->holder, &handle);
		return instance;
	}
	/* PROTOCOL.md 11.4: by what its attributes say. */
	if (!inode->attributes_instance || !(inode_heard_mode(m, inode) & MARK_SEALED))
		return 0;
	instance = holder_lease_sealed(m->holder, now, &handle,
				       seal_term_of_mode(inode_heard_mode(m, inode)), ret_change);
	if (!instance || instance != inode->attributes_instance)
		return 0;
	COUNT(m, sealed);
	return instance;
}

uint64_t inode_lease(struct mount *m, const struct inode *inode, struct instant now,
		     struct change *ret_change)
{
	struct change change = { 0, 0 };
	uint64_t instance = inode_lease_strict(m, inode, now, &change);

	if (instance) {
		if (ret_change)
			*ret_change = change;
		return instance;
	}
	change = (struct change){ 0, 0 };
	if (session_serves_stale(m, now) &&
	    rules_disconnected(m, inode) == RULES_DISCONNECTED_STALE)
		instance = holder_lease_before(m->holder, now, INODE_HANDLE(inode), &change);
	if (instance)
		session_served_stale(m);
	if (ret_change)
		*ret_change = change;
	return instance;
}

bool inode_name_find(struct mount *m, struct inode *directory, struct slice name,
		     struct instant now, struct inode **ret_child)
{
	uint64_t instance = inode_lease(m, directory, now, NULL);
	struct name_entry *entry;

	if (!instance)
		return false;
	entry = name_table_find(&directory->live->names, name);
	if (entry && name_table_instance(&directory->live->names, entry) == instance) {
		*ret_child = entry->child;
		return true;
	}
	if (entry || directory->live->names_complete_instance != instance)
		return false;
	*ret_child = NULL; /* a whole listing knows every absent name, too */
	return true;
}

void inode_name_set(struct mount *m, struct inode *directory, struct slice name,
		    struct inode *child, uint64_t instance)
{
	struct name_entry *entry = name_table_find(&directory->live->names, name);

	if (entry)
		name_remove(m, directory, entry);
	entry = m->inodes->name_count < NAME_COUNT_MAX ?
			slab_allocate(&m->inodes->slab, name_entry_bytes(name.length)) : NULL;
	if (!entry) {
		not_complete(directory);
		return;
	}
	memcpy(entry->name, name.data, name.length);
	entry->length = (uint8_t)name.length;
	entry->child = child;
	entry->directory = directory;
	if (name_table_add(&inode_live(directory)->names, entry) < 0) {
		not_complete(directory);
		slab_free(&m->inodes->slab, entry, name_entry_bytes(entry->length));
		return;
	}
	name_table_learned(&inode_live(directory)->names, entry, instance);
	if (child) {
		inode_use(m, child);
		child->some_name = entry;
	}
	m->inodes->name_count++;
}

/* ---- the table ---- */

int inode_table_create(struct inode_table **ret_table)
{
	struct inode_table *table = reserve_fill() < 0 ? NULL : calloc(1, sizeof(*table));

	if (!table)
		return -ENOMEM;
	slab_init(&table->slab);
	kinds_init(&table->kinds, &table->slab);
	table->idle_count_max = INODE_IDLE_COUNT_MAX;
	map_init(&table->by_nodeid, &session_allocator, MAP_U64, offsetof(struct inode, nodeid),
		 (uint64_t)(uintptr_t)table);
	*ret_table = table;
	return 0;
}

/* The inode is used, or goes. */
static void idle_remove(struct inode_table *table, struct inode *inode)
{
	struct idle *idle = inode->idle;

	if (!inode->in_idle)
		return;
	if (idle->previous)
		idle->previous->next = idle->next;
	else
		table->idle_oldest = idle->next;
	if (idle->next)
		idle->next->previous = idle->previous;
	else
		table->idle_newest = idle->previous;
	inode->in_idle = false;
	inode->some_name = NULL;
	slab_free(&table->slab, idle, sizeof(*idle));
	table->idle_count--;
}

/* False: no memory. */
static bool idle_add(struct inode_table *table, struct inode *inode)
{
	struct idle *idle = slab_allocate(&table->slab, sizeof(*idle));

	if (!idle)
		return false;
	idle->inode = inode;
	idle->previous = table->idle_newest;
	if (idle->previous)
		idle->previous->next = idle;
	else
		table->idle_oldest = idle;
	table->idle_newest = idle;
	inode->in_idle = true;
	inode->idle = idle;
	table->idle_count++;
	return true;
}

static bool is_idle(const struct inode *inode)
{
	return inode->use_count == 0 && inode->lookup_count == 0;
}

static size_t inode_bytes(size_t handle_length)
{
	return offsetof(struct inode, handle_bytes) + handle_length;
}

static void inode_dispose(struct mount *m, struct inode *inode)
{
	inode_names_forget(m, inode);
	listing_unref(inode->live->listing);
	if (inode->file)
		cache_file_put(inode->file);
	if (inode->live->backing.file) { /* the kernel has given it up with the connection */
		cache_file_unpin(inode->live->backing.file);
		cache_file_put(inode->live->backing.file);
	}
	pages_give_back(m, inode);
	free(inode->live->target);
	if (inode->live != &nothing)
		live_destroy(inode_live(inode));
	packed_clear(&m->inodes->kinds, &inode->packed);
	slab_free(&m->inodes->slab, inode, inode_bytes(inode->handle_length));
}

/* Frees an idle inode that is not in the idle list. Its names may make others idle. */
static void inode_free(struct mount *m, struct inode *inode)
{
	struct inode_table *table = m->inodes;

	(void)map_remove(&table->by_nodeid, &inode->nodeid);
	if (table->root == inode)
		table->root = NULL;
	table->count--;
	inode_dispose(m, inode);
}

void inode_table_destroy(struct mount *m)
{
	struct inode *inode;
	size_t cursor = 0;

	if (!m->inodes)
		return;
	while (m->inodes->idle_oldest)
		idle_remove(m->inodes, m->inodes->idle_oldest->inode);
	m->inodes->ending = true;
	while ((inode = inode_next(m, &cursor)))
		inode_names_forget(m, inode);
	cursor = 0;
	while ((inode = inode_next(m, &cursor))) {
		inode->use_count = 0;
		inode->lookup_count = 0;
		if (inode->live->pages)
			inode_live(inode)->pages = false; /* the guardian is gone, or fences by itself */
		inode_dispose(m, inode);
	}
	map_finish(&m->inodes->by_nodeid);
	kinds_finish(&m->inodes->kinds);
	slab_finish(&m->inodes->slab);
	free(m->inodes);
	m->inodes = NULL;
	free(m->page_inodes);
	m->page_inodes = NULL;
}

static bool has_handle(const struct inode *inode, const struct handle *handle)
{
	return inode->handle_length == handle->length &&
	       memcmp(inode->handle_bytes, handle->bytes, handle->length) == 0;
}

struct inode *inode_find(struct mount *m, const struct handle *handle)
{
	uint64_t nodeid = inode_nodeid(handle);
	struct inode *inode = m->inodes->root;

	if (inode && has_handle(inode, handle))
		return inode;
	for (uint64_t i = 0; i <= m->inodes->displaced_max; i++) {
		inode = inode_by_nodeid(m, nodeid + i);
		if (inode && has_handle(inode, handle))
			return inode;
	}
	return NULL;
}

struct inode *inode_by_nodeid(struct mount *m, uint64_t nodeid)
{
	return map_get(&m->inodes->by_nodeid, &nodeid);
}

void inode_use(struct mount *m, struct inode *inode)
{
	if (is_idle(inode))
		idle_remove(m->inodes, inode);
	inode->recent = true;
	inode->given_up = false;
	inode->use_count++;
}

/* The oldest idle inodes go when there are too many. */
static void became_idle(struct mount *m, struct inode *inode)
{
	struct inode_table *table = m->inodes;

	if (table->ending)
		return;
	if (!idle_add(table, inode)) {
		inode_free(m, inode);
		return;
	}
	while (table->idle_count > table->idle_count_max) {
		struct inode *oldest = table->idle_oldest->inode;

		idle_remove(table, oldest);
		inode_free(m, oldest);
	}
}

void inode_unuse(struct mount *m, struct inode *inode)
{
	inode->use_count--;
	settle(inode);
	if (is_idle(inode))
		became_idle(m, inode);
}

uint64_t inode_nodeid(const struct handle *handle)
{
	uint64_t hash = XXH3_64bits(handle->bytes, handle->length);

	return hash <= FUSE_ROOT_ID ? hash + FUSE_ROOT_ID + 1 : hash;
}

struct inode *inode_next(struct mount *m, size_t *cursor)
{
	return map_next(&m->inodes->by_nodeid, cursor);
}

static uint64_t nodeid_for(struct mount *m, const struct handle *handle)
{
	uint64_t nodeid = inode_nodeid(handle), displaced = 0;

	if (m->inodes->count == 0)
		return FUSE_ROOT_ID;
	while (nodeid + displaced <= FUSE_ROOT_ID || inode_by_nodeid(m, nodeid + displaced))
		displaced++;
	if (displaced > m->inodes->displaced_max)
		m->inodes->displaced_max = displaced;
	return nodeid + displaced;
}

struct inode *inode_get(struct mount *m, const struct handle *handle, uint32_t mode)
{
	struct inode_table *table = m->inodes;
	struct inode *inode = inode_find(m, handle);

	if (inode) {
		inode_use(m, inode);
		return inode;
	}
	inode = map_reserve(&table->by_nodeid, 1) ? NULL :
			slab_allocate(&table->slab, inode_bytes(handle->length));
	if (!inode)
		return NULL;
	inode->handle_length = handle->length;
	memcpy(inode->handle_bytes, handle->bytes, handle->length);
	inode->type = (uint16_t)(mode & S_IFMT);
	inode->nodeid = nodeid_for(m, handle);
	inode->use_count = 1;
	inode->recent = true;
	inode->live = &nothing;
	map_insert(&table->by_nodeid, inode);
	if (inode->nodeid == FUSE_ROOT_ID)
		table->root = inode;
	table->count++;
	return inode;
}

void inode_looked_up(struct mount *m, struct inode *inode)
{
	if (is_idle(inode))
		idle_remove(m->inodes, inode);
	inode->recent = true;
	inode->given_up = false;
	inode->lookup_count++;
}

void inode_forget(struct mount *m, struct inode *inode, uint64_t count)
{
	inode->lookup_count -= count < inode->lookup_count ? count : inode->lookup_count;
	if (!is_idle(inode))
		return;
	if (inode->given_up)
		inode_free(m, inode);
	else
		became_idle(m, inode);
}

bool inode_attributes_stand(struct mount *m, struct inode *inode, struct instant now)
{
	if (inode->attributes_instance == 0 ||
	    inode_lease(m, inode, now, NULL) != inode->attributes_instance)
		return false;
	inode->recent = true;
	return true;
}

const struct attributes *inode_attributes(struct mount *m, struct inode *inode, struct instant now,
					  struct attributes *known)
{
	if (!inode_attributes_stand(m, inode, now))
		return NULL;
	*known = inode_heard(m, inode);
	return known;
}

uint64_t inode_size(struct mount *m, struct inode *inode, struct instant now)
{
	return inode_attributes_stand(m, inode, now) ? inode_heard(m, inode).size : UINT64_MAX;
}

struct attributes inode_heard(const struct mount *m, const struct inode *inode)
{
	return packed_get(&m->inodes->kinds, &inode->packed);
}

uint32_t inode_heard_mode(const struct mount *m, const struct inode *inode)
{
	return packed_mode(&m->inodes->kinds, &inode->packed);
}

void inode_set_attributes(struct mount *m, struct inode *inode, const struct attributes *attributes,
			  uint64_t instance)
{
	if (packed_set(&m->inodes->kinds, &inode->packed, attributes) < 0)
		instance = 0;
	inode->attributes_instance = instance;
	if (attributes->mode & MARK_FINAL)
		inode->final = true;
}

void inode_give_attributes(struct inode *inode)
{
	inode->attributes_given = true;
	inode->given_serial++;
}

/* ---- shedding ---- */

static void listing_forget(struct inode *directory)
{
	if (!directory->live->listing)
		return;
	listing_unref(directory->live->listing);
	inode_live(directory)->listing = NULL;
}

/* What is under way, or what somebody still has to hear of, keeps it. */
static bool sheddable(const struct inode *inode)
{
	return inode->nodeid != FUSE_ROOT_ID && inode->live->open_count == 0 && !inode->live->fetches &&
	       !inode->live->readings && !inode->live->held && inode->live->stored.session.value == 0 &&
	       inode->live->stored.number == 0 && !inode->live->mapped && inode->live->mappable == 0 &&
	       inode->live->dropping == 0 && inode->live->hold_count == 0 && inode->live->fence_count == 0 &&
	       inode->live->fills == 0 && inode->live->weak_fills == 0 && !inode->live->closing &&
	       !inode->live->open_registered && inode->live->open_told == 0 && !inode->live->open_fetching &&
	       inode->live->unsynced_incarnation == 0 && inode->live->lost_incarnation == 0 &&
	       inode->live->invalidating == 0 && !inode->live->backing.id && !inode->live->locks_used;
}

/* Forgets names and listings that lead from it and to it. */
static void forget_names(struct mount *m, struct inode *inode)
{
	inode_names_forget(m, inode);
	listing_forget(inode);
	if (inode_name(inode)) {
		struct inode *directory = inode_name(inode)->directory;

		not_complete(directory);
		listing_forget(directory);
		name_remove(m, directory, inode_name(inode));
	}
}

/* True: the kernel knows it, and nobody uses it. */
static bool give_up(struct mount *m, struct inode *inode, struct holder_actions *out)
{
	inode_use(m, inode); /* what follows may free what is idle */
	forget_names(m, inode);
	inode->recent = false;
	if (--inode->use_count > 0)
		return false; /* a name of another directory leads to it, or a call is about it */
	holder_release(m->holder, INODE_HANDLE(inode), out);
	COUNT(m, shed);
	if (inode->lookup_count == 0) {
		inode_free(m, inode);
		return false;
	}
	if (inode->file)
		cache_file_put(inode->file);
	inode->file = NULL;
	inode->given_up = true;
	return true;
}

unsigned inode_shed(struct mount *m, unsigned look, uint64_t *nodeids, unsigned max,
		    struct holder_actions *out)
{
	struct inode_table *table = m->inodes;
	unsigned count = 0;

	for (unsigned i = 0; i < look && table->count > 0 && count < max; i++) {
		struct inode *inode = inode_next(m, &table->shed_next);
		uint64_t nodeid;
		bool recent;

		if (!inode) {
			table->shed_next = 0;
			inode = inode_next(m, &table->shed_next);
		}
		nodeid = inode->nodeid;
		recent = inode->recent;
		inode->recent = false;
		/* One use is that of its name. */
		if (!recent && !inode->given_up && sheddable(inode) && inode->use_count <= 1 &&
		    give_up(m, inode, out))
			nodeids[count++] = nodeid;
	}
	return count;
}

/* ---- listings ---- */

const struct attributes *listing_attributes(struct mount *m, const struct inode *directory,
					    const struct listing *listing,
					    const struct listing_entry *entry, struct instant now,
					    struct attributes *known, struct inode **ret_child)
{
	struct slice name = { (const uint8_t *)listing->names + entry->name_at, entry->name_length };
	const struct name_entry *named = name_table_find(&directory->live->names, name);
	struct inode *child = named ? named->child : NULL;
	const struct attributes *attributes = child ? inode_attributes(m, child, now, known) : NULL;

	/* The name may have led elsewhere when it was learned. */
	if (attributes && attributes->inode != entry->number)
		attributes = NULL;
	*ret_child = attributes ? child : NULL;
	return attributes;
}
