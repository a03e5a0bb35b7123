#include <errno.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "fs/mount/inode.h"
#include "fs/mount/memory.h"
#include "fs/mount/modify.h"
#include "fs/mount/nodeids.h"
#include "fs/mount/ops.h"
#include "fs/mount/prefetch.h"
#include "fs/mount/read.h"
#include "fs/mount/reply.h"
#include "fs/mount/session.h"

static struct mount *mount_of(fuse_req_t request)
{
	return fuse_req_userdata(request);
}

struct call *op_call(fuse_req_t request, fuse_ino_t nodeid, enum message_type type)
{
	struct mount *m = mount_of(request);
	struct inode *inode;
	struct call *call;

	COUNT(m, requests);
	memory_wait(m);
	call = call_new(m, request, type);
	if (!call) {
		fuse_reply_err(request, EAGAIN);
		return NULL;
	}
	prefetch_demand(m, request);
	pthread_mutex_lock(&m->lock);
	inode = inode_by_nodeid(m, nodeid);
	if (inode) {
		inode_use(m, inode);
		call->inode = inode;
	}
	pthread_mutex_unlock(&m->lock);
	if (!inode)
		reply_error(m, call, ESTALE);
	return inode ? call : NULL;
}

bool op_refuse_change(fuse_req_t request)
{
	if (!mount_of(request)->read_only)
		return false;
	fuse_reply_err(request, EROFS);
	return true;
}

static bool name_fits(fuse_req_t request, const char *name)
{
	if (strlen(name) <= NAME_BYTES_MAX)
		return true;
	fuse_reply_err(request, ENAMETOOLONG);
	return false;
}

/* ---- lookup ---- */

static void lookup_absent(struct mount *m, struct call *call, struct slice name)
{
	struct fuse_entry_param absent = { 0 };
	fuse_req_t request;
	unsigned token;

	pthread_mutex_lock(&m->lock);
	absent.entry_timeout = name_validity(m, call->inode, name, NULL);
	request = call->request;
	call->request = NULL;
	token = mount_reply_begin(m);
	pthread_mutex_unlock(&m->lock);
	call_destroy(m, call);
	if (request && absent.entry_timeout > 0)
		fuse_reply_entry(request, &absent);
	else if (request)
		fuse_reply_err(request, ENOENT);
	mount_reply_end(m, token);
}

static void lookup_work(struct mount *m, struct call *call)
{
	struct slice name = slice_of(call->names[0]);
	const struct answer_node *target;
	struct answer answer;
	struct access told;

	if (call->status != STATUS_OK && call->status != STATUS_NOENT) {
		reply_error(m, call, call_errno(call));
		return;
	}
	pthread_mutex_lock(&m->lock);
	answer_work_in(m, call, call->inode, &name, &answer);
	told = (struct access){ .type = ACCESS_LOOKUP, .name = name, .directory = call->inode->nodeid };
	prefetch_access(m, call->request, answer.child, &told);
	pthread_mutex_unlock(&m->lock);
	target = &answer.nodes[NODE_TARGET];
	if (call->status == STATUS_NOENT) {
		answer_done(m, &answer);
		/* `name` is the call's own. */
		lookup_absent(m, call, name);
		return;
	}
	/* The whole of a small file came along. */
	if (call->reply.eof && target->instance && answer.child)
		(void)read_keep(m, answer.child, target->item.change, 0, call->data);
	reply_entry(m, call, &answer, name);
}

/* The same when nobody waits for it. */
static void lookup_fetched(struct mount *m, struct call *call)
{
	struct slice name = slice_of(call->names[0]);
	const struct answer_node *target = NULL;
	struct answer answer;

	if (call->status == STATUS_OK || call->status == STATUS_NOENT) {
		pthread_mutex_lock(&m->lock);
		answer_work_in(m, call, call->inode, &name, &answer);
		pthread_mutex_unlock(&m->lock);
		target = &answer.nodes[NODE_TARGET];
		if (call->reply.eof && target->instance && answer.child)
			(void)read_keep(m, answer.child, target->item.change, 0, call->data);
	}
	prefetch_ended(m, call->unit, target != NULL,
		       target && target->instance ? answer.child : NULL);
	if (target)
		answer_done(m, &answer);
	call_destroy(m, call);
}

static void lookup_message(struct call *call, const char *name)
{
	call->message.lookup.directory = inode_handle(call->inode);
	call->message.lookup.name = call_name(call, 0, name);
	call->message.lookup.data_bytes_max = SMALL_FILE_BYTES_MAX;
}

bool lookup_fetch(struct mount *m, struct inode *directory, const char *name,
		  const struct credential *credential, struct prefetch_unit *unit)
{
	struct call *call = call_new(m, NULL, MESSAGE_lookup);

	if (!call)
		return false;
	call->ahead = true;
	call->unit = unit;
	call->ends_when_away = true;
	call_limit(call);
	call->message.common.credential = *credential;
	call_set_inode(m, call, directory);
	lookup_message(call, name);
	call_send(m, call, lookup_fetched);
	return true;
}

/* True when the lookup was answered from memory. */
static bool lookup_cached(struct mount *m, fuse_req_t request, fuse_ino_t parent, const char *name)
{
	const struct attributes *attributes;
	struct attributes heard;
	struct fuse_entry_param entry = { 0 };
	struct instant now = mount_now();
	struct inode *directory, *child = NULL;
	unsigned token;

	pthread_mutex_lock(&m->lock);
	directory = inode_by_nodeid(m, parent);
	if (!directory || !inode_name_find(m, directory, slice_of(name), now, &child)) {
		pthread_mutex_unlock(&m->lock);
		return false;
	}
	attributes = child ? inode_attributes(m, child, now, &heard) : NULL;
	if (child && !attributes) {
		pthread_mutex_unlock(&m->lock);
		return false;
	}
	token = mount_reply_begin(m);
	if (child) {
		entry_fill(m, child, attributes, &entry);
		sweep_saw_lookup(&m->sweep, parent, child->nodeid);
	}
	entry.entry_timeout = name_validity(m, directory, slice_of(name), child);
	pthread_mutex_unlock(&m->lock);
	COUNT(m, lookups_cached);
	if (!child && entry.entry_timeout <= 0)
		fuse_reply_err(request, ENOENT);
	else if (fuse_reply_entry(request, &entry) < 0 && child)
		op_forget_one(m, entry.ino, 1);
	mount_reply_end(m, token);
	return true;
}

/* ---- file handles: "." and ".." of a nodeid, which name nothing that could be remembered ---- */

static void dots_work(struct mount *m, struct call *call)
{
	struct answer answer;

	if (call->status != STATUS_OK) {
		reply_error(m, call, call_errno(call));
		return;
	}
	pthread_mutex_lock(&m->lock);
	answer_work_in(m, call, NULL, NULL, &answer);
	if (!call->inode && answer.child) {
		inode_use(m, answer.child);
		call->inode = answer.child;
	}
	pthread_mutex_unlock(&m->lock);
	reply_entry(m, call, &answer, slice_of(call->names[0]));
}

/* The inode itself, which the kernel has forgotten, and this mount may never have known. */
static void lookup_self(fuse_req_t request, fuse_ino_t nodeid)
{
	struct mount *m = mount_of(request);
	struct handle handle;
	struct inode *inode;
	struct call *call;

	COUNT(m, requests);
	pthread_mutex_lock(&m->lock);
	inode = inode_by_nodeid(m, nodeid);
	if (inode)
		handle = inode_handle(inode);
	pthread_mutex_unlock(&m->lock);
	if (!inode && !nodeids_find(m->nodeids, nodeid, &handle)) {
		fuse_reply_err(request, ESTALE);
		return;
	}
	call = call_new(m, request, MESSAGE_getattr);
	if (!call) {
		fuse_reply_err(request, EAGAIN);
		return;
	}
	call_limit(call);
	(void)call_name(call, 0, ".");
	call->message.getattr.handle = handle;
	call_send(m, call, dots_work);
}

static void lookup_parent(fuse_req_t request, fuse_ino_t nodeid)
{
	struct call *call = op_call(request, nodeid, MESSAGE_lookup);

	if (!call)
		return;
	call_limit(call);
	call->message.lookup.directory = inode_handle(call->inode);
	call->message.lookup.name = call_name(call, 0, "..");
	call_send(mount_of(request), call, dots_work);
}

void op_lookup(fuse_req_t request, fuse_ino_t parent, const char *name)
{
	struct mount *m = mount_of(request);
	struct call *call;

	if (strcmp(name, ".") == 0) {
		lookup_self(request, parent);
		return;
	}
	if (strcmp(name, "..") == 0) {
		lookup_parent(request, parent);
		return;
	}
	if (!name_fits(request, name) || lookup_cached(m, request, parent, name))
		return;
	call = op_call(request, parent, MESSAGE_lookup);
	if (!call)
		return;
	call_limit(call);
	lookup_message(call, name);
	call_send(m, call, lookup_work);
}

void op_forget_one(struct mount *m, uint64_t nodeid, uint64_t count)
{
	struct inode *inode;

	pthread_mutex_lock(&m->lock);
	inode = inode_by_nodeid(m, nodeid);
	if (inode)
		inode_forget(m, inode, count);
	pthread_mutex_unlock(&m->lock);
}

void op_forget(fuse_req_t request, fuse_ino_t nodeid, uint64_t count)
{
	op_forget_one(mount_of(request), nodeid, count);
	fuse_reply_none(request);
}

void op_forget_multi(fuse_req_t request, size_t count, struct fuse_forget_data *forgets)
{
	for (size_t i = 0; i < count; i++)
		op_forget_one(mount_of(request), forgets[i].ino, forgets[i].nlookup);
	fuse_reply_none(request);
}

/* ---- making names ---- */

static void make_work(struct mount *m, struct call *call)
{
	struct change before, after;
	struct answer answer;

	modify_end(m, call, &answer, &before, &after);
	if (call->status != STATUS_OK) {
		answer_done(m, &answer);
		reply_error(m, call, call_errno(call));
		return;
	}
	reply_entry(m, call, &answer, slice_of(call->names[0]));
}

static void make(struct mount *m, struct call *call)
{
	/* An absent name may have been given to the kernel: it goes, too. */
	const struct modify_scope scope = { .names = true };

	call_limit(call);
	modify_send(m, call, &scope, make_work);
}

void op_mknod(fuse_req_t request, fuse_ino_t parent, const char *name, mode_t mode, dev_t rdev)
{
	struct call *call;

	if (op_refuse_change(request) || !name_fits(request, name))
		return;
	call = op_call(request, parent, MESSAGE_mknod);
	if (!call)
		return;
	call->message.mknod.directory = inode_handle(call->inode);
	call->message.mknod.name = call_name(call, 0, name);
	call->message.mknod.mode = MODE_WITH_UMASK(mode, fuse_req_ctx(request)->umask);
	call->message.mknod.rdev = rdev;
	make(mount_of(request), call);
}

void op_mkdir(fuse_req_t request, fuse_ino_t parent, const char *name, mode_t mode)
{
	op_mknod(request, parent, name, S_IFDIR | (mode & ~(mode_t)S_IFMT), 0);
}

void op_symlink(fuse_req_t request, const char *target, fuse_ino_t parent, const char *name)
{
	struct mount *m = mount_of(request);
	size_t length = strlen(target);
	struct call *call;

	if (op_refuse_change(request) || !name_fits(request, name))
		return;
	if (length > LINK_TARGET_BYTES_MAX) {
		fuse_reply_err(request, ENAMETOOLONG);
		return;
	}
	call = op_call(request, parent, MESSAGE_symlink);
	if (!call)
		return;
	call->bytes = malloc(length + 1);
	if (!call->bytes) {
		reply_error(m, call, ENOMEM);
		return;
	}
	memcpy(call->bytes, target, length + 1);
	call->message.symlink.directory = inode_handle(call->inode);
	call->message.symlink.name = call_name(call, 0, name);
	call->message.symlink.target = (struct slice){ call->bytes, length };
	make(m, call);
}

/* The inode of another nodeid into *into, with a use. False: the request was answered. */
static bool add_inode(struct mount *m, struct call *call, fuse_ino_t nodeid, struct inode **into)
{
	struct inode *inode;

	pthread_mutex_lock(&m->lock);
	inode = inode_by_nodeid(m, nodeid);
	if (inode) {
		inode_use(m, inode);
		*into = inode;
	}
	pthread_mutex_unlock(&m->lock);
	if (!inode)
		reply_error(m, call, ESTALE);
	return inode != NULL;
}

void op_link(fuse_req_t request, fuse_ino_t nodeid, fuse_ino_t parent, const char *name)
{
	struct call *call;

	if (op_refuse_change(request) || !name_fits(request, name))
		return;
	call = op_call(request, parent, MESSAGE_link);
	if (!call || !add_inode(mount_of(request), call, nodeid, &call->child))
		return;
	call->message.link.directory = inode_handle(call->inode);
	call->message.link.handle = inode_handle(call->child);
	call->message.link.name = call_name(call, 0, name);
	make(mount_of(request), call);
}

/* ---- create ---- */

static void create_reply(struct mount *m, struct call *call, struct answer *answer,
			 struct open_file *file, struct fuse_file_info *info)
{
	struct fuse_entry_param entry;
	fuse_req_t request;
	unsigned token;
	bool taken;

	pthread_mutex_lock(&m->lock);
	request = call->request;
	call->request = NULL;
	token = mount_reply_begin(m);
	if (request) {
		entry_fill(m, answer->child, &answer->nodes[NODE_TARGET].item.attributes, &entry);
		entry.entry_timeout = name_validity(m, call->inode, slice_of(call->names[0]),
						    answer->child);
		entry.attr_timeout = 0; /* as in reply_entry() */
	}
	pthread_mutex_unlock(&m->lock);
	answer_done(m, answer);
	call_destroy(m, call);
	taken = request && fuse_reply_create(request, &entry, info) == 0;
	if (request && !taken)
		op_forget_one(m, entry.ino, 1);
	mount_reply_end(m, token);
	if (!taken)
		data_open_undo(m, file);
}

static void create_work(struct mount *m, struct call *call)
{
	struct fuse_file_info info = call->file_info;
	struct change before, after;
	struct open_file *file;
	struct answer answer;
	int error = 0;

	modify_end(m, call, &answer, &before, &after);
	if (call->status != STATUS_OK)
		error = call_errno(call);
	else if (!answer.child)
		error = EIO;
	else
		error = -data_open(m, answer.child, &call->message.common.credential, &info,
				   &file);
	if (error) {
		answer_done(m, &answer);
		reply_error(m, call, error);
		return;
	}
	/* What it registered, it registered for a session that is no more. */
	pthread_mutex_lock(&m->lock);
	if (call->session.value != holder_session(m->holder).value)
		session_claim_open(m, answer.child);
	pthread_mutex_unlock(&m->lock);
	create_reply(m, call, &answer, file, &info);
}

void op_create(fuse_req_t request, fuse_ino_t parent, const char *name, mode_t mode,
	       struct fuse_file_info *info)
{
	const struct modify_scope scope = { .names = true };
	struct mount *m = mount_of(request);
	struct call *call;

	if (op_refuse_change(request) || !name_fits(request, name))
		return;
	call = op_call(request, parent, MESSAGE_create);
	if (!call)
		return;
	call->file_info = *info;
	call->message.create.directory = inode_handle(call->inode);
	call->message.create.name = call_name(call, 0, name);
	call->message.create.mode = MODE_WITH_UMASK(mode, fuse_req_ctx(request)->umask) |
				    data_access(info->flags) << MODE_ACCESS_SHIFT;
	call->message.create.exclusive = (info->flags & O_EXCL) != 0;
	call->message.create.truncate = (info->flags & O_TRUNC) != 0;
	call_limit(call);
	modify_send(m, call, &scope, create_work);
}

/* What has no name has no entry in its directory: that is not modified. */
void op_tmpfile(fuse_req_t request, fuse_ino_t parent, mode_t mode, struct fuse_file_info *info)
{
	const struct modify_scope scope = { 0 };
	struct mount *m = mount_of(request);
	struct call *call;

	if (op_refuse_change(request))
		return;
	call = op_call(request, parent, MESSAGE_tmpfile);
	if (!call)
		return;
	call->file_info = *info;
	call->message.tmpfile.directory = inode_handle(call->inode);
	call->message.tmpfile.mode = MODE_WITH_UMASK(mode, fuse_req_ctx(request)->umask);
	call_limit(call);
	modify_send(m, call, &scope, create_work);
}

/* ---- taking names away ---- */

/* What a name is known to lead to, with a use, whether or not its lease still stands. */
static struct inode *known_child(struct mount *m, struct inode *directory, const char *name)
{
	const struct name_entry *entry = name_table_find(&directory->live->names, slice_of(name));

	if (!entry || !entry->child)
		return NULL;
	inode_use(m, entry->child);
	return entry->child;
}

static void remove_work(struct mount *m, struct call *call)
{
	struct change before, after;
	struct answer answer;

	modify_end(m, call, &answer, &before, &after);
	answer_done(m, &answer);
	reply_error(m, call, call->status == STATUS_OK ? 0 : call_errno(call));
}

static void remove_name(fuse_req_t request, fuse_ino_t parent, const char *name, bool is_directory)
{
	const struct modify_scope scope = { .names = true };
	struct mount *m = mount_of(request);
	struct call *call;

	if (op_refuse_change(request) || !name_fits(request, name))
		return;
	call = op_call(request, parent, MESSAGE_unlink);
	if (!call)
		return;
	pthread_mutex_lock(&m->lock);
	call->child = known_child(m, call->inode, name);
	pthread_mutex_unlock(&m->lock);
	call->message.unlink.directory = inode_handle(call->inode);
	call->message.unlink.name = call_name(call, 0, name);
	call->message.unlink.is_directory = is_directory;
	call_limit(call);
	modify_send(m, call, &scope, remove_work);
}

void op_unlink(fuse_req_t request, fuse_ino_t parent, const char *name)
{
	remove_name(request, parent, name, false);
}

void op_rmdir(fuse_req_t request, fuse_ino_t parent, const char *name)
{
	remove_name(request, parent, name, true);
}

void op_rename(fuse_req_t request, fuse_ino_t parent, const char *name, fuse_ino_t new_parent,
	       const char *new_name, unsigned flags)
{
	const struct modify_scope scope = { .names = true };
	struct mount *m = mount_of(request);
	struct inode *to;
	struct call *call;

	if (op_refuse_change(request) || !name_fits(request, name) ||
	    !name_fits(request, new_name))
		return;
	if (flags & ~(unsigned)(RENAME_FLAG_NOREPLACE | RENAME_FLAG_EXCHANGE)) {
		fuse_reply_err(request, EINVAL);
		return;
	}
	call = op_call(request, parent, MESSAGE_rename);
	if (!call || (new_parent != parent && !add_inode(m, call, new_parent, &call->inode2)))
		return;
	to = call->inode2 ? call->inode2 : call->inode;
	pthread_mutex_lock(&m->lock);
	call->child = known_child(m, call->inode, name);
	call->child2 = known_child(m, to, new_name);
	if (call->child2 && call->child2 == call->child) {
		inode_unuse(m, call->child2);
		call->child2 = NULL;
	}
	pthread_mutex_unlock(&m->lock);
	call->message.rename.directory = inode_handle(call->inode);
	call->message.rename.name = call_name(call, 0, name);
	call->message.rename.new_directory = inode_handle(to);
	call->message.rename.new_name = call_name(call, 1, new_name);
	call->message.rename.flags = flags;
	call_limit(call);
	modify_send(m, call, &scope, remove_work);
}
