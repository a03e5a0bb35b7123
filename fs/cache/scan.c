/*
 * Finds what an earlier run left: names and allocated blocks only; records are read on first use. A thread
 * of its own does it, and whoever needs a file meanwhile looks for it himself (cache_file_get).
 */
#include "fs/cache/internal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

struct scan {
	struct cache *cache;
	bool keep;
};

/* True when a file of this key belongs into "xx"; elsewhere nobody would find it. */
static bool is_its_directory(const char *directory, uint64_t space, const struct handle *handle)
{
	uint64_t hash = cache_hash(space, handle);
	char expected[8];

	snprintf(expected, sizeof(expected), "%02x", (unsigned)(hash & 0xff));
	return strcmp(directory, expected) == 0;
}

void cache_look_at(int directory_fd, const char *name, const struct stat *st,
		   struct cache_found *ret_found)
{
	int64_t used = st->st_mtime > st->st_atime ? st->st_mtime : st->st_atime;
	int fd = -1;

	*ret_found = (struct cache_found){
		/* Until its record is read. */
		.charge = (uint64_t)st->st_blocks * 512 + CACHE_FILE_OVERHEAD_BYTES,
		.used_s = used > 0 ? (uint32_t)used : 0,
	};
	if ((st->st_mode & 07777) == CACHE_MODE_MARKED)
		fd = openat(directory_fd, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return;
	if (!cache_keep_read_mark(fd, &ret_found->pin_source, &ret_found->pin_line))
		ret_found->pin_source = ret_found->pin_line = 0;
	close(fd);
}

/* Enters the file. 0, -EINVAL: it is none of ours, or -errno. */
static int enter(struct scan *s, int directory_fd, const char *directory, const char *name,
		 const struct stat *st)
{
	struct cache_found found;
	struct handle handle;
	uint64_t space;

	if (!s->keep || !S_ISREG(st->st_mode) || !cache_key_parse(name, &space, &handle) ||
	    !is_its_directory(directory, space, &handle))
		return -EINVAL;
	cache_look_at(directory_fd, name, st, &found);
	return cache_insert_scanned(s->cache, space, &handle, &found);
}

/* One more entry was looked at. True: the cache closes. */
static bool looked_at(struct cache *c)
{
	bool stop;

	pthread_mutex_lock(&c->lock);
	if (++c->scanned == c->scan_first)
		pthread_cond_broadcast(&c->scan_wake);
	stop = c->closing;
	pthread_mutex_unlock(&c->lock);
	return stop;
}

static int scan_directory(struct scan *s, const char *path, unsigned depth);

/* One entry at `depth` (0: "xx", 1: a cache file, or "yy" of the layout before, whose files go). */
static int scan_entry(struct scan *s, DIR *d, const char *path, const char *name, unsigned depth)
{
	char below[16];
	struct stat st;
	int rc;

	if (looked_at(s->cache))
		return -ECANCELED;
	if (fstatat(dirfd(d), name, &st, AT_SYMLINK_NOFOLLOW) < 0)
		return errno == ENOENT ? 0 : -errno;
	if (depth < 2 && S_ISDIR(st.st_mode) && strlen(name) == CACHE_DIRECTORY_DIGITS) {
		snprintf(below, sizeof(below), "%s%s%.2s", path, depth ? "/" : "", name);
		rc = scan_directory(s, below, depth + 1);
		if (rc == 0)
			(void)unlinkat(dirfd(d), name, AT_REMOVEDIR); /* if it is empty by now */
		return rc;
	}
	rc = enter(s, dirfd(d), path, name, &st);
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

int cache_scan_all(struct cache *c, bool keep)
{
	struct scan s = { .cache = c, .keep = keep };

	return scan_directory(&s, "", 0);
}

/* What may be there, by the file system: as much as it has in use. */
static void expect(struct cache *c)
{
	struct statvfs vfs;

	c->unscanned_bytes = c->bytes_max;
	c->unscanned_files = c->files_max;
	if (fstatvfs(c->objects_fd, &vfs) < 0)
		return;
	if ((vfs.f_blocks - vfs.f_bfree) * vfs.f_frsize < c->unscanned_bytes)
		c->unscanned_bytes = (vfs.f_blocks - vfs.f_bfree) * vfs.f_frsize;
	if (vfs.f_files > 0 && vfs.f_files - vfs.f_ffree < c->unscanned_files)
		c->unscanned_files = vfs.f_files - vfs.f_ffree;
}

static void *scanner_main(void *argument)
{
	struct cache *c = argument;
	int rc = cache_scan_all(c, true);

	/* A directory that cannot be read: what is in it is found, and counted, when it is used. */
	if (rc < 0 && rc != -ECANCELED)
		atomic_fetch_add(&c->statistics.dropped_errors, 1);
	pthread_mutex_lock(&c->lock);
	c->scan_result = rc;
	c->scanning = false;
	c->unscanned_bytes = 0;
	c->unscanned_files = 0;
	pthread_cond_broadcast(&c->scan_wake);
	pthread_mutex_unlock(&c->lock);
	if (rc == 0)
		cache_trim(c);
	return NULL;
}

int cache_scan_start(struct cache *c)
{
	int rc;

	expect(c);
	c->scanning = true;
	rc = -pthread_create(&c->scanner, NULL, scanner_main, c);
	if (rc < 0) {
		c->scanning = false;
		return rc;
	}
	c->scanner_runs = true;
	pthread_mutex_lock(&c->lock);
	while (c->scanning && c->scanned < c->scan_first)
		pthread_cond_wait(&c->scan_wake, &c->lock);
	rc = c->scanning ? 0 : c->scan_result;
	pthread_mutex_unlock(&c->lock);
	return rc;
}

void cache_scan_stop(struct cache *c)
{
	pthread_mutex_lock(&c->lock);
	c->closing = true;
	pthread_mutex_unlock(&c->lock);
	if (c->scanner_runs)
		pthread_join(c->scanner, NULL);
	c->scanner_runs = false;
}
