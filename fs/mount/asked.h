/*
 * asked.h - what users ask to be fetched, through attributes of files and directories.
 *
 *   user.leasehold.prefetch          its state: "complete", "waiting", "no"; "unknown" (no lease now),
 *                                    "full" (no room in the cache), "off" (--prefetch=off)
 *   user.leasehold.prefetch.now      a file: all of it; a directory: its listing and the files in it
 *   user.leasehold.prefetch.A-B      bytes [A, B) of a file
 *   user.leasehold.prefetch.metadata the listing of a directory
 *   user.leasehold.prefetch.low.X    the same as prefetch.X, when nothing else waits; high: before others
 *   user.leasehold.prefetch.follow-J.A-B (also low.follow-J.A-B) the same as A-B for job J, that is ahead of
 *                                    a reader: the file is held, and the value "used" when it was read
 *   user.leasehold.prefetch.leave-J  the job is done with the file; of a directory: with everything
 *   user.leasehold.prefetch.worker-J the calling thread looks names up for job J
 *   user.leasehold.prefetch.cancel   not any more
 *   user.leasehold.evict             what is cached of a file goes
 *
 * Getting one of the latter acts, and says the state behind it: so whoever may read a file may do it, also
 * on a read-only mount. "asked" is said when it was not waiting and now is; "busy" when too much waits;
 * "refused" when a policy does not let it into the cache.
 * Any thread; without the lock.
 */
#ifndef FS_MOUNT_ASKED_H
#define FS_MOUNT_ASKED_H

#include "fs/mount/inode.h"
#include "fs/mount/state.h"

#define ASKED_XATTR "prefetch" /* behind user.leasehold. */
#define EVICT_XATTR "evict"

/* True when `name` (without user.leasehold.) is one of these. */
bool asked_is_xattr(const char *name);
/* The value, to be freed, on behalf of who asks. -ENODATA: there is no such name; -ENOMEM. */
int asked_get(struct mount *m, fuse_req_t request, struct inode *inode, const char *name,
	      char **ret_text) MUST_CHECK;
/* user.leasehold.prefetch is set to "now", "metadata" or "cancel". 0, -EINVAL, -ENOMEM, -EAGAIN,
   -EOPNOTSUPP. */
int asked_set(struct mount *m, fuse_req_t request, struct inode *inode, const char *value,
	      size_t length) MUST_CHECK;

#endif
