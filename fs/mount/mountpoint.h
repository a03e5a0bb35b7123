/*
 * mountpoint.h - mounts and unmounts, where the path of a mount point means something.
 *
 * A mount that another process asked for may be in another mount namespace: that of its guardian, which
 * stays there. What is asked about its mount point is asked in a thread that enters it for that time;
 * nothing of ours stays in it, so that it ends with those who are in it.
 *
 * Any thread, and without locks: it all may wait for the kernel.
 */
#ifndef FS_MOUNT_MOUNTPOINT_H
#define FS_MOUNT_MOUNTPOINT_H

#include <sys/types.h>

#include "fs/mount/state.h"

/* 0; or -errno, and one line in the log says why. */
int mountpoint_check(const struct mount_options *options) MUST_CHECK;
/* Mounts `fuse_fd` there. The same. */
int mountpoint_attach(const struct mount_options *options, int fuse_fd, bool read_only,
		      dev_t *ret_device) MUST_CHECK;

/* `device` is what is at the mount point: nobody unmounted it, or mounted over it. */
bool mountpoint_is(const struct mount_options *options, dev_t device);
/* The same two for a mount that may be elsewhere; unmount is umount2(2): 0 or -errno. */
bool mountpoint_is_here(const struct mount *m, dev_t device);
int mountpoint_unmount(const struct mount *m, int flags);

#endif
