/*
 * modify.h - this host's own modifications: what must happen in the host's kernel around them.
 *
 * Another host can see the new state before the answer reaches us, and then no process here may
 * still see the old one. So before a modification is sent, what the kernel holds of the affected
 * state is invalidated, and until it is answered nothing of it is given out again:
 * attributes and names are asked for at the origin (holder_modifying), and page fills are held
 * here while the lease stands (they would be answered from the old state).
 *
 * A held page fill cannot keep a recall waiting: calls_release_held() sends it on, weak, and the
 * recall drops the page before it is acknowledged. Nor can it keep the modification waiting: what
 * is held before the modification is sent the invalidation steps around, and page fills that come while
 * the kernel is at it are answered, and invalidated once more.
 */
#ifndef FS_MOUNT_MODIFY_H
#define FS_MOUNT_MODIFY_H

#include "fs/mount/call.h"
#include "fs/mount/reply.h"

/*
 * Sends a modifying call. Affected are the call's inode, inode2, child and child2, as far as they
 * are set. `names`: names of the directories come to be, go or change what they mean; `data`: the
 * bytes or the size of `inode` change, from `offset` on, `length` (0: to the end).
 */
struct modify_scope {
	bool names;
	bool data;
	uint64_t offset, length;
};
void modify_send(struct mount *m, struct call *call, const struct modify_scope *scope,
		 call_work *work);

/* What a change of the size of call->inode affects, beside its attributes. Under the lock. */
void modify_size(struct mount *m, struct call *call, struct modify_scope *scope);

/*
 * Sends a modification of call->inode alone which nobody can see before the write lease that it is
 * made under is given up: nothing has to leave the kernel first.
 */
void modify_send_ahead(struct mount *m, struct call *call, call_work *work);

/*
 * The first thing that `work` of such a call does: ends the marks, tells the holder what changed,
 * works the answer in. Returns true when cached bytes of call->inode moved with it.
 */
bool modify_end(struct mount *m, struct call *call, struct answer *ret_answer,
		struct change *ret_before, struct change *ret_after);

/*
 * Pages that were filled meanwhile go before the caller is answered: `then` is called on the
 * notifier's thread, or at once when there are none.
 */
void modify_settle(struct mount *m, struct call *call, uint64_t offset, uint64_t length,
		   call_work *then);

#endif
