/*
 * nodeids.h - which handles earlier mounts gave nodeids to, for file handles that outlive a mount.
 *
 * name_to_handle_at(2) on a mount, and so an NFS server that exports it, keeps the kernel's nodeid. A
 * nodeid is a hash of the inode's handle (inode.h) and the same in every mount, but the handle cannot
 * be computed from it. So at the end of a mount what it knew is written to a file in the cache
 * directory (`nodeids`, the space and the number of the mount), with what earlier mounts left, up to
 * NODEIDS_MAX; the next one reads it. What a daemon knew that was killed is not in it, and such a file
 * handle is stale.
 *
 * Loaded before the mount is served and not changed until it is saved: any thread may look.
 */
#ifndef FS_MOUNT_NODEIDS_H
#define FS_MOUNT_NODEIDS_H

#include "lease/base/types.h"

#define NODEIDS_MAX 262144u /* 64 bytes each, in memory and on disk */

struct mount;
struct nodeids;

/* From the cache directory of the mount; NULL when there is nothing, or nothing that can be read. */
struct nodeids *nodeids_load(const struct mount *m);
void nodeids_destroy(struct nodeids *n);
/* The handle that `nodeid` belongs to. NULL for `n` is fine. */
bool nodeids_find(const struct nodeids *n, uint64_t nodeid, struct handle *ret_handle);
/* Writes what the mount knows, at its end. What cannot be written costs stale file handles. */
void nodeids_save(struct mount *m);

#endif
