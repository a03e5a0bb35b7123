/*
 * holder.h - a host's side of the lease protocol as a pure state machine.
 *
 * The holder knows the session with the origin, the leases held under it, and which grants in
 * flight a recall has overtaken. It does not hold what is cached (fs/mount and fs/cache do): it
 * answers whether that may be used, and says when it must be dropped. No I/O, clock or lock; each
 * function takes the time and appends to `out` what the caller must do, in order. One caller at a
 * time.
 *
 * States of the session:
 *
 *     NONE ----connect----> OPENING ----session_opened----> ACTIVE ----tick: term over----> NONE
 *      ^                      |   ^                            |
 *      +---- open failed -----+   +------- session_lost -------+
 *
 *   NONE, OPENING  no lease stands; leases held before are remembered as candidates for reclaim.
 *   ACTIVE         leases stand while holder_valid(); the keep-alive renews them all (O(1)).
 *
 * A lease is an *instance*: the same inode given up and granted again is another instance, but one
 * that is reclaimed after its session was lost is the same one again. What is
 * cached in memory is tagged with the instance under which it was learned, and is good exactly
 * while holder_lease() returns that instance; what is cached on disk is tagged with the change.
 */
#ifndef LEASE_HOLDER_H
#define LEASE_HOLDER_H

#include "lease/base/allocator.h"
#include "lease/base/types.h"
#include "lease/message.h"

struct holder_config {
	struct duration fence_margin; /* the time that fencing the kernel's caches takes (I1) */
	uint32_t lease_count_max;     /* at it, the least recently used is released */
	uint32_t recall_window_max;   /* recalls remembered for I3; at it, all grants in flight are void */
	uint32_t retry_min_ms;        /* between attempts to open a session or stream */
	uint32_t retry_max_ms;
};

enum holder_state { HOLDER_NONE, HOLDER_OPENING, HOLDER_ACTIVE };

enum holder_action_kind {
	/* Send session_open with `session` as the previous one (0: none), then call
	   holder_session_opened() or holder_session_failed(). */
	HOLDER_SEND_SESSION_OPEN,
	/* Open the recall stream of `session`; then holder_stream_attached() or _lost(). Until it
	   is attached no grant is accepted. */
	HOLDER_OPEN_STREAM,
	/* Send keepalive for `session`; then holder_kept_alive() or holder_keepalive_failed(). */
	HOLDER_SEND_KEEPALIVE,
	/* Send the acknowledgement of recall `sequence`, with `open` and `kept`; repeat it until it
	   was answered (a repetition does no harm). */
	HOLDER_SEND_ACKNOWLEDGE,
	/* Send lease_release for `handle`. */
	HOLDER_SEND_RELEASE,
	/* Ask to reclaim (`handle`, `change`, `open` to be filled by the caller); in bulk. They
	   come in batches, once the stream is attached. `kept`: it is the write lease. */
	HOLDER_SEND_RECLAIM,
	/* All reclaims are out: send the last one with `last` set. */
	HOLDER_SEND_RECLAIM_DONE,
	/* Drop what the kernel and memory hold of `handle` as `scope` and names say, finish or fail
	   what is in flight on it, then call holder_dropped() with `sequence`. From here on
	   holder_lease() already says that it is gone. */
	HOLDER_DROP,
	/* The session is over: no lease stands. Drop everything from the kernel's caches but pages
	   under what holder_kept() names, and only then do what follows in `out`: opening the next
	   session lets others' changes go on. */
	HOLDER_DROP_ALL,
	/* The write lease on `handle` that was kept is lost, with all that was stored under it: drop
	   the pages. HOLDER_SEND_RECLAIM_DONE may be in `out` behind it, and waits for that. */
	HOLDER_LOST,
	/* The session is ACTIVE, valid until `until`: tell the guardian. */
	HOLDER_RENEWED,
};

struct holder_action {
	enum holder_action_kind kind;
	struct session_id session;
	uint64_t sequence;
	struct handle handle;
	struct change change;
	struct instant until;
	enum recall_scope scope;
	bool open;
	bool kept; /* of an acknowledgement, or a reclaim */
	uint32_t name_count;
	uint8_t name_length[2];
	uint8_t names[2][NAME_BYTES_MAX];
};

struct holder_actions {
	const struct allocator *allocator;
	struct holder_action *items;
	size_t count;
	size_t capacity;
};

void holder_actions_init(struct holder_actions *actions, const struct allocator *allocator);
void holder_actions_finish(struct holder_actions *actions);

struct holder;

int holder_create(const struct holder_config *config, const struct allocator *allocator,
		  uint64_t seed, struct holder **ret_holder) MUST_CHECK;
void holder_destroy(struct holder *h);

/* ---- session ---- */

void holder_connect(struct holder *h, struct instant now, struct holder_actions *out);
/*
 * The answer to session_open, sent at `sent` (read before it was sent: I1). A status other than OK
 * counts as failed.
 */
void holder_session_opened(struct holder *h, struct instant now, struct instant sent,
			   const struct message_session_opened *answer, struct holder_actions *out);
void holder_session_failed(struct holder *h, struct instant now, struct holder_actions *out);
void holder_stream_attached(struct holder *h, struct instant now, struct session_id session,
			    struct holder_actions *out);
/* The stream opened last broke: it is opened again after a back-off; leases stand until their term.
   Not for a stream that the caller closed itself to open another. */
void holder_stream_lost(struct holder *h, struct instant now, struct session_id session,
			struct holder_actions *out);
void holder_kept_alive(struct holder *h, struct instant now, struct instant sent,
		       struct session_id session, const struct message_kept_alive *answer,
		       struct holder_actions *out);
void holder_keepalive_failed(struct holder *h, struct instant now, struct session_id session,
			     struct holder_actions *out);
/* The host gives `session` up: the machine was suspended (I1), it has no memory: ends it here. */
void holder_session_lost(struct holder *h, struct instant now, struct session_id session,
			 struct holder_actions *out);
/* An answer said NOSESSION for `session`: the same, but write leases are kept (PROTOCOL.md 6.4). */
void holder_session_refused(struct holder *h, struct instant now, struct session_id session,
			    struct holder_actions *out);
/*
 * The answer to a reclaim of (handle, change). Of a write lease: if it is confirmed and a recall has
 * overtaken it, there is no HOLDER_LOST; what was stored goes to the origin before that recall is
 * acknowledged. `change` {0,0}: the lease was confirmed, at another change.
 */
void holder_reclaimed(struct holder *h, struct instant now, struct session_id session,
		      uint64_t stamp, uint64_t recall_sequence, const struct handle *handle,
		      struct change change, bool confirmed, struct holder_actions *out);

enum holder_state holder_state(const struct holder *h);
struct session_id holder_session(const struct holder *h);
/* ACTIVE, stream attached at least once in this session, and the term not over at `now`. */
bool holder_valid(const struct holder *h, struct instant now);
/* ACTIVE, and the term is over at `now`: the next tick ends it. */
bool holder_expired(const struct holder *h, struct instant now);
/* What is left of the session's validity at `now`; 0 when it is not valid. Bounds the kernel's
   entry and attribute timeouts. */
struct duration holder_remaining(const struct holder *h, struct instant now);

/* ---- requests in flight (I3) ---- */

/* Before a request that could bring grants is sent; the stamp goes with it. Never 0. */
uint64_t holder_request_begin(struct holder *h);
/* When its answer has been worked in, or it failed or was cancelled. */
void holder_request_end(struct holder *h, uint64_t stamp);
/*
 * A recall has overtaken what an answer (to the request with this stamp, made at recall_sequence)
 * says about `handle`: about its entry `name`, or with name NULL about anything else of it (its
 * attributes, data, listing). True also when the session is not the one it was asked under.
 */
bool holder_overtaken(const struct holder *h, uint64_t stamp, uint64_t recall_sequence,
		      const struct handle *handle, const struct slice *name);
/*
 * An answer granted a lease on `handle` at `change`. What an answer says may be cached only under
 * a grant that this very answer carries: holding a lease from before is not enough, since the
 * origin answers from the old state while a change drains, without granting (5.1). Returns the
 * instance to tag with what the answer said, or 0 when the grant is void (overtaken, session not
 * valid, no memory): then nothing
 * of the answer may be cached. A lease that is held already keeps its instance, and its change is
 * set to `change` (the caller sees by holder_change() before whether it moved).
 */
uint64_t holder_grant(struct holder *h, struct instant now, uint64_t stamp,
		      uint64_t recall_sequence, const struct handle *handle, struct change change,
		      struct holder_actions *out);

/* ---- leases ---- */

/*
 * The instance of the lease on `handle` under which cached state may be used at `now`; 0: none,
 * go to the origin. Not while the lease is being modified by this host (below).
 */
uint64_t holder_lease(struct holder *h, struct instant now, const struct handle *handle);
/* The same, whether or not this host is modifying the inode. */
uint64_t holder_lease_held(struct holder *h, struct instant now, const struct handle *handle);
/*
 * The grant that gave `instance` was of the write lease (PROTOCOL.md 5.7), which it stays until it
 * is recalled. It is not given up to make room for others.
 */
void holder_set_exclusive(struct holder *h, const struct handle *handle, uint64_t instance);
/* holder_lease_held(), of the write lease only. */
uint64_t holder_exclusive(struct holder *h, struct instant now, const struct handle *handle);
/*
 * The write lease on `handle` stood when the origin said that it does not know the session, and may
 * still be reclaimed: the kernel may keep its pages, and take stores in, as long as this is so.
 */
bool holder_kept(const struct holder *h, struct instant now, const struct handle *handle);
/* Any is kept: the guardian's deadline stays that of HOLDER_RENEWED. */
bool holder_keeps(const struct holder *h);
/*
 * The instance of a lease that stood when the session was lost, and has neither been reclaimed nor
 * settled otherwise; 0: none. `*ret_change`: what it stood at. Nothing proves that what was learned
 * under it is still so: only for callers whose user asked for stale answers.
 */
uint64_t holder_lease_before(const struct holder *h, struct instant now,
			     const struct handle *handle, struct change *ret_change);
/*
 * PROTOCOL.md 11.4: the instance of a lease that stood when the last session ended, under which this host
 * may go on to use what it learned of the inode while that was sealed with a seal of this `term`: the
 * seal's own term is not over, and no session has stood since. 0: none. Strict, as a lease is; nothing of
 * it may stay where it would be used without asking again. *ret_change: what it stood at.
 */
uint64_t holder_lease_sealed(const struct holder *h, struct instant now,
			     const struct handle *handle, struct duration term,
			     struct change *ret_change);
/* The change that the lease stands at; {0,0} when unknown or no lease. */
struct change holder_change(const struct holder *h, const struct handle *handle);
/*
 * This host is about to send a modification of `handle`. From then until the matching end nothing
 * of the inode is answered from cache (another host may see the new state before we hear of it):
 * for a directory and a known name, holder_modifying() limits that to the name, the attributes and
 * the listing, and the caller checks names itself. May be nested. No lease: remembered all the same.
 */
int holder_modify_begin(struct holder *h, const struct handle *handle) MUST_CHECK;
bool holder_modifying(const struct holder *h, const struct handle *handle);
/*
 * It was answered (or failed: then `known` is false and the change becomes unknown). When the lease
 * stood at `before` it now stands at `after`: true, cached bytes outside what was written are still
 * good. Otherwise false: cached data of the inode is not good.
 */
bool holder_modify_end(struct holder *h, const struct handle *handle, bool known,
		       struct change before, struct change after);
/*
 * Right after the grants of that answer were taken in: answers to requests that were sent before
 * now may be from before the modification, and no recall says so, since the origin recalls nothing
 * from its originator. They are void for the names (of a directory; at most two) and for anything
 * else of `handle`, or with no name for all of it (PROTOCOL.md 7.3).
 */
void holder_modified(struct holder *h, const struct handle *handle, const struct slice *names,
		     uint32_t name_count);
/* Gives the lease up. Sends a release; the recall that follows does the rest (5.6). */
void holder_release(struct holder *h, const struct handle *handle, struct holder_actions *out);

/* ---- recalls ---- */

/* A recall came on the stream of `session`. Repetitions are recognised and acknowledged again. */
void holder_recall(struct holder *h, struct instant now, struct session_id session,
		   const struct message_recall *recall, struct holder_actions *out);
/* What HOLDER_DROP `sequence` named is gone from the kernel and memory. */
void holder_dropped(struct holder *h, struct instant now, struct session_id session,
		    uint64_t sequence, bool open, struct holder_actions *out);
/* The highest sequence received in this session. */
uint64_t holder_recall_sequence(const struct holder *h);

/* ---- time ---- */

void holder_tick(struct holder *h, struct instant now, struct holder_actions *out);
struct instant holder_timer(const struct holder *h);

struct holder_counters {
	uint64_t leases, window;
	uint64_t granted, overtaken, recalls, recall_repeats, released, sessions, expired, reclaimed,
		reclaim_refused;
};
void holder_counters(const struct holder *h, struct holder_counters *ret_counters);
void holder_check_invariants(const struct holder *h);

#endif
