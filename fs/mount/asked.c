#include "fs/mount/asked.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "fs/mount/follow.h"
#include "fs/mount/keep.h"
#include "fs/mount/prefetch.h"
#include "fs/mount/read.h"

#define VALUE_BYTES_MAX 16

bool asked_is_xattr(const char *name)
{
	return strcmp(name, EVICT_XATTR) == 0 || strcmp(name, ASKED_XATTR) == 0 ||
	       strncmp(name, ASKED_XATTR ".", strlen(ASKED_XATTR ".")) == 0;
}

/* What there is of [start, end), or of the listing, without regard to what is wished. */
static const char *state_here(struct mount *m, struct inode *inode, uint64_t start, uint64_t end)
{
	const struct attributes *attributes;
	struct attributes heard;
	struct cache_file *file = NULL;
	uint64_t instance, gap_start, gap_end;
	struct change change;
	bool listed, full;

	if (S_ISREG(inode->type))
		file = read_cache_file(m, inode);
	pthread_mutex_lock(&m->lock);
	attributes = inode_attributes(m, inode, mount_now(), &heard);
	instance = inode_lease(m, inode, mount_now(), &change);
	if (attributes && attributes->size < end)
		end = attributes->size;
	listed = instance && inode->live->listing && inode->live->listing->instance == instance;
	full = inode->live->no_ahead;
	pthread_mutex_unlock(&m->lock);
	if (S_ISDIR(inode->type))
		return listed ? "complete" : "no";
	if (!S_ISREG(inode->type))
		return "complete";
	if (!attributes || !instance || !file)
		return "unknown";
	if (start >= end || !cache_file_gap(file, change, start, end, &gap_start, &gap_end))
		return "complete";
	return full ? "full" : "no";
}

static struct intent intent_of(const struct inode *inode, uint64_t start, uint64_t end)
{
	struct intent intent = { .inode = inode->nodeid };

	if (S_ISDIR(inode->type)) {
		intent.type = INTENT_LIST;
		return intent;
	}
	intent.type = INTENT_RANGE;
	intent.offset = start;
	intent.length = end - start;
	return intent;
}

/* Files in a directory, once their names are here. */
static struct intent files_of(const struct inode *directory)
{
	return (struct intent){
		.type = INTENT_FILES,
		.directory = directory->nodeid,
		.length = UINT64_MAX,
		.count = UINT32_MAX,
	};
}

/* What is asked for, as it is named. */
struct asking {
	int8_t priority;
	bool follows;	/* the job is ahead of a reader */
	uint64_t job;
	uint64_t start, end;
	bool files;	/* of a directory: those in it, too */
};

/* NULL: it is to be fetched. */
static const char *hold(struct mount *m, uint32_t uid, struct inode *inode, const struct asking *asking)
{
	const struct attributes *attributes;
	struct attributes heard;
	uint64_t size;

	pthread_mutex_lock(&m->lock);
	attributes = inode_attributes(m, inode, mount_now(), &heard);
	size = attributes ? attributes->size : asking->end;
	pthread_mutex_unlock(&m->lock);
	return follow_hold(m, inode, uid, asking->job, asking->end, size);
}

static const char *ask(struct mount *m, fuse_req_t request, struct inode *inode,
		       const struct asking *asking)
{
	const struct fuse_ctx *context = fuse_req_ctx(request);
	uint64_t start = asking->start, end = asking->end;
	struct intent intent = intent_of(inode, start, end);
	struct credential credential;
	const char *state;

	if (!m->prefetch)
		return "off";
	if (S_ISREG(inode->type) && !keep_admit(m, inode))
		return "refused";
	state = asking->follows ? hold(m, context->uid, inode, asking) : NULL;
	if (state)
		return state;
	state = state_here(m, inode, start, end);
	if (asking->files && S_ISDIR(inode->type))
		intent = files_of(inode);
	else if (strcmp(state, "no") != 0)
		return state;
	if (prefetch_asked(m, inode->nodeid, start, end))
		return "waiting";
	intent.priority = asking->priority;
	call_credential(request, &credential);
	return prefetch_ask(m, &intent, &credential) ? "asked" : "busy";
}

static bool parse_range(const char *text, uint64_t *ret_start, uint64_t *ret_end)
{
	unsigned long long start, end;
	char *rest;

	if (*text < '0' || *text > '9')
		return false;
	start = strtoull(text, &rest, 10);
	if (*rest != '-' || rest[1] < '0' || rest[1] > '9')
		return false;
	end = strtoull(rest + 1, &rest, 10);
	if (*rest != '\0' || end <= start)
		return false;
	*ret_start = start;
	*ret_end = end;
	return true;
}

static const char *evict(struct mount *m, struct inode *inode)
{
	struct cache_file *file = S_ISREG(inode->type) ? read_cache_file(m, inode) : NULL;

	prefetch_cancel(m, inode->nodeid);
	if (file)
		cache_file_drop(file);
	pthread_mutex_lock(&m->lock);
	if (inode->live->no_ahead)
		inode_live(inode)->no_ahead = false; /* there is room now */
	pthread_mutex_unlock(&m->lock);
	return "no";
}

/* Steps over `word` and a dot in front of what follows. */
static bool takes(const char **what, const char *word)
{
	size_t length = strlen(word);

	if (strncmp(*what, word, length) != 0 || (*what)[length] != '.')
		return false;
	*what += length + 1;
	return true;
}

/* "WORD-JOB", at the end or in front of a dot, which is stepped over. */
static bool takes_job(const char **what, const char *word, uint64_t *ret_job)
{
	size_t length = strlen(word);
	char *rest;

	if (strncmp(*what, word, length) != 0 || (*what)[length] != '-' ||
	    (*what)[length + 1] < '0' || (*what)[length + 1] > '9')
		return false;
	*ret_job = strtoull(*what + length + 1, &rest, 10);
	if (*rest != '.' && *rest != '\0')
		return false;
	*what = rest + (*rest == '.');
	return true;
}

static const char *leave(struct mount *m, fuse_req_t request, struct inode *inode, uint64_t job)
{
	if (!m->prefetch)
		return "off";
	follow_leave(m, S_ISREG(inode->type) ? inode : NULL, fuse_req_ctx(request)->uid, job);
	return state_here(m, inode, 0, UINT64_MAX);
}

static const char *act(struct mount *m, fuse_req_t request, struct inode *inode, const char *what)
{
	struct asking asking = { .priority = PRIORITY_NORMAL, .end = UINT64_MAX };
	uint64_t job;

	if (strcmp(what, "cancel") == 0) {
		prefetch_cancel(m, inode->nodeid);
		return state_here(m, inode, 0, UINT64_MAX);
	}
	if (takes_job(&what, "leave", &job))
		return *what ? NULL : leave(m, request, inode, job);
	if (takes_job(&what, "worker", &job)) {
		if (*what || !m->prefetch)
			return *what ? NULL : "off";
		follow_work(m, fuse_req_ctx(request)->uid, job, fuse_req_ctx(request)->pid);
		return "no";
	}
	if (takes(&what, "low"))
		asking.priority = PRIORITY_LOW;
	else if (takes(&what, "high"))
		asking.priority = PRIORITY_HIGH;
	asking.follows = takes_job(&what, "follow", &asking.job);
	if (S_ISREG(inode->type) && parse_range(what, &asking.start, &asking.end))
		return ask(m, request, inode, &asking);
	if (asking.follows)
		return NULL;
	asking.files = strcmp(what, "now") == 0;
	if (!asking.files && strcmp(what, "metadata") != 0)
		return NULL;
	/* Of a file, metadata are here since it was looked up. */
	return asking.files || S_ISDIR(inode->type) ? ask(m, request, inode, &asking) : "complete";
}

int asked_get(struct mount *m, fuse_req_t request, struct inode *inode, const char *name,
	      char **ret_text)
{
	const char *text;

	if (strcmp(name, EVICT_XATTR) == 0) {
		text = evict(m, inode);
	} else if (strcmp(name, ASKED_XATTR) == 0) {
		text = state_here(m, inode, 0, UINT64_MAX);
		if (strcmp(text, "no") == 0 && prefetch_asked(m, inode->nodeid, 0, UINT64_MAX))
			text = "waiting";
	} else {
		text = act(m, request, inode, name + strlen(ASKED_XATTR "."));
	}
	if (!text)
		return -ENODATA;
	*ret_text = strdup(text);
	return *ret_text ? 0 : -ENOMEM;
}

int asked_set(struct mount *m, fuse_req_t request, struct inode *inode, const char *value,
	      size_t length)
{
	char what[VALUE_BYTES_MAX + 1];
	const char *state;

	if (length > VALUE_BYTES_MAX)
		return -EINVAL;
	memcpy(what, value, length);
	what[length] = '\0';
	if (strcmp(what, "now") != 0 && strcmp(what, "metadata") != 0 && strcmp(what, "cancel") != 0)
		return -EINVAL;
	state = act(m, request, inode, what);
	if (!state)
		return -EINVAL;
	if (strcmp(state, "off") == 0)
		return -EOPNOTSUPP;
	return strcmp(state, "busy") == 0 ? -EAGAIN : 0;
}
