/*
 * slots.h - what was done in the slots of sessions, and what is being done: PROTOCOL.md 3.5.
 *
 * Two mapped files in the state directory, so that what is in them survives SIGKILL of the process
 * without a system call; after a crash of the machine they are started afresh.
 *
 *   slots    a place for each session: whose it is, and of each slot the last sequence that was
 *            executed with its reply. A place is allocated on disk when it is first taken (81 KiB),
 *            so that no store meets a full disk, and used again when its session is forgotten.
 *   intents  a place for each modification that is applied at the same time, with the request, its
 *            data where that is needed to do it again, and what was there before.
 *
 * Thread-safe. A session's place is written by whoever runs the operation in that slot, and an
 * intent belongs to one thread from slots_intent_begin() to slots_intent_end(). The mutexes inside
 * are leaves. A store into a mapped page can wait for the disk: replies and intents are stored
 * without the service's lock.
 */
#ifndef FS_ORIGIN_SLOTS_H
#define FS_ORIGIN_SLOTS_H

#include "fs/origin/changes.h"
#include "lease/message.h"

#define SLOTS_PER_SESSION_MAX 64u
#define SLOTS_REPLY_BYTES_MAX 1248u /* encoded; a longer one is not kept */
#define SLOTS_PEER_BYTES 72
#define SLOTS_INODES 4              /* as many as a modification can be about */
#define SLOTS_MESSAGE_BYTES_MAX 7168u /* a symlink with the longest target, and room */

struct slots;
struct slots_session;

struct slots_owner {
	uint64_t session;
	uint8_t host[16];
	char peer[SLOTS_PEER_BYTES];
	uint32_t export_id;
	uint32_t slot_count; /* at most SLOTS_PER_SESSION_MAX */
};

/*
 * `session_count_max`: places; `intent_count`: modifications at a time. `reset`: the store may have
 * gone back in time, nothing kept is believed. `*ret_text`: NULL, or one line for the log when the
 * files could not be used and were started afresh. 0 or -errno.
 */
int slots_open(int state_fd, uint32_t session_count_max, uint32_t intent_count, bool reset,
	       struct slots **ret_slots, const char **ret_text) MUST_CHECK;
/* NULL is fine. */
void slots_close(struct slots *s);
/* Makes what is kept survive the machine, too; nothing is being modified. 0 or -errno. */
int slots_sync(struct slots *s) MUST_CHECK;

/* ---- sessions ---- */

/* Reserves a place: 0, -EAGAIN (all are taken), -ENOSPC and the like. */
int slots_session_take(struct slots *s, struct slots_session **ret_session) MUST_CHECK;
/* Whose place it is from now on; nothing was executed in its slots. */
void slots_session_set(struct slots *s, struct slots_session *session,
		       const struct slots_owner *owner);
/* Gives a place back, set or only taken. NULL is fine. */
void slots_session_release(struct slots *s, struct slots_session *session);
/* The place that was set next after `before` (NULL: the first of all); NULL: that was the last. */
struct slots_session *slots_session_next(struct slots *s, const struct slots_session *before);
void slots_session_owner(const struct slots_session *session, struct slots_owner *ret_owner);
uint64_t slots_sequence(const struct slots_session *session, uint32_t slot);

/* What was executed as `sequence`, unless something later was: `reply` NULL: it cannot be told. */
void slots_store(struct slots *s, struct slots_session *session, uint32_t slot, uint64_t sequence,
		 const struct message_reply *reply);
/*
 * The reply to `sequence`, encoded, in `buffer`; `*ret_reply` points into it. False: it is not the
 * last that was executed in the slot, or its reply is not known.
 */
bool slots_load(struct slots *s, struct slots_session *session, uint32_t slot, uint64_t sequence,
		uint8_t buffer[SLOTS_REPLY_BYTES_MAX], struct message_reply *ret_reply) MUST_CHECK;

/* ---- intents ---- */

/* One inode that a modification is about, as it was before. */
struct slots_inode {
	struct handle handle; /* length 0: there is none */
	uint64_t size;
};

struct slots_intent {
	_Atomic uint32_t state; /* private to slots.c */
	uint32_t slot;
	uint64_t session;
	uint64_t sequence;
	uint32_t existed;       /* what the request makes or removes was there */
	uint32_t data_kept;     /* its data are below, so that it can be done again */
	struct slots_inode inodes[SLOTS_INODES];
	uint32_t message_length; /* 0: it was too long */
	uint32_t data_length;
	uint8_t message[SLOTS_MESSAGE_BYTES_MAX];
	uint8_t data[BULK_BYTES_MAX];
};

/* An intent to be filled in; never NULL: there are as many as threads. */
struct slots_intent *slots_intent_take(struct slots *s);
/* It is filled in, and stands from now on. */
void slots_intent_begin(struct slots_intent *intent);
/* It is over, its outcome was stored. Also for one that was only taken. */
void slots_intent_end(struct slots *s, struct slots_intent *intent);
/* An intent of an earlier run that still stands; NULL: there is none. To be ended. */
struct slots_intent *slots_intent_found(struct slots *s);

#endif
