#include "transport/squeeze.h"

#define SAVED_HOPED	500u /* of what nothing is known of */
#define SKIPPED_MAX	64u  /* then it is sampled again: a file can become another */
#define MARGIN_PERCENT	150u /* as fast as the link is not enough: the cores have other work */
#define MEASURED_SHARE	8u   /* of a measurement in the rate */
#define FORGOTTEN_SHARE 64u  /* of what is assumed, for each answer that was left alone */
#define NS_PER_S	1000000000ull

void squeeze_init(struct squeeze *s)
{
	*s = (struct squeeze){ .core_rate = SQUEEZE_RATE_DEFAULT };
}

bool squeeze_pays(uint64_t link_rate, uint64_t core_rate, unsigned saved)
{
	return link_rate > 0 && saved >= SQUEEZE_SAVED_MIN &&
	       link_rate <= core_rate / MARGIN_PERCENT * 100;
}

static struct squeeze_group *place_of(struct squeeze *s, uint64_t group)
{
	return &s->groups[(group ^ group >> 32) % SQUEEZE_GROUPS];
}

enum squeeze_verdict squeeze_decide(struct squeeze *s, uint64_t group, size_t length,
				    uint64_t link_rate)
{
	struct squeeze_group *place = place_of(s, group);
	bool known = group && place->key == group;

	if (length < SQUEEZE_BYTES_MIN || link_rate == 0)
		return SQUEEZE_NOT;
	if (!squeeze_pays(link_rate, s->core_rate, SAVED_HOPED)) {
		/* Measured while the machine had other things to do, it would never be measured again. */
		s->core_rate += ((int64_t)SQUEEZE_RATE_DEFAULT - (int64_t)s->core_rate) /
				(int64_t)FORGOTTEN_SHARE;
		return SQUEEZE_NOT;
	}
	if (!known)
		return SQUEEZE_SAMPLE;
	if (place->saved >= SQUEEZE_SAVED_MIN)
		return SQUEEZE_ALL;
	if (++place->skipped < SKIPPED_MAX)
		return SQUEEZE_NOT;
	place->skipped = 0;
	return SQUEEZE_SAMPLE;
}

void squeeze_learned(struct squeeze *s, uint64_t group, size_t in, size_t out)
{
	struct squeeze_group *place = place_of(s, group);
	size_t saved = in > 0 && out < in ? (in - out) * 1000 / in : 0;

	if (group)
		*place = (struct squeeze_group){ .key = group, .saved = (uint16_t)saved };
}

void squeeze_measured(struct squeeze *s, size_t in, uint64_t ns)
{
	uint64_t rate = in * NS_PER_S / (ns ? ns : 1);

	s->core_rate = (s->core_rate * (MEASURED_SHARE - 1) + rate) / MEASURED_SHARE;
}
