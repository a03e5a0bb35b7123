#include <assert.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "fs/origin/service_private.h"

/*
 * Under the inode's lock nobody modifies it but those who do so behind our back. What they do after the
 * grant is recalled when it is noticed; what they did before it the look that follows sees. So an
 * answer comes with a lease only if what it says is what the inode was when it was granted.
 */
static int look_granted(struct task *t, struct inode *inode, enum lease_kind lease,
			const struct change *before, struct item_node *ret_node)
{
	bool outside, recalled;
	int error = store_look(t->store, inode, ret_node, &outside);

	if (error)
		return error;
	/* A recall that comes after the grant makes it void. */
	recalled = outside && service_outside(t->service, t->store, &ret_node->handle);
	if (!recalled && (outside || (before && !change_equal(*before, ret_node->change))))
		lease = LEASE_NONE;
	ret_node->lease = (uint8_t)lease;
	return 0;
}

/* The change of `inode` before something of it is read, for answer_node(). */
static int look_before(struct task *t, struct inode *inode, struct change *ret_change)
{
	bool outside;
	int error = store_change(t->store, inode, ret_change, &outside);

	if (!error && outside)
		(void)service_outside(t->service, t->store, &inode->identity.handle);
	return error;
}

/* Grants, looks at `inode` under its lock, and adds the node. `before`: what was read of it meanwhile
   is of this change or later; NULL: nothing was. */
static int answer_node(struct task *t, enum node_role role, struct inode *inode, uint64_t op,
		       const struct change *before, struct item_node *ret_node)
{
	enum lease_kind lease = task_grant(t, &inode->identity.handle, op);
	struct item_node node;
	int error = look_granted(t, inode, lease, before, &node);

	if (error)
		return error;
	task_add_node(t, role, &node);
	if (ret_node)
		*ret_node = node;
	return 0;
}

static void node_open(struct task *t, struct item_node *node)
{
	struct service *s = t->service;

	pthread_mutex_lock(&s->lock);
	node->open = authority_open(s->authority, (struct session_id){ t->message.common.session },
				    &node->handle) == STATUS_OK;
	pthread_mutex_unlock(&s->lock);
}

/* ---- lookup ---- */

/* The whole of a small file as bulk data, when that can be had. */
static void first_bytes(struct task *t, struct inode *inode, const struct item_node *node)
{
	uint64_t limit = t->message.lookup.data_bytes_max;
	uint32_t count;

	if (limit > BULK_BYTES_MAX)
		limit = BULK_BYTES_MAX;
	if (!S_ISREG(inode->type) || limit == 0 || node->attributes.size > limit)
		return;
	if (service_buffer(t->service, node->attributes.size, &t->bulk) < 0)
		return; /* the host reads it when it needs it */
	if (store_read(t->store, &t->caller, inode, 0, t->bulk.data,
		       (uint32_t)node->attributes.size, &count) < 0 ||
	    count != node->attributes.size)
		return;
	t->bulk.length = count;
	t->reply.eof = 1;
}

/* One attempt. -EAGAIN: what the name led to went away before it could be looked at. */
static int lookup_once(struct task *t, struct inode *directory)
{
	const struct message_lookup *m = &t->message.lookup;
	struct item_node node;
	struct inode *inode = NULL;
	struct change before;
	int found = 0, error;

	t->nodes.at = 0;
	store_lock_shared(t->store, directory);
	error = look_before(t, directory, &before);
	if (!error)
		found = store_lookup(t->store, &t->caller, directory, m->name, &inode);
	/* The directory's lease covers what the name leads to, also when that is nothing. */
	if (!error)
		error = found && found != -ENOENT ?
				found :
				answer_node(t, NODE_DIRECTORY, directory, 0, &before, NULL);
	store_unlock_shared(t->store, directory);
	if (!error && found == 0) {
		store_lock_shared(t->store, inode);
		error = answer_node(t, NODE_TARGET, inode, 0, NULL, &node);
		if (error == -ESTALE)
			error = -EAGAIN;
		else if (!error)
			first_bytes(t, inode, &node);
		store_unlock_shared(t->store, inode);
	}
	if (inode)
		store_put(t->store, inode);
	return error ? error : found;
}

static int lookup(struct task *t, struct inode *directory)
{
	int error = -EAGAIN;

	for (unsigned i = 0; error == -EAGAIN && i < LOOKUP_TRIES_MAX; i++)
		error = lookup_once(t, directory);
	return error == -EAGAIN ? -EBUSY : error;
}

/* ---- the rest ---- */

static int read_bytes(struct task *t, struct inode *inode, uint64_t op)
{
	const struct message_read *m = &t->message.read;
	struct item_node node;
	struct change before;
	uint32_t count = 0, zeros = 0, stored = 0;
	int error;

	if (m->count > BULK_BYTES_MAX)
		return -EINVAL;
	error = service_buffer(t->service, m->count, &t->bulk);
	if (error)
		return error;
	store_lock_shared(t->store, inode);
	error = look_before(t, inode, &before);
	/* What would be stored under the write lease could not be written back. */
	if (!error && t->acquire)
		error = service_check_sealed(t, inode);
	if (!error && (m->strict & READ_HOLES))
		error = store_read_sparse(t->store, &t->caller, inode, m->offset, t->bulk.data,
					  m->count, &zeros, &stored, &count);
	else if (!error)
		error = store_read(t->store, &t->caller, inode, m->offset, t->bulk.data, m->count,
				   &count);
	if (!error)
		error = answer_node(t, NODE_TARGET, inode, op, &before, &node);
	store_unlock_shared(t->store, inode);
	if (error)
		return error;
	t->bulk.length = m->strict & READ_HOLES ? stored : count;
	t->reply.offset = zeros;
	t->reply.eof = m->offset + count >= node.attributes.size;
	t->reply.count = count;
	if (t->request)
		server_request_set_group(t->request, inode->identity.key.words[0]);
	if (!t->reply.eof)
		store_read_ahead(t->store, inode, m->offset, count);
	return 0;
}

static enum lease_kind grant_entry(void *context, const struct handle *handle, bool outside)
{
	struct task *t = (struct task *)context;

	if (outside)
		(void)service_outside(t->service, t->store, handle);
	return task_grant(t, handle, 0);
}

static int readdir_entries(struct task *t, struct inode *directory)
{
	const struct message_readdir *m = &t->message.readdir;
	struct store_listing listing;
	struct writer w;
	int error;

	if (m->count > BULK_BYTES_MAX)
		return -EINVAL;
	error = service_buffer(t->service, m->count, &t->bulk);
	if (error)
		return error;
	w = writer_of(t->bulk.data, m->count);
	store_lock_shared(t->store, directory);
	/* The directory first: the sequence of the answer is that of the first grant, and names may be
	   newer than its change, but not older. */
	error = answer_node(t, NODE_DIRECTORY, directory, 0, NULL, NULL);
	if (!error)
		error = store_readdir(t->store, &t->caller, directory, m->cookie, &w,
				      m->attributes ? grant_entry : NULL, t, &listing);
	store_unlock_shared(t->store, directory);
	if (error)
		return error;
	t->bulk.length = w.at;
	t->reply.count = listing.count;
	t->reply.offset = listing.cookie;
	t->reply.eof = listing.eof;
	return 0;
}

/* With the write lease out, a hole may have been filled: then all of the file counts as data. */
static bool holes_are_known(struct task *t, struct inode *inode)
{
	struct service *s = t->service;
	bool known;

	pthread_mutex_lock(&s->lock);
	known = !authority_is_stored_elsewhere(s->authority, (struct session_id){ 0 },
					       &inode->identity.handle);
	pthread_mutex_unlock(&s->lock);
	return known;
}

static int seek(struct task *t, struct inode *inode)
{
	const struct message_seek *m = &t->message.seek;
	struct item_node node;
	struct change before;
	int error;

	store_lock_shared(t->store, inode);
	error = look_before(t, inode, &before);
	if (!error)
		error = store_seek(t->store, &t->caller, inode, m->offset, m->hole,
				   &t->reply.offset);
	if (!error || error == -ENXIO) {
		int looked = answer_node(t, NODE_TARGET, inode, 0, &before, &node);

		error = looked ? looked : error;
	}
	if ((!error || error == -ENXIO) && !holes_are_known(t, inode)) {
		error = m->offset < node.attributes.size ? 0 : -ENXIO;
		t->reply.offset = m->hole ? node.attributes.size : m->offset;
	}
	store_unlock_shared(t->store, inode);
	return error;
}

static int readlink_target(struct task *t, struct inode *inode)
{
	size_t length = 0;
	int error = service_buffer(t->service, LINK_TARGET_BYTES_MAX + 1, &t->bulk);

	if (error)
		return error;
	store_lock_shared(t->store, inode);
	/* Where a symbolic link leads to never changes. */
	error = store_readlink(t->store, inode, (char *)t->bulk.data, LINK_TARGET_BYTES_MAX + 1,
			       &length);
	if (!error)
		error = answer_node(t, NODE_TARGET, inode, 0, NULL, NULL);
	store_unlock_shared(t->store, inode);
	t->bulk.length = error ? 0 : length;
	return error;
}

static int xattr(struct task *t, struct inode *inode, uint32_t size, bool list)
{
	struct change before;
	size_t length = 0;
	int error;

	if (size > XATTR_BYTES_MAX)
		size = XATTR_BYTES_MAX;
	error = service_buffer(t->service, size, &t->bulk);
	if (error)
		return error;
	store_lock_shared(t->store, inode);
	error = look_before(t, inode, &before);
	if (!error && list)
		error = store_listxattr(t->store, &t->caller, inode, t->bulk.data, size, &length);
	else if (!error && slice_equal(t->message.getxattr.name, slice_of(SILENT_XATTR)))
		error = service_list_silent(t, inode, t->bulk.data, size, &length);
	else if (!error)
		error = store_getxattr(t->store, &t->caller, inode, t->message.getxattr.name,
				       t->bulk.data, size, &length);
	/* An absent attribute is an answer about the inode, too, and may be remembered. */
	if (!error || error == -ENODATA) {
		int looked = answer_node(t, NODE_TARGET, inode, 0, &before, NULL);

		error = looked ? looked : error;
	}
	store_unlock_shared(t->store, inode);
	if (error)
		return error;
	t->reply.count = (uint32_t)length;
	t->bulk.length = size ? length : 0;
	return 0;
}

static int open_inode(struct task *t, struct inode *inode)
{
	const struct message_open *m = &t->message.open;
	struct item_node node;
	int error;

	store_lock_shared(t->store, inode);
	error = store_access(t->store, &t->caller, inode, m->access, false);
	if (!error && (m->access & OPEN_ACCESS_WRITE))
		error = service_check_sealed(t, inode);
	if (!error)
		error = look_granted(t, inode, task_grant(t, &inode->identity.handle, 0), NULL,
				     &node);
	if (!error) {
		node_open(t, &node);
		if (node.open)
			task_add_node(t, NODE_TARGET, &node);
		else
			error = -EAGAIN; /* PUSHBACK: no room to register it */
	}
	store_unlock_shared(t->store, inode);
	return error;
}

static void close_inode(struct task *t)
{
	struct service *s = t->service;

	service_lock(s);
	authority_close(s->authority, service_now(),
			(struct session_id){ t->message.common.session },
			t->message.common.sequence, &t->message.close.handle, &s->actions);
	(void)service_unlock(s, NULL);
}

static int statfs_answer(struct task *t, struct inode *inode)
{
	struct item_statfs statfs;
	struct writer w;
	int error = store_statfs(t->store, inode, &statfs);

	if (!error)
		error = service_buffer(t->service, 256, &t->bulk);
	if (error)
		return error;
	w = writer_of(t->bulk.data, 256);
	item_statfs_write(&w, &statfs);
	t->bulk.length = w.at;
	return 0;
}

static int sync_inode(struct task *t, struct inode *inode)
{
	struct synced synced;
	int error = store_fsync(t->store, inode, t->message.fsync.data_only, &synced);

	t->reply.incarnation = synced.incarnation;
	t->reply.offset = synced.failed;
	return error;
}

static const struct handle *handle_of(const struct message *m)
{
	switch (m->type) {
	case MESSAGE_lookup:
		return &m->lookup.directory;
	case MESSAGE_getattr:
		return &m->getattr.handle;
	case MESSAGE_read:
		return &m->read.handle;
	case MESSAGE_open:
		return &m->open.handle;
	case MESSAGE_readdir:
		return &m->readdir.directory;
	case MESSAGE_readlink:
		return &m->readlink.handle;
	case MESSAGE_statfs:
		return &m->statfs.handle;
	case MESSAGE_fsync:
		return &m->fsync.handle;
	case MESSAGE_getxattr:
		return &m->getxattr.handle;
	case MESSAGE_listxattr:
		return &m->listxattr.handle;
	case MESSAGE_seek:
		return &m->seek.handle;
	default:
		return NULL;
	}
}

static int answer(struct task *t, struct inode *inode)
{
	int error;

	switch (t->message.type) {
	case MESSAGE_lookup:
		return lookup(t, inode);
	case MESSAGE_getattr:
		store_lock_shared(t->store, inode);
		error = answer_node(t, NODE_TARGET, inode, 0, NULL, NULL);
		store_unlock_shared(t->store, inode);
		return error;
	case MESSAGE_read:
		return read_bytes(t, inode, 0);
	case MESSAGE_open:
		return open_inode(t, inode);
	case MESSAGE_readdir:
		return readdir_entries(t, inode);
	case MESSAGE_readlink:
		return readlink_target(t, inode);
	case MESSAGE_statfs:
		return statfs_answer(t, inode);
	case MESSAGE_fsync:
		return sync_inode(t, inode);
	case MESSAGE_getxattr:
		return xattr(t, inode, t->message.getxattr.size, false);
	case MESSAGE_seek:
		return seek(t, inode);
	default:
		return xattr(t, inode, t->message.listxattr.size, true);
	}
}

static void drop_bulk(struct task *t)
{
	if (t->bulk.release)
		t->bulk.release(t->bulk.context, t->bulk.data);
	t->bulk = (struct server_bulk){ .data = NULL };
}

static void begin_strict(struct task *t)
{
	uint32_t ms = t->message.common.deadline_ms;

	if (ms == 0 || ms > DEADLINE_MS_MAX)
		ms = ms ? DEADLINE_MS_MAX : DEADLINE_MS_DEFAULT;
	t->op = (struct authority_op){
		.kind = t->acquire ? AUTHORITY_ACQUIRE : AUTHORITY_READ_STRICT,
		.session = { t->message.common.session },
		.deadline = instant_add(t->view.arrived, duration_ms(ms)),
		.target_count = 1,
		.targets = { { .handle = t->inodes[TASK_TARGET]->identity.handle,
			       .scope = RECALL_ALL } },
	};
	if (service_begin(t))
		service_read_run(t);
}

void service_read_run(struct task *t)
{
	struct service *s = t->service;
	int error = read_bytes(t, t->inodes[TASK_TARGET], t->op.id);

	service_lock(s);
	authority_finish(s->authority, service_now(), t->op.id, false, &s->actions);
	service_task_over(t);
	(void)service_unlock(s, NULL);
	if (error)
		drop_bulk(t);
	task_forget_inodes(t);
	task_reply(t, service_task_status(t, error));
}

bool service_read_request(struct task *t)
{
	const struct handle *handle = handle_of(&t->message);
	int error;

	if (t->message.type == MESSAGE_close) {
		close_inode(t);
		task_reply(t, STATUS_OK);
		return true;
	}
	if (!handle || (t->message.type == MESSAGE_open && t->message.open.truncate))
		return false;
	error = store_get(t->store, handle, &t->inodes[TASK_TARGET]);
	if (!error && t->acquire)
		error = service_check_sealed(t, t->inodes[TASK_TARGET]);
	if (!error && t->message.type == MESSAGE_read && (t->message.read.strict & READ_STRICT)) {
		begin_strict(t);
		return true;
	}
	if (!error)
		error = answer(t, t->inodes[TASK_TARGET]);
	if (error)
		drop_bulk(t);
	task_forget_inodes(t); /* whoever removes it next is the last who has it */
	task_reply(t, service_task_status(t, error));
	return true;
}
