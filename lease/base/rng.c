#include "lease/base/rng.h"

static uint64_t rotate(uint64_t value, int by)
{
	return (value << by) | (value >> (64 - by));
}

void rng_init(struct rng *rng, uint64_t seed)
{
	for (int i = 0; i < 4; i++) {
		rng->state[i] = rng_mix(seed);
		seed += UINT64_C(0x9e3779b97f4a7c15);
	}
}

uint64_t rng_next(struct rng *rng)
{
	uint64_t *s = rng->state;
	uint64_t result = rotate(s[1] * 5, 7) * 9;
	uint64_t t = s[1] << 17;

	s[2] ^= s[0];
	s[3] ^= s[1];
	s[1] ^= s[2];
	s[0] ^= s[3];
	s[2] ^= t;
	s[3] = rotate(s[3], 45);
	return result;
}

uint64_t rng_below(struct rng *rng, uint64_t bound)
{
	uint64_t limit;
	uint64_t value;

	if (bound == 0)
		return 0;
	/* Values past the last whole multiple would favour small results: draw again. */
	limit = UINT64_MAX - UINT64_MAX % bound;
	do
		value = rng_next(rng);
	while (value >= limit);
	return value % bound;
}
