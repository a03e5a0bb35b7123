/*
 * holder_locks.h - a host's side of advisory locks as a pure state machine (PROTOCOL.md 10).
 *
 * It knows what the origin has granted to this host's processes, what they ask for, and what they
 * wait for. The origin decides everything; here is kept what has to be reclaimed when the origin
 * restarts, and which descriptors have lost a lock. No I/O, clock or lock; each function takes the
 * time and appends to `out` what the caller must do, in order. One caller at a time.
 *
 * Requests about one inode go to the origin one after another, in the order in which they came: so
 * what this host believes and what the origin has are the same between two of them, and a lock that
 * is asked for after another's release is not refused for it.
 *
 *     set --> QUEUED --> SENT --> answered
 *                ^         +----> PATIENT --the end of what is in the way, or 200 ms--> QUEUED
 *                ^         +----> WAITING --offer--> QUEUED as a settle --> answered, SENT --> gone
 *                +-- the session was lost: asked again under the next one
 *
 * The state of the whole:
 *
 *   DOWN        no session: nothing is sent. What is held is in doubt.
 *   RECLAIMING  the origin is told what was held; what it does not confirm is lost.
 *   READY       what is held is held.
 *
 * Owners and files are numbers of the caller's. An owner of kind fcntl is a process or an open file
 * (the kernel does not say which), of kind flock the file itself. A file is one open description:
 * what was locked through it and lost makes it `lost` until it is released.
 */
#ifndef LEASE_HOLDER_LOCKS_H
#define LEASE_HOLDER_LOCKS_H

#include "lease/lock_table.h"
#include "lease/message.h"

struct holder_locks;

enum holder_lock_action_kind {
	/* Send `message` (lock, lock_test, lock_settle, lock_reclaim) under `session`, again and
	   again until it is answered; then holder_locks_answered() with `id`. Forget what belongs
	   to another session. */
	HOLDER_LOCKS_SEND,
	/* Answer request `token`: `status` (0, or a positive errno); of a test with what is in the
	   way (`range.type` LOCK_TYPE_NONE: nothing) and whether this host has it (`own`). */
	HOLDER_LOCKS_ANSWER,
	/* `file` lost a lock. */
	HOLDER_LOCKS_LOST,
	/* It is known what is held: what asked holder_locks_file() and got DOUBT may ask again. */
	HOLDER_LOCKS_SETTLED,
};

struct holder_lock_action {
	enum holder_lock_action_kind kind;
	struct session_id session;
	uint64_t id;
	uint64_t token;
	uint64_t file;
	int status;
	bool own;
	struct lock_range range;
	struct message message; /* borrows from the object until the next call of answered() */
};

struct holder_lock_actions {
	const struct allocator *allocator;
	struct holder_lock_action *items;
	size_t count, capacity;
};

void holder_lock_actions_init(struct holder_lock_actions *actions,
			      const struct allocator *allocator);
void holder_lock_actions_finish(struct holder_lock_actions *actions);

/* `request_max`: requests at a time; beyond it ENOLCK. */
int holder_locks_create(uint32_t request_max, const struct allocator *allocator, uint64_t seed,
			struct holder_locks **ret_locks) MUST_CHECK;
void holder_locks_destroy(struct holder_locks *l);

/*
 * ---- requests ----
 *
 * 0: `token` will be answered exactly once, by an action. A positive errno: answer it now, nothing
 * was done.
 */

/*
 * Locks, unlocks (range.type LOCK_TYPE_NONE) or converts for request->owner, through `file`.
 * request->waiter other than 0: wait for it.
 */
int holder_locks_set(struct holder_locks *l, struct instant now,
		     const struct lock_request *request, uint64_t file, uint64_t token,
		     struct holder_lock_actions *out) MUST_CHECK;
int holder_locks_test(struct holder_locks *l, struct instant now,
		      const struct lock_request *request, uint64_t token,
		      struct holder_lock_actions *out) MUST_CHECK;
/*
 * The process closed a descriptor of the inode, so it has no fcntl locks of it any more. True: the
 * request is answered when the origin has heard of it. False: there was nothing.
 */
bool holder_locks_close(struct holder_locks *l, struct instant now, const struct handle *handle,
			uint64_t owner, uint64_t token, struct holder_lock_actions *out);
/*
 * A process closed a descriptor of the file. If that was the last one, its release is on its way: the
 * kernel tells of it behind the back of who closed. A try that finds a lock of this file in its way
 * is patient: it waits for the release, 200 ms at most, and is made again. Until something is locked
 * through the file again.
 */
void holder_locks_flushed(struct holder_locks *l, uint64_t file);
/* The open description is gone, and what only it held with it. Nobody waits for that. */
void holder_locks_release(struct holder_locks *l, struct instant now, const struct handle *handle,
			  uint64_t file, struct holder_lock_actions *out);
/*
 * The caller of `token` got a signal. What waits for a lock, or was not sent yet, is answered with
 * EINTR; what is under way is answered by its outcome, unless the caller dies (`dies`).
 */
void holder_locks_interrupt(struct holder_locks *l, struct instant now, uint64_t token, bool dies,
			    struct holder_lock_actions *out);
/*
 * Answers with `error` what has waited for a session or its turn for `timeout`; not what waits for a
 * lock, and not what is under way: that ends with its session at the latest. A close is answered 0,
 * and after 5 s in any case.
 */
void holder_locks_expire(struct holder_locks *l, struct instant now, struct duration timeout,
			 int error, struct holder_lock_actions *out);

/* ---- the origin ---- */

/* Is anything held that would have to be reclaimed? For session_open. */
bool holder_locks_any(const struct holder_locks *l);
void holder_locks_session_opened(struct holder_locks *l, struct instant now,
				 struct session_id session, bool reclaim,
				 struct holder_lock_actions *out);
void holder_locks_session_lost(struct holder_locks *l, struct instant now,
			       struct holder_lock_actions *out);
/* The answer (lock_answer, acknowledged, lock_reclaimed) to `id` of `session`. */
void holder_locks_answered(struct holder_locks *l, struct instant now, struct session_id session,
			   uint64_t id, const struct message *answer,
			   struct holder_lock_actions *out);
/* lock_offer came on the stream of `session`. */
void holder_locks_offered(struct holder_locks *l, struct instant now, struct session_id session,
			  const struct message_lock_offer *offer, struct holder_lock_actions *out);
void holder_locks_tick(struct holder_locks *l, struct instant now, struct holder_lock_actions *out);
struct instant holder_locks_timer(const struct holder_locks *l);

/* ---- looking ---- */

/* READY: `reclaim` with `last` may be sent. */
bool holder_locks_ready(const struct holder_locks *l);

enum holder_lock_state {
	HOLDER_LOCK_GOOD,
	HOLDER_LOCK_DOUBT, /* it may have lost a lock: nothing is read or written until SETTLED */
	HOLDER_LOCK_LOST,  /* EIO */
};
enum holder_lock_state holder_locks_file(const struct holder_locks *l, const struct handle *handle,
					 uint64_t file);
struct holder_lock_counters {
	uint64_t requests, waiting; /* now */
	uint64_t lost, reclaimed;
};
void holder_locks_counters(const struct holder_locks *l,
			   struct holder_lock_counters *ret_counters);
/* Walks what is believed to be held: start with *cursor 0; false at the end. For checkers. */
bool holder_locks_next(const struct holder_locks *l, size_t *cursor,
		       struct lock_request *ret_held);
void holder_locks_check_invariants(const struct holder_locks *l);

#endif
