#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "fs/mount/inode.h"
#include "fs/mount/locks.h"
#include "fs/mount/modify.h"
#include "fs/mount/ops.h"
#include "fs/mount/read.h"
#include "fs/mount/reply.h"
#include "fs/mount/session.h"
#include "fs/mount/write_back.h"

/* Answers with the attributes that stand now, else with those that were answered, for this once. */
static void reply_attributes(struct mount *m, struct call *call, const struct attributes *answered)
{
	const struct attributes *attributes;
	struct attributes heard;
	double seconds = 0;
	fuse_req_t request;
	struct stat st;
	unsigned token;

	pthread_mutex_lock(&m->lock);
	attributes = inode_attributes(m, call->inode, mount_now(), &heard);
	attributes_stat(attributes ? attributes : answered, &st);
	if (attributes)
		seconds = attributes_validity(m, call->inode, mount_now());
	request = call->request;
	call->request = NULL;
	token = mount_reply_begin(m);
	pthread_mutex_unlock(&m->lock);
	call_destroy(m, call);
	if (request)
		fuse_reply_attr(request, &st, seconds);
	mount_reply_end(m, token);
}

/*
 * The mount point itself, while the origin is away. umount(8) and whatever walks a path through it
 * ask for it, and would wait; what lies below waits, or fails, all the same. Nothing that was
 * learned of its content is told: size, link count and times are not what they ever were. Whose it
 * is and its permissions are what was heard last, and the one thing here that may be old: a walk that
 * begins meanwhile is let in by them, and then waits for the origin.
 */
static void reply_mountpoint(struct mount *m, struct call *call)
{
	fuse_req_t request = call_take_request(m, call);
	struct attributes heard;
	struct stat st;

	pthread_mutex_lock(&m->lock);
	heard = inode_heard(m, call->inode);
	attributes_stat(&heard, &st);
	pthread_mutex_unlock(&m->lock);
	st.st_size = 0;
	st.st_blocks = 0;
	st.st_nlink = 1; /* of a directory: says nothing about what is in it */
	(void)clock_gettime(CLOCK_REALTIME, &st.st_mtim); /* cannot fail with this clock */
	st.st_atim = st.st_ctim = st.st_mtim;
	call_destroy(m, call);
	if (request)
		fuse_reply_attr(request, &st, 0);
}

/*
 * A directory that was removed while it is in use here: what was heard of it last, without links. Its
 * ctime moved when it was removed; that is not known any more, and so it is when that was found.
 */
static void reply_removed(struct mount *m, struct call *call)
{
	fuse_req_t request = call_take_request(m, call);
	struct attributes heard;
	struct timespec now;
	struct stat st;

	(void)clock_gettime(CLOCK_REALTIME, &now); /* cannot fail with this clock */
	pthread_mutex_lock(&m->lock);
	heard = inode_heard(m, call->inode);
	if (heard.nlink > 0 && (uint64_t)now.tv_sec >= heard.ctime_s) {
		heard.ctime_s = (uint64_t)now.tv_sec;
		heard.ctime_ns = (uint32_t)now.tv_nsec;
	}
	heard.nlink = 0;
	inode_set_attributes(m, call->inode, &heard, call->inode->attributes_instance);
	attributes_stat(&heard, &st);
	pthread_mutex_unlock(&m->lock);
	call_destroy(m, call);
	if (!request)
		return;
	if (S_ISDIR(st.st_mode))
		fuse_reply_attr(request, &st, 0);
	else
		fuse_reply_err(request, ESTALE); /* nothing was ever heard of it */
}

static void getattr_work(struct mount *m, struct call *call)
{
	struct answer answer;

	if (call->status == STATUS_DEADLINE && call->ends_when_away) {
		reply_mountpoint(m, call);
		return;
	}
	if (call->status == STATUS_STALE && S_ISDIR(call->inode->type) &&
	    call->inode->nodeid != FUSE_ROOT_ID) {
		reply_removed(m, call);
		return;
	}
	if (call->status != STATUS_OK) {
		reply_error(m, call, call_errno(call));
		return;
	}
	pthread_mutex_lock(&m->lock);
	answer_work_in(m, call, NULL, NULL, &answer);
	pthread_mutex_unlock(&m->lock);
	answer_done(m, &answer);
	if (!answer.nodes[NODE_TARGET].present)
		reply_error(m, call, EIO);
	else
		reply_attributes(m, call, &answer.nodes[NODE_TARGET].item.attributes);
}

static bool getattr_cached(struct mount *m, fuse_req_t request, fuse_ino_t nodeid)
{
	const struct attributes *attributes = NULL;
	struct attributes heard;
	struct inode *inode;
	double seconds = 0;
	struct stat st;
	unsigned token;

	pthread_mutex_lock(&m->lock);
	inode = inode_by_nodeid(m, nodeid);
	if (inode)
		attributes = inode_attributes(m, inode, mount_now(), &heard);
	if (!attributes) {
		pthread_mutex_unlock(&m->lock);
		return false;
	}
	attributes_stat(attributes, &st);
	seconds = attributes_validity(m, inode, mount_now());
	token = mount_reply_begin(m);
	pthread_mutex_unlock(&m->lock);
	COUNT(m, getattrs_cached);
	fuse_reply_attr(request, &st, seconds);
	mount_reply_end(m, token);
	return true;
}

void op_getattr(fuse_req_t request, fuse_ino_t nodeid, struct fuse_file_info *info)
{
	struct mount *m = fuse_req_userdata(request);
	struct call *call;

	if (getattr_cached(m, request, nodeid))
		return;
	call = op_call(request, nodeid, MESSAGE_getattr);
	if (!call)
		return;
	call->message.getattr.handle = inode_handle(call->inode);
	call->ends_when_away = nodeid == FUSE_ROOT_ID && !session_fails_at_once(m);
	call_send(m, call, getattr_work);
}

/* ---- setattr ---- */

static void setattr_reply(struct mount *m, struct call *call)
{
	struct attributes attributes = *(struct attributes *)call->context;

	free(call->context);
	reply_attributes(m, call, &attributes);
}

static void setattr_failed(struct mount *m, struct call *call)
{
	reply_error(m, call, call->status == STATUS_OK ? EIO : call_errno(call));
}

static void setattr_work(struct mount *m, struct call *call)
{
	const struct message_setattr *message = &call->message.setattr;
	struct change before, after;
	struct attributes *attributes;
	struct answer answer;
	bool kept = modify_end(m, call, &answer, &before, &after);

	answer_done(m, &answer);
	if (call->status != STATUS_OK || !answer.nodes[NODE_TARGET].present) {
		/* It may have been done all the same: pages filled meanwhile go. */
		if (call->bound)
			setattr_failed(m, call);
		else
			modify_settle(m, call, 0, 0, setattr_failed);
		return;
	}
	if (kept && call->inode->file)
		cache_file_move(call->inode->file, before, after,
				message->valid & SETATTR_SIZE ? message->size : 0,
				message->valid & SETATTR_SIZE ? UINT64_MAX : 0);
	attributes = malloc(sizeof(*attributes));
	if (!attributes) {
		reply_error(m, call, ENOMEM);
		return;
	}
	*attributes = answer.nodes[NODE_TARGET].item.attributes;
	call->context = attributes;
	/* Under the write lease the kernel drops its pages by itself: write_back.h. */
	if ((message->valid & SETATTR_SIZE) && !call->bound)
		modify_settle(m, call, 0, 0, setattr_reply);
	else
		setattr_reply(m, call);
}

/*
 * True: the thread is in ftruncate(2). False: in something else, or it cannot be told. It waits for
 * us, so that it is about to sleep, if it does not yet.
 */
static bool calls_ftruncate(pid_t thread)
{
	enum { TRIES = 1000, TRY_US = 100 };
	/* ftruncate and ftruncate64 of 32-bit programs on x86 and ARM; nothing that truncates elsewhere. */
	static const long numbers[] = { SYS_ftruncate, 93, 194 };
	char path[64], line[256];
	bool running = true;
	long number = -1;

	(void)snprintf(path, sizeof(path), "/proc/%ld/syscall", (long)thread);
	for (unsigned i = 0; running && i < TRIES; i++) {
		FILE *file = fopen(path, "re");

		if (!file)
			return false;
		running = fgets(line, sizeof(line), file) && strncmp(line, "running", 7) == 0;
		if (!running)
			number = strtol(line, NULL, 10);
		(void)fclose(file);
		if (running)
			(void)usleep(TRY_US);
	}
	for (unsigned i = 0; !running && i < sizeof(numbers) / sizeof(numbers[0]); i++)
		if (number == numbers[i])
			return true;
	return false;
}

/*
 * When an asynchronous write with O_DIRECT that would make the file longer fails, the kernel cuts the
 * file off at the size that it knows (fuse_do_truncate()), which is not what has been appended by
 * other hosts since: nobody asked for that, and it is not done. What it sends looks like ftruncate(2).
 */
static bool truncates_unasked(struct mount *m, fuse_req_t request, int valid,
			      struct fuse_file_info *info)
{
	struct open_file *file = info ? (struct open_file *)(uintptr_t)info->fh : NULL;
	bool failed;

	if (!file || (valid & ~FUSE_SET_ATTR_KILL_SUID) != FUSE_SET_ATTR_SIZE)
		return false;
	pthread_mutex_lock(&m->lock);
	failed = file->direct_failed;
	pthread_mutex_unlock(&m->lock);
	if (!failed || calls_ftruncate(fuse_req_ctx(request)->pid))
		return false;
	pthread_mutex_lock(&m->lock);
	file->direct_failed = false;
	pthread_mutex_unlock(&m->lock);
	return true;
}

void op_setattr(fuse_req_t request, fuse_ino_t nodeid, struct stat *attr, int valid,
		struct fuse_file_info *info)
{
	static const struct {
		int fuse;
		uint32_t wire;
	} flags[] = {
		{ FUSE_SET_ATTR_MODE, SETATTR_MODE },
		{ FUSE_SET_ATTR_UID, SETATTR_UID },
		{ FUSE_SET_ATTR_GID, SETATTR_GID },
		{ FUSE_SET_ATTR_SIZE, SETATTR_SIZE },
		{ FUSE_SET_ATTR_ATIME, SETATTR_ATIME },
		{ FUSE_SET_ATTR_MTIME, SETATTR_MTIME },
		{ FUSE_SET_ATTR_ATIME_NOW, SETATTR_ATIME_NOW },
		{ FUSE_SET_ATTR_MTIME_NOW, SETATTR_MTIME_NOW },
		{ FUSE_SET_ATTR_KILL_SUID, SETATTR_KILL_SUID },
	};
	struct mount *m = fuse_req_userdata(request);
	struct modify_scope scope = { 0 };
	struct message_setattr *message;
	struct call *call;

	if (op_refuse_change(request))
		return;
	if (truncates_unasked(m, request, valid, info)) {
		COUNT(m, requests);
		fuse_reply_err(request, EIO); /* the kernel does not look at it */
		return;
	}
	call = op_call(request, nodeid, MESSAGE_setattr);
	if (!call)
		return;
	if (valid & FUSE_SET_ATTR_SIZE)
		call->lock_file = locks_number(m, info);
	message = &call->message.setattr;
	message->handle = inode_handle(call->inode);
	for (unsigned i = 0; i < sizeof(flags) / sizeof(flags[0]); i++)
		if (valid & flags[i].fuse)
			message->valid |= flags[i].wire;
	message->mode = attr->st_mode;
	message->uid = attr->st_uid;
	message->gid = attr->st_gid;
	message->size = (uint64_t)attr->st_size;
	message->atime_s = (uint64_t)attr->st_atim.tv_sec;
	message->atime_ns = (uint32_t)attr->st_atim.tv_nsec;
	message->mtime_s = (uint64_t)attr->st_mtim.tv_sec;
	message->mtime_ns = (uint32_t)attr->st_mtim.tv_nsec;
	/* A descriptor that may write may truncate, whatever the mode says by now. */
	message->through_descriptor = info != NULL;
	if (valid & FUSE_SET_ATTR_SIZE) {
		pthread_mutex_lock(&m->lock);
		modify_size(m, call, &scope);
		pthread_mutex_unlock(&m->lock);
		scope.offset = message->size;
	}
	call_limit(call);
	modify_send(m, call, &scope, setattr_work);
}

/* ---- readlink ---- */

static void readlink_work(struct mount *m, struct call *call)
{
	struct answer answer;
	fuse_req_t request;
	char *target;

	if (call->status != STATUS_OK || call->data.length > LINK_TARGET_BYTES_MAX) {
		reply_error(m, call, call->status == STATUS_OK ? EIO : call_errno(call));
		return;
	}
	target = strndup((const char *)call->data.data, call->data.length);
	if (!target) {
		reply_error(m, call, ENOMEM);
		return;
	}
	pthread_mutex_lock(&m->lock);
	answer_work_in(m, call, NULL, NULL, &answer);
	if (answer.nodes[NODE_TARGET].instance) {
		free(call->inode->live->target);
		inode_live(call->inode)->target = strdup(target);
		inode_live(call->inode)->target_instance =
			call->inode->live->target ? answer.nodes[NODE_TARGET].instance : 0;
	}
	request = call->request;
	call->request = NULL;
	pthread_mutex_unlock(&m->lock);
	answer_done(m, &answer);
	call_destroy(m, call);
	if (request)
		fuse_reply_readlink(request, target);
	free(target);
}

void op_readlink(fuse_req_t request, fuse_ino_t nodeid)
{
	struct mount *m = fuse_req_userdata(request);
	struct inode *inode;
	struct call *call;
	char *target = NULL;

	pthread_mutex_lock(&m->lock);
	inode = inode_by_nodeid(m, nodeid);
	if (inode && inode->live->target_instance &&
	    inode->live->target_instance == inode_lease(m, inode, mount_now(), NULL))
		target = strdup(inode->live->target);
	pthread_mutex_unlock(&m->lock);
	if (target) {
		fuse_reply_readlink(request, target);
		free(target);
		return;
	}
	call = op_call(request, nodeid, MESSAGE_readlink);
	if (!call)
		return;
	call->message.readlink.handle = inode_handle(call->inode);
	call_send(m, call, readlink_work);
}

/* ---- statfs ---- */

/*
 * How much room the export has is nobody's content, and moves while it is being asked for. umount(8)
 * asks, and desktops: so they get what was heard last when the origin does not answer soon.
 */
#define STATFS_WAIT_MS 1000

static void space_reply(struct mount *m, fuse_req_t request)
{
	struct statvfs space;

	pthread_mutex_lock(&m->lock);
	space = m->space;
	pthread_mutex_unlock(&m->lock);
	fuse_reply_statfs(request, &space);
}

static void statfs_work(struct mount *m, struct call *call)
{
	struct reader r = reader_of(call->data.data, call->data.length);
	fuse_req_t request = call->context;
	struct item_statfs item;

	if (call->status == STATUS_OK && item_statfs_read(&r, &item)) {
		pthread_mutex_lock(&m->lock);
		m->space = (struct statvfs){
			.f_bsize = item.block_bytes,
			.f_frsize = item.block_bytes,
			.f_blocks = item.blocks,
			.f_bfree = item.blocks_free,
			.f_bavail = item.blocks_available,
			.f_files = item.files,
			.f_ffree = item.files_free,
			.f_favail = item.files_free,
			.f_namemax = item.name_bytes_max,
		};
		pthread_mutex_unlock(&m->lock);
	}
	call_destroy(m, call);
	space_reply(m, request);
}

void op_statfs(fuse_req_t request, fuse_ino_t nodeid)
{
	struct mount *m = fuse_req_userdata(request);
	struct call *call;
	bool valid;

	pthread_mutex_lock(&m->lock);
	valid = holder_valid(m->holder, mount_now());
	pthread_mutex_unlock(&m->lock);
	if (!valid) {
		COUNT(m, requests);
		space_reply(m, request);
		return;
	}
	call = op_call(request, nodeid ? nodeid : FUSE_ROOT_ID, MESSAGE_statfs);
	if (!call)
		return;
	/* Its deadline is not an error: statfs_work() answers, whatever comes of the call. */
	call->deadline = instant_add(mount_now(), duration_ms(STATFS_WAIT_MS));
	call->context = call_take_request(m, call);
	call->message.statfs.handle = inode_handle(call->inode);
	call_send(m, call, statfs_work);
}
