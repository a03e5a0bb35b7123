/*
 * member.h - one mount of a daemon, from the session to the end.
 *
 * Its thread starts it, waits until it is unmounted, and unwinds. Another may be told to stop it at any
 * time (member_stop); what that takes, it does in a thread of its own.
 */
#ifndef FS_MOUNT_MEMBER_H
#define FS_MOUNT_MEMBER_H

#include "fs/mount/daemon.h"

#define SESSION_WAIT_S 15

struct member {
	struct mount mount;
	struct daemon *daemon;
	struct member *next;          /* the daemon's */
	struct mount_options options; /* of one that was handed over; and what they point into */
	char *texts;
	char *tls_directory;          /* this origin's folder of certificates */
	int keys_fd;                  /* of one that was handed over: that folder; or -1 */
	int socket;                   /* to who asked for it; -1: this process did */
	char failure[512];            /* for him: why there is no mount */
	bool fuse_has_fd;             /* mount.fuse_fd is closed with mount.fuse */
	pthread_t thread;
	pthread_t *loops;

	/* Of what follows, between its thread, the loops, who stops it, and the daemon's main thread. */
	pthread_mutex_t lock;
	pthread_cond_t loops_ended;
	unsigned loop_count;          /* that are not joined */
	unsigned loops_running;
	bool cancelled;               /* to be stopped, before it was mounted */
	bool mounted;                 /* by mount(2), and not known to be unmounted */
	bool ready;                   /* whoever asked for it knows that it answers */
	bool stopping;                /* it is being unwound: nobody stops it any more */
	bool guardian_left;           /* mount.guardian is being ended, or was */
	bool has_stopper, stopper_done;
	pthread_t stopper;
	dev_t device;

	/* Between its thread and the daemon's main thread, under the daemon's lock. */
	struct instant end_by;        /* {0}: it is not ending */
	bool lost;                    /* daemon_give_up() */
	bool finished;                /* its thread is about to end */
	bool first;
	bool relayed;                 /* the socket is listened to for a STOP or the end of the other side */
	uint32_t number;              /* UINT32_MAX: none yet */
	int result;
};

/* Everything but -1 for descriptors is zero. NULL: no memory. */
struct member *member_create(struct daemon *d, const struct mount_options *options);
void member_destroy(struct member *mb);

/* The life of a member, in its own thread. `mb->result` says what came of it. */
void *member_main(void *member);
/* As by SIGTERM: unmounts, and when it is busy, drops what the kernel has first. Does not wait. */
void member_stop(struct member *mb);
/* mount(2) has succeeded, and it is not known to be unmounted. */
bool member_is_mounted(struct member *mb);
/* For the guardian the daemon is dead from now on. Does not wait. */
void member_abandon(struct member *mb);

/* https://HOST:PORT/EXPORT/DIRECTORY into its parts; -errno is said in the log. */
int member_parse_url(struct mount *m) MUST_CHECK;
/* Opens /dev/fuse as m->fuse_fd. The same. */
int member_open_fuse(struct mount *m) MUST_CHECK;

#endif
