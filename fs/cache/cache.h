/*
 * cache.h - byte ranges of inodes on the host's local disk.
 *
 * One sparse file per inode under DIRECTORY/objects/xx/, named by its space and its handle in
 * hex; byte n of the inode is byte n of the file. A space is what handles belong to, an export of an
 * origin: files of different spaces have nothing in common but the caps. What is valid in a file is
 * a record in an xattr of it: handle, change, size, ranges, checksum. The record is written after the
 * data that it vouches for is durable (a background thread, every few seconds and at close), and
 * vouches for at most CACHE_RECORD_RANGES_MAX ranges (the largest). There is no index: deleting any
 * file of the cache is always safe, and a restart finds its files by space and handle.
 *
 * Whether what is cached may be served is not decided here: bytes belong to one (handle, change),
 * and the caller knows by its lease which change is current. Changes never recur, so bytes of a
 * new change may overwrite those of an old one under an old record: nobody can ever confirm the
 * old change again (PROTOCOL.md section 7). Bytes of the *same* change are only given up after
 * the record no longer vouches for them.
 *
 * Bytes under the cap are allocated ones, whole file-system blocks plus CACHE_FILE_OVERHEAD_BYTES
 * each file. All limits are held at admission: room is made (whole files, least useful first, never
 * one that is kept or pinned, or read or written at that moment) before bytes are written; what does not fit
 * is not cached. So what is cached of a file may go at any time, with or without a reference: that
 * only means that it is not cached any more. A cache that fails (full, read-only, corrupt) costs
 * speed, never an answer: functions report, the caller goes on without.
 *
 * What policies want of a file is told with cache_file_keep(), and what users want kept with cache_keep().
 * Both survive restarts: the second as an empty file DIRECTORY/kept/NAME, the first with the bytes. Neither
 * brings anything in. What is kept takes at most three quarters of the cap, or of what the cache can have;
 * beyond that it is a file like any other, until there is room again.
 *
 * Thread-safe. Calls do disk I/O and may block on it (never on the network).
 */
#ifndef FS_CACHE_CACHE_H
#define FS_CACHE_CACHE_H

#include <sys/types.h>

#include "lease/base/types.h"

struct cache;
struct cache_file;

#define CACHE_RECORD_RANGES_MAX 200
#define CACHE_FILE_RANGES_MAX 4096 /* in memory; beyond it the smallest are given up */
#define CACHE_FILE_OVERHEAD_BYTES 4096
#define CACHE_FILES_DEFAULT 1000000
#define CACHE_SCAN_FIRST 10000 /* entries of directories that are looked at before it opens */

struct cache_limits {
	uint64_t bytes_max;
	uint64_t files_max;      /* inodes */
	uint64_t free_bytes_min; /* of its file system, that others can have at any time */
	uint64_t scan_first;     /* 0: CACHE_SCAN_FIRST */
};

/*
 * Opens or makes the cache in `directory` (made with its parents, 0700). Locks it: -EBUSY when
 * another process uses it. Scans what is there for accounting, removes what is not ours to keep
 * (unknown version, names that are no handle), evicts down to the caps. Of a large cache most of that
 * goes on behind it: what is cached is found meanwhile, and as much room as the scan may still find
 * taken is not given away. 0, or -errno with one line
 * for the user (needs xattrs; -EOPNOTSUPP where the file system has none).
 */
int cache_open_limited(const char *directory, const struct cache_limits *limits,
		       struct cache **ret_cache, char *ret_text, size_t text_size) MUST_CHECK;
/* The same with CACHE_FILES_DEFAULT inodes, and nothing left to others. */
int cache_open(const char *directory, uint64_t bytes_max, struct cache **ret_cache, char *ret_text,
	       size_t text_size) MUST_CHECK;
/* Writes all records (data synced first). No file may be referenced. */
void cache_close(struct cache *c);

/*
 * A lasting identity for the sessions of one mount, 16 bytes: it comes from what is made with the cache,
 * the space of what is mounted, and a number among the mounts of that space.
 */
void cache_host_id(const struct cache *c, uint64_t space, uint32_t number, uint8_t ret_id[16]);

/* The space of an export, by the URL of its origin and its name: the same in every run. */
uint64_t cache_space(const char *origin_url, const char *export);
/* The file of `handle` in `space`, referenced; its record is loaded on first use; nothing on disk is made
   yet. NULL: no memory. Drop with cache_file_put(). */
struct cache_file *cache_file_get(struct cache *c, uint64_t space, const struct handle *handle);
void cache_file_put(struct cache_file *f);

/*
 * Between pin and unpin nothing is evicted of the file (passthrough, mappings; counted). What is
 * cached of it is looked at after the pin; drops, and writes of another change, go on. A pinned file
 * stays referenced.
 */
void cache_file_pin(struct cache_file *f);
void cache_file_unpin(struct cache_file *f);
/* The same; and as nobody is going to need it, as far as is known, it goes first when room is needed. */
void cache_file_unpin_done(struct cache_file *f);

#define CACHE_KEPT_MAX 100000 /* files that users want kept; for more there are policies */

/* What policies want of a file: fs/mount/keep.h. All zero: nothing is said. */
struct cache_keep {
	uint32_t pin_source, pin_line; /* which line of which policy has it kept; 0, 0: none */
	uint64_t quota;                /* which; 0: none */
	uint64_t quota_bytes;          /* or a share of the cap: */
	uint32_t quota_percent;
	uint32_t ttl_s; /* 0: none */
	uint32_t admit; /* enum policy_admit */
};

/* From now on (NULL: as before); at most POLICY_GROUPS_MAX - 1 different ones are known, others are as if
   all were zero. `serial` is the caller's. */
void cache_file_keep(struct cache_file *f, const struct cache_keep *keep, uint32_t serial);
/* The `serial` of the latest cache_file_keep(); 0. Cheap: no lock. */
uint32_t cache_file_keep_serial(const struct cache_file *f);
/* Something is said of it by cache_file_keep(). */
bool cache_file_has_keep(struct cache_file *f);
/* It is opened: admit=second counts that. */
void cache_file_access(struct cache_file *f);
/* False: what would come in is refused, by admit. */
bool cache_file_may_come(struct cache_file *f);
/* Of the policy `source` these lines still have files kept, and no other: at once, whoever knows them. */
void cache_pins_stand(struct cache *c, uint32_t source, const uint32_t *lines, uint32_t count);

/*
 * A user wants the file kept, that has `size` bytes, or not any more. 0; -ENOSPC: what is kept would take
 * more than its share; -EMFILE: CACHE_KEPT_MAX; -errno of the disk.
 */
int cache_keep(struct cache *c, uint64_t space, const struct handle *handle, bool keep,
	       uint64_t size) MUST_CHECK;

struct cache_kept {
	bool by_user, by_policy;
	bool in_effect; /* false: there was no room for it */
	uint64_t bytes, bytes_max; /* of all that is kept */
};
void cache_file_kept(struct cache_file *f, struct cache_kept *ret_kept);

/* The change that the cached bytes belong to; {0,0}: nothing is cached. */
struct change cache_file_change(struct cache_file *f);

/*
 * Copies cached bytes at `offset` into `buffer`: how many from `offset` on, without a gap (0: not
 * cached, or `change` is not what is cached). Never beyond what was written. A read error of the
 * disk drops the file, is counted, and returns 0.
 */
size_t cache_file_read(struct cache_file *f, struct change change, uint64_t offset, void *buffer,
		       size_t length);
/* True when [offset, offset+length) is cached at `change`. */
bool cache_file_covers(struct cache_file *f, struct change change, uint64_t offset, uint64_t length);
/* The first gap at or after `offset` below `end`: true with [*ret_start, *ret_end), false: none. */
bool cache_file_gap(struct cache_file *f, struct change change, uint64_t offset, uint64_t end,
		    uint64_t *ret_start, uint64_t *ret_end);

/*
 * Caches bytes of `change`. When another change was cached, that is dropped first, unless
 * `change` was replaced by or moved on to another one before (then -ESTALE: a late answer; after
 * cache_file_drop() the same change may be cached again). 0, -ENOSPC: no room under the cap or on
 * the disk, -ESTALE, or -errno of the disk (counted).
 */
int cache_file_write(struct cache_file *f, struct change change, uint64_t offset, const void *data,
		     size_t length) MUST_CHECK;
/*
 * The same for zeros in a hole of the inode: they are remembered in memory, take no room on disk,
 * and are forgotten at a restart. 0, -ESTALE, -ENOMEM.
 */
int cache_file_zero(struct cache_file *f, struct change change, uint64_t offset, uint64_t length)
	MUST_CHECK;
/*
 * This host's own modification moved the inode from `before` to `after`, and touched
 * [offset, offset+length) (length UINT64_MAX: to the end): bytes cached at `before` outside that
 * are now of `after`. When what is cached is not at `before`, everything is dropped.
 */
void cache_file_move(struct cache_file *f, struct change before, struct change after,
		     uint64_t offset, uint64_t length);
/* Forgets everything cached of it, also on disk. */
void cache_file_drop(struct cache_file *f);

/*
 * Who reads the file in order, from `start` to `end` now, has all before that in memory of his own (the pages
 * of a mount): a thread has it written out, and further back the page cache gives up its copy, which nobody
 * would read. Called for each read; only now and then there is something to do.
 */
void cache_file_behind(struct cache_file *f, uint64_t start, uint64_t end);

/* `bytes` of it are read by an application, out of another cache: that is a use. */
void cache_file_touch(struct cache_file *f, uint64_t bytes);
/* True when [0, size) is cached at `change`, holes included. */
bool cache_file_complete(struct cache_file *f, struct change change, uint64_t size);
/*
 * A descriptor for reading of the file itself, for others to read and map (passthrough): it has `size`
 * bytes, and all of them are the inode's. From now on the file is not changed in place any more: what
 * would change it drops it, and begins another. The caller closes the descriptor, and has the file
 * pinned: an eviction would not harm who reads, but take its room out of the account. -ENODATA: not
 * complete at `change`, or empty; -errno.
 */
int cache_file_expose(struct cache_file *f, struct change change, uint64_t size) MUST_CHECK;

/* Bytes cached at `change`, and the ranges as text "0-4096,8192-12288" (end excluded), cut at a
   range when `size` is too small (then "..." ends it). Returns bytes cached. */
uint64_t cache_file_ranges(struct cache_file *f, struct change change, char *text, size_t size);

/* Bytes that can come in before anything has to go, less a share that stays for what is asked for. */
uint64_t cache_room(struct cache *c);

/* What of the cap is pinned now. */
uint64_t cache_pinned(struct cache *c);

struct cache_counters {
	uint64_t bytes, bytes_max, files, files_max, scanning; /* now */
	uint64_t kept_bytes, kept_bytes_max;
	bool io_uring; /* io.h */
	uint64_t hits, hit_bytes, writes, write_bytes, evicted_files, evicted_bytes, not_admitted,
		disk_full, dropped_corrupt, dropped_errors, records_written, record_errors, records_loaded;
};
void cache_counters(struct cache *c, struct cache_counters *ret_counters);
/* Writes the records of everything that changed so far; for tests and clean stops. */
void cache_flush(struct cache *c);

#endif
