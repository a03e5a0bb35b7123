/*
 * service_private.h - what the files of the service share.
 *
 *   service.c           threads, queues, answers, life
 *   service_actions.c   around the authority: operations, and what it wants done
 *   service_sessions.c  session messages, the recall stream, reclaim
 *   service_locks.c     advisory locks
 *   service_reads.c     requests that modify nothing
 *   service_modify.c    requests that do: plan, begin, run
 *   service_replaced.c  files that have just lost their name to others
 *   service_seals.c     what seals refuse
 *   service_recover.c   what is left for the next process, and what the last one left
 *   service_http.c      GET and joining
 */
#ifndef FS_ORIGIN_SERVICE_PRIVATE_H
#define FS_ORIGIN_SERVICE_PRIVATE_H

#include <pthread.h>
#include <uthash.h>

#include "fs/origin/courtesy.h"
#include "fs/origin/service.h"
#include "lease/status.h"

#define PEER_BYTES 72
#define SESSION_BUCKETS 4096u
#define QUEUE_COUNT_MAX 8192u    /* requests that no worker has taken yet; beyond: PUSHBACK */
#define CONTROL_COUNT_MAX 1024u  /* the same of session_open and reclaim */
#define OUTSIDE_COUNT_MAX 256u   /* recalls for changes behind our back that are under way */
#define MODIFY_TRIES_MAX 16u     /* names that change under a modification; then BUSY */
#define LOOKUP_TRIES_MAX 16u
#define DEADLINE_MS_DEFAULT 30000u
#define DEADLINE_MS_MAX 300000u
#define NODES_BYTES 1024u        /* four nodes */
#define POOL_BUFFER_BYTES BULK_BYTES_MAX
#define POOL_COUNT_MAX 32u       /* buffers of a MiB that wait for the next read */
#define POOL_THRESHOLD_BYTES (64u << 10)

/* What a worker is to do with a task. */
enum task_step {
	TASK_REQUEST, /* a message that came in */
	TASK_PLAIN,   /* GET, or joining */
	TASK_RUN,     /* its operation may be applied */
	TASK_REFUSE,  /* its operation is over: `status` */
	TASK_REPLAY,  /* it was done before */
	TASK_OUTSIDE, /* an inode was modified behind our back: recall it */
	TASK_SEAL,    /* a policy says so: as TASK_OUTSIDE, and then it is sealed */
	TASK_ORPHAN,  /* nobody has the inode open any more */
	TASK_SWEEP,   /* grace is over: remove orphans that nobody claimed */
	TASK_RECORD,  /* write the record of sessions */
	TASK_SETTLE,  /* nothing was modified for a while: sync, and say so on disk */
};

enum task_inode {
	TASK_DIRECTORY,
	TASK_NEW_DIRECTORY,
	TASK_TARGET,
	TASK_REPLACED,
	TASK_INODES,
	TASK_SOURCE = TASK_NEW_DIRECTORY, /* of copy_range: looked at, not modified */
};

struct task {
	struct task *next;             /* in a queue, or in `joined` */
	struct task *newer, *older;    /* all tasks whose operation is under way */
	struct service *service;
	enum task_step step;
	struct server_request *request; /* NULL: the origin's own */
	struct server_request_view view;
	struct message message;
	struct store *store;
	struct credential caller;
	struct handle handle; /* TASK_OUTSIDE, TASK_ORPHAN, TASK_SEAL */
	uint64_t quiet_ms;    /* TASK_SEAL */

	/* The operation; its id is the address of the task. */
	bool begun;
	uint16_t status;
	unsigned tries;
	int preset_error; /* the outcome was clear before it began */
	bool sealed;      /* the -EPERM that it ends with is a seal's */
	bool acquire;     /* a read that asks for the write lease */
	bool write_back;  /* a write that was stored under the write lease `lease_sequence` names */
	uint64_t lease_sequence;
	struct inode *inodes[TASK_INODES];
	struct authority_op op;
	struct task *joined; /* repetitions that wait for the same answer */

	/* The modification while it runs. */
	struct store_touch touches[STORE_TOUCH_MAX];
	struct item_node touched_nodes[STORE_TOUCH_MAX];
	uint8_t touched_roles[STORE_TOUCH_MAX];
	uint32_t touch_count;
	uint64_t reaped; /* of the service, before it */
	struct instant room_until; /* how long it waits for room; 0: it did not need to */

	/* The answer. */
	struct message_reply reply;
	uint64_t recall_sequence; /* the lowest at which something was granted */
	struct writer nodes;
	struct server_bulk bulk;
	uint8_t nodes_buffer[NODES_BYTES];
};

struct session {
	struct session_id id;
	struct session *next;
	struct store *store;
	bool alive;
	uint8_t host[16];
	uint64_t instance;
	char peer[PEER_BYTES];
	struct server_stream *stream;
	struct slots_session *place; /* what was executed in its slots; its replies */
};

struct task_queue {
	struct task *first, **end;
	uint32_t count;
};

struct service {
	struct authority_config config;
	struct changes *changes;
	struct slots *slots;
	struct service_export *exports;
	uint32_t export_count;
	char *tls_directory;
	struct server *server;
	struct sealer *sealer; /* borrowed */
	struct instant started;

	/* The authority and what belongs to it. */
	pthread_mutex_t lock;
	pthread_cond_t timer_changed;
	struct authority *authority;
	struct authority_actions actions;
	struct instant timer_armed;
	struct session *sessions[SESSION_BUCKETS];
	uint32_t session_count;
	struct task *tasks; /* whose operation is under way, newest first */
	uint32_t outside_count;
	bool record_queued;
	bool settle_queued;
	struct replaced *replaced; /* service_replaced.c */
	struct task *roomless;     /* wait for room; by `next` */
	uint64_t quiet_activity; /* of the change table, since `quiet_since` */
	struct instant quiet_since;
	bool stopping;

	/* Tries for locks: who was refused, and what is held back for him. */
	struct courtesy courtesy;
	struct lock_try *tries;
	uint32_t try_count;

	/* The record of sessions; one writer at a time. */
	pthread_mutex_t record_lock;
	int state_fd;
	uint64_t record_promise_ms;
	/* Sessions of the previous run that grace still waits for; under `lock`. */
	struct session_record previous;

	/* Work. */
	pthread_mutex_t queue_lock;
	pthread_cond_t queue_filled;
	pthread_cond_t control_filled;
	struct task_queue urgent; /* operations whose turn has come, and our own work */
	struct task_queue control; /* about sessions: others may be waiting for these */
	struct task_queue fresh;
	bool queue_stopped;
	pthread_t *workers; /* the first has nothing to do with data, however long that takes */
	unsigned worker_count;
	pthread_t timer;
	bool timer_started;

	pthread_mutex_t pool_lock;
	void *pool[POOL_COUNT_MAX];
	uint32_t pool_count;

	_Atomic uint64_t reaped; /* orphans removed */
	_Atomic uint64_t policy_sealed; /* files, by policy */
	_Atomic int policy_seal_error;	/* the latest, taken by who tells of it; 0: none */
	_Atomic uint64_t requests, pushbacks, outside_dropped, retries, replays;
};

/* ---- service.c, service_actions.c ---- */

struct instant service_now(void);

/* Around every call of the authority: unlocking performs its actions. `own` is the task whose
   operation may run on this very thread, NULL elsewhere; true: it must run here and now. */
void service_lock(struct service *s);
bool service_unlock(struct service *s, const struct task *own);
/* When the timer has something to do. With the lock held. */
struct instant service_timer(const struct service *s);
struct session *session_find(struct service *s, struct session_id id);

struct task *task_create(struct service *s, enum task_step step);
/* Lets go of everything that it holds. */
void task_destroy(struct task *t);
/* False: the queue is full. */
bool task_enqueue(struct task *t, bool urgent);
void task_forget_inodes(struct task *t);
/* PROTOCOL.md 5.7: reads and writes under the write lease become reads and writes like others, but
   for how they take their place. */
void task_unwrap(struct task *t);

/* Removes it, if it is an orphan and nobody has it open. */
void service_remove_orphan(struct service *s, const struct handle *handle);
/* May it be needed yet? `context` is the service. */
bool service_orphan_used(void *context, const struct handle *handle);

uint16_t service_status(int error);
/* Answers a request's message with `status` and what `reply`, nodes and bulk hold; destroys. */
void task_reply(struct task *t, uint16_t status);
/* Answers `t` and those that wait for the same answer with t->status; destroys. */
void task_refuse(struct task *t);
/* Answers without a task. */
void service_answer_status(struct server_request *request, uint16_t status);
/* Adds `node` to the answer. */
void task_add_node(struct task *t, enum node_role role, const struct item_node *node);
/* Under the inode's lock: may a lease ride on the answer? */
enum lease_kind task_grant(struct task *t, const struct handle *handle, uint64_t op);
/* The same with the service's lock held. */
enum lease_kind task_grant_locked(struct task *t, const struct handle *handle, uint64_t op);
/* Something was modified behind our back: everyone must hear of it. False: too many such recalls
   are under way. */
bool service_outside(struct service *s, struct store *store, const struct handle *handle);
/* Hands `t` to the authority. True: the caller runs it now. Otherwise `t` is gone or in other
   hands. */
bool service_begin(struct task *t) MUST_CHECK;
/* With the lock held: the operation of `t` is no longer the authority's. */
void service_task_over(struct task *t);
/* An operation of our own on `t->handle`, which recalls every lease on it: its outcome comes through the
   queue. 0; -EAGAIN: too many are under way; -ENOMEM. Unless it is 0, `t` is destroyed. */
int service_begin_own(struct task *t) MUST_CHECK;
/* The record of sessions is written soon. With the lock held. */
void service_queue_record(struct service *s);
/* Queues a step of our own; `handle` may be NULL. With the lock held. */
void service_own_work(struct service *s, enum task_step step, const struct handle *handle);
/* A buffer for bulk data; 0 or -ENOMEM. */
int service_buffer(struct service *s, size_t size, struct server_bulk *ret_bulk) MUST_CHECK;

/* ---- service_sessions.c ---- */

/* Works in a message that never waits, and answers it; false: it is not one of those. */
bool service_control(struct service *s, struct server_request *request,
		     const struct server_request_view *view, const struct message *message);
void service_session_open(struct task *t);
void service_reclaim(struct task *t);
int service_write_record(struct service *s) MUST_CHECK;
/* Of what is recorded; in no table yet. NULL: no memory. */
struct session *session_create(struct store *store, struct slots_session *place,
			       const struct slots_owner *owner);
void session_destroy(struct session *session);
/* With the service's lock held. */
void session_add(struct service *s, struct session *session);
void session_remove(struct service *s, struct session *session);
bool service_host_allowed(const struct service_export *export, const char *peer);

/* ---- service_locks.c ---- */

/* The caller holds the lock, in all of them. */
bool service_is_lock(enum message_type type);
uint64_t service_lock_session(const struct message *message);
/* Answers one of them; `status` other than OK: with that. */
void service_lock_message(struct service *s, struct server_request *request,
			  const struct session *session, const struct message *message,
			  uint16_t status);
void service_lock_offer(struct service *s, const struct authority_action *action);
/* When a try that is held back is to be answered; {UINT64_MAX}: none is. */
struct instant service_locks_timer(const struct service *s);
/* Answers those whose time it is. While stopping: all. */
void service_locks_tick(struct service *s, struct instant now);

/* ---- service_reads.c ---- */

/* True: `t` was answered (or will be). False: not a request that only reads. */
bool service_read_request(struct task *t);
/* The strict read of `t` may run. */
void service_read_run(struct task *t);

/* ---- service_modify.c ---- */

void service_modify_request(struct task *t);
void service_modify_run(struct task *t);
/* Alone, at the start: makes the reply to what an earlier process did (`done`), or does it. */
void service_modify_again(struct task *t, bool done);

/* ---- service_recover.c ---- */

/* Right before the store is touched: t->touches have begun. */
struct slots_intent *service_intent_begin(struct task *t);
/* Decides what an earlier process left, and tells the authority of its sessions. */
void service_recover(struct service *s);

/* ---- service_replaced.c ---- */

/*
 * Whoever opens a path looks it up first, and then opens what it found: two requests. What another
 * file takes the name of in between (an editor's or package manager's rename) is kept for a moment as
 * an orphan, as if it was open: on a local file system it can be opened then, too.
 */

/* It is about to be replaced, with the inodes' locks held. False: too many are kept already. */
bool service_replaced_keep(struct service *s, const struct handle *handle);
/* With the service's lock held. */
bool service_replaced_is_kept(const struct service *s, const struct handle *handle);
/* On the timer, with the service's lock held: those whose moment is over go, unless they are open. */
void service_replaced_tick(struct service *s, struct instant now);
/* The store is full: those go now, and other orphans that nobody uses. The caller may hold locks of
   inodes. True: something went since s->reaped was `reaped`. */
bool service_make_room(struct service *s, struct store *store, uint64_t reaped);
/*
 * Nothing went, but what is open without a name may be closed by its last user this moment: a host hears
 * of that from its kernel after close(2) returned. False: `t` has waited, or there is nothing to wait for.
 */
bool service_room_may_come(struct task *t);
/* `t` is run again when something went, or when it has waited. The caller lets go of it. */
void service_wait_for_room(struct task *t);
/* With the service's lock held: when to look, and the look. While stopping nobody waits. */
struct instant service_room_timer(const struct service *s);
void service_room_tick(struct service *s, struct instant now);
/* At the end, alone: all of them. */
void service_replaced_end(struct service *s);

/* ---- service_seals.c ---- */

/* Does a seal refuse the modification, as its inodes stand now? 0, -EPERM, or why it cannot be told. */
int service_check_seals(struct task *t) MUST_CHECK;
/* A policy is about to be set, or is. */
void service_hear_policy(struct task *t, bool is_set);
/* Every lease on the file is given up. The task goes on to its end. */
void service_seal_run(struct task *t);
/* PROTOCOL.md 11.4, for the record of sessions: who may rely on seals. With the lock held. */
int service_record_seals(struct service *s, struct session_record *record) MUST_CHECK;
/* Tells the new authority what the record of the run before says of that. */
int service_restore_seals(struct service *s, const struct session_record *record) MUST_CHECK;
/* An administrator says that a host is dead; durable when it returns 0. -ENOENT: it is not silent. */
int service_declare_dead(struct task *t, struct slice name) MUST_CHECK;
/* Who holds up that `inode` is unsealed, a line each; as getxattr(2). */
int service_list_silent(struct task *t, const struct inode *inode, void *buffer, size_t size,
			size_t *ret_length) MUST_CHECK;
/* The same of opening `inode` for writing, or of the write lease on it. */
int service_check_sealed(struct task *t, const struct inode *inode) MUST_CHECK;
/* It seals or unseals. */
bool service_is_seal(const struct message *m);
/* As service_status(), but a seal is named. */
uint16_t service_task_status(const struct task *t, int error);

/* ---- service_http.c ---- */

void service_plain(struct task *t);

#endif
