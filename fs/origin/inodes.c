#include "fs/origin/inodes.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

#include "fs/origin/credentials.h"

#define LATE_BITS 65536u
#define FAILURES_MAX 64u

/* Inodes whose descriptor was closed before what was written through it was synced: bits by their keys,
   so that some others count among them. */
struct late {
	uint64_t words[LATE_BITS / 64];
};

struct failure {
	struct changes_key key;
	uint64_t incarnation;
};

struct inodes {
	struct handle_space space;
	struct changes *changes;
	int mount_fd;
	uint32_t count_max;
	uint32_t bucket_count; /* a power of two */
	pthread_mutex_t lock;
	struct inode **buckets;
	struct inode *newest, *oldest; /* without references, by last use */
	uint64_t count, hits, misses, evicted;
	uint64_t evicted_dirty;
	struct late late[2]; /* of these [late_now] takes what comes while the file system is synced */
	unsigned late_now;
	struct failure failures[FAILURES_MAX]; /* the latest syncs that failed */
	uint64_t failure_count;
	pthread_mutex_t sync_lock;
};

void identity_of(const struct handle_space *space, const struct file_id *id,
		 struct identity *ret_identity)
{
	uint8_t text[4 + 1 + FILE_HANDLE_BYTES_MAX] = { 0 };
	size_t length = 5u + id->length;

	ret_identity->id = *id;
	handle_make(space, id, &ret_identity->handle);
	memcpy(text, ret_identity->handle.bytes, length);
	for (unsigned i = 0; i < 2; i++)
		ret_identity->key.words[i] = siphash(space->key.spread[i], text, length);
}

int inodes_create(const struct handle_space *space, int mount_fd, struct changes *changes,
		  uint32_t count_max, struct inodes **ret_inodes)
{
	struct inodes *inodes = (struct inodes *)calloc(1, sizeof(*inodes));

	if (!inodes)
		return -ENOMEM;
	inodes->space = *space;
	inodes->changes = changes;
	inodes->mount_fd = mount_fd;
	/* What an earlier process wrote can be any. */
	memset(&inodes->late[0], 0xff, sizeof(inodes->late[0]));
	inodes->count_max = count_max;
	inodes->bucket_count = 64;
	while (inodes->bucket_count < count_max && inodes->bucket_count < 1u << 20)
		inodes->bucket_count *= 2;
	inodes->buckets = (struct inode **)calloc(inodes->bucket_count, sizeof(struct inode *));
	if (!inodes->buckets) {
		free(inodes);
		return -ENOMEM;
	}
	pthread_mutex_init(&inodes->lock, NULL);
	pthread_mutex_init(&inodes->sync_lock, NULL);
	*ret_inodes = inodes;
	return 0;
}

static void inode_destroy(struct inode *inode)
{
	int fds[] = { inode->fd, atomic_load(&inode->read_fd), atomic_load(&inode->write_fd) };

	for (size_t i = 0; i < sizeof(fds) / sizeof(fds[0]); i++)
		if (fds[i] >= 0)
			close(fds[i]);
	pthread_mutex_destroy(&inode->sync_lock);
	free(inode);
}

void inodes_destroy(struct inodes *inodes)
{
	if (!inodes)
		return;
	for (uint32_t i = 0; i < inodes->bucket_count; i++) {
		struct inode *next;

		for (struct inode *inode = inodes->buckets[i]; inode; inode = next) {
			next = inode->chain;
			inode_destroy(inode);
		}
	}
	free(inodes->buckets);
	pthread_mutex_destroy(&inodes->lock);
	pthread_mutex_destroy(&inodes->sync_lock);
	free(inodes);
}

/* ---- under the lock ---- */

static struct inode **bucket_of(struct inodes *inodes, const struct changes_key *key)
{
	return &inodes->buckets[key->words[1] & (inodes->bucket_count - 1)];
}

static void idle_add(struct inodes *inodes, struct inode *inode)
{
	inode->newer = NULL;
	inode->older = inodes->newest;
	if (inodes->newest)
		inodes->newest->newer = inode;
	else
		inodes->oldest = inode;
	inodes->newest = inode;
}

static void idle_remove(struct inodes *inodes, struct inode *inode)
{
	if (inode->newer)
		inode->newer->older = inode->older;
	else
		inodes->newest = inode->older;
	if (inode->older)
		inode->older->newer = inode->newer;
	else
		inodes->oldest = inode->newer;
	inode->newer = inode->older = NULL;
}

static void unhash(struct inodes *inodes, struct inode *inode)
{
	struct inode **at = bucket_of(inodes, &inode->identity.key);

	while (*at != inode)
		at = &(*at)->chain;
	*at = inode->chain;
	inode->chain = NULL;
	inode->hashed = false;
	inodes->count--;
}

static struct inode *find(struct inodes *inodes, const struct identity *identity)
{
	struct inode *inode = *bucket_of(inodes, &identity->key);

	while (inode && !file_id_equal(&inode->identity.id, &identity->id))
		inode = inode->chain;
	if (!inode)
		return NULL;
	if (inode->references++ == 0)
		idle_remove(inodes, inode);
	return inode;
}

static uint64_t *late_word(struct late *late, const struct changes_key *key)
{
	return &late->words[key->words[0] % LATE_BITS / 64];
}

static uint64_t late_bit(const struct changes_key *key)
{
	return UINT64_C(1) << key->words[0] % 64;
}

/* Takes out the one that was used the longest ago; NULL when there is room or all are in use. */
static struct inode *make_room(struct inodes *inodes)
{
	struct inode *inode = inodes->oldest;

	if (inodes->count < inodes->count_max || !inode)
		return NULL;
	idle_remove(inodes, inode);
	unhash(inodes, inode);
	inodes->evicted++;
	if (atomic_load(&inode->dirty)) {
		inodes->evicted_dirty++;
		*late_word(&inodes->late[inodes->late_now], &inode->identity.key) |=
			late_bit(&inode->identity.key);
	}
	return inode;
}

/* ---- */

#define OPEN_TRIES_MAX 10
#define OPEN_AGAIN_US 1000

static int inode_open(struct inodes *inodes, const struct identity *identity,
		      struct inode **ret_inode)
{
	struct inode *inode;
	struct stat st;
	bool lifted;
	int fd;

	lifted = credentials_lift();
	fd = file_id_open(inodes->mount_fd, &identity->id, O_PATH | O_NOFOLLOW);
	/* Seen under load with memory to spare, on an inode that was just losing its last name. */
	for (unsigned i = 0; fd == -ENOMEM && i < OPEN_TRIES_MAX; i++) {
		if (i > 0)
			(void)usleep(OPEN_AGAIN_US);
		fd = file_id_open(inodes->mount_fd, &identity->id, O_PATH | O_NOFOLLOW);
	}
	credentials_drop(lifted);
	if (fd < 0)
		return fd;
	if (fstat(fd, &st) < 0 || st.st_nlink == 0) {
		close(fd);
		return -ESTALE;
	}
	inode = (struct inode *)calloc(1, sizeof(*inode));
	if (!inode) {
		close(fd);
		return -ENOMEM;
	}
	inode->identity = *identity;
	inode->fd = fd;
	inode->type = st.st_mode & S_IFMT;
	atomic_init(&inode->read_fd, -1);
	atomic_init(&inode->write_fd, -1);
	pthread_mutex_init(&inode->sync_lock, NULL);
	inode->references = 1;
	*ret_inode = inode;
	return 0;
}

int inodes_get(struct inodes *inodes, const struct file_id *id, struct inode **ret_inode)
{
	struct identity identity;
	struct inode *inode, *fresh, *evicted;
	int error;

	identity_of(&inodes->space, id, &identity);
	pthread_mutex_lock(&inodes->lock);
	inode = find(inodes, &identity);
	inodes->hits += inode != NULL;
	inodes->misses += inode == NULL;
	pthread_mutex_unlock(&inodes->lock);
	if (inode) {
		*ret_inode = inode;
		return 0;
	}
	error = inode_open(inodes, &identity, &fresh);
	if (error)
		return error;
	pthread_mutex_lock(&inodes->lock);
	inode = find(inodes, &identity); /* another thread may have been faster */
	if (inode) {
		evicted = fresh;
	} else {
		struct inode **bucket = bucket_of(inodes, &identity.key);

		evicted = make_room(inodes);
		fresh->chain = *bucket;
		fresh->hashed = true;
		*bucket = fresh;
		inodes->count++;
		inode = fresh;
	}
	pthread_mutex_unlock(&inodes->lock);
	if (evicted)
		inode_destroy(evicted);
	*ret_inode = inode;
	return 0;
}

struct inode *inodes_ref(struct inodes *inodes, struct inode *inode)
{
	pthread_mutex_lock(&inodes->lock);
	assert(inode->references > 0);
	inode->references++;
	pthread_mutex_unlock(&inodes->lock);
	return inode;
}

void inodes_put(struct inodes *inodes, struct inode *inode)
{
	bool last = false;

	if (!inode)
		return;
	pthread_mutex_lock(&inodes->lock);
	assert(inode->references > 0);
	if (--inode->references == 0) {
		if (inode->hashed)
			idle_add(inodes, inode);
		else
			last = true;
	}
	pthread_mutex_unlock(&inodes->lock);
	if (last)
		inode_destroy(inode);
}

void inodes_forget(struct inodes *inodes, struct inode *inode)
{
	pthread_mutex_lock(&inodes->lock);
	assert(inode->references > 0);
	if (inode->hashed)
		unhash(inodes, inode);
	pthread_mutex_unlock(&inodes->lock);
}

int inodes_data_fd(struct inodes *inodes, struct inode *inode, bool write)
{
	_Atomic int *slot = write ? &inode->write_fd : &inode->read_fd;
	int fd = atomic_load(slot), none = -1;
	int flags = (write ? O_RDWR : O_RDONLY) | O_NOFOLLOW;
	bool lifted;

	if (fd < 0 && !write)
		fd = atomic_load(&inode->write_fd);
	if (fd >= 0)
		return fd;
	if (!S_ISREG(inode->type))
		return S_ISDIR(inode->type) ? -EISDIR : -EINVAL;
	lifted = credentials_lift();
	/* By handle and not through the O_PATH descriptor: no /proc needed, no symlink possible. */
	fd = file_id_open(inodes->mount_fd, &inode->identity.id, flags | O_NOATIME);
	if (fd == -EPERM) /* a file system that has ideas of its own about owners */
		fd = file_id_open(inodes->mount_fd, &inode->identity.id, flags);
	credentials_drop(lifted);
	if (fd < 0)
		return fd;
	if (!atomic_compare_exchange_strong(slot, &none, fd)) {
		close(fd);
		fd = none;
	}
	return fd;
}

void inodes_give_data_fd(struct inode *inode, int fd)
{
	int none = -1;

	/* Not when it was opened: then a refusal would come after the file was made. */
	(void)fcntl(fd, F_SETFL, O_NOATIME);
	if (!atomic_compare_exchange_strong(&inode->write_fd, &none, fd))
		close(fd);
}

void inodes_mark_dirty(struct inode *inode)
{
	atomic_store(&inode->dirty, true);
}

/* ---- syncs ---- */

static bool is_late(struct inodes *inodes, const struct changes_key *key)
{
	bool late;

	pthread_mutex_lock(&inodes->lock);
	late = (*late_word(&inodes->late[0], key) | *late_word(&inodes->late[1], key)) &
	       late_bit(key);
	pthread_mutex_unlock(&inodes->lock);
	return late;
}

/* Syncs the whole file system, unless `key` (not NULL) is not late any more. */
static int sync_all(struct inodes *inodes, const struct changes_key *key)
{
	unsigned before;
	int error = 0;

	pthread_mutex_lock(&inodes->sync_lock);
	if (key && !is_late(inodes, key)) {
		pthread_mutex_unlock(&inodes->sync_lock);
		return 0;
	}
	pthread_mutex_lock(&inodes->lock);
	before = inodes->late_now;
	inodes->late_now = !before; /* it is empty: see below */
	pthread_mutex_unlock(&inodes->lock);
	if (syncfs(inodes->mount_fd) < 0) {
		error = -errno;
		changes_renew_incarnation(inodes->changes);
	}
	/* Also after an error, of which all hear by the new incarnation. */
	pthread_mutex_lock(&inodes->lock);
	memset(&inodes->late[before], 0, sizeof(inodes->late[before]));
	pthread_mutex_unlock(&inodes->lock);
	pthread_mutex_unlock(&inodes->sync_lock);
	return error;
}

int inodes_sync_all(struct inodes *inodes)
{
	return sync_all(inodes, NULL);
}

static int sync_one(struct inodes *inodes, struct inode *inode, bool data_only)
{
	int fd = atomic_load(&inode->write_fd), error;

	if (S_ISDIR(inode->type)) {
		fd = openat(inode->fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		if (fd < 0)
			return -errno;
		error = fsync(fd) < 0 ? -errno : 0;
		close(fd);
		return error;
	}
	if (fd < 0)
		fd = inodes_data_fd(inodes, inode, false);
	if (fd < 0)
		return fd;
	atomic_store(&inode->dirty, false);
	return (data_only ? fdatasync(fd) : fsync(fd)) < 0 ? -errno : 0;
}

/* What was written may be lost. (A file system that gave up writing says EROFS.) */
static bool is_loss(int error)
{
	return error == -EIO || error == -ENOSPC || error == -EDQUOT || error == -EROFS;
}

static void note_failure(struct inodes *inodes, const struct inode *inode)
{
	struct failure *failure;

	/* The file system tells the same error to its own descriptor: once is enough. */
	pthread_mutex_lock(&inodes->sync_lock);
	(void)syncfs(inodes->mount_fd);
	changes_renew_incarnation(inodes->changes);
	pthread_mutex_unlock(&inodes->sync_lock);
	pthread_mutex_lock(&inodes->lock);
	failure = &inodes->failures[inodes->failure_count++ % FAILURES_MAX];
	*failure = (struct failure){ inode->identity.key, changes_incarnation(inodes->changes) };
	pthread_mutex_unlock(&inodes->lock);
}

/* The incarnation since the last one of the inode's that is remembered. */
static uint64_t failure_of(struct inodes *inodes, const struct changes_key *key)
{
	uint64_t incarnation = 0;

	pthread_mutex_lock(&inodes->lock);
	for (uint64_t i = 0; !incarnation && i < FAILURES_MAX && i < inodes->failure_count; i++) {
		const struct failure *failure =
			&inodes->failures[(inodes->failure_count - 1 - i) % FAILURES_MAX];

		if (failure->key.words[0] == key->words[0] &&
		    failure->key.words[1] == key->words[1])
			incarnation = failure->incarnation;
	}
	pthread_mutex_unlock(&inodes->lock);
	return incarnation;
}

int inodes_sync(struct inodes *inodes, struct inode *inode, bool data_only,
		struct synced *ret_synced)
{
	struct changes_key *key = &inode->identity.key;
	int error = 0;

	*ret_synced = (struct synced){ changes_incarnation(inodes->changes), 0 };
	if (!S_ISREG(inode->type) && !S_ISDIR(inode->type))
		return sync_all(inodes, NULL);
	if (is_late(inodes, key))
		error = sync_all(inodes, key);
	if (error)
		return error;
	/*
	 * The error that one sync is told the next one is not: who comes after it must find the new
	 * incarnation.
	 */
	pthread_mutex_lock(&inode->sync_lock);
	ret_synced->incarnation = changes_incarnation(inodes->changes);
	error = sync_one(inodes, inode, data_only);
	if (is_loss(error))
		note_failure(inodes, inode);
	pthread_mutex_unlock(&inode->sync_lock);
	ret_synced->failed = failure_of(inodes, key);
	return error;
}

void inodes_counters(struct inodes *inodes, struct inodes_counters *ret_counters)
{
	pthread_mutex_lock(&inodes->lock);
	*ret_counters = (struct inodes_counters){ inodes->count, inodes->hits, inodes->misses,
						  inodes->evicted, inodes->evicted_dirty };
	pthread_mutex_unlock(&inodes->lock);
}
