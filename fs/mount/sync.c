#include "fs/mount/sync.h"

#include <errno.h>
#include <fcntl.h>

#include "fs/mount/call.h"
#include "fs/mount/ops.h"
#include "fs/mount/reply.h"

/* Each loss once: the same one can be heard of in several answers. */
static void lost(struct inode *inode, uint64_t incarnation)
{
	if (incarnation && inode->live->lost_incarnation == incarnation)
		return;
	inode_live(inode)->lost_incarnation = incarnation;
	inode_live(inode)->lost_serial++;
	inode_live(inode)->lost_told = false;
}

void sync_opened(const struct mount *m, const struct inode *inode, struct sync_seen *ret_seen)
{
	bool untold = inode->live->lost_serial && !inode->live->lost_told;

	ret_seen->lost_serial = inode->live->lost_serial - (untold ? 1 : 0);
	ret_seen->incarnation = untold ? 0 : m->incarnation;
}

void sync_modified(struct mount *m, struct inode *inode, uint64_t incarnation)
{
	inode_live(inode)->write_serial++;
	if (incarnation && incarnation == m->incarnation_before)
		lost(inode, m->incarnation); /* it was heard of before the answer came */
	else if (inode->live->unsynced_incarnation == 0)
		inode_live(inode)->unsynced_incarnation = incarnation;
}

static void incarnation_is(struct mount *m, uint64_t incarnation, uint64_t before)
{
	struct inode *inode;
	size_t cursor = 0;

	m->incarnation_before = before;
	m->incarnation = incarnation;
	while ((inode = inode_next(m, &cursor))) {
		if (inode->live->unsynced_incarnation == 0 ||
		    inode->live->unsynced_incarnation == incarnation)
			continue;
		lost(inode, incarnation);
		inode_live(inode)->unsynced_incarnation = 0;
	}
}

void sync_session_opened(struct mount *m, uint64_t incarnation)
{
	if (incarnation != m->incarnation)
		incarnation_is(m, incarnation, m->incarnation);
}

void sync_heard(struct mount *m, uint64_t incarnation)
{
	/* Answers overtake each other: the one before comes once more. */
	if (incarnation && incarnation != m->incarnation && incarnation != m->incarnation_before)
		incarnation_is(m, incarnation, m->incarnation);
}

bool sync_take(struct inode *inode, struct sync_seen *seen)
{
	bool later = seen->lost_serial + 1 == inode->live->lost_serial && seen->incarnation &&
		     seen->incarnation == inode->live->lost_incarnation;

	if (seen->lost_serial == inode->live->lost_serial)
		return false;
	seen->lost_serial = inode->live->lost_serial;
	if (later)
		return false; /* opened after the loss, of which this host heard nothing */
	inode_live(inode)->lost_told = true;
	return true;
}

/* The store failed to write something back, and says so once. */
static bool is_write_error(uint16_t status)
{
	return status == STATUS_IO || status == STATUS_NOSPC || status == STATUS_DQUOT ||
	       status == STATUS_ROFS;
}

static void fsync_work(struct mount *m, struct call *call)
{
	struct inode *inode = call->inode;
	uint64_t incarnation = call->reply.incarnation, failed = call->reply.offset;
	bool told = false;

	pthread_mutex_lock(&m->lock);
	sync_heard(m, incarnation);
	if (call->status == STATUS_OK || is_write_error(call->status)) {
		if (failed)
			lost(inode, failed);
		else if (is_write_error(call->status))
			lost(inode, 0);
		if (inode->live->unsynced_incarnation != 0 &&
		    inode->live->unsynced_incarnation != incarnation)
			lost(inode, incarnation);
		/* What was answered meanwhile is not covered. */
		inode_live(inode)->unsynced_incarnation = call->write_serial == inode->live->write_serial ?
						      0 : incarnation;
	}
	/* With its caller waiting the descriptor is there. */
	if (call->request)
		told = sync_take(inode, call->context);
	pthread_mutex_unlock(&m->lock);
	reply_error(m, call, call->status != STATUS_OK ? call_errno(call) : told ? EIO : 0);
}

enum sync_kind sync_of_flags(int flags)
{
	if ((flags & O_SYNC) == O_SYNC)
		return SYNC_ALL;
	return flags & O_DSYNC ? SYNC_DATA : SYNC_NONE;
}

void sync_request(fuse_req_t request, fuse_ino_t nodeid, bool data_only, struct sync_seen *seen)
{
	struct call *call = op_call(request, nodeid, MESSAGE_fsync);

	if (!call)
		return;
	call->message.fsync.handle = inode_handle(call->inode);
	call->message.fsync.data_only = data_only;
	call->context = seen;
	call_send(fuse_req_userdata(request), call, fsync_work);
}
