/*
 * reply.h - what an answer of the origin means for what is cached, and how the kernel is answered.
 */
#ifndef FS_MOUNT_REPLY_H
#define FS_MOUNT_REPLY_H

#include "fs/mount/call.h"
#include "fs/mount/inode.h"
#include "fs/mount/state.h"

#define NODE_ROLES 4

/* One node of an answer, worked in. */
struct answer_node {
	bool present;
	struct item_node item;
	uint64_t instance; /* of the lease under which it may be remembered; 0: it may not */
};

struct answer {
	struct answer_node nodes[NODE_ROLES]; /* by enum node_role */
	struct inode *child;                  /* of NODE_TARGET, with a use; NULL: none, no memory */
};

/*
 * Works an answer in, in one section under the lock, since a recall may come right after it: the
 * holder is told of the grants, attributes are remembered, and so is that `name` of `directory`
 * (NULL: no name is concerned) leads to NODE_TARGET, or with status NOENT to nothing. What is
 * remembered here is what may be given to the kernel later; nothing of the answer is, by itself.
 * answer_done() drops the use.
 */
void answer_work_in(struct mount *m, struct call *call, struct inode *directory,
		    const struct slice *name, struct answer *ret_answer);
void answer_done(struct mount *m, struct answer *answer);
/* The grant of one node, when no section above does it: for listings. Under the lock. */
uint64_t answer_grant(struct mount *m, const struct call *call, const struct item_node *node);
/* That `name` leads to `child` (NULL: to nothing), when this answer granted a lease on `directory`
   and no recall of the name overtook it; else it is remembered as a hint only. Under the lock. */
void answer_name(struct mount *m, const struct call *call, const struct answer_node *parent,
		 struct inode *directory, const struct slice *name, struct inode *child);

/* With the origin's inode number, which is what users see. */
void attributes_stat(const struct attributes *attributes, struct stat *ret_stat);

/* The same for attributes of `inode` that stand now, which are given away. Under the lock. */
double attributes_validity(struct mount *m, struct inode *inode, struct instant now);

/*
 * An entry for the kernel: counts the lookup. Attributes get a validity when they stand now; those
 * that do not are those of the answer, for this once. The name gets none: name_validity(). Under the
 * lock, between mount_reply_begin() and _end().
 */
void entry_fill(struct mount *m, struct inode *child, const struct attributes *answered,
		struct fuse_entry_param *ret_entry);
/*
 * Seconds for which the kernel may keep that `name` leads to `child` (NULL: to nothing); 0 unless
 * that stands now, and always without --kernel-names. Not for the names of a listing: the kernel
 * stamps them with the epoch at which it takes them in, and not, as the answers to all else, with
 * that of the request, so that a late one would outlive the notification. Likewise.
 */
double name_validity(struct mount *m, struct inode *directory, struct slice name,
		     const struct inode *child);
/* Seconds for which something under the session may be given away now; 0: none. Under the lock. */
double validity(struct mount *m, struct instant now);

/* Answers the call's request, if it was not answered, with an errno; and ends the call. */
void reply_error(struct mount *m, struct call *call, int error);
/* The same with the number of bytes that the origin says, of a write or a copy. */
void reply_count(struct mount *m, struct call *call);
/* The same with the entry that `name` of the call's inode is; ends the answer, too. */
void reply_entry(struct mount *m, struct call *call, struct answer *answer, struct slice name);

/* Whether the prefix of our own xattrs begins this name. */
bool is_own_xattr(const char *name);

#endif
