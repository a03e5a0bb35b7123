/*
 * notifier.h - the threads that send notifications to the kernel.
 *
 * fuse_lowlevel_notify_inval_inode() waits for a READ of these pages that is in flight. Nothing
 * that answers a READ waits for these threads. They are three, since what they wait for differs:
 *
 *   LANE_RECALL  recalls. A READ of an inode whose lease this host has
 *                not yet given up is answered by the origin at once (PROTOCOL.md 5.4), so this
 *                lane goes on within a round trip, whatever else is pending.
 *   LANE_MODIFY  before and after this host's own modifications. A READ here may be queued at
 *                the origin behind another host's change, which may wait for a recall that this
 *                host has to acknowledge: with one lane the two would wait for each other.
 *   LANE_FENCE   the end of a session: waits for no READ (drop_all.h). A recall of that session may
 *                wait for one that waits for the next session, which is opened behind the fence.
 *
 * Within a lane, work is done in the order in which it was queued.
 */
#ifndef FS_MOUNT_NOTIFIER_H
#define FS_MOUNT_NOTIFIER_H

#include "fs/mount/inode.h"
#include "fs/mount/state.h"

/* What is to be invalidated for one inode. */
struct notice {
	struct inode *inode; /* with a use that the notifier drops; NULL: none */
	bool attributes;
	uint32_t given_serial; /* of the inode */
	bool pages;
	uint64_t offset, length; /* of the pages; length 0: all from offset on */
};

#define NOTICES_MAX 4

struct notifier_work {
	struct notifier_work *next;
	struct notice notices[NOTICES_MAX];
	unsigned count;
	bool epoch;  /* names */
	bool around; /* page fills that wait here are stepped around: after a little, for them to come */
	/* Called on the notifier's thread when all is done; frees the work if need be. */
	void (*done)(struct mount *m, struct notifier_work *work);
	void *context;
	/* A recall: */
	struct holder_action action;
	struct inode *recalled; /* with a use; NULL: an inode that this host does not know */
	uint32_t weak_fills;    /* of it, when it was collected what there is to drop */
	bool pages;             /* all of them are dropped */
	bool stored;            /* what is recalled is the write lease: write_back.h */
};

int notifier_create(struct mount *m) MUST_CHECK;
void notifier_destroy(struct mount *m);

enum notifier_lane { LANE_RECALL, LANE_MODIFY, LANE_FENCE };
#define LANE_COUNT 3

/* Queues work. Under the lock or not. */
void notifier_push(struct mount *m, enum notifier_lane lane, struct notifier_work *work);
/* A recall: drops what is cached of it in memory and kernel, then tells the session. Under lock. */
void notifier_drop(struct mount *m, const struct holder_action *action);
/* Adds to `work` what the kernel may hold of `inode` (pages too, with `pages`), and takes a use.
   Under the lock. False: nothing to do. */
bool notifier_collect(struct mount *m, struct notifier_work *work, struct inode *inode,
		      bool pages, uint64_t offset, uint64_t length);

/* Invalidates what a notice names. Waits for a READ of these pages, if there is one. Without the lock. */
void notifier_tell(struct mount *m, const struct notice *notice);
/*
 * Invalidates the pages but for those whose fills are in flight (`held`: are held), of which some may
 * be answered only afterwards. A fill that comes while the kernel is at it may hold the very page that it
 * waits for: it is answered, if it can be, and counts as one that came behind the invalidation
 * (filled_serial, weak_fills). Without the lock. False: no memory, nothing was done.
 */
bool notifier_tell_around(struct mount *m, const struct notice *pages, bool held);

/* Probes FUSE_NOTIFY_INC_EPOCH on a mounted connection. */
bool notifier_probe_epoch(struct mount *m);

#endif
