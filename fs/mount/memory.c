#include "fs/mount/memory.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "fs/mount/call.h"
#include "fs/mount/inode.h"
#include "fs/mount/session.h"

/* linux/fuse.h of older systems lacks it: protocol 7.45, kernel 6.18. */
#define NOTIFY_PRUNE 9
#define ARENAS_MAX 2
#define LOOK_MS 50       /* while there is enough */
#define LOOK_SHORT_MS 5  /* while it is short: for the kernel's FORGETs to come */
#define SHED_LOOK 4096   /* inodes looked at under the lock at a time */
#define SHED_MAX 512     /* of these, given up */
#define TRIM_MS 200      /* between two returns of free memory to the system */
#define WAIT_MAX_MS 50   /* of a request, */
#define CALLS_SCARCE 4   /* unless no more than these are in flight: there may be nothing to give up */

struct memory {
	pthread_t thread;
	pthread_mutex_t lock; /* leaf */
	pthread_cond_t wake;  /* it is to stop */
	pthread_cond_t enough;
	bool stopping;
	uint64_t shed_from;   /* bytes resident: above it something is shed, */
	uint64_t slow_from;   /* and above this requests are slowed */
	atomic_bool is_short; /* above the first */
	atomic_bool is_scarce; /* above the second */
	bool no_prune;
	struct instant trimmed_at;
};

struct prune {
	struct fuse_out_header header;
	struct {
		uint32_t count;
		uint32_t padding;
		uint64_t spare;
	} out;
	uint64_t nodeids[SHED_MAX];
};

uint64_t memory_resident(void)
{
	unsigned long total, resident;
	FILE *file = fopen("/proc/self/statm", "re");
	int found;

	if (!file)
		return 0;
	found = fscanf(file, "%lu %lu", &total, &resident);
	(void)fclose(file); /* it was only read */
	return found == 2 ? (uint64_t)resident * (uint64_t)sysconf(_SC_PAGESIZE) : 0;
}

/* Asks the kernel to forget inodes that nobody has open. May wait for a READ. Without the lock. */
static void prune(struct mount *m, struct prune *prune, unsigned count)
{
	size_t length = offsetof(struct prune, nodeids) + count * sizeof(prune->nodeids[0]);

	if (count == 0 || m->memory->no_prune)
		return;
	prune->header = (struct fuse_out_header){ .len = (uint32_t)length, .error = NOTIFY_PRUNE };
	prune->out.count = count;
	if (write(m->fuse_fd, prune, length) >= 0 || errno != EINVAL)
		return;
	m->memory->no_prune = true;
	mount_log("info", "--memory: this kernel cannot be told to forget inodes (Linux 6.18 can): "
		  "those that it knows stay in memory");
}

static void shed(struct mount *m, struct prune *pruned)
{
	struct holder_actions actions = session_actions();
	unsigned count;

	pthread_mutex_lock(&m->lock);
	count = inode_shed(m, SHED_LOOK, pruned->nodeids, SHED_MAX, &actions);
	session_act(m, &actions);
	pthread_mutex_unlock(&m->lock);
	prune(m, pruned, count);
}

/* Frees what malloc keeps, now and then: that takes its locks for milliseconds. */
static void trim(struct memory *memory)
{
	struct instant now = mount_now();

	if (instant_until(memory->trimmed_at, now).ns < TRIM_MS * NS_PER_MS)
		return;
	(void)malloc_trim(0); /* nothing to free is no error */
	memory->trimmed_at = mount_now();
}

static bool look(struct memory *memory)
{
	uint64_t resident = memory_resident();

	atomic_store(&memory->is_short, resident > memory->shed_from);
	atomic_store(&memory->is_scarce, resident > memory->slow_from);
	if (resident <= memory->slow_from)
		pthread_cond_broadcast(&memory->enough);
	return resident > memory->shed_from;
}

static void wait_until(pthread_cond_t *condition, pthread_mutex_t *lock, unsigned ms)
{
	struct timespec until;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_nsec += (long)ms * 1000000;
	until.tv_sec += until.tv_nsec / 1000000000;
	until.tv_nsec %= 1000000000;
	pthread_cond_timedwait(condition, lock, &until);
}

static void *watch(void *context)
{
	struct mount *m = context;
	struct memory *memory = m->memory;
	struct prune *pruned = calloc(1, sizeof(*pruned));
	bool stopping = false;

	while (pruned && !stopping) {
		bool is_short = look(memory);

		if (is_short) {
			shed(m, pruned);
			trim(memory);
		}
		pthread_mutex_lock(&memory->lock);
		if (!memory->stopping)
			wait_until(&memory->wake, &memory->lock, is_short ? LOOK_SHORT_MS : LOOK_MS);
		stopping = memory->stopping;
		pthread_mutex_unlock(&memory->lock);
	}
	free(pruned);
	return NULL;
}

void memory_prepare(const struct mount_options *options)
{
	if (options->memory)
		mallopt(M_ARENA_MAX, ARENAS_MAX);
}

uint64_t memory_cache_files(const struct mount_options *options)
{
	uint64_t max = options->memory / MEMORY_CACHE_PART / MEMORY_CACHE_FILE_BYTES;

	return max && max < options->cache_files ? max : options->cache_files;
}

int memory_start(struct mount *m)
{
	uint64_t limit = m->options->memory;
	pthread_condattr_t monotonic;
	struct memory *memory;
	int r;

	if (!limit)
		return 0;
	memory = calloc(1, sizeof(*memory));
	if (!memory)
		return -ENOMEM;
	memory->shed_from = limit - limit / 5;
	memory->slow_from = limit - limit / 10;
	pthread_mutex_init(&memory->lock, NULL);
	pthread_condattr_init(&monotonic);
	pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC);
	pthread_cond_init(&memory->wake, &monotonic);
	pthread_cond_init(&memory->enough, &monotonic);
	pthread_condattr_destroy(&monotonic);
	m->memory = memory;
	r = -pthread_create(&memory->thread, NULL, watch, m);
	if (r < 0) {
		m->memory = NULL;
		free(memory);
	}
	return r;
}

void memory_stop(struct mount *m)
{
	struct memory *memory = m->memory;

	if (!memory)
		return;
	pthread_mutex_lock(&memory->lock);
	memory->stopping = true;
	atomic_store(&memory->is_short, false);
	atomic_store(&memory->is_scarce, false);
	pthread_cond_broadcast(&memory->wake);
	pthread_cond_broadcast(&memory->enough);
	pthread_mutex_unlock(&memory->lock);
	pthread_join(memory->thread, NULL);
}

void memory_free(struct mount *m)
{
	if (!m->memory)
		return;
	pthread_mutex_destroy(&m->memory->lock);
	pthread_cond_destroy(&m->memory->wake);
	pthread_cond_destroy(&m->memory->enough);
	free(m->memory);
	m->memory = NULL;
}

bool memory_is_short(const struct mount *m)
{
	return m->memory && atomic_load_explicit(&m->memory->is_short, memory_order_relaxed);
}

void memory_wait(struct mount *m)
{
	struct memory *memory = m->memory;

	if (!memory || !atomic_load_explicit(&memory->is_scarce, memory_order_relaxed) ||
	    calls_count(m) < CALLS_SCARCE)
		return;
	COUNT(m, slowed);
	pthread_mutex_lock(&memory->lock);
	if (!memory->stopping && atomic_load(&memory->is_scarce))
		wait_until(&memory->enough, &memory->lock, WAIT_MAX_MS);
	pthread_mutex_unlock(&memory->lock);
}
