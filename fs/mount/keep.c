#include "fs/mount/keep.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <xxhash.h>

#include "fs/cache/policy.h"
#include "fs/mount/read.h"

#define LOOK_BATCH 64 /* inodes that are used at a time */

/* ---- names for lines ---- */

static uint32_t source_of(struct mount *m, const struct handle *directory)
{
	return directory ? (uint32_t)XXH3_64bits_withSeed(directory->bytes, directory->length,
							   m->cache_space) | 1 :
			   (uint32_t)XXH3_64bits_withSeed("--policy", 8, m->cache_space) & ~1u;
}

static uint32_t source_at(struct mount *m, const struct rules_origin *origin)
{
	return source_of(m, origin->directory ? INODE_HANDLE(origin->directory) : NULL);
}

/*
 * The same for the same text. With those behind it that unpin: what they say of a file nobody may be there
 * to look up.
 */
static uint32_t pin_line(const struct rules *rules, uint32_t index)
{
	struct slice text;
	uint64_t hash, value;

	(void)rules_line(rules, index, &text, NULL);
	hash = XXH3_64bits(text.data, text.length);
	for (uint32_t i = index + 1; i < rules_count(rules); i++) {
		if (!rules_line_sets(rules, i, RULES_PIN, &value) || value)
			continue;
		(void)rules_line(rules, i, &text, NULL);
		hash = XXH3_64bits_withSeed(text.data, text.length, hash);
	}
	return (uint32_t)hash | 1;
}

static uint64_t quota_line(struct mount *m, const struct rules_origin *origin)
{
	struct slice text;

	(void)rules_line(origin->rules, origin->index, &text, NULL);
	return XXH3_64bits_withSeed(text.data, text.length, source_at(m, origin)) | 1;
}

void keep_lines_make(struct mount *m, const struct handle *directory, const struct rules *rules,
		     struct keep_lines *ret_lines)
{
	uint32_t count = rules && rules_sets(rules, RULES_PIN) ? rules_count(rules) : 0;
	uint64_t value;

	*ret_lines = (struct keep_lines){ .source = source_of(m, directory) };
	ret_lines->lines = count ? malloc(count * sizeof(*ret_lines->lines)) : NULL;
	for (uint32_t i = 0; ret_lines->lines && i < count; i++)
		if (rules_line_sets(rules, i, RULES_PIN, &value) && value)
			ret_lines->lines[ret_lines->count++] = pin_line(rules, i);
	/* Without memory what should not be pinned any more stays so, and not the other way round. */
	if (count && !ret_lines->lines)
		ret_lines->source = 0;
}

void keep_lines_finish(struct keep_lines *lines)
{
	free(lines->lines);
	*lines = (struct keep_lines){ 0 };
}

void keep_lines_stand(struct mount *m, struct keep_lines *lines)
{
	if (lines->source)
		cache_pins_stand(m->cache, lines->source, lines->lines, lines->count);
	keep_lines_finish(lines);
}

/* ---- what policies say of a file ---- */

/* False: that is not known. Under the lock. */
static bool ask(struct mount *m, const struct inode *inode, struct cache_keep *ret_keep)
{
	struct rules_origin pin, quota;
	struct rules_attributes a;
	uint64_t bytes, seconds;

	*ret_keep = (struct cache_keep){ 0 };
	if (!rules_keeps(m))
		return true;
	if (!rules_of_lines(m, inode, &a, &pin, &quota))
		return false;
	if (a.values[RULES_PIN] && pin.rules) {
		ret_keep->pin_source = source_at(m, &pin);
		ret_keep->pin_line = pin_line(pin.rules, pin.index);
	}
	bytes = a.values[RULES_QUOTA];
	if (bytes != RULES_ALL && quota.rules) {
		ret_keep->quota = quota_line(m, &quota);
		if (bytes & RULES_QUOTA_SHARE)
			ret_keep->quota_percent = (uint32_t)(bytes & ~RULES_QUOTA_SHARE);
		else
			ret_keep->quota_bytes = bytes;
	}
	if (a.values[RULES_TTL] != RULES_ALL) {
		seconds = (a.values[RULES_TTL] + 999) / 1000;
		ret_keep->ttl_s = seconds < UINT32_MAX ? (uint32_t)seconds : UINT32_MAX;
	}
	if (a.values[RULES_ADMIT] == RULES_ADMIT_NEVER)
		ret_keep->admit = POLICY_ADMIT_NEVER;
	else if (a.values[RULES_ADMIT] == RULES_ADMIT_SECOND && !m->options->small)
		ret_keep->admit = POLICY_ADMIT_SECOND; /* --small: opens are not told */
	return true;
}

void keep_look(struct mount *m, struct inode *inode, struct cache_file *file)
{
	struct cache_keep keep;
	uint32_t serial;
	bool known;

	pthread_mutex_lock(&m->lock);
	serial = (uint32_t)rules_serial(m);
	known = ask(m, inode, &keep);
	pthread_mutex_unlock(&m->lock);
	cache_file_keep(file, known ? &keep : NULL, serial);
}

void keep_opened(struct mount *m, struct inode *inode, struct cache_file *file)
{
	bool keeps, may;

	pthread_mutex_lock(&m->lock);
	keeps = rules_keeps(m);
	pthread_mutex_unlock(&m->lock);
	if (!keeps && !cache_file_has_keep(file))
		return;
	/* It may have another name than when it was looked at last. */
	keep_look(m, inode, file);
	cache_file_access(file);
	may = cache_file_may_come(file);
	pthread_mutex_lock(&m->lock);
	if (inode->live->no_ahead == may)
		inode_live(inode)->no_ahead = !may;
	pthread_mutex_unlock(&m->lock);
}

bool keep_admit(struct mount *m, struct inode *inode)
{
	struct cache_file *file = read_cache_file(m, inode);

	if (!file || cache_file_may_come(file))
		return true;
	cache_file_access(file);
	cache_file_access(file);
	if (!cache_file_may_come(file))
		return false;
	pthread_mutex_lock(&m->lock);
	inode_live(inode)->no_ahead = false;
	pthread_mutex_unlock(&m->lock);
	return true;
}

/* Files from a place on, with uses. Under the lock. */
static unsigned next_files(struct mount *m, size_t *cursor, struct inode *inodes[LOOK_BATCH])
{
	struct inode *inode;
	unsigned count = 0;

	while (count < LOOK_BATCH && (inode = inode_next(m, cursor))) {
		if (!S_ISREG(inode->type))
			continue;
		inode_use(m, inode);
		inodes[count++] = inode;
	}
	return count;
}

void keep_look_at_all(struct mount *m)
{
	struct inode *inodes[LOOK_BATCH];
	size_t cursor = 0;
	unsigned count;

	do {
		/* Inodes come and go meanwhile: one that is missed is looked at when it is read. */
		pthread_mutex_lock(&m->lock);
		count = rules_stopping(m) ? 0 : next_files(m, &cursor, inodes);
		pthread_mutex_unlock(&m->lock);
		for (unsigned i = 0; i < count; i++) {
			/* One that nobody has read yet may be there from an earlier run. */
			struct cache_file *file =
				cache_file_get(m->cache, m->cache_space, INODE_HANDLE(inodes[i]));

			if (file) {
				keep_look(m, inodes[i], file);
				cache_file_put(file);
			}
		}
		pthread_mutex_lock(&m->lock);
		for (unsigned i = 0; i < count; i++)
			inode_unuse(m, inodes[i]);
		pthread_mutex_unlock(&m->lock);
	} while (count > 0);
}

/* ---- what users pin ---- */

bool keep_is_xattr(const char *name)
{
	return strcmp(name, PIN_XATTR) == 0 || strcmp(name, PIN_XATTR ".on") == 0 ||
	       strcmp(name, PIN_XATTR ".off") == 0;
}

static int pin(struct mount *m, struct inode *inode, bool on)
{
	uint64_t size;

	if (!S_ISREG(inode->type))
		return S_ISDIR(inode->type) ? -EISDIR : -EINVAL;
	pthread_mutex_lock(&m->lock);
	size = inode_heard(m, inode).size;
	pthread_mutex_unlock(&m->lock);
	return cache_keep(m->cache, m->cache_space, INODE_HANDLE(inode), on, size);
}

static int kept_of(struct mount *m, struct inode *inode, struct cache_kept *ret_kept)
{
	struct cache_file *file = read_cache_file(m, inode);

	if (!file)
		return -ENOMEM;
	cache_file_kept(file, ret_kept);
	return 0;
}

static int state_text(const struct cache_kept *kept, char **ret_text)
{
	const char *word = kept->by_user ? "on" : kept->by_policy ? "policy" : "off";

	if ((kept->by_user || kept->by_policy) && !kept->in_effect)
		return asprintf(ret_text,
				"%s, no room: %" PRIu64 " of %" PRIu64 " bytes for what is pinned are taken",
				word, kept->bytes, kept->bytes_max);
	return asprintf(ret_text, "%s", word);
}

int keep_get(struct mount *m, struct inode *inode, const char *name, char **ret_text)
{
	bool on = strcmp(name, PIN_XATTR ".on") == 0, off = strcmp(name, PIN_XATTR ".off") == 0;
	struct cache_kept kept;
	int length, r = 0, acted = 0;

	if (!S_ISREG(inode->type))
		return -ENODATA;
	if (on || off)
		acted = pin(m, inode, on);
	if (acted < 0 && acted != -ENOSPC && acted != -EMFILE)
		return acted;
	r = kept_of(m, inode, &kept);
	if (r < 0)
		return r;
	if (acted == -ENOSPC)
		length = asprintf(ret_text, "full %" PRIu64 " %" PRIu64, kept.bytes, kept.bytes_max);
	else if (acted == -EMFILE)
		length = asprintf(ret_text, "many %d", CACHE_KEPT_MAX);
	else if (on)
		length = asprintf(ret_text, "on %" PRIu64, kept.bytes_max);
	else
		length = state_text(&kept, ret_text);
	return length < 0 ? -ENOMEM : 0;
}

int keep_set(struct mount *m, struct inode *inode, const char *value, size_t length)
{
	bool on = length == 2 && memcmp(value, "on", 2) == 0;

	if (!on && !(length == 3 && memcmp(value, "off", 3) == 0))
		return -EINVAL;
	return pin(m, inode, on);
}
