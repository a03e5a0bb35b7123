/* The account: who gets room, what goes for it. */
#include "fs/cache/internal.h"

#include <assert.h>
#include <errno.h>

/* Files that one reservation may evict: a bound on the wait, far above what a request needs. */
#define EVICTIONS_MAX 65536
/* Files in use that one choice of a victim may pass over. */
#define PASSED_OVER_MAX 256
/* Free space that stays beside what the user wants left: for metadata of the file system. */
#define SPACE_MARGIN_BYTES (256 * 1024)
/* Blocks that a file needs at write-back: its record's, and of extents. */
#define DIRTY_BLOCKS 3
/* Some file systems give space back behind an unlink: so often it is waited for. */
#define FREED_WAITS_MAX 10
#define FREED_ROUNDS_MAX 4
/* Of the cap, for what is asked for: one in so many is not for guesses. */
#define ROOM_LEFT_SHARE 16

void cache_used(struct cache_file *f, uint64_t bytes)
{
	struct cache *c = f->cache;

	pthread_mutex_lock(&c->lock);
	policy_time(&c->policy, cache_clock_s());
	policy_pass(&c->policy, bytes);
	policy_use(&c->policy, &f->item);
	pthread_mutex_unlock(&c->lock);
}

void cache_file_touch(struct cache_file *f, uint64_t bytes)
{
	cache_used(f, bytes);
}

static struct cache_file *file_of(struct policy_item *item)
{
	return (struct cache_file *)((char *)item - offsetof(struct cache_file, item));
}

/* The policy knows of it while it takes room. c->lock is held. */
static void list(struct cache *c, struct cache_file *f)
{
	if (f->item.bytes == 0)
		policy_remove(&c->policy, &f->item, f->hash);
	else if (f->item.place == POLICY_NOWHERE)
		policy_admit(&c->policy, &f->item, f->hash);
	policy_pin(&c->policy, &f->item, f->pins > 0);
}

/*
 * By how much space is short for `bytes` more. The policy hears what the cache can have altogether: that
 * may be less than its cap. c->lock is held.
 */
static uint64_t space_short(struct cache *c, const struct space *space, uint64_t bytes)
{
	uint64_t taken = policy_bytes(&c->policy);
	uint64_t need = c->free_bytes_min + SPACE_MARGIN_BYTES + c->reserved_bytes +
			c->disk_dirty * DIRTY_BLOCKS * c->block_bytes;
	uint64_t left = space->bytes > need ? space->bytes - need : 0;
	uint64_t lacking = need > space->bytes ? need - space->bytes : 0;
	uint64_t limit;

	if (left > c->bytes_max)
		left = c->bytes_max;
	limit = lacking <= taken ? taken - lacking + left : 0;
	if (c->disk_files > c->files_max / 2 && taken / c->disk_files < limit / c->files_max)
		limit = taken / c->disk_files * c->files_max;
	policy_limit(&c->policy, limit);
	return bytes > left ? lacking + bytes - left : lacking;
}

uint64_t cache_room(struct cache *c)
{
	uint64_t taken, most;

	pthread_mutex_lock(&c->lock);
	taken = policy_bytes(&c->policy) + c->reserved_bytes + c->bytes_max / ROOM_LEFT_SHARE;
	most = c->policy.limit < c->bytes_max ? c->policy.limit : c->bytes_max;
	if (c->disk_files >= c->files_max)
		most = 0;
	pthread_mutex_unlock(&c->lock);
	return most > taken ? most - taken : 0;
}

static void set_counted(struct cache *c, struct cache_file *f, bool counted)
{
	if (f->counted == counted)
		return;
	f->counted = counted;
	c->disk_files += counted ? 1 : UINT64_MAX;
}

void cache_count_dirty(struct cache *c, struct cache_file *f)
{
	bool dirty = f->dirty && f->item.bytes > 0;

	if (f->dirty_counted == dirty)
		return;
	f->dirty_counted = dirty;
	c->disk_dirty += dirty ? 1 : UINT64_MAX;
}

/*
 * Takes the file that should go so that `self` (may be NULL) gets `bytes`: referenced, and locked
 * exclusively. Whoever knows it goes on without what was cached. Passed over is what somebody reads or
 * writes at this moment, and what the flusher has open (its blocks would stay). NULL: there is none.
 */
static struct cache_file *take_victim(struct cache *c, struct cache_file *self, uint64_t bytes)
{
	struct policy_item *for_item = self ? &self->item : NULL;
	struct policy_item *item = policy_victim(&c->policy, for_item, bytes, NULL);

	for (int passed_over = 0; item && passed_over < PASSED_OVER_MAX; passed_over++) {
		struct cache_file *f = file_of(item);

		/* Against the order of the locks, but it does not wait. */
		if (!f->flushing && pthread_rwlock_trywrlock(&f->lock) == 0) {
			if (cache_file_reference(f))
				return f;
			pthread_rwlock_unlock(&f->lock);
		}
		item = policy_victim(&c->policy, for_item, bytes, item);
	}
	return NULL;
}

/*
 * Evicts what take_victim() handed out, and adds what it took. False: the disk refuses, and would refuse
 * the next as well.
 */
static bool evict(struct cache *c, struct cache_file *f, uint64_t *freed_bytes)
{
	uint64_t bytes = f->item.bytes; /* changes only with the file's lock */
	bool refused;

	cache_file_drop_locked(f);
	refused = f->on_disk;
	pthread_rwlock_unlock(&f->lock);
	if (refused) {
		cache_used(f, 0); /* not the first choice next time */
	} else {
		atomic_fetch_add(&c->statistics.evicted_files, 1);
		atomic_fetch_add(&c->statistics.evicted_bytes, bytes);
		*freed_bytes += bytes;
	}
	cache_file_put(f);
	return !refused;
}

enum room { ROOM_TAKEN, ROOM_COMES, ROOM_NEEDED, ROOM_NEVER };

/*
 * Takes `bytes` for `self` if they are there; else what to do, with a victim. `freed_bytes` were evicted
 * for them. c->lock is held.
 */
static enum room try_room(struct cache *c, struct cache_file *self, uint64_t bytes,
			  const struct space *space, uint64_t freed_bytes,
			  struct cache_file **ret_victim)
{
	uint64_t lacking = space_short(c, space, bytes);
	bool new = self && !self->counted;
	bool fits = c->bytes <= c->bytes_max && bytes <= c->bytes_max - c->bytes &&
		    (!new || space->inodes) && c->disk_files + new <= c->files_max &&
		    !(self && policy_above_quota(&c->policy, &self->item, bytes));
	/* What the scan may find is there as well. */
	bool known = !self || (c->unscanned_bytes <= c->bytes_max - c->bytes - bytes &&
			       c->disk_files + new + c->unscanned_files <= c->files_max);

	if (fits && !known)
		return ROOM_NEVER;
	if (fits && lacking == 0) {
		c->bytes += bytes;
		c->reserved_bytes += bytes;
		if (self)
			set_counted(c, self, true);
		return ROOM_TAKEN;
	}
	if (bytes > c->bytes_max)
		return ROOM_NEVER;
	if (fits && freed_bytes >= lacking)
		return ROOM_COMES;
	*ret_victim = take_victim(c, self, bytes);
	return *ret_victim ? ROOM_NEEDED : ROOM_NEVER;
}

/* Evicts until `bytes` more fit, and takes them for `self`, which may be NULL. */
static int make_room(struct cache *c, struct cache_file *self, uint64_t bytes)
{
	uint64_t freed_bytes = 0;
	int waits = 0, rounds = 0;

	for (int evictions = 0; evictions < EVICTIONS_MAX; evictions++) {
		struct space space = space_look(&c->space_source);
		struct cache_file *victim = NULL;
		enum room room;

		pthread_mutex_lock(&c->lock);
		if (c->closing && !self)
			room = ROOM_NEVER; /* the next start goes on with it */
		else
			room = try_room(c, self, bytes, &space, freed_bytes, &victim);
		pthread_mutex_unlock(&c->lock);
		if (room == ROOM_TAKEN)
			return 0;
		if (room == ROOM_NEVER)
			return -ENOSPC;
		if (room == ROOM_NEEDED && !evict(c, victim, &freed_bytes))
			return -ENOSPC;
		if (room == ROOM_COMES && waits++ < FREED_WAITS_MAX) {
			space_wait_for_unlinked(&c->space_source);
		} else if (room == ROOM_COMES) { /* it went elsewhere */
			if (++rounds == FREED_ROUNDS_MAX)
				return -ENOSPC;
			freed_bytes = 0;
			waits = 0;
		}
	}
	return -ENOSPC;
}

int cache_reserve(struct cache_file *f, uint64_t length, uint64_t bytes)
{
	struct cache *c = f->cache;
	bool may;
	int rc;

	/* What is new has its place among the others before it takes room. */
	pthread_mutex_lock(&c->lock);
	policy_time(&c->policy, cache_clock_s());
	policy_pass(&c->policy, length);
	may = policy_may_come(&c->policy, &f->item);
	if (!may) {
		pthread_mutex_unlock(&c->lock);
		return -ENOSPC;
	}
	if (f->item.place == POLICY_NOWHERE)
		policy_admit(&c->policy, &f->item, f->hash);
	else
		policy_fill(&c->policy, &f->item);
	policy_expect(&c->policy, &f->item, bytes);
	policy_pin(&c->policy, &f->item, f->pins > 0);
	pthread_mutex_unlock(&c->lock);
	rc = make_room(c, f, bytes);
	if (rc < 0) {
		pthread_mutex_lock(&c->lock);
		list(c, f);
		pthread_mutex_unlock(&c->lock);
	}
	return rc;
}

void cache_trim(struct cache *c)
{
	(void)make_room(c, NULL, 0); /* what is in use stays; its next write is not admitted */
}

void cache_settle(struct cache_file *f, uint64_t charge, uint64_t reserved, bool dirty)
{
	struct cache *c = f->cache;

	pthread_mutex_lock(&c->lock);
	if (charge == 0 && f->flushing) {
		/* A descriptor of ours keeps the blocks until it is closed. */
		f->orphaned += f->item.bytes;
		policy_resize(&c->policy, &f->item, 0);
	}
	assert(c->bytes >= f->item.bytes + reserved && c->reserved_bytes >= reserved);
	c->bytes -= f->item.bytes + reserved;
	c->bytes += charge;
	c->reserved_bytes -= reserved;
	policy_resize(&c->policy, &f->item, charge);
	set_counted(c, f, charge > 0);
	list(c, f);
	if (dirty && !f->dirty) {
		f->dirty = true;
		f->dirty_next = c->dirty;
		c->dirty = f;
		c->dirty_count++;
	}
	cache_count_dirty(c, f);
	pthread_mutex_unlock(&c->lock);
}

void cache_file_pin(struct cache_file *f)
{
	struct cache *c = f->cache;

	/* The file's lock: an eviction that has begun is over before this returns. */
	pthread_rwlock_rdlock(&f->lock);
	pthread_mutex_lock(&c->lock);
	f->pins++;
	list(c, f);
	pthread_mutex_unlock(&c->lock);
	pthread_rwlock_unlock(&f->lock);
}

static void unpin(struct cache_file *f, bool done)
{
	struct cache *c = f->cache;

	pthread_mutex_lock(&c->lock);
	assert(f->pins > 0);
	f->pins--;
	list(c, f);
	if (done)
		policy_done(&c->policy, &f->item);
	pthread_mutex_unlock(&c->lock);
}

void cache_file_unpin(struct cache_file *f)
{
	unpin(f, false);
}

void cache_file_unpin_done(struct cache_file *f)
{
	unpin(f, true);
}

uint64_t cache_pinned(struct cache *c)
{
	uint64_t bytes;

	pthread_mutex_lock(&c->lock);
	bytes = c->policy.lists[POLICY_PINNED].bytes;
	pthread_mutex_unlock(&c->lock);
	return bytes;
}
