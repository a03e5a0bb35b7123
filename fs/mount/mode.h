/*
 * mode.h - in which way the descriptors of one inode are served: a pure state machine, no I/O.
 *
 * The kernel keeps a mode of its own for each inode, and an open that is answered with another one
 * fails with EIO, for the user. So the answer depends on what is open:
 *
 *   already open                     next open may be
 *   nothing                          anything
 *   pages                            pages, direct
 *   direct, for reading              pages, direct   (a mapping of it turns the inode into pages, and
 *                                                     the kernel does not tell; and in passthrough a
 *                                                     new mapping of it would fail)
 *   for writing                      pages, direct   (what is written must not pass by)
 *   passthrough, bridge              passthrough, bridge, of the same backing file
 *
 * The kernel's own mode ends before its RELEASE comes, and begins after our answer: what is counted
 * here is open for at least as long as it is there. A mapping keeps its descriptor open, but in
 * passthrough: there it is one of the backing file, and may live longer than anything here. So
 * passthrough is for bytes that never change (sealed), and never for who writes: a store through a
 * mapping would go to the backing file, unseen.
 *
 * One caller at a time (the mount's lock).
 */
#ifndef FS_MOUNT_MODE_H
#define FS_MOUNT_MODE_H

#include <stdbool.h>
#include <stdint.h>

enum mode {
	MODE_PAGES,       /* the kernel's page cache, filled by READs; kept from open to open */
	MODE_DIRECT,      /* each request comes here, into the caller's memory */
	MODE_PASSTHROUGH, /* the kernel reads the cache file by itself */
	MODE_BRIDGE,      /* reads come here, mappings are of the cache file: when the seal is gone and
			     descriptors in passthrough are left */
};

/* Of one inode. All zeros: nothing is open. */
struct mode_state {
	uint32_t pages;       /* descriptors in MODE_PAGES */
	uint32_t direct;      /* in MODE_DIRECT, that can read */
	uint32_t writers;     /* that can write (MODE_DIRECT, and counted there too if they read) */
	uint32_t passthrough; /* in MODE_PASSTHROUGH or MODE_BRIDGE */
	int32_t backing_id;   /* the kernel's number of the backing file while there are such; 0 */
};

/* What holds at the moment of an open. */
struct mode_facts {
	bool can_pass;    /* the mount can, and may, use passthrough */
	bool sealed;      /* and its seal is held: the bytes do not change, whatever happens */
	bool pages;       /* the inode may have pages in the kernel */
	bool backs_direct; /* backing files can be opened with O_DIRECT */
};

struct mode_request {
	bool reads, writes;
	bool direct; /* O_DIRECT */
};

/* Of open flags. */
struct mode_request mode_request(int flags);

/* Before the open: whether a backing file is worth registering for it. */
bool mode_wants_backing(const struct mode_state *state, const struct mode_facts *facts,
			struct mode_request request);

struct mode_answer {
	int error;          /* a positive errno: the open fails, and nothing was counted */
	enum mode mode;
	int32_t backing_id; /* to answer with; 0: none */
	int32_t unused_id;  /* the candidate, when it is not used: nobody knows it; 0 */
};

/*
 * Counts an open and says how to answer it. `candidate`: a backing file registered for it, with all
 * bytes of the inode as they are now; 0: none (not wanted, not complete, the kernel cannot).
 */
struct mode_answer mode_open(struct mode_state *state, const struct mode_facts *facts,
			     struct mode_request request, int32_t candidate);

/* A descriptor was released, or its open not taken in by the kernel: the backing file that nobody
   needs any more, or 0. */
int32_t mode_release(struct mode_state *state, enum mode mode, struct mode_request request);

/* What the user is told. */
enum mode_reason {
	MODE_IS_SEALED,      /* passthrough */
	MODE_SEAL_LOST,      /* bridge */
	MODE_HAS_WRITER,     /* direct */
	MODE_NO_ROOM,        /* direct */
	MODE_NOT_SEALED,     /* pages */
	MODE_CANNOT_PASS,    /* pages: sealed, but the mount cannot */
	MODE_INCOMPLETE,     /* pages: sealed, but not all is in the cache */
	MODE_OPEN_OTHERWISE, /* pages: sealed and complete, but open since before */
};

/* The mode in which it is open now, or in which the next reader would get it; with why. */
enum mode mode_of(const struct mode_state *state, const struct mode_facts *facts, bool complete,
		  enum mode_reason *ret_reason);
/* One word. */
const char *mode_name(enum mode mode);

/* Aborts when the state cannot be. */
void mode_check_invariants(const struct mode_state *state);

#endif
