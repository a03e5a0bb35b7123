/*
 * status.h - what a user sees of a mount: our own xattrs, and the status as JSON.
 */
#ifndef FS_MOUNT_STATUS_H
#define FS_MOUNT_STATUS_H

#include "fs/mount/inode.h"
#include "fs/mount/state.h"

/*
 * The status of the mount is to be had without the origin. Before it asks for an attribute user.*,
 * the kernel asks for the inode's own attributes, to know who may read it; for system.* it leaves
 * that to the file system. Anyone may ask, as for what /proc/mounts says.
 */
#define STATUS_XATTR "system.leasehold.status"

/*
 * The value of user.leasehold.NAME of an inode (`name` without the prefix) into *ret_text, which
 * the caller frees. -ENODATA for a name that we do not have. Without the lock.
 *
 *   cached   bytes of the file in this host's cache at the change that its lease stands at
 *   ranges   which: "0-4096,8192-12288", end excluded
 *   lease    "read 27.3s", the kind and the time it is good for without a renewal; "none"
 *   change   "incarnation.counter" that the lease stands at; "unknown"
 *   rules    what policies say of it: rules_text()
 *   policy   the same, of what has none of its own (xattr.c)
 *   version  of the program
 *   status   the mount's status as JSON (on any inode)
 */
int status_xattr(struct mount *m, struct inode *inode, const char *name, char **ret_text);

#endif
