/*
 * authority_internal.h - the parts of the authority, for its own .c files only.
 *
 *   authority.c             making, time, what leaves (the pending list), looking, invariants
 *   authority_sessions.c    sessions, slots of ended ones, grace
 *   authority_leases.c      inodes, grants, recalls, acknowledgements, opens, back-off
 *   authority_operations.c  operations, their queues, at most once
 *   authority_silent.c      hosts that do not answer, and what is sealed
 *   authority_locks.c       advisory locks: sessions, grace and the record around lock_table
 *
 * Nothing here appends to the caller's actions directly. What must leave is linked into one list
 * (`pending`) through a member of the object it is about, and authority_flush() turns that list
 * into actions at the end of each call. So no action is ever lost to a failed allocation: it
 * leaves with a later call, and the timer asks for that call.
 */
#ifndef LEASE_AUTHORITY_INTERNAL_H
#define LEASE_AUTHORITY_INTERNAL_H

#include "lease/authority.h"
#include "lease/base/list.h"
#include "lease/base/map.h"
#include "lease/base/number_map.h"
#include "lease/base/ring.h"
#include "lease/base/rng.h"
#include "lease/base/numbered.h"

#include <assert.h>

/* Inodes whose back-off is remembered between calls; the oldest is forgotten first. */
#define BACKOFF_COUNT_MAX 4096
/* Numbers of closes that a session remembers (3.3). */
#define CLOSE_WINDOW 4096u
/* While memory fails, what is pending is tried again after this. */
#define STARVED_RETRY_MS 10

enum pending_what {
	PENDING_RECALLS, /* of a session: those from `unsent` on */
	PENDING_SESSION_ENDED,
	PENDING_SESSION_FORGOTTEN,
	PENDING_PREVIOUS_ENDED,
	PENDING_OPERATION,
	PENDING_UNUSED,
	PENDING_GRACE_ENDED,
};

struct pending {
	struct list link;
	enum pending_what what;
};

/*
 * An inode that has leases, or is busy. There are many of them, and almost all have leases and nothing
 * else: what is known besides has its own struct. It refers to those by their numbers in the pools.
 */
struct inode {
	uint32_t leases;  /* the first; 0: none; with a write lease there is no other */
	uint32_t busy;    /* 0: nothing to tell */
	uint8_t handle[]; /* a struct handle up to its last byte in use: inode_handle() */
};

#define INODE_BYTES_MIN (sizeof(struct inode) + NUMBERED_STEP_BYTES)

static_assert(sizeof(struct inode) == 8, "an inode costs its memory");
static_assert(sizeof(struct inode) + sizeof(struct handle) <=
	      INODE_BYTES_MIN + (NUMBERED_SIZES - 1) * NUMBERED_STEP_BYTES, "the pool has no such size");

/* Of an inode that has opens, operations, or a back-off to remember. */
struct inode_busy {
	struct inode *inode;
	struct list places; /* place.link, in the order of operations */
	struct list in_backoffs;
	struct pending unused;
	struct instant contended_at; /* of the last recall that a modification caused */
	struct instant quiet_until;  /* no weak grants before (5.5) */
	uint64_t backoff_ns;         /* 0: not contended */
	uint32_t open_count;
};

/* Names that a recall carries, shared by the leases of one inode. */
struct recall_names {
	uint64_t id; /* key in authority.names; fits lease.names_id */
	uint32_t refs;
	uint32_t count;
	uint8_t length[AUTHORITY_NAMES_MAX];
	uint8_t bytes[AUTHORITY_NAMES_MAX][NAME_BYTES_MAX];
};

/*
 * A lease, and the room for its recall: at most one recall of a lease is out at a time, so that
 * recalling needs no memory (I6). Millions of them: its size is what an origin's memory goes to.
 */
struct lease {
	uint32_t inode; /* the key in session.leases */
	uint32_t session;
	union {
		struct ring in_inode; /* unless `exclusive`, when it is alone there */
		uint64_t exclusive_since; /* session.recall_sequence when it became so */
	};
	struct ring in_session; /* session.granted, or session.recalled */
	uint64_t recall_sequence : 56; /* 0: no recall is out */
	uint64_t scope : 2;
	bool exclusive : 1;
	bool awaited : 1;  /* the operation that drains on the inode waits for this */
	bool released : 1; /* the host gave it up while a RECALL_NAMES was out */
	uint32_t recalled_at; /* in units of RECALLED_AT_NS; they wrap */
	uint32_t names_id;    /* 0: none */
};

static_assert(sizeof(struct lease) == 40, "a lease costs its memory");

/* lease.recalled_at wraps after two years, and no recall is out for that long. */
#define RECALLED_AT_NS (16 * NS_PER_MS)

/* A registered open. */
struct opened {
	struct inode *inode; /* the key in session.opens */
	struct list link;
};

/* PROTOCOL.md 11.4; allocated with the session that it will be of, so that no end fails. */
struct silent {
	struct list link; /* authority.silent, in the order of their ends; of a living session: none */
	struct authority_silent is;
};

/* A session of the origin's previous run, while grace waits for it (6.2). */
struct previous {
	struct session_id session;
	uint8_t host[16];
	struct session *claimed_by; /* opened naming it; NULL: not yet */
	bool told;                  /* its end was announced, or nobody may know it any more */
	bool resolved;              /* grace does not wait for it */
	struct pending ended;
};

/* PROTOCOL.md 3.3. The sequence stays taken whatever became of the request. */
struct slot {
	uint64_t sequence; /* the last that took the slot; 0: none */
	uint64_t operation; /* with `sequence`, under way; 0: over */
	uint16_t refused;   /* over without being applied: the status it got */
};

struct session {
	struct session_id id; /* key in authority.sessions */
	uint32_t number;      /* in authority.session_pool */
	uint8_t host[16];
	uint64_t instance;
	struct session_id previous;
	bool live;
	bool leased; /* it was granted a lease at some time */
	bool heard;  /* its host is using it, and so has given up what it had before (11.4) */
	struct silent *silent; /* NULL once it has ended */
	struct instant end;
	struct list link; /* authority.live by end, or authority.ended, oldest first */
	struct number_map leases;
	uint32_t granted;  /* the first, least recently granted */
	uint32_t recalled; /* the first, by sequence */
	uint32_t unsent;   /* the first of `recalled` that must be sent; 0: none */
	uint64_t recall_sequence;
	struct map opens;
	struct list open_list;
	uint64_t close_number; /* the highest that came */
	uint64_t closes[CLOSE_WINDOW / 64]; /* which of the last CLOSE_WINDOW came, modulo it */
	struct list operations; /* operation.in_session */
	struct pending recalls;
	struct pending over;
	struct pending forgotten;
	struct previous *claims;
	bool owes_locks; /* it has to reclaim its locks, or its end is theirs */
	bool paid_locks; /* it has */
	uint32_t slot_count;
	struct slot *slots;
};

enum operation_state { OPERATION_QUEUED, OPERATION_DRAINING, OPERATION_RUNNING, OPERATION_OVER };

struct place {
	struct list link; /* inode.places */
	struct operation *operation;
	struct inode *inode;
	enum recall_scope scope;
	struct recall_names *names;
};

struct operation {
	uint64_t id; /* key in authority.operations */
	uint64_t order; /* of admission: every queue is sorted by it */
	enum authority_op_kind kind;
	enum operation_state state;
	enum authority_action_kind outcome; /* of what is pending */
	uint16_t status;
	bool in_slot;
	bool superseded; /* a newer request took the slot */
	bool covered;    /* runs under its session's write lease (5.7) */
	bool write_back;
	uint64_t lease_sequence;
	struct handle covered_inode;
	uint32_t slot_index;
	uint64_t sequence;
	uint64_t other;
	struct slot slot_before; /* restored by finish(retry) */
	struct session *session; /* NULL: of the origin itself, or unknown */
	struct session_id session_id;
	struct list in_session;
	struct list in_queued; /* authority.queued */
	struct pending pending;
	struct instant deadline;
	size_t heap_index; /* in authority.deadlines */
	uint32_t waiting;  /* awaited leases */
	uint32_t place_count; /* 0: it runs under its session's own lease */
	struct place places[AUTHORITY_TARGETS_MAX];
};

struct authority {
	struct authority_config config;
	const struct allocator *allocator;
	struct instant now; /* the latest that a caller named */
	struct rng rng;
	struct map sessions;
	struct number_map inodes;
	struct map operations;
	struct map names;      /* of recalls */
	uint32_t names_id_last;
	struct numbered leases;
	struct numbered inode_pool; /* of sizes by what their handles take */
	struct numbered busy_pool;
	struct numbered session_pool;
	struct list live;
	struct list ended;
	struct list pending;
	struct list queued; /* QUEUED operations in order */
	struct list backoffs;
	uint32_t backoff_count;
	uint32_t live_count;
	uint32_t ended_count;
	uint64_t order_last;
	struct operation **deadlines; /* heap of QUEUED and DRAINING operations */
	size_t deadline_count;
	size_t deadline_capacity;
	bool grace;
	bool grace_full; /* the record was unreadable: nobody can end it early */
	struct instant grace_end;
	struct pending grace_ended;
	struct previous *previous;
	size_t previous_count;
	struct list silent; /* longest ended first */
	uint32_t silent_count;
	struct instant silent_unknown; /* latest `renewed` of those that are not in the list; 0: none */
	struct lock_table *locks;
	uint64_t ended_mark;    /* moves whenever a session ends, or grace does */
	uint64_t recorded_mark; /* up to which the caller's record says so */
	uint64_t lock_gate;     /* no new lock before the record is at this mark */
	struct authority_counters counters;
};

#define HEAP_NONE SIZE_MAX

/* ---- what has a number; NULL for 0 ---- */

static inline struct lease *lease_at(const struct authority *a, uint32_t number)
{
	return numbered_at(&a->leases, number);
}

static inline struct inode *lease_inode(const struct authority *a, const struct lease *lease)
{
	return numbered_at(&a->inode_pool, lease->inode);
}

static inline struct session *lease_session(const struct authority *a, const struct lease *lease)
{
	return numbered_at(&a->session_pool, lease->session);
}

static inline struct inode_busy *inode_busy(const struct authority *a, const struct inode *inode)
{
	return numbered_at(&a->busy_pool, inode->busy);
}

/* The leases of an inode: none may come or go meanwhile. */
static inline struct lease *inode_lease_first(const struct authority *a, const struct inode *inode)
{
	return lease_at(a, inode->leases);
}

static inline struct lease *inode_lease_next(const struct authority *a, const struct inode *inode,
					     const struct lease *lease)
{
	return lease->exclusive ? NULL : lease_at(a, ring_next(&lease->in_inode, inode->leases));
}

#define LEASE_FOR_EACH(lease, a, inode)                                                         \
	for (struct lease *lease = inode_lease_first(a, inode); lease;                          \
	     lease = inode_lease_next(a, inode, lease))

/* authority.c */
void *authority_allocate(struct authority *a, size_t size);
void authority_free(struct authority *a, void *pointer, size_t size);
void authority_advance(struct authority *a, struct instant now);
struct authority_action *authority_actions_add(struct authority_actions *out,
					       enum authority_action_kind kind);
void authority_pend(struct authority *a, struct pending *pending);
void authority_flush(struct authority *a, struct authority_actions *out);

/* authority_sessions.c */
struct session *session_get(const struct authority *a, struct session_id id);
struct session *session_get_live(const struct authority *a, struct session_id id);
void session_end(struct authority *a, struct session *session);
void session_free(struct authority *a, struct session *session);
void session_forget_surplus(struct authority *a);
void grace_check(struct authority *a);

/* authority_leases.c */
struct inode *authority_inode_get(const struct authority *a, const struct handle *handle);
struct handle inode_handle(const struct inode *inode);
struct inode *authority_inode_make(struct authority *a, const struct handle *handle,
				   uint32_t *ret_number);
struct inode *authority_inode_make_busy(struct authority *a, const struct handle *handle);
void authority_inode_put(struct authority *a, struct inode *inode);
void authority_inode_contended(struct authority *a, struct inode *inode);
void backoffs_trim(struct authority *a);
struct lease *lease_get(const struct authority *a, const struct session *session,
			const struct inode *inode);
struct lease *lease_exclusive(const struct authority *a, const struct inode *inode);
struct recall_names *lease_names(const struct authority *a, const struct lease *lease);
struct duration lease_recalled_for(const struct authority *a, const struct lease *lease);
void lease_recall(struct authority *a, struct lease *lease, enum recall_scope scope,
		  struct recall_names *names);
void lease_remove(struct authority *a, struct lease *lease);
void opened_remove(struct authority *a, struct session *session, struct opened *opened);
void names_unref(struct authority *a, struct recall_names *names);

/* authority_operations.c */
bool operation_modifies(const struct authority *a, const struct inode *inode, uint64_t except);
bool operation_waits(const struct authority *a, const struct inode *inode, uint64_t except);
void operation_drained(struct authority *a, struct lease *lease);
void operation_refuse(struct authority *a, struct operation *o, uint16_t status);
void operation_free(struct authority *a, struct operation *o);
void operations_yield(struct authority *a, const struct session *session, struct inode *inode);
void operations_promote(struct authority *a, const struct session *session, struct inode *inode);
bool operation_goes_ahead(const struct authority *a, const struct operation *o,
			  const struct lease *lease);
void operations_go_ahead(struct authority *a, const struct lease *lease);
void operations_start(struct authority *a, struct inode *inode);
void operations_start_all(struct authority *a);
void operations_refuse_late(struct authority *a);

/* authority_silent.c */
struct silent *silent_make(struct authority *a);
void silent_add(struct authority *a, struct silent *silent);
void silent_heard(struct authority *a, struct session *session);
void silent_free_all(struct authority *a);

/* authority_locks.c */
void authority_locks_session_end(struct authority *a, struct session *session);
void authority_locks_grace_end(struct authority *a);
void authority_locks_flush(struct authority *a, struct authority_actions *out);
bool authority_offer_is_overdue(const struct authority *a, const struct session *session);

#endif
