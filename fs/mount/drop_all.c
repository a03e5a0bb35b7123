#include "fs/mount/drop_all.h"

#include <stdlib.h>

#include "fs/mount/call.h"
#include "fs/mount/guardian.h"
#include "fs/mount/inode.h"
#include "fs/mount/notifier.h"
#include "fs/mount/session.h"
#include "fs/mount/write_back.h"

#define WALKERS_MAX 16   /* threads; all but one wait for a READ that came in between */
#define STUCK_MS 20      /* without progress: the first time, then twice as long, and so on */
#define STUCK_MAX_MS 2000

struct drop_one {
	uint64_t nodeid;
	bool attributes; /* only */
	uint64_t offset; /* of the pages */
};

struct dropping {
	struct notifier_work work;
	struct mount *m;
	void (*then)(struct mount *m, void *context); /* without the lock */
	void *context;
	struct inode *sized; /* its size is to change; with a use */
	/* Under the mount's lock: */
	pthread_cond_t done;
	unsigned users;  /* threads that know of it */
	unsigned walker; /* who goes on; those before wait for a READ */
	size_t at;
	size_t count;
	struct drop_one items[];
};

/* Under the lock. */
static void unuse(struct dropping *d)
{
	if (--d->users > 0)
		return;
	pthread_cond_destroy(&d->done);
	free(d);
}

/* False: not yet. */
static bool drop(struct mount *m, const struct drop_one *one)
{
	struct notice notice = { .attributes = true, .pages = !one->attributes,
				 .offset = one->offset };
	bool done = true;

	pthread_mutex_lock(&m->lock);
	notice.inode = inode_by_nodeid(m, one->nodeid);
	if (notice.inode)
		inode_use(m, notice.inode);
	pthread_mutex_unlock(&m->lock);
	if (!notice.inode)
		return true; /* the kernel had forgotten it */
	if (one->attributes)
		notifier_tell(m, &notice);
	else
		done = notifier_tell_around(m, &notice, false);
	pthread_mutex_lock(&m->lock);
	inode_unuse(m, notice.inode);
	pthread_mutex_unlock(&m->lock);
	return done;
}

/* Goes on where the one before is, until the end, or until another one does. */
static void walk(struct dropping *d)
{
	struct mount *m = d->m;
	unsigned walker;

	pthread_mutex_lock(&m->lock);
	walker = ++d->walker;
	while (walker == d->walker && d->at < d->count) {
		const struct drop_one one = d->items[d->at];
		bool done;

		pthread_mutex_unlock(&m->lock);
		done = drop(m, &one);
		pthread_mutex_lock(&m->lock);
		if (walker == d->walker)
			d->at += done;
	}
	pthread_cond_signal(&d->done);
	pthread_mutex_unlock(&m->lock);
}

static void *run(void *context)
{
	struct dropping *d = context;
	struct mount *m = d->m;

	walk(d);
	pthread_mutex_lock(&m->lock);
	unuse(d);
	if (--m->drop_walkers == 0)
		pthread_cond_broadcast(&m->replies_done);
	pthread_mutex_unlock(&m->lock);
	return NULL;
}

/* Another walker, if there may be one. Under the lock. */
static void start(struct dropping *d)
{
	struct mount *m = d->m;
	pthread_t thread;

	if (d->users > WALKERS_MAX || pthread_create(&thread, NULL, run, d) != 0)
		return;
	pthread_detach(thread);
	d->users++;
	m->drop_walkers++;
}

/* Until `ms` are over or all is done. Under the lock. */
static void wait_for(struct dropping *d, unsigned ms)
{
	struct timespec until;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += ms / 1000;
	until.tv_nsec += (long)(ms % 1000) * (long)NS_PER_MS;
	if (until.tv_nsec >= (long)NS_PER_S) {
		until.tv_nsec -= (long)NS_PER_S;
		until.tv_sec++;
	}
	(void)pthread_cond_timedwait(&d->done, &d->m->lock, &until);
}

/* Nothing is left of it that has to go. Under the lock. */
static bool is_done(const struct dropping *d)
{
	return d->at == d->count ||
	       (d->sized && (d->sized->live->mapped || write_back_expected(d->m, d->sized)));
}

/* On the thread of a lane: sees to it that somebody gets on. Under the lock. */
static void drop_items(struct dropping *d)
{
	unsigned ms = STUCK_MS;

	start(d);
	while (!is_done(d)) {
		size_t before = d->at;

		wait_for(d, ms);
		if (d->at != before) {
			ms = STUCK_MS;
			continue;
		}
		start(d);
		ms = ms < STUCK_MAX_MS ? ms * 2 : ms;
	}
	d->walker++; /* nobody goes on */
}

static void drop_pushed(struct mount *m, struct notifier_work *work)
{
	struct dropping *d = (struct dropping *)work;

	pthread_mutex_lock(&m->lock);
	drop_items(d);
	/* The guardian has nothing left to drop, if no lease stands. */
	if (!d->sized && !holder_valid(m->holder, mount_now()) && !holder_keeps(m->holder))
		guardian_renew(m->guardian, (struct instant){ 0 });
	pthread_mutex_unlock(&m->lock);
	d->then(m, d->context);
	pthread_mutex_lock(&m->lock);
	if (d->sized)
		inode_unuse(m, d->sized);
	unuse(d);
	pthread_mutex_unlock(&m->lock);
}

static struct dropping *dropping_create(struct mount *m, size_t count,
					void (*then)(struct mount *m, void *context))
{
	struct dropping *d = calloc(1, sizeof(*d) + count * sizeof(d->items[0]));
	pthread_condattr_t attributes;

	if (!d) {
		mount_log("error", "no memory to drop the kernel's caches; the guardian will do it");
		return NULL;
	}
	d->m = m;
	d->then = then;
	d->users = 1;
	d->work.done = drop_pushed;
	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&d->done, &attributes);
	pthread_condattr_destroy(&attributes);
	return d;
}

/* ---- a session ---- */

static void all_dropped(struct mount *m, void *context)
{
	(void)context;
	COUNT(m, fences);
	session_fenced(m);
}

/* What is stored is kept, or refused from now on. */
static bool keep_stored(struct mount *m, struct inode *inode)
{
	bool kept = inode->live->stored.session.value &&
		    holder_kept(m->holder, mount_now(), INODE_HANDLE(inode));

	if (kept)
		inode_live(inode)->stored.kept = true;
	else if (inode->live->stored.session.value || inode->live->stored.number ||
		 inode->live->stored.kept)
		inode_live(inode)->stored = (struct stored_under){ .kept = false };
	return kept;
}

bool drop_all(struct mount *m, const struct holder_action *action)
{
	struct dropping *d = dropping_create(m, m->inodes->count, all_dropped);
	struct inode *inode;
	size_t cursor = 0;

	if (!d)
		return false;
	while ((inode = inode_next(m, &cursor))) {
		bool given = inode->live->pages || inode->attributes_given;
		bool kept = keep_stored(m, inode);

		if (inode->lookup_count > 0 && (kept || given))
			d->items[d->count++] = (struct drop_one){ inode->nodeid, kept, 0 };
		inode->attributes_given = false;
		if (inode->live->names_given)
			inode_live(inode)->names_given = false;
		if (inode->live->hold_count > 0 || inode->live->fence_count > 0)
			calls_release_held(m, inode);
	}
	d->work.action = *action;
	d->work.epoch = true;
	notifier_push(m, LANE_FENCE, &d->work);
	return true;
}

/* ---- a write lease ---- */

static void lost_dropped(struct mount *m, void *context)
{
	(void)context;
	pthread_mutex_lock(&m->lock);
	session_lost_dropped(m);
	pthread_mutex_unlock(&m->lock);
}

bool drop_lost(struct mount *m, const struct handle *handle)
{
	struct inode *inode = inode_find(m, handle);
	struct dropping *d;

	if (!inode || !inode->live->stored.kept)
		return false;
	/* What is written back is refused. */
	inode_live(inode)->stored = (struct stored_under){ .kept = false };
	calls_session_changed(m);
	if (inode->lookup_count == 0 || !inode->live->pages)
		return false;
	d = dropping_create(m, 1, lost_dropped);
	if (!d)
		return false;
	d->items[d->count++] = (struct drop_one){ inode->nodeid, false, 0 };
	notifier_push(m, LANE_FENCE, &d->work);
	return true;
}

/* ---- one file ---- */

bool drop_around(struct mount *m, const struct inode *inode)
{
	struct dropping *d = dropping_create(m, 1, NULL);

	if (!d)
		return false;
	d->items[d->count++] = (struct drop_one){ inode->nodeid, false, 0 };
	pthread_mutex_lock(&m->lock);
	drop_items(d);
	unuse(d);
	pthread_mutex_unlock(&m->lock);
	return true;
}

bool drop_for_size(struct mount *m, struct inode *inode, uint64_t offset,
		   void (*then)(struct mount *m, void *context), void *context)
{
	struct dropping *d = dropping_create(m, 1, then);

	if (!d)
		return false;
	d->context = context;
	d->sized = inode;
	inode_use(m, inode);
	d->items[d->count++] = (struct drop_one){ inode->nodeid, false, offset };
	notifier_push(m, LANE_FENCE, &d->work);
	return true;
}

void drop_all_wait(struct mount *m)
{
	pthread_mutex_lock(&m->lock);
	while (m->drop_walkers > 0)
		pthread_cond_wait(&m->replies_done, &m->lock);
	pthread_mutex_unlock(&m->lock);
}
