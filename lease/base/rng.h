/*
 * rng.h - a seeded generator (xoshiro256**, seeded by splitmix64).
 *
 * Equal seeds give equal sequences on every machine: jitter of the cores and every decision of the
 * simulator come from here. Not for secrets. No allocation; the caller owns the struct; one caller
 * at a time.
 */
#ifndef LEASE_BASE_RNG_H
#define LEASE_BASE_RNG_H

#include <stdint.h>

struct rng {
	uint64_t state[4];
};

void rng_init(struct rng *rng, uint64_t seed);
uint64_t rng_next(struct rng *rng);
/* Uniform in [0, bound); 0 when bound is 0. */
uint64_t rng_below(struct rng *rng, uint64_t bound);

/* A good mixing of one number: what seeds and hashes are made with. */
static inline uint64_t rng_mix(uint64_t value)
{
	value += UINT64_C(0x9e3779b97f4a7c15);
	value = (value ^ (value >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	value = (value ^ (value >> 27)) * UINT64_C(0x94d049bb133111eb);
	return value ^ (value >> 31);
}

#endif
