/*
 * prefetch.h - what will be read next is fetched before it is asked for (--prefetch).
 *
 * FUSE threads tell what applications do (a copy into a bounded ring, and dropped when that is full). One
 * thread of the mount takes it from there: the ledger and the predictors hear of it (prefetch/), their
 * wishes go to the scheduler, and what that lets through is sent: ranges, names with the bytes of small
 * files, listings with attributes. Each is a call like one of an application's, under the same
 * rules for leases, but that nobody waits for it; so what is fetched is as coherent as what was read, and
 * a recall on its way makes it void. On behalf of the user and group whose access made it a wish.
 *
 * Nothing here is waited for: not by applications, not at the end of a mount.
 */
#ifndef FS_MOUNT_PREFETCH_H
#define FS_MOUNT_PREFETCH_H

#include "fs/mount/inode.h"
#include "fs/mount/state.h"
#include "prefetch/access.h"
#include "prefetch/fetched.h"
#include "prefetch/intent.h"
#include "prefetch/ledger.h"

struct prefetch;
struct prefetch_unit;

#define PREFETCH_UNITS_MAX 128u			    /* requests under way */
#define PREFETCH_BYTES_MAX (UINT64_C(32) << 20)	    /* of them */
#define PREFETCH_RING	   2048u		    /* accesses that were not looked at yet */
#define PREFETCH_INODES_MAX (INODE_IDLE_COUNT_MAX / 2) /* known: more are not listed on a guess */

/* Begins, unless --prefetch=off. 0 or -errno. */
int prefetch_start(struct mount *m) MUST_CHECK;
/* No further request is sent. */
void prefetch_stop(struct mount *m);
/* When no call is left. */
void prefetch_free(struct mount *m);

/*
 * An application did that, on behalf of `request` (NULL: nobody's). Also under the lock; cheap. Which
 * inode: `inode` fills in the ids and, where the access has none, name and type.
 */
void prefetch_access(struct mount *m, fuse_req_t request, struct inode *inode,
		     const struct access *access);
/* A whole listing was taken in, whoever wanted it, on behalf of that user. Under the lock. */
void prefetch_listed(struct mount *m, struct inode *directory, const struct listing *listing,
		     const struct credential *credential);
/* Others changed it. Under the lock. */
void prefetch_recalled(struct mount *m, const struct inode *inode, const struct holder_action *action);
/* Policies changed. Under the lock. */
void prefetch_policies(struct mount *m);
/* An application waits for the origin: by that request, or for bytes of that file. Not what a job that
   follows a list does, nor its reader for what it holds (follow.h). Any thread. */
void prefetch_demand(struct mount *m, fuse_req_t request);
void prefetch_demand_for(struct mount *m, const struct inode *inode);

/* A user asks for it: false when too much was asked for already, or there is no prefetch (asked.h). */
bool prefetch_ask(struct mount *m, const struct intent *intent, const struct credential *credential);
/* The thread looks what there is to do. */
void prefetch_poke(struct mount *m);
/* Something that was asked for of these bytes, or this listing, waits or is under way. */
bool prefetch_asked(struct mount *m, uint64_t nodeid, uint64_t start, uint64_t end);
/* An open came to wait (open_wait.h). There is a prefetch. */
void prefetch_wake(struct mount *m);
/* What was asked for and was not sent yet is not. */
void prefetch_cancel(struct mount *m, uint64_t nodeid);

/* A request is over. `child`: what a name led to; NULL: nothing, or it was none. Without the lock. */
void prefetch_ended(struct mount *m, struct prefetch_unit *unit, bool arrived,
		    const struct inode *child);

/* What applications did since it was asked last, as text: see tracer.h. -EOPNOTSUPP: --prefetch=off. */
int prefetch_trace(struct mount *m, char *buffer, size_t size, size_t *ret_length) MUST_CHECK;

#define PREFETCH_ASKED_MAX 256u /* wishes of users that wait */

struct prefetch_counters {
	uint64_t waiting; /* wishes */
	uint64_t sent;    /* requests */
	uint64_t dropped; /* accesses and wishes for which there was no room */
	uint64_t bytes, window; /* under way; allowed while there is demand */
	struct ledger_counts predictors[PREDICTOR_COUNT];
};
/* False: there is none. */
bool prefetch_counters(struct mount *m, struct prefetch_counters *ret_counters);

/* What was fetched ahead of it last, on whose behalf. False: nothing that is remembered. */
bool prefetch_fetched(struct mount *m, uint64_t nodeid, struct fetched_facts *ret_facts);

#endif
