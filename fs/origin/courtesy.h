/*
 * courtesy.h - tries for locks that were refused not long ago, so that hosts that try again and again
 * get their turn (PROTOCOL.md 10.7).
 *
 * A program that does not wait for a lock but tries it, sleeps and tries again (SQLite) only gets it
 * when a try falls into a gap of the others. The gaps of a host that has the file cached are shorter
 * than what anybody else's try takes to come here. So a try is held back for a moment when somebody
 * else, who was refused, could have the lock now: his next try comes first.
 *
 * Remembers, and nothing else: the caller holds requests back, and looks in the table of locks. Pure;
 * one caller at a time. Embedded by the service, all zero at first.
 */
#ifndef FS_ORIGIN_COURTESY_H
#define FS_ORIGIN_COURTESY_H

#include "lease/lock_table.h"

#define COURTESY_MAX 64u /* owners that are remembered; beyond, who was refused the longest ago goes */
#define COURTESY_MEMORY_MS 250u /* who has not come back by then is not waited for */
#define COURTESY_WAIT_MS 50u    /* for which a try is held back at most; SQLite sleeps for 25 */

/* An owner whose try was refused. */
struct courtesy_refusal {
	struct session_id session;
	struct lock_request request; /* of the latest try */
	struct instant since, latest;
};

struct courtesy {
	struct courtesy_refusal refusals[COURTESY_MAX];
	uint32_t count;
};

/* A try was refused: LOCKED. */
void courtesy_refused(struct courtesy *c, struct instant now, struct session_id session,
		      const struct lock_request *request);
/* A request was granted, or waits. Whoever wanted that much does not try any more. */
void courtesy_granted(struct courtesy *c, struct session_id session,
		      const struct lock_request *request);
/*
 * Who goes before this try, if he can have what he tried for: of another session, refused before
 * anybody of this one was, and in conflict with it. NULL: nobody (more). `previous`: the last one
 * that was returned, or NULL. Borrowed until the next change.
 */
const struct courtesy_refusal *courtesy_before(struct courtesy *c, struct instant now,
					       struct session_id session,
					       const struct lock_request *request,
					       const struct courtesy_refusal *previous);
/* All who go before this try were waited for long enough. */
void courtesy_forget(struct courtesy *c, struct instant now, struct session_id session,
		     const struct lock_request *request);

#endif
