/*
 * keep.h - what stays in the cache, and what may come into it: policies (pin, ttl, quota, admit) and what
 * users pin; the cache does it (fs/cache/cache.h).
 *
 *   user.leasehold.pin      "on": a user had the file pinned; "policy": a policy does; "off". Behind that
 *                           it is said when there was no room for it.
 *   user.leasehold.pin.on   getting it pins, also for who may only read: "on LIMIT", or "full TAKEN LIMIT",
 *                           "many COUNT": it was refused
 *   user.leasehold.pin.off  and unpins: then the state
 *
 * A file's policies are looked up when it is read and they changed since (rules_serial()), when it is
 * opened, and of all files that are known, in the background, when a policy comes or goes. Without the lock,
 * but where something else is said.
 */
#ifndef FS_MOUNT_KEEP_H
#define FS_MOUNT_KEEP_H

#include "fs/mount/rules.h"

#define PIN_XATTR "pin" /* behind user.leasehold. */

void keep_look(struct mount *m, struct inode *inode, struct cache_file *file);

/* Before something is done with the file (NULL: none), which is returned. */
static inline struct cache_file *keep_checked(struct mount *m, struct inode *inode,
					      struct cache_file *file)
{
	if (file && cache_file_keep_serial(file) != (uint32_t)rules_serial(m))
		keep_look(m, inode, file);
	return file;
}

/* It is opened. */
void keep_opened(struct mount *m, struct inode *inode, struct cache_file *file);
/* It is asked for expressly, which is as good as several accesses. False: it may not come in. */
bool keep_admit(struct mount *m, struct inode *inode);
/* All files that are known, until the rules end. By the thread of the rules. */
void keep_look_at_all(struct mount *m);

/* The lines of a policy that have files pinned, to tell the cache when that policy is in force. */
struct keep_lines {
	uint32_t source, count;
	uint32_t *lines;
};

/* Of the policy of `directory`; NULL: that of the mount. `rules` may be NULL: it has none. */
void keep_lines_make(struct mount *m, const struct handle *directory, const struct rules *rules,
		     struct keep_lines *ret_lines);
/* What these do not have pinned is not any more. Frees them. */
void keep_lines_stand(struct mount *m, struct keep_lines *lines);
void keep_lines_finish(struct keep_lines *lines);

/* True when `name` (without user.leasehold.) is one of the attributes. */
bool keep_is_xattr(const char *name);
/* The value, to be freed. -ENODATA: there is no such name; -ENOMEM; -errno of the cache's disk. */
int keep_get(struct mount *m, struct inode *inode, const char *name, char **ret_text) MUST_CHECK;
/* user.leasehold.pin is set to "on" or "off". 0, -EINVAL, -EISDIR, -ENOSPC, -EMFILE, -ENOMEM, -errno. */
int keep_set(struct mount *m, struct inode *inode, const char *value, size_t length) MUST_CHECK;

#endif
