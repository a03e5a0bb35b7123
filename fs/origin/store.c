#include "fs/origin/store_private.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "fs/origin/credentials.h"

void store_proc_path(int fd, char ret_path[PROC_PATH_BYTES])
{
	(void)snprintf(ret_path, PROC_PATH_BYTES, "/proc/self/fd/%d", fd); /* it fits */
}

static int fail(char *text, int error, const char *directory, const char *what)
{
	(void)snprintf(text, STORE_TEXT_BYTES, "%s: %s: %s", directory, what, strerror(-error));
	return error;
}

static int open_private(struct store *s)
{
	struct stat st;

	if (mkdirat(s->root_fd, STORE_PRIVATE_NAME, 0700) < 0 && errno != EEXIST)
		return -errno;
	s->private_fd = openat(s->root_fd, STORE_PRIVATE_NAME,
			       O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (s->private_fd < 0)
		return -errno;
	/* Somebody else's directory of that name would let them reach unlinked files. */
	if (fstat(s->private_fd, &st) < 0)
		return -errno;
	if (st.st_uid != 0 || (st.st_mode & 077))
		return -EPERM;
	return 0;
}

static int open_tree(struct store *s, const struct store_config *config, char *text)
{
	int error;

	s->root_fd = open(config->directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (s->root_fd < 0)
		return fail(text, -errno, config->directory, "cannot export this directory");
	error = file_id_of(s->root_fd, "", &s->space.root, &s->mount_id);
	if (error)
		return fail(text, error, config->directory,
			    "its file system has no file handles, so it cannot be exported");
	error = credentials_probe(s->root_fd);
	if (error)
		return fail(text, error, config->directory,
			    "opening files by handle as other users needs CAP_DAC_READ_SEARCH and "
			    "CAP_SETUID; run the origin as root");
	if (!s->read_only) {
		error = open_private(s);
		if (error)
			return fail(text, error, config->directory,
				    "cannot use " STORE_PRIVATE_NAME
				    " in it (root's, mode 0700; with ro it is not needed)");
		error = store_orphans_load(s);
		if (error)
			return fail(text, error, config->directory,
				    "cannot read " STORE_PRIVATE_NAME);
	}
	error = inodes_create(&s->space, s->root_fd, s->changes, config->inode_count_max,
			      &s->inodes);
	return error ? fail(text, error, config->directory, "no memory") : 0;
}

int store_open(const struct store_config *config, struct store **ret_store,
	       char ret_text[STORE_TEXT_BYTES])
{
	struct store *s = (struct store *)calloc(1, sizeof(*s));
	pthread_rwlockattr_t attributes;
	int error;

	if (!s)
		return fail(ret_text, -ENOMEM, config->directory, "no memory");
	s->root_fd = s->private_fd = -1;
	s->read_only = config->read_only;
	s->root_squash = config->root_squash;
	s->changes = config->changes;
	s->space.key = config->key;
	s->space.export_id = handle_export_id(config->name);
	/* Readers keep coming; a modification must get its turn. */
	pthread_rwlockattr_init(&attributes);
	pthread_rwlockattr_setkind_np(&attributes, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	for (uint32_t i = 0; i < STORE_STRIPES; i++)
		pthread_rwlock_init(&s->stripes[i], &attributes);
	pthread_rwlockattr_destroy(&attributes);
	pthread_mutex_init(&s->orphan_lock, NULL);
	store_flows_init(s);
	s->name = strdup(config->name);
	s->directory = strdup(config->directory);
	error = s->name && s->directory ?
			open_tree(s, config, ret_text) :
			fail(ret_text, -ENOMEM, config->directory, "no memory");
	if (error) {
		store_close(s);
		return error;
	}
	*ret_store = s;
	return 0;
}

void store_close(struct store *s)
{
	if (!s)
		return;
	inodes_destroy(s->inodes);
	for (uint32_t i = 0; i < ORPHAN_BUCKETS; i++)
		while (s->orphans[i])
			store_orphan_remove(s, &s->orphans[i]->id);
	for (uint32_t i = 0; i < STORE_STRIPES; i++)
		pthread_rwlock_destroy(&s->stripes[i]);
	pthread_mutex_destroy(&s->orphan_lock);
	pthread_mutex_destroy(&s->flow_lock);
	if (s->root_fd >= 0)
		close(s->root_fd);
	if (s->private_fd >= 0)
		close(s->private_fd);
	free(s->name);
	free(s->directory);
	free(s);
}

int store_sync_all(struct store *s)
{
	return inodes_sync_all(s->inodes);
}

const char *store_name(const struct store *s)
{
	return s->name;
}

uint32_t store_export_id(const struct store *s)
{
	return s->space.export_id;
}

bool store_read_only(const struct store *s)
{
	return s->read_only;
}

struct inodes *store_inodes(struct store *s)
{
	return s->inodes;
}

int store_root_fd(const struct store *s)
{
	return s->root_fd;
}

bool store_is_at_its_path(const struct store *s)
{
	struct stat here, there;

	return fstat(s->root_fd, &here) < 0 ||
	       (stat(s->directory, &there) == 0 && here.st_dev == there.st_dev &&
		here.st_ino == there.st_ino);
}

const char *store_directory(const struct store *s)
{
	return s->directory;
}

void store_identify(const struct store *s, const struct file_id *id, struct identity *ret_identity)
{
	identity_of(&s->space, id, ret_identity);
}

void store_caller(const struct store *s, const struct credential *credential,
		  struct credential *ret_caller)
{
	*ret_caller = *credential;
	if (s->root_squash)
		credentials_squash(ret_caller);
}

bool store_made(const struct store *s, const struct handle *handle)
{
	struct file_id id;

	return handle_parse(&s->space, handle, &id) == 0;
}

int store_get(struct store *s, const struct handle *handle, struct inode **ret_inode)
{
	struct file_id id;
	int error = handle_parse(&s->space, handle, &id);

	return error ? error : inodes_get(s->inodes, &id, ret_inode);
}

int store_get_root(struct store *s, struct inode **ret_inode)
{
	return inodes_get(s->inodes, &s->space.root, ret_inode);
}

void store_put(struct store *s, struct inode *inode)
{
	inodes_put(s->inodes, inode);
}

bool store_is_root(const struct store *s, const struct inode *inode)
{
	return file_id_equal(&s->space.root, &inode->identity.id);
}

/* ---- locks ---- */

void store_lock_shared(struct store *s, const struct inode *inode)
{
	pthread_rwlock_rdlock(&s->stripes[store_stripe(&inode->identity.key)]);
}

void store_unlock_shared(struct store *s, const struct inode *inode)
{
	pthread_rwlock_unlock(&s->stripes[store_stripe(&inode->identity.key)]);
}

void store_lock_exclusive(struct store *s, struct inode *const *inodes, uint32_t count,
			  struct store_locks *ret_locks)
{
	struct store_locks locks = { .count = 0 };

	assert(count <= STORE_TOUCH_MAX);
	for (uint32_t i = 0; i < count; i++) {
		uint32_t stripe, at = 0;

		if (!inodes[i])
			continue;
		stripe = store_stripe(&inodes[i]->identity.key);
		while (at < locks.count && locks.stripes[at] < stripe)
			at++;
		if (at < locks.count && locks.stripes[at] == stripe)
			continue;
		memmove(&locks.stripes[at + 1], &locks.stripes[at],
			(locks.count - at) * sizeof(locks.stripes[0]));
		locks.stripes[at] = stripe;
		locks.count++;
	}
	for (uint32_t i = 0; i < locks.count; i++)
		pthread_rwlock_wrlock(&s->stripes[locks.stripes[i]]);
	*ret_locks = locks;
}

void store_unlock_exclusive(struct store *s, const struct store_locks *locks)
{
	for (uint32_t i = locks->count; i > 0; i--)
		pthread_rwlock_unlock(&s->stripes[locks->stripes[i - 1]]);
}

/* ---- attributes and changes ---- */

struct changes_seen store_seen(const struct stat *st)
{
	return (struct changes_seen){
		st->st_ctim.tv_sec * (int64_t)NS_PER_S + st->st_ctim.tv_nsec,
		/* A directory's size follows from nothing that its ctime would not show. */
		S_ISDIR(st->st_mode) ? 0 : (uint64_t)st->st_size
	};
}

void store_fill_node(struct store *s, const struct identity *identity, const struct stat *st,
		     uint32_t lacks, struct change before, struct change change, struct item_node *ret_node)
{
	bool orphan = st->st_nlink == 1 && store_orphan_known(s, &identity->id);

	*ret_node = (struct item_node){
		.role = NODE_TARGET,
		.lease = LEASE_NONE,
		.handle = identity->handle,
		.before = before,
		.change = change,
		.attributes = {
			.inode = st->st_ino,
			.size = (uint64_t)st->st_size,
			.blocks = (uint64_t)st->st_blocks,
			.rdev = st->st_rdev,
			.mode = st->st_mode | lacks,
			/* Its only link is ours. */
			.nlink = orphan ? 0 : (uint32_t)st->st_nlink,
			.uid = st->st_uid,
			.gid = st->st_gid,
			.atime_s = (uint64_t)st->st_atim.tv_sec,
			.mtime_s = (uint64_t)st->st_mtim.tv_sec,
			.ctime_s = (uint64_t)st->st_ctim.tv_sec,
			.atime_ns = (uint32_t)st->st_atim.tv_nsec,
			.mtime_ns = (uint32_t)st->st_mtim.tv_nsec,
			.ctime_ns = (uint32_t)st->st_ctim.tv_nsec,
		},
	};
}

static uint32_t lacks_of(const struct inode *inode)
{
	char path[PROC_PATH_BYTES];

	store_proc_path(inode->fd, path);
	return store_lacks(path, true, &inode->identity.id);
}

static int look(struct store *s, struct inode *inode, struct stat *ret_st,
		struct change *ret_change, bool *ret_outside)
{
	struct changes_seen seen;

	if (fstat(inode->fd, ret_st) < 0)
		return -errno;
	if (ret_st->st_nlink == 0) {
		inodes_forget(s->inodes, inode);
		return -ESTALE;
	}
	seen = store_seen(ret_st);
	*ret_change = changes_get(s->changes, &inode->identity.key, &seen, ret_outside);
	return 0;
}

int store_change(struct store *s, struct inode *inode, struct change *ret_change, bool *ret_outside)
{
	struct stat st;

	return look(s, inode, &st, ret_change, ret_outside);
}

int store_look(struct store *s, struct inode *inode, struct item_node *ret_node, bool *ret_outside)
{
	struct change change;
	struct stat st;
	bool outside;
	int error = look(s, inode, &st, &change, &outside);

	if (error)
		return error;
	store_fill_node(s, &inode->identity, &st, lacks_of(inode), change, change, ret_node);
	if (ret_outside)
		*ret_outside = outside;
	return 0;
}

int store_touch_begin(struct store *s, struct inode *inode, struct store_touch *ret_touch)
{
	struct store_touch touch = { .inode = inode };
	struct changes_seen seen;
	struct stat st;
	int error;

	if (s->read_only)
		return -EROFS;
	if (fstat(inode->fd, &st) < 0)
		return -errno;
	if (st.st_nlink == 0) {
		inodes_forget(s->inodes, inode);
		return -ESTALE;
	}
	seen = store_seen(&st);
	touch.ctime_ns = seen.ctime_ns;
	touch.size = seen.size;
	error = changes_begin(s->changes, &inode->identity.key, &seen, &touch.token);
	if (error)
		return error;
	*ret_touch = touch;
	return 0;
}

void store_touch_end(struct store *s, struct store_touch *touch, bool untouched,
		     struct item_node *ret_node)
{
	struct change change = touch->token.before;
	struct changes_seen seen;
	struct stat st;

	if (fstat(touch->inode->fd, &st) < 0) {
		/* The store is failing. A number that nothing will match, and no attributes. */
		memset(&st, 0, sizeof(st));
		untouched = false;
	}
	seen = store_seen(&st);
	if (untouched && seen.ctime_ns == touch->ctime_ns && seen.size == touch->size)
		changes_cancel(s->changes, &touch->token);
	else
		change = changes_end(s->changes, &touch->token, &seen);
	store_fill_node(s, &touch->inode->identity, &st, lacks_of(touch->inode), touch->token.before,
			change, ret_node);
}

void store_settle_removed(struct store *s, struct inode *inode)
{
	struct stat st;

	/* A directory has one name; not every file system counts its links. */
	if (!S_ISDIR(inode->type) && (fstat(inode->fd, &st) < 0 || st.st_nlink > 0))
		return;
	changes_forget(s->changes, &inode->identity.key);
	inodes_forget(s->inodes, inode);
}
