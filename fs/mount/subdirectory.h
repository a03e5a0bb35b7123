/*
 * subdirectory.h - the directory below an export's root that is mounted in its place:
 * https://HOST:PORT/EXPORT/DIRECTORY/...
 */
#ifndef FS_MOUNT_SUBDIRECTORY_H
#define FS_MOUNT_SUBDIRECTORY_H

#include "fs/mount/call.h"

/*
 * Finds `path` ("a/b", as bytes: nothing in it is decoded) from `*root` on, and puts its node there. ""
 * is `*root` itself. Links are not followed, "." and ".." lead nowhere. Nothing is learned from the
 * answers, so the inode table may be empty still. Waits for the origin, as long as calls do.
 *
 * 0; or -errno, with one line for the user in `text`.
 */
int subdirectory_find(struct mount *m, const char *path, struct item_node *root, char *text,
		      size_t text_size) MUST_CHECK;

#endif
