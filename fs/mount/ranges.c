#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <unistd.h>

#include "fs/mount/inode.h"
#include "fs/mount/locks.h"
#include "fs/mount/modify.h"
#include "fs/mount/ops.h"
#include "fs/mount/read.h"
#include "fs/mount/reply.h"

#define COPY_BYTES_MAX (1u << 30) /* the kernel takes a 32-bit count, of whole pages if it is cut */

/* ---- fallocate ---- */

static void range_failed(struct mount *m, struct call *call)
{
	reply_error(m, call, call->status == STATUS_OK ? EIO : call_errno(call));
}

static void range_done(struct mount *m, struct call *call)
{
	reply_error(m, call, 0);
}

static void fallocate_work(struct mount *m, struct call *call)
{
	const struct message_fallocate *message = &call->message.fallocate;
	struct change before, after;
	struct answer answer;
	bool kept = modify_end(m, call, &answer, &before, &after);

	answer_done(m, &answer);
	if (call->status != STATUS_OK) {
		/* It may have been done in part: pages filled meanwhile go. */
		modify_settle(m, call, 0, 0, range_failed);
		return;
	}
	if (kept && call->inode->file)
		cache_file_move(call->inode->file, before, after, call->offset, call->size);
	modify_settle(m, call, message->offset, 0, range_done);
}

void op_fallocate(fuse_req_t request, fuse_ino_t nodeid, int mode, off_t offset, off_t length,
		  struct fuse_file_info *info)
{
	static const struct {
		int kernel;
		uint32_t wire;
	} modes[] = {
		{ FALLOC_FL_KEEP_SIZE, FALLOCATE_KEEP_SIZE },
		{ FALLOC_FL_PUNCH_HOLE, FALLOCATE_PUNCH_HOLE },
		{ FALLOC_FL_ZERO_RANGE, FALLOCATE_ZERO_RANGE },
	};
	struct open_file *file = (struct open_file *)(uintptr_t)info->fh;
	struct mount *m = fuse_req_userdata(request);
	struct modify_scope scope = { .data = true, .offset = (uint64_t)offset };
	struct call *call;

	if (op_refuse_change(request))
		return;
	call = op_call(request, nodeid, MESSAGE_fallocate);
	if (!call)
		return;
	for (unsigned i = 0; i < sizeof(modes) / sizeof(modes[0]); i++) {
		if (mode & modes[i].kernel)
			call->message.fallocate.mode |= modes[i].wire;
		mode &= ~modes[i].kernel;
	}
	if (mode) {
		reply_error(m, call, EOPNOTSUPP);
		return;
	}
	call->message.fallocate.mode |= (uint32_t)file->sync << FALLOCATE_SYNC_SHIFT;
	call->durable = file->sync != SYNC_NONE;
	call->offset = (uint64_t)offset;
	call->size = (size_t)length;
	call->lock_file = locks_number(m, info);
	call->message.fallocate.handle = inode_handle(call->inode);
	call->message.fallocate.offset = (uint64_t)offset;
	call->message.fallocate.length = (uint64_t)length;
	call_limit(call);
	modify_send(m, call, &scope, fallocate_work);
}

/* ---- seek ---- */

static void seek_work(struct mount *m, struct call *call)
{
	uint64_t offset = call->reply.offset;
	struct answer answer;
	fuse_req_t request;

	if (call->status != STATUS_OK) {
		reply_error(m, call, call_errno(call));
		return;
	}
	pthread_mutex_lock(&m->lock);
	answer_work_in(m, call, NULL, NULL, &answer);
	pthread_mutex_unlock(&m->lock);
	answer_done(m, &answer);
	request = call_take_request(m, call);
	call_destroy(m, call);
	if (request)
		fuse_reply_lseek(request, (off_t)offset);
}

/* Where holes are only the origin knows; the kernel asks for nothing else. */
void op_lseek(fuse_req_t request, fuse_ino_t nodeid, off_t offset, int whence,
	      struct fuse_file_info *info)
{
	struct mount *m = fuse_req_userdata(request);
	struct call *call;

	if (whence != SEEK_DATA && whence != SEEK_HOLE) {
		fuse_reply_err(request, EINVAL);
		return;
	}
	if (offset < 0) {
		fuse_reply_err(request, ENXIO);
		return;
	}
	call = op_call(request, nodeid, MESSAGE_seek);
	if (!call)
		return;
	call_limit(call); /* under the inode's lock */
	call->lock_file = locks_number(m, info);
	call->message.seek.handle = inode_handle(call->inode);
	call->message.seek.offset = (uint64_t)offset;
	call->message.seek.hole = whence == SEEK_HOLE;
	call_send(m, call, seek_work);
}

/* ---- copies ---- */

static void copy_work(struct mount *m, struct call *call)
{
	struct change before, after;
	struct answer answer;
	bool kept = modify_end(m, call, &answer, &before, &after);

	answer_done(m, &answer);
	if (call->status != STATUS_OK || call->reply.count > call->size) {
		modify_settle(m, call, 0, 0, range_failed);
		return;
	}
	if (kept && call->inode->file)
		cache_file_move(call->inode->file, before, after, call->offset, call->reply.count);
	modify_settle(m, call, call->offset, call->reply.count, reply_count);
}

/* Done at the origin: no byte comes here. The call's inode is the one that is modified. */
void op_copy_file_range(fuse_req_t request, fuse_ino_t from, off_t from_offset,
			struct fuse_file_info *from_info, fuse_ino_t to, off_t offset,
			struct fuse_file_info *info, size_t length, int flags)
{
	struct open_file *file = (struct open_file *)(uintptr_t)info->fh;
	struct mount *m = fuse_req_userdata(request);
	struct modify_scope scope = { .data = true, .offset = (uint64_t)offset };
	struct inode *source;
	struct call *call;

	if (op_refuse_change(request))
		return;
	if (flags) {
		fuse_reply_err(request, EINVAL);
		return;
	}
	call = op_call(request, to, MESSAGE_copy_range);
	if (!call)
		return;
	pthread_mutex_lock(&m->lock);
	source = inode_by_nodeid(m, from);
	if (source)
		call->message.copy_range.source = inode_handle(source);
	pthread_mutex_unlock(&m->lock);
	if (!source) {
		reply_error(m, call, ESTALE);
		return;
	}
	call->offset = (uint64_t)offset;
	call->size = length < COPY_BYTES_MAX ? length : COPY_BYTES_MAX;
	scope.length = call->size;
	call->lock_file = locks_number(m, info);
	call->source_lock_file = locks_number(m, from_info);
	call->message.copy_range.source_offset = (uint64_t)from_offset;
	call->message.copy_range.handle = inode_handle(call->inode);
	call->message.copy_range.offset = (uint64_t)offset;
	call->message.copy_range.length = call->size | (uint64_t)file->sync << COPY_SYNC_SHIFT;
	call->durable = file->sync != SYNC_NONE;
	call_limit(call);
	modify_send(m, call, &scope, copy_work);
}
