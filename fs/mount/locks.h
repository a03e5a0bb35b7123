/*
 * locks.h - advisory locks of this host's processes: what the kernel asks goes to the holder_locks,
 * and what that wants is sent and answered (PROTOCOL.md 10).
 *
 * A request that waits for a lock occupies nothing but memory: no thread, and no call. Everything
 * here is called under mount->lock unless it says otherwise; replies to the kernel are queued and
 * written by locks_reply(), without it. All of it does nothing before locks_create().
 */
#ifndef FS_MOUNT_LOCKS_H
#define FS_MOUNT_LOCKS_H

#include "fs/mount/inode.h"
#include "lease/holder_locks.h"

struct open_file;

#define LOCK_REQUESTS_MAX 4096 /* of the kernel, at a time; beyond: ENOLCK */

int locks_create(struct mount *m) MUST_CHECK;
/* After the client was destroyed: nothing comes in any more. Without the lock. */
void locks_destroy(struct mount *m);

void locks_counters(const struct mount *m, struct holder_lock_counters *ret_counters);

/* ---- session.c ---- */

/* For session_open: locks are held. */
bool locks_any(const struct mount *m);
void locks_session_opened(struct mount *m, struct session_id session, bool reclaim);
void locks_session_lost(struct mount *m);
void locks_offered(struct mount *m, struct session_id session,
		   const struct message_lock_offer *offer);
/* What was held before is reclaimed, or lost. */
bool locks_ready(const struct mount *m);

/* ---- call.c ---- */

/* Interrupts, deadlines, repetitions, replies. Without the lock; by the ticker. */
void locks_tick(struct mount *m);
/* Writes the replies that are queued. Without the lock. */
void locks_reply(struct mount *m);
/* Every request fails, and every later one. Without the lock. */
void locks_shut(struct mount *m);

/* ---- descriptors ---- */

/* May this descriptor be read, written and truncated? `file` 0: nothing was locked through it. */
enum holder_lock_state locks_file(const struct mount *m, const struct handle *handle,
				  uint64_t file);
/* What locks_file() calls this descriptor; NULL: none. Without the lock. */
uint64_t locks_number(struct mount *m, const struct fuse_file_info *info);
/* A process closed a descriptor: answers `request` with `error`, at once or when its locks are gone.
   Without the lock. */
void locks_flush(struct mount *m, fuse_req_t request, const struct open_file *file, uint64_t owner,
		 int error);
/* Without the lock. */
void locks_release(struct mount *m, struct inode *inode, uint64_t file);

#endif
