/*
 * ahead.h - fetches ahead of a sequential reader, into the cache.
 *
 * Who reads in order gets a window: how far behind the latest READ everything is cached or under way,
 * so that as much is in flight as fits the link. It begins at AHEAD_BYTES_MIN, and doubles whenever the
 * reader has to wait, up to --read-ahead: who reads slower than the link brings keeps a small one.
 * Fetches are of at most BULK_BYTES_MAX and end where multiples of it do, so that readers of one file
 * share them.
 *
 * A descriptor has a window of its own. Several that read one file at a time (the ranks of a job that
 * load its weights) share the kernel's pages, so that each of them makes some of the READs, nearly in
 * order, and none of them all: so page fills have a window together, too.
 *
 * Only under a lease on the file (without one the answer could not be kept), and AHEAD_COUNT_MAX at a
 * time in a mount: then a reader gets what it asks for. The reader's own READ is sent first.
 */
#ifndef FS_MOUNT_AHEAD_H
#define FS_MOUNT_AHEAD_H

#include "fs/mount/read.h"

#define AHEAD_READS	2u /* in a row, before there is a window */
#define AHEAD_NEAR	BULK_BYTES_MAX /* of the end of the latest: still in order, for page fills together */
#define AHEAD_BYTES_MIN BULK_BYTES_MAX
#define AHEAD_COUNT_MAX 48u /* of BULK_BYTES_MAX: what they may take of the memory of both sides */
#define AHEAD_MISS	(128u << 10) /* with a READ that misses: before there is a window */

/* What a READ wants to be fetched behind it. */
struct ahead {
	struct inode *inode; /* with a use; NULL: nothing */
	struct credential credential;
	uint64_t start, end;
};

/* Counts a READ; `page`: it fills pages. The sequence that it is the latest of. Under the lock. */
struct sequence *ahead_count(struct open_file *file, uint64_t offset, size_t size, bool page);
/* Of a READ that was just counted in `sequence`, before it is answered. Without the lock. */
void ahead_plan(struct mount *m, struct open_file *file, struct sequence *sequence, uint64_t offset,
		size_t size, struct ahead *ret_ahead);
/* Sends it. The descriptor may be gone. Without the lock. */
void ahead_send(struct mount *m, struct ahead *ahead);

#endif
