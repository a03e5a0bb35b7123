/*
 * elsewhere.h - a mount that the daemon serves which has the cache directory already (handover.h), from
 * the side of the command that asks for it.
 */
#ifndef FS_MOUNT_ELSEWHERE_H
#define FS_MOUNT_ELSEWHERE_H

#include "fs/mount/member.h"

/*
 * Hands `mb` over: it has its options, its guardian, and what is in its folder of keys. 0 with the
 * socket, when the mount answers: the guardian is the daemon's then. -EAGAIN: nobody listens there, or
 * one that is ending; ask again, or try to have the directory. Else -errno, which is said in the log,
 * and nothing is mounted.
 */
int elsewhere_mount(struct member *mb, int *ret_socket) MUST_CHECK;
/* Stays in front until the mount has ended: 0, or -errno (said). */
int elsewhere_wait(struct daemon *d, const struct member *mb, int socket) MUST_CHECK;

#endif
