/*
 * prefetch_private.h - what prefetch.c (what applications do, and the thread) and wishes.c (from wishes to
 * requests) share. Nobody else includes it.
 */
#ifndef FS_MOUNT_PREFETCH_PRIVATE_H
#define FS_MOUNT_PREFETCH_PRIVATE_H

#include <pthread.h>
#include <stdatomic.h>

#include "fs/mount/askers.h"
#include "fs/mount/prefetch.h"
#include "fs/mount/tracer.h"
#include "prefetch/bucket.h"
#include "prefetch/fetched.h"
#include "prefetch/predictors.h"
#include "prefetch/scheduler.h"

#define PREFETCH_INTENTS_MAX 64u
#define PREFETCH_SORTED_MAX  4u

struct record {
	struct access access;
	uint64_t who;
	char name[NAME_BYTES_MAX + 1];
};

struct prefetch_unit {
	enum { UNIT_FREE, UNIT_SENT, UNIT_ENDED } state;
	struct wish wish;     /* that it is for: of one file, or one listing */
	bool resume;          /* and that is wished again when this is here */
	bool listing;
	uint64_t nodeid;      /* whose bytes or listing; 0: a name's */
	uint64_t offset, length;
	uint64_t bytes;       /* counted */
	struct instant sent_at, ended_at;
	bool arrived;
	uint64_t child;       /* what the name led to */
	uint32_t child_type;
};

/* The entries of a listing by name. */
struct sorted {
	struct listing *listing; /* referenced; NULL: none */
	uint32_t *order;
};

struct prefetch {
	struct mount *m;
	pthread_t thread;
	bool started;
	pthread_mutex_t lock; /* last of all: nothing is taken under it; FUSE threads take it */
	pthread_cond_t wake;
	bool stop, sleeping;
	bool policies; /* changed */
	struct record ring[PREFETCH_RING];
	uint32_t first, count;
	uint64_t dropped, sent;
	uint32_t ended;
	struct scheduler scheduler;
	struct prefetch_unit units[PREFETCH_UNITS_MAX];
	atomic_bool demand;
	bool opens_wait;	/* there may be some: open_wait.h */
	struct instant opens_at; /* when they were looked at; the thread's */

	struct askers askers; /* has a lock of its own */
	struct tracer tracer; /* likewise */

	/* The thread's own; and the ledger, whose sums others look at, under a lock before that one. */
	pthread_mutex_t ledger_lock;
	struct ledger *ledger;
	struct fetched *fetched;
	struct predictors *predictors;
	struct intent intents[PREFETCH_INTENTS_MAX];
	struct buckets buckets;
	struct unasked *unasked;
	struct sorted sorted[PREFETCH_SORTED_MAX];
	uint32_t sorted_at;
};

/* Sends what may be sent now. True: there was something to do. The thread's. */
bool wishes_dispatch(struct prefetch *p);
/* At the end of the thread. */
void wishes_finish(struct prefetch *p);

#endif
