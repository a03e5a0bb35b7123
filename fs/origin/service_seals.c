#include <errno.h>

#include "fs/origin/service_private.h"

/*
 * What a seal refuses (PROTOCOL.md 11.2). It is asked for before a modification begins, so that what is
 * refused recalls nothing, and again under the locks of all its inodes. Where the store's answer would be
 * another error in any case, as for a name that is there or is not, it is left to the store.
 */

static int check(const struct task *t, enum task_inode place, bool data)
{
	return t->inodes[place] ? store_check_seal(t->inodes[place], data) : 0;
}

/* A new name in the directory. */
static int check_made(const struct task *t, struct slice name)
{
	int error = check(t, TASK_DIRECTORY, false);

	if (error && store_check_entry(t->store, &t->caller, t->inodes[TASK_DIRECTORY], name) == 0)
		return 0; /* it is there */
	return error;
}

static int check_create(const struct task *t)
{
	const struct message_create *m = &t->message.create;
	unsigned access = m->mode >> MODE_ACCESS_SHIFT & (OPEN_ACCESS_READ | OPEN_ACCESS_WRITE);

	if (!t->inodes[TASK_TARGET])
		return check(t, TASK_DIRECTORY, false);
	/* It opens what is there; with no access said, both ways. */
	if (m->exclusive || (access == OPEN_ACCESS_READ && !m->truncate))
		return 0;
	return check(t, TASK_TARGET, true);
}

static int check_rename(const struct task *t)
{
	static const enum task_inode places[] = { TASK_TARGET, TASK_DIRECTORY, TASK_NEW_DIRECTORY,
						  TASK_REPLACED };
	const struct message_rename *m = &t->message.rename;
	int error = 0;

	if (!t->inodes[TASK_TARGET])
		return 0;
	if (t->inodes[TASK_REPLACED] && ((m->flags & RENAME_FLAG_NOREPLACE) ||
					 t->inodes[TASK_REPLACED] == t->inodes[TASK_TARGET]))
		return 0;
	for (size_t i = 0; !error && i < sizeof(places) / sizeof(places[0]); i++)
		error = check(t, places[i], false);
	return error;
}

static int check_link(const struct task *t)
{
	int error = check(t, TASK_TARGET, false);
	int made = check_made(t, t->message.link.name);

	return made ? made : error;
}

static int check_all(const struct task *t)
{
	const struct message *m = &t->message;
	int error;

	switch (m->type) {
	case MESSAGE_setattr:
		/* One that changes nothing only takes its slot. */
		return m->setattr.valid ?
			       check(t, TASK_TARGET, (m->setattr.valid & SETATTR_SIZE) != 0) : 0;
	case MESSAGE_write:
	case MESSAGE_open:
	case MESSAGE_fallocate:
	case MESSAGE_copy_range:
		return check(t, TASK_TARGET, true);
	case MESSAGE_setxattr:
	case MESSAGE_removexattr:
		return service_is_seal(m) ? 0 : check(t, TASK_TARGET, false);
	case MESSAGE_create:
		return check_create(t);
	case MESSAGE_mknod:
		return check_made(t, m->mknod.name);
	case MESSAGE_symlink:
		return check_made(t, m->symlink.name);
	case MESSAGE_link:
		return check_link(t);
	case MESSAGE_tmpfile:
		return check(t, TASK_DIRECTORY, false);
	case MESSAGE_unlink:
		error = check(t, TASK_REPLACED, false);
		if (!error && t->inodes[TASK_REPLACED])
			error = check(t, TASK_DIRECTORY, false);
		return error;
	case MESSAGE_rename:
		return check_rename(t);
	default:
		return 0;
	}
}

bool service_is_seal(const struct message *m)
{
	return (m->type == MESSAGE_setxattr &&
		slice_equal(m->setxattr.name, slice_of(SEAL_XATTR))) ||
	       (m->type == MESSAGE_removexattr &&
		slice_equal(m->removexattr.name, slice_of(SEAL_XATTR)));
}

int service_check_seals(struct task *t)
{
	int error = check_all(t);

	t->sealed = error == -EPERM;
	return error;
}

int service_check_sealed(struct task *t, const struct inode *inode)
{
	int error = store_check_seal(inode, true);

	t->sealed = error == -EPERM;
	return error;
}

uint16_t service_task_status(const struct task *t, int error)
{
	return t->sealed && error == -EPERM ? STATUS_SEALED : service_status(error);
}
