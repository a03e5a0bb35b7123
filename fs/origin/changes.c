#include "fs/origin/changes.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define MAGIC UINT64_C(0x31736567436c4c01)
#define VERSION 1u
#define WAYS 16u      /* records of one set: a power of two */
#define LOCKS 64u     /* sets share them */
#define RECENT 65536u /* numbers given lately, to notice changes of inodes without a record */
#define CTIME_SETTLED_NS (2 * (int64_t)NS_PER_S)
#define DERIVED_BIT (UINT64_C(1) << 63)
#define HEADER_BYTES 4096u

enum record_state { RECORD_FREE = 0, RECORD_STABLE = 1, RECORD_CHANGING = 2 };

struct record {
	_Atomic uint32_t state;
	uint32_t check; /* over the rest; valid while STABLE */
	uint64_t key[2];
	uint64_t counter;
	int64_t ctime_ns;
	uint64_t size;
	uint64_t disturbed; /* while CHANGING: someone else modified it meanwhile */
	uint64_t reserved;
};
_Static_assert(sizeof(struct record) == 64, "one cache line each");

struct header {
	uint64_t magic;
	uint32_t version;
	uint32_t record_count;
	uint64_t incarnation;
	char boot_id[40];
	uint32_t clean; /* enum clean_state */
	uint32_t check; /* over everything above */
	_Atomic uint64_t counter; /* the last one given */
};

enum clean_state {
	CLEAN_NOT = 0,
	CLEAN_STOPPED = 1, /* stopped after a sync; cleared before the first modification */
	CLEAN_SETTLED = 2, /* synced, and nothing was modified since */
};

struct recent {
	uint64_t tag;
	struct change change;
};

struct changes {
	struct header *header;
	struct record *records;
	size_t bytes;
	uint32_t set_count;
	_Atomic uint64_t incarnation;
	pthread_mutex_t locks[LOCKS];
	struct recent *recent; /* under the lock of the key's set */
	_Atomic uint64_t outside, evicted, unfinished;

	bool crashed;
	pthread_mutex_t settle_lock; /* a leaf; held over the writes of the header */
	_Atomic bool settled;        /* the header on disk says so, or is about to */
	_Atomic uint64_t activity;   /* modifications begun and ended, and numbers made */
	_Atomic uint64_t changing;   /* modifications that have not ended */
};

/* FNV-1a folded to 32 bits: against torn or damaged records, not against an enemy. */
static uint32_t checksum(const void *data, size_t length, uint64_t seed)
{
	const uint8_t *p = (const uint8_t *)data;
	uint64_t h = UINT64_C(0xcbf29ce484222325) ^ seed;

	for (size_t i = 0; i < length; i++)
		h = (h ^ p[i]) * UINT64_C(0x100000001b3);
	return (uint32_t)(h ^ h >> 32);
}

static uint32_t record_check(const struct record *r)
{
	return checksum(r->key, sizeof(*r) - offsetof(struct record, key), 1);
}

static uint32_t header_check(const struct header *h)
{
	return checksum(h, offsetof(struct header, check), 2);
}

static uint64_t counter_next(struct changes *c)
{
	return atomic_fetch_add(&c->header->counter, 1) + 1;
}

static uint64_t random_number(void)
{
	uint64_t value = 0;

	while (value == 0)
		if (getrandom(&value, sizeof(value), 0) != (ssize_t)sizeof(value))
			value = 0;
	return value;
}

/* True when the mapped file is whole; counts and renumbers what was changing. */
static bool table_valid(struct changes *c, uint32_t record_count)
{
	struct header *h = c->header;

	if (h->magic != MAGIC || h->version != VERSION || h->record_count != record_count ||
	    h->check != header_check(h) || h->incarnation == 0 ||
	    (atomic_load(&h->counter) & DERIVED_BIT))
		return false;
	for (uint32_t i = 0; i < record_count; i++) {
		const struct record *r = &c->records[i];
		uint32_t state = atomic_load(&r->state);

		if (state > RECORD_CHANGING)
			return false;
		if (state == RECORD_STABLE &&
		    (r->check != record_check(r) || r->counter > atomic_load(&h->counter)))
			return false;
	}
	return true;
}

static void record_settle(struct record *r, const struct changes_key *key, uint64_t counter,
			  const struct changes_seen *seen)
{
	/* Whoever is killed in between leaves "changing" behind, never half a record. */
	atomic_store(&r->state, RECORD_CHANGING);
	r->key[0] = key->words[0];
	r->key[1] = key->words[1];
	r->counter = counter;
	r->ctime_ns = seen->ctime_ns;
	r->size = seen->size;
	r->disturbed = r->reserved = 0;
	r->check = record_check(r);
	atomic_store(&r->state, RECORD_STABLE);
}

/* Matches nothing that a store says: the next look gives a new number. */
static const struct changes_seen never_seen = { INT64_MIN, UINT64_MAX };

/* What was changing when the process died gets a new number; no ctime, so the next look, which
   finds another, renumbers it once more. */
static void renumber_unfinished(struct changes *c)
{
	for (uint32_t i = 0; i < c->header->record_count; i++) {
		struct record *r = &c->records[i];
		struct changes_key key = { { r->key[0], r->key[1] } };
		if (atomic_load(&r->state) != RECORD_CHANGING)
			continue;
		record_settle(r, &key, counter_next(c), &never_seen);
		atomic_fetch_add(&c->unfinished, 1);
	}
}

static void header_seal(struct changes *c, const char *boot_id, enum clean_state clean)
{
	struct header *h = c->header;

	memset(h->boot_id, 0, sizeof(h->boot_id));
	memcpy(h->boot_id, boot_id, strnlen(boot_id, sizeof(h->boot_id) - 1));
	h->clean = clean;
	h->check = header_check(h);
}

static void table_reset(struct changes *c, uint32_t record_count)
{
	struct header *h = c->header;

	memset(h, 0, HEADER_BYTES);
	for (uint32_t i = 0; i < record_count; i++)
		if (atomic_load(&c->records[i].state) != RECORD_FREE)
			memset(&c->records[i], 0, sizeof(c->records[i]));
	h->magic = MAGIC;
	h->version = VERSION;
	h->record_count = record_count;
	h->incarnation = random_number();
}

static int map_file(int state_fd, const char *name, struct changes *c)
{
	struct stat st;
	void *map;
	int error = 0;
	int fd = openat(state_fd, name, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);

	if (fd < 0)
		return -errno;
	if (fstat(fd, &st) < 0)
		error = -errno;
	else if (st.st_size != (off_t)c->bytes && ftruncate(fd, 0) < 0)
		error = -errno;
	if (!error)
		error = -posix_fallocate(fd, 0, (off_t)c->bytes);
	if (!error) {
		map = mmap(NULL, c->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		if (map == MAP_FAILED)
			error = -errno;
		else
			c->header = (struct header *)map;
	}
	close(fd);
	return error;
}

int changes_open(int state_fd, const char *name, const char *boot_id, uint32_t record_count,
		 struct changes **ret_changes, const char **ret_text)
{
	struct changes *c;
	const char *text = NULL;
	bool same_boot;
	int error;

	assert(record_count >= WAYS && (record_count & (record_count - 1)) == 0);
	c = (struct changes *)calloc(1, sizeof(*c));
	if (!c)
		return -ENOMEM;
	for (unsigned i = 0; i < LOCKS; i++)
		pthread_mutex_init(&c->locks[i], NULL);
	pthread_mutex_init(&c->settle_lock, NULL);
	atomic_init(&c->activity, 1);
	c->bytes = HEADER_BYTES + (size_t)record_count * sizeof(struct record);
	c->set_count = record_count / WAYS;
	c->recent = (struct recent *)calloc(RECENT, sizeof(*c->recent));
	error = c->recent ? map_file(state_fd, name, c) : -ENOMEM;
	if (error) {
		changes_close(c, false);
		return error;
	}
	c->records = (struct record *)((char *)c->header + HEADER_BYTES);
	c->crashed = c->header->clean != CLEAN_STOPPED;
	same_boot = strncmp(c->header->boot_id, boot_id, sizeof(c->header->boot_id) - 1) == 0;
	if (c->header->magic == 0) {
		text = "a new change table";
	} else if (!table_valid(c, record_count)) {
		text = "the change table was damaged";
	} else if (!same_boot && c->header->clean == CLEAN_NOT) {
		text = "the machine went down without a clean stop of the origin";
	}
	if (text)
		table_reset(c, record_count);
	else
		renumber_unfinished(c);
	atomic_store(&c->incarnation, c->header->incarnation);
	c->crashed = text || (c->crashed && !same_boot);
	/* Durable before the first modification: a crash from here on must be seen as one. */
	header_seal(c, boot_id, CLEAN_NOT);
	if (msync(c->header, c->bytes, MS_SYNC) < 0 || fsync(state_fd) < 0) {
		error = -errno;
		changes_close(c, false);
		return error;
	}
	*ret_changes = c;
	*ret_text = text;
	return 0;
}

void changes_close(struct changes *c, bool clean)
{
	if (!c)
		return;
	if (c->header) {
		if (clean && msync(c->header, c->bytes, MS_SYNC) == 0) {
			char boot_id[sizeof(c->header->boot_id)];

			memcpy(boot_id, c->header->boot_id, sizeof(boot_id));
			header_seal(c, boot_id, CLEAN_STOPPED);
			/* If the mark does not get out, the next start takes a new
			   incarnation: slower, not wrong. */
			(void)msync(c->header, HEADER_BYTES, MS_SYNC);
		}
		munmap(c->header, c->bytes);
	}
	for (unsigned i = 0; i < LOCKS; i++)
		pthread_mutex_destroy(&c->locks[i]);
	pthread_mutex_destroy(&c->settle_lock);
	free(c->recent);
	free(c);
}

uint64_t changes_incarnation(const struct changes *c)
{
	return atomic_load(&c->incarnation);
}

/* ---- nothing to lose ---- */

bool changes_crashed(const struct changes *c)
{
	return c->crashed;
}

uint64_t changes_activity(const struct changes *c)
{
	return atomic_load(&c->settled) ? 0 : atomic_load(&c->activity);
}

/* With settle_lock held, like every write of the header but its counter. */
static int write_state(struct changes *c, enum clean_state state)
{
	c->header->clean = state;
	c->header->check = header_check(c->header);
	return msync(c->header, HEADER_BYTES, MS_SYNC) < 0 ? -errno : 0;
}

void changes_renew_incarnation(struct changes *c)
{
	uint64_t incarnation = random_number();

	/* The lock orders two renewals; readers see the old or the new number, both as given. */
	pthread_mutex_lock(&c->settle_lock);
	c->header->incarnation = incarnation;
	atomic_store(&c->incarnation, incarnation);
	(void)write_state(c, CLEAN_NOT); /* a disk that fails takes nothing that is told later */
	atomic_store(&c->settled, false);
	atomic_fetch_add(&c->activity, 1); /* a sync that is under way tells nothing */
	pthread_mutex_unlock(&c->settle_lock);
}

int changes_settle(struct changes *c, uint64_t activity)
{
	int error = 0;

	pthread_mutex_lock(&c->settle_lock);
	/* First this, then the question whether something began: unsettle() does it the other way
	   round, so one of the two sees the other. And whether something ended, of which the sync may
	   have had a part: modification_over() moves the one before the other. */
	atomic_store(&c->settled, true);
	if (atomic_load(&c->changing) > 0 || atomic_load(&c->activity) != activity)
		error = -EBUSY;
	else if (msync(c->header, c->bytes, MS_SYNC) < 0)
		error = -errno;
	else
		error = write_state(c, CLEAN_SETTLED);
	if (error) {
		if (error != -EBUSY)
			(void)write_state(c, CLEAN_NOT); /* a disk that fails has not got it */
		atomic_store(&c->settled, false);
	}
	pthread_mutex_unlock(&c->settle_lock);
	return error;
}

/* Before a modification, or a number that only the table knows: on disk it must say so. */
static int unsettle(struct changes *c)
{
	int error = 0;

	atomic_fetch_add(&c->activity, 1);
	if (!atomic_load(&c->settled))
		return 0;
	pthread_mutex_lock(&c->settle_lock);
	if (atomic_load(&c->settled)) {
		error = write_state(c, CLEAN_NOT);
		if (!error)
			atomic_store(&c->settled, false);
	}
	pthread_mutex_unlock(&c->settle_lock);
	return error;
}

static void modification_over(struct changes *c)
{
	atomic_fetch_add(&c->activity, 1);
	atomic_fetch_sub(&c->changing, 1);
}

/* ---- one set ---- */

static uint32_t set_of(const struct changes *c, const struct changes_key *key)
{
	return (uint32_t)(key->words[0] % c->set_count);
}

static pthread_mutex_t *lock_of(struct changes *c, const struct changes_key *key)
{
	return &c->locks[set_of(c, key) % LOCKS];
}

static struct record *record_find(struct changes *c, const struct changes_key *key)
{
	struct record *set = &c->records[(size_t)set_of(c, key) * WAYS];

	for (unsigned i = 0; i < WAYS; i++)
		if (atomic_load_explicit(&set[i].state, memory_order_relaxed) != RECORD_FREE &&
		    set[i].key[0] == key->words[0] && set[i].key[1] == key->words[1])
			return &set[i];
	return NULL;
}

/* A free record of the set, or the one whose number is the oldest; NULL: all are changing. */
static struct record *record_make_room(struct changes *c, const struct changes_key *key)
{
	struct record *set = &c->records[(size_t)set_of(c, key) * WAYS];
	struct record *oldest = NULL;

	for (unsigned i = 0; i < WAYS; i++) {
		uint32_t state = atomic_load(&set[i].state);

		if (state == RECORD_FREE)
			return &set[i];
		if (state == RECORD_STABLE && (!oldest || set[i].counter < oldest->counter))
			oldest = &set[i];
	}
	if (oldest)
		atomic_fetch_add(&c->evicted, 1);
	return oldest;
}

static bool settled(int64_t ctime_ns)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME, &now);
	return ctime_ns >= 0 &&
	       ctime_ns < now.tv_sec * (int64_t)NS_PER_S + now.tv_nsec - CTIME_SETTLED_NS;
}

static struct recent *recent_slot(struct changes *c, const struct changes_key *key)
{
	/* The lower bits of the index are those of the set, so that its lock covers the slot. */
	return &c->recent[(set_of(c, key) % LOCKS +
			   LOCKS * (key->words[1] % (RECENT / LOCKS))) % RECENT];
}

/* Under the set's lock. Remembers what is given, and tells when it is not what was given last. */
static bool recent_differs(struct changes *c, const struct changes_key *key, struct change change)
{
	struct recent *slot = recent_slot(c, key);
	bool differs = slot->tag == key->words[1] && !change_equal(slot->change, change);

	slot->tag = key->words[1];
	slot->change = change;
	return differs;
}

/* Is what get_locked() answers neither in the table nor derived? */
static bool makes_number(const struct record *r, const struct changes_seen *seen)
{
	if (r)
		return atomic_load(&r->state) != RECORD_STABLE || r->ctime_ns != seen->ctime_ns ||
		       r->size != seen->size;
	return !settled(seen->ctime_ns);
}

static struct change get_locked(struct changes *c, const struct changes_key *key,
				const struct changes_seen *seen, bool *ret_outside)
{
	struct change change = { changes_incarnation(c), 0 };
	struct record *r = record_find(c, key);
	bool outside = false;

	*ret_outside = false;
	if (makes_number(r, seen) && unsettle(c))
		return (struct change){ 0, 0 }; /* equals nothing: it is not kept */
	if (r && atomic_load(&r->state) == RECORD_STABLE && r->ctime_ns == seen->ctime_ns &&
	    r->size == seen->size) {
		change.counter = r->counter;
	} else if (r) {
		/* Of what was renumbered everyone hears without this. */
		outside = atomic_load(&r->state) == RECORD_STABLE &&
			  r->ctime_ns != never_seen.ctime_ns;
		change.counter = counter_next(c);
		record_settle(r, key, change.counter, seen);
	} else if (settled(seen->ctime_ns)) {
		change.counter = (uint64_t)seen->ctime_ns | DERIVED_BIT;
	} else {
		change.counter = counter_next(c);
		r = record_make_room(c, key);
		if (r) /* else: a number that is given once and never again */
			record_settle(r, key, change.counter, seen);
	}
	if (recent_differs(c, key, change))
		outside = true;
	if (outside)
		atomic_fetch_add(&c->outside, 1);
	*ret_outside = outside;
	return change;
}

struct change changes_get(struct changes *c, const struct changes_key *key,
			  const struct changes_seen *seen, bool *ret_outside)
{
	pthread_mutex_t *lock = lock_of(c, key);
	struct change change;

	pthread_mutex_lock(lock);
	change = get_locked(c, key, seen, ret_outside);
	pthread_mutex_unlock(lock);
	return change;
}

int changes_begin(struct changes *c, const struct changes_key *key, const struct changes_seen *seen,
		  struct changes_token *ret_token)
{
	pthread_mutex_t *lock = lock_of(c, key);
	struct changes_token token = { .key = *key, .seen = *seen };
	struct record *r;
	bool outside;
	int error;

	/* In this order: whoever settles looks at both. */
	atomic_fetch_add(&c->changing, 1);
	error = unsettle(c);
	if (error) {
		atomic_fetch_sub(&c->changing, 1);
		return error;
	}
	pthread_mutex_lock(lock);
	token.before = get_locked(c, key, seen, &outside);
	r = record_find(c, key);
	token.fresh = !r;
	if (!r)
		r = record_make_room(c, key);
	if (r) {
		atomic_store(&r->state, RECORD_CHANGING);
		r->key[0] = key->words[0];
		r->key[1] = key->words[1];
		r->disturbed = 0;
		*ret_token = token;
	} else {
		error = -EBUSY;
		atomic_fetch_sub(&c->changing, 1);
	}
	pthread_mutex_unlock(lock);
	return error;
}

struct change changes_end(struct changes *c, const struct changes_token *token,
			  const struct changes_seen *seen)
{
	pthread_mutex_t *lock = lock_of(c, &token->key);
	struct change change = { changes_incarnation(c), counter_next(c) };
	struct record *r;

	pthread_mutex_lock(lock);
	r = record_find(c, &token->key);
	assert(r && atomic_load(&r->state) == RECORD_CHANGING);
	record_settle(r, &token->key, change.counter, r->disturbed ? &never_seen : seen);
	(void)recent_differs(c, &token->key, change); /* it does, and by our own hand */
	pthread_mutex_unlock(lock);
	modification_over(c);
	return change;
}

void changes_cancel(struct changes *c, const struct changes_token *token)
{
	pthread_mutex_t *lock = lock_of(c, &token->key);
	struct record *r;

	pthread_mutex_lock(lock);
	r = record_find(c, &token->key);
	assert(r && atomic_load(&r->state) == RECORD_CHANGING);
	if (token->fresh)
		atomic_store(&r->state, RECORD_FREE);
	else
		record_settle(r, &token->key, token->before.counter,
			      r->disturbed ? &never_seen : &token->seen);
	pthread_mutex_unlock(lock);
	modification_over(c);
}

void changes_renumber(struct changes *c, const struct changes_key *key)
{
	pthread_mutex_t *lock = lock_of(c, key);
	struct recent *slot;
	struct record *r;

	/* What others modify is not strict: when the disk fails, a crash can lose this. */
	(void)unsettle(c);
	pthread_mutex_lock(lock);
	r = record_find(c, key);
	slot = recent_slot(c, key);
	if (r && atomic_load(&r->state) == RECORD_CHANGING)
		r->disturbed = 1;
	else if (r)
		record_settle(r, key, counter_next(c), &never_seen);
	/* Without a record its ctime, which is new, makes the number. */
	if (slot->tag == key->words[1])
		slot->tag = 0;
	pthread_mutex_unlock(lock);
}

void changes_forget(struct changes *c, const struct changes_key *key)
{
	pthread_mutex_t *lock = lock_of(c, key);
	struct record *r;

	pthread_mutex_lock(lock);
	r = record_find(c, key);
	if (r && atomic_load(&r->state) == RECORD_STABLE)
		atomic_store(&r->state, RECORD_FREE);
	pthread_mutex_unlock(lock);
}

void changes_counters(const struct changes *c, struct changes_counters *ret_counters)
{
	ret_counters->outside = atomic_load(&c->outside);
	ret_counters->evicted = atomic_load(&c->evicted);
	ret_counters->unfinished = atomic_load(&c->unfinished);
}
