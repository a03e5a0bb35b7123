/*
 * lock_table.h - the advisory locks of all hosts, and who waits for which, as a pure state machine
 * (PROTOCOL.md 10).
 *
 * Owned by the authority, which says when a session begins and ends, and takes what must be sent.
 * No I/O, clock or lock; one caller at a time.
 *
 * An owner is (session, kind, number): the number is the host's, one for each process (fcntl), open
 * file (OFD, which comes as fcntl) or descriptor (flock). Locks of different kinds do not see each
 * other, as on Linux. What is compatible with what is held is granted at once, though others wait:
 * so does Linux. Of those that wait, the first that can is served first.
 *
 * A request that has to wait:
 *
 *     WAITING --> OFFERED --settle(take)--> held
 *        |  |        +------settle(no)----> gone
 *        |  +---> REFUSED (a deadlock came about) --settle--> gone
 *        +--settle(no)--> gone
 *
 *   OFFERED excludes others like a lock that is held, but does not touch what its owner holds: it is
 *   the host that says when it takes it, in the order of its other requests, so both sides have the
 *   same locks at every moment between two of them. Offers are repeated until they are settled.
 *
 * What a session holds when it ends goes on excluding others until lock_table_release(): its end
 * must be durable before anybody gets a conflicting lock (10.6).
 */
#ifndef LEASE_LOCK_TABLE_H
#define LEASE_LOCK_TABLE_H

#include "lease/base/list.h"
#include "lease/base/lock_set.h"
#include "lease/base/map.h"

enum lock_kind {
	LOCK_KIND_FCNTL = 0, /* ranges; deadlocks are found */
	LOCK_KIND_FLOCK = 1, /* of the whole file; converting may lose the lock, as flock(2) says */
	LOCK_KINDS,
};

/* Requests of a session under way at a time, for recognising repetitions. */
#define LOCK_WINDOW 64u

struct lock_limits {
	uint32_t session_max;  /* ranges held and requests waiting, of one session; then NOLOCK */
	uint64_t total_max;    /* of all */
};

struct lock_request {
	struct handle handle;
	enum lock_kind kind;
	uint64_t owner;
	struct lock_range range;
	uint64_t waiter; /* of the session, never used twice; 0: do not wait */
};

struct lock_table;

int lock_table_create(const struct lock_limits *limits, const struct allocator *allocator,
		      uint64_t seed, struct lock_table **ret_table) MUST_CHECK;
void lock_table_destroy(struct lock_table *t);

/*
 * Locks or unlocks. `id` numbers the session's requests, from 1: a repetition gets the first answer
 * and changes nothing, and one that is LOCK_WINDOW or more behind is refused SUPERSEDED.
 * STATUS_OK; STATUS_LOCKED (somebody else's lock is in the way; for flock: and what the owner had
 * of the file is gone); STATUS_LOCKWAITS (it waits: an offer follows); STATUS_DEADLOCK,
 * STATUS_NOLOCK (a limit, or no memory), STATUS_INVAL: nothing changed; STATUS_NOMEM: this could not
 * even be noted, and it is to be repeated. `closed`: no new locks now, they are answered PUSHBACK,
 * and what still wants one sends a new request.
 */
uint16_t lock_table_set(struct lock_table *t, struct instant now, struct session_id session,
			uint64_t id, const struct lock_request *request, bool closed);
/*
 * What keeps `request` from being granted: true, with one such range and its session.
 */
bool lock_table_test(const struct lock_table *t, struct session_id session,
		     const struct lock_request *request, struct lock_range *ret_range,
		     struct session_id *ret_session);
/* Ends the wait of `waiter`; `take`: what it was offered is held now. Unknown ones are ignored. */
void lock_table_settle(struct lock_table *t, struct instant now, struct session_id session,
		       uint64_t waiter, bool take);
/*
 * What the owner held before a restart of the origin, `grant`: if nobody else's is in the way.
 * Otherwise only: does it hold that? (A repetition may come late.)
 */
bool lock_table_reclaim(struct lock_table *t, struct session_id session,
			const struct lock_request *claim, bool grant);

/*
 * The session ended: nobody of it waits any more, and what it held is free once
 * lock_table_release() is called with `mark` or more. Marks do not decrease from call to call.
 */
void lock_table_end(struct lock_table *t, struct instant now, struct session_id session,
		    uint64_t mark);
void lock_table_release(struct lock_table *t, struct instant now, uint64_t mark);
/* Does an ended session still keep others from what it held? */
bool lock_table_has_ended(const struct lock_table *t);

/* The next offer (or refusal: `status`) that has to be sent; false: none. It counts as sent. */
bool lock_table_offer(struct lock_table *t, struct session_id *ret_session, uint64_t *ret_waiter,
		      uint16_t *ret_status);
/* Peeks: is there one? */
bool lock_table_has_offer(const struct lock_table *t);
/* The session's stream is connected (again): all that it has not settled is sent (again). */
void lock_table_resend(struct lock_table *t, struct session_id session);
/* Since when the oldest offer of the session is out; {UINT64_MAX}: none is. */
struct instant lock_table_offered_since(const struct lock_table *t, struct session_id session);

struct lock_counters {
	uint64_t held, waiting, offered; /* now */
	uint64_t deadlocks, refused;     /* ever; refused: at a limit */
};
void lock_table_counters(const struct lock_table *t, struct lock_counters *ret_counters);
/* Does the session hold all of this? */
bool lock_table_holds(const struct lock_table *t, struct session_id session,
		      const struct lock_request *what);
/* Is the first byte of it held by, or offered to, this owner? For the simulator. */
bool lock_table_backs(const struct lock_table *t, struct session_id session,
		      const struct lock_request *what);
void lock_table_check_invariants(const struct lock_table *t);

#endif
