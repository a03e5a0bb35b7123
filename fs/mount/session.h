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

#include "fs/mount/state.h"

/*
 * Opens the first session and waits for it, at most `timeout`. 0 with *ret_root (the export's
 * root); -errno with one line for the user. Calls need calls_create() before.
 */
int session_start(struct mount *m, struct duration timeout, struct item_node *ret_root,
		  char *ret_text, size_t text_size) MUST_CHECK;
/* Closes the session at the origin (bounded) and ends the thread. */
void session_stop(struct mount *m);
/* After the client was destroyed. */
void session_discard(struct mount *m);

/* Does what the holder says, and empties `actions`. Under the lock. */
void session_act(struct mount *m, struct holder_actions *actions);

/* The origin answered NOSESSION to a request of `session`. Without the lock. */
void session_refused(struct mount *m, struct session_id session);
/* What HOLDER_DROP_ALL asked for is done. Without the lock. */
void session_fenced(struct mount *m);
/* What recall `sequence` named was dropped. Without the lock. */
void session_dropped(struct mount *m, struct session_id session, uint64_t sequence, bool open);

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
