/*
 * handover.h - what a `leasehold mount` and the daemon that has its cache directory say to each other.
 *
 * The daemon listens on HANDOVER_SOCKET in the cache directory (0600; root and its own user only, each
 * side looks at whom it has before it). A command whose cache directory is in use connects there, and
 *
 *   command                                  daemon
 *   REQUEST: options; /dev/fuse, the
 *     guardian's parts, folder of keys  -->
 *                                       <--  ACCEPTED: who it is, its limits
 *                                       <--  ATTACH: there is a session; mount it
 *   ATTACHED: at this device            -->
 *                                       <--  SERVING: the kernel is being answered
 *   ANSWERS: it was looked at           -->
 *                                       <--  READY
 *   STOP: as by SIGTERM                 -->
 *                                       <--  ENDED
 *
 * Instead of what it would say, the daemon says FAILED with a line for the user. One that closes without
 * having said ACCEPTED is ending. A command that hangs up before READY has its mount undone; one that
 * stays in front, later too. mount(2) is the command's: it has the mount namespace of whoever asked.
 *
 * Both are the same program, in general: a message is a struct as it is in memory, and a request from
 * another version is refused. Nothing in it is trusted but by size: the other side is root.
 */
#ifndef FS_MOUNT_HANDOVER_H
#define FS_MOUNT_HANDOVER_H

#include "fs/mount/guardian.h"
#include "fs/mount/mount.h"

#define HANDOVER_SOCKET "socket"
#define HANDOVER_TEXT_MAX 512
#define HANDOVER_OPTIONS_MAX 49152
#define HANDOVER_FDS (1 + GUARDIAN_PARTS + 1)
/* How long a side that is to answer at once may take: it may have to wait for a processor. */
#define HANDOVER_ANSWER_S 20

enum handover_kind {
	HANDOVER_REQUEST = 1,
	HANDOVER_ACCEPTED,
	HANDOVER_ATTACH,
	HANDOVER_ATTACHED,
	HANDOVER_SERVING,
	HANDOVER_ANSWERS,
	HANDOVER_READY,
	HANDOVER_STOP,
	HANDOVER_ENDED,
	HANDOVER_FAILED,
};

struct handover {
	uint32_t magic; /* handover_send() sets it */
	uint32_t kind;
	int32_t error;     /* -errno; 0. Of ATTACHED, ANSWERS, ENDED, FAILED */
	int32_t process;   /* ACCEPTED: the daemon */
	uint64_t device;   /* ATTACHED */
	bool read_only;    /* ATTACH */
	bool gone;         /* ANSWERS, with an error: it was unmounted already */
	uint64_t cache_size, cache_files, cache_free, memory; /* ACCEPTED: as options */
	char text[HANDOVER_TEXT_MAX]; /* FAILED: ends with a zero */
};

/* Bytes of the options in `buffer`; -E2BIG. */
int handover_options_encode(const struct mount_options *options,
			    uint8_t buffer[HANDOVER_OPTIONS_MAX]) MUST_CHECK;
/*
 * Options, and in *ret_texts the memory that they point into, to be freed with free(). -EPROTO: not of
 * this version; -ENOMEM.
 */
int handover_options_decode(const uint8_t *bytes, size_t length, struct mount_options *ret_options,
			    char **ret_texts) MUST_CHECK;

/*
 * One message; `options` and descriptors go with a REQUEST only (fds: -1 for none, as the last). 0;
 * -EPIPE: hung up; -errno. Waits at most HANDOVER_ANSWER_S.
 */
int handover_send(int socket, const struct handover *message, const uint8_t *options,
		  size_t options_length, const int fds[HANDOVER_FDS]) MUST_CHECK;
/* A message that is nothing but its kind and an error. */
int handover_say(int socket, enum handover_kind kind, int error) MUST_CHECK;
/*
 * The next message. -ETIMEDOUT after `timeout_ms` (-1: none), -EPIPE: hung up, -EPROTO: it is none, or
 * not of `kind` or FAILED (kind 0: any).
 */
int handover_receive(int socket, enum handover_kind kind, int timeout_ms,
		     struct handover *ret_message) MUST_CHECK;
/* The REQUEST. Every descriptor of `ret_fds` that is not -1 is the caller's, also on failure. */
int handover_receive_request(int socket, struct mount_options *ret_options, char **ret_texts,
			     int ret_fds[HANDOVER_FDS]) MUST_CHECK;

/* Listens in the cache directory, in place of what a dead daemon left. The socket, or -errno. */
int handover_listen(const char *cache_directory) MUST_CHECK;
void handover_unlisten(const char *cache_directory, int socket);
/* The one who listens there; -ENOENT: nobody; -EBUSY: too many wait for it; -EPERM: another user. */
int handover_connect(const char *cache_directory, int *ret_process) MUST_CHECK;
/* The other side is root, or this process's user; `ret_process` may be NULL. */
bool handover_trusts(int socket, int *ret_process);

#endif
