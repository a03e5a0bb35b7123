#include "fs/mount/reply.h"

#include <errno.h>
#include <sys/stat.h>

#include "fs/mount/session.h"

uint64_t answer_grant(struct mount *m, const struct call *call, const struct item_node *node)
{
	struct holder_actions actions = session_actions();
	uint64_t instance = 0;

	if (node->lease != LEASE_NONE)
		instance = holder_grant(m->holder, mount_now(), call->stamp,
					call->reply.recall_sequence, &node->handle, node->change,
					&actions);
	session_act(m, &actions);
	return instance;
}

void answer_work_in(struct mount *m, struct call *call, struct answer *ret_answer)
{
	struct reader r = reader_of(call->reply.nodes.data, call->reply.nodes.length);
	struct item_node node;

	memset(ret_answer, 0, sizeof(*ret_answer));
	if (call->reply.incarnation)
		m->incarnation = call->reply.incarnation;
	while (item_node_read(&r, &node)) {
		struct answer_node *into;

		if (node.role >= NODE_ROLES || node.handle.length == 0)
			continue;
		into = &ret_answer->nodes[node.role];
		into->present = true;
		into->item = node;
		into->instance = answer_grant(m, call, &node);
		if (node.open) {
			struct inode *inode = inode_find(m, &node.handle);

			if (inode)
				inode->open_registered = true;
		}
	}
}

struct inode *answer_inode(struct mount *m, const struct answer_node *node)
{
	struct inode *inode = inode_get(m, &node->item.handle, node->item.attributes.mode);

	if (inode && node->instance)
		inode_set_attributes(inode, &node->item.attributes, node->instance);
	return inode;
}

void attributes_stat(const struct attributes *a, uint64_t number, struct stat *ret_stat)
{
	*ret_stat = (struct stat){
		.st_ino = number,
		.st_mode = a->mode,
		.st_nlink = a->nlink,
		.st_uid = a->uid,
		.st_gid = a->gid,
		.st_rdev = a->rdev,
		.st_size = (off_t)a->size,
		.st_blocks = (blkcnt_t)a->blocks,
		.st_blksize = 1 << 20,
		.st_atim = { (time_t)a->atime_s, a->atime_ns },
		.st_mtim = { (time_t)a->mtime_s, a->mtime_ns },
		.st_ctim = { (time_t)a->ctime_s, a->ctime_ns },
	};
}

double validity(struct mount *m, struct instant now)
{
	struct duration left = holder_remaining(m->holder, now);

	/* The kernel counts whole jiffies from its own clock: a little less is never too long. */
	return left.ns > 20 * NS_PER_MS ? (double)(left.ns - 20 * NS_PER_MS) / (double)NS_PER_S : 0;
}

void entry_fill(struct mount *m, struct inode *directory, uint64_t instance, struct inode *child,
		const struct attributes *attributes, uint64_t attributes_instance,
		struct fuse_entry_param *ret_entry)
{
	struct instant now = mount_now();
	double seconds = validity(m, now);

	*ret_entry = (struct fuse_entry_param){ .ino = child->nodeid, .generation = 1 };
	attributes_stat(attributes, attributes->inode, &ret_entry->attr);
	if (m->has_epoch && instance &&
	    instance == holder_lease(m->holder, now, &directory->handle)) {
		ret_entry->entry_timeout = seconds;
		directory->names_given = true;
	}
	if (attributes_instance &&
	    attributes_instance == holder_lease(m->holder, now, &child->handle)) {
		ret_entry->attr_timeout = seconds;
		child->attributes_given = true;
	}
	inode_looked_up(m, child);
}

void reply_error(struct mount *m, struct call *call, int error)
{
	fuse_req_t request = call_take_request(m, call);

	call_destroy(m, call);
	if (request)
		fuse_reply_err(request, error);
}

void reply_entry(struct mount *m, struct call *call, const struct answer *answer, struct slice name)
{
	const struct answer_node *target = &answer->nodes[NODE_TARGET];
	const struct answer_node *parent = &answer->nodes[NODE_DIRECTORY];
	struct inode *directory = call->inode;
	struct fuse_entry_param entry;
	struct inode *child = NULL;
	fuse_req_t request;
	uint64_t instance = 0;
	unsigned token = 0;

	if (!target->present) {
		reply_error(m, call, EIO);
		return;
	}
	pthread_mutex_lock(&m->lock);
	request = call->request;
	call->request = NULL;
	child = answer_inode(m, target);
	if (child && directory) {
		/* The name may be remembered when the directory's lease rode on this answer, or
		   stood already, and no recall of this name overtook it. */
		if (parent->present && parent->item.lease != LEASE_NONE &&
		    !holder_overtaken(m->holder, call->stamp, call->reply.recall_sequence,
				      &directory->handle, &name))
			instance = holder_lease_held(m->holder, mount_now(), &directory->handle);
		/* With instance 0 it is a hint only: what unlink would take from under a
		   descriptor that is open here. */
		inode_name_set(m, directory, name, child, instance);
	}
	if (child && request) {
		token = mount_reply_begin(m);
		entry_fill(m, directory, instance, child, &target->item.attributes,
			   target->instance, &entry);
	}
	if (child)
		inode_unuse(m, child);
	pthread_mutex_unlock(&m->lock);
	call_destroy(m, call);
	if (!request)
		return;
	if (!child) {
		fuse_reply_err(request, ENOMEM);
		return;
	}
	if (fuse_reply_entry(request, &entry) < 0) {
		/* The caller was interrupted and the kernel did not take the lookup. */
		pthread_mutex_lock(&m->lock);
		child = inode_by_nodeid(m, entry.ino);
		if (child)
			inode_forget(m, child, 1);
		pthread_mutex_unlock(&m->lock);
	}
	mount_reply_end(m, token);
}

bool is_own_xattr(const char *name)
{
	return strncmp(name, "user.leasehold.", 15) == 0;
}
