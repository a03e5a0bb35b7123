#include "fs/cache/internal.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <unistd.h>

static void *heap_resize(void *context, void *pointer, size_t old_size, size_t size)
{
	if (size == 0) {
		free(pointer);
		return NULL;
	}
	return realloc(pointer, size);
}

const struct allocator cache_heap = { heap_resize, NULL };

struct cache_file *cache_file_new(struct cache *c, uint64_t space, const struct handle *handle,
				  bool on_disk)
{
	struct cache_file *f = calloc(1, sizeof(*f));
	pthread_rwlockattr_t attributes;

	if (!f)
		return NULL;
	f->cache = c;
	f->space = space;
	f->handle = *handle;
	f->hash = cache_hash(space, handle);
	f->on_disk = on_disk;
	f->fd = -1;
	/* Writers first: readers in a loop must not keep a recall's drop waiting. */
	pthread_rwlockattr_init(&attributes);
	pthread_rwlockattr_setkind_np(&attributes, PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	pthread_rwlock_init(&f->lock, &attributes);
	pthread_rwlockattr_destroy(&attributes);
	return f;
}

bool cache_file_reference(struct cache_file *f)
{
	if (!f->content) {
		f->content = calloc(1, sizeof(*f->content));
		if (!f->content)
			return false;
		range_set_init(&f->content->ranges, &cache_heap, CACHE_FILE_RANGES_MAX);
		range_set_init(&f->content->holes, &cache_heap, CACHE_FILE_HOLES_MAX);
	}
	f->references++;
	return true;
}

void cache_content_free(struct cache_content *content)
{
	if (!content)
		return;
	range_set_finish(&content->ranges);
	range_set_finish(&content->holes);
	free(content);
}

void cache_file_free(struct cache_file *f)
{
	cache_content_free(f->content);
	pthread_rwlock_destroy(&f->lock);
	free(f);
}

void cache_file_name(const struct cache_file *f, char name[CACHE_NAME_BYTES])
{
	name += snprintf(name, CACHE_NAME_BYTES, "%02x/", (unsigned)(f->hash & 0xff));
	cache_key_name(f->space, &f->handle, name);
}

uint64_t cache_file_charge(const struct cache_file *f, uint64_t allocated)
{
	uint64_t blocks = f->recorded ? 0 : 1; /* the xattr's block is yet to come */

	/* Extents are laid out, and the blocks that list them made, only at write-back. */
	blocks += f->content->ranges.count / 256 + 1;
	return allocated + CACHE_FILE_OVERHEAD_BYTES + blocks * f->cache->block_bytes;
}

/* Keeps `fd` with the file if there is room for one more. The caller holds f->lock exclusively. */
static void keep_descriptor(struct cache_file *f, int fd)
{
	struct cache *c = f->cache;

	if (atomic_fetch_add(&c->descriptors, 1) < CACHE_DESCRIPTORS_MAX)
		f->fd = fd;
	else
		atomic_fetch_sub(&c->descriptors, 1);
}

static void close_kept(struct cache_file *f)
{
	if (f->fd < 0)
		return;
	close(f->fd);
	f->fd = -1;
	atomic_fetch_sub(&f->cache->descriptors, 1);
}

int cache_file_borrow(struct cache_file *f)
{
	char name[CACHE_NAME_BYTES];
	int fd;

	if (f->fd >= 0)
		return f->fd;
	cache_file_name(f, name);
	fd = openat(f->cache->objects_fd, name, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

void cache_file_return(struct cache_file *f, int fd)
{
	if (fd >= 0 && fd != f->fd)
		close(fd);
}

/* Makes the file. What has its name and is not known to us is not ours to keep. */
static int create_descriptor(struct cache_file *f)
{
	struct cache *c = f->cache;
	char name[CACHE_NAME_BYTES], directory[CACHE_DIRECTORY_DIGITS + 1];

	cache_file_name(f, name);
	/* A few rounds: the scan removes directories that it finds empty. */
	for (int round = 0; round < 8; round++) {
		int fd = openat(c->objects_fd, name,
				O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);

		if (fd >= 0)
			return fd;
		if (errno == EEXIST) {
			if (unlinkat(c->objects_fd, name, 0) < 0 && errno != ENOENT)
				return -errno;
			continue;
		}
		if (errno != ENOENT)
			return -errno;
		snprintf(directory, sizeof(directory), "%.*s", CACHE_DIRECTORY_DIGITS, name);
		if (mkdirat(c->objects_fd, directory, 0700) < 0 && errno != EEXIST)
			return -errno;
	}
	return -EBUSY;
}

static bool is_gone(const struct cache_file *f, struct change change)
{
	for (int i = 0; i < CACHE_GONE_MAX; i++) {
		if (change_equal(f->content->gone[i], change))
			return true;
	}
	return false;
}

static void remember_gone(struct cache_file *f, struct change change)
{
	if (!change_known(change) || is_gone(f, change))
		return;
	f->content->gone[f->content->gone_next] = change;
	f->content->gone_next = (f->content->gone_next + 1) % CACHE_GONE_MAX;
}

void cache_file_drop_locked(struct cache_file *f)
{
	struct cache *c = f->cache;
	char name[CACHE_NAME_BYTES];

	close_kept(f);
	range_set_clear(&f->content->ranges);
	range_set_clear(&f->content->holes);
	f->content->change = (struct change){ 0, 0 };
	f->content->length = 0;
	f->content->spare = false;
	f->content->generation++;
	f->loaded = true;
	if (!f->on_disk)
		return;
	cache_file_name(f, name);
	if (unlinkat(c->objects_fd, name, 0) < 0 && errno != ENOENT) {
		/*
		 * It stays on disk and in the account. Its record may vouch for its bytes after a
		 * restart, which is right: they are of that change, and were not touched.
		 */
		atomic_fetch_add(&c->statistics.dropped_errors, 1);
		return;
	}
	f->on_disk = false;
	f->exposed = false;
	f->recorded = false;
	f->marked = false;
	cache_settle(f, 0, 0, false);
}

static bool ranges_have_no_hole(int fd, const struct record *r)
{
	for (uint32_t i = 0; i < r->range_count; i++) {
		off_t hole = lseek(fd, (off_t)r->ranges[i].start, SEEK_HOLE);

		if (hole < 0 || (uint64_t)hole < r->ranges[i].end)
			return false;
	}
	return true;
}

enum load_result { LOADED, UNVOUCHED, CORRUPT };

/* Takes over what the record vouches for, if the file bears it out. */
static enum load_result load_record(struct cache_file *f, int fd, const struct stat *st)
{
	uint8_t buffer[RECORD_BYTES_MAX];
	struct record record;
	ssize_t length = fgetxattr(fd, RECORD_XATTR, buffer, sizeof(buffer));

	if (length < 0)
		return errno == ENODATA ? UNVOUCHED : CORRUPT;
	if (!S_ISREG(st->st_mode) || record_decode(buffer, (size_t)length, f->space, &record) < 0)
		return CORRUPT;
	if (!handle_equal(&record.handle, &f->handle) || (uint64_t)st->st_size < record.size ||
	    !ranges_have_no_hole(fd, &record))
		return CORRUPT;
	for (uint32_t i = 0; i < record.range_count; i++) {
		if (range_set_add(&f->content->ranges, record.ranges[i].start, record.ranges[i].end) < 0)
			return UNVOUCHED; /* no memory: as if it were not there */
	}
	f->content->change = record.change;
	f->content->length = (uint64_t)st->st_size;
	f->recorded = true;
	return LOADED;
}

/* Looks the file up on the disk. The caller holds f->lock exclusively. */
static void load(struct cache_file *f)
{
	struct cache *c = f->cache;
	enum load_result result = CORRUPT;
	struct stat st;
	int fd;

	f->loaded = true;
	if (!f->on_disk)
		return;
	fd = cache_file_borrow(f);
	if (fd == -ENOENT)
		result = UNVOUCHED; /* somebody deleted it, as anybody may */
	if (fd >= 0 && fstat(fd, &st) == 0)
		result = load_record(f, fd, &st);
	if (result == LOADED) {
		atomic_fetch_add(&c->statistics.records_loaded, 1);
		cache_settle(f, cache_file_charge(f, (uint64_t)st.st_blocks * 512), 0, false);
		keep_descriptor(f, fd);
		cache_file_return(f, fd);
		return;
	}
	cache_file_return(f, fd);
	if (result == CORRUPT)
		atomic_fetch_add(&c->statistics.dropped_corrupt, 1);
	cache_file_drop_locked(f);
}

/* Takes f->lock shared, with the record loaded. */
static void lock_to_read(struct cache_file *f)
{
	pthread_rwlock_rdlock(&f->lock);
	if (f->loaded)
		return;
	pthread_rwlock_unlock(&f->lock);
	pthread_rwlock_wrlock(&f->lock);
	if (!f->loaded)
		load(f);
	pthread_rwlock_unlock(&f->lock);
	/* Nobody unloads a file that is referenced, as this one is. */
	pthread_rwlock_rdlock(&f->lock);
}

static void lock_to_write(struct cache_file *f)
{
	pthread_rwlock_wrlock(&f->lock);
	if (!f->loaded)
		load(f);
}

static void unlock(struct cache_file *f)
{
	pthread_rwlock_unlock(&f->lock);
}

static bool is_at(const struct cache_file *f, struct change change)
{
	return change_known(change) && change_equal(f->content->change, change);
}

struct change cache_file_change(struct cache_file *f)
{
	struct change change;

	lock_to_read(f);
	change = f->content->ranges.bytes > 0 ? f->content->change : (struct change){ 0, 0 };
	unlock(f);
	return change;
}

bool cache_file_covers(struct cache_file *f, struct change change, uint64_t offset, uint64_t length)
{
	bool covers;

	if (length > UINT64_MAX - offset)
		return false;
	lock_to_read(f);
	covers = is_at(f, change) && range_set_covers(&f->content->ranges, offset, offset + length);
	unlock(f);
	return covers;
}

bool cache_file_gap(struct cache_file *f, struct change change, uint64_t offset, uint64_t end,
		    uint64_t *ret_start, uint64_t *ret_end)
{
	bool gap = offset < end;

	if (!gap)
		return false;
	lock_to_read(f);
	if (is_at(f, change)) {
		gap = range_set_gap(&f->content->ranges, offset, end, ret_start, ret_end);
	} else {
		*ret_start = offset;
		*ret_end = end;
	}
	unlock(f);
	return gap;
}

uint64_t cache_file_ranges(struct cache_file *f, struct change change, char *text, size_t size)
{
	uint64_t bytes = 0;
	size_t at = 0;

	if (size > 0)
		*text = 0;
	lock_to_read(f);
	if (is_at(f, change)) {
		bytes = f->content->ranges.bytes;
		for (uint32_t i = 0; size > 0 && i < f->content->ranges.count; i++) {
			const struct range *r = &f->content->ranges.ranges[i];
			char piece[48];
			int length = snprintf(piece, sizeof(piece), "%s%" PRIu64 "-%" PRIu64,
					      i ? "," : "", r->start, r->end);
			/* Room for "..." is kept as long as another range follows. */
			size_t tail = i + 1 < f->content->ranges.count ? 3 : 0;

			if (at + (size_t)length + tail >= size) {
				snprintf(text + at, size - at, "...");
				break;
			}
			memcpy(text + at, piece, (size_t)length + 1);
			at += (size_t)length;
		}
	}
	unlock(f);
	return bytes;
}

/* All of `length`, or -errno; -ENODATA: the file ends before it. */
static int read_all(int fd, void *buffer, size_t length, uint64_t offset)
{
	size_t done = 0;

	while (done < length) {
		ssize_t n = pread(fd, (char *)buffer + done, length - done,
				  (off_t)(offset + done));

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -ENODATA;
		done += (size_t)n;
	}
	return 0;
}

static int write_all(int fd, const void *data, size_t length, uint64_t offset)
{
	size_t done = 0;

	while (done < length) {
		ssize_t n = pwrite(fd, (const char *)data + done, length - done,
				   (off_t)(offset + done));

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		done += (size_t)n;
	}
	return 0;
}

/* The bytes from `offset` on that are on disk or zeros, at most `length`. With the lock. */
static int read_runs(struct cache_file *f, uint64_t offset, uint8_t *buffer, size_t length,
		     size_t *ret_done)
{
	size_t done = 0;
	int fd = -1, rc = 0;

	while (done < length && rc == 0) {
		uint64_t run = range_set_run(&f->content->ranges, offset + done);
		uint64_t zeros = run ? 0 : range_set_run(&f->content->holes, offset + done);
		uint64_t take = run ? run : zeros;

		if (take > length - done)
			take = length - done;
		if (take == 0)
			break;
		if (zeros) {
			memset(buffer + done, 0, (size_t)take);
		} else {
			if (fd < 0)
				fd = cache_file_borrow(f);
			rc = fd < 0 ? fd : read_all(fd, buffer + done, (size_t)take, offset + done);
		}
		done += (size_t)take;
	}
	cache_file_return(f, fd);
	*ret_done = done;
	return rc;
}

size_t cache_file_read(struct cache_file *f, struct change change, uint64_t offset, void *buffer,
		       size_t length)
{
	struct cache *c = f->cache;
	uint32_t generation;
	int rc;

	lock_to_read(f);
	if (!is_at(f, change)) {
		unlock(f);
		return 0;
	}
	generation = f->content->generation;
	rc = read_runs(f, offset, buffer, length, &length);
	unlock(f);
	if (length == 0) {
		cache_used(f, 0);
		return 0;
	}
	if (rc == 0) {
		atomic_fetch_add_explicit(&c->statistics.hits, 1, memory_order_relaxed);
		atomic_fetch_add_explicit(&c->statistics.hit_bytes, length, memory_order_relaxed);
		cache_used(f, length);
		return length;
	}
	/* A transient lack of descriptors says nothing about the file. */
	if (rc == -EMFILE || rc == -ENFILE || rc == -ENOMEM)
		return 0;
	pthread_rwlock_wrlock(&f->lock);
	if (f->content->generation == generation) {
		atomic_fetch_add(&c->statistics.dropped_errors, 1);
		cache_file_drop_locked(f);
	}
	unlock(f);
	return 0;
}

/* What is cached is of `change` from here on. 0, or -ESTALE. The lock is held exclusively. */
static int take_change(struct cache_file *f, struct change change)
{
	if (change_equal(f->content->change, change))
		return 0;
	if (is_gone(f, change))
		return -ESTALE;
	remember_gone(f, f->content->change);
	cache_file_drop_locked(f);
	f->content->change = change;
	return 0;
}

int cache_file_zero(struct cache_file *f, struct change change, uint64_t offset, uint64_t length)
{
	int rc;

	if (!change_known(change) || length > UINT64_MAX - offset)
		return -EINVAL;
	if (length == 0)
		return 0;
	lock_to_write(f);
	rc = take_change(f, change);
	if (rc == 0)
		rc = range_set_add(&f->content->holes, offset, offset + length);
	unlock(f);
	return rc;
}

/* Writes and vouches in memory. The caller holds f->lock; `*ret_fd` is what to stat and return. */
static int write_locked(struct cache_file *f, struct change change, uint64_t offset,
			const void *data, size_t length, int *ret_fd)
{
	uint64_t end = offset + length;
	int fd, rc = take_change(f, change);

	if (rc < 0)
		return rc;
	if (f->exposed && f->content->ranges.bytes == 0)
		return -EIO; /* it was dropped, but the disk did not let it go: others may still read it */
	fd = f->on_disk ? cache_file_borrow(f) : create_descriptor(f);
	if (fd < 0)
		return fd;
	if (!f->on_disk)
		cache_keep_mark(f, fd);
	f->on_disk = true;
	*ret_fd = fd;
	if (f->fd < 0)
		keep_descriptor(f, fd);
	/* The length first: a write that extends a file makes XFS allocate ahead, uncounted. */
	if (end > f->content->length) {
		if (ftruncate(fd, (off_t)end) < 0)
			return -errno;
		f->content->length = end;
	}
	rc = write_all(fd, data, length, offset);
	if (rc < 0)
		return rc;
	return range_set_add(&f->content->ranges, offset, end);
}

/* The cap's share of a write: whole blocks, and what a new file and its extents add. */
static uint64_t room_for(const struct cache *c, uint64_t offset, size_t length)
{
	uint64_t block = c->block_bytes;
	uint64_t first = offset / block, last = (offset + length - 1) / block;

	return (last - first + 1) * block + CACHE_FILE_OVERHEAD_BYTES + 4 * block;
}

bool cache_file_trim_locked(struct cache_file *f)
{
	struct range_set *ranges = &f->content->ranges;
	uint64_t at = 0, start, end, last;
	struct stat st;
	int fd;

	if (!f->content->spare)
		return false;
	f->content->spare = false;
	fd = ranges->count && f->on_disk ? cache_file_borrow(f) : -1;
	if (fd < 0) {
		cache_file_drop_locked(f);
		return true;
	}
	last = ranges->ranges[ranges->count - 1].end;
	/* What cannot be given back stays in the account. */
	if (f->content->length > last && ftruncate(fd, (off_t)last) == 0)
		f->content->length = last;
	while (range_set_gap(ranges, at, last, &start, &end)) {
		(void)fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)start,
				(off_t)(end - start));
		at = end;
	}
	if (fstat(fd, &st) == 0)
		cache_settle(f, cache_file_charge(f, (uint64_t)st.st_blocks * 512), 0, false);
	cache_file_return(f, fd);
	return true;
}

static bool trim(struct cache_file *f)
{
	bool trimmed;

	lock_to_write(f);
	trimmed = cache_file_trim_locked(f);
	unlock(f);
	return trimmed;
}

int cache_file_write(struct cache_file *f, struct change change, uint64_t offset, const void *data,
		     size_t length)
{
	struct cache *c = f->cache;
	uint64_t reserved, charge;
	bool grew;
	struct stat st;
	int fd = -1, rc;

	if (!change_known(change))
		return -EINVAL;
	if (length == 0)
		return 0;
	if (offset > INT64_MAX || length > INT64_MAX - offset)
		return -EFBIG;
	/* The same change is the same bytes: nothing to do, and no reason to make room. */
	if (cache_file_covers(f, change, offset, length))
		return 0;
	reserved = room_for(c, offset, length);
	rc = cache_reserve(f, length, reserved);
	if (rc == -ENOSPC && trim(f))
		rc = cache_reserve(f, length, reserved);
	if (rc < 0) {
		atomic_fetch_add(&c->statistics.not_admitted, 1);
		return rc;
	}
	lock_to_write(f);
	rc = write_locked(f, change, offset, data, length, &fd);
	/* There was room: btrfs gives back what was unlinked, and promised too much, with a transaction. */
	if (rc == -ENOSPC && syncfs(c->objects_fd) == 0) {
		cache_file_return(f, fd);
		fd = -1;
		rc = write_locked(f, change, offset, data, length, &fd);
	}
	if (rc != 0 && rc != -ESTALE && rc != -ENOSPC && rc != -EDQUOT && rc != -ENOMEM) {
		atomic_fetch_add(&c->statistics.dropped_errors, 1);
		cache_file_return(f, fd);
		fd = -1;
		cache_file_drop_locked(f);
	}
	/* What it takes now; if it cannot say, what it may take at most. */
	charge = f->item.bytes;
	if (fd >= 0)
		charge = fstat(fd, &st) == 0 ? cache_file_charge(f, (uint64_t)st.st_blocks * 512) :
					       f->item.bytes + reserved;
	cache_file_return(f, fd);
	grew = charge > f->item.bytes + reserved;
	cache_settle(f, charge, reserved, rc == 0);
	unlock(f);
	if (grew)
		cache_trim(c); /* the file system took more than whole blocks */
	if (rc == 0) {
		atomic_fetch_add_explicit(&c->statistics.writes, 1, memory_order_relaxed);
		atomic_fetch_add_explicit(&c->statistics.write_bytes, length, memory_order_relaxed);
	} else if (rc == -ENOSPC || rc == -EDQUOT) {
		atomic_fetch_add(&c->statistics.not_admitted, 1);
		atomic_fetch_add(&c->statistics.disk_full, 1);
		rc = -ENOSPC;
	}
	return rc;
}

/* The file ends at `length` now: gives the blocks behind it back. The lock is held exclusively. */
static void cut(struct cache_file *f, uint64_t length)
{
	struct stat st;
	int fd;

	if (!f->on_disk || f->content->length <= length)
		return;
	fd = cache_file_borrow(f);
	if (fd < 0)
		return; /* the blocks stay in the account; a later use of the file drops it */
	if (ftruncate(fd, (off_t)length) == 0) {
		f->content->length = length;
		if (fstat(fd, &st) == 0)
			cache_settle(f, cache_file_charge(f, (uint64_t)st.st_blocks * 512), 0,
				     false);
	}
	cache_file_return(f, fd);
}

void cache_file_move(struct cache_file *f, struct change before, struct change after,
		     uint64_t offset, uint64_t length)
{
	uint64_t end = length > UINT64_MAX - offset ? UINT64_MAX : offset + length;

	lock_to_write(f);
	remember_gone(f, before);
	if (is_at(f, after) || is_gone(f, after)) {
		unlock(f); /* what is at `after`, or later, was faster; it is right as it is */
		return;
	}
	if (!is_at(f, before) || !change_known(after) || (f->exposed && length > 0)) {
		remember_gone(f, f->content->change);
		cache_file_drop_locked(f);
		unlock(f);
		return;
	}
	range_set_remove(&f->content->ranges, offset, end);
	range_set_remove(&f->content->holes, offset, end);
	f->content->change = after;
	/* Who truncates a file mostly writes it anew: in place that is cheaper than in a new file. */
	if (offset == 0 && end == UINT64_MAX && f->on_disk && !f->exposed)
		f->content->spare = true;
	if (f->content->spare) {
		cache_settle(f, f->item.bytes, 0, true);
	} else if (f->content->ranges.bytes + f->content->holes.bytes == 0) {
		cache_file_drop_locked(f);
	} else {
		if (end == UINT64_MAX)
			cut(f, offset);
		cache_settle(f, f->item.bytes, 0, true);
	}
	unlock(f);
}

void cache_file_drop(struct cache_file *f)
{
	pthread_rwlock_wrlock(&f->lock);
	cache_file_drop_locked(f);
	unlock(f);
}

/* ---- for passthrough ---- */

/* The caller holds f->lock. */
static bool has_all(const struct cache_file *f, struct change change, uint64_t size)
{
	uint64_t at = 0;

	if (!is_at(f, change))
		return false;
	while (at < size) {
		uint64_t run = range_set_run(&f->content->ranges, at);

		if (run == 0)
			run = range_set_run(&f->content->holes, at);
		if (run == 0)
			return false;
		at += run;
	}
	return true;
}

bool cache_file_complete(struct cache_file *f, struct change change, uint64_t size)
{
	bool complete;

	lock_to_read(f);
	complete = has_all(f, change, size);
	unlock(f);
	return complete;
}

/*
 * Gives a complete file the inode's bytes where it has holes: zeros are not on disk, and what was there
 * before this host punched it may still be. The caller holds f->lock exclusively. 0 or -errno.
 */
static int fill_in(struct cache_file *f, int fd, uint64_t size)
{
	uint64_t at = 0, start, end;

	while (range_set_gap(&f->content->ranges, at, size, &start, &end)) {
		if (start < f->content->length &&
		    fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)start,
			      (off_t)(end - start)) < 0)
			return -errno;
		at = end;
	}
	if (f->content->length != size && ftruncate(fd, (off_t)size) < 0)
		return -errno;
	f->content->length = size;
	return 0;
}

int cache_file_expose(struct cache_file *f, struct change change, uint64_t size)
{
	char name[CACHE_NAME_BYTES];
	int fd, rc = -ENODATA;

	lock_to_write(f);
	(void)cache_file_trim_locked(f);
	/* Longer than the inode: not as it should be, and not to be cut under who may read it. */
	if (f->on_disk && f->content->length <= size && has_all(f, change, size)) {
		fd = cache_file_borrow(f);
		rc = fd < 0 ? fd : fill_in(f, fd, size);
		cache_file_return(f, fd);
	}
	if (rc == 0) {
		cache_file_name(f, name);
		fd = openat(f->cache->objects_fd, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
		rc = fd < 0 ? -errno : fd;
		f->exposed = f->exposed || fd >= 0;
	}
	unlock(f);
	return rc;
}
