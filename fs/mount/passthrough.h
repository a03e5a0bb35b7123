/*
 * passthrough.h - sealed files that the kernel reads from the cache by itself.
 *
 * mode.h says when; here is what it takes: the probe, the registration of a cache file with the
 * kernel (a backing file), and the cache file that stays pinned while it is registered.
 *
 * The kernel looks a backing file's number up after our answer to the open, so the number lives
 * until the last RELEASE; the descriptor is closed at once (the kernel holds the file). Backing files
 * lie on a plain file system (stack depth 0), so that an overlay fits on top of the mount.
 *
 * What is read so goes on when the daemon or its guardian dies, when the session is lost, and, of a
 * mapping, after the last close: passthrough is for bytes that never change.
 */
#ifndef FS_MOUNT_PASSTHROUGH_H
#define FS_MOUNT_PASSTHROUGH_H

#include "fs/mount/inode.h"

/* Before the mount, in INIT: asks the kernel for it, when the user and the cache allow it. */
void passthrough_negotiate(struct mount *m, struct fuse_conn_info *connection);
/* After it: tries it, and says once in the log what there is. */
void passthrough_probe(struct mount *m);
/* Why there is none, for the user; NULL: there is. */
const char *passthrough_lack(const struct mount *m);

/* Its bytes are final, as a lease that stands says, or said when it was opened so. Under the lock. */
bool passthrough_sealed(struct mount *m, struct inode *inode);

/*
 * An open is answered in two steps, since a registration is a system call.
 *
 * _prepare, without the lock: registers the cache file, if it looks as if the open were served so and
 * all of the inode is cached; else `*ret_backing` is empty.
 * _answer, under the lock: decides (mode_open), and moves the backing file into the inode if that was
 * the decision. What is left in `*backing` goes with _drop, without the lock.
 * _release, under the lock: counts the descriptor out; what comes out goes with _drop.
 */
void passthrough_prepare(struct mount *m, struct inode *inode, struct mode_request request,
			 struct backing *ret_backing);
struct mode_answer passthrough_answer(struct mount *m, struct inode *inode,
				      struct mode_request request, struct backing *backing);
void passthrough_release(struct inode *inode, enum mode mode, struct mode_request request,
			 struct backing *ret_backing);
void passthrough_drop(struct mount *m, struct backing *backing);

/* `user.leasehold.mode` of a regular file; NULL: no memory. Without the lock. */
char *passthrough_mode_text(struct mount *m, struct inode *inode);

#endif
