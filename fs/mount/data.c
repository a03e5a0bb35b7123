#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "fs/mount/bulk.h"
#include "fs/mount/inode.h"
#include "fs/mount/keep.h"
#include "fs/mount/locks.h"
#include "fs/mount/modify.h"
#include "fs/mount/open_wait.h"
#include "fs/mount/ops.h"
#include "fs/mount/pages.h"
#include "fs/mount/passthrough.h"
#include "fs/mount/prefetch.h"
#include "fs/mount/read.h"
#include "fs/mount/reply.h"
#include "fs/mount/sync.h"
#include "fs/mount/write_back.h"

/* ---- open ---- */

/*
 * Counts the open before anything else: from here on a recall is acknowledged with "open here",
 * and no close is sent to the origin. Under the lock.
 */
static void count_open(struct inode *inode)
{
	inode_live(inode)->open_count++;
}

/* The last local close tells the origin, when it knows of the open. */
static void close_work(struct mount *m, struct call *call)
{
	/* A close that was lost ends with the session. */
	pthread_mutex_lock(&m->lock);
	inode_live(call->inode)->closing = false;
	calls_release_held(m, call->inode);
	pthread_mutex_unlock(&m->lock);
	call_destroy(m, call);
}

void data_closed(struct mount *m, struct inode *inode)
{
	struct call *call = NULL;
	bool tell;

	pthread_mutex_lock(&m->lock);
	tell = inode->live->open_count == 0 && inode->live->open_registered && !inode->live->closing &&
	       !inode->live->open_told;
	if (tell) {
		inode_live(inode)->open_registered = false;
		/* Opens wait for it: it must not undo what they register. */
		inode_live(inode)->closing = true;
	}
	pthread_mutex_unlock(&m->lock);
	if (!tell)
		return;
	call = call_new(m, NULL, MESSAGE_close);
	if (call) {
		call->message.close.handle = inode_handle(inode);
		call_set_inode(m, call, inode);
		call_send(m, call, close_work);
		return;
	}
	pthread_mutex_lock(&m->lock);
	inode_live(inode)->open_registered = true; /* the next close tells */
	inode_live(inode)->closing = false;
	calls_release_held(m, inode); /* opens may have come to wait for it */
	pthread_mutex_unlock(&m->lock);
}

static void uncount_open(struct mount *m, struct inode *inode)
{
	pthread_mutex_lock(&m->lock);
	inode_live(inode)->open_count--;
	pthread_mutex_unlock(&m->lock);
	data_closed(m, inode);
}

/* What the kernel is told of the descriptor, by its mode. */
static void fill_info(const struct open_file *file, const struct mode_answer *answer,
		      struct fuse_file_info *info)
{
	info->fh = (uint64_t)(uintptr_t)file;
	info->direct_io = answer->mode == MODE_DIRECT || answer->mode == MODE_BRIDGE;
	info->keep_cache = answer->mode == MODE_PAGES;
	info->backing_id = answer->backing_id;
	/* Those of one file beside each other; those that append or extend it, the kernel orders. */
	info->parallel_direct_writes = file->request.writes;
	info->noflush = file->unflushed;
}

/* Decides on the mode, and links the descriptor. 0 or -errno; under the lock. */
static int link_file(struct mount *m, struct inode *inode, struct open_file *file,
		     struct backing *backing, struct mode_answer *ret_answer)
{
	*ret_answer = passthrough_answer(m, inode, file->request, backing);
	if (ret_answer->error)
		return -ret_answer->error;
	file->mode = ret_answer->mode;
	file->mappable = m->maps_writable && file->request.reads && file->request.writes;
	inode_live(inode)->mappable += file->mappable;
	inode_use(m, inode);
	sync_opened(m, inode, &file->seen);
	file->next = m->open_files;
	if (file->next)
		file->next->previous = file;
	m->open_files = file;
	return 0;
}

/*
 * The local side of an open that was counted. Readers use the kernel's page cache, whose pages are
 * dropped whenever the lease goes: so they may be kept from one open to the next; or, of sealed files,
 * the cache file (mode.h). Descriptors that can write use DIRECT_IO: no write waits in the page cache.
 * Those that can also read may be mapped all the same, where the kernel can do that safely
 * (write_back.h); else it fails with ENODEV.
 */
static int make_file(struct mount *m, struct inode *inode, const struct credential *credential,
		     struct fuse_file_info *info, struct open_file **ret_file)
{
	struct open_file *file = calloc(1, sizeof(*file));
	struct cache_file *cached = NULL;
	struct mode_answer answer;
	struct backing backing;
	int r;

	if (!file)
		return -ENOMEM;
	file->inode = inode;
	file->request = mode_request(info->flags);
	file->credential = *credential;
	file->append = (info->flags & O_APPEND) != 0;
	file->sync = sync_of_flags(info->flags);
	if (file->sync == SYNC_NONE && m->options->sync)
		file->sync = SYNC_DATA;
	file->unflushed = !file->request.writes && !inode->live->locks_used;
	if (S_ISREG(inode->type))
		cached = read_cache_file(m, inode); /* without it, reads go to the origin */
	if (cached)
		keep_opened(m, inode, cached);
	passthrough_prepare(m, inode, file->request, &backing);
	pthread_mutex_lock(&m->lock);
	r = link_file(m, inode, file, &backing, &answer);
	pthread_mutex_unlock(&m->lock);
	passthrough_drop(m, &backing);
	if (r < 0) {
		free(file);
		return r;
	}
	fill_info(file, &answer, info);
	*ret_file = file;
	return 0;
}

int data_open(struct mount *m, struct inode *inode, const struct credential *credential,
	      struct fuse_file_info *info, struct open_file **ret_file)
{
	int r;

	pthread_mutex_lock(&m->lock);
	count_open(inode);
	pthread_mutex_unlock(&m->lock);
	r = make_file(m, inode, credential, info, ret_file);
	if (r < 0)
		uncount_open(m, inode);
	return r;
}

static void data_close(struct mount *m, struct open_file *file)
{
	struct inode *inode = file->inode;
	struct backing backing;

	uncount_open(m, inode);
	pthread_mutex_lock(&m->lock);
	if (inode->live->open_count == 0)
		prefetch_access(m, NULL, inode, &(struct access){ .type = ACCESS_CLOSE });
	passthrough_release(inode, file->mode, file->request, &backing);
	inode_live(inode)->mappable -= file->mappable;
	if (inode->live->mappable == 0)
		inode_live(inode)->mapped = false;
	if (file->previous)
		file->previous->next = file->next;
	else
		m->open_files = file->next;
	if (file->next)
		file->next->previous = file->previous;
	inode_unuse(m, inode);
	pthread_mutex_unlock(&m->lock);
	passthrough_drop(m, &backing);
	free(file);
}

void data_forget_all(struct mount *m)
{
	while (m->open_files) {
		struct open_file *file = m->open_files;

		m->open_files = file->next;
		free(file);
	}
}

void data_open_undo(struct mount *m, struct open_file *file)
{
	data_close(m, file);
}

void data_open_answer(struct mount *m, fuse_req_t request, struct inode *inode,
		      const struct credential *credential, struct fuse_file_info *info, int error)
{
	struct open_file *file;
	int r = error ? -error : make_file(m, inode, credential, info, &file);

	if (r < 0) {
		uncount_open(m, inode);
		fuse_reply_err(request, -r);
	} else if (fuse_reply_open(request, info) < 0) {
		data_close(m, file);
	}
}

/* ---- a small file that is not cached is fetched before its open is answered ---- */

/* What is not larger is complete before its open is answered. Under the lock. */
static uint64_t open_fetch_max(struct mount *m, const struct inode *inode)
{
	bool sweeps = sweep_saw_open(&m->sweep, mount_now(), inode->nodeid);
	uint64_t max = m->options->open_fetch;

	if (max && max < SWEEP_BYTES_MAX && sweeps)
		max = SWEEP_BYTES_MAX;
	return max < BULK_BYTES_MAX ? max : BULK_BYTES_MAX;
}

/*
 * Whether there is something to fetch for this open; notes that it is being fetched. Not where that did
 * not help before, nor while another open does it: who reads then asks for it. Nor what the kernel has in its
 * pages: should it have given them up, a READ comes, and waits as long as this open would. What is cached
 * beside them is used though nobody asks for it.
 */
static bool open_fetch_begin(struct mount *m, struct inode *inode, uint64_t *ret_size)
{
	const struct attributes *attributes;
	struct attributes heard;
	struct cache_file *file = NULL;
	struct change change = { 0, 0 };
	uint64_t size = 0;
	bool wanted, whole;

	pthread_mutex_lock(&m->lock);
	whole = inode->live->pages_whole;
	attributes = inode_attributes(m, inode, mount_now(), &heard);
	if (attributes && holder_lease(m->holder, mount_now(), INODE_HANDLE(inode)) &&
	    attributes->size <= open_fetch_max(m, inode)) {
		size = attributes->size;
		change = holder_change(m->holder, INODE_HANDLE(inode));
	}
	wanted = size > 0 && !inode->live->open_fetching && !change_equal(change, inode->live->open_unkept);
	pthread_mutex_unlock(&m->lock);
	if (wanted)
		file = read_cache_file(m, inode);
	if (file && whole && cache_file_complete(file, change, size))
		cache_file_touch(file, size);
	if (!file || whole || cache_file_complete(file, change, size) || !cache_file_may_come(file))
		return false;
	pthread_mutex_lock(&m->lock);
	/* What was fetched ahead and is on its way, its READ waits for. */
	wanted = !inode->live->open_fetching && read_fetched_to(inode, 0) < size;
	if (!wanted) {
		pthread_mutex_unlock(&m->lock);
		return false;
	}
	inode_live(inode)->open_fetching = true;
	inode_live(inode)->open_unkept = change; /* unless it helps */
	pthread_mutex_unlock(&m->lock);
	*ret_size = size;
	return true;
}

/* The open that waits. It has no part in the call, which may fail: so its caller, when killed, waits for
   the end of it. */
struct opening {
	fuse_req_t request;
	struct fuse_file_info info;
};

static void open_fetched(struct mount *m, struct call *call)
{
	const struct credential credential = call->message.common.credential;
	struct opening *opening = call->context;
	struct inode *inode = call->inode;
	struct change change;
	bool complete;

	/* A failure is no concern of the open's: who reads is told. */
	read_fetched(m, call);
	pthread_mutex_lock(&m->lock);
	inode_use(m, inode);
	change = inode->live->open_unkept;
	pthread_mutex_unlock(&m->lock);
	complete = cache_file_complete(inode->file, change, call->size);
	pthread_mutex_lock(&m->lock);
	inode_live(inode)->open_fetching = false;
	if (complete || call->status != STATUS_OK)
		inode_live(inode)->open_unkept = (struct change){ 0, 0 };
	pthread_mutex_unlock(&m->lock);
	call_destroy(m, call);
	data_open_answer(m, opening->request, inode, &credential, &opening->info, 0);
	free(opening);
	pthread_mutex_lock(&m->lock);
	inode_unuse(m, inode);
	pthread_mutex_unlock(&m->lock);
}

/* False: nothing is fetched, and the open not answered. */
static bool open_fetch(struct mount *m, fuse_req_t request, struct inode *inode,
		       const struct fuse_file_info *info)
{
	struct opening *opening;
	struct call *call;
	uint64_t size;

	if ((info->flags & O_ACCMODE) != O_RDONLY || !S_ISREG(inode->type) ||
	    !open_fetch_begin(m, inode, &size))
		return false;
	opening = malloc(sizeof(*opening));
	call = opening ? call_new(m, NULL, MESSAGE_read) : NULL;
	if (!call) {
		free(opening);
		pthread_mutex_lock(&m->lock);
		inode_live(inode)->open_fetching = false;
		pthread_mutex_unlock(&m->lock);
		return false;
	}
	*opening = (struct opening){ request, *info };
	call->context = opening;
	call->deadline = instant_add(mount_now(), duration_ms(m->open_fetch_max_ms));
	call_credential(request, &call->message.common.credential);
	call_set_inode(m, call, inode);
	prefetch_demand_for(m, inode);
	read_message(call, INODE_HANDLE(inode), 0, size);
	call_send(m, call, open_fetched);
	return true;
}

static void tell_open(struct mount *m, fuse_req_t request, struct inode *inode)
{
	struct access access = { .type = ACCESS_OPEN };

	pthread_mutex_lock(&m->lock);
	access.size = inode_heard(m, inode).size;
	prefetch_access(m, request, inode, &access);
	pthread_mutex_unlock(&m->lock);
}

/* Answers an open that was counted: at once, or when the file is fetched, or enough of it. */
static void open_reply(struct mount *m, fuse_req_t request, struct inode *inode,
		       const struct credential *credential, struct fuse_file_info *info)
{
	if ((info->flags & O_ACCMODE) != O_WRONLY)
		tell_open(m, request, inode);
	if (!open_fetch(m, request, inode, info) && !open_wait(m, request, inode, credential, info))
		data_open_answer(m, request, inode, credential, info, 0);
}

static void open_work(struct mount *m, struct call *call)
{
	struct credential credential = call->message.common.credential;
	struct fuse_file_info info = call->file_info;
	struct inode *inode = call->inode;
	struct answer answer;
	fuse_req_t request;

	if (call->status != STATUS_OK) {
		uncount_open(m, inode);
		reply_error(m, call, call_errno(call));
		return;
	}
	pthread_mutex_lock(&m->lock);
	answer_work_in(m, call, NULL, NULL, &answer);
	inode_live(inode)->open_registered = true;
	inode_use(m, inode);
	request = call->request;
	call->request = NULL;
	pthread_mutex_unlock(&m->lock);
	answer_done(m, &answer);
	call_destroy(m, call);
	if (request)
		open_reply(m, request, inode, &credential, &info);
	else
		uncount_open(m, inode); /* the caller died: as if it had closed */
	pthread_mutex_lock(&m->lock);
	inode_unuse(m, inode);
	pthread_mutex_unlock(&m->lock);
}

unsigned data_access(int flags)
{
	return ((flags & O_ACCMODE) != O_WRONLY ? OPEN_ACCESS_READ : 0) |
	       ((flags & O_ACCMODE) != O_RDONLY ? OPEN_ACCESS_WRITE : 0);
}

void op_open(fuse_req_t request, fuse_ino_t nodeid, struct fuse_file_info *info)
{
	bool writable = (info->flags & O_ACCMODE) != O_RDONLY;
	struct mount *m = fuse_req_userdata(request);
	const struct attributes *attributes;
	struct attributes heard;
	struct inode *inode;
	struct call *call;
	bool known, refused;

	if (writable && op_refuse_change(request))
		return;
	if (m->unopened) {
		COUNT(m, requests);
		fuse_reply_err(request, ENOSYS); /* the kernel tells no other one, and no close */
		return;
	}
	/* Under a lease the origin need not be asked: the kernel has checked the permissions, and
	   an unlink elsewhere asks this host whether the inode is open (design.md section 5). An
	   inode whose last name is gone already lives for registered opens only. Whether it was
	   sealed since somebody opened it for writing here has to be known. */
	pthread_mutex_lock(&m->lock);
	inode = inode_by_nodeid(m, nodeid);
	attributes = inode ? inode_attributes(m, inode, mount_now(), &heard) : NULL;
	refused = writable && inode && inode->final;
	known = inode && !refused && !inode->live->closing &&
		((attributes && attributes->nlink > 0) ||
		 (inode->live->open_count > 0 && inode->live->open_registered &&
		  (attributes || inode->live->mappable == 0)));
	if (known) {
		count_open(inode);
		inode_use(m, inode);
	}
	pthread_mutex_unlock(&m->lock);
	if (refused) {
		fuse_reply_err(request, EPERM);
		return;
	}
	if (known) {
		struct credential credential = { .uid = 0 };

		COUNT(m, requests);
		if (m->maps_writable && (info->flags & O_ACCMODE) == O_RDWR)
			call_credential(request, &credential);
		open_reply(m, request, inode, &credential, info);
		pthread_mutex_lock(&m->lock);
		inode_unuse(m, inode);
		pthread_mutex_unlock(&m->lock);
		return;
	}
	call = op_call(request, nodeid, MESSAGE_open);
	if (!call)
		return;
	call->file_info = *info;
	call->message.open.handle = inode_handle(call->inode);
	call->message.open.access = (uint8_t)data_access(info->flags);
	pthread_mutex_lock(&m->lock);
	count_open(call->inode);
	pthread_mutex_unlock(&m->lock);
	call_send(m, call, open_work);
}

void op_release(fuse_req_t request, fuse_ino_t nodeid, struct fuse_file_info *info)
{
	struct open_file *file = (struct open_file *)(uintptr_t)info->fh;
	struct mount *m = fuse_req_userdata(request);

	locks_release(m, file->inode, file->lock_number);
	data_close(m, file);
	fuse_reply_err(request, 0);
}

/* ---- read ---- */

void op_read(fuse_req_t request, fuse_ino_t nodeid, size_t size, off_t offset,
	     struct fuse_file_info *info)
{
	struct mount *m = fuse_req_userdata(request);

	COUNT(m, requests);
	if (m->unopened) {
		read_unopened(m, request, nodeid, (uint64_t)offset, size, info->lock_owner != 0);
		return;
	}
	/* The kernel names who reads only where it reads into the caller's memory. */
	read_request(m, request, (struct open_file *)(uintptr_t)info->fh, (uint64_t)offset, size,
		     info->lock_owner != 0);
}

/* ---- write ---- */

/* The kernel may truncate the file now, unasked: attributes.c. */
static void note_direct(struct mount *m, struct call *call)
{
	pthread_mutex_lock(&m->lock);
	if (call->request && call->direct)
		call->direct->direct_failed = true;
	pthread_mutex_unlock(&m->lock);
}

static void write_failed(struct mount *m, struct call *call)
{
	note_direct(m, call);
	reply_error(m, call, call->status == STATUS_OK ? EIO : call_errno(call));
}

static void write_work(struct mount *m, struct call *call)
{
	struct inode *inode = call->inode;
	struct change before, after;
	struct answer answer;
	bool kept = modify_end(m, call, &answer, &before, &after);

	answer_done(m, &answer);
	if (call->status != STATUS_OK || call->reply.count > call->bulk_length) {
		/* It may have been done all the same: pages filled meanwhile go. */
		modify_settle(m, call, 0, 0, write_failed);
		return;
	}
	COUNT_BY(m, written_bytes, call->reply.count);
	if (kept && inode->file) {
		cache_file_move(inode->file, before, after, call->reply.offset, call->reply.count);
		(void)read_keep(m, inode, after, call->reply.offset,
				(struct slice){ call->bulk, call->reply.count });
	}
	modify_settle(m, call, call->reply.offset, call->reply.count, reply_count);
}

void op_write(fuse_req_t request, fuse_ino_t nodeid, const char *data, size_t size, off_t offset,
	      struct fuse_file_info *info)
{
	struct open_file *file = (struct open_file *)(uintptr_t)info->fh;
	struct mount *m = fuse_req_userdata(request);
	struct modify_scope scope = { .data = true, .offset = (uint64_t)offset, .length = size };
	enum sync_kind sync;
	struct call *call;

	if (info->writepage) {
		write_back_request(m, request, file, data, size, (uint64_t)offset);
		return;
	}
	if (op_refuse_change(request))
		return;
	COUNT(m, writes);
	call = op_call(request, nodeid, MESSAGE_write);
	if (!call)
		return;
	if (info->flags & O_DIRECT)
		call->direct = file;
	if (bulk_set(call, data, size) < 0) {
		note_direct(m, call);
		reply_error(m, call, ENOMEM);
		return;
	}
	call->lock_file = file->lock_number;
	call->message.write.handle = inode_handle(call->inode);
	call->message.write.offset = (uint64_t)offset;
	call->message.write.append = file->append || (info->flags & O_APPEND) != 0;
	if (fuse_req_ctx(request)->uid != 0) /* CAP_FSETID */
		call->message.write.flags = WRITE_KILL_SUID;
	sync = sync_of_flags(info->flags); /* the kernel's own write path syncs nothing */
	call->message.write.flags |= (uint8_t)(sync << WRITE_SYNC_SHIFT);
	call->durable = sync != SYNC_NONE;
	if (call->message.write.append) {
		scope.offset = 0; /* the origin chooses */
		scope.length = 0;
	}
	call_limit(call);
	modify_send(m, call, &scope, write_work);
}

/* ---- flush and fsync ---- */

void op_flush(fuse_req_t request, fuse_ino_t nodeid, struct fuse_file_info *info)
{
	struct open_file *file = (struct open_file *)(uintptr_t)info->fh;
	struct mount *m = fuse_req_userdata(request);
	bool lost;

	if (m->unopened) {
		fuse_reply_err(request, ENOSYS); /* nothing is written or locked; it does not ask again */
		return;
	}
	/* Writes are through before they are answered; what was lost since is told. */
	pthread_mutex_lock(&m->lock);
	lost = sync_take(file->inode, &file->seen);
	pthread_mutex_unlock(&m->lock);
	locks_flush(m, request, file, info->lock_owner, lost ? EIO : 0);
}

void op_fsync(fuse_req_t request, fuse_ino_t nodeid, int data_only, struct fuse_file_info *info)
{
	struct open_file *file = (struct open_file *)(uintptr_t)info->fh;
	struct mount *m = fuse_req_userdata(request);

	if (m->unopened)
		fuse_reply_err(request, ENOSYS);
	else
		sync_request(request, nodeid, data_only != 0, &file->seen);
}
