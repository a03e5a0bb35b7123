/*
 * own_mounts.h - a mount namespace for a test program: what it mounts goes with it.
 *
 * A new namespace has copies of all mounts. Those of mount tests that run at the same time would
 * outlive their umount there, and their daemons wait for that: so they go first.
 */
#ifndef TESTS_UNIT_OWN_MOUNTS_H
#define TESTS_UNIT_OWN_MOUNTS_H

#include <mntent.h>
#include <sched.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>

/* False: not possible here. */
static inline bool own_mounts(void)
{
	struct mntent *entry;
	FILE *mounts;

	if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return false;
	mounts = setmntent("/proc/self/mounts", "r");
	if (!mounts)
		return false;
	while ((entry = getmntent(mounts)))
		if (strcmp(entry->mnt_type, "fuse.leasehold") == 0)
			(void)umount2(entry->mnt_dir, MNT_DETACH); /* it may be gone already */
	endmntent(mounts);
	return true;
}

#endif
