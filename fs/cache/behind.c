/* Behind who reads a file in order, and has it in memory of his own: the page cache gives up its copy. */
#include "fs/cache/internal.h"

#include <fcntl.h>
#include <unistd.h>

/* The next job, whose file has a descriptor of ours from now on. False: the cache closes. */
static bool take_job(struct cache *c, struct behind_job *ret_job)
{
	bool taken = false;

	pthread_mutex_lock(&c->lock);
	while (c->behind_count == 0 && !c->behind_stop)
		pthread_cond_wait(&c->behind_wake, &c->lock);
	if (c->behind_count > 0) {
		*ret_job = c->behind[c->behind_first];
		c->behind_first = (c->behind_first + 1) % CACHE_BEHIND_JOBS;
		c->behind_count--;
		ret_job->file->flushing++;
		taken = true;
	}
	pthread_mutex_unlock(&c->lock);
	return taken;
}

/* Without a lock: a slow disk holds up nobody else. A drop meanwhile makes another inode of the file. */
static void do_job(struct cache *c, const struct behind_job *job)
{
	const off_t step = CACHE_BEHIND_STEP_BYTES, keep = CACHE_BEHIND_KEEP_BYTES;
	struct cache_file *f = job->file;
	char name[CACHE_NAME_BYTES];
	off_t end = (off_t)job->end;
	int fd = -1;

	pthread_rwlock_rdlock(&f->lock);
	/* What others read themselves they read from the page cache. */
	if (f->loaded && f->on_disk && !f->exposed) {
		cache_file_name(f, name);
		fd = openat(c->objects_fd, name, O_RDWR | O_NOFOLLOW | O_CLOEXEC);
	}
	pthread_rwlock_unlock(&f->lock);
	if (fd < 0)
		return;
	/* Only begun. What is not written when its turn comes stays: nothing depends on either. */
	(void)sync_file_range(fd, end - step, step, SYNC_FILE_RANGE_WRITE);
	if (end - keep > (off_t)CACHE_BEHIND_FROM_BYTES)
		(void)posix_fadvise(fd, end - keep - step, step, POSIX_FADV_DONTNEED);
	close(fd);
}

static void *behind_main(void *argument)
{
	struct cache *c = argument;
	struct behind_job job;

	while (take_job(c, &job)) {
		do_job(c, &job);
		pthread_mutex_lock(&c->lock);
		cache_flushed(c, job.file);
		pthread_mutex_unlock(&c->lock);
		cache_file_put(job.file);
	}
	return NULL;
}

void cache_file_behind(struct cache_file *f, uint64_t start, uint64_t end)
{
	struct cache *c = f->cache;
	struct behind_job *job;

	if (start / CACHE_BEHIND_STEP_BYTES == end / CACHE_BEHIND_STEP_BYTES ||
	    end <= CACHE_BEHIND_FROM_BYTES || end > INT64_MAX)
		return;
	pthread_mutex_lock(&c->lock);
	if (c->behind_runs && c->behind_count < CACHE_BEHIND_JOBS) {
		job = &c->behind[(c->behind_first + c->behind_count++) % CACHE_BEHIND_JOBS];
		job->file = f;
		job->end = end / CACHE_BEHIND_STEP_BYTES * CACHE_BEHIND_STEP_BYTES;
		f->references++; /* the caller has one */
		pthread_cond_signal(&c->behind_wake);
	}
	pthread_mutex_unlock(&c->lock);
}

void cache_behind_start(struct cache *c)
{
	c->behind_runs = pthread_create(&c->behind_thread, NULL, behind_main, c) == 0;
}

void cache_behind_stop(struct cache *c)
{
	if (!c->behind_runs)
		return;
	pthread_mutex_lock(&c->lock);
	c->behind_stop = true;
	pthread_cond_signal(&c->behind_wake);
	pthread_mutex_unlock(&c->lock);
	pthread_join(c->behind_thread, NULL);
	c->behind_runs = false;
}
