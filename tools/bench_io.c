/*
 * bench_io - the measured loops of tools/bench: one kind of access, run once by JOBS threads, one
 * line of JSON printed: the rate, the seconds, a checksum of what was read, processor seconds.
 *
 *   bench_io seq JOBS FILE...        1 MiB reads: of one file each job its part, of several one file
 *                                    after the other each;                    bytes per second
 *   bench_io rand JOBS COUNT FILE    COUNT reads of 4 KiB at random;          operations per second
 *   bench_io mapscan 1 FILE          a word of each page through a mapping;   bytes per second
 *   bench_io maprand 1 COUNT FILE    COUNT words of random pages;             operations per second
 *   bench_io stat JOBS COUNT DIR     lstat of DIR/0 .. DIR/COUNT-1;           operations per second
 *   bench_io open JOBS COUNT DIR     open, read 4 KiB, close of the same;     operations per second
 *   bench_io first 1 COUNT DIR       open, read to the end, close of the same: median seconds of one
 *   bench_io write JOBS BYTES FILE   each job BYTES to FILE.JOB in 1 MiB writes, fsync; bytes per s
 *   bench_io list JOBS RATE FILE     the files that FILE names, a path a line, whole and in that order,
 *                                    by whichever job is free; all together at most RATE bytes per
 *                                    second (0: as fast as they come);        bytes per second
 *
 * Of `list`, the line also has: `waited`, seconds in calls that took longer than SLOW, summed over the
 * jobs; `calls`, and how many of them were that `slow`.
 *
 * The checksum takes the first word of every page; it does not depend on the order of the jobs.
 */
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define BLOCK	 (1u << 20)
#define PAGE	 4096u
#define JOBS_MAX 64
#define SLOW	 0.005 /* seconds: no answer of this machine, but one of the link's other end */

struct job {
	pthread_t thread;
	unsigned index;
	uint64_t checksum;
	uint64_t work; /* bytes or operations */
	uint64_t calls, slow;
	double waited;
	unsigned char *buffer;
};

static void (*loop)(struct job *job);
static unsigned jobs;
static uint64_t count;
static char **paths;
static unsigned path_count;
static double *latencies; /* of `first` */
static pthread_mutex_t list_lock = PTHREAD_MUTEX_INITIALIZER;
static unsigned list_at;
static double list_due; /* when the next bytes may be taken */

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static int open_or_fail(const char *path, int flags)
{
	int fd = open(path, flags, 0644);

	if (fd < 0)
		fail(path);
	return fd;
}

static uint64_t size_of(int fd)
{
	struct stat st;

	if (fstat(fd, &st) < 0)
		fail("fstat");
	return (uint64_t)st.st_size;
}

static uint64_t random_next(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

static uint64_t mixed(uint64_t word)
{
	word = (word ^ (word >> 32)) * 0x9e3779b97f4a7c15u;
	return word ^ (word >> 29);
}

static void add(struct job *job, const unsigned char *data, size_t length)
{
	for (size_t i = 0; i + 8 <= length; i += PAGE) {
		uint64_t word;

		memcpy(&word, data + i, 8);
		job->checksum += mixed(word);
	}
}

static void read_range(struct job *job, int fd, uint64_t start, uint64_t end)
{
	while (start < end) {
		size_t want = end - start < BLOCK ? (size_t)(end - start) : BLOCK;
		ssize_t n = pread(fd, job->buffer, want, (off_t)start);

		if (n < 0)
			fail("read");
		if (n == 0)
			break;
		add(job, job->buffer, (size_t)n);
		start += (uint64_t)n;
		job->work += (uint64_t)n;
	}
}

static void sequential(struct job *job)
{
	if (path_count > 1) {
		for (unsigned i = job->index; i < path_count; i += jobs) {
			int fd = open_or_fail(paths[i], O_RDONLY);

			read_range(job, fd, 0, UINT64_MAX);
			close(fd);
		}
	} else {
		int fd = open_or_fail(paths[0], O_RDONLY);
		uint64_t part = (size_of(fd) / jobs + BLOCK - 1) / BLOCK * BLOCK;
		uint64_t start = part * job->index;

		read_range(job, fd, start, job->index + 1 == jobs ? UINT64_MAX : start + part);
		close(fd);
	}
}

static void at_random(struct job *job)
{
	int fd = open_or_fail(paths[0], O_RDONLY);
	uint64_t state = 88172645463325252u + job->index * 7919u, pages = size_of(fd) / PAGE;

	for (uint64_t i = 0; i < count / jobs; i++) {
		if (pread(fd, job->buffer, PAGE, (off_t)(random_next(&state) % pages * PAGE)) != PAGE)
			fail(paths[0]);
		add(job, job->buffer, PAGE);
		job->work++;
	}
	close(fd);
}

static unsigned char *map(uint64_t *ret_size)
{
	int fd = open_or_fail(paths[0], O_RDONLY);
	unsigned char *data;

	*ret_size = size_of(fd);
	data = mmap(NULL, *ret_size, PROT_READ, MAP_SHARED, fd, 0);
	if (data == MAP_FAILED)
		fail("mmap");
	close(fd);
	return data;
}

static void map_scan(struct job *job)
{
	uint64_t size;
	unsigned char *data = map(&size);

	add(job, data, size);
	job->work = size;
	munmap(data, size);
}

static void map_random(struct job *job)
{
	uint64_t size, state = 88172645463325252u;
	unsigned char *data = map(&size);

	for (uint64_t i = 0; i < count; i++)
		add(job, data + random_next(&state) % (size / PAGE) * PAGE, 8);
	job->work = count;
	munmap(data, size);
}

static void many_stat(struct job *job)
{
	char path[4096];
	struct stat st;

	for (uint64_t i = job->index; i < count; i += jobs) {
		snprintf(path, sizeof(path), "%s/%" PRIu64, paths[0], i);
		if (lstat(path, &st) < 0)
			fail(path);
		job->checksum += mixed((uint64_t)st.st_size + i);
		job->work++;
	}
}

static void many_open(struct job *job)
{
	char path[4096];

	for (uint64_t i = job->index; i < count; i += jobs) {
		int fd;
		ssize_t n;

		snprintf(path, sizeof(path), "%s/%" PRIu64, paths[0], i);
		fd = open_or_fail(path, O_RDONLY);
		n = read(fd, job->buffer, PAGE);
		if (n < 0)
			fail(path);
		add(job, job->buffer, (size_t)n);
		close(fd);
		job->work++;
	}
}

static void first_reads(struct job *job)
{
	char path[4096];

	for (uint64_t i = 0; i < count; i++) {
		double start = now();
		ssize_t n;
		int fd;

		snprintf(path, sizeof(path), "%s/%" PRIu64, paths[0], i);
		fd = open_or_fail(path, O_RDONLY);
		while ((n = read(fd, job->buffer, BLOCK)) > 0)
			add(job, job->buffer, (size_t)n);
		if (n < 0)
			fail(path);
		close(fd);
		latencies[i] = now() - start;
		job->work++;
	}
}

static void called(struct job *job, double start)
{
	double took = now() - start;

	job->calls++;
	if (took > SLOW) {
		job->slow++;
		job->waited += took;
	}
}

/* A consumer takes time for what it got, and does not catch up on what it waited for. */
static void consume(size_t bytes)
{
	struct timespec pause;
	double due, wait;

	if (!count)
		return;
	pthread_mutex_lock(&list_lock);
	due = now();
	if (list_due > due)
		due = list_due;
	due += (double)bytes / (double)count;
	list_due = due;
	pthread_mutex_unlock(&list_lock);
	wait = due - now();
	if (wait <= 0)
		return;
	pause.tv_sec = (time_t)wait;
	pause.tv_nsec = (long)((wait - (double)pause.tv_sec) * 1e9);
	nanosleep(&pause, NULL);
}

static const char *list_next(void)
{
	const char *path = NULL;

	pthread_mutex_lock(&list_lock);
	if (list_at < path_count)
		path = paths[list_at++];
	pthread_mutex_unlock(&list_lock);
	return path;
}

static void listed(struct job *job)
{
	const char *path;

	while ((path = list_next())) {
		double start = now();
		int fd = open_or_fail(path, O_RDONLY);
		ssize_t n;

		called(job, start);
		for (;;) {
			start = now();
			n = read(fd, job->buffer, BLOCK);
			called(job, start);
			if (n <= 0)
				break;
			add(job, job->buffer, (size_t)n);
			job->work += (uint64_t)n;
			consume((size_t)n);
		}
		if (n < 0)
			fail(path);
		close(fd);
	}
}

/* The lines of a file, for the rest of the run. */
static void read_list(const char *path)
{
	FILE *f = fopen(path, "r");
	char *line = NULL;
	size_t size = 0;
	ssize_t length;

	if (!f)
		fail(path);
	paths = NULL;
	path_count = 0;
	while ((length = getline(&line, &size, f)) > 0) {
		line[strcspn(line, "\n")] = '\0';
		paths = realloc(paths, (path_count + 1) * sizeof(*paths));
		if (!paths || !(paths[path_count++] = strdup(line)))
			fail("memory");
	}
	free(line);
	fclose(f);
}

static void writing(struct job *job)
{
	char path[4096];
	int fd;

	snprintf(path, sizeof(path), "%s.%u", paths[0], job->index);
	fd = open_or_fail(path, O_WRONLY | O_CREAT | O_TRUNC);
	memset(job->buffer, 'w', BLOCK);
	for (uint64_t done = 0; done < count; done += BLOCK) {
		memcpy(job->buffer, &done, sizeof(done));
		if (write(fd, job->buffer, BLOCK) != BLOCK)
			fail(path);
		job->work += BLOCK;
	}
	if (fsync(fd) < 0 || close(fd) < 0)
		fail(path);
}

static void *job_main(void *job)
{
	loop(job);
	return NULL;
}

static int order(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return x < y ? -1 : x > y;
}

static const struct kind {
	const char *name;
	void (*loop)(struct job *job);
	int counted;
} KINDS[] = {
	{ "seq", sequential, 0 },     { "rand", at_random, 1 },   { "mapscan", map_scan, 0 },
	{ "maprand", map_random, 1 }, { "stat", many_stat, 1 },   { "open", many_open, 1 },
	{ "first", first_reads, 1 },  { "write", writing, 1 },    { "list", listed, 1 },
};

static double seconds(struct timeval t)
{
	return (double)t.tv_sec + (double)t.tv_usec * 1e-6;
}

static void run(struct job *all)
{
	uint64_t checksum = 0, work = 0, calls = 0, slow = 0;
	double waited = 0;
	struct rusage usage;
	double start = now(), took, rate;

	for (unsigned i = 0; i < jobs; i++)
		if (pthread_create(&all[i].thread, NULL, job_main, &all[i]) != 0)
			fail("pthread_create");
	for (unsigned i = 0; i < jobs; i++) {
		pthread_join(all[i].thread, NULL);
		checksum += all[i].checksum;
		work += all[i].work;
		calls += all[i].calls;
		slow += all[i].slow;
		waited += all[i].waited;
	}
	took = now() - start;
	rate = (double)work / took;
	if (latencies) {
		qsort(latencies, count, sizeof(*latencies), order);
		rate = latencies[count / 2];
	}
	getrusage(RUSAGE_SELF, &usage);
	printf("{\"rate\": %.9g, \"seconds\": %.6f, \"work\": %" PRIu64 ", \"checksum\": \"%" PRIx64
	       "\", \"cpu\": %.6f, ",
	       rate, took, work, checksum, seconds(usage.ru_utime) + seconds(usage.ru_stime));
	printf("\"calls\": %" PRIu64 ", \"slow\": %" PRIu64 ", \"waited\": %.6f}\n", calls, slow,
	       waited);
}

int main(int argc, char **argv)
{
	const struct kind *kind = NULL;
	struct job *all;
	int at = 3;

	for (size_t i = 0; argc > 3 && i < sizeof(KINDS) / sizeof(*KINDS); i++)
		if (strcmp(KINDS[i].name, argv[1]) == 0)
			kind = &KINDS[i];
	jobs = argc > 2 ? (unsigned)strtoul(argv[2], NULL, 10) : 0;
	if (kind && kind->counted)
		count = strtoull(argv[at++], NULL, 10);
	if (!kind || at >= argc || jobs < 1 || jobs > JOBS_MAX ||
	    (kind->counted && !count && kind->loop != listed)) {
		fprintf(stderr, "usage: bench_io seq|rand|mapscan|maprand|stat|open|first|write|list "
				"JOBS [COUNT] PATH...\n");
		return 2;
	}
	loop = kind->loop;
	paths = argv + at;
	path_count = (unsigned)(argc - at);
	if (loop == listed)
		read_list(paths[0]);
	all = calloc(jobs, sizeof(*all));
	if (!all || (loop == first_reads && !(latencies = calloc(count, sizeof(*latencies)))))
		fail("memory");
	for (unsigned i = 0; i < jobs; i++) {
		all[i].index = i;
		all[i].buffer = aligned_alloc(PAGE, BLOCK);
		if (!all[i].buffer)
			fail("memory");
		memset(all[i].buffer, 0, BLOCK); /* its page faults are not what is measured */
	}
	run(all);
	for (unsigned i = 0; i < jobs; i++)
		free(all[i].buffer);
	free(all);
	free(latencies);
	return 0;
}
