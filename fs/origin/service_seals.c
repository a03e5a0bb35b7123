#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "fs/origin/sealer.h"
#include "fs/origin/service_private.h"
#include "lease/seal.h"

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

/*
 * PROTOCOL.md 11.4: what is sealed does not change while a host that does not answer may rely on the seal.
 * Asked under the locks, when every lease on the inode was given up, or its session has ended, it is the
 * last word.
 */
static int check_unchanged(const struct task *t)
{
	struct service *s = t->service;
	struct duration term, wait;
	int error;

	if (!t->inodes[TASK_TARGET])
		return 0;
	error = store_seal_term(t->inodes[TASK_TARGET], &term);
	if (error)
		return error;
	service_lock(s);
	wait = authority_silent_wait(s->authority, service_now(), term);
	(void)service_unlock(s, NULL);
	return wait.ns ? -EBUSY : 0;
}

/* To make its term longer is a change of what is sealed, too; never is it made shorter. */
static int check_seal_again(const struct task *t)
{
	struct duration term;
	uint32_t code;
	int error;

	if (!t->inodes[TASK_TARGET] || !store_seal_value(t->view.bulk, &code))
		return 0;
	error = store_seal_term(t->inodes[TASK_TARGET], &term);
	if (error)
		return error;
	return seal_term_of_code(code).ns > term.ns ? check_unchanged(t) : 0;
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
		if (service_is_seal(m))
			return check_seal_again(t);
		return slice_equal(m->setxattr.name, slice_of(DEAD_XATTR)) ?
			       0 : check(t, TASK_TARGET, false);
	case MESSAGE_removexattr:
		return service_is_seal(m) ? check_unchanged(t) : check(t, TASK_TARGET, false);
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

/* ---- seals by policy (sealer.h) ---- */

void service_set_sealer(struct service *s, struct sealer *sealer)
{
	s->sealer = sealer;
}

void service_hear_policy(struct task *t, bool is_set)
{
	const struct message *m = &t->message;

	if (t->service->sealer && t->caller.uid == 0 && m->type == MESSAGE_setxattr &&
	    slice_equal(m->setxattr.name, slice_of(POLICY_XATTR)))
		sealer_hear(t->service->sealer, &m->setxattr.handle, t->view.bulk, is_set);
}

int service_seal_quiet(struct service *s, struct store *store, const struct handle *handle,
		       uint64_t quiet_ms)
{
	struct task *t = task_create(s, TASK_SEAL);

	if (!t)
		return -ENOMEM;
	t->store = store;
	t->handle = *handle;
	t->quiet_ms = quiet_ms ? quiet_ms : 1;
	return service_begin_own(t);
}

bool service_is_quiet(const struct stat *st, int64_t now_ns, uint64_t quiet_ms)
{
	int64_t second = (int64_t)NS_PER_S;
	int64_t modified = (int64_t)st->st_mtim.tv_sec * second + st->st_mtim.tv_nsec;
	int64_t changed = (int64_t)st->st_ctim.tv_sec * second + st->st_ctim.tv_nsec;
	int64_t quiet = now_ns - (modified > changed ? modified : changed);

	return quiet >= 0 && (uint64_t)quiet / NS_PER_MS >= quiet_ms;
}

/* With the inode's lock. What was stored at a host was written back before its lease was given up. 1: it
   is sealed now; 0: it was, or it is not quiet any more. */
static int seal_if_quiet(struct task *t, struct inode *inode)
{
	static const struct credential root = { .uid = 0 };
	struct store_touch touch;
	struct item_node node;
	struct synced synced;
	struct timespec now;
	struct stat st;
	uint32_t term;
	int error;

	clock_gettime(CLOCK_REALTIME, &now);
	if (fstat(inode->fd, &st) < 0)
		return -errno;
	error = store_check_seal(inode, false);
	if (error)
		return error == -EPERM ? 0 : error;
	if (!S_ISREG(st.st_mode) || !store_seal_value((struct slice){ NULL, 0 }, &term) ||
	    !service_is_quiet(&st, (int64_t)now.tv_sec * (int64_t)NS_PER_S + now.tv_nsec, t->quiet_ms))
		return 0;
	error = store_touch_begin(t->store, inode, &touch);
	if (error)
		return error;
	error = store_seal(t->store, &root, inode, term);
	if (!error)
		error = store_fsync(t->store, inode, false, &synced);
	store_touch_end(t->store, &touch, false, &node);
	return error ? error : 1;
}

void service_seal_run(struct task *t)
{
	struct service *s = t->service;
	struct store_locks locks;
	struct inode *inode;
	int result = store_get(t->store, &t->handle, &inode);
	bool may;

	if (result)
		return; /* it is gone */
	store_lock_exclusive(t->store, &inode, 1, &locks);
	pthread_mutex_lock(&s->lock);
	may = authority_may_apply(s->authority, service_now(), t->op.id);
	pthread_mutex_unlock(&s->lock);
	if (may)
		result = seal_if_quiet(t, inode);
	store_unlock_exclusive(t->store, &locks);
	store_put(t->store, inode);
	if (result > 0)
		atomic_fetch_add(&s->policy_sealed, 1);
	if (result < 0 && result != -ENOENT)
		atomic_store(&s->policy_seal_error, result);
}

/* ---- who may rely on seals (PROTOCOL.md 11.4) ---- */

/* Which run of the machine this is: its clock began with it. */
static void boot_id(uint8_t ret_boot[16])
{
	int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
	char text[64] = "";

	memset(ret_boot, 0, 16);
	if (fd < 0)
		return;
	/* The first half of the text, 36 characters, is as good as all of it. */
	if (read(fd, text, sizeof(text) - 1) >= 36) {
		unsigned at = 0;

		for (const char *c = text; *c && at < 16; c++)
			if (*c != '-')
				ret_boot[at++] = (uint8_t)*c;
	}
	close(fd);
}

static bool boot_known(const uint8_t boot[16])
{
	static const uint8_t none[16];

	return memcmp(boot, none, sizeof(none)) != 0;
}

int service_record_seals(struct service *s, struct session_record *record)
{
	const struct authority_silent *silent = NULL;
	uint32_t ended = 0;

	boot_id(record->boot);
	record->silent_unknown = authority_silent_unknown(s->authority);
	while ((silent = authority_silent_next(s->authority, silent)))
		ended++;
	record->silent = (struct authority_silent *)calloc(s->session_count + ended + 1u,
							   sizeof(*record->silent));
	if (!record->silent)
		return -ENOMEM;
	while ((silent = authority_silent_next(s->authority, silent)))
		record->silent[record->silent_count++] = *silent;
	for (unsigned i = 0; i < SESSION_BUCKETS; i++) {
		for (struct session *session = s->sessions[i]; session; session = session->next) {
			struct authority_silent *e = &record->silent[record->silent_count];

			if (!session->alive)
				continue;
			e->session = session->id;
			e->instance = session->instance;
			memcpy(e->host, session->host, sizeof(e->host));
			strncpy(e->name, session->peer, sizeof(e->name) - 1);
			record->silent_count++;
		}
	}
	return 0;
}

int service_restore_seals(struct service *s, const struct session_record *record)
{
	struct instant now = service_now();
	uint8_t boot[16];
	bool same;
	int error = 0;

	boot_id(boot);
	same = boot_known(boot) && memcmp(boot, record->boot, sizeof(boot)) == 0;
	for (uint32_t i = 0; !error && i < record->silent_count; i++) {
		struct authority_silent silent = record->silent[i];

		/* Nobody renewed it later than now. */
		if (!same || silent.renewed.ns == 0)
			silent.renewed = now;
		error = authority_silent_restore(s->authority, &silent);
	}
	if (record->silent_unknown.ns)
		authority_silent_restore_unknown(s->authority, same ? record->silent_unknown : now);
	return error;
}

/* What those are called who are not known. */
#define UNKNOWN_NAME "unknown"

int service_declare_dead(struct task *t, struct slice name)
{
	struct service *s = t->service;
	char text[AUTHORITY_HOST_NAME_BYTES];
	uint32_t count;
	int error;

	if (t->caller.uid != 0)
		return -EPERM;
	if (name.length >= sizeof(text))
		return -ENOENT;
	memcpy(text, name.data, name.length);
	text[name.length] = '\0';
	service_lock(s);
	count = authority_silent_forget(s->authority, strcmp(text, UNKNOWN_NAME) == 0 ? NULL : text);
	(void)service_unlock(s, NULL);
	if (!count)
		return -ENOENT;
	error = service_write_record(s);
	service_log("event=declared_dead host=%s sessions=%u", *text ? text : "-", count);
	return error;
}

int service_list_silent(struct task *t, const struct inode *inode, void *buffer, size_t size,
			size_t *ret_length)
{
	struct service *s = t->service;
	const struct authority_silent *silent = NULL;
	struct instant unknown, now = service_now();
	char text[16384];
	size_t used = 0;
	struct duration term;
	int error = t->caller.uid ? -ENODATA : store_seal_term(inode, &term);

	if (error)
		return error;
	text[0] = '\0';
	service_lock(s);
	unknown = authority_silent_unknown(s->authority);
	if (authority_silent_wait_of(s->authority, unknown, now, term).ns)
		used += (size_t)snprintf(text, sizeof(text), "%s\n", UNKNOWN_NAME);
	while (used + AUTHORITY_HOST_NAME_BYTES + 1 < sizeof(text) &&
	       (silent = authority_silent_next(s->authority, silent)))
		if (authority_silent_wait_of(s->authority, silent->renewed, now, term).ns)
			used += (size_t)snprintf(text + used, sizeof(text) - used, "%s\n",
						 silent->name);
	(void)service_unlock(s, NULL);
	if (size && used > size)
		return -ERANGE;
	memcpy(buffer, text, size ? used : 0);
	*ret_length = used;
	return 0;
}
