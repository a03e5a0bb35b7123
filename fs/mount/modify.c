#include "fs/mount/modify.h"

#include <errno.h>
#include <stdlib.h>

#include "fs/mount/drop_all.h"
#include "fs/mount/notifier.h"
#include "fs/mount/ops.h"
#include "fs/mount/read.h"
#include "fs/mount/sync.h"
#include "fs/mount/write_back.h"

#define MARK_TOLD (1u << 5) /* in modify_marks: counted in the victim's open_told */

struct fencing {
	struct notifier_work work;
	struct call *call;
	call_work *then;
	struct modify_scope scope;
	uint32_t filled_serial;
	bool holding; /* counted in fence_count */
};

static void affected(struct call *call, struct inode *ret_inodes[4])
{
	ret_inodes[0] = call->inode;
	ret_inodes[1] = call->inode2;
	ret_inodes[2] = call->child;
	ret_inodes[3] = call->child2;
}

/*
 * Until a change of the size is answered the kernel writes nothing back, and dropping what was stored
 * to would wait for that. Under the write lease nothing has to be dropped (write_back.h), and of a file
 * that is mapped there are no pages without. When one comes meanwhile, under a lease that does, this goes
 * ahead at the origin of what recalls that (PROTOCOL.md 5.7).
 */
void modify_size(struct mount *m, struct call *call, struct modify_scope *scope)
{
	struct inode *inode = call->inode;

	if (write_back_expected(m, inode)) {
		call->bound = inode->live->stored.number;
	} else {
		scope->data = !inode->live->mapped;
	}
}

/* A process may have mapped the file since it was asked for. Under the lock. */
static bool stored_since(struct mount *m, const struct call *call)
{
	return call_changes_size(call) &&
	       (call->inode->live->mapped || write_back_expected(m, call->inode));
}

/* Collects what the kernel holds of the affected inodes. Under the lock. */
static bool collect(struct mount *m, struct fencing *fencing)
{
	struct inode *inodes[4];
	bool any = false;

	affected(fencing->call, inodes);
	for (unsigned i = 0; i < 4; i++) {
		struct inode *inode = inodes[i];

		if (!inode)
			continue;
		if (notifier_collect(m, &fencing->work, inode, i == 0 && fencing->scope.data,
				     fencing->scope.offset, fencing->scope.length))
			any = true;
		if (i < 2 && fencing->scope.names && inode->live->names_given) {
			fencing->work.epoch = true;
			any = true;
		}
	}
	if (fencing->call->inode)
		fencing->filled_serial = fencing->call->inode->live->filled_serial;
	return any;
}

/* drop_for_size() has done what `work` is for. */
static void size_dropped(struct mount *m, void *context)
{
	struct fencing *fencing = context;

	pthread_mutex_lock(&m->lock);
	for (unsigned i = 0; i < fencing->work.count; i++)
		inode_unuse(m, fencing->work.notices[i].inode);
	fencing->work.count = 0;
	pthread_mutex_unlock(&m->lock);
	fencing->work.done(m, &fencing->work);
}

/* Drops what was collected; then `work.done` is called. */
static void push(struct mount *m, struct fencing *fencing)
{
	struct call *call = fencing->call;
	bool dropped = false;

	if (call_changes_size(call) && fencing->scope.data) {
		pthread_mutex_lock(&m->lock);
		dropped = drop_for_size(m, call->inode, fencing->scope.offset, size_dropped,
					fencing);
		pthread_mutex_unlock(&m->lock);
	}
	if (!dropped)
		notifier_push(m, LANE_MODIFY, &fencing->work);
}

/* Page fills are held from here on. */
static void hold(struct fencing *fencing)
{
	fencing->holding = true;
	inode_live(fencing->call->inode)->fence_count++;
	fencing->work.around = true;
	fencing->work.epoch = false;
}

/*
 * When the kernel holds nothing old any more: holds page fills, and sends. Pages that came in meanwhile
 * go first. Those who read one after the other would fill them for ever: so from the second time
 * on their fills are held, and the invalidation steps around these (notifier.c).
 */
static void fenced(struct mount *m, struct notifier_work *work)
{
	struct fencing *fencing = (struct fencing *)work;
	struct call *call = fencing->call;
	struct inode *inode = call->inode;
	bool data = fencing->scope.data && inode;
	bool filled, late;

	pthread_mutex_lock(&m->lock);
	if (data && stored_since(m, call)) {
		fencing->scope.data = data = false;
		modify_size(m, call, &fencing->scope);
	}
	filled = data && inode->live->pages && inode->live->filled_serial != fencing->filled_serial;
	late = filled && !instant_before(mount_now(), call->deadline);
	if (filled && !late) {
		if (!fencing->holding)
			hold(fencing);
		collect(m, fencing);
		pthread_mutex_unlock(&m->lock);
		push(m, fencing);
		return;
	}
	if (fencing->holding)
		inode_live(inode)->fence_count--;
	if (data && !late) {
		inode_live(inode)->hold_count++;
		call->modify_marks |= 1u << 4;
	} else if (fencing->holding) {
		calls_release_held(m, inode);
	}
	pthread_mutex_unlock(&m->lock);
	if (late)
		call_fail(m, call, STATUS_DEADLINE);
	else
		call_send(m, call, fencing->then);
	free(fencing);
}

static struct inode *victim_of(const struct call *call)
{
	return call->operation == MESSAGE_rename ? call->child2 : call->child;
}

/*
 * Tells the origin that what loses its name is open here. In the same section as the marks: from
 * then on an open of it asks the origin, which knows. A close waits until this is answered
 * (modify_end): what comes first would not find it open, and it would stay open for ever. Under the
 * lock.
 */
static void tell_victim(struct call *call)
{
	bool renames = call->message.type == MESSAGE_rename;
	struct inode *victim = victim_of(call);

	if ((!renames && call->message.type != MESSAGE_unlink) || !victim ||
	    victim->live->open_count == 0)
		return;
	if (renames)
		call->message.rename.victim_open = inode_handle(victim);
	else
		call->message.unlink.victim_open = inode_handle(victim);
	inode_live(victim)->open_registered = true;
	inode_live(victim)->open_told++;
	call->modify_marks |= MARK_TOLD;
}

void modify_send(struct mount *m, struct call *call, const struct modify_scope *scope,
		 call_work *work)
{
	struct fencing *fencing = calloc(1, sizeof(*fencing));
	struct inode *inodes[4];
	bool any, failed = !fencing;

	affected(call, inodes);
	call->modifying = true;
	call->work = work;
	pthread_mutex_lock(&m->lock);
	for (unsigned i = 0; i < 4 && !failed; i++) {
		if (!inodes[i])
			continue;
		if (holder_modify_begin(m->holder, INODE_HANDLE(inodes[i])) < 0) {
			failed = true;
		} else {
			call->modify_marks |= 1u << i;
		}
	}
	if (failed) {
		pthread_mutex_unlock(&m->lock);
		free(fencing);
		call_fail(m, call, STATUS_NOMEM);
		return;
	}
	tell_victim(call);
	fencing->call = call;
	fencing->then = work;
	fencing->scope = *scope;
	fencing->work.done = fenced;
	any = collect(m, fencing);
	pthread_mutex_unlock(&m->lock);
	if (any)
		push(m, fencing);
	else
		fenced(m, &fencing->work);
}

void modify_send_ahead(struct mount *m, struct call *call, call_work *work)
{
	bool failed;

	call->modifying = true;
	call->work = work;
	pthread_mutex_lock(&m->lock);
	failed = holder_modify_begin(m->holder, INODE_HANDLE(call->inode)) < 0;
	if (!failed)
		call->modify_marks |= 1u << 0;
	pthread_mutex_unlock(&m->lock);
	if (failed)
		call_fail(m, call, STATUS_NOMEM);
	else
		call_send(m, call, work);
}

/* What the answer says of an inode's change: false when it says nothing. */
static bool moved(const struct call *call, const struct inode *inode, struct change *ret_before,
		  struct change *ret_after)
{
	struct reader r = reader_of(call->reply.nodes.data, call->reply.nodes.length);
	struct item_node node;

	while (item_node_read(&r, &node)) {
		if (!handle_equal(&node.handle, INODE_HANDLE(inode)))
			continue;
		*ret_before = node.before;
		*ret_after = node.change;
		return true;
	}
	return false;
}

static bool makes_name(const struct call *call)
{
	return call->operation == MESSAGE_create || call->operation == MESSAGE_mknod ||
	       call->operation == MESSAGE_symlink || call->operation == MESSAGE_link;
}

/* The names in the call's directory number `which` (inode, inode2) that it touched. */
static uint32_t touched(const struct call *call, unsigned which, struct slice ret_names[2])
{
	bool same = !call->inode2;
	uint32_t count = 0;

	if (!makes_name(call) && call->operation != MESSAGE_unlink &&
	    call->operation != MESSAGE_rename)
		return 0;
	if (which == 0)
		ret_names[count++] = slice_of(call->names[0]);
	if (call->operation == MESSAGE_rename && (which == 1 || (which == 0 && same)))
		ret_names[count++] = slice_of(call->names[1]);
	return count;
}

/* Whatever came of it, the names that it touched are not known any more. */
static void names_forget(struct mount *m, struct call *call, struct inode *inodes[4])
{
	for (unsigned i = 0; i < 2; i++) {
		struct slice names[2];
		uint32_t count = inodes[i] ? touched(call, i, names) : 0;

		for (uint32_t n = 0; n < count; n++)
			inode_name_forget(m, inodes[i], names[n]);
	}
}

bool modify_end(struct mount *m, struct call *call, struct answer *ret_answer,
		struct change *ret_before, struct change *ret_after)
{
	struct slice made = slice_of(call->names[0]);
	bool makes = call->status == STATUS_OK && makes_name(call);
	struct inode *inodes[4];
	bool kept = false, told;

	affected(call, inodes);
	pthread_mutex_lock(&m->lock);
	for (unsigned i = 0; i < 4; i++) {
		struct change before = { 0, 0 }, after = { 0, 0 };
		bool known, stands;

		if (!(call->modify_marks & 1u << i))
			continue;
		inodes[i]->attributes_instance = 0; /* set anew below when the answer has them */
		listing_unref(inodes[i]->live->listing);
		inode_live(inodes[i])->listing = NULL;
		inode_live(inodes[i])->listing_serial++;
		inode_live(inodes[i])->settle_serial++;
		if (call->status == STATUS_OK && !(call->durable && i == 0))
			sync_modified(m, inodes[i], call->reply.incarnation);
		known = call->replied && moved(call, inodes[i], &before, &after);
		stands = holder_modify_end(m->holder, INODE_HANDLE(inodes[i]), known, before, after);
		if (i == 0) {
			kept = known && stands;
			*ret_before = before;
			*ret_after = after;
		}
	}
	if (call->modify_marks & 1u << 4) {
		inode_live(call->inode)->hold_count--;
		calls_release_held(m, call->inode);
	}
	names_forget(m, call, inodes);
	answer_work_in(m, call, call->inode, makes ? &made : NULL, ret_answer);
	if (call->operation == MESSAGE_unlink && call->status == STATUS_OK)
		answer_name(m, call, &ret_answer->nodes[NODE_DIRECTORY], call->inode, &made, NULL);
	/* What others asked before may have been answered before: it is void from here on. */
	for (unsigned i = 0; i < 4; i++) {
		struct slice names[2];

		if (call->modify_marks & 1u << i)
			holder_modified(m->holder, INODE_HANDLE(inodes[i]), names,
					touched(call, i, names));
	}
	told = call->modify_marks & MARK_TOLD;
	if (told)
		inode_live(victim_of(call))->open_told--;
	call->modify_marks = 0;
	pthread_mutex_unlock(&m->lock);
	if (told)
		data_closed(m, victim_of(call));
	return kept;
}

static void settled(struct mount *m, struct notifier_work *work)
{
	struct fencing *fencing = (struct fencing *)work;

	fencing->then(m, fencing->call);
	free(fencing);
}

void modify_settle(struct mount *m, struct call *call, uint64_t offset, uint64_t length,
		   call_work *then)
{
	struct fencing *fencing = NULL;
	bool any = false;

	pthread_mutex_lock(&m->lock);
	if (call->inode && call->inode->live->pages && !stored_since(m, call))
		fencing = calloc(1, sizeof(*fencing));
	if (fencing) {
		fencing->call = call;
		fencing->then = then;
		fencing->scope = (struct modify_scope){ .data = true, .offset = offset };
		fencing->work.done = settled;
		any = notifier_collect(m, &fencing->work, call->inode, true, offset, length);
	}
	pthread_mutex_unlock(&m->lock);
	if (any) {
		push(m, fencing);
	} else {
		free(fencing);
		then(m, call);
	}
}
