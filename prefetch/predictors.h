/*
 * predictors.h - what will be read next, guessed from what was read.
 *
 * Accesses in, intents out, and nothing else: no clock, no I/O. Each predictor has a file of its own
 * (the table PREDICTORS in prefetch/intent.h), and all see every access. Memory is bounded and taken
 * when they are made (tables of which the least recently used entry goes), but for the order of epochs,
 * which grows to EPOCH_ENTRY_BYTES for each of `epoch_entries_max`.
 *
 * The owner serializes calls; no locks inside.
 */
#ifndef PREFETCH_PREDICTORS_H
#define PREFETCH_PREDICTORS_H

#include "lease/base/allocator.h"
#include "prefetch/access.h"
#include "prefetch/intent.h"

struct ledger; /* prefetch/ledger.h */
struct predictors;

/* Whatever is 0 is as PREDICTORS_DEFAULTS says. */
struct predictors_config {
	uint64_t window_bytes_max;  /* how far ahead of a reader within a file */
	uint64_t files_bytes_max;   /* files of a series, or of an order, ahead of a reader */
	uint64_t cache_bytes;       /* that the cache can hold; 0: everything */
	uint32_t files_max;         /* of which state is kept; directories, descriptors: as many */
	uint32_t epoch_entries_max; /* visits to files that are remembered in their order */
	struct ledger *ledger;      /* says who may guess; NULL: all may. Borrowed */
};

/*
 * window: what a link of 10 Gbit/s has under way in 50 ms. files: a few shards as they are usual
 * (64 MiB and more), and thousands of small files. files_max: 5 MiB in all, with a place each in the
 * four tables. epoch: ImageNet.
 */
#define PREDICTORS_DEFAULTS                                                           \
	((struct predictors_config){ .window_bytes_max = UINT64_C(64) << 20,          \
				     .files_bytes_max = UINT64_C(256) << 20,          \
				     .files_max = 4096,                               \
				     .epoch_entries_max = 1u << 21 })

/* 8 for the id, and a share of an index of one in sixteen. */
#define EPOCH_ENTRY_BYTES 9

/* `allocator` outlives them. 0 or -ENOMEM. */
int predictors_create(const struct predictors_config *config, const struct allocator *allocator,
		      struct predictors **ret_predictors) MUST_CHECK;
void predictors_destroy(struct predictors *p);

/*
 * One access, in the order in which they came. What it makes them wish is added to `intents`; what finds
 * no room there is wished for again at a later access, if it still makes sense.
 */
void predictors_access(struct predictors *p, const struct access *access, struct intents *intents);

/* For tests: every table within its bounds and every state possible. */
bool predictors_valid(const struct predictors *p);

#endif
