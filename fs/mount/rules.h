/*
 * rules.h - what policies say of the inodes of a mount (leasehold-policy(5), prefetch/rules.h).
 *
 * A policy is an attribute of a directory at the origin, POLICY_XATTR, and applies below it. Attributes
 * of a directory say whether it has one (MARK_POLICY); then the text is fetched in the background, and
 * fetched again when the directory's lease was recalled. Nobody waits for that: until a policy is known it
 * says nothing, and until a new one is, the old one stands. On top of them is that of the mount
 * (--policy), which is read once.
 *
 * Unless it says otherwise a function is called under mount->lock, and does no more than look at memory.
 */
#ifndef FS_MOUNT_RULES_H
#define FS_MOUNT_RULES_H

#include "fs/mount/inode.h"
#include "prefetch/intent.h"
#include "prefetch/rules.h"
#include "transport/client.h"

#define RULES_DIRECTORY_COUNT_MAX 1024 /* with a policy; of more, those that came later say nothing */
#define RULES_LAYER_MOUNT 254          /* that of --policy; others: how deep below the export's root */
#define RULES_DEPTH_MAX 250            /* deeper directories' own policies say nothing */
#define RULES_PATH_BYTES_MAX 4096

/*
 * Reads FILE of --policy, to be freed, terminated. 0, or -errno after a line to the log that says what is
 * wrong with it, and where.
 */
int rules_read(const char *file, char **ret_text) MUST_CHECK;
/* Makes what is to know of policies, with options->policy_text. 0 or -errno. Without the lock. */
int rules_create(struct mount *m) MUST_CHECK;
/* `node` is above the mount's root: `rest` of m->subdirectory leads from it to that. From the top down. */
void rules_above(struct mount *m, const struct item_node *node, const char *rest);
/* The root is known: begins to fetch. Without the lock. */
int rules_start(struct mount *m) MUST_CHECK;
/* Fetches no more. Then, with all calls ended, frees everything. Without the lock. */
void rules_stop(struct mount *m);
void rules_destroy_all(struct mount *m);

/*
 * What policies say of `inode`, by the name that it was found by last. False: that is not known, and these
 * are the defaults, or what is said of everything.
 */
bool rules_of(struct mount *m, const struct inode *inode, struct rules_attributes *ret_attributes);
/* The same of `name` in `directory`, whether it is there or not. */
bool rules_of_name(struct mount *m, const struct inode *directory, struct slice name,
		   bool is_directory, struct rules_attributes *ret_attributes);
/* One attribute of it: cheap when no policy sets it. */
uint64_t rules_value(struct mount *m, const struct inode *inode, enum rules_attribute attribute);

/* Some policy says what stays in the cache or may come into it: pin, ttl, quota, admit. */
bool rules_keeps(const struct mount *m);
/* Where an attribute was set. */
struct rules_origin {
	const struct inode *directory; /* whose policy; NULL: that of the mount */
	const struct rules *rules;     /* NULL: nothing set it */
	uint32_t index;                /* of the line: rules_line() */
};
/* rules_of(), and where pin and quota were set; as long as the lock is held. */
bool rules_of_lines(struct mount *m, const struct inode *inode,
		    struct rules_attributes *ret_attributes, struct rules_origin *ret_pin,
		    struct rules_origin *ret_quota);
/* rules_stop() was called. */
bool rules_stopping(const struct mount *m);

/* The most that is fetched ahead of a sequential reader: policies (prefetch=off, too) or --read-ahead. */
uint64_t rules_read_ahead(struct mount *m, const struct inode *inode);
/* What a call does about it while the origin is away: policy or --disconnected. */
enum rules_disconnected rules_disconnected(struct mount *m, const struct inode *inode);

/* How the call is sent: behind others when it is ahead; and whether its answer may be compressed. */
enum client_channel rules_channel(struct mount *m, const struct call *call);

/* That ends the call: of a lookup, by what is said of the name. The second without the lock. */
bool rules_fail_call(struct mount *m, const struct call *call);
bool rules_fail_call_now(struct mount *m, const struct call *call);

/* Some policy sets one of these two: what costs more than that needs not be asked. */
bool rules_set(const struct mount *m, enum rules_attribute attribute, enum rules_attribute other);

/* Some policy says what may be guessed: rules_may_guess(), rules_amount(). */
bool rules_limit_guesses(const struct mount *m);
/* Is a guess about bytes of such a file wanted? Any thread. */
bool rules_may_guess(const struct rules_attributes *a);
/* Of a file when one of `when` comes about: how many bytes are fetched; 0: nothing. Any thread. */
uint64_t rules_on(const struct rules_attributes *a, unsigned when);

/* In which order that is fetched: of what is not asked for by a user. Any thread. */
int8_t rules_priority(const struct rules_attributes *a);
/* The same of what predictors wish for. */
int8_t rules_priority_of(struct mount *m, const struct intent *intent);

/*
 * How many bytes a second may be fetched of `name` in the directory, or, when it is empty, of `inode` itself;
 * RULES_ALL: no limit. `*ret_key`: the same for all that the same line says it of.
 */
uint64_t rules_bandwidth(struct mount *m, const struct inode *inode, struct slice name, uint64_t *ret_key);

/* Moves whenever a policy came, changed or went. Any thread, without the lock, too. */
uint64_t rules_serial(const struct mount *m);
/*
 * What is to be fetched without anybody asking: calls `found` for each line with RULES_ON_MOUNT, with the
 * directory that is known and from there (parts with slashes between; empty: itself) the path of the
 * directory or file below which the pattern can match. Whoever walks it asks rules_of() for each thing.
 * `stamp`: of the policy's text.
 */
typedef void rules_found(void *context, struct inode *directory, struct slice below, uint64_t stamp);
void rules_each_on_mount(struct mount *m, rules_found *found, void *context);
/* All RULES_ON_* that some line of a policy has. */
unsigned rules_when_any(const struct mount *m);
/* Some line with one of `when` may match `name` in the directory, or what is below that. */
bool rules_lead(struct mount *m, const struct inode *directory, struct slice name, unsigned when);

/* ---- for those that learn of attributes and changes ---- */

/* Attributes of a directory came in. */
void rules_heard(struct mount *m, struct inode *inode);
/* All of a directory, or its attributes, were recalled. */
void rules_recalled(struct mount *m, struct inode *inode);
/* POLICY_XATTR of it is `text` now (length 0: it has none), as this host heard. Without the lock. */
void rules_changed(struct mount *m, struct inode *inode, struct slice text);

/*
 * A line for each attribute that a policy sets: "name=value  # DIRECTORY:LINE: the line". Allocated; empty:
 * none does. NULL: no memory. Without the lock.
 */
char *rules_text(struct mount *m, struct inode *inode);

#endif
