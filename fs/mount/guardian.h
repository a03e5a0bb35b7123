/*
 * guardian.h - the small process that ends what the kernel still answers when the daemon cannot.
 *
 * After SIGSTOP or SIGKILL of a daemon the kernel goes on serving names, attributes and, without
 * any bound, pages and mappings (measured). The guardian is forked before the mount, holds a
 * duplicate of /dev/fuse, and shares memory with the daemon: the deadline of the session, and the
 * nodeids of inodes that may have pages in the kernel. When the deadline passes without renewal,
 * or the daemon dies, it
 *   1. invalidates names (epoch) and the attributes and pages of every listed inode,
 *   2. once the daemon is dead, or an invalidation has not returned within `abort_after`, or
 *      requests have waited that long past the deadline: aborts the connection, which ends every
 *      waiter (ENOTCONN, SIGBUS in mappings), and invalidates what is left,
 *   3. exits, since nothing can come into the kernel's caches any more. The mount stays: a job
 *      must not write into the directory below.
 * A daemon that was only stopped and comes back in time goes on; one that was aborted exits.
 *
 * The guardian allocates nothing after its start, takes no lock that the daemon can hold, and
 * ignores SIGINT, SIGTERM, SIGHUP. Each slot of the shared table is an
 * atomic nodeid: the daemon fills a slot *before* it lets pages of the inode into the kernel.
 */
#ifndef FS_MOUNT_GUARDIAN_H
#define FS_MOUNT_GUARDIAN_H

#include "lease/base/types.h"

struct guardian;

struct guardian_config {
	uint32_t inode_count_max;   /* inodes with pages in the kernel at a time; see guardian_add */
	struct duration abort_after; /* how long an invalidation or a request may hang: 2 s */
	const char *mountpoint;     /* absolute */
	bool log_to_stderr; /* false: to syslog */
	int log_fd;         /* > 0: what its standard error is to be, a log file */
};

/* Forks the guardian. Call it before threads are made. 0 or -errno. */
int guardian_start(const struct guardian_config *config, struct guardian **ret_guardian) MUST_CHECK;
/* Hands the /dev/fuse descriptor over (a duplicate is sent); right after it was opened. */
int guardian_give(struct guardian *g, int fuse_fd) MUST_CHECK;
/*
 * The mount is up (its device number, for the abort). Also tells which invalidations the kernel
 * has. Before this nothing is guarded. It and guardian_give() are called by the process that
 * serves, which may have forked into the background since guardian_start().
 */
int guardian_mounted(struct guardian *g, uint64_t device, bool has_epoch) MUST_CHECK;

/* The session is valid until `deadline`. Lock-free, any thread. {0}: no session: nothing in the
   kernel is under a lease, so there is nothing to fence (the daemon has dropped it all). A daemon
   whose session ends must say so: one that merely lets the deadline pass counts as stopped, and
   its waiters end in an abort. */
void guardian_renew(struct guardian *g, struct instant deadline);
/*
 * The inode may have pages in the kernel from now on. Returns its slot, or -ENOSPC: the table is
 * full, and the inode must get no pages (pages.h). Any thread. Idempotence is the
 * caller's (one slot an inode).
 */
int guardian_add(struct guardian *g, uint64_t nodeid);
/* Slots that are free, and that there are. Any thread. */
uint32_t guardian_room(struct guardian *g);
uint32_t guardian_room_max(const struct guardian *g);
/* All pages of it were invalidated and no new ones can come. */
void guardian_remove(struct guardian *g, int slot);

/* The guardian has fenced at least once since the start (the daemon was late): a counter. */
uint32_t guardian_fenced(const struct guardian *g);
/* True: it aborted the connection; the daemon must exit. */
bool guardian_aborted(const struct guardian *g);
/* It is dead: nobody fences any more when the daemon cannot. */
bool guardian_gone(const struct guardian *g);
/*
 * The daemon that is to serve the mount is another process, maybe in other namespaces: it gets these
 * descriptors, makes a guardian of them, and the one who forked it lets go with guardian_release(). The
 * guardian stays in the mount namespace of who forked it. Of the descriptors, adopt takes what it needs
 * in any case; -EINVAL: they are none.
 */
#define GUARDIAN_PARTS 4
void guardian_parts(const struct guardian *g, int ret_fds[GUARDIAN_PARTS]);
int guardian_adopt(const int fds[GUARDIAN_PARTS], struct guardian **ret_guardian) MUST_CHECK;
void guardian_release(struct guardian *g);
/* A descriptor of the process, borrowed: by it, its namespaces can be entered. */
int guardian_process(const struct guardian *g);
/* This mount cannot be ended in good order: for the guardian the daemon is dead from now on. */
void guardian_abandon(struct guardian *g);
/* Before a clean unmount: the guardian ends without fencing; waits for it, at most 5 s. */
void guardian_stop(struct guardian *g);

#endif
