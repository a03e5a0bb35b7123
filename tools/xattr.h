/*
 * xattr.h - what a mount says of itself and of its inodes through extended attributes.
 *
 * The attributes are answered by name and not listed. Any thread; everything returned belongs to
 * the caller.
 */
#ifndef TOOLS_XATTR_H
#define TOOLS_XATTR_H

#include "lease/base/types.h"

#define XATTR_PREFIX "user.leasehold."
/* Not answered by the mount but by the origin: SEAL_XATTR of lease/message.h. */
#define XATTR_SEAL "trusted.leasehold.seal"
#define XATTR_POLICY XATTR_PREFIX "policy" /* of a directory: likewise, POLICY_XATTR */
#define XATTR_DEAD "trusted.leasehold.dead"
#define XATTR_SILENT "trusted.leasehold.silent"

/*
 * The value of user.leasehold.NAME of what `path` leads to, terminated, to be freed. -ENODATA:
 * that inode has no such attribute (none has outside of a Leasehold mount); -ENOMEM, or what the
 * system said.
 */
int xattr_get(const char *path, const char *name, char **ret_value) MUST_CHECK;

/*
 * Whether `path` is on a Leasehold mount: 0; -ENODATA when it is not; else what the system said
 * (no such path, transport endpoint not connected).
 */
int xattr_is_leasehold(const char *path) MUST_CHECK;

/*
 * The mount point of the Leasehold mount that `path` is on, to be freed; -ENODATA: it is on none.
 * From the kernel's table of mounts: a question to the mount itself may wait for its origin.
 */
int xattr_mount_root(const char *path, char **ret_root) MUST_CHECK;

/* The status of the mount at mount point `root`, JSON, to be freed. Does not wait for its origin. */
int xattr_get_status(const char *root, char **ret_json) MUST_CHECK;

#endif
