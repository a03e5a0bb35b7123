/*
 * ordered.h - a job of `leasehold prefetch --ordered`: a list is followed at the pace of who reads it.
 *
 * The files are asked for in the list's order, a window ahead of what was read (prefetch/pace.h), and
 * held in the cache by the mount until then (fs/mount/follow.h). The job only looks, with bounded memory
 * but for the list; threads look names up ahead of it, since each may take a round trip.
 */
#ifndef TOOLS_ORDERED_H
#define TOOLS_ORDERED_H

#include <signal.h>
#include <stdbool.h>

#include "lease/base/types.h"
#include "tools/job.h"

struct ordered {
	char *const *paths; /* absolute, in the mount at job->root */
	size_t count;
	uint64_t window;      /* bytes */
	uint64_t limit;	      /* bytes per second; 0: none */
	const char *priority; /* "low." or "high.", as in the attribute's name; "" */
	struct job *job;      /* counts are kept in it */
	volatile sig_atomic_t *stopped;
	bool (*came_back)(void);			      /* the mount is away: true when it is again */
	void (*complain)(const char *path, const char *why); /* counts it as failed, too */
	void (*show)(bool end);
};

/* Until all of it was read, or it is stopped. */
void ordered_run(const struct ordered *o);

#endif
