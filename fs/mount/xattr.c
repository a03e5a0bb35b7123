#include <errno.h>
#include <stdlib.h>
#include <sys/xattr.h>

#include "fs/mount/inode.h"
#include "fs/mount/modify.h"
#include "fs/mount/ops.h"
#include "fs/mount/reply.h"
#include "fs/mount/status.h"

/* Names that the kernel and ls ask for all the time; that they are absent is remembered. */
static uint32_t well_known(const char *name)
{
	static const char *const names[] = {
		"security.capability",
		"security.selinux",
		"system.posix_acl_access",
		"system.posix_acl_default",
	};

	for (unsigned i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (strcmp(name, names[i]) == 0)
			return 1u << i;
	return 0;
}

static void reply_value(fuse_req_t request, const void *value, size_t length, size_t size)
{
	if (size == 0)
		fuse_reply_xattr(request, length);
	else if (length > size)
		fuse_reply_err(request, ERANGE);
	else
		fuse_reply_buf(request, value, length);
}

static void own_xattr(struct mount *m, fuse_req_t request, fuse_ino_t nodeid, const char *name,
		      size_t size)
{
	struct inode *inode;
	char *text = NULL;
	int r;

	pthread_mutex_lock(&m->lock);
	inode = inode_by_nodeid(m, nodeid);
	if (inode)
		inode_use(m, inode);
	pthread_mutex_unlock(&m->lock);
	if (!inode) {
		fuse_reply_err(request, ESTALE);
		return;
	}
	r = status_xattr(m, inode, name, &text);
	pthread_mutex_lock(&m->lock);
	inode_unuse(m, inode);
	pthread_mutex_unlock(&m->lock);
	if (r < 0)
		fuse_reply_err(request, -r);
	else
		reply_value(request, text, strlen(text), size);
	free(text);
}

static void getxattr_work(struct mount *m, struct call *call)
{
	size_t size = call->size, needed = call->reply.count;
	fuse_req_t request;
	struct answer answer;

	if (call->status == STATUS_NODATA || call->status == STATUS_NOTSUP) {
		uint32_t bit = well_known(call->names[0]);

		pthread_mutex_lock(&m->lock);
		answer_work_in(m, call, NULL, NULL, &answer);
		if (bit && answer.nodes[NODE_TARGET].instance) {
			uint64_t instance = answer.nodes[NODE_TARGET].instance;

			if (call->inode->no_xattrs_instance != instance)
				call->inode->no_xattrs = 0;
			call->inode->no_xattrs_instance = instance;
			call->inode->no_xattrs |= bit;
		}
		pthread_mutex_unlock(&m->lock);
		answer_done(m, &answer);
	}
	if (call->status != STATUS_OK) {
		reply_error(m, call, call_errno(call));
		return;
	}
	request = call_take_request(m, call);
	if (request && size == 0)
		fuse_reply_xattr(request, needed);
	else if (request)
		reply_value(request, call->data.data, call->data.length, size);
	call_destroy(m, call);
}

void op_getxattr(fuse_req_t request, fuse_ino_t nodeid, const char *name, size_t size)
{
	struct mount *m = fuse_req_userdata(request);
	uint32_t bit = well_known(name);
	struct inode *inode;
	struct call *call;
	bool absent;

	if (is_own_xattr(name)) {
		own_xattr(m, request, nodeid, name + strlen("user.leasehold."), size);
		return;
	}
	if (strcmp(name, STATUS_XATTR) == 0) {
		own_xattr(m, request, nodeid, "status", size);
		return;
	}
	pthread_mutex_lock(&m->lock);
	inode = inode_by_nodeid(m, nodeid);
	absent = inode && bit && (inode->no_xattrs & bit) && inode->no_xattrs_instance &&
		 inode->no_xattrs_instance ==
			 holder_lease(m->holder, mount_now(), &inode->handle);
	pthread_mutex_unlock(&m->lock);
	if (absent) {
		fuse_reply_err(request, ENODATA);
		return;
	}
	if (strlen(name) > NAME_BYTES_MAX) {
		fuse_reply_err(request, ERANGE);
		return;
	}
	call = op_call(request, nodeid, MESSAGE_getxattr);
	if (!call)
		return;
	call->size = size;
	call->message.getxattr.handle = call->inode->handle;
	call->message.getxattr.name = call_name(call, 0, name);
	call->message.getxattr.size = size < XATTR_BYTES_MAX ? (uint32_t)size : XATTR_BYTES_MAX;
	call_send(m, call, getxattr_work);
}

void op_listxattr(fuse_req_t request, fuse_ino_t nodeid, size_t size)
{
	struct call *call = op_call(request, nodeid, MESSAGE_listxattr);

	if (!call)
		return;
	call->size = size;
	call->message.listxattr.handle = call->inode->handle;
	call->message.listxattr.size = size < XATTR_BYTES_MAX ? (uint32_t)size : XATTR_BYTES_MAX;
	call_send(fuse_req_userdata(request), call, getxattr_work);
}

static void change_work(struct mount *m, struct call *call)
{
	struct change before, after;
	struct answer answer;

	if (modify_end(m, call, &answer, &before, &after) && call->inode->file)
		cache_file_move(call->inode->file, before, after, 0, 0);
	answer_done(m, &answer);
	reply_error(m, call, call->status == STATUS_OK ? 0 : call_errno(call));
}

static bool refuse(fuse_req_t request, const char *name)
{
	if (is_own_xattr(name) || strcmp(name, STATUS_XATTR) == 0) {
		fuse_reply_err(request, EPERM); /* they tell; nothing is set through them yet */
		return true;
	}
	if (strlen(name) > NAME_BYTES_MAX) {
		fuse_reply_err(request, ERANGE);
		return true;
	}
	return op_refuse_change(request);
}

void op_setxattr(fuse_req_t request, fuse_ino_t nodeid, const char *name, const char *value,
		 size_t size, int flags)
{
	const struct modify_scope scope = { 0 };
	struct mount *m = fuse_req_userdata(request);
	struct call *call;

	if (refuse(request, name))
		return;
	if (size > XATTR_BYTES_MAX) {
		fuse_reply_err(request, E2BIG);
		return;
	}
	call = op_call(request, nodeid, MESSAGE_setxattr);
	if (!call)
		return;
	call->bulk = malloc(size ? size : 1);
	if (!call->bulk) {
		reply_error(m, call, ENOMEM);
		return;
	}
	memcpy(call->bulk, value, size);
	call->bulk_length = size;
	call->message.setxattr.handle = call->inode->handle;
	call->message.setxattr.name = call_name(call, 0, name);
	call->message.setxattr.create = (flags & XATTR_CREATE) != 0;
	call->message.setxattr.replace = (flags & XATTR_REPLACE) != 0;
	call_limit(call);
	modify_send(m, call, &scope, change_work);
}

void op_removexattr(fuse_req_t request, fuse_ino_t nodeid, const char *name)
{
	const struct modify_scope scope = { 0 };
	struct call *call;

	if (refuse(request, name))
		return;
	call = op_call(request, nodeid, MESSAGE_removexattr);
	if (!call)
		return;
	call->message.removexattr.handle = call->inode->handle;
	call->message.removexattr.name = call_name(call, 0, name);
	call_limit(call);
	modify_send(fuse_req_userdata(request), call, &scope, change_work);
}
