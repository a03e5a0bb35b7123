/*
 * memory.h - the limit on the memory of the daemon (--memory).
 *
 * A thread looks at what the process has resident. Near the limit it sheds what only saves time:
 * inodes that nobody uses, in turn, with their leases, names and listings; the kernel is asked to
 * forget them (FUSE_NOTIFY_PRUNE; kernels before 6.18 know no such thing, and keep theirs), and what
 * was freed goes back to the system. Nothing is fetched ahead meanwhile. Requests are never refused
 * for memory: while it is short those that go to the origin wait a moment first.
 *
 * Any thread may ask; nothing here is called with the mount's lock held.
 */
#ifndef FS_MOUNT_MEMORY_H
#define FS_MOUNT_MEMORY_H

#include "fs/mount/state.h"

struct memory;

#define MEMORY_BYTES_MIN (UINT64_C(64) << 20)
/* Of the limit, for files that are only in the cache; each takes this much of it. */
#define MEMORY_CACHE_PART 2
#define MEMORY_CACHE_FILE_BYTES 256

/* Before the process has threads: fewer arenas of malloc, whose free memory is nobody else's. */
void memory_prepare(const struct mount_options *options);
/* Files that the cache may know: --cache-files, within the limit. */
uint64_t memory_cache_files(const struct mount_options *options);
/* Begins to look, when there is a limit. 0 or -errno. */
int memory_start(struct mount *m) MUST_CHECK;
/* Ends the thread; nobody waits any more. */
void memory_stop(struct mount *m);
/* When no other thread is left. */
void memory_free(struct mount *m);

/* It is short: what is not asked for is left. */
bool memory_is_short(const struct mount *m);
/* On a FUSE thread, before a request goes to the origin: waits while memory is short, not for long. */
void memory_wait(struct mount *m);
/* What the process has resident; 0: not known. */
uint64_t memory_resident(void);

#endif
