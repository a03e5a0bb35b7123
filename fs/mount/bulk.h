/*
 * bulk.h - the data of a request that writes: from where the kernel put it to the call that sends it.
 *
 * A thread that serves the kernel receives a request into memory of its own. Where most of that is data,
 * the call keeps the memory instead of a copy, and the thread takes other memory for its next request:
 * what calls gave back, mostly, since a fresh MiB costs 256 page faults. Any thread; no lock.
 */
#ifndef FS_MOUNT_BULK_H
#define FS_MOUNT_BULK_H

#include "fs/mount/call.h"

/* Less is copied: it would hold memory for a whole request. */
#define BULK_KEEP_BYTES_MIN (512u << 10)

/* Before this thread receives a request of `m`: memory for it, or none, and then libfuse allocates it. */
void bulk_receive(struct mount *m, struct fuse_buf *buffer);
/* The call's data, a copy or in place: `data` may be part of what this thread received. 0, -ENOMEM. */
int bulk_set(struct call *call, const void *data, size_t length) MUST_CHECK;
/* The call has no data any more. */
void bulk_drop(struct mount *m, struct call *call);
/* No thread receives, and there are no calls. */
void bulk_finish(struct mount *m);

#endif
