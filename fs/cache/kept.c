/* What users want kept: a set, of which each is an empty file. */
#include "fs/cache/internal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

struct kept {
	uint64_t hash; /* cache_hash(): two files with the same one are kept together */
};

bool cache_kept_has(const struct cache *c, uint64_t hash)
{
	return c->kept.count > 0 && map_get(&c->kept, &hash) != NULL;
}

/* 0, -EMFILE, -ENOMEM. c->lock is held. */
static int add(struct cache *c, uint64_t hash)
{
	struct kept *kept;

	if (cache_kept_has(c, hash))
		return 0;
	if (c->kept.count >= CACHE_KEPT_MAX)
		return -EMFILE;
	kept = malloc(sizeof(*kept));
	if (!kept || map_reserve(&c->kept, 1) < 0) {
		free(kept);
		return -ENOMEM;
	}
	kept->hash = hash;
	map_insert(&c->kept, kept);
	return 0;
}

int cache_kept_open(struct cache *c)
{
	struct dirent *e;
	DIR *d;
	int fd;

	if (mkdirat(c->directory_fd, "kept", 0700) < 0 && errno != EEXIST)
		return -errno;
	c->kept_fd = openat(c->directory_fd, "kept", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (c->kept_fd < 0)
		return -errno;
	fd = openat(c->kept_fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	d = fd < 0 ? NULL : fdopendir(fd);
	if (!d) {
		int rc = -errno;

		if (fd >= 0)
			close(fd);
		return rc;
	}
	while ((e = readdir(d))) {
		struct handle handle;
		uint64_t space;

		if (cache_key_parse(e->d_name, &space, &handle))
			(void)!add(c, cache_hash(space, &handle)); /* one too many is not kept */
	}
	closedir(d);
	return 0;
}

void cache_kept_close(struct cache *c)
{
	struct kept *kept;
	size_t cursor = 0;

	while ((kept = map_next(&c->kept, &cursor)))
		free(kept);
	map_finish(&c->kept);
	if (c->kept_fd >= 0)
		close(c->kept_fd);
}

/* All of it would fit with the rest of what is kept. c->lock is held. */
static bool fits(const struct cache *c, const struct cache_file *f, uint64_t size)
{
	uint64_t taken = c->policy.lists[POLICY_KEPT].bytes;
	uint64_t max = POLICY_KEPT_SHARE(c->policy.limit);

	if (f && f->item.place == POLICY_KEPT)
		taken -= f->item.bytes;
	if (f && f->item.bytes > size)
		size = f->item.bytes;
	return taken <= max && size <= max - taken;
}

static int note(struct cache *c, const char *name)
{
	int fd = openat(c->kept_fd, name, O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);

	if (fd < 0)
		return -errno;
	close(fd);
	return 0;
}

int cache_keep(struct cache *c, uint64_t space, const struct handle *handle, bool keep, uint64_t size)
{
	char name[CACHE_NAME_BYTES];
	struct cache_file *f;
	uint64_t hash = cache_hash(space, handle);
	bool has;
	int rc = 0;

	cache_key_name(space, handle, name);
	pthread_mutex_lock(&c->kept_lock);
	pthread_mutex_lock(&c->lock);
	has = cache_kept_has(c, hash);
	if (keep && !has) {
		if (!fits(c, cache_table_find(c, space, handle, hash), size))
			rc = -ENOSPC;
		else if (c->kept.count >= CACHE_KEPT_MAX)
			rc = -EMFILE;
	}
	pthread_mutex_unlock(&c->lock);
	if (rc == 0 && keep && !has)
		rc = note(c, name);
	if (rc == 0 && !keep && has && unlinkat(c->kept_fd, name, 0) < 0 && errno != ENOENT)
		rc = -errno;
	if (rc == 0 && keep != has) {
		pthread_mutex_lock(&c->lock);
		if (keep)
			rc = add(c, hash);
		else
			free(map_remove(&c->kept, &hash));
		f = rc == 0 ? cache_table_find(c, space, handle, hash) : NULL;
		if (f)
			policy_regroup(&c->policy, &f->item, f->item.group, keep);
		pthread_mutex_unlock(&c->lock);
	}
	pthread_mutex_unlock(&c->kept_lock);
	return rc;
}

void cache_file_kept(struct cache_file *f, struct cache_kept *ret_kept)
{
	struct cache *c = f->cache;

	pthread_mutex_lock(&c->lock);
	ret_kept->by_user = f->item.kept;
	ret_kept->by_policy = c->policy.groups[f->item.group].kept;
	ret_kept->in_effect = policy_is_kept(&f->item);
	ret_kept->bytes = c->policy.lists[POLICY_KEPT].bytes;
	ret_kept->bytes_max = POLICY_KEPT_SHARE(c->policy.limit);
	pthread_mutex_unlock(&c->lock);
}
