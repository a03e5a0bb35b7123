#include "fs/mount/asked.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

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

static const char *ask(struct mount *m, fuse_req_t request, struct inode *inode, uint64_t start,
		       uint64_t end, bool files)
{
	const struct fuse_ctx *context = fuse_req_ctx(request);
	const char *state = state_here(m, inode, start, end);
	struct intent intent = intent_of(inode, start, end);

	if (!m->prefetch)
		return "off";
	if (files && S_ISDIR(inode->type))
		intent = files_of(inode);
	else if (strcmp(state, "no") != 0)
		return state;
	if (prefetch_asked(m, inode->nodeid, start, end))
		return "waiting";
	return prefetch_ask(m, &intent, context->uid, context->gid) ? "asked" : "busy";
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

static const char *act(struct mount *m, fuse_req_t request, struct inode *inode, const char *what)
{
	uint64_t start, end;

	if (strcmp(what, "now") == 0)
		return ask(m, request, inode, 0, UINT64_MAX, true);
	if (strcmp(what, "metadata") == 0) /* of a file, they are here since it was looked up */
		return S_ISDIR(inode->type) ? ask(m, request, inode, 0, UINT64_MAX, false) :
					      "complete";
	if (strcmp(what, "cancel") == 0) {
		prefetch_cancel(m, inode->nodeid);
		return state_here(m, inode, 0, UINT64_MAX);
	}
	if (S_ISREG(inode->type) && parse_range(what, &start, &end))
		return ask(m, request, inode, start, end, false);
	return NULL;
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
