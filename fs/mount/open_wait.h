/*
 * open_wait.h - opens that wait until all of their file is cached (leasehold-policy(5), wait=open).
 *
 * What is complete can be read, and mapped, in the fastest way from the start (mode.h). Such an open asks
 * for all of the file as a user would (asked.h), and is a struct in a list of the mount's until it has
 * come: no thread waits. The thread of prefetch.h looks at the list, and answers an open
 *   - when the file is complete;
 *   - with EINTR, when its caller is killed;
 *   - with what there is, and a line in the log, when nothing more comes: its lease is recalled, the cache
 *     has no room for it, or nothing came for OPEN_WAIT_STALL.
 * With --prefetch=off, with --small, or when OPEN_WAIT_COUNT_MAX wait already, none does.
 */
#ifndef FS_MOUNT_OPEN_WAIT_H
#define FS_MOUNT_OPEN_WAIT_H

#include "fs/mount/inode.h"
#include "fs/mount/state.h"

#define OPEN_WAIT_COUNT_MAX 256u /* of a mount */
#define OPEN_WAIT_STALL	    ((struct duration){ 30 * NS_PER_S })
#define OPEN_WAIT_ASKS_MAX  4u /* of what failed and did not get further */

/* True: the open, which was counted, waits, and is answered with data_open_answer(). Without the lock. */
bool open_wait(struct mount *m, fuse_req_t request, struct inode *inode,
	       const struct credential *credential, const struct fuse_file_info *info);
/* Answers those whose time it is. True: others wait. The thread's; without the lock. */
bool open_wait_look(struct mount *m);
/* Answers all with ENOTCONN: the mount ends, and the thread has. */
void open_wait_end(struct mount *m);

#endif
