#include "fs/cache/internal.h"

#include "lease/base/bytes.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/xattr.h>
#include <unistd.h>
#include <dirent.h>
#include <xxhash.h>

/* identity: u32 magic, u16 version of the directory's layout, 16 bytes host id, u64 XXH3. */
#define IDENTITY_NAME "leasehold-cache"
#define IDENTITY_MAGIC UINT32_C(0x4943484c) /* "LHCI" */
#define IDENTITY_VERSION 1
#define IDENTITY_BYTES (4 + 2 + 16 + 8)

/* Files that one reservation may evict: a bound on the wait, far above what a request needs. */
#define EVICTIONS_MAX 65536
/* Files in use that one choice of a victim may pass over. */
#define PASSED_OVER_MAX 256

uint64_t cache_hash(const struct handle *handle)
{
	return XXH3_64bits(handle->bytes, handle->length);
}

void cache_used(struct cache_file *f, uint64_t bytes)
{
	struct cache *c = f->cache;

	pthread_mutex_lock(&c->lock);
	policy_pass(&c->policy, bytes);
	policy_use(&c->policy, &f->item);
	pthread_mutex_unlock(&c->lock);
}

void cache_list_scanned(struct cache *c, struct cache_file *f)
{
	pthread_mutex_lock(&c->lock);
	policy_admit_unused(&c->policy, &f->item);
	pthread_mutex_unlock(&c->lock);
}

static struct cache_file *file_of(struct policy_item *item)
{
	return (struct cache_file *)((char *)item - offsetof(struct cache_file, item));
}

/* The policy knows of it while it takes room. c->lock is held. */
static void list(struct cache *c, struct cache_file *f)
{
	if (f->item.bytes == 0)
		policy_remove(&c->policy, &f->item, f->hash);
	else if (f->item.place == POLICY_NOWHERE)
		policy_admit(&c->policy, &f->item, f->hash);
	policy_pin(&c->policy, &f->item, f->pins > 0);
}

static void table_add(struct cache *c, struct cache_file *f)
{
	struct cache_file **bucket = &c->buckets[f->hash & (c->bucket_count - 1)];

	f->hash_next = *bucket;
	*bucket = f;
	c->files++;
}

static void table_remove(struct cache *c, struct cache_file *f)
{
	struct cache_file **at = &c->buckets[f->hash & (c->bucket_count - 1)];

	while (*at != f)
		at = &(*at)->hash_next;
	*at = f->hash_next;
	c->files--;
}

/* The entry of a handle, referenced; NULL: none. c->lock is held. */
static struct cache_file *table_find(struct cache *c, const struct handle *handle, uint64_t hash)
{
	struct cache_file *f = c->buckets[hash & (c->bucket_count - 1)];

	while (f && (f->hash != hash || !handle_equal(&f->handle, handle)))
		f = f->hash_next;
	if (f)
		f->references++;
	return f;
}

struct cache_file *cache_insert_scanned(struct cache *c, const struct handle *handle,
					uint64_t charge)
{
	struct cache_file *f = cache_file_new(c, handle, true);

	if (!f)
		return NULL;
	f->item.bytes = charge;
	pthread_mutex_lock(&c->lock);
	table_add(c, f);
	c->bytes += charge;
	pthread_mutex_unlock(&c->lock);
	return f;
}

/*
 * Takes the file that should go so that `self` (may be NULL) gets `bytes`: referenced, and locked
 * exclusively. Whoever knows it goes on without what was cached. Passed over is what somebody reads or
 * writes at this moment, and what the flusher has open (its blocks would stay). NULL: there is none.
 */
static struct cache_file *take_victim(struct cache *c, struct cache_file *self, uint64_t bytes)
{
	struct policy_item *for_item = self ? &self->item : NULL;
	struct policy_item *item = policy_victim(&c->policy, for_item, bytes, NULL);

	for (int passed_over = 0; item && passed_over < PASSED_OVER_MAX; passed_over++) {
		struct cache_file *f = file_of(item);

		/* Against the order of the locks, but it does not wait. */
		if (!f->flushing && pthread_rwlock_trywrlock(&f->lock) == 0) {
			f->references++;
			return f;
		}
		item = policy_victim(&c->policy, for_item, bytes, item);
	}
	return NULL;
}

/* Evicts what take_victim() handed out. False: the disk refuses, and would refuse the next as well. */
static bool evict(struct cache *c, struct cache_file *f)
{
	uint64_t bytes = f->item.bytes; /* changes only with the file's lock */
	bool refused;

	cache_file_drop_locked(f);
	refused = f->on_disk;
	pthread_rwlock_unlock(&f->lock);
	if (refused) {
		cache_used(f, 0); /* not the first choice next time */
	} else {
		atomic_fetch_add(&c->statistics.evicted_files, 1);
		atomic_fetch_add(&c->statistics.evicted_bytes, bytes);
	}
	cache_file_put(f);
	return !refused;
}

/* Evicts until `bytes` more fit, and takes them for `self`, which may be NULL. */
static int make_room(struct cache *c, struct cache_file *self, uint64_t bytes)
{
	for (int evictions = 0; evictions < EVICTIONS_MAX; evictions++) {
		struct cache_file *victim = NULL;

		pthread_mutex_lock(&c->lock);
		if (c->bytes <= c->bytes_max && bytes <= c->bytes_max - c->bytes) {
			c->bytes += bytes;
			pthread_mutex_unlock(&c->lock);
			return 0;
		}
		if (bytes <= c->bytes_max)
			victim = take_victim(c, self, bytes);
		pthread_mutex_unlock(&c->lock);
		if (!victim || !evict(c, victim))
			return -ENOSPC;
	}
	return -ENOSPC;
}

int cache_reserve(struct cache_file *f, uint64_t length, uint64_t bytes)
{
	struct cache *c = f->cache;
	int rc;

	/* What is new has its place among the others before it takes room. */
	pthread_mutex_lock(&c->lock);
	policy_pass(&c->policy, length);
	if (f->item.place == POLICY_NOWHERE)
		policy_admit(&c->policy, &f->item, f->hash);
	else
		policy_fill(&c->policy, &f->item);
	pthread_mutex_unlock(&c->lock);
	rc = make_room(c, f, bytes);
	if (rc < 0) {
		pthread_mutex_lock(&c->lock);
		list(c, f);
		pthread_mutex_unlock(&c->lock);
	}
	return rc;
}

void cache_trim(struct cache *c)
{
	(void)make_room(c, NULL, 0); /* what is in use stays; its next write is not admitted */
}

void cache_settle(struct cache_file *f, uint64_t charge, uint64_t reserved, bool dirty)
{
	struct cache *c = f->cache;

	pthread_mutex_lock(&c->lock);
	if (charge == 0 && f->flushing) {
		/* The flusher's descriptor keeps the blocks until it is closed. */
		f->orphaned += f->item.bytes;
		policy_resize(&c->policy, &f->item, 0);
	}
	assert(c->bytes >= f->item.bytes + reserved);
	c->bytes -= f->item.bytes + reserved;
	c->bytes += charge;
	policy_resize(&c->policy, &f->item, charge);
	list(c, f);
	if (dirty && !f->dirty) {
		f->dirty = true;
		f->dirty_next = c->dirty;
		c->dirty = f;
		c->dirty_count++;
	}
	pthread_mutex_unlock(&c->lock);
}

struct cache_file *cache_file_get(struct cache *c, const struct handle *handle)
{
	uint64_t hash = cache_hash(handle);
	struct cache_file *f, *made, *victim = NULL;

	pthread_mutex_lock(&c->lock);
	f = table_find(c, handle, hash);
	if (!f && c->files >= CACHE_FILES_MAX)
		victim = take_victim(c, NULL, 0);
	pthread_mutex_unlock(&c->lock);
	if (f)
		return f;
	if (victim)
		(void)evict(c, victim); /* refused: there is no entry to give, see below */
	made = cache_file_new(c, handle, false);
	if (!made)
		return NULL;
	pthread_mutex_lock(&c->lock);
	f = table_find(c, handle, hash);
	if (!f && c->files < CACHE_FILES_MAX) {
		f = made;
		f->references = 1;
		table_add(c, f);
	}
	pthread_mutex_unlock(&c->lock);
	if (f != made)
		cache_file_free(made);
	return f;
}

void cache_file_put(struct cache_file *f)
{
	struct cache *c = f->cache;
	struct range_set ranges = { 0 };
	bool unused;
	int fd = -1;

	pthread_mutex_lock(&c->lock);
	assert(f->references > 0);
	if (--f->references > 0) {
		pthread_mutex_unlock(&c->lock);
		return;
	}
	unused = !f->on_disk && !f->dirty;
	if (!f->dirty) {
		/* The record on disk says it all: only the entry stays in memory. */
		fd = f->fd;
		f->fd = -1;
		f->loaded = false;
		f->change = (struct change){ 0, 0 };
		ranges = f->ranges;
		range_set_init(&f->ranges, ranges.allocator, CACHE_FILE_RANGES_MAX);
	}
	assert(f->pins == 0);
	if (unused)
		table_remove(c, f);
	pthread_mutex_unlock(&c->lock);
	if (fd >= 0) {
		close(fd);
		atomic_fetch_sub(&c->descriptors, 1);
	}
	if (ranges.ranges)
		range_set_finish(&ranges);
	if (unused)
		cache_file_free(f);
}

void cache_file_pin(struct cache_file *f)
{
	struct cache *c = f->cache;

	/* The file's lock: an eviction that has begun is over before this returns. */
	pthread_rwlock_rdlock(&f->lock);
	pthread_mutex_lock(&c->lock);
	f->pins++;
	list(c, f);
	pthread_mutex_unlock(&c->lock);
	pthread_rwlock_unlock(&f->lock);
}

void cache_file_unpin(struct cache_file *f)
{
	struct cache *c = f->cache;

	pthread_mutex_lock(&c->lock);
	assert(f->pins > 0);
	f->pins--;
	list(c, f);
	pthread_mutex_unlock(&c->lock);
}

/* An identity that we can read: the host's id. -EINVAL: something else. */
static int identity_read(int fd, uint8_t ret_id[16])
{
	uint8_t buffer[IDENTITY_BYTES];
	struct reader r = reader_of(buffer, sizeof(buffer));
	struct slice id;
	uint64_t sum;

	if (pread(fd, buffer, sizeof(buffer), 0) != (ssize_t)sizeof(buffer))
		return -EINVAL;
	if (reader_u32(&r) != IDENTITY_MAGIC || reader_u16(&r) != IDENTITY_VERSION)
		return -EINVAL;
	id = reader_bytes(&r, 16);
	sum = XXH3_64bits(buffer, r.at);
	if (reader_u64(&r) != sum)
		return -EINVAL;
	memcpy(ret_id, id.data, 16);
	return 0;
}

static int identity_write(int fd, uint8_t ret_id[16])
{
	uint8_t buffer[IDENTITY_BYTES];
	struct writer w = writer_of(buffer, sizeof(buffer));

	if (getrandom(ret_id, 16, 0) != 16)
		return -EIO;
	writer_u32(&w, IDENTITY_MAGIC);
	writer_u16(&w, IDENTITY_VERSION);
	writer_bytes(&w, ret_id, 16);
	writer_u64(&w, XXH3_64bits(buffer, w.at));
	if (ftruncate(fd, 0) < 0 || pwrite(fd, buffer, w.at, 0) < 0 || fsync(fd) < 0)
		return -errno;
	return 0;
}

/* True when there is nothing in the directory but what a new file system brings. */
static bool directory_is_empty(int directory_fd)
{
	int fd = openat(directory_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *e;
	bool empty = true;

	if (!d) {
		if (fd >= 0)
			close(fd);
		return false;
	}
	while (empty && (e = readdir(d)))
		empty = strcmp(e->d_name, ".") == 0 || strcmp(e->d_name, "..") == 0 ||
			strcmp(e->d_name, "lost+found") == 0;
	closedir(d);
	return empty;
}

static int make_directories(const char *path)
{
	char part[PATH_MAX];

	if ((size_t)snprintf(part, sizeof(part), "%s", path) >= sizeof(part))
		return -ENAMETOOLONG;
	for (char *p = part + 1; *p; p++) {
		if (*p != '/')
			continue;
		*p = 0;
		if (mkdir(part, 0700) < 0 && errno != EEXIST)
			return -errno;
		*p = '/';
	}
	return mkdir(part, 0700) < 0 && errno != EEXIST ? -errno : 0;
}

struct complaint {
	const char *directory;
	char *text;
	size_t size;
};

static int complain(const struct complaint *to, int rc, const char *what)
{
	if (to->size > 0)
		snprintf(to->text, to->size, "cache directory %s: %s (%s)", to->directory, what,
			 strerror(-rc));
	return rc;
}

/* Opens, locks and identifies the directory. */
static int open_directory(struct cache *c, const struct complaint *to)
{
	struct statvfs vfs;
	int rc = make_directories(to->directory);

	if (rc < 0)
		return complain(to, rc, "cannot be made; give a directory on a local disk");
	c->directory_fd = open(to->directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (c->directory_fd < 0)
		return complain(to, -errno, "cannot be opened; give a directory on a local disk");
	if (faccessat(c->directory_fd, IDENTITY_NAME, F_OK, 0) < 0 &&
	    !directory_is_empty(c->directory_fd))
		return complain(to, -ENOTEMPTY, "is no cache; give an empty directory or a new one");
	c->identity_fd = openat(c->directory_fd, IDENTITY_NAME,
				O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (c->identity_fd < 0)
		return complain(to, -errno, "cannot be written; check its owner and mount");
	if (flock(c->identity_fd, LOCK_EX | LOCK_NB) < 0)
		return complain(to, errno == EWOULDBLOCK ? -EBUSY : -errno,
				"is in use by another mount; give each mount a cache of its own");
	if (fsetxattr(c->identity_fd, "user.leasehold.probe", "1", 1, 0) < 0)
		return complain(to, errno == ENOTSUP ? -EOPNOTSUPP : -errno,
				"takes no user xattrs; use ext4, XFS or btrfs");
	if (mkdirat(c->directory_fd, "objects", 0700) < 0 && errno != EEXIST)
		return complain(to, -errno, "cannot be written; check its owner and mount");
	c->objects_fd = openat(c->directory_fd, "objects",
			       O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (c->objects_fd < 0 || fstatvfs(c->objects_fd, &vfs) < 0)
		return complain(to, -errno, "has no usable directory \"objects\"; remove that");
	c->block_bytes = vfs.f_bsize > 512 ? vfs.f_bsize : 512;
	return 0;
}

static int allocate(struct cache *c)
{
	pthread_condattr_t attributes;

	/* A chain of a few entries when the files are small; 8 MiB of buckets at most. */
	c->bucket_count = 1024;
	while (c->bucket_count < CACHE_FILES_MAX && c->bucket_count * 65536 < c->bytes_max)
		c->bucket_count *= 2;
	pthread_mutex_init(&c->lock, NULL);
	pthread_mutex_init(&c->flush_lock, NULL);
	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&c->flusher_wake, &attributes);
	pthread_condattr_destroy(&attributes);
	c->directory_fd = -1;
	c->objects_fd = -1;
	c->identity_fd = -1;
	c->buckets = calloc(c->bucket_count, sizeof(*c->buckets));
	c->jobs = calloc(CACHE_FLUSH_BATCH, sizeof(*c->jobs));
	c->largest = calloc(CACHE_FILE_RANGES_MAX, sizeof(*c->largest));
	if (!c->buckets || !c->jobs || !c->largest)
		return -ENOMEM;
	return policy_init(&c->policy, &cache_heap, c->bytes_max);
}

static void destroy(struct cache *c)
{
	for (uint64_t i = 0; c->buckets && i < c->bucket_count; i++) {
		struct cache_file *f = c->buckets[i], *next;

		for (; f; f = next) {
			next = f->hash_next;
			assert(f->references == 0);
			if (f->fd >= 0)
				close(f->fd);
			cache_file_free(f);
		}
	}
	if (c->objects_fd >= 0)
		close(c->objects_fd);
	if (c->identity_fd >= 0)
		close(c->identity_fd);
	if (c->directory_fd >= 0)
		close(c->directory_fd);
	free(c->buckets);
	free(c->jobs);
	free(c->largest);
	policy_finish(&c->policy);
	pthread_cond_destroy(&c->flusher_wake);
	pthread_mutex_destroy(&c->flush_lock);
	pthread_mutex_destroy(&c->lock);
	free(c);
}

int cache_open(const char *directory, uint64_t bytes_max, struct cache **ret_cache, char *ret_text,
	       size_t text_size)
{
	const struct complaint to = { directory, ret_text, text_size };
	struct cache *c = calloc(1, sizeof(*c));
	int rc;

	if (!c)
		return complain(&to, -ENOMEM, "cannot be opened");
	c->bytes_max = bytes_max;
	rc = allocate(c);
	if (rc < 0)
		complain(&to, rc, "cannot be opened");
	else
		rc = open_directory(c, &to);
	if (rc == 0) {
		/* Without an identity that we can read, what is there is of no known layout. */
		bool known = identity_read(c->identity_fd, c->host_id) == 0;

		rc = cache_scan(c, known);
		if (rc == 0 && !known)
			rc = identity_write(c->identity_fd, c->host_id);
		if (rc < 0)
			complain(&to, rc, "cannot be read or written; check the disk");
	}
	if (rc == 0) {
		cache_trim(c);
		rc = cache_flusher_start(c);
		if (rc < 0)
			complain(&to, rc, "no thread to write its records");
	}
	if (rc < 0) {
		destroy(c);
		return rc;
	}
	*ret_cache = c;
	return 0;
}

void cache_close(struct cache *c)
{
	if (!c)
		return;
	cache_flusher_stop(c);
	cache_flush(c);
	destroy(c);
}

void cache_host_id(const struct cache *c, uint8_t ret_id[16])
{
	memcpy(ret_id, c->host_id, 16);
}

void cache_counters(struct cache *c, struct cache_counters *ret_counters)
{
	struct cache_statistics *s = &c->statistics;
	struct cache_counters counters = {
		.bytes_max = c->bytes_max,
		.hits = atomic_load(&s->hits),
		.hit_bytes = atomic_load(&s->hit_bytes),
		.writes = atomic_load(&s->writes),
		.write_bytes = atomic_load(&s->write_bytes),
		.evicted_files = atomic_load(&s->evicted_files),
		.evicted_bytes = atomic_load(&s->evicted_bytes),
		.not_admitted = atomic_load(&s->not_admitted),
		.dropped_corrupt = atomic_load(&s->dropped_corrupt),
		.dropped_errors = atomic_load(&s->dropped_errors),
		.records_written = atomic_load(&s->records_written),
		.record_errors = atomic_load(&s->record_errors),
		.records_loaded = atomic_load(&s->records_loaded),
	};

	pthread_mutex_lock(&c->lock);
	counters.bytes = c->bytes;
	counters.files = c->files;
	pthread_mutex_unlock(&c->lock);
	*ret_counters = counters;
}
