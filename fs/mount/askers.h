/*
 * askers.h - on whose behalf a wish is, in the 64 bits that a wish has for it (scheduler.h).
 *
 * Mostly a user and a group. What somebody asked for himself is fetched with his supplementary groups, too;
 * credentials with such are kept in a table, which holds ASKERS_MAX: who asked longest ago goes, and what
 * is left of his wishes is fetched as nobody. Any thread; the lock is a leaf.
 */
#ifndef FS_MOUNT_ASKERS_H
#define FS_MOUNT_ASKERS_H

#include <pthread.h>

#include "lease/message.h"

#define ASKERS_MAX 64u

/* All zeros but the lock: none. */
struct askers {
	pthread_mutex_t lock;
	struct {
		uint32_t generation; /* 0: free */
		struct credential credential;
	} items[ASKERS_MAX];
	uint32_t next, generation;
};

/* Without supplementary groups. */
static inline uint64_t askers_user(uint32_t uid, uint32_t gid)
{
	return (uint64_t)uid << 32 | gid;
}

uint64_t askers_who(struct askers *a, const struct credential *credential);
struct credential askers_credential(struct askers *a, uint64_t who);

#endif
