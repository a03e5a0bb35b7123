#include "fs/mount/write_back.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#include "fs/mount/bdi.h"
#include "fs/mount/bulk.h"
#include "fs/mount/modify.h"
#include "fs/mount/notifier.h"

#define MINOR_WAITS_FOR_WRITE_BACK 44
#define LOOK_MS 10
#define DIRTY_BYTES_MAX (4u << 20)

bool write_back_possible(struct fuse_conn_info *connection)
{
	return connection->proto_minor >= MINOR_WAITS_FOR_WRITE_BACK &&
	       (connection->capable & FUSE_CAP_DIRECT_IO_ALLOW_MMAP);
}

void write_back_limit(dev_t device)
{
	int r = bdi_set(device, "max_bytes", DIRTY_BYTES_MAX);

	if (r < 0)
		mount_log("info", "/sys/class/bdi: %s; recalls of files that are stored to through "
			  "mappings can take longer", strerror(-r));
}

void write_back_granted(struct mount *m, struct inode *inode, const struct call *call,
			uint64_t instance)
{
	holder_set_exclusive(m->holder, INODE_HANDLE(inode), instance);
	inode_live(inode)->stored.session = call->session;
	inode_live(inode)->stored.sequence = call->reply.recall_sequence;
	inode_live(inode)->stored.kept = false;
	if (!inode->live->stored.number)
		inode_live(inode)->stored.number = ++m->stored_last;
	calls_bind(m, inode);
}

void write_back_reclaimed(struct mount *m, const struct handle *handle, struct session_id session,
			  uint64_t sequence)
{
	struct inode *inode = inode_find(m, handle);

	if (!inode || !inode->live->stored.kept || holder_kept(m->holder, mount_now(), handle))
		return;
	/* While a recall that overtook the answer is being worked in, it writes back, too. */
	if (holder_exclusive(m->holder, mount_now(), handle) || inode->live->stored_drops > 0) {
		inode_live(inode)->stored.session = session;
		inode_live(inode)->stored.sequence = sequence;
		inode_live(inode)->stored.kept = false;
	} else {
		inode_live(inode)->stored = (struct stored_under){ .kept = false }; /* dropped by then */
	}
	calls_session_changed(m);
}

bool write_back_expected(struct mount *m, const struct inode *inode)
{
	if (inode->live->stored.session.value == 0)
		return false;
	if (inode->live->stored.kept)
		return holder_kept(m->holder, mount_now(), INODE_HANDLE(inode));
	return holder_valid(m->holder, mount_now()) &&
	       inode->live->stored.session.value == holder_session(m->holder).value;
}

uint64_t write_back_lease(struct mount *m, const struct inode *inode)
{
	if (inode->live->stored.kept || !write_back_expected(m, inode))
		return 0;
	return holder_exclusive(m->holder, mount_now(), INODE_HANDLE(inode));
}

static void lost(struct mount *m, struct inode *inode)
{
	COUNT(m, stores_lost);
	mount_log("warning", "inode %llu: stores through a mapping are lost with the lease that they "
		  "were made under; msync and fsync say EIO",
		  (unsigned long long)inode_heard(m, inode).inode);
}

static void told(struct mount *m, struct notifier_work *work)
{
	free(work);
}

/*
 * What was written back cleared set-user-ID bits, or capabilities of the file. The kernel does not
 * know, and would run it with them through a descriptor that it has. The answer to the write-back
 * cannot wait for it: the lane may be waiting for that.
 */
static void tell_of_mode(struct mount *m, struct inode *inode, uint32_t mode)
{
	struct notifier_work *work = NULL;

	pthread_mutex_lock(&m->lock);
	if (inode_heard_mode(m, inode) != mode)
		work = calloc(1, sizeof(*work));
	if (work) {
		work->done = told;
		inode_give_attributes(inode); /* the kernel has the bits, valid or not */
		if (notifier_collect(m, work, inode, false, 0, 0))
			notifier_push(m, LANE_MODIFY, work);
		else
			free(work);
	}
	pthread_mutex_unlock(&m->lock);
}

static void write_back_work(struct mount *m, struct call *call)
{
	struct inode *inode = call->inode;
	struct change before, after;
	struct answer answer;
	size_t size = call->bulk_length;
	fuse_req_t request;
	uint32_t mode;
	bool kept;

	pthread_mutex_lock(&m->lock);
	mode = inode_heard_mode(m, inode);
	pthread_mutex_unlock(&m->lock);
	kept = modify_end(m, call, &answer, &before, &after);
	answer_done(m, &answer);
	if (call->status == STATUS_OK)
		tell_of_mode(m, inode, mode);
	if (call->status == STATUS_NOLEASE || call->status == STATUS_NOSESSION)
		lost(m, inode);
	if (call->status != STATUS_OK) {
		reply_error(m, call, call_errno(call));
		return;
	}
	if (kept && inode->file) {
		cache_file_move(inode->file, before, after, call->message.write_back.offset,
				call->reply.count);
		(void)read_keep(m, inode, after, call->message.write_back.offset,
				(struct slice){ call->bulk, call->reply.count });
	}
	request = call_take_request(m, call);
	call_destroy(m, call);
	/* All of it: what lay behind the end of the file is nowhere. */
	if (request)
		fuse_reply_write(request, size);
}

void write_back_request(struct mount *m, fuse_req_t request, struct open_file *file,
			const char *data, size_t size, uint64_t offset)
{
	struct inode *inode = file->inode;
	struct stored_under under;
	struct call *call;
	bool expected;

	COUNT(m, requests);
	COUNT(m, writes_back);
	pthread_mutex_lock(&m->lock);
	expected = write_back_expected(m, inode);
	under = inode->live->stored;
	pthread_mutex_unlock(&m->lock);
	if (!expected) {
		lost(m, inode);
		fuse_reply_err(request, EIO);
		return;
	}
	call = call_new(m, request, MESSAGE_write_back);
	if (!call) {
		fuse_reply_err(request, ENOMEM);
		return;
	}
	call_set_inode(m, call, inode);
	if (bulk_set(call, data, size) < 0) {
		reply_error(m, call, ENOMEM);
		return;
	}
	call->bound = under.number;
	call->deadline_errno = EIO;
	/* The kernel writes it back as nobody in particular: it is who opened the file who stored. */
	call->message.common.credential = file->credential;
	call->message.write_back.handle = inode_handle(inode);
	call->message.write_back.offset = offset;
	call->message.write_back.lease_sequence = under.sequence;
	modify_send_ahead(m, call, write_back_work);
}

static void all_done(struct mount *m, struct notifier_work *work)
{
	free(work);
	atomic_fetch_sub(&m->writing_back, 1);
}

void write_back_all(struct mount *m, unsigned max_ms)
{
	struct inode *inode;
	size_t cursor = 0;

	pthread_mutex_lock(&m->lock);
	while ((inode = inode_next(m, &cursor))) {
		struct notifier_work *work = write_back_expected(m, inode) ?
						     calloc(1, sizeof(*work)) : NULL;

		if (!work)
			continue; /* what it has is lost, with an error */
		work->done = all_done;
		(void)notifier_collect(m, work, inode, true, 0, 0);
		atomic_fetch_add(&m->writing_back, 1);
		notifier_push(m, LANE_MODIFY, work);
	}
	pthread_mutex_unlock(&m->lock);
	for (unsigned ms = 0; atomic_load(&m->writing_back) && ms < max_ms; ms += LOOK_MS)
		(void)usleep(LOOK_MS * 1000);
}
