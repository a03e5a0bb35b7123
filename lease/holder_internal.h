/*
 * holder_internal.h - the parts of the holder, for its own .c files only.
 *
 *   holder.c          making, time, what leaves, looking, invariants
 *   holder_session.c  the session, its stream, its keep-alives
 *   holder_leases.c   leases, own modifications, candidates for reclaim
 *   holder_recalls.c  requests in flight, recalls, the window (I3)
 *
 * As in the authority, nothing appends to the caller's actions directly: what must leave is noted
 * in flags and lists, and holder_flush() turns it into actions at the end of each call. A failed
 * allocation delays an action and never loses one.
 */
#ifndef LEASE_HOLDER_INTERNAL_H
#define LEASE_HOLDER_INTERNAL_H

#include "lease/base/list.h"
#include "lease/base/map.h"
#include "lease/base/rng.h"
#include "lease/holder.h"

/* Acknowledged recalls that are remembered, so that a repetition costs no second drop. */
#define DONE_COUNT_MAX 64
/* Claims handed out by one call: a hundred thousand at once would be a burst of memory. */
#define RECLAIM_BATCH 64
/* While memory fails, what is wanted is tried again after this. */
#define STARVED_RETRY_MS 10

/* What must leave, in this order. */
enum want {
	WANT_DROP_ALL = 1 << 0,
	WANT_SESSION_OPEN = 1 << 1,
	WANT_RENEWED = 1 << 2,
	WANT_STREAM = 1 << 3,
	WANT_KEEPALIVE = 1 << 4,
	WANT_RECLAIM = 1 << 5, /* candidates, a batch a call, and then the last word */
};

enum stream_state { STREAM_NONE, STREAM_OPENING, STREAM_ATTACHED, STREAM_WAITING };

/* An inode with a lease, with a claim to one, or under modification by this host. There are as many as
   inodes that the host knows, so it is as long as its handle asks for. */
struct node {
	struct list link;     /* holder.leases, .candidates, .claimed, .kept, .lost; else in none */
	uint64_t instance;     /* of the lease, or of a candidate: the one that it was */
	uint64_t incarnation;  /* of the last change that was known */
	uint64_t counter;      /* of the change */
	uint32_t session_before; /* of a candidate: which of our sessions it stood in */
	uint16_t modifying;
	bool leased : 1;
	bool known : 1;        /* the change is: node_change() */
	bool exclusive : 1;    /* the lease is the write lease */
	bool candidate : 1;    /* held under an earlier session; also `exclusive`: it is kept */
	uint8_t handle_length; /* key: from here on a struct handle, cut off behind its bytes */
	uint8_t handle_bytes[];
};

/* A recall, from its arrival until it is acknowledged and no older request is in flight. */
struct window_entry {
	uint64_t sequence;
	uint64_t generation; /* requests stamped up to this were sent before it arrived */
	struct handle handle;
	uint64_t names[2]; /* hashes: a collision voids a grant in vain, which does no harm */
	struct slice name[2]; /* borrowed until the call that received it ends */
	uint8_t name_count;
	uint8_t scope;
	bool dropping;    /* HOLDER_DROP left, or is about to; not yet dropped */
	bool unsent;      /* HOLDER_DROP has not left */
	bool acknowledge; /* dropped; the acknowledgement has not left */
	bool open;
	bool kept;
	bool own;         /* no recall, but our own modification: judged by the stamp alone */
};

struct done {
	uint64_t sequence;
	bool open;
};

/* Requests that were begun in one generation and are in flight. */
struct generation {
	uint64_t number;
	uint64_t count;
};

struct holder {
	struct holder_config config;
	const struct allocator *allocator;
	struct rng rng;
	struct instant now; /* the latest that a caller named */
	uint32_t wants;
	bool starved; /* something wanted found no memory */

	enum holder_state state;
	bool connecting;             /* holder_connect() was called: keep trying */
	struct session_id session;   /* the present one, or the last */
	uint64_t epoch;              /* the highest seen */
	struct duration term;
	uint32_t drift_ppm;
	struct instant until;        /* of validity (I1) */
	struct instant renewed;      /* of this session, or the last: before the latest renewal was sent */
	struct instant keepalive_at;
	struct instant open_at;      /* NONE: when to open a session */
	uint32_t failures;           /* in a row, of opening a session */
	uint32_t keepalive_failures;
	uint64_t sequence_announced; /* by the last keep-alive's answer */
	enum stream_state stream;
	bool attached;               /* in this session, at least once */
	bool reclaim;                /* this session may reclaim, and has not said it is done */
	struct instant stream_at;    /* WAITING: when to open it again */
	uint32_t stream_failures;

	struct map nodes;
	struct list leases;     /* least recently used first */
	struct list candidates; /* held under an earlier session, not yet claimed */
	struct list claimed;    /* claimed, and not answered */
	struct list kept;       /* candidates that were write leases: not yet claimed */
	struct list kept_claimed;
	struct list given_up;   /* of LEASE_WRONG_CLAIM_GIVEN_UP; else empty */
	struct list lost;       /* kept, and lost: HOLDER_LOST has not left */
	uint64_t kept_count;    /* in .kept and .kept_claimed */
	struct instant kept_until; /* of the session that they stood under */
	uint32_t lease_count_max;
	uint64_t lease_count;
	uint64_t candidate_count; /* in .candidates and .claimed */
	uint64_t instance_last;

	uint64_t recall_sequence;
	struct window_entry *window;
	uint32_t window_count;
	uint32_t window_capacity;
	uint32_t dropping_count;
	bool repeat; /* a recall found no place: the stream is opened again to get it repeated */
	struct done done[DONE_COUNT_MAX];
	uint32_t done_next;

	uint64_t void_until;       /* grants to requests stamped up to this are void */
	struct generation *ring;   /* closed generations with requests in flight, and the open one */
	uint32_t ring_capacity;
	uint32_t ring_first;
	uint32_t ring_count;
	uint64_t merged_number;    /* generations up to this are counted together */
	uint64_t merged_count;

	struct holder_counters counters;
};

/* holder.c */
void holder_advance(struct holder *h, struct instant now);
void holder_flush(struct holder *h, struct holder_actions *out);
struct holder_action *holder_actions_add(struct holder_actions *out,
					 enum holder_action_kind kind);
struct duration holder_backoff(struct holder *h, uint32_t failures);

/* holder_session.c */
void session_over(struct holder *h, bool keep);
void session_advance(struct holder *h);
struct instant validity_from(const struct holder *h, struct instant now, struct instant sent,
			     struct duration term);
bool session_is(const struct holder *h, struct session_id session);
void stream_reopen(struct holder *h);

/* holder_leases.c */
struct handle node_handle(const struct node *node);
void node_free(struct holder *h, struct node *node); /* which no list and no map has */
struct node *node_get(const struct holder *h, const struct handle *handle);
struct change node_change(const struct node *node);
void node_forget_change(struct node *node);
void node_put(struct holder *h, struct node *node);
bool node_drop_lease(struct holder *h, const struct handle *handle);
void leases_become_candidates(struct holder *h, bool keep);
void kept_lose(struct holder *h);
bool lost_flush(struct holder *h, struct holder_actions *out);
void candidates_forget(struct holder *h);
/* There is a claim, or the last word, that may leave. */
bool candidates_wait(const struct holder *h);
bool candidates_flush(struct holder *h, struct holder_actions *out);

/* holder_recalls.c */
int window_create(struct holder *h);
void window_destroy(struct holder *h);
void window_reset(struct holder *h);
bool window_dropping(const struct holder *h, const struct handle *handle);
bool window_flush(struct holder *h, struct holder_actions *out);
void window_forget_borrowed(struct holder *h);
void window_check(const struct holder *h);

#endif
