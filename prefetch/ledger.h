/*
 * ledger.h - what was fetched on whose behalf, and what came of it.
 *
 * Whoever fetches for predictors tells what it sent, what arrived and what the cache gave up; each access
 * of an application is told, too. What was fetched is *used* when it is read, *wasted* when it is evicted
 * or overdue (not read within so many accesses: OVERDUE_MIN, and OVERDUE_FACTOR times what its predictor
 * expected), and *late* when its reader came before it (and used as well).
 *
 * Predictors whose guesses are wasted fall silent, in a directory (or file: the scope) and, when that
 * goes on, everywhere: ledger_allows() is false then but for a guess now and then, by which they may
 * prove useful again.
 *
 * Bounded: `entries_max` pieces of up to LEDGER_PIECE_BYTES are remembered, the oldest is overdue when
 * there are more. Memory is taken when it is made. The owner serializes calls; no locks inside.
 */
#ifndef PREFETCH_LEDGER_H
#define PREFETCH_LEDGER_H

#include "lease/base/allocator.h"
#include "prefetch/intent.h"

#define LEDGER_PIECE_BYTES (UINT64_C(1) << 20)
/* 64 bytes each; the small files of an epoch, or 32 GiB of large ones. */
#define LEDGER_ENTRIES_DEFAULT 32768u
/* As the offset of an item: the listing of the directory `inode`. */
#define LEDGER_LISTING UINT64_MAX

struct ledger;

struct ledger_item {
	enum predictor_id predictor;
	uint64_t scope; /* the directory, or 0 */
	uint64_t inode;
	uint64_t offset, length; /* bytes */
	uint32_t distance;       /* of the intent */
};

/* Sums since it was made. What is fetched and neither used nor wasted is not decided yet. */
#define LEDGER_COUNTS(X)                                              \
	X(fetched, "fetched for it")                                  \
	X(used, "of that, read by an application")                    \
	X(wasted, "of that, evicted or not read in time")             \
	X(late, "of what was used, asked for before it had come")

struct ledger_counts {
#define X(name, text) uint64_t name##_bytes, name##_count;
	LEDGER_COUNTS(X)
#undef X
	uint64_t silenced; /* guesses that were not made, since others were in vain */
};

/* `entries_max` 0: LEDGER_ENTRIES_DEFAULT. 0 or -ENOMEM. */
int ledger_create(uint32_t entries_max, const struct allocator *allocator,
		  struct ledger **ret_ledger) MUST_CHECK;
void ledger_destroy(struct ledger *l);

/*
 * A request for these bytes was sent. What the same predictor has sent of them before is not counted again;
 * another one is not asked, since nobody fetches what is under way.
 */
void ledger_sent(struct ledger *l, const struct ledger_item *item);
/* They are here; or (`failed`) never will be: then they were neither used nor wasted. */
void ledger_arrived(struct ledger *l, uint64_t inode, uint64_t offset, uint64_t length, bool failed);
/* An application reads them, or lists the directory (LEDGER_LISTING). Every access is to be told. */
void ledger_read(struct ledger *l, uint64_t inode, uint64_t offset, uint64_t length);
/* The cache has given them up, or they were recalled. UINT64_MAX: to the end. */
void ledger_evicted(struct ledger *l, uint64_t inode, uint64_t offset, uint64_t length);

/* May `predictor` guess in that scope? Counts as a guess. */
bool ledger_allows(struct ledger *l, enum predictor_id predictor, uint64_t scope);
/* The same, asked by somebody who does not guess. */
bool ledger_silent(const struct ledger *l, enum predictor_id predictor, uint64_t scope);

void ledger_counts(const struct ledger *l, enum predictor_id predictor,
		   struct ledger_counts *ret_counts);

/* For tests: within its bounds, and every sum is right. */
bool ledger_valid(const struct ledger *l);

#endif
