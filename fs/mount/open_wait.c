#include "fs/mount/open_wait.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "fs/mount/call.h"
#include "fs/mount/keep.h"
#include "fs/mount/ops.h"
#include "fs/mount/prefetch.h"
#include "fs/mount/read.h"
#include "fs/mount/rules.h"
#include "fs/mount/session.h"

#define SAY_MS 10000

struct waiting_open {
	struct waiting_open *next;
	fuse_req_t request;
	struct inode *inode; /* with a use */
	struct credential credential;
	struct fuse_file_info info;
	uint64_t gap;		   /* where the first one was */
	struct instant changed_at; /* that */
	unsigned asks;		   /* since then */
};

/* How it stands with one of them. */
enum verdict { WAIT_ON, COMPLETE, KILLED, RECALLED, NO_ROOM, STALLED };

static const char *const reasons[] = {
	[RECALLED] = "it is being modified elsewhere, or the origin is away",
	[NO_ROOM] = "the cache has no room for it (--cache-size), or may not have it (admit)",
	[STALLED] = "nothing of it comes any more",
};

static bool ask(struct mount *m, const struct waiting_open *w)
{
	const struct intent intent = {
		.type = INTENT_RANGE,
		.inode = w->inode->nodeid,
		.length = UINT64_MAX,
	};
	struct credential credential;

	call_credential(w->request, &credential);
	return prefetch_ask(m, &intent, &credential);
}

static enum verdict look(struct mount *m, struct waiting_open *w)
{
	struct cache_file *file = read_cache_file(m, w->inode);
	uint64_t size, gap, gap_end;
	struct cache_counters cache;
	struct change change;
	bool leased, full;

	pthread_mutex_lock(&m->lock);
	size = inode_size(m, w->inode, mount_now());
	leased = size != UINT64_MAX && inode_lease(m, w->inode, mount_now(), &change) != 0;
	full = w->inode->live->no_ahead;
	pthread_mutex_unlock(&m->lock);
	if (!leased)
		return RECALLED;
	cache_counters(m->cache, &cache);
	if (!file || full || !keep_admit(m, w->inode) || size > cache.bytes_max)
		return NO_ROOM;
	if (!cache_file_gap(file, change, 0, size, &gap, &gap_end))
		return COMPLETE;
	if (gap != w->gap) {
		w->gap = gap;
		w->changed_at = mount_now();
		w->asks = 0;
	}
	if (fuse_req_interrupted(w->request) &&
	    call_caller_dies((uint64_t)fuse_req_ctx(w->request)->pid))
		return KILLED;
	if (instant_until(w->changed_at, mount_now()).ns > OPEN_WAIT_STALL.ns)
		return STALLED;
	if (prefetch_asked(m, w->inode->nodeid, 0, size))
		return WAIT_ON;
	if (w->asks == OPEN_WAIT_ASKS_MAX)
		return STALLED;
	w->asks += ask(m, w);
	return WAIT_ON;
}

/* At most a line in SAY_MS: a job may open many, and again and again. */
static void say(struct mount *m, const struct waiting_open *w, enum verdict verdict)
{
	struct instant now = mount_now();
	bool now_said = false;
	uint64_t number;

	pthread_mutex_lock(&m->lock);
	number = inode_heard(m, w->inode).inode;
	if (reasons[verdict] && !instant_before(now, m->waiting_opens_say)) {
		m->waiting_opens_say = instant_add(now, duration_ms(SAY_MS));
		now_said = true;
	}
	pthread_mutex_unlock(&m->lock);
	if (now_said)
		mount_log("warning", "%s: an open of the file with inode number %" PRIu64 " does not "
			  "wait for all of it (wait=open): %s", m->options->mountpoint,
			  number, reasons[verdict]);
}

bool open_wait(struct mount *m, fuse_req_t request, struct inode *inode,
	       const struct credential *credential, const struct fuse_file_info *info)
{
	enum verdict verdict = NO_ROOM;
	struct waiting_open *w;
	bool wanted;

	if (!m->prefetch || (info->flags & O_ACCMODE) != O_RDONLY || !S_ISREG(inode->type))
		return false;
	pthread_mutex_lock(&m->lock);
	wanted = m->waiting_open_count < OPEN_WAIT_COUNT_MAX && !m->waiting_opens_end &&
		 rules_value(m, inode, RULES_WAIT) == RULES_WAIT_OPEN;
	if (wanted) {
		m->waiting_open_count++;
		inode_use(m, inode);
		/* There may be room by now. */
		if (inode->live->no_ahead)
			inode_live(inode)->no_ahead = false;
	}
	pthread_mutex_unlock(&m->lock);
	if (!wanted)
		return false;
	w = malloc(sizeof(*w));
	if (w)
		*w = (struct waiting_open){
			.request = request,
			.inode = inode,
			.credential = *credential,
			.info = *info,
			.gap = UINT64_MAX,
			.changed_at = mount_now(),
		};
	if (w)
		verdict = look(m, w);
	if (verdict == WAIT_ON) {
		pthread_mutex_lock(&m->lock);
		wanted = !m->waiting_opens_end;
		if (wanted) {
			w->next = m->waiting_opens;
			m->waiting_opens = w;
		}
		pthread_mutex_unlock(&m->lock);
		if (wanted) {
			prefetch_wake(m);
			return true;
		}
	}
	if (w && verdict == NO_ROOM)
		say(m, w, verdict);
	free(w);
	pthread_mutex_lock(&m->lock);
	m->waiting_open_count--;
	inode_unuse(m, inode);
	pthread_mutex_unlock(&m->lock);
	return false;
}

/* Of one that is in no list any more. */
static void answer(struct mount *m, struct waiting_open *w, int error)
{
	data_open_answer(m, w->request, w->inode, &w->credential, &w->info, error);
	pthread_mutex_lock(&m->lock);
	m->waiting_open_count--;
	inode_unuse(m, w->inode);
	pthread_mutex_unlock(&m->lock);
	free(w);
}

bool open_wait_look(struct mount *m)
{
	struct waiting_open *all, *kept = NULL, *next;
	bool any;

	pthread_mutex_lock(&m->lock);
	all = m->waiting_opens;
	m->waiting_opens = NULL;
	pthread_mutex_unlock(&m->lock);
	for (; all; all = next) {
		enum verdict verdict = look(m, all);

		next = all->next;
		if (verdict == WAIT_ON) {
			all->next = kept;
			kept = all;
			continue;
		}
		say(m, all, verdict);
		answer(m, all, verdict == KILLED ? EINTR : 0);
	}
	pthread_mutex_lock(&m->lock);
	while (kept) {
		next = kept->next;
		kept->next = m->waiting_opens;
		m->waiting_opens = kept;
		kept = next;
	}
	any = m->waiting_opens != NULL;
	pthread_mutex_unlock(&m->lock);
	return any;
}

void open_wait_end(struct mount *m)
{
	struct waiting_open *all, *next;

	pthread_mutex_lock(&m->lock);
	m->waiting_opens_end = true;
	all = m->waiting_opens;
	m->waiting_opens = NULL;
	pthread_mutex_unlock(&m->lock);
	for (; all; all = next) {
		next = all->next;
		answer(m, all, ENOTCONN);
	}
}
