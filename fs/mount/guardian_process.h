/*
 * guardian_process.h - what the daemon's side and the guardian's side of guardian.h share.
 *
 * Only guardian.c and guardian_process.c include it. Both run the same binary, so the structs
 * need no codec.
 */
#ifndef FS_MOUNT_GUARDIAN_PROCESS_H
#define FS_MOUNT_GUARDIAN_PROCESS_H

#include <stdatomic.h>
#include <stdnoreturn.h>

#include "fs/mount/guardian.h"

/* In memory that both processes map. Nothing in it is ever locked. */
struct guardian_shared {
	_Atomic uint64_t deadline_ns; /* CLOCK_BOOTTIME; 0: no session */
	_Atomic uint32_t fenced;
	atomic_bool late; /* the guardian looks at intervals: a renewal wakes it */
	atomic_bool aborted;
	uint32_t slot_count;
	_Atomic uint64_t slots[]; /* nodeids; 0: free */
};

/* Over the socket, each answered by an int32_t: 0 or -errno. With each goes the daemon as it is now (it
   may have forked into the background) as a descriptor, and with GIVE then that of /dev/fuse. */
#define GUARDIAN_MESSAGE_FDS 2
enum guardian_message_kind { GUARDIAN_GIVE = 1, GUARDIAN_MOUNTED, GUARDIAN_STOP };
struct guardian_message {
	uint32_t kind;
	int32_t pid; /* of the daemon, to be named; in its own process namespace */
	uint64_t device;
	bool has_epoch;
};

/* The guardian's life, in the forked child. */
noreturn void guardian_process_run(const struct guardian_config *config,
				   struct guardian_shared *shared, int socket, int poke_fd);

#endif
