/*
 * read.h - READ: from the cache while the lease stands, else fetched; concurrent readers of one
 * range share one fetch.
 *
 * The kernel keeps the pages that a READ fills, so every READ is a page fill and needs a lease
 * that covers it (PROTOCOL.md 5.4): it is sent strict, and its answer is given to the kernel only
 *   - when a lease was granted with it, or the lease stands at the same change; or
 *   - while a recall of the inode is being worked in: it is acknowledged only after an
 *     invalidation that began after the last such answer (weak_fills). Of a file that may be mapped for
 *     writing only if that is of the write lease: else nobody could write back what is stored to it.
 * Otherwise it is sent again.
 */
#ifndef FS_MOUNT_READ_H
#define FS_MOUNT_READ_H

#include "fs/mount/call.h"
#include "fs/mount/inode.h"
#include "fs/mount/sync.h"

/* What an open descriptor knows about its reader. Lives as long as the descriptor. */
struct open_file {
	struct open_file *next, *previous; /* in mount->open_files */
	struct inode *inode; /* with a use */
	enum mode mode;
	struct mode_request request; /* what it was opened for */
	bool append;
	enum sync_kind sync; /* of what is modified through it */
	bool direct_failed; /* a write with O_DIRECT, since the last truncation: attributes.c */
	uint64_t lock_number; /* 0: nothing was ever locked through it (locks.h) */
	bool unflushed; /* closes of it are not told, but its end */
	struct sync_seen seen;
	bool mappable; /* it may be mapped for writing: write_back.h */
	struct credential credential; /* of who opened it */
	struct sequence sequence; /* of its own READs */
};

struct prefetch_unit;
struct reading;

/* `direct`: into the caller's memory, through no page of the kernel's. */
void read_request(struct mount *m, fuse_req_t request, struct open_file *file, uint64_t offset,
		  size_t size, bool direct);

/*
 * The same of a file whose opens are not told (--small). A page fill for which there is no slot of the
 * guardian's (pages.h) waits until some are given back.
 */
void read_unopened(struct mount *m, fuse_req_t request, uint64_t nodeid, uint64_t offset,
		   size_t size, bool direct);
/* Those that waited are looked at again. Without the lock. */
void read_release_slotless(struct mount *m);

/*
 * Fetches a range into the cache for who will read it; who reads it meanwhile waits for it. True when
 * it was sent. Without the lock.
 */
bool read_fetch_ahead(struct mount *m, struct inode *inode, const struct credential *credential,
		      uint64_t offset, size_t size) MUST_CHECK;
/* The same for prefetch.h, which hears of its end. */
bool read_fetch_for(struct mount *m, struct inode *inode, const struct credential *credential,
		    uint64_t offset, size_t size, struct prefetch_unit *unit) MUST_CHECK;
/* Where the fetches in flight that continue each other from `offset` on end. Under the lock. */
uint64_t read_fetched_to(const struct inode *inode, uint64_t offset);

/* Page fills that waited while the write lease was being given up go on. Without the lock. */
void read_release_held(struct mount *m, struct inode *inode);

/* Answers READs whose callers were killed. Called by the ticker of call.c. */
void read_interrupts(struct mount *m);

/*
 * Page-aligned ranges of the inode with page fills in flight, sorted and merged, at most `max`:
 * returns how many. `held`: only those that wait here. Under the lock. A page is taken for what the
 * kernel locks: up to 6.18, FUSE has no larger folios.
 */
struct busy_range {
	uint64_t start, end;
};
unsigned read_busy_ranges(const struct inode *inode, bool held, struct busy_range *ranges,
			  unsigned max);
#define READ_HELD_MAX 64 /* page fills of one inode that wait here; more are answered at once */

/*
 * A READ that no reader of the kernel's made: works its answer in, and keeps the bytes if they are
 * certain. Without the lock.
 */
void read_fetched(struct mount *m, struct call *call);
/* Such a READ: of [offset, offset + size), strict. */
void read_message(struct call *call, const struct handle *handle, uint64_t offset, size_t size);

/* Puts bytes of an answer into the cache, if the inode has a cache file: false when it did not take
   them. Without the lock. */
bool read_keep(struct mount *m, struct inode *inode, struct change change, uint64_t offset,
	       struct slice data);
/* The same for zeros, which take no room there. */
void read_keep_zeros(struct mount *m, struct inode *inode, struct change change, uint64_t offset,
		     uint64_t length);
/* The inode's cache file, opened when it is the first time. May do disk I/O; without the lock. */
struct cache_file *read_cache_file(struct mount *m, struct inode *inode);

#endif
