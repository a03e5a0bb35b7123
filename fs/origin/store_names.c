#include <assert.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "fs/origin/credentials.h"
#include "fs/origin/store_private.h"

#define LOOKUP_TRIES 4
#define GETDENTS_BYTES (32u << 10)
#define NODE_BYTES_MAX 512
#define ORPHAN_NAME_BYTES (2 * (1 + FILE_HANDLE_BYTES_MAX) + 2)
#define LINKABLE_MARK 't' /* ends the name of an orphan that never had another name */

static bool is_dots(const char *name)
{
	return name[0] == '.' && (!name[1] || (name[1] == '.' && !name[2]));
}

static int copy_name(struct slice name, char ret_name[NAME_BYTES_MAX + 1])
{
	if (name.length == 0)
		return -EINVAL;
	if (name.length > NAME_BYTES_MAX)
		return -ENAMETOOLONG;
	if (memchr(name.data, '/', name.length) || memchr(name.data, 0, name.length))
		return -EINVAL;
	memcpy(ret_name, name.data, name.length);
	ret_name[name.length] = 0;
	return 0;
}

int store_check_name(struct slice name)
{
	char text[NAME_BYTES_MAX + 1];
	int error = copy_name(name, text);

	if (!error && is_dots(text))
		error = -EINVAL;
	return error;
}

static bool is_private(const struct store *s, const struct inode *directory, const char *name)
{
	return strcmp(name, STORE_PRIVATE_NAME) == 0 && store_is_root(s, directory);
}

int store_entry_name(const struct store *s, const struct inode *directory, struct slice name,
		     char ret_name[NAME_BYTES_MAX + 1])
{
	int error = copy_name(name, ret_name);

	if (!error && is_dots(ret_name))
		error = -EINVAL;
	if (!error && !S_ISDIR(directory->type))
		error = -ENOTDIR;
	if (!error && is_private(s, directory, ret_name))
		error = -EPERM;
	return error;
}

/* For calls that make or remove `name`: everything that comes before the system call. */
static int prepare(struct store *s, const struct credential *caller, const struct inode *directory,
		   struct slice name, char ret_name[NAME_BYTES_MAX + 1])
{
	int error;

	if (s->read_only)
		return -EROFS;
	error = store_entry_name(s, directory, name, ret_name);
	return error ? error : credentials_assume(caller);
}

static int entry_id(struct store *s, int directory_fd, const char *name, struct file_id *ret_id)
{
	int mount_id;
	int error = file_id_of(directory_fd, name, ret_id, &mount_id);

	/* Something is mounted there, maybe a file system without handles. */
	if (error == -EOPNOTSUPP || error == -EOVERFLOW)
		return -EXDEV;
	if (error)
		return error;
	return mount_id == s->mount_id ? 0 : -EXDEV;
}

int store_lookup(struct store *s, const struct credential *caller, struct inode *directory,
		 struct slice name, struct inode **ret_inode)
{
	char text[NAME_BYTES_MAX + 1];
	struct file_id id;
	int error = copy_name(name, text);

	if (error)
		return error;
	if (!S_ISDIR(directory->type))
		return -ENOTDIR;
	if (is_private(s, directory, text))
		return -ENOENT;
	if (strcmp(text, ".") == 0 || (strcmp(text, "..") == 0 && store_is_root(s, directory))) {
		*ret_inode = inodes_ref(s->inodes, directory);
		return 0;
	}
	error = credentials_assume(caller);
	for (unsigned try = 0; !error && try < LOOKUP_TRIES; try++) {
		error = entry_id(s, directory->fd, text, &id);
		if (error)
			return error;
		error = inodes_get(s->inodes, &id, ret_inode);
		if (error != -ESTALE)
			return error;
		error = 0; /* it went away in between: look again */
	}
	return error ? error : -EBUSY;
}

int store_check_entry(struct store *s, const struct credential *caller, struct inode *directory,
		      struct slice name)
{
	char text[NAME_BYTES_MAX + 1];
	struct stat st;
	int error = prepare(s, caller, directory, name, text);

	if (error)
		return error;
	return fstatat(directory->fd, text, &st, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT) < 0 ?
		       -errno : 0;
}

static int get_made(struct store *s, struct inode *directory, const char *name,
		    struct inode **ret_inode)
{
	struct file_id id;
	int error = entry_id(s, directory->fd, name, &id);

	return error ? error : inodes_get(s->inodes, &id, ret_inode);
}

int store_create(struct store *s, const struct credential *caller, struct inode *directory,
		 struct slice name, uint32_t mode, struct inode **ret_inode)
{
	char text[NAME_BYTES_MAX + 1];
	struct inode *inode;
	struct file_id id;
	int mount_id, fd;
	int error = prepare(s, caller, directory, name, text);

	if (error)
		return error;
	error = credentials_umask(mode >> MODE_UMASK_SHIFT & 0777);
	if (error)
		return error;
	fd = openat(directory->fd, text,
		    O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_NOCTTY | O_CLOEXEC, mode & 07777);
	if (fd < 0)
		return -errno;
	error = file_id_of(fd, "", &id, &mount_id);
	if (!error)
		error = inodes_get(s->inodes, &id, &inode);
	if (error) {
		close(fd);
		return error;
	}
	inodes_give_data_fd(inode, fd);
	inodes_mark_dirty(inode);
	*ret_inode = inode;
	return 0;
}

int store_mknod(struct store *s, const struct credential *caller, struct inode *directory,
		struct slice name, uint32_t mode, uint64_t rdev, struct inode **ret_inode)
{
	char text[NAME_BYTES_MAX + 1];
	int made;
	int error = prepare(s, caller, directory, name, text);

	if (!error)
		error = credentials_umask(mode >> MODE_UMASK_SHIFT & 0777);
	if (error)
		return error;
	mode &= S_IFMT | 07777;
	switch (mode & S_IFMT) {
	case S_IFDIR:
		made = mkdirat(directory->fd, text, mode & 07777);
		break;
	case S_IFCHR:
	case S_IFBLK:
		/* The kernel asks for CAP_MKNOD, but for whiteouts, as it does at hosts. */
		if (caller->uid != 0 && !(S_ISCHR(mode) && rdev == 0))
			return -EPERM;
		made = mknodat(directory->fd, text, mode, (dev_t)rdev);
		break;
	case 0:
	case S_IFREG:
	case S_IFIFO:
	case S_IFSOCK:
		made = mknodat(directory->fd, text, mode, 0);
		break;
	default:
		return -EINVAL;
	}
	return made < 0 ? -errno : get_made(s, directory, text, ret_inode);
}

int store_symlink(struct store *s, const struct credential *caller, struct inode *directory,
		  struct slice name, struct slice target, struct inode **ret_inode)
{
	char text[NAME_BYTES_MAX + 1], path[LINK_TARGET_BYTES_MAX + 1];
	int error = prepare(s, caller, directory, name, text);

	if (error)
		return error;
	if (target.length == 0)
		return -ENOENT;
	if (target.length > LINK_TARGET_BYTES_MAX)
		return -ENAMETOOLONG;
	if (memchr(target.data, 0, target.length))
		return -EINVAL;
	memcpy(path, target.data, target.length);
	path[target.length] = 0;
	if (symlinkat(path, directory->fd, text) < 0)
		return -errno;
	return get_made(s, directory, text, ret_inode);
}

/* ---- orphans ---- */

static void orphan_name(const struct file_id *id, bool linkable, char ret_name[ORPHAN_NAME_BYTES])
{
	char *at = ret_name + sprintf(ret_name, "%02x", (unsigned)id->type);

	for (uint8_t i = 0; i < id->length; i++)
		at += sprintf(at, "%02x", id->bytes[i]);
	if (linkable)
		*at++ = LINKABLE_MARK;
	*at = 0;
}

static int hex(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* False for names that are not those of orphans. */
static bool orphan_id(const char *name, struct file_id *ret_id, bool *ret_linkable)
{
	uint8_t bytes[1 + FILE_HANDLE_BYTES_MAX];
	size_t length = strlen(name);

	*ret_linkable = length > 0 && name[length - 1] == LINKABLE_MARK;
	length -= *ret_linkable;
	if (length < 4 || length % 2 || length / 2 > sizeof(bytes))
		return false;
	for (size_t i = 0; i < length; i += 2) {
		int high = hex(name[i]), low = hex(name[i + 1]);

		if (high < 0 || low < 0)
			return false;
		bytes[i / 2] = (uint8_t)(high << 4 | low);
	}
	memset(ret_id, 0, sizeof(*ret_id));
	ret_id->type = bytes[0];
	ret_id->length = (uint8_t)(length / 2 - 1);
	memcpy(ret_id->bytes, bytes + 1, ret_id->length);
	return true;
}

static struct orphan **orphan_bucket(struct store *s, const struct file_id *id)
{
	static const uint8_t key[SIPHASH_KEY_BYTES] = "orphans";

	return &s->orphans[siphash(key, id->bytes, id->length) % ORPHAN_BUCKETS];
}

static struct orphan **orphan_find(struct store *s, const struct file_id *id)
{
	struct orphan **at = orphan_bucket(s, id);

	while (*at && !file_id_equal(&(*at)->id, id))
		at = &(*at)->next;
	return at;
}

bool store_orphan_known(struct store *s, const struct file_id *id)
{
	bool known;

	pthread_mutex_lock(&s->orphan_lock);
	known = s->orphan_count > 0 && *orphan_find(s, id);
	pthread_mutex_unlock(&s->orphan_lock);
	return known;
}

bool store_has_orphans(struct store *s)
{
	bool any;

	pthread_mutex_lock(&s->orphan_lock);
	any = s->orphan_count > 0;
	pthread_mutex_unlock(&s->orphan_lock);
	return any;
}

/* True when it is an orphan that never had a name. */
static bool orphan_linkable(struct store *s, const struct file_id *id)
{
	struct orphan *orphan;
	bool linkable;

	pthread_mutex_lock(&s->orphan_lock);
	orphan = *orphan_find(s, id);
	linkable = orphan && orphan->linkable;
	pthread_mutex_unlock(&s->orphan_lock);
	return linkable;
}

int store_orphan_add(struct store *s, const struct file_id *id, bool linkable)
{
	struct orphan *orphan = (struct orphan *)calloc(1, sizeof(*orphan));

	if (!orphan)
		return -ENOMEM;
	orphan->id = *id;
	orphan->linkable = linkable;
	pthread_mutex_lock(&s->orphan_lock);
	if (*orphan_find(s, id)) {
		free(orphan);
	} else {
		struct orphan **bucket = orphan_bucket(s, id);

		orphan->next = *bucket;
		*bucket = orphan;
		s->orphan_count++;
	}
	pthread_mutex_unlock(&s->orphan_lock);
	return 0;
}

void store_orphan_remove(struct store *s, const struct file_id *id)
{
	struct orphan **at, *orphan;

	pthread_mutex_lock(&s->orphan_lock);
	at = orphan_find(s, id);
	orphan = *at;
	if (orphan) {
		*at = orphan->next;
		s->orphan_count--;
	}
	pthread_mutex_unlock(&s->orphan_lock);
	free(orphan);
}

int store_orphans_load(struct store *s)
{
	struct dirent *entry;
	DIR *directory;
	int error = 0;
	int fd = openat(s->private_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	if (fd < 0)
		return -errno;
	directory = fdopendir(fd);
	if (!directory) {
		error = -errno;
		close(fd);
		return error;
	}
	while (!error && (entry = readdir(directory))) {
		struct file_id id;
		bool linkable;

		if (orphan_id(entry->d_name, &id, &linkable))
			error = store_orphan_add(s, &id, linkable);
	}
	closedir(directory);
	return error;
}

/* Gives what `fd` refers to a link in the private directory. */
static int orphan_make(struct store *s, const struct file_id *id, int fd, bool linkable)
{
	char name[ORPHAN_NAME_BYTES], path[PROC_PATH_BYTES];
	int error = store_orphan_add(s, id, linkable);
	bool lifted;

	if (error)
		return error;
	orphan_name(id, linkable, name);
	store_proc_path(fd, path);
	lifted = credentials_lift();
	if (linkat(AT_FDCWD, path, s->private_fd, name, AT_SYMLINK_FOLLOW) < 0 && errno != EEXIST)
		error = -errno;
	credentials_drop(lifted);
	if (error)
		store_orphan_remove(s, id);
	return error;
}

/* The same if the link about to go is its last. */
static int orphan_keep(struct store *s, struct inode *inode, bool *ret_kept)
{
	struct stat st;
	int error;

	*ret_kept = false;
	if (S_ISDIR(inode->type))
		return 0;
	if (fstat(inode->fd, &st) < 0)
		return -errno;
	if (st.st_nlink != 1)
		return 0;
	error = orphan_make(s, &inode->identity.id, inode->fd, false);
	*ret_kept = !error;
	return error;
}

static void orphan_drop(struct store *s, const struct file_id *id)
{
	char name[ORPHAN_NAME_BYTES];
	bool lifted = credentials_lift();

	orphan_name(id, orphan_linkable(s, id), name);
	/* What cannot be removed now is found by the sweep after the next start. */
	if (unlinkat(s->private_fd, name, 0) == 0 || errno == ENOENT)
		store_orphan_remove(s, id);
	credentials_drop(lifted);
}

int store_tmpfile(struct store *s, const struct credential *caller, struct inode *directory,
		  uint32_t mode, struct inode **ret_inode)
{
	struct inode *inode;
	struct file_id id;
	int fd, mount_id, error;

	if (s->read_only)
		return -EROFS;
	if (!S_ISDIR(directory->type))
		return -ENOTDIR;
	error = credentials_assume(caller);
	if (!error)
		error = credentials_umask(mode >> MODE_UMASK_SHIFT & 0777);
	if (error)
		return error;
	fd = openat(directory->fd, ".", O_TMPFILE | O_RDWR | O_CLOEXEC, mode & 07777);
	if (fd < 0)
		return -errno;
	error = file_id_of(fd, "", &id, &mount_id);
	if (!error)
		error = orphan_make(s, &id, fd, true);
	if (error) {
		close(fd);
		return error;
	}
	error = inodes_get(s->inodes, &id, &inode);
	if (error) {
		close(fd);
		orphan_drop(s, &id);
		return error;
	}
	inodes_give_data_fd(inode, fd);
	inodes_mark_dirty(inode);
	*ret_inode = inode;
	return 0;
}

int store_link(struct store *s, const struct credential *caller, struct inode *inode,
	       struct inode *directory, struct slice name)
{
	char text[NAME_BYTES_MAX + 1], path[PROC_PATH_BYTES];
	bool unnamed;
	int error = prepare(s, caller, directory, name, text);

	if (error)
		return error;
	if (S_ISDIR(inode->type))
		return -EPERM;
	/* An inode whose only link is in the private directory is unlinked for everyone. */
	unnamed = orphan_linkable(s, &inode->identity.id);
	if (!unnamed && store_orphan_known(s, &inode->identity.id))
		return -ENOENT;
	store_proc_path(inode->fd, path);
	if (linkat(AT_FDCWD, path, directory->fd, text, AT_SYMLINK_FOLLOW) < 0)
		return -errno;
	if (unnamed)
		orphan_drop(s, &inode->identity.id);
	return 0;
}

void store_remove_orphan(struct store *s, struct inode *inode)
{
	if (s->private_fd < 0 || !store_orphan_known(s, &inode->identity.id))
		return;
	orphan_drop(s, &inode->identity.id);
	store_settle_removed(s, inode);
}

static void sweep_one(struct store *s, const struct file_id *id,
		      bool (*used)(void *context, const struct handle *handle), void *context)
{
	struct store_locks locks;
	struct inode *inode;

	if (inodes_get(s->inodes, id, &inode) < 0) {
		orphan_drop(s, id);
		return;
	}
	store_lock_exclusive(s, &inode, 1, &locks);
	if (!used(context, &inode->identity.handle))
		store_remove_orphan(s, inode);
	store_unlock_exclusive(s, &locks);
	inodes_put(s->inodes, inode);
}

/* The orphans of this moment, in memory of the caller's; `named`: but those that never had a name. */
static struct file_id *orphan_ids(struct store *s, bool named, uint32_t *ret_count)
{
	struct file_id *ids;
	uint32_t count = 0;

	pthread_mutex_lock(&s->orphan_lock);
	ids = (struct file_id *)calloc(s->orphan_count + 1, sizeof(*ids));
	for (uint32_t i = 0; ids && i < ORPHAN_BUCKETS; i++)
		for (struct orphan *o = s->orphans[i]; o; o = o->next)
			if (!named || !o->linkable)
				ids[count++] = o->id;
	pthread_mutex_unlock(&s->orphan_lock);
	*ret_count = count;
	return ids;
}

void store_sweep_orphans(struct store *s, bool (*used)(void *context, const struct handle *handle),
			 void *context)
{
	uint32_t count;
	struct file_id *ids = orphan_ids(s, false, &count);

	credentials_reset();
	for (uint32_t i = 0; i < count; i++)
		sweep_one(s, &ids[i], used, context);
	free(ids);
}

uint32_t store_reap_orphans(struct store *s,
			    bool (*used)(void *context, const struct handle *handle),
			    void *context, bool *ret_busy)
{
	uint32_t count, removed = 0;
	/* What is being made without a name is an orphan before it is known to be open. */
	struct file_id *ids = orphan_ids(s, true, &count);

	*ret_busy = false;
	credentials_reset();
	for (uint32_t i = 0; i < count; i++) {
		pthread_rwlock_t *stripe;
		struct inode *inode;

		if (inodes_get(s->inodes, &ids[i], &inode) < 0)
			continue;
		stripe = &s->stripes[store_stripe(&inode->identity.key)];
		if (used(context, &inode->identity.handle)) {
			/* It stays. */
		} else if (pthread_rwlock_trywrlock(stripe) != 0) {
			*ret_busy = true;
		} else {
			/* Once more: it is opened with its lock held. */
			if (!used(context, &inode->identity.handle)) {
				store_remove_orphan(s, inode);
				removed++;
			}
			pthread_rwlock_unlock(stripe);
		}
		inodes_put(s->inodes, inode); /* its space is free with this */
	}
	free(ids);
	return removed;
}

/* ---- removing and renaming ---- */

int store_unlink(struct store *s, const struct credential *caller, struct inode *directory,
		 struct slice name, struct inode *victim, bool is_directory, bool keep)
{
	char text[NAME_BYTES_MAX + 1];
	bool kept = false;
	int error = prepare(s, caller, directory, name, text);

	if (error)
		return error;
	if (is_directory != S_ISDIR(victim->type))
		return is_directory ? -ENOTDIR : -EISDIR;
	if (keep)
		error = orphan_keep(s, victim, &kept);
	if (error)
		return error;
	if (unlinkat(directory->fd, text, is_directory ? AT_REMOVEDIR : 0) < 0) {
		error = -errno;
		if (kept)
			orphan_drop(s, &victim->identity.id);
	}
	return error;
}

int store_rename(struct store *s, const struct credential *caller, struct inode *directory,
		 struct slice name, struct inode *new_directory, struct slice new_name,
		 struct inode *replaced, uint32_t flags, bool keep)
{
	char text[NAME_BYTES_MAX + 1], new_text[NAME_BYTES_MAX + 1];
	unsigned kernel_flags = 0;
	bool kept = false;
	int error = prepare(s, caller, directory, name, text);

	if (!error)
		error = store_entry_name(s, new_directory, new_name, new_text);
	if (error)
		return error;
	if (flags & ~(uint32_t)(RENAME_FLAG_NOREPLACE | RENAME_FLAG_EXCHANGE))
		return -EINVAL;
	if (flags & RENAME_FLAG_NOREPLACE)
		kernel_flags |= RENAME_NOREPLACE;
	if (flags & RENAME_FLAG_EXCHANGE)
		kernel_flags |= RENAME_EXCHANGE;
	if (keep && replaced && !flags)
		error = orphan_keep(s, replaced, &kept);
	if (error)
		return error;
	if (renameat2(directory->fd, text, new_directory->fd, new_text, kernel_flags) < 0) {
		error = -errno;
		if (kept)
			orphan_drop(s, &replaced->identity.id);
	}
	return error;
}

/* ---- listing ---- */

struct listing {
	struct store *s;
	struct inode *directory;
	struct writer *w;
	store_grant *grant;
	void *context;
	struct store_listing result;
};

static uint32_t entry_lacks(const struct inode *directory, const char *name,
			    const struct file_id *id)
{
	char path[PROC_PATH_BYTES + 1 + NAME_BYTES_MAX + 1];

	store_proc_path(directory->fd, path);
	(void)snprintf(path + strlen(path), sizeof(path) - strlen(path), "/%s", name); /* it fits */
	return store_lacks(path, false, id);
}

/* The node of an entry, encoded; nothing when it cannot be had without waiting. */
static struct slice entry_node(struct listing *l, const char *name, uint8_t *buffer)
{
	struct writer w = writer_of(buffer, NODE_BYTES_MAX);
	struct identity identity;
	struct changes_seen seen;
	struct item_node node;
	struct change change;
	struct file_id id;
	struct stat st;
	pthread_rwlock_t *stripe;
	bool outside, found;

	if (entry_id(l->s, l->directory->fd, name, &id) < 0)
		return (struct slice){ NULL, 0 };
	identity_of(&l->s->space, &id, &identity);
	stripe = &l->s->stripes[store_stripe(&identity.key)];
	/* Never wait: this thread holds the directory's lock. */
	if (pthread_rwlock_tryrdlock(stripe) != 0)
		return (struct slice){ NULL, 0 };
	found = fstatat(l->directory->fd, name, &st, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT) == 0;
	if (found) {
		seen = store_seen(&st);
		change = changes_get(l->s->changes, &identity.key, &seen, &outside);
		store_fill_node(l->s, &identity, &st, entry_lacks(l->directory, name, &id), change,
				change, &node);
		node.lease = (uint8_t)l->grant(l->context, &identity.handle, outside);
		item_node_write(&w, &node);
	}
	pthread_rwlock_unlock(stripe);
	return (struct slice){ buffer, found && !w.failed ? w.at : 0 };
}

/* False: it did not fit. */
static bool entry_write(struct listing *l, const struct dirent64 *entry)
{
	uint8_t node[NODE_BYTES_MAX];
	size_t before = l->w->at;
	struct item_dirent item = {
		.cookie = (uint64_t)entry->d_off,
		.inode = entry->d_ino,
		.type = DTTOIF(entry->d_type),
		.name = slice_of(entry->d_name),
	};

	/* Without the node first: it is not worth asking for what cannot be said. */
	item_dirent_write(l->w, &item);
	if (!l->w->failed && l->grant && !is_dots(entry->d_name)) {
		item.node = entry_node(l, entry->d_name, node);
		l->w->at = before;
		item_dirent_write(l->w, &item);
	}
	if (l->w->failed) {
		l->w->failed = false;
		l->w->at = before;
		return false;
	}
	l->result.count++;
	l->result.cookie = item.cookie;
	return true;
}

/* Returns 1 when there is room for more, 0 when it is full, or -errno. */
static int list_chunk(struct listing *l, const char *buffer, ssize_t length)
{
	for (ssize_t at = 0; at < length;) {
		const struct dirent64 *entry = (const struct dirent64 *)(buffer + at);

		at += entry->d_reclen;
		if (is_private(l->s, l->directory, entry->d_name)) {
			l->result.cookie = (uint64_t)entry->d_off;
			continue;
		}
		if (!entry_write(l, entry))
			return l->result.count ? 0 : -EINVAL;
	}
	return 1;
}

int store_readdir(struct store *s, const struct credential *caller, struct inode *directory,
		  uint64_t cookie, struct writer *w, store_grant *grant, void *context,
		  struct store_listing *ret_listing)
{
	struct listing l = { s, directory, w, grant, context, { .cookie = cookie } };
	char buffer[GETDENTS_BYTES] __attribute__((aligned(16)));
	ssize_t got;
	int fd, more = 1;
	int error;

	if (!S_ISDIR(directory->type))
		return -ENOTDIR;
	error = store_access(s, caller, directory, OPEN_ACCESS_READ, true);
	if (error)
		return error;
	if (s->root_squash &&
	    (credentials_assume(caller) < 0 ||
	     syscall(SYS_faccessat2, directory->fd, "", X_OK, AT_EMPTY_PATH | AT_EACCESS) < 0))
		l.grant = NULL; /* who may not search it sees names only */
	/* As root: "." is a search, which listing does not need. Entries are looked at as root, too. */
	credentials_reset();
	/* A description of its own: offsets are not shared between requests. */
	fd = openat(directory->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	(void)fcntl(fd, F_SETFL, O_NOATIME); /* hosts that have its attributes would not hear of it */
	if (cookie && lseek(fd, (off_t)cookie, SEEK_SET) < 0)
		more = -errno;
	while (more > 0) {
		got = getdents64(fd, buffer, sizeof(buffer));
		if (got < 0)
			more = -errno;
		else if (got == 0)
			break;
		else
			more = list_chunk(&l, buffer, got);
	}
	close(fd);
	if (more < 0)
		return more;
	l.result.eof = more > 0;
	*ret_listing = l.result;
	return 0;
}
