/*
 * drop_all.h - what the kernel has goes, and what cannot go is not waited for: at the end of a session,
 * or of a write lease that was kept, around a change of a file's size, and for a recall of what may be
 * mapped for writing.
 *
 * READs that wait for a lost origin keep their pages locked for as long as their callers want to
 * wait; such pages are not up to date and serve nothing. What is around them is invalidated, so that the
 * end does not wait for the network; their answer is given to the kernel only under a lease that stands
 * then. A READ may come between the look and the invalidation, which then waits for it: so where
 * one makes no progress, another thread looks again, and goes on from there.
 */
#ifndef FS_MOUNT_DROP_ALL_H
#define FS_MOUNT_DROP_ALL_H

#include "fs/mount/state.h"
#include "lease/holder.h"

struct inode;

/* The session is over: everything that is not kept; then session_fenced(). Under the lock. False: no
   memory, and the guardian will do it. */
bool drop_all(struct mount *m, const struct holder_action *action);
/* A write lease that was kept is lost: its pages; then session_lost_dropped(). Under the lock. False:
   there is nothing to drop. */
bool drop_lost(struct mount *m, const struct handle *handle);
/*
 * The pages of one file from `offset` on, and its attributes, before and after a change of its size: until
 * that is answered the kernel writes nothing back, so that a page which is stored to meanwhile cannot be
 * dropped. It need not be: it is under the write lease, and mapping the file has dropped what was there.
 * `then` is called when nothing older is left, with no lock. Under the lock. False: no memory.
 */
bool drop_for_size(struct mount *m, struct inode *inode, uint64_t offset,
		   void (*then)(struct mount *m, void *context), void *context);
/* The pages of one file and its attributes, for a recall. Returns when they are gone; false: no memory.
   For a lane of notifier.c; without the lock. */
bool drop_around(struct mount *m, const struct inode *inode);
/* Waits until no thread of it is left. After the lanes have ended; without the lock. */
void drop_all_wait(struct mount *m);

#endif
