/*
 * internal.h - what the sources of this room share; nobody else includes it.
 *
 * Two locks. `cache_file.lock` (one a file) is held over that file's disk I/O: shared to read,
 * exclusive to write, drop or load. `cache.lock` covers the table, the accounting and the lists,
 * and is never held over a system call. The file's lock is taken first; nobody holds two files'.
 */
#ifndef FS_CACHE_INTERNAL_H
#define FS_CACHE_INTERNAL_H

#include <limits.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/stat.h>

#include "fs/cache/cache.h"
#include "fs/cache/io.h"
#include "fs/cache/policy.h"
#include "fs/cache/record.h"
#include "fs/cache/space.h"
#include "lease/base/map.h"
#include "lease/base/range_set.h"

/* Descriptors that stay open with their files; beyond it every call opens and closes its own. */
#define CACHE_DESCRIPTORS_MAX 1024
/* Files whose records are written together; bounds the flusher's descriptors and memory. */
#define CACHE_FLUSH_BATCH 64
/* From how many files on one syncfs is cheaper than a sync of each. */
#define CACHE_SYNCFS_FILES 16
#define CACHE_FLUSH_INTERVAL_MS 2000
/* What the page cache gives up behind a reader at a time, and how much it keeps. What is not written
   out yet it cannot give up. */
#define CACHE_BEHIND_STEP_BYTES (8u << 20)
#define CACHE_BEHIND_KEEP_BYTES (64u << 20)
/* Of a file's beginning it keeps all: to write out at once what is read once is not free either. */
#define CACHE_BEHIND_FROM_BYTES (512u << 20)
#define CACHE_BEHIND_JOBS 64u /* beyond it the page cache keeps what it has */
/* Superseded changes remembered for each file, to know a late answer. */
#define CACHE_GONE_MAX 4
/* Holes remembered for each file; beyond it the smallest are given up. */
#define CACHE_FILE_HOLES_MAX 256
/* "xx/", the space and the handle in hex. */
#define CACHE_DIRECTORY_DIGITS 2
#define CACHE_SPACE_DIGITS 16
#define CACHE_NAME_BYTES (CACHE_DIRECTORY_DIGITS + 1 + CACHE_SPACE_DIGITS + 2 * HANDLE_BYTES_MAX + 1)

/* What is known of the bytes of a file, as long as somebody uses it. Under the file's lock. */
struct cache_content {
	uint32_t generation; /* moves with every drop: another inode on disk */
	uint64_t length;     /* of the sparse file */
	bool spare; /* it may have blocks that hold nothing: the flusher gives them back; it is dirty */
	struct change change;
	struct change gone[CACHE_GONE_MAX];
	unsigned gone_next;
	struct range_set ranges;
	struct range_set holes; /* zeros that are valid and not on disk */
};

/* There may be a million of them: what is not needed while a file is only there is in the content. */
struct cache_file {
	struct cache *cache;
	uint64_t space;
	struct handle handle;
	uint64_t hash;

	/* Under cache.lock. */
	struct cache_file *hash_next;
	struct policy_item item; /* item.bytes: what of the cap this file takes */
	struct cache_file *dirty_next;
	uint32_t references; /* the flusher and eviction hold one as well while they work */
	uint32_t pins;       /* not evicted */
	atomic_uint keep_serial;
	bool dirty;          /* on the dirty list: the record is older than the bytes */
	bool counted;        /* in cache.disk_files */
	bool dirty_counted;  /* in cache.disk_dirty */
	atomic_bool marked;  /* the file on disk says that a policy has it kept: keep.c */
	uint8_t flushing;    /* threads of ours with a descriptor: an unlink frees nothing yet */
	uint64_t orphaned;   /* unlinked while flushing; given back when they are done */

	/* Under `lock`, or cache.lock while there are no references. */
	pthread_rwlock_t lock;
	bool loaded;   /* what follows was looked up on the disk */
	bool on_disk;  /* there is a file; known from the scan, without loading */
	bool exposed;  /* others may read and map what is on disk: it stays as it is */
	bool recorded; /* it carries a record: the xattr's block is already in st_blocks */
	int fd;        /* or -1 */
	struct cache_content *content; /* while it is referenced, or dirty */
};

struct cache_statistics {
	atomic_uint_fast64_t hits, hit_bytes, writes, write_bytes, evicted_files, evicted_bytes,
		not_admitted, disk_full, dropped_corrupt, dropped_errors, records_written, record_errors,
		records_loaded;
};

struct flush_job {
	struct cache_file *file;
	int fd; /* or -1: nothing to write */
	uint32_t generation;
	struct record record;
};

struct behind_job {
	struct cache_file *file; /* with a reference */
	uint64_t end;
};

/* A group of the policy, and what it is made of. */
struct cache_group {
	struct cache_keep keep;
	uint64_t users; /* files */
};

struct cache_stand; /* keep.c */

struct cache {
	int directory_fd, objects_fd, identity_fd, kept_fd;
	uint8_t host_id[16];
	uint64_t bytes_max, free_bytes_min, files_max; /* cache_limits */
	uint64_t block_bytes; /* the file system's unit of allocation */
	struct space_source space_source;
	struct cache_statistics statistics;
	atomic_int descriptors;

	pthread_mutex_t lock;
	struct cache_file **buckets;
	uint64_t bucket_count; /* a power of two */
	uint64_t files;        /* entries in the table */
	uint64_t bytes;        /* charged, reserved and orphaned together */
	uint64_t disk_files;   /* that exist, or are about to */
	uint64_t disk_dirty;   /* of these, files whose record is to be written */
	uint64_t reserved_bytes; /* of `bytes`, by writes under way */
	bool scanning, closing;
	uint64_t scanned, scan_first; /* entries of directories */
	/* What the scan may still find at most: nobody else gets that room. */
	uint64_t unscanned_bytes, unscanned_files;
	int scan_result;
	pthread_cond_t scan_wake;
	struct policy policy;
	struct cache_group groups[POLICY_GROUPS_MAX]; /* 0: nothing is said */
	struct cache_stand *stands;
	uint64_t unmark_next; /* the bucket where files are looked for whose mark is wrong */
	struct map kept;      /* what users want kept, by hash: kept.c */
	struct cache_file *dirty;
	uint64_t dirty_count;

	pthread_mutex_t kept_lock; /* changes of `kept`, and of its files; taken before `lock` */

	pthread_mutex_t flush_lock; /* one flush at a time; held over disk I/O, taken before others */
	struct flush_job *jobs;
	struct io *io;
	struct range *largest; /* CACHE_FILE_RANGES_MAX of them */
	pthread_t flusher;
	pthread_cond_t flusher_wake;
	bool flusher_runs, flusher_stop;
	struct behind_job behind[CACHE_BEHIND_JOBS]; /* from `behind_first` on, around its end */
	uint32_t behind_first, behind_count;
	pthread_t behind_thread;
	pthread_cond_t behind_wake;
	bool behind_runs, behind_stop;
	pthread_t scanner;
	bool scanner_runs;
};

/* A file on disk that nobody has looked into yet. */
struct cache_found {
	uint64_t charge;
	uint32_t used_s;
	uint32_t pin_source, pin_line; /* its mark; 0, 0: none */
};

/* cache.c */
uint64_t cache_hash(uint64_t space, const struct handle *handle);
/* The entry of a handle; NULL: none. c->lock is held. */
struct cache_file *cache_table_find(struct cache *c, uint64_t space, const struct handle *handle,
				    uint64_t hash);
/* Adds an entry for a file found on disk, unless there is one. 0, -ENOMEM, -EINVAL: one too many. */
int cache_insert_scanned(struct cache *c, uint64_t space, const struct handle *handle,
			 const struct cache_found *found) MUST_CHECK;

/* room.c */
/*
 * `length` bytes of `f` were fetched: takes `bytes` of the cap for them, evicting what is less useful.
 * 0 or -ENOSPC. No file's lock is held: the victims' are taken.
 */
int cache_reserve(struct cache_file *f, uint64_t length, uint64_t bytes) MUST_CHECK;
/* The file was asked for, and `bytes` of it found. */
void cache_used(struct cache_file *f, uint64_t bytes);
/* After a change of f->dirty. c->lock is held. */
void cache_count_dirty(struct cache *c, struct cache_file *f);
/* Evicts until the caps are held, or nothing can be evicted. */
void cache_trim(struct cache *c);
/* The file takes `charge` from now on; `reserved` is given back; its record needs writing. */
void cache_settle(struct cache_file *f, uint64_t charge, uint64_t reserved, bool dirty);

/* cache_file.c */
extern const struct allocator cache_heap;
/* CACHE_NAME_BYTES below the objects directory. */
void cache_file_name(const struct cache_file *f, char name[CACHE_NAME_BYTES]);
/* Opens the file that is on disk, or lends the kept descriptor; -errno. With the lock of the file. */
int cache_file_borrow(struct cache_file *f);
void cache_file_return(struct cache_file *f, int fd);
/* Forgets bytes and disk file. The caller holds f->lock exclusively. */
void cache_file_drop_locked(struct cache_file *f);
/* Gives back what was kept for who writes anew what he truncated. The caller holds f->lock exclusively.
   False: there was nothing. */
bool cache_file_trim_locked(struct cache_file *f);
/* One more reference, and the content for it. c->lock is held. False: no memory. */
bool cache_file_reference(struct cache_file *f) MUST_CHECK;
void cache_content_free(struct cache_content *content);
/* An allocated struct without references; on_disk as said. NULL: no memory. */
struct cache_file *cache_file_new(struct cache *c, uint64_t space, const struct handle *handle,
				  bool on_disk);
void cache_file_free(struct cache_file *f);
/* What a file with these allocated bytes takes of the cap, with room for what its record adds. */
uint64_t cache_file_charge(const struct cache_file *f, uint64_t allocated);

/* key.c */
/* Space and handle in hex, in CACHE_NAME_BYTES; and back: false, it is no such name. */
void cache_key_name(uint64_t space, const struct handle *handle, char *name);
bool cache_key_parse(const char *name, uint64_t *ret_space, struct handle *ret_handle);

/* scan.c */
/* Enters every cache file of the directory, and removes what is none; all of it unless `keep`. */
int cache_scan_all(struct cache *c, bool keep) MUST_CHECK;
/* The same in a thread of its own; returns when that has ended, or looked at cache.scan_first. */
int cache_scan_start(struct cache *c) MUST_CHECK;
/* What there is to know of the file `name` below `directory_fd`. */
void cache_look_at(int directory_fd, const char *name, const struct stat *st,
		   struct cache_found *ret_found);
/* The cache closes: ends the scan, and evictions that nobody waits for. */
void cache_scan_stop(struct cache *c);

/* keep.c */
/* Its clock, for the policy: seconds of CLOCK_REALTIME. */
uint32_t cache_clock_s(void);
/* A file that was found is of the group of its mark. It is in no list yet; c->lock is held. */
void cache_keep_found(struct cache *c, struct cache_file *f, const struct cache_found *found);
/* The entry goes. c->lock is held, or nobody else is there. */
void cache_keep_forget(struct cache *c, struct cache_file *f);
/* Sets or takes away the mark of the file that `fd` is, as its group has it. With f->lock exclusively. */
void cache_keep_mark(struct cache_file *f, int fd);
/* Takes away some marks that say what is not so any more. By the flusher. */
void cache_keep_unmark(struct cache *c);
void cache_keep_finish(struct cache *c);
/* The mark of the file that `fd` is, whose mode says that it has one. False: it has none. */
bool cache_keep_read_mark(int fd, uint32_t *ret_source, uint32_t *ret_line);
#define CACHE_MODE_MARKED (0600 | S_ISVTX) /* of a cache file with a mark; else 0600 */

/* kept.c */
/* Opens the directory, and learns what is in there. 0 or -errno. */
int cache_kept_open(struct cache *c) MUST_CHECK;
void cache_kept_close(struct cache *c);
/* c->lock is held. */
bool cache_kept_has(const struct cache *c, uint64_t hash);

/* flusher.c */
int cache_flusher_start(struct cache *c) MUST_CHECK;
void cache_flusher_stop(struct cache *c);
/* A thread of ours closed its descriptor: f->flushing is one less. c->lock is held. */
void cache_flushed(struct cache *c, struct cache_file *f);

/* behind.c; without its thread the page cache keeps what it has */
void cache_behind_start(struct cache *c);
/* Does what is asked for already. No file is referenced by it any more. */
void cache_behind_stop(struct cache *c);

#endif
