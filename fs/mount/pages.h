/*
 * pages.h - which inodes may have pages in the kernel: those with a slot at the guardian.
 *
 * Without one a file's pages would be dropped by nobody when the daemon cannot, so none come into the
 * kernel: its descriptors are DIRECT_IO, and what a mapping of one wants is refused. Slots are
 * PAGE_INODE_COUNT_MAX. When few are left, those of inodes that nobody has open are given back in
 * the background, their pages dropped first.
 */
#ifndef FS_MOUNT_PAGES_H
#define FS_MOUNT_PAGES_H

#include "fs/mount/inode.h"

/* `inode` may have pages from now on (inode->pages). False: all slots are in use. Under the lock. */
bool pages_allow(struct mount *m, struct inode *inode);
/* It has none, and can get none: all were invalidated, or the kernel has forgotten it. Under the lock. */
void pages_give_back(struct mount *m, struct inode *inode);
/*
 * A READ for pages asked for [offset, offset + length) of `size` bytes. When that is the whole file, the
 * kernel has all of it from then on (inode->live->pages_whole), unless it was short of memory, which nobody
 * is told. Under the lock.
 */
void pages_note_read(struct inode *inode, uint64_t offset, uint64_t length, uint64_t size);

#endif
