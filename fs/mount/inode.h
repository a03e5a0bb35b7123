/*
 * inode.h - the inodes that this mount knows: nodeids, what is cached of them in memory, names.
 *
 * One inode for each handle, found by handle or by nodeid. A nodeid is a hash of the handle, the same in
 * every mount, so its generation is constant; but for the root, which has FUSE's own. An inode
 * lives while the kernel knows it (`lookup_count`), an operation uses it (`use_count`), or a lease
 * makes what is cached of it worth keeping (`cached`); then it goes.
 *
 * What is cached in memory is tagged with the lease instance under which it was learned
 * (lease/holder.h): it may be used exactly while holder_lease() returns that instance. Nothing has
 * to be erased when a lease ends.
 *
 * All functions are called under mount->lock. Pointers stay valid while a use is held.
 */
#ifndef FS_MOUNT_INODE_H
#define FS_MOUNT_INODE_H

#include "fs/mount/listing.h"
#include "fs/mount/mode.h"
#include "fs/mount/name_table.h"
#include "fs/mount/packed.h"
#include "fs/mount/slab.h"
#include "fs/mount/state.h"
#include "lease/base/map.h"

struct call;
struct reading;

/* The write lease of which there may be stores in the kernel: write_back.h. */
struct stored_under {
	struct session_id session; /* 0: none */
	uint64_t sequence;         /* recall sequence of the answer that granted it */
	uint64_t number;           /* of the lease, the same under the next session; 0: none */
	bool kept;                 /* the session is over, and the lease may be reclaimed */
};

/* A cache file that the kernel reads by itself: passthrough.h. */
struct backing {
	int32_t id;              /* the kernel's; 0: none */
	struct cache_file *file; /* pinned, with a reference */
	struct change change;    /* of the bytes in it */
};

/* READs that follow each other: of one descriptor, or page fills of all who read a file together. */
struct sequence {
	uint64_t next_offset; /* where the latest ended */
	uint64_t window;      /* how far ahead of them is fetched; 0: not yet (ahead.h) */
	uint32_t count;       /* in a row that began where the one before ended */
};

/*
 * What only some inodes have: those that are open, that an operation is about, directories whose names are
 * known, symbolic links. Made at the first change (inode_live()), gone when it says nothing any more
 * and nobody uses the inode: who remembers a serial of it has a use.
 */
struct inode_live {
	uint32_t weak_acls;            /* given to the kernel without a lease, and not yet dropped there */
	uint64_t target_instance;      /* symbolic links */
	char *target;

	struct name_table names;       /* directories */
	uint64_t names_complete_instance; /* under it a name that is not in `names` is absent */
	struct listing *listing;
	uint32_t listing_serial;       /* moves with every drop and every change of our own */
	bool names_given;              /* the kernel may hold names of it with a validity */

	struct call *fetches;          /* reads in flight at the origin, linked by fetch_next */
	struct reading *readings;      /* READs of the kernel that are not answered */
	struct mode_state modes;       /* of its descriptors */
	struct backing backing;        /* while some are in passthrough */
	bool open_fetching;            /* an open waits until all of it is fetched: data.c */
	struct change open_unkept;     /* at which that did not make the cache have it all */
	uint32_t open_count;
	uint32_t hold_count;           /* our own modifications in flight that hold page fills */
	uint32_t fence_count;          /* those that will, and hold them while they fence: modify.c */
	uint32_t fill_serial;          /* page fills begun */
	uint32_t filled_serial;        /* page fills that were answered with bytes */
	uint32_t fills;                /* page fills in flight */
	struct sequence together;      /* page fills, whoever asked for them */
	bool no_ahead;                 /* the cache did not take what was fetched ahead */
	uint32_t dropping;             /* recalls begun and not yet acknowledged */
	uint32_t dropping_pages;       /* of these, of drop_session: that drop all pages */
	struct session_id drop_session; /* of the latest of them */
	uint32_t settle_serial;        /* our own modifications and recalls that ended */
	uint32_t write_serial;         /* our own modifications that were answered */
	uint32_t weak_fills;           /* page fills answered under such a recall, without a lease */
	uint32_t mappable;             /* descriptors that could be mapped for writing: write_back.h */
	bool mapped;                   /* one of them was mapped: its pages came in since */
	struct stored_under stored;
	struct instant filled_at;      /* the latest page fill under it */
	uint32_t stored_drops;         /* recalls of that lease that are being worked in */
	uint32_t invalidating;         /* by notifier.c, around page fills; it may wait for later ones */
	struct reading *held;          /* page fills that wait for them, by wait_next */
	uint32_t held_count;
	bool locks_used;               /* something was locked here: closes are told to us */
	bool closing;                  /* a close is on its way to the origin; opens wait for it */
	bool open_registered;          /* the origin knows that it is open here */
	uint32_t open_told;            /* unlinks and renames in flight that tell the origin so */
	bool pages;                    /* the kernel may have pages: has a guardian slot */
	bool pages_whole;              /* one READ had all of it: pages_note_read() */
	int guardian_slot;
	uint64_t unsynced_incarnation; /* of the store at the first change since the last fsync, 0 */
	uint32_t lost_serial;          /* losses of what was not synced: sync.h */
	uint64_t lost_incarnation;     /* of the store since the last one, 0: not known */
	bool lost_told;                /* somebody heard of the last one */
};

/* One that the kernel does not know and nobody uses: kept for what is cached of it. */
struct idle {
	struct idle *previous, *next; /* oldest first */
	struct inode *inode;
};

/* There are a million of them: as long as its handle asks for. */
struct inode {
	uint64_t nodeid;
	uint64_t lookup_count : 48;    /* at a million a second, for eight years */
	bool attributes_given : 1;     /* with a validity, until they were invalidated */
	bool final : 1;                /* it was sealed: no byte of it changes any more (seal.h) */
	bool recent : 1;               /* used since inode_shed() came by */
	bool given_up : 1;             /* by it, and not used since: it goes when the kernel forgets it */
	bool in_idle : 1;              /* it has `idle`, and no name leads here */
	const struct inode_live *live; /* never NULL; changed through inode_live() only */
	union {
		struct name_entry *some_name; /* inode_name() */
		struct idle *idle;
	};
	struct cache_file *file;       /* regular files, once needed */
	struct packed packed;          /* as heard last: inode_attributes() */
	uint64_t attributes_instance;  /* 0: not cached */
	uint32_t use_count;
	uint32_t given_serial;         /* times that they were given to the kernel */
	uint16_t type;                 /* S_IFMT bits; never change, so read without the lock */
	uint8_t handle_length;         /* as these */
	uint8_t handle_bytes[];
};

/* One of the names that lead here; NULL: none. */
static inline struct name_entry *inode_name(const struct inode *inode)
{
	return inode->in_idle ? NULL : inode->some_name;
}

static inline struct handle inode_handle(const struct inode *inode)
{
	struct handle handle = { .length = inode->handle_length };

	memcpy(handle.bytes, inode->handle_bytes, inode->handle_length);
	return handle;
}

/* To be passed on: it lives to the end of the block. */
#define INODE_HANDLE(inode) ((const struct handle[1]){ inode_handle(inode) })

/* What it has, to be changed: made if it has none yet. */
struct inode_live *inode_live(struct inode *inode);

/* Page fills wait for our own modifications while the lease stands. Under the lock. */
static inline bool inode_fills_wait(const struct inode *inode)
{
	return inode->live->hold_count > 0 ||
	       (inode->live->fence_count > 0 && inode->live->invalidating == 0);
}

struct inode_table {
	struct map by_nodeid;
	struct slab slab; /* of inodes and names */
	struct inode *root;
	uint64_t displaced_max; /* how far a nodeid was from inode_nodeid() at most: never but by chance */
	size_t shed_next;       /* where inode_shed() goes on */
	struct kinds kinds;     /* of attributes */
	struct idle *idle_oldest, *idle_newest;
	bool ending;            /* none becomes idle any more */
	uint64_t count; /* of inodes */
	uint64_t idle_count;
	uint64_t name_count;
	uint64_t idle_count_max;
};

#define INODE_IDLE_COUNT_MAX 200000 /* kept for what is cached of them */
#define NAME_COUNT_MAX 2000000      /* cached names of all directories */

int inode_table_create(struct inode_table **ret_table) MUST_CHECK;
void inode_table_destroy(struct mount *m);

/* The nodeid that an inode of this handle has in every mount; not that of the root, nor, when another
   inode has it, of this one: then it is the next one that is free. */
uint64_t inode_nodeid(const struct handle *handle);
/* All inodes: start with *cursor 0; NULL at the end. None may be made or go meanwhile. */
struct inode *inode_next(struct mount *m, size_t *cursor);
/* The inode of a handle, made if need be, with a use. NULL: no memory. */
struct inode *inode_get(struct mount *m, const struct handle *handle, uint32_t mode);
struct inode *inode_find(struct mount *m, const struct handle *handle); /* without a use */
struct inode *inode_by_nodeid(struct mount *m, uint64_t nodeid);        /* without a use */
void inode_use(struct mount *m, struct inode *inode);
void inode_unuse(struct mount *m, struct inode *inode);
/* The kernel was told of it once more, or forgets it `count` times. */
void inode_looked_up(struct mount *m, struct inode *inode);
void inode_forget(struct mount *m, struct inode *inode, uint64_t count);

/*
 * Memory is short: of the `look` inodes that it has not come to for the longest time, gives up what is
 * cached in memory of those that were not used since it came by last and that nobody uses, with their
 * leases. What only the kernel knows of them is written to `nodeids`, `max` at most; how many: it can be
 * asked to forget them.
 */
unsigned inode_shed(struct mount *m, unsigned look, uint64_t *nodeids, unsigned max,
		    struct holder_actions *out);

/*
 * The instance of the lease under which what is cached of it may be used now; 0: none. `*ret_change`
 * (may be NULL): the change that it stands at. With disconnected=stale, while the origin is away,
 * also of the lease that stood when it was lost.
 */
uint64_t inode_lease(struct mount *m, const struct inode *inode, struct instant now,
		     struct change *ret_change);
/*
 * The same without that: of a lease that stands, or that stood when the session ended while the inode was
 * sealed, and whose seal has a term of its own (PROTOCOL.md 11.4).
 */
uint64_t inode_lease_strict(struct mount *m, const struct inode *inode, struct instant now,
			    struct change *ret_change);
/* Cached attributes that stand now: `known`, filled with them; or NULL. */
const struct attributes *inode_attributes(struct mount *m, struct inode *inode, struct instant now,
					  struct attributes *known);
uint64_t inode_size(struct mount *m, struct inode *inode, struct instant now); /* UINT64_MAX: none stands */
bool inode_attributes_stand(struct mount *m, struct inode *inode, struct instant now);
/* What was heard last, whether it stands or not; all zero: nothing. */
struct attributes inode_heard(const struct mount *m, const struct inode *inode);
uint32_t inode_heard_mode(const struct mount *m, const struct inode *inode);
/* Without an instance, as heard only. Failing to remember is no error. */
void inode_set_attributes(struct mount *m, struct inode *inode, const struct attributes *attributes,
			  uint64_t instance);
/* The kernel gets attributes of it with a validity, or what it keeps for as long as these. */
void inode_give_attributes(struct inode *inode);

/* What is known of a name: true, with *ret_child (NULL: absent); false: ask the origin. */
bool inode_name_find(struct mount *m, struct inode *directory, struct slice name,
		     struct instant now, struct inode **ret_child);
/* Learned under `instance` of the directory's lease. Failing to remember is no error. */
void inode_name_set(struct mount *m, struct inode *directory, struct slice name,
		    struct inode *child, uint64_t instance);
void inode_name_forget(struct mount *m, struct inode *directory, struct slice name);
void inode_names_forget(struct mount *m, struct inode *directory);

/* The cached attributes of the inode of an entry of `directory` that stand now: `known`, with *ret_child; or
   NULL (and NULL). */
const struct attributes *listing_attributes(struct mount *m, const struct inode *directory,
					    const struct listing *listing,
					    const struct listing_entry *entry, struct instant now,
					    struct attributes *known, struct inode **ret_child);

#endif
