/*
 * chance.h - what the simulator draws from its one generator. A run draws everything in the order
 * of its events, so a seed is the whole run.
 */
#ifndef TESTS_SIM_CHANCE_H
#define TESTS_SIM_CHANCE_H

#include "lease/base/rng.h"

#include <stdbool.h>

/* low <= result <= high. */
static inline uint64_t rng_between(struct rng *r, uint64_t low, uint64_t high)
{
	return low + rng_below(r, high - low + 1);
}

/* True `permille` times in a thousand. */
static inline bool rng_chance(struct rng *r, uint32_t permille)
{
	return rng_below(r, 1000) < permille;
}

#endif
