/*
 * What policies want of files. Files of which the same is said are a group of the policy. That one of
 * them is kept is noted with its bytes, as a mark: a mode, which a scan sees, and an attribute that says
 * which line of which policy has it kept, so that it can be told which of them still do.
 */
#include "fs/cache/internal.h"

#include "lease/base/bytes.h"

#include <stdlib.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

#define MARK_XATTR "user.leasehold.kept"
#define MARK_BYTES 8 /* u32 source, u32 line */
/* Of the flusher, each time: files whose mark goes, and buckets of the table that it looks at. */
#define UNMARK_FILES 64
#define UNMARK_BUCKETS 65536
#define UNMARK_ROUNDS 16

/* What cache_pins_stand() said while the scan went on: it may still find others. */
struct cache_stand {
	struct cache_stand *next;
	uint32_t source, count;
	uint32_t lines[];
};

uint32_t cache_clock_s(void)
{
	struct timespec now;

	clock_gettime(CLOCK_REALTIME_COARSE, &now);
	return (uint32_t)now.tv_sec;
}

static bool is_pinned(const struct cache_keep *keep)
{
	return keep->pin_source != 0 || keep->pin_line != 0;
}

static bool same(const struct cache_keep *a, const struct cache_keep *b)
{
	return a->pin_source == b->pin_source && a->pin_line == b->pin_line && a->quota == b->quota &&
	       a->quota_bytes == b->quota_bytes && a->quota_percent == b->quota_percent &&
	       a->ttl_s == b->ttl_s && a->admit == b->admit;
}

/* ---- groups; c->lock is held ---- */

static void tell_policy(struct cache *c, unsigned group)
{
	const struct cache_keep *keep = &c->groups[group].keep;
	uint64_t bytes = keep->quota_percent ? c->bytes_max / 100 * keep->quota_percent :
					       keep->quota_bytes;

	policy_set_group(&c->policy, (uint8_t)group,
			 &(struct policy_group){
				 .quota = keep->quota,
				 .quota_bytes = bytes,
				 .ttl_s = keep->ttl_s,
				 .kept = is_pinned(keep),
				 .admit = (enum policy_admit)keep->admit,
			 });
}

/* 0: nothing is said, or too many different things are. */
static unsigned group_of(struct cache *c, const struct cache_keep *keep)
{
	const struct cache_keep nothing = { 0 };
	unsigned unused = 0;

	if (same(keep, &nothing))
		return 0;
	for (unsigned i = 1; i < POLICY_GROUPS_MAX; i++) {
		if (c->groups[i].users > 0 && same(&c->groups[i].keep, keep))
			return i;
		if (c->groups[i].users == 0 && !unused)
			unused = i;
	}
	if (unused) {
		c->groups[unused].keep = *keep;
		tell_policy(c, unused);
	}
	return unused;
}

static void move_to(struct cache *c, struct cache_file *f, unsigned group)
{
	c->groups[group].users++;
	c->groups[f->item.group].users--;
	policy_regroup(&c->policy, &f->item, (uint8_t)group, f->item.kept);
}

void cache_keep_forget(struct cache *c, struct cache_file *f)
{
	move_to(c, f, 0);
}

/* Such a line does not keep files any more. */
static bool is_withdrawn(const struct cache *c, uint32_t source, uint32_t line)
{
	const struct cache_stand *stand = c->stands;

	while (stand && stand->source != source)
		stand = stand->next;
	for (uint32_t i = 0; stand && i < stand->count; i++)
		if (stand->lines[i] == line)
			return false;
	return stand != NULL;
}

void cache_keep_found(struct cache *c, struct cache_file *f, const struct cache_found *found)
{
	const struct cache_keep keep = {
		.pin_source = found->pin_source,
		.pin_line = found->pin_line,
	};

	if (!is_pinned(&keep))
		return;
	atomic_store(&f->marked, true);
	if (is_withdrawn(c, keep.pin_source, keep.pin_line))
		c->unmark_next = 0;
	else
		move_to(c, f, group_of(c, &keep));
}

void cache_keep_finish(struct cache *c)
{
	while (c->stands) {
		struct cache_stand *stand = c->stands;

		c->stands = stand->next;
		free(stand);
	}
}

static void remember_stand(struct cache *c, uint32_t source, const uint32_t *lines, uint32_t count)
{
	struct cache_stand *stand = malloc(sizeof(*stand) + count * sizeof(*lines)), **at;

	if (!stand)
		return; /* it is kept until it is looked up */
	for (at = &c->stands; *at; at = &(*at)->next) {
		struct cache_stand *old = *at;

		if (old->source != source)
			continue;
		*at = old->next;
		free(old);
		break;
	}
	stand->source = source;
	stand->count = count;
	if (count > 0)
		memcpy(stand->lines, lines, count * sizeof(*lines));
	stand->next = c->stands;
	c->stands = stand;
}

void cache_pins_stand(struct cache *c, uint32_t source, const uint32_t *lines, uint32_t count)
{
	pthread_mutex_lock(&c->lock);
	if (c->scanning)
		remember_stand(c, source, lines, count);
	for (unsigned i = 1; i < POLICY_GROUPS_MAX; i++) {
		struct cache_keep *keep = &c->groups[i].keep;
		uint32_t at = 0;

		if (c->groups[i].users == 0 || !is_pinned(keep) || keep->pin_source != source)
			continue;
		while (at < count && lines[at] != keep->pin_line)
			at++;
		if (at < count)
			continue;
		keep->pin_source = 0;
		keep->pin_line = 0;
		tell_policy(c, i);
		c->unmark_next = 0;
	}
	pthread_mutex_unlock(&c->lock);
}

/* ---- marks ---- */

bool cache_keep_read_mark(int fd, uint32_t *ret_source, uint32_t *ret_line)
{
	uint8_t buffer[MARK_BYTES];
	struct reader r = reader_of(buffer, sizeof(buffer));

	if (fgetxattr(fd, MARK_XATTR, buffer, sizeof(buffer)) != (ssize_t)sizeof(buffer))
		return false;
	*ret_source = reader_u32(&r);
	*ret_line = reader_u32(&r);
	return true;
}

void cache_keep_mark(struct cache_file *f, int fd)
{
	struct cache *c = f->cache;
	uint8_t buffer[MARK_BYTES];
	struct writer w = writer_of(buffer, sizeof(buffer));
	struct cache_keep keep;

	pthread_mutex_lock(&c->lock);
	keep = c->groups[f->item.group].keep;
	pthread_mutex_unlock(&c->lock);
	writer_u32(&w, keep.pin_source);
	writer_u32(&w, keep.pin_line);
	/* A mark that cannot be made is missed after a restart, until the file is looked up. */
	if (is_pinned(&keep)) {
		if (fsetxattr(fd, MARK_XATTR, buffer, sizeof(buffer), 0) == 0 &&
		    fchmod(fd, CACHE_MODE_MARKED) == 0)
			atomic_store(&f->marked, true);
	} else if (atomic_exchange(&f->marked, false) && fchmod(fd, 0600) == 0) {
		(void)fremovexattr(fd, MARK_XATTR); /* the mode says that there is none */
	}
}

static void mark_on_disk(struct cache_file *f)
{
	int fd = f->on_disk ? cache_file_borrow(f) : -1;

	if (fd >= 0)
		cache_keep_mark(f, fd);
	else
		atomic_store(&f->marked, false);
	cache_file_return(f, fd);
}

/* Referenced files whose mark is wrong, from some buckets on. c->lock is held. */
static unsigned find_marked(struct cache *c, struct cache_file *files[UNMARK_FILES])
{
	unsigned count = 0;

	for (unsigned n = 0; n < UNMARK_BUCKETS && c->unmark_next < c->bucket_count; n++) {
		struct cache_file *f = c->buckets[c->unmark_next];

		for (; f && count < UNMARK_FILES; f = f->hash_next)
			if (atomic_load(&f->marked) && !is_pinned(&c->groups[f->item.group].keep) &&
			    cache_file_reference(f))
				files[count++] = f;
		if (count == UNMARK_FILES)
			break; /* there may be more in this one */
		c->unmark_next++;
	}
	return count;
}

void cache_keep_unmark(struct cache *c)
{
	struct cache_file *files[UNMARK_FILES];

	for (unsigned round = 0; round < UNMARK_ROUNDS; round++) {
		unsigned count;
		bool more;

		pthread_mutex_lock(&c->lock);
		count = find_marked(c, files);
		more = c->unmark_next < c->bucket_count && !c->closing;
		pthread_mutex_unlock(&c->lock);
		for (unsigned i = 0; i < count; i++) {
			pthread_rwlock_wrlock(&files[i]->lock);
			mark_on_disk(files[i]);
			pthread_rwlock_unlock(&files[i]->lock);
			cache_file_put(files[i]);
		}
		if (!more)
			return;
	}
}

/* ---- for who knows what policies say ---- */

void cache_file_keep(struct cache_file *f, const struct cache_keep *keep, uint32_t serial)
{
	struct cache *c = f->cache;
	bool moves;

	atomic_store(&f->keep_serial, serial);
	if (!keep)
		return;
	pthread_mutex_lock(&c->lock);
	moves = !same(&c->groups[f->item.group].keep, keep);
	pthread_mutex_unlock(&c->lock);
	if (!moves)
		return;
	pthread_rwlock_wrlock(&f->lock);
	pthread_mutex_lock(&c->lock);
	move_to(c, f, group_of(c, keep));
	pthread_mutex_unlock(&c->lock);
	if (is_pinned(keep) || atomic_load(&f->marked))
		mark_on_disk(f);
	pthread_rwlock_unlock(&f->lock);
}

uint32_t cache_file_keep_serial(const struct cache_file *f)
{
	return atomic_load(&f->keep_serial);
}

bool cache_file_has_keep(struct cache_file *f)
{
	bool has;

	pthread_mutex_lock(&f->cache->lock);
	has = f->item.group != 0;
	pthread_mutex_unlock(&f->cache->lock);
	return has;
}

void cache_file_access(struct cache_file *f)
{
	struct cache *c = f->cache;

	pthread_mutex_lock(&c->lock);
	policy_access(&c->policy, &f->item, f->hash);
	pthread_mutex_unlock(&c->lock);
}

bool cache_file_may_come(struct cache_file *f)
{
	bool may;

	pthread_mutex_lock(&f->cache->lock);
	may = policy_may_come(&f->cache->policy, &f->item);
	pthread_mutex_unlock(&f->cache->lock);
	return may;
}
