/*
 * sync.h - fsync, and what is told when the origin's store lost what was not synced.
 *
 * A write is acknowledged when the origin's kernel has it, and durable after fsync. An inode
 * remembers under which incarnation of the store its modifications were accepted since the last
 * fsync; when the store has another one now, its machine crashed in between, or a sync failed, and
 * they may be gone. Then every descriptor that was open hears EIO once, from fsync or from close,
 * and if there was none, the next one that is opened does. (Kernels do the same with their own
 * write errors: errseq_t.) So do descriptors of hosts that wrote nothing, from an fsync: its answer
 * says that a sync of this inode failed, and which incarnation followed.
 *
 * All under mount->lock, but for the operations.
 */
#ifndef FS_MOUNT_SYNC_H
#define FS_MOUNT_SYNC_H

#include "fs/mount/inode.h"

/* In a descriptor: the losses that it need not be told of any more. */
struct sync_seen {
	uint32_t lost_serial;
	uint64_t incarnation; /* of the store when it was opened, as far as this host knew */
};

void sync_opened(const struct mount *m, const struct inode *inode, struct sync_seen *ret_seen);
/* A modification of it was accepted. Before sync_heard() of that answer. */
void sync_modified(struct mount *m, struct inode *inode, uint64_t incarnation);
/* The store's incarnation as a new session tells it. */
void sync_session_opened(struct mount *m, uint64_t incarnation);
/* The same as any answer tells it; 0: it does not. */
void sync_heard(struct mount *m, uint64_t incarnation);
/* True when the descriptor has something to be told, which is now told. */
bool sync_take(struct inode *inode, struct sync_seen *seen);
/* What a write with these flags of open(2) asks for; the kernel adds those of pwritev2 and of a mount
   with `sync`. */
enum sync_kind sync_of_flags(int flags);
/* Answers an fsync. `seen` lives as long as the descriptor. */
void sync_request(fuse_req_t request, fuse_ino_t nodeid, bool data_only, struct sync_seen *seen);

#endif
