/*
 * seal.h - what this host knows of seals (PROTOCOL.md 11).
 *
 * Seals are the origin's: it refuses what they forbid. A host needs to know of them for two things: to
 * refuse an open for writing that it answers by itself (inode->final, which is true for ever once it
 * is), and to serve bytes that can never change in a way that it could not take back (passthrough).
 */
#ifndef FS_MOUNT_SEAL_H
#define FS_MOUNT_SEAL_H

#include "fs/mount/inode.h"

/*
 * True: the bytes and the size of the regular file `inode` are final: no change of it, made after a seal
 * was taken away either, ever moves them, on this inode. What is cached of `*ret_change` (may be NULL),
 * if all of it is, is these bytes, and stays right for as long as somebody has the inode open or mapped:
 * whatever becomes of the lease, the session, the daemon, the origin. That is said of bytes only: names,
 * attributes and the right to open it stand under the lease as ever, or the seal's term (11.4). When other
 * attributes change, the lease's change moves on, and the cache may hold the same bytes again, in another
 * cache file.
 *
 * False: they are not, or it is not known now. It is known while attributes are that stand under a lease
 * at `now`. Under mount->lock.
 */
bool inode_sealed(struct mount *m, struct inode *inode, struct instant now,
		  struct change *ret_change);
/* "sealed", "final" (its bytes; it was sealed once), "no", or "unknown". Under mount->lock. */
const char *inode_seal_text(struct mount *m, struct inode *inode, struct instant now);

#endif
