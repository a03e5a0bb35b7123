#include <errno.h>
#include <stdlib.h>

#include "fs/origin/credentials.h"
#include "fs/origin/service_private.h"

/*
 * What a modification leaves for the process after this one: PROTOCOL.md 3.5. And what this process
 * makes of what it finds, before its first request: alone, so no lock is taken.
 */

/* ---- before the store is touched ---- */

static bool name_is_there(const struct task *t, struct slice name)
{
	/* When it cannot be told, the call fails, and what it would make is not its work. */
	return store_check_entry(t->store, &t->caller, t->inodes[TASK_DIRECTORY], name) != -ENOENT;
}

static bool xattr_is_there(const struct task *t, struct slice name)
{
	size_t length;

	return store_getxattr(t->store, &t->caller, t->inodes[TASK_TARGET], name, NULL, 0,
			      &length) != -ENODATA;
}

/* Where afterwards the name alone would not tell: was it there before? */
static bool existed(const struct task *t)
{
	const struct message *m = &t->message;

	switch (m->type) {
	case MESSAGE_mknod:
		return name_is_there(t, m->mknod.name);
	case MESSAGE_symlink:
		return name_is_there(t, m->symlink.name);
	case MESSAGE_link:
		return name_is_there(t, m->link.name);
	case MESSAGE_setxattr:
		return m->setxattr.create && xattr_is_there(t, m->setxattr.name);
	case MESSAGE_removexattr:
		return xattr_is_there(t, m->removexattr.name);
	default:
		return false;
	}
}

/* A write that begins at the end or behind it is undone by cutting it off: its data are not needed. */
static bool only_extends(const struct message *m, uint64_t size)
{
	return m->type == MESSAGE_write && (m->write.append || m->write.offset >= size);
}

_Static_assert(TASK_INODES <= SLOTS_INODES, "an intent has all of them");

struct slots_intent *service_intent_begin(struct task *t)
{
	struct slots_intent *intent = slots_intent_take(t->service->slots);
	const struct slice message = t->view.message, data = t->view.bulk;

	intent->session = t->message.common.session;
	intent->slot = t->message.common.slot;
	intent->sequence = t->message.common.sequence;
	intent->existed = existed(t);
	for (unsigned i = 0; i < TASK_INODES; i++) {
		struct slots_inode *inode = &intent->inodes[i];

		inode->handle.length = 0;
		inode->size = 0;
		if (t->inodes[i])
			inode->handle = t->inodes[i]->identity.handle;
		for (uint32_t touch = 0; t->inodes[i] && touch < t->touch_count; touch++)
			if (t->touches[touch].inode == t->inodes[i])
				inode->size = t->touches[touch].size;
	}
	intent->message_length = 0;
	if (message.length <= sizeof(intent->message)) {
		memcpy(intent->message, message.data, message.length);
		intent->message_length = (uint32_t)message.length;
	}
	intent->data_length = 0;
	intent->data_kept = 0;
	if (data.length <= sizeof(intent->data)) {
		intent->data_length = (uint32_t)data.length;
		intent->data_kept = !only_extends(&t->message, intent->inodes[TASK_TARGET].size);
	}
	if (intent->data_kept && data.length)
		memcpy(intent->data, data.data, data.length);
	slots_intent_begin(intent);
	return intent;
}

/* ---- what became of it ---- */

enum verdict {
	VERDICT_DONE,
	VERDICT_AGAIN,    /* doing it (again) comes to the same */
	VERDICT_NOT_DONE, /* nothing is left of it */
	VERDICT_UNKNOWN,
	VERDICTS
};

static const struct credential root = { .uid = 0 };

/* What `name` leads to: 1 with a reference, 0 when it leads nowhere, or -errno. */
static int leads_to(struct task *t, enum task_inode directory, struct slice name,
		    struct inode **ret_inode)
{
	int error;

	*ret_inode = NULL;
	if (!t->inodes[directory])
		return -ESTALE;
	error = store_lookup(t->store, &root, t->inodes[directory], name, ret_inode);
	if (error == -ENOENT)
		return 0;
	return error ? error : 1;
}

static enum verdict judge_made(struct task *t, const struct slots_intent *intent, struct slice name)
{
	struct inode *made;
	int found;

	if (intent->existed)
		return VERDICT_NOT_DONE;
	found = leads_to(t, TASK_DIRECTORY, name, &made);
	if (found <= 0)
		return found ? VERDICT_UNKNOWN : VERDICT_NOT_DONE;
	t->inodes[TASK_TARGET] = made;
	return VERDICT_DONE;
}

/* It has a name (still, or at last): what kept it as an orphan goes. */
static void keeps_name(struct task *t, struct inode *victim)
{
	if (victim)
		store_remove_orphan(t->store, victim);
}

static enum verdict judge_link(struct task *t, const struct slots_intent *intent)
{
	struct inode *there;
	int found;
	bool same;

	if (intent->existed)
		return VERDICT_NOT_DONE;
	found = leads_to(t, TASK_DIRECTORY, t->message.link.name, &there);
	if (found <= 0)
		return found ? VERDICT_UNKNOWN : VERDICT_NOT_DONE;
	same = there == t->inodes[TASK_TARGET];
	if (same)
		keeps_name(t, there); /* it may be its first */
	store_put(t->store, there);
	return same ? VERDICT_DONE : VERDICT_UNKNOWN;
}

static enum verdict judge_unlink(struct task *t, const struct slots_intent *intent)
{
	struct inode *there;
	int found;

	if (intent->inodes[TASK_REPLACED].handle.length == 0)
		return VERDICT_NOT_DONE;
	found = leads_to(t, TASK_DIRECTORY, t->message.unlink.name, &there);
	if (found <= 0)
		return found ? VERDICT_UNKNOWN : VERDICT_DONE;
	if (there == t->inodes[TASK_REPLACED])
		keeps_name(t, there);
	store_put(t->store, there);
	return VERDICT_NOT_DONE;
}

static enum verdict judge_rename(struct task *t)
{
	const struct message_rename *m = &t->message.rename;
	struct inode *moves = t->inodes[TASK_TARGET], *replaced = t->inodes[TASK_REPLACED];
	struct inode *old = NULL, *new = NULL;
	enum verdict verdict = VERDICT_NOT_DONE;
	int error;

	if (!moves)
		return VERDICT_UNKNOWN;
	if (moves == replaced)
		return m->flags ? VERDICT_NOT_DONE : VERDICT_AGAIN; /* nothing happens */
	error = leads_to(t, TASK_DIRECTORY, m->name, &old);
	if (error >= 0)
		error = leads_to(t, t->inodes[TASK_NEW_DIRECTORY] ? TASK_NEW_DIRECTORY :
								    TASK_DIRECTORY,
				 m->new_name, &new);
	if (error < 0)
		verdict = VERDICT_UNKNOWN;
	else if (new == moves && old != moves)
		verdict = VERDICT_DONE;
	else if (new && new == replaced)
		keeps_name(t, replaced);
	store_put(t->store, old);
	store_put(t->store, new);
	return verdict;
}

static enum verdict judge_write(struct task *t, const struct slots_intent *intent)
{
	struct message_write *m = &t->message.write;
	uint64_t before = intent->inodes[TASK_TARGET].size;
	struct item_node node;

	if (!t->inodes[TASK_TARGET])
		return VERDICT_NOT_DONE;
	if (m->append)
		m->offset = before;
	m->append = 0;
	if (intent->data_kept)
		return VERDICT_AGAIN;
	if (intent->data_length == 0 || store_look(t->store, t->inodes[TASK_TARGET], &node, NULL))
		return VERDICT_UNKNOWN;
	if (node.attributes.size == m->offset + intent->data_length) {
		t->reply.offset = m->offset;
		t->reply.count = intent->data_length;
		return VERDICT_DONE;
	}
	/* A part of it, or what a full disk left room for: nobody has seen it. */
	if (node.attributes.size > before &&
	    store_truncate(t->store, &root, t->inodes[TASK_TARGET], before))
		return VERDICT_UNKNOWN;
	return VERDICT_NOT_DONE;
}

static enum verdict judge_xattr(struct task *t, const struct slots_intent *intent)
{
	const struct message *m = &t->message;
	bool removes = m->type == MESSAGE_removexattr;
	bool there;

	if (!t->inodes[TASK_TARGET])
		return VERDICT_NOT_DONE;
	t->caller = root;
	there = xattr_is_there(t, removes ? m->removexattr.name : m->setxattr.name);
	store_caller(t->store, &m->common.credential, &t->caller);
	if (removes)
		return intent->existed && !there ? VERDICT_DONE : VERDICT_AGAIN;
	if (m->setxattr.create && !intent->existed)
		return there ? VERDICT_DONE : VERDICT_NOT_DONE;
	return intent->data_kept ? VERDICT_AGAIN : VERDICT_UNKNOWN;
}

static enum verdict judge(struct task *t, const struct slots_intent *intent)
{
	const struct message *m = &t->message;

	switch (m->type) {
	case MESSAGE_create:
		/* What it opened was there; what it cuts off, it may cut off twice. */
		if (intent->inodes[TASK_TARGET].handle.length)
			return t->inodes[TASK_TARGET] ? VERDICT_AGAIN : VERDICT_NOT_DONE;
		return judge_made(t, intent, m->create.name);
	case MESSAGE_mknod:
		return judge_made(t, intent, m->mknod.name);
	case MESSAGE_symlink:
		return judge_made(t, intent, m->symlink.name);
	case MESSAGE_link:
		return judge_link(t, intent);
	case MESSAGE_unlink:
		return judge_unlink(t, intent);
	case MESSAGE_rename:
		return judge_rename(t);
	case MESSAGE_write:
		return judge_write(t, intent);
	case MESSAGE_setxattr:
	case MESSAGE_removexattr:
		return judge_xattr(t, intent);
	case MESSAGE_tmpfile:
		return VERDICT_NOT_DONE; /* nobody has it open: it goes with the unused orphans */
	case MESSAGE_copy_range:
		return t->inodes[TASK_TARGET] && t->inodes[TASK_SOURCE] ? VERDICT_AGAIN :
									  VERDICT_UNKNOWN;
	case MESSAGE_setattr:
	case MESSAGE_open:
	case MESSAGE_fallocate:
		return t->inodes[TASK_TARGET] ? VERDICT_AGAIN : VERDICT_NOT_DONE;
	default:
		return VERDICT_UNKNOWN;
	}
}

/* ---- the start ---- */

static struct store *store_of(struct service *s, uint32_t export_id)
{
	for (uint32_t i = 0; i < s->export_count; i++)
		if (store_export_id(s->exports[i].store) == export_id)
			return s->exports[i].store;
	return NULL;
}

static struct slots_session *place_of(struct service *s, uint64_t session,
				      struct slots_owner *ret_owner)
{
	struct slots_session *place = NULL;

	while ((place = slots_session_next(s->slots, place))) {
		slots_session_owner(place, ret_owner);
		if (ret_owner->session == session)
			return place;
	}
	return NULL;
}

static enum verdict decide(struct task *t, const struct slots_intent *intent)
{
	if (!t->store || intent->message_length == 0 ||
	    message_decode((struct slice){ intent->message, intent->message_length },
			   &t->message) || !message_is_request(t->message.type))
		return VERDICT_UNKNOWN;
	task_unwrap(t);
	task_unwrap(t);
	store_caller(t->store, &t->message.common.credential, &t->caller);
	t->view.bulk = (struct slice){ intent->data, intent->data_length };
	for (unsigned i = 0; i < TASK_INODES; i++) {
		int error = intent->inodes[i].handle.length ?
				    store_get(t->store, &intent->inodes[i].handle, &t->inodes[i]) :
				    0;

		if (error && error != -ESTALE)
			return VERDICT_UNKNOWN;
	}
	return judge(t, intent);
}

static void settle_intent(struct service *s, const struct slots_intent *intent,
			  unsigned counts[VERDICTS])
{
	struct slots_owner owner;
	struct slots_session *place = place_of(s, intent->session, &owner);
	struct task *t;
	enum verdict verdict;

	if (!place || intent->slot >= owner.slot_count ||
	    slots_sequence(place, intent->slot) >= intent->sequence)
		return; /* killed after its outcome was stored */
	t = task_create(s, TASK_REQUEST);
	if (!t) {
		slots_store(s->slots, place, intent->slot, intent->sequence, NULL);
		return;
	}
	t->store = store_of(s, owner.export_id);
	t->reply.incarnation = changes_incarnation(s->changes);
	verdict = decide(t, intent);
	counts[verdict]++;
	if (verdict == VERDICT_DONE || verdict == VERDICT_AGAIN) {
		service_modify_again(t, verdict == VERDICT_DONE);
		slots_store(s->slots, place, intent->slot, intent->sequence, &t->reply);
	} else if (verdict == VERDICT_UNKNOWN) {
		slots_store(s->slots, place, intent->slot, intent->sequence, NULL);
	}
	task_destroy(t);
}

/* False: its slots are of no use any more. */
static bool restore_session(struct service *s, struct slots_session *place)
{
	uint64_t sequences[SLOTS_PER_SESSION_MAX];
	struct slots_owner owner;
	struct session *session;
	struct store *store;

	slots_session_owner(place, &owner);
	store = store_of(s, owner.export_id);
	if (!store)
		return false;
	for (uint32_t i = 0; i < owner.slot_count; i++)
		sequences[i] = slots_sequence(place, i);
	session = session_create(store, place, &owner);
	if (!session)
		return false;
	session->alive = false;
	session_add(s, session);
	if (authority_session_restore(s->authority, service_now(), session->id, owner.host,
				      sequences, owner.slot_count, &s->actions)) {
		session_remove(s, session);
		session_destroy(session);
		return false;
	}
	return true;
}

void service_recover(struct service *s)
{
	unsigned counts[VERDICTS] = { 0 }, sessions = 0;
	struct slots_session *place, *next;
	struct slots_intent *intent;

	while ((intent = slots_intent_found(s->slots))) {
		settle_intent(s, intent, counts);
		slots_intent_end(s->slots, intent);
	}
	credentials_reset();
	service_lock(s);
	for (place = slots_session_next(s->slots, NULL); place; place = next) {
		next = slots_session_next(s->slots, place);
		if (restore_session(s, place))
			sessions++;
		else
			slots_session_release(s->slots, place);
	}
	(void)service_unlock(s, NULL);
	if (sessions)
		service_log("event=recovered sessions=%u done=%u done_again=%u not_done=%u "
			    "unknown=%u", sessions, counts[VERDICT_DONE], counts[VERDICT_AGAIN],
			    counts[VERDICT_NOT_DONE], counts[VERDICT_UNKNOWN]);
}
