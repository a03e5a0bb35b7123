/*
 * store.h - one export: a directory tree of this machine, and the operations on its inodes.
 *
 * Inodes are named by handles, resolution never leaves the export: names are single components,
 * symlinks are never followed, and what another file system is mounted on is listed but not
 * entered (-EXDEV). `.leasehold` in the export's root is private: it keeps inodes that were
 * unlinked while a host had them open (orphans); hosts neither see nor can make that name.
 *
 * Who calls keeps I4 and the order of changes: it holds an inode's lock shared while it reads it
 * and takes its change (store_look), and holds all inodes of a modification exclusively from
 * store_touch_begin() to store_touch_end(). The locks are striped read-write locks; exclusive ones
 * are taken in stripe order, and who holds a shared one only ever tries for another. No other lock
 * is held while waiting for them.
 *
 * Operations run on the calling thread as `caller` (credentials.h), already squashed by
 * store_caller(). They return 0 or -errno; -ESTALE: the inode is gone; -EBADMSG: not a handle of
 * this export; -EROFS on a read-only export. All functions are thread-safe.
 *
 * Implemented in store.c (export, locks, attributes, changes), store_names.c (names), store_data.c
 * (bytes, attributes, xattrs), store_ranges.c (space: allocation, holes, copies) and store_seal.c (seals).
 */
#ifndef FS_ORIGIN_STORE_H
#define FS_ORIGIN_STORE_H

#include "fs/origin/inodes.h"
#include "lease/message.h"

#define STORE_PRIVATE_NAME ".leasehold"
#define STORE_TOUCH_MAX 4
#define STORE_TEXT_BYTES 512

struct store;

struct store_config {
	const char *name;
	const char *directory;
	bool read_only;
	bool root_squash;
	struct handle_key key;
	struct changes *changes; /* borrowed; shared by all exports */
	uint32_t inode_count_max; /* kept with their descriptors, up to three each */
};

/* 0, or -errno with one line for the user in `ret_text`. */
int store_open(const struct store_config *config, struct store **ret_store,
	       char ret_text[STORE_TEXT_BYTES]) MUST_CHECK;
/* Nothing is in use any more. */
void store_close(struct store *s);
/* Makes everything durable. What that finds lost, the store has a new incarnation for. */
int store_sync_all(struct store *s) MUST_CHECK;

const char *store_name(const struct store *s);
uint32_t store_export_id(const struct store *s);
bool store_read_only(const struct store *s);
struct inodes *store_inodes(struct store *s);
/* The export's root, open for reading; borrowed. */
int store_root_fd(const struct store *s);
/* Does the directory that was exported still lead to the export's root? What is open here stays what
   it is: mounting, unmounting and renaming change paths only. */
bool store_is_at_its_path(const struct store *s);
const char *store_directory(const struct store *s);
/* Who an inode of the export's file system is. */
void store_identify(const struct store *s, const struct file_id *id, struct identity *ret_identity);

/* Whom `credential` acts as in this export. */
void store_caller(const struct store *s, const struct credential *credential,
		  struct credential *ret_caller);

/* The inode of a handle, to be given to store_put(). */
/* Is it a handle that this export gave out? The inode may be gone by now. */
bool store_made(const struct store *s, const struct handle *handle);
int store_get(struct store *s, const struct handle *handle, struct inode **ret_inode) MUST_CHECK;
int store_get_root(struct store *s, struct inode **ret_inode) MUST_CHECK;
void store_put(struct store *s, struct inode *inode);

/* ---- locks ---- */

struct store_locks {
	uint32_t count;
	uint32_t stripes[STORE_TOUCH_MAX];
};

void store_lock_shared(struct store *s, const struct inode *inode);
void store_unlock_shared(struct store *s, const struct inode *inode);
/* NULL entries are skipped. */
void store_lock_exclusive(struct store *s, struct inode *const *inodes, uint32_t count,
			  struct store_locks *ret_locks);
void store_unlock_exclusive(struct store *s, const struct store_locks *locks);

/* ---- attributes and changes ---- */

/*
 * Fills a node (role TARGET, no lease): handle, change twice, attributes. Under the inode's lock.
 * `*ret_outside`: it was modified behind the origin's back; hosts must be told (an operation of
 * session 0). NULL is fine.
 */
int store_look(struct store *s, struct inode *inode, struct item_node *ret_node,
	       bool *ret_outside) MUST_CHECK;

/* The change alone, from before something else of the inode is read. As store_look(). */
int store_change(struct store *s, struct inode *inode, struct change *ret_change, bool *ret_outside)
	MUST_CHECK;

struct store_touch {
	struct inode *inode;
	struct changes_token token;
	int64_t ctime_ns;
	uint64_t size;
};

/* Records that `inode` is about to be modified. 0, -ESTALE, -EBUSY. */
int store_touch_begin(struct store *s, struct inode *inode, struct store_touch *ret_touch)
	MUST_CHECK;
/*
 * The modification is over. `untouched`: the call failed and, being one system call, modified
 * nothing; the change then stays if ctime and size did. Fills a node with before and change.
 */
void store_touch_end(struct store *s, struct store_touch *touch, bool untouched,
		     struct item_node *ret_node);

/* ---- names (store_names.c); the directory's lock is held ---- */

/* True when `name` can be an entry: one component, not "." or "..". 0, -EINVAL, -ENAMETOOLONG. */
int store_check_name(struct slice name) MUST_CHECK;
/*
 * What `name` leads to, referenced. ".." and "." are answered for directories, never beyond the
 * root. Needs no lock by itself: without one the answer is a guess to be confirmed under it.
 */
int store_lookup(struct store *s, const struct credential *caller, struct inode *directory,
		 struct slice name, struct inode **ret_inode) MUST_CHECK;
/* Is there an entry `name`? 0, -ENOENT, or why it cannot be told. */
int store_check_entry(struct store *s, const struct credential *caller, struct inode *directory,
		      struct slice name) MUST_CHECK;
/* Makes a regular file; -EEXIST when the name is there. */
int store_create(struct store *s, const struct credential *caller, struct inode *directory,
		 struct slice name, uint32_t mode, struct inode **ret_inode) MUST_CHECK;
int store_mknod(struct store *s, const struct credential *caller, struct inode *directory,
		struct slice name, uint32_t mode, uint64_t rdev, struct inode **ret_inode)
	MUST_CHECK;
int store_symlink(struct store *s, const struct credential *caller, struct inode *directory,
		  struct slice name, struct slice target, struct inode **ret_inode) MUST_CHECK;
int store_link(struct store *s, const struct credential *caller, struct inode *inode,
	       struct inode *directory, struct slice name) MUST_CHECK;
/* `victim` is what the name leads to; `keep`: it becomes an orphan if this was its last link. */
int store_unlink(struct store *s, const struct credential *caller, struct inode *directory,
		 struct slice name, struct inode *victim, bool is_directory, bool keep) MUST_CHECK;
/* `replaced`: what new_name leads to, or NULL; `keep` as above. `flags`: enum rename_flag. */
int store_rename(struct store *s, const struct credential *caller, struct inode *directory,
		 struct slice name, struct inode *new_directory, struct slice new_name,
		 struct inode *replaced, uint32_t flags, bool keep) MUST_CHECK;

/* May a lease on the entry ride on a listing? Called with the entry's lock held. `outside`: as in
   store_look(). */
typedef enum lease_kind store_grant(void *context, const struct handle *handle, bool outside);

struct store_listing {
	uint32_t count;
	uint64_t cookie; /* to go on from */
	bool eof;
};
/*
 * Appends dirent items from `cookie` (0: from the start) until `w` is full. With `grant` each
 * entry carries its node where that can be had at once. "." and ".." are in it, without nodes.
 * -EINVAL when not even one entry fits.
 */
int store_readdir(struct store *s, const struct credential *caller, struct inode *directory,
		  uint64_t cookie, struct writer *w, store_grant *grant, void *context,
		  struct store_listing *ret_listing) MUST_CHECK;

/* A regular file that has no name: an orphan from the start, which store_link() gives one. */
int store_tmpfile(struct store *s, const struct credential *caller, struct inode *directory,
		  uint32_t mode, struct inode **ret_inode) MUST_CHECK;

/* ---- orphans ---- */

/* Removes the orphan, if `inode` is one. */
void store_remove_orphan(struct store *s, struct inode *inode);
/*
 * Calls `used` for each orphan and removes those for which it returns false. At start, after
 * grace: `used` asks who still has it open.
 */
void store_sweep_orphans(struct store *s, bool (*used)(void *context, const struct handle *handle),
			 void *context);
/*
 * The same of those that had a name, without waiting for locks: the caller may hold some. How many were
 * removed; `*ret_busy`: others were locked.
 */
uint32_t store_reap_orphans(struct store *s,
			    bool (*used)(void *context, const struct handle *handle),
			    void *context, bool *ret_busy);
bool store_has_orphans(struct store *s);
/* A name of it was removed: lets go of descriptors and record if that was the last. */
void store_settle_removed(struct store *s, struct inode *inode);

/* ---- bytes and attributes (store_data.c); the inode's lock is held ---- */

/*
 * May `caller` read or write it, or list it? `opened`: it is open at the host, whose kernel asked for
 * permission then, and POSIX asks never again. A host that may act as root, and so as anyone, is
 * believed; with root_squash it is asked again, but the owner always may (the mode can have changed).
 */
int store_access(struct store *s, const struct credential *caller, struct inode *inode,
		 unsigned access, bool opened) MUST_CHECK;
/* May `caller` open it, as if by name here and now? Who may execute it may not therefore read it. */
int store_may_open(struct store *s, const struct credential *caller, struct inode *inode,
		   unsigned access) MUST_CHECK;
int store_read(struct store *s, const struct credential *caller, struct inode *inode,
	       uint64_t offset, void *buffer, uint32_t count, uint32_t *ret_count) MUST_CHECK;
/*
 * The same, with zeros left out: `*ret_zeros` of them, then `*ret_stored` bytes, which are in `buffer`,
 * then zeros up to `*ret_count`.
 */
int store_read_sparse(struct store *s, const struct credential *caller, struct inode *inode,
		      uint64_t offset, void *buffer, uint32_t count, uint32_t *ret_zeros,
		      uint32_t *ret_stored, uint32_t *ret_count) MUST_CHECK;
/* `*ret_count` can be less than was asked for when the store is full. */
int store_write(struct store *s, const struct credential *caller, struct inode *inode,
		uint64_t offset, bool append, bool kill_suid, struct slice data,
		uint64_t *ret_offset, uint32_t *ret_count) MUST_CHECK;
int store_truncate(struct store *s, const struct credential *caller, struct inode *inode,
		   uint64_t size) MUST_CHECK;
int store_setattr(struct store *s, const struct credential *caller, struct inode *inode,
		  const struct message_setattr *m) MUST_CHECK;
int store_readlink(struct store *s, struct inode *inode, char *buffer, size_t size,
		   size_t *ret_length) MUST_CHECK;
int store_statfs(struct store *s, struct inode *inode, struct item_statfs *ret_statfs) MUST_CHECK;
/* As inodes_sync(). Needs no lock of the inode, and may be called with one. */
int store_fsync(struct store *s, struct inode *inode, bool data_only, struct synced *ret_synced)
	MUST_CHECK;
/*
 * [offset, offset+length) was read, or written: when that goes on where earlier requests ended, what is
 * behind it is queued to be read (8 MiB at most), or what was written before it to be written out, so that
 * a later sync finds little to do. Without the inode's lock; may wait while the disk's queue is full.
 */
void store_read_ahead(struct store *s, struct inode *inode, uint64_t offset, uint64_t length);
void store_write_out(struct store *s, struct inode *inode, uint64_t offset, uint64_t length);
void store_flow_counters(struct store *s, uint64_t *ret_read_ahead, uint64_t *ret_written_out);
/* With `size` 0: the length that is needed. */
int store_getxattr(struct store *s, const struct credential *caller, struct inode *inode,
		   struct slice name, void *buffer, size_t size, size_t *ret_length) MUST_CHECK;
int store_setxattr(struct store *s, const struct credential *caller, struct inode *inode,
		   struct slice name, struct slice value, bool create, bool replace) MUST_CHECK;
int store_listxattr(struct store *s, const struct credential *caller, struct inode *inode,
		    void *buffer, size_t size, size_t *ret_length) MUST_CHECK;
int store_removexattr(struct store *s, const struct credential *caller, struct inode *inode,
		      struct slice name) MUST_CHECK;

/* ---- seals (store_seal.c); the inode's lock is held ---- */

/*
 * PROTOCOL.md 11. store_setxattr() and store_removexattr() of SEAL_XATTR are these two; other attributes
 * with names of SEAL_XATTRS nobody sets, and none is listed. For root that is not squashed, else -EPERM.
 * Nothing here refuses what a seal forbids, but for the store's own immutable flag, which is set where it
 * can be: who modifies asks store_check_seal() first. Sealing what is sealed is no error; unsealing what
 * is not is -ENODATA. An inode without a name: -ENOENT. Durable with the next store_fsync().
 */
int store_seal(struct store *s, const struct credential *caller, struct inode *inode,
	       uint32_t term) MUST_CHECK;
/* The code of a term that SEAL_XATTR is set to: ms, or empty for the usual one; false: it makes no sense. */
bool store_seal_value(struct slice value, uint32_t *ret_term);
/* *ret_term: of the seal (PROTOCOL.md 11.4); 0: none, or no seal. */
int store_seal_term(const struct inode *inode, struct duration *ret_term) MUST_CHECK;
int store_unseal(struct store *s, const struct credential *caller, struct inode *inode) MUST_CHECK;
/* May it be modified? `data`: its bytes or size. 0, -EPERM; -errno: that cannot be told. */
int store_check_seal(const struct inode *inode, bool data) MUST_CHECK;

/* ---- space (store_ranges.c); the locks of all inodes are held ---- */

/* Copied by one request where the store cannot share the bytes; more is for the next. */
#define STORE_COPY_BYTES_MAX (32u << 20)

/* `mode`: enum fallocate_mode. -EOPNOTSUPP where the store cannot. */
int store_fallocate(struct store *s, const struct credential *caller, struct inode *inode,
		    uint32_t mode, uint64_t offset, uint64_t length) MUST_CHECK;
/* Where the next data, or the next hole, begins at or after `offset`; -ENXIO: behind the end. */
int store_seek(struct store *s, const struct credential *caller, struct inode *inode,
	       uint64_t offset, bool hole, uint64_t *ret_offset) MUST_CHECK;
/* As copy_file_range(2): `*ret_count` can be less than `length`; 0: `source` ends before. */
int store_copy_range(struct store *s, const struct credential *caller, struct inode *source,
		     uint64_t source_offset, struct inode *inode, uint64_t offset, uint64_t length,
		     uint32_t *ret_count) MUST_CHECK;

/* ---- paths, for GET ---- */

/* A descriptor for reading the file or directory `path` below the root as `caller`; no symlinks, no
   other mounts, nothing that is neither. */
int store_open_path(struct store *s, const struct credential *caller, const char *path) MUST_CHECK;
/* The inode of a descriptor that came from there, for its lock. */
int store_get_fd(struct store *s, int fd, struct inode **ret_inode) MUST_CHECK;

#endif
