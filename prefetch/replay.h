/*
 * replay.h - a trace, with predictors and without: what they would have fetched, and what it saves.
 *
 * A model, not a mount. One link: a round trip, then bytes at a rate, in the order in which they were asked
 * for, with a bounded amount of what was fetched ahead under way so that demand overtakes the rest. A cache
 * that has everything or so many bytes, of which the least recently used MiB goes. The applications of the
 * trace wait as one: what one of them waits for delays all that follows. So seconds are for comparing, and
 * bytes and counts are what a mount would see.
 *
 * Names that could be fetched are those that the trace has, in accesses or as entries.
 */
#ifndef PREFETCH_REPLAY_H
#define PREFETCH_REPLAY_H

#include "prefetch/ledger.h"
#include "prefetch/predictors.h"

struct replay_config {
	struct duration round_trip;
	uint64_t rate;        /* bytes a second; 0: without end */
	uint64_t cache_bytes; /* 0: no limit */
	bool predict;         /* false: only what is asked for is fetched */
	struct predictors_config predictors;
};

struct replay_result {
	uint64_t accesses;
	uint64_t read_bytes;    /* by the applications */
	uint64_t wanted_bytes;  /* of that, each byte once */
	uint64_t fetched_bytes; /* from the origin, for whomever */
	uint64_t fetched_count;
	uint64_t stalls;        /* accesses that waited */
	struct duration stalled, lasted;
	struct ledger_counts predictors[PREDICTOR_COUNT];
};

/*
 * 0; -ENOMEM; -EINVAL: the trace is refused at `*ret_line`, where `*ret_expected` should be (both only
 * then).
 */
int replay_run(struct slice text, const struct replay_config *config,
	       const struct allocator *allocator, struct replay_result *ret_result, uint32_t *ret_line,
	       const char **ret_expected) MUST_CHECK;

#endif
