/*
 * unasked.h - what policies have fetched without anybody doing anything here: on-mount and on-create.
 *
 * On-mount: trees are walked from where such lines begin (prefetch/roots.h), each once and again when its
 * policy changes, a directory after the other, with few requests under way, behind all that is not of low
 * priority. What is wished for in one walk ends at a share of the cache: more would only displace itself.
 *
 * On-create: a recall says that another host changed a file, or names in a directory whose lease is here.
 * A little later (prefetch/quiet.h) it is asked for by name, and fetched if it is what a line says. A
 * directory that appears is walked; so is one of which too many names changed.
 *
 * On behalf of the user that runs the mount. All of it is done by the thread of prefetch.h, by wishes, so
 * nothing waits for it, and it ends with that. Private to prefetch.c and wishes.c, but for two functions
 * that prefetch.h has (prefetch_policies, prefetch_recalled).
 */
#ifndef FS_MOUNT_UNASKED_H
#define FS_MOUNT_UNASKED_H

#include "fs/mount/prefetch_private.h"

#define UNASKED_MAX	    64u /* wishes of one walk that wait or are under way */
#define UNASKED_CACHE_SHARE 4	/* that one walk leaves of the cache, in bytes */
#define UNASKED_TRIES	    3	/* for a name or a listing */

/* In intent.unasked, beside RULES_ON_*: by the name that was heard of. */
#define UNASKED_NAME (1u << RULES_WHEN_BITS)

int unasked_create(struct prefetch *p) MUST_CHECK;
/* At the end of the thread. */
void unasked_finish(struct prefetch *p);
void unasked_destroy(struct prefetch *p);

/* Wishes for what is to be fetched next. True: there was something to do. The thread's. */
bool unasked_step(struct prefetch *p);
/* Something has to be looked at again in a while. Under p->lock. */
bool unasked_waits(const struct prefetch *p);
/* A request is over. Under p->lock. */
void unasked_ended(struct prefetch *p, const struct prefetch_unit *unit);
/* The policy still says so of the file. Under the mount's lock. */
bool unasked_may(struct mount *m, const struct wish *wish, const struct inode *inode);

#endif
