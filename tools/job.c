#include "tools/job.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tools/cmd.h"
#include "tools/parse.h"

#define KEPT_MAX 100u
#define NUMBER_MAX 1000000000u

static const char *const states[] = { "running", "done", "failed", "cancelled", "interrupted" };

#define STATE_COUNT (sizeof(states) / sizeof(states[0]))

/* The lock of a job that runs: it goes with its process. */
static int lock_fd = -1;

/* Makes the directory when it is not there. 0 or -errno. */
static int directory(char path[PATH_MAX])
{
	const char *base = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
	int length;

	if (base && *base == '/')
		length = snprintf(path, PATH_MAX - 64, "%s/leasehold/jobs", base);
	else
		length = snprintf(path, PATH_MAX - 64, "%s/.local/state/leasehold/jobs",
				  home && *home == '/' ? home : "/var/lib");
	if (length < 0 || length >= PATH_MAX - 64)
		return -ENAMETOOLONG;
	for (char *at = strchr(path + 1, '/'); at; at = strchr(at + 1, '/')) {
		*at = '\0';
		(void)mkdir(path, 0700); /* the last one tells */
		*at = '/';
	}
	return mkdir(path, 0700) < 0 && errno != EEXIST ? -errno : 0;
}

static int path_of(unsigned number, const char *suffix, char path[PATH_MAX])
{
	char where[PATH_MAX];
	int r = directory(where);

	if (r == 0 && snprintf(path, PATH_MAX, "%s/%u%s", where, number, suffix) >= PATH_MAX)
		r = -ENAMETOOLONG;
	return r;
}

static int compare(const void *a, const void *b)
{
	unsigned x = *(const unsigned *)a, y = *(const unsigned *)b;

	return x < y ? -1 : x > y;
}

/* The numbers of all jobs, ascending; to be freed. */
static unsigned *numbers(size_t *ret_count)
{
	char where[PATH_MAX];
	DIR *d = directory(where) == 0 ? opendir(where) : NULL;
	unsigned *all = NULL;
	struct dirent *entry;
	size_t count = 0;

	while (d && (entry = readdir(d))) {
		char *end;
		unsigned long number = strtoul(entry->d_name, &end, 10);
		unsigned *more;

		if (*end != '\0' || number == 0 || number > NUMBER_MAX)
			continue;
		more = realloc(all, (count + 1) * sizeof(*all));
		if (!more)
			break;
		all = more;
		all[count++] = (unsigned)number;
	}
	if (d)
		closedir(d);
	if (count)
		qsort(all, count, sizeof(*all), compare);
	*ret_count = count;
	return all;
}

/* One line of its file, "name value". */
static void take(struct job *job, const char *name, const char *value)
{
	uint64_t number = strtoull(value, NULL, 10);

	if (strcmp(name, "pid") == 0)
		job->pid = (pid_t)number;
	else if (strcmp(name, "files") == 0)
		job->files = number;
	else if (strcmp(name, "found") == 0)
		job->found = number;
	else if (strcmp(name, "bytes") == 0)
		job->bytes = number;
	else if (strcmp(name, "found-bytes") == 0)
		job->found_bytes = number;
	else if (strcmp(name, "failed") == 0)
		job->failed = number;
	else if (strcmp(name, "mount") == 0)
		(void)snprintf(job->root, sizeof(job->root), "%s", value);
	else if (strcmp(name, "what") == 0)
		(void)snprintf(job->what, sizeof(job->what), "%s", value);
	for (size_t i = 0; strcmp(name, "state") == 0 && i < STATE_COUNT; i++)
		if (strcmp(value, states[i]) == 0)
			job->state = (enum job_state)i;
}

/* 0 or -errno. */
static int job_read(unsigned number, struct job *ret_job)
{
	char path[PATH_MAX], line[PATH_MAX + 64];
	FILE *file;
	int r = path_of(number, "", path), fd;

	if (r < 0)
		return r;
	file = fopen(path, "re");
	if (!file)
		return -errno;
	memset(ret_job, 0, sizeof(*ret_job));
	ret_job->number = number;
	while (fgets(line, sizeof(line), file)) {
		char *value = strchr(line, ' ');

		line[strcspn(line, "\n")] = '\0';
		if (!value)
			continue;
		*value++ = '\0';
		take(ret_job, line, value);
	}
	fclose(file);
	/* Its process has the lock for as long as it lives. */
	if (path_of(number, ".lock", path) < 0)
		return 0;
	fd = open(path, O_RDWR | O_CLOEXEC);
	/* Shared: who else looks at the same time is not taken for it. */
	if (ret_job->state == JOB_RUNNING && (fd < 0 || flock(fd, LOCK_SH | LOCK_NB) == 0))
		ret_job->state = JOB_INTERRUPTED;
	if (fd >= 0)
		close(fd);
	return 0;
}

/* Those that are over and older than the newest ones go. */
static void prune(void)
{
	char path[PATH_MAX];
	size_t count;
	unsigned *all = numbers(&count);
	struct job job;

	for (size_t i = 0; i + KEPT_MAX < count; i++) {
		if (job_read(all[i], &job) < 0 || job.state == JOB_RUNNING)
			continue;
		if (path_of(all[i], "", path) == 0)
			(void)unlink(path);
		if (path_of(all[i], ".lock", path) == 0)
			(void)unlink(path);
	}
	free(all);
}

int job_begin(struct job *job)
{
	char path[PATH_MAX];
	size_t count;
	unsigned *all, number;
	int r;

	prune();
	all = numbers(&count);
	number = count ? all[count - 1] + 1 : 1;
	free(all);
	for (;; number++) {
		r = path_of(number, ".lock", path);
		if (r < 0)
			return r;
		lock_fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
		if (lock_fd >= 0)
			break;
		if (errno != EEXIST || number == NUMBER_MAX)
			return -errno;
	}
	if (flock(lock_fd, LOCK_EX | LOCK_NB) < 0) /* it is new: nobody else has it */
		return -errno;
	job->number = number;
	job->pid = getpid();
	job_write(job);
	return 0;
}

/* On one line, whatever is in it: a name is made by anybody, and the next line could be a pid. */
static void put(FILE *file, const char *name, const char *text)
{
	fprintf(file, "%s ", name);
	for (; *text; text++)
		putc((unsigned char)*text < 0x20 || *text == 0x7f ? '?' : *text, file);
	putc('\n', file);
}

void job_write(const struct job *job)
{
	char path[PATH_MAX], next[PATH_MAX];
	FILE *file;
	bool good;

	if (!job->number || path_of(job->number, "", path) < 0 ||
	    path_of(job->number, ".new", next) < 0)
		return;
	file = fopen(next, "we");
	if (!file)
		return;
	fprintf(file,
		"state %s\npid %d\nfiles %" PRIu64 "\nfound %" PRIu64 "\nbytes %" PRIu64
		"\nfound-bytes %" PRIu64 "\nfailed %" PRIu64 "\n",
		states[job->state], (int)job->pid, job->files, job->found, job->bytes,
		job->found_bytes, job->failed);
	put(file, "mount", job->root);
	put(file, "what", job->what);
	good = !ferror(file);
	if (fclose(file) == 0 && good)
		(void)rename(next, path); /* what others see is a little old then */
}

static void print(const struct job *job)
{
	char bytes[PARSE_TEXT_BYTES_MAX], found[PARSE_TEXT_BYTES_MAX];

	print_bytes(bytes, job->bytes);
	print_bytes(found, job->found_bytes);
	printf("%u  %-11s  %" PRIu64 " of %" PRIu64 " files, %s of %s%s  %s\n", job->number,
	       states[job->state], job->files, job->found, bytes, found,
	       job->failed ? ", some failed" : "", job->what);
}

static int list(void)
{
	size_t count;
	unsigned *all = numbers(&count);
	struct job job;

	for (size_t i = 0; i < count; i++)
		if (job_read(all[i], &job) == 0)
			print(&job);
	free(all);
	return 0;
}

int job_command(int argc, char **argv)
{
	struct job job;
	uint32_t number;
	int r;

	if (strcmp(argv[0], "list") == 0 && argc == 1)
		return list();
	if (strcmp(argv[0], "list") == 0 || argc != 2 || parse_count(argv[1], 1, NUMBER_MAX, &number) < 0) {
		fprintf(stderr, "leasehold prefetch: list, show JOB or cancel JOB; a directory of that name "
			"is ./%s\n", argv[0]);
		return EXIT_USAGE;
	}
	r = job_read(number, &job);
	if (r == 0 && strcmp(argv[0], "show") == 0) {
		print(&job);
		return 0;
	}
	if (r == 0 && job.state == JOB_RUNNING && job.pid > 1)
		r = kill(job.pid, SIGTERM) < 0 ? -errno : 0;
	else if (r == 0)
		return 0; /* it is over */
	if (r < 0)
		fprintf(stderr, "leasehold prefetch: job %u: %s; see leasehold prefetch list\n", number,
			r == -ENOENT ? "there is none" : strerror(-r));
	return r < 0;
}
