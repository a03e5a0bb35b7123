/*
 * authority.h - the origin's side of the lease protocol as a pure state machine.
 *
 * The authority knows sessions, leases, registered opens, and the operations that are under way on
 * leased inodes. It does no I/O, reads no clock, takes no lock: each function takes the time,
 * changes the state, and appends to `out` what the caller (fs/origin, the simulator, a test) must
 * then do, in order. One caller at a time. The caller owns the struct; memory comes from the
 * allocator, and each function that needs some can return -ENOMEM having changed nothing.
 *
 * An operation (struct authority_op) is a modification, or a strict read (PROTOCOL.md 5.4). Its
 * life:
 *
 *     begin --> QUEUED --> DRAINING --> RUNNING --> finish
 *                 |           |            |
 *                 +-- cancel -+            +-- finish(retry): resolve the names again, begin again
 *
 *   QUEUED    waits its turn behind earlier operations on one of its inodes. Every operation takes
 *             its place in the queues of all its inodes in one step, so the order is total and no
 *             two can wait for each other (I2, I6).
 *   DRAINING  is first in all its queues. Grants on its inodes have stopped; recalls are out; it
 *             waits until each is acknowledged or its session has provably ended.
 *   RUNNING   AUTHORITY_RUN was issued: the caller applies it to the store, stamps the new change
 *             numbers, makes its grants with authority_grant(), then calls authority_finish().
 *
 * Plain (weak) reads are not operations: the caller reads the store under its own inode lock, and
 * then asks authority_grant() whether a lease may ride on the answer.
 *
 * Bounds (I7): see struct authority_config; what happens at each is said there.
 */
#ifndef LEASE_AUTHORITY_H
#define LEASE_AUTHORITY_H

#include "lease/base/allocator.h"
#include "lease/base/types.h"
#include "lease/lock_table.h"
#include "lease/message.h"

struct authority_config {
	struct duration term;        /* of a session; 30 s in production */
	uint32_t drift_ppm;          /* how far two clocks may drift apart; 1000 in production */
	struct duration margin;      /* added after term and drift before a session is ended */
	uint32_t session_count_max;  /* at it, session_open is refused with PUSHBACK */
	uint32_t slot_count_max;     /* per session */
	uint32_t lease_count_max;    /* per session; at it, the least recently granted is recalled */
	uint64_t lease_total_max;    /* of all sessions; at it, no grants */
	uint32_t operation_count_max; /* under way; at it, begin refuses with PUSHBACK */
	uint32_t open_count_max;     /* registered opens per session; at it, PUSHBACK */
	uint32_t lock_count_max;     /* locked ranges and waiting requests of a session; NOLOCK */
	uint64_t lock_total_max;     /* of all sessions; NOLOCK */
	uint32_t ended_count_max;    /* ended sessions whose slots are remembered (3.4) */
	struct duration backoff_min; /* of grants under write contention (5.5): 10 ms */
	struct duration backoff_max; /* 1 s */
	uint64_t epoch;              /* of this origin; grows with every start */
	uint64_t seed;               /* for session ids */
};

#define AUTHORITY_HOST_NAME_BYTES 128
#define AUTHORITY_SILENT_COUNT_MAX 4096

/*
 * PROTOCOL.md 11.4: a session that ended without its host having said that it gave everything up.
 * The host may go on with what is sealed, for the term of the seal from `renewed` on.
 */
struct authority_silent {
	struct session_id session;
	uint8_t host[16];
	uint64_t instance;
	struct instant renewed; /* when the origin last handled something that renewed it */
	char name[AUTHORITY_HOST_NAME_BYTES]; /* for people: what the host is called */
};

/* One session that the durable record of the previous run names (6.1). */
struct authority_previous {
	struct session_id session;
	uint8_t host[16];
};

enum authority_op_kind {
	AUTHORITY_MODIFY,
	AUTHORITY_READ_STRICT, /* one target; leads to a grant on it */
	AUTHORITY_ACQUIRE,     /* a strict read that leads to the write lease (5.7) */
};

#define AUTHORITY_TARGETS_MAX 4 /* rename: two directories, what moves, what is replaced */
#define AUTHORITY_NAMES_MAX 2

/*
 * The originator's own leases stay, but for this: in an operation with a RECALL_NAMES target, what
 * has scope RECALL_ALL is recalled from the originator as well, which may not know that the name
 * leads there (5.2).
 */
struct authority_target {
	struct handle handle;
	enum recall_scope scope;
	uint32_t name_count; /* with RECALL_NAMES */
	struct slice names[AUTHORITY_NAMES_MAX]; /* borrowed during the call */
};

struct authority_op {
	uint64_t id;               /* the caller's; unique among operations under way; not 0 */
	enum authority_op_kind kind;
	struct session_id session; /* whose request; 0: the origin itself noticed a change */
	uint32_t slot;             /* with sequence: at most once (3.3); MODIFY by a session only */
	uint64_t sequence;         /* 0: not in a slot; gaps are allowed, going back is not */
	/* MODIFY, one target: it was stored under the write lease, and is applied under the same
	   one or not at all (5.7); `lease_sequence` is that of the answer that granted it. */
	bool write_back;
	uint64_t lease_sequence;
	struct instant deadline;   /* after it a QUEUED or DRAINING operation is refused: DEADLINE */
	uint32_t target_count;     /* each inode at most once */
	struct authority_target targets[AUTHORITY_TARGETS_MAX];
};

enum authority_action_kind {
	/* Send `recall` to `session` on its stream, if it has one; it is repeated on reattach. */
	AUTHORITY_SEND_RECALL,
	/* Operation `op` may be applied now. */
	AUTHORITY_RUN,
	/* Operation `op` is over and was not applied: answer with `status`. Its slot number is
	   used up (a repetition is refused alike) unless `status` is PUSHBACK. */
	AUTHORITY_REFUSE,
	/* Operation `op` is a repetition of one that is done: answer with the reply that the
	   caller kept for (session, slot). `op` itself is over. */
	AUTHORITY_REPLAY,
	/* Operation `op` is a repetition of one under way, `other`: answer both when that is
	   done. `op` itself is over. */
	AUTHORITY_JOIN,
	/* `session` ended (expired, closed, superseded): close its stream, and remove it from the
	   durable record. Kept replies stay until AUTHORITY_SESSION_FORGOTTEN. */
	AUTHORITY_SESSION_ENDED,
	/* Nothing will refer to the slots of `session` any more: free its kept replies. */
	AUTHORITY_SESSION_FORGOTTEN,
	/* No session has `handle` open any more: an orphan of it can go. */
	AUTHORITY_UNUSED,
	/* Grace is over. */
	AUTHORITY_GRACE_ENDED,
	/* Send lock_offer (`status`, `waiter`) to `session` on its stream, if it has one; it is
	   repeated on reattach. */
	AUTHORITY_SEND_LOCK_OFFER,
};

struct authority_action {
	enum authority_action_kind kind;
	struct session_id session;
	uint64_t op;
	uint64_t other;
	uint64_t waiter;
	uint32_t slot;
	uint16_t status;
	struct handle handle;
	/* AUTHORITY_SEND_RECALL: */
	uint64_t recall_sequence;
	enum recall_scope scope;
	uint32_t name_count;
	uint8_t name_length[AUTHORITY_NAMES_MAX];
	uint8_t names[AUTHORITY_NAMES_MAX][NAME_BYTES_MAX];
};

/* A growing array; the caller empties it (count = 0) after it did what it says. */
struct authority_actions {
	const struct allocator *allocator;
	struct authority_action *items;
	size_t count;
	size_t capacity;
};

void authority_actions_init(struct authority_actions *actions, const struct allocator *allocator);
void authority_actions_finish(struct authority_actions *actions);

struct authority;

/*
 * Makes an authority. With `previous_count` > 0 (or `previous_unknown`: the record was unreadable)
 * it starts in grace, which lasts until every one of them has reclaimed and said so, or
 * `previous_term` (the longest promise ever made, margins included) has passed since `now`.
 * In grace no MODIFY runs, but under a write lease that was reclaimed, and nothing is granted except by
 * authority_reclaim(). 0 or -ENOMEM.
 */
int authority_create(const struct authority_config *config, const struct allocator *allocator,
		     struct instant now, const struct authority_previous *previous,
		     size_t previous_count, bool previous_unknown, struct duration previous_term,
		     struct authority **ret_authority) MUST_CHECK;
void authority_destroy(struct authority *a);
/*
 * A session of an earlier run, with what was recorded of its slots (PROTOCOL.md 3.5): it has ended,
 * and is remembered like any other that has (3.4). `sequences` has the last sequence that was
 * executed in each slot, 0: none; the caller has kept its reply. Called right after
 * authority_create(), the session that has ended first first; beyond the bound the oldest are
 * forgotten. 0, -EEXIST (it is known already), -ENOMEM.
 */
int authority_session_restore(struct authority *a, struct instant now, struct session_id session,
			      const uint8_t host[16], const uint64_t *sequences,
			      uint32_t slot_count, struct authority_actions *out) MUST_CHECK;

/* ---- sessions ---- */

/*
 * Opens a session for `host`. Its session `previous` (0: none) is ended first: the host has given
 * it up. A repetition (same host, instance and previous) is answered with the session that it
 * opened the first time. Other sessions of the host end by their term and not before: the host may
 * have taken an earlier answer and be using one. The caller records the session durably before it
 * answers.
 * Returns a status (STATUS_OK, STATUS_PUSHBACK, STATUS_NOMEM), -ENOMEM never.
 * `*ret_reclaim`: the host may reclaim what it held under `previous`; it must then send a reclaim
 * with `last` set, or grace waits for it in vain.
 */
uint16_t authority_session_open(struct authority *a, struct instant now, const uint8_t host[16],
				uint64_t instance, struct session_id previous, uint32_t slot_count,
				struct authority_actions *out, struct session_id *ret_session,
				uint32_t *ret_slot_count, bool *ret_reclaim);
/*
 * STATUS_OK: the term counts anew from `now`. STATUS_NOSESSION. STATUS_BUSY: not renewed, since a
 * recall has been out for a third of the term (I8); the host attaches its stream again, and asks
 * again soon.
 */
uint16_t authority_keepalive(struct authority *a, struct instant now, struct session_id session,
			     struct authority_actions *out, uint64_t *ret_recall_sequence);
/* The recall stream of `session` is connected (again): unacknowledged recalls are sent (again). */
uint16_t authority_stream_attached(struct authority *a, struct instant now,
				   struct session_id session, struct authority_actions *out);
uint16_t authority_session_close(struct authority *a, struct instant now,
				 struct session_id session, struct authority_actions *out);
/* True while the session may act. */
bool authority_session_alive(const struct authority *a, struct instant now,
			     struct session_id session);
/* Left of grace; 0: none. */
struct duration authority_grace(const struct authority *a, struct instant now);

/* ---- seals that outlive sessions (PROTOCOL.md 11.4) ---- */

/* What the host of `session` is called: for the list of those that are silent. */
void authority_session_name(struct authority *a, struct session_id session, const char *name);
/* A session of an earlier run. -ENOMEM: nothing was noted. */
int authority_silent_restore(struct authority *a, const struct authority_silent *silent) MUST_CHECK;
/* The same of hosts that nobody knows, up to `renewed`: beyond the bound, or of an unreadable record. */
void authority_silent_restore_unknown(struct authority *a, struct instant renewed);
/*
 * For how long hosts that do not answer may still rely on a seal of this term; 0: none does. Of what
 * is sealed and whose leases were given up: asked by a RUNNING unseal, it is the last word.
 */
struct duration authority_silent_wait(const struct authority *a, struct instant now,
				      struct duration term);
/* The same of a host whose lease was last renewed then; 0: it does not count any more. */
struct duration authority_silent_wait_of(const struct authority *a, struct instant renewed,
					 struct instant now, struct duration term);
/*
 * The one behind `at` (NULL: the first) of those that are silent; NULL: there are no more. Borrowed until
 * the authority is called for anything else.
 */
const struct authority_silent *authority_silent_next(const struct authority *a,
						     const struct authority_silent *at);
/* The latest of those that are counted together; 0: none. */
struct instant authority_silent_unknown(const struct authority *a);
/*
 * An administrator says that the hosts of this name that are silent are dead, or that those that nobody
 * knows are (NULL); returns how many.
 */
uint32_t authority_silent_forget(struct authority *a, const char *name);

/* ---- leases ---- */

/*
 * May a lease on `handle` ride on the answer to a request of `session`, whose content was just
 * read from the store under the caller's lock of that inode? `op` is the operation RUNNING under
 * which that was read or written, 0 for a weak read. Not while another modification drains or runs
 * on the inode, not while a recall of the session's lease is out, and for a lease that the session
 * does not hold yet also not in grace, not in back-off (unless `op` is a strict read), not at a
 * limit. Not while another session holds the write lease, which is granted only to an ACQUIRE when
 * nobody else holds any; what is returned is what the session then holds.
 * `*ret_recall_sequence` is always set (0 when there is no such session); read it together
 * with every answer, granted or not. An answer with several grants states the LOWEST of their
 * sequences. Never fails: what cannot be recorded is not granted.
 */
enum lease_kind authority_grant(struct authority *a, struct instant now, struct session_id session,
				const struct handle *handle, uint64_t op,
				struct authority_actions *out, uint64_t *ret_recall_sequence);
/*
 * The same for a reclaim: of LEASE_READ whose change the caller has proved to be current; of
 * LEASE_WRITE in grace only, by a session whose previous one is in the record (PROTOCOL.md 6.4).
 * `open`: register the inode as open. Not before the session has reclaimed the locks that it must
 * (authority_locks_expected()).
 */
bool authority_reclaim(struct authority *a, struct instant now, struct session_id session,
		       const struct handle *handle, enum lease_kind kind, bool open,
		       struct authority_actions *out);
/* `session` has reclaimed all that it will. */
void authority_reclaim_done(struct authority *a, struct instant now, struct session_id session,
			    struct authority_actions *out);
/* The host wants to give up its lease: answered by a recall to it (5.6). No-op without one. */
void authority_release(struct authority *a, struct instant now, struct session_id session,
		       const struct handle *handle, struct authority_actions *out);
/*
 * The host has dropped what recall `sequence` named. `open`: it has the inode open, register it.
 * `kept`: with RECALL_NAMES, it keeps the lease. Unknown sequences are ignored (a repetition).
 */
uint16_t authority_acknowledge(struct authority *a, struct instant now, struct session_id session,
			       uint64_t sequence, bool open, bool kept,
			       struct authority_actions *out);

/* ---- registered opens ---- */

uint16_t authority_open(struct authority *a, struct session_id session, const struct handle *handle);
/* `number`: of this close; one that was seen before, or is too old to tell, does nothing (3.3). */
void authority_close(struct authority *a, struct instant now, struct session_id session,
		     uint64_t number, const struct handle *handle,
		     struct authority_actions *out);
bool authority_is_open(const struct authority *a, const struct handle *handle);
/* Whether another session than this one may have bytes of it that the store lacks (5.7). */
bool authority_is_stored_elsewhere(const struct authority *a, struct session_id session,
				   const struct handle *handle);

/* ---- operations ---- */

/*
 * Starts `op` (copied). What becomes of it is told by actions, now or later: exactly one of
 * AUTHORITY_RUN, REFUSE, REPLAY, JOIN names it. 0 or -ENOMEM (then nothing was done).
 * A strict read by a session that still holds a lease on the inode, unacknowledged, runs at once:
 * what it fills is covered by that lease and dropped before its acknowledgement (5.4).
 */
int authority_begin(struct authority *a, struct instant now, const struct authority_op *op,
		    struct authority_actions *out) MUST_CHECK;
/*
 * Right before RUNNING `op` touches the store: false when its session has ended meanwhile, or a
 * newer request took its slot; the caller then finishes it with `retry` and answers NOSESSION
 * (3.3).
 */
bool authority_may_apply(const struct authority *a, struct instant now, uint64_t op);
/*
 * PROTOCOL.md 5.7: right after that, for a modification with one target. Begun by a session that
 * held the write lease, it waited for nobody, and may be applied only while that lease stands. The
 * answer holds as long as the caller has the inode locked: nobody else can read or modify it.
 */
enum authority_cover {
	COVER_NONE,   /* it took its place like any other */
	COVER_STANDS,
	COVER_GONE,   /* write_back: refuse it (NOLEASE); else finish with `retry`, begin again */
};
enum authority_cover authority_cover(const struct authority *a, uint64_t op);
/*
 * RUNNING `op` was applied (or failed with an error of the store, which is an outcome, too), or,
 * with `retry`, was not applied and leaves no trace in its slot. The next in its queues start.
 */
void authority_finish(struct authority *a, struct instant now, uint64_t op, bool retry,
		      struct authority_actions *out);
/* The requester went away: a QUEUED or DRAINING strict read is forgotten. Modifications go on. */
void authority_cancel(struct authority *a, struct instant now, uint64_t op,
		      struct authority_actions *out);

/* ---- advisory locks (PROTOCOL.md 10); lock_table.h says what they are ---- */

/*
 * Statuses as lock_table_set(), where it is closed in grace and until the end of grace is durable;
 * STATUS_NOSESSION.
 */
uint16_t authority_lock(struct authority *a, struct instant now, struct session_id session,
			uint64_t id, const struct lock_request *request,
			struct authority_actions *out);
/* True: *ret_range of *ret_session is in the way. */
bool authority_lock_test(struct authority *a, struct instant now, struct session_id session,
			 const struct lock_request *request, struct authority_actions *out,
			 struct lock_range *ret_range, struct session_id *ret_session);
uint16_t authority_lock_settle(struct authority *a, struct instant now, struct session_id session,
			       uint64_t waiter, bool take, struct authority_actions *out);
/*
 * Right after authority_session_open(), for a host that says that it held locks: true, it may
 * reclaim them, and must, before authority_reclaim_done(): if it has not said
 * authority_locks_reclaimed() by the end of grace, the session ends. False: they are lost.
 */
bool authority_locks_expected(struct authority *a, struct session_id session);
/* True: the claim stands. */
bool authority_lock_reclaim(struct authority *a, struct instant now, struct session_id session,
			    const struct lock_request *claim, struct authority_actions *out);
void authority_locks_reclaimed(struct authority *a, struct session_id session);
/*
 * The durable record and the locks of ended sessions (10.6). The caller takes the mark together
 * with the sessions for a new record, and reports it when that record is durable: locks of sessions
 * that had ended at the mark are free from then on. _pending: a record has to be written for that.
 */
uint64_t authority_record_mark(const struct authority *a);
void authority_recorded(struct authority *a, struct instant now, uint64_t mark,
			struct authority_actions *out);
bool authority_record_pending(const struct authority *a);
void authority_lock_counters(const struct authority *a, struct lock_counters *ret_counters);
/* For the simulator: lock_table_backs(). */
bool authority_lock_backs(const struct authority *a, struct session_id session,
			  const struct lock_request *what);

/* ---- time ---- */

/* Ends sessions, refuses late operations, ends grace. Call it when authority_timer() has come. */
void authority_tick(struct authority *a, struct instant now, struct authority_actions *out);
/* When the next tick is due; {UINT64_MAX}: never. */
struct instant authority_timer(const struct authority *a);

/* ---- looking ---- */

/* Any session holds a lease on `handle`. */
bool authority_is_leased(const struct authority *a, const struct handle *handle);
/*
 * Fills in up to `max` inodes that are leased, from `*cursor` (0: from the start), and moves it;
 * returns how many, 0 at the end. What comes or goes between two calls can make it leave one out.
 */
uint32_t authority_leased(const struct authority *a, size_t *cursor, struct handle *ret_handles,
			  uint32_t max);

struct authority_counters {
	uint64_t sessions, leases, opens, operations; /* now */
	uint64_t grants, grants_refused, recalls, recalls_expired, sessions_expired, operations_run,
		operations_refused, replays, pushbacks;
};
void authority_counters(const struct authority *a, struct authority_counters *ret_counters);
bool authority_holds(const struct authority *a, struct session_id session,
		     const struct handle *handle);
/* Aborts when a rule that must always hold does not; the simulator calls it after every step. */
void authority_check_invariants(const struct authority *a);

#endif
