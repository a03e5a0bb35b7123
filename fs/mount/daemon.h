/*
 * daemon.h - the process that has a cache directory: its mounts, its signals, its end.
 *
 * A daemon has one cache and any number of mounts of it (members): the one that it was started for, and
 * those that other commands hand over (handover.h). Each member has a guardian, a session, a transport,
 * FUSE threads and an end of its own; they share the cache's caps and the log. The daemon ends after the
 * last of them. SIGTERM ends all.
 *
 * Nothing that goes wrong with one member ends the process as long as there are others: what cannot be
 * ended in time is left to its guardian (daemon_give_up), and its threads are left alone. The process
 * then exits when only such are left.
 */
#ifndef FS_MOUNT_DAEMON_H
#define FS_MOUNT_DAEMON_H

#include "fs/mount/state.h"

#define MEMBER_COUNT_MAX 64 /* some 20 threads and 60 descriptors each */

struct daemon;
struct member;

/*
 * Of a process that has no threads yet, and has forked the guardian: blocks the signals that end it, and
 * takes them in a thread. As long as nothing is mounted such a signal ends the process, at once.
 * `ready_pipe`: where whoever started it waits for a byte, 0 or an errno; -1: it is in front.
 */
int daemon_create(const struct mount_options *options, int ready_pipe, struct daemon **ret_daemon)
	MUST_CHECK;
/*
 * Serves `first`, which it owns from now on, and whoever asks for more, upon `cache`, until the last has
 * ended; closes the cache. What became of `first`: 0, -errno (said in the log).
 */
int daemon_run(struct daemon *d, struct member *first, struct cache *cache) MUST_CHECK;
/*
 * The other end: the daemon that has the cache directory serves the mount, and this process stays in
 * front until that ends. Signals are passed on to `socket`.
 */
void daemon_relay(struct daemon *d, int socket);
/* Whoever started the process hears what became of it (0 or -errno), once. False: he is gone. */
bool daemon_tell(struct daemon *d, int result);
/* The signal thread ends. */
void daemon_destroy(struct daemon *d);

/* ---- for members ---- */

struct cache *daemon_cache(const struct daemon *d);
const struct mount_options *daemon_options(const struct daemon *d);
/* The lowest number that no other member with this cache space has; it has it from now on. */
uint32_t daemon_number(struct daemon *d, struct member *mb);
unsigned daemon_member_count(struct daemon *d);
/* From now on it takes at most that long until the member has ended; else daemon_give_up(). */
void daemon_expect_end(struct daemon *d, struct member *mb, unsigned seconds);
/* It answers, and whoever asked for it knows. */
void daemon_member_ready(struct daemon *d, struct member *mb);
/* The last that its thread does. */
void daemon_member_ended(struct daemon *d, struct member *mb, int result);
/*
 * The member cannot be ended in good order. The process exits if no other member lives; else the guardian
 * takes over, and this returns.
 */
void daemon_give_up(struct daemon *d, struct member *mb);

#endif
