/*
 * space.h - what the file system under the cache can still take.
 *
 * Most file systems tell by statvfs what can be written, less what was written and has no place yet.
 * btrfs does not: what is in the page cache it has promised, and not yet counted; so that is asked for
 * (sysfs). And what is deleted there can be used again only after its transaction is committed. No lock;
 * any thread.
 */
#ifndef FS_CACHE_SPACE_H
#define FS_CACHE_SPACE_H

#include <stdbool.h>
#include <stdint.h>

/* Places where btrfs tells of promises. */
#define SPACE_PROMISES 2

struct space_source {
	int directory_fd; /* borrowed */
	bool btrfs;
	int promise_fds[SPACE_PROMISES]; /* or -1 */
};

struct space {
	uint64_t bytes; /* that others than root can write; UINT64_MAX: it does not say */
	bool inodes;    /* one more file can be made, and some are left for others */
};

/* Finds out what file system it is; `directory_fd` is borrowed until space_finish(). */
void space_init(struct space_source *s, int directory_fd);
void space_finish(struct space_source *s);

struct space space_look(const struct space_source *s);
/* Waits a moment, or as long as a commit takes, for what was unlinked to be free. */
void space_wait_for_unlinked(const struct space_source *s);
/*
 * What is written to files below is written over in place, where it is a choice (btrfs: no copy on write, so
 * neither does it keep checksums): copies would keep whole extents of which a block is left, that no file
 * counts. Files and directories that are made in there from now on have it from it. As far as possible.
 */
void space_write_in_place(const struct space_source *s);

#endif
