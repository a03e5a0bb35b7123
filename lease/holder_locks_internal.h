/*
 * holder_locks_internal.h - the parts of the holder_locks, for its own .c files only.
 *
 *   holder_locks.c        requests, answers, sessions, looking
 *   holder_locks_parts.c  inodes, owners, files, operations
 *   holder_locks_send.c   what is believed while a request is under way, and what leaves
 *
 * What must leave is linked into lists of the object it is about (`pending`, `untold`), and
 * holder_locks_flush() turns those into actions at the end of each call: no action is ever lost to a
 * failed allocation.
 */
#ifndef LEASE_HOLDER_LOCKS_INTERNAL_H
#define LEASE_HOLDER_LOCKS_INTERNAL_H

#include "lease/holder_locks.h"

#define CLAIM_BYTES 32768u /* of one lock_reclaim */

enum locks_state { LOCKS_DOWN, LOCKS_RECLAIMING, LOCKS_READY };

enum op_kind { OP_LOCK, OP_TEST, OP_SETTLE };
enum op_state { OP_QUEUED, OP_SENT, OP_PATIENT, OP_WAITING, OP_OVER };

struct inode {
	struct handle handle;   /* key in holder_locks.inodes */
	struct list owners;
	struct list queue;      /* op.in_inode, QUEUED */
	struct list waiting;    /* op.in_inode, WAITING */
	struct list patient;    /* op.in_inode, PATIENT */
	struct op *sent;        /* under way; NULL: the first of the queue may go */
	struct list in_ready;   /* holder_locks.ready */
};

struct owner {
	struct inode *inode;
	enum lock_kind kind;
	uint64_t number;
	struct list in_inode;
	struct list link;       /* holder_locks.owners, in the order of reclaims */
	struct lock_set held;
	uint64_t *files;        /* through which it locked */
	uint32_t file_count, file_capacity;
	uint32_t op_count;
	bool refused;           /* the origin did not confirm all of it */
	bool unlocks;           /* all of it, when there is memory to ask for that */
};

struct op {
	enum op_kind kind;
	enum op_state state;
	struct inode *inode;
	struct owner *owner;    /* NULL: a test */
	uint64_t file;
	struct lock_request request; /* request.waiter: 0, or its number */
	bool take;              /* of a settle */
	bool interrupted;       /* as soon as it would wait, it ends */
	bool offered;           /* before the answer that it waits */
	uint16_t offer;
	struct lock_set undo;   /* what was held before, while less is believed (sent) */
	bool has_undo;
	struct list in_inode;
	struct list link;       /* holder_locks.ops */
	struct list in_sent;    /* holder_locks.sent, by id */
	struct list in_patient; /* holder_locks.patient, by `patient_until` */
	struct instant patient_until; /* once: 0 before */
	uint32_t again;         /* how often it was made again */
	uint64_t id;            /* while SENT */
	struct instant queued_at;
	bool closes;            /* answered after CLOSE_MS_MAX at the latest */

	/* What has to leave. */
	struct list pending;
	bool unsent, unanswered;
	uint64_t token;         /* 0: nobody waits for it (any more) */
	uint64_t answer_token;
	int status;
	bool own;
	struct lock_range range;
};

/* A descriptor through which something was locked, until it is released. */
struct file {
	uint64_t number;        /* key in holder_locks.files */
	bool lost;
	bool ending;            /* a descriptor was closed, maybe the last one */
	struct list untold;     /* holder_locks.untold */
};

struct holder_locks {
	const struct allocator *allocator;
	uint32_t request_max;
	enum locks_state state;
	struct instant now; /* the latest that a caller named */
	struct session_id session;
	struct map inodes, files;
	struct list owners, ops, sent, ready, patient, pending, untold;
	uint64_t id_last;     /* of this session */
	uint64_t waiter_last; /* ever */
	struct instant retry_at; /* nothing is sent before */
	bool retrying;
	bool starved;         /* an owner has `unlocks` set */
	bool settled;         /* HOLDER_LOCKS_SETTLED has to leave */

	/* The claims under way begin with range `claim_index` of `claim_owner`. */
	struct owner *claim_owner;
	uint32_t claim_index, claim_count;
	uint64_t claim_id;
	bool claim_unsent, claim_last;
	size_t claim_length;
	uint8_t *claims;      /* CLAIM_BYTES */

	struct holder_lock_counters counters;
};

/* holder_locks_parts.c */
void *holder_locks_allocate(struct holder_locks *l, size_t size);
void holder_locks_free(struct holder_locks *l, void *pointer, size_t size);
void holder_locks_advance(struct holder_locks *l, struct instant now);
struct inode *lock_inode_make(struct holder_locks *l, const struct handle *handle);
void lock_inode_put(struct holder_locks *l, struct inode *inode);
void lock_inode_ready(struct holder_locks *l, struct inode *inode);
struct owner *lock_owner_find(const struct inode *inode, enum lock_kind kind, uint64_t number);
struct owner *lock_owner_make(struct holder_locks *l, struct inode *inode, enum lock_kind kind,
			      uint64_t number);
void lock_owner_put(struct holder_locks *l, struct owner *owner);
bool lock_owner_has_file(const struct owner *owner, uint64_t file);
int lock_owner_add_file(struct holder_locks *l, struct owner *owner, uint64_t file);
void lock_owner_remove_file(struct owner *owner, uint64_t file);
struct file *lock_file_make(struct holder_locks *l, uint64_t number);
bool lock_op_unlocks(const struct op *op);
struct op *lock_op_make(struct holder_locks *l, enum op_kind kind, struct inode *inode,
			struct owner *owner, const struct lock_request *request);
void lock_op_free(struct holder_locks *l, struct op *op);
void lock_op_pend(struct holder_locks *l, struct op *op);
void lock_op_answer(struct holder_locks *l, struct op *op, int status);
void lock_op_leave(struct holder_locks *l, struct op *op);
void lock_op_end(struct holder_locks *l, struct op *op);
void lock_op_queue(struct holder_locks *l, struct op *op, bool first);
void lock_op_settle(struct holder_locks *l, struct op *op, bool take);
bool lock_op_again(struct holder_locks *l, struct op *op);
void lock_ops_hurry(struct holder_locks *l);

/* holder_locks_send.c */
void lock_op_undo(struct op *op);
int lock_owner_unlock(struct holder_locks *l, struct owner *owner, uint64_t token);
void lock_inodes_ready(struct holder_locks *l);
void holder_locks_flush(struct holder_locks *l, struct holder_lock_actions *out);

#endif
