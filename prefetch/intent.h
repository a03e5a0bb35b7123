/*
 * intent.h - what a predictor would have fetched.
 *
 * An intent is a wish: whoever gets it may find that it is cached, under way, not allowed by policy,
 * or more than there is room for, and then leaves it. Plain values, no ownership.
 */
#ifndef PREFETCH_INTENT_H
#define PREFETCH_INTENT_H

#include "lease/base/types.h"

#define PREDICTORS(X)                                                                       \
	X(SEQUENTIAL, "sequential") /* what follows in a file that is read in order */      \
	X(STRIDED, "strided")       /* the next records of a fixed distance */              \
	X(WHOLE, "whole")           /* the rest of a file that is read in parts */          \
	X(SERIES, "series")         /* the next files of a numbered or lexical series */    \
	X(SWEEP, "sweep")           /* the other files of a directory that is being read */ \
	X(WALK, "walk")             /* subdirectories of a tree that is being listed */     \
	X(EPOCH, "epoch")           /* what followed in the last epoch */

enum predictor_id {
#define X(name, text) PREDICTOR_##name,
	PREDICTORS(X)
#undef X
	PREDICTOR_COUNT
};

enum intent_type {
	INTENT_RANGE, /* [offset, offset + length) of `inode`; what is behind its end is left out */
	INTENT_FILE,  /* the first `length` bytes of `name` in `directory`; UINT64_MAX: all of it */
	INTENT_FILES, /* of the next `count` files behind `name` in the listing of `directory` (empty: from
			 its start) the first `length` bytes each */
	INTENT_LIST,  /* entries and attributes of the directory `inode` */
	INTENT_LISTS, /* the same of the next `count` subdirectories behind `name` in the listing of
			 `directory` (empty: from its start) */
};

#define INTENT_NAME_MAX 255

/* The higher goes first, whoever wishes: a low one when nothing else waits. */
enum intent_priority { PRIORITY_LOW = -1, PRIORITY_NORMAL, PRIORITY_HIGH };

struct intent {
	enum intent_type type;
	enum predictor_id predictor;
	uint64_t inode, directory; /* ids, see access.h; 0: none */
	uint64_t offset, length;   /* bytes */
	uint32_t count;
	uint32_t distance;         /* accesses until it is wanted, as guessed: the nearest goes first */
	int8_t priority;           /* enum intent_priority; predictors leave it alone */
	uint8_t unasked;           /* the owner's; 0: it is for something that somebody does */
	bool sorted;               /* FILES, LISTS: "behind" is by name (memcmp), not as it is listed */
	uint8_t name_length;
	char name[INTENT_NAME_MAX];
};

/* Where its predictor is judged by what comes of it (ledger.h). */
static inline uint64_t intent_scope(const struct intent *intent)
{
	return intent->directory ? intent->directory : intent->inode;
}

/* Where intents go. A predictor stops when it is full. */
struct intents {
	struct intent *items;
	uint32_t count, capacity;
};

#endif
