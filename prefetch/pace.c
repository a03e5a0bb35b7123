#include "prefetch/pace.h"

#include <assert.h>

void pace_init(struct pace *p, uint64_t window)
{
	memset(p, 0, sizeof(*p));
	p->window = window;
}

bool pace_may(const struct pace *p, uint64_t bytes)
{
	if (p->next - p->first >= PACE_PIECES_MAX)
		return false;
	return p->bytes == 0 || (p->bytes <= p->window && bytes <= p->window - p->bytes);
}

uint64_t pace_ask(struct pace *p, uint64_t bytes)
{
	assert(p->next - p->first < PACE_PIECES_MAX);
	p->pieces[p->next % PACE_PIECES_MAX].bytes = bytes;
	p->pieces[p->next % PACE_PIECES_MAX].used = false;
	p->bytes += bytes;
	return p->next++;
}

void pace_used(struct pace *p, uint64_t number)
{
	if (number < p->first || number >= p->next || p->pieces[number % PACE_PIECES_MAX].used)
		return;
	p->pieces[number % PACE_PIECES_MAX].used = true;
	p->bytes -= p->pieces[number % PACE_PIECES_MAX].bytes;
	if (number >= p->behind)
		p->behind = number + 1;
}

bool pace_is_used(const struct pace *p, uint64_t number)
{
	return number < p->first ||
	       (number < p->next && p->pieces[number % PACE_PIECES_MAX].used);
}

bool pace_over(struct pace *p, uint64_t *ret_number)
{
	uint64_t number = p->first;

	if (number == p->next)
		return false;
	if (!p->pieces[number % PACE_PIECES_MAX].used) {
		if (number + PACE_SLACK + 1 >= p->behind)
			return false;
		p->bytes -= p->pieces[number % PACE_PIECES_MAX].bytes;
	}
	p->first++;
	*ret_number = number;
	return true;
}

uint64_t pace_look_end(const struct pace *p)
{
	uint64_t from = p->behind > p->first ? p->behind : p->first;

	return p->next - from > PACE_LOOK ? from + PACE_LOOK : p->next;
}
