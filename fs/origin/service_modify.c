#include <assert.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "fs/origin/service_private.h"

/*
 * A modification first finds out which inodes it is about (plan), takes its place in their queues
 * (begin), and when every conflicting lease is gone it looks under the inodes' locks whether the
 * names still lead to them (verify). If not, it starts again. Else it is applied, and its answer is
 * kept for repetitions.
 */

/* ---- plan ---- */

/* Where the inodes of a request come from. */
struct shape {
	const struct handle *target;
	const struct handle *directory;
	const struct handle *new_directory;
	const struct handle *source;
	/* What directory/name leads to goes here; TASK_INODES: it does not matter. */
	enum task_inode named;
	struct slice name;
	struct slice new_name; /* leads to TASK_REPLACED */
};

static bool shape_of(const struct message *m, struct shape *ret_shape)
{
	struct shape shape = { .named = TASK_INODES };

	switch (m->type) {
	case MESSAGE_setattr:
		shape.target = &m->setattr.handle;
		break;
	case MESSAGE_write:
		shape.target = &m->write.handle;
		break;
	case MESSAGE_open:
		shape.target = &m->open.handle;
		break;
	case MESSAGE_setxattr:
		shape.target = &m->setxattr.handle;
		break;
	case MESSAGE_removexattr:
		shape.target = &m->removexattr.handle;
		break;
	case MESSAGE_fallocate:
		shape.target = &m->fallocate.handle;
		break;
	case MESSAGE_copy_range:
		shape.target = &m->copy_range.handle;
		shape.source = &m->copy_range.source;
		break;
	case MESSAGE_tmpfile:
		shape.directory = &m->tmpfile.directory;
		break;
	case MESSAGE_create:
		shape.directory = &m->create.directory;
		shape.name = m->create.name;
		shape.named = TASK_TARGET;
		break;
	case MESSAGE_mknod:
		shape.directory = &m->mknod.directory;
		shape.name = m->mknod.name;
		break;
	case MESSAGE_symlink:
		shape.directory = &m->symlink.directory;
		shape.name = m->symlink.name;
		break;
	case MESSAGE_link:
		shape.target = &m->link.handle;
		shape.directory = &m->link.directory;
		shape.name = m->link.name;
		break;
	case MESSAGE_unlink:
		shape.directory = &m->unlink.directory;
		shape.name = m->unlink.name;
		shape.named = TASK_REPLACED;
		break;
	case MESSAGE_rename:
		shape.directory = &m->rename.directory;
		shape.new_directory = &m->rename.new_directory;
		shape.name = m->rename.name;
		shape.new_name = m->rename.new_name;
		shape.named = TASK_TARGET;
		break;
	default:
		return false;
	}
	*ret_shape = shape;
	return true;
}

/* What the name leads to, or NULL when it leads nowhere. */
static int resolve(struct task *t, struct inode *directory, struct slice name,
		   struct inode **ret_inode)
{
	int error = store_lookup(t->store, &t->caller, directory, name, ret_inode);

	if (error == -ENOENT) {
		*ret_inode = NULL;
		return 0;
	}
	return error;
}

static int get(struct task *t, const struct handle *handle, enum task_inode place)
{
	return handle ? store_get(t->store, handle, &t->inodes[place]) : 0;
}

static int find_inodes(struct task *t, const struct shape *shape)
{
	int error = get(t, shape->target, TASK_TARGET);

	if (!error)
		error = get(t, shape->directory, TASK_DIRECTORY);
	if (!error)
		error = get(t, shape->new_directory, TASK_NEW_DIRECTORY);
	if (!error)
		error = get(t, shape->source, TASK_SOURCE);
	if (!error && shape->directory && t->message.type != MESSAGE_tmpfile)
		error = store_check_name(shape->name);
	if (!error && shape->new_directory)
		error = store_check_name(shape->new_name);
	if (!error && shape->named != TASK_INODES)
		error = resolve(t, t->inodes[TASK_DIRECTORY], shape->name,
				&t->inodes[shape->named]);
	if (!error && shape->new_directory)
		error = resolve(t, t->inodes[TASK_NEW_DIRECTORY], shape->new_name,
				&t->inodes[TASK_REPLACED]);
	return error;
}

/* Whether the inode at `place` is modified, or only looked at. */
static bool is_modified(const struct task *t, enum task_inode place)
{
	switch (t->message.type) {
	case MESSAGE_create:
		return place != TASK_TARGET || t->message.create.truncate;
	case MESSAGE_copy_range:
		return place != TASK_SOURCE;
	case MESSAGE_tmpfile:
		return false; /* its directory gets no name */
	default:
		return true;
	}
}

static struct authority_target *add_target(struct task *t, const struct inode *inode,
					   enum recall_scope scope)
{
	struct authority_target *target = t->op.targets;
	struct authority_target *end = target + t->op.target_count;

	while (target < end && !handle_equal(&target->handle, &inode->identity.handle))
		target++;
	if (target == end) {
		*target = (struct authority_target){ .handle = inode->identity.handle,
						     .scope = scope };
		t->op.target_count++;
	} else if (scope == RECALL_ALL) {
		target->scope = RECALL_ALL;
		target->name_count = 0;
	}
	return target;
}

static void add_name(struct task *t, const struct inode *directory, struct slice name)
{
	struct authority_target *target = add_target(t, directory, RECALL_NAMES);

	if (target->scope == RECALL_NAMES)
		target->names[target->name_count++] = name;
}

/*
 * The outcome is clear already, but it takes its slot all the same: a repetition must not find
 * another one. Its target is nothing that a real handle can name, being too short.
 */
static void add_nothing(struct task *t)
{
	struct handle *handle = &t->op.targets[0].handle;
	struct writer w = writer_of(handle->bytes, HANDLE_OVERHEAD_BYTES);

	writer_u64(&w, t->message.common.session);
	writer_u32(&w, t->message.common.slot);
	handle->length = (uint8_t)w.at;
	t->op.target_count = 1;
}

/* The bytes that are to be copied may be with another host, which has the write lease. */
static bool source_is_elsewhere(struct task *t)
{
	struct service *s = t->service;
	bool elsewhere;

	if (t->message.type != MESSAGE_copy_range || !t->inodes[TASK_SOURCE])
		return false;
	pthread_mutex_lock(&s->lock);
	elsewhere = authority_is_stored_elsewhere(
		s->authority, (struct session_id){ t->message.common.session },
		&t->inodes[TASK_SOURCE]->identity.handle);
	pthread_mutex_unlock(&s->lock);
	return elsewhere;
}

static void plan(struct task *t)
{
	const struct request_common *common = &t->message.common;
	uint32_t ms = common->deadline_ms;
	struct shape shape;

	if (ms == 0 || ms > DEADLINE_MS_MAX)
		ms = ms ? DEADLINE_MS_MAX : DEADLINE_MS_DEFAULT;
	t->op = (struct authority_op){
		.kind = AUTHORITY_MODIFY,
		.session = { common->session },
		.slot = common->slot,
		.sequence = common->sequence,
		.write_back = t->write_back,
		.lease_sequence = t->lease_sequence,
		.deadline = instant_add(t->view.arrived, duration_ms(ms)),
	};
	t->sealed = false;
	t->preset_error = shape_of(&t->message, &shape) ? 0 : -EPROTO;
	if (!t->preset_error && store_read_only(t->store))
		t->preset_error = -EROFS;
	if (!t->preset_error)
		t->preset_error = find_inodes(t, &shape);
	if (!t->preset_error)
		t->preset_error = service_check_seals(t);
	if (t->preset_error) {
		task_forget_inodes(t);
		add_nothing(t);
		return;
	}
	for (unsigned i = TASK_TARGET; i < TASK_INODES; i++)
		if (t->inodes[i] && is_modified(t, (enum task_inode)i))
			(void)add_target(t, t->inodes[i], RECALL_ALL);
	if (t->inodes[TASK_DIRECTORY] && is_modified(t, TASK_DIRECTORY))
		add_name(t, t->inodes[TASK_DIRECTORY], shape.name);
	if (shape.new_directory)
		add_name(t, t->inodes[TASK_NEW_DIRECTORY], shape.new_name);
	if (source_is_elsewhere(t))
		(void)add_target(t, t->inodes[TASK_SOURCE], RECALL_ALL);
	if (t->op.target_count == 0)
		add_nothing(t);
}

/* ---- under the locks ---- */

static int same_entry(struct task *t, enum task_inode directory, struct slice name,
		      enum task_inode place, bool *ret_same)
{
	struct inode *now;
	int error = resolve(t, t->inodes[directory], name, &now);

	if (error)
		return error;
	*ret_same = now == t->inodes[place];
	if (now)
		store_put(t->store, now);
	return 0;
}

/* Do the names still lead where they led? `*ret_same` false: start again. */
static int verify(struct task *t, bool *ret_same)
{
	struct shape shape;
	bool same = true;
	int error = t->preset_error;

	*ret_same = true;
	if (error || !shape_of(&t->message, &shape))
		return error;
	if (shape.named != TASK_INODES)
		error = same_entry(t, TASK_DIRECTORY, shape.name, shape.named, &same);
	if (!error && same && shape.new_directory)
		error = same_entry(t, TASK_NEW_DIRECTORY, shape.new_name, TASK_REPLACED, &same);
	/* Another host acquired the write lease since; with the lease recalled nobody can. */
	if (source_is_elsewhere(t))
		same = false;
	if (!error)
		*ret_same = same;
	return error;
}

static bool is_touched(const struct task *t, const struct inode *inode)
{
	for (uint32_t i = 0; i < t->touch_count; i++)
		if (t->touches[i].inode == inode)
			return true;
	return false;
}

static int touch_all(struct task *t)
{
	static const struct {
		enum task_inode place;
		enum node_role role;
	} order[] = { { TASK_TARGET, NODE_TARGET },
		      { TASK_DIRECTORY, NODE_DIRECTORY },
		      { TASK_NEW_DIRECTORY, NODE_NEW_DIRECTORY },
		      { TASK_REPLACED, NODE_REPLACED } };

	t->touch_count = 0;
	for (size_t i = 0; i < sizeof(order) / sizeof(order[0]); i++) {
		struct inode *inode = t->inodes[order[i].place];
		int error;

		if (!inode || !is_modified(t, order[i].place) || is_touched(t, inode))
			continue;
		error = store_touch_begin(t->store, inode, &t->touches[t->touch_count]);
		if (error)
			return error;
		t->touched_roles[t->touch_count++] = (uint8_t)order[i].role;
	}
	return 0;
}

static uint16_t register_open(struct task *t, const struct handle *handle)
{
	struct service *s = t->service;
	uint16_t status;

	pthread_mutex_lock(&s->lock);
	status = authority_open(s->authority, (struct session_id){ t->message.common.session },
				handle);
	pthread_mutex_unlock(&s->lock);
	return status;
}

/*
 * What the host says it has open under a name that is about to go is registered; then everyone who
 * has it open is known. `*ret_keep`: somebody does.
 */
static int ask_who_has_it_open(struct task *t, const struct inode *victim,
			       const struct handle *victim_open, bool *ret_keep)
{
	struct service *s = t->service;

	*ret_keep = false;
	if (!victim)
		return 0;
	if (handle_equal(victim_open, &victim->identity.handle) &&
	    register_open(t, victim_open) != STATUS_OK)
		return -EAGAIN;
	pthread_mutex_lock(&s->lock);
	*ret_keep = authority_is_open(s->authority, &victim->identity.handle);
	pthread_mutex_unlock(&s->lock);
	return 0;
}

static int apply_create(struct task *t)
{
	const struct message_create *m = &t->message.create;
	struct inode *existing = t->inodes[TASK_TARGET];
	unsigned access = m->mode >> MODE_ACCESS_SHIFT & (OPEN_ACCESS_READ | OPEN_ACCESS_WRITE);
	int error;

	if (!existing)
		return store_create(t->store, &t->caller, t->inodes[TASK_DIRECTORY], m->name,
				    m->mode, &t->inodes[TASK_TARGET]);
	if (m->exclusive)
		return -EEXIST;
	if (S_ISDIR(existing->type))
		return -EISDIR;
	/* PROTOCOL.md 2.4: the kernel looked for this name when it was absent. */
	if (!S_ISREG(existing->type))
		return -ESTALE;
	if (!access)
		access = OPEN_ACCESS_READ | OPEN_ACCESS_WRITE;
	error = store_may_open(t->store, &t->caller, existing,
			       access | (m->truncate ? OPEN_ACCESS_WRITE : 0));
	if (error || !m->truncate)
		return error;
	return store_truncate(t->store, &t->caller, existing, 0);
}

static int apply_open(struct task *t)
{
	const struct message_open *m = &t->message.open;
	int error = store_access(t->store, &t->caller, t->inodes[TASK_TARGET],
				 m->access | OPEN_ACCESS_WRITE, false);

	return error ? error : store_truncate(t->store, &t->caller, t->inodes[TASK_TARGET], 0);
}

static int apply_unlink(struct task *t)
{
	const struct message_unlink *m = &t->message.unlink;
	struct inode *victim = t->inodes[TASK_REPLACED];
	bool keep;
	int error;

	if (!victim)
		return -ENOENT;
	error = ask_who_has_it_open(t, victim, &m->victim_open, &keep);
	return error ? error :
		       store_unlink(t->store, &t->caller, t->inodes[TASK_DIRECTORY], m->name,
				    victim, m->is_directory, keep);
}

static bool is_full(int error)
{
	return error == -ENOSPC || error == -EDQUOT;
}

static int apply_rename(struct task *t)
{
	const struct message_rename *m = &t->message.rename;
	struct inode *replaced = t->inodes[TASK_REPLACED];
	bool keep, open;
	int error;

	if (!t->inodes[TASK_TARGET])
		return -ENOENT;
	if (replaced == t->inodes[TASK_TARGET] && !m->flags)
		return 0; /* two names of one inode: POSIX says that nothing happens */
	error = ask_who_has_it_open(t, replaced, &m->victim_open, &open);
	if (error)
		return error;
	/* Also what is open: it may be closed at once. */
	keep = replaced && !m->flags &&
	       service_replaced_keep(t->service, &replaced->identity.handle);
	error = store_rename(t->store, &t->caller, t->inodes[TASK_DIRECTORY], m->name,
			     t->inodes[TASK_NEW_DIRECTORY], m->new_name, replaced, m->flags,
			     keep || open);
	/* No room even for the name by which it is kept. */
	if (is_full(error) && keep && !open)
		error = store_rename(t->store, &t->caller, t->inodes[TASK_DIRECTORY], m->name,
				     t->inodes[TASK_NEW_DIRECTORY], m->new_name, replaced,
				     m->flags, false);
	return error;
}

/* As much of `data` as there is room for, with the room that can be made. */
static int write_data(struct task *t, struct slice data, bool append, bool kill_suid)
{
	uint64_t offset = t->message.write.offset, at;
	uint32_t more;
	int error = store_write(t->store, &t->caller, t->inodes[TASK_TARGET], offset, append,
				kill_suid, data, &t->reply.offset, &t->reply.count);

	if (!error && t->reply.count < data.length &&
	    service_make_room(t->service, t->store, t->reaped)) {
		struct slice rest = { data.data + t->reply.count, data.length - t->reply.count };

		if (store_write(t->store, &t->caller, t->inodes[TASK_TARGET],
				t->reply.offset + t->reply.count, false, false, rest, &at,
				&more) == 0)
			t->reply.count += more;
	}
	return error;
}

/* PROTOCOL.md 5.7: what lies behind the end was cut off since it was stored. */
static int apply_write_back(struct task *t)
{
	const struct message_write *m = &t->message.write;
	struct slice data = t->view.bulk;
	uint64_t size = t->touches[0].size;
	uint64_t room = size > m->offset ? size - m->offset : 0;

	if (data.length > room)
		data.length = (size_t)room;
	return write_data(t, data, false, false);
}

static int apply_write(struct task *t)
{
	const struct message_write *m = &t->message.write;

	if (t->view.bulk.length > BULK_BYTES_MAX)
		return -EINVAL;
	if (t->write_back)
		return apply_write_back(t);
	return write_data(t, t->view.bulk, m->append, (m->flags & WRITE_KILL_SUID) != 0);
}

static int apply(struct task *t)
{
	const struct message *m = &t->message;
	struct inode *directory = t->inodes[TASK_DIRECTORY], *target = t->inodes[TASK_TARGET];
	struct store *store = t->store;
	int error;

	switch (m->type) {
	case MESSAGE_setattr:
		return store_setattr(store, &t->caller, target, &m->setattr);
	case MESSAGE_write:
		return apply_write(t);
	case MESSAGE_open:
		return apply_open(t);
	case MESSAGE_setxattr:
		if (slice_equal(m->setxattr.name, slice_of(DEAD_XATTR)))
			return service_declare_dead(t, t->view.bulk);
		service_hear_policy(t, false); /* a crash from here on does not lose it */
		error = store_setxattr(store, &t->caller, target, m->setxattr.name, t->view.bulk,
				       m->setxattr.create, m->setxattr.replace);
		if (!error)
			service_hear_policy(t, true);
		return error;
	case MESSAGE_removexattr:
		return store_removexattr(store, &t->caller, target, m->removexattr.name);
	case MESSAGE_create:
		return apply_create(t);
	case MESSAGE_mknod:
		return store_mknod(store, &t->caller, directory, m->mknod.name, m->mknod.mode,
				   m->mknod.rdev, &t->inodes[TASK_TARGET]);
	case MESSAGE_symlink:
		return store_symlink(store, &t->caller, directory, m->symlink.name,
				     m->symlink.target, &t->inodes[TASK_TARGET]);
	case MESSAGE_link:
		return store_link(store, &t->caller, target, directory, m->link.name);
	case MESSAGE_unlink:
		return apply_unlink(t);
	case MESSAGE_fallocate:
		return store_fallocate(store, &t->caller, target,
				       m->fallocate.mode & ~(SYNC_MASK << FALLOCATE_SYNC_SHIFT),
				       m->fallocate.offset, m->fallocate.length);
	case MESSAGE_copy_range:
		return store_copy_range(store, &t->caller, t->inodes[TASK_SOURCE],
					m->copy_range.source_offset, target, m->copy_range.offset,
					m->copy_range.length &
						~((uint64_t)SYNC_MASK << COPY_SYNC_SHIFT),
					&t->reply.count);
	case MESSAGE_tmpfile:
		return store_tmpfile(store, &t->caller, directory, m->tmpfile.mode,
				     &t->inodes[TASK_TARGET]);
	default:
		return apply_rename(t);
	}
}

static enum sync_kind sync_of(const struct message *m)
{
	uint64_t kind = SYNC_NONE;

	if (m->type == MESSAGE_write)
		kind = m->write.flags >> WRITE_SYNC_SHIFT;
	else if (m->type == MESSAGE_fallocate)
		kind = m->fallocate.mode >> FALLOCATE_SYNC_SHIFT;
	else if (m->type == MESSAGE_copy_range)
		kind = m->copy_range.length >> COPY_SYNC_SHIFT;
	else if (service_is_seal(m))
		kind = SYNC_ALL; /* and so are the bytes that it makes final */
	return (enum sync_kind)(kind & SYNC_MASK);
}

/* What was just done, if it is to be durable before anybody hears of it. */
static int make_durable(struct task *t)
{
	enum sync_kind kind = sync_of(&t->message);
	struct synced synced;
	int error;

	if (kind == SYNC_NONE)
		return 0;
	error = store_fsync(t->store, t->inodes[TASK_TARGET], kind == SYNC_DATA, &synced);
	/* Another sync was told that it is lost, maybe. */
	if (!error && synced.incarnation != t->reply.incarnation)
		error = -EIO;
	return error;
}

/*
 * True when it failed with `error` and left no trace. The others are one system call that does all
 * of it or nothing; but what was made can still fail to be opened afterwards, so only errors that
 * the call itself gives before it does anything count.
 */
static bool left_no_trace(const struct message *m, int error)
{
	static const int early[] = { ENOENT, EEXIST, EACCES, EPERM, ENOTEMPTY, EISDIR, ENOTDIR,
				     EINVAL, EROFS, ENOSPC, EDQUOT, ENODATA, E2BIG, ERANGE,
				     EOPNOTSUPP, ENAMETOOLONG, EMLINK };

	if (m->type == MESSAGE_write || m->type == MESSAGE_setattr ||
	    m->type == MESSAGE_fallocate || m->type == MESSAGE_copy_range)
		return false;
	for (size_t i = 0; i < sizeof(early) / sizeof(early[0]); i++)
		if (error == -early[i])
			return true;
	return false;
}

/* ---- the answer ---- */

struct outcome {
	uint16_t status;
	uint32_t count;
	struct item_node nodes[STORE_TOUCH_MAX + 1];
	struct inode *inodes[STORE_TOUCH_MAX + 1];
	bool made[STORE_TOUCH_MAX + 1]; /* not one of the operation's targets */
};

static void outcome_add(struct outcome *o, struct inode *inode, const struct item_node *node,
			uint8_t role, bool made)
{
	o->inodes[o->count] = inode;
	o->nodes[o->count] = *node;
	o->nodes[o->count].role = role;
	o->made[o->count++] = made;
}

/* What was made, or what was there and is opened, and what was only looked at. */
static void describe_others(struct task *t, struct outcome *o)
{
	struct inode *target = t->inodes[TASK_TARGET], *directory = t->inodes[TASK_DIRECTORY];
	struct item_node node;

	if (target && !is_touched(t, target) && store_look(t->store, target, &node, NULL) == 0)
		outcome_add(o, target, &node, NODE_TARGET, true);
	if (directory && !is_touched(t, directory) &&
	    store_look(t->store, directory, &node, NULL) == 0)
		outcome_add(o, directory, &node, NODE_DIRECTORY, true);
}

static void describe(struct task *t, int error, struct outcome *o)
{
	const struct handle *victim_open = NULL;
	bool opens = t->message.type == MESSAGE_create || t->message.type == MESSAGE_open ||
		     t->message.type == MESSAGE_tmpfile;

	if (t->message.type == MESSAGE_unlink)
		victim_open = &t->message.unlink.victim_open;
	if (t->message.type == MESSAGE_rename)
		victim_open = &t->message.rename.victim_open;
	for (uint32_t i = 0; i < t->touch_count; i++) {
		struct item_node node;

		store_touch_end(t->store, &t->touches[i], left_no_trace(&t->message, error), &node);
		outcome_add(o, t->touches[i].inode, &node, t->touched_roles[i], false);
	}
	if (!error)
		describe_others(t, o);
	for (uint32_t i = 0; i < o->count && !error; i++) {
		struct item_node *node = &o->nodes[i];

		if (opens && node->role == NODE_TARGET)
			node->open = register_open(t, &node->handle) == STATUS_OK;
		if (victim_open && node->role == NODE_REPLACED)
			node->open = handle_equal(victim_open, &node->handle);
	}
}

/* The reply as it would be without grants. */
static void describe_reply(struct task *t, const struct outcome *o)
{
	t->nodes.at = 0;
	for (uint32_t i = 0; i < o->count; i++)
		task_add_node(t, (enum node_role)o->nodes[i].role, &o->nodes[i]);
	t->reply.status = o->status;
	t->reply.nodes = (struct slice){ t->nodes_buffer, t->nodes.at };
}

/* Keeps the answer for repetitions, without grants: a repetition is sent after recalls of what was
   granted then may have been forgotten (I3). */
static void keep_reply(struct task *t, const struct outcome *o)
{
	struct service *s = t->service;
	const struct request_common *common = &t->message.common;
	struct session *session;

	describe_reply(t, o);
	pthread_mutex_lock(&s->lock);
	session = session_find(s, (struct session_id){ common->session });
	pthread_mutex_unlock(&s->lock);
	/* With this operation under way it is not forgotten. */
	if (session)
		slots_store(s->slots, session->place, common->slot, common->sequence, &t->reply);
}

/* What others modified behind our back before the grant nobody recalls but who looks again. */
static void look_again(struct task *t, const struct outcome *o)
{
	struct change now;
	bool outside;

	for (uint32_t i = 0; i < o->count; i++)
		if (o->nodes[i].lease != LEASE_NONE &&
		    store_change(t->store, o->inodes[i], &now, &outside) == 0 &&
		    !change_equal(now, o->nodes[i].change))
			(void)service_outside(t->service, t->store, &o->nodes[i].handle);
}

/* Grants, keeps the answer, and ends the operation, in one step of the authority. */
static void conclude(struct task *t, struct outcome *o)
{
	struct service *s = t->service;
	struct task *joined;

	keep_reply(t, o);
	service_lock(s);
	t->nodes.at = 0;
	for (uint32_t i = 0; i < o->count; i++) {
		struct item_node *node = &o->nodes[i];

		if (node->attributes.nlink > 0)
			node->lease = (uint8_t)task_grant_locked(t, &node->handle,
								 o->made[i] ? 0 : t->op.id);
		task_add_node(t, (enum node_role)node->role, node);
	}
	authority_finish(s->authority, service_now(), t->op.id, false, &s->actions);
	service_task_over(t);
	joined = t->joined;
	t->joined = NULL;
	(void)service_unlock(s, NULL);
	look_again(t, o);
	while (joined) {
		struct task *next = joined->next;

		joined->step = TASK_REPLAY;
		(void)task_enqueue(joined, true);
		joined = next;
	}
}

/* ---- run ---- */

/* The operation leaves no trace in its slot. */
static void take_back(struct task *t)
{
	struct service *s = t->service;

	service_lock(s);
	authority_finish(s->authority, service_now(), t->op.id, true, &s->actions);
	service_task_over(t);
	(void)service_unlock(s, NULL);
}

static bool may_apply(struct task *t, bool *ret_uncovered)
{
	struct service *s = t->service;
	bool may;

	pthread_mutex_lock(&s->lock);
	may = authority_may_apply(s->authority, service_now(), t->op.id);
	*ret_uncovered = authority_cover(s->authority, t->op.id) == COVER_GONE;
	pthread_mutex_unlock(&s->lock);
	return may;
}

static bool is_exchange(const struct message *m)
{
	return m->type == MESSAGE_rename && (m->rename.flags & RENAME_FLAG_EXCHANGE);
}

enum run_result { RUN_DONE, RUN_AGAIN, RUN_REFUSED, RUN_NO_ROOM };

static enum run_result run_once(struct task *t, struct outcome *o)
{
	struct slots_intent *intent = NULL;
	struct store_locks locks;
	enum run_result result = RUN_DONE;
	bool same, may, uncovered, lost;
	int error;

	store_lock_exclusive(t->store, t->inodes, TASK_INODES, &locks);
	error = verify(t, &same);
	may = may_apply(t, &uncovered);
	/* PROTOCOL.md 5.7: the write lease under which it ran ahead is gone. */
	if (uncovered && !t->write_back)
		same = false;
	if (!same && t->tries < MODIFY_TRIES_MAX) {
		result = RUN_AGAIN;
	} else if (!may) {
		result = RUN_REFUSED;
	} else {
		t->touch_count = 0;
		if (!error && !same)
			error = -EBUSY;
		lost = !error && uncovered;
		if (lost)
			error = -EIO;
		if (!error)
			error = service_check_seals(t);
		if (!error)
			error = touch_all(t);
		if (!error) {
			intent = service_intent_begin(t);
			t->reply.incarnation = changes_incarnation(t->service->changes);
			t->reaped = atomic_load(&t->service->reaped);
			error = apply(t);
			if (is_full(error) && service_make_room(t->service, t->store, t->reaped))
				error = apply(t);
			if (is_full(error) && service_room_may_come(t))
				result = RUN_NO_ROOM;
			if (!error)
				error = make_durable(t);
		}
		o->status = lost ? STATUS_NOLEASE : service_task_status(t, error);
		describe(t, error, o);
		if (result == RUN_DONE)
			conclude(t, o);
		if (intent)
			slots_intent_end(t->service->slots, intent);
		if (!error && t->inodes[TASK_REPLACED] && !is_exchange(&t->message))
			store_settle_removed(t->store, t->inodes[TASK_REPLACED]);
	}
	store_unlock_exclusive(t->store, &locks);
	return result;
}

void service_modify_again(struct task *t, bool done)
{
	struct outcome o = { .count = 0 };
	int error = touch_all(t);

	if (!error && !done)
		error = apply(t);
	if (!error)
		error = make_durable(t);
	o.status = service_status(error);
	describe(t, error, &o);
	describe_reply(t, &o);
}

static void refuse_all(struct task *t, uint16_t status)
{
	while (t->joined) {
		struct task *joined = t->joined;

		t->joined = joined->next;
		task_reply(joined, status);
	}
	task_reply(t, status);
}

void service_modify_run(struct task *t)
{
	for (;;) {
		struct outcome outcome = { .count = 0 };

		switch (run_once(t, &outcome)) {
		case RUN_DONE:
			if (t->message.type == MESSAGE_write && outcome.status == STATUS_OK)
				store_write_out(t->store, t->inodes[TASK_TARGET], t->reply.offset,
						t->reply.count);
			/* The space of what was removed is free when its caller hears of it. */
			task_forget_inodes(t);
			task_reply(t, outcome.status);
			return;
		case RUN_REFUSED:
			take_back(t);
			refuse_all(t, STATUS_NOSESSION);
			return;
		case RUN_NO_ROOM:
			service_wait_for_room(t); /* in its place; the locks are free */
			return;
		case RUN_AGAIN:
			take_back(t);
			task_forget_inodes(t);
			t->tries++;
			atomic_fetch_add(&t->service->retries, 1);
			plan(t);
			if (!service_begin(t))
				return;
		}
	}
}

void service_modify_request(struct task *t)
{
	if (!t->message.common.sequence) {
		task_reply(t, STATUS_BADMESSAGE);
		return;
	}
	plan(t);
	if (service_begin(t))
		service_modify_run(t);
}
