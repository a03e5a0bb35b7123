/* store_private.h - what the three files of the store share. */
#ifndef FS_ORIGIN_STORE_PRIVATE_H
#define FS_ORIGIN_STORE_PRIVATE_H

#include <pthread.h>

#include "fs/origin/flow.h"
#include "fs/origin/store.h"
#include "lease/base/allocator.h"

#define STORE_STRIPES 1024u
#define ORPHAN_BUCKETS 256u
#define PROC_PATH_BYTES 32

struct orphan {
	struct file_id id;
	bool linkable; /* it never had a name: it may get one */
	struct orphan *next;
};

struct store {
	char *name;
	char *directory;
	bool read_only;
	bool root_squash;
	int root_fd;    /* open for reading: syncfs and open_by_handle_at need more than O_PATH */
	int private_fd; /* .leasehold; -1 on read-only exports */
	int mount_id;
	struct handle_space space;
	struct changes *changes;
	struct inodes *inodes;
	pthread_rwlock_t stripes[STORE_STRIPES];
	pthread_mutex_t orphan_lock; /* a leaf */
	struct orphan *orphans[ORPHAN_BUCKETS];
	uint32_t orphan_count;
	pthread_mutex_t flow_lock; /* a leaf */
	struct flow reads, writes;
	_Atomic uint64_t read_ahead_bytes, written_out_bytes;
};

static inline uint32_t store_stripe(const struct changes_key *key)
{
	return (uint32_t)(key->words[0] >> 32) % STORE_STRIPES;
}

extern const struct allocator store_allocator; /* malloc(3) */

/* A path to what `fd` refers to, symlinks themselves included, for calls without descriptors. */
void store_proc_path(int fd, char ret_path[PROC_PATH_BYTES]);
/* Which attributes of enum attribute_lacks the inode `id` does not have, and enum attribute_marks.
   `follow`: a link of /proc, which leads to the inode itself; else the path names an entry, which may
   be a symlink. */
uint32_t store_lacks(const char *path, bool follow, const struct file_id *id);
/* enum attribute_marks of the inode `id`, at such a path. */
uint32_t store_seal_marks(const char *path, bool follow, const struct file_id *id);
/* The node of what `st`, `lacks` and `identity` describe. */
void store_fill_node(struct store *s, const struct identity *identity, const struct stat *st,
		     uint32_t lacks, struct change before, struct change change, struct item_node *ret_node);
struct changes_seen store_seen(const struct stat *st);
bool store_is_root(const struct store *s, const struct inode *inode);
/* Copies `name`, terminated, when it can be an entry of `directory`. */
int store_entry_name(const struct store *s, const struct inode *directory, struct slice name,
		     char ret_name[NAME_BYTES_MAX + 1]) MUST_CHECK;

void store_flows_init(struct store *s);

/* Orphans known to this run. */
bool store_orphan_known(struct store *s, const struct file_id *id);
int store_orphan_add(struct store *s, const struct file_id *id, bool linkable) MUST_CHECK;
void store_orphan_remove(struct store *s, const struct file_id *id);
int store_orphans_load(struct store *s) MUST_CHECK;

#endif
