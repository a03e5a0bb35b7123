/* Finds what an earlier run left: names and allocated blocks only; records are read on first use. */
#include "fs/cache/internal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

struct found {
	struct cache_file *file;
	struct timespec modified;
};

struct scan {
	struct cache *cache;
	bool keep;
	struct found *found;
	size_t count, capacity;
};

static int digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool handle_from_name(const char *name, struct handle *ret_handle)
{
	size_t length = strlen(name);
	struct handle handle = { 0 };

	if (length == 0 || length % 2 != 0 || length / 2 > HANDLE_BYTES_MAX)
		return false;
	handle.length = (uint8_t)(length / 2);
	for (size_t i = 0; i < handle.length; i++) {
		int high = digit(name[2 * i]), low = digit(name[2 * i + 1]);

		if (high < 0 || low < 0)
			return false;
		handle.bytes[i] = (uint8_t)(high << 4 | low);
	}
	*ret_handle = handle;
	return true;
}

/* True when a file of this handle belongs into "xx/yy"; elsewhere nobody would find it. */
static bool is_its_directory(const char *directory, const struct handle *handle)
{
	uint64_t hash = cache_hash(handle);
	char expected[8];

	snprintf(expected, sizeof(expected), "%02x/%02x", (unsigned)(hash & 0xff),
		 (unsigned)(hash >> 8 & 0xff));
	return strcmp(directory, expected) == 0;
}

/* Enters the file. 0, -EINVAL: it is none of ours, or -errno. */
static int enter(struct scan *s, const char *directory, const char *name, const struct stat *st)
{
	struct handle handle;
	struct cache_file *f;

	if (!s->keep || !S_ISREG(st->st_mode) || !handle_from_name(name, &handle) ||
	    s->cache->disk_files >= s->cache->files_max || !is_its_directory(directory, &handle))
		return -EINVAL;
	if (s->count == s->capacity) {
		size_t capacity = s->capacity ? s->capacity * 2 : 1024;
		struct found *found = realloc(s->found, capacity * sizeof(*found));

		if (!found)
			return -ENOMEM;
		s->found = found;
		s->capacity = capacity;
	}
	f = cache_insert_scanned(s->cache, &handle,
				 (uint64_t)st->st_blocks * 512 + CACHE_FILE_OVERHEAD_BYTES);
	if (!f)
		return -ENOMEM;
	s->found[s->count++] = (struct found){ f, st->st_mtim };
	return 0;
}

static int scan_directory(struct scan *s, const char *path, unsigned depth);

/* One entry at `depth` (0: "xx", 1: "yy", 2: a cache file). */
static int scan_entry(struct scan *s, DIR *d, const char *path, const char *name, unsigned depth)
{
	char below[16];
	struct stat st;
	int rc;

	if (fstatat(dirfd(d), name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? 0 : -errno;
	if (depth < 2 && S_ISDIR(st.st_mode) && strlen(name) == 2) {
		snprintf(below, sizeof(below), "%s%s%.2s", path, depth ? "/" : "", name);
		rc = scan_directory(s, below, depth + 1);
		if (rc == 0)
			(void)unlinkat(dirfd(d), name, AT_REMOVEDIR); /* if it is empty by now */
		return rc;
	}
	rc = depth == 2 ? enter(s, path, name, &st) : -EINVAL;
	if (rc == -EINVAL) {
		/* A directory of somebody's goes only when it is empty; the rest is in our room. */
		(void)unlinkat(dirfd(d), name, S_ISDIR(st.st_mode) ? AT_REMOVEDIR : 0);
		rc = 0;
	}
	return rc;
}

static int scan_directory(struct scan *s, const char *path, unsigned depth)
{
	int fd = openat(s->cache->objects_fd, *path ? path : ".",
			O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	struct dirent *e;
	int rc = 0;

	if (!d) {
		rc = -errno;
		if (fd >= 0)
			close(fd);
		return rc;
	}
	while (rc == 0) {
		errno = 0;
		e = readdir(d);
		if (!e) {
			rc = -errno;
			break;
		}
		if (strcmp(e->d_name, ".") != 0 && strcmp(e->d_name, "..") != 0)
			rc = scan_entry(s, d, path, e->d_name, depth);
	}
	closedir(d);
	return rc;
}

static int by_time(const void *a, const void *b)
{
	const struct timespec *x = &((const struct found *)a)->modified;
	const struct timespec *y = &((const struct found *)b)->modified;

	if (x->tv_sec != y->tv_sec)
		return x->tv_sec < y->tv_sec ? -1 : 1;
	return (x->tv_nsec > y->tv_nsec) - (x->tv_nsec < y->tv_nsec);
}

int cache_scan(struct cache *c, bool keep)
{
	struct scan s = { .cache = c, .keep = keep };
	int rc = scan_directory(&s, "", 0);

	if (s.count > 0)
		qsort(s.found, s.count, sizeof(*s.found), by_time);
	for (size_t i = s.count; i > 0; i--)
		cache_list_scanned(c, s.found[i - 1].file);
	free(s.found);
	return rc;
}
