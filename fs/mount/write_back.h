/*
 * write_back.h - stores through shared mappings: what the kernel writes back of them.
 *
 * A descriptor that reads and writes may be mapped for writing, and the kernel tells nobody: neither
 * that it was mapped, nor of a store to a page that it has. So as long as one is open here
 * (inode->mappable), pages of the file enter the kernel only under the write lease (PROTOCOL.md 5.7),
 * whoever reads them: read_exclusive. read(2) and write(2) of such descriptors are DIRECT_IO and
 * bring no pages; only mappings do, and buffered readers of the same file.
 *
 * inode->stored is the lease under which there may be stores that the origin does not have, from the
 * grant until the kernel's pages were dropped for its recall. Under it, and until then:
 *   - write-back is sent to the origin, where it goes ahead of what recalled the lease;
 *   - a drop (notifier.c) waits for it: invalidating a dirty page writes it back;
 *   - nobody else sees our own modifications, which therefore need no invalidations around them. That of
 *     a size must have none: the kernel holds write-back until it is answered.
 * When the session is over, write-back is answered with EIO, also what is in flight (call->bound). But
 * where the origin was restarted the lease is kept (PROTOCOL.md 6.4): the pages stay, stores go on, and
 * write-back waits until the lease is reclaimed under the next session, or lost after all. No thread
 * waits with it but those that drop pages around our own modifications.
 *
 * The kernel must wait for write-back under way when it is told to drop a page, or a store of one lease
 * could arrive under the next: it does since protocol 7.44 (before, it wrote back copies). Where that
 * or mappings of DIRECT_IO descriptors are missing, mapping them for writing fails with ENODEV.
 */
#ifndef FS_MOUNT_WRITE_BACK_H
#define FS_MOUNT_WRITE_BACK_H

#include "fs/mount/inode.h"
#include "fs/mount/read.h"

/* The kernel can do it: decided once, when the connection is made. */
bool write_back_possible(struct fuse_conn_info *connection);

/*
 * Bounds what the kernel lets processes store before it writes back. A recall writes back page by page,
 * a round trip each, and has to be done within a third of the term. `device`: of the mount.
 */
void write_back_limit(dev_t device);

/* A page that the kernel writes back. Answers the request. */
void write_back_request(struct mount *m, fuse_req_t request, struct open_file *file,
			const char *data, size_t size, uint64_t offset);

/* An answer granted the write lease on `inode` as `instance`. Under the lock. */
void write_back_granted(struct mount *m, struct inode *inode, const struct call *call,
			uint64_t instance);
/* The write lease that was kept is reclaimed, by an answer of this sequence. Under the lock. */
void write_back_reclaimed(struct mount *m, const struct handle *handle, struct session_id session,
			  uint64_t sequence);
/* The instance of the write lease under which pages may enter the kernel, or 0. Under the lock. */
uint64_t write_back_lease(struct mount *m, const struct inode *inode);
/*
 * The mount is to end while files are mapped: has the kernel write back what was stored. Waits for it,
 * at most `max_ms`. Not for threads that requests or notifications need.
 */
void write_back_all(struct mount *m, unsigned max_ms);
/* There may be stores that the origin does not have, under a lease that stands or is kept. Under the lock. */
bool write_back_expected(struct mount *m, const struct inode *inode);

#endif
