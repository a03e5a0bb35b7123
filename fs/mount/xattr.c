#include <errno.h>
#include <stdlib.h>
#include <sys/xattr.h>
#include <unistd.h>

#include "fs/mount/asked.h"
#include "fs/mount/bulk.h"
#include "fs/mount/inode.h"
#include "fs/mount/keep.h"
#include "fs/mount/modify.h"
#include "fs/mount/notifier.h"
#include "fs/mount/ops.h"
#include "fs/mount/prefetch.h"
#include "fs/mount/reply.h"
#include "fs/mount/rules.h"
#include "fs/mount/session.h"
#include "fs/mount/status.h"
#include "fs/mount/tracer.h"

#define ACL_ACCESS "system.posix_acl_access"
#define ACL_DEFAULT "system.posix_acl_default"
#define AGAIN_MAX_MS 64

/* Names that the kernel and ls ask for all the time; attributes say whether they are absent. */
static uint32_t lacks_bit(const char *name)
{
	static const struct {
		const char *name;
		uint32_t bit;
	} known[] = {
		{ "security.capability", LACKS_CAPABILITY },
		{ "security.selinux", LACKS_SELINUX },
		{ ACL_ACCESS, LACKS_ACL },
		{ ACL_DEFAULT, LACKS_DEFAULT_ACL },
	};

	for (unsigned i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		if (strcmp(name, known[i].name) == 0)
			return known[i].bit;
	return 0;
}

static bool is_acl(const char *name)
{
	return strcmp(name, ACL_ACCESS) == 0 || strcmp(name, ACL_DEFAULT) == 0;
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
	r = asked_is_xattr(name) ? asked_get(m, request, inode, name, &text) :
	    keep_is_xattr(name)  ? keep_get(m, inode, name, &text) :
				   status_xattr(m, inode, name, &text);
	pthread_mutex_lock(&m->lock);
	inode_unuse(m, inode);
	pthread_mutex_unlock(&m->lock);
	if (r < 0)
		fuse_reply_err(request, -r);
	else
		reply_value(request, text, strlen(text), size);
	free(text);
}

/* What was done on the mount since it was asked last. */
static void trace_xattr(struct mount *m, fuse_req_t request, size_t size)
{
	const struct fuse_ctx *context = fuse_req_ctx(request);
	size_t length = 0;
	char *text;
	int r;

	if (context->uid != 0 && context->uid != geteuid()) {
		fuse_reply_err(request, EPERM);
		return;
	}
	if (size == 0) {
		fuse_reply_xattr(request, XATTR_BYTES_MAX);
		return;
	}
	text = malloc(size);
	r = text ? prefetch_trace(m, text, size, &length) : -ENOMEM;
	if (r < 0)
		fuse_reply_err(request, -r);
	else
		fuse_reply_buf(request, text, length);
	free(text);
}

/* Ends the call and answers with what it brought. */
static void value_reply(struct mount *m, struct call *call)
{
	size_t size = call->size, needed = call->reply.count;
	fuse_req_t request;

	if (call->status != STATUS_OK) {
		/* A store without lists has none: checking permissions must not fail by that. */
		bool none = is_acl(call->names[0]) && call->status == STATUS_NOTSUP;

		reply_error(m, call, none ? ENODATA : call_errno(call));
		return;
	}
	request = call_take_request(m, call);
	if (request && size == 0)
		fuse_reply_xattr(request, needed);
	else if (request)
		reply_value(request, call->data.data, call->data.length, size);
	call_destroy(m, call);
}

static void acl_dropped(struct mount *m, struct notifier_work *work)
{
	struct inode *inode = work->context;

	pthread_mutex_lock(&m->lock);
	inode_live(inode)->weak_acls--;
	inode_unuse(m, inode);
	pthread_mutex_unlock(&m->lock);
	free(work);
}

/*
 * The kernel keeps an access control list for as long as attributes that it has stand, and drops it
 * with them. So an answer under a lease counts as attributes given. One without a lease would be kept
 * with attributes that are given later, under a new one: until it was dropped by an invalidation
 * behind the answer, attributes have no validity (attributes_validity). While the kernel may have
 * valid ones already the origin is asked again, and grants.
 */
static void acl_work(struct mount *m, struct call *call)
{
	struct notifier_work *work = NULL;
	struct inode *inode = call->inode;
	struct answer answer;
	bool again, granted;
	unsigned token;

	pthread_mutex_lock(&m->lock);
	answer_work_in(m, call, NULL, NULL, &answer);
	granted = answer.nodes[NODE_TARGET].instance != 0;
	again = !granted && call->request && holder_lease(m->holder, mount_now(), INODE_HANDLE(inode));
	if (!granted && !again)
		work = calloc(1, sizeof(*work));
	if (work) {
		inode_use(m, inode);
		inode_use(m, inode); /* the notice's */
		inode_live(inode)->weak_acls++;
		work->done = acl_dropped;
		work->context = inode;
		work->count = 1;
		work->notices[0] = (struct notice){ .inode = inode, .attributes = true };
	}
	if (granted)
		inode_give_attributes(inode);
	token = mount_reply_begin(m);
	pthread_mutex_unlock(&m->lock);
	answer_done(m, &answer);
	if (again) {
		unsigned delay_ms = call->retries < 6 ? 1u << call->retries : AGAIN_MAX_MS;

		mount_reply_end(m, token);
		call->retries++;
		call_again(m, call, delay_ms);
		return;
	}
	if (!granted && !work)
		reply_error(m, call, ENOMEM);
	else
		value_reply(m, call);
	mount_reply_end(m, token);
	if (work)
		notifier_push(m, LANE_MODIFY, work);
}

static void getxattr_work(struct mount *m, struct call *call)
{
	struct answer answer;

	if (call->status == STATUS_DEADLINE && call->ends_when_away) {
		/* Whoever walks a path through the mount point is let in by its mode. */
		reply_error(m, call, ENODATA);
		return;
	}
	if (call->operation == MESSAGE_getxattr && is_acl(call->names[0])) {
		acl_work(m, call);
		return;
	}
	pthread_mutex_lock(&m->lock);
	answer_work_in(m, call, NULL, NULL, &answer);
	pthread_mutex_unlock(&m->lock);
	answer_done(m, &answer);
	value_reply(m, call);
}

/* A directory that has no policy says what others say of it. */
static void policy_work(struct mount *m, struct call *call)
{
	int error = call->status == STATUS_OK ? 0 : call_errno(call);
	fuse_req_t request;
	struct answer answer;
	char *text;

	if (error != ENODATA && error != EOPNOTSUPP) {
		getxattr_work(m, call);
		return;
	}
	pthread_mutex_lock(&m->lock);
	answer_work_in(m, call, NULL, NULL, &answer);
	pthread_mutex_unlock(&m->lock);
	answer_done(m, &answer);
	text = rules_text(m, call->inode);
	if (!text || !*text) {
		reply_error(m, call, text ? ENODATA : ENOMEM);
		free(text);
		return;
	}
	request = call_take_request(m, call);
	if (request)
		reply_value(request, text, strlen(text), call->size);
	call_destroy(m, call);
	free(text);
}

static bool is_directory(struct mount *m, fuse_ino_t nodeid)
{
	struct inode *inode;
	bool is;

	pthread_mutex_lock(&m->lock);
	inode = inode_by_nodeid(m, nodeid);
	is = inode && S_ISDIR(inode->type);
	pthread_mutex_unlock(&m->lock);
	return is;
}

/* True when attributes that stand say that there is no such one. */
static bool known_absent(struct mount *m, fuse_req_t request, fuse_ino_t nodeid, const char *name)
{
	uint32_t bit = lacks_bit(name);
	const struct attributes *attributes = NULL;
	struct attributes heard;
	struct inode *inode;
	bool absent;
	unsigned token = 0;

	if (!bit)
		return false;
	pthread_mutex_lock(&m->lock);
	inode = inode_by_nodeid(m, nodeid);
	if (inode)
		attributes = inode_attributes(m, inode, mount_now(), &heard);
	absent = attributes && (attributes->mode & bit);
	if (absent) {
		if (is_acl(name))
			inode_give_attributes(inode);
		token = mount_reply_begin(m);
	}
	pthread_mutex_unlock(&m->lock);
	if (absent) {
		fuse_reply_err(request, ENODATA);
		mount_reply_end(m, token);
	}
	return absent;
}

void op_getxattr(fuse_req_t request, fuse_ino_t nodeid, const char *name, size_t size)
{
	struct mount *m = fuse_req_userdata(request);
	bool policy = strcmp(name, POLICY_XATTR) == 0 && is_directory(m, nodeid);
	struct call *call;

	if (is_own_xattr(name) && !policy) {
		own_xattr(m, request, nodeid, name + strlen("user.leasehold."), size);
		return;
	}
	if (strcmp(name, STATUS_XATTR) == 0) {
		own_xattr(m, request, nodeid, "status", size);
		return;
	}
	if (strcmp(name, TRACE_XATTR) == 0) {
		trace_xattr(m, request, size);
		return;
	}
	if (known_absent(m, request, nodeid, name))
		return;
	if (strlen(name) > NAME_BYTES_MAX) {
		fuse_reply_err(request, ERANGE);
		return;
	}
	call = op_call(request, nodeid, MESSAGE_getxattr);
	if (!call)
		return;
	call->size = size;
	call->message.getxattr.handle = inode_handle(call->inode);
	call->message.getxattr.name = call_name(call, 0, name);
	call->message.getxattr.size = size < XATTR_BYTES_MAX ? (uint32_t)size : XATTR_BYTES_MAX;
	call->ends_when_away = nodeid == FUSE_ROOT_ID && is_acl(name) &&
			       !session_fails_at_once(m);
	call_send(m, call, policy ? policy_work : getxattr_work);
}

void op_listxattr(fuse_req_t request, fuse_ino_t nodeid, size_t size)
{
	struct call *call = op_call(request, nodeid, MESSAGE_listxattr);

	if (!call)
		return;
	call->size = size;
	call->message.listxattr.handle = inode_handle(call->inode);
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
	if (call->status == STATUS_OK && strcmp(call->names[0], POLICY_XATTR) == 0)
		rules_changed(m, call->inode, (struct slice){ call->bulk, call->bulk_length });
	reply_error(m, call, call->status == STATUS_OK ? 0 : call_errno(call));
}

static bool refuse(fuse_req_t request, const char *name)
{
	if ((is_own_xattr(name) && strcmp(name, POLICY_XATTR) != 0) ||
	    strcmp(name, STATUS_XATTR) == 0 || strcmp(name, TRACE_XATTR) == 0) {
		fuse_reply_err(request, EPERM); /* they tell; nothing is set through them yet */
		return true;
	}
	if (strlen(name) > NAME_BYTES_MAX) {
		fuse_reply_err(request, ERANGE);
		return true;
	}
	return op_refuse_change(request);
}

/* user.leasehold.prefetch, or .pin: somebody asks for something. */
static void set_own(struct mount *m, fuse_req_t request, fuse_ino_t nodeid, bool pin,
		    const char *value, size_t size)
{
	struct inode *inode;
	int r = -ESTALE;

	pthread_mutex_lock(&m->lock);
	inode = inode_by_nodeid(m, nodeid);
	if (inode)
		inode_use(m, inode);
	pthread_mutex_unlock(&m->lock);
	if (inode) {
		r = pin ? keep_set(m, inode, value, size) :
			  asked_set(m, request, inode, value, size);
		pthread_mutex_lock(&m->lock);
		inode_unuse(m, inode);
		pthread_mutex_unlock(&m->lock);
	}
	fuse_reply_err(request, -r);
}

void op_setxattr(fuse_req_t request, fuse_ino_t nodeid, const char *name, const char *value,
		 size_t size, int flags)
{
	struct mount *m = fuse_req_userdata(request);
	struct modify_scope scope = { .names = false };
	bool pin = strcmp(name, "user.leasehold." PIN_XATTR) == 0;
	struct call *call;

	if (pin || strcmp(name, "user.leasehold." ASKED_XATTR) == 0) {
		set_own(m, request, nodeid, pin, value, size);
		return;
	}
	if (refuse(request, name))
		return;
	if (size > XATTR_BYTES_MAX) {
		fuse_reply_err(request, E2BIG);
		return;
	}
	call = op_call(request, nodeid, MESSAGE_setxattr);
	if (!call)
		return;
	if (bulk_set(call, value, size) < 0) {
		reply_error(m, call, ENOMEM);
		return;
	}
	call->message.setxattr.handle = inode_handle(call->inode);
	call->message.setxattr.name = call_name(call, 0, name);
	call->message.setxattr.create = (flags & XATTR_CREATE) != 0;
	call->message.setxattr.replace = (flags & XATTR_REPLACE) != 0;
	/* What was stored through mappings is written back first: afterwards it would be refused. */
	scope.data = strcmp(name, SEAL_XATTR) == 0 && S_ISREG(call->inode->type);
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
	call->message.removexattr.handle = inode_handle(call->inode);
	call->message.removexattr.name = call_name(call, 0, name);
	call_limit(call);
	modify_send(fuse_req_userdata(request), call, &scope, change_work);
}
