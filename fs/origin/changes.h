/*
 * changes.h - the change numbers of inodes, in a table that survives the process.
 *
 * PROTOCOL.md section 7. A change is (incarnation, counter) and never comes back. Most inodes have
 * no record: the counter of one whose ctime lies more than 2 s in the past is that ctime with the
 * top bit set. ctime is coarse (a jiffy), so two modifications can share one; an inode modified by
 * this origin, or too recently to tell, gets a record with a counter of its own.
 *
 *   - A record says "changing" before a modification touches the store, and is resolved after. The
 *     table is a mapped file, so this survives SIGKILL; a record found changing at start gets a
 *     new number.
 *   - After a crash of the machine (another boot id, and no mark of a clean stop) the table and the
 *     store may have gone back in time: it is emptied under a new incarnation, which makes every
 *     number given before void.
 *   - When nothing has been modified for a while, the store and the table are synced, and the table
 *     says so on disk; before the next modification, or a number that is not derived, it takes that
 *     back there. A machine that crashes in between has lost nothing, and every number stands.
 *   - A record also keeps ctime and size: when the store shows others, someone else modified the
 *     inode, and it gets a new number.
 *   - The table is bounded and set-associative. The record that makes room is the oldest one of
 *     its set that is not changing; losing it is safe, since the derived number was never given
 *     for content that differs (it is only given once ctime is 2 s old), and costs hosts a copy.
 *
 * Setting the machine's clock back by more than 2 s can let a ctime recur; see README.md.
 *
 * Functions may be called from any thread. Callers hold the inode's lock: shared for
 * changes_get(), exclusive from changes_begin() to changes_end().
 */
#ifndef FS_ORIGIN_CHANGES_H
#define FS_ORIGIN_CHANGES_H

#include "lease/base/types.h"

struct changes;

struct changes_key {
	uint64_t words[2]; /* a keyed hash of the inode's identity */
};

/* What the store said about the inode. */
struct changes_seen {
	int64_t ctime_ns;
	uint64_t size;
};

/* A modification under way. */
struct changes_token {
	struct changes_key key;
	struct changes_seen seen;
	struct change before;
	bool fresh; /* there was no record before */
};

#define CHANGES_RECORDS_DEFAULT (1u << 18) /* 16 MiB; inodes modified lately */

/*
 * Opens or makes the table `name` in the state directory. A damaged one is replaced, with a new
 * incarnation. `*ret_text`: NULL, or one line for the log when the incarnation is new.
 * 0 or -errno. The space is allocated here, so that no later store meets a full disk.
 */
int changes_open(int state_fd, const char *name, const char *boot_id, uint32_t record_count,
		 struct changes **ret_changes, const char **ret_text) MUST_CHECK;
/* The machine went down without a clean stop of the origin, whether or not numbers stand. */
bool changes_crashed(const struct changes *c);
/* `clean`: the store was synced and nothing modifies it any more. NULL is fine. */
void changes_close(struct changes *c, bool clean);

/* Moves when a modification begins or ends; 0: the table says on disk that nothing is to be lost. */
uint64_t changes_activity(const struct changes *c);
/*
 * The store was synced since `activity` was asked for: says so on disk, if no modification began,
 * ended or was under way meanwhile: the sync may have had a part of it. 0, -EBUSY, -errno.
 */
int changes_settle(struct changes *c, uint64_t activity) MUST_CHECK;

uint64_t changes_incarnation(const struct changes *c);
/* All numbers given so far become void: what was written may be lost (a failed sync). */
void changes_renew_incarnation(struct changes *c);

/*
 * The current change of an inode. `*ret_outside`: someone other than this origin modified it since
 * its number was given last; as far as the table and a small memory can tell.
 */
struct change changes_get(struct changes *c, const struct changes_key *key,
			  const struct changes_seen *seen, bool *ret_outside);
/* Records "changing". 0, -EBUSY when every record of the set is changing, -errno. */
int changes_begin(struct changes *c, const struct changes_key *key, const struct changes_seen *seen,
		  struct changes_token *ret_token) MUST_CHECK;
/* The modification is over: the new number. */
struct change changes_end(struct changes *c, const struct changes_token *token,
			  const struct changes_seen *seen);
/* Nothing was modified: back to token->before. */
void changes_cancel(struct changes *c, const struct changes_token *token);
/* Someone else modified the inode, or may have: the next look gives a number that was never given,
   whatever ctime and size say. Needs no lock of the inode. */
void changes_renumber(struct changes *c, const struct changes_key *key);
/* The inode is gone. */
void changes_forget(struct changes *c, const struct changes_key *key);

struct changes_counters {
	uint64_t outside, evicted, unfinished; /* unfinished: found changing at start */
};
void changes_counters(const struct changes *c, struct changes_counters *ret_counters);

#endif
