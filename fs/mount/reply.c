#include "fs/mount/reply.h"

#include <errno.h>
#include <sys/stat.h>

#include "fs/mount/ops.h"
#include "fs/mount/rules.h"
#include "fs/mount/session.h"
#include "fs/mount/sync.h"
#include "fs/mount/write_back.h"

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

void answer_name(struct mount *m, const struct call *call, const struct answer_node *parent,
		 struct inode *directory, const struct slice *name, struct inode *child)
{
	uint64_t instance = 0;

	if (parent->present && parent->item.lease != LEASE_NONE &&
	    !holder_overtaken(m->holder, call->stamp, call->reply.recall_sequence,
			      INODE_HANDLE(directory), name))
		instance = holder_lease_held(m->holder, mount_now(), INODE_HANDLE(directory));
	/* With instance 0 it is a hint only: what unlink would take from under a descriptor that
	   is open here. An absent name is no hint. */
	if (instance || child)
		inode_name_set(m, directory, *name, child, instance);
	else
		inode_name_forget(m, directory, *name);
}

static void node_remember(struct mount *m, const struct call *call,
			  const struct answer_node *node)
{
	struct inode *inode = inode_find(m, &node->item.handle);

	if (!inode)
		return;
	/* True for ever, whoever says it and when. */
	if (node->item.attributes.mode & MARK_FINAL)
		inode->final = true;
	/* Without a lease they are only what was heard last: attributes.c. */
	if (node->instance || !inode_attributes_stand(m, inode, mount_now()))
		inode_set_attributes(m, inode, &node->item.attributes, node->instance);
	rules_heard(m, inode);
	if (node->instance && node->item.lease == LEASE_WRITE)
		write_back_granted(m, inode, call, node->instance);
	if (node->item.open)
		inode_live(inode)->open_registered = true;
}

void answer_work_in(struct mount *m, struct call *call, struct inode *directory,
		    const struct slice *name, struct answer *ret_answer)
{
	struct reader r = reader_of(call->reply.nodes.data, call->reply.nodes.length);
	struct answer_node *target = &ret_answer->nodes[NODE_TARGET];
	struct item_node node;

	memset(ret_answer, 0, sizeof(*ret_answer));
	sync_heard(m, call->reply.incarnation);
	while (item_node_read(&r, &node)) {
		struct answer_node *into;

		if (node.role >= NODE_ROLES || node.handle.length == 0)
			continue;
		into = &ret_answer->nodes[node.role];
		into->present = true;
		into->item = node;
		into->instance = answer_grant(m, call, &node);
	}
	if (target->present)
		ret_answer->child =
			inode_get(m, &target->item.handle, target->item.attributes.mode);
	for (unsigned role = 0; role < NODE_ROLES; role++)
		if (ret_answer->nodes[role].present)
			node_remember(m, call, &ret_answer->nodes[role]);
	if (directory && name && (ret_answer->child || call->status == STATUS_NOENT))
		answer_name(m, call, &ret_answer->nodes[NODE_DIRECTORY], directory, name,
			    ret_answer->child);
}

void answer_done(struct mount *m, struct answer *answer)
{
	if (!answer->child)
		return;
	pthread_mutex_lock(&m->lock);
	inode_unuse(m, answer->child);
	pthread_mutex_unlock(&m->lock);
	answer->child = NULL;
}

void attributes_stat(const struct attributes *a, struct stat *ret_stat)
{
	*ret_stat = (struct stat){
		.st_ino = a->inode,
		.st_mode = a->mode & ATTRIBUTE_MODE_MASK,
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

	if (m->unguarded)
		return 0;
	if (instant_before(m->given_until, instant_add(now, left)))
		m->given_until = instant_add(now, left);
	/* The kernel counts whole jiffies from its own clock: a little less is never too long. */
	return left.ns > 20 * NS_PER_MS ? (double)(left.ns - 20 * NS_PER_MS) / (double)NS_PER_S : 0;
}

double attributes_validity(struct mount *m, struct inode *inode, struct instant now)
{
	/* With attributes the kernel keeps access control lists: xattr.c. */
	if (inode->live->weak_acls > 0)
		return 0;
	inode_give_attributes(inode);
	return validity(m, now);
}

void entry_fill(struct mount *m, struct inode *child, const struct attributes *answered,
		struct fuse_entry_param *ret_entry)
{
	struct instant now = mount_now();
	struct attributes known;
	const struct attributes *attributes = inode_attributes(m, child, now, &known);

	*ret_entry = (struct fuse_entry_param){ .ino = child->nodeid, .generation = 1 };
	attributes_stat(attributes ? attributes : answered, &ret_entry->attr);
	if (attributes)
		ret_entry->attr_timeout = attributes_validity(m, child, now);
	inode_looked_up(m, child);
}

double name_validity(struct mount *m, struct inode *directory, struct slice name,
		     const struct inode *child)
{
	struct instant now = mount_now();
	struct inode *found;
	double seconds;

	if (!m->has_epoch || !inode_name_find(m, directory, name, now, &found) || found != child)
		return 0;
	seconds = validity(m, now);
	if (seconds > 0)
		inode_live(directory)->names_given = true;
	return seconds;
}

void reply_error(struct mount *m, struct call *call, int error)
{
	fuse_req_t request = call_take_request(m, call);

	call_destroy(m, call);
	if (request)
		fuse_reply_err(request, error);
}

void reply_count(struct mount *m, struct call *call)
{
	size_t count = call->reply.count;
	fuse_req_t request = call_take_request(m, call);

	call_destroy(m, call);
	if (request)
		fuse_reply_write(request, count);
}

void reply_entry(struct mount *m, struct call *call, struct answer *answer, struct slice name)
{
	struct fuse_entry_param entry;
	fuse_req_t request;
	unsigned token;

	if (!answer->child) {
		reply_error(m, call, answer->nodes[NODE_TARGET].present ? ENOMEM : EIO);
		return;
	}
	pthread_mutex_lock(&m->lock);
	request = call->request;
	call->request = NULL;
	token = mount_reply_begin(m);
	if (request) {
		entry_fill(m, answer->child, &answer->nodes[NODE_TARGET].item.attributes, &entry);
		entry.entry_timeout = name_validity(m, call->inode, name, answer->child);
		if (call->inode)
			sweep_saw_lookup(&m->sweep, call->inode->nodeid, entry.ino);
		/* Of an answer to what makes a name the kernel takes the attributes even when they
		   were invalidated meanwhile (it looks at versions for lookups only). */
		if (call->modifying)
			entry.attr_timeout = 0;
	}
	pthread_mutex_unlock(&m->lock);
	answer_done(m, answer);
	call_destroy(m, call);
	/* Refused: the caller was interrupted, and the kernel did not take the lookup. */
	if (request && fuse_reply_entry(request, &entry) < 0)
		op_forget_one(m, entry.ino, 1);
	mount_reply_end(m, token);
}

bool is_own_xattr(const char *name)
{
	return strncmp(name, "user.leasehold.", 15) == 0;
}
