/*
 * follow.h - jobs that know in which order files will be read (leasehold prefetch --ordered).
 *
 * A job is a user's process elsewhere. It says which bytes it is going to need: that file is held in the
 * cache (pinned) for it, and what is missing is fetched like what others ask for (asked.h). It asks again
 * and again for the bytes that it is ahead of its reader, and hears which of them were read: the file was
 * closed by the last who had it open, or as many bytes were read of it. It says what it is done with, and
 * that goes first when there is no room.
 *
 * What is held is bounded by half of the cache, for all jobs together: beyond that nothing is held, nor
 * fetched for a job ("full") until it is done with something. A file that is larger is fetched and not
 * held. A job that is not heard of for FOLLOW_EXPIRES holds nothing any more.
 *
 * All but follow_access(): without the mount's lock, any thread; they do disk I/O.
 */
#ifndef FS_MOUNT_FOLLOW_H
#define FS_MOUNT_FOLLOW_H

#include <sys/types.h>

#include "fs/mount/inode.h"
#include "fs/mount/state.h"
#include "prefetch/access.h"

#define FOLLOW_JOBS_MAX	 32u
#define FOLLOW_HOLDS_MAX 4096u /* files */
#define FOLLOW_WORKERS_MAX 32u
#define FOLLOW_SHARE	 2u    /* of the cache, one in so many bytes */
#define FOLLOW_EXPIRES	 ((struct duration){ 30 * NS_PER_S })
#define FOLLOW_TRY	 ((struct duration){ 1 * NS_PER_S }) /* when there was no room */
#define FOLLOW_USES_MAX	 4096u /* files whose uses are remembered: the latest that were begun */

struct follow;

/* 0 or -ENOMEM. */
int follow_create(struct follow **ret_follow) MUST_CHECK;
/* Of the mount; nothing is held any more. */
void follow_destroy(struct mount *m);

/* An application did that. Under the mount's lock or not. */
void follow_access(struct mount *m, const struct access *access);
/* There are jobs: follow_tick() is to be called now and then. */
bool follow_is_active(const struct mount *m);
void follow_tick(struct mount *m);

/*
 * Job `number` of user `uid` needs the file up to `end`; it has `size` bytes. NULL: it is held, or is too
 * large for that. Else what is said to the job: "used", it was read that far since the job was done with it
 * last, or began; "full", no more can be held now; "busy", there are too many jobs.
 */
const char *follow_hold(struct mount *m, struct inode *inode, uint32_t uid, uint64_t number, uint64_t end,
			uint64_t size);
/* It is done with that file; NULL: with all, and ends. */
void follow_leave(struct mount *m, struct inode *inode, uint32_t uid, uint64_t number);

/* Thread `pid` looks names up for that job; FOLLOW_WORKERS_MAX of one are remembered. */
void follow_work(struct mount *m, uint32_t uid, uint64_t number, pid_t pid);

/* What a job's thread waits for, and a reader for what is held for him, is no demand that less should be
   fetched ahead for (scheduler.h): it is the job's own window. Under the mount's lock or not. */
bool follow_is_worker(struct mount *m, pid_t pid);
bool follow_is_held(struct mount *m, const struct inode *inode);

struct follow_counters {
	uint64_t jobs, files, bytes; /* bytes: the sizes of the files that are held */
};
void follow_counters(const struct mount *m, struct follow_counters *ret_counters);

#endif
