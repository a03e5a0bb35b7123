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
#define IDENTITY_VERSION 3 /* 3: objects/xx/, before that objects/xx/yy/ */
#define IDENTITY_BYTES (4 + 2 + 16 + 8)

uint64_t cache_hash(uint64_t space, const struct handle *handle)
{
	return XXH3_64bits_withSeed(handle->bytes, handle->length, space);
}

uint64_t cache_space(const char *origin_url, const char *export)
{
	return XXH3_64bits_withSeed(export, strlen(export),
				    XXH3_64bits(origin_url, strlen(origin_url)));
}

static void table_add(struct cache *c, struct cache_file *f)
{
	struct cache_file **bucket = &c->buckets[f->hash & (c->bucket_count - 1)];

	f->item.kept = cache_kept_has(c, f->hash);
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

struct cache_file *cache_table_find(struct cache *c, uint64_t space, const struct handle *handle,
				    uint64_t hash)
{
	struct cache_file *f = c->buckets[hash & (c->bucket_count - 1)];

	while (f && (f->hash != hash || f->space != space || !handle_equal(&f->handle, handle)))
		f = f->hash_next;
	return f;
}

/* A file that was found on disk: it is in the account, and may be evicted. c->lock is held. */
static void enter_found(struct cache *c, struct cache_file *f, const struct cache_found *found)
{
	uint64_t charge = found->charge;

	f->counted = true;
	f->item.bytes = charge;
	f->item.used_s = found->used_s;
	cache_keep_found(c, f, found);
	policy_admit_unused(&c->policy, &f->item);
	c->bytes += charge;
	c->disk_files++;
	c->unscanned_bytes -= charge < c->unscanned_bytes ? charge : c->unscanned_bytes;
	c->unscanned_files -= c->unscanned_files > 0;
}

int cache_insert_scanned(struct cache *c, uint64_t space, const struct handle *handle,
			 const struct cache_found *found)
{
	struct cache_file *made = cache_file_new(c, space, handle, true);
	int rc = 0;

	if (!made)
		return -ENOMEM;
	pthread_mutex_lock(&c->lock);
	if (cache_table_find(c, space, handle, made->hash)) {
		rc = -EEXIST; /* somebody was faster, and it is in the account already */
	} else if (c->disk_files >= c->files_max) {
		rc = -EINVAL;
	} else {
		table_add(c, made);
		enter_found(c, made, found);
	}
	pthread_mutex_unlock(&c->lock);
	if (rc < 0)
		cache_file_free(made);
	return rc == -EEXIST ? 0 : rc;
}

/* While the scan is under way: is there a file of `f`, and what is to know of it? */
static bool look_for(struct cache *c, struct cache_file *f, struct cache_found *ret_found)
{
	char name[CACHE_NAME_BYTES];
	struct stat st;

	cache_file_name(f, name);
	if (fstatat(c->objects_fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0 || !S_ISREG(st.st_mode))
		return false;
	cache_look_at(c->objects_fd, name, &st, ret_found);
	return true;
}

struct cache_file *cache_file_get(struct cache *c, uint64_t space, const struct handle *handle)
{
	uint64_t hash = cache_hash(space, handle);
	struct cache_file *f, *made;
	struct cache_found found = { 0 };
	bool scanning;

	pthread_mutex_lock(&c->lock);
	f = cache_table_find(c, space, handle, hash);
	scanning = c->scanning;
	if (f) {
		bool referenced = cache_file_reference(f);

		pthread_mutex_unlock(&c->lock);
		return referenced ? f : NULL;
	}
	pthread_mutex_unlock(&c->lock);
	made = cache_file_new(c, space, handle, false);
	if (!made)
		return NULL;
	made->on_disk = scanning && look_for(c, made, &found);
	pthread_mutex_lock(&c->lock);
	f = cache_table_find(c, space, handle, hash);
	if (!f && cache_file_reference(made)) {
		f = made;
		table_add(c, f);
		if (f->on_disk)
			enter_found(c, f, &found);
	} else if (f && !cache_file_reference(f)) {
		f = NULL;
	}
	pthread_mutex_unlock(&c->lock);
	if (f != made)
		cache_file_free(made);
	return f;
}

void cache_file_put(struct cache_file *f)
{
	struct cache *c = f->cache;
	struct cache_content *content = NULL;
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
		content = f->content;
		f->content = NULL;
	}
	assert(f->pins == 0);
	if (unused) {
		table_remove(c, f);
		cache_keep_forget(c, f);
	}
	pthread_mutex_unlock(&c->lock);
	if (fd >= 0) {
		close(fd);
		atomic_fetch_sub(&c->descriptors, 1);
	}
	cache_content_free(content);
	if (unused)
		cache_file_free(f);
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
				"is in use by a process that takes no more mounts; give this one a "
				"cache of its own");
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
	space_init(&c->space_source, c->objects_fd);
	space_write_in_place(&c->space_source);
	return 0;
}

static int allocate(struct cache *c)
{
	pthread_condattr_t attributes;

	/* A chain of a few entries when the files are small. */
	c->bucket_count = 1024;
	while (c->bucket_count < c->files_max && c->bucket_count * 65536 < c->bytes_max)
		c->bucket_count *= 2;
	pthread_mutex_init(&c->lock, NULL);
	pthread_mutex_init(&c->flush_lock, NULL);
	pthread_mutex_init(&c->kept_lock, NULL);
	map_init(&c->kept, &cache_heap, MAP_U64, 0, 0);
	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&c->flusher_wake, &attributes);
	pthread_condattr_destroy(&attributes);
	pthread_cond_init(&c->scan_wake, NULL);
	pthread_cond_init(&c->behind_wake, NULL);
	c->directory_fd = -1;
	c->objects_fd = -1;
	c->space_source = (struct space_source){ .promise_fds = { -1, -1 } };
	c->identity_fd = -1;
	c->kept_fd = -1;
	c->unmark_next = c->bucket_count;
	c->buckets = calloc(c->bucket_count, sizeof(*c->buckets));
	c->jobs = calloc(CACHE_FLUSH_BATCH, sizeof(*c->jobs));
	c->largest = calloc(CACHE_FILE_RANGES_MAX, sizeof(*c->largest));
	c->io = io_create();
	if (!c->buckets || !c->jobs || !c->largest || !c->io)
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
	cache_kept_close(c);
	cache_keep_finish(c);
	space_finish(&c->space_source);
	if (c->objects_fd >= 0)
		close(c->objects_fd);
	if (c->identity_fd >= 0)
		close(c->identity_fd);
	if (c->directory_fd >= 0)
		close(c->directory_fd);
	free(c->buckets);
	free(c->jobs);
	free(c->largest);
	io_destroy(c->io);
	policy_finish(&c->policy);
	pthread_cond_destroy(&c->flusher_wake);
	pthread_cond_destroy(&c->scan_wake);
	pthread_cond_destroy(&c->behind_wake);
	pthread_mutex_destroy(&c->flush_lock);
	pthread_mutex_destroy(&c->kept_lock);
	pthread_mutex_destroy(&c->lock);
	free(c);
}

int cache_open(const char *directory, uint64_t bytes_max, struct cache **ret_cache, char *ret_text,
	       size_t text_size)
{
	const struct cache_limits limits = { .bytes_max = bytes_max,
					     .files_max = CACHE_FILES_DEFAULT };

	return cache_open_limited(directory, &limits, ret_cache, ret_text, text_size);
}

int cache_open_limited(const char *directory, const struct cache_limits *limits,
		       struct cache **ret_cache, char *ret_text, size_t text_size)
{
	const struct complaint to = { directory, ret_text, text_size };
	struct cache *c = calloc(1, sizeof(*c));
	int rc;

	if (!c)
		return complain(&to, -ENOMEM, "cannot be opened");
	c->bytes_max = limits->bytes_max;
	c->free_bytes_min = limits->free_bytes_min;
	c->files_max = limits->files_max;
	c->scan_first = limits->scan_first ? limits->scan_first : CACHE_SCAN_FIRST;
	rc = allocate(c);
	if (rc < 0)
		complain(&to, rc, "cannot be opened");
	else
		rc = open_directory(c, &to);
	if (rc == 0) {
		/* Without an identity that we can read, what is there is of no known layout. */
		bool known = identity_read(c->identity_fd, c->host_id) == 0;

		rc = cache_kept_open(c);
		if (rc == 0)
			rc = known ? cache_scan_start(c) : cache_scan_all(c, false);
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
		cache_scan_stop(c);
		destroy(c);
		return rc;
	}
	cache_behind_start(c);
	*ret_cache = c;
	return 0;
}

void cache_close(struct cache *c)
{
	if (!c)
		return;
	cache_behind_stop(c);
	cache_scan_stop(c);
	cache_flusher_stop(c);
	cache_flush(c);
	destroy(c);
}

void cache_host_id(const struct cache *c, uint64_t space, uint32_t number, uint8_t ret_id[16])
{
	uint8_t bytes[16 + 8 + 4];
	struct writer w = writer_of(bytes, sizeof(bytes));
	XXH128_canonical_t id;

	writer_bytes(&w, c->host_id, 16);
	writer_u64(&w, space);
	writer_u32(&w, number);
	XXH128_canonicalFromHash(&id, XXH3_128bits(bytes, w.at));
	memcpy(ret_id, id.digest, 16);
}

void cache_counters(struct cache *c, struct cache_counters *ret_counters)
{
	struct cache_statistics *s = &c->statistics;
	struct cache_counters counters = {
		.bytes_max = c->bytes_max,
		.files_max = c->files_max,
		.hits = atomic_load(&s->hits),
		.hit_bytes = atomic_load(&s->hit_bytes),
		.writes = atomic_load(&s->writes),
		.write_bytes = atomic_load(&s->write_bytes),
		.evicted_files = atomic_load(&s->evicted_files),
		.evicted_bytes = atomic_load(&s->evicted_bytes),
		.not_admitted = atomic_load(&s->not_admitted),
		.disk_full = atomic_load(&s->disk_full),
		.dropped_corrupt = atomic_load(&s->dropped_corrupt),
		.dropped_errors = atomic_load(&s->dropped_errors),
		.records_written = atomic_load(&s->records_written),
		.record_errors = atomic_load(&s->record_errors),
		.records_loaded = atomic_load(&s->records_loaded),
	};

	counters.io_uring = io_has_uring(c->io);
	pthread_mutex_lock(&c->lock);
	counters.bytes = c->bytes;
	counters.scanning = c->scanning;
	counters.files = c->disk_files;
	counters.kept_bytes = c->policy.lists[POLICY_KEPT].bytes;
	counters.kept_bytes_max = POLICY_KEPT_SHARE(c->policy.limit);
	pthread_mutex_unlock(&c->lock);
	*ret_counters = counters;
}
