#include "fs/mount/follow.h"

#include <errno.h>
#include <stdlib.h>
#include <uthash.h>

#include "fs/cache/cache.h"
#include "fs/mount/prefetch.h"

/* Of what is pinned for whatever reason, so much stays for others. */
#define LEFT_SHARE 8

struct hold_key {
	uint64_t nodeid, job; /* its index */
};

struct hold {
	struct hold_key key;
	struct cache_file *file; /* pinned, with a reference */
	uint64_t bytes;		 /* that it counts for */
	bool had;		 /* bytes of it were there before */
	struct instant tried_at; /* when what was refused was given another try */
	UT_hash_handle hh;
};

struct job {
	bool taken;
	uint32_t uid;
	uint64_t number;
	struct instant until;
	pid_t workers[FOLLOW_WORKERS_MAX]; /* 0: none */
};

/* What was done with a file, since a job was done with it. */
struct use {
	uint64_t nodeid;
	uint64_t bytes;
	bool closed;
	UT_hash_handle hh;
};

struct follow {
	atomic_uint job_count;
	pthread_mutex_t lock; /* a leaf */
	struct job jobs[FOLLOW_JOBS_MAX];
	struct hold *holds;
	uint64_t hold_count, bytes;
	struct use *uses; /* the oldest first */
};

int follow_create(struct follow **ret_follow)
{
	struct follow *f = calloc(1, sizeof(*f));

	if (!f)
		return -ENOMEM;
	pthread_mutex_init(&f->lock, NULL);
	*ret_follow = f;
	return 0;
}

/* ---- uses ---- */

static struct use *use_find(struct follow *f, uint64_t nodeid)
{
	struct use *use;

	HASH_FIND(hh, f->uses, &nodeid, sizeof(nodeid), use);
	return use;
}

static void use_free(struct follow *f, struct use *use)
{
	HASH_DEL(f->uses, use);
	free(use);
}

static struct use *use_new(struct follow *f, uint64_t nodeid)
{
	struct use *use = calloc(1, sizeof(*use));

	if (!use)
		return NULL;
	if (HASH_COUNT(f->uses) >= FOLLOW_USES_MAX)
		use_free(f, f->uses);
	use->nodeid = nodeid;
	HASH_ADD(hh, f->uses, nodeid, sizeof(use->nodeid), use);
	return use;
}

static void uses_forget(struct follow *f)
{
	while (f->uses)
		use_free(f, f->uses);
}

void follow_access(struct mount *m, const struct access *access)
{
	struct follow *f = m->follow;
	struct use *use;

	if (!f || atomic_load_explicit(&f->job_count, memory_order_relaxed) == 0 ||
	    (access->type != ACCESS_OPEN && access->type != ACCESS_READ && access->type != ACCESS_CLOSE))
		return;
	pthread_mutex_lock(&f->lock);
	use = use_find(f, access->inode);
	/* A close may come late, when the job was done with it. */
	if (!use && access->type != ACCESS_CLOSE)
		use = use_new(f, access->inode);
	if (use && access->type == ACCESS_READ)
		use->bytes += access->length;
	if (use && access->type == ACCESS_CLOSE)
		use->closed = true;
	pthread_mutex_unlock(&f->lock);
}

/* ---- holds ---- */

/* Takes it out; who calls lets it go without the lock. */
static void hold_remove(struct follow *f, struct hold *hold)
{
	HASH_DEL(f->holds, hold);
	f->hold_count--;
	f->bytes -= hold->bytes;
}

/* `done`: and it goes first, but what was there before is none of the job's. */
static void hold_end(struct hold *hold, bool done)
{
	if (done && !hold->had)
		cache_file_unpin_done(hold->file);
	else
		cache_file_unpin(hold->file);
	cache_file_put(hold->file);
	free(hold);
}

static struct hold *hold_find(struct follow *f, uint64_t nodeid, uint64_t job)
{
	const struct hold_key key = { nodeid, job };
	struct hold *hold;

	HASH_FIND(hh, f->holds, &key, sizeof(key), hold);
	return hold;
}

static struct hold *hold_new(struct mount *m, struct inode *inode, uint64_t bytes)
{
	struct hold *hold = calloc(1, sizeof(*hold));

	if (!hold)
		return NULL;
	hold->file = cache_file_get(m->cache, m->cache_space, INODE_HANDLE(inode));
	if (!hold->file) {
		free(hold);
		return NULL;
	}
	cache_file_pin(hold->file);
	hold->bytes = bytes;
	hold->had = change_known(cache_file_change(hold->file));
	hold->key.nodeid = inode->nodeid;
	return hold;
}

/* ---- jobs ---- */

static struct job *job_find(struct follow *f, uint32_t uid, uint64_t number)
{
	for (unsigned i = 0; i < FOLLOW_JOBS_MAX; i++)
		if (f->jobs[i].taken && f->jobs[i].uid == uid && f->jobs[i].number == number)
			return &f->jobs[i];
	return NULL;
}

static struct job *job_begin(struct follow *f, uint32_t uid, uint64_t number)
{
	for (unsigned i = 0; i < FOLLOW_JOBS_MAX; i++) {
		if (f->jobs[i].taken)
			continue;
		f->jobs[i] = (struct job){ .taken = true, .uid = uid, .number = number };
		atomic_fetch_add(&f->job_count, 1);
		return &f->jobs[i];
	}
	return NULL;
}

void follow_work(struct mount *m, uint32_t uid, uint64_t number, pid_t pid)
{
	struct follow *f = m->follow;
	struct job *job;

	pthread_mutex_lock(&f->lock);
	job = job_find(f, uid, number);
	if (!job)
		job = job_begin(f, uid, number);
	if (job)
		job->until = instant_add(mount_now(), FOLLOW_EXPIRES);
	for (unsigned i = 0; job && i < FOLLOW_WORKERS_MAX; i++) {
		if (job->workers[i] == 0 || job->workers[i] == pid) {
			job->workers[i] = pid;
			break;
		}
	}
	pthread_mutex_unlock(&f->lock);
	prefetch_poke(m);
}

bool follow_is_worker(struct mount *m, pid_t pid)
{
	struct follow *f = m->follow;
	bool is = false;

	if (!follow_is_active(m) || pid == 0)
		return false;
	pthread_mutex_lock(&f->lock);
	for (unsigned i = 0; i < FOLLOW_JOBS_MAX && !is; i++)
		for (unsigned k = 0; k < FOLLOW_WORKERS_MAX && f->jobs[i].taken && !is; k++)
			is = f->jobs[i].workers[k] == pid;
	pthread_mutex_unlock(&f->lock);
	return is;
}

bool follow_is_held(struct mount *m, const struct inode *inode)
{
	struct follow *f = m->follow;
	bool is = false;

	if (!follow_is_active(m))
		return false;
	pthread_mutex_lock(&f->lock);
	for (unsigned i = 0; i < FOLLOW_JOBS_MAX && !is; i++)
		is = f->jobs[i].taken && hold_find(f, inode->nodeid, i);
	pthread_mutex_unlock(&f->lock);
	return is;
}

/* What it holds, as a list by hh.next, for jobs_let_go(). */
static void job_end(struct follow *f, struct job *job, struct hold **list)
{
	struct hold *hold, *next;

	HASH_ITER(hh, f->holds, hold, next)
	{
		if (hold->key.job != (uint64_t)(job - f->jobs))
			continue;
		hold_remove(f, hold);
		hold->hh.next = *list;
		*list = hold;
	}
	job->taken = false;
	if (atomic_fetch_sub(&f->job_count, 1) == 1)
		uses_forget(f);
}

static void let_go(struct hold *list)
{
	while (list) {
		struct hold *hold = list;

		list = hold->hh.next;
		hold_end(hold, false);
	}
}

bool follow_is_active(const struct mount *m)
{
	return m->follow && atomic_load_explicit(&m->follow->job_count, memory_order_relaxed) > 0;
}

void follow_tick(struct mount *m)
{
	struct follow *f = m->follow;
	struct instant now = mount_now();
	struct hold *list = NULL;

	if (!follow_is_active(m))
		return;
	pthread_mutex_lock(&f->lock);
	for (unsigned i = 0; i < FOLLOW_JOBS_MAX; i++)
		if (f->jobs[i].taken && now.ns >= f->jobs[i].until.ns)
			job_end(f, &f->jobs[i], &list);
	pthread_mutex_unlock(&f->lock);
	let_go(list);
}

/* What is said without a hold being made; `ret_make`: one is to be made. Under the lock. */
static const char *consider(struct mount *m, const struct inode *inode, struct job *job, uint64_t end,
			    uint64_t size, uint64_t bytes_max, bool *ret_make, bool *ret_try)
{
	struct follow *f = m->follow;
	const struct use *use = use_find(f, inode->nodeid);
	uint64_t most = bytes_max / FOLLOW_SHARE;
	struct instant now = mount_now();
	struct hold *hold;

	*ret_make = *ret_try = false;
	if (!job)
		return "busy";
	job->until = instant_add(now, FOLLOW_EXPIRES);
	if (end > size)
		end = size;
	if (use && (use->closed || (end > 0 && use->bytes >= end)))
		return "used";
	hold = hold_find(f, inode->nodeid, (uint64_t)(job - f->jobs));
	if (hold && instant_until(hold->tried_at, now).ns >= FOLLOW_TRY.ns) {
		hold->tried_at = now;
		*ret_try = true;
	}
	if (size > most || hold)
		return NULL;
	if (f->hold_count >= FOLLOW_HOLDS_MAX || f->bytes > most - size)
		return "full";
	*ret_make = true;
	return NULL;
}

/* What is pinned gets room before others: that there was none before says nothing. */
static void try_again(struct mount *m, struct inode *inode)
{
	pthread_mutex_lock(&m->lock);
	if (inode->live->no_ahead)
		inode_live(inode)->no_ahead = false;
	pthread_mutex_unlock(&m->lock);
}

const char *follow_hold(struct mount *m, struct inode *inode, uint32_t uid, uint64_t number, uint64_t end,
			uint64_t size)
{
	struct follow *f = m->follow;
	struct hold *hold = NULL;
	struct cache_counters cache;
	const char *said;
	struct job *job;
	bool make, try, new;

	cache_counters(m->cache, &cache);
	pthread_mutex_lock(&f->lock);
	job = job_find(f, uid, number);
	new = !job;
	if (new)
		job = job_begin(f, uid, number);
	said = consider(m, inode, job, end, size, cache.bytes_max, &make, &try);
	pthread_mutex_unlock(&f->lock);
	if (try)
		try_again(m, inode);
	if (new)
		prefetch_poke(m); /* it looks at when jobs expire */
	if (!make)
		return said;
	if (cache_pinned(m->cache) > cache.bytes_max - cache.bytes_max / LEFT_SHARE)
		return "full";
	hold = hold_new(m, inode, size);
	if (!hold)
		return "full";
	try_again(m, inode);
	pthread_mutex_lock(&f->lock);
	job = job_find(f, uid, number); /* it may have ended meanwhile, or said the same twice */
	said = job ? consider(m, inode, job, end, size, cache.bytes_max, &make, &try) : "busy";
	if (job && make) {
		hold->tried_at = mount_now();
		hold->key.job = (uint64_t)(job - f->jobs);
		HASH_ADD(hh, f->holds, key, sizeof(hold->key), hold);
		f->hold_count++;
		f->bytes += hold->bytes;
		hold = NULL;
	}
	pthread_mutex_unlock(&f->lock);
	if (hold)
		hold_end(hold, false);
	return said;
}

void follow_leave(struct mount *m, struct inode *inode, uint32_t uid, uint64_t number)
{
	struct follow *f = m->follow;
	struct hold *hold = NULL, *list = NULL;
	struct use *use;
	struct job *job;

	pthread_mutex_lock(&f->lock);
	job = job_find(f, uid, number);
	if (job && !inode) {
		job_end(f, job, &list);
	} else if (job) {
		job->until = instant_add(mount_now(), FOLLOW_EXPIRES);
		hold = hold_find(f, inode->nodeid, (uint64_t)(job - f->jobs));
		if (hold)
			hold_remove(f, hold);
		use = use_find(f, inode->nodeid);
		if (use)
			use_free(f, use);
	}
	pthread_mutex_unlock(&f->lock);
	if (hold)
		hold_end(hold, true);
	let_go(list);
}

void follow_counters(const struct mount *m, struct follow_counters *ret_counters)
{
	struct follow *f = m->follow;

	*ret_counters = (struct follow_counters){ 0 };
	if (!f)
		return;
	pthread_mutex_lock(&f->lock);
	ret_counters->jobs = atomic_load(&f->job_count);
	ret_counters->files = f->hold_count;
	ret_counters->bytes = f->bytes;
	pthread_mutex_unlock(&f->lock);
}

void follow_destroy(struct mount *m)
{
	struct follow *f = m->follow;
	struct hold *list = NULL;

	if (!f)
		return;
	for (unsigned i = 0; i < FOLLOW_JOBS_MAX; i++)
		if (f->jobs[i].taken)
			job_end(f, &f->jobs[i], &list);
	let_go(list);
	uses_forget(f);
	pthread_mutex_destroy(&f->lock);
	free(f);
	m->follow = NULL;
}
