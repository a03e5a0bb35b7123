/*
 * inodes.h - the inodes of one export that are in use, with their descriptors: an LRU cache.
 *
 * An inode is found by its file handle; its O_PATH descriptor is opened by handle when it is first
 * needed, descriptors for its data when they are. Inodes are counted references; those that nobody
 * holds stay until room is needed.
 *
 * A kernel tells a late error of the store once to each descriptor that was open then. One of an inode
 * that was written to can have been closed: by us to make room, or with an earlier process. The next
 * sync of such an inode syncs the whole file system first, whose descriptor has been open since the
 * start and hears of every error. Who hears of one makes it known to all: what was written may be lost,
 * so the store gets a new incarnation, before any other sync of the inode says that all is well.
 *
 * The object is thread-safe. Its mutex is held across no system call. Two kinds of mutexes are held over
 * syncs: that of the inode, and then that of the whole file system.
 */
#ifndef FS_ORIGIN_INODES_H
#define FS_ORIGIN_INODES_H

#include <pthread.h>
#include <sys/stat.h>

#include "fs/origin/changes.h"
#include "fs/origin/handle.h"

/* Who an inode is, computed from its file handle. */
struct identity {
	struct file_id id;
	struct handle handle;
	struct changes_key key;
};

struct inode {
	struct identity identity;
	int fd;      /* O_PATH */
	mode_t type; /* S_IFMT bits; an inode never changes them */
	/* private to inodes.c: */
	_Atomic int read_fd, write_fd; /* -1: not opened yet */
	_Atomic bool dirty;            /* written since the last sync */
	pthread_mutex_t sync_lock;     /* from a sync until all may know of its error */
	uint32_t references;
	bool hashed;
	struct inode *chain;
	struct inode *newer, *older; /* in the list of those without references */
};

struct inodes;

/* `mount_fd`: the export's root directory, open for reading; borrowed, as `changes`. */
int inodes_create(const struct handle_space *space, int mount_fd, struct changes *changes,
		  uint32_t count_max, struct inodes **ret_inodes) MUST_CHECK;
void inodes_destroy(struct inodes *inodes);

void identity_of(const struct handle_space *space, const struct file_id *id,
		 struct identity *ret_identity);

/* The inode, referenced. -ESTALE when it is gone, -errno. */
int inodes_get(struct inodes *inodes, const struct file_id *id, struct inode **ret_inode)
	MUST_CHECK;
struct inode *inodes_ref(struct inodes *inodes, struct inode *inode);
/* NULL is fine. */
void inodes_put(struct inodes *inodes, struct inode *inode);
/* It was removed from the store: descriptors are closed with the last reference, so that its space
   is given back. */
void inodes_forget(struct inodes *inodes, struct inode *inode);
/* A descriptor for the data of a regular file, borrowed while the reference is held; or -errno. */
int inodes_data_fd(struct inodes *inodes, struct inode *inode, bool write) MUST_CHECK;
/* Takes over `fd`, open for reading and writing. */
void inodes_give_data_fd(struct inode *inode, int fd);
void inodes_mark_dirty(struct inode *inode);

struct synced {
	/* Of the store before the sync: what was written under another one may be lost, whatever the
	   sync says. */
	uint64_t incarnation;
	/* A sync of this inode failed, and this is the incarnation that followed; 0: none that is
	   remembered. Whoever had it open then should hear of it once. */
	uint64_t failed;
};

/* Makes what was written durable: fsync or fdatasync. 0 or -errno; `*ret_synced` is always written. */
int inodes_sync(struct inodes *inodes, struct inode *inode, bool data_only,
		struct synced *ret_synced) MUST_CHECK;
/* The same of everything in the file system. */
int inodes_sync_all(struct inodes *inodes) MUST_CHECK;

struct inodes_counters {
	uint64_t count, hits, misses, evicted, evicted_dirty;
};
void inodes_counters(struct inodes *inodes, struct inodes_counters *ret_counters);

#endif
