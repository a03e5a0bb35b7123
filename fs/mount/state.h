/*
 * state.h - what one mount consists of, and its one lock.
 *
 * `lock` protects the holder, the inode table with everything cached in memory, and the calls in
 * flight. It is held for lookups and updates of memory only: never across a system call, a network
 * call, a reply to the kernel or a notification. The pieces below with threads of their own
 * (client, cache, notifier, guardian) lock for themselves and are called without it.
 */
#ifndef FS_MOUNT_STATE_H
#define FS_MOUNT_STATE_H

#include <pthread.h>
#include <stdatomic.h>
#include <sys/statvfs.h>

#include "fs/cache/cache.h"
#include "fs/mount/guardian.h"
#include "fs/mount/mount.h"
#include "fs/mount/slab.h"
#include "fs/mount/sweep.h"
#include "lease/holder.h"
#include "lease/message.h"
#include "transport/client.h"

#define FUSE_USE_VERSION 317
#include <fuse_lowlevel.h>

/* Requests that hold a kernel lock on which others queue end after this (design: bounds). */
#define LOCKED_TIMEOUT_NS (30 * NS_PER_S)
#define CALL_COUNT_MAX 4096          /* in flight; beyond it a request fails with EAGAIN, counted */
#define COMPLETION_THREADS 4
#define BULK_SPARE_COUNT 8     /* memory of requests, a MiB each, that is kept for the next ones */
#define PAGE_INODE_COUNT_MAX 65536   /* inodes with pages in the kernel: what fencing must cover */
#define SMALL_FILE_BYTES_MAX 32768   /* a lookup brings a whole file up to this size */

/* C(name, "help") - every counter of a mount; `status` and its JSON come from the rows. */
#define MOUNT_COUNTERS(C)                                                                       \
	C(requests, "requests from the kernel")                                                 \
	C(calls, "requests to the origin")                                                      \
	C(calls_repeated, "requests sent again after a failure")                                \
	C(calls_timed_out, "requests that ended at their deadline")                             \
	C(calls_interrupted, "requests given up because their caller was killed")               \
	C(calls_refused, "requests refused because too many were in flight")                    \
	C(lookups_cached, "lookups answered from memory")                                       \
	C(getattrs_cached, "attributes answered from memory")                                   \
	C(reads, "reads")                                                                       \
	C(reads_cached, "reads answered from the cache")                                        \
	C(read_bytes, "bytes read")                                                             \
	C(fetches, "ranges fetched from the origin")                                            \
	C(fetched_bytes, "bytes fetched from the origin")                                       \
	C(fetches_shared, "reads that waited for a fetch of another")                           \
	C(writes, "writes")                                                                     \
	C(written_bytes, "bytes written")                                                       \
	C(writes_back, "pages stored to through mappings that were written back")               \
	C(stores_lost, "of these, refused since their lease was lost")                          \
	C(passthroughs, "opens answered with a file of the cache")                              \
	C(listings_cached, "directory reads answered from memory")                              \
	C(invalidations, "notifications to the kernel")                                         \
	C(drops, "recalls worked in")                                                           \
	C(locks, "requests about advisory locks")                                               \
	C(shed, "inodes given up to stay within --memory")                                      \
	C(slowed, "requests that waited while memory was short")                                \
	C(sealed, "uses of what was cached under a seal's own term, with no session")           \
	C(stale, "uses of what was cached without its lease (disconnected=stale)")              \
	C(fences, "times that everything was dropped because the session ended")

struct mount_counters {
#define COUNTER_FIELD(name, help) atomic_uint_fast64_t name;
	MOUNT_COUNTERS(COUNTER_FIELD)
#undef COUNTER_FIELD
};

struct daemon;
struct inode_table;
struct nodeids;
struct call_table;
struct notifier;
struct session;
struct locks;
struct memory;
struct prefetch;
struct follow;
struct reading;
struct open_file;
struct rules_state;

struct mount {
	const struct mount_options *options;
	char *export;             /* from the URL */
	const char *subdirectory; /* what follows in the URL, "" or from "/" on */
	char *origin_url;   /* scheme, host and port */
	struct client *client;
	struct daemon *daemon; /* the process, as far as its mounts see it; NULL: there is none */
	struct cache *cache;   /* the daemon's */
	uint64_t cache_space; /* of the export: cache.h */
	uint32_t number;   /* among the mounts of this export with this cache */
	bool elsewhere;    /* another process asked for it: the mount point is where its guardian is */
	struct guardian *guardian;
	struct notifier *notifier;
	struct session *session;
	struct locks *locks;
	struct memory *memory; /* NULL: no limit */
	struct prefetch *prefetch; /* NULL: --prefetch=off */
	struct follow *follow;     /* likewise */
	struct rules_state *rules; /* NULL: before the mount has them, and behind its end: rules.h */
	struct fuse_session *fuse;
	int fuse_fd;
	atomic_bool has_epoch; /* FUSE_NOTIFY_INC_EPOCH works and may be used (--kernel-names, --small):
				  names may have a validity */
	atomic_bool unopened;  /* --small, and the kernel can: it tells no opens of files */
	atomic_bool read_only; /* the option, or what the origin says */
	atomic_bool unguarded; /* the guardian was killed: nothing more goes into the kernel's caches */
	atomic_uint writing_back; /* files: write_back_all() */
	/* passthrough.h; set when the mount begins to answer. */
	atomic_bool passthrough_asked;  /* the kernel was, and has it */
	atomic_bool passthrough_on;
	atomic_bool passthrough_direct; /* the cache's file system knows O_DIRECT */
	const char *_Atomic passthrough_lack; /* why there is none; NULL: not known, or there is */
	unsigned open_fetch_max_ms;   /* then an open is answered without its fetch: data.c */
	atomic_bool maps_writable; /* shared writable mappings: write_back.h; set before any request */

	pthread_mutex_t lock;
	struct holder *holder;
	struct slab holder_slab; /* its memory */
	struct allocator holder_allocator;
	struct inode_table *inodes;
	bool pages_evicting; /* pages.c */
	struct inode **page_inodes; /* by guardian slot; NULL: none had pages yet */
	uint32_t page_hand;         /* the slot that is looked at next */
	struct reading *slotless;   /* page fills that wait for a slot: read_unopened() */
	uint64_t stored_last; /* number of the newest write lease: write_back.c */
	struct nodeids *nodeids; /* of earlier mounts; may be NULL */
	struct call_table *calls;
	struct open_file *open_files; /* descriptors; what is left at the end nobody releases */
	struct waiting_open *waiting_opens; /* open_wait.c */
	unsigned waiting_open_count;
	bool waiting_opens_end; /* no further one waits */
	struct instant waiting_opens_say; /* not before: a line in the log */
	struct reading *readings; /* READs of the kernel that are not answered: read.c */
	uint64_t reading_id;
	unsigned ahead_count; /* fetches ahead of readers, in flight */
	struct sweep sweep;
	struct statvfs space; /* of the export, as heard last: attributes.c */
	uint64_t incarnation;        /* of the origin's store, from the latest answer: sync.h */
	uint64_t incarnation_before; /* the last one that was another */

	/* Replies that give the kernel a validity, by parity of `reply_generation`: a drop waits
	   until those that began before it are written. See mount_reply_begin(). */
	unsigned reply_generation;
	unsigned replies[2];
	pthread_cond_t replies_done;
	struct instant given_until; /* the latest end of a validity that was ever given */
	void *_Atomic bulk_spare[BULK_SPARE_COUNT]; /* memory for requests: bulk.h */
	uint32_t drop_walkers; /* threads of drop_all.c; the last one signals replies_done */

	struct mount_counters counters;
};

#define COUNT(m, name) atomic_fetch_add_explicit(&(m)->counters.name, 1, memory_order_relaxed)
#define COUNT_BY(m, name, n)                                                                    \
	atomic_fetch_add_explicit(&(m)->counters.name, (n), memory_order_relaxed)

/* CLOCK_BOOTTIME now. */
struct instant mount_now(void);
/* How far CLOCK_BOOTTIME is ahead of CLOCK_MONOTONIC: grows by every suspend. */
int64_t mount_suspended_ns(void);

/*
 * Around a reply that gives the kernel something with a validity (names, attributes) or pages.
 * _begin is called under the lock, in the same section in which the lease was seen to stand; _end
 * after the reply, without the lock. Between them nothing may wait.
 */
unsigned mount_reply_begin(struct mount *m);
void mount_reply_end(struct mount *m, unsigned token);
/* Waits until every reply that had begun is written. Without the lock. */
void mount_replies_drain(struct mount *m);

/* One line to the log: "level area: text". */
void mount_log(const char *level, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
