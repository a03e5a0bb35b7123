#include "tools/trace_record.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#include "lease/base/map.h"
#include "lease/base/rng.h"
#include "prefetch/trace.h"
#include "tools/xattr.h"

#define XATTR_TRACE "system.leasehold.trace"
#define CHUNK_BYTES 65536u /* the largest value of an attribute */
#define PAUSE_MS 50
#define ROOT_ID 1u
#define DEPTH_MAX 256
/* Of what was not accessed: a replay wants to know how much there was, not all of it. */
#define ENTRIES_MAX 100000u

/* An inode, a reader, or a name in a directory, by what the mount calls it. */
struct known {
	uint64_t id;
	uint64_t number; /* in the trace */
	uint64_t size;
	struct known *directory;
	char *name;
	bool listed; /* something in it was accessed */
};

struct recorder {
	const char *root;
	FILE *out;
	struct map inodes, readers, names;
	uint64_t inode_count, reader_count, entry_count;
	uint64_t lines, dropped;
	struct instant now, previous;
	char chunk[sizeof(TRACE_HEADER) + CHUNK_BYTES];
};

static volatile sig_atomic_t stopped;

static void stop(int signal)
{
	stopped = signal;
}

static void *resize(void *context, void *pointer, size_t old_size, size_t size)
{
	void *grown;

	if (size == 0) {
		free(pointer);
		return NULL;
	}
	grown = realloc(pointer, size);
	if (!grown) {
		fprintf(stderr, "leasehold trace: no memory\n");
		exit(EXIT_FAILURE);
	}
	return grown;
}

static const struct allocator allocator = { resize, NULL };

static struct known *know(struct map *map, uint64_t id, uint64_t *count)
{
	struct known *k = map_get(map, &id);

	if (k)
		return k;
	k = resize(NULL, NULL, 0, sizeof(*k));
	*k = (struct known){ .id = id, .number = ++*count };
	if (map_reserve(map, 1) == 0) /* resize() does not come back otherwise */
		map_insert(map, k);
	return k;
}

static uint64_t name_id(uint64_t directory, const char *name, size_t length)
{
	uint64_t hash = rng_mix(directory);

	for (size_t i = 0; i < length; i++)
		hash = rng_mix(hash ^ (uint8_t)name[i]);
	return hash;
}

static void put(struct recorder *r, const struct trace_line *line)
{
	uint8_t text[TRACE_LINE_MAX];
	struct writer w = writer_of(text, sizeof(text));

	trace_write(&w, line, &r->previous);
	(void)fwrite(text, 1, w.at, r->out); /* its error is looked at in the end */
}

/* Small numbers for ids; what was said of an inode before is left out. */
static void translate(struct recorder *r, struct access *a)
{
	struct known *inode = a->inode ? know(&r->inodes, a->inode, &r->inode_count) : NULL;
	struct known *directory =
		a->directory ? know(&r->inodes, a->directory, &r->inode_count) : NULL;
	bool named = inode && inode->name;
	uint64_t unused = 0, id;

	if (inode && directory && a->name.length && !named) {
		inode->directory = directory;
		inode->name = strndup((const char *)a->name.data, a->name.length);
		directory->listed = true;
		id = name_id(directory->number, inode->name, a->name.length);
		know(&r->names, id, &unused)->number = inode->number;
	}
	if (a->type == ACCESS_READ || a->type == ACCESS_CLOSE) {
		a->name.length = named ? 0 : a->name.length;
		directory = named ? NULL : directory;
		a->file_type = 0;
		if (inode && inode->size == a->size)
			a->size = 0;
	}
	if (inode && a->size)
		inode->size = a->size;
	a->inode = inode ? inode->number : 0;
	a->directory = directory ? directory->number : 0;
	a->reader = a->reader ? know(&r->readers, a->reader, &r->reader_count)->number : 0;
}

/* A chunk of lines behind the header. False: it makes no sense. */
static bool take_chunk(struct recorder *r, size_t length)
{
	struct instant start = r->now;
	struct trace_reader reader;
	struct trace_line line;
	int next;

	for (const char *at = r->chunk + sizeof(TRACE_HEADER) - 2;
	     (at = strstr(at, "\n# dropped ")); at++)
		r->dropped += strtoull(at + strlen("\n# dropped "), NULL, 10);
	trace_reader_init(&reader, (struct slice){ (uint8_t *)r->chunk,
						   sizeof(TRACE_HEADER) - 1 + length });
	while ((next = trace_next(&reader, &line)) > 0) {
		r->now.ns = start.ns + line.access.at.ns;
		line.access.at = r->now;
		translate(r, &line.access);
		put(r, &line);
		r->lines++;
	}
	return next == 0;
}

/* All that there is now. 0 or -errno. */
static int drain(struct recorder *r)
{
	size_t at = sizeof(TRACE_HEADER) - 1;
	ssize_t length;
	bool any = false;

	memcpy(r->chunk, TRACE_HEADER, at);
	while ((length = lgetxattr(r->root, XATTR_TRACE, r->chunk + at, CHUNK_BYTES)) > 0) {
		r->chunk[at + (size_t)length] = '\0';
		if (!take_chunk(r, (size_t)length))
			return -EPROTO;
		any = true;
	}
	if (any)
		(void)fflush(r->out); /* its error stays, and is looked at in the end */
	return length < 0 ? -errno : 0;
}

/* ---- what else was there ---- */

static bool path_of(const struct recorder *r, const struct known *directory, char *path, size_t size)
{
	const struct known *chain[DEPTH_MAX];
	size_t depth = 0, length = strlen(r->root);

	if (length >= size)
		return false;
	memcpy(path, r->root, length + 1);
	for (; directory && directory->id != ROOT_ID; directory = directory->directory) {
		if (depth == DEPTH_MAX || !directory->name)
			return false;
		chain[depth++] = directory;
	}
	while (directory && depth > 0) {
		const char *name = chain[--depth]->name;
		size_t more = strlen(name);

		if (length + more + 2 > size)
			return false;
		path[length++] = '/';
		memcpy(path + length, name, more + 1);
		length += more;
	}
	return directory != NULL;
}

static void put_entry(struct recorder *r, const struct known *directory, const char *name,
		      const struct stat *st)
{
	uint64_t id = name_id(directory->number, name, strlen(name));
	const struct known *known = map_get(&r->names, &id);
	const struct trace_line line = {
		.entry = true,
		.access = { .inode = known ? known->number : ++r->inode_count,
			    .directory = directory->number, .name = slice_of(name),
			    .file_type = S_ISREG(st->st_mode) ? 0 : st->st_mode & S_IFMT,
			    .size = S_ISREG(st->st_mode) ? (uint64_t)st->st_size : 0 },
	};

	put(r, &line);
	r->entry_count++;
}

/* In the order in which the directory is listed. */
static void put_entries(struct recorder *r, const struct known *directory)
{
	char path[PATH_MAX];
	struct dirent *e;
	struct stat st;
	DIR *open;

	if (!path_of(r, directory, path, sizeof(path)))
		return;
	open = opendir(path);
	if (!open)
		return; /* it is gone, or not for us: the replay does without */
	while (r->entry_count < ENTRIES_MAX && (e = readdir(open)))
		if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0 &&
		    fstatat(dirfd(open), e->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0)
			put_entry(r, directory, e->d_name, &st);
	(void)closedir(open); /* it was read only */
}

static void put_all_entries(struct recorder *r)
{
	struct known **directories, *k;
	size_t cursor = 0, count = 0;

	directories = resize(NULL, NULL, 0, (r->inodes.count + 1) * sizeof(struct known *));
	while ((k = map_next(&r->inodes, &cursor)))
		if (k->listed)
			directories[count++] = k;
	for (size_t i = 0; i < count; i++)
		put_entries(r, directories[i]);
	free(directories);
}

/* ---- a recording ---- */

static void forget(struct map *map)
{
	size_t cursor = 0;
	struct known *k;

	while ((k = map_next(map, &cursor))) {
		free(k->name);
		free(k);
	}
	map_finish(map);
}

static int say(const char *path, int r)
{
	const char *why = strerror(-r);

	if (r == -ENODATA)
		why = "not on a Leasehold mount";
	else if (r == -EPERM)
		why = "only root and who mounted it may record what others do";
	else if (r == -EOPNOTSUPP)
		why = "it is mounted with --prefetch=off: mount it without";
	fprintf(stderr, "leasehold trace: %s: %s\n", path, why);
	return EXIT_FAILURE;
}

static int record(struct recorder *r, const char *path)
{
	const struct timespec pause = { 0, PAUSE_MS * 1000000L };
	int error = drain(r); /* which begins it */

	if (error < 0)
		return say(path, error);
	fputs(TRACE_HEADER, r->out);
	fprintf(stderr, "recording %s; ^C ends it\n", r->root);
	while (!stopped && error == 0) {
		nanosleep(&pause, NULL);
		error = drain(r);
	}
	if (error == 0)
		error = drain(r);
	if (error < 0)
		return say(path, error);
	put_all_entries(r);
	if (fflush(r->out) != 0 || ferror(r->out))
		return say("output", errno ? -errno : -EIO);
	fprintf(stderr, "%" PRIu64 " accesses", r->lines);
	if (r->dropped)
		fprintf(stderr, ", %" PRIu64 " more came too fast and are missing", r->dropped);
	fputc('\n', stderr);
	return EXIT_SUCCESS;
}

int trace_record(const char *path, const char *output)
{
	struct sigaction action = { .sa_handler = stop }; /* without SA_RESTART: it ends a pause */
	struct recorder *r = resize(NULL, NULL, 0, sizeof(*r));
	int error, status = EXIT_FAILURE;
	char *root = NULL;

	memset(r, 0, sizeof(*r));
	map_init(&r->inodes, &allocator, MAP_U64, offsetof(struct known, id), 1);
	map_init(&r->readers, &allocator, MAP_U64, offsetof(struct known, id), 2);
	map_init(&r->names, &allocator, MAP_U64, offsetof(struct known, id), 3);
	error = xattr_mount_root(path, &root);
	r->root = root;
	r->out = output && strcmp(output, "-") != 0 ? fopen(output, "we") : stdout;
	if (error < 0) {
		(void)say(path, error);
	} else if (!r->out) {
		(void)say(output, -errno);
	} else {
		(void)sigaction(SIGINT, &action, NULL); /* of valid signals it cannot fail */
		(void)sigaction(SIGTERM, &action, NULL);
		status = record(r, path);
	}
	if (r->out && r->out != stdout && fclose(r->out) != 0)
		status = say(output, -errno);
	forget(&r->inodes);
	forget(&r->readers);
	forget(&r->names);
	free(root);
	free(r);
	return status;
}
