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
};

/*
 * Decodes the nodes of an answered call and tells the holder of their grants. For calls that
 * modified something modify_end() comes first. Under the lock.
 */
void answer_work_in(struct mount *m, struct call *call, struct answer *ret_answer);
/* The same for one node of a listing. */
uint64_t answer_grant(struct mount *m, const struct call *call, const struct item_node *node);
/* The inode of a node, with a use, its attributes remembered when the lease allows. Under the
   lock. NULL: no memory. */
struct inode *answer_inode(struct mount *m, const struct answer_node *node);

void attributes_stat(const struct attributes *attributes, uint64_t number, struct stat *ret_stat);
/* The st_ino that users see: the origin's. */

/*
 * An entry for the kernel: counts the lookup, sets the timeouts by what stands now. `instance`:
 * of the directory's lease under which the name is remembered, 0: none. Under the lock, between
 * mount_reply_begin() and _end().
 */
void entry_fill(struct mount *m, struct inode *directory, uint64_t instance, struct inode *child,
		const struct attributes *attributes, uint64_t attributes_instance,
		struct fuse_entry_param *ret_entry);
/* Seconds for which something under the session may be given away now; 0: none. Under the lock. */
double validity(struct mount *m, struct instant now);

/* Answers the call's request, if it was not answered, with an errno; and ends the call. */
void reply_error(struct mount *m, struct call *call, int error);
/* The same with the entry that NODE_TARGET of the answer is, under NODE_DIRECTORY. */
void reply_entry(struct mount *m, struct call *call, const struct answer *answer,
		 struct slice name);

/* Whether the prefix of our own xattrs begins this name. */
bool is_own_xattr(const char *name);

#endif
