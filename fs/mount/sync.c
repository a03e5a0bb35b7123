#include "fs/mount/sync.h"

#include <errno.h>

#include "fs/mount/call.h"
#include "fs/mount/ops.h"
#include "fs/mount/reply.h"

static void lost(struct inode *inode)
{
	inode->lost_serial++;
	inode->lost_told = false;
}

void sync_opened(const struct inode *inode, struct sync_seen *ret_seen)
{
	bool untold = inode->lost_serial && !inode->lost_told;

	ret_seen->lost_serial = inode->lost_serial - (untold ? 1 : 0);
}

void sync_modified(struct inode *inode, uint64_t incarnation)
{
	inode->write_serial++;
	if (inode->unsynced_incarnation == 0)
		inode->unsynced_incarnation = incarnation;
}

void sync_session_opened(struct mount *m, uint64_t incarnation)
{
	struct inode *inode, *next;

	HASH_ITER(by_nodeid, m->inodes->by_nodeid, inode, next) {
		if (inode->unsynced_incarnation == 0 || inode->unsynced_incarnation == incarnation)
			continue;
		lost(inode);
		inode->unsynced_incarnation = 0;
	}
}

bool sync_take(struct inode *inode, struct sync_seen *seen)
{
	if (seen->lost_serial == inode->lost_serial)
		return false;
	seen->lost_serial = inode->lost_serial;
	inode->lost_told = true;
	return true;
}

/* The store failed to write something back, and says so once. */
static bool is_write_error(uint16_t status)
{
	return status == STATUS_IO || status == STATUS_NOSPC || status == STATUS_DQUOT;
}

static void fsync_work(struct mount *m, struct call *call)
{
	struct inode *inode = call->inode;
	bool told = false;

	pthread_mutex_lock(&m->lock);
	if (call->status == STATUS_OK || is_write_error(call->status)) {
		if (is_write_error(call->status) ||
		    (inode->unsynced_incarnation != 0 &&
		     inode->unsynced_incarnation != call->reply.incarnation))
			lost(inode);
		/* What was answered meanwhile is not covered. */
		inode->unsynced_incarnation = call->write_serial == inode->write_serial ?
						      0 : call->reply.incarnation;
	}
	/* With its caller waiting the descriptor is there. */
	if (call->request)
		told = sync_take(inode, call->context);
	pthread_mutex_unlock(&m->lock);
	reply_error(m, call, call->status != STATUS_OK ? call_errno(call) : told ? EIO : 0);
}

void sync_request(fuse_req_t request, fuse_ino_t nodeid, bool data_only, struct sync_seen *seen)
{
	struct call *call = op_call(request, nodeid, MESSAGE_fsync);

	if (!call)
		return;
	call->message.fsync.handle = call->inode->handle;
	call->message.fsync.data_only = data_only;
	call->context = seen;
	call_send(fuse_req_userdata(request), call, fsync_work);
}
