/*
 * arena.h - the memory of one run: a bump allocator with free lists by size class, emptied in one
 * step between runs, so that a run costs no malloc and a failed run leaks nothing.
 */
#ifndef TESTS_SIM_ARENA_H
#define TESTS_SIM_ARENA_H

#include "lease/base/allocator.h"
#include "tests/sim/chance.h"

#include <stdint.h>

#define ARENA_CLASSES 40

struct arena {
	struct allocator allocator; /* hand out &arena->allocator */
	uint8_t *base;
	size_t bytes; /* of address space; touched only as far as used */
	size_t used;
	size_t used_max; /* of all runs */
	size_t in_use;   /* bytes of blocks that are out, as the callers asked for them */
	void *free[ARENA_CLASSES];
	/* While it is set, so many of a thousand allocations fail, as `chance` has it. */
	uint32_t fail;
	struct rng *chance;
};

/* Reserves `bytes` of address space. Returns 0 or -ENOMEM. */
int arena_init(struct arena *arena, size_t bytes) __attribute__((warn_unused_result));
void arena_finish(struct arena *arena);
/* Everything allocated is gone. */
void arena_reset(struct arena *arena);

#endif
