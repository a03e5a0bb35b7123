/* Writes the records: first the bytes become durable, then the record that vouches for them. */
#include "fs/cache/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

static int larger_first(const void *a, const void *b)
{
	const struct range *x = a, *y = b;
	uint64_t length_x = x->end - x->start, length_y = y->end - y->start;

	return (length_x < length_y) - (length_x > length_y);
}

static int by_start(const void *a, const void *b)
{
	const struct range *x = a, *y = b;

	return (x->start > y->start) - (x->start < y->start);
}

/* What the file's record should say. The caller holds f->lock shared. */
static void fill_record(struct cache *c, const struct cache_file *f, struct record *r)
{
	const struct range *ranges = f->content->ranges.ranges;
	uint32_t count = f->content->ranges.count;

	if (count > CACHE_RECORD_RANGES_MAX) {
		memcpy(c->largest, ranges, count * sizeof(*ranges));
		qsort(c->largest, count, sizeof(*ranges), larger_first);
		count = CACHE_RECORD_RANGES_MAX;
		qsort(c->largest, count, sizeof(*ranges), by_start);
		ranges = c->largest;
	}
	r->space = f->space;
	r->handle = f->handle;
	r->change = f->content->change;
	r->range_count = count;
	memcpy(r->ranges, ranges, count * sizeof(*ranges));
	r->size = ranges[count - 1].end;
}

/* Takes up to CACHE_FLUSH_BATCH dirty files, referenced. */
static unsigned take_batch(struct cache *c)
{
	unsigned count = 0;

	pthread_mutex_lock(&c->lock);
	while (c->dirty && count < CACHE_FLUSH_BATCH) {
		struct cache_file *f = c->dirty;

		c->dirty = f->dirty_next;
		c->dirty_count--;
		f->dirty = false;
		f->flushing++;
		f->references++;
		c->jobs[count++] = (struct flush_job){ .file = f, .fd = -1 };
	}
	pthread_mutex_unlock(&c->lock);
	return count;
}

/* Notes what is valid now, and opens the inode that holds it: a later drop makes another one. */
static void prepare(struct cache *c, struct flush_job *job)
{
	struct cache_file *f = job->file;
	char name[CACHE_NAME_BYTES];

	pthread_rwlock_wrlock(&f->lock);
	if (f->loaded)
		(void)cache_file_trim_locked(f);
	if (f->loaded && f->on_disk && f->content->ranges.count > 0) {
		cache_file_name(f, name);
		job->fd = openat(c->objects_fd, name, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
		job->generation = f->content->generation;
		fill_record(c, f, &job->record);
	}
	pthread_rwlock_unlock(&f->lock);
}

void cache_flushed(struct cache *c, struct cache_file *f)
{
	if (--f->flushing > 0)
		return;
	c->bytes -= f->orphaned;
	f->orphaned = 0;
}

/* The bytes did not reach the disk: nobody knows which. */
static void drop_unsynced(struct cache *c, struct flush_job *job)
{
	struct cache_file *f = job->file;

	close(job->fd);
	job->fd = -1;
	pthread_rwlock_wrlock(&f->lock);
	if (f->content->generation == job->generation) {
		atomic_fetch_add(&c->statistics.dropped_errors, 1);
		cache_file_drop_locked(f);
	}
	pthread_rwlock_unlock(&f->lock);
}

static void sync_batch(struct cache *c, unsigned count)
{
	struct flush_job *opened[CACHE_FLUSH_BATCH];
	int fds[CACHE_FLUSH_BATCH] = { 0 }, results[CACHE_FLUSH_BATCH];
	unsigned opened_count = 0;

	for (unsigned i = 0; i < count; i++) {
		if (c->jobs[i].fd >= 0) {
			opened[opened_count] = &c->jobs[i];
			fds[opened_count++] = c->jobs[i].fd;
		}
	}
	/* syncfs reports an error of any file; which one it was, each file's own sync tells. */
	if (opened_count >= CACHE_SYNCFS_FILES && syncfs(c->objects_fd) == 0)
		return;
	io_sync(c->io, fds, opened_count, results);
	for (unsigned i = 0; i < opened_count; i++)
		if (results[i] < 0)
			drop_unsynced(c, opened[i]);
}

/* Sets the record, with fewer ranges where the file system has little room for xattrs. */
static int set_record(struct flush_job *job)
{
	struct record *r = &job->record;
	uint8_t buffer[RECORD_BYTES_MAX];

	for (;;) {
		int length = record_encode(r, buffer, sizeof(buffer));

		if (length < 0)
			return length;
		if (fsetxattr(job->fd, RECORD_XATTR, buffer, (size_t)length, 0) == 0)
			return 0;
		if ((errno != ENOSPC && errno != E2BIG) || r->range_count < 2)
			return -errno;
		r->range_count /= 2;
		r->size = r->ranges[r->range_count - 1].end;
	}
}

/*
 * No lock is held over the xattr: if the file has moved on to another change since, this record
 * speaks of one that nobody can confirm again; if it was dropped, of an inode without a name.
 */
static void write_record(struct cache *c, struct flush_job *job)
{
	struct cache_file *f = job->file;
	struct stat st;

	if (set_record(job) < 0) {
		atomic_fetch_add(&c->statistics.record_errors, 1);
		return;
	}
	atomic_fetch_add(&c->statistics.records_written, 1);
	pthread_rwlock_wrlock(&f->lock);
	if (f->content->generation == job->generation && fstat(job->fd, &st) == 0) {
		f->recorded = true;
		cache_settle(f, cache_file_charge(f, (uint64_t)st.st_blocks * 512), 0, false);
	}
	pthread_rwlock_unlock(&f->lock);
}

static void finish(struct cache *c, struct flush_job *job)
{
	struct cache_file *f = job->file;

	if (job->fd >= 0)
		close(job->fd);
	pthread_mutex_lock(&c->lock);
	cache_flushed(c, f);
	cache_count_dirty(c, f);
	pthread_mutex_unlock(&c->lock);
	cache_file_put(f);
}

/* One batch; how many files it took. */
static unsigned flush_batch(struct cache *c)
{
	unsigned count = take_batch(c);

	for (unsigned i = 0; i < count; i++)
		prepare(c, &c->jobs[i]);
	sync_batch(c, count);
	for (unsigned i = 0; i < count; i++) {
		if (c->jobs[i].fd >= 0)
			write_record(c, &c->jobs[i]);
		finish(c, &c->jobs[i]);
	}
	return count;
}

void cache_flush(struct cache *c)
{
	uint64_t left;

	pthread_mutex_lock(&c->flush_lock);
	pthread_mutex_lock(&c->lock);
	left = c->dirty_count;
	pthread_mutex_unlock(&c->lock);
	/* What is dirty now, and not what writers add all the while. */
	for (unsigned done = 1; left > 0 && done > 0; left -= done < left ? done : left)
		done = flush_batch(c);
	pthread_mutex_unlock(&c->flush_lock);
	cache_trim(c);
}

static void *flusher_main(void *argument)
{
	struct cache *c = argument;

	pthread_mutex_lock(&c->lock);
	while (!c->flusher_stop) {
		struct timespec until;

		clock_gettime(CLOCK_MONOTONIC, &until);
		until.tv_sec += CACHE_FLUSH_INTERVAL_MS / 1000;
		until.tv_nsec += CACHE_FLUSH_INTERVAL_MS % 1000 * 1000000;
		if (until.tv_nsec >= 1000000000) {
			until.tv_sec++;
			until.tv_nsec -= 1000000000;
		}
		pthread_cond_timedwait(&c->flusher_wake, &c->lock, &until);
		pthread_mutex_unlock(&c->lock);
		cache_flush(c);
		cache_keep_unmark(c);
		pthread_mutex_lock(&c->lock);
	}
	pthread_mutex_unlock(&c->lock);
	return NULL;
}

int cache_flusher_start(struct cache *c)
{
	int rc = pthread_create(&c->flusher, NULL, flusher_main, c);

	c->flusher_runs = rc == 0;
	return -rc;
}

void cache_flusher_stop(struct cache *c)
{
	if (!c->flusher_runs)
		return;
	pthread_mutex_lock(&c->lock);
	c->flusher_stop = true;
	pthread_cond_signal(&c->flusher_wake);
	pthread_mutex_unlock(&c->lock);
	pthread_join(c->flusher, NULL);
	c->flusher_runs = false;
}
