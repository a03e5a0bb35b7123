/*
 * session.h - the mount's session with its origin: what the holder asks for is sent, and what
 * comes back is told to it.
 *
 * One thread ticks the holder and watches the clocks; the control calls run on the transport's
 * thread. Acknowledgements, releases and reclaims are batched: one message of each kind is in
 * flight at a time, and repeated until it was answered.
 */
#ifndef FS_MOUNT_SESSION_H
#define FS_MOUNT_SESSION_H

#include <string.h>

#include "fs/mount/state.h"

struct inode;

/*
 * Opens the first session and waits for it, at most `timeout`. 0 with *ret_root (the export's
 * root); -errno with one line for the user. Calls need calls_create() before.
 */
int session_start(struct mount *m, struct duration timeout, struct item_node *ret_root,
		  char *ret_text, size_t text_size) MUST_CHECK;
/*
 * The mount is to end while the kernel may still have something: the session is given up for good,
 * and what the kernel holds is dropped, soon after (session_is_fenced). Without the lock.
 */
void session_abandon(struct mount *m);
bool session_is_fenced(struct mount *m);
/* From now on nothing is sent, and the thread has ended. */
void session_stop(struct mount *m);
/* When nothing is cached any more: tells the origin, and waits for its answer, at most 2 s. */
void session_close(struct mount *m);
/* After the client was destroyed. */
void session_discard(struct mount *m);

/* Does what the holder says, and empties `actions`. Under the lock. */
void session_act(struct mount *m, struct holder_actions *actions);

/* The origin answered NOSESSION to a request of `session`. Without the lock. */
void session_refused(struct mount *m, struct session_id session);
/*
 * Looks whether the guardian is still there. If not, all that the kernel has is dropped, and from
 * then on it gets names and attributes without a validity, and opens without pages; what was open
 * before goes on as it was. Without the lock.
 */
void session_check_guardian(struct mount *m);
/* What HOLDER_DROP_ALL asked for is done. Without the lock. */
void session_fenced(struct mount *m);
/* What a lost write lease had in the kernel is dropped. Under the lock. */
void session_lost_dropped(struct mount *m);
/* What recall `sequence` named was dropped. Under the lock. */
void session_dropped(struct mount *m, struct session_id session, uint64_t sequence, bool open);

/*
 * The origin is away: the session is over, and no attempt to open another has succeeded since. Not
 * when the origin itself said that the session is over, as long as the next one is being opened.
 * Under the lock.
 */
bool session_away(const struct mount *m);

/* disconnected=fail: nothing waits for an origin that is away, unless policies say so: rules.h. */
static inline bool session_fails_at_once(const struct mount *m)
{
	return strcmp(m->options->disconnected, "fail") == 0;
}

/*
 * The origin is away: with disconnected=stale (rules.h) what is cached is used without its lease, and every
 * use is noted, since before the next session stands the kernel's pages of it must go. Under the
 * lock.
 */
bool session_serves_stale(const struct mount *m, struct instant now);
void session_served_stale(struct mount *m);

/*
 * Acknowledgements and claims register opens at the origin, and a close must not overtake them:
 * everything that was to be sent when the mark was taken has been answered. Under the lock.
 */
uint64_t session_acknowledge_mark(const struct mount *m);
bool session_acknowledged(const struct mount *m, uint64_t mark);

/* `inode`, which is open here, became so under a session that has ended. Under the lock. */
void session_claim_open(struct mount *m, const struct inode *inode);
/* Something that calls_unsettled() counts is over. Under the lock. */
void session_calls_settled(struct mount *m);

/* The allocator that the holder and its actions use. */
extern const struct allocator session_allocator;

/* An empty list of actions; session_act() ends it. */
static inline struct holder_actions session_actions(void)
{
	struct holder_actions actions;

	holder_actions_init(&actions, &session_allocator);
	return actions;
}

#endif
