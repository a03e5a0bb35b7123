#include "fs/mount/notifier.h"

#include <errno.h>
#include <linux/fuse.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "fs/mount/drop_all.h"
#include "fs/mount/prefetch.h"
#include "fs/mount/read.h"
#include "fs/mount/rules.h"
#include "fs/mount/session.h"

/* linux/fuse.h of older systems lacks it: protocol 7.44, kernel 6.16. */
#define NOTIFY_INC_EPOCH 8
#define TAKE_IN_US 50
#define STORE_MS 2 /* for which whoever waited for a page may have it: hosts that take turns go on */
#define AROUND_US 200 /* for those who read one page after the other to come and be held */

struct lane {
	struct mount *mount;
	pthread_mutex_t lock; /* ranks below mount->lock */
	pthread_cond_t filled;
	struct notifier_work *first, *last;
	bool stopping;
	bool started;
	pthread_t thread;
};

struct notifier {
	struct lane lanes[LANE_COUNT];
};

static bool send_epoch(struct mount *m)
{
	struct fuse_out_header header = {
		.len = sizeof(header),
		.error = NOTIFY_INC_EPOCH,
		.unique = 0,
	};

	return write(m->fuse_fd, &header, sizeof(header)) == (ssize_t)sizeof(header);
}

bool notifier_probe_epoch(struct mount *m)
{
	return send_epoch(m);
}

bool notifier_collect(struct mount *m, struct notifier_work *work, struct inode *inode,
		      bool pages, uint64_t offset, uint64_t length)
{
	pages = pages && inode->live->pages;
	if (inode->lookup_count == 0 || (!pages && !inode->attributes_given))
		return false;
	inode_use(m, inode);
	work->notices[work->count++] = (struct notice){
		.inode = inode,
		.attributes = true,
		.given_serial = inode->given_serial,
		.pages = pages,
		.offset = offset,
		.length = length,
	};
	return true;
}

/*
 * The kernel was told of the inode, and does not know it: whoever looked it up has the answer, with
 * attributes and their validity, and was not scheduled since to take it in. Then it would keep them
 * from behind the invalidation. So there is another one, until the inode is there, or forgotten, or
 * what was given has ended by itself. After an unmount the kernel knows no inode, and forgets none
 * by name. True: once more.
 */
static bool taken_in_late(struct mount *m, const struct inode *inode, struct instant end)
{
	bool told;

	if (fuse_session_exited(m->fuse) || !instant_before(mount_now(), end))
		return false;
	pthread_mutex_lock(&m->lock);
	told = inode->lookup_count > 0;
	pthread_mutex_unlock(&m->lock);
	if (told)
		(void)usleep(TAKE_IN_US);
	return told;
}

void notifier_tell(struct mount *m, const struct notice *notice)
{
	off_t offset = notice->pages ? (off_t)notice->offset : -1;
	off_t length = notice->pages ? (off_t)notice->length : 0;
	struct instant end;
	int r;

	COUNT(m, invalidations);
	pthread_mutex_lock(&m->lock);
	end = m->given_until; /* whatever has become of the session */
	pthread_mutex_unlock(&m->lock);
	do
		r = fuse_lowlevel_notify_inval_inode(m->fuse, notice->inode->nodeid, offset,
						     length);
	while (r == -ENOENT && taken_in_late(m, notice->inode, end));
	if (r < 0 && r != -ENOENT && r != -ENODEV && r != -EBADF && r != -ENOTCONN)
		mount_log("error", "kernel refused an invalidation: %s", strerror(-r));
}

bool notifier_tell_around(struct mount *m, const struct notice *pages, bool held)
{
	struct notice notice = { .inode = pages->inode, .pages = true };
	uint64_t end = pages->length ? pages->offset + pages->length : UINT64_MAX;
	uint64_t at = pages->offset;
	struct busy_range *busy;
	unsigned count, told = 0;

	pthread_mutex_lock(&m->lock);
	busy = malloc((pages->inode->live->fills + 1) * sizeof(*busy));
	if (!busy) {
		/* As if one had come: it is tried again. */
		inode_live(pages->inode)->filled_serial++;
		inode_live(pages->inode)->weak_fills++;
		pthread_mutex_unlock(&m->lock);
		return false;
	}
	count = read_busy_ranges(pages->inode, held, busy, pages->inode->live->fills);
	inode_live(pages->inode)->invalidating++;
	pthread_mutex_unlock(&m->lock);
	for (unsigned i = 0; i <= count && at < end; i++) {
		uint64_t until = i < count && busy[i].start < end ? busy[i].start : end;

		notice.offset = at;
		notice.length = until == UINT64_MAX ? 0 : until - at;
		if (at < until) {
			notifier_tell(m, &notice);
			told++;
		}
		if (i < count && busy[i].end > at)
			at = busy[i].end;
	}
	notice.pages = false;
	if (!told)
		notifier_tell(m, &notice); /* the attributes */
	pthread_mutex_lock(&m->lock);
	inode_live(pages->inode)->invalidating--;
	pthread_mutex_unlock(&m->lock);
	free(busy);
	return true;
}

/* Drops the pages of a file that was stored to, which writes them back. Page fills wait meanwhile. */
static void drop_stored(struct mount *m, struct notifier_work *work)
{
	struct inode *inode = work->recalled;
	struct notice all = { .inode = inode, .pages = true };
	struct duration left;

	pthread_mutex_lock(&m->lock);
	left = instant_until(mount_now(), instant_add(inode->live->filled_at, duration_ms(STORE_MS)));
	pthread_mutex_unlock(&m->lock);
	if (left.ns)
		(void)usleep((useconds_t)(left.ns / NS_PER_US));
	pthread_mutex_lock(&m->lock);
	work->weak_fills = inode->live->weak_fills;
	pthread_mutex_unlock(&m->lock);
	(void)notifier_tell_around(m, &all, true);
}

/*
 * The first page for a mapping may have come since the recall: mapping the file has dropped what was
 * there, and that page is given under a lease only, when this is over (read.c).
 */
static void drop_begin(struct mount *m, struct notifier_work *work)
{
	struct inode *inode = work->recalled;

	pthread_mutex_lock(&m->lock);
	if (inode->live->mapped && inode->live->weak_fills == work->weak_fills) {
		for (unsigned i = 0; i < work->count; i++)
			work->notices[i].pages = false;
		if (inode->live->drop_session.value == work->action.session.value)
			inode_live(inode)->dropping_pages--;
		work->pages = false;
	}
	pthread_mutex_unlock(&m->lock);
}

static void perform(struct mount *m, struct notifier_work *work)
{
	mount_replies_drain(m);
	if (work->recalled && work->pages && !work->stored)
		drop_begin(m, work);
	if (work->stored)
		drop_stored(m, work);
	if (work->epoch && m->has_epoch) {
		COUNT(m, invalidations);
		(void)send_epoch(m); /* fails only when the connection is gone */
	}
	if (work->around)
		(void)usleep(AROUND_US);
	/* Page fills may have to wait for the end of the recall (read.c: those of a file that may be mapped
	   for writing, as it may since a moment ago, come under the write lease only; and those beside our
	   own modification): the drop goes around them. */
	for (unsigned i = 0; i < work->count; i++) {
		const struct notice *notice = &work->notices[i];

		if (notice->pages && work->around)
			(void)notifier_tell_around(m, notice, false);
		else if (!notice->pages || !work->recalled || !drop_around(m, notice->inode))
			notifier_tell(m, notice);
	}
	pthread_mutex_lock(&m->lock);
	for (unsigned i = 0; i < work->count; i++) {
		struct inode *inode = work->notices[i].inode;

		/* Not before: until now whatever else drops the inode had to drop them, too. */
		if (inode->given_serial == work->notices[i].given_serial)
			inode->attributes_given = false;
		inode_unuse(m, inode);
	}
	pthread_mutex_unlock(&m->lock);
	work->count = 0;
}

/* ---- recalls ---- */

/* What the kernel has of a recalled inode now, but for pages that were stored to. Under the lock. */
static bool drop_collect(struct mount *m, struct notifier_work *work)
{
	work->weak_fills = work->recalled->live->weak_fills;
	return notifier_collect(m, work, work->recalled, work->pages && !work->stored, 0, 0);
}

/*
 * Page fills that were answered without a lease since it was collected what the kernel has (read.h)
 * may have come behind the invalidation, or be of a file that had no pages then: so there is another,
 * which waits for theirs. Under the lock.
 */
static bool drop_again(struct mount *m, struct notifier_work *work)
{
	work->epoch = false;
	return work->pages && work->recalled->live->weak_fills != work->weak_fills &&
	       (drop_collect(m, work) || work->stored);
}

static void drop_done(struct mount *m, struct notifier_work *work)
{
	struct inode *inode = work->recalled;
	bool open = false;

	pthread_mutex_lock(&m->lock);
	if (inode) {
		if (drop_again(m, work)) {
			pthread_mutex_unlock(&m->lock);
			notifier_push(m, LANE_RECALL, work);
			return;
		}
		open = inode->live->open_count > 0;
		/* None were given since, but under a later session. */
		if (work->action.scope == RECALL_ALL &&
		    holder_session(m->holder).value == work->action.session.value)
			inode_live(inode)->names_given = false;
		inode_live(inode)->dropping--;
		if (inode->live->drop_session.value == work->action.session.value)
			inode_live(inode)->dropping_pages -= work->pages;
		inode_live(inode)->settle_serial++;
		if (open)
			inode_live(inode)->open_registered = true; /* the acknowledgement says so */
		inode_live(inode)->stored_drops -= work->stored;
		/* From here on nothing of it may arrive any more. */
		if (work->stored && inode->live->stored.session.value == work->action.session.value) {
			inode_live(inode)->stored = (struct stored_under){ .kept = false };
			calls_unbind(m, inode);
		}
	}
	COUNT(m, drops);
	/* In the same section: a close that follows must find the acknowledgement before it. */
	session_dropped(m, work->action.session, work->action.sequence, open);
	pthread_mutex_unlock(&m->lock);
	if (work->stored)
		read_release_held(m, inode);
	if (inode) {
		pthread_mutex_lock(&m->lock);
		inode_unuse(m, inode);
		pthread_mutex_unlock(&m->lock);
	}
	free(work);
}

/* Forgets what a recall names of an inode, in memory; says what the kernel has of it. */
static void drop_memory(struct mount *m, struct inode *inode, const struct holder_action *action,
			struct notifier_work *work)
{
	inode_live(inode)->dropping++;
	/* Drops of an earlier session, if they are not over, answer for nothing in this one. */
	if (inode->live->drop_session.value != action->session.value)
		inode_live(inode)->dropping_pages = 0;
	inode_live(inode)->drop_session = action->session;
	inode->attributes_instance = 0;
	prefetch_recalled(m, inode, action);
	if (S_ISDIR(inode->type)) {
		if (inode->live->listing)
			listing_unref(inode->live->listing);
		inode_live(inode)->listing = NULL;
		inode_live(inode)->listing_serial++;
		if (action->scope == RECALL_ALL) {
			inode_names_forget(m, inode);
			rules_recalled(m, inode);
		}
		for (uint32_t i = 0; i < action->name_count; i++)
			inode_name_forget(m, inode, (struct slice){ action->names[i],
								    action->name_length[i] });
		if (inode->live->names_given)
			work->epoch = true;
	}
	work->stored = inode->live->stored.session.value != 0;
	if (work->stored)
		inode_live(inode)->stored_drops++;
	/* Of a file that is mapped for writing there are pages under the write lease only. */
	work->pages = action->scope == RECALL_ALL && (work->stored || !inode->live->mapped);
	inode_live(inode)->dropping_pages += work->pages;
	inode_live(inode)->pages_whole = false;
	work->recalled = inode;
	drop_collect(m, work);
}

void notifier_drop(struct mount *m, const struct holder_action *action)
{
	struct inode *inode = inode_find(m, &action->handle);
	struct notifier_work *work = calloc(1, sizeof(*work));

	/* Out of memory: the session is given up rather than a recall left unanswered. */
	if (!work) {
		struct holder_actions actions = session_actions();

		holder_session_lost(m->holder, mount_now(), action->session, &actions);
		session_act(m, &actions);
		return;
	}
	work->action = *action;
	work->done = drop_done;
	if (inode) {
		drop_memory(m, inode, action, work);
		inode_use(m, inode);
		if (inode->live->hold_count > 0 || inode->live->fence_count > 0)
			calls_release_held(m, inode);
	}
	notifier_push(m, LANE_RECALL, work);
}

/* ---- the threads ---- */

static void *run(void *context)
{
	struct lane *lane = context;

	for (;;) {
		struct notifier_work *work;

		pthread_mutex_lock(&lane->lock);
		while (!lane->first && !lane->stopping)
			pthread_cond_wait(&lane->filled, &lane->lock);
		work = lane->first;
		if (work) {
			lane->first = work->next;
			if (!lane->first)
				lane->last = NULL;
		}
		pthread_mutex_unlock(&lane->lock);
		if (!work)
			return NULL;
		perform(lane->mount, work);
		work->done(lane->mount, work);
	}
}

void notifier_push(struct mount *m, enum notifier_lane index, struct notifier_work *work)
{
	struct lane *lane = &m->notifier->lanes[index];

	pthread_mutex_lock(&lane->lock);
	work->next = NULL;
	if (lane->last)
		lane->last->next = work;
	else
		lane->first = work;
	lane->last = work;
	pthread_cond_signal(&lane->filled);
	pthread_mutex_unlock(&lane->lock);
}

int notifier_create(struct mount *m)
{
	struct notifier *n = calloc(1, sizeof(*n));

	if (!n)
		return -ENOMEM;
	m->notifier = n;
	for (unsigned i = 0; i < LANE_COUNT; i++) {
		struct lane *lane = &n->lanes[i];

		lane->mount = m;
		pthread_mutex_init(&lane->lock, NULL);
		pthread_cond_init(&lane->filled, NULL);
		lane->started = pthread_create(&lane->thread, NULL, run, lane) == 0;
		if (!lane->started) {
			notifier_destroy(m);
			return -EAGAIN;
		}
	}
	return 0;
}

void notifier_destroy(struct mount *m)
{
	struct notifier *n = m->notifier;

	if (!n)
		return;
	for (unsigned i = 0; i < LANE_COUNT; i++) {
		struct lane *lane = &n->lanes[i];

		if (!lane->started)
			continue;
		pthread_mutex_lock(&lane->lock);
		lane->stopping = true;
		pthread_cond_signal(&lane->filled);
		pthread_mutex_unlock(&lane->lock);
		pthread_join(lane->thread, NULL);
		pthread_mutex_destroy(&lane->lock);
		pthread_cond_destroy(&lane->filled);
	}
	drop_all_wait(m);
	free(n);
	m->notifier = NULL;
}
